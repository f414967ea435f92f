"""The command line: exit codes, and errors that a person can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import PROJECT, TinyStudy

from il2m.batch.grids import read_grid
from il2m.cli import main

GRID = PROJECT / "notebooks" / "grids" / "quickstart.yaml"


def test_bad_parameters_end_with_one_readable_message_and_nothing_is_made(tmp_path: Path, capsys):
    assert main(["run", str(GRID), "--out", str(tmp_path / "out"), "-p", "epoch=3", "-p", "momentum=1.5"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("il2m: ")
    assert "unknown parameter 'epoch': did you mean 'epochs'?" in captured.err
    assert "momentum = 1.5: expected a number of at least 0 and below 1" in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_a_missing_grid_is_named(capsys):
    assert main(["run", "no/such.yaml"]) == 2
    assert "can't read the grid no/such.yaml" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "run" in capsys.readouterr().out


def test_help_imports_nothing_that_is_slow():
    slow = ("torch", "numpy", "pandas", "distributed", "papermill", "matplotlib")
    code = f"import il2m.cli, sys; sys.exit(' '.join(sys.modules.keys() & set({slow})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.split() == []


def test_grids_are_listed_with_what_they_are(capsys: pytest.CaptureFixture):
    assert main(["grids"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in GRID.parent.glob("*.yaml"))
    assert lines[-1] == f"quickstart    {read_grid(GRID).description}"


def test_a_run_of_no_grid_lists_them(capsys: pytest.CaptureFixture):
    assert main(["run"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "il2m run GRID: name a grid file, or one of these\n"
    assert main(["grids"]) == 0
    assert captured.out == capsys.readouterr().out


@pytest.mark.parametrize(("name", "meant"), [("rum", "run"), ("Status", "status"), ("export-score", "export-scores")])
def test_a_command_that_is_none_is_told_what_may_be_meant(name: str, meant: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main([name, "x"])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"il2m: error: no command {name!r}: did you mean {meant!r}?\n")


def test_the_folder_of_a_study_is_not_taken_for_a_run_and_its_runs_are_named(
    tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main(["export-scores", str(tiny_study.out_dir), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is not a run folder: it has no config.json; name one of the runs in it: base-" in error
    assert {tiny_study.base.name, tiny_study.off.name, tiny_study.on.name} <= set(error.replace(",", "").split())
    assert main(["export-scores", str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("it has no config.json.\n")


@pytest.mark.parametrize("folder_of_that_name", [False, True])
def test_a_grid_is_a_name_unless_there_is_such_a_file(
    folder_of_that_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    if folder_of_that_name:  # where studies are kept, there may be one
        (tmp_path / "quickstart").mkdir()
    assert main(["run", "quickstart", "-p", "epoch=3", "--out", "out"]) == 2
    assert "unknown parameter 'epoch'" in capsys.readouterr().err
    assert main(["run", "quickstrat"]) == 2
    expected = "il2m: quickstrat: no such file, and no grid of that name: did you mean 'quickstart'?\n"
    assert capsys.readouterr().err == expected
    assert main(["run", "CIFAR100"]) == 2
    assert "did you mean 'cifar100'?" in capsys.readouterr().err
    (tmp_path / "quickstrat").write_text("no grid")
    assert main(["run", "quickstrat"]) == 2
    assert "il2m: quickstrat: expected 'description' and 'parameters'" in capsys.readouterr().err


def test_notebooks_are_copied_and_changed_ones_kept(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "my notebooks"
    originals = {path.name: path.read_bytes() for path in (PROJECT / "notebooks").glob("*.ipynb")}
    for _ in range(2):  # the same again does no harm
        assert main(["notebooks", str(folder)]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"7 notebooks: {folder}; data and runs will be kept in {tmp_path}\n")
        assert printed.endswith(f"to open them, index.ipynb first: jupyter lab --notebook-dir '{folder}'\n")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == originals
    (folder / "02_fine_tuning.ipynb").write_text("mine")
    (folder / "05_report.ipynb").unlink()
    assert main(["notebooks", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"il2m: {folder} holds others as 02_fine_tuning.ipynb: ")
    assert (folder / "02_fine_tuning.ipynb").read_text() == "mine"
    assert not (folder / "05_report.ipynb").exists(), "all or nothing"


def test_the_version_is_the_one_that_is_cited(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    version = capsys.readouterr().out.removeprefix("il2m ").strip()
    assert f"\nversion: {version}\n" in (PROJECT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", str(GRID), "--workers", "-1"], "argument --workers: '-1': expected a whole number of at least 1"),
        (["run", str(GRID), "--workers", "\u0661"], "'\u0661': expected a whole number of at least 1"),
        (["run", str(GRID), "--workers", "9" * 5000], "expected a whole number of at least 1"),
        (["lists", "a", "--out", "o", "--name", "n", "-K", "1_0"], "'1_0': expected a whole number of at least 0"),
        (["check", "a.lst", "--workers", "-1"], "argument --workers: '-1': expected a whole number of at least 0"),
        (["rectify", "l", "s", "f", "d", "0", "10", "20"], "argument S: '0': expected a whole number of at least 1"),
        (["rectify", "l", "s", "f", "d", "5", "10", "-2"], "argument K: '-2': expected a whole number of at least 1"),
        (["rectify", "l", "s", "f", "d", "5", "1,x", "2"], "argument P: '1,x': expected whole numbers, separated by"),
    ],
)
def test_numbers_are_asked_for_in_words(command: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("taken", [True, False])
def test_paths_that_can_not_be_written_are_named(
    tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture, taken: bool
):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" if taken else tmp_path / "file" / "below")
    assert main(["export-scores", str(tiny_study.off.folder), str(tmp_path / "exported")]) == 0
    arguments = capsys.readouterr().out.splitlines()[-1].split()
    arrays = {"state_sizes": [2], "val_scores": np.eye(2), "val_labels": [0, 1]}
    np.savez(tmp_path / "state.npz", **arrays)
    json_path = str(tmp_path) if taken else path  # a folder, or below a file
    for command in (
        ["rectify", *arguments, "--json", json_path],
        ["rectify", *arguments, "--out", path],
        ["import-scores", str(tmp_path / "state.npz"), "--out", path],
        ["export-scores", str(tiny_study.off.folder), path],
    ):
        assert main(command) == 2, command
        error = capsys.readouterr().err
        named = tmp_path if command[-1] == str(tmp_path) else tmp_path / "file"
        assert error.startswith(f"il2m: {named}"), error
        assert error.endswith(("directory\n", "File exists\n")), error
    assert sorted(found.name for found in tmp_path.iterdir()) == ["exported", "file", "state.npz"]


@pytest.mark.parametrize("command", [["run", str(GRID), "--out", ""], ["notebooks", " "], ["verify", ""]])
def test_an_empty_path_is_not_the_current_folder(command: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "an empty path: for the current folder give ." in capsys.readouterr().err


@pytest.mark.parametrize(("shell", "code", "said"), [("| true", 1, ""), ("> /dev/full", 2, "No space left on device")])
def test_what_nobody_reads_or_no_room_is_left_for_is_no_crash(shell: str, code: int, said: str):
    command = f"set -o pipefail; {sys.executable} -m il2m.cli grids {shell}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code
    assert "Exception ignored" not in done.stderr
    assert said in done.stderr


def test_lists_of_too_many_sources(tmp_path: Path, capsys: pytest.CaptureFixture):
    command = ["lists", "a.lst", "b.lst", "c.lst", "--out", str(tmp_path), "--name", "n", "-K", "10"]
    assert main(command) == 2
    assert "3 sources (a.lst, b.lst, c.lst): expected a folder, or two lists" in capsys.readouterr().err


def test_the_table_of_parameters_is_that_of_the_documentation(capsys):
    assert main(["parameters"]) == 0
    printed = capsys.readouterr().out
    assert (PROJECT / "docs" / "parameters.md").read_text().endswith(printed)
    assert "| 02 | temperature | 2.0 |  | a number above 0 | distillation |" in printed
