"""Image files in the place of arrays: decoding, batches, mean and std, and the check."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from il2m.cli import main
from il2m.data.batches import Normalisation, channel_mean_std
from il2m.data.file_batches import FileBatches, images_mean_std, read_all
from il2m.data.image_files import decode
from il2m.data.lists import load_folder
from il2m.data.views import scoring_view, training_view
from il2m.errors import InputError
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base

TRAIN = 8  # images per class


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
    found = images[place].permute(1, 2, 0).numpy() * [0.2, 0.25, 0.5] + [0.5, 0.4, 0.3]
    np.testing.assert_allclose(found, crop, atol=1.01 / 255)  # one level
    assert images.is_contiguous(memory_format=torch.channels_last)


@given(st.tuples(*[st.integers(1, 400)] * 2), st.integers(0, 2**62), st.sampled_from([1, 16, 64, 224]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_views_are_those_of_torchvision_on_pillows_images_up_to_one_level(sides, seed, size, flip):
    """The same crops from the same seed, resized by Pillow after they were cut out."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*sides, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    slow_training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(0.5 * flip)])
    slow_scoring = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = [np.asarray(view(Image.fromarray(pixels))) for view in (slow_training, slow_scoring)]
        torch.manual_seed(seed)
        found = [training_view(image, size, flip).numpy(), scoring_view(image, size).numpy()]
    for ours, slow in zip(found, expected, strict=True):
        assert ours.shape == slow.shape == (size, size, 3)
        assert abs(ours.astype(int) - slow).max() <= 1


def test_known_images_are_trained_on_as_unknown_ones_bit_for_bit(tree: Path):
    """Of files that were decoded before, JPEG may go through another decoder."""
    unknown = batches_of(tree)
    known = batches_of(tree)
    known.files = replace(known.files, digests=read_all(known.files)[:, 0])
    assert torch.equal(epoch(unknown, 10)[0], epoch(known, 10)[0])


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


def test_an_image_keeps_its_label_when_the_order_is_random(tmp_path: Path):
    levels = np.arange(23) * 11
    for label, level in enumerate(levels):
        (tmp_path / f"{label:02d}").mkdir()
        for i in range(3):
            Image.fromarray(np.full((9, 8, 3), level, dtype=np.uint8)).save(tmp_path / f"{label:02d}" / f"{i}.png")
    data = load_folder(tmp_path, image_size=4, num_workers=0)
    batches = FileBatches(data.train_images, data.train_labels, Normalisation((0.0,) * 3, (1 / 255,) * 3))
    images, labels, _ = epoch(batches, 5)
    assert labels.tolist() != data.train_labels.tolist()
    np.testing.assert_allclose(images[:, 0, 2, 2], levels[labels], atol=1e-3)


def test_workers_and_the_process_itself_give_the_same_images(tree: Path):
    torch.manual_seed(0)
    alone, workers = epoch(batches_of(tree), 10), epoch(batches_of(tree, num_workers=2), 10)
    assert torch.equal(alone[0], workers[0])
    assert torch.equal(alone[1], workers[1])
    assert torch.initial_seed() == 0  # the process's own generator is left alone
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_to_a_device_leaves_the_batches_themselves_alone(tree: Path):
    batches = batches_of(tree)
    moved = batches.to(torch.device("meta"))
    images, labels = next(moved.plain())
    assert images.device.type == labels.device.type == "meta"
    images, labels = next(batches.plain())
    assert images.device.type == labels.device.type == "cpu"
    assert len(moved) == len(batches) == 6 * TRAIN


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
        image = decode((tmp_path / name).read_bytes())
        assert (image.dtype, image.shape) == (np.uint8, (5, 6, 3))


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
    with pytest.raises(InputError, match="1 images can't be read"):
        read_all(load_folder(damaged, num_workers=0).train_images)
    for path in broken:
        path.unlink()
    assert main(["check", f"folder:{damaged}", "--workers", "0"]) == 0
    assert "64 images, all of them can be read" in capsys.readouterr().out


def test_the_check_says_what_sizes_and_modes_there_are(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, mode, size in (
        ("a/1", "L", (8, 30)),
        ("a/2", "RGBA", (40, 9)),
        ("b/1", "RGB", (20, 20)),
        ("b/2", "L", (21, 9)),
    ):
        Image.effect_noise(size, 50).convert(mode).save(tmp_path / f"{name}.png")
    assert main(["check", f"folder:{tmp_path}", "--workers", "0"]) == 0
    said = "all of them can be read: 8 to 40 pixels wide, 9 to 30 high, 2 of mode L, 1 of mode RGBA, 1 of mode RGB."
    assert f"4 images, {said}" in capsys.readouterr().out


def test_the_check_of_very_large_images_that_may_be_so(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit, which workers lift for themselves
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((30, 30), 50).save(tmp_path / f"{name}.png")
    assert main(["check", f"folder:{tmp_path}", "--workers", "1"]) == 0
    assert "4 images, all of them can be read" in capsys.readouterr().out


def test_a_script_without_a_guard_trains_on_files_that_workers_decode(tree: Path, tmp_path: Path):
    """multiprocessing would run the script again in each worker."""
    given = {"dataset": f"folder:{tree}", "out_dir": str(tmp_path / "study"), "num_states": 2, "image_size": 24}
    given |= {"network": "small", "base_epochs": 1, "num_workers": 2, "batch_size": 16, "device": "cpu"}
    script = tmp_path / "script.py"
    script.write_text(f"import il2m\nprint('trains')\nil2m.train_base(**{given | {'allow_leakage': True}})\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trains\n"


def test_files_and_folders_that_are_merely_renamed_give_the_same_results(run_of_files: Run, tmp_path: Path):
    """Under names that sort as those before: the images of a class are taken in the order of their names."""
    source = Path(run_of_files.config["source"].removeprefix("folder:"))
    for path in source.glob("*/*/*.png"):
        part, name, file = path.relative_to(source).parts
        renamed = tmp_path / "renamed" / {"train": "training", "val": "test"}[part] / f"a {name}" / f"image {file}"
        renamed.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed)
    given = {name: run_of_files.base.identity[name] for name in ("batch_size", "learning_rate", "base_epochs")}
    images = {"dataset": f"folder:{tmp_path / 'renamed'}", "image_size": 8, "num_workers": 0, "device": "cpu"}
    train_base(num_states=2, out_dir=str(tmp_path), **images, **given)
    given |= {"epochs": run_of_files.identity["epochs"], "memory_size": 4}
    del given["base_epochs"]
    again = fine_tune(out_dir=str(tmp_path), num_workers=0, device="cpu", **given)
    assert again.class_names == [f"a {name}" for name in run_of_files.class_names]
    for state in (1, 2):
        for name in ("val_scores", "val_labels", *(["exemplar_indices"] if state > 1 else [])):
            stored = [run.state(state).array(name) for run in (run_of_files, again)]
            np.testing.assert_array_equal(*stored)
