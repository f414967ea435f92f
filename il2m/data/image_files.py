"""Image files in the place of an array of images: decoded, cropped and resized in worker processes while they are used.

The authors' pipeline (224 pixels): to train, a random resized crop and, if asked, a flip; to score, the shorter side
to 256 and the centre crop of 224. Other sizes keep the proportion. Pillow decodes, always to 3 channels.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from il2m.data.batches import Batches, ImageBatches, Normalisation, batch_sizes, channel_mean_std
from il2m.data.dataset import Dataset
from il2m.errors import InputError, name_first

_BATCH = 64  # images that a worker hands over at a time
_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; ``files[indices]`` chooses some, as from an array.

    paths: (n,) numpy strings. image_size: of the square images that come out, in pixels.
    num_workers: processes that decode; 0 decodes in this one.
    """

    paths: np.ndarray
    image_size: int = 224
    num_workers: int = 2

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Any) -> ImageFiles:
        return replace(self, paths=self.paths[indices])

    def __iter__(self) -> Iterator[np.ndarray]:
        """The images as they are scored, (height, width, 3) uint8, decoded one after the other: to look at them."""
        view = scoring_view(self.image_size)
        return (view(open_image(path)).permute(1, 2, 0).numpy() for path in self.paths.tolist())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) as they come out."""
        return len(self), self.image_size, self.image_size, 3


def training_view(image_size: int, flip: bool) -> Callable[[Image.Image], torch.Tensor]:
    """A random resized crop (8 to 100 % of the area, sides 3:4 to 4:3), mirrored half the time if ``flip``, as
    (3, image_size, image_size) uint8."""
    from torchvision.transforms import v2  # slow to import, and only needed here

    return v2.Compose([v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip(0.5 * flip), v2.PILToTensor()])


def scoring_view(image_size: int) -> Callable[[Image.Image], torch.Tensor]:
    """The centre crop of the image whose shorter side was brought to 256/224 of the crop's, (3, size, size) uint8."""
    from torchvision.transforms import v2  # slow to import, and only needed here

    return v2.Compose([v2.Resize(round(image_size * 256 / 224)), v2.CenterCrop(image_size), v2.PILToTensor()])


def image_batches(images: np.ndarray | ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> Batches:
    """Batches of images that are in memory or in files."""
    kind = FileBatches if isinstance(images, ImageFiles) else ImageBatches
    return kind(images, labels, normalisation)


class FileBatches(Batches):
    """ImageBatches (see there) of image files: the same batches, decoded as they are needed."""

    def __init__(self, files: ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> None:
        super().__init__(labels, normalisation)
        self.files = files
        self._loaders: dict[bool, DataLoader] = {}

    def augmented(
        self, batch_size: int, generator: torch.Generator, *, max_shift: int, flip: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch in random order, in batches of batch_sizes; each image cropped at random, and mirrored half the
        time if ``flip``.

        Each image has a seed of its own from ``generator``, so that the number of workers changes nothing.
        max_shift is not used: the crop moves the image.
        """
        order = torch.randperm(len(self), generator=generator)
        seeds = torch.randint(2**62, (len(self),), generator=generator)
        batches = order.split(batch_sizes(len(self), batch_size))
        if flip not in self._loaders:  # kept, with its workers, for the next epoch
            self._loaders[flip] = _loader(self.files, training_view(self.files.image_size, flip), [], keep_workers=True)
        keys = [list(zip(batch.tolist(), seeds[batch].tolist(), strict=True)) for batch in batches]
        self._loaders[flip].batch_sampler[:] = keys
        for images, batch in zip(self._loaders[flip], batches, strict=True):
            yield self._normalised(_sound(images)), self.labels[batch]

    def plain(self, batch_size: int = _BATCH) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, in order: its centre crop."""
        crops = _in_order(self.files, scoring_view(self.files.image_size), batch_size)
        for start, images in zip(range(0, len(self), batch_size), crops, strict=True):
            yield self._normalised(_sound(images)), self.labels[start : start + batch_size]


def images_mean_std(images: np.ndarray | ImageFiles) -> Normalisation:
    """Exact mean and standard deviation by channel over all pixels, values scaled to 0..1.

    Files are read in one pass, whole, each pixel counted once: what stays in memory is how often each value occurs.
    (The authors' script averages each image's own standard deviation instead, which comes out smaller.)
    """
    if not isinstance(images, ImageFiles):
        return channel_mean_std(images)
    counts = sum(_sound(batch).sum(dim=0) for batch in _in_order(images, _count_values)).numpy()
    levels, share = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))  # summed as ever: runs know its last digit
    return Normalisation(tuple(mean.tolist()), tuple((float(value) or 1.0) for value in std))


def find_unreadable(files: ImageFiles) -> list[str]:
    """What is wrong with each image that can't be decoded, one line each; empty if all can."""
    return [problem for batch in _in_order(files, _nothing) if isinstance(batch, list) for problem in batch]


def check_readable(data: Dataset, folder: Path) -> None:
    """Decode every image of a dataset of files once, before any training; do nothing for other datasets.

    folder: where it is noted that it was done, so that the next stage of the study goes on at once.
    Raises InputError that names the images that can't be read.
    """
    done = folder / f"readable-{data.fingerprint}"
    if data.files is None or done.exists():
        return
    if problems := [*find_unreadable(data.train_images), *find_unreadable(data.val_images)]:
        hint = "Replace them, or take them out of the lists."
        raise InputError(name_first("images can't be read", problems) + f"\n{hint}")
    folder.mkdir(parents=True, exist_ok=True)
    done.touch()


def find_missing(paths: Iterable[str | Path]) -> list[str]:
    """The paths that are not files."""
    return [str(path) for path in paths if not os.path.isfile(path)]


def open_image(path: str) -> Image.Image:
    """The image in a file, decoded, 3 channels. Damaged EXIF data is passed over, as Pillow does; raises OSError or
    another of Pillow's errors for an image that can't be decoded whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about EXIF, transparency and very large images
        with Image.open(path) as image:
            return image.convert("RGB")


def _count_values(image: Image.Image) -> torch.Tensor:
    """(3, 256) int64: how often each value occurs in each channel."""
    return torch.tensor(image.histogram(), dtype=torch.int64).view(3, 256)


def _nothing(image: Image.Image) -> torch.Tensor:
    return torch.empty(0)


class _Files(torch.utils.data.Dataset):
    """What workers do: open the image of a (place, seed), prepare it with that seed; a problem comes back as text."""

    def __init__(self, paths: np.ndarray, prepare: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.prepare = paths, prepare

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor | str:
        place, seed = key
        path = str(self.paths[place])
        try:
            image = open_image(path)
        except Exception as error:  # Pillow's decoders raise whatever they meet in damaged data
            return f"{path}: {type(error).__name__}: {error}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.prepare(image)


def _stack(items: list[torch.Tensor | str]) -> torch.Tensor | list[str]:
    """One tensor, or the problems if there are any."""
    return [item for item in items if isinstance(item, str)] or torch.stack(items)


def _sound(batch: torch.Tensor | list[str]) -> torch.Tensor:
    """The batch; raises InputError for problems in its place."""
    if isinstance(batch, list):
        hint = "Run `il2m check` on the data: it names all such images at once."
        raise InputError(name_first("images can't be read", batch) + f"\n{hint}")
    return batch


def _in_order(
    files: ImageFiles, prepare: Callable[[Image.Image], torch.Tensor], batch_size: int = _BATCH
) -> Iterable[torch.Tensor | list[str]]:
    """Batches of prepared images, in order, or of the problems with them."""
    keys = [(place, 0) for place in range(len(files))]
    return _loader(files, prepare, [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)])


def _loader(
    files: ImageFiles, prepare: Callable[[Image.Image], torch.Tensor], batches: list, *, keep_workers: bool = False
) -> DataLoader:
    """batches: of (place, seed); the list is read each time that the loader is iterated, as its ``batch_sampler``.

    Workers never start as copies of this process: a kernel that has touched CUDA must not be forked.
    """
    workers = {}
    if files.num_workers:
        context = multiprocessing.get_context(_START)
        if _START == "forkserver":
            context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])  # else each worker imports anew
        workers = {"multiprocessing_context": context, "persistent_workers": keep_workers}
    return DataLoader(
        _Files(files.paths, prepare),
        batch_sampler=batches,
        num_workers=files.num_workers,
        collate_fn=_stack,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: the process's is left alone
        **workers,
    )
