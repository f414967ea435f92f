"""Fixtures that many tests share: tiny images that can be learned, and one tiny finished study of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from tiny import TinyStudy, make_tiny_arrays

from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # no test depends on speed: a busy machine is none that fails


STALLING = """
import sys, time
import torch
from il2m.learning import training

torch.set_num_threads(1)
training.CHECKPOINT_SECONDS = 0
seen, real_loss = [], training._Training._loss

def loss(self, images, labels):
    seen.append(1)
    if len(seen) == int(sys.argv[1]):
        print("stalled", flush=True)
        sys.stdin.readline()
    return real_loss(self, images, labels)

training._Training._loss = loss
"""


@pytest.fixture
def start_stalling() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts processes that run Python code, stop before the forward pass of a given batch until they get a line, and
    store a checkpoint after every epoch."""
    processes = []

    def start(code: str, *, batch: int) -> subprocess.Popen:
        command = [sys.executable, "-c", STALLING + code, str(batch)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen(command, text=True, cwd=Path(__file__).parent, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def tiny_arrays() -> dict[str, np.ndarray]:
    return make_tiny_arrays()


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **make_tiny_arrays())
    return path


@pytest.fixture(scope="session")
def tiny_base_parameters(tiny_npz: Path) -> dict[str, Any]:
    """What train_base needs beside out_dir: 3 states of 2 classes, 2 epochs. Copy it to change it."""
    training = {"batch_size": 8, "learning_rate": 0.05, "max_shift": 1, "device": "cpu"}
    return {"dataset": str(tiny_npz), "num_states": 3, "network": "small", "base_epochs": 2, **training}


@pytest.fixture(scope="session")
def tiny_fine_tuning_parameters() -> dict[str, Any]:
    """What fine_tune needs beside out_dir: 6 exemplars per past class at state 2, 3 at state 3. Copy it to change."""
    training = {"batch_size": 8, "learning_rate": 0.05, "max_shift": 1, "device": "cpu"}
    return {"memory_size": 12, "epochs": 2, **training}


@pytest.fixture(scope="session")
def half_done_study(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> Path:
    """The folder of a study run by the command line, one branch of which failed; one executed notebook is gone."""
    folder = tmp_path_factory.mktemp("half done")
    grid, out = folder / "tiny.yaml", folder / "study"
    grid.write_text(
        "description: A branch that <b>fails</b> & one that works.\n"
        "parameters: {num_states: 3, memory_size: 12, base_epochs: 2, epochs: 2, batch_size: 8, distillation: false,"
        " learning_rate: [0.05, 1.0e+6]}"
    )
    command = [sys.executable, "-m", "il2m.cli", "run", str(grid), "--out", str(out), "-p", f"dataset={tiny_npz}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1, result.stdout + result.stderr
    next(out.glob("notebooks/03_*.ipynb")).unlink()
    next(out.glob("notebooks/03_*.html")).unlink()
    return out


@pytest.fixture(scope="session")
def tiny_study(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_base_parameters: dict[str, Any],
    tiny_fine_tuning_parameters: dict[str, Any],
) -> TinyStudy:
    """Base, and fine-tuning with distillation off and on."""
    out_dir = tmp_path_factory.mktemp("study")
    base = train_base(out_dir=str(out_dir), **tiny_base_parameters)
    off, on = (
        fine_tune(out_dir=str(out_dir), distillation=distillation, **tiny_fine_tuning_parameters)
        for distillation in (False, True)
    )
    return TinyStudy(out_dir, tiny_base_parameters, tiny_fine_tuning_parameters, base, off, on)


@pytest.fixture(scope="session")
def run_of_files(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """4 classes of colour photographs in two states, scored in views of 8 pixels; 2 past classes whose means differ."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for label in range(4):
        for part, count in (("train", 4), ("val", 3)):
            (place := folder / "images" / part / f"class {label}").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (10, 12, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{part}{i}.png")
    out, training = str(folder / "study"), {"batch_size": 4, "device": "cpu", "learning_rate": 0.05}
    source = {"dataset": f"folder:{folder / 'images'}", "image_size": 8, "num_workers": 0}
    train_base(num_states=2, out_dir=out, base_epochs=3, **source, **training)
    return fine_tune(out_dir=out, memory_size=4, epochs=3, num_workers=0, **training)
