"""What a study's folder keeps of what was asked for."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.batch.records import code_hash, read_plans, warn_of_plugins, write_plan
from il2m.notebook.catalogue import ANALYSIS, find_notebooks


def job(out: Path, *plugins: str, **parameters: str) -> Job:
    return Job(ANALYSIS, "fine_tuning-0123456789", {"out_dir": str(out), **parameters}, plugins=plugins)


def test_the_plan_that_was_asked_for_last_is_the_newest(tmp_path: Path):
    """Also if it is the same as one of before: jobs are told, and exported, as the newest plan has them."""
    for changes, kind in (((), "raw"), (("score_kind=softmax",), "softmax"), ((), "raw")):
        write_plan(tmp_path, Grid("tiny"), changes, [job(tmp_path, score_kind=kind)], ["il2m", "run", "tiny"])
        newest = read_plans(tmp_path)[-1]
        assert newest["jobs"][0].parameters["score_kind"] == kind
    assert len(read_plans(tmp_path)) == 2
    before = {path: path.read_bytes() for path in tmp_path.glob("plans/*")}
    time.sleep(0.01)
    write_plan(tmp_path, Grid("tiny"), (), [job(tmp_path, score_kind="raw")], ["il2m", "run", "tiny"])
    assert {path: path.read_bytes() for path in tmp_path.glob("plans/*")} == before, "it was the newest already"


def test_a_notebook_is_its_cells_and_not_what_they_showed(tmp_path: Path):
    shutil.copy(find_notebooks() / f"{ANALYSIS}.ipynb", path := tmp_path / "03.ipynb")
    before, notebook = code_hash(path, ()), json.loads(path.read_text())
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["shown"]}]}
    path.write_text(json.dumps(notebook, indent=3))
    assert code_hash(path, ()) == before
    code["source"] = [*code["source"], "\n1"]
    path.write_text(json.dumps(notebook))
    assert code_hash(path, ()) not in ("", before)
    path.write_text("{}")
    assert code_hash(path, ()) == "", "no notebook"


def test_plugins_of_a_plan_that_are_not_loaded_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    write_plan(tmp_path, Grid("tiny"), (), [job(tmp_path, "/a.py", "b")], ["il2m", "run", "tiny"])
    warn_of_plugins(tmp_path, ["/a.py"], "the page")
    assert [str(each.message) for each in recwarn] == ["the page is made without plugin b: --plugin loads it"]
