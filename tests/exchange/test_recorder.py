"""Outputs of other frameworks, collected by batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import il2m
from il2m.errors import InputError

ORDER = [7, 3, 5, 0]  # ids, in learning order: states of 2 and 2 classes


def outputs(num: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores over 10 classes of a data set, labels by its ids, and features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(ORDER).repeat(num // 4)
    return torch.randn(num, 10, generator=generator), labels, torch.randn(num, 3, generator=generator)


def record(recorder: il2m.StateRecorder, batches: list[torch.Tensor], **types: torch.dtype) -> None:
    """All of outputs() as val, new or exemplar, in these batches of rows."""
    scores, labels, features = outputs()
    scores, features = (values.to(types.get("scores", values.dtype)) for values in (scores, features))
    labels = labels.to(types.get("labels", labels.dtype))
    is_new = (labels == 5) | (labels == 0)
    for rows in batches:
        recorder.add("val", scores[rows], labels[rows], features[rows])
        for part, chosen in (("new", rows[is_new[rows]]), ("exemplar", rows[~is_new[rows]])):
            recorder.add(part, scores[chosen], labels[chosen], features[chosen])


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive}


def test_a_state_worked_by_hand(tmp_path: Path):
    """Ids 2 and 0 at state 1, 1 at state 2; a head over 4 ids."""
    recorder = il2m.StateRecorder([2, 1], 2, class_order=[2, 0, 1])
    recorder.add("val", [[0.5, 10, 20, 99], [1, 11, 21, 99]], [1, 2])
    recorder.add("val", [[2, 12, 22, 99]], [0])
    path = recorder.save(tmp_path / "state2.npz", weight=[[0, 0.5], [1, 1], [2, 2], [9, 9]])
    arrays = read(path)
    assert arrays["state_sizes"].tolist() == [2, 1]
    assert arrays["val_labels"].tolist() == [0, 1, 2]
    assert arrays["val_scores"].tolist() == [[21, 1, 11], [22, 2, 12], [20, 0.5, 10]]
    assert arrays["head_weight"].tolist() == [[2, 2], [0, 0.5], [1, 1]]
    assert arrays["head_bias"].tolist() == [0, 0, 0]
    assert {name: array.dtype for name, array in arrays.items() if name.startswith("val")} == {
        "val_scores": np.float32,
        "val_labels": np.int64,
    }


def test_a_layer_without_bias_over_more_ids_than_classes(tmp_path: Path):
    recorder = il2m.StateRecorder([2, 2], 2, class_order=torch.tensor(ORDER))
    scores, labels, features = outputs()
    recorder.add("val", scores, labels, features)
    arrays = read(recorder.save(tmp_path / "state2.npz", weight=torch.nn.Linear(3, 10, bias=False).weight))
    assert arrays["head_weight"].shape == (4, 3)
    assert arrays["head_bias"].tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match=r"class_order: .*expected an array of numbers"):
        il2m.StateRecorder([1, 1], 1, class_order=["cat", "dog"])


def test_class_order_does_what_a_literal_loop_does(tmp_path: Path):
    recorder = il2m.StateRecorder([2, 2], 2, ORDER)
    record(recorder, [torch.arange(24)])
    arrays = read(recorder.save(tmp_path / "state.npz"))
    scores, labels, features = (values.numpy() for values in outputs())
    expected = []
    for image in range(24):
        row = [scores[image][ORDER[place]] for place in range(4)]
        expected.append((ORDER.index(labels[image]), tuple(row), tuple(features[image])))
    found = zip(arrays["val_labels"], map(tuple, arrays["val_scores"]), map(tuple, arrays["val_features"]), strict=True)
    assert sorted(found) == sorted(expected)


def test_shuffled_batches_make_the_same_file(tmp_path: Path):
    files = []
    for i, sizes in enumerate(([24], [10, 14], [5, 5, 5, 9])):
        rows = torch.randperm(24, generator=torch.Generator().manual_seed(i))
        recorder = il2m.StateRecorder([2, 2], 2, ORDER)
        record(recorder, [*rows.split(sizes)])
        files.append(recorder.save(tmp_path / f"{i}.npz").read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("labels", [torch.int32, torch.uint8, torch.float32])
def test_every_dtype_comes_in(tmp_path: Path, dtype: torch.dtype, labels: torch.dtype):
    recorder = il2m.StateRecorder([2, 2], 2, ORDER)
    record(recorder, [torch.arange(24)], scores=dtype, labels=labels)
    arrays = read(recorder.save(tmp_path / "state.npz"))
    expected = {tuple(row) for row in outputs()[0][:, ORDER].to(dtype).float().tolist()}
    assert {tuple(row) for row in arrays["val_scores"].tolist()} == expected
    assert arrays["val_labels"].tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_device_come_in(tmp_path: Path):
    scores, labels, _ = outputs()
    files = []
    for device in ("cpu", "cuda"):
        recorder = il2m.StateRecorder([2, 2], 2, ORDER)
        recorder.add("val", scores.to(device), labels.to(device))
        files.append(recorder.save(tmp_path / f"{device}.npz").read_bytes())
    assert files[0] == files[1]


def test_tensors_with_gradients_come_in(tmp_path: Path):
    layer = torch.nn.Linear(3, 10)
    _, labels, features = outputs()
    recorder = il2m.StateRecorder([2, 2], 2, ORDER)
    recorder.add("val", layer(features), labels, features)
    arrays = read(recorder.save(tmp_path / "state.npz", layer.weight, layer.bias))
    again = arrays["val_features"] @ arrays["head_weight"].T + arrays["head_bias"]
    np.testing.assert_allclose(arrays["val_scores"], again, rtol=1e-5, atol=1e-6)


def test_what_is_recorded_is_imported(tmp_path: Path):
    scores, labels, features = outputs()
    files = []
    for state in (1, 2):
        recorder = il2m.StateRecorder([2, 2], state, ORDER)
        if state == 2:
            record(recorder, [torch.arange(24)])
        else:
            rows = (labels == 7) | (labels == 3)
            for part in ("val", "new"):
                recorder.add(part, scores[rows], labels[rows], features[rows])
        files.append(recorder.save(tmp_path / f"state{state}.npz"))
    run = il2m.import_scores(files, tmp_path / "run")
    hits = scores[:, ORDER].argmax(dim=1).tolist() == np.array([ORDER.index(label) for label in labels.tolist()])
    table = il2m.results_table(run, methods=["FT", "IL2M"])
    assert table.query("state == 2 and method == 'FT' and score_kind == 'raw'")["top1"].item() == hits.mean()
    own = scores[labels == 7][:, 7].mean().item()
    np.testing.assert_allclose(run.statistics(2).current_means[0], own, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "state", "order"),
    [
        ([2, 2], 0, ORDER),
        ([2, 2], 3, ORDER),
        ([2, 2], 2, [1, 2, 3]),
        ([2, 2], 2, [0, 0, 1, 2]),
        ([2, 2], 2, [3, 2, 1, -1]),
    ],
)
def test_what_is_no_state_is_refused(sizes: list[int], state: int, order: list[int]):
    with pytest.raises(InputError, match=rf"state {state}, class_order .*: don't fit states of \(2, 2\) classes"):
        il2m.StateRecorder(sizes, state, order)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            ("value", np.zeros((2, 4)), [0, 1]),
            "part = 'value': expected one of val, new, exemplar, held_out; did you mean 'val'",
        ),
        (("val", np.zeros((2, 4)), [0]), r"val: shapes \[\(2, 4\), \(1,\)\]; expected \(n, C\)"),
        (("val", np.zeros(4), [0]), "expected"),
        (("val", np.zeros((1, 4)), [[0]]), "expected"),
        (("val", np.zeros((2, 4)), [0, 1], np.zeros(2)), "expected"),
        (("val", np.zeros((2, 5)), [0, 1]), "as wide as the first batch"),
        (("val", np.zeros((2, 4)), [0, 1], np.zeros((2, 3))), "as wide as the first batch"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: tuple, message: str):
    recorder = il2m.StateRecorder([2, 2], 2)
    if "wide" in message:
        recorder.add("val", np.zeros((2, 4)), [0, 1])
    with pytest.raises(InputError, match=message):
        recorder.add(*batch)


@pytest.mark.parametrize(
    ("state", "batches", "message"),
    [
        (2, {"new": ([[0, 0, 0, 1]], [3])}, "state 2: expected validation images"),
        (
            2,
            {"exemplar": (np.eye(4), [0, 1, 2, 3])},
            "state 2: expected .* of exemplars those of past classes, added before new ones",
        ),
        (1, {"exemplar": (np.eye(4), [0, 1, 0, 1])}, "state 1: expected .* of exemplars those of past classes"),
        (2, {"exemplar": (np.eye(4), [0, 0, 0, 0])}, r"1 class\(es\) have no exemplar rows, as \[1\]"),
        (2, {"new": (np.eye(4), [0, 1, 2, 3])}, r"new_labels: state 2: 2 labels are out of range"),
        (2, {"new": (np.eye(4), [2, 2, 2, 2])}, r"1 class\(es\) have no training rows, as \[3\]"),
        (2, {"val": (np.zeros((2, 3)), [0, 1])}, "val scores: 3 classes; state 2 has seen class 3"),
        (2, {"val": (np.eye(4), [0, 1, 2, 4])}, r"val has labels \[4\], not of the classes \[0, 1, 2, 3\]"),
        (2, {"val": (np.eye(4), [0, 1, 2, 0.5])}, r"labels \[0\.5\], not of"),
        (2, {"val": (np.full((1, 4), np.nan), [0])}, "val_scores holds values that are not finite"),
        (2, {"val": ([[1, 2, -1000, 3]], [0])}, "val_scores: class 2 never scores above -1000: masked"),
        (2, {"val": ([[1, 2, -np.inf, 3]], [0])}, "val_scores holds values that are not finite"),
        (1, {"val": ([[1, 2, 0, 3]], [2])}, r"val_labels: state 1: 1 labels are out of range"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, state: int, batches: dict, message: str):
    recorder = il2m.StateRecorder([2, 2], state)
    for part, batch in (
        {} if {*batches} == {"new"} and "images" in message else {"val": (np.eye(4)[:1], [0])} | batches
    ).items():
        recorder.add(part, *batch)
    with pytest.raises(InputError, match=message):
        recorder.save(tmp_path / "states" / "state.npz")
    assert [*tmp_path.iterdir()] == []


def test_what_is_done_to_a_batch_later_changes_nothing(tmp_path: Path):
    """A framework masks its scores in place."""
    scores = torch.eye(4)
    recorder = il2m.StateRecorder([2, 2], 2)
    recorder.add("val", scores, [0, 1, 2, 3])
    scores[:, 0] = -torch.inf
    assert read(recorder.save(tmp_path / "state.npz"))["val_scores"].tolist() == np.eye(4).tolist()


def test_classes_to_come_may_be_masked(tmp_path: Path):
    recorder = il2m.StateRecorder([2, 2], 1)
    recorder.add("val", [[1, 2, -np.inf, -1e9]], [0])
    assert read(recorder.save(tmp_path / "state.npz"))["val_scores"].tolist() == [[1, 2]]
