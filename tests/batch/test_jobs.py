"""From a grid to jobs: what is shared, in which order, and what is refused before anything runs."""

from __future__ import annotations

import ast
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from tiny import PROJECT, TinyStudy

from il2m.batch.grids import Grid, all_settings, read_grid
from il2m.batch.jobs import Job, plan_jobs
from il2m.errors import InputError
from il2m.notebook.catalogue import NOTEBOOKS, find_grids, find_notebooks, notebook_parameters

GRIDS = sorted([*find_grids().values(), *(PROJECT / "benchmarks").glob("**/*.yaml")])


VALUES = (
    st.text(max_size=20) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)


@pytest.fixture
def tiny_grid(tiny_npz: Path) -> dict[str, Any]:
    return {"dataset": str(tiny_npz), "num_states": 3, "memory_size": 12}


def plan(grid: Grid | dict, out_dir: Path) -> dict[str, list[Job]]:
    grid = grid if isinstance(grid, Grid) else Grid("test", parameters=grid)
    jobs = plan_jobs(grid, find_notebooks(), out_dir)
    return {notebook: [job for job in jobs if job.notebook == notebook] for notebook in NOTEBOOKS}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_committed_grids_hold_known_parameters_and_good_values(path: Path):
    known = {}
    for name in NOTEBOOKS:
        known |= notebook_parameters(find_notebooks() / f"{name}.ipynb")
    grid = read_grid(path)
    assert grid.description
    assert all_settings(grid, known)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_committed_grids_can_be_planned(path: Path, tmp_path: Path):
    """With glyphs in the place of images that are not here."""
    embedded = {"dataset": "glyphs", "image_size": 224, "mean_std": "", "num_states": 10}
    grid = read_grid(path)
    assert plan_jobs(grid if "glyphs" in str(grid) else grid.overridden(embedded), find_notebooks(), tmp_path)


def test_quickstart_trains_one_base_for_both_settings_of_distillation(tmp_path: Path):
    jobs = plan(read_grid(find_notebooks() / "grids" / "quickstart.yaml"), tmp_path)
    assert [len(jobs[notebook]) for notebook in NOTEBOOKS] == [1, 2, 2, 2]
    assert [job.parameters["distillation"] for job in jobs[NOTEBOOKS[1]]] == [False, True]
    assert {job.parameters["base"] for job in jobs[NOTEBOOKS[1]]} == {jobs[NOTEBOOKS[0]][0].run}


def test_stages_are_shared_and_ordered(tiny_grid: dict, tmp_path: Path):
    jobs = plan(tiny_grid | {"memory_size": [12, 24], "train_seed": [0, 1], "distillation": False}, tmp_path)
    assert [len(jobs[notebook]) for notebook in NOTEBOOKS] == [2, 4, 4, 4]  # a base per seed, shared by both K
    for job in jobs[NOTEBOOKS[1]]:
        assert job.after == (f"{NOTEBOOKS[0]}-{job.parameters['base']}",)
    for job in jobs[NOTEBOOKS[3]]:
        assert job.after == (f"{NOTEBOOKS[1]}-{job.run}",)
        assert job.beside == job.after  # no twin in distillation


def test_jobs_come_after_those_they_need_and_a_runs_analyses_before_the_next_base(tiny_grid: dict, tmp_path: Path):
    jobs = plan_jobs(Grid("test", parameters=tiny_grid | {"train_seed": [0, 1]}), find_notebooks(), tmp_path)
    places = {job.name: place for place, job in enumerate(jobs)}
    assert all(places[name] < place for place, job in enumerate(jobs) for name in (*job.after, *job.beside))
    bases = [place for place, job in enumerate(jobs) if job.notebook == NOTEBOOKS[0]]
    assert bases == [0, 7]


def test_analyses_wait_for_the_twin_in_distillation(tiny_grid: dict, tmp_path: Path):
    jobs = plan(tiny_grid | {"distillation": [False, True], "memory_size": [12, 24]}, tmp_path)
    for job in jobs[NOTEBOOKS[2]]:
        assert len(job.beside) == 2
        assert job.after[0] in job.beside


def test_settings_that_come_to_the_same_are_one_job(tiny_grid: dict, tmp_path: Path):
    grid = Grid(
        "test",
        parameters=tiny_grid | {"distillation": False},
        combinations={"plain": {}, "warm": {"temperature": [2.0, 4.0]}},  # of no account without distillation
    )
    with pytest.warns(UserWarning, match=r"^temperature: swept, but no run is another by it"):
        jobs = plan(grid, tmp_path)
    assert [len(jobs[notebook]) for notebook in NOTEBOOKS] == [1, 1, 1, 1]
    assert jobs[NOTEBOOKS[1]][0].combinations == ("plain", "warm")


@pytest.mark.parametrize(
    ("idle", "given"),
    [
        ("memory_size", {"memory_size": [12, 24], "exemplars_per_class": 2}),
        ("num_states", {"num_states": [2, 3], "state_sizes": [[2, 1, 3]]}),
    ],
)
def test_what_is_swept_without_effect_is_told(tiny_grid: dict, tmp_path: Path, idle: str, given: dict):
    with pytest.warns(UserWarning, match=f"^{idle}: swept, but no run is another by it"):
        assert len(plan(tiny_grid | given | {"distillation": False}, tmp_path)[NOTEBOOKS[1]]) == 1
    with warnings.catch_warnings(action="error"):
        plan(tiny_grid | {"distillation": [False, True], "temperature": [1.0, 2.0]}, tmp_path)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"temperature": 4, "distillation": False},
            "temperature, of grid or command, has no effect: it needs distillation = True",
        ),
        ({"memory_size": 999, "exemplars_per_class": 2}, "memory_size, .* it needs exemplars_per_class = 0"),
        ({"num_states": 2, "state_sizes": [[2, 2, 2]]}, r"num_states, .* it needs state_sizes = \[\]"),
        ({"patience": 3}, "patience, .* it needs schedule = plateau"),
    ],
)
def test_what_is_given_without_effect_is_told(tiny_grid: dict, tmp_path: Path, given: dict, told: str):
    with pytest.warns(UserWarning, match=told):
        plan({**tiny_grid, **({} if "memory_size" in given else {"memory_size": 12}), **given}, tmp_path)
    with warnings.catch_warnings(action="error"):
        plan(
            tiny_grid | {"distillation": [False, True], "temperature": 4, "schedule": "plateau", "patience": 3},
            tmp_path,
        )


def test_defaults_that_were_changed_in_a_notebook_are_told(tiny_grid: dict, tmp_path: Path):
    """As JupyterLab saves them."""
    shutil.copytree(find_notebooks(), notebooks := tmp_path / "notebooks")
    with warnings.catch_warnings(action="error"):
        plan_jobs(grid := Grid("test", parameters=tiny_grid), notebooks, tmp_path)
    path = notebooks / f"{NOTEBOOKS[1]}.ipynb"
    path.write_text(path.read_text().replace('"epochs = 20 ', '"epochs = 5 '))
    with pytest.warns(UserWarning, match=f"epochs = 5 stands in the notebook {NOTEBOOKS[1]} here, not 20: it is taken"):
        plan_jobs(grid, notebooks, tmp_path)


def test_jobs_say_what_varies(tiny_grid: dict, tmp_path: Path):
    jobs = plan(tiny_grid | {"memory_size": [12, 24], "train_seed": [0, 1], "distillation": False}, tmp_path)
    assert [job.swept for job in jobs[NOTEBOOKS[0]]] == [{"train_seed": 0}, {"train_seed": 1}]
    assert jobs[NOTEBOOKS[1]][0].swept == {"memory_size": 12, "train_seed": 0}


def test_work_is_the_images_that_pass_through_the_network(tiny_grid: dict, tmp_path: Path):
    grid = tiny_grid | {"base_epochs": 4, "epochs": 3, "distillation": False}
    jobs = plan(grid, tmp_path)
    assert jobs[NOTEBOOKS[0]][0].work == 4 * 2 * 12
    assert jobs[NOTEBOOKS[1]][0].work == 3 * ((24 + 2 * 6) + (24 + 4 * 3))  # 12 exemplars: 6 a class, then 3


def test_a_job_is_the_same_on_another_machine_and_in_another_folder(tiny_grid: dict, tmp_path: Path):
    job = plan(tiny_grid, tmp_path)[NOTEBOOKS[1]][0]
    elsewhere = replace(job, parameters=job.parameters | {"out_dir": "/x", "device": "cuda", "num_threads": 8})
    assert elsewhere.key == job.key
    assert replace(job, parameters=job.parameters | {"epochs": 7}).key != job.key


def test_relative_paths_start_where_the_user_is(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_npz.parent)
    jobs = plan({"dataset": tiny_npz.name, "num_states": 3}, tmp_path)
    assert jobs[NOTEBOOKS[0]][0].parameters["dataset"] == str(tiny_npz)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_states": 4}, "does not divide the dataset's 6 classes"),
        ({"memory_size": 3, "memory_rounding": "floor"}, "less than one image .* at state 3.*the smallest .* is 4"),
        ({"dataset": "glyfs"}, "unknown dataset 'glyfs': did you mean 'glyphs'"),
        ({"dataset": "nowhere.npz"}, "no file .*nowhere.npz"),
        ({"class_order": [0, 1, 2, 3, 4, 4]}, r"missing: \[5\]"),
        ({"out_dir": "/elsewhere"}, "out_dir can't be given to a whole study: use --out"),
        ({"base": "base-x"}, "base can't be given to a whole study"),
        ({"run": "x"}, "run can't be given to a whole study"),
        ({"undefined": ["keep", "raise"]}, "undefined = .*can't be swept"),
        ({"device": ["cpu", "auto"]}, "device = .*can't be swept"),
        ({"joint_epochs": [2, 4]}, "joint_epochs = .*can't be swept"),
        ({"num_threads": 2}, "num_threads can't be given to a whole study: use --threads"),
        ({"order_seed": None}, "order_seed = None: expected a whole number"),
    ],
)
def test_stages_that_cannot_work_are_refused(tiny_grid: dict, tmp_path: Path, given: dict, expected: str):
    with pytest.raises(InputError, match=expected):
        plan(tiny_grid | given, tmp_path)


def test_joint_epochs_of_one_combination_alone_are_refused(tiny_grid: dict, tmp_path: Path):
    """The base is one for all of them, and would be trained with those of the first, or with none."""
    combinations = {"plain": {}, "herding": {"exemplar_selection": "herding", "joint_epochs": 4}}
    with pytest.raises(InputError, match="joint_epochs = swept: no run is another by it, and it can't be swept"):
        plan(Grid("test", parameters=tiny_grid, combinations=combinations), tmp_path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", "no run 'none' in .*; there are: fine_tuning-"),
        ("base", "is a base, not a fine-tuning run"),
        ("on", "is a run of this grid, and can't be shown beside itself"),
    ],
)
def test_what_can_not_be_shown_beside_a_run_is_refused(
    kind: str, expected: str, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compare = kind if kind == "none" else getattr(tiny_study, kind).name
    parameters = tiny_study.base_parameters | tiny_study.fine_tuning_parameters | {"distillation": [True]}
    with pytest.raises(InputError, match=expected):
        plan(parameters | {"compare": compare}, tiny_study.out_dir)
    monkeypatch.chdir(tiny_study.out_dir)  # as a person types it, seen from here
    jobs = plan(parameters | {"compare": tiny_study.off.name}, tmp_path)
    assert {job.parameters["compare"] for job in jobs[NOTEBOOKS[3]]} == {str(tiny_study.off.folder.resolve())}
    for compare in ("auto", ""):
        jobs = plan(parameters | {"compare": compare}, tmp_path)
        assert {job.parameters["compare"] for job in jobs[NOTEBOOKS[3]]} == {compare}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["dataset", "mean_std", "state_sizes", "epochs", "momentum", "flip"]), VALUES | st.lists(VALUES)
    )
)
def test_parameters_of_a_notebook_are_data_and_never_code(parameters: dict[str, Any]):
    cell = PythonTranslator.codify(json.loads(json.dumps(parameters)))
    assigned = {}
    for statement in ast.parse(cell).body:
        assert isinstance(statement, ast.Assign)  # nothing but assignments of literals can be in it
        assigned[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert assigned == parameters
