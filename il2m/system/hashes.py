"""Hashes: of values, of files; and files that carry a checksum of their own."""

import contextlib
import hashlib
import inspect
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from il2m.errors import InputError
from il2m.system.files import write_atomically

_SETTLED = 10**9  # ns: a file that was written to again at once may carry the same times
_remembered: dict[tuple[int, ...], str] = {}  # a file as it was -> its hash


def short_hash(value: Any) -> str:
    """Hash of a JSON-like value, 10 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def file_hash(path: Path, *, remembered: bool = False) -> str:
    """Hash of a file's content, 16 hex digits; remembered: as read before, by device, inode, size and times."""
    with path.open("rb") as file:
        is_now = os.fstat(file.fileno())
        changed = max(is_now.st_mtime_ns, is_now.st_ctime_ns)
        key = is_now.st_dev, is_now.st_ino, is_now.st_size, is_now.st_mtime_ns, changed
        if remembered and key in _remembered:
            return _remembered[key]
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if time.time_ns() - changed > _SETTLED:
        _remembered[key] = found
    return found


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-like content as it will be read, with a ``checksum`` of all of it."""
    content = json.loads(json.dumps(content))
    return {**content, "checksum": short_hash(content)}


def write_sealed(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write JSON with its checksum, all or nothing."""
    write_atomically(path, json.dumps(sealed(content), indent=1), durable=durable)


def read_sealed(path: Path) -> dict[str, Any]:
    """What write_sealed wrote. Raises FileNotFoundError, or ValueError, with the reason, if it is not as written."""
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum", "")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"can't be read ({type(error).__name__}: {error})") from None
    if short_hash(content) != checksum:
        raise ValueError("is not as it was written" if checksum else "can't be read: it has no checksum")
    return content


def registered_source(kind: str, name: str, code: Callable[..., Any], known: Mapping[str, str]) -> str:
    """Hash of what the function or class registered under ``name`` does: of the file it stands in, or, in a notebook's
    cell, of its own lines and of the numbers, texts and paths that these name (what it calls elsewhere is not seen).
    known: name -> source hash, ``""`` for what is built in. A cell may be run again: what it registers takes the place
    of what it registered before. Raises InputError for a name that can't be one or is taken, or without a source."""
    if not isinstance(name, str) or not name or not name.isprintable() or name != name.strip():
        raise InputError(f"{kind} {name!r}: expected a printable name without blanks at its ends.")
    in_a_cell = code.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    if name in known and not (known[name] and in_a_cell):
        what = "registered already" if known[name] else "the name of one that is built in"
        raise InputError(f"{kind} {name!r} is {what}: take another name.")
    if not (inspect.isfunction(code) or inspect.isclass(code)):
        raise InputError(f"{code!r} is no function and no class, so its source can't be told: wrap it in a function.")
    file = getattr(sys.modules.get(code.__module__), "__file__", None)
    try:
        return file_hash(Path(file)) if file else _cell_hash(code)
    except (OSError, TypeError):
        advice = "define it in a file or in a notebook's cell."
        raise InputError(f"the source of {code.__qualname__} can't be read: {advice}") from None


def _cell_hash(code: Callable[..., Any]) -> str:
    source, values = inspect.getsource(code), {}
    parts = [code.__code__] if inspect.isfunction(code) else []
    with contextlib.suppress(SyntaxError):  # of the lines around a lambda
        parts.append(compile(textwrap.dedent(source), "cell", "exec"))  # what defaults name, too
    for part in parts:
        parts += filter(inspect.iscode, part.co_consts)  # of what is defined within
    cells = {} if inspect.isclass(code) else dict(zip(code.__code__.co_freevars, code.__closure__ or (), strict=True))
    named = {*cells}.union(*(part.co_names for part in parts))  # all but its own variables; attributes are left out now
    for name in named.intersection(re.findall(r"(?<![.\w])[^\W\d]\w*", source)):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # its own name; nothing JSON can hold; an empty cell
            value = cells[name].cell_contents if name in cells else vars(sys.modules[code.__module__])[name]
            values[name] = short_hash(repr(value) if isinstance(value, Path) or hasattr(value, "dtype") else value)
    return short_hash([source, values] if values else source)
