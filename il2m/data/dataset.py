"""A dataset: images (in memory, or in files), labels and names; and arrays as users give them."""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from il2m.errors import InputError

NUMBERED = "Others are numbered by: classes, y = np.unique(np.concatenate([y_train, y_test]), return_inverse=True); "
NUMBERED += "y_train, y_test = np.split(y, [len(y_train)]); class_names = classes.astype(str)"


def content_hash(*parts: bytes) -> int:
    """64 bits, as a signed number."""
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big", signed=True)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of a file, or those of ``names`` that it has. Raises InputError for a file that is damaged, holds
    Python objects in place of numbers, or is no ``.npz``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if names is None or name in names}
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib or numpy meet first
        what = "file: it is damaged, or is no .npz at all. Write it again with numpy.savez."
        if "Object arrays" in str(error):
            what = "file of plain arrays: it holds Python objects, as numpy makes of images of differing size. "
            what += "All images must have one size and be saved as one uint8 array; text as array.astype(str)."
        raise InputError(f"{path}: not a readable .npz {what}") from None


def checked_labels(array: np.ndarray, num_images: int, where: str) -> np.ndarray:
    """(num_images,) int64. where: to begin messages with."""
    if array.shape != (num_images,):
        hint = " (y.ravel() of (n, 1), y.argmax(axis=1) of one-hot rows)" * (array.ndim == 2)
        raise InputError(f"{where} has shape {array.shape}; expected ({num_images},), one label per image{hint}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{where} has dtype {array.dtype}; expected whole numbers 0..C-1. {NUMBERED}")
    if len(wrong := array[(array < 0) | (array >= num_images)]):
        what = f"the label {wrong[0]} among those of {num_images} images"
        raise InputError(f"{where} has {what}; labels must be 0..C-1 without gaps. {NUMBERED}")
    return array.astype(np.int64)


@dataclass(frozen=True)
class FileSource:
    """Where a dataset of image files comes from. root: where relative paths start. lists, state_sizes: if lists name
    the images, the folder they lie in, and how many classes each state brings. unused: sentences on files left out."""

    root: Path
    lists: Path | None = None
    state_sizes: tuple[int, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Images and labels; class c is called ``class_names[c]``. train_images, val_images: (n, height, width, channels)
    uint8, channels 1 or 3; or image_files.ImageFiles. train_labels, val_labels: (n,) int64 in 0..C-1. fingerprint: hash
    of all of it, by which a run knows its data. files: set if the images are ImageFiles."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    files: FileSource | None = None

    def __str__(self) -> str:
        """What was understood, in words."""
        parts = ("training", self.train_labels, self.train_images), ("validation", self.val_labels, self.val_images)
        said = [", ".join([*map(repr, self.class_names[:5]), *["..."] * (self.num_classes > 5)])]
        for kind, labels, images in parts:
            counts = np.bincount(labels, minlength=self.num_classes)
            what = f"first {images.paths[0]}" if self.files else f"{images.shape[1:]} {images.min()}..{images.max()}"
            said.append(f"{len(labels)} {kind} images, {counts.min()} to {counts.max()} of a class, {what}")
        return f"{self.num_classes} classes: " + "; ".join(said)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        return self.train_images.shape[-1]

    @cached_property
    def train_counts(self) -> np.ndarray:
        """Training images of each class, (C,)."""
        return np.bincount(self.train_labels, minlength=self.num_classes)

    @cached_property
    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the training and of the validation images in memory, (n,) int64 each."""
        parts = ((content_hash(image.tobytes()) for image in part) for part in (self.train_images, self.val_images))
        return tuple(np.fromiter(part, dtype=np.int64) for part in parts)

    def odd_contents(self, contents: Iterable[np.ndarray], allow_leakage: bool = False) -> Iterator[str]:
        """Sentences on validation images that are training images too, and on classes that are one image over and
        over. contents: hashes as those of images in memory, of all training and of all validation images."""
        train, val = contents
        leaked = int(np.isin(val, train).sum())
        if leaked and not allow_leakage:
            what = f"{self.name}: {leaked} of {len(val)} validation images are equal to training images"
            yield f"{what}, so accuracies come out too high; take them out, or set allow_leakage = True."
        labels, _ = np.unique([self.train_labels, train], axis=1)  # each content of a class once
        distinct = np.bincount(labels, minlength=self.num_classes)
        if same := np.flatnonzero((distinct == 1) & (self.train_counts > 1)).tolist():
            names = ", ".join(repr(self.class_names[label]) for label in same[:10])
            yield f"{self.name}: all training images are equal in {len(same)} of {self.num_classes} classes: {names}."

    def in_learning_order(self, class_order: np.ndarray) -> Self:
        """The same images with labels 0..C-1 in learning order: class ``class_order[i]`` becomes label i."""
        place, names = np.argsort(class_order), tuple(self.class_names[c] for c in class_order)
        train, val = place[self.train_labels], place[self.val_labels]
        return replace(self, train_labels=train, val_labels=val, class_names=names)
