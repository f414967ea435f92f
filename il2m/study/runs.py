"""What is on disk: run folders that are written atomically, checked when read, and never half trusted.

    <out_dir>/base-<hash>/         config.json, state_01/
    <out_dir>/fine_tuning-<hash>/  config.json (names its base), state_02/ ... state_SS/
    <folder>/                      imported scores: config.json, state_01/ ... state_SS/

``<hash>`` is a hash of all that shapes the result. A state's folder appears in one rename when all of it is written;
its ``state.json`` lists each file's hash, so that a damaged or edited file is noticed. While a state is trained, its
run holds ``.lock`` (see locks.py) and may have ``state_SS.<training>.checkpoint`` (see checkpoints.py).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from il2m.data.states import States
from il2m.errors import InputError, printable
from il2m.memory.statistics import ClassStatistics, statistics_of_states
from il2m.system.files import sync, write_atomically
from il2m.system.hashes import file_hash, short_hash

if TYPE_CHECKING:  # slow and large to import, and not needed to look at what is on disk
    import torch

ANALYSED = ("fine_tuning", "imported")  # kinds of run with scores of every state
RESULTS_FILE = "results.parquet"
KINDS = {"base": "base training", "fine_tuning": "fine-tuning", "joint": "joint training"}  # -> the stage that makes it


class StateFolder:
    """One finished state of a run: its arrays (memory-mapped), second memory and model."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def info(self) -> dict[str, Any]:
        """``state.json``: the second memory, the training history and each file's hash; checked on first use."""
        try:
            info = json.loads((self.path / "state.json").read_text())
            hashes, checksum = info["files"], info.pop("checksum")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"state.json can't be read ({error})") from None
        if short_hash(info) != checksum:
            raise self._damaged("state.json is not as it was written")
        for name, expected in hashes.items():
            file = self.path / name
            if not file.is_file():
                raise self._damaged(f"{name} is missing")
            if file_hash(file) != expected:
                raise self._damaged(f"{name} is not as it was written")
        return info

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: {what}. This state is damaged or was edited: delete this folder and those of later states, "
            "and run the stage that made it again (what came before is kept)."
        )

    def array(self, name: str) -> np.ndarray:
        """A stored array, memory-mapped and read-only. Raises InputError if it isn't stored."""
        if f"{name}.npy" not in self.info["files"]:
            raise InputError(f"{self.path}: no {name} was stored.")
        return np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    @property
    def array_names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self.info["files"] if name.endswith(".npy")]

    def tensor(self, name: str) -> np.ndarray:
        """One tensor of the model, for example ``head.weight``."""
        with safe_open(self._model(), framework="numpy") as weights:
            return weights.get_tensor(name)

    def model_weights(self) -> dict[str, torch.Tensor]:
        """The model's weights, to put into a network of the same shape."""
        from safetensors.torch import load_file  # imports torch

        return load_file(self._model())

    def _model(self) -> Path:
        if "model.safetensors" not in self.info["files"]:
            raise InputError(f"{self.path}: no model was stored.")
        return self.path / "model.safetensors"


def write_state(
    run_folder: Path, state: int, arrays: Mapping[str, np.ndarray], weights: Mapping[str, Any], info: dict
) -> None:
    """Write one finished state: arrays as .npy, weights (torch's tensors, or arrays) as safetensors, and state.json;
    all or nothing.

    Raises InputError for floating-point arrays that are not finite: nothing could be analysed from them.
    """
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
        hashes = {file.name: file_hash(file) for file in sorted(staging.iterdir())}
        info = json.loads(json.dumps({**info, "files": hashes}))  # as it will be read
        (staging / "state.json").write_text(json.dumps({**info, "checksum": short_hash(info)}, indent=1))
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


class Run:
    """A run folder: its configuration, and its states as far as they are finished. A fine-tuning run's state 1 is
    that of its base. Imported scores have no base: all states are the run's own."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self._opened = Path(folder), {}
        path = self.folder / "config.json"
        try:
            self.config: dict[str, Any] = json.loads(path.read_text())
            identity, expected, checksum = self.config["identity"], self.config["hash"], self.config.pop("checksum")
        except FileNotFoundError:
            raise InputError(f"{self.folder} is not a run folder: it has no config.json.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} can't be read ({error!r}); it was damaged or edited.") from None
        self.kind, self.identity, self.name = self.config.get("kind", ""), identity, self.folder.name
        if short_hash(identity) != expected or short_hash(self.config) != checksum:
            again = f"run {KINDS[self.kind]}" if self.kind in KINDS else "import its files"
            what = "parameters" if short_hash(identity) != expected else "notes"
            raise InputError(
                f"{path} was edited: its {what} are not those that made this run. Undo the edit or delete the folder "
                f"and {again} again."
            )
        self.states = States(tuple(identity["state_sizes"]))

    @classmethod
    def create_at(cls, folder: Path, kind: str, identity: dict[str, Any], **notes: Any) -> Run:
        """Open the run of that identity in ``folder``, or make it. Raises InputError if the folder holds another run.
        identity: all that shapes the result. notes: kept and checked beside it, without a say in the hash."""
        if not (folder / "config.json").exists():
            config = {"kind": kind, "hash": short_hash(identity), "identity": identity, **notes}
            config = json.loads(json.dumps(config))  # as it will be read
            config["checksum"] = short_hash(config)
            write_atomically(folder / "config.json", json.dumps(config, indent=1))
        run = cls(folder)
        if run.config["hash"] != short_hash(identity):
            raise InputError(f"{folder} holds another run: name another folder, or delete it.")
        return run

    @classmethod
    def create(cls, out_dir: Path, kind: str, identity: dict[str, Any], **notes: Any) -> Run:
        """The same, in the folder of ``out_dir`` that the identity names."""
        return cls.create_at(cls.folder_for(out_dir, kind, identity), kind, identity, **notes)

    @staticmethod
    def folder_for(out_dir: Path, kind: str, identity: dict[str, Any]) -> Path:
        return out_dir / f"{kind}-{short_hash(identity)}"

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        seeds = {"order seed": self.config.get("order_seed"), "train seed": self.identity.get("train_seed")}
        stage, dataset = KINDS.get(self.kind, self.label), self.config.get("dataset")
        about = [f"{stage}: {dataset}", f"{self.states.num_states} states"]
        about += [f"K = {self.memory_size}, {self.label}"] if self.kind == "fine_tuning" else []
        about += [f"{name} {seed}" for name, seed in seeds.items() if seed is not None]
        try:
            about += [f"states {self.missing_states} not finished"] if self.missing_states else []
        except InputError:  # a run must be told by name in the very error that says what is wrong with it
            about += ["its base can't be opened"]
        return f"<{', '.join(about)}; {self.folder}>"

    @property
    def label(self) -> str:
        """What tells this run from its twin in a figure."""
        if self.kind == "imported":
            return "imported scores"
        return "distillation on" if self.identity.get("distillation") else "distillation off"

    @property
    def memory_size(self) -> int:
        """K; for a fixed number of exemplars per class, the images held at the last state."""
        per_class = self.identity.get("exemplars_per_class", 0)
        return self.identity.get("memory_size", per_class * self.states.num_past(self.states.num_states))

    @property
    def notes(self) -> dict[str, Any]:
        """What is known of its images beside the identity: runs that go on from it note the same."""
        return {name: self.config[name] for name in ("dataset", "source", "order_seed", "class_names")}

    @property
    def class_names(self) -> list[str]:
        """Class names in learning order."""
        return [*map(printable, self.config["class_names"])]

    @cached_property
    def base(self) -> Run:
        """The base run: the one that this fine-tuning names; else this one."""
        if self.kind in ("base", "imported"):
            return self
        folder = self.folder.parent / self.config["base"]
        if not folder.is_dir():
            problem = f"its base {folder} is gone; run base training again with the same parameters."
            raise InputError(f"{self.folder}: {problem}")
        base = Run(folder)
        if base.identity != self.identity["base"]:
            raise InputError(
                f"{self.folder}/config.json was edited: {folder} is not the base that this run was trained from. Undo "
                "the edit, or delete the folder and run fine-tuning again."
            )
        return base

    def has_state(self, state: int) -> bool:
        folder = self.base.folder if state == 1 else self.folder
        return state_path(folder, state).is_dir()

    @property
    def missing_states(self) -> list[int]:
        wanted = [1] if self.kind == "base" else range(1, self.states.num_states + 1)
        return [state for state in wanted if not self.has_state(state)]

    def state(self, state: int) -> StateFolder:
        """One finished state, checked. Raises InputError if it isn't there."""
        if state == 1 and self.base is not self:
            return self.base.state(1)
        if not self.has_state(state):
            raise InputError(
                f"{self.folder}: state {state} is not finished; run {KINDS.get(self.kind, 'its import')} again, it "
                "goes on from what is there."
            )
        return self._opened.setdefault(state, StateFolder(state_path(self.folder, state)))

    def statistics(self, state: int, score_kind: str = "raw") -> ClassStatistics:
        """The second memory as it stands at ``state``, of raw scores or of probabilities (``softmax``)."""
        memories = [self.state(b).info["second_memory"][score_kind] for b in range(1, state + 1)]
        return statistics_of_states(memories, self.states.of_class[: self.states.num_seen(state)])
