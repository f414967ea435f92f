"""Several processes at one training: each image counts once, and what comes out is what one process would give."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import together
import torch
from tiny import PROJECT

from il2m.data.batches import ImageBatches, Normalisation
from il2m.errors import InputError
from il2m.learning.networks import build_network
from il2m.learning.scores import mean_by_class, score_images, score_training_images
from il2m.methods.registry import METHODS
from il2m.results.table import results_table
from il2m.study.planning import load_images
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base, train_joint
from il2m.system.processes import HERE, run_in_processes

pytestmark = pytest.mark.xdist_group("several processes")  # one worker: each test keeps several cores busy


def run(count: int, function: Any, *arguments: Any) -> None:
    run_in_processes(count, True, lambda: None, function, *arguments)


@pytest.mark.parametrize("num_images", [64, 67, 65, 5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_each_batch_are_the_batch(monkeypatch, num_images, count):
    """Those of one process, in its order, each image in one share; a batch too small for that is all processes'."""
    batches, draw = together.tiny_batches(num_images), {"max_shift": 1, "flip": True}
    alone = list(batches.augmented(8, torch.Generator().manual_seed(0), **draw))
    monkeypatch.setattr(HERE, "count", count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(HERE, "rank", rank)
        shares.append(list(batches.augmented(8, torch.Generator().manual_seed(0), **draw)))
    for place, (images, labels) in enumerate(alone):
        for part, whole in ((0, images), (1, labels)):
            mine = [share[place][part] for share in shares]
            if len(labels) < 2 * count:
                assert all(torch.equal(each, whole) for each in mine)
            else:
                assert min(map(len, mine)) >= 2
                assert sum(map(len, mine)) == len(whole)
                assert all(torch.equal(each, whole[rank::count]) for rank, each in enumerate(mine))


@pytest.mark.parametrize("num_images", [0, 1, 2, 67])
def test_parts_of_the_images_to_score_are_all_of_them(monkeypatch, num_images):
    batches = together.tiny_batches(67)
    batches.images, batches.labels = batches.images[:num_images], batches.labels[:num_images]
    monkeypatch.setattr(HERE, "count", 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(HERE, "rank", rank)
        parts.append(batches.my_part())
    assert torch.equal(torch.cat([part.images for part in parts]), batches.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), batches.labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("count", "more"), [(2, {"summed_batches": 2}), (3, {})])
def test_weights_losses_and_scores_are_those_of_one_process(tmp_path: Path, count: int, more: dict[str, Any]):
    run(count, partial(together.note_train_and_score, tmp_path, **more))
    alone = together.train_and_score(**more)
    for rank in range(count):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert set(found) == set(alone)
            for name, value in alone.items():
                scale = np.abs(value).max(initial=0)
                np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6 * scale, err_msg=name)


def test_the_reason_of_a_failure_is_told_and_all_end():
    started = time.monotonic()
    with pytest.raises(InputError, match=r"^this is wrong:\n  and that too$"):
        run(2, together.fail_in_the_second)
    assert time.monotonic() - started < 120, "the first one waits for the second"


def as_one_would_score_it(run: Run, state: int) -> None:
    """All that a state stores of its images, against what one process computes from the stored weights."""
    stored, data, num_seen = run.state(state), load_images(run, "."), run.states.num_seen(state)
    model = build_network("small", 1, num_seen, 0, (8, 8))
    model.load_state_dict(stored.model_weights())
    normalisation = Normalisation(**stored.info["normalisation"])
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    for group, images in (("val", data.val_images), ("exemplar", data.train_images)):
        indices, labels = (stored.array(f"{group}_{name}") for name in ("indices", "labels"))
        scores, features = score_images(model, ImageBatches(images[indices], labels.copy(), normalisation))
        close(stored.array(f"{group}_scores"), scores)
        close(stored.array(f"{group}_features"), features)
    indices, labels = stored.array("new_indices"), np.array(stored.array("new_labels"))
    new = ImageBatches(data.train_images[indices], labels, normalisation)
    for name, values in score_training_images(model, new).items():
        close(stored.array(f"new_{name}"), values)
    num_past = run.states.num_past(state)
    past = np.flatnonzero(data.train_labels < num_past)
    past = ImageBatches(data.train_images[past], data.train_labels[past], normalisation)
    means = mean_by_class(model, past, num_past)
    close(stored.array("past_class_features"), means["unit_features"])
    for kind, name in (("raw", "own_scores"), ("softmax", "own_probabilities")):
        close(stored.info["second_memory"][kind]["all_current_means"], means[name])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_base_parameters: dict[str, Any]) -> Run:
    out = tmp_path_factory.mktemp("together")
    return train_base(out_dir=str(out), num_processes=2, **tiny_base_parameters)


def test_a_study_trained_by_two(base: Run, tiny_study, tiny_fine_tuning_parameters):
    out = base.folder.parent
    asked = {"out_dir": str(out), "base": base, "distillation": True, "num_processes": 2} | tiny_fine_tuning_parameters
    run = fine_tune(**asked)
    assert (base.identity["num_processes"], run.identity["num_processes"]) == (2, 2)
    assert base.name != tiny_study.base.name, "batch normalisation saw shares: another run"
    assert run.missing_states == []
    table = results_table(run, methods=METHODS)
    assert table["top1"].between(0, 1).all()
    losses = [epoch["loss"] for epoch in base.state(1).info["history"]]
    assert losses[1] < losses[0], "it learns"
    made = run.state(3).made
    assert fine_tune(**asked).state(3).made == made, "it is there, and not trained again"
    for state in (2, 3):
        as_one_would_score_it(run, state)
    assert not list(out.glob("*/.state_*")) + list(out.glob("*/progress.json")) + list(out.glob("*/*.checkpoint"))


def test_joint_training_by_two(base: Run):
    joint = train_joint(out_dir=str(base.folder.parent), base=base, joint_epochs=1, device="cpu")
    assert joint.missing_states == []
    assert joint.state(3).array("val_scores").shape == (30, 6)


STALLING = """
import os, pathlib, time
from il2m.learning import training

training.CHECKPOINT_SECONDS = 0
real_loss = training._Training._loss

def loss(self, *batch):
    if self.history:
        pathlib.Path(__file__).with_name(f"{os.getpid()}.stalled").touch()
        time.sleep(600)
    return real_loss(self, *batch)

training._Training._loss = loss
"""
SCRIPT = """
import sys
from il2m import train_base
from il2m.system.plugins import load_plugin

load_plugin("stalling.py")
train_base({parameters})
"""  # with no guard that keeps processes from running it again


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text() if sys.platform == "linux" else False


def test_a_killed_training_takes_its_processes_along_and_is_gone_on_with(tmp_path, base, tiny_base_parameters, capfd):
    asked = tiny_base_parameters | {"out_dir": str(tmp_path / "out"), "num_processes": 2}
    (tmp_path / "stalling.py").write_text(STALLING)
    (tmp_path / "script.py").write_text(SCRIPT.format(parameters=f"**{asked!r}"))
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment)
    try:
        for _ in range(1800):
            if len(stalled := list(tmp_path.glob("*.stalled"))) == 2 or process.poll() is not None:
                break
            time.sleep(0.1)
        assert len(stalled) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    pids = [int(path.stem) for path in stalled]
    for _ in range(300):
        if all(map(ended, pids)):
            break
        time.sleep(0.1)
    assert all(map(ended, pids))
    assert len(list(tmp_path.glob("out/*/state_01.training.checkpoint"))) == 1
    run = train_base(**asked)
    assert "starts again" not in capfd.readouterr().err
    assert run.state(1).digest == base.state(1).digest, "bit for bit what an undisturbed training gives"
    assert not list(run.folder.glob("*.checkpoint"))


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_what_is_no_number_of_processes(tmp_path, tiny_base_parameters, count):
    with pytest.raises(InputError, match=r"^num_processes = .*: expected a whole number of at least 1"):
        train_base(out_dir=str(tmp_path), num_processes=count, **tiny_base_parameters)
    assert not list(tmp_path.iterdir())


def test_batches_too_small_for_their_processes(tmp_path, tiny_study, tiny_base_parameters):
    small = {"out_dir": str(tmp_path), "num_processes": 3, "batch_size": 5}
    with pytest.raises(InputError, match=r"^batch_size = 5: 3 processes share .* use 6 or more"):
        train_base(**tiny_base_parameters | small)
    with pytest.raises(InputError, match=r"^batch_size = 5: 3 processes share .* use 6 or more"):
        fine_tune(**tiny_study.fine_tuning_parameters | small | {"out_dir": str(tiny_study.out_dir)})
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus(tmp_path, tiny_base_parameters, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = tiny_base_parameters | {"out_dir": str(tmp_path), "num_processes": 2, "device": "auto"}
    with pytest.raises(InputError, match=r"^num_processes = 2, but torch finds 1 GPU here: use 1, or device = 'cpu'"):
        train_base(**asked)
    assert not list(tmp_path.iterdir())
