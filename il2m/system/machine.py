"""Where the project's files are, and where results were made: packages, machine, state of the checkout. No torch."""

import functools
import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

LIBRARY = Path(__file__).resolve().parents[1]  # the folder il2m/
_OF_A_CHECKOUT = ("pyproject.toml", "notebooks/01_base_training.ipynb")
CHECKOUT = LIBRARY.parent if all((LIBRARY.parent / file).is_file() for file in _OF_A_CHECKOUT) else None
SHIPPED = CHECKOUT or LIBRARY / "shipped"  # where notebooks/ and data/ are read; a wheel brings its own, see pyproject


def environment() -> dict[str, Any]:
    """The environment of this process; what can't be found out is None, or left out of a list."""
    il2m = next(iter(metadata.distributions(name="il2m")), None)  # None: a copy that was never installed
    required = [line for line in il2m.requires if "extra ==" not in line] if il2m else []
    names = ["il2m", *(re.match(r"[\w.-]+", line)[0] for line in required)]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),  # of the machine
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),  # of the machine
        "gpus": _nvidia_smi("name,memory.total,driver_version"),
        # this one and its requirements: name -> version
        "packages": {name: next((it.version for it in metadata.distributions(name=name)), None) for name in names},
        "git": git_state(SHIPPED),
    }


@functools.cache
def library_hash(*rooms: str) -> str:
    """Hash of the library, or of some of its packages, as this process has it: read once, as it is imported once."""
    folders = [LIBRARY / room for room in rooms] or [LIBRARY]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = sorted(path for path in files if LIBRARY / "shipped" not in path.parents)  # a wheel's is a checkout's
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def usable_cores() -> int | None:
    """CPU cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()


def git_state(checkout: Path) -> dict[str, Any]:
    """``commit`` and ``changed`` (files differ from it) of a checkout; both None if it is none, or git can't tell."""
    git = ("git", "--no-optional-locks", "-C", str(checkout))  # reads only: others may be at work there
    is_one = (checkout / ".git").exists()  # not a package that only lies somewhere inside another project's checkout
    printed = _printed_by(*git, "status", "--porcelain=v2", "--branch") if is_one else ""
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", printed, re.MULTILINE)
    changed = any(line[0] != "#" for line in printed.splitlines())
    return {"commit": commit[1], "changed": changed} if commit else {"commit": None, "changed": None}


@functools.cache
def cpu_model() -> str | None:
    """What the processor calls itself."""
    if platform.system() == "Darwin":
        return _printed_by("sysctl", "-n", "machdep.cpu.brand_string").strip() or None
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if os.access(info, os.R_OK) else "", re.MULTILINE)
    return model[1].strip() if model else platform.processor() or None


def _nvidia_smi(query: str) -> list[str]:
    """A line for each GPU of this machine; none without any."""
    return _printed_by("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader").strip().splitlines()


def _printed_by(*command: str) -> str:
    """What a program prints, ``""`` if it is not there, fails or takes too long."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


@functools.cache
def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may give to jobs: as CUDA_VISIBLE_DEVICES has them, else all of nvidia-smi's."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1"))
    return tuple(_nvidia_smi("index"))
