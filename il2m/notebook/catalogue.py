"""The study's notebooks: where they are, and what their parameter cells say."""

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

from il2m.errors import InputError, nearest
from il2m.system.files import write_atomically
from il2m.system.machine import SHIPPED

NOTEBOOKS = ("01_base_training", "02_fine_tuning", "03_dual_memory_analysis", "04_rectification_ablation")
BASE, FINE_TUNING, ANALYSIS, ABLATION = NOTEBOOKS


def find_notebooks() -> Path:
    """The folder of notebooks: this checkout's, or the one that came with the installed package."""
    return SHIPPED / "notebooks"


def find_grids() -> dict[str, Path]:
    """The grids that come with the notebooks: name -> file."""
    return {path.stem: path for path in sorted((find_notebooks() / "grids").glob("*.yaml"))}


def find_grid(text: str) -> Path:
    """The grid file at a path, or the grid of that name that comes with il2m."""
    path, grids = Path(text), find_grids()
    if path.is_file() or path.name != text:
        return path
    if text not in grids:
        raise InputError(f"{text}: no such file, and no grid of that name: {nearest(text, grids)}")
    return grids[text]


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the notebooks into ``folder``; returns the copies. Raises InputError if it would overwrite other ones."""
    copies = {folder / path.name: path.read_bytes() for path in sorted(find_notebooks().glob("*.ipynb"))}
    if changed := [path.name for path, content in copies.items() if path.exists() and path.read_bytes() != content]:
        raise InputError(f"{folder} holds others as {', '.join(changed)}: move these, or name another folder.")
    for path, content in copies.items():
        write_atomically(path, content)
    return list(copies)


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and literal defaults in the cell of a notebook tagged ``parameters``. Raises InputError for anything else
    in it, which could not be told without running it, and for no such cell, as papermill would ignore what is given."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        source = "".join(sources[:1])  # papermill too takes the first
        statements = ast.parse(source, "its parameters").body
    except Exception as error:  # of whatever type: it is no notebook, or no Python
        raise InputError(f"{path} can't be read as a notebook: {type(error).__name__}: {error}") from None
    if not sources:
        raise InputError(f"{path}: no cell is tagged 'parameters', so no parameter of it could be set.")
    parameters = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name), value=ast.expr()):
                with contextlib.suppress(ValueError, TypeError, RecursionError):  # no literal, or a deep one
                    parameters[name] = ast.literal_eval(statement.value)
                    continue
        code = ast.get_source_segment(source, statement).splitlines()[0][:80]
        raise InputError(f"{path}: line {statement.lineno} of the parameters: expected name = literal, found {code}")
    return parameters
