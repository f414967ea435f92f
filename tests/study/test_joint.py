"""The trainings that the ablation compares with: joint, on balanced images, and with images held out."""

import shutil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from il2m.errors import InputError
from il2m.memory.exemplars import held_out_places
from il2m.methods.registry import METHODS
from il2m.results.collect import collect_results
from il2m.results.comparison import gap_table
from il2m.results.description import run_description
from il2m.results.table import results_table, save_results
from il2m.study import stage
from il2m.study.find import find_joint_runs
from il2m.study.planning import plan_fine_tuning
from il2m.study.stages import fine_tune, train_base, train_joint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def base(folder, tiny_base_parameters):
    return train_base(out_dir=str(folder), **tiny_base_parameters)


@pytest.fixture(scope="module")
def joint(folder, base):
    return train_joint(out_dir=str(folder), base=base, joint_epochs=1, device="cpu")


def tune(folder, base, parameters, **changed):
    return fine_tune(out_dir=str(folder), base=base, **{**parameters, "epochs": 1, **changed})


# joint training


def test_joint_training_scores_all_classes_so_far(joint, base):
    assert joint.missing_states == []
    for state in (2, 3):
        scores, labels = (joint.state(state).array(name) for name in ("val_scores", "val_labels"))
        assert scores.shape == (5 * 2 * state, 2 * state)
        assert_array_equal(np.bincount(labels), np.full(2 * state, 5))
    assert_array_equal(joint.state(1).array("val_scores"), base.state(1).array("val_scores"))


def test_joint_training_sees_every_image_of_every_class_and_repeats(base, joint, monkeypatch, tmp_path):
    seen, real = [], stage.train
    monkeypatch.setattr(
        "il2m.study.stage.train", lambda m, b, s, **kw: seen.append(b.labels.clone()) or real(m, b, s, **kw)
    )
    shutil.copytree(base.folder, tmp_path / base.name)
    again = train_joint(out_dir=str(tmp_path), base=base.name, joint_epochs=1, device="cpu")
    assert [np.bincount(labels).tolist() for labels in seen] == [[12] * 4, [12] * 6]
    for state in (2, 3):  # bit for bit
        assert_array_equal(again.state(state).array("val_scores"), joint.state(state).array("val_scores"))


def test_a_finished_joint_training_is_not_run_again(folder, base, joint, monkeypatch):
    monkeypatch.setattr("il2m.study.stage.train", None)
    assert train_joint(out_dir=str(folder), base=base, joint_epochs=1, device="cpu").folder == joint.folder


def test_joint_training_takes_the_bases_epochs_by_default(folder, base, joint):
    run = train_joint(out_dir=str(folder), base=base, device="cpu")
    assert run.identity["joint_epochs"] == base.identity["base_epochs"] == 2
    assert len(run.state(2).info["history"]) == 2
    assert {found.name for found in find_joint_runs(folder)} == {run.name, joint.name}


@pytest.mark.parametrize("epochs", [-1, 0.5])
def test_joint_epochs_are_checked(folder, base, epochs):
    with pytest.raises(InputError, match=f"joint_epochs = {epochs}: expected a whole number of at least 0"):
        train_joint(out_dir=str(folder), base=base, joint_epochs=epochs)


# held out, balanced


@pytest.mark.parametrize("share", [0.1, 0.2, 0.29, 0.34, 0.5])
def test_held_out_places_are_a_share_of_every_prefix(share):
    places = held_out_places(200, share)
    for k in range(201):
        assert np.count_nonzero(places < k) == int(k * share + 1e-9)
        assert_array_equal(held_out_places(k, share), places[places < k])


def test_nothing_is_held_out_by_default():
    assert len(held_out_places(50, 0)) == 0


def test_default_runs_know_nothing_of_either(folder, base, tiny_fine_tuning_parameters):
    parameters = {name: v for name, v in tiny_fine_tuning_parameters.items() if name != "device"}
    plain = plan_fine_tuning(out_dir=str(folder), base=base, **parameters)
    assert not {"held_out", "balanced_epochs"} & set(plain.identity)
    zero = plan_fine_tuning(out_dir=str(folder), base=base, held_out=0, balanced_epochs=0, **parameters)
    assert zero.folder == plain.folder
    for changed in ({"held_out": 0.2}, {"balanced_epochs": 3}):
        assert plan_fine_tuning(out_dir=str(folder), base=base, **changed, **parameters).folder != plain.folder


@pytest.mark.parametrize("share", [-0.1, 0.6, "a"])
def test_held_out_is_checked(folder, base, share):
    with pytest.raises(InputError, match=r"held_out = .*: expected a number of at least 0 and at most 0.5"):
        plan_fine_tuning(out_dir=str(folder), base=base, held_out=share)


def trained_on(monkeypatch, folder, base, parameters, **changed):
    """What each call of train was given: (labels, epochs, learning rate), in order."""
    calls, real = [], stage.train

    def watched(model, batches, settings, **kwargs):
        calls.append((batches.labels.numpy().copy(), kwargs["epochs"], kwargs["learning_rate"]))
        return real(model, batches, settings, **kwargs)

    monkeypatch.setattr(stage, "train", watched)
    return tune(folder, base, parameters, **changed), calls


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_balanced_fine_tuning_is_a_second_stage_on_equally_many_images(
    folder, base, tiny_fine_tuning_parameters, monkeypatch, selection
):
    run, calls = trained_on(
        monkeypatch, folder, base, tiny_fine_tuning_parameters, balanced_epochs=2, exemplar_selection=selection
    )
    rate = run.identity["learning_rate"]
    wanted = [
        ([6, 6, 12, 12], 1, rate / 2), ([6, 6, 6, 6], 2, rate / 20),
        ([3, 3, 3, 3, 12, 12], 1, rate / 3), ([3, 3, 3, 3, 3, 3], 2, rate / 30),
    ]  # fmt: skip
    for (labels, epochs, used_rate), (counts, wanted_epochs, wanted_rate) in zip(calls, wanted, strict=True):
        assert_array_equal(np.bincount(labels), counts)
        assert epochs == wanted_epochs
        assert used_rate == pytest.approx(wanted_rate)
    assert len(run.state(2).info["history"]) == 3


def test_held_out_images_are_not_trained_on_not_even_when_balanced(
    folder, base, tiny_fine_tuning_parameters, monkeypatch
):
    run, calls = trained_on(monkeypatch, folder, base, tiny_fine_tuning_parameters, balanced_epochs=1, held_out=0.34)
    counts = [np.bincount(labels).tolist() for labels, _, _ in calls]
    assert counts == [[4, 4, 10, 10], [4, 4, 4, 4], [2, 2, 2, 2, 11, 11], [2] * 6]
    stored = run.state(3)
    assert len(stored.array("exemplar_indices")) == 12  # statistics still come from all that the memory keeps
    assert stored.array("held_out_scores").shape == (6, 6)


# all runs of a folder


def test_collected_results_hold_every_run_and_method(folder, base, joint, tiny_fine_tuning_parameters):
    run = tune(folder, base, tiny_fine_tuning_parameters, held_out=0.34)
    table = collect_results(folder)
    own = table[table["run"] == run.name]
    assert set(own["method"]) == set(METHODS)
    assert set(own["held_out"]) == {0.34}
    assert set(own["balanced_epochs"]) == {0}
    for name, value in run_description(run).items():
        assert own[name].isna().all() if value is None else set(own[name]) == {value}
    assert joint.name in set(table.loc[table["method"] == "joint", "run"])
    one_joint = table[(table["method"] != "joint") | (table["run"] == joint.name)]
    assert set(gap_table(one_joint).query("run == @run.name")["method"]) == set(METHODS)


def test_of_two_joint_trainings_of_a_base_none_is_taken(folder, base, joint, tiny_fine_tuning_parameters):
    tune(folder, base, tiny_fine_tuning_parameters)
    longer = train_joint(out_dir=str(folder), base=base, joint_epochs=2, device="cpu")
    assert {found.name for found in find_joint_runs(folder)} == {joint.name, longer.name}
    with pytest.warns(UserWarning, match=f"{base.name} has several joint trainings .*{longer.name}"):
        assert gap_table(collect_results(folder)).empty


@pytest.fixture
def stored(folder, base, tiny_fine_tuning_parameters):
    """A run with results of which each number is -1 beside it, as no computation gives them; gone afterwards."""
    run = tune(folder, base, tiny_fine_tuning_parameters)
    yield run, save_results(results_table(run, methods=("FT",)).assign(top1=-1.0), run.folder)
    (run.folder / "results.parquet").unlink()


def test_results_that_are_stored_are_not_computed_again(folder, stored):
    table = collect_results(folder).query("run == @stored[0].name")
    assert set(table["method"]) == {"FT"}
    assert set(table["top1"]) == {-1.0}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("no parquet", "damaged"),
        ("a value", "damaged"),
        ("an attribute", "damaged"),
        ("of another run", "of another run or of other states"),
        ("of other states", "of another run or of other states"),
        ("other code", "made by other code"),
    ],
)
def test_stored_results_that_are_not_the_runs_are_computed(damage, why, folder, stored):
    run, path = stored
    assert run.name not in collect_results(folder).attrs["computed"]
    table = pd.read_parquet(path)
    if damage == "no parquet":
        path.write_text("no parquet")
    elif damage == "a value":
        table.assign(top5=np.nextafter(table["top5"], 2)).to_parquet(path)
    elif damage == "an attribute":
        table.attrs["undefined"] = "as-published"
        table.to_parquet(path)
    else:
        changed = {"of another run": {"run": "0123456789"}, "other code": {"code": "0123456789"}}
        table.attrs |= changed.get(damage, {"states": {**table.attrs["states"], "2": "0123456789"}})
        save_results(table, run.folder)
    found = collect_results(folder)
    assert why in found.attrs["computed"][run.name]
    found = found.query("run == @run.name")
    assert set(found["method"]) == set(METHODS) - {"BiC"}
    assert found["top1"].between(0, 1).all()


def test_a_damaged_joint_training_is_left_out_alone(folder, base, joint, tiny_fine_tuning_parameters):
    run = tune(folder, base, tiny_fine_tuning_parameters)
    path = joint.folder / "state_02" / "val_scores.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    try:
        with pytest.warns(UserWarning, match=f"left out {joint.name}: .*val_scores.npy is not as it was written"):
            table = collect_results(folder)
    finally:
        path.write_bytes(content)
    assert run.name in set(table["run"])
    assert joint.name not in set(table["run"])


def test_the_policy_of_another_runs_table_is_not_taken(folder, base, tiny_fine_tuning_parameters):
    run, other = (tune(folder, base, tiny_fine_tuning_parameters, distillation=on) for on in (False, True))
    path = save_results(results_table(other, undefined="as-published"), other.folder).rename(
        run.folder / "results.parquet"
    )
    table = collect_results(folder)
    path.unlink()
    assert [table.attrs["undefined"][each.name] for each in (run, other)] == ["keep", "keep"]


def test_stored_results_keep_their_policy_unless_one_is_asked_for(folder, base, tiny_fine_tuning_parameters):
    run = tune(folder, base, tiny_fine_tuning_parameters)
    path = save_results(results_table(run, undefined="as-published"), run.folder)
    table = collect_results(folder)
    assert table.attrs["undefined"][run.name] == "as-published"
    assert run.name not in table.attrs["computed"]
    table = collect_results(folder, undefined="keep")
    assert set(table.attrs["undefined"].values()) == {"keep"}
    assert "as-published" in table.attrs["computed"][run.name]
    path.unlink()


def test_a_copied_run_counts_once(folder, base, tiny_fine_tuning_parameters, tmp_path):
    tune(folder, base, tiny_fine_tuning_parameters)
    study = tmp_path / "study"
    shutil.copytree(folder, study)
    run = next(study.glob("fine_tuning-*"))
    shutil.copytree(run, study / "copy")
    assert collect_results(study)["run"].nunique() == collect_results(folder)["run"].nunique()


def test_an_empty_folder_has_no_results(tmp_path):
    with pytest.raises(InputError, match="no finished fine-tuning run in"):
        collect_results(tmp_path)
