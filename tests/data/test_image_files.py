"""Image files as data: decoding, lists, mean and std, the check, and a short study of real JPEG and PNG files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PROJECT

from il2m.authors.formats import read_image_list, read_mean_std, write_image_list
from il2m.authors.layout import ListLayout
from il2m.cli import main
from il2m.data.batches import Normalisation, channel_mean_std
from il2m.data.glyphs import render_glyphs
from il2m.data.image_files import FileBatches, find_unreadable, images_mean_std, open_image
from il2m.data.lists import given_exemplars, load_folder
from il2m.data.sources import absolute_source, load_dataset
from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.exporting import export_scores
from il2m.exchange.prepare import make_lists
from il2m.exchange.score_files import rectify_files
from il2m.results.table import results_table, series
from il2m.study.planning import plan_base, plan_fine_tuning
from il2m.study.stages import fine_tune, train_base

CIFAR = PROJECT.parent / "shared" / "data" / "cifar100"
CLASSES = ["apple", "bear", "bus", "camel", "clock", "wolf"]  # names that have real images, if these are here
TRAIN, VAL = 8, 3  # images per class


def real_images() -> dict[str, np.ndarray]:
    """Class -> (11, 32, 32, 3) uint8: CIFAR-100 where it is, else rendered letters."""
    if CIFAR.is_dir():
        strips = {name: np.asarray(Image.open(CIFAR / "train" / f"{name}.webp")) for name in CLASSES}
        return {name: strip.reshape(-1, 32, 32, 3)[: TRAIN + VAL] for name, strip in strips.items()}
    glyphs = render_glyphs(len(CLASSES), TRAIN + VAL, 1)
    images = np.pad(glyphs["x_train"], ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, axis=-1)
    return {name: images[glyphs["y_train"] == c] for c, name in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train/`` and ``val/`` of JPEG and PNG files of many sizes, blanks in their names; never to be written to."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, images in real_images().items():
        for i, pixels in enumerate(images):
            folder = root / ("train" if i < TRAIN else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels).resize(tuple(rng.integers(66, 110, 2).tolist()))
            image.save(folder / f"{name} {i:02d}{'.png' if i % 3 == 0 else '.JPEG'}")
    return root


@pytest.fixture
def damaged(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "damaged"))


@pytest.fixture(scope="module")
def lists(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 states of 2 classes, K = 8 and 4, absolute paths."""
    out = tmp_path_factory.mktemp("lists")
    return make_lists([str(tree)], out, name="tree", num_states=3, memory_sizes=[8, 4], order_seed=1)


@pytest.fixture
def copied_lists(lists: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lists, tmp_path / "tree" / "S~3"))


def batches_of(tree: Path, num_workers: int = 0, size: int = 24) -> FileBatches:
    data = load_folder(tree, image_size=size, num_workers=num_workers)
    return FileBatches(data.train_images, data.train_labels, Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.5)))


def epoch(batches: FileBatches, batch_size: int, flip: bool = True) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(5)
    parts = list(batches.augmented(batch_size, generator, max_shift=0, flip=flip))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), [len(y) for _, y in parts]


def test_plain_batches_are_normalised_centre_crops_in_order(tree: Path):
    batches = batches_of(tree)
    parts = list(batches.plain(batch_size=20))
    assert [len(labels) for _, labels in parts] == [20, 20, 8]
    images, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    assert labels.tolist() == np.repeat(np.arange(6), TRAIN).tolist()
    path = tree / "train" / "bus" / "bus 02.JPEG"
    place = batches.files.paths.tolist().index(str(path))
    image = Image.open(path)
    short = min(image.size)
    image = image.resize([int(27 * side / short) for side in image.size], Image.Resampling.BILINEAR)  # 24 * 256 / 224
    left, top = ((side - 24) / 2 for side in image.size)
    crop = np.asarray(image)[round(top) : round(top) + 24, round(left) : round(left) + 24] / 255
    expected = (crop - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]
    np.testing.assert_allclose(images[place].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_image_files_are_looked_at_as_they_are_scored(tree: Path):
    batches = batches_of(tree)
    looked_at = np.stack(list(batches.files[:5]))
    assert looked_at.shape == batches.files[:5].shape
    assert looked_at.dtype == np.uint8
    scored = next(batches.plain(batch_size=5))[0].permute(0, 2, 3, 1).numpy() * [0.2, 0.25, 0.5] + [0.5, 0.4, 0.3]
    np.testing.assert_allclose(looked_at / 255, scored, atol=1e-5)


def test_an_epoch_has_each_image_once_and_no_batch_of_one(tree: Path):
    images, labels, sizes = epoch(batches_of(tree), 47)
    assert sizes == [48]
    assert images.shape == (48, 3, 24, 24)
    assert np.bincount(labels).tolist() == [TRAIN] * 6
    assert epoch(batches_of(tree), 20)[2] == [20, 20, 8]


def test_workers_and_the_process_itself_give_the_same_images(tree: Path):
    torch.manual_seed(0)
    alone, workers = epoch(batches_of(tree), 10), epoch(batches_of(tree, num_workers=2), 10)
    assert torch.equal(alone[0], workers[0])
    assert torch.equal(alone[1], workers[1])
    assert torch.initial_seed() == 0  # the process's own generator is left alone
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_crops_move_from_epoch_to_epoch_and_flips_are_asked_for(tree: Path):
    batches, generator = batches_of(tree), torch.Generator().manual_seed(1)
    first, second = (
        torch.cat([x[y == 0] for x, y in batches.augmented(48, generator, max_shift=0, flip=False)]) for _ in range(2)
    )
    assert not torch.allclose(first.mean(), second.mean(), atol=1e-6)
    same_crops = [epoch(batches_of(tree), 48, flip=flip)[0] for flip in (False, True)]
    flipped = [torch.equal(a, b.flip(2)) and not torch.equal(a, b) for a, b in zip(*same_crops, strict=True)]
    assert 8 < sum(flipped) < 40


def test_mean_and_std_of_files_are_those_of_their_pixels(tree: Path):
    files = load_folder(tree, num_workers=0).train_images[:9]
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in files.paths.tolist()])
    found, expected = images_mean_std(files), channel_mean_std(pixels[None, None])
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-12)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0) / 255, rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(axis=0) / 255, rtol=1e-9)


def test_odd_images_are_read(tmp_path: Path):
    grey = Image.fromarray(np.full((5, 6), 77, dtype=np.uint8))
    grey.save(tmp_path / "grey.png")
    Image.fromarray(np.full((5, 6, 4), 9, dtype=np.uint8)).save(tmp_path / "alpha.png")
    grey.save(tmp_path / "exif.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05damaged")
    for name in ("grey.png", "alpha.png", "exif.jpg"):
        assert open_image(str(tmp_path / name)).mode == "RGB"
        assert open_image(str(tmp_path / name)).size == (6, 5)


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


def test_broken_images_are_all_named_before_training(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    broken = [damaged / "train" / "bus" / "bus 01.JPEG", damaged / "val" / "wolf" / "wolf 09.png"]
    broken[0].write_bytes(broken[0].read_bytes()[:600])
    broken[1].write_text("no image")
    assert main(["check", f"folder:{damaged}", "--workers", "0"]) == 2
    message = capsys.readouterr().err
    assert "2 images can't be read" in message
    assert all(str(path) in message for path in broken)
    parameters = {"dataset": f"folder:{damaged}", "num_states": 3, "image_size": 16, "num_workers": 0, "base_epochs": 1}
    with pytest.raises(InputError, match="2 images can't be read"):
        train_base(out_dir=str(tmp_path / "out"), device="cpu", **parameters)
    assert not list((tmp_path / "out").rglob("state_*"))
    assert len(find_unreadable(load_folder(damaged, num_workers=0).train_images)) == 1
    for path in broken:
        path.unlink()
    assert main(["check", f"folder:{damaged}", "--workers", "0"]) == 0
    assert "64 images, all of them can be read" in capsys.readouterr().out


def test_lists_of_a_folder(tree: Path, lists: Path):
    assert lists.name == "S~3"
    names = (lists / "classes.txt").read_text().split()
    assert sorted(names) == CLASSES
    assert names != CLASSES  # the class order is a shuffle
    layout = ListLayout(lists)
    for state in (1, 2, 3):
        new, val = read_image_list(layout.new(state, 8)), read_image_list(layout.accumulated_val(state))
        assert set(new.labels) == {2 * state - 2, 2 * state - 1}
        assert len(new) == 2 * TRAIN
        assert len(val) == 2 * VAL * state
        assert set(read_image_list(layout.separated_val(state)).images) <= set(val.images)
        for image, label in zip(new.images, new.labels, strict=True):
            assert Path(image).parent == tree / "train" / names[label]
    kept = {k: [read_image_list(layout.old(b, k)) for b in (2, 3)] for k in (8, 4)}
    assert [np.bincount(old.labels).tolist() for old in kept[8]] == [[4, 4], [2, 2, 2, 2]]
    assert [np.bincount(old.labels).tolist() for old in kept[4]] == [[2, 2], [1, 1, 1, 1]]
    assert set(kept[8][1].images[:4]) <= set(kept[8][0].images)  # what is kept later is a part of what was kept


def test_lists_of_plain_lists_and_of_arrays(lists: Path, tree: Path, tiny_npz: Path, tmp_path: Path):
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

    options = {"name": "tiny", "state_sizes": [4, 2], "memory_sizes": [8], "exemplar_selection": "first"}
    folder = make_lists([str(tiny_npz)], tmp_path / "out", relative_to=tmp_path, class_order=range(6), **options)
    data = load_dataset(f"lists:{folder}", tmp_path)
    assert data.files.state_sizes == (4, 2)
    assert data.class_names[0] == "class 0"
    with np.load(tiny_npz) as arrays:
        for part, images, labels in (
            ("train", data.train_images, data.train_labels),
            ("test", data.val_images, data.val_labels),
        ):
            for path, label in zip(images.paths[:20].tolist(), labels[:20], strict=True):
                same = (arrays[f"x_{part}"] == np.asarray(Image.open(path))).all(axis=(1, 2))
                assert arrays[f"y_{part}"][same].tolist() == [label]


def test_what_is_wrong_with_lists_is_named(lists: Path, copied_lists: Path, tmp_path: Path):
    def load():
        return load_dataset(f"lists:{copied_lists}", tmp_path)

    layout = ListLayout(copied_lists)
    train = read_image_list(layout.new(1, 4))
    write_image_list(layout.new(1, 4), [f"gone/{i}.png" for i in range(len(train))], train.labels)
    with pytest.raises(InputError, match="16 images are missing on disk") as error:
        load()
    assert str(tmp_path / "gone/9.png") in str(error.value)
    assert "gone/10.png" not in str(error.value)
    assert "... and 6 more" in str(error.value)
    write_image_list(layout.new(1, 4), [train.images[0], *train.images[:-1]], train.labels)
    with pytest.warns(UserWarning, match="1 images occur more than once"):
        load()
    write_image_list(layout.new(1, 4), train.images, train.labels + 1)
    with pytest.raises(InputError, match="the labels of its 2 classes run from 1 to 2; expected 0 to 1"):
        load()
    write_image_list(layout.new(1, 4), train.images, train.labels)
    val = read_image_list(layout.separated_val(2))
    write_image_list(layout.separated_val(2), val.images, val.labels * 0)
    with pytest.raises(InputError, match=r"other classes than the training lists' 0\.\.5: see class\(es\) \[2, 3\]"):
        load()
    layout.new(1, 4).unlink()
    with pytest.raises(InputError, match=r"1 lists are missing:\n  .*train\.lst"):
        load()
    shutil.rmtree(copied_lists / "unbalanced")
    with pytest.raises(InputError, match=r"no unbalanced/train/K~<K> folder in it; expected lists"):
        load()


def test_what_is_wrong_with_given_exemplars_is_named(copied_lists: Path, tmp_path: Path):
    data, states, layout = load_dataset(f"lists:{copied_lists}", tmp_path), States((2, 2, 2)), ListLayout(copied_lists)
    assert len(given_exemplars(data, 8, states)[3]) == 8
    with pytest.raises(InputError, match=r"exemplars are missing for memory_size = 6(.|\n)*lists for memory_size 4, 8"):
        given_exemplars(data, 6, states)
    old = read_image_list(layout.old(3, 8))
    write_image_list(layout.old(3, 8), ["x y.png", *old.images[1:]], old.labels)
    with pytest.raises(InputError, match=r"3_old are not training images of their class:\n  x y.png 0"):
        given_exemplars(data, 8, states)
    write_image_list(layout.old(3, 8), old.images, old.labels[::-1])
    with pytest.raises(InputError, match=r"8 images of .* are not training images of their class"):
        given_exemplars(data, 8, states)
    write_image_list(layout.old(3, 8), old.images[old.labels != 2], old.labels[old.labels != 2])
    with pytest.raises(InputError, match=r"expected exemplars of the past classes 0\.\.3 and no others; see .*\[2\]"):
        given_exemplars(data, 8, states)
    write_image_list(layout.old(3, 8), old.images, old.labels)
    new = read_image_list(layout.new(2, 8))
    write_image_list(layout.new(2, 8), new.images[1:], new.labels[1:])
    with pytest.raises(InputError, match="lists other images than"):
        given_exemplars(data, 8, states)


def test_lists_bring_their_states(lists: Path, tmp_path: Path):
    for parameters in ({}, {"num_states": 3, "class_order": [0, 1, 2, 3, 4, 5]}, {"state_sizes": [4, 2]}):
        with pytest.raises(InputError, match=r"the lists give 3 states of \[2, 2, 2\] classes and their order"):
            plan_base(dataset=f"lists:{lists}", data_dir=str(tmp_path), **parameters)


def test_a_source_is_made_absolute(tmp_path: Path):
    assert absolute_source("folder:a/../b", tmp_path) == f"folder:{tmp_path / 'b'}"
    assert absolute_source("lists:/x/S~2", tmp_path) == "lists:/x/S~2"
    assert absolute_source("my.npz", tmp_path) == str(tmp_path / "my.npz")
    assert absolute_source("cifar100", tmp_path) == "cifar100"


def test_a_study_of_real_files_at_64_pixels(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out, data_dir, study = str(tmp_path / "lists"), tmp_path / "data", str(tmp_path / "study")
    assert (
        main(["lists", str(tree), "--out", out, "--name", "tree", "-S", "3", "-K", "8", "--relative-to", str(tree)])
        == 0
    )
    lists = tmp_path / "lists" / "tree" / "S~3"
    assert f"-p dataset=lists:{lists} -p num_states=3" in capsys.readouterr().out
    train, file, near = str(lists / "batch1" / "train.lst"), data_dir / "datasets_mean_std.txt", ["--root", str(tree)]
    assert main(["mean-std", train, "--name", "mine", "--file", str(file), *near, "--workers", "0"]) == 0
    assert main(["mean-std", train, "--name", "mine", "--file", str(file), *near]) == 2
    assert main(["check", f"lists:{lists}", *near, "--workers", "0"]) == 0
    assert "66 images, all of them can be read" in capsys.readouterr().out
    assert main(["check", train, "--workers", "0"]) == 2  # without their root
    assert "16 images are missing on disk" in capsys.readouterr().err

    training = {"batch_size": 4, "summed_batches": 2, "learning_rate": 0.02, "flip": True, "device": "cpu"}
    training |= {"num_workers": 0, "data_dir": str(tree), "out_dir": study}
    parameters = {"dataset": f"lists:{lists}", "num_states": 3, "network": "resnet18", "image_size": 64}
    with pytest.raises(InputError, match="no mean and std for 'mine'"):
        plan_base(**parameters, data_dir=str(tree), mean_std="mine")
    base = train_base(**parameters, **training, base_epochs=1)
    mean, std = read_mean_std(file, "mine")
    np.testing.assert_allclose(base.state(1).info["normalisation"]["mean"], mean)
    np.testing.assert_allclose(base.state(1).info["normalisation"]["std"], std)
    run = fine_tune(**training, memory_size=8, epochs=1, score_all_past=False)
    layout, paths = ListLayout(lists), load_dataset(f"lists:{lists}", tree).train_images.paths
    for state in (2, 3):
        for part, listed in (("exemplar", layout.old(state, 8)), ("new", layout.new(state, 8))):
            used = paths[run.state(state).array(f"{part}_indices")].tolist()
            assert used == [str(tree / image) for image in read_image_list(listed).images]
    assert run.identity["exemplar_selection"] == "lists"
    assert plan_fine_tuning(memory_size=8, out_dir=study, data_dir=str(tree)).exemplars.keys() == {2, 3}
    chosen = plan_fine_tuning(exemplars_per_class=2, out_dir=study, data_dir=str(tree))
    assert chosen.exemplars == {}
    assert rectify_files(export_scores(run, tmp_path / "exported")).top1["IL2M"] == series(results_table(run), "IL2M")
