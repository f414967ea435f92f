"""The only epoch loop: cross-entropy, and distillation from the previous model when asked.

With a checkpoint file, a training that was interrupted goes on after the last epoch that was stored in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from il2m.data.batches import ImageBatches
from il2m.errors import InputError
from il2m.learning.checkpoints import read_checkpoint, weights_hash, write_checkpoint
from il2m.learning.networks import Classifier
from il2m.parameters import Training

CHECKPOINT_SECONDS = 30.0  # between two checkpoints: what an interruption loses, but for the epoch under way
_ACCELERATE_PRECISION = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images did: mean loss per image, and images per second."""

    epoch: int
    loss: float
    learning_rate: float
    images_per_second: float


def distillation_loss(scores: torch.Tensor, teacher_scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of the model's softened past-class scores against the previous model's, mean over images.

    The form of LwF (Li and Hoiem 2016) and of End-to-End IL (Castro et al. 2018, Eq. 3), without Hinton's factor T^2:
    a distillation_weight of T^2 gives Hinton's.
    scores, teacher_scores: (n, past classes), raw scores.
    """
    return F.cross_entropy(scores / temperature, F.softmax(teacher_scores / temperature, dim=1))


def train(
    model: Classifier,
    batches: ImageBatches,
    settings: Training,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    teacher: Classifier | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[Epoch]], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train ``model`` in place with SGD, for base training and for fine-tuning alike.

    settings: batch size, momentum, ... and the device. summed_batches there are mini-batches whose gradients are
    summed, not averaged, before a step, as the authors' training loop does: the step is that many times the learning
    rate's. An epoch's last step sums what is left. epochs, learning_rate: of this training, over those in settings.
    teacher: the previous model; with it, ``settings.distillation_weight`` times the distillation loss over its classes
    is added. seed: of image order and augmentation; on a CPU with one thread equal seeds give equal weights, bit for
    bit.
    checkpoint: a file that keeps this training while it is under way, written after an epoch, at most every
    CHECKPOINT_SECONDS. If it holds this very training, that goes on there and ends as if it had not been interrupted.
    Whoever has stored the trained model removes it.
    on_resume: told the epochs that the checkpoint held. on_epoch: told each epoch that is trained now.
    Raises InputError when the loss stops being a number, or the device lacks the precision.
    """
    asked = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    training = _begin(model, settings, teacher, asked)
    keeper = _Keeper(checkpoint, training, checkpoint and _identity(settings, asked, batches, model, teacher))
    if keeper.resume() and on_resume:
        on_resume(list(training.history))
    batches = batches.to(training.accelerator.device)
    training.model.train()
    augmentation = {"max_shift": settings.max_shift, "flip": settings.flip}
    while len(training.history) < epochs:
        epoch = training.run_epoch(batches.augmented(settings.batch_size, training.generator, **augmentation))
        keeper.keep(is_last=epoch.epoch == epochs)
        if on_epoch:
            on_epoch(epoch)
    training.accelerator.unwrap_model(training.model, keep_fp32_wrapper=False)
    return training.history


def _identity(
    settings: Training, asked: dict[str, Any], batches: ImageBatches, model: Classifier, teacher: Classifier | None
) -> dict[str, Any]:
    """All that tells a training from any other."""
    return settings.of_training() | asked | {
        "labels": batches.labels.tolist(), "model": weights_hash(model), "teacher": teacher and weights_hash(teacher),
    }  # fmt: skip


def _begin(model: Classifier, settings: Training, teacher: Classifier | None, asked: dict[str, Any]) -> _Training:
    accelerator = _new_accelerator(settings.device, settings.precision)
    model.to(memory_format=torch.channels_last)
    options = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "fused": True}
    sgd = torch.optim.SGD(model.parameters(), asked["learning_rate"], **options)
    prepared, optimizer = accelerator.prepare(model, sgd)
    scheduler = _new_scheduler(sgd, settings.schedule, asked["epochs"], settings.patience)
    distillation = None
    if teacher is not None:
        teacher = teacher.to(accelerator.device, memory_format=torch.channels_last).eval()
        distillation = _Distillation(teacher, settings.temperature, settings.distillation_weight)
    generator = torch.Generator().manual_seed(asked["seed"])
    return _Training(accelerator, prepared, optimizer, scheduler, generator, distillation, settings.summed_batches)


class _Keeper:
    """Keeps a training in its checkpoint file, if it has one."""

    def __init__(self, path: Path | None, training: _Training, identity: dict[str, Any] | None) -> None:
        self._path, self._training, self._identity = path, training, identity
        self._started = self._stored = time.monotonic()

    def resume(self) -> bool:
        """Go on after the last epoch that the file holds, if it holds this training."""
        state = self._path and read_checkpoint(self._path, self._identity)
        if state:
            self._training.load_state_dict(state)
        self._started = self._stored = time.monotonic()
        return bool(state)

    def keep(self, *, is_last: bool) -> None:
        """Store an epoch, if more than CHECKPOINT_SECONDS would be lost; after the last epoch too, if that would be of
        the whole training: the model is scored before it is stored."""
        if self._path and time.monotonic() - (self._started if is_last else self._stored) >= CHECKPOINT_SECONDS:
            write_checkpoint(self._path, self._identity, self._training.state_dict())
            self._stored = time.monotonic()


def _new_accelerator(device: str, precision: str) -> Accelerator:
    # accelerate keeps one device and precision per process and refuses another; each training call has its own
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=_ACCELERATE_PRECISION[precision])
    if precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would quietly train in float32
        raise InputError("precision = 'fp16' needs a GPU: use 'bf16' or 'float32'.")
    return accelerator


def _new_scheduler(sgd: torch.optim.SGD, schedule: str, epochs: int, patience: int) -> MultiStepLR | ReduceLROnPlateau:
    if schedule == "plateau":
        return ReduceLROnPlateau(sgd, factor=0.1, patience=patience)
    return MultiStepLR(sgd, [max(1, math.floor(share * epochs)) for share in (0.6, 0.85)], gamma=0.1)


@dataclass(frozen=True)
class _Distillation:
    """The previous model and how much it has a say."""

    teacher: Classifier
    temperature: float
    weight: float

    def loss(self, images: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            teacher_scores = self.teacher(images)
        return self.weight * distillation_loss(scores[:, : teacher_scores.shape[1]], teacher_scores, self.temperature)


@dataclass
class _Training:
    """A training under way: its model, and all else that its epochs change."""

    accelerator: Accelerator
    model: Classifier
    optimizer: AcceleratedOptimizer
    scheduler: MultiStepLR | ReduceLROnPlateau
    generator: torch.Generator  # of the batches
    distillation: _Distillation | None
    summed_batches: int
    history: list[Epoch] = field(default_factory=list)

    def run_epoch(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Epoch:
        """One pass over ``batches``; the epoch is added to the history."""
        start = time.perf_counter()
        number, rate = len(self.history) + 1, self.optimizer.param_groups[0]["lr"]
        total_loss = torch.zeros((), device=self.accelerator.device)
        num_images = summed = 0
        for images, labels in batches:
            loss = self._loss(images, labels)
            if summed == 0:
                self.optimizer.zero_grad()
            self.accelerator.backward(loss)
            summed = (summed + 1) % self.summed_batches
            if summed == 0:
                self.optimizer.step()
            total_loss += loss.detach() * len(labels)
            num_images += len(labels)
        if summed:
            self.optimizer.step()
        mean_loss = total_loss.item() / num_images
        if not math.isfinite(mean_loss):
            others = "." if self.accelerator.mixed_precision == "no" else ", or use precision = 'float32'."
            raise InputError(
                f"training diverged: the loss of epoch {number} is {mean_loss} at learning rate {rate:g}. "
                f"Lower learning_rate{others}"
            )
        self.scheduler.step(*([mean_loss] if isinstance(self.scheduler, ReduceLROnPlateau) else []))
        self.history.append(Epoch(number, mean_loss, rate, num_images / (time.perf_counter() - start)))
        return self.history[-1]

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():
            scores = self.model(images)
            loss = F.cross_entropy(scores, labels)
            return loss + self.distillation.loss(images, scores) if self.distillation else loss

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "history": [vars(epoch) for epoch in self.history],
            "generator": self.generator.get_state(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.generator.set_state(state["generator"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer.optimizer, "scheduler": self.scheduler}
        return parts | ({"scaler": self.accelerator.scaler} if self.accelerator.scaler else {})
