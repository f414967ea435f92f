"""A state, frozen: all that a method may read of its model and its memories, from a run on disk. Names are those of a
state's stored arrays: ``val_...`` of the validation images, ``new_...`` of the new classes' training images,
``exemplar_...`` of the first memory, ``held_out_...`` of images kept from training."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.special import softmax

from il2m.data.states import States
from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, statistics_of_states
from il2m.parameters import FineTuning, check_parameters
from il2m.study.runs import Run

NEEDS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("needs.toml").read_text())
_OF_PAST = ("exemplar_", "past_", "held_out_")  # state 1 has no past classes, and needs none of these


class NotStored(InputError):
    """A state was asked for what it does not have."""


class Head(NamedTuple):
    """A linear layer over C classes: weight (C, d) and bias (C,)."""

    weight: np.ndarray
    bias: np.ndarray


class Images:
    """Training images: ``labels (m,)``, ``features (m, d)`` and raw ``scores (m, C)``, as far as they are there."""

    def __init__(self, read: Callable[[str], np.ndarray], group: str) -> None:
        self._read, self._group = read, group

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in ("labels", "features", "scores"):
            raise AttributeError(name)
        return self._read(f"{self._group}_{name}")


@dataclass(frozen=True, eq=False)
class Frozen:
    """One state's model, frozen. Arrays can't be written to. What is not there raises NotStored.
    state, states: which it is, from 1, and the classes that each state brings. settings: exemplar selection and seed.
    earlier: the states before. score_kind: of ``scores`` and ``statistics``. undefined: see rectification_factors."""

    state: int
    states: States
    settings: FineTuning
    earlier: tuple[Self, ...] = field(repr=False)
    score_kind: str = "raw"
    undefined: str = "keep"
    _arrays: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict, repr=False)
    _memory: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _rows: slice | np.ndarray | None = field(default=None, repr=False)  # None: all of them
    _gives_val_labels: bool = False

    @classmethod
    def of_run(cls, run: Run, state: int, *, score_kind: str = "raw", undefined: str = "keep") -> Self:
        """A finished state of a run, read from disk as it is asked for."""
        run.state(state)  # also of a state that there is not
        settings = FineTuning.of_identity(run.identity)
        kinds = check_parameters({"score_kind": score_kind, "undefined": undefined})
        made: list[Frozen] = []
        for b in range(1, state + 1):
            stored = run.state(b)
            arrays = {name: partial(stored.array, name) for name in stored.array_names}
            if "model.safetensors" in stored.info["files"]:
                arrays |= {name: partial(stored.tensor, name.replace("_", ".")) for name in NEEDS["head"]["arrays"]}
            memory = stored.info.get("second_memory", {})
            made.append(cls(b, run.states, settings, tuple(made), **kinds, _arrays=arrays, _memory=memory))
        return made[-1]

    def take(self, rows: slice | np.ndarray) -> Self:
        """The same state with some of its validation images: places among those that it has now."""
        if self._rows is not None:
            rows = np.arange(len(self._arrays["val_scores"]()))[self._rows][rows]
        return replace(self, _rows=rows)

    @property
    def whole(self) -> Self:
        """The same state with all its validation images: what is tuned on some is tuned on all."""
        return replace(self, _rows=None)

    def with_val_labels(self) -> Self:
        """The same state, which gives its validation labels: for oracles."""
        return replace(self, _gives_val_labels=True)

    @property
    def num_past(self) -> int:
        return self.states.num_past(self.state)

    @property
    def num_classes(self) -> int:
        """C, the classes seen so far."""
        return self.states.num_seen(self.state)

    @property
    def state_of_class(self) -> np.ndarray:
        """The state in which each class was new, (C,), from 1."""
        return self.states.of_class[: self.num_classes]

    @cached_property
    def scores(self) -> np.ndarray:
        """The model's scores of the validation images, (n, C): raw, or probabilities."""
        scores = self._read("val_scores")
        return _read_only(softmax(scores, axis=1)) if self.score_kind == "softmax" else scores

    @property
    def features(self) -> np.ndarray:
        """Of the validation images, (n, d)."""
        return self._read("val_features")

    @property
    def val_labels(self) -> np.ndarray:
        """True classes of the validation images, (n,): only for a method that says that it needs them, an oracle."""
        if not self._gives_val_labels:
            raise InputError('validation labels are for oracles only: say needs="val_labels".')
        return self._read("val_labels")

    @property
    def head(self) -> Head:
        """Of the model at the end of this state."""
        return Head(self._read("head_weight"), self._read("head_bias"))

    @property
    def exemplars(self) -> Images:
        """The first memory: images of past classes."""
        return Images(self._read, "exemplar")

    @property
    def new(self) -> Images:
        """Training images of the new classes; a run keeps no scores of them, only what the statistics need."""
        return Images(self._read, "new")

    @property
    def held_out(self) -> Images:
        """Exemplars and new images that were not trained on."""
        return Images(self._read, "held_out")

    @property
    def past_class_features(self) -> np.ndarray:
        """Mean unit features over *all* training images of each past class, (num_past, d): for oracles."""
        return self._read("past_class_features")

    @property
    def counts(self) -> np.ndarray:
        """Images of each class that the state was trained on, (C,): exemplars of past classes, all of new ones. A
        balanced second stage, whose counts are equal, is left out of account."""
        if "train_counts" in self._arrays:  # of imported scores
            return self._read("train_counts")
        counts = np.bincount(self.new.labels, minlength=self.num_classes)
        if self.state > 1:
            counts += np.bincount(self.exemplars.labels, minlength=self.num_classes)
            if "held_out_labels" in self._arrays:
                counts -= np.bincount(self.held_out.labels, minlength=self.num_classes)
        return counts

    @property
    def statistics(self) -> ClassStatistics:
        """The second memory, of the same kind as ``scores``."""
        memories = [each._memory.get(self.score_kind) for each in (*self.earlier, self)]
        if None in memories:
            raise NotStored(f"state {self.state} {NEEDS['statistics']['lacks']}.")
        return statistics_of_states(memories, self.state_of_class)

    def lacks(self, need: str) -> str:
        """What this state lacks of ``need`` (a key of NEEDS), ``""`` if nothing."""
        if need == "counts" and "train_counts" in self._arrays:
            return ""
        if need in ("statistics", "confidences"):
            memory = self._memory.get("raw")
            values = [memory["confidence"]] if memory else [np.nan]
            if need == "statistics" and memory:
                missing = self.num_past - len(memory["current_means"])
                values += [*memory["initial_means"], *memory["current_means"], *[np.nan] * missing]
            return "" if np.isfinite(values).all() else NEEDS[need]["lacks"]
        for name in NEEDS[need]["arrays"]:
            if name not in self._arrays and not (self.state == 1 and name.startswith(_OF_PAST)):
                return NEEDS[need].get("lacks", f"stores no {name}")
        if "absent" in NEEDS[need] and self.state > 1:
            images, num = (self.held_out, self.num_classes) if need == "held_out" else (self.exemplars, self.num_past)
            if absent := np.count_nonzero(np.bincount(images.labels, minlength=num)[:num] == 0):
                return NEEDS[need]["absent"].format(absent)
        return ""

    def _read(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise NotStored(f"state {self.state} stores no {name}.")
        array = self._arrays[name]()
        return _read_only(array if self._rows is None or not name.startswith("val_") else array[self._rows])


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
