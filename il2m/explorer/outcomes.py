"""What a method made of each validation image, kept small: a place, a guess and a score per image. All views are made
of these outcomes, so that the scores of a large run are read once per method and state, in blocks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import softmax

from il2m.data.dataset import Dataset
from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, own_and_top
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import FORMS, STEADIER, count_undefined, rectification_factors, undefined_in_words
from il2m.methods.registry import METHODS, missing_for
from il2m.parameters import check_parameters
from il2m.results.collect import stored_results
from il2m.results.metrics import predictions, ranks, top_k
from il2m.study.planning import load_images
from il2m.study.runs import Run

TOPS = (1, 5)
CURVE_WORK = 4_000_000  # images times classes of one point of a what-if curve: a larger run gives a part of its images
_ROWS = 8192  # images scored at a time
_WHAT_IF_ROWS = 256  # as in rectify: small enough to stay in the processor's cache


class Outcome(NamedTuple):
    """At one state, of n validation images; (n,) each."""

    labels: np.ndarray
    ranks: np.ndarray  # of the true class: 0 is top-1
    predicted: np.ndarray
    own: np.ndarray  # the true class's score, -inf where a method took it out of play


@dataclass(frozen=True)
class Exponents:
    """Exponents of Eq. 1's two factors, and its gate: 0 is off, 1 is IL2M's own choice. pooling: whose means the class
    means are of. clipped: factors of past classes to 1..3, as IL2M-pooled has them."""

    means: float = 1.0
    confidence: float = 1.0
    gate: float = 1.0  # both exponents are multiplied by 1 - gate for images predicted as a past class
    pooling: str = "class"
    clipped: bool = False


@dataclass(frozen=True)
class Choice:
    """What the controls say. label: a class in learning order. top: 1 or 5. page: of the images view, from 0."""

    state: int
    method: str = "IL2M"
    score_kind: str = "raw"
    top: int = 1
    by_origin: bool = False
    label: int = 0
    exponents: Exponents = field(default_factory=Exponents)
    page: int = 0

    @property
    def kind(self) -> str:
        """The scores that the method is shown on."""
        return kind_for(self.method, self.score_kind)

    @property
    def unit(self) -> str:
        of_raw = "negated distance" if METHODS[self.method].distances else "score"
        return "probability" if self.kind == "softmax" else of_raw

    @property
    def compared(self) -> tuple[str, ...]:
        """The method, and fine-tuning beside any other."""
        return tuple(dict.fromkeys((self.method, "FT")))

    @property
    def of_one_scale(self) -> tuple[str, ...]:
        """Those of the compared whose scores can share an axis with the method's: distances stand alone."""
        return self.compared[:1] if METHODS[self.method].distances else self.compared


@dataclass(frozen=True)
class Shown:
    """numbers: behind the drawing, all of them. finding: in words. draw: what draws it into an Axes.
    table: the numbers that a page has room for, if not all. number_format: of its fractions. pages: there are."""

    numbers: pd.DataFrame
    finding: str
    draw: Callable[..., Axes]
    table: pd.DataFrame | None = None
    height: float = 3.9
    number_format: str = "{:z.2f}"
    pages: int = 1


class RunOutcomes:
    """A run and the outcomes of every method on it, each computed once when it is first asked for."""

    def __init__(self, run: Run, label: str = "", data_dir: str | Path = "../data") -> None:
        self.run, self.label, self.data_dir, self.num_states = run, label or run.name, data_dir, run.states.num_states
        self.left_out = {method: why for method in METHODS if (why := missing_for(run, method))}
        self.methods = [method for method in METHODS if method not in self.left_out]
        self._outcome, self.curves = cache(self._compute), cache(self._curves)  # kept as long as this is

    @property
    def titles(self) -> list[str]:
        """``label: name`` of each class in learning order, so that equal names stay apart."""
        return [f"{label}: {name}" for label, name in enumerate(self.run.class_names)]

    @cached_property
    def images(self) -> Dataset:
        """The run's images, in learning order. Raises InputError, in words for the page, if they are not at hand."""
        if self.run.kind == "imported":
            raise InputError(f"{self.label}: imported scores come without images; all other views work.")
        try:
            return load_images(self.run, self.data_dir)
        except (InputError, OSError) as error:
            raise InputError(f"{self.label}: its images are not at hand ({error}) All other views work.") from None

    @cached_property
    def stored(self) -> pd.DataFrame | None:
        """The table stored beside the run, if it is what would come out now: accuracies are read, not computed."""
        table, why = stored_results(self.run, "keep")
        return None if why else table

    def labels(self, state: int) -> np.ndarray:
        """True classes of the state's validation images, (n,)."""
        return np.asarray(self.run.state(state).array("val_labels"))

    def outcome(self, state: int, method: str, score_kind: str = "raw") -> Outcome:
        """What ``method`` (in METHODS) makes of the state's images; raises InputError if it can't be computed."""
        if why := self.left_out.get(method):
            raise InputError(f"{self.run.folder}: {method} can't be computed: {why}.")
        return self._outcome(state, method, kind_for(method, score_kind))

    def _compute(self, state: int, method: str, score_kind: str) -> Outcome:
        labels, parts = self.labels(state), []
        for start in range(0, len(labels), _ROWS):
            rows = slice(start, start + _ROWS)
            scores = self.some_scores(rows, state, method, score_kind)
            parts.append((ranks(scores, labels[rows]), predictions(scores), own_and_top(scores, labels[rows])[0]))
        return Outcome(labels, *(np.concatenate(values) for values in zip(*parts, strict=True)))

    def some_scores(self, rows: slice | np.ndarray, state: int, method: str, score_kind: str = "raw") -> np.ndarray:
        """Scores (m, C) of some of the state's validation images (``rows``): the same as among all of them."""
        return METHODS[method](Frozen.of_run(self.run, state, score_kind=kind_for(method, score_kind)).take(rows))

    def undefined_note(self, state: int, method: str, score_kind: str) -> str:
        """A sentence on a method's undefined ratios at a state, ``""`` if it has none."""
        if state == 1 or method not in FORMS or method in self.left_out:
            return ""
        undefined = count_undefined(self.run.statistics(state, score_kind), method), self.run.states.num_past(state)
        return undefined_in_words({state: undefined}, score_kind, method=method)

    def what_if(self, state: int, exponents: Exponents, score_kind: str = "raw", step: int = 1) -> np.ndarray:
        """Ranks of the true class of every ``step``-th image, (m,), had Eq. 1 these exponents (1: IL2M's, 0: FT's)."""
        raw, labels = self.run.state(state).array("val_scores")[::step], self.labels(state)[::step]
        factors = what_if_factors(self.run.statistics(state, score_kind), exponents).astype(raw.dtype)
        image_ranks = np.empty(len(raw), dtype=np.int64)
        for start in range(0, len(raw), _WHAT_IF_ROWS):
            block = slice(start, start + _WHAT_IF_ROWS)
            scores = softmax(raw[block], axis=1) if score_kind == "softmax" else raw[block]
            predicted_new = scores.argmax(axis=1) >= self.run.states.num_past(state)
            image_ranks[block] = ranks(scores * factors[predicted_new.astype(np.intp)], labels[block])
        return image_ranks

    def _curves(self, state: int, points: tuple[Exponents, ...], score_kind: str = "raw") -> dict[str | int, Any]:
        """Accuracies by top-k and group at each of the points; ``step``: of how many images one is used."""
        step = -(-len(self.labels(state)) * self.run.states.num_seen(state) // CURVE_WORK)
        labels, num_past = self.labels(state)[::step], self.run.states.num_past(state)
        ranked = [self.what_if(state, exponents, score_kind, step) for exponents in points]
        found = {k: pd.DataFrame(accuracies(each, labels, num_past, k) for each in ranked) for k in TOPS}
        return {"step": step} | {k: table.to_dict("list") for k, table in found.items()}


def kind_for(method: str, score_kind: str) -> str:
    """``score_kind`` where the method is defined on it, else the kind it is defined on."""
    check_parameters({"score_kind": score_kind})
    kinds = METHODS[method].score_kinds
    return score_kind if score_kind in kinds else kinds[0]


def what_if_factors(statistics: ClassStatistics, exponents: Exponents) -> np.ndarray:
    """(2, C): each class's factor in images predicted as past, and as new; 1 where a ratio in use is undefined."""
    by_means = rectification_factors(statistics, use_confidence=False, pooling=exponents.pooling)
    by_confidence = rectification_factors(statistics, use_means=False)
    factors = np.ones((2, len(by_means.values)))
    for row, opened in enumerate((1 - exponents.gate, 1)):
        left_alone = np.zeros(factors.shape[1], dtype=bool)
        for ratios, exponent in ((by_means, exponents.means * opened), (by_confidence, exponents.confidence * opened)):
            if exponent > 0:
                factors[row] *= ratios.values**exponent
                left_alone |= ratios.undefined
        if exponents.clipped:
            factors[row] = factors[row].clip(*STEADIER["IL2M-pooled"]["clip"])
        factors[row, left_alone] = 1
    return factors


def accuracies(image_ranks: np.ndarray, labels: np.ndarray, num_past: int, k: int) -> dict[str, float]:
    """Top-k accuracy on images of ``past`` classes, of ``new`` ones, and of ``all``; NaN where there are none."""
    groups = {"past": labels < num_past, "new": labels >= num_past, "all": slice(None)}
    return {name: top_k(image_ranks[rows], k) for name, rows in groups.items()}
