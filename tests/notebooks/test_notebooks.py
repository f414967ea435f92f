"""The notebooks: how they are kept, and that papermill runs them all, through ``il2m run``, with tiny parameters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from tiny import TinyStudy

from il2m.batch import records
from il2m.batch.grids import read_grid, read_overrides
from il2m.batch.jobs import Job, plan_jobs
from il2m.exchange.importing import import_scores
from il2m.methods.rectify import PARTS, STEADIER
from il2m.methods.registry import METHODS
from il2m.notebook.catalogue import NOTEBOOKS, find_notebooks, notebook_parameters
from il2m.parameters import check_parameters

pytestmark = [pytest.mark.papermill, pytest.mark.xdist_group("notebooks")]  # they share one executed study
ALL = sorted(find_notebooks().glob("*.ipynb"))
START, LESSON = (find_notebooks() / f"{name}.ipynb" for name in ("index", "lesson"))
RUN = [path for path in ALL if path != START]  # those that hold code


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebooks_are_committed_clean(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in cells(path, "code"):
        assert not cell.outputs
        assert cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_notebooks_hold_prose_calls_and_plots(path: Path):
    assert len(cells(path, "markdown")) >= 4
    for cell in cells(path, "code"):
        tree, of_own = ast.parse(cell.source), ast.FunctionDef | ast.ClassDef | ast.Lambda
        is_exercise = path == LESSON and any(tag.startswith("exercise") for tag in cell.metadata.get("tags", []))
        assert len([node for node in ast.walk(tree) if isinstance(node, of_own)]) == is_exercise


def test_the_start_page_says_what_each_notebook_is_for_and_links_to_it():
    assert not cells(START, "code")
    prose = "\n".join(cell.source for cell in cells(START, "markdown"))
    rows = re.findall(r"^\| \[.+?\]\((\w+\.ipynb)\) \| .{20,} \|$", prose, re.MULTILINE)
    assert sorted(rows) == [path.name for path in RUN]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_tables_of_notebooks_are_escaped(path: Path):
    for cell in cells(path, "code"):
        names = {node.attr for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)}
        assert not names & {"style", "set_caption", "to_html"}, "use report.tables.show"


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_one_parameters_cell_of_plain_commented_literals(path: Path):
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        if not line.startswith("#"):
            assert "  # " in line, f"no comment: {line}"
            ast.literal_eval(line.split("  # ")[0].partition(" = ")[2])
    for name, value in notebook_parameters(path).items():
        for single in value if name == "distillation" else [value]:
            check_parameters({name: single})


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> tuple[Path, list[str], str]:
    """A tiny study, run by the command line: its folder, the command and what it printed."""
    out = tmp_path_factory.mktemp("executed")
    grid = out / "tiny.yaml"
    grid.write_text(
        "parameters: {num_states: 3, memory_size: 12, base_epochs: 2, batch_size: 8, distillation: [false, true]}"
    )
    command = [sys.executable, "-m", "il2m.cli", "run", str(grid), "--out", str(out / "study")]
    command += ["-p", f"dataset={tiny_npz}", "-p", "epochs=2", "-p", "learning_rate=0.05", "--workers", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return out / "study", command, result.stdout


def test_papermill_runs_them_all(executed: tuple[Path, list[str], str]):
    out, _, printed = executed
    names = sorted(path.name for path in (out / "notebooks").glob("*.ipynb"))
    stages = [name.removesuffix(".ipynb").split("-")[0] for name in names]
    assert stages == sorted([NOTEBOOKS[0], *2 * list(NOTEBOOKS[1:]), "05_report"])
    pages = sorted(path.name for path in (out / "notebooks").glob("*.html"))
    assert pages == [name.replace(".ipynb", ".html") for name in names[:-1]]  # that of the report is index.html
    assert (out / "index.html").exists()
    assert printed.count("Top1 Acc = [") == 4
    assert printed.count("Mean inc Acc | acc@1 = ") == 4
    assert str(out / "results.parquet") in printed
    assert "\r" not in printed  # no progress bar floods a log


def test_executed_notebooks_are_whole_and_quiet(executed: tuple[Path, list[str], str]):
    for path in (executed[0] / "notebooks").glob("*.ipynb"):
        for cell in cells(path, "code"):
            assert cell.execution_count is not None, path
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output.text
        assert path.stat().st_size < 2_000_000


def test_results_have_a_row_per_run_state_and_method(executed: tuple[Path, list[str], str]):
    table = pd.read_parquet(executed[0] / "results.parquet")
    assert table["run"].nunique() == 2
    assert sorted(table["distillation"].unique()) == [False, True]
    raw, softmax = (set(table.loc[table["score_kind"] == kind, "method"]) for kind in ("raw", "softmax"))
    assert softmax == {*PARTS, *STEADIER} < raw == set(METHODS) - {"BiC"}  # no exemplar was held out for it
    assert len(table) == 2 * 3 * (len(raw) + len(softmax))
    assert table["top1"].between(0, 1).all()
    assert np.isnan(table.loc[table["state"] == 1, "top1_past"]).all()


def test_a_second_run_does_nothing(executed: tuple[Path, list[str], str]):
    out, command, _ = executed
    before = {path: path.stat().st_mtime_ns for path in (out / "notebooks").iterdir()}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "7 jobs, 7 of them already done" in result.stdout
    assert "nothing to do: all of it is done\n" in result.stdout
    assert " MB" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "notebooks").iterdir()} == before


def test_results_of_other_settings_in_the_folder_are_kept(executed: tuple[Path, list[str], str]):
    out, command, _ = executed
    before = set(pd.read_parquet(out / "results.parquet")["run"])
    result = subprocess.run([*command, "-p", "distillation=false"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert set(pd.read_parquet(out / "results.parquet")["run"]) == before
    assert len(list((out / "plans").iterdir())) == 2


@pytest.mark.parametrize("damage", ["a notebook", "results", "a state"])
def test_what_was_damaged_is_not_taken_for_done(executed: tuple[Path, list[str], str], damage: str):
    out, _, _ = executed
    job = next(job for job in planned(executed) if job.notebook == NOTEBOOKS[3])
    assert job.name not in to_do(executed)
    target = {
        "a notebook": job.output,
        "results": out / job.run / "results.parquet",
        "a state": out / job.run / "state_03",
    }[damage]
    kept = target.rename(target.with_name("kept"))
    if damage != "a state":
        target.write_text("{")
    assert job.name in to_do(executed)
    if damage != "a state":
        target.unlink()
    kept.rename(target)
    assert not to_do(executed)


def planned(executed: tuple[Path, list[str], str]) -> list[Job]:
    out, command, _ = executed
    overrides = read_overrides(command[i + 1] for i, word in enumerate(command) if word == "-p")
    return plan_jobs(read_grid(out.parent / "tiny.yaml").overridden(overrides), find_notebooks(), out)


def to_do(executed: tuple[Path, list[str], str]) -> set[str]:
    waiting = records.jobs_to_do(planned(executed), records.read_records(executed[0]), find_notebooks())
    return {job.name for job in waiting}


def test_a_study_of_one_state_runs_through(tiny_npz: Path, tmp_path: Path):
    grid = tmp_path / "one.yaml"
    grid.write_text("parameters: {num_states: 1, base_epochs: 2, epochs: 2, batch_size: 8, distillation: false}")
    command = [sys.executable, "-m", "il2m.cli", "run", str(grid), "--out", str(tmp_path / "study")]
    result = subprocess.run([*command, "-p", f"dataset={tiny_npz}"], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 of 4 jobs done" in result.stdout
    executed = (tmp_path / "study" / "notebooks").glob("04*.ipynb")
    assert "One state only: no class is past" in next(executed).read_text()


def test_a_study_without_a_memory_runs_through(tiny_npz: Path, tmp_path: Path):
    grid = tmp_path / "none.yaml"
    given = "num_states: 3, base_epochs: 2, epochs: 2, batch_size: 8, memory_size: 0, distillation: false"
    grid.write_text(f"parameters: {{{given}}}")
    command = [sys.executable, "-m", "il2m.cli", "run", str(grid), "--out", str(tmp_path / "study")]
    result = subprocess.run([*command, "-p", f"dataset={tiny_npz}"], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 of 4 jobs done" in result.stdout
    assert "* FT *" in result.stdout
    assert "* IL2M *" not in result.stdout
    assert (tmp_path / "study" / "index.html").is_file()


@pytest.mark.parametrize("notebook", NOTEBOOKS[2:])
def test_analyses_open_scores_that_came_with_nothing_else(notebook: str, tiny_study: TinyStudy, tmp_path: Path):
    files = []
    for state in (1, 2, 3):
        stored = tiny_study.off.state(state)
        files.append(tmp_path / f"{state}.npz")
        arrays = {name: stored.array(name) for name in ("val_scores", "val_labels")}
        np.savez(files[-1], **arrays, state_sizes=tiny_study.off.states.sizes[:state])
    import_scores(files, tmp_path / "one")
    import_scores(files, tmp_path / "other", memory_size=9)  # nothing but their names tells them apart
    command = [sys.executable, "-m", "papermill", f"{notebook}.ipynb", str(tmp_path / "executed.ipynb")]
    command += ["-p", "out_dir", str(tmp_path), "-p", "run", "one", "-p", "compare", "other"]
    command += ["--no-progress-bar", "--log-level", "ERROR"]
    result = subprocess.run(command, cwd=find_notebooks(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "no rectification" in (tmp_path / "executed.ipynb").read_text()
