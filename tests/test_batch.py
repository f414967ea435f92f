"""Batches: what happens when a job fails, and how it is told."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from il2m import batch
from il2m.grids import Job


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """Two small notebooks: one that works, one that fails."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, source in (("works", "print(value)"), ("fails", "raise ValueError(f'no such {value}')")):
        parameters = nbformat.v4.new_code_cell("value = 'default'  # a word")
        parameters.metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def make_job(tmp_path: Path, notebook: str, name: str, **order: tuple[str, ...]) -> Job:
    parameters = {"value": "thing", "out_dir": str(tmp_path)}
    return Job(notebook, "run", parameters, tmp_path / "out" / f"{name}.ipynb", **order)


def test_a_failed_job_is_told_and_the_rest_goes_on(notebooks: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    jobs = [
        make_job(tmp_path, "fails", "bad"),
        make_job(tmp_path, "works", "needs-bad", after=("bad",)),
        make_job(tmp_path, "works", "shows-bad-too", beside=("bad",)),
    ]
    failed = batch._execute(jobs, notebooks, workers=2)
    assert set(failed) == {"bad", "needs-bad"}
    assert "ValueError: no such thing" in failed["bad"]
    assert failed["needs-bad"] == "not run, because bad failed"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["bad.failed.ipynb", "shows-bad-too.ipynb"]
    kept = nbformat.read(tmp_path / "out" / "bad.failed.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("[3/3] ") for line in lines)


def test_parameters_reach_the_notebook(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "good")
    assert batch.run_job(job, notebooks).failure == ""
    executed = nbformat.read(job.output, as_version=4)
    assert executed.cells[-1].outputs[0].text == "thing\n"


def test_an_error_of_several_lines_is_told_whole():
    message = "InputError: 2 broken images:\n  a.png\nReplace them."
    printed = "Traceback ...\n  x\npapermill.exceptions.PapermillExecutionError: \n---\n" + message
    assert batch._last_error(printed) == message
    assert batch._last_error("Killed") == "Killed"
    assert batch._last_error("") == ""
