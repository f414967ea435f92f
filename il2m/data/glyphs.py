"""The embedded dataset: letters of four scripts, rendered from the DejaVu fonts that matplotlib ships.

Training images come from the Sans and Sans Mono faces, validation images from the Serif faces, so that validation is a
real shift. Each (letter, face) is drawn once; all images are then warped from those drawings in batches.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

VERSION = 1  # of what is rendered; part of the cache's name
IMAGE_SIZE = 28
TRAIN_FACES = tuple(
    family + style for family in ("DejaVuSans", "DejaVuSansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")
)
VAL_FACES = tuple("DejaVuSerif" + style for style in ("", "-Bold", "-Italic", "-BoldItalic"))

_CANVAS = 2 * IMAGE_SIZE  # drawn and warped at twice the size, then averaged down: smooth edges
_FONT_SIZE = 40
_ALPHABETS = (  # first and last letters of Latin, Greek, Cyrillic and Armenian, capitals and small
    ("A", "Z"), ("a", "z"), ("Α", "Ω"), ("α", "ω"), ("А", "Я"), ("а", "я"), ("Ա", "Ֆ"), ("ա", "ֆ"),
)  # fmt: skip


def render_glyphs(
    num_classes: int = 50, train_per_class: int = 150, val_per_class: int = 50, seed: int = 2019
) -> dict[str, np.ndarray]:
    """Render the dataset: ``x_train (n, 28, 28) uint8, y_train (n,), x_test, y_test, class_names (C,)``.

    Which letters are taken, and all that varies between images, follow from ``seed``.
    """
    rng = np.random.default_rng(seed)
    letters = _distinct_letters(num_classes, rng)
    arrays = {"class_names": np.array(letters)}
    for split, faces, per_class in (("train", TRAIN_FACES, train_per_class), ("test", VAL_FACES, val_per_class)):
        drawings = torch.stack([_draw(letter, face) for letter in letters for face in faces])
        labels = np.repeat(np.arange(num_classes), per_class)
        chosen_faces = rng.integers(len(faces), size=len(labels))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        sources = torch.from_numpy(labels * len(faces) + chosen_faces)
        arrays[f"x_{split}"] = torch.cat(
            [_photograph(drawings[block], generator) for block in sources.split(1000)]
        ).numpy()
        arrays[f"y_{split}"] = labels
    return arrays


def _draw(letter: str, face: str) -> torch.Tensor:
    """The letter in that face, white on black, centred: (1, 56, 56) float32 in 0..1."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    image = Image.new("L", (_CANVAS, _CANVAS))
    font = ImageFont.truetype(str(path), _FONT_SIZE)
    left, top, right, bottom = font.getbbox(letter)
    corner = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, letter, fill=255, font=font)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _distinct_letters(num_classes: int, rng: np.random.Generator) -> list[str]:
    """``num_classes`` letters in random order, none shaped like an earlier one (A and Α, o and O, ...)."""
    letters = [chr(c) for first, last in _ALPHABETS for c in range(ord(first), ord(last) + 1)]
    letters = [letter for letter in letters if letter.isalpha()]
    letters = [letters[i] for i in rng.permutation(len(letters))]
    shapes = np.stack([[_shape(letter, face) for face in (TRAIN_FACES[0], VAL_FACES[0])] for letter in letters])
    kept: list[int] = []
    for i in range(len(letters)):
        similarity = (shapes[kept] * shapes[i]).sum(axis=-1)  # correlation by face, (kept, 2)
        if not kept or similarity.max() < 0.75:
            kept.append(i)
        if len(kept) == num_classes:
            return [letters[i] for i in kept]
    raise ValueError(f"the four scripts have only {len(kept)} distinct letters; {num_classes} were asked for")


def _shape(letter: str, face: str) -> np.ndarray:
    """The drawing stretched to its bounding box, mean 0 and norm 1, (400,): alike for alike shapes of any size."""
    drawing = _draw(letter, face)[0].numpy()
    rows, columns = np.flatnonzero(drawing.max(axis=1)), np.flatnonzero(drawing.max(axis=0))
    box = Image.fromarray(drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    shape = np.asarray(box.resize((20, 20), Image.Resampling.BILINEAR)).ravel()
    shape = shape - shape.mean()
    return shape / np.linalg.norm(shape)


def _photograph(drawings: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Drawings (n, 1, 56, 56) -> images (n, 28, 28) uint8: each warped, blurred, perhaps inverted, and noisy."""
    n = len(drawings)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle = torch.deg2rad(uniform(-25, 25))
    shear = uniform(-0.3, 0.3)
    scale = uniform(0.8, 1.2, 1) * uniform(0.75, 1.25, 2)  # size, then width and height on their own
    zero, one = torch.zeros(n), torch.ones(n)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(n, 2, 2)
    slant = torch.stack([one, shear, zero, one], dim=1).view(n, 2, 2)
    # affine_grid asks, for each output pixel, where in the drawing it comes from: the inverse of what is seen
    linear = torch.diag_embed(1 / scale) @ slant @ rotation
    shift = uniform(-0.15, 0.15, 2, 1)
    grid = F.affine_grid(torch.cat([linear, shift], dim=2), [n, 1, _CANVAS, _CANVAS], align_corners=False)
    images = F.avg_pool2d(F.grid_sample(drawings, grid, align_corners=False), 2)

    taps = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)  # a Gaussian of sigma 1 pixel
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    blur = uniform(0, 1, 1, 1, 1)
    images = (1 - blur) * images + blur * F.conv2d(images, kernel, padding=2)
    inverted = uniform(0, 1, 1, 1, 1) < 0.5
    images = torch.where(inverted, 1 - images, images)
    images = images + uniform(0.03, 0.2, 1, 1, 1) * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)[:, 0]
