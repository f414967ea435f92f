"""What holds on a CUDA device: `pytest -m gpu`. Without one all of this is skipped, and the same logic is tested on a
CPU elsewhere; what is told of bits here is what docs/reliability.md says."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import kill_when_stalled, train_with
from torch import nn

from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std
from il2m.learning import training
from il2m.learning.networks import build_network
from il2m.learning.scores import score_images
from il2m.study.planning import load_images
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base

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
