"""Run folders: written whole or not at all, checked when read."""

import inspect
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import TinyStudy, rewrite_checked

from il2m.errors import InputError
from il2m.learning.networks import build_network
from il2m.study.find import find_runs, labelled, open_run, twin_run
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base
from il2m.study.state_folder import StateFolder, write_state
from il2m.system import hashes
from il2m.system.files import write_atomically
from il2m.system.hashes import file_hash, short_hash

PARTS = {"train": 3, "test": 1}  # images of a class

NOTES = {"dataset": "tiny", "source": "nowhere", "order_seed": 0, "class_names": ["a", "b", "c"]}


@pytest.fixture
def copied(tiny_study, tmp_path) -> Path:
    """The tiny study's folder, to be damaged."""
    return Path(shutil.copytree(tiny_study.out_dir, tmp_path / "study"))


@pytest.fixture
def off(tiny_study, copied) -> Path:
    """The copied run without distillation."""
    return copied / tiny_study.off.name


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_layout(tiny_study):
    off = tiny_study.off.folder
    assert {p.name for p in tiny_study.base.folder.iterdir()} == {".lock", "config.json", "state_01"}
    assert {p.name for p in off.iterdir()} == {".lock", "config.json", "state_02", "state_03"}
    stored = {p.name for p in (off / "state_02").iterdir()}
    of_images = {
        f"{group}_{what}.npy" for group in ("val", "new", "exemplar") for what in ("indices", "labels", "features")
    }
    scores = {"val_scores.npy", "exemplar_scores.npy", "new_own_scores.npy", "new_top_scores.npy"}
    assert stored >= {"state.json", "model.safetensors"} | of_images | scores
    assert not list(tiny_study.out_dir.rglob("*.pkl"))


def test_a_run_opened_again_is_the_same(tiny_study):
    run = Run(tiny_study.off.folder)
    assert run.kind == "fine_tuning"
    assert run.identity == tiny_study.off.identity
    assert run.states.sizes == (2, 2, 2)
    assert run.missing_states == []
    assert run.base.folder == tiny_study.base.folder
    assert sorted(run.class_names) == [f"class {c}" for c in range(6)]
    assert run.state(1).path == tiny_study.base.folder / "state_01", "state 1 is the base's"


def test_a_run_of_many_states_is_read(tiny_npz, tmp_path):
    """States open those before them, of which there may be more than Python can nest calls."""
    training = {"out_dir": str(tmp_path), "batch_size": 8, "device": "cpu", "learning_rate": 0.01}
    rng, num = np.random.default_rng(0), 24
    arrays = {f"x_{part}": rng.integers(0, 256, (num * count, 8, 8), dtype=np.uint8) for part, count in PARTS.items()}
    arrays |= {f"y_{part}": np.repeat(np.arange(num), count) for part, count in PARTS.items()}
    np.savez(tmp_path / "many.npz", **arrays)
    train_base(dataset=str(tmp_path / "many.npz"), num_states=num, base_epochs=1, **training)
    run = fine_tune(memory_size=num, epochs=1, **training)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 90)
        scores = Run(run.folder).state(num).array("val_scores")
    finally:
        sys.setrecursionlimit(limit)
    assert scores.shape == (num, num)


def test_arrays_are_memory_mapped_and_read_only(tiny_study):
    scores = tiny_study.off.state(2).array("val_scores")
    assert isinstance(scores, np.memmap)
    assert not scores.flags.writeable
    with pytest.raises(InputError, match="no val_dreams was stored"):
        tiny_study.off.state(2).array("val_dreams")


@pytest.mark.parametrize("kind", ["scores", "probabilities"])
def test_statistics_are_those_of_the_stored_images(tiny_study, kind):
    """Means over images one by one, from the arrays that the run stored."""
    run = tiny_study.off
    for state in (1, 2, 3):
        statistics = run.statistics(state, "raw" if kind == "scores" else "softmax")
        np.testing.assert_array_equal(statistics.state_of_class, [1, 1, 2, 2, 3, 3][: 2 * state])
        for b in range(1, state + 1):
            folder = run.state(b)
            assert statistics.confidences[b - 1] == pytest.approx(np.mean(folder.array(f"new_top_{kind}")))
            for label in (2 * b - 2, 2 * b - 1):
                own = [v for v, of in zip(folder.array(f"new_own_{kind}"), folder.array("new_labels"), strict=True)
                       if of == label]  # fmt: skip
                assert len(own) == 12
                assert statistics.initial_means[label] == pytest.approx(np.mean(own), rel=1e-5)
        new = [2 * state - 2, 2 * state - 1]
        np.testing.assert_array_equal(statistics.current_means[new], statistics.initial_means[new])
        if state > 1:
            scores = np.array(run.state(state).array("exemplar_scores"), dtype=np.float64)
            if kind == "probabilities":
                scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            labels = run.state(state).array("exemplar_labels")
            for label in range(2 * state - 2):
                own = [scores[i, label] for i in range(len(labels)) if labels[i] == label]
                assert statistics.current_means[label] == pytest.approx(np.mean(own), rel=1e-5)


def test_half_written_staging_folders_are_ignored(off):
    shutil.move(off / "state_03", off / ".state_03-half")
    (off / ".state_03-half" / "model.safetensors").unlink()
    run = Run(off)
    assert run.missing_states == [3]
    assert not run.has_state(3)
    with pytest.raises(InputError, match=r"state 3 of 3 is not finished; run fine-tuning again, it goes on from"):
        run.state(3)
    assert off.name not in [found.name for found in find_runs(off.parent)]
    assert off.name in [found.name for found in find_runs(off.parent, finished=False)]


@pytest.mark.parametrize("file", ["val_scores.npy", "model.safetensors"])
def test_an_edited_file(off, file):
    content = bytearray((off / "state_02" / file).read_bytes())
    content[-1] ^= 1
    (off / "state_02" / file).write_bytes(content)
    state = Run(off).state(2)
    assert len(state.array("val_labels")), "files are checked when they are read"
    with pytest.raises(InputError) as error:
        state.array("val_scores") if file.endswith(".npy") else state.tensor("head.weight")
    message = str(error.value)
    assert f"{off}/state_02: {file} is not as it was written" in message
    assert "delete this folder, and run the stage that made it again" in message


def test_a_file_is_read_anew_once_it_was_written_to_or_exchanged(off, monkeypatch):
    """What was found is remembered for the process, by what tells a file: an equal size and time are not enough."""
    monkeypatch.setattr("il2m.system.hashes._SETTLED", -1)  # files of a moment ago are remembered too
    path, state = off / "state_02" / "val_scores.npy", Run(off).state(2)
    before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    state.check()
    state.check()
    for exchanged in (False, True):
        if exchanged:
            path.rename(path.with_suffix(".old"))
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(path, ns=times)
        with pytest.raises(InputError, match=r"val_scores\.npy is not as it was written"):
            state.array("val_scores")
        path.write_bytes(before)
        os.utime(path, ns=times)
        np.testing.assert_array_equal(state.array("val_scores"), Run(off).state(2).array("val_scores"))


def test_what_is_remembered_is_not_read_again_unless_that_is_asked_for(off):
    path = off / "state_02" / "val_scores.npy"
    key = path.stat().st_dev, path.stat().st_ino
    status, state = path.stat(), Run(off).state(2)
    key = *key, status.st_size, status.st_mtime_ns, max(status.st_mtime_ns, status.st_ctime_ns)
    hashes._remembered[key] = "another hash"  # as if the disk had changed a bit of it, without a word
    with pytest.raises(InputError, match=r"val_scores\.npy is not as it was written"):
        state.check()
    state.check(remembered=False)
    del hashes._remembered[key]


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(tmp_path):
    path, known = tmp_path / "file", dict(hashes._remembered)
    path.write_text("a")
    first = hashes.file_hash(path)
    assert hashes._remembered == known
    os.utime(path, ns=(0, 0))  # so is one whose time was set back: the time of its entry in the folder tells
    assert hashes.file_hash(path, remembered=True) == first
    assert hashes._remembered == known


def test_a_deleted_file(off):
    (off / "state_02" / "val_scores.npy").unlink()
    with pytest.raises(InputError, match=r"state_02: val_scores\.npy is missing\. This state is damaged, was edited"):
        Run(off).statistics(2)


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", "3"])
def test_a_state_without_a_readable_state_json(off, content):
    path = off / "state_02" / "state.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"state_02: state\.json can't be read"):
        Run(off).state(2).model_weights()


def test_an_array_that_is_none_is_refused_whatever_its_checksum(copied, tiny_study):
    for state in copied.glob("*/state_*/state.json"):
        info = json.loads(state.read_text())
        if state.parent == copied / tiny_study.off.name / "state_02":
            state.with_name("val_scores.npy").write_bytes(b"no array")
            info["files"]["val_scores.npy"] = file_hash(state.with_name("val_scores.npy"))
        rewrite_checked(state, info)
    with pytest.raises(InputError, match=r"state_02: val_scores\.npy can't be read \(ValueError\)"):
        Run(copied / tiny_study.off.name).state(2).array("val_scores")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"identity": {}}'])
def test_a_config_that_can_not_be_read(off, content):
    (off / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json can't be read.* damaged or edited"):
        Run(off)


def test_a_config_that_is_no_text(off):
    (off / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"config\.json can't be read"):
        Run(off)


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.1), ("state_sizes", [3, 3]), ("train_seed", 1)])
def test_an_edited_config(off, name, value):
    edit_json(off / "config.json", lambda config: config["identity"].update({name: value}))
    with pytest.raises(InputError) as error:
        Run(off)
    assert "config.json is not as it was written; it was damaged or edited." in str(error.value)
    assert "run the stage that made it again" in str(error.value)


@pytest.mark.parametrize("name", ["base", "dataset", "source", "class_names"])
def test_an_edited_or_lost_note_of_a_config(off, name):
    whole = json.loads((off / "config.json").read_text())
    for config in ({**whole, name: "other"}, {key: value for key, value in whole.items() if key != name}):
        (off / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=r"config\.json is not as it was written"):
            Run(off)
    rewrite_checked(off / "config.json", whole)
    assert Run(off).config[name]


def test_a_config_that_names_another_base(tiny_study, copied, off):
    other = copied / "base-other"
    shutil.copytree(copied / tiny_study.base.name, other)
    identity = {**tiny_study.base.identity, "train_seed": 9}
    for folder, changed in ((other, {"identity": identity, "hash": short_hash(identity)}), (off, {"base": other.name})):
        rewrite_checked(folder / "config.json", json.loads((folder / "config.json").read_text()) | changed)
    with pytest.raises(InputError, match=r"config\.json was edited: .*base-other is not the base that this run"):
        Run(off).state(1)


def test_a_base_that_is_gone(tiny_study, copied, off):
    shutil.rmtree(copied / tiny_study.base.name)
    assert repr(Run(off)).endswith(f"its base can't be opened; {off}>")
    with pytest.raises(InputError, match=r"its base .* is gone; run base training again"):
        Run(off).state(1)


@pytest.mark.parametrize("where", [".", "nowhere"])
def test_a_folder_that_is_no_run(tmp_path, where):
    with pytest.raises(InputError, match=r"is not a run folder: it has no config\.json"):
        Run(tmp_path / where)


def test_open_run_by_name_by_folder_and_by_default(tiny_study):
    assert open_run(tiny_study.out_dir).folder == tiny_study.off.folder, "the newest without distillation"
    assert open_run(tiny_study.out_dir, tiny_study.on.name).folder == tiny_study.on.folder
    assert open_run("elsewhere", str(tiny_study.on.folder)).folder == tiny_study.on.folder


def test_open_run_takes_a_distilling_one_when_there_is_no_other(tiny_study, copied, off):
    shutil.rmtree(off)
    assert open_run(copied).name == tiny_study.on.name


def test_open_run_of_what_is_not_there(tiny_study, off, tmp_path):
    with pytest.raises(InputError, match=r"no run 'mine' in .*; there are: fine_tuning-.*, fine_tuning-"):
        open_run(off.parent, "mine")
    with pytest.raises(InputError, match="is a base, not a fine-tuning run"):
        open_run(off.parent, tiny_study.base.name)
    shutil.rmtree(off / "state_02")
    with pytest.raises(InputError, match=r"is not finished \(states \[2\] are missing: run fine-tuning again"):
        open_run(off.parent, off.name)
    with pytest.raises(InputError, match=r"no finished fine-tuning run in .*: run base training and fine-tuning first"):
        open_run(tmp_path / "empty")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", ['{"hidden_size": 768}', "[]", "no json"])
def test_what_is_no_run_is_passed_over(tiny_study, copied, content):
    (copied / "bert").mkdir()
    (copied / "bert" / "config.json").write_text(content)
    assert {run.name for run in find_runs(copied)} == {tiny_study.off.name, tiny_study.on.name}
    assert open_run(copied).name == tiny_study.off.name
    assert twin_run(open_run(copied, tiny_study.off.name)).name == tiny_study.on.name
    with pytest.raises(InputError, match=r"bert/config\.json can't be read"):
        open_run(copied, "bert")


@pytest.mark.parametrize("content", ["", "{}", '{"identity": {}, "hash": "0", "checksum": "0"}'])
def test_damaged_runs_are_left_out_with_a_warning(tiny_study, copied, off, content):
    (off / "config.json").write_text(content)
    shutil.copytree(off, copied / "imported scores")
    with pytest.warns(UserWarning, match=r"config\.json") as warned:
        assert [run.name for run in find_runs(copied)] == [tiny_study.on.name]
    messages = sorted(str(warning.message) for warning in warned)
    assert [text.partition(":")[0] for text in messages] == [f"left out {off.name}", "left out imported scores"]
    with pytest.warns(UserWarning, match=r"left out .*config\.json"):
        assert twin_run(open_run(copied, tiny_study.on.name)) is None
    with pytest.raises(InputError, match=r"config\.json"):
        open_run(copied, off.name)


def test_runs_whose_base_is_gone_are_left_out_with_a_warning(tiny_study, copied, off):
    shutil.rmtree(copied / tiny_study.base.name)
    with pytest.warns(UserWarning, match=r"left out fine_tuning-.*: .*its base .* is gone"):
        assert find_runs(copied) == []


def test_twins_differ_in_distillation_only(tiny_study, copied):
    assert twin_run(tiny_study.off).folder == tiny_study.on.folder
    assert twin_run(tiny_study.on).folder == tiny_study.off.folder
    shutil.rmtree(copied / tiny_study.on.name)
    assert twin_run(Run(copied / tiny_study.off.name)) is None


def another_twin(copied, run, **changed):
    """A copy of a run that says it was made with other settings."""
    notes = {name: run.config[name] for name in ("dataset", "source", "order_seed", "class_names")}
    made = Run.create(copied, "fine_tuning", run.identity | changed, base=run.config["base"], **notes)
    for state in (2, 3):
        stored = run.state(state)
        arrays = {name: np.array(stored.array(name)) for name in stored.array_names}
        info = {name: value for name, value in stored.info.items() if name not in ("files", "origin")}
        made.store(state, arrays, stored.model_weights(), info)
    return made


def test_a_twin_may_distil_in_whatever_way(tiny_study, copied):
    warm = another_twin(copied, tiny_study.on, temperature=5.0)
    shutil.rmtree(copied / tiny_study.on.name)
    assert twin_run(Run(copied / tiny_study.off.name)).name == warm.name
    assert twin_run(warm).name == tiny_study.off.name


def test_of_several_twins_none_is_taken_and_all_are_named(tiny_study, copied):
    warm = another_twin(copied, tiny_study.on, temperature=5.0)
    with pytest.warns(UserWarning, match="has several twins, and none is shown: name one as compare") as warned:
        assert twin_run(Run(copied / tiny_study.off.name)) is None
    for name, temperature in ((tiny_study.on.name, 2.0), (warm.name, 5.0)):
        assert f"{name} (temperature {temperature}, distillation_weight 1.0)" in str(warned[0].message)
    assert twin_run(warm).name == tiny_study.off.name  # which has one alone


@pytest.mark.filterwarnings("error")
def test_a_copy_of_the_twin_is_no_second_one(tiny_study, copied):
    shutil.copytree(copied / tiny_study.on.name, copied / "a copy")
    assert twin_run(Run(copied / tiny_study.off.name)).identity == tiny_study.on.identity


def test_write_state_is_read_back_equal(tmp_path):
    arrays = {"val_scores": np.arange(6.0).reshape(2, 3), "val_labels": np.array([1, 0])}
    weights = {"head.weight": torch.arange(4.0).view(2, 2)}
    identity = {"state_sizes": [3]}
    run = Run.create(tmp_path, "base", identity, **NOTES)
    run.store(1, arrays, weights, {"note": 1.5})
    state = Run(run.folder).state(1)
    assert state.info["note"] == 1.5
    for name, array in arrays.items():
        np.testing.assert_array_equal(state.array(name), array)
    assert torch.equal(state.model_weights()["head.weight"], weights["head.weight"])
    assert Run.create(tmp_path, "base", identity, **NOTES | {"dataset": "other"}).config["dataset"] == "tiny"


@pytest.mark.parametrize("as_arrays", [False, True], ids=["tensors", "numpy arrays"])
def test_weights_are_stored_byte_for_byte_as_safetensors_does_for_torch(tmp_path, as_arrays):
    """Of a network with float32 parameters, integer buffers and convolutions that do not lie row after row."""
    model = build_network("small", 3, num_classes=5, seed=1).to(memory_format=torch.channels_last)
    model(torch.rand(4, 3, 16, 16))  # in training mode: the buffers count
    weights = model.state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}
    assert not all(value.is_contiguous() for value in weights.values())
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "expected")
    given = {name: value.numpy() for name, value in weights.items()} if as_arrays else weights
    write_state(tmp_path, 1, {}, given, {})
    assert (tmp_path / "state_01" / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    stored = StateFolder(tmp_path / "state_01").model_weights()
    assert all(torch.equal(stored[name], value) for name, value in weights.items())


def test_a_state_without_a_model(tmp_path):
    run = Run.create(tmp_path, "base", {"state_sizes": [3]}, **NOTES)
    run.store(1, {"val_labels": np.array([1, 0])}, {}, {})
    with pytest.raises(InputError, match="no model was stored"):
        run.state(1).model_weights()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_not_stored(tmp_path, value):
    with pytest.raises(InputError, match="state 2: val_scores holds NaN or infinite values; lower learning_rate"):
        write_state(tmp_path, 2, {"val_scores": np.array([1, value])}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_fails_to_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        write_state(tmp_path, 2, {"a": np.zeros(3), "b": np.array([None])}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_write_one_state_the_first_stays(tmp_path):
    for value in (1.0, 2.0):
        write_state(tmp_path, 2, {"a": np.full(3, value)}, {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["state_02"]
    np.testing.assert_array_equal(np.load(tmp_path / "state_02" / "a.npy"), np.ones(3))


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "note.txt"
    for text in ("first", "second"):
        write_atomically(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_short_hash_is_of_the_content():
    assert short_hash({"a": 1, "b": [2]}) == short_hash({"b": [2], "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})
    assert len(short_hash({})) == 10


def test_edited_numbers_of_the_second_memory_are_noticed(tiny_study: TinyStudy, tmp_path: Path):
    shutil.copytree(tiny_study.off.folder / "state_02", tmp_path / "state_02")
    path = tmp_path / "state_02" / "state.json"
    info = json.loads(path.read_text())
    info["second_memory"]["raw"]["confidence"] += 1
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"state.json is not as it was written.*delete this folder"):
        StateFolder(path.parent).info  # noqa: B018


def test_runs_are_labelled_by_distillation_or_by_name(tiny_study: TinyStudy, tmp_path: Path):
    assert labelled([tiny_study.on, tiny_study.off]) == {
        "distillation off": tiny_study.off,
        "distillation on": tiny_study.on,
    }
    for folder in (tiny_study.base.folder, tiny_study.off.folder):
        shutil.copytree(folder, tmp_path / folder.name)
    other = (tmp_path / tiny_study.off.name).rename(tmp_path / "fine_tuning-other")
    assert list(labelled([tiny_study.off, Run(other)])) == [tiny_study.off.name, "fine_tuning-other"]
    with pytest.raises(InputError, match="the same run was given twice"):
        labelled([tiny_study.off, tiny_study.off])
