"""The epoch loop."""

import copy
import inspect
import math
import os
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import kill_when_stalled, train_with
from torch.utils._python_dispatch import TorchDispatchMode

from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.errors import InputError
from il2m.learning import training
from il2m.learning.networks import Classifier, build_network, with_head
from il2m.learning.training import Epoch, distillation_loss
from il2m.parameters import CONCERNS, Training

SETTINGS = {
    "epochs": 2, "batch_size": 8, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step",
    "patience": 5, "max_shift": 1, "flip": False, "seed": 0, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def batches(tiny_arrays) -> ImageBatches:
    images = tiny_arrays["x_train"][..., None]
    return ImageBatches(images, tiny_arrays["y_train"], channel_mean_std(images))


@pytest.fixture
def few(batches) -> ImageBatches:
    """8 images: one batch, for tests of many epochs."""
    return subset(batches, torch.arange(8))


def subset(batches: ImageBatches, chosen: torch.Tensor) -> ImageBatches:
    part = copy.copy(batches)
    part.images, part.labels = batches.images[chosen], batches.labels[chosen]
    return part


def new_model(num_classes: int = 6) -> Classifier:
    return build_network("small", 1, num_classes, seed=0)


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def rates(history: list[Epoch]) -> list[float]:
    return [epoch.learning_rate for epoch in history]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_loss_as_loops(temperature):
    generator = torch.Generator().manual_seed(0)
    scores, teacher_scores = 4 * torch.randn(2, 5, 3, generator=generator)
    total = 0.0
    for row, teacher_row in zip(scores.tolist(), teacher_scores.tolist(), strict=True):
        softened = [math.exp(s / temperature) for s in row]
        targets = [math.exp(s / temperature) for s in teacher_row]
        for own, target in zip(softened, targets, strict=True):
            total -= target / sum(targets) * math.log(own / sum(softened))
    assert distillation_loss(scores, teacher_scores, temperature).item() == pytest.approx(total / 5, rel=1e-5)


def test_distillation_loss_is_least_where_student_and_teacher_agree():
    teacher_scores = torch.tensor([[2.0, -1.0, 0.5]])
    agreeing = (teacher_scores + 3).requires_grad_()  # the same probabilities
    distillation_loss(agreeing, teacher_scores, 2.0).backward()
    torch.testing.assert_close(agreeing.grad, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [1]),
        (2, [1, 0.01]),  # both marks, 60 % and 85 %, lie within the second epoch
        (20, [1] * 12 + [0.1] * 5 + [0.01] * 3),
    ],
)
def test_step_schedule(few, epochs, expected):
    history = train_with(new_model(), few, **SETTINGS | {"epochs": epochs})
    np.testing.assert_allclose(rates(history), 0.05 * np.array(expected))
    assert [epoch.epoch for epoch in history] == list(range(1, epochs + 1))


def test_plateau_schedule_lowers_the_rate_after_patience_epochs_without_gain(few):
    """With a rate of almost nothing the loss stands still."""
    history = train_with(
        new_model(), few, **SETTINGS | {"schedule": "plateau", "patience": 2, "epochs": 9, "learning_rate": 2e-7,
                                        "max_shift": 0, "batch_size": 8}
    )  # fmt: skip
    np.testing.assert_allclose(rates(history), [2e-7] * 4 + [2e-8] * 3 + [2e-9] * 2)


def test_plateau_schedule_keeps_the_rate_while_the_loss_falls(few):
    history = train_with(
        new_model(), few, **SETTINGS | {"schedule": "plateau", "patience": 0, "epochs": 4, "max_shift": 0}
    )
    losses = [epoch.loss for epoch in history]
    assert losses == sorted(losses, reverse=True)
    assert rates(history) == [0.05] * 4


def test_training_learns(batches):
    model = new_model()
    history = train_with(model, batches, **SETTINGS | {"epochs": 8})
    assert history[-1].loss < 0.7 * history[0].loss
    assert all(epoch.images_per_second > 0 for epoch in history)
    model.eval()
    images, labels = next(batches.plain())
    assert (model(images).argmax(dim=1) == labels).float().mean() > 0.8


def test_two_steps_are_those_of_sgd_written_out(few):
    """Two batches of 4: v <- momentum v + gradient + decay w, and w <- w - rate v."""
    model, by_hand = new_model(), new_model().train()
    train_with(model, few, **SETTINGS | {"epochs": 1, "max_shift": 0, "batch_size": 4, "weight_decay": 0.5})
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    images, labels = next(few.plain())
    velocity = {name: torch.zeros_like(parameter) for name, parameter in by_hand.named_parameters()}
    for part in order.split(4):
        by_hand.zero_grad()
        torch.nn.functional.cross_entropy(by_hand(images[part]), labels[part]).backward()
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                velocity[name] = 0.9 * velocity[name] + parameter.grad + 0.5 * parameter
                parameter -= 0.05 * velocity[name]
    trained = dict(model.named_parameters())
    for name, expected in by_hand.named_parameters():
        torch.testing.assert_close(trained[name], expected, rtol=1e-3, atol=1e-5, msg=name)


def test_reported_loss_is_the_mean_over_images(few):
    """Batches of 5 and 3 images, and a rate so small that both meet the same weights."""
    history = train_with(
        new_model(), few, **SETTINGS | {"epochs": 1, "max_shift": 0, "batch_size": 5, "learning_rate": 1e-9}
    )
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    images, labels = next(few.plain())
    model, total = new_model().train(), 0.0
    for part in order.split(5):
        total += torch.nn.functional.cross_entropy(model(images[part]), labels[part], reduction="sum").item()
    assert history[0].loss == pytest.approx(total / 8, rel=1e-4)


def test_equal_seeds_give_equal_weights_bit_for_bit(batches):
    models = [new_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.rand(seed + len(models))  # whatever else drew from the global generator
        train_with(model, batches, **SETTINGS | {"seed": seed, "flip": True})
    first, again, other = map(weights, models)
    assert equal(first, again)
    assert not equal(first, other)


def test_distillation_holds_the_model_near_its_teacher(batches):
    teacher = new_model(num_classes=4)
    train_with(teacher, subset(batches, batches.labels < 4), **SETTINGS | {"epochs": 6})
    before = weights(teacher)
    images, _ = next(batches.plain())
    distances = {}
    for weight in (0.0, 5.0):
        student = with_head(new_model(num_classes=4), 6, "new", seed=1)
        train_with(student, batches, teacher=teacher, distillation_weight=weight, **SETTINGS | {"epochs": 4})
        with torch.no_grad():
            distances[weight] = distillation_loss(student.eval()(images)[:, :4], teacher.eval()(images), 2.0).item()
    assert distances[5.0] < distances[0.0]
    assert equal(weights(teacher), before), "the teacher is not trained"


def test_distillation_of_no_weight_is_no_distillation(batches):
    plain, distilled = new_model(), new_model()
    train_with(plain, batches, **SETTINGS)
    train_with(distilled, batches, teacher=new_model(num_classes=4), distillation_weight=0.0, **SETTINGS)
    assert equal(weights(plain), weights(distilled))


@pytest.mark.parametrize(
    ("given", "of_both"),
    [
        ({"distillation_share": True}, (2 / 6, 4 / 6 * 0.5)),
        ({"temperature_squared": True}, (1, 9 * 0.5)),
        ({"distillation_share": True, "temperature_squared": True}, (2 / 6, 4 / 6 * 9 * 0.5)),
    ],
)
def test_weights_of_the_two_losses(few, given, of_both):
    given = {"temperature": 3.0, "distillation_weight": 0.5, "epochs": 1, "max_shift": 0} | given
    history = train_with(new_model(), few, teacher=new_model(num_classes=4), **SETTINGS | given)
    images, labels = next(few.plain())
    scores, past = new_model().train()(images), new_model(num_classes=4).eval()(images)
    losses = torch.nn.functional.cross_entropy(scores, labels), distillation_loss(scores[:, :4], past, 3.0)
    expected = sum(weight * loss.item() for weight, loss in zip(of_both, losses, strict=True))
    assert history[0].loss == pytest.approx(expected, rel=1e-4)


def test_a_frozen_backbone_stays_as_it_is(batches):
    model = new_model()
    model.backbone.requires_grad_(False)
    before = weights(model)
    train_with(model, batches, **SETTINGS)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}, "batch normalisation keeps its statistics too"


def test_the_loss_with_distillation_is_the_sum_of_both(few):
    history = train_with(
        new_model(), few, teacher=new_model(num_classes=4), temperature=3.0, distillation_weight=0.5,
        **SETTINGS | {"epochs": 1, "max_shift": 0},
    )  # fmt: skip
    images, labels = next(few.plain())
    scores = new_model().train()(images)
    teacher_scores = new_model(num_classes=4).eval()(images)  # the teacher is as it would be used
    expected = torch.nn.functional.cross_entropy(scores, labels)
    expected = expected + 0.5 * distillation_loss(scores[:, :4], teacher_scores, 3.0)
    assert history[0].loss == pytest.approx(expected.item(), rel=1e-4)


def test_every_epoch_is_told_as_it_ends(few):
    told = []
    history = train_with(new_model(), few, on_epoch=told.append, **SETTINGS)
    assert told == history


def test_validation_every_so_many_epochs_changes_no_bit(batches):
    """It scores the model while it is trained, and so leaves it in evaluation mode."""
    plain, looked_at, shares = new_model(), new_model(), iter([0.25, 0.5])

    def validate() -> float:
        looked_at.eval()
        return next(shares)

    settings = SETTINGS | {"epochs": 5}
    history = train_with(plain, batches, **settings, validate=lambda: 1 / 0)  # validate_every is 0: never
    again = train_with(looked_at, batches, **settings, validate_every=2, validate=validate)
    assert equal(weights(plain), weights(looked_at))
    assert [epoch.loss for epoch in again] == [epoch.loss for epoch in history]
    assert [epoch.val_top1 for epoch in again] == [None, 0.25, None, 0.5, None]
    assert {epoch.val_top1 for epoch in history} == {None}


def test_a_loss_that_is_no_number(few):
    with pytest.raises(InputError) as error:
        train_with(new_model(), few, **SETTINGS | {"learning_rate": 1e30, "epochs": 5})
    assert "training diverged: the loss of epoch" in str(error.value)
    assert "at learning rate 1e+30. Lower learning_rate." in str(error.value)


def test_a_loss_that_is_no_number_in_lower_precision_names_float32(few):
    with pytest.raises(InputError, match="or use precision = 'float32'"):
        train_with(new_model(), few, precision="bf16", **SETTINGS | {"learning_rate": 1e30, "epochs": 5})


def test_bf16_on_a_cpu_and_float32_after_it_in_one_process(batches):
    float32, bf16, float32_again = new_model(), new_model(), new_model()
    expected = train_with(float32, batches, **SETTINGS)
    history = train_with(bf16, batches, precision="bf16", **SETTINGS)
    train_with(float32_again, batches, precision="float32", **SETTINGS)
    np.testing.assert_allclose([epoch.loss for epoch in history], [epoch.loss for epoch in expected], rtol=0.1)
    assert equal(weights(float32), weights(float32_again)), "what ran before has no say"
    assert not equal(weights(float32), weights(bf16))
    assert all(value.dtype != torch.bfloat16 for value in bf16.state_dict().values())
    images, _ = next(batches.plain())
    assert bf16.eval()(images).dtype == torch.float32, "scores are computed in float32"


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_what_needs_a_gpu(few, precision):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=f"precision = '{precision}' needs a GPU"):
        train_with(new_model(), few, precision=precision, **SETTINGS)


class Waits(TorchDispatchMode):
    """Counts what makes a GPU's host wait: a value that is read, or a size that depends on values."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_an_epoch_waits_for_the_device_once_at_its_end(batches):
    """9 batches, shifted, flipped and distilled, an epoch."""
    with Waits() as waits:
        train_with(new_model(), batches, teacher=new_model(4), distillation_weight=1.0, **SETTINGS | {"flip": True})
    assert waits.count == SETTINGS["epochs"]


def test_summed_batches_are_one_step_on_the_sum_of_their_gradients(few):
    settings = SETTINGS | {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "max_shift": 0}
    model, expected = new_model(), new_model()
    train_with(model, few, **settings | {"batch_size": 4, "summed_batches": 2, "learning_rate": 0.01})
    expected.train()
    generator = torch.Generator().manual_seed(0)  # the order that the seed gives
    for images, labels in few.augmented(4, generator, max_shift=0, flip=False):
        torch.nn.functional.cross_entropy(expected(images), labels).backward()  # gradients add up
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.01 * parameter.grad
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(model)[name], value, rtol=1e-4, atol=1e-6)


def test_batches_left_at_the_end_of_an_epoch_make_a_step_too(few):
    settings = SETTINGS | {"epochs": 1, "batch_size": 2, "momentum": 0.0}
    four, more = new_model(), new_model()
    train_with(four, few, **settings, summed_batches=4)
    train_with(more, few, **settings, summed_batches=100)
    assert equal(weights(four), weights(more))
    assert not equal(weights(four), weights(new_model()))


VARIANTS = {
    "step": {"flip": True},
    "plateau": {"schedule": "plateau", "patience": 0, "learning_rate": 0.4},
    "distillation": {"distillation_weight": 2.0},
    "summed batches": {"summed_batches": 4},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture
def some(batches) -> ImageBatches:
    """24 images: three batches, for tests of many trainings."""
    return subset(batches, torch.arange(24))


def run_variant(variant: str, batches: ImageBatches, **more) -> tuple[Classifier, list[Epoch]]:
    """A training of 6 epochs from scratch."""
    model = new_model()
    teacher = build_network("small", 1, 4, seed=1) if variant == "distillation" else None
    return model, train_with(model, batches, teacher=teacher, **SETTINGS | {"epochs": 6} | VARIANTS[variant] | more)


def without_time(history: list[Epoch]) -> list[tuple]:
    return [(epoch.epoch, epoch.loss, epoch.learning_rate) for epoch in history]


@pytest.fixture
def every_epoch(monkeypatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)


def interrupt_after(last_epoch: int):
    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch == last_epoch:
            raise KeyboardInterrupt

    return on_epoch


def test_dropout_is_drawn_from_the_seed(batches, tmp_path, every_epoch):
    """In a network of somebody's own: whatever was drawn before, and however often the training was interrupted."""

    def trained(**more) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        layers = torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Dropout(0.5)
        model = Classifier(torch.nn.Sequential(*layers), 16, 6)
        torch.manual_seed(time.time_ns())
        train_with(model, batches, **SETTINGS | {"epochs": 4} | more)
        return weights(model)

    expected, path = trained(), tmp_path / "checkpoint"
    assert equal(trained(), expected)
    assert not equal(trained(seed=1), expected)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=path, on_epoch=interrupt_after(2))
    assert equal(trained(checkpoint=path), expected)
    before = torch.get_rng_state()
    train_with(new_model(), batches, **SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's own


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_SIZE": "4", "PMI_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"},
    ],
    ids=["mpiexec", "torchrun"],
)
def test_a_training_started_by_a_launcher_is_alone(few, monkeypatch, variables):
    """accelerate would wait for the others, or average with the gradients of their trainings."""
    expected, model = new_model(), new_model()
    train_with(expected, few, **SETTINGS)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    train_with(model, few, **SETTINGS)
    assert equal(weights(model), weights(expected))
    assert dict(os.environ) == before


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_ends_as_an_undisturbed_one(some, tmp_path, every_epoch, variant, stop):
    undisturbed, expected = run_variant(variant, some)
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run_variant(variant, some, checkpoint=path, on_epoch=interrupt_after(stop))
    resumed, told = [], []
    model, history = run_variant(variant, some, checkpoint=path, on_resume=resumed.extend, on_epoch=told.append)
    assert equal(weights(model), weights(undisturbed))
    assert without_time(history) == without_time(expected)
    assert [epoch.epoch for epoch in resumed] == list(range(1, stop + 1))
    assert [epoch.epoch for epoch in told] == list(range(stop + 1, 7))
    if variant == "plateau":
        assert len(set(rates(expected))) > 1, "the schedule has something to remember"


def test_a_training_killed_in_the_middle_of_an_epoch(batches, tmp_path, every_epoch, start_stalling):
    """By SIGKILL, in the middle of epoch 4: 9 batches are an epoch."""
    undisturbed, expected = run_variant("step", batches)
    code = f"""
from pathlib import Path
from tiny import make_tiny_arrays, train_with
from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.learning.networks import build_network
arrays = make_tiny_arrays()
images = arrays["x_train"][..., None]
batches = ImageBatches(images, arrays["y_train"], channel_mean_std(images))
settings = {SETTINGS | {"epochs": 6} | VARIANTS["step"]}
path = Path({str(tmp_path / "checkpoint")!r})
train_with(build_network("small", 1, 6, seed=0), batches, checkpoint=path, **settings)
"""
    kill_when_stalled(start_stalling(code, batch=3 * 9 + 5))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    resumed = []
    model, history = run_variant("step", batches, checkpoint=tmp_path / "checkpoint", on_resume=resumed.extend)
    assert len(resumed) == 3
    assert equal(weights(model), weights(undisturbed))
    assert without_time(history) == without_time(expected)


def test_a_finished_training_whose_model_was_not_stored_is_not_trained_again(some, tmp_path, every_epoch):
    path, told = tmp_path / "checkpoint", []
    first, history = run_variant("step", some, checkpoint=path)
    again, same = run_variant("step", some, checkpoint=path, on_epoch=told.append)
    assert told == []
    assert same == history
    assert equal(weights(first), weights(again))


@pytest.mark.parametrize(("epochs", "stored"), [(2, []), (3, [3]), (8, [3, 6, 8]), (9, [3, 6, 9])])
def test_checkpoints_are_stored_every_30_seconds_and_at_the_end(few, tmp_path, monkeypatch, epochs, stored):
    """Epochs of 12 seconds by a clock of our own; the end is stored only if so much would be lost."""
    seconds, real_epoch, real_write, written = [], training._Training.run_epoch, training.write_checkpoint, []

    def run_epoch(self, batches):
        seconds.append(12)
        return real_epoch(self, batches)

    def write(path, identity, state):
        written.append(len(state["history"]))
        real_write(path, identity, state)

    clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: sum(seconds))
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training._Training, "run_epoch", run_epoch)
    monkeypatch.setattr(training, "write_checkpoint", write)
    train_with(new_model(), few, checkpoint=tmp_path / "checkpoint", **SETTINGS | {"epochs": epochs})
    assert written == stored
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"] * bool(stored)


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flip_a_bit, lambda content: content[:-100], lambda content: b""])
def test_a_damaged_checkpoint_is_left_aside(some, tmp_path, every_epoch, damage):
    path, told = tmp_path / "checkpoint", []
    undisturbed, expected = run_variant("step", some)
    with pytest.raises(KeyboardInterrupt):
        run_variant("step", some, checkpoint=path, on_epoch=interrupt_after(4))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint is damaged: this training starts again at epoch 1"):
        model, _ = run_variant("step", some, checkpoint=path, on_epoch=told.append)
    assert without_time(told) == without_time(expected)
    assert equal(weights(model), weights(undisturbed))


OTHERS = {
    "epochs": 7, "batch_size": 9, "learning_rate": 0.06, "momentum": 0.8, "weight_decay": 0.0, "schedule": "plateau",
    "patience": 6, "max_shift": 2, "flip": True, "seed": 1, "temperature": 3.0, "distillation_weight": 0.5,
    "summed_batches": 2, "num_processes": 2, "precision": "bf16", "teacher": build_network("small", 1, 5, seed=0),
    "model": build_network("small", 1, 6, seed=1), "batches": slice(20),
}  # fmt: skip


@pytest.mark.parametrize("changed", sorted(OTHERS))
def test_a_checkpoint_of_another_training_is_left_aside(some, tmp_path, every_epoch, changed):
    given = SETTINGS | {"model": new_model(), "batches": some, "epochs": 3, "checkpoint": tmp_path / "checkpoint"}
    train_with(**given)
    other = subset(some, OTHERS[changed]) if changed == "batches" else copy.deepcopy(OTHERS[changed])
    told = []
    with pytest.warns(UserWarning, match="checkpoint is of another training, or of another version of torch"):
        train_with(**given | {"model": new_model(), changed: other, "on_epoch": told.append})
    assert told[0].epoch == 1


def test_all_that_shapes_a_training_is_told_apart():
    no_say = {"settings", "checkpoint", "on_resume", "on_epoch", "validate"}
    settings = {name for name, one in Training.parameters().items() if CONCERNS[one.concerns]} - {"train_seed"}
    arguments = set(inspect.signature(training.train).parameters) - no_say
    assert settings | arguments | {"temperature", "distillation_weight"} == set(OTHERS)


def test_a_checkpoint_of_another_version_of_torch_is_left_aside(some, tmp_path, every_epoch, monkeypatch):
    run_variant("step", some, checkpoint=tmp_path / "checkpoint")
    monkeypatch.setattr(torch, "__version__", "0.0")
    with pytest.warns(UserWarning, match="another version of torch"):
        run_variant("step", some, checkpoint=tmp_path / "checkpoint")


def test_the_same_training_elsewhere_is_gone_on_with_without_a_warning(some, tmp_path, every_epoch):
    """device is where, not what: a job may go on on another machine."""
    run_variant("step", some, checkpoint=tmp_path / "checkpoint", device="cpu")
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_variant("step", some, checkpoint=tmp_path / "checkpoint", device="auto", on_epoch=told.append)
    assert told == []
