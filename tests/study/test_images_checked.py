"""What is wrong with the images of a study is told: turned, equal, changed, passed over, or told wrongly."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from il2m.cli import main
from il2m.data.sources import dataset_from_arrays, load_dataset
from il2m.errors import InputError
from il2m.explorer.outcomes import RunOutcomes
from il2m.explorer.views import pixels_of
from il2m.study.planning import load_images, plan_base, plan_fine_tuning
from il2m.study.stages import fine_tune, train_base

SETTINGS = {"num_states": 2, "image_size": 8, "num_workers": 0}
TRAINING = {"base_epochs": 1, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """4 classes of 3 images to train and 2 to validate each, BMP: equal sizes whatever their content."""
    rng = np.random.default_rng(0)
    for label in range(4):
        for part, count in (("train", 3), ("val", 2)):
            folder = tmp_path / "images" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{part}{i}.bmp")
    return tmp_path / "images"


def base_plan(tree: Path, **changed):
    return plan_base(dataset=f"folder:{tree}", out_dir=str(tree.parent / "study"), **SETTINGS | changed)


def warned(call, *args, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    return [str(one.message) for one in caught if one.category is UserWarning]


def test_runs_of_other_files_that_look_alike_are_told(tree):
    """Names, sizes and labels are all that is known of files which nobody decodes."""
    parameters = {"out_dir": str(tree.parent / "study"), **SETTINGS | TRAINING}
    base = train_base(dataset=f"folder:{tree}", **parameters)
    other = shutil.copytree(tree, tree.parent / "noise")
    for path in other.rglob("*.bmp"):
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    said = warned(train_base, dataset=f"folder:{other}", **parameters)
    assert said == [f"{base.name} is of folder:{tree}; folder:{other} is taken for it: names and sizes agree."]
    assert warned(train_base, dataset=f"folder:{tree}", **parameters) == []


def test_exif_rotation_is_part_of_the_hash_only_where_it_turns_an_image(tree):
    plain = base_plan(tree)
    assert "exif_rotation" not in plain.identity
    assert {base_plan(tree, exif_rotation=one).folder for one in ("on", "off")} == {plain.folder}
    exif = Image.Exif()
    exif[274] = 6
    Image.open(tree / "val" / "3" / "val1.bmp").save(tree / "val" / "3" / "val1.jpg", exif=exif)
    (tree / "val" / "3" / "val1.bmp").unlink()
    off, auto, on = (base_plan(tree, exif_rotation=one) for one in ("off", "auto", "on"))
    assert "exif_rotation" not in off.identity
    assert auto.identity == on.identity == off.identity | {"exif_rotation": True}
    run = train_base(dataset=f"folder:{tree}", out_dir=str(tree.parent / "study"), **SETTINGS | TRAINING)
    assert run.identity["exif_rotation"]
    for images in (auto.dataset, load_images(run, ".", num_workers=0)):
        assert images.val_images.exif_rotation
        (place,) = (i for i, path in enumerate(images.val_images.paths.tolist()) if path.endswith(".jpg"))
        assert images.val_images.read(place)[0].shape == (12, 10, 3)
    lists = tree.parent / "lists"
    assert main(["lists", str(tree), "--out", str(lists), "--name", "mine", "-S", "2", "-K", "4"]) == 0
    listed = {"dataset": f"lists:{lists / 'mine' / 'S~2'}", "out_dir": str(tree.parent / "study"), **SETTINGS}
    assert "exif_rotation" not in plan_base(**listed).identity, "lists are followed exactly"
    assert plan_base(**listed, exif_rotation="on").identity["exif_rotation"]


def test_files_that_are_passed_over_are_counted_by_the_check_and_by_the_run(tree, capsys):
    assert warned(base_plan, tree) == []
    (tree / "train" / "0" / "deeper").mkdir()
    for place in ("train/0/deeper/a.jpg", "train/0/b.jfif", "test/0/c.jpg", ".hidden/d.jpg", "val/.e.jpg"):
        (tree / place).parent.mkdir(exist_ok=True, parents=True)
        (tree / place).touch()
    sentence = f"{tree}: 3 files are not used: 1 .jfif (first train/0/b.jfif), 2 .jpg (first test/0/c.jpg);"
    (told,) = warned(base_plan, tree)
    assert told.startswith(sentence)
    capsys.readouterr()
    assert main(["check", f"folder:{tree}", "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert sentence in printed
    assert "20 images, all of them can be read: 12 to 12 pixels wide, 10 to 10 high, 20 of mode RGB" in printed


def test_linked_folders_are_read_as_classes_and_told_of_where_they_are_not(tree, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tree / "train" / "0", elsewhere / "deep")
    shutil.move(tree / "train" / "1", elsewhere / "one")
    (tree / "train" / "1").symlink_to(elsewhere / "one")
    (elsewhere / "one" / "b.jfif").touch()
    sentence = f"{tree}: 1 files are not used: 1 .jfif (first train/1/b.jfif); used are images"
    (told,) = warned(base_plan, tree)
    assert told.startswith(sentence), "a class folder that is a link is read, and what is not used in it counted"
    (tree / "train" / "0" / "more").symlink_to(elsewhere / "deep")
    (tree / "train" / "1" / "round").symlink_to(tree)
    (tree / "test").symlink_to(elsewhere)
    (tree / ".hidden").symlink_to(elsewhere)
    files, links = warned(base_plan, tree)
    assert files.startswith(sentence)
    heading = f"3 linked folders in {tree} are not read, nor is what they hold counted:"
    assert links.splitlines() == [heading, "  test", "  train/0/more", "  train/1/round"]
    capsys.readouterr()
    assert main(["check", f"folder:{tree}", "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert links in printed
    assert "20 images, all of them can be read" in printed


def test_validation_images_that_are_training_images_and_classes_of_one_image_are_told(tree, capsys):
    Image.open(tree / "train" / "2" / "train0.bmp").save(tree / "val" / "2" / "other name, other format.png")
    for i in (1, 2):
        shutil.copy(tree / "train" / "1" / "train0.bmp", tree / "train" / "1" / f"train{i}.bmp")
    given = {"dataset": f"folder:{tree}", **SETTINGS, **TRAINING}
    leaked, same = warned(train_base, out_dir=str(tree.parent / "study"), **given)[:2]
    assert leaked.startswith("images: 1 of 9 validation images are equal to training images")
    assert same == "images: all training images are equal in 1 of 4 classes: '1'."
    again = warned(train_base, out_dir=str(tree.parent / "study"), **given, train_seed=1, allow_leakage=True)
    assert again[0] == same, "noted, and not decoded again"
    runs = [path.name for path in (tree.parent / "study").glob("base-*")]
    assert base_plan(tree, base_epochs=1, batch_size=4, allow_leakage=True).folder.name in runs, "no part of the hash"
    capsys.readouterr()
    assert main(["check", f"folder:{tree}", "--workers", "0"]) == 0
    assert leaked in (printed := capsys.readouterr().out)
    assert same in printed


def test_the_same_of_images_in_memory_is_told_when_it_is_planned(tiny_arrays, tmp_path):
    tiny_arrays["x_test"][:2] = tiny_arrays["x_train"][:2]
    tiny_arrays["x_train"][tiny_arrays["y_train"] == 4] = 7
    data = dataset_from_arrays("tiny", tiny_arrays)
    told = warned(plan_base, images=data, out_dir=str(tmp_path), num_states=3)
    assert told[0].startswith("tiny: 2 of 30 validation images are equal to training images")
    assert told[1] == "tiny: all training images are equal in 1 of 6 classes: 'class 4'."
    assert warned(plan_base, images=data, out_dir=str(tmp_path), num_states=3, allow_leakage=True) == told[1:]


def test_a_file_changed_at_equal_size_is_named_where_it_is_decoded_again(tree):
    out, given = str(tree.parent / "study"), {"dataset": f"folder:{tree}", **SETTINGS, **TRAINING}
    base = train_base(out_dir=out, **given)
    tuning = {"memory_size": 4, "epochs": 1, "batch_size": 4, "num_workers": 0, "device": "cpu"}
    run = fine_tune(out_dir=out, **tuning)
    new = base.state(1).array("new_indices")[0]
    path = Path(load_images(base, ".").train_images.paths[new])
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert plan_fine_tuning(out_dir=out, **tuning).folder == run.folder, "planning reads no content"
    named = f"{path}: its content is not what it was before base training"
    for call in (
        lambda: fine_tune(out_dir=out, **tuning, train_seed=1),
        lambda: train_base(out_dir=out, **given, train_seed=1),
        lambda: pixels_of(RunOutcomes(run, data_dir=".").images.train_images, np.array([new])),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert named in str(error.value)
        assert "can't be read" not in str(error.value), "it can"
    path.write_bytes(before)
    assert fine_tune(out_dir=out, **tuning, train_seed=1).missing_states == []


def test_a_note_of_before_or_a_damaged_one_is_made_again(tree):
    out, given = tree.parent / "study", {"dataset": f"folder:{tree}", **SETTINGS, **TRAINING}
    base = train_base(out_dir=str(out), **given)
    (note,) = out.glob("readable-*")
    digests = np.array(base.state(1).array("train_digests"))
    for content in (b"", note.read_bytes()[:-9]):
        shutil.rmtree(base.folder)
        note.write_bytes(content)
        base = train_base(out_dir=str(out), **given)
        np.testing.assert_array_equal(base.state(1).array("train_digests"), digests)
        assert note.stat().st_size > len(content)


def test_a_shift_as_large_as_the_image_is_refused(tiny_npz, tmp_path):
    given = {"dataset": str(tiny_npz), "out_dir": str(tmp_path), "num_states": 3}
    assert plan_base(**given, max_shift=7).identity["max_shift"] == 7
    with pytest.raises(InputError, match="max_shift = 8: expected less than the images' 8 x 8 pixels"):
        plan_base(**given, max_shift=8)
    with pytest.raises(InputError, match="max_shift = 9"):
        plan_fine_tuning(base_plan=plan_base(**given), out_dir=str(tmp_path), max_shift=9)


def test_a_mean_of_pixels_up_to_255_is_refused(tree):
    (tree.parent / "datasets_mean_std.txt").write_text(
        "wrong:mean=[124.0, 116.0, 104.0];std=[58.0, 57.0, 57.0]\nright:mean=[.5, .5, .4];std=[.2, .2, .2]\n"
    )
    assert base_plan(tree, mean_std="right", data_dir=str(tree.parent)).identity["normalisation"]
    with pytest.raises(InputError, match=r"'wrong': mean .* not of pixel values scaled to 0\.\.1: divide .* by 255"):
        base_plan(tree, mean_std="wrong", data_dir=str(tree.parent))


@pytest.mark.parametrize("given", [{"max_shift": 10**6}, {"batch_size": 10**30}, {"state_sizes": [1] * 10**6 + [1]}])
def test_sizes_that_nobody_means_are_refused_before_anything_is_made(tiny_npz, tmp_path, given):
    with pytest.raises(InputError, match=f"^{next(iter(given))} = .*: expected a") as error:
        train_base(dataset=str(tiny_npz), out_dir=str(tmp_path), **given)
    assert len(str(error.value)) < 400
    with pytest.raises(InputError, match=r"memory_size = 1000.*and at most 1,000,000,000"):
        fine_tune(out_dir=str(tmp_path), memory_size=10**30)
    assert not list(tmp_path.iterdir())


def test_a_network_that_has_not_learned_is_told(tiny_npz, tiny_base_parameters, tmp_path):
    good = warned(train_base, out_dir=str(tmp_path), **tiny_base_parameters)
    assert good == []
    bad = warned(train_base, out_dir=str(tmp_path), **tiny_base_parameters | {"learning_rate": 30.0})
    assert any("more than twice the 0.6931 of guessing" in one for one in bad)


def test_a_glyph_cache_is_what_was_written_or_made_anew(tmp_path, monkeypatch, tiny_npz):
    from il2m.data import sources
    from il2m.data.glyphs import render_glyphs

    few = render_glyphs(num_classes=4, train_per_class=5, val_per_class=2)
    monkeypatch.setattr(sources, "render_glyphs", lambda: few)
    cache = tmp_path / "glyphs-v2.npz"
    (told,) = warned(load_dataset, "glyphs", tmp_path)
    assert "not the published study's 1b41f36aaef8c4e9" in told
    assert warned(load_dataset, "glyphs", tmp_path) == [], "told once"
    with np.load(cache) as arrays:
        assert all(name in str(arrays["rendered_by"]) for name in ("Pillow", "FreeType", "numpy"))
    for other in (tiny_npz.read_bytes(), (tmp_path / "glyphs-v2.npz").read_bytes()[:-400]):
        cache.write_bytes(other)
        told = warned(load_dataset, "glyphs", tmp_path)[0]
        assert told == f"{cache} does not hold the glyphs that il2m wrote there: they are rendered anew."
    np.savez(cache, x=np.zeros(3))
    assert load_dataset("glyphs", tmp_path).num_classes == 4
