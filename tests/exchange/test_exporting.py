"""Scores out: an exported run gives the numbers that it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import TinyStudy, rewrite_checked

from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.score_files import AuthorsFiles, rectify_files
from il2m.results.table import results_table, series
from il2m.study.runs import Run


def test_an_exported_run_gives_its_own_numbers(tiny_study: TinyStudy, exported: AuthorsFiles):
    for undefined in ("keep", "as-published"):
        summary, own = rectify_files(exported, undefined=undefined), results_table(tiny_study.off, undefined=undefined)
        for method in ("FT", "IL2M"):
            assert summary.top1[method] == series(own, method)
            assert summary.top5[method] == series(own, method, "top5")
    softmax = rectify_files(exported, score_kind="softmax")
    assert softmax.top1["IL2M"] == series(results_table(tiny_study.off), "IL2M", score_kind="softmax")
    assert softmax.percent()["IL2M"]["top1"] == [100 * v for v in softmax.top1["IL2M"]]


def test_training_images_keep_their_own_and_highest_scores_exactly(tiny_study: TinyStudy, exported: AuthorsFiles):
    for state in (1, 2, 3):
        stored = tiny_study.off.state(state)
        images, blocks = exported.read(state, "new")
        scores, labels = map(np.concatenate, zip(*blocks, strict=True))
        np.testing.assert_array_equal(labels, stored.array("new_labels"))
        np.testing.assert_array_equal(scores[np.arange(len(images)), labels], stored.array("new_own_scores"))
        np.testing.assert_array_equal(scores.max(axis=1), stored.array("new_top_scores"))


@pytest.mark.parametrize("name", ["../../x", "..", "/x", "a\\b", "a\nb", "a\x1b[2J", "\ud800", "x" * 201])
def test_a_data_set_named_like_a_path_stays_in_its_folder(tiny_study: TinyStudy, tmp_path: Path, name: str):
    shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    run = tmp_path / "study" / tiny_study.off.name
    rewrite_checked(run / "config.json", json.loads((run / "config.json").read_text()) | {"dataset": name})
    with pytest.raises(InputError, match=r"its data set \(to name another, --name\) .* can't name a file or folder"):
        export_scores(Run(run), tmp_path / "a" / "b" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    assert export_scores(Run(run), tmp_path / "out", name="tiny").dataset == "tiny"


def test_an_array_of_images_has_no_paths(tiny_study: TinyStudy, tmp_path: Path):
    with pytest.raises(InputError, match="is of an array of images, which have no paths"):
        export_scores(tiny_study.off, tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_base_is_not_exported(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["export-scores", str(tiny_study.base.folder), str(tmp_path / "out")]) == 2
    assert f"{tiny_study.base.folder} is a base, not a fine-tuning run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
