"""Scores in the authors' layout and from other code: the authors' numbers, there and back again, and what is wrong."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny import PROJECT, TinyStudy

from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.importing import import_authors_files, import_scores
from il2m.exchange.score_files import AuthorsFiles, authors_files, ranks_before_and_after, rectify_files
from il2m.memory.statistics import ClassStatistics
from il2m.methods.rectify import rectify
from il2m.results.metrics import ranks
from il2m.results.table import results_table, series
from il2m.study.find import find_runs, open_run
from il2m.study.runs import Run

REFERENCE = PROJECT.parent / "shared" / "reference"


@pytest.fixture(scope="module")
def exported(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> AuthorsFiles:
    return export_scores(tiny_study.off, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def files(exported: AuthorsFiles, tmp_path: Path) -> AuthorsFiles:
    """A copy to damage: 3 states of 2 classes, K = 12."""
    shutil.copytree(exported.lists.parent, tmp_path / "copy")
    roots = (tmp_path / "copy" / root.name for root in (exported.lists, exported.scores, exported.first_scores))
    return AuthorsFiles(*roots, exported.dataset, exported.states, exported.memory_size)


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


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference run of the authors' script is not here")
@pytest.mark.parametrize("undefined", ["keep", "as-published", "raise"])
def test_the_authors_script_on_its_reference_run(tmp_path: Path, capsys: pytest.CaptureFixture, undefined: str):
    with tarfile.open(REFERENCE / "glyphs_s5_k200.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    roots = [str(tmp_path / name) for name in ("images_list_files", "scores", "scores_first_batch")]
    arguments = [*roots, "glyphs", "5", "10", "200", "--undefined", undefined, "--json", str(tmp_path / "out.json")]
    assert main(["rectify", *arguments]) == 0
    expected = json.loads((REFERENCE / "expected.json").read_text())
    found = json.loads((tmp_path / "out.json").read_text())
    for method in ("FT", "IL2M"):
        for top in ("top1", "top5"):
            np.testing.assert_allclose(found[method][top], expected[method][top], rtol=0, atol=1e-4)
    printed = capsys.readouterr().out
    assert "[b3] IL2M  | Val : acc@1 = 51.5333% ; acc@5 = 84.2667%" in printed
    assert "Top1 Acc = [0.732, 0.554, 0.5153, 0.413, 0.3156]" in printed
    assert "Mean inc Acc | acc@1 = 0.4495 | acc@5 = 0.8045" in printed


def test_ranks_block_by_block_are_those_of_the_whole():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(5, 1, size=(40, 6)), rng.integers(0, 6, 40)
    statistics = ClassStatistics(*rng.uniform(1, 3, (2, 6)), rng.uniform(1, 2, 3), np.repeat([1, 2, 3], 2))
    before, after = ranks_before_and_after(
        ((scores[i : i + 7], labels[i : i + 7]) for i in range(0, 40, 7)), statistics
    )
    np.testing.assert_array_equal(before, ranks(scores, labels))
    np.testing.assert_array_equal(after, ranks(rectify(scores, statistics), labels))
    assert (before != after).any()


def test_an_exported_run_gives_its_own_numbers(tiny_study: TinyStudy, exported: AuthorsFiles):
    for undefined in ("keep", "as-published"):
        summary, own = rectify_files(exported, undefined=undefined), results_table(tiny_study.off, undefined=undefined)
        for method in ("FT", "IL2M"):
            assert summary.top1[method] == series(own, method)
            assert summary.top5[method] == series(own, method, "top5")
    softmax = rectify_files(exported, score_kind="softmax")
    assert softmax.top1["IL2M"] == series(results_table(tiny_study.off), "IL2M", score_kind="softmax")
    assert softmax.percent()["IL2M"]["top1"] == [100 * v for v in softmax.top1["IL2M"]]


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
    assert [found.name for found in find_runs(tmp_path / "study")] == ["again"]
    with pytest.raises(InputError, match=r"no new_features\.npy.*can't be exported"):
        export_scores(run, tmp_path / "out")


def test_imported_npz_make_a_run_with_the_same_numbers(tiny_study: TinyStudy, npz: list[Path], tmp_path: Path):
    run = import_scores(npz[::-1], tmp_path / "study" / "mine")
    assert run.config["missing"] == []
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
        (2, {"val_labels": np.zeros(20)}, "val_labels is float64"),
        (
            3,
            {"exemplar_labels": np.zeros(12, dtype=int)},
            r"3 past class\(es\) have no exemplar rows, among .*\[1, 2, 3\]",
        ),
        (3, {"new_labels": np.full(24, 4)}, r"1 class\(es\) have no training rows, among them \[5\]"),
        (3, {"exemplar_labels": None}, "exemplar_scores or exemplar_features, but no exemplar_labels"),
        (3, {"head_bias": None}, "only of use together"),
        (3, {"head_weight": np.zeros((6, 3))}, "different widths"),
        (3, {"head_bias": np.zeros(5)}, r"head_bias has shape \(5,\); expected \(6,\)"),
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


def test_all_missing_files_are_named_at_once(files: AuthorsFiles):
    gone = [files.pairs(2)["old"][0], files.pairs(3)["val"][1], files.pairs(1)["new"][0]]
    for path in gone:
        path.unlink()
    with pytest.raises(InputError, match="3 of 16 files are missing") as error:
        rectify_files(files)
    assert all(str(path) in str(error.value) for path in gone)


def edit(path: Path, **lines: str | None) -> None:
    """Replace lines (``line_3="..."``), or take them out (None)."""
    found: list[str | None] = path.read_text().splitlines()
    for name, text in lines.items():
        found[int(name.removeprefix("line_")) - 1] = text
    path.write_text("".join(f"{line}\n" for line in found if line is not None))


@pytest.mark.parametrize(
    ("state", "part", "which", "lines", "message"),
    [
        (2, "val", 1, {"line_3": None}, r"state 2: .*scores has 19 rows of scores, but .*batch2 20 images"),
        (3, "new", 0, {"line_3": None}, r"state 3: .*scores has 24 rows of scores, but .*3_new 23 images"),
        (2, "val", 1, {"line_3": "1 2 3"}, "line 3: 3 scores; expected 4"),
        (2, "old", 1, {"line_2": "1 2 3 x"}, "line 2: a score is not a number"),
        (1, "val", 1, {"line_9": "1 nan"}, "line 9: the score of class 1 is nan"),
        (3, "new", 1, {"line_9": "1 2 3 4 5 inf"}, "line 9: the score of class 5 is inf"),
        (
            2,
            "val",
            0,
            {"line_4": "b.png 4"},
            r"1 labels are out of range, .* 4, of image 4 \(b\.png\); expected 0\.\.3",
        ),
        (2, "new", 0, {"line_1": "b.png 1"}, r"state 2: 1 labels are out of range.*expected 2\.\.3"),
        (2, "old", 0, {"line_1": "b.png -1"}, r"out of range.*expected 0\.\.1"),
        (
            3,
            "old",
            0,
            {f"line_{i}": f"{i}.png 0" for i in range(1, 4 * 3 + 1)},
            r"3 past class\(es\) have no exemplar rows",
        ),
        (1, "new", 0, {f"line_{i}": f"{i}.png 0" for i in range(1, 25)}, r"1 class\(es\) have no training rows.*\[1\]"),
    ],
)
def test_what_is_wrong_with_files_is_named(files: AuthorsFiles, state, part, which, lines, message):
    edit(files.pairs(state)[part][which], **lines)
    with pytest.raises(InputError, match=message):
        rectify_files(files)


@pytest.mark.parametrize(
    ("line", "message"), [("1 2 3 4 5", "line 3: 5 scores; expected 6"), ("1 2 3 4 5 1e99", "beyond float32's range")]
)
def test_rejected_files_make_no_run(files: AuthorsFiles, tmp_path: Path, line: str, message: str):
    path = files.pairs(3)["val"][1]
    good = path.read_text()
    edit(path, line_3=line)
    with pytest.raises(InputError, match=message):
        import_authors_files(files, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path.write_text(good)
    assert import_authors_files(files, tmp_path / "run").missing_states == []


def test_empty_files_and_crlf_and_repeated_images(files: AuthorsFiles):
    expected = rectify_files(files)
    for pair in files.pairs(2).values():
        for path in pair:
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert rectify_files(files) == expected
    new = files.pairs(2)["new"][0]
    edit(new, line_2=new.read_text().splitlines()[0])
    assert any("1 images occur more than once" in note for note in rectify_files(files).notes)
    files.pairs(2)["val"][1].write_text("")
    with pytest.raises(InputError, match="the score file is empty; expected 4 numbers per line"):
        rectify_files(files)


def test_undefined_means_are_counted_or_raised(files: AuthorsFiles):
    for state in (1, 2, 3):  # all scores negative: no mean is positive
        for _, path in files.pairs(state).values():
            rows = [" ".join(str(-abs(float(w)) - 1) for w in line.split()) for line in path.read_text().splitlines()]
            path.write_text("\n".join(rows))
    summary = rectify_files(files)
    assert summary.top1["FT"] == summary.top1["IL2M"]
    assert "a mean score is not positive for 4 of 4 past classes; their scores are left alone" in summary.notes[-1]
    with pytest.raises(InputError, match="state 2: the rectification of class"):
        rectify_files(files, undefined="raise")
    assert "rectified all the same" in rectify_files(files, undefined="as-published").notes[-1]


def test_a_base_is_not_exported(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["export-scores", str(tiny_study.base.folder), str(tmp_path / "out")]) == 2
    assert f"{tiny_study.base.folder} is a base, not a fine-tuning run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_states_that_do_not_fit_the_files(exported: AuthorsFiles):
    roots = (exported.lists, exported.scores, exported.first_scores, exported.dataset)
    unequal = authors_files(*roots, 3, (2, 2, 2), 12)
    assert unequal == authors_files(*roots, 3, (2,), 12) == exported
    for num_states, sizes in ((0, (2,)), (3, (2, 2)), (3, (0,))):
        with pytest.raises(InputError, match="expected the number of states"):
            authors_files(*roots, num_states, sizes, 12)
    with pytest.raises(InputError, match="K = 0: expected the size of the memory, a whole number of at least 1"):
        authors_files(*roots, 3, (2,), 0)
    with pytest.raises(InputError, match=r"out of range.*expected 0\.\.0"):
        rectify_files(authors_files(*roots, 3, (1,), 12))


def test_commands_export_rectify_and_make_a_run(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["export-scores", str(tiny_study.off.folder), str(tmp_path / "out")]) == 0
    arguments = capsys.readouterr().out.splitlines()[-1].split()
    assert arguments[3:] == ["tiny", "3", "2", "12"]
    assert main(["rectify", *arguments, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "a" / "b.json")]) == 0
    assert accuracies(Run(tmp_path / "run")) == accuracies(tiny_study.off)
    found = json.loads((tmp_path / "a" / "b.json").read_text())
    assert found["IL2M"]["top1"] == [100 * v for v in accuracies(tiny_study.off)["IL2M"]["top1"]]
    assert main(["rectify", *arguments[:-1], "13"]) == 2
    assert "files are missing" in capsys.readouterr().err
