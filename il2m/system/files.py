"""Files that a reader sees whole or not at all, and that a power cut leaves so."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from il2m.errors import InputError

SET_ASIDE = "set_aside-"  # what the names of files and folders begin with that are of no use any more


@contextmanager
def replacing(path: str | Path, mode: str, *, durable: bool = False) -> Iterator[IO]:
    """A file that takes the place of ``path``, folders included, once wholly written; durable: and is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"dir": path.parent, "prefix": path.name, "suffix": ".tmp", "delete": False}
    options |= {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        file = tempfile.NamedTemporaryFile(mode, **options)  # noqa: SIM115 - closed before it takes the other's place
    except OSError as error:  # it names a file that nobody asked for
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        with file:
            yield file
        os.chmod(file.name, 0o644)
        if durable:
            sync(Path(file.name))
        os.replace(file.name, path)
    except BaseException:
        os.unlink(file.name)
        raise


def safe_name(name: str, where: str) -> str:
    """``name``, if it can name a file; else InputError, as mended names could become one. where: begins the message."""
    if name in ("", ".", "..") or not name.isprintable() or {*name} & {*"/\\"} or len(name.encode()) > 200:
        expected = "expected 1 to 200 bytes without slashes and control characters."
        raise InputError(f"{where} {name[:60]!r} can't name a file or folder: {expected}")
    return name


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part. durable: see replacing."""
    with replacing(path, "wb", durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(*paths: Path) -> None:
    """Wait until the disk has these files and folders as they are."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def modified(path: Path) -> float:
    """When a file was written, in seconds; 0 if it is gone."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def set_aside(path: Path) -> Path:
    """Rename a file or folder, which may be deleted then; returns its new path, beside the old one."""
    counted = itertools.count(int(path.is_file()))  # a file gets another ending: it shall not be found by that
    names = (path.with_name(f"{SET_ASIDE}{path.name}{f'-{n}' if n else ''}") for n in counted)
    return path.rename(next(name for name in names if not name.exists()))
