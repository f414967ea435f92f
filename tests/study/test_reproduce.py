"""A run made again from its configuration: told as what it is, or refused by name before any training."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import PROJECT, rewrite_checked

from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.importing import import_authors_files
from il2m.exchange.prepare import make_lists
from il2m.study.reproduce import DIFFERENT, IDENTICAL, reproduce
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base, train_joint
from il2m.system.hashes import file_hash, short_hash


@pytest.fixture
def study(tmp_path, tiny_study):
    """A copy to change."""
    return shutil.copytree(tiny_study.out_dir, tmp_path / "study")


def change_state(state, change):
    """Change arrays of a stored state, by name, and what is told of them, so that no checksum tells; and no state says
    whose it is."""
    info = json.loads((state / "state.json").read_text())
    for name, new in change(info).items():
        np.save(state / f"{name}.npy", new)
        info["files"][f"{name}.npy"] = file_hash(state / f"{name}.npy")
    rewrite_checked(state / "state.json", info)
    for path in state.parents[1].glob("*/state_*/state.json"):
        rewrite_checked(path, json.loads(path.read_text()))


@pytest.mark.parametrize("kind", ["base", "off", "on"])
def test_on_one_thread_a_run_is_bit_identical(tiny_study, tmp_path, capsys, kind):
    run = getattr(tiny_study, kind)
    assert main(["reproduce", str(run.folder), "--out", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr().out.splitlines()
    states = (1,) if kind == "base" else (1, 2, 3)
    assert printed[1:-1] == [f"state {state}: bit-identical" for state in states]
    assert printed[-1] == f"bit-identical: {tmp_path / 'again' / run.name}"
    assert {**Run(tmp_path / "again" / run.name).config, "made": ""} == {**run.config, "made": ""}


def test_joint_training_is_made_again_too(study, tmp_path):
    run = train_joint(out_dir=str(study), base=next(study.glob("base-*")).name, joint_epochs=1, device="cpu")
    again = reproduce(run.folder, tmp_path / "again")
    assert {b: verdict for b, (verdict, _) in again.states.items()} == dict.fromkeys((1, 2, 3), IDENTICAL)


def test_settings_that_a_run_tells_only_by_their_results(tiny_npz, tiny_base_parameters, tmp_path):
    """A normalisation by name, states of unequal sizes, a given class order, exemplars per class."""
    data, out = tmp_path / "data", tmp_path / "study"
    data.mkdir()
    (data / "datasets_mean_std.txt").write_text("mine:mean=[0.4];std=[0.2]\n")
    states = {"state_sizes": [3, 1, 2], "class_order": [5, 1, 0, 2, 4, 3], "mean_std": "mine"}
    base = train_base(out_dir=str(out), data_dir=str(data), **tiny_base_parameters | states)
    run = fine_tune(out_dir=str(out), base=base, exemplars_per_class=2, epochs=1, device="cpu")
    shutil.rmtree(data)
    again = reproduce(run.folder, tmp_path / "again")
    assert again.verdict == IDENTICAL
    assert again.run.base.identity["normalisation"] == {"mean": [0.4], "std": [0.2]}


def test_lists_of_image_files_give_states_and_exemplars_again(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        for part, number in (("train", 5), ("val", 2)):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(number):
                image = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / part / name / f"{i}.png")
    lists = make_lists([str(tmp_path / "images")], tmp_path / "lists", name="abc", num_states=3, memory_sizes=[4])
    data = {"out_dir": str(tmp_path / "study"), "data_dir": str(tmp_path), "num_workers": 0, "device": "cpu"}
    base = train_base(dataset=f"lists:{lists}", num_states=3, image_size=16, base_epochs=1, batch_size=4, **data)
    run = fine_tune(base=base, memory_size=4, epochs=1, batch_size=4, **data)
    assert run.identity["exemplar_selection"] == "lists"
    assert reproduce(run.folder, tmp_path / "again", tmp_path, num_workers=0).verdict == IDENTICAL


def test_a_base_is_made_again_on_its_own_number_of_threads(tiny_base_parameters, tiny_fine_tuning_parameters, tmp_path):
    out = str(tmp_path / "study")
    train_base(out_dir=out, **tiny_base_parameters | {"num_threads": 2})
    run = fine_tune(out_dir=out, **tiny_fine_tuning_parameters | {"num_threads": 1})
    again = reproduce(run.folder, tmp_path / "again")
    assert [again.run.state(b).info["made_with"]["threads"] for b in (1, 2, 3)] == [2, 1, 1]
    told = reproduce(run.folder, tmp_path / "one thread", num_threads=1)
    assert told.made_with == {"threads": (2, 1)}, "also of another state than the last"


@pytest.mark.parametrize("exif_rotation", ["off", "on"])
def test_images_that_were_turned_or_not_are_so_again(tmp_path, exif_rotation):
    rng, turned = np.random.default_rng(0), Image.Exif()
    turned[0x0112] = 6
    for name in "ab":
        for part in ("train", "val"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(4):
                image = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / part / name / f"{i}.jpg", exif=turned)
    data = {"data_dir": str(tmp_path), "num_workers": 0, "device": "cpu", "num_states": 2, "base_epochs": 1}
    images = {"dataset": f"folder:{tmp_path / 'images'}", "image_size": 16, "batch_size": 4}
    run = train_base(out_dir=str(tmp_path / "study"), exif_rotation=exif_rotation, **images, **data)
    assert reproduce(run.folder, tmp_path / "again", tmp_path, num_workers=0).verdict == IDENTICAL


def test_changed_scores_are_told_with_state_and_size(study, tiny_study, tmp_path, capsys):
    state = study / tiny_study.off.name / "state_02"
    scores = np.load(state / "val_scores.npy")
    scores[7, 1] += 0.05
    change_state(state, lambda info: {"val_scores": scores})
    assert main(["reproduce", str(study / tiny_study.off.name), "--out", str(tmp_path / "again")]) == 1
    printed = capsys.readouterr().out
    assert "state 1: bit-identical\nstate 2: different: val_scores by " in printed
    predictions = tiny_study.off.state(2).array("val_scores").argmax(axis=1)
    others = np.sum(predictions != scores.argmax(axis=1))
    assert f"; scores by up to 0.05, {others} of {len(scores)} predictions\n" in printed
    assert "state 3: bit-identical\ndifferent: " in printed


def test_a_changed_second_memory_is_told(study, tiny_study, tmp_path):
    def change(info):
        info["second_memory"]["raw"]["initial_means"][0] += 0.5
        return {}

    change_state(study / tiny_study.off.name / "state_03", change)
    again = reproduce(study / tiny_study.off.name, tmp_path / "again")
    assert again.states[3][0] == DIFFERENT
    assert ": raw initial_means by " in again.states[3][1]
    assert again.states[3][1].endswith("; scores by up to 0, 0 of 30 predictions")


def test_a_run_of_version_0_1_made_on_whatever_machine_is_told_as_what_it_is(tiny_npz, tmp_path):
    run = PROJECT / "tests" / "fixtures" / "study_0.1" / "fine_tuning-f784677129"
    again = reproduce(run, tmp_path / "again", dataset=str(tiny_npz))
    assert list(again.states) == [1, 2]  # the third was not trained
    for verdict, about in again.states.values():
        assert (verdict == IDENTICAL) == (not about)
        assert verdict == IDENTICAL or " predictions" in about
    assert "torch: not recorded then" in str(again)


def test_what_rounds_is_told_where_it_is_recorded(study, tiny_study, tmp_path):
    def change(info):
        info["made_with"] |= {"threads": 64, "cpu": "a 4004"}
        return {}

    change_state(study / tiny_study.off.name / "state_03", change)
    again = reproduce(study / tiny_study.off.name, tmp_path / "again", num_threads=1)
    assert (again.verdict, again.made_with["threads"]) == (IDENTICAL, (64, 1))
    assert again.made_with.keys() == {"threads", "cpu"}
    assert "threads: 64 then, 1 now" in str(again)
    assert "cpu: a 4004 then, " in str(again)


# refused before any training


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("il2m.study.stage.train", None)


def change_identity(run, **changed):
    """Give a run another identity, as whole as if it had been trained so, and a folder whose name is no hash."""
    config = json.loads((run / "config.json").read_text())
    config["identity"] |= changed
    config["hash"] = short_hash(config["identity"])
    rewrite_checked(run / "config.json", config)
    state = run / "state_01" / "state.json"
    rewrite_checked(state, json.loads(state.read_text()))
    return run.rename(run.parent / "changed")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"result_version": 0}, "is of result version 0"),
        (
            {"fingerprint": "0" * 16},
            "now give another run than changed: fingerprint = [0-9a-f]{16}, not 0000000000000000",
        ),
        ({"network": "mine", "network_source": "abc"}, "the network 'mine', which is not registered here.*--plugin"),
        ({"unheard_of": 3}, "unheard_of = None, not 3"),
    ],
)
def test_what_can_not_be_made_again_is_refused(study, tiny_study, tmp_path, changed, told):
    run = change_identity(study / tiny_study.base.name, **changed)
    with pytest.raises(InputError, match=told):
        reproduce(run, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.usefixtures("no_training")
def test_imported_scores_other_parameters_and_places_are_refused(study, tiny_study, tmp_path):
    run = study / tiny_study.off.name
    imported = import_authors_files(export_scores(tiny_study.off, tmp_path / "scores"), tmp_path / "imported")
    with pytest.raises(InputError, match="its scores are imported, what made them is not known"):
        reproduce(imported.folder, tmp_path / "again")
    with pytest.raises(InputError, match=r"no file .*gone.npz"):
        reproduce(run, tmp_path / "again", dataset="gone.npz")
    with pytest.raises(InputError, match=r"unknown dataset 'mine'.*--plugin"):
        reproduce(run, tmp_path / "again", dataset="mine")
    with pytest.raises(InputError, match="not epochs"):
        reproduce(run, tmp_path / "again", epochs=3)
    with pytest.raises(InputError, match="study is there already"):
        reproduce(run, study)
    with pytest.raises(InputError, match="again lies in it"):
        reproduce(run, run / "again")
