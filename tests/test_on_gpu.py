"""What holds on a CUDA device: `pytest -m gpu`. Without one all of this is skipped, and the same logic is tested on a
CPU elsewhere; what is told of bits here is what docs/reliability.md says."""

import json
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from tiny import kill_when_stalled, train_with
from together import note_meeting
from torch import nn

from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std
from il2m.errors import InputError
from il2m.learning import training
from il2m.learning.networks import Classifier, build_network
from il2m.learning.scores import score_images
from il2m.study.planning import load_images
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base
from il2m.system.processes import run_in_processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.xdist_group("gpu"),
]
SETTINGS = {
    "epochs": 4, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step",
    "patience": 5, "max_shift": 1, "flip": True, "seed": 3, "device": "cuda",
}  # fmt: skip


@pytest.fixture
def batches(tiny_arrays) -> ImageBatches:
    """72 images: four whole batches of 16, and 8 left over."""
    images = tiny_arrays["x_train"][..., None]
    return ImageBatches(images, tiny_arrays["y_train"], channel_mean_std(images))


def trained(batches: ImageBatches, *, network: str = "small", distils: bool = False, **more):
    model = build_network(network, 1, 6, seed=0)
    teacher = build_network(network, 1, 4, seed=1) if distils else None
    history = train_with(model, batches, teacher=teacher, **SETTINGS | more)
    return {name: value.cpu() for name, value in model.state_dict().items()}, [epoch.loss for epoch in history]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of a weight, relative to the largest weight of its tensor."""
    floats = [name for name, value in a.items() if value.is_floating_point()]
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-3)) for name in floats)


@pytest.mark.parametrize("distils", [False, True])
@pytest.mark.parametrize("network", ["small", "resnet8"])
def test_replayed_steps_are_the_steps_one_by_one(batches, monkeypatch, network, distils):
    """Over three learning rates (the schedule's), left-over batches and all."""
    replayed, losses = trained(batches, network=network, distils=distils)
    monkeypatch.setattr(training, "ReplayedStep", lambda step: None)
    one_by_one, expected = trained(batches, network=network, distils=distils)
    assert distance(replayed, one_by_one) < 1e-3
    assert losses == pytest.approx(expected, rel=1e-4)


def test_most_steps_are_replayed(batches, monkeypatch):
    calls, real = [], training._Training._step
    monkeypatch.setattr(training._Training, "_step", lambda *given: calls.append(1) or real(*given))
    trained(batches, epochs=10)
    # of 50 steps: 3 to warm up, 10 of left-over batches, 3 captures, one for each learning rate
    assert len(calls) == 3 + 10 + 3


@pytest.mark.parametrize(
    "more", [{}, {"precision": "bf16"}, {"precision": "tf32"}, {"network": "resnet8", "distils": True}]
)
def test_equal_seeds_give_equal_bits(batches, more):
    (first, losses), (again, same) = trained(batches, **more), trained(batches, **more)
    assert losses == same
    assert distance(first, again) == 0


@pytest.mark.parametrize(
    "more", [{"precision": "bf16"}, {"precision": "fp16"}, {"precision": "tf32"}, {"summed_batches": 3}]
)
def test_other_ways_to_train_learn_too(batches, more):
    _, losses = trained(batches, epochs=12, **more)
    assert losses[-1] < 0.7 * losses[0]


class Reads(nn.Module):
    """A backbone that looks at its own values, as a user's may: no graph can hold that."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        return features * (2.0 if float(features.detach().mean()) > 1e9 else 1.0)


def test_a_network_that_waits_for_its_own_values_is_trained_step_by_step(batches):
    model = build_network("small", 1, 6, seed=0)
    model.backbone, model.head = Reads(1), nn.Linear(8, 6)
    with pytest.warns(UserWarning, match="trained step by step"):
        history = train_with(model, batches, **SETTINGS | {"epochs": 6})
    assert history[-1].loss < history[0].loss


def test_dropout_is_drawn_from_the_seed(batches, tmp_path, monkeypatch):
    """In steps that are replayed too, each with a mask of its own, and however often the training was interrupted."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)

    def with_dropout(**more) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5)
        model = Classifier(nn.Sequential(*layers), 16, 6)
        torch.manual_seed(time.time_ns())
        train_with(model, batches, **SETTINGS | {"epochs": 6} | more)
        return {name: value.cpu() for name, value in model.state_dict().items()}

    def interrupt(epoch: training.Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    expected, path = with_dropout(), tmp_path / "checkpoint"
    assert distance(with_dropout(), expected) == 0
    assert distance(with_dropout(seed=1), expected) > 0.01
    with pytest.raises(KeyboardInterrupt):
        with_dropout(checkpoint=path, on_epoch=interrupt)
    assert distance(with_dropout(checkpoint=path), expected) == 0
    monkeypatch.setattr(training, "ReplayedStep", lambda step: None)
    assert distance(with_dropout(), expected) < 1e-3


def test_validation_every_so_many_epochs_changes_no_bit(batches):
    """It scores the model between steps that are replayed."""
    plain, losses = trained(batches, network="resnet8")
    model = build_network("resnet8", 1, 6, seed=0)
    validate = partial(mean_right, model, batches)
    history = train_with(model, batches, **SETTINGS, validate_every=1, validate=validate)
    assert [epoch.loss for epoch in history] == losses
    assert all(0 <= epoch.val_top1 <= 1 for epoch in history)
    assert distance({name: value.cpu() for name, value in model.state_dict().items()}, plain) == 0


def mean_right(model: Classifier, batches: ImageBatches) -> float:
    return float((score_images(model, batches)[0].argmax(axis=1) == batches.labels.numpy()).mean())


def test_a_frozen_backbone_stays_as_it_is(batches, monkeypatch):
    """Its weights, and the running statistics of its batch normalisation, in steps that are replayed."""

    def frozen() -> dict[str, torch.Tensor]:
        model = build_network("resnet8", 1, 6, seed=0)
        model.backbone.requires_grad_(False)
        train_with(model, batches, **SETTINGS)
        return {name: value.cpu() for name, value in model.state_dict().items()}

    fresh, replayed = build_network("resnet8", 1, 6, seed=0).state_dict(), frozen()
    assert all(torch.equal(replayed[name], value) for name, value in fresh.items() if name.startswith("backbone"))
    assert not torch.equal(replayed["head.weight"], fresh["head.weight"])
    monkeypatch.setattr(training, "ReplayedStep", lambda step: None)
    assert distance(replayed, frozen()) < 1e-3


def test_more_processes_than_gpus_are_refused(tiny_base_parameters, tmp_path):
    count = torch.cuda.device_count() + 1
    with pytest.raises(InputError, match=f"num_processes = {count}, but torch finds {count - 1} GPU"):
        train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"device": "cuda", "num_processes": count})
    assert not [*tmp_path.glob("*/state_*")]


def test_processes_of_a_gpu_each_meet(tmp_path):
    """As many as there are GPUs, one at least: by NCCL, as trainings of several meet."""
    count = torch.cuda.device_count()
    run_in_processes(count, False, lambda: None, note_meeting, tmp_path)
    expected = [(rank, count, "nccl", sum(range(1, count + 1))) for rank in range(count)]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(count)] == [
        {"met": [list(each) for each in expected]} for _ in range(count)
    ]


def test_scores_are_those_of_a_cpu_but_for_rounding(batches):
    model = build_network("resnet8", 1, 6, seed=0)
    on_cpu = score_images(model, batches)
    on_gpu = score_images(model.to("cuda"), batches)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_training_ends_as_an_undisturbed_one(batches, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    undisturbed, losses = trained(batches)

    def interrupt(epoch: training.Epoch) -> None:
        if epoch.epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(batches, checkpoint=tmp_path / "checkpoint", on_epoch=interrupt)
    resumed = []
    weights, same = trained(batches, checkpoint=tmp_path / "checkpoint", on_resume=resumed.extend)
    assert len(resumed) == stop
    assert same == losses
    assert distance(weights, undisturbed) == 0


def test_a_training_killed_in_the_middle_of_an_epoch(batches, tmp_path, monkeypatch, start_stalling):
    """By SIGKILL, while it captures its graph for the second learning rate."""
    undisturbed, losses = trained(batches)
    path = tmp_path / "checkpoint"
    code = f"""
from pathlib import Path
from tiny import make_tiny_arrays, train_with
from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.learning.networks import build_network
arrays = make_tiny_arrays()
images = arrays["x_train"][..., None]
batches = ImageBatches(images, arrays["y_train"], channel_mean_std(images))
train_with(build_network("small", 1, 6, seed=0), batches, checkpoint=Path({str(path)!r}), **{SETTINGS})
"""
    kill_when_stalled(start_stalling(code, batch=7))  # 3 to warm up, the first capture, 2 left over, then this one
    resumed = []
    weights, same = trained(batches, checkpoint=path, on_resume=resumed.extend)
    assert len(resumed) == 2
    assert same == losses
    assert distance(weights, undisturbed) == 0


def test_a_study_on_the_gpu(tiny_base_parameters, tiny_study, tmp_path):
    """States of a GPU: complete, said to be its, and scored as a CPU scores them."""
    base = train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"device": "cuda"})
    run = fine_tune(out_dir=str(tmp_path), base=base, **tiny_study.fine_tuning_parameters | {"device": "cuda"})
    for state in (1, 2, 3):
        info = run.state(state).info
        assert info["made_with"]["gpu"] == torch.cuda.get_device_name()
        assert np.isfinite(run.state(state).array("val_scores")).all()
    model = build_network("small", 1, 6, seed=0)
    model.load_state_dict(run.state(3).model_weights())
    data, normalisation = load_images(run, "data"), Normalisation(**run.state(1).info["normalisation"])
    scores = score_images(model, ImageBatches(data.val_images, data.val_labels, normalisation))[0]  # on the CPU
    np.testing.assert_allclose(scores, run.state(3).array("val_scores"), rtol=1e-4, atol=1e-4)


JOB = """
import sys, torch
from il2m.study.stages import train_base
parameters = eval(sys.argv[1])
print(train_base(**parameters).state(1).info["made_with"]["gpu"], torch.cuda.device_count())
"""


def test_two_jobs_on_one_card(tiny_base_parameters, tmp_path):
    """Side by side, each with the card named by CUDA_VISIBLE_DEVICES as workers name it; same bits as alone."""
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    given = [
        {**tiny_base_parameters, "device": "cuda", "out_dir": str(tmp_path / str(job)), "base_epochs": 8}
        for job in range(3)
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", JOB]
    jobs = [
        subprocess.Popen([*command, repr(each)], env=environment, stdout=subprocess.PIPE, text=True)
        for each in given[:2]
    ]
    told = [job.communicate()[0] for job in jobs]
    assert told == 2 * [f"{torch.cuda.get_device_name()} 1\n"]
    alone = train_base(**given[2])
    runs = [alone, *(Run(path.parent) for path in tmp_path.glob("[01]/*/config.json"))]
    assert len(runs) == 3
    assert len({run.state(1).digest for run in runs}) == 1
