"""``il2m run --plugin``: loaded to plan, in every job and for the report; a changed one is other code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from tiny import TinyStudy

from il2m.batch.records import read_plans
from il2m.notebook.execute import execute_notebook, failed_copy
from il2m.report.overview import jobs_table

pytestmark = pytest.mark.xdist_group("plugins")  # jobs start from one warm process

PLUGIN = """
import multiprocessing, pathlib
import il2m.errors

il2m.errors.WORD = "first"
with pathlib.Path(__file__).with_suffix(".loads").open("a") as file:
    print(multiprocessing.current_process().name.partition("-")[0], file=file)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin that sets an attribute of a library module, and notes each process that loads it."""
    path = tmp_path / "words.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that prints what the plugin sets."""
    cells = [new_code_cell("x = 1", metadata={"tags": ["parameters"]})]
    cells.append(new_code_cell("import il2m.errors\nprint(getattr(il2m.errors, 'WORD', 'none'))"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "shows.ipynb")
    return tmp_path / "shows.ipynb"


def shown(copy: Path) -> str:
    return nbformat.read(copy, as_version=4).cells[-1].outputs[0].text.strip()


def test_a_kernel_finds_the_plugin_loaded_as_it_is_now(notebook: Path, plugin: Path, tmp_path: Path):
    output = tmp_path / "out" / "copy.ipynb"
    for text, word in ((PLUGIN, "first"), (PLUGIN.replace("first", "other"), "other")):
        plugin.write_text(text)
        assert execute_notebook(notebook, output, {}, plugins=[str(plugin)]) == ""
        assert shown(output) == word
    assert execute_notebook(notebook, output, {}) == ""
    assert shown(output) == "none"
    assert plugin.with_suffix(".loads").read_text().split() == ["kernel", "kernel"]


def test_a_kernel_loads_a_module_by_its_name(notebook: Path, plugin: Path, tmp_path: Path, monkeypatch):
    plugin.rename(tmp_path / "il2m_test_words.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert execute_notebook(notebook, tmp_path / "copy.ipynb", {}, plugins=["il2m_test_words"]) == ""
    assert shown(tmp_path / "copy.ipynb") == "first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nraise ValueError('out of words')", "plugin {}, line 2: ValueError: out of words"),
        ("import os\nos._exit(3)", "its kernel died: out of memory, or killed"),
        (None, "plugin {}: FileNotFoundError: [Errno 2] No such file or directory: '{}'"),
    ],
)
def test_a_notebook_whose_plugin_can_not_be_loaded_fails(
    notebook: Path, plugin: Path, tmp_path: Path, text: str | None, expected: str
):
    output = tmp_path / "out" / "copy.ipynb"
    output.parent.mkdir()
    for old in (failed_copy(output), failed_copy(output).with_suffix(".html")):
        old.touch()
    plugin.unlink()
    if text:
        plugin.write_text(text)
    failure = execute_notebook(notebook, output, {}, plugins=[str(plugin)])
    assert failure == expected.format(plugin, plugin)
    assert not list(output.parent.iterdir())  # nor what is left of an earlier failure


def il2m(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "il2m.cli", *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 600, "env": os.environ | environment}
    return subprocess.run(command, cwd=folder, **options)


def test_a_study_with_a_plugin(plugin: Path, tiny_npz: Path, tmp_path: Path):
    """One study, from its plan to a report without the plugin that is gone."""
    parameters = f"dataset: {tiny_npz}, num_states: 1, base_epochs: 2, epochs: 2, batch_size: 8, distillation: false"
    (tmp_path / "one.yaml").write_text(f"parameters: {{{parameters}}}")
    study = tmp_path / "study"
    run = ("run", "one.yaml", "--out", study, "--plugin", "words.py")

    done = il2m(tmp_path, *run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 jobs done" in done.stdout
    loads = Counter(plugin.with_suffix(".loads").read_text().split())
    assert loads.pop("kernel") == 5  # of four jobs, and of the report
    assert loads.total() == 2  # where it was planned, and where the explorer was written
    assert [job.plugins for plan in read_plans(study) for job in plan["jobs"]] == [(str(plugin),)] * 4
    assert not (study / "plans" / "one.json").exists()  # the name of the plan without plugins
    assert "4 of them already done" in il2m(tmp_path, *run, "--dry-run").stdout
    assert "0 of them already done" in il2m(tmp_path, *run[:-2], "--dry-run").stdout  # it was done with a plugin

    plugin.write_text(PLUGIN + "# changed\n")
    assert "0 of them already done" in il2m(tmp_path, *run, "--dry-run").stdout
    assert "done by other code: 4;" in il2m(tmp_path, "status", study).stdout

    before = sorted((path, path.stat().st_mtime_ns) for path in study.glob("*/*"))
    plugin.write_text("raise ValueError('broken')")
    broken = il2m(tmp_path, *run)
    assert broken.returncode == 2
    assert broken.stderr == f"il2m: plugin {plugin}, line 1: ValueError: broken\n"
    plugin.unlink()
    gone = il2m(tmp_path, *run)
    assert gone.returncode == 2
    assert gone.stderr == f"il2m: plugin {plugin}: FileNotFoundError: [Errno 2] No such file or directory: '{plugin}'\n"
    assert sorted((path, path.stat().st_mtime_ns) for path in study.glob("*/*")) == before

    assert jobs_table(study)["other_code"].all()
    report = il2m(tmp_path, "report", study)
    assert report.returncode == 0, report.stderr
    assert report.stderr.startswith(f"warning: the report is made without plugin {plugin}: --plugin loads it")
    assert report.stdout.strip() == str(study / "index.html")
    plugin.write_text(PLUGIN)
    before = plugin.with_suffix(".loads").read_text()
    il2m(tmp_path, "report", study)
    assert plugin.with_suffix(".loads").read_text() == before, "a study from elsewhere runs no code here"
    given = il2m(tmp_path, "report", study, "--plugin", "words.py")
    assert given.returncode == 0, given.stderr
    loads = plugin.with_suffix(".loads").read_text().removeprefix(before)
    assert sorted(loads.split()) == ["SpawnProcess", "kernel"]  # which writes the explorer


def test_a_plugin_that_ends_its_process_is_named(plugin: Path, tiny_npz: Path, tmp_path: Path):
    plugin.write_text("import os\nos._exit(3)")
    (tmp_path / "one.yaml").write_text(f"parameters: {{dataset: {tiny_npz}, num_states: 3, memory_size: 12}}")
    run = il2m(tmp_path, "run", "one.yaml", "--out", "study", "--plugin", "words.py", "--dry-run")
    assert run.returncode == 2
    assert run.stderr.startswith("il2m: plugin words.py: it ended its process")
    assert "Traceback" not in run.stderr


def test_a_module_is_a_plugin_by_its_name(plugin: Path, tiny_npz: Path, tmp_path: Path):
    (tmp_path / "modules").mkdir()
    plugin.rename(tmp_path / "modules" / "il2m_test_words.py")
    (tmp_path / "one.yaml").write_text(f"parameters: {{dataset: {tiny_npz}, num_states: 3, memory_size: 12}}")
    run = ("run", "one.yaml", "--out", tmp_path / "study", "--plugin", "il2m_test_words", "--dry-run")
    path = os.pathsep.join(filter(None, [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]))
    planned = il2m(tmp_path, *run, PYTHONPATH=path)
    assert planned.returncode == 0, planned.stderr
    assert (tmp_path / "modules" / "il2m_test_words.loads").exists()
    missing = il2m(tmp_path, *run)
    assert missing.returncode == 2
    assert missing.stderr == "il2m: plugin il2m_test_words: ModuleNotFoundError: No module named 'il2m_test_words'\n"


def test_a_method_of_a_plugin_is_in_the_explorer(tiny_study: TinyStudy, tmp_path: Path):
    """In the report's, and in one that is shared."""
    study = shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    text = "import il2m\n\n@il2m.method('of-a-plugin')\ndef halved(state):\n    return state.scores / 2\n"
    (tmp_path / "mine.py").write_text(text)
    mine, sharing = ("--plugin", "mine.py"), ("share", study, "--out", study / "explorer.html")
    for command, is_there in ((("report", study, *mine), True), (sharing, False), ((*sharing, *mine), True)):
        made = il2m(tmp_path, *command)
        assert made.returncode == 0, made.stderr
        assert ("of-a-plugin" in (study / "explorer.html").read_text()) == is_there


def test_warnings_of_planning_are_sentences(tmp_path: Path):
    """In a process of its own, too, where a run plans."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}/{i}.png")
    (tmp_path / "images" / "read me.txt").touch()
    parameters = "dataset: 'folder:images', num_states: 2, image_size: 8, memory_size: 0, balanced_epochs: 1"
    (tmp_path / "one.yaml").write_text(f"parameters: {{{parameters}}}")
    refused = il2m(tmp_path, "run", "one.yaml")
    assert refused.returncode == 2
    assert refused.stderr.startswith("warning: ")
    assert "read me.txt" in refused.stderr
    assert "jobs.py" not in refused.stderr
