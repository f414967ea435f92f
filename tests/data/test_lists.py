"""Folders and lists of image files as data, and a short study of real JPEG and PNG files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from il2m.authors.formats import ListLayout, read_image_list, write_image_list
from il2m.cli import main
from il2m.data.file_batches import images_mean_std
from il2m.data.image_files import ImageFiles
from il2m.data.lists import given_exemplars, load_folder
from il2m.data.sources import load_dataset
from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.prepare import make_lists
from il2m.exchange.score_files import rectify_files
from il2m.results.table import results_table, series
from il2m.study.planning import images_to_train_on, plan_base, plan_fine_tuning
from il2m.study.stages import fine_tune, train_base

CLASSES = ["apple", "bear", "bus", "camel", "clock", "wolf"]
TRAIN, VAL = 8, 3  # images per class


def test_a_folder_of_class_folders_is_split_the_same_way_each_time(tree: Path):
    data, again = (load_folder(tree / "train") for _ in range(2))
    assert data.class_names == tuple(CLASSES)
    assert np.bincount(data.val_labels).tolist() == [2] * 6
    assert not set(data.train_images.paths.tolist()) & set(data.val_images.paths.tolist())
    assert data.fingerprint == again.fingerprint != load_folder(tree).fingerprint
    assert data.train_images.shape == (36, 224, 224, 3)


def test_a_fingerprint_is_of_the_images_and_not_of_their_place(tree: Path, damaged: Path):
    before = load_folder(damaged).fingerprint
    assert before == load_folder(tree).fingerprint
    with (damaged / "val" / "bus" / "bus 08.JPEG").open("ab") as file:
        file.write(b"!")
    assert load_folder(damaged).fingerprint != before


def test_what_is_wrong_with_a_folder_is_named(damaged: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no class folders; expected one folder per class"):
        load_dataset(f"folder:{tmp_path / 'empty'}", tmp_path)
    shutil.rmtree(damaged / "val" / "wolf")
    with pytest.raises(InputError, match=r"train/ and val/ differ in 1 class folders, first \['wolf'\]"):
        load_dataset(f"folder:{damaged}", tmp_path)
    (damaged / "val" / "wolf").mkdir()
    with pytest.raises(InputError, match=r"no image in the class folder\(s\) \['wolf'\]"):
        load_dataset(f"folder:{damaged}", tmp_path)


def test_lists_of_a_folder(tree: Path, lists: Path):
    assert lists.name == "S~3"
    names = (lists / "classes.txt").read_text().split()
    assert sorted(names) == CLASSES
    assert names != CLASSES  # the class order is a shuffle
    layout = ListLayout(lists)
    for state in (1, 2, 3):
        new, val = read_image_list(layout.train(state, 8, "new")), read_image_list(layout.val(state, "accumulated"))
        assert set(new.labels) == {2 * state - 2, 2 * state - 1}
        assert len(new) == 2 * TRAIN
        assert len(val) == 2 * VAL * state
        assert set(read_image_list(layout.val(state, "separated")).images) <= set(val.images)
        for image, label in zip(new.images, new.labels, strict=True):
            assert Path(image).parent == tree / "train" / names[label]
    kept = {k: [read_image_list(layout.train(b, k, "old")) for b in (2, 3)] for k in (8, 4)}
    assert [np.bincount(old.labels).tolist() for old in kept[8]] == [[4, 4], [2, 2, 2, 2]]
    assert [np.bincount(old.labels).tolist() for old in kept[4]] == [[2, 2], [1, 1, 1, 1]]
    assert set(kept[8][1].images[:4]) <= set(kept[8][0].images)  # what is kept later is a part of what was kept


def test_lists_of_plain_lists(lists: Path, tree: Path, tmp_path: Path):
    images = load_folder(tree)
    for part, files, labels in (
        ("train", images.train_images, images.train_labels),
        ("val", images.val_images, images.val_labels),
    ):
        write_image_list(tmp_path / part, [str(Path(p).relative_to(tree)) for p in files.paths.tolist()], labels)
    options = {"name": "tree", "num_states": 3, "memory_sizes": [8], "order_seed": 1, "root": tree}
    same = make_lists([str(tmp_path / "train"), str(tmp_path / "val")], tmp_path / "plain", **options)
    for path in (p for p in lists.rglob("*") if p.is_file() and "K~4" not in str(p) and p.name != "classes.txt"):
        assert (same / path.relative_to(lists)).read_text() == path.read_text()
    write_image_list(tmp_path / "val", ["a.png"], [7])
    with pytest.raises(InputError, match=r"expected images of each of the classes 0\.\.5"):
        make_lists([str(tmp_path / "train"), str(tmp_path / "val")], tmp_path / "plain", **options)


def test_lists_of_states_of_unequal_sizes_and_a_given_order(tree: Path, tmp_path: Path):
    options = {"name": "tiny", "memory_sizes": [8]}
    folder = make_lists([str(tree)], tmp_path, relative_to=tree, state_sizes=[4, 2], class_order=range(6), **options)
    data = load_dataset(f"lists:{folder}", tree)
    assert data.files.state_sizes == (4, 2)
    assert data.class_names == load_folder(tree).class_names
    for source in ("glyphs", "lists:x"):
        with pytest.raises(InputError, match=r"no folder .*: expected one folder of images per class"):
            make_lists([source], tmp_path, **options)


def test_lists_of_another_class_order_or_of_other_images_are_not_mixed_with_those_there(
    tree: Path, damaged: Path, tmp_path: Path
):
    """All K of a data set share its training and validation lists: all are made in one call."""
    options = {"name": "tiny", "num_states": 3}
    folder = make_lists([str(tree)], tmp_path, memory_sizes=[8], class_order=[4, 0, 1, 2, 3, 5], **options)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = r"S~3 has lists for K = 8, and all K share their images: give all K in one call, or take another out"
    with pytest.raises(InputError, match=refused):
        make_lists([str(tree)], tmp_path, memory_sizes=[4], class_order=[4, 0, 3, 5, 1, 2], **options)
    (damaged / "train" / "bus" / "bus 00.png").unlink()  # the same classes
    with pytest.raises(InputError, match=refused):
        make_lists([str(damaged)], tmp_path, memory_sizes=[4], class_order=[4, 0, 1, 2, 3, 5], **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    make_lists([str(damaged)], tmp_path, memory_sizes=[4, 8], class_order=[4, 0, 1, 2, 3, 5], **options)
    data = load_dataset(f"lists:{folder}", tree)
    assert data.class_names[0] == load_folder(tree).class_names[4]
    assert all(path.startswith(str(damaged)) for path in data.train_images.paths.tolist())
    for size in (4, 8):
        assert len(given_exemplars(data, size, States((2, 2, 2)))[3]) == size


def test_a_seed_is_not_told_of_an_order_that_lists_give(lists: Path, tree: Path, tmp_path: Path):
    given = {"dataset": f"lists:{lists}", "data_dir": str(tree), "image_size": 8, "network": "small"}
    given |= {"num_states": 3}
    plan = plan_base(out_dir=str(tmp_path), order_seed=7, **given)
    assert plan.notes["order_seed"] is None


def test_lists_with_a_label_beyond_all_bounds_or_a_name_that_is_a_path(tmp_path: Path):
    sources = [str(tmp_path / part) for part in ("train", "val")]
    for source in sources:
        write_image_list(Path(source), ["a.png", "b.png"], [0, 10**12])
    with pytest.raises(InputError, match=r"classes 0\.\.1 and of no others; see class\(es\) \[1, 1000000000000\]"):
        make_lists(sources, tmp_path / "out", name="x", memory_sizes=[8])
    for name in ("../../x", "..", "", "a/b", "a\0b"):
        with pytest.raises(InputError, match=r"name = .* can't name a file or folder"):
            make_lists(sources, tmp_path / "out", name=name, memory_sizes=[8])


@pytest.mark.parametrize("num_states", ["3", "1"])
def test_lists_that_point_at_missing_images_are_told(
    num_states: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = ["lists", str(tree), "--out", str(tmp_path), "--name", "tree", "-S", num_states, "-K", "8"]
    assert main(command) == 0
    images = load_folder(tree)
    for part, files, labels in (
        ("train", images.train_images, images.train_labels),
        ("val", images.val_images, images.val_labels),
    ):
        write_image_list(tmp_path / part, [f"{path}x" for path in files.paths.tolist()], labels)
    capsys.readouterr()
    assert main([command[0], str(tmp_path / "train"), str(tmp_path / "val"), *command[2:]]) == 2
    captured = capsys.readouterr()
    count = len(images.train_labels) + len(images.val_labels)
    assert captured.out.startswith(f"lists: {tmp_path / 'tree'}")
    assert captured.err.startswith(f"il2m: {count} images are missing on disk:\n  {tree}")
    assert captured.err.endswith(f"  ... and {count - 10} more\n")


def test_what_is_wrong_with_lists_is_named(lists: Path, copied_lists: Path, tmp_path: Path):
    def load():
        return load_dataset(f"lists:{copied_lists}", tmp_path)

    layout = ListLayout(copied_lists)
    train = read_image_list(layout.train(1, 4, "new"))
    write_image_list(layout.train(1, 4, "new"), [f"gone/{i}.png" for i in range(len(train))], train.labels)
    with pytest.raises(InputError, match="16 images are missing on disk") as error:
        load()
    assert str(tmp_path / "gone/9.png") in str(error.value)
    assert "gone/10.png" not in str(error.value)
    assert "... and 6 more" in str(error.value)
    write_image_list(layout.train(1, 4, "new"), [train.images[0], *train.images[:-1]], train.labels)
    with pytest.warns(UserWarning, match="1 images occur more than once"):
        load()
    write_image_list(layout.train(1, 4, "new"), train.images, train.labels + 1)
    with pytest.raises(InputError, match="the labels of its 2 classes run from 1 to 2; expected 0 to 1"):
        load()
    write_image_list(layout.train(1, 4, "new"), train.images, train.labels)
    val = read_image_list(layout.val(2, "separated"))
    write_image_list(layout.val(2, "separated"), val.images, val.labels * 0)
    with pytest.raises(InputError, match=r"validation images are not of the 6 classes: see class\(es\) \[2, 3\]"):
        load()
    layout.train(1, 4, "new").unlink()
    with pytest.raises(InputError, match=r"1 lists are missing:\n  .*train\.lst"):
        load()
    shutil.rmtree(copied_lists / "unbalanced")
    told = (
        r"unbalanced/train/K~<K>/2_new(.|\n)*Expected are lists in the authors' layout, all of <lists>/<dataset>/S~<S>"
    )
    with pytest.raises(InputError, match=told):
        load()


def test_what_is_wrong_with_given_exemplars_is_named(copied_lists: Path, tmp_path: Path):
    data, states, layout = load_dataset(f"lists:{copied_lists}", tmp_path), States((2, 2, 2)), ListLayout(copied_lists)
    assert len(given_exemplars(data, 8, states)[3]) == 8
    with pytest.raises(InputError, match=r"exemplars are missing for memory_size = 6(.|\n)*lists for memory_size 4, 8"):
        given_exemplars(data, 6, states)
    old = read_image_list(layout.train(3, 8, "old"))
    write_image_list(layout.train(3, 8, "old"), ["x y.png", *old.images[1:]], old.labels)
    with pytest.raises(InputError, match=r"3_old are not training images of their class:\n  x y.png 0"):
        given_exemplars(data, 8, states)
    write_image_list(layout.train(3, 8, "old"), old.images, old.labels[::-1])
    with pytest.raises(InputError, match=r"8 images of .* are not training images of their class"):
        given_exemplars(data, 8, states)
    write_image_list(layout.train(3, 8, "old"), old.images[old.labels != 2], old.labels[old.labels != 2])
    with pytest.raises(InputError, match=r"expected exemplars of the past classes 0\.\.3 and no others; see .*\[2\]"):
        given_exemplars(data, 8, states)
    write_image_list(layout.train(3, 8, "old"), old.images, old.labels)
    new = read_image_list(layout.train(2, 8, "new"))
    write_image_list(layout.train(2, 8, "new"), new.images[1:], new.labels[1:])
    with pytest.raises(InputError, match="lists other images than"):
        given_exemplars(data, 8, states)


def test_lists_bring_their_states(lists: Path, tmp_path: Path):
    for parameters in ({}, {"num_states": 3, "class_order": [0, 1, 2, 3, 4, 5]}, {"state_sizes": [4, 2]}):
        with pytest.raises(InputError, match=r"the lists give 3 states of \[2, 2, 2\] classes and their order"):
            plan_base(dataset=f"lists:{lists}", data_dir=str(tmp_path), **parameters)


def test_a_study_of_real_files_at_64_pixels(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out, study = str(tmp_path / "lists"), str(tmp_path / "study")
    assert (
        main(["lists", str(tree), "--out", out, "--name", "tree", "-S", "3", "-K", "8", "--relative-to", str(tree)])
        == 0
    )
    lists = tmp_path / "lists" / "tree" / "S~3"
    assert f"-p dataset=lists:{lists} -p num_states=3" in capsys.readouterr().out
    train = str(lists / "batch1" / "train.lst")
    assert main(["check", f"lists:{lists}", "--root", str(tree), "--workers", "0"]) == 0
    assert "66 images, all of them can be read" in capsys.readouterr().out
    assert main(["check", train, "--workers", "0"]) == 2  # without their root
    assert "16 images are missing on disk" in capsys.readouterr().err

    training = {"batch_size": 4, "summed_batches": 2, "learning_rate": 0.02, "flip": True, "device": "cpu"}
    training |= {"num_workers": 0, "data_dir": str(tree), "out_dir": study}
    parameters = {"dataset": f"lists:{lists}", "num_states": 3, "network": "resnet18", "image_size": 64}
    with pytest.raises(InputError, match="no mean and std for 'mine'"):
        plan_base(**parameters, data_dir=str(tree), mean_std="mine")
    base = train_base(**parameters, **training, base_epochs=1)
    normalisation = images_mean_std(ImageFiles(read_image_list(train).paths(tree), num_workers=0))
    stored = base.state(1).info["normalisation"]
    np.testing.assert_allclose(stored["mean"], normalisation.mean)
    np.testing.assert_allclose(stored["std"], normalisation.std)
    run = fine_tune(**training, memory_size=8, epochs=1, score_all_past=False)
    layout, paths = ListLayout(lists), load_dataset(f"lists:{lists}", tree).train_images.paths
    for state in (2, 3):
        for part, listed in (("exemplar", layout.train(state, 8, "old")), ("new", layout.train(state, 8, "new"))):
            used = paths[run.state(state).array(f"{part}_indices")].tolist()
            assert used == [str(tree / image) for image in read_image_list(listed).images]
    assert run.identity["exemplar_selection"] == "lists"
    plan = plan_fine_tuning(**training, memory_size=8, epochs=1, score_all_past=False)
    counted = {b: sum(len(run.state(b).array(f"{part}_indices")) for part in ("exemplar", "new")) for b in (2, 3)}
    assert images_to_train_on(plan) == counted
    assert plan_fine_tuning(memory_size=8, out_dir=study, data_dir=str(tree)).exemplars.keys() == {2, 3}
    chosen = plan_fine_tuning(exemplars_per_class=2, out_dir=study, data_dir=str(tree))
    assert chosen.exemplars == {}
    exported = export_scores(run, tmp_path / "exported", data_dir=tree, features=True)
    assert rectify_files(exported).top1["IL2M"] == series(results_table(run), "IL2M")
    for part, (listed, scores) in exported.pairs(2).items():
        indices = run.state(2).array(f"{part}_indices")
        images = load_dataset(f"lists:{lists}", tree)
        expected = (images.val_images if part == "val" else images.train_images).paths[indices].tolist()
        assert [str(image) for image in read_image_list(listed).images] == expected
        features = np.loadtxt(scores.with_name("features"), ndmin=2)
        np.testing.assert_allclose(features, run.state(2).array(f"{part}_features"), rtol=1e-6)
    with pytest.raises(InputError, match=r"holds other images|missing on disk"):
        export_scores(run, tmp_path / "other", data_dir=tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_name_in_another_encoding_is_refused(tmp_path: Path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    Image.new("L", (8, 8)).save(os.fsdecode(folder) + "/a.png")
    with pytest.raises(InputError, match=r"caf\\udce9/a.png is not UTF-8: rename it"):
        load_folder(tmp_path)
