"""What the stages have in common: how a run's missing states are trained, and what its states share meanwhile."""

import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from il2m.data.batches import ImageBatches, Normalisation
from il2m.data.dataset import Dataset
from il2m.data.file_batches import image_batches
from il2m.errors import InputError
from il2m.learning.networks import Classifier, build_network
from il2m.learning.scores import score_images
from il2m.learning.training import Epoch, train
from il2m.parameters import JointTraining, Training
from il2m.study.progress import PROGRESS_FILE, Progress
from il2m.study.runs import Run
from il2m.study.state_folder import state_path
from il2m.system.files import SET_ASIDE, set_aside
from il2m.system.locks import RUN_LOCK, locked, sweep
from il2m.system.machine import cpu_model
from il2m.system.processes import HERE, gathered, run_in_processes


def train_missing(run: Run, settings: Training | JointTraining, train_states: Callable[[list[int]], None]) -> Run:
    """Check the states that the run has, then hold its lock and train those that it lacks, if no other did meanwhile.
    States that did not go on from the one before them are set aside first. Raises InputError as check_device."""
    if run.missing_states or _strangers(run):
        check_device(run.base.identity if run.kind == "joint" else run.identity, settings.device)
        torch.set_num_threads(settings.num_threads), torch.set_float32_matmul_precision("highest")
        with locked(run.folder / RUN_LOCK, waiting_for=f"training {run.name}"):
            leftovers = (".state_*", "state_*.tmp", f"{PROGRESS_FILE}*.tmp")
            sweep(run.folder / RUN_LOCK, [path for pattern in leftovers for path in run.folder.glob(pattern)])
            _set_aside_strangers(run)
            _check(run)
            while missing := run.missing_states:
                train_states([state for place, state in enumerate(missing) if state == missing[0] + place])
                _set_aside_strangers(run)  # later states may have gone on from another one than was trained now
    _check(run)
    return run


def check_device(identity: Mapping[str, Any], device: str) -> None:
    """Raises InputError if torch does not find the GPUs that are asked for, one for each process."""
    count, found = identity.get("num_processes", 1), torch.cuda.device_count()
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch finds no CUDA device here: use 'auto' or 'cpu'.")
    if device != "cpu" and 0 < found < count:
        raise InputError(f"num_processes = {count}, but torch finds {found} GPU here: use {found}, or device = 'cpu'.")


def _check(run: Run) -> None:
    """Check the files of all states, but those that this process read before."""
    for state in run.digests:
        run.state(state).check()


def _strangers(run: Run) -> list[int]:
    """The first state that did not go on from the one that lies before it, and all later ones: of another training."""
    end = run.states.num_states + 1
    first = next((state for state in run.reached if run.state(state).stranger), end)
    return [state for state in range(first, end) if run.has_state(state)]


def _set_aside_strangers(run: Run) -> None:
    if strangers := _strangers(run):
        for state in strangers:
            set_aside(state_path(run.folder, state))
        run.forget_states()
        what = f"{run.folder}: states {strangers} did not go on from the state before them that lies here"
        done = f"They are set aside as {SET_ASIDE}state_*, and trained again"
        warnings.warn(f"{what} (it was trained again, or exchanged). {done}.", stacklevel=3)


@dataclass(frozen=True)
class Stage:
    """What the states of one run share while they are trained."""

    run: Run
    settings: Training  # of their training, as the run's hash has them
    data: Dataset  # in learning order
    normalisation: Normalisation
    progress: Progress

    def train(self, train_state: Callable, work: list[tuple]) -> None:
        """Call ``train_state(self, *each)`` for each of ``work``: here, or in each of the processes asked for."""
        if HERE.count < (count := self.settings.num_processes):
            on_cpu = self.settings.device == "cpu" or not torch.cuda.is_available()
            run_in_processes(count, on_cpu, self.progress.follow, self.train, train_state, work)
        else:
            for each in work:
                train_state(self, *each)

    def batches(self, indices: np.ndarray) -> ImageBatches:
        """The training images at ``indices``."""
        return image_batches(self.data.train_images[indices], self.data.train_labels[indices], self.normalisation)

    def seed(self, state: int, purpose: str) -> int:
        """A seed of its own for each state and purpose, so that a resumed run repeats an undisturbed one exactly."""
        entropy = np.random.SeedSequence([self.settings.train_seed, state, zlib.crc32(purpose.encode())])
        return int(entropy.generate_state(1, np.uint64)[0] >> 1)

    def fit(
        self, model: Classifier, indices: np.ndarray, *, state: int, purpose: str = "training", **asked: Any
    ) -> list[Epoch]:
        """Train ``model`` in place on the training images at ``indices``, from the last checkpoint on if there is one.
        purpose: part of the seed. asked: epochs, learning_rate and teacher of training.train."""
        where = state, self.run.states.num_states, asked["epochs"], len(indices)
        asked |= {"seed": self.seed(state, purpose), "validate": lambda: self.val_top1(model, state)}
        asked["checkpoint"] = state_path(self.run.folder, state).with_suffix(f".{purpose.replace(' ', '_')}.checkpoint")
        asked["on_resume"] = lambda history: self.progress.resumed(len(history) * len(indices))
        asked["on_epoch"] = lambda epoch: self.progress.epoch_done(*where, epoch.epoch, epoch.loss)
        return train(model, self.batches(indices), self.settings, **asked)

    def new_network(self, state: int, seed: int) -> Classifier:
        """A network for the images, over all classes seen at ``state``."""
        height, width, channels = self.data.train_images.shape[1:]
        network = self.run.base.check_network()  # in this process
        return build_network(network, channels, self.run.states.num_seen(state), seed, (height, width))

    def load_model(self, state: int) -> Classifier:
        """The model as it was at the end of ``state``."""
        model = self.new_network(state, seed=0)
        model.load_state_dict(self.run.state(state).model_weights())
        return model

    def score_validation(self, model: Classifier, state: int) -> dict[str, np.ndarray]:
        """The arrays to store of the validation images of all classes seen at ``state``."""
        val = np.flatnonzero(self.data.val_labels < self.run.states.num_seen(state))
        labels = self.data.val_labels[val]
        scores, features = score_images(model, image_batches(self.data.val_images[val], labels, self.normalisation))
        return {"val_indices": val, "val_labels": labels, "val_scores": scores, "val_features": features}

    def val_top1(self, model: Classifier, state: int) -> float:
        """Share of the validation images of all classes seen at ``state`` that the model classifies rightly."""
        arrays = self.score_validation(model, state)
        return float((arrays["val_scores"].argmax(axis=1) == arrays["val_labels"]).mean())

    def store(self, state: int, arrays: Mapping[str, np.ndarray], weights: Mapping[str, Any], info: dict) -> None:
        """Write the finished state, with what rounds its numbers, and remove the checkpoints of its trainings."""
        gpu = torch.cuda.get_device_name() if self.settings.device != "cpu" and torch.cuda.is_available() else None
        made_with = {"threads": torch.get_num_threads(), "torch": torch.__version__, "cpu": cpu_model(), "gpu": gpu}
        if HERE.rank == 0:
            self.run.store(state, arrays, weights, {**info, "made_with": made_with})
            for checkpoint in self.run.folder.glob(f"{state_path(self.run.folder, state).name}.*"):
                checkpoint.unlink(missing_ok=True)
        gathered([])  # all wait for it
