"""From the bytes of an image file to its pixels. fixtures/images has the images, and what made them."""

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from tiny import PROJECT

from il2m.data.file_batches import read_all
from il2m.data.image_files import FORMATS, ImageFiles, decode, is_turned, max_megapixels
from il2m.errors import InputError

IMAGES = PROJECT / "tests" / "fixtures" / "images"
GREY = (np.linspace(0, 65535, 48).round() / 257).round().reshape(6, 8)  # of 16 bits, in 8


def pixels(name: str, **options: object) -> np.ndarray:
    return decode((IMAGES / name).read_bytes(), **options)


@pytest.mark.parametrize("path", sorted((IMAGES / "as_ever").iterdir()), ids=lambda path: path.name)
def test_what_was_read_rightly_is_read_as_ever_bit_for_bit(path: Path):
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    for exif_rotation in (False, True):
        np.testing.assert_array_equal(pixels(path, exif_rotation=exif_rotation), expected)
    assert not is_turned(path), "TIFF was turned by Pillow, before and now"


@pytest.mark.parametrize(
    "name", ["grey_16.png", "grey_16.tif", "grey_16_mm.tif", "grey_16_white_is_zero.tif", "grey_16.pgm"]
)
def test_16_bits_of_grey_are_scaled_to_8(name):
    np.testing.assert_array_equal(pixels(name), np.stack([GREY] * 3, -1))


def test_12_bits_of_grey_are_scaled_to_8():
    np.testing.assert_allclose(pixels("grey_12.tif")[..., 0], GREY, atol=1)


@pytest.mark.parametrize(("name", "kind"), [("whole_32.tif", "32-bit whole numbers"), ("fractions.tif", "fractions")])
def test_pixels_of_unknown_range_are_refused_by_name(name, kind):
    with pytest.raises(InputError, match=f"1 images can't be read:\n  {IMAGES / name}: its pixels are .*{kind}"):
        read_all(ImageFiles(np.array([str(IMAGES / name)]), num_workers=0))


def test_signed_pixels_are_refused(tmp_path):
    """Pillow reads a TIFF of signed bytes as if -128 were 128."""
    Image.fromarray(np.array([[128, 251, 0, 5]], dtype=np.uint8)).save(tmp_path / "a.tif", tiffinfo={339: 2})
    with pytest.raises(InputError, match="its pixels are signed or 32-bit whole numbers, of unknown range"):
        decode((tmp_path / "a.tif").read_bytes())
    Image.fromarray(np.array([[128, 251, 0, 5]], dtype=np.uint8)).save(tmp_path / "a.tif", tiffinfo={339: 1})
    assert decode((tmp_path / "a.tif").read_bytes())[0, :, 0].tolist() == [128, 251, 0, 5]


@pytest.mark.parametrize("name", ["alpha.png", "alpha.tif", "alpha.webp", "grey_alpha.png"])
def test_what_is_transparent_shows_a_white_ground(name):
    with Image.open(IMAGES / name) as image:
        colour = np.asarray(image.convert("RGBA")).astype(float)
    alpha = colour[..., 3:] / 255
    np.testing.assert_allclose(pixels(name), colour[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    assert (pixels(name)[0, 0] == 255).all()


def test_transparency_of_palettes_and_of_one_colour():
    assert pixels("palette.png").tolist() == [[[255, 255, 255], [212, 214, 216], [70, 80, 90]]]
    assert pixels("palette.gif").tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    grey = pixels("grey_16_transparent.png")[..., 0]
    assert grey[0, 0] == 255
    np.testing.assert_array_equal(grey.ravel()[1:], GREY.ravel()[1:])


@pytest.mark.parametrize(
    "name", [*(f"turned_{orientation}.jpg" for orientation in range(1, 9)), "turned.png", "turned.webp"]
)
def test_exif_rotation_where_it_is_asked_for(name):
    with Image.open(IMAGES / name) as image:
        as_it_is, turned = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pixels(name), as_it_is)
    np.testing.assert_array_equal(pixels(name, exif_rotation=True), turned)
    assert is_turned(IMAGES / name) == (name != "turned_1.jpg")


def test_turned_images_beyond_pillows_own_limit_are_found_without_its_warning(tmp_path, monkeypatch):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    paths = [tmp_path / f"{side}.jpg" for side in (120, 300)]
    for path in paths:
        Image.new("L", (int(path.stem), 100)).save(path, exif=turned)
    for path in paths:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)  # it warns of 120 x 100, and refuses 300 x 100
        with warnings.catch_warnings(action="error"):
            assert ImageFiles(np.array([str(path)])).any_turned
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    assert not is_turned(paths[1], megapixels=0.01), "decoding refuses it"
    assert Image.MAX_IMAGE_PIXELS == 10_000, "Pillow's limit is lifted to ours, and no further"


def test_a_damaged_image_is_not_said_to_be_of_another_format():
    content = (IMAGES / "grey_16.tif").read_bytes()
    for damaged in (b"", content[:4]):
        with pytest.raises(InputError, match=r"no image of a format that is read \(.*\), or damaged"):
            decode(damaged)


def test_other_formats_are_refused_whatever_their_name_and_start_no_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # a Ghostscript that leaves a trace
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho > {tmp_path}/started\n")
        (tmp_path / program).chmod(0o755)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(content)
    assert not is_turned(tmp_path / "a.png")
    problem = f"{tmp_path}/a.png: no image of a format that is read ({', '.join(FORMATS)}), or damaged."
    with pytest.raises(InputError, match=re.escape(problem)):
        read_all(ImageFiles(np.array([str(tmp_path / "a.png")]), num_workers=0))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("size", [(10_000, 5_001), (20_000, 20_000)])
def test_images_above_the_limit_are_refused_and_the_variable_that_lifts_it_is_named(size):
    content = bytearray((IMAGES / "grey_16.png").read_bytes())
    content[16:24] = struct.pack(">II", *size)  # in a head that is whole
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(InputError, match=r"more than 50 megapixels.*set the environment variable IL2M_MAX_MEGAPIXELS"):
        decode(bytes(content))


def test_the_limit_reaches_the_processes_that_decode(tmp_path, monkeypatch):
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    paths = np.array([str(tmp_path / "a.png")])
    monkeypatch.setenv("IL2M_MAX_MEGAPIXELS", "0.05")
    with pytest.raises(InputError, match=r"more than 0\.05 megapixels \(300 x 200 pixels\)"):
        read_all(ImageFiles(paths, num_workers=1))
    monkeypatch.setenv("IL2M_MAX_MEGAPIXELS", "0.06")
    assert len(read_all(ImageFiles(paths, num_workers=1))) == 1
    monkeypatch.setenv("IL2M_MAX_MEGAPIXELS", "many")
    with pytest.raises(InputError, match="IL2M_MAX_MEGAPIXELS = 'many': expected a number"):
        max_megapixels()
