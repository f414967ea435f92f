"""One state on disk: a folder that appears whole, says whose it is, and is checked, file by file, when it is read."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from il2m.errors import InputError
from il2m.memory.statistics import Arrays
from il2m.system.files import sync
from il2m.system.hashes import file_hash, read_sealed, short_hash, write_sealed

_OF_TRAINING = ("history", "training_seconds", "made_with", "origin")  # nothing is computed from what they say


class StateFolder:
    """One finished state of a run: its arrays (memory-mapped), second memory and model. run, state, previous: the hash
    of the run whose state this has to be, its number, and the state that it has to have gone on from; ``""``: whichever
    it says. One of before version 0.2 is taken for what its place says, unless ``previous`` was stored since."""

    def __init__(self, path: Path, run: str = "", state: int = 0, previous: Self | None = None) -> None:
        self.path, self._run, self._state, self._previous = path, run, state, previous

    @cached_property
    def _stored(self) -> dict[str, Any]:
        """``state.json``, checked in itself."""
        try:
            record = read_sealed(self.path / "state.json")
            record["files"].items()
        except (ValueError, FileNotFoundError, KeyError, AttributeError) as error:
            problem = error if isinstance(error, ValueError) else f"can't be read ({error})"
            raise self.damaged(f"state.json {problem}") from None
        return record

    @property
    def stranger(self) -> str:
        """What is wrong with the state by what it says of itself, whose it is, what it went on from; "": nothing."""
        origin, previous = self._stored.get("origin"), self._previous
        if not self._run:
            return ""
        if origin is None:
            return "was stored before the state that it went on from" if previous and previous.made else ""
        if (origin["run"], origin["state"]) != (self._run, self._state):
            return f"is state {origin['state']} of the run {origin['run']}, and lies in the place of another"
        if origin["went_on_from"] != (previous.digest if previous else ""):
            return "did not go on from the state before it that lies here"
        return ""

    @cached_property
    def record(self) -> dict[str, Any]:
        """``state.json``, checked for whose it is: second memory, history, and hashes of files, which are not read."""
        if problem := self.stranger:
            raise self.damaged(problem)
        return self._stored

    @cached_property
    def info(self) -> dict[str, Any]:
        """``record``, of a state that lacks none of its files."""
        if missing := [name for name in self.record["files"] if not (self.path / name).is_file()]:
            raise self.damaged(f"{missing[0]} is missing")
        return self.record

    def check(self, *names: str, remembered: bool = True) -> None:
        """Check the content of these files, or of all, against their hashes. remembered: see hashes.file_hash."""
        for name in names or self.record["files"]:
            try:
                found = file_hash(self.path / name, remembered=remembered)
            except FileNotFoundError:
                raise self.damaged(f"{name} is missing") from None
            if found != self.record["files"][name]:
                raise self.damaged(f"{name} is not as it was written")

    @cached_property
    def digest(self) -> str:
        """Hash of all that is computed from this state, and nothing else: equal for a training repeated exactly."""
        return short_hash({name: value for name, value in self.record.items() if name not in _OF_TRAINING})

    @property
    def made(self) -> str:
        """When it was stored (UTC, ISO 8601); "" before version 0.2."""
        return self.record.get("origin", {}).get("made", "")

    def damaged(self, what: str) -> InputError:
        problem = f"{self.path}: {what}. This state is damaged, was edited or belongs elsewhere: delete this folder"
        again = "what came before is kept, what was trained from it is trained again"
        return InputError(f"{problem}, and run the stage that made it again ({again}).")

    def array(self, name: str) -> np.ndarray:
        """A stored array, memory-mapped and read-only. Raises InputError if it isn't stored."""
        path = self._checked(f"{name}.npy")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # what numpy makes of a header can be anything
            raise self.damaged(f"{path.name} can't be read ({type(error).__name__})") from None

    @property
    def array_names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self.info["files"] if name.endswith(".npy")]

    def tensor(self, name: str) -> np.ndarray:
        """One tensor of the model, for example ``head.weight``."""
        with safe_open(self._checked("model.safetensors"), framework="numpy") as weights:
            return weights.get_tensor(name)

    def model_weights(self) -> dict[str, Any]:
        """The model's weights, torch's tensors, to put into a network of the same shape."""
        from safetensors.torch import load_file  # imports torch, not needed to look at what is on disk

        return load_file(self._checked("model.safetensors"))

    def _checked(self, name: str) -> Path:
        if name not in self.info["files"]:
            raise InputError(f"{self.path}: no {Path(name).with_suffix('')} was stored.")
        self.check(name)
        return self.path / name


def write_state(run_folder: Path, state: int, arrays: Arrays, weights: Mapping[str, Any], info: dict) -> None:
    """Write one finished state, all or nothing: arrays as .npy, weights (torch's tensors or arrays) as safetensors, and
    state.json. Raises InputError for floating-point arrays that are not finite: nothing could be analysed from them."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InputError(f"state {state}: {name} holds NaN or infinite values; lower learning_rate.")
    target = state_path(run_folder, state)
    staging = Path(tempfile.mkdtemp(dir=run_folder, prefix=f".{target.name}-"))
    try:
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array, allow_pickle=False)
        if weights:
            on_cpu = {name: value.cpu() if hasattr(value, "cpu") else value for name, value in weights.items()}
            contiguous = {name: np.asarray(value, order="C") for name, value in on_cpu.items()}
            save_file(contiguous, staging / "model.safetensors")
            (staging / "model.safetensors").chmod(0o644)  # to be read by whom the other files are
        hashes = {file.name: file_hash(file) for file in sorted(staging.iterdir())}
        write_sealed(staging / "state.json", {**info, "files": hashes}, durable=False)
        staging.chmod(0o755)
        sync(*staging.iterdir(), staging)
        os.rename(staging, target)
    except OSError:
        if not (target / "state.json").is_file():  # else another process finished the same state first: keep its
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def state_path(run_folder: Path, state: int) -> Path:
    return run_folder / f"state_{state:02d}"
