"""The authors' files: their script's numbers, and what is wrong with lists and scores."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import PROJECT

from il2m.cli import main
from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.score_files import AuthorsFiles, authors_files, ranks_before_and_after, rectify_files
from il2m.memory.statistics import ClassStatistics, class_means, own_and_top
from il2m.methods.rectify import PARTS, rectify
from il2m.results.metrics import ranks, top_k

REFERENCE = PROJECT.parent / "shared" / "reference"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists, scores and printed results of a run of the authors' script."""
    if not REFERENCE.is_dir():
        pytest.skip("the authors' script's reference run is not here")
    folder = tmp_path_factory.mktemp("reference")
    with tarfile.open(REFERENCE / "glyphs_s5_k200.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def read_scores(path: Path) -> np.ndarray:
    return pd.read_csv(path, sep=" ", header=None).to_numpy()


def read_labels(path: Path) -> np.ndarray:
    return np.array([int(line.rsplit(maxsplit=1)[-1]) for line in path.read_text().splitlines()])


def test_eq_1_agrees_with_the_authors_script(reference: Path):
    """Its printed top-1 and top-5 at all five states, for fine-tuning and IL2M, to 0.0001 percentage points."""
    states = States((10,) * 5)
    lists, scores = reference / "images_list_files/glyphs/S~5", reference / "scores/glyphs/S~5/K~200"
    first = reference / "scores_first_batch/glyphs/S~5"
    initial, confidences = [], []
    printed = {"FT": {"top1": [], "top5": []}, "IL2M": {"top1": [], "top5": []}}
    for state in range(1, 6):
        if state == 1:
            new_scores, val_scores = read_scores(first / "train/scores"), read_scores(first / "val/scores")
            new_labels, val_labels = read_labels(lists / "batch1/train.lst"), read_labels(lists / "batch1/val.lst")
        else:
            new_scores = read_scores(scores / f"train/batch{state}_new/scores")
            val_scores = read_scores(scores / f"val/batch{state}/scores")
            new_labels = read_labels(lists / f"unbalanced/train/K~200/{state}_new")
            val_labels = read_labels(lists / f"accumulated/val/batch{state}")
        own, top = own_and_top(new_scores, new_labels)
        new_means = class_means(own, new_labels, states.num_seen(state))[states.num_past(state) :]
        initial = np.concatenate([initial, new_means])
        confidences.append(top.mean())
        current = initial.copy()
        if state > 1:
            exemplar_labels = read_labels(lists / f"unbalanced/train/K~200/{state}_old")
            own, _ = own_and_top(read_scores(scores / f"train/batch{state}_old/scores"), exemplar_labels)
            current[: states.num_past(state)] = class_means(own, exemplar_labels, states.num_past(state))
        state_of_class = states.of_class[: states.num_seen(state)]
        statistics = ClassStatistics(initial, current, np.array(confidences), state_of_class)
        for method, by_k in printed.items():
            rectified = rectify(val_scores, statistics, undefined="as-published", **PARTS[method])
            for k in (1, 5):
                by_k[f"top{k}"].append(100 * top_k(ranks(rectified, val_labels), k))
    expected = json.loads((REFERENCE / "expected.json").read_text())
    for method, by_k in expected.items():
        for name, values in by_k.items():
            np.testing.assert_allclose(printed[method][name], values, rtol=0, atol=1e-4, err_msg=f"{method} {name}")


@pytest.mark.parametrize("undefined", ["keep", "as-published", "raise"])
def test_the_command_agrees_with_the_authors_script(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture, undefined: str
):
    roots = [str(reference / name) for name in ("images_list_files", "scores", "scores_first_batch")]
    arguments = [*roots, "glyphs", "5", "10", "200", "--undefined", undefined, "--json", str(tmp_path / "out.json")]
    assert main(["rectify", *arguments]) == 0
    expected = json.loads((REFERENCE / "expected.json").read_text())
    written = json.loads((tmp_path / "out.json").read_text())
    for method in ("FT", "IL2M"):
        for top in ("top1", "top5"):
            np.testing.assert_allclose(written[method][top], expected[method][top], rtol=0, atol=1e-4)
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


def test_all_missing_files_are_named_at_once(files: AuthorsFiles):
    gone = [files.pairs(2)["exemplar"][0], files.pairs(3)["val"][1], files.pairs(1)["new"][0]]
    for path in gone:
        path.unlink()
    with pytest.raises(InputError, match="3 of 16 files are missing") as error:
        rectify_files(files)
    assert all(str(path) in str(error.value) for path in gone)


def edit(path: Path, **lines: str | None) -> None:
    """Replace lines (``line_3="..."``), or take them out (None)."""
    edited: list[str | None] = path.read_text().splitlines()
    for name, text in lines.items():
        edited[int(name.removeprefix("line_")) - 1] = text
    path.write_text("".join(f"{line}\n" for line in edited if line is not None))


@pytest.mark.parametrize(
    ("state", "part", "which", "lines", "message"),
    [
        (2, "val", 1, {"line_3": None}, r"state 2: .*scores has 19 rows of scores, but .*batch2 20 images"),
        (3, "new", 0, {"line_3": None}, r"state 3: .*scores has 24 rows of scores, but .*3_new 23 images"),
        (2, "val", 1, {"line_3": "1 2 3"}, "line 3: 3 scores; expected 4"),
        (2, "exemplar", 1, {"line_2": "1 2 3 x"}, "line 2: a score is not a number"),
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
        (2, "exemplar", 0, {"line_1": "b.png -1"}, r"out of range.*expected 0\.\.1"),
        (
            3,
            "exemplar",
            0,
            {f"line_{i}": f"{i}.png 0" for i in range(1, 4 * 3 + 1)},
            r"3 class\(es\) have no exemplar rows",
        ),
        (1, "new", 0, {f"line_{i}": f"{i}.png 0" for i in range(1, 25)}, r"1 class\(es\) have no training rows.*\[1\]"),
    ],
)
def test_what_is_wrong_with_files_is_named(files: AuthorsFiles, state, part, which, lines, message):
    edit(files.pairs(state)[part][which], **lines)
    with pytest.raises(InputError, match=message):
        rectify_files(files)


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
    assert "6 of 6 past classes undefined (state 2, 3: a mean score" in summary.notes[-1]
    assert "left alone: IL2M does nothing; to try: score_kind = softmax" in str(summary)
    with pytest.raises(InputError, match="state 2: the rectification of class"):
        rectify_files(files, undefined="raise")
    with pytest.raises(InputError, match=r"score_kind = 'soft-max': .* did you mean 'softmax'\?"):
        rectify_files(files, score_kind="soft-max")
    assert "multiplied anyway" in rectify_files(files, undefined="as-published").notes[-1]


def test_states_that_do_not_fit_the_files(exported: AuthorsFiles):
    roots = (exported.lists, exported.scores, exported.first_scores, exported.dataset)
    unequal = authors_files(*roots, 3, (2, 2, 2), 12)
    assert unequal == authors_files(*roots, 3, (2,), 12) == exported
    for num_states, sizes in ((0, (2,)), (3, (2, 2)), (3, (0,))):
        with pytest.raises(InputError, match="expected the number of states"):
            authors_files(*roots, num_states, sizes, 12)
    for num_states, sizes in ((10**9, (1,)), (10**6, (1,) * 10**6), (3, (10**30,))):  # before anything is allocated
        with pytest.raises(InputError, match=r"classes in all; expected at most 100000\. Check S and P"):
            authors_files(*roots, num_states, sizes, 12)
    with pytest.raises(InputError, match="K = 0: expected the size of the memory, a whole number of at least 1"):
        authors_files(*roots, 3, (2,), 0)
    with pytest.raises(InputError, match=r"out of range.*expected 0\.\.0"):
        rectify_files(authors_files(*roots, 3, (1,), 12))
