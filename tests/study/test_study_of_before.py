"""A study that version 0.1 made, as its code left it (state 3 is not trained yet): opened, analysed and continued.

tests/fixtures/study_0.1: images of tiny.make_tiny_arrays; ``results.csv`` and ``state_03_val_scores.npy`` are what
version 0.1 made of the whole study.
"""

import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
from tiny import PROJECT

from il2m import METHODS, find_runs, fine_tune, results_table, train_base
from il2m.methods.rectify import STEADIER
from il2m.results.description import run_description
from il2m.study.runs import Run

STUDY = PROJECT / "tests" / "fixtures" / "study_0.1"
BASE, RUN = "base-fb8ec35b20", "fine_tuning-f784677129"


@pytest.fixture
def study(tmp_path):
    return shutil.copytree(STUDY, tmp_path / "study")


def test_its_runs_open(study):
    (run,) = find_runs(study, finished=False)
    assert (run.name, run.base.name, run.missing_states) == (RUN, BASE, [3])
    assert run.state(2).array("val_scores").shape == (20, 4)
    assert run.statistics(2).initial_means.shape == (4,)


def test_the_same_parameters_have_the_same_hashes(study, tiny_npz, tiny_base_parameters, no_training):
    base = train_base(out_dir=str(study), **tiny_base_parameters)
    assert base.name == BASE


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("il2m.study.stage.train", None)


def test_it_goes_on_and_gives_the_same_results(study, tiny_npz, tiny_fine_tuning_parameters):
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in study.glob("*/state_0[12]/*")}
    run = fine_tune(out_dir=str(study), dataset=str(tiny_npz), memory_rounding="floor", **tiny_fine_tuning_parameters)
    assert (run.folder, run.missing_states) == (study / RUN, [])
    assert before == {path: hashlib.sha256(path.read_bytes()).digest() for path in before}
    scores = np.load(STUDY / "state_03_val_scores.npy")
    np.testing.assert_allclose(run.state(3).array("val_scores"), scores, rtol=1e-2, atol=1e-2)  # processors round
    expected = pd.read_csv(STUDY / "results.csv", dtype={"setting": str, "recipe": str}).query("state < 3")
    table = results_table(run, methods=METHODS).query("state < 3")
    keys = ["state", "method", "score_kind"]
    both = expected.merge(table, on=keys, suffixes=("_before", ""), validate="1:1")
    assert len(both) == len(expected)
    assert {*table["method"]} == {*expected["method"], *STEADIER}
    for column in ("top1", "top5", "top1_past", "top1_new"):
        np.testing.assert_array_equal(both[f"{column}_before"], both[column])
    assert set(expected["setting"]) == {run_description(Run(run.folder))["setting"]}
    assert set(table["head"]) == {"new"}  # which was part of the recipe
