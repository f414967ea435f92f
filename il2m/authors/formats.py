"""The authors' text formats: image lists, score files, and the file of channel means and standard deviations.

image list   one image per line: its path, white space, its label (a whole number; the path may hold blanks)
score file   one image per line: its raw score for each class, in learning order, separated by white space
mean/std     one dataset per line: name:mean=[r, g, b];std=[r, g, b]   (pixel values scaled to 0..1)"""

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from pyarrow import csv

from il2m.errors import InputError, nearest
from il2m.system.files import replacing

MEAN_STD_FILE = "datasets_mean_std.txt"
_BLOCK_BYTES = 1 << 20  # of a score file, parsed at a time: larger ones are slower
TEXT = np.dtypes.StringDType()  # of arrays of paths
_MEAN_STD_LINE = re.compile(r"[^:]+:\s*mean=\[([^\]]*)\];\s*std=\[([^\]]*)\]\s*")
# nothing that readers take for the blank before the label or for the end of a line, nor a mark, nor what is no text
_WRITABLE_PATH = re.compile(r"(?!\ufeff)[^\0\r\n\ud800-\udfff]*[^\0\s\ud800-\udfff]")


@dataclass(frozen=True)
class ImageList:
    """What one list file says. images: (n,) paths, numpy strings. labels: (n,) int64, as written."""

    source: Path
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> Self:
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def paths(self, root: str | Path) -> np.ndarray:
        """The images' paths, (n,) numpy strings; relative ones start at ``root``."""
        return np.array([os.path.join(root, image) for image in self.images.tolist()], dtype=TEXT)


def read_image_list(path: str | Path) -> ImageList:
    """Read a list in the authors' format; blank lines, CRLF endings and a missing last newline are accepted. Raises
    InputError for a missing, empty or non-text file, and for the first line that is not ``path label``."""
    path, images, labels, number = Path(path), [], [], 0
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        try:
            for line in file:
                number += 1
                if words := line.rsplit(None, 1):
                    image, label = words
                    labels.append(int(_plain(label) if "\0" not in image else ""))  # no path holds that
                    images.append(image)
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file (line {number + 1} or soon after is not UTF-8).") from None
        except ValueError:
            text, expected = line.strip()[:80], "'path label', with a whole number as label at its end, and no header"
            if text.replace("\t", " ").isprintable():
                raise InputError(f"{path}, line {number}: {text!r} is not {expected}.") from None
            raise InputError(f"{path}: not a text file (line {number} is {text!r}).") from None
    if not images:
        raise InputError(f"{path}: the list is empty; expected one 'path label' per line.")
    try:
        return ImageList(path, np.array(images, dtype=TEXT), np.array(labels, dtype=np.int64))
    except OverflowError:
        raise InputError(f"{path}: the label {max(labels, key=abs)} is out of range.") from None


def _plain(number: str) -> str:
    """The same. Raises ValueError for what is a number to Python alone: ``1_0``, or digits of other scripts."""
    if "_" in number or not number.isascii():
        raise ValueError(f"found {number[:40]!r}")
    return number


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Raises InputError where the file can't be read, or is no text."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file.") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from None


def write_image_list(path: str | Path, images: Iterable[str], labels: Iterable[int]) -> None:
    """Write a list in the authors' format. Raises InputError for a path that could not be read back as it is."""
    lines = []
    for image, label in zip(map(str, images), labels, strict=True):
        if not _WRITABLE_PATH.fullmatch(image):
            raise InputError(f"{path}: the image path {image!r} can't be written to a list; rename the file.")
        lines.append(f"{image} {int(label)}\n")
    with replacing(path, "w") as file:
        file.writelines(lines)


def repeated_images(images: np.ndarray) -> list[str]:
    """The paths that occur more than once, each named once."""
    paths, counts = np.unique(images, return_counts=True)
    return paths[counts > 1].tolist()


def read_scores(path: str | Path, num_classes: int) -> Iterator[np.ndarray]:
    """The scores of a text file, block after block: (m, num_classes) float64. Blank lines, CRLF endings, any white
    space and a missing last newline are accepted. Raises InputError for anything else, with its line."""
    path, number, is_empty = Path(path), 1, True
    with _readable(path), path.open("rb") as file:
        if file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        while block := file.read(_BLOCK_BYTES):
            block += file.readline()
            if (scores := _parse_plain(block, num_classes)) is None:
                scores = _parse_line_by_line(block, num_classes, path, number)
            if len(scores):
                is_empty = False
                yield scores
            number += block.count(b"\n")
    if is_empty:
        raise InputError(f"{path}: the score file is empty; expected {num_classes} numbers per line, a line per image.")


def _parse_plain(block: bytes, num_classes: int) -> np.ndarray | None:
    """A block's scores, (m, num_classes); None if anything is not plain, or not as it should be."""
    block = block.replace(b"\r\n", b"\n")
    lines = block.split(b"\n")
    if b"\r" in block or b"\t" in block or any(line.count(b" ") != num_classes - 1 for line in lines if line):
        return None
    # one number per line is the parser's fastest case; a blank too many makes an empty line, which it passes over
    try:
        column = csv.read_csv(
            pa.BufferReader(block.replace(b" ", b"\n")),
            read_options=csv.ReadOptions(use_threads=False, column_names=["score"]),  # its threads may outlive Python
            parse_options=csv.ParseOptions(delimiter="\x01", quote_char=False),
            convert_options=csv.ConvertOptions(column_types={"score": pa.float64()}, null_values=[]),
        ).column(0)
    except pa.ArrowInvalid:
        return None
    scores = np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])  # to_numpy would import pandas
    if len(scores) != num_classes * sum(map(bool, lines)) or not np.isfinite(scores).all():
        return None  # as many spaces as asked for, so no line can make up for numbers that another one lacks
    return scores.reshape(-1, num_classes)


def _parse_line_by_line(block: bytes, num_classes: int, path: Path, first_line: int) -> np.ndarray:
    """The slow way, which also knows other blanks and signs, and which line is at fault."""
    rows = []
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not (words := line.split()):
            continue
        where = f"{path}, line {number}"
        if not (line.isascii() and b" ".join(words).decode("ascii").isprintable()):
            raise InputError(f"{path}: not a text file (line {number}).")
        try:
            row = [float(_plain(word.decode())) for word in words]
        except ValueError as error:
            raise InputError(f"{where}: a score is not a number ({error}).") from None
        if len(row) != num_classes:
            raise InputError(f"{where}: {len(row)} scores; expected {num_classes}, one per class seen so far.")
        if len(bad := np.flatnonzero(~np.isfinite(row))):
            raise InputError(f"{where}: the score of class {bad[0]} is {row[bad[0]]}; expected finite numbers.")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, num_classes)


def write_scores(path: str | Path, blocks: Iterable[np.ndarray]) -> None:
    """Write scores as text, exactly: what is read back is equal. blocks: (m, C) each, written one after the other."""
    options = csv.WriteOptions(include_header=False, delimiter=" ")
    with replacing(path, "wb") as file:
        for block in blocks:
            columns = [pa.array(column) for column in np.asarray(block, dtype=np.float64).T]
            csv.write_csv(pa.table(columns, names=[str(i) for i in range(len(columns))]), file, options)


def read_mean_std(path: str | Path, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations by channel under ``name``. Raises InputError for none, several, or no numbers."""
    lines = read_text(path).splitlines()
    names = [line.partition(":")[0].strip() for line in lines]
    if name not in names:
        hint = nearest(name, filter(None, names)) if any(names) else "the file is empty"
        raise InputError(f"{path}: no mean and std for {name!r}: {hint}.")
    if names.count(name) > 1:
        raise InputError(f"{path}: {names.count(name)} lines are named {name!r}; expected one: remove the others.")
    number = names.index(name)
    try:
        parts = _MEAN_STD_LINE.fullmatch(lines[number]).groups()
        mean, std = (tuple(float(_plain(value)) for value in part.split(",")) for part in parts)
        if len(mean) != len(std) or not np.isfinite(mean + std).all() or min(std) <= 0:
            raise ValueError
    except (AttributeError, ValueError):
        expected = "'name:mean=[r, g, b];std=[r, g, b]' with finite numbers and positive standard deviations"
        raise InputError(f"{path}, line {number + 1}: {lines[number][:99]!r} is not {expected}.") from None
    return mean, std


def read_text(path: str | Path) -> str:
    """All of a text file. Raises InputError if it can't be read, or is no text."""
    with _readable(path):
        return Path(path).read_text(encoding="utf-8-sig")


@dataclass(frozen=True)
class ListLayout:
    """Where the lists of one dataset and one split into states lie: ``folder`` is ``<lists>/<dataset>/S~<S>``."""

    folder: Path

    def val(self, state: int, which: str) -> Path:
        """Validation images of the classes that ``state`` brings (``separated``), or of all seen (``accumulated``)."""
        return self.folder / ("batch1/val.lst" if state == 1 else f"{which}/val/batch{state}")

    def train(self, state: int, memory_size: int | str, which: str) -> Path:
        """Training images: of the classes that ``state`` brings (``new``), or the exemplars there (``old``)."""
        return self.folder / ("batch1/train.lst" if state == 1 else f"unbalanced/train/K~{memory_size}/{state}_{which}")
