"""Image files in the place of an array of images, and how the bytes of one become pixels: decode, the one place where
Pillow meets what others made. How they reach a network: views.py and file_batches.py. No torch: to plan needs none."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from il2m.data.dataset import Dataset, content_hash
from il2m.errors import InputError, name_first

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever a file's name: an EPS starts Ghostscript
LIMIT = "IL2M_MAX_MEGAPIXELS"  # environment variable
_TURNS = dict(zip(range(2, 9), [Image.Transpose(turn) for turn in (0, 3, 1, 5, 4, 6, 2)], strict=True))  # by EXIF's tag


def max_megapixels() -> float:
    """Millions of pixels that an image may have: 50, or what the environment variable IL2M_MAX_MEGAPIXELS says."""
    try:
        return float(os.environ.get(LIMIT, 50))
    except ValueError:
        raise InputError(f"{LIMIT} = {os.environ[LIMIT]!r}: expected a number, as 50.") from None


def decode(content: bytes, *, exif_rotation: bool = False, megapixels: float = 50) -> np.ndarray:
    """The pixels of the image that a file holds, (height, width, 3) uint8; of several pictures the first.
    Grey values of 16 bits are scaled to 8, what is transparent shows a white ground, colour profiles and damaged EXIF
    data are passed over. exif_rotation: turn it as EXIF data say (Pillow always turns TIFF). megapixels: it may have.
    Raises InputError for other formats, more pixels, or pixels whose range nobody knows; OSError or another of
    Pillow's errors for an image that can't be decoded whole."""
    with warnings.catch_warnings(action="ignore"):  # Pillow warns about EXIF, transparency and very large images
        try:
            image = opened(io.BytesIO(content), megapixels)
            if image.width * image.height > megapixels * 1e6:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        except UnidentifiedImageError:
            raise InputError(f"no image of a format that is read ({', '.join(FORMATS)}), or damaged.") from None
        except Image.DecompressionBombError as error:
            remedy = f"make it smaller, or set the environment variable {LIMIT}"
            raise InputError(f"it has more than {megapixels:g} megapixels ({error}): {remedy}.") from None
        with image:
            turn, pixels = _turn(image) if exif_rotation else None, _eight_bits(image)
            return np.array(pixels if turn is None else pixels.transpose(turn))


def opened(file: str | Path | io.BytesIO, megapixels: float) -> Image.Image:
    """The image in a file, of which only the head is read as yet. megapixels: Pillow's own limit is lifted to them."""
    if Image.MAX_IMAGE_PIXELS:  # it can't be told before it is met
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(megapixels * 1e6))
    return Image.open(file, formats=FORMATS)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same in mode RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # Pillow would clip
        values, tags = np.asarray(image).astype(np.int32), getattr(image, "tag_v2", {})
        highest = 2 ** tags.get(258, (16,))[0] - 1  # bits per sample: TIFF has 12 too
        if tags.get(262) == 0:  # white is zero
            values = highest - values
        grey = (values * 255 + highest // 2) // highest
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F") or 2 in getattr(image, "tag_v2", {}).get(339, ()):  # TIFF's sample format: signed
        kind = "fractions" if image.mode == "F" else "signed or 32-bit whole numbers"
        raise InputError(f"its pixels are {kind}, of unknown range; expected 8 or 16 bits: save it so.")
    if image.has_transparency_data and image.format != "BMP":  # whose fourth channel is mostly filling
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_turned(path: str | Path, *, megapixels: float = 50) -> bool:
    """Whether exif_rotation turns the image, told by the head of its file: about 70 microseconds, nothing decoded."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(Exception), opened(path, megapixels) as image:
        return _turn(image) is not None
    return False  # decoding will name what it meets


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF data ask for. Not of TIFF, which Pillow turns as it decodes."""
    if image.format != "TIFF" and "exif" in image.info:
        with contextlib.suppress(Exception):  # whatever Pillow meets in damaged data
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return None


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; ``files[indices]`` chooses some, as from an array.
    paths: (n,) numpy strings. image_size: of the square images that come out, in pixels.
    num_workers: processes that decode; 0 decodes in this one. exif_rotation, megapixels: see decode.
    digests: (n,) int64, hashes of the files' contents as they have to be; None: not compared. listed: (n,) numpy
    strings, what a fingerprint calls the files; None: by their paths."""

    paths: np.ndarray
    image_size: int = 224
    num_workers: int = 2
    exif_rotation: bool = False
    megapixels: float = field(default_factory=max_megapixels)
    digests: np.ndarray | None = None
    listed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Any) -> Self:
        given = {name: vars(self)[name] for name in ("paths", "digests", "listed")}
        return replace(self, **{name: each[indices] for name, each in given.items() if each is not None})

    def __iter__(self) -> Iterator[np.ndarray]:
        """The images as they are scored, (height, width, 3) uint8, decoded one after the other: to look at them."""
        import torch  # not needed to plan

        from il2m.data.views import scoring_view

        pixels = (torch.from_numpy(self.read(place)[0]).permute(2, 0, 1) for place in range(len(self)))
        return (scoring_view(image, self.image_size).numpy() for image in pixels)

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
        return any(is_turned(path, megapixels=self.megapixels) for path in self.paths.tolist())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels) as they come out."""
        return len(self), self.image_size, self.image_size, 3


def with_options(data: Dataset, train: dict[str, Any], val: dict[str, Any]) -> Dataset:
    """The same dataset of files, with these fields of its ImageFiles."""
    return replace(data, train_images=replace(data.train_images, **train), val_images=replace(data.val_images, **val))


def check_present(paths: Iterable[str | Path], what: str = "images are missing on disk", hint: str = "") -> None:
    """Raise InputError that names the paths which are not files. hint: what to do about it."""
    if missing := [str(path) for path in paths if not os.path.isfile(path)]:
        raise InputError("\n".join([name_first(what, missing), *filter(None, [hint])]))
