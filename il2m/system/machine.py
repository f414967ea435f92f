"""Where results were made: packages, machine and state of the checkout, as what is JSON. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "il2m"
LIBRARY = Path(__file__).resolve().parents[1]  # the folder il2m/
_OF_A_CHECKOUT = ("pyproject.toml", "notebooks/01_base_training.ipynb")
CHECKOUT = LIBRARY.parent if all((LIBRARY.parent / file).is_file() for file in _OF_A_CHECKOUT) else None
SHIPPED = CHECKOUT or LIBRARY / "shipped"  # where notebooks/ and data/ are read; a wheel brings its own, see pyproject


def environment() -> dict[str, Any]:
    """The environment of this process; what can't be found out is None, or left out of a list.

    Keys: ``python``, ``platform``, ``cpu`` (model), ``cores`` (of the machine), ``usable_cores`` (that this process may
    use), ``memory_gb`` (10^9 bytes, of the machine), ``gpus`` (each a name with its memory and driver), ``packages``
    (this one and its requirements: name -> version) and ``git`` (``commit``; ``changed``: if files differ from it).
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "packages": _packages(),
        "git": git_state(SHIPPED),
    }


def usable_cores() -> int | None:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def git_state(checkout: Path) -> dict[str, Any]:
    """``commit`` and ``changed`` of a checkout; None for both if the folder is none, or git can't tell."""
    printed = ""
    if (checkout / ".git").exists():  # not a package that only lies somewhere inside another project's checkout
        git = ["git", "--no-optional-locks", "-C", str(checkout)]  # reads only: others may be at work there
        printed = printed_by(*git, "status", "--porcelain=v2", "--branch")
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", printed, re.MULTILINE)
    if not commit:
        return {"commit": None, "changed": None}
    return {"commit": commit[1], "changed": any(line[0] != "#" for line in printed.splitlines())}


def _packages() -> dict[str, str | None]:
    try:
        required = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        required = []
    names = [re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line]
    return {name: _version(name) for name in (PACKAGE, *names)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    if platform.system() == "Darwin":
        return printed_by("sysctl", "-n", "machdep.cpu.brand_string").strip() or None
    return platform.processor() or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):  # no such system
        return None


def _gpus() -> list[str]:
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return [line.strip() for line in printed_by("nvidia-smi", *query).splitlines() if line.strip()]


def printed_by(*command: str) -> str:
    """What a program prints, ``""`` if it is not there, fails or takes too long."""
    if not shutil.which(command[0]):
        return ""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


@functools.cache
def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may give to jobs, as CUDA_VISIBLE_DEVICES names them; empty without any.

    Those that CUDA_VISIBLE_DEVICES names already, else all that nvidia-smi lists. CUDA itself is not touched.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1"))
    return tuple(printed_by("nvidia-smi", "--query-gpu=index", "--format=csv,noheader").split())
