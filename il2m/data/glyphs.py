"""The embedded dataset: letters of four scripts, rendered from the DejaVu fonts that matplotlib ships. Training images
come from the Sans and Sans Mono faces, validation images from the Serif faces, so that validation is a real shift. Each
(letter, face) is drawn once; all images are then warped from those drawings in batches."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VERSION = 2  # of what is rendered; part of the cache's name
IMAGE_SIZE = 28
_STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
TRAIN_FACES = tuple(family + style for family in ("DejaVuSans", "DejaVuSansMono") for style in _STYLES)
VAL_FACES = tuple("DejaVuSerif" + style for style in ("", "-Bold", "-Italic", "-BoldItalic"))

_CANVAS = 2 * IMAGE_SIZE  # drawn and warped at twice the size, then averaged down: smooth edges
_FONT_SIZE = 40
_ALPHABETS = ("AZ", "az", "ΑΩ", "αω", "АЯ", "ая", "ԱՖ", "աֆ")  # Latin, Greek, Cyrillic, Armenian: first and last letter


def render_glyphs(
    num_classes: int = 50, train_per_class: int = 150, val_per_class: int = 50, seed: int = 2019
) -> dict[str, np.ndarray]:
    """Render the dataset: ``x_train (n, 28, 28) uint8, y_train (n,), x_test, y_test, class_names (C,)``.
    Which letters are taken, and all that varies between images, follow from ``seed``."""
    rng = np.random.default_rng(seed)
    letters = _distinct_letters(num_classes, rng)
    arrays = {"class_names": np.array(letters)}
    for split, faces, per_class in (("train", TRAIN_FACES, train_per_class), ("test", VAL_FACES, val_per_class)):
        drawings = np.stack([_draw(letter, face) for letter in letters for face in faces])
        labels = np.repeat(np.arange(num_classes), per_class)
        chosen_faces = rng.integers(len(faces), size=len(labels))
        sources = np.split(labels * len(faces) + chosen_faces, range(250, len(labels), 250))
        arrays[f"x_{split}"] = np.concatenate([_photograph(drawings[block], rng) for block in sources])
        arrays[f"y_{split}"] = labels
    return arrays


def _draw(letter: str, face: str) -> np.ndarray:
    """The letter in that face, white on black, centred: (56, 56) in 0..1."""
    import matplotlib  # slow to import, and only needed to draw

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    image = Image.new("L", (_CANVAS, _CANVAS))
    font = ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(letter)
    corner = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, letter, fill=255, font=font)
    return np.asarray(image, dtype=np.float32) / 255


def _distinct_letters(num_classes: int, rng: np.random.Generator) -> list[str]:
    """``num_classes`` letters in random order, none shaped like an earlier one (A and Α, o and O, ...)."""
    letters = [chr(c) for first, last in _ALPHABETS for c in range(ord(first), ord(last) + 1) if chr(c).isalpha()]
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
    drawing = Image.fromarray(_draw(letter, face))
    shape = np.asarray(drawing.crop(drawing.getbbox()).resize((20, 20), Image.Resampling.BILINEAR)).ravel()
    shape = shape - shape.mean()
    return shape / np.linalg.norm(shape)


def _photograph(drawings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Drawings (n, 56, 56) -> images (n, 28, 28) uint8: each warped, blurred, perhaps inverted, and noisy.
    Equal bits on whatever processor: sums of few terms in a stated order, and no function whose last bit varies."""
    n = len(drawings)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    shear, angle = uniform(-0.3, 0.3), np.deg2rad(rng.uniform(-25, 25, (n, 1, 1)))
    cos, sin = (turn.round(9).astype(np.float32) for turn in (np.cos(angle), np.sin(angle)))
    size, width, height = uniform(0.8, 1.2), uniform(0.75, 1.25), uniform(0.75, 1.25)
    right, down = uniform(-0.15, 0.15), uniform(-0.15, 0.15)
    # for each output pixel, where in the drawing it comes from: the inverse of what is seen. -1 and 1 are the edges
    places = (2 * np.arange(_CANVAS, dtype=np.float32) + 1) / _CANVAS - 1
    x, y = places[None, None, :], places[None, :, None]
    turned_x, turned_y = cos * x - sin * y, sin * x + cos * y
    source_x = (turned_x + shear * turned_y) / (size * width) + right
    images = _sample(drawings, source_x, turned_y / (size * height) + down)
    images = (images[:, ::2, ::2] + images[:, ::2, 1::2] + (images[:, 1::2, ::2] + images[:, 1::2, 1::2])) / 4

    blur = uniform(0, 1)
    images = (1 - blur) * images + blur * _blurred(_blurred(images).swapaxes(1, 2)).swapaxes(1, 2)
    images = np.where(uniform(0, 1) < 0.5, 1 - images, images)
    images = images + uniform(0.03, 0.2) * rng.standard_normal(images.shape).astype(np.float32)
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def _sample(drawings: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of drawings (n, 56, 56) at places (n, 56, 56), between pixels bilinearly, 0 outside."""
    side = _CANVAS + 2  # of a drawing with a margin
    pixels = np.pad(drawings, ((0, 0), (1, 1), (1, 1))).ravel()
    x, y = ((((place + 1) * _CANVAS + 1) / 2).clip(0, _CANVAS + 0.99) for place in (x, y))
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = x - left, y - top
    first = np.arange(len(drawings), dtype=np.int32)[:, None, None] * side**2 + top * side + left
    upper, lower = ((1 - x) * pixels[row] + x * pixels[row + 1] for row in (first, first + side))
    return (1 - y) * upper + y * lower


def _blurred(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w), blurred along the last axis by a Gaussian of sigma 1 pixel."""
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2)))
    far, near = 0.1353352832, 0.6065306597  # exp(-2), exp(-1/2)
    shifted = [padded[..., start : start + images.shape[-1]] for start in range(5)]
    return (far * (shifted[0] + shifted[4]) + near * (shifted[1] + shifted[3]) + shifted[2]) / (1 + 2 * (far + near))
