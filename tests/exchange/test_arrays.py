"""Arrays in, answers out; and the files of arrays that others have."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TinyStudy

import il2m
from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.importing import import_scores
from il2m.exchange.score_files import read_arrays
from il2m.memory.statistics import ClassStatistics, as_array
from il2m.methods import rectify as rectification
from il2m.results import table as results

MEMORY = ([4, 4, 5, 5], [2, 2], [6, 3], [2, 2])  # of two states of two classes


def test_the_examples_in_docstrings():
    for module, num_lines in ((rectification, 2), (results, 3)):
        assert doctest.testmod(module, extraglobs={"il2m": il2m}) == (0, num_lines)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda values: torch.tensor(values).bfloat16()])
def test_eq_1_takes_what_holds_numbers(kind: type):
    scores = kind([[3.0, 1.0, 4.0, 0.0], [5.0, 1.0, 4.0, 0.0]])
    memory = ClassStatistics(*map(np.array, ([4, 4, 5, 5], [2, 2, 5, 5], [6, 3], [1, 1, 2, 2])))
    rectified = il2m.rectify(scores, *map(kind, MEMORY[:3]), torch.tensor([2, 2]))
    assert rectified.tolist() == [[3, 1, 4, 0], [5, 1, 4, 0]]  # twice by the means, half by the confidences
    no_ratio = il2m.rectify(scores, *map(kind, MEMORY[:3]), [2, 2], use_confidence=False)
    assert no_ratio.tolist() == [[6, 2, 4, 0], [5, 1, 4, 0]]
    assert (il2m.rectify(scores, memory, use_confidence=False) == no_ratio).all()
    of_all_classes = il2m.rectify(scores, MEMORY[0], kind([2, 2, 5, 5]), *MEMORY[2:], use_confidence=False)
    assert (of_all_classes == no_ratio).all()


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, [4, 4, 5], r"memory \[\(3,\), \(2,\), \(2,\), \(2,\)\], \[2, 2\]: expected initial_means \(C,\)"),
        (1, [2], r"memory \[\(4,\), \(1,\)"),
        (1, None, "memory: None: expected an array of numbers"),
        (2, [6], r"\(1,\), \(2,\)\], \[2, 2\]: expected"),
        (3, [2, 2.5], r"\[2.0, 2.5\]: expected"),
        (3, [4, 0], r"\[4, 0\]: expected"),
        (3, 4, r"\[4\]: expected"),
        (3, "2,2", "memory: '2,2': expected an array of numbers"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(place: int, wrong: object, message: str):
    memory = [*MEMORY]
    memory[place] = wrong
    with pytest.raises(InputError, match=message):
        il2m.rectify([[3.0, 1.0, 4.0, 0.0]], *memory)


@pytest.mark.parametrize("scores", [[[3, 1], [4]], "scores", None, [["a", "b"]], {"scores": 1}])
def test_scores_that_are_no_numbers_are_refused(scores: object):
    for call in (lambda: il2m.rectify(scores, *MEMORY), lambda: il2m.evaluate(scores, [0], [2, 2])):
        with pytest.raises(InputError, match=r"scores: .*: expected an array of numbers"):
            call()


def test_a_state_evaluated_by_hand():
    scores = [[9, 0, 0], [0, 9, 0], [0, 0, 9], [5, 6, 9]]
    shares = il2m.evaluate(scores, [0, 0, 2, 1], [2, 1])
    assert shares == {
        "top1": 0.5,
        "top5": 1.0,
        "top1_past": 1 / 3,
        "top1_new": 1.0,
        "predicted_new": 0.5,
        "true_new": 0.25,
    }
    assert il2m.evaluate(torch.tensor(scores).half(), torch.tensor([0.0, 0, 2, 1]), [2, 1]) == shares


def test_a_state_is_evaluated_as_in_the_results_table(tiny_study: TinyStudy):
    run, table = tiny_study.on, il2m.results_table(tiny_study.on)
    for state in (1, 2, 3):
        labels = run.state(state).array("val_labels")
        for method in ("FT", "IL2M"):
            shares = il2m.evaluate(il2m.method_scores(run, state, method), labels, run.states.sizes)
            row = table.query("state == @state and method == @method and score_kind == 'raw'").iloc[0]
            np.testing.assert_equal(shares, row[[*shares]].to_dict())


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 4)), [0, 1], r"scores \(2, 4\) and labels \(2,\), .*: expected \(n, C\), C one of \[2, 3\]"),
        (np.zeros((2, 3)), [0], r"labels \(1,\)"),
        (np.zeros(3), [0], r"scores \(3,\)"),
        (np.zeros((2, 3)), [0, 3], r"labels \(2,\), \[0 3\]: expected .* whole labels \(n,\) from 0 to C - 1"),
        (np.zeros((2, 3)), [-1, 0.5], r"\[-1\.   0\.5\]: expected"),
        (np.zeros((2, 3)), ["a", "b"], "labels: .*: expected an array of numbers"),
        (np.full((2, 3), np.nan), [0, 1], "not all numbers"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(scores: object, labels: list, message: str):
    with pytest.raises(InputError, match=message):
        il2m.evaluate(scores, labels, [2, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.bool])
def test_tensors_become_arrays_of_the_same_numbers(dtype: torch.dtype):
    tensor = torch.tensor([[0.5, 1, 0], [1, 0, 1]]).to(dtype)
    assert as_array(tensor).tolist() == tensor.tolist()


def rows_of(run: il2m.study.runs.Run, state: int) -> dict[str, np.ndarray]:
    stored = run.state(state)
    names = [f"{part}_{what}" for part in ("val", "exemplar")[:state] for what in ("scores", "labels")]
    return {name: np.array(stored.array(name)) for name in names}


@pytest.fixture
def reference(tiny_study: TinyStudy, tmp_path: Path) -> list[dict]:
    """What import makes of plain .npz files."""
    files = []
    for state in (1, 2, 3):
        files.append(tmp_path / f"plain{state}.npz")
        np.savez(files[-1], state_sizes=[2, 2, 2], **rows_of(tiny_study.off, state))
    return accuracies(import_scores(files, tmp_path / "plain"))


def accuracies(run: il2m.study.runs.Run) -> list[dict]:
    return il2m.results_table(run)[["state", "method", "score_kind", "top1", "top5"]].to_dict("records")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_file_of_tensors_by_name(tiny_study: TinyStudy, reference: list, tmp_path: Path, suffix: str):
    files = []
    for state in (1, 2, 3):
        files.append(tmp_path / f"state{state}{suffix}")
        rows = {name: torch.from_numpy(array) for name, array in rows_of(tiny_study.off, state).items()}
        torch.save(rows | {"state_sizes": torch.tensor([2, 2, 2])}, files[-1])
    assert accuracies(import_scores(files, tmp_path / "run")) == reference


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_folder_of_arrays(tiny_study: TinyStudy, reference: list, tmp_path: Path, suffix: str):
    folders = []
    for state in (1, 2, 3):
        folders.append(tmp_path / f"state{state}")
        folders[-1].mkdir()
        for name, array in rows_of(tiny_study.off, state).items():
            array = array.astype(np.float64) if name.endswith("_labels") else array  # labels that are whole
            file = folders[-1] / f"{name}{suffix}"
            np.save(file, array) if suffix == ".npy" else torch.save(torch.from_numpy(array), file)
    run = import_scores(folders, tmp_path / "run", state_sizes=[2, 2, 2])
    assert accuracies(run) == reference
    with pytest.raises(InputError, match=r"state1: no state_sizes; found \['val_labels', 'val_scores'\]"):
        import_scores(folders, tmp_path / "other")


@pytest.mark.parametrize("padding", [0.0, -np.inf, -1e9, 50.0])
def test_heads_over_all_classes_are_cut_and_it_is_said(
    tiny_study: TinyStudy, reference: list, tmp_path: Path, padding: float
):
    files = []
    for state in (1, 2, 3):
        rows = rows_of(tiny_study.off, state)
        for name in (name for name in rows if name.endswith("_scores")):
            rows[name] = np.pad(rows[name], ((0, 0), (0, 7 - 2 * state)), constant_values=padding)
        files.append(tmp_path / f"{state}.npz")
        np.savez(files[-1], state_sizes=[2, 2, 2], **rows)
    run = import_scores(files, tmp_path / "run")
    assert accuracies(run) == reference
    assert "heads over more classes are cut to the classes seen so far (state 1, 2, 3)" in run.config["missing"]


def test_heads_whose_state_the_labels_do_not_tell_are_refused(tiny_study: TinyStudy, tmp_path: Path):
    """Groups of classes, all of the last state's model: taken for states, they would make wrong numbers."""
    rows = rows_of(tiny_study.off, 3)
    for group in range(3):
        chosen = rows["val_labels"] // 2 == group
        np.savez(
            tmp_path / f"{group}.npz",
            state_sizes=[2, 2, 2],
            val_scores=rows["val_scores"][chosen],
            val_labels=rows["val_labels"][chosen],
        )
    with pytest.raises(InputError, match="val_labels must have all classes seen so far"):
        import_scores([tmp_path / f"{group}.npz" for group in range(3)], tmp_path / "run")


def test_a_dry_run_says_what_was_understood_and_writes_nothing(
    tiny_study: TinyStudy, reference: list, tmp_path: Path, capsys: pytest.CaptureFixture
):
    files = [str(tmp_path / f"plain{state}.npz") for state in (1, 2, 3)]
    before = sorted(tmp_path.rglob("*"))
    assert main(["import-scores", *files, "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "state_02: exemplar_labels (12,) exemplar_scores (12, 4) val_labels (20,) val_scores (20, 4)\n" in printed
    assert "nothing was written" in printed
    assert "no new_labels, new_scores (state 1, 2, 3): initial class means" in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["import-scores", *files[:2], "--out", str(tmp_path / "run"), "--dry-run", "--state-sizes", "3,3"]) == 2


class Danger:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_files_of_other_things_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save({"val_scores": Danger()}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array([Danger()]), allow_pickle=True)
    (tmp_path / "c.ckpt").write_text("no archive")
    torch.save([torch.zeros(2), torch.zeros(3)], tmp_path / "d.pt")
    for name in ("a.pt", "b.npy", "c.ckpt", "d.pt"):
        with pytest.raises(InputError, match=rf"{name}: no file of plain arrays or tensors"):
            read_arrays(tmp_path / name)
    assert "executed" not in capsys.readouterr().out
    torch.save({"epoch": 3, "state_dict": {"fc.weight": torch.zeros(2)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=r"no state_sizes, val_labels, val_scores; found \['epoch', 'state_dict'\]"):
        import_scores([tmp_path / "checkpoint.pth"], tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no state_sizes, val_labels, val_scores; found \[\]"):
        import_scores([tmp_path / "empty"], tmp_path / "run")


def test_arrays_of_npz_come_in_without_torch(tmp_path: Path):
    np.savez(tmp_path / "a.npz", val_scores=[[1.0]])
    code = "from pathlib import Path; import sys; from il2m.exchange.score_files import read_arrays; "
    code += f"read_arrays(Path({str(tmp_path / 'a.npz')!r})); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def run_with_held_out(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> il2m.study.runs.Run:
    out = tmp_path_factory.mktemp("held out")
    shutil.copytree(tiny_study.base.folder, out / tiny_study.base.name)
    return il2m.fine_tune(out_dir=str(out), held_out=0.34, **tiny_study.fine_tuning_parameters)


def held_out_files(run: il2m.study.runs.Run, folder: Path, *, told: bool) -> list[Path]:
    """States as another framework would give them: held-out images are no rows of the others. told: with counts."""
    files = []
    for state in (1, 2, 3):
        stored = run.state(state)
        names = [name for name in stored.array_names if name.endswith(("_labels", "_indices", "_scores"))]
        rows = {name: np.array(stored.array(name)) for name in names if "own" not in name and "top" not in name}
        trained = np.concatenate([rows[f"{part}_labels"] for part in ("new", "exemplar")[:state]])
        held = rows.pop("held_out_indices", np.empty(0))
        counts = np.bincount(trained) - np.bincount(rows.get("held_out_labels", []), minlength=2 * state).astype(int)
        for part in ("new", "exemplar"):
            kept = ~np.isin(rows.pop(f"{part}_indices", []), held)
            rows |= {name: array[kept] for name, array in rows.items() if name.startswith(part)}
        given = {"train_counts": counts.astype(float)} if told else {}
        files.append(folder / f"{state}.npz")
        np.savez(files[-1], state_sizes=[2, 2, 2], **{n: a for n, a in rows.items() if n != "val_indices"}, **given)
    return files


@pytest.mark.parametrize("told", [True, False])
def test_images_held_out_and_counts_come_in(run_with_held_out: il2m.study.runs.Run, tmp_path: Path, told: bool):
    files = held_out_files(run_with_held_out, tmp_path, told=told)
    run = import_scores(files, tmp_path / "run")
    for state in (1, 2, 3):
        for method in ("BiC", "FT-th"):
            expected = il2m.method_scores(run_with_held_out, state, method)
            np.testing.assert_allclose(il2m.method_scores(run, state, method), expected, rtol=1e-5, atol=1e-6)
    assert told != any("FT-th takes its prior from the rows" in note for note in run.config["missing"])


@pytest.mark.parametrize("padding", [0, 1])
def test_counts_alone_do_for_a_prior(tiny_study: TinyStudy, tmp_path: Path, padding: int):
    """Of a head over classes to come as well: counts are cut like scores."""
    files = []
    for state, counts in ((1, [12, 12]), (2, [6, 6, 12, 12]), (3, [3, 3, 3, 3, 12, 12])):
        rows, width = rows_of(tiny_study.off, state), padding * (7 - 2 * state)
        rows |= {n: np.pad(a, ((0, 0), (0, width))) for n, a in rows.items() if n.endswith("_scores")}
        files.append(tmp_path / f"{state}.npz")
        np.savez(files[-1], state_sizes=[2, 2, 2], train_counts=np.pad(counts, (0, width)), **rows)
    run = import_scores(files, tmp_path / "run")
    for state in (1, 2, 3):
        expected = il2m.method_scores(tiny_study.off, state, "FT-th")
        np.testing.assert_allclose(il2m.method_scores(run, state, "FT-th"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_counts": [12, 12, 12]}, r"train_counts has shape \(3,\); expected \(4,\)"),
        ({"train_counts": [12, 12, 12, 0]}, "train_counts: expected images of each class seen, at least 1"),
        ({"train_counts": [12, 12, 12, 1.5]}, r"train_counts is float64 of shape \(4,\); expected whole numbers"),
        ({"held_out_scores": np.zeros((2, 4))}, "held_out_scores or held_out_features, but no held_out_labels"),
        ({"held_out_scores": np.zeros((2, 3)), "held_out_labels": [0, 1]}, r"held_out_scores has shape \(2, 3\)"),
        (
            {"held_out_scores": np.zeros((2, 4)), "held_out_labels": [0, 4]},
            "held_out_labels: state 2: 1 labels are out",
        ),
    ],
)
def test_counts_and_held_out_images_that_do_not_fit_are_refused(
    tiny_study: TinyStudy, tmp_path: Path, wrong: dict, message: str
):
    files = [tmp_path / f"{state}.npz" for state in (1, 2)]
    for state, file in enumerate(files, 1):
        np.savez(file, state_sizes=[2, 2], **rows_of(tiny_study.off, state), **(wrong if state == 2 else {}))
    with pytest.raises(InputError, match=message):
        import_scores(files, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_held_out_images_are_recorded(tmp_path: Path):
    recorder = il2m.StateRecorder([1, 1], 2, class_order=[7, 3])
    for part in ("val", "new", "exemplar", "held_out"):
        labels = np.array({"new": [3, 3], "exemplar": [7, 7]}.get(part, [7, 3]))
        recorder.add(part, np.eye(8)[labels], labels)
    arrays = read_arrays(recorder.save(tmp_path / "state2.npz"))
    assert arrays["held_out_scores"].tolist() == [[1, 0], [0, 1]]
    assert arrays["held_out_labels"].tolist() == [0, 1]
