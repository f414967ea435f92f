"""What the states of one run share while they are trained."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from il2m.data.batches import ImageBatches, Normalisation
from il2m.data.dataset import Dataset
from il2m.data.image_files import image_batches
from il2m.data.states import States
from il2m.errors import InputError
from il2m.learning.networks import Classifier
from il2m.learning.training import Epoch, train
from il2m.study.progress import Progress
from il2m.study.runs import Run, state_path, write_state
from il2m.system.locks import RUN_LOCK, locked


@dataclass(frozen=True)
class Stage:
    """What the states of one run share while they are trained: ``settings`` are the parameters of their training."""

    folder: Path  # of the run
    settings: dict[str, Any]
    data: Dataset  # in learning order
    states: States
    normalisation: Normalisation
    device: str
    progress: Progress

    def batches(self, indices: np.ndarray) -> ImageBatches:
        """The training images at ``indices``."""
        return image_batches(self.data.train_images[indices], self.data.train_labels[indices], self.normalisation)

    def val_batches(self, indices: np.ndarray) -> ImageBatches:
        """The validation images at ``indices``."""
        return image_batches(self.data.val_images[indices], self.data.val_labels[indices], self.normalisation)

    def fit(
        self,
        model: Classifier,
        indices: np.ndarray,
        *,
        state: int,
        epochs: int,
        learning_rate: float,
        purpose: str,
        teacher: Classifier | None = None,
    ) -> list[Epoch]:
        """Train ``model`` in place on the training images at ``indices``; ``purpose`` is part of the seed.

        Goes on after the last checkpoint if this training was interrupted before.
        """
        settings = self.settings
        return train(
            model,
            self.batches(indices),
            epochs=epochs,
            batch_size=settings["batch_size"],
            learning_rate=learning_rate,
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            schedule=settings["schedule"],
            patience=settings.get("patience", 0),
            max_shift=settings["max_shift"],
            flip=settings["flip"],
            summed_batches=settings.get("summed_batches", 1),
            seed=seed_for(settings["train_seed"], state, purpose),
            teacher=teacher,
            temperature=settings.get("temperature", 1.0),
            distillation_weight=settings.get("distillation_weight", 0.0),
            device=self.device,
            precision=settings["precision"],
            checkpoint=state_path(self.folder, state).with_suffix(f".{purpose.replace(' ', '_')}.checkpoint"),
            on_resume=lambda history: self.progress.resumed(len(history) * len(indices)),
            on_epoch=lambda epoch: self.progress.epoch_done(
                state, self.states.num_states, epochs, len(indices), epoch.epoch, epoch.loss
            ),
        )

    def store(
        self, state: int, arrays: Mapping[str, np.ndarray], weights: Mapping[str, torch.Tensor], info: dict
    ) -> None:
        """Write the finished state, and remove the checkpoints of its trainings."""
        write_state(self.folder, state, arrays, weights, info)
        for checkpoint in self.folder.glob(f"{state_path(self.folder, state).name}.*"):
            checkpoint.unlink(missing_ok=True)


@contextmanager
def missing_states(run: Run) -> Iterator[list[int]]:
    """Hold the run's lock, and get the states to train: none if another process trained them in the meantime."""
    with locked(run.folder / RUN_LOCK, waiting_for=f"training {run.name}"):
        yield run.missing_states


def set_machine(device: str, num_threads: int) -> None:
    """Set this process's CPU threads. Raises InputError if ``device`` is 'cuda' and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch finds no CUDA device here: use 'auto' or 'cpu'.")
    torch.set_num_threads(num_threads)


def seed_for(train_seed: int, state: int, purpose: str) -> int:
    """A seed of its own for each state and purpose, so that a resumed run repeats an undisturbed one exactly."""
    entropy = np.random.SeedSequence([train_seed, state, zlib.crc32(purpose.encode())])
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)
