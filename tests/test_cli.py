"""The command line: exit codes, and errors that a person can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from il2m.cli import main

GRID = Path(__file__).parents[1] / "notebooks" / "grids" / "quickstart.yaml"


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
