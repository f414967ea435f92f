"""Hashes: of values, of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def short_hash(value: Any) -> str:
    """Hash of a JSON-like value, 10 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
