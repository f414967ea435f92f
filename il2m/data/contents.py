"""Images told by their content: which are equal, though they should not be."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from il2m.data.dataset import Dataset


def content_hash(*parts: bytes) -> int:
    """64 bits, as a signed number."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "big", signed=True)


def odd_contents(data: Dataset, train: np.ndarray, val: np.ndarray, *, allow_leakage: bool = False) -> Iterator[str]:
    """Sentences on validation images that are training images too, and on classes that are one image over and over.
    train, val: hashes of the images, (n,) int64 each."""
    leaked = int(np.isin(val, train).sum())
    if leaked and not allow_leakage:
        yield (
            f"{data.name}: {leaked} of {len(val)} validation images are equal to training images, so accuracies come "
            "out too high; take them out, or set allow_leakage = True."
        )
    limits = np.iinfo(np.int64)
    lowest, highest = (np.full(data.num_classes, limit) for limit in (limits.max, limits.min))
    np.minimum.at(lowest, data.train_labels, train)
    np.maximum.at(highest, data.train_labels, train)
    if same := np.flatnonzero((lowest == highest) & (data.train_counts > 1)).tolist():
        names = ", ".join(repr(data.class_names[label]) for label in same[:10])
        yield f"{data.name}: all training images are equal in {len(same)} of {data.num_classes} classes: {names}."


def warn_of_contents(data: Dataset, train: np.ndarray, val: np.ndarray, *, allow_leakage: bool) -> None:
    """Warn of what odd_contents finds."""
    for sentence in odd_contents(data, train, val, allow_leakage=allow_leakage):
        warnings.warn(sentence, stacklevel=3)
