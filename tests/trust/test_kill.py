"""The kill test in short: a tiny study, killed in its training and in an analysis. The long one: kill.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kill

from il2m.study.stages import fine_tune, train_base

pytestmark = [pytest.mark.papermill, pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")]


@pytest.fixture
def reference(
    tmp_path: Path, tiny_base_parameters: dict[str, Any], tiny_fine_tuning_parameters: dict[str, Any]
) -> Path:
    """The states, trained here without any notebook."""
    folder = tmp_path / "reference"
    train_base(out_dir=str(folder), **tiny_base_parameters)
    fine_tune(out_dir=str(folder), **tiny_fine_tuning_parameters)
    return folder


def test_killed_in_training_and_in_analysis_a_study_ends_as_an_undisturbed_one(
    reference: Path, tmp_path: Path, tiny_base_parameters: dict[str, Any], tiny_fine_tuning_parameters: dict[str, Any]
):
    grid = tmp_path / "tiny.yaml"
    values = tiny_base_parameters | tiny_fine_tuning_parameters | {"distillation": "false"}
    grid.write_text(
        "description: tiny\nparameters:\n" + "".join(f"  {name}: {value}\n" for name, value in values.items())
    )
    study = kill.Study(["run", str(grid), "--workers", "2"], tmp_path / "study", tmp_path / "t")
    try:
        killed = [kill.kill_in(study, "02", "everything", 0.5), kill.kill_in(study, "03", "everything", 1.0)]
        assert all(killed), study.log.read_text()
        assert "03" in killed[1].hit or "04" in killed[1].hit
        assert kill.to_the_end(study, reference) == []
    finally:
        study.kill(study.processes)

    # and what is not as it should be would have been told
    state = next(study.folder.glob("fine_tuning-*/state_02"))
    labels, told = state / "val_labels.npy", state / "state.json"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x01")
    told.write_text(told.read_text().replace('"loss": ', '"loss": 1'))
    (study.folder / "index.html").unlink()
    found = kill.differences(reference, study.folder)
    assert [problem.rpartition("/")[2] for problem in found] == [
        "no index.html",
        "state.json differs",
        "val_labels.npy differs",
    ]
