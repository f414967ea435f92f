"""What is on disk: run folders that are written atomically, checked when read, and never half trusted.

    <out_dir>/base-<hash>/         config.json, state_01/
    <out_dir>/fine_tuning-<hash>/  config.json (names its base), state_02/ ... state_SS/
    <folder>/                      imported scores: config.json, state_01/ ... state_SS/

``<hash>`` is of all that shapes the result. A state's folder appears in one rename when all of it is written; its
``state.json`` lists each file's hash, whose state it is and which one it went on from, so that damage, edits and
exchanges are noticed. A run in training holds ``.lock``, maybe ``state_SS.<training>.checkpoint`` (checkpoints.py)."""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from il2m.data.states import States
from il2m.errors import InputError, printable
from il2m.memory.statistics import Arrays, ClassStatistics, statistics_of_states
from il2m.parameters import NETWORKS, check_parameters
from il2m.rules import check_choice, number
from il2m.study.state_folder import StateFolder, state_path, write_state
from il2m.system.hashes import read_sealed, short_hash, write_sealed

ANALYSED = ("fine_tuning", "imported")  # kinds of run with scores of every state
# of images in memory, of image files: raised when equal parameters come to give other results (2: resized as tensors)
RESULT_VERSION = {False: 1, True: 2}
RESULTS_FILE = "results.parquet"
KINDS = {"base": "base training", "fine_tuning": "fine-tuning", "joint": "joint training"}  # -> the stage that makes it
_TYPES = {"kind": str, "dataset": str, "source": str, "class_names": list, "order_seed": (int, type(None))}


class Run:
    """A run folder: its configuration and its finished states. State 1 is its base's; imported scores have no base."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self._opened = Path(folder), {}
        self.name = os.path.basename(os.path.abspath(self.folder))
        try:
            self.config = read_sealed(self.folder / "config.json")
            self.kind, self.identity = self.config.get("kind", ""), self.config["identity"]
            self.states = States(tuple(self.identity["state_sizes"]))
        except FileNotFoundError:
            found = ", ".join(each.parent.name for each in sorted(self.folder.glob("*/config.json")))
            found = f"; name one of the runs in it: {found}" if found else "."
            raise InputError(f"{self.folder} is not a run folder: it has no config.json{found}") from None
        except (ValueError, KeyError, TypeError) as error:
            problem = error if isinstance(error, ValueError) else f"can't be read ({error!r})"
            raise self._edited(f"{problem}; it was damaged or edited") from None
        if short_hash(self.identity) != self.config.get("hash"):
            raise self._edited("was edited: its parameters are not those that made this run")
        types = _TYPES | ({"base": str} if self.kind in ("fine_tuning", "joint") else {})
        wrong = [name for name, kind in types.items() if not isinstance(self.config.get(name), kind)]
        if wrong or self.kind not in (*KINDS, "imported") or len(self.class_names) != self.states.num_classes:
            raise self._edited(f"was edited: {', '.join(wrong) or 'kind or class_names'} can't be what it says")
        named = re.fullmatch(f"({'|'.join(KINDS)})-([0-9a-f]{{10}})", self.name)
        if named and named.groups() != (self.kind, self.config["hash"]):
            raise self._edited(f"is of the run {self.kind}-{self.config['hash']}, and lies in the place of another")

    def _edited(self, what: str) -> InputError:
        again = "run the stage that made it" if self.name.startswith(tuple(KINDS)) else "import its files"
        return InputError(f"{self.folder}/config.json {what}. Undo the change, or delete the folder and {again} again.")

    @classmethod
    def create(cls, place: Path, kind: str, identity: dict[str, Any], **notes: Any) -> Self:
        """Open the run of that identity, see folder_for, or make it. Raises InputError if its folder holds another run.
        identity: all that shapes the result. notes: kept and checked beside it, without a say in the hash."""
        folder = cls.folder_for(place, kind, identity)
        if not (folder / "config.json").exists():
            config = {"kind": kind, "hash": short_hash(identity), "identity": identity, **notes}
            write_sealed(folder / "config.json", config | {"made": datetime.now(UTC).isoformat()})
        run = cls(folder)
        if run.config["hash"] != short_hash(identity):
            raise InputError(f"{folder} holds another run: name another folder, or delete it.")
        return run

    @staticmethod
    def folder_for(place: Path, kind: str, identity: dict[str, Any]) -> Path:
        """The folder in ``place`` that the identity names; of imported scores ``place`` itself."""
        return place if kind == "imported" else place / f"{kind}-{short_hash(identity)}"

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
        distils = "on" if self.identity.get("distillation") else "off"
        return "imported scores" if self.kind == "imported" else f"distillation {distils}"

    @property
    def memory_size(self) -> int:
        """K; for a fixed number of exemplars per class, the images held at the last state."""
        per_class = self.identity.get("exemplars_per_class", 0)
        return self.identity.get("memory_size", per_class * self.states.num_past(self.states.num_states))

    @property
    def notes(self) -> dict[str, Any]:
        """What is known of its images beside the identity: runs that go on from it note the same."""
        names = "dataset", "source", "exif_rotation", "order_seed", "class_names", "image_shape"
        return {name: self.config[name] for name in names if name in self.config}

    @property
    def class_names(self) -> list[str]:
        """Class names in learning order."""
        return [*map(printable, self.config["class_names"])]

    @cached_property
    def base(self) -> Self:
        """The base run: the one that this fine-tuning names; else this one."""
        if self.kind in ("base", "imported"):
            return self
        folder = self.folder.absolute().parent / self.config["base"]
        if not folder.is_dir():
            problem = f"its base {folder} is gone; run base training again with the same parameters."
            raise InputError(f"{self.folder}: {problem}")
        base = Run(folder)
        if base.identity != self.identity["base"]:
            raise self._edited(f"was edited: {folder} is not the base that this run was trained from")
        return base

    def has_state(self, state: int) -> bool:
        return state_path((self.base if state == 1 else self).folder, state).is_dir()

    @property
    def missing_states(self) -> list[int]:
        wanted = [1] if self.kind == "base" else range(1, self.states.num_states + 1)
        return [state for state in wanted if not self.has_state(state)]

    @property
    def reached(self) -> Iterator[int]:
        """Finished states before which none is missing; all of joint training, whose states do not build on others."""
        return (filter if self.kind == "joint" else takewhile)(self.has_state, range(1, self.states.num_states + 1))

    def state(self, state: int) -> StateFolder:
        """One finished state, checked. Raises InputError if it isn't there."""
        check_choice("state", state, number(1, self.states.num_states, whole=True))
        if state == 1 and self.base is not self:
            return self.base.state(1)
        if not self.has_state(state):
            what = f"{self.folder}: state {state} of {self.states.num_states} is not finished"
            raise InputError(f"{what}; run {KINDS.get(self.kind, 'its import')} again, it goes on from what is there.")
        if state not in self._opened:
            for before in range(2, state if self.kind == "fine_tuning" else 2):  # else they open each other, too deep
                self._opened.get(before) or self.state(before).stranger
            of_run = self.config["hash"], state, self._previous(state)
            self._opened[state] = StateFolder(state_path(self.folder, state), *of_run)
        return self._opened[state]

    def _previous(self, state: int) -> StateFolder | None:
        """The state that ``state`` went on from: of joint training each from the base, of imported scores none."""
        if self.base is self and (state == 1 or self.kind == "imported"):
            return None
        return self.state(1 if self.kind == "joint" else state - 1)

    def forget_states(self) -> None:
        """Read the states anew from now on: they were exchanged."""
        self._opened.clear()
        self.__dict__.pop("base", None)

    def store(self, state: int, arrays: Arrays, weights: Mapping[str, Any], info: dict) -> None:
        """Write a finished state, see write_state; it says whose it is, which one it went on from, and when it was."""
        previous = self._previous(state)
        origin = {"run": self.config["hash"], "state": state, "went_on_from": previous.digest if previous else ""}
        origin["made"] = datetime.now(UTC).isoformat()  # what is made later is later in the order of texts
        write_state(self.folder, state, arrays, weights, {**info, "origin": origin})

    @property
    def digests(self) -> dict[int, str]:
        """Hash of each finished state before which none is missing, see StateFolder.digest: what is computed from a run
        is of these. Raises InputError where one is of another run, or did not go on from the one before it."""
        return {state: self.state(state).digest for state in self.reached}

    def check_network(self) -> str:
        """The name of a base's network; raises InputError unless it is registered as it was when it was trained."""
        network = self.identity.get("network", "unknown")
        if NETWORKS.get(network) != self.identity.get("network_source", ""):
            now = "has another source now" if network in NETWORKS else "is not registered here"
            what = f"base {self.name} was trained with the network {network!r}, which {now}"
            raise InputError(f"{what}: register the one that trained it, or train another base.")
        return network

    def model(self, state: int, method: str = "FT", **parts: Any) -> Any:
        """The network at the end of ``state``, in evaluation mode: a torch.nn.Sequential of images (n, c, h, w), uint8
        or floats in 0..1, to raw scores (n, C) of its ``class_names``; its third layer is the classifier. The method
        ``IL2M`` puts Eq. 1 behind it, of ``parts`` as rectify takes them. Raises InputError where no model was stored,
        its network is not registered, or Eq. 1 has no statistics."""
        from torch import float32, nn
        from torchvision.transforms import v2

        from il2m.learning.networks import Rectification, build_network

        check_choice("method", method, ("FT", "IL2M"))
        if parts and method == "FT":
            raise InputError(f"{', '.join(parts)}: only IL2M has such parts: say method='IL2M'.")
        network, weights = self.base.check_network(), self.state(state).model_weights()
        normalisation, shape = self.state(1).info["normalisation"], self.base.config.get("image_shape", [32, 32])
        num_channels, num_seen = len(normalisation["mean"]), self.states.num_seen(state)
        classifier = build_network(network, num_channels, num_seen, 0, tuple(shape[:2]))
        classifier.load_state_dict(weights)
        model = nn.Sequential(v2.ToDtype(float32, scale=True), v2.Normalize(**normalisation), classifier)
        if method == "IL2M":
            model.append(Rectification(self.statistics(state), **parts))
        model.class_names = self.class_names[:num_seen]
        return model.eval()

    def statistics(self, state: int, score_kind: str = "raw") -> ClassStatistics:
        """The second memory as it stands at ``state``, of raw scores or of probabilities (``softmax``)."""
        check_parameters({"score_kind": score_kind})
        self.state(state)  # also of a state that there is not
        memories = [self.state(b).info["second_memory"][score_kind] for b in range(1, state + 1)]
        return statistics_of_states(memories, self.states.of_class[: self.states.num_seen(state)])
