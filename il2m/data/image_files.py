"""Image files in the place of an array of images: decoded, cropped and resized in worker processes while they are used.

The authors' pipeline (224 pixels): to train, a random resized crop and, if asked, a flip; to score, the shorter side
to 256 and the centre crop of 224. Other sizes keep the proportion. Pillow decodes, always to 3 channels.
"""

from __future__ import annotations

import copy
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std
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


def image_batches(images: np.ndarray | ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> ImageBatches:
    """Batches of images that are in memory or in files."""
    kind = FileBatches if isinstance(images, ImageFiles) else ImageBatches
    return kind(images, labels, normalisation)


class FileBatches:
    """ImageBatches (see there) of image files: the same batches, decoded as they are needed."""

    def __init__(self, files: ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> None:
        self.files = files
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        self.device = torch.device("cpu")
        self._mean = torch.tensor(normalisation.mean).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(normalisation.std).view(1, -1, 1, 1) * 255)
        self._loaders: dict[bool, tuple[list, DataLoader]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> FileBatches:
        """The same batches, handed out on ``device``."""
        moved = copy.copy(self)
        moved.device, moved._loaders = device, {}
        for name in ("labels", "_mean", "_scale"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def augmented(
        self, batch_size: int, generator: torch.Generator, *, max_shift: int, flip: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch in random order; each image cropped at random, and mirrored half the time if ``flip``.

        Each image has a seed of its own from ``generator``, so that the number of workers changes nothing.
        max_shift is not used: the crop moves the image. No batch has a single image: it would join the batch before.
        """
        order = torch.randperm(len(self), generator=generator)
        seeds = torch.randint(2**62, (len(self),), generator=generator)
        batches = list(order.split(batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        if flip not in self._loaders:  # kept, with its workers, for the next epoch
            self._loaders[flip] = _loader(self.files, training_view(self.files.image_size, flip), keep_workers=True)
        keys, loader = self._loaders[flip]
        keys[:] = [list(zip(batch.tolist(), seeds[batch].tolist(), strict=True)) for batch in batches]
        for images, batch in zip(loader, batches, strict=True):
            yield self._normalised(images), self.labels[batch.to(self.device)]

    def plain(self, batch_size: int = _BATCH) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, in order: its centre crop."""
        keys, loader = _loader(self.files, scoring_view(self.files.image_size))
        keys[:] = _in_order(len(self), batch_size)
        for start, images in zip(range(0, len(self), batch_size), loader, strict=True):
            yield self._normalised(images), self.labels[start : start + batch_size]

    def _normalised(self, images: torch.Tensor | list[str]) -> torch.Tensor:
        _raise_problems(images)
        images = images.to(self.device, non_blocking=True)
        return ((images.float() - self._mean) * self._scale).contiguous(memory_format=torch.channels_last)


def images_mean_std(images: np.ndarray | ImageFiles) -> Normalisation:
    """Exact mean and standard deviation by channel over all pixels, values scaled to 0..1.

    Files are read in one pass, whole, each pixel counted once: what stays in memory is how often each value occurs.
    (The authors' script averages each image's own standard deviation instead, which comes out smaller.)
    """
    if not isinstance(images, ImageFiles):
        return channel_mean_std(images)
    keys, loader = _loader(images, _count_values)
    keys[:] = _in_order(len(images), _BATCH)
    counts = np.zeros((3, 256), dtype=np.int64)
    for batch in loader:
        _raise_problems(batch)
        counts += batch.sum(dim=0).numpy()
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return Normalisation(tuple(mean.tolist()), tuple((float(value) or 1.0) for value in std))


def find_unreadable(files: ImageFiles) -> list[str]:
    """What is wrong with each image that can't be decoded, one line each; empty if all can."""
    keys, loader = _loader(files, _nothing)
    keys[:] = _in_order(len(files), _BATCH)
    return [problem for batch in loader if isinstance(batch, list) for problem in batch]


def check_readable(data: Dataset, folder: Path) -> None:
    """Decode every image of a dataset of files once, before any training; do nothing for other datasets.

    folder: where it is noted that it was done, so that the next stage of the study goes on at once.
    Raises InputError that names the images that can't be read.
    """
    done = folder / f"readable-{data.fingerprint}"
    if data.files is None or done.exists():
        return
    problems = [problem for images in (data.train_images, data.val_images) for problem in find_unreadable(images)]
    if problems:
        raise InputError(
            name_first("images can't be read", problems) + "\nReplace them, or take them out of the lists."
        )
    folder.mkdir(parents=True, exist_ok=True)
    done.touch()


def find_missing(paths: np.ndarray) -> list[str]:
    """The paths that are not files."""
    return [path for path in paths.tolist() if not Path(path).is_file()]


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


def _raise_problems(batch: torch.Tensor | list[str]) -> None:
    if isinstance(batch, list):
        raise InputError(
            name_first("images can't be read", batch)
            + "\nRun `il2m check` on the data: it names all such images at once."
        )


def _in_order(count: int, batch_size: int) -> list[list[tuple[int, int]]]:
    return [[(i, 0) for i in range(s, min(s + batch_size, count))] for s in range(0, count, batch_size)]


def _loader(
    files: ImageFiles, prepare: Callable[[Image.Image], torch.Tensor], keep_workers: bool = False
) -> tuple[list, DataLoader]:
    """A loader, and the list of batches of (place, seed) that it will go through when it is iterated.

    Workers never start as copies of this process: a kernel that has touched CUDA must not be forked.
    """
    keys: list[list[tuple[int, int]]] = []
    workers = {}
    if files.num_workers:
        context = multiprocessing.get_context(_START)
        if _START == "forkserver":
            context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])  # else each worker imports anew
        workers = {"multiprocessing_context": context, "persistent_workers": keep_workers}
    loader = DataLoader(
        _Files(files.paths, prepare),
        batch_sampler=keys,
        num_workers=files.num_workers,
        collate_fn=_stack,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: the process's is left alone
        **workers,
    )
    return keys, loader
