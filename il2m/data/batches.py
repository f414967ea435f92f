"""Images on their way into a network: normalised, and augmented while training."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from il2m.system.processes import HERE

Batch = tuple[torch.Tensor, torch.Tensor]  # images (n, c, h, w) float32, channels last in memory; and labels (n,)
_BLOCK = 1024  # images prepared at a time: large enough that preparing costs little beside training


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, for pixel values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_mean_std(images: np.ndarray) -> Normalisation:
    """Exact mean and standard deviation by channel over all pixels of ``images`` (n, h, w, c) uint8. The paper takes
    them from the first state's training images, so that no later state leaks into them."""
    levels, mean, std = np.arange(256) / 255, [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean.append(float(share @ levels))
        std.append(float(np.sqrt(share @ (levels - mean[-1]) ** 2)) or 1.0)  # a constant channel stays as it is
    return Normalisation(tuple(mean), tuple(std))


def batch_sizes(num_images: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches. A single last image joins the batch before: batch normalisation needs two."""
    return np.diff([*range(batch_size, num_images - 1, batch_size), num_images], prepend=0).tolist()


def my_share(size: int) -> slice:
    """This process's images of a batch of ``size``; all of one with fewer than two for each: batch norm needs two."""
    return slice(HERE.rank, None, HERE.count) if size >= 2 * HERE.count else slice(None)


class Batches:
    """What batches of images in memory and of image files share: labels, a device, and how images are normalised."""

    def __init__(self, labels: np.ndarray, normalisation: Normalisation) -> None:
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        self._mean = torch.tensor(normalisation.mean) * 255
        self._scale = 1 / (torch.tensor(normalisation.std) * 255)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Self:
        """The same batches, handed out on ``device``; images in memory are kept, and prepared, there too."""
        moved = copy.copy(self)
        vars(moved).update({name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)})
        return moved

    def my_part(self) -> Self:
        """This process's images, in order: about as many as any other's, and all have each once."""
        part, mine = copy.copy(self), slice(*(len(self) * (HERE.rank + end) // HERE.count for end in (0, 1)))
        vars(part).update({name: vars(self)[name][mine] for name in {"labels", "images", "files"} & vars(self).keys()})
        return part

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        """images: (n, c, h, w) uint8."""
        channels, _, width = images.shape[1:]
        mean, scale = (value.expand(channels).repeat(width) for value in (self._mean, self._scale))  # of a row's pixels
        rows = images.to(self.labels.device, non_blocking=True).permute(0, 2, 3, 1).flatten(2).float()
        return rows.sub_(mean).mul_(scale).unflatten(2, (width, channels)).permute(0, 3, 1, 2)


class ImageBatches(Batches):
    """Images of one stage, (n, h, w, c) uint8, and labels, (n,) int, handed out in batches."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, normalisation: Normalisation) -> None:
        super().__init__(labels, normalisation)
        self.images = torch.from_numpy(np.ascontiguousarray(images))

    def augmented(self, batch_size: int, generator: torch.Generator, *, max_shift: int, flip: bool) -> Iterator[Batch]:
        """One epoch in random order, of each of its batch_sizes my_share; images shifted by up to ``max_shift`` pixels,
        and mirrored half the time if ``flip``. generator: of the device where they are, so that nothing waits."""
        order = torch.randperm(len(self), generator=generator, device=self.labels.device)
        for block in order.split(batch_sizes(len(self), max(_BLOCK // batch_size, 1) * batch_size)):
            chosen = self.images.index_select(0, block)  # copies whole images, as indexing with brackets does not
            images = self._normalised(_shift_and_flip(chosen, generator, max_shift, flip).permute(0, 3, 1, 2))
            sizes = batch_sizes(len(block), batch_size)
            for batch, labels in zip(images.split(sizes), self.labels[block].split(sizes), strict=True):
                mine = my_share(len(labels))
                yield batch[mine], labels[mine]

    def plain(self, batch_size: int = 256) -> Iterator[Batch]:
        """Every image once, in order, without augmentation."""
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            yield self._normalised(self.images[chosen].permute(0, 3, 1, 2)), self.labels[chosen]


def _shift_and_flip(images: torch.Tensor, generator: torch.Generator, max_shift: int, flip: bool) -> torch.Tensor:
    """(n, h, w, c) -> the same shape; what a shift uncovers repeats the border, so that any background stays itself."""
    n, height, width, channels = images.shape
    each, drawn = torch.arange(n, device=images.device), {"generator": generator, "device": images.device}
    if max_shift:
        padded = images
        for axis in (1, 2):
            first, last = padded.narrow(axis, 0, 1), padded.narrow(axis, -1, 1)
            padded = torch.cat([*[first] * max_shift, padded, *[last] * max_shift], axis)
        windows = padded.flatten(2).unfold(1, height, 1).unfold(2, width * channels, channels)
        dy, dx = torch.randint(2 * max_shift + 1, (2, n), **drawn)
        images = windows[each, dy, dx].view(images.shape)  # of (n, shifts, shifts, h, w c), a view
    if flip:
        mirrored = torch.rand(n, **drawn) < 0.5
        images = torch.cat([images, images.flip(2)]).index_select(0, each + n * mirrored)
    return images
