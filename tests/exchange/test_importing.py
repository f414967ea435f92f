"""Scores in: runs made of any method's scores and of the authors' files, and what is wrong with such files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from tiny import TinyStudy

from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.importing import import_authors_files, import_notes, import_scores
from il2m.exchange.score_files import AuthorsFiles, rectify_files
from il2m.methods.registry import method_scores
from il2m.results.collect import collect_results
from il2m.results.comparison import compare_methods, findings_table
from il2m.results.description import run_description
from il2m.results.table import results_table, series, summary
from il2m.study.find import find_runs, open_run
from il2m.study.runs import Run


@pytest.fixture
def npz(tiny_study: TinyStudy, tmp_path: Path) -> list[Path]:
    """All that another method could give of each state, from a run of ours."""
    run, paths = tiny_study.off, []
    for state in (1, 2, 3):
        stored, weights = run.state(state), run.state(state).model_weights()
        arrays = {"state_sizes": [2] * state}
        names = ["val_scores", "val_labels", "val_features", "new_labels", "new_features"]
        names += ["exemplar_scores", "exemplar_labels", "exemplar_features"] if state > 1 else []
        arrays |= {name: stored.array(name) for name in names}
        arrays |= {"head_weight": weights["head.weight"].numpy(), "head_bias": weights["head.bias"].numpy()}
        arrays["new_scores"] = arrays["new_features"] @ arrays["head_weight"].T + arrays["head_bias"]
        paths.append(tmp_path / f"method {state}.npz")
        np.savez(paths[-1], **arrays)
    return paths


def change(path: Path, **arrays: object) -> None:
    """Replace arrays of an .npz; None takes one out."""
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive.files} | arrays
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})


def accuracies(run: Run) -> dict[str, dict[str, list[float]]]:
    table = results_table(run)
    return {m: {top: series(table, m, top) for top in ("top1", "top5")} for m in ("FT", "IL2M")}


def test_an_exported_and_imported_run_is_the_same(tiny_study: TinyStudy, exported: AuthorsFiles, tmp_path: Path):
    run = import_authors_files(exported, tmp_path / "study" / "again")
    assert not run.missing_states
    assert run.states == tiny_study.off.states
    assert accuracies(run) == accuracies(tiny_study.off)
    for kind in ("raw", "softmax"):
        ours, theirs = tiny_study.off.statistics(3, kind), run.statistics(3, kind)
        np.testing.assert_allclose(theirs.initial_means, ours.initial_means, rtol=1e-6)
        np.testing.assert_allclose(theirs.current_means, ours.current_means, rtol=1e-6)
        np.testing.assert_allclose(theirs.confidences, ours.confidences, rtol=1e-6)
    assert [run.name for run in find_runs(tmp_path / "study")] == ["again"]
    with pytest.raises(InputError, match=r"no new_features\.npy.*can't be exported"):
        export_scores(run, tmp_path / "out")


def test_imported_npz_make_a_run_with_the_same_numbers(tiny_study: TinyStudy, npz: list[Path], tmp_path: Path):
    run = import_scores(npz[::-1], tmp_path / "study" / "mine")
    (told,) = run.config["missing"]
    counts = "(state 2: 6 and 12, state 3: 3 and 12)"
    assert told.startswith(f"FT-th takes its prior from the rows given of each past and each new class {counts}")
    assert open_run(tmp_path / "study").name == "mine"
    assert accuracies(run) == accuracies(tiny_study.off)
    assert set(run.state(1).model_weights()) == {"head.weight", "head.bias"}
    assert "new_scores.npy" not in run.state(2).info["files"]  # only what the statistics need is kept
    again = export_scores(run, tmp_path / "exported")
    assert rectify_files(again).top1 == {m: values["top1"] for m, values in accuracies(run).items()}
    assert import_scores(npz, tmp_path / "study" / "mine").identity == run.identity
    change(npz[1], val_labels=np.zeros(20, dtype=int))
    with pytest.raises(InputError, match="holds another run"):
        import_scores(npz, tmp_path / "study" / "mine")


def test_exemplars_of_new_classes_are_left_out_and_told(tiny_study: TinyStudy, npz: list[Path], tmp_path: Path):
    """A memory that was saved after each state: it holds that state's classes too."""
    for path in npz:
        with np.load(path) as arrays:
            some = np.arange(3)
            parts = {part: arrays[f"new_{part}"][some] for part in ("scores", "labels", "features")}
            if "exemplar_labels" in arrays:
                parts = {part: np.concatenate([arrays[f"exemplar_{part}"], rows]) for part, rows in parts.items()}
        change(path, **{f"exemplar_{part}": rows for part, rows in parts.items()})
    run = import_scores(npz, tmp_path / "run")
    told = (
        "exemplars of new classes are left out (state 1: 3, state 2: 3, state 3: 3): current means are of past classes"
    )
    assert run.config["missing"][0] == told
    assert run.memory_size == 15  # all of them
    assert accuracies(run) == accuracies(tiny_study.off)
    for method in ("FT-th", "NEM"):  # counts and features are of past classes' exemplars too
        np.testing.assert_allclose(
            method_scores(run, 3, method), method_scores(tiny_study.off, 3, method), rtol=1e-5, atol=1e-5
        )
    change(npz[0], exemplar_labels=[0, 1, 7])
    with pytest.raises(InputError, match=r"exemplar_labels: state 1: 1 labels are out of range, the first of them 7"):
        import_scores(npz, tmp_path / "other")


def test_heads_over_all_classes_that_labels_do_not_place_are_named(npz: list[Path], tmp_path: Path):
    for path in npz:
        change(path, val_scores=np.zeros((20, 6)), val_labels=np.zeros(20, dtype=int), val_features=None)
    with pytest.raises(InputError, match=r"Is the head over all classes .* or cut .* as scores\[:, :num_seen\]"):
        import_scores(npz, tmp_path / "run")


def test_state_sizes_beyond_all_bounds(npz: list[Path], tmp_path: Path):
    for path in npz:
        change(path, state_sizes=np.concatenate([[2, 2, 2], np.full(10**6, 2**40)]))
    assert import_scores(npz, tmp_path / "run").states.sizes == (2, 2, 2)


def test_il2m_that_does_nothing_is_told(npz: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture):
    """Scores of a cosine classifier, shifted below zero: no mean is positive."""
    for path in npz:
        with np.load(path) as arrays:
            shifted = {name: arrays[name] - 99 for name in arrays if name.endswith("_scores")}
        change(path, **shifted)
    assert main(["import-scores", *map(str, npz), "--out", str(tmp_path / "run")]) == 0
    told = (
        "IL2M on raw scores: 6 of 6 past classes undefined (state 2, 3: a mean score is missing or not positive), left"
    )
    printed = capsys.readouterr().out
    assert told in printed
    assert "IL2M does nothing; to try: score_kind = softmax" in printed
    table = results_table(Run(tmp_path / "run"))
    assert told in summary(table)
    assert series(table, "IL2M", "undefined_past") == [0, 2, 4]
    assert series(table, "IL2M", "undefined_past", "softmax") == [0, 0, 0]
    assert np.isnan(series(table, "FT", "undefined_past")).all()
    assert "multiplied anyway" in summary(results_table(Run(tmp_path / "run"), undefined="as-published"))


def test_validation_images_of_the_last_task_alone_are_told(npz: list[Path], tmp_path: Path):
    """Else their accuracy would be taken for one over all classes seen."""
    for path, num_past in zip(npz[1:], (2, 4), strict=True):
        with np.load(path) as arrays:
            new = arrays["val_labels"] >= num_past
            change(path, **{name: arrays[name][new] for name in arrays if name.startswith("val_")})
    notes = import_notes(import_scores(npz, tmp_path / "run"))
    assert "state 2: no validation images of 2 classes seen so far, as [0, 1]" in notes
    assert "state 3: no validation images of 4 classes seen so far, as [0, 1, 2, 3]" in notes
    assert not [note for note in notes if note.startswith("state 1")]


def test_rows_that_may_be_a_sample_are_told(npz: list[Path], tmp_path: Path):
    for path, past in zip(npz, (0, 2, 4), strict=True):
        with np.load(path) as arrays:
            some = np.concatenate([np.flatnonzero(arrays["new_labels"] == c)[:3] for c in (past, past + 1)])
            new = {name: arrays[name][some] for name in arrays if name.startswith("new_")}
        change(path, **new)
    (told,) = import_scores(npz, tmp_path / "run").config["missing"]
    assert "of each past and each new class (state 2: 6 and 3, state 3: 3 and 3): of a sample" in told


def test_what_is_told_on_import_is_shown_and_the_rest_is_unknown(
    npz: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "names").write_text("".join(f"name {c}\n" for c in range(6)), encoding="utf-8-sig")
    words = ["import-scores", *map(str, npz), "--out", str(tmp_path / "study" / "told")]
    words += ["--method", "LwF", "--dataset", "cifar", "--order-seed", "3", "--memory-size", "20"]
    words += ["--class-names", str(tmp_path / "names"), "--class-order", "5,4,3,2,1,9", "--distillation", "on"]
    assert main(words) == 0
    assert "not known of these scores: train_seed\n" in capsys.readouterr().out
    told = Run(tmp_path / "study" / "told")
    assert told.class_names[5] == "name 5"
    assert told.config["class_order"] == [5, 4, 3, 2, 1, 9]
    shown = summary(results_table(told)).partition("\n")[0]
    assert shown == "cifar, 3 states, K = 20, distillation on, order seed 3, train seed unknown (told)"
    untold = import_scores(npz, tmp_path / "study" / "untold")
    assert untold.memory_size == 12
    shown = summary(results_table(untold)).partition("\n")[0]
    assert shown == "unknown, 3 states, K = 12, distillation unknown, order seed unknown, train seed unknown (untold)"
    assert main(words) == 0, "the same again"
    with pytest.raises(InputError, match="holds these scores with method LwF: name another folder, or delete it"):
        import_scores(npz, tmp_path / "study" / "told", method="iCaRL", memory_size=20)
    wrong = {"class_names": "abc", "class_order": [0, 0, 1, 2, 3, 4], "distillation": "on", "seed": 1}
    for name, value in wrong.items():
        with pytest.raises(
            InputError, match=name if name != "class_names" else "files of class names.* are missing:\n  abc"
        ):
            import_scores(npz, tmp_path / "wrong", **{name: value})
    assert not (tmp_path / "wrong").exists()


def test_told_seeds_make_repetitions_only_of_one_method_and_data_set(npz: list[Path], tmp_path: Path):
    settings = {}
    for name, about in {
        "a": {"method": "LwF", "dataset": "cifar", "order_seed": 0, "train_seed": 0},
        "b": {"method": "LwF", "dataset": "cifar", "order_seed": 0, "train_seed": 1},
        "another method": {"method": "iCaRL", "dataset": "cifar", "order_seed": 0, "train_seed": 2},
        "another K": {"method": "LwF", "dataset": "cifar", "order_seed": 0, "train_seed": 3, "memory_size": 99},
        "no method": {"dataset": "cifar", "order_seed": 0, "train_seed": 4},
        "no data set": {"method": "LwF", "order_seed": 0, "train_seed": 4},
        "no seeds": {"method": "LwF", "dataset": "cifar"},
    }.items():
        settings[name] = run_description(import_scores(npz, tmp_path / name, **about))["setting"]
    assert settings["a"] == settings["b"]
    assert len(set(settings.values())) == len(settings) - 1
    results = pd.concat([results_table(Run(tmp_path / name)) for name in settings])
    compared = compare_methods(results).query("method == 'IL2M'").set_index("setting")
    assert compared.loc[settings["a"], "num_pairs"] == 2
    assert len(compared) == len(settings) - 1  # unknown distillation and seeds leave no run out


def scores_alone(npz: list[Path]) -> None:
    for path in npz:
        with np.load(path) as arrays:
            others = {name: None for name in arrays if name not in ("val_scores", "val_labels", "state_sizes")}
        change(path, **others)


def scaled(npz: list[Path]) -> list[Path]:
    """The scores of another run, as it were."""
    for path in npz:
        with np.load(path) as arrays:
            change(path, val_scores=1.01 * arrays["val_scores"])
    return npz


@pytest.mark.parametrize(
    ("told", "without_memory"), [({"memory_size": 0}, True), ({"memory_size": 50}, False), ({}, None)]
)
def test_imports_take_part_in_claims_of_their_memory_alone(npz: list[Path], tmp_path: Path, told, without_memory):
    """K = 0 is no memory; of a run of unknown K nobody knows."""
    scores_alone(npz)
    for order in range(6):
        for distils in (False, True):
            given = {"order_seed": order, "train_seed": 0, "distillation": distils} | told
            import_scores(scaled(npz), tmp_path / f"study/{order} {distils}", method="LwF", dataset="cifar", **given)
    findings = findings_table(collect_results(tmp_path / "study"))["finding"].tolist()
    expected = {True: ["when no memory is allowed"], False: ["when a memory is allowed"], None: []}[without_memory]
    assert [finding.split(maxsplit=3)[-1] for finding in findings if "distillation" in finding] == expected


@pytest.mark.parametrize("told", [{"order_seed": 0}, {"class_order": [0, 1, 2, 3, 4, 5]}, {"train_seed": 0}])
def test_imports_with_half_of_their_seeds_told_are_no_repetitions(npz: list[Path], tmp_path: Path, told: dict):
    """A study that holds them, and pairs of its own, can be compared."""
    for name in ("a", "b"):
        import_scores(scaled(npz), tmp_path / "study" / name, method="er", dataset="cifar", distillation=False, **told)
    compared = compare_methods(collect_results(tmp_path / "study")).query("method == 'IL2M'")
    assert compared["num_pairs"].tolist() == [1, 1]


def test_equal_seeds_of_imports_are_named_with_what_to_do(npz: list[Path], tmp_path: Path):
    told = {"method": "er", "dataset": "cifar", "distillation": False, "order_seed": 0, "train_seed": 0}
    for name in ("a", "b"):
        import_scores(scaled(npz), tmp_path / "study" / name, **told)
    with pytest.raises(InputError, match=r"same seeds and settings \(a, b\).* or tell imports a train_seed each"):
        compare_methods(collect_results(tmp_path / "study"))


def test_what_is_told_may_be_of_numpy(npz: list[Path], tmp_path: Path):
    told = {"class_order": np.arange(6)[::-1], "class_names": np.array(list("abcdef")), "order_seed": np.int64(3)}
    run = import_scores(npz, tmp_path / "run", **told, distillation=np.bool_(True), train_seed=torch.tensor(4))
    expected = {"class_order": [5, 4, 3, 2, 1, 0], "order_seed": 3, "distillation": True, "train_seed": 4}
    assert {name: run.config[name] for name in expected} == expected
    assert list(run.class_names) == list("abcdef")
    named = import_scores(npz, tmp_path / "named", class_order="icarl-1993")
    assert named.config["class_order"] == np.random.RandomState(1993).permutation(6).tolist()


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("columns", [2, 10])
def test_one_file_of_the_first_state_whatever_the_width_of_its_head(npz: list[Path], tmp_path: Path, columns, kind):
    scores_alone(npz)
    with np.load(npz[0]) as arrays:
        padded = np.zeros((len(arrays["val_labels"]), columns))
        padded[:, :2] = arrays["val_scores"]
    change(npz[0], val_scores=padded)
    run = import_scores(kind(npz[0]), tmp_path / "run")
    assert run.states.sizes == (2,)
    np.testing.assert_array_equal(run.state(1).array("val_scores"), padded[:, :2])


def test_an_array_in_two_files_of_a_folder_is_refused(npz: list[Path], tmp_path: Path):
    folders = []
    for state, path in enumerate(npz, 1):
        folders.append(tmp_path / f"state {state}")
        folders[-1].mkdir()
        with np.load(path) as arrays:
            for name in arrays:
                np.save(folders[-1] / f"{name}.npy", arrays[name])
        (folders[-1] / "._val_scores.npy").write_bytes(b"of another system")
    assert accuracies(import_scores(folders, tmp_path / "run")) == accuracies(import_scores(npz, tmp_path / "same"))
    torch.save(torch.zeros(30, 6), folders[2] / "val_scores.pt")
    with pytest.raises(InputError, match=r"state 3: \d+ arrays, but \d+ names"):
        import_scores(folders, tmp_path / "other")


def test_probabilities_in_place_of_scores_are_told(npz: list[Path], tmp_path: Path):
    assert "look like probabilities" not in "".join(import_notes(import_scores(npz, tmp_path / "run")))
    for path in npz:
        with np.load(path) as arrays:
            change(path, val_scores=softmax(arrays["val_scores"], axis=1))
    notes = import_notes(import_scores(npz, tmp_path / "other"))
    assert "state 3: val_scores look like probabilities, but are taken as scores before softmax" in notes


def test_scores_that_the_last_layer_does_not_give_are_not_exported(npz: list[Path], tmp_path: Path):
    """As PyCIL's BiC records them: corrected after the layer, whose weights lie beside them."""
    with np.load(npz[2]) as arrays:
        change(npz[2], new_scores=0.5 * arrays["new_scores"] - 1)
    run = import_scores(npz, tmp_path / "run")
    with pytest.raises(InputError, match=r"state_03: its scores are not those of its last layer"):
        export_scores(run, tmp_path / "out")


def test_the_first_state_keeps_an_exemplar_of_each_class(npz: list[Path], tmp_path: Path):
    """K told smaller than its classes, as a number per class may be: the nearest mean is not of no image."""
    run = import_scores(npz, tmp_path / "run", memory_size=1)
    top1 = series(results_table(run, methods=("NEM",)), "NEM")
    same = series(results_table(import_scores(npz, tmp_path / "same"), methods=("NEM",)), "NEM")
    assert top1[0] > 0.8
    assert top1[1:] == same[1:]


def test_what_cannot_be_computed_is_said(npz: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture):
    for path in npz:
        change(path, new_scores=None, new_labels=None, new_features=None, head_weight=None, head_bias=None)
    assert main(["import-scores", *map(str, npz), "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "no new_labels, new_scores (state 1, 2, 3): initial class means and confidences are unknown" in printed
    assert "no head_bias, head_weight (state 1, 2, 3): methods that need the head's weights are left out" in printed
    assert "exemplar_scores" not in printed
    run = Run(tmp_path / "run")
    assert np.isnan(run.statistics(3).initial_means).all()
    assert not np.isnan(run.statistics(3).current_means[:4]).any()
    assert set(results_table(run)["method"]) & {"FT", "IL2M"} == {"FT"}


@pytest.mark.parametrize(
    ("state", "arrays", "message"),
    [
        (2, {"val_scores": None}, r"method 2\.npz: no val_scores; found \["),
        (2, {"state_sizes": None}, "no state_sizes"),
        (2, {"state_sizes": [2, 0]}, "expected each state's number of classes"),
        (2, {"state_sizes": [3, 1]}, r"state_sizes \[3, 1\] disagree with another file's \[2, 2, 2\]"),
        (2, {"val_scores": np.zeros((20, 5))}, "val_scores has 5 columns, but no state has as many classes"),
        (2, {"val_scores": np.zeros((10, 2))}, "method 1.npz is of the same state"),
        (2, {"val_scores": np.zeros(20)}, r"val_scores has shape \(20,\)"),
        (2, {"val_scores": np.zeros((19, 4))}, r"state 2: val_scores has shape \(19, 4\); expected \(20, 4\)"),
        (2, {"val_scores": np.full((20, 4), np.nan)}, "val_scores holds values that are not finite numbers"),
        (2, {"val_scores": np.full((20, 4), 1e300)}, "val_scores holds values that are not finite numbers"),
        (3, {"val_labels": np.zeros(0, dtype=int), "val_scores": np.zeros((0, 6))}, "state 3: val_labels is empty"),
        (3, {"new_score": np.zeros((24, 6))}, r"method 3\.npz: unknown array 'new_score': did you mean 'new_scores'\?"),
        (2, {"val_labels": np.full(20, 4)}, r"val_labels: state 2: 20 labels are out of range.*expected 0\.\.3"),
        (2, {"val_labels": np.full(20, 0.5)}, "val_labels is float64 .* expected whole numbers"),
        (2, {"val_labels": np.full(20, np.inf)}, "val_labels is float64 .* expected whole numbers"),
        (3, {"exemplar_labels": np.zeros(12, dtype=int)}, r"3 class\(es\) have no exemplar rows, as .*\[1, 2, 3\]"),
        (3, {"new_labels": np.full(24, 4)}, r"1 class\(es\) have no training rows, as \[5\]"),
        (3, {"exemplar_labels": None}, "exemplar_scores or exemplar_features, but no exemplar_labels"),
        (3, {"head_bias": None}, "only of use together"),
        (3, {"head_weight": np.zeros((6, 3))}, "different widths"),
        (3, {"head_bias": np.zeros(5)}, r"head_bias has shape \(5,\); expected \(6,\)"),
        (3, {"val_features": np.float32(1)}, r"state 3: val_features has shape \(\)"),
    ],
)
def test_what_is_wrong_with_npz_is_named(npz: list[Path], tmp_path: Path, state: int, arrays: dict, message: str):
    change(npz[state - 1], **arrays)
    with pytest.raises(InputError, match=message):
        import_scores(npz, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "so that corrected files are not refused"


def test_files_that_are_no_npz_or_not_all_there(npz: list[Path], tmp_path: Path):
    with pytest.raises(InputError, match=r"no file of state\(s\) \[2\]"):
        import_scores([npz[0], npz[2]], tmp_path / "run")
    with pytest.raises(InputError, match=r"2 files are missing: a\.npz, b\.npz"):
        import_scores(["a.npz", npz[0], "b.npz"], tmp_path / "run")
    npz[1].write_bytes(npz[1].read_bytes()[:500])
    with pytest.raises(InputError, match=r"method 2\.npz: not a readable \.npz"):
        import_scores(npz, tmp_path / "run")
    np.savez(npz[1], val_scores=np.array([{}], dtype=object), val_labels=[0], state_sizes=[2, 2])
    with pytest.raises(InputError, match=r"not a readable \.npz file of plain arrays: .*holds Python objects"):
        import_scores(npz, tmp_path / "run")
    npz[1].write_text("no archive")
    with pytest.raises(InputError, match=r"or is no \.npz at all") as error:
        import_scores(npz, tmp_path / "run")
    assert "allow_pickle" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"), [("1 2 3 4 5", "line 3: 5 scores; expected 6"), ("1 2 3 4 5 1e99", "beyond float32's range")]
)
def test_rejected_files_make_no_run(files: AuthorsFiles, tmp_path: Path, line: str, message: str):
    path = files.pairs(3)["val"][1]
    good = path.read_text()
    lines = good.splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(InputError, match=message):
        import_authors_files(files, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path.write_text(good)
    assert import_authors_files(files, tmp_path / "run").missing_states == []


def test_commands_export_rectify_and_make_a_run(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["export-scores", str(tiny_study.off.folder), str(tmp_path / "out")]) == 0
    arguments = capsys.readouterr().out.splitlines()[-1].split()
    assert arguments[3:] == ["tiny", "3", "2", "12"]
    assert main(["rectify", *arguments, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "a" / "b.json")]) == 0
    assert accuracies(Run(tmp_path / "run")) == accuracies(tiny_study.off)
    written = json.loads((tmp_path / "a" / "b.json").read_text())
    assert written["IL2M"]["top1"] == [100 * v for v in accuracies(tiny_study.off)["IL2M"]["top1"]]
    assert main(["rectify", *arguments[:-1], "13"]) == 2
    assert "files are missing" in capsys.readouterr().err


def test_scores_come_in_and_go_out_without_torch():
    code = "import il2m.exchange.importing, il2m.exchange.exporting, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_under_other_names_and_in_another_order_are_the_same_run(npz: list[Path], tmp_path: Path):
    first = import_scores(npz, tmp_path / "study" / "first")
    others = [path.rename(path.with_name(f"{letter}.npz")) for letter, path in zip("zab", npz, strict=True)]
    again = import_scores(iter(sorted(others)), tmp_path / "study" / "again")
    assert again.identity == first.identity
    for state in (1, 2, 3):
        assert again.state(state).info["second_memory"] == first.state(state).info["second_memory"]
        for name in first.state(state).array_names:
            np.testing.assert_array_equal(again.state(state).array(name), first.state(state).array(name))
    assert accuracies(again) == accuracies(first)
