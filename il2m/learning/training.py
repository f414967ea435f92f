"""The only epoch loop: cross-entropy, and distillation from the previous model when asked."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from il2m.data.batches import ImageBatches, batch_sizes
from il2m.errors import InputError
from il2m.learning.checkpoints import read_checkpoint, weights_hash, write_checkpoint
from il2m.learning.networks import Classifier
from il2m.learning.replay import ReplayedStep
from il2m.parameters import Training
from il2m.system.processes import HERE

CHECKPOINT_SECONDS = 30.0  # between two checkpoints: what an interruption loses, but for the epoch under way


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images did: mean loss per image, and images per second. val_top1: accuracy on
    the validation images after it, where it was asked for."""

    epoch: int
    loss: float
    learning_rate: float
    images_per_second: float
    val_top1: float | None = None


def distillation_loss(scores: torch.Tensor, teacher_scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of the model's softened past-class scores against the previous model's, both (n, past classes) and
    raw, mean over images: the form of LwF (Li and Hoiem 2016) and of End-to-End IL (Castro et al. 2018, Eq. 3)."""
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
    on_resume: Callable[[list[Epoch]], None] = lambda history: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    validate: Callable[[], float] | None = None,
) -> list[Epoch]:
    """Train ``model`` in place with SGD. Raises InputError for a loss that is no number, or a device without the
    precision; warns if nothing was learned. settings: batch size, momentum, ... and the device. Gradients of
    ``summed_batches`` mini-batches are summed, not averaged, before a step, as the authors' loop does; an epoch's last
    step sums what is left. Each of several processes takes my_share of every batch. epochs, learning_rate: over those
    in settings. seed: of image order and augmentation; on a CPU with one thread equal seeds give equal weights, bit for
    bit. teacher: to distil from. checkpoint: a file that keeps this training, written after an epoch, at most every
    CHECKPOINT_SECONDS. If it holds this very one, that goes on and ends as if it had not been interrupted. Whoever
    stored the trained model removes it. on_resume: told the epochs that the checkpoint held. on_epoch: told each epoch
    that is trained now. validate: gives the ``val_top1`` of every ``validate_every``-th epoch."""
    asked = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    training = _Training(settings, asked, model, teacher)
    identity = checkpoint and settings.of_training() | asked | {
        "labels": batches.labels.tolist(), "model": weights_hash(model), "teacher": teacher and weights_hash(teacher),
        "torch": torch.__version__, "device": training.accelerator.device.type,  # which draw and round in their own way
    }  # fmt: skip
    started = stored = time.monotonic()
    if checkpoint and (state := read_checkpoint(checkpoint, identity)):
        training.load_state_dict(state)
        on_resume(list(training.history))
    batches = batches.to(training.accelerator.device)
    while len(training.history) < epochs:
        # the same bits from equal seeds on a GPU too, which rounds float32 to TF32 in convolutions only if asked to
        exact = {"enabled": True, "deterministic": True, "allow_tf32": settings.precision == "tf32"}
        with torch.backends.cudnn.flags(**exact), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + len(training.history) * HERE.count + HERE.rank)  # of dropout: each epoch's own
            epoch = training.run_epoch(batches)
        if validate and settings.validate_every and epoch.epoch % settings.validate_every == 0:
            epoch = training.history[-1] = replace(epoch, val_top1=validate())
        # after the last epoch the whole training would be lost: the model is scored before it is stored
        since = started if epoch.epoch == epochs else stored
        if checkpoint and not HERE.rank and time.monotonic() - since >= CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, identity, training.state_dict())
            stored = time.monotonic()
        on_epoch(epoch)
    training.finish()
    return training.history


class _Training:
    """A training under way: its model, and all else that its epochs change."""

    def __init__(self, settings: Training, asked: dict, model: Classifier, teacher: Classifier | None) -> None:
        self.settings, self.history = settings, []
        # accelerate keeps one device and precision per process and refuses another; each training call has its own
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = "no" if settings.precision in ("float32", "tf32") else settings.precision
        on_cpu = settings.device == "cpu" or not torch.cuda.is_available()  # Apple's GPUs are not used
        alone = {"LOCAL_RANK": "-1", "PMI_SIZE": "1"} if HERE.count == 1 else {}  # started by mpiexec it would wait
        with patch_environment(**alone):
            self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
        on_gpu = self.accelerator.device.type != "cpu"
        if settings.precision in ("fp16", "tf32") and not on_gpu:  # it would quietly train in float32
            raise InputError(f"precision = {settings.precision!r} needs a GPU: use 'bf16' or 'float32'.")
        # a GPU's tensor cores take channels last, as CPUs do; its kernels for whole float32 are faster without
        self.layout = torch.contiguous_format if on_gpu and settings.precision == "float32" else torch.channels_last
        model.to(memory_format=self.layout)
        options = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "fused": True}
        learned = [each for each in model.parameters() if each.requires_grad]
        self._backbone, self._learns = model.backbone, any(each.requires_grad for each in model.backbone.parameters())
        self.optimizer = sgd = torch.optim.SGD(learned, asked["learning_rate"], **options)
        self.model = self.accelerator.prepare(model)  # the optimizer's wrapper would only cost time
        if HERE.count > 1:
            self.model.broadcast_buffers = False  # of the first process: all are averaged after each epoch
        self.scaler = self.accelerator.scaler or torch.amp.GradScaler(enabled=False)  # without fp16: none
        if settings.schedule == "plateau":
            self.scheduler = ReduceLROnPlateau(sgd, factor=0.1, patience=settings.patience)
        else:
            milestones = [max(1, math.floor(share * asked["epochs"])) for share in (0.6, 0.85)]
            self.scheduler = MultiStepLR(sgd, milestones, gamma=0.1)
        self.teacher = teacher and teacher.to(self.accelerator.device, memory_format=self.layout).eval()
        self.generator = torch.Generator(self.accelerator.device).manual_seed(asked["seed"])  # of the batches
        waits = self.scaler.is_enabled() or settings.summed_batches * HERE.count > 1  # for values or others' gradients
        self._replayed = ReplayedStep(self._step) if on_gpu and not waits else None
        self._parts = {name: vars(self)[name] for name in ("model", "optimizer", "scheduler", "scaler")}

    def run_epoch(self, batches: ImageBatches) -> Epoch:
        """One augmented pass over ``batches``; the epoch is added to the history."""
        self.model.train()
        self._backbone.train(self._learns)  # frozen: its statistics too
        settings, start = self.settings, time.perf_counter()
        number, rate = len(self.history) + 1, self.optimizer.param_groups[0]["lr"]
        total_loss = num_images = 0  # the loss becomes a tensor on the device, so that no step waits for it
        epoch = batches.augmented(settings.batch_size, self.generator, max_shift=settings.max_shift, flip=settings.flip)
        sizes = batch_sizes(len(batches), settings.batch_size)
        for place, (size, (images, labels)) in enumerate(zip(sizes, epoch, strict=True)):
            num_images += size
            if self._replayed:
                loss = self._replayed(images, labels, rate)
            else:
                # gradients are averaged over processes, whose shares differ; what each takes whole counts once
                weight = 1 if len(labels) == size else len(labels) * HERE.count / size
                loss = self._step(images, labels, place, num_images == len(batches), weight)
            total_loss += loss * size
        if HERE.count > 1:
            learning = (module for module in self.model.modules() if module.training)
            buffers = (buffer for module in learning for buffer in module.buffers(recurse=False))
            for own in (total_loss, *filter(torch.is_floating_point, buffers)):
                own.copy_(self.accelerator.reduce(own, "mean"))
        mean_loss = float(total_loss) / num_images
        if not math.isfinite(mean_loss):
            what = f"the loss of epoch {number} is {mean_loss} at learning rate {rate:g}"
            others = "" if self.accelerator.mixed_precision == "no" else ", or use precision = 'float32'"
            raise InputError(f"training diverged: {what}. Lower learning_rate{others}.")
        self.scheduler.step(*([mean_loss] if isinstance(self.scheduler, ReduceLROnPlateau) else []))
        self.history.append(Epoch(number, mean_loss, rate, num_images / (time.perf_counter() - start)))
        return self.history[-1]

    def finish(self) -> None:
        """Leave the model as it came, trained; warn of a loss above twice that of guessing."""
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        loss, guessing = self.history[-1].loss, math.log(model.head.out_features)
        if self.teacher:
            past = math.log(self.teacher.head.out_features)
            guessing = self._together(guessing, past, self.teacher.head.out_features / model.head.out_features)
        if loss > 2 * guessing:
            what = f"the loss of the last epoch is {loss:.4g}, more than twice the {guessing:.4g} of guessing"
            warnings.warn(f"{what}: this network has not learned. Lower learning_rate, or train longer.", stacklevel=3)

    def _step(self, images: torch.Tensor, labels: torch.Tensor, place=0, is_last=True, weight=1.0) -> torch.Tensor:
        """Gradients of a mini-batch, an epoch's ``place``-th; a step if it ends a sum of them. Loss x ``weight``."""
        summed = self.settings.summed_batches
        if place % summed == 0:
            self.optimizer.zero_grad()  # here, or the process asks for memory anew at each step
        loss = self._loss(images, labels) if weight == 1 else weight * self._loss(images, labels)
        self.scaler.scale(loss).backward()
        if (place + 1) % summed == 0 or is_last:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=self.layout)
        with self.accelerator.autocast():
            scores = self.model(images)
            loss = F.cross_entropy(scores, labels)
            if not self.teacher:
                return loss
            with torch.no_grad():
                past = self.teacher(images)
            distillation = distillation_loss(scores[:, : past.shape[1]], past, self.settings.temperature)
            return self._together(loss, distillation, past.shape[1] / scores.shape[1])

    def _together(self, loss: Any, distillation: Any, share: float) -> Any:
        """Cross-entropy and the distillation loss, x T^2 if asked (Hinton et al. 2015). share: past classes / all."""
        settings = self.settings
        weight = settings.distillation_weight * (settings.temperature**2 if settings.temperature_squared else 1)
        if settings.distillation_share:
            loss, weight = (1 - share) * loss, share * weight
        return loss + weight * distillation

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return parts | {"history": [vars(epoch) for epoch in self.history], "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.generator.set_state(state["generator"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
