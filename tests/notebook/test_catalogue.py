"""What a notebook's parameter cell says, and what it must not hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, writes

from il2m.errors import InputError
from il2m.notebook.catalogue import find_notebooks, notebook_parameters


def write(folder: Path, *sources: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    """A notebook with an untagged cell and one tagged cell for each source."""
    cells = [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources]
    path = folder / "a.ipynb"
    path.write_text(writes(new_notebook(cells=[new_code_cell("import os"), *cells])))
    return path


def test_literals_are_parameters(tmp_path: Path):
    source = "# data\ndataset = 'a # b'  # a name\nrates = [1e-4, -2.5]\nseed: int = 3\nnone = None\nwide = (\n    1\n)"
    assert notebook_parameters(write(tmp_path, source, "late = 1")) == {
        "dataset": "a # b", "rates": [1e-4, -2.5], "seed": 3, "none": None, "wide": 1,
    }  # fmt: skip
    assert notebook_parameters(write(tmp_path, "")) == {}


def test_a_source_in_one_piece_is_read_as_well(tmp_path: Path):
    path = write(tmp_path, "x = 1\ny = 2")
    notebook = json.loads(path.read_text())
    assert isinstance(notebook["cells"][1]["source"], list)
    notebook["cells"][1]["source"] = "x = 1\ny = 3"
    path.write_text(json.dumps(notebook))
    assert notebook_parameters(path) == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "line",
    [
        "import os", "y = os.getcwd()", "y: int = int('3')", "y: int", "y = x", "y += 1", "y, z = 1, 2", "y = z = 1",
        "print(3)", "'text'", "if True:\n    y = 3", "y = f'{3}'", "y = {[]: 1}", "y = -'a'", "y.z = 3", "y = [x]",
        "y = " + "not " * 900 + "1",        "for y in (1, 2): z = 1",
    ],
)  # fmt: skip
def test_code_is_refused(tmp_path: Path, line: str):
    path = write(tmp_path, f"x = 1  # good\n{line}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: line 2 of the parameters: expected name = literal"):
        notebook_parameters(path)


def test_what_is_no_python_or_no_notebook_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"can't be read as a notebook: SyntaxError: .*its parameters, line 2"):
        notebook_parameters(write(tmp_path, "x = 1\n%matplotlib inline"))
    with pytest.raises(InputError, match="no cell is tagged 'parameters'"):
        notebook_parameters(write(tmp_path, "x = 1", tags=("other",)))
    for source in ("x = " + "1 + " * 9999 + "1", "x = " + "-" * 99999 + "1", "x = 1\0", "x = " + "9" * 5000):
        with pytest.raises(InputError, match=r"a\.ipynb can't be read as a notebook: "):
            notebook_parameters(write(tmp_path, source))
    for text in ("{", "[]", "{}", '{"cells": [3]}', '{"cells": 3}', '{"cells": ' + "[" * 99999, "\xff"):
        (tmp_path / "a.ipynb").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=r"a\.ipynb can't be read as a notebook: "):
            notebook_parameters(tmp_path / "a.ipynb")
    with pytest.raises(InputError, match=r"none\.ipynb can't be read as a notebook: FileNotFoundError"):
        notebook_parameters(tmp_path / "none.ipynb")


def test_nothing_slow_is_imported_to_read_parameters():
    path = find_notebooks() / "01_base_training.ipynb"
    code = f"""
import pathlib, sys
from il2m.notebook.catalogue import notebook_parameters
assert notebook_parameters(pathlib.Path({str(path)!r}))["num_states"] == 5
sys.exit(bool({{"nbformat", "papermill", "torch", "numpy"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
