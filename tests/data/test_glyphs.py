"""The embedded dataset: what it holds, and that it follows from its seed."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from il2m.data.glyphs import TRAIN_FACES, VAL_FACES, render_glyphs


@pytest.fixture(scope="module")
def few() -> dict[str, np.ndarray]:
    return render_glyphs(num_classes=6, train_per_class=8, val_per_class=5)


def test_default_is_50_classes_of_150_and_50_images():
    glyphs = render_glyphs()
    assert glyphs["x_train"].shape == (7500, 28, 28)
    assert glyphs["x_test"].shape == (2500, 28, 28)
    assert glyphs["x_train"].dtype == glyphs["x_test"].dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(glyphs["y_train"]), np.full(50, 150))
    np.testing.assert_array_equal(np.bincount(glyphs["y_test"]), np.full(50, 50))
    names = glyphs["class_names"].tolist()
    assert len(set(names)) == 50
    assert all(len(name) == 1 and name.isalpha() for name in names)
    scripts = [any(low <= name <= high for name in names) for low, high in ("Az", "Αω", "Ая", "Աֆ")]
    assert all(scripts), "letters of all four scripts"


def test_equal_seeds_render_equal_images_and_others_differ(few):
    again = render_glyphs(num_classes=6, train_per_class=8, val_per_class=5)
    assert few.keys() == again.keys()
    for name, array in few.items():
        np.testing.assert_array_equal(array, again[name])
    other = render_glyphs(num_classes=6, train_per_class=8, val_per_class=5, seed=1)
    assert other["class_names"].tolist() != few["class_names"].tolist()
    assert not np.array_equal(other["x_train"], few["x_train"])


def test_images_vary_and_can_be_seen(few):
    flat = few["x_train"].reshape(len(few["x_train"]), -1)
    assert len(np.unique(flat, axis=0)) == len(flat)
    assert (flat.max(axis=1).astype(int) - flat.min(axis=1) > 100).all(), "each image has ink and ground"
    ground = np.median(flat, axis=1)
    assert (ground < 64).any(), "white on black"
    assert (ground > 192).any(), "black on white"


def test_validation_comes_from_faces_never_trained_on():
    assert len(TRAIN_FACES) == 8
    assert len(VAL_FACES) == 4
    assert all("Sans" in face for face in TRAIN_FACES)
    assert all("Serif" in face for face in VAL_FACES)


def test_more_classes_than_distinct_letters():
    with pytest.raises(ValueError, match=r"only \d+ distinct letters; 500 were asked for"):
        render_glyphs(num_classes=500, train_per_class=1, val_per_class=1)


@pytest.mark.parametrize("without", ["X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"])
def test_images_are_the_same_whatever_the_processor_can_do(few, without):
    """numpy takes other code on other processors; sums of products and cosines then differ in their last bits."""
    code = (
        "import hashlib; from il2m.data.glyphs import render_glyphs as render;"
        "print(hashlib.sha256(render(6, 8, 5)['x_train'].tobytes()).hexdigest())"
    )
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": without}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256(few["x_train"].tobytes()).hexdigest()
