"""Fixtures of image files and of lists of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import PROJECT

from il2m.data.glyphs import render_glyphs
from il2m.exchange.prepare import make_lists

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
