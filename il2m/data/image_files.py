"""Image files in the place of an array of images. How a file becomes pixels: decoding.py; how they reach a network:
views.py and file_batches.py. Planning needs no more than this, and no torch."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from il2m.data.dataset import Dataset, content_hash
from il2m.data.decoding import decode, is_turned, max_megapixels
from il2m.errors import InputError


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; ``files[indices]`` chooses some, as from an array.
    paths: (n,) numpy strings. image_size: of the square images that come out, in pixels.
    num_workers: processes that decode; 0 decodes in this one. exif_rotation, megapixels: see decoding.decode.
    digests: (n,) int64, hashes of the files' contents as they have to be; None: not compared."""

    paths: np.ndarray
    image_size: int = 224
    num_workers: int = 2
    exif_rotation: bool = False
    megapixels: float = field(default_factory=max_megapixels)
    digests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Any) -> Self:
        return replace(self, paths=self.paths[indices], digests=None if self.digests is None else self.digests[indices])

    def __iter__(self) -> Iterator[np.ndarray]:
        """The images as they are scored, (height, width, 3) uint8, decoded one after the other: to look at them."""
        from il2m.data.views import as_tensor, scoring_view  # imports torch

        return (scoring_view(as_tensor(self.read(place)[0]), self.image_size).numpy() for place in range(len(self)))

    def read(self, place: int) -> tuple[np.ndarray, int]:
        """The image at ``place``, (height, width, 3) uint8, and the hash of its file's content. Raises InputError that
        names the file if it can't be decoded, or is not what it has to be."""
        path = str(self.paths[place])
        try:
            content = Path(path).read_bytes()
            digest = content_hash(content)
            if self.digests is not None and digest != self.digests[place]:
                changed = "its content is not what it was before base training"
                raise InputError(f"{changed}: put it back, or start anew in another out_dir.")
            return decode(content, exif_rotation=self.exif_rotation, megapixels=self.megapixels), digest
        except Exception as error:  # Pillow's decoders raise whatever they meet in damaged data
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            raise InputError(f"{path}: {kind}{error}") from None

    @cached_property
    def any_turned(self) -> bool:
        """Whether exif_rotation turns any of them: files are opened one by one until one is met, only their heads."""
        return any(map(is_turned, self.paths.tolist()))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) as they come out."""
        return len(self), self.image_size, self.image_size, 3


def with_options(data: Dataset, train: dict[str, Any], val: dict[str, Any]) -> Dataset:
    """The same dataset of files, with these fields of its ImageFiles."""
    return replace(data, train_images=replace(data.train_images, **train), val_images=replace(data.val_images, **val))


def find_missing(paths: Iterable[str | Path]) -> list[str]:
    """The paths that are not files."""
    return [str(path) for path in paths if not os.path.isfile(path)]
