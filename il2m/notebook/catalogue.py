"""The study's notebooks: where they are, and what their parameter cells say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from il2m.errors import InputError
from il2m.system.files import write_atomically
from il2m.system.machine import SHIPPED

BASE, FINE_TUNING, ANALYSIS, ABLATION = NOTEBOOKS = (
    "01_base_training",
    "02_fine_tuning",
    "03_dual_memory_analysis",
    "04_rectification_ablation",
)


def find_notebooks() -> Path:
    """The folder of notebooks: this checkout's, or the one that came with the installed package."""
    return SHIPPED / "notebooks"


def find_grids() -> dict[str, Path]:
    """The grids that come with the notebooks: name -> file."""
    return {path.stem: path for path in sorted((find_notebooks() / "grids").glob("*.yaml"))}


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the notebooks into ``folder``; returns the copies. Raises InputError if it would overwrite other ones."""
    copies = {folder / path.name: path.read_bytes() for path in sorted(find_notebooks().glob("*.ipynb"))}
    changed = [path.name for path, content in copies.items() if path.exists() and path.read_bytes() != content]
    if changed:
        raise InputError(f"{folder} holds others as {', '.join(changed)}: move these, or name another folder.")
    for path, content in copies.items():
        write_atomically(path, content)
    return list(copies)


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and default values in a notebook's parameters cell.

    papermill only warns when the tag is missing, and then ignores what it is given: here that is an InputError.
    """
    import nbformat  # these take a second, and only planning needs them
    from papermill.inspection import inspect_notebook

    cells = nbformat.read(path, as_version=4).cells
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        raise InputError(f"{path}: no cell is tagged 'parameters', so no parameter of it could be set.")
    return {name: ast.literal_eval(found["default"]) for name, found in inspect_notebook(str(path)).items()}
