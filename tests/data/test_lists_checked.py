"""Lists made and checked: what is incomplete, repeated or left out is told, and what the study takes is not refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from il2m.authors.formats import ListLayout, read_image_list, write_image_list
from il2m.cli import main
from il2m.data.lists import given_exemplars, load_folder
from il2m.data.sources import load_dataset
from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.prepare import check_images, make_lists
from il2m.study.planning import plan_base

STATES, CLASSES = States((2, 2, 2)), ["apple", "bear", "bus", "camel", "clock", "wolf"]


def double(path: Path) -> None:
    path.write_text(path.read_text() * 2)


def check(folder: Path) -> str:
    return check_images(f"lists:{folder}", num_workers=0)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["unbalanced/train/K~4/3_new"], "K~4/3_new"),  # that of K = 8 is there
        (["unbalanced/train/K~4/2_new"], "K~4/2_new"),
        (["separated/val/batch3"], "separated/val/batch3"),
        (["unbalanced/train/K~4/3_new", "unbalanced/train/K~8/3_new", "separated/val/batch3"], "K~4/3_new"),
        (  # all but the folder's name, S~3
            [f"unbalanced/train/K~{k}/3_{which}" for k in (4, 8) for which in ("new", "old")]
            + [f"{which}/val/batch3" for which in ("separated", "accumulated")],
            "K~4/3_new",
        ),
    ],
)
def test_incomplete_lists_name_what_is_missing_and_lose_no_state(gone: list[str], named: str, copied_lists: Path):
    for path in gone:
        (copied_lists / path).unlink()
    for states in (2, 3):
        with pytest.raises(InputError, match=rf"lists are missing:\n(.|\n)*{named}"):
            plan_base(dataset=f"lists:{copied_lists}", num_states=states, data_dir=str(copied_lists))


def test_lists_of_a_single_state_are_read(tree: Path, tmp_path: Path):
    folder = make_lists([str(tree)], tmp_path, name="one", num_states=1, memory_sizes=[8])
    assert load_dataset(f"lists:{folder}", tmp_path).files.state_sizes == (6,)
    assert "66 images, all of them can be read" in check(folder)


def test_the_check_of_lists_says_what_a_study_understands(copied_lists: Path, monkeypatch: pytest.MonkeyPatch):
    (copied_lists / ".DS_Store").write_bytes(b"\xff\x00")
    (copied_lists / "README.txt").write_text("where these lists are from")
    said = check(copied_lists)
    names = [*map(repr, (copied_lists / "classes.txt").read_text().split()[:5])]
    assert f"6 classes: {', '.join(names)}, ...; 48 training images, 8 to 8 of a class" in said
    monkeypatch.setenv("HOME", str(copied_lists.parent))
    assert check_images("lists:~/S~3", num_workers=0) == said.replace(str(copied_lists), "~/S~3")


def test_the_check_refuses_lists_that_a_study_refuses(copied_lists: Path):
    layout = ListLayout(copied_lists)
    train, val = (read_image_list(path) for path in (layout.train(1, 4, "new"), layout.val(1, "separated")))
    write_image_list(layout.train(1, 4, "new"), train.images, np.where(train.labels == 1, 5, 0))
    with pytest.raises(InputError, match="labels of its 2 classes run from 0 to 5; expected 0 to 1 without gaps"):
        check(copied_lists)
    write_image_list(layout.train(1, 4, "new"), train.images, train.labels)
    write_image_list(layout.val(1, "separated"), [*val.images[1:], train.images[0]], [*val.labels[1:], val.labels[0]])
    assert "1 of 18 validation images are equal to training images" in check(copied_lists)
    old = read_image_list(layout.train(2, 8, "old"))
    write_image_list(layout.train(2, 8, "old"), [*old.images[:-1], "gone.png"], old.labels)
    with pytest.raises(InputError, match=r"2_old are not training images of their class:\n  gone\.png 1"):
        check(copied_lists)


def test_repeated_validation_images_and_exemplars_are_told(copied_lists: Path):
    layout = ListLayout(copied_lists)
    double(layout.val(1, "separated"))
    with pytest.warns(UserWarning, match="6 images occur more than once among the validation images"):
        data = load_dataset(f"lists:{copied_lists}", copied_lists)
    double(layout.train(2, 8, "old"))
    with pytest.raises(InputError, match=r"8 images occur more than once in .*K~8/2_old: take them out"):
        given_exemplars(data, 8, STATES)
    assert len(given_exemplars(data, 4, STATES)[2]) == 4


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda text: text + "\n\n", ["a", "b", "c", "d", "e", "f"]),
        (lambda text: "\ufeff" + text.replace("\n", "\r\n"), ["a", "b", "c", "d", "e", "f"]),
        (lambda text: text.replace("c", "c\u2028x y"), ["a", "b", "c\u2028x y", "d", "e", "f"]),
        (lambda text: text.partition("\n")[2], "5 class names for 6 classes"),
        (lambda text: text.replace("b", "a"), "6 class names for 6 classes; expected one each, no two alike"),
        (lambda text: text.replace("c", ""), ["a", "b", "", "d", "e", "f"]),
    ],
    ids=["blank lines at the end", "of Windows", "a separator of lines in a name", "one less", "twice", "an empty one"],
)
def test_class_names_beside_lists_are_taken_or_refused(change, names: list[str] | str, copied_lists: Path):
    (copied_lists / "classes.txt").write_bytes(change("a\nb\nc\nd\ne\nf\n").encode())
    if isinstance(names, list):
        assert load_dataset(f"lists:{copied_lists}", copied_lists).class_names == tuple(names)
    else:
        with pytest.raises(InputError, match=names):
            load_dataset(f"lists:{copied_lists}", copied_lists)


def test_a_data_set_has_a_name_wherever_one_stands(tree: Path, copied_lists: Path, monkeypatch: pytest.MonkeyPatch):
    whole = load_folder(tree)
    for here, path in ((tree, "."), (tree / "train", ".."), (tree.parent, f"{tree.name}/train/..")):
        monkeypatch.chdir(here)
        data = load_dataset(f"folder:{path}", tree)
        assert (data.name, data.fingerprint) == (tree.name, whole.fingerprint)
    for here, path in ((copied_lists, "."), (copied_lists.parent, "S~3"), (copied_lists / "batch1", "..")):
        monkeypatch.chdir(here)
        assert load_dataset(f"lists:{path}", tree).name == "tree"


def test_a_link_gives_a_folder_its_name_and_what_lies_beside_it_is_not_taken(tree: Path, tmp_path: Path):
    (tmp_path / "newest").symlink_to(tree / "train")
    assert load_dataset(f"folder:{tmp_path / 'newest'}", tree).name == "newest"
    assert load_dataset(f"folder:{tmp_path / 'newest' / '..'}", tree).name == tree.name, "as the system reads it"


def test_files_that_lists_leave_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a/1", "a/2", "a/more/3", "b/1", "b/2"):
        (tmp_path / "nest" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 50).save(tmp_path / "nest" / f"{name}.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (str(tmp_path / "nest"), "folder:~/nest"):
        with pytest.warns(UserWarning, match=r"1 files are not used: 1 \.png \(first a/more/3\.png\)"):
            make_lists([source], tmp_path / "out", name="nest", num_states=2, memory_sizes=[2])


def test_lists_are_made_again_beside_files_of_others(tree: Path, tmp_path: Path):
    command = ["lists", str(tree), "--out", str(tmp_path), "--name", "tree", "-S", "3", "-K", "8"]
    assert main(command) == 0
    (tmp_path / "tree" / "S~3" / ".DS_Store").write_bytes(b"\xff\x00")
    assert main(command) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_states": 0}, "num_states = 0: expected a whole number of at least 1"),
        ({"state_sizes": [-1, 7]}, r"state_sizes = \[-1, 7\]: expected a list of whole numbers of at least 1"),
        ({"state_sizes": (0, 6)}, r"state_sizes = \[0, 6\]: expected a list of whole numbers of at least 1"),
        ({"order_seed": -1}, "order_seed = -1: expected a whole number of at least 0"),
        ({"exemplar_seed": -1}, "exemplar_seed = -1: expected a whole number of at least 0"),
        ({"class_order": [10**20] * 6}, "class_order = .*: expected a list of whole numbers"),
        ({"class_order": [0.9, 1.7, 2.2, 3.0, 4.0, 5.0]}, "class_order = .*: expected a list of whole numbers"),
        ({"memory_sizes": []}, "memory_sizes is empty: give one K or more"),
    ],
)
def test_what_lists_can_not_be_made_of_is_named_and_nothing_written(given: dict, said: str, tree: Path, tmp_path: Path):
    options = {"num_states": 3, "memory_sizes": [8]} | given
    with pytest.raises(InputError, match=said):
        make_lists([str(tree)], tmp_path / "out", name="x", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("wolf,bus,apple,bear,clock,camel", "wolf bus apple bear clock camel"),
        ("5,2,0,1,4,3", "wolf bus apple bear clock camel"),
        ("icarl-1993", " ".join(np.random.RandomState(1993).permutation(CLASSES))),
    ],
)
def test_the_command_takes_orders_of_ids_of_names_and_published_ones(
    order: str, names: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = [
        "lists",
        str(tree),
        "--out",
        str(tmp_path),
        "--name",
        "tree",
        "-S",
        "3",
        "-K",
        "8",
        "--class-order",
        order,
    ]
    assert main(command) == 0
    assert (tmp_path / "tree" / "S~3" / "classes.txt").read_text().split() == names.split()
    assert main([*command[:-1], "wolf,bus"]) == 2
    assert "class_order must name each of the classes 0..5 once" in capsys.readouterr().err
    assert main([*command[:-1], "icarl"]) == 2
    assert "did you mean 'icarl-1993'" in capsys.readouterr().err


def test_the_check_says_what_it_takes(tree: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tree / "val", "im")
    assert main(["check", "im"]) == 2
    assert "unknown dataset 'im': known are: cifar10, cifar100, glyphs (or give the path of" in capsys.readouterr().err
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    with open("B.NPZ", "wb") as file:
        np.savez(file, x_train=images, y_train=[0, 0, 1, 1], x_test=images[::2] // 2, y_test=[0, 1])
    assert main(["check", "B.NPZ"]) == 0
    assert "B.NPZ: 2 classes: '0', '1'; 4 training images, 2 to 2 of a class" in capsys.readouterr().out
    Path("plain.lst").write_text("".join(f"{path} 0\n" for path in sorted(Path("im").glob("*/*"))) + "im/gone.png 1\n")
    assert main(["check", "plain.lst"]) == 2
    assert "1 images are missing on disk:\n  im/gone.png" in capsys.readouterr().err
