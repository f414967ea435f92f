"""Files that a reader sees whole or not at all, and that a power cut leaves so."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    durable: wait until the disk has it, so that this is true after a power cut too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
        except BaseException:  # a full disk
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    if durable:
        sync(Path(file.name))
    os.replace(file.name, path)


def sync(*paths: Path) -> None:
    """Wait until the disk has these files and folders as they are."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
