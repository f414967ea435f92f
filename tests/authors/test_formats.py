"""The authors' text formats: what is written is read back, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import PROJECT

from il2m.authors.formats import (
    read_image_list,
    read_mean_std,
    read_scores,
    repeated_images,
    write_image_list,
    write_scores,
)
from il2m.errors import InputError
from il2m.system.files import replacing

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# a path that a list can hold: it neither ends in white space nor holds the end of a line
image_paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\ufeff"), min_size=1).filter(
    lambda path: path == path.rstrip()
)


def all_scores(path: Path, num_classes: int) -> np.ndarray:
    return np.concatenate(list(read_scores(path, num_classes)))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@quick
@given(st.lists(st.tuples(image_paths, st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_lists_are_read_back_as_written(tmp_path: Path, lines: list[tuple[str, int]]):
    images, labels = zip(*lines, strict=True)
    write_image_list(tmp_path / "list", images, labels)
    found = read_image_list(tmp_path / "list")
    assert tuple(found.images.tolist()) == images
    assert tuple(found.labels.tolist()) == labels


def test_a_list_splits_at_the_last_white_space_and_takes_any_line_ending(tmp_path: Path):
    path = write(tmp_path / "list", "a b.png 3\r\n\r\ndir/c.png\t\t0\nü 1.png  12")
    found = read_image_list(path)
    assert found.images.tolist() == ["a b.png", "dir/c.png", "ü 1.png"]
    assert found.labels.tolist() == [3, 0, 12]


def test_a_byte_order_mark_is_no_part_of_the_first_path_or_name(tmp_path: Path):
    assert read_image_list(write(tmp_path / "list", "\ufeffa.png 1\n")).images.tolist() == ["a.png"]
    assert read_mean_std(write(tmp_path / "list", "\ufeffmine:mean=[1];std=[2]\n"), "mine") == ((1.0,), (2.0,))


@pytest.mark.parametrize("image", ["", "a ", "a\nb", "\r", "\udc80"])
def test_a_path_that_could_not_be_read_back_is_not_written(tmp_path: Path, image: str):
    with pytest.raises(InputError, match="can't be written to a list"):
        write_image_list(tmp_path / "list", ["fine.png", image], [0, 1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        ("a.png 0\nb.png\n", "line 2: 'b.png' is not 'path label'"),
        ("a.png 0\nb.png 1.5\n", "line 2: 'b.png 1.5' is not 'path label'"),
        (b"a.png 0\n\xff\xfe\x00 1\n", "not a text file"),
        (b"\x89PNG\x00\x01\x02 x", "not a text file"),
        (b"a\x00b c", "not a text file"),
        ("a\0.png 1\n", "not a text file"),
        ("a.png 1_0\n", "line 1: 'a.png 1_0' is not 'path label'"),
        ("a.png \u0661\n", "line 1: 'a.png \u0661' is not 'path label'"),
        ("a.png " + "9" * 5000, "line 1: 'a.png 999.* is not 'path label'"),
        ("a.png 99999999999999999999\n", "the label 99999999999999999999 is out of range"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(InputError, match=message) as error:
        read_image_list(write(tmp_path / "the.list", content))
    assert "the.list" in str(error.value)


def test_repeated_images_are_named_once():
    images = np.array(["b", "a", "b", "c", "b", "a"], dtype=np.dtypes.StringDType())
    assert repeated_images(images) == ["a", "b"]
    assert repeated_images(images[:2]) == []


@quick
@given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
                     elements=st.floats(allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_scores_are_read_back_exactly(tmp_path: Path, scores: np.ndarray):
    write_scores(tmp_path / "scores", [scores[:1], scores[1:]])
    found = all_scores(tmp_path / "scores", scores.shape[1])
    np.testing.assert_array_equal(found, scores)


def test_scores_longer_than_a_block_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(0).normal(size=(50, 4))
    write_scores(tmp_path / "scores", [scores])
    monkeypatch.setattr("il2m.authors.formats._BLOCK_BYTES", 300)
    blocks = list(read_scores(tmp_path / "scores", 4))
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate(blocks), scores)
    lines = (tmp_path / "scores").read_text().splitlines()
    lines[41] = "1 2 3 four"
    write(tmp_path / "scores", "\n".join(lines))
    with pytest.raises(InputError, match="line 42: a score is not a number"):
        all_scores(tmp_path / "scores", 4)


@pytest.mark.parametrize(
    "content",
    [
        "1 2.5 -3\n4 5e-1 6\n",
        "1 2.5 -3\n4 5e-1 6",
        "1 2.5 -3\r\n4 5e-1 6\r\n",
        "\n1 2.5 -3\n\n\n4 5e-1 6\n\n",
        " 1  2.5\t-3 \n+4 .5 6.\n",
        "1 2.5 -3\n4 5e-1  6\n",
        "\ufeff1 2.5 -3\n4 5e-1 6\n",
    ],
)
def test_scores_in_other_clothes(tmp_path: Path, content: str):
    found = all_scores(write(tmp_path / "scores", content), 3)
    np.testing.assert_array_equal(found, [[1, 2.5, -3], [4, 0.5, 6]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the score file is empty; expected 3 numbers per line"),
        ("\n\n", "the score file is empty"),
        ("1 2 3\n1 2\n", "line 2: 2 scores; expected 3"),
        ("1 2 3\n1 2 3 4\n", "line 2: 4 scores; expected 3"),
        ("1 2\n1 2 3 4\n", "line 1: 2 scores; expected 3"),  # as many numbers as two good lines
        ("1 2  \n1 2 3\r4\n", "line 1: 2 scores; expected 3"),
        ("1 2 3\n1 x 3\n", "line 2: a score is not a number .*'x'"),
        ("1 2 3\n1,2,3\n", "line 2: a score is not a number"),
        ("1 2 3\n\n1 nan 3\n", "line 3: the score of class 1 is nan"),
        ("1 2 3\n1_0 2 3\n", "line 2: a score is not a number .*'1_0'"),
        ("1 2 3\n0x1 2 3\n", "line 2: a score is not a number .*'0x1'"),
        ("1 2 3\n1 2 -inf\n", "line 2: the score of class 2 is -inf"),
        ("1 2 3\n1 2 1e999\n", "line 2: the score of class 2 is inf"),
        (b"1 2 3\n\x00\x01 2 3\n", r"not a text file \(line 2\)"),
        (b"\xff\xfe1\x00 \x00", r"not a text file \(line 1\)"),
    ],
)
def test_what_is_wrong_with_scores_is_named(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(InputError, match=message) as error:
        all_scores(write(tmp_path / "the.scores", content), 3)
    assert "the.scores" in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path: Path):
    for read in (read_image_list, lambda path: all_scores(path, 3), lambda path: read_mean_std(path, "x")):
        with pytest.raises(InputError, match="nowhere: can't be read"):
            read(tmp_path / "nowhere")


@quick
@given(st.binary(max_size=60) | st.text(st.sampled_from("0123456789.-+eEnaif \t\r\n,:;=[]/\x00")).map(str.encode))
def test_random_bytes_give_an_error_of_ours_or_a_result(tmp_path: Path, content: bytes):
    path = write(tmp_path / "any", content)
    try:
        found = read_image_list(path)
        assert len(found.images) == len(found.labels) > 0
    except InputError:
        pass
    for num_classes in (1, 2):
        try:
            scores = all_scores(path, num_classes)
            expected = [[float(word) for word in line.split()] for line in content.split(b"\n") if line.split()]
            np.testing.assert_array_equal(scores, expected)
        except InputError:
            pass
    try:
        mean, std = read_mean_std(path, "x")
        assert len(mean) == len(std)
    except InputError:
        pass


def test_the_authors_means_and_stds():
    mean, std = read_mean_std(PROJECT / "data" / "datasets_mean_std.txt", "ilsvrc")
    assert mean == (0.485, 0.456, 0.406)
    assert std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("other:mean=[1];std=[1]", "no mean and std for 'mine': known are: other"),
        ("mime:mean=[1];std=[1]", "no mean and std for 'mine': did you mean 'mime'?"),
        ("", "the file is empty"),
        ("mine:mean=[1, 2];std=[1]", "line 1: .* is not 'name:mean="),
        ("mine:mean=[1];std=[0]", "positive standard deviations"),
        ("mine:mean=[nan];std=[1]", "finite numbers"),
        ("mine:mean=[a];std=[1]", "line 1"),
        ("mine", "line 1"),
        ("mine:mean=[1_0];std=[1]", "line 1"),
        ("mine:mean=[\u0661];std=[1]", "line 1"),
        ("mine:mean=[1];std=[1]\nmine:mean=[1];std=[2]", "2 lines are named 'mine'; expected one"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_what_is_wrong_with_means_is_named(tmp_path: Path, line: str | bytes, message: str):
    with pytest.raises(InputError, match=message):
        read_mean_std(write(tmp_path / "mean_std.txt", line), "mine")


def test_a_file_that_can_not_take_its_place_leaves_nothing(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"), replacing(tmp_path / "folder", "w") as file:
        file.write("content")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "new.txt", "w") as file:
        file.write(str(1 / 0))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]
