"""States say whose they are and which one they went on from: nothing is computed from what does not belong together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import rewrite_checked

from il2m.errors import InputError
from il2m.results.table import results_table, save_results
from il2m.study.find import find_runs, open_base, open_run
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_joint
from il2m.system.files import SET_ASIDE


@pytest.fixture
def copied(tiny_study, tmp_path) -> Path:
    """The tiny study's folder, to be changed."""
    return Path(shutil.copytree(tiny_study.out_dir, tmp_path / "study"))


@pytest.fixture
def off(tiny_study, copied) -> Run:
    return Run(copied / tiny_study.off.name)


def train_again(tiny_study, run: Run) -> Run:
    given = tiny_study.fine_tuning_parameters | {"out_dir": str(run.folder.parent), "base": run.base.name}
    return fine_tune(**given)


def replace_by_another_training(run: Run, state: int) -> None:
    """What training again on another number of threads may leave: the same state, with a last bit changed."""
    stored = run.state(state)
    arrays = {name: np.array(stored.array(name)) for name in stored.array_names}
    arrays["val_scores"][0, 0] = np.nextafter(arrays["val_scores"][0, 0], 1e9)
    info = {name: value for name, value in stored.info.items() if name not in ("files", "origin")}
    weights = {name: value.numpy() for name, value in stored.model_weights().items()}
    shutil.rmtree(stored.path)
    run.forget_states()
    run.store(state, arrays, weights, info)


def test_states_say_whose_they_are(tiny_study):
    for run in (tiny_study.off, tiny_study.on):
        for state in (2, 3):
            origin = run.state(state).info["origin"]
            assert origin["run"] == run.config["hash"] == run.name[-10:]
            assert origin["state"] == state
            assert origin["went_on_from"] == run.state(state - 1).digest
    assert tiny_study.base.state(1).info["origin"]["went_on_from"] == ""


def test_what_a_state_says_is_covered_by_its_checksum(off):
    path = off.folder / "state_02" / "state.json"
    info = json.loads(path.read_text())
    info["origin"]["state"] = 3
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"state\.json is not as it was written"):
        off.statistics(2)


def test_a_state_trained_again_to_the_same_bits_leaves_later_ones(tiny_study, off):
    before = {state: off.state(state).digest for state in (2, 3)}
    made = off.state(3).made
    shutil.rmtree(off.folder / "state_02")
    run = train_again(tiny_study, off)
    assert {state: run.state(state).digest for state in (2, 3)} == before
    assert run.state(3).made == made
    assert run.state(2).made > made


@pytest.mark.parametrize("what", ["a state in the middle", "the base's state"])
def test_states_that_went_on_from_another_are_trained_again(tiny_study, off, what):
    before = {state: off.state(state).digest for state in (1, 2, 3)}
    if what == "the base's state":
        replace_by_another_training(off.base, 1)
        strangers = [2, 3]
    else:
        replace_by_another_training(off, 2)
        strangers = [3]
    with pytest.raises(InputError, match="did not go on from the state before it that lies here"):
        Run(off.folder).statistics(3)
    with pytest.warns(UserWarning, match=f"left out {off.name}.*did not go on"):
        assert off.name not in [run.name for run in find_runs(off.folder.parent)]
    with pytest.warns(UserWarning, match=rf"states \[{', '.join(map(str, strangers))}\] did not go on .* set aside"):
        run = train_again(tiny_study, off)
    assert run.missing_states == []
    assert run.digests[strangers[0] - 1] != before[strangers[0] - 1]
    for state in strangers:
        assert (off.folder / f"set_aside-state_{state:02d}" / "state.json").is_file()
        assert run.state(state).info["origin"]["went_on_from"] == run.state(state - 1).digest
    assert open_run(run.folder.parent, run.name).statistics(3)


def test_a_run_that_exchanged_its_config_is_refused(tiny_study, copied):
    off, on = (copied / run.name / "config.json" for run in (tiny_study.off, tiny_study.on))
    texts = off.read_text(), on.read_text()
    off.write_text(texts[1]), on.write_text(texts[0])
    for path in (off, on):
        with pytest.raises(InputError, match=r"config\.json is of the run fine_tuning-.*, and lies in the place of an"):
            Run(path.parent)
    for path in (off, on):  # a folder of a free name does not tell, its states do
        path.parent.rename(copied / f"a copy of {path.parent.name}")
        with pytest.raises(InputError, match=r"is state 2 of the run .*, and lies in the place of another"):
            results_table(Run(copied / f"a copy of {path.parent.name}"))


@pytest.mark.parametrize("source", ["of another run", "of another state"])
def test_a_state_in_the_place_of_another_is_refused_and_trained_again(tiny_study, copied, off, source):
    path = off.folder / "state_03"
    other = copied / tiny_study.on.name / "state_03" if source == "of another run" else off.folder / "state_02"
    shutil.rmtree(path)
    shutil.copytree(other, path)
    with pytest.raises(InputError, match=r"state_03: is state [23] of the run .*, and lies in the place of another"):
        results_table(Run(off.folder))
    with pytest.warns(UserWarning, match=r"states \[3\] did not go on"):
        run = train_again(tiny_study, off)
    assert run.digests == tiny_study.off.digests


def test_a_state_of_before_can_follow_only_states_of_before(off):
    for run, state in ((off, 3), (off, 2)):
        path = run.state(state).path / "state.json"
        rewrite_checked(path, json.loads(path.read_text()))
    with pytest.raises(InputError, match="was stored before the state that it went on from"):
        Run(off.folder).statistics(2)
    path = off.base.folder / "state_01" / "state.json"
    rewrite_checked(path, json.loads(path.read_text()))
    assert Run(off.folder).digests.keys() == {1, 2, 3}


def test_the_newest_is_told_by_what_is_written_not_by_the_times_of_files(tiny_study, copied):
    """A copy or a checkout gives files other times."""
    for number, run in enumerate((tiny_study.on, tiny_study.off)):
        path = copied / run.name / "config.json"
        config = json.loads(path.read_text())
        rewrite_checked(path, config | {"made": f"2026-01-0{2 - number}T00:00:00+00:00"})
    assert [run.name for run in find_runs(copied)] == [tiny_study.off.name, tiny_study.on.name]
    first = open_base(copied, "")
    other = Run.create(copied, "base", {**first.identity, "train_seed": 5}, **first.notes)
    stored = first.state(1)
    other.store(1, {"val_labels": np.array(stored.array("val_labels"))}, {}, {"second_memory": {}})
    with pytest.warns(UserWarning, match=f"of 2 bases in .* trained last is taken, {other.name}"):
        assert open_base(copied, "").name == other.name
    (first.folder / "state_01" / "state.json").touch()
    assert open_base(copied, "").name == other.name


def test_a_base_of_an_older_result_version_is_not_gone_on_with(tiny_study, copied, monkeypatch):
    monkeypatch.setattr("il2m.study.find.RESULT_VERSION", {False: 2, True: 2})
    for stage in (fine_tune, train_joint):
        with pytest.raises(InputError, match=r"base base-\w+ is of result version 1, .* run base training again"):
            stage(out_dir=str(copied), base=tiny_study.base.name, device="cpu")


def test_a_base_that_a_run_does_not_go_on_from_is_told(tiny_study, copied, tiny_fine_tuning_parameters):
    """A copy of the base under another name has the same parameters, and so the same run."""
    shutil.copytree(copied / tiny_study.base.name, copied / "my-base")
    with pytest.warns(UserWarning, match=f"goes on from {tiny_study.base.name}, not from my-base"):
        run = fine_tune(out_dir=str(copied), base="my-base", **tiny_fine_tuning_parameters)
    assert run.base.name == tiny_study.base.name


def test_joint_states_behind_a_gap_are_set_aside_with_their_base(tiny_study, copied):
    """Each is of the base, and of no other joint state."""
    base = Run(copied / tiny_study.base.name)
    joint = train_joint(out_dir=str(copied), base=base.name, joint_epochs=1, device="cpu")
    shutil.rmtree(joint.folder / "state_02")
    replace_by_another_training(base, 1)
    with pytest.warns(UserWarning, match=r"states \[3\] did not go on from the state before them"):
        again = train_joint(out_dir=str(copied), base=base.name, joint_epochs=1, device="cpu")
    assert again.missing_states == []
    assert len([*again.folder.glob(f"{SET_ASIDE}state_03*")]) == 1


def test_a_table_of_states_that_were_trained_again_is_not_taken(tiny_study, off):
    from il2m.results.collect import collect_results

    save_results(results_table(off), off.folder)
    replace_by_another_training(off, 3)
    found = collect_results(off.folder.parent)
    assert "other states" in found.attrs["computed"][off.name]
