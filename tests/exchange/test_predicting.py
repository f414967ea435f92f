"""What a network takes image files for: what it took them for when it was validated, and with IL2M."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image
from tiny import TinyStudy, import_states

import il2m
from il2m.cli import main
from il2m.errors import InputError
from il2m.exchange.predicting import predict
from il2m.methods.rectify import count_undefined
from il2m.study.planning import load_images
from il2m.study.runs import Run


def check_predictions(table: pd.DataFrame, run: Run, state: int, place: dict[str, int]) -> None:
    """Against the scores that the run stored. place: path of an image -> its row in them."""
    for method in {"FT", "IL2M"} & {*table.columns}:
        stored = il2m.method_scores(run, state, method)
        for path, rows in table.groupby("image", sort=False):
            scores, most = stored[place[path]], min(5, stored.shape[1])
            assert rows["rank"].tolist() == [*range(1, most + 1)]
            best = np.argsort(-scores)[:most]
            np.testing.assert_allclose(rows[f"{method} score"], scores[best], rtol=1e-4, atol=1e-5)
            assert rows[method].tolist() == [run.class_names[label] for label in best]
    assert table["image"].unique().tolist() == [*place]


@pytest.fixture(scope="module")
def pictures(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The validation images of the last state as files: path -> place."""
    folder = tmp_path_factory.mktemp("pictures")
    images = load_images(tiny_study.off, ".").val_images[tiny_study.off.state(3).array("val_indices")]
    for place, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{place:03d}.png")
    return {str(folder / f"{place:03d}.png"): place for place in range(len(images))}


def test_images_of_a_run_of_arrays_get_the_scores_they_were_validated_with(tiny_study: TinyStudy, pictures):
    for run in (tiny_study.off, tiny_study.on):
        check_predictions(predict(run, pictures), run, 3, pictures)


def test_that_il2m_leaves_classes_alone_is_told(tiny_study: TinyStudy, pictures):
    bad = count_undefined(tiny_study.off.statistics(3))
    assert bad
    with pytest.warns(UserWarning, match=f"^IL2M on raw scores: {bad} of 4 past classes undefined .*left alone"):
        predict(tiny_study.off, pictures)
    with warnings.catch_warnings(action="error"):
        predict(tiny_study.off, pictures, method="FT")


def test_an_earlier_state_knows_fewer_classes(tiny_study: TinyStudy, pictures):
    of_state = {path: place for path, place in pictures.items() if place < 20}
    labels = tiny_study.off.state(3).array("val_labels")
    earlier = tiny_study.off.state(2)
    known = [path for path, place in of_state.items() if labels[place] < 4]
    indices = earlier.array("val_indices").tolist()
    place = {path: indices.index(tiny_study.off.state(3).array("val_indices")[pictures[path]]) for path in known}
    table = predict(tiny_study.off, known, state=2, method="FT")
    assert [*table.columns] == ["image", "rank", "FT", "FT score"]
    check_predictions(table, tiny_study.off, 2, place)


def test_images_of_other_sizes_and_modes_are_brought_to_those_of_the_run(tiny_study: TinyStudy, pictures, tmp_path):
    first = next(iter(pictures))
    image = Image.open(first)
    wide = Image.new("L", (12, 8))  # two more columns at each side, which are cut off
    wide.paste(image, (2, 0))
    wide.save(tmp_path / "wide.png")
    image.convert("RGB").save(tmp_path / "colour.bmp")
    tables = [predict(tiny_study.off, [path]) for path in (first, tmp_path / "wide.png", tmp_path / "colour.bmp")]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table.drop(columns="image"), tables[0].drop(columns="image"))


def test_images_of_a_run_of_files_are_seen_as_they_were_validated(run_of_files: Run):
    source = Path(run_of_files.config["source"].removeprefix("folder:"))
    files = load_images(run_of_files, ".", num_workers=0).val_images[run_of_files.state(2).array("val_indices")]
    place = {str(Path(path).resolve()): i for i, path in enumerate(files.paths)}
    found = [str(path.resolve()) for path in sorted((source / "val").rglob("*.png"))]
    check_predictions(predict(run_of_files, [source / "val"]), run_of_files, 2, {path: place[path] for path in found})


def test_images_are_turned_if_those_that_were_validated_were(tmp_path, run_of_files: Run):
    source, parameters = tmp_path / "images", {"num_workers": 0, "batch_size": 4, "device": "cpu"}
    shutil.copytree(Path(run_of_files.config["source"].removeprefix("folder:")), source)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    for path in source.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    for setting in ("off", "auto"):
        out = str(tmp_path / setting)
        asked = {"dataset": f"folder:{source}", "image_size": 8, "exif_rotation": setting}
        il2m.train_base(num_states=2, out_dir=out, base_epochs=1, **asked, **parameters)
        run = il2m.fine_tune(out_dir=out, memory_size=4, epochs=1, **parameters)
        files = load_images(run, ".", num_workers=0).val_images[run.state(2).array("val_indices")]
        check_predictions(predict(run, files.paths), run, 2, {path: i for i, path in enumerate(files.paths.tolist())})


def test_folders_are_followed_where_they_are_links_and_hidden_files_passed_over(tiny_study, pictures, tmp_path):
    first, second = [*pictures][:2]
    (tmp_path / "of links").mkdir()
    (tmp_path / "of links" / "class").symlink_to(Path(first).parent)
    (tmp_path / "of links" / "._0.png").write_text("what macOS leaves")
    (tmp_path / "of links" / "notes.txt").write_text("no image")
    (tmp_path / "of links" / "folder.png").mkdir()
    with pytest.warns(UserWarning, match="1 files are no images by their names, and left out:\n  .*notes.txt"):
        table = predict(tiny_study.off, str(tmp_path / "of links"))
    assert table["image"].nunique() == len(pictures)
    alone, another = predict(tiny_study.off, first), predict(tiny_study.off, Path(second))
    both = predict(tiny_study.off, [first, second])
    pd.testing.assert_frame_equal(pd.concat([alone, another], ignore_index=True), both)


def test_more_images_than_are_scored_at_a_time(tiny_study: TinyStudy, pictures):
    many = [path for _ in range(5) for path in pictures]
    table = predict(tiny_study.off, many)
    assert len(table) == 5 * len(many)
    first = table.head(5 * len(pictures))
    for start in range(0, len(table), len(first)):
        again = table.iloc[start : start + len(first)].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, first)


def test_a_run_is_named_from_within_its_folder(tiny_study: TinyStudy, pictures, monkeypatch):
    monkeypatch.chdir(tiny_study.off.folder)
    first = next(iter(pictures))
    pd.testing.assert_frame_equal(predict(".", [first]), predict(tiny_study.off, [first]))


def test_a_network_of_ones_own_comes_from_a_plugin(
    tmp_path, tiny_base_parameters, tiny_fine_tuning_parameters, pictures
):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from torch import nn\nimport il2m\n\n"
        "def flat(in_channels):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8))\n\n"
        "il2m.register_network('flat', flat)\n"
    )
    train = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mine, il2m\n"
        f"il2m.train_base(out_dir={str(tmp_path / 'out')!r}, **{tiny_base_parameters | {'network': 'flat'}!r})\n"
        f"il2m.fine_tune(out_dir={str(tmp_path / 'out')!r}, **{tiny_fine_tuning_parameters!r})\n"
    )
    subprocess.run([sys.executable, "-c", train], check=True)
    command = [sys.executable, "-m", "il2m.cli", "predict", str(tmp_path / "out"), next(iter(pictures))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "'flat', which is not registered here" in result.stderr
    result = subprocess.run([*command, "--plugin", str(plugin)], capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 6, result.stderr


def test_the_command_prints_csv(tiny_study: TinyStudy, pictures, capsys):
    paths = [*pictures][:2]
    assert main(["predict", str(tiny_study.off.folder), *paths, "--state", "3"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert [*table.columns] == ["image", "rank", "FT", "FT score", "IL2M", "IL2M score"]
    check_predictions(table, tiny_study.off, 3, {path: pictures[path] for path in paths})


def test_what_gives_no_prediction_is_refused(tiny_study: TinyStudy, pictures, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "text.png").write_text("no image")
    imported = import_states(tiny_study.off, tmp_path / "imported")
    first = next(iter(pictures))
    for run, images, state, said in (
        (tiny_study.off, [tmp_path / "none"], None, "none/\\*"),
        (tiny_study.off, [first, tmp_path / "gone.png"], None, "gone.png"),
        (tiny_study.off, [first, tmp_path / "text.png"], None, "text.png: no image of a format"),
        (tiny_study.off, [first], 4, "state = 4: expected"),
        (tiny_study.off, [first], 0, "state = 0: expected"),
        (tiny_study.off, [], None, "none given"),
        (imported, [first], None, "imported, or of before 0.2: it does not say of what size"),
    ):
        with pytest.raises(InputError, match=said):
            predict(run, images, state=state)
    assert main(["predict", str(tiny_study.off.folder), str(tmp_path / "gone.png")]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "gone.png" in said.err
