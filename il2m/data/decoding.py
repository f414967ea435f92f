"""The bytes of an image file -> its pixels: the one place where Pillow meets what others made."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from il2m.errors import InputError

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about EXIF, transparency and very large images
        if Image.MAX_IMAGE_PIXELS:  # Pillow's own limit, which can't be told before it is met
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(megapixels * 1e6))
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > megapixels * 1e6:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        except UnidentifiedImageError:
            raise InputError(f"no image of a format that is read ({', '.join(FORMATS)}).") from None
        except Image.DecompressionBombError as error:
            remedy = f"make it smaller, or set the environment variable {LIMIT}"
            raise InputError(f"it has more than {megapixels:g} megapixels ({error}): {remedy}.") from None
        with image:
            turn, pixels = _turn(image) if exif_rotation else None, _eight_bits(image)
            return np.array(pixels if turn is None else pixels.transpose(turn))


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
    is_signed = 2 in getattr(image, "tag_v2", {}).get(339, ())  # TIFF's sample format
    if image.mode in ("I", "F") or is_signed:
        kind = "fractions" if image.mode == "F" else "signed or 32-bit whole numbers"
        raise InputError(f"its pixels are {kind}, of unknown range; expected 8 or 16 bits: save it so.")
    if image.has_transparency_data and image.format != "BMP":  # whose fourth channel is mostly filling
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_turned(path: str | Path) -> bool:
    """Whether exif_rotation turns the image, told by the head of its file: about 70 microseconds, nothing decoded."""
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:  # decoding will name what it meets
        return _turn(image) is not None
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF data ask for. Not of TIFF, which Pillow turns as it decodes."""
    if image.format != "TIFF" and "exif" in image.info:
        with contextlib.suppress(Exception):  # whatever Pillow meets in damaged data
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return None
