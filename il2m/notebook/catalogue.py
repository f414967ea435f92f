"""The study's notebooks: where they are, and what their parameter cells say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from il2m.errors import InputError
from il2m.system.machine import CHECKOUT

BASE, FINE_TUNING, ANALYSIS, ABLATION = NOTEBOOKS = (
    "01_base_training",
    "02_fine_tuning",
    "03_dual_memory_analysis",
    "04_rectification_ablation",
)


def find_notebooks() -> Path:
    """The folder of notebooks: of this checkout, or of the current directory."""
    for root in (CHECKOUT, Path.cwd()):
        if (root / "notebooks" / f"{BASE}.ipynb").is_file():
            return root / "notebooks"
    raise InputError("no notebooks/ folder beside the il2m package or here: run il2m from a checkout of the project.")


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
