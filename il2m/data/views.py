"""What becomes of a decoded image: the authors' views (of 224 pixels, other sizes keep the proportion)."""

from collections.abc import Callable

import torch

View = Callable[[torch.Tensor], torch.Tensor]  # what an image, (3, height, width) uint8, becomes


def training_view(image: torch.Tensor, image_size: int, flip: bool) -> torch.Tensor:
    """A random resized crop (8 to 100 % of the area, sides 3:4 to 4:3), mirrored half the time if ``flip``, as
    (image_size, image_size, 3) uint8, drawn with the process's generator."""
    from torchvision.transforms import RandomResizedCrop  # slow to import, and only needed here

    top, left, height, width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
    view = _resized(image[:, top : top + height, left : left + width], image_size, image_size)
    return view.flip(1) if torch.rand(1) < 0.5 * flip else view


def scoring_view(image: torch.Tensor, image_size: int) -> torch.Tensor:
    """The centre crop of the image whose shorter side was brought to 256/224 of the crop's, (size, size, 3) uint8."""
    short, sides = round(image_size * 256 / 224), image.shape[1:]
    view = _resized(image, *(short * side // min(sides) for side in sides))
    top, left = (round((side - image_size) / 2) for side in view.shape[:2])
    return view[top : top + image_size, left : left + image_size]


def _resized(image: torch.Tensor, *size: int) -> torch.Tensor:
    """(3, height, width) -> (*size, 3), as Pillow's bilinear does it up to one level, in half the time."""
    return torch.nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
