"""Image files on their way into a network: decoded, cropped and resized in worker processes while they are used."""

import multiprocessing
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from il2m.data.batches import Batch, Batches, ImageBatches, Normalisation, batch_sizes, channel_mean_std, my_share
from il2m.data.dataset import Dataset, content_hash, read_npz
from il2m.data.image_files import ImageFiles, with_options
from il2m.data.views import View, scoring_view, training_view
from il2m.errors import InputError, name_first
from il2m.system.files import replacing
from il2m.system.processes import without_script

_BATCH = 64  # images that a worker hands over at a time


def image_batches(images: np.ndarray | ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> Batches:
    """Batches of images that are in memory or in files."""
    return (FileBatches if isinstance(images, ImageFiles) else ImageBatches)(images, labels, normalisation)


class FileBatches(Batches):
    """ImageBatches (see there) of image files: the same batches, decoded as they are needed."""

    def __init__(self, files: ImageFiles, labels: np.ndarray, normalisation: Normalisation) -> None:
        super().__init__(labels, normalisation)
        self.files = files
        self._loaders: dict[bool, DataLoader] = {}

    def augmented(self, batch_size: int, generator: torch.Generator, *, max_shift: int, flip: bool) -> Iterator[Batch]:
        """As of ImageBatches, but of training views: max_shift is not used, as the crop moves the image. Each image has
        a seed of its own from ``generator``, so that the number of workers changes nothing."""
        order = torch.randperm(len(self), generator=generator, device=self.labels.device)
        seeds = torch.randint(2**62, (len(self),), generator=generator, device=self.labels.device)
        batches = [batch[my_share(len(batch))] for batch in order.split(batch_sizes(len(self), batch_size))]
        if flip not in self._loaders:  # kept, with its workers, for the next epoch
            view = partial(training_view, image_size=self.files.image_size, flip=flip)
            self._loaders[flip] = _loader(self.files, view, [], keep_workers=True)
        keys = [list(zip(batch.tolist(), seeds[batch].tolist(), strict=True)) for batch in batches]
        self._loaders[flip].batch_sampler[:] = keys
        for images, batch in zip(self._loaders[flip], batches, strict=True):
            yield self._normalised(_sound(images).permute(0, 3, 1, 2)), self.labels[batch]

    def plain(self, batch_size: int = _BATCH) -> Iterator[Batch]:
        """Every image once, in order: its scoring view."""
        crops = _in_order(self.files, partial(scoring_view, image_size=self.files.image_size), batch_size)
        for start, images in zip(range(0, len(self), batch_size), crops, strict=True):
            yield self._normalised(_sound(images).permute(0, 3, 1, 2)), self.labels[start : start + batch_size]


def images_mean_std(images: np.ndarray | ImageFiles) -> Normalisation:
    """channel_mean_std of images in memory or in files, which are read in one pass, whole. (The authors' script
    averages each image's own standard deviation instead, which comes out smaller.)"""
    if not isinstance(images, ImageFiles):
        return channel_mean_std(images)
    counts = sum(_sound(batch).sum(dim=0) for batch in _in_order(images, _count_values)).numpy()
    levels, share = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))  # summed as ever: runs know its last digit
    return Normalisation(tuple(mean.tolist()), tuple((float(value) or 1.0) for value in std))


def read_all(files: ImageFiles) -> np.ndarray:
    """Decode every image once: hashes of file and pixels, (n, 2) int64. Raises InputError on all that can't be."""
    batches = list(_in_order(files, None))
    if problems := [problem for batch in batches if isinstance(batch, list) for problem in batch]:
        what = name_first("images can't be read", problems)
        raise InputError(f"{what}\nReplace them, or take them out of the lists.") from None
    return torch.cat(batches).numpy()


def checked(data: Dataset, folder: Path, *, allow_leakage: bool = False) -> Dataset:
    """The dataset, to be compared from now on with what its files hold; other datasets than of files as they are.
    Every image is decoded once, before any training, and what was found is noted in ``folder``, so that the next base
    of the study goes on at once. Warns of odd_contents. Raises InputError that names the images that can't be read."""
    if data.files is None:
        return data
    note, parts = folder / f"readable-{data.fingerprint}", (data.train_images, data.val_images)
    try:
        digests = read_npz(note)["digests"].reshape(sum(map(len, parts)), 2)
    except (InputError, KeyError, ValueError):  # there is none, it is damaged, or a former version's
        digests = read_all(replace(parts[0], paths=np.concatenate([files.paths for files in parts])))
        with replacing(note, "wb") as file:
            np.savez(file, digests=digests)
    train, val = np.split(digests, [len(parts[0])])
    for sentence in data.odd_contents((train[:, 1], val[:, 1]), allow_leakage):
        warnings.warn(sentence, stacklevel=2)
    return with_options(data, {"digests": train[:, 0]}, {"digests": val[:, 0]})


def _count_values(image: torch.Tensor) -> torch.Tensor:
    """(3, 256) int64: how often each value occurs in each channel."""
    return torch.stack([channel.flatten().bincount(minlength=256) for channel in image])


class _Files(torch.utils.data.Dataset):
    """What workers do: (place, seed) -> a view, or hashes of file and pixels (view: None), or its problem as text."""

    def __init__(self, files: ImageFiles, view: View | None) -> None:
        self.files, self.view = files, view

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[torch.Tensor | str]:
        with torch.random.fork_rng(devices=[]):
            return [self._viewed(*key) for key in keys]

    def _viewed(self, place: int, seed: int) -> torch.Tensor | str:
        try:
            pixels, digest = self.files.read(place)
        except InputError as error:
            return str(error)
        if self.view is None:
            return torch.tensor([digest, content_hash(str((*pixels.shape[1::-1],)).encode(), pixels.tobytes())])
        torch.default_generator.manual_seed(seed)
        return self.view(torch.from_numpy(pixels).permute(2, 0, 1))  # channels last in memory


def _stack(items: list[torch.Tensor | str]) -> torch.Tensor | list[str]:
    """One tensor, or the problems if there are any."""
    return [item for item in items if isinstance(item, str)] or default_collate(items)  # in memory that is shared


def _sound(batch: torch.Tensor | list[str]) -> torch.Tensor:
    """The batch; raises InputError for problems in its place."""
    if isinstance(batch, torch.Tensor):
        return batch
    hint = "`il2m check` on the data names all at once that can't be decoded."
    raise InputError(f"{name_first('images cannot be used', batch)}\n{hint}")


def _in_order(files: ImageFiles, view: View | None, batch_size: int = _BATCH) -> Iterable[torch.Tensor | list[str]]:
    """Batches of viewed images, in order, or of the problems with them."""
    keys = [(place, 0) for place in range(len(files))]
    return _loader(files, view, [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)])


class _Loader(DataLoader):
    def __iter__(self) -> Iterator:
        with without_script():  # its workers start
            return super().__iter__()


def _loader(files: ImageFiles, view: View | None, batches: list, *, keep_workers: bool = False) -> DataLoader:
    """batches: of (place, seed); the list is read each time that the loader is iterated, as its ``batch_sampler``.
    Workers never start as copies of this process: a kernel that has touched CUDA must not be forked."""
    options = {"num_workers": files.num_workers, "collate_fn": _stack, "pin_memory": torch.cuda.is_available()}
    options["generator"] = torch.Generator()  # its own: the process's is left alone
    if files.num_workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torchvision.transforms"])  # else each worker imports anew
        options |= {"multiprocessing_context": context, "persistent_workers": keep_workers}
    return _Loader(_Files(replace(files, listed=None), view), batch_sampler=batches, **options)
