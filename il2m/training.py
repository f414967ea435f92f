"""The only epoch loop: cross-entropy, and distillation from the previous model when asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from il2m.errors import InputError
from il2m.images import ImageBatches
from il2m.networks import Classifier

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
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    patience: int,
    max_shift: int,
    flip: bool,
    seed: int,
    teacher: Classifier | None = None,
    temperature: float = 2.0,
    distillation_weight: float = 1.0,
    summed_batches: int = 1,
    device: str = "auto",
    precision: str = "float32",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train ``model`` in place with SGD, for base training and for fine-tuning alike.

    schedule: ``step`` (rate x .1 at 60 % and 85 % of the epochs) or ``plateau`` (x .1 when the epoch's training loss
    has not improved for ``patience`` epochs).
    teacher: the previous model; with it, ``distillation_weight`` times the distillation loss over its classes is added.
    summed_batches: mini-batches whose gradients are summed, not averaged, before a step, as the authors' training loop
    does: the step is that many times the learning rate's. An epoch's last step sums what is left.
    seed: of image order and augmentation; on a CPU with one thread equal seeds give equal weights, bit for bit.
    Raises InputError when the loss stops being a number, or the device lacks the precision.
    """
    # accelerate keeps one device and precision per process and refuses another; each training call has its own
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=_ACCELERATE_PRECISION[precision])
    if precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would quietly train in float32
        raise InputError("precision = 'fp16' needs a GPU: use 'bf16' or 'float32'.")
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum, weight_decay=weight_decay, fused=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    if schedule == "step":
        milestones = [max(1, math.floor(share * epochs)) for share in (0.6, 0.85)]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer.optimizer, milestones, gamma=0.1)
    else:
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer.optimizer, factor=0.1, patience=patience)
    if teacher is not None:
        teacher = teacher.to(accelerator.device, memory_format=torch.channels_last).eval()
    batches = batches.to(accelerator.device)
    generator = torch.Generator().manual_seed(seed)
    history = []
    prepared.train()
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        rate = optimizer.param_groups[0]["lr"]
        total_loss = torch.zeros((), device=accelerator.device)
        summed = 0
        for images, labels in batches.augmented(batch_size, generator, max_shift=max_shift, flip=flip):
            with accelerator.autocast():
                scores = prepared(images)
                loss = F.cross_entropy(scores, labels)
                if teacher is not None:
                    with torch.no_grad():
                        teacher_scores = teacher(images)
                    past = scores[:, : teacher_scores.shape[1]]
                    loss = loss + distillation_weight * distillation_loss(past, teacher_scores, temperature)
            if summed == 0:
                optimizer.zero_grad()
            accelerator.backward(loss)
            summed = (summed + 1) % summed_batches
            if summed == 0:
                optimizer.step()
            total_loss += loss.detach() * len(labels)
        if summed:
            optimizer.step()
        mean_loss = total_loss.item() / len(batches)
        if not math.isfinite(mean_loss):
            raise InputError(
                f"training diverged: the loss of epoch {epoch} is {mean_loss} at learning rate {rate:g}. "
                "Lower learning_rate" + (", or use precision = 'float32'." if precision != "float32" else ".")
            )
        scheduler.step(*([] if schedule == "step" else [mean_loss]))
        history.append(Epoch(epoch, mean_loss, rate, len(batches) / (time.perf_counter() - start)))
        if on_epoch:
            on_epoch(history[-1])
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    return history
