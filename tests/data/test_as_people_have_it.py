"""Data as people have it: what docs/data.md says makes it fit is run here, on small copies of each form and layout."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import PROJECT, make_tiny_arrays

from il2m.data.lists import load_folder
from il2m.data.sources import REQUIRED, dataset_from_arrays, load_dataset
from il2m.errors import InputError
from il2m.exchange.prepare import check_images

PAGE = (PROJECT / "docs" / "data.md").read_text()
TABLE = PAGE.partition("### Arrays as people have them")[2].partition("\n\nA data set that Python")[0]
LINES = dict(re.findall(r"^\| ([^|]+?) \| `(.+)` \|$", TABLE, flags=re.MULTILINE))
FOLDERS = PAGE.partition("### Folders as people have them")[2].partition("## What is told")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", FOLDERS, flags=re.DOTALL)
WORDS = np.array(["wolf", "bear", "ant", "cat", "dog", "bee"])

Arrays = dict[str, np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]


def labels(change: Change) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: change(arrays[key]) for key in ("y_train", "y_test")}


def images(change: Change) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: change(arrays[key]) for key in ("x_train", "x_test")}


def med_mnist(arrays: Arrays) -> Arrays:
    kept = {f"{part}_images": arrays[f"x_{part}"] for part in ("train", "test")}
    kept |= {f"{part}_labels": arrays[f"y_{part}"][:, None] for part in ("train", "test")}
    return kept | {"val_images": kept["test_images"][:1], "val_labels": kept["test_labels"][:1]}


ONE_TO_C = "labels 1..C, with gaps, fractions or words"
FORMS = {  # the row of the table, what people have, and what the refusal says
    "1..C": (ONE_TO_C, labels(lambda y: y + 1), "no image of class(es) [0]"),
    "gaps": (ONE_TO_C, labels(lambda y: y * 3), "no image of class(es) [1, 2"),
    "large": (ONE_TO_C, labels(lambda y: y * 1000), "has the label"),
    "negative": (ONE_TO_C, labels(lambda y: y - 1), "has the label -1"),
    "fractions": (ONE_TO_C, labels(lambda y: y.astype(float)), "dtype float64"),
    "words": (ONE_TO_C, labels(lambda y: np.sort(WORDS)[y]), "dtype <U4"),
    "bytes": (ONE_TO_C, labels(lambda y: np.sort(WORDS).astype("S")[y]), "dtype |S4"),
    "(n, 1)": ("labels of shape (n, 1)", labels(lambda y: y[:, None]), "y.ravel()"),
    "one-hot": ("one-hot rows, (n, C)", labels(lambda y: np.eye(6)[y]), "y.argmax(axis=1)"),
    "channels first": (
        "channels first, (n, 3, height, width)", images(lambda x: x.transpose(0, 3, 1, 2)), "x.transpose(0, 2, 3, 1)"
    ),
    "four channels": (
        "four channels, (n, height, width, 4)", images(lambda x: np.concatenate([x, x[..., :1]], -1)), "shape"
    ),
    "0..1": (
        "fractions 0..1, or True and False", images(lambda x: (x / 255).astype(np.float32)), "(x * 255).round()"
    ),
    "0..255": ("fractions or whole numbers 0..255", images(lambda x: x.astype(np.float32)), "x.round().astype"),
    "int64": ("fractions or whole numbers 0..255", images(lambda x: x.astype(np.int64)), "x.round().astype"),
    "16 bits": ("16 bits, 0..65535", images(lambda x: x.astype(np.uint16) * 257), "dtype uint16"),
    "MedMNIST": ("MedMNIST's keys", med_mnist, "found ['test_images', 'test_labels', 'train_images'"),
}  # fmt: skip


@pytest.fixture
def arrays() -> Arrays:
    """6 classes of 8 x 8 x 3 images, of which one is black and one is white."""
    tiny = {key: array for key, array in make_tiny_arrays().items() if key in REQUIRED}
    tiny |= {key: tiny[key][..., None].repeat(3, axis=-1) for key in ("x_train", "x_test")}
    tiny["x_train"][0], tiny["x_train"][1] = 0, 255
    return tiny


def mended(line: str, given: Arrays) -> Arrays:
    """What a line of the table makes of arrays: it is run as it stands, for each part if it speaks of x or y alone."""
    if re.search(r"_train|_test", line):
        names = {"np": np, **given}
        exec(line, names)
        return {key: names[key] for key in (*REQUIRED, "class_names") if key in names}
    made = dict(given)
    for part in ("train", "test"):
        names = {"np": np, "x": given[f"x_{part}"], "y": given[f"y_{part}"]}
        exec(line, names)
        made |= {f"x_{part}": names["x"], f"y_{part}": names["y"]}
    return made


@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_refused_until_the_line_of_the_page_makes_them_fit(form: str, arrays: Arrays, tmp_path: Path):
    row, change, refusal = FORMS[form]
    given = change(arrays)
    np.savez(tmp_path / "given.npz", **given)
    with pytest.raises(InputError) as error:
        load_dataset(str(tmp_path / "given.npz"), tmp_path)
    assert refusal in str(error.value)
    data = dataset_from_arrays("mended", mended(LINES[row], given))
    for key, array in zip(
        REQUIRED, (data.train_images, data.train_labels, data.val_images, data.val_labels), strict=True
    ):
        np.testing.assert_array_equal(array, arrays[key], err_msg=key)
    if form == "words":
        assert data.class_names == tuple(sorted(WORDS.tolist()))


def test_the_line_in_a_refusal_of_labels_is_that_of_the_page(arrays: Arrays):
    with pytest.raises(InputError) as error:
        dataset_from_arrays("words", labels(lambda y: WORDS[y])(arrays))
    assert str(error.value).endswith(f"Others are numbered by: {LINES[ONE_TO_C]}")


def test_a_class_without_training_images_is_still_refused_once_labels_are_numbered(arrays: Arrays):
    arrays["y_train"] = np.where(arrays["y_train"] == 2, 3, arrays["y_train"])
    with pytest.raises(InputError, match=r"y_train has no image of class\(es\) \[2\]"):
        dataset_from_arrays("numbered", mended(LINES[ONE_TO_C], arrays))


def test_pixels_that_were_standardised_rows_and_sets_without_validation_images(arrays: Arrays):
    standard = mended(LINES["mean 0 and standard deviation 1"], images(lambda x: (x - 120.0) / 60)(arrays))
    np.testing.assert_array_equal(standard["x_train"], arrays["x_train"], "its black and its white give the scale")
    np.testing.assert_array_equal(standard["x_test"], arrays["x_test"])
    rows = LINES["a row of pixels per image, (n, 784)"].replace("28, 28", "8, 8, 3")
    flat = mended(rows, images(lambda x: x.reshape(len(x), -1))(arrays))
    np.testing.assert_array_equal(flat["x_train"], arrays["x_train"])
    alone = {key: arrays[key] for key in ("x_train", "y_train")}
    split = dataset_from_arrays("split", mended(LINES["no part for validation"], alone))
    assert (len(split.train_labels), len(split.val_labels)) == (58, 14)


def test_every_row_of_the_table_is_tried():
    elsewhere = {"mean 0 and standard deviation 1", "a row of pixels per image, (n, 784)", "no part for validation"}
    assert {*LINES} == {row for row, _, _ in FORMS.values()} | elsewhere


@pytest.mark.parametrize("change", [lambda names: names.astype("S"), lambda names: names[:, None]])
def test_class_names_as_bytes_or_as_a_column_are_the_names_themselves(change: Change, arrays: Arrays):
    assert dataset_from_arrays("a", arrays | {"class_names": change(WORDS)}).class_names == tuple(WORDS.tolist())


def test_check_says_what_an_npz_is_understood_as(arrays: Arrays, tmp_path: Path):
    np.savez(tmp_path / "a.npz", **arrays, class_names=WORDS)
    said = check_images(f"{tmp_path}/a.npz")
    assert said == (
        f"{tmp_path}/a.npz: 6 classes: 'wolf', 'bear', 'ant', 'cat', 'dog', ...; "
        "72 training images, 12 to 12 of a class, (8, 8, 3) 0..255; "
        f"30 validation images, 5 to 5 of a class, (8, 8, 3) {arrays['x_test'].min()}..{arrays['x_test'].max()}"
    )
    np.savez(tmp_path / "b.npz", **arrays | {"x_test": arrays["x_train"][:30]})
    assert "30 of 30 validation images are equal to training images" in check_images(f"{tmp_path}/b.npz")


# --- folders


def put(*paths: str) -> None:
    """Image files in the current folder, no two alike."""
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([*str(path).encode()]).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_block(word: str) -> None:
    """Run the page's block on that, after the function that they all call."""
    (block,) = [block for block in BLOCKS[1:] if word in block]
    exec(BLOCKS[0] + block, {})


def assert_holds(folder: str, expected: dict[str, list[str]], num_val: int) -> None:
    """Training files of each class, by content, and how many validation images there are."""
    data = load_folder(Path(folder))
    assert data.class_names == tuple(sorted(expected))
    assert data.files.unused == ()
    for c, name in enumerate(data.class_names):
        found = [Path(path).read_bytes() for path in data.train_images.paths[data.train_labels == c].tolist()]
        assert found == [Path(file).read_bytes() for file in expected[name]]
    assert len(data.val_labels) == num_val


def test_tiny_imagenet(here: Path):
    root, classes = "tiny-imagenet-200", ("n01", "n02")
    train = {c: [f"{root}/train/{c}/images/{c}_{i}.JPEG" for i in range(3)] for c in classes}
    put(*train["n01"], *train["n02"], *(f"{root}/val/images/val_{i}.JPEG" for i in range(4)))
    put(f"{root}/test/images/test_0.JPEG")
    Path(root, "train/n01/n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
    rows = [f"val_{i}.JPEG\t{classes[i % 2]}\t0\t32\t44\t62\n" for i in range(4)]
    Path(root, "val/val_annotations.txt").write_text("".join(rows))
    with pytest.raises(InputError, match=r"no image in the class folder\(s\) \['n01', 'n02'\].*docs/data\.md"):
        load_folder(Path(root))
    run_block("val_annotations")
    assert_holds("tiny-imagenet", train, 4)
    val = load_folder(Path("tiny-imagenet"))
    assert Path(val.val_images.paths[0]).read_bytes() == Path(root, "val/images/val_0.JPEG").read_bytes()
    assert Path(val.val_images.paths[2]).read_bytes() == Path(root, "val/images/val_1.JPEG").read_bytes()


def test_cub(here: Path):
    root, classes = "CUB_200_2011", ("001.Albatross", "002.Auklet")
    files = [f"{c}/{c}_{i}.jpg" for c in classes for i in range(4)]
    put(*(f"{root}/images/{file}" for file in files))
    for folder in ("attributes", "parts"):
        Path(root, folder).mkdir()
    Path(root, "images.txt").write_text("".join(f"{i} {file}\n" for i, file in enumerate(files, 1)))
    Path(root, "train_test_split.txt").write_text("".join(f"{i} {int(i % 4 > 0)}\n" for i in range(1, 9)))
    with pytest.raises(InputError, match="'attributes', 'images', 'parts'"):
        load_folder(Path(root))
    run_block("train_test_split")
    assert_holds("cub", {c: [f"{root}/images/{c}/{c}_{i}.jpg" for i in range(3)] for c in classes}, 2)
    assert len(load_folder(Path(root, "images")).val_labels) == 2


def test_nested_folders(here: Path):
    classes = {"animals": ("cat", "dog"), "things": ("cup",)}
    for part in ("train", "val"):
        put(*(f"nested/{part}/{a}/{b}/{part} {i}.png" for a, inner in classes.items() for b in inner for i in (0, 1)))
    with pytest.raises(InputError, match=r"no image in the class folder\(s\) \['animals', 'things'\]"):
        load_folder(Path("nested"))
    run_block("rglob")
    expected = {b: [f"nested/train/{a}/{b}/train {i}.png" for i in (0, 1)] for a in classes for b in classes[a]}
    assert_holds("flat", expected, 6)


def test_the_class_before_the_part(here: Path):
    put(*(f"by_class/{c}/{part}/{i}.png" for c in ("cat", "dog") for part in ("train", "test") for i in (0, 1)))
    run_block("by_class")
    assert_holds("by_part", {c: [f"by_class/{c}/train/{i}.png" for i in (0, 1)] for c in ("cat", "dog")}, 4)


@pytest.mark.parametrize("named", [["cat", "dog"], ["0", "1"]])
def test_tables_of_paths_with_a_header(named: list[str], here: Path):
    for part in ("train", "val"):
        files = [f"pictures/{part} {c} {i}.png" for c in (0, 1) for i in range(3)]
        put(*files)
        rows = [f"{file},{named[i // 3]}" for i, file in enumerate(files)]
        Path(f"{part}.csv").write_text("\n".join(["path,label", *rows, ""]))
    with pytest.raises(InputError, match=r"line 1: 'path,label' is not 'path label', .* and no header"):
        check_images("train.csv")
    run_block("read_csv(f")
    assert_holds("linked", {name: [f"pictures/train {c} {i}.png" for i in range(3)] for c, name in enumerate(named)}, 6)


def test_every_block_of_the_page_is_tried():
    assert len(BLOCKS) == 6


@pytest.mark.parametrize(
    ("train", "val"),
    [("Train", "Val"), ("training", "testing"), ("TRAIN", "TEST"), ("train", "valid"), ("Training", "Validation")],
)
def test_parts_by_other_names(train: str, val: str, here: Path):
    for part in (train, val):
        put(*(f"{part}/{c}/{i}.png" for c in ("cat", "dog") for i in (0, 1)))
    assert_holds(".", {c: [f"{train}/{c}/{i}.png" for i in (0, 1)] for c in ("cat", "dog")}, 4)
    said = check_images("folder:.", num_workers=0)
    assert f"4 training images, 2 to 2 of a class, first {here}/{train}/cat/0.png" in said
    assert f"4 validation images, 2 to 2 of a class, first {here}/{val}/cat/0.png" in said


@pytest.mark.parametrize(("train", "val"), [("Train", "Val"), ("training", "testing"), ("train", "val")])
def test_parts_without_class_folders_are_not_two_classes(train: str, val: str, here: Path):
    put(*(f"{part}/cat_{i}.png" for part in (train, val) for i in range(5)))
    with pytest.raises(InputError, match=f"{train}: no class folders; expected one folder per class"):
        load_folder(here)


def test_of_several_parts_to_validate_with_the_first_is_taken_and_the_other_told(here: Path):
    put(*(f"{part}/{c}/{part}.png" for part in ("train", "valid", "test") for c in ("cat", "dog")))
    put("val/cat/1.png", "val/dog/1.png")
    data = load_folder(here)
    assert data.val_images.paths.tolist() == [f"{here}/val/{c}/1.png" for c in ("cat", "dog")]
    (told,) = data.files.unused
    assert "4 files are not used" in told


def test_a_list_with_tabs_and_a_header_is_text(here: Path):
    Path("list.tsv").write_text("index\tpath\tlabel\n0\ta.png\t0\n")
    with pytest.raises(InputError, match=r"line 1: 'index\\tpath\\tlabel' is not 'path label'"):
        check_images("list.tsv")


def test_some_of_the_classes_of_a_folder(here: Path):
    block = PAGE.partition("### Some of the classes")[2].partition("```python\n")[2].partition("```")[0]
    lines = block.splitlines(keepends=True)
    ways = [line for line in lines if line.startswith("chosen = ")]
    assert len(ways) == 3
    every = [f"n{c:03d}" for c in range(103)]
    put(*(f"imagenet/{part}/{c}/{part}.png" for part in ("train", "val") for c in every))
    Path("imagenet100.txt").write_text("n005\nn002\n")
    expected = every[:100], sorted(np.random.default_rng(0).permutation(every)[:100].tolist()), ["n002", "n005"]
    for way, chosen in zip(ways, expected, strict=True):
        exec("".join(line for line in lines if line not in ways or line == way), {"np": np, "Path": Path})
        assert_holds("imagenet100", {c: [f"imagenet/train/{c}/train.png"] for c in chosen}, len(chosen))
        shutil.rmtree("imagenet100")
    assert len(list(Path("imagenet").rglob("*.png"))) == 206, "the links alone are gone"


# --- data sets of Python: docs/extend.md's functions


def function_of_extend(name: str) -> Callable[..., Arrays]:
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "extend.md").read_text(), flags=re.DOTALL)
    (imports,) = [block for block in blocks if "def arrays(" in block]
    (block,) = [block for block in blocks if f"def {name}(" in block]
    names: Arrays = {}
    exec(imports + block.partition("\n\ndef first_20")[0].partition("\n\nil2m.register")[0], names)
    return names[name]


def test_pairs_of_images_and_labels_are_arrays():
    rows = {"img": [Image.new("L", (9, 5), 40 * i) for i in range(4)], "label": [0, 1, 1, 0]}
    made = function_of_extend("arrays")("test", zip(rows["img"], rows["label"], strict=True), (6, 4))
    assert made["x_test"].shape == (4, 4, 6, 3)
    assert made["x_test"][:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    assert made["y_test"].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("chosen", [range(2), [4, 1, 3], np.array([5])])
def test_some_of_the_classes_of_arrays(chosen: list[int], arrays: Arrays):
    whole = dataset_from_arrays("whole", arrays | {"class_names": WORDS})
    part = dataset_from_arrays("part", function_of_extend("part_of")(whole, chosen))
    assert part.class_names == tuple(WORDS[label] for label in chosen)
    for place, label in enumerate(chosen):
        np.testing.assert_array_equal(
            part.train_images[part.train_labels == place], whole.train_images[whole.train_labels == label]
        )
        np.testing.assert_array_equal(
            part.val_images[part.val_labels == place], whole.val_images[whole.val_labels == label]
        )
    assert len(part.train_labels) == 12 * len(chosen)


def test_a_table_of_paths(here: Path):
    put("a.png", "b.png", "c.png")
    Path("table.csv").write_text("path,label,part\na.png,wolf,train\nb.png,ant,train\nc.png,wolf,test\n")
    made = function_of_extend("from_table")(here)
    assert list(made["class_names"]) == ["ant", "wolf"]
    assert (made["y_train"].tolist(), made["y_test"].tolist()) == ([1, 0], [1])
    for part, place, file in (("train", 0, "a"), ("train", 1, "b"), ("test", 0, "c")):
        resized = Image.open(f"{file}.png").resize((32, 32))
        np.testing.assert_array_equal(made[f"x_{part}"][place], np.asarray(resized))


def test_a_table_of_images_that_are_not_plain_is_read_as_a_folder_of_them(here: Path):
    """Of 16 bits, transparent, and turned by EXIF data; in the one size that the page's example gives them."""
    turned = Image.Exif()
    turned[274] = 6  # a quarter to the right
    Image.fromarray(np.full((32, 32), 0x8000, np.uint16)).save("a.png")
    Image.new("RGBA", (32, 32), (10, 20, 30, 0)).save("b.png")
    Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 16)[:, None].repeat(32, axis=1)).save("c.png", exif=turned)
    lines = [f"{file}.png,{file},{part}" for file in "abc" for part in ("train", "test")]
    Path("table.csv").write_text("\n".join(["path,label,part", *lines]))
    made = function_of_extend("from_table")(here)
    grey, white, halves = (made["x_train"][made["y_train"] == label][0, ..., 0] for label in range(3))
    assert (grey.min(), grey.max()) == (128, 128)
    assert white.min() == 255
    assert (halves[:, :15] == 255).all(), "what lay below lies to the left"
    assert (halves[:, 17:] == 0).all()
