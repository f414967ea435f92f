"""The methods of the study, each registered once: a function of one frozen state that returns its scores.

    @il2m.method("nearest-mean", source="Author et al., 2020")
    def nearest_mean(state: Frozen) -> np.ndarray: ...

Tables, costs, plots, the explorer and notebook 04 read this registry. The study's own methods are in builtin.py."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from il2m.errors import InputError, nearest
from il2m.methods.frozen import NEEDS, Frozen, NotStored
from il2m.parameters import SCORE_KINDS, check_parameters
from il2m.rules import check_choice
from il2m.study.runs import Run
from il2m.system.hashes import registered_source

Function = Callable[[Frozen], np.ndarray]
_SPARE_COLOURS = ("#332288", "#117733", "#882255", "#44AA99", "#999933", "#AA4499", "#661100", "#6699CC")


class Size(NamedTuple):
    """What costs are counted from, at a state."""

    classes: int  # so far
    past: int
    new: int
    states: int
    features: int  # their width
    linear: int  # multiplications of the linear head, and the numbers that it holds
    initial_head: int  # numbers of a weight vector and a bias per past class


@dataclass(frozen=True)
class Method:
    """A registered method; called with a frozen state it gives scores (n, C), checked.
    code: hash of its source, ``""`` for the study's own. See ``method`` for the other fields."""

    name: str
    function: Function
    source: str
    needs: tuple[str, ...] | None
    score_kinds: tuple[str, ...]
    distances: bool
    cost: Callable[[Size], tuple[float, float]] | None
    colour: str
    dash: str
    label: str
    code: str

    def __call__(self, state: Frozen) -> np.ndarray:
        scores = self._scores(state)
        if self.code and (half := len(scores) // 2):
            parts = [self._scores(state.take(rows)) for rows in (slice(half), slice(half, None))]
            size = np.abs(scores[np.isfinite(scores)]).max(initial=0)
            if not np.allclose(np.concatenate(parts), scores, rtol=1e-4, atol=1e-5 * size):
                what = f"at state {state.state} the scores of an image depend on which others are scored with it"
                why = "as in use: a table and the explorer, which scores images in blocks, would differ"
                raise InputError(f"method {self.name!r}: {what}. Each image must be seen by itself, {why}.")
        return scores

    def _scores(self, state: Frozen) -> np.ndarray:
        """What the function gives; what a user's function may get wrong is told by name and state."""
        given = state.with_val_labels() if "val_labels" in (self.needs or ()) else state
        if not self.code:
            return self.function(given)
        where = f"method {self.name!r} at state {state.state}"
        try:
            scores = self.function(given)
        except NotStored as error:
            if self.needs is None:  # it is tried
                raise
            raise InputError(f"{where}: {error} needs must name all that is read; state 1 has no exemplars.") from None
        except Exception as error:  # whatever the user's own code raises
            hint = " (a method may not change what it is given)" if "read-only" in str(error) else ""
            raise InputError(f"{where} fails: {type(error).__name__}: {error}{hint}") from error
        if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "fiu":
            raise InputError(f"{where} returned {type(scores).__name__}; expected a numpy array of scores (n, C).")
        if (shape := scores.shape) != state.scores.shape:
            raise InputError(f"{where} returned scores of shape {shape}; expected (n, C) = {state.scores.shape}.")
        if np.isnan(scores).any() or np.isposinf(scores).any():
            raise InputError(f"{where} gives scores that are not numbers (-inf takes a class out of play).")
        return scores


class Methods(dict[str, Method]):
    """The registry: name -> Method, in the order in which they were registered."""

    def __missing__(self, name: str) -> Method:
        raise InputError(f"unknown method {name!r}: {nearest(name, self)}")

    def __repr__(self) -> str:
        return f"<methods: {', '.join(self)}>"

    @property
    def codes(self) -> dict[str, str]:
        """Source hashes of the methods that users registered."""
        return {name: one.code for name, one in self.items() if one.code}

    @property
    def colours(self) -> dict[str, str]:
        """Name -> colour in all figures, that of joint training too."""
        return {name: one.colour for name, one in self.items()} | {"joint": "#B0B0B0"}

    @property
    def dashes(self) -> dict[str, str]:
        """Name -> matplotlib's line style: an oracle's, which is no method to be used, is broken."""
        return {name: one.dash for name, one in self.items()}

    def table(self) -> pd.DataFrame:
        """What each method does (its docstring's first line), and its source; one row per method."""
        docs = [(inspect.getdoc(one.function) or "").partition("\n")[0] for one in self.values()]
        columns = {"what it does": docs, "source": [one.source for one in self.values()]}
        return pd.DataFrame(columns, index=pd.Index(self, name="method"))


METHODS = Methods()


def method(
    name: str,
    source: str = "",
    needs: str | Sequence[str] | None = None,
    cost: Callable[[Size], tuple[float, float]] | None = None,
    colour: str = "",
    label: str = "",
    *,
    score_kinds: Sequence[str] = ("raw",),
    distances: bool = False,
    dash: str = "",
) -> Callable[[Function], Function]:
    """Register a function of one Frozen state that returns scores (n, C): a decorator.
    source: who proposed it. needs: keys of frozen.NEEDS; a run that lacks one leaves the method out and says why. Not
    given, it is tried on two images. Who needs ``val_labels`` or ``all_past`` is an oracle, and its name ends in
    ``-oracle`` (added if missing). cost: of a Size, the numbers kept from state to state beyond model and exemplars,
    and the multiplications per image from the features on. colour, dash, label: in figures. score_kinds: that it is
    defined on. distances: its scores are no logits, so that no probabilities can be had of them.
    The function must see each image by itself, change nothing that it is given, and give numbers (-inf takes a class
    out of play): what does not is refused when it is used, by name and state. State 1 has no past classes, and so no
    exemplars to ask for. Raises InputError for a name that is taken, or needs that are unknown."""
    needed = None if needs is None else (needs,) if isinstance(needs, str) else tuple(needs)
    if unknown := [need for need in needed or () if need not in NEEDS]:
        raise InputError(f"method {name!r}: unknown need {unknown[0]!r}: {nearest(unknown[0], NEEDS)}")
    for kind in score_kinds:
        check_choice(f"method {name!r}: score_kinds", kind, SCORE_KINDS)
    of_oracles = [need for need, about in NEEDS.items() if "oracle" in about]
    is_oracle = not {*of_oracles}.isdisjoint(needed or ())
    if is_oracle:
        name = name.removesuffix("-oracle") + "-oracle"
    elif name.endswith("oracle"):
        raise InputError(f"method {name!r}: an oracle says what it knows, needs={' or '.join(map(repr, of_oracles))}.")

    def register(function: Function) -> Function:
        own = function.__module__ == "il2m.methods.builtin"
        known = {"joint": ""} | {one.name: one.code for one in METHODS.values()}  # tables name joint training so
        code = "" if own else registered_source("method", name, function, known)
        others = [one.colour for one in METHODS.values() if one.name != name]
        looks = colour or min(_SPARE_COLOURS, key=others.count), dash or ("--" if is_oracle else "-"), label or name
        METHODS[name] = Method(name, function, source, needed, tuple(score_kinds), distances, cost, *looks, code)
        return function

    return register


def method_scores(run: Run, state: int, method: str, *, score_kind: str = "raw", undefined: str = "keep") -> np.ndarray:
    """Validation scores of ``state`` as ``method`` (a name in METHODS) gives them, (n, C). Raises InputError if the run
    can't give them. undefined: IL2M's policy, see rectify.rectification_factors."""
    one = METHODS[method]
    check_parameters({"score_kind": score_kind})
    if score_kind not in one.score_kinds:
        raise InputError(f"{method} is defined on {one.score_kinds[0]} scores, not on {score_kind}.")
    if problem := missing_for(run, method):
        raise InputError(f"{run.folder}: {method} can't be computed: {problem}.")
    return one(Frozen.of_run(run, state, score_kind=score_kind, undefined=undefined))


def missing_for(run: Run, method: str) -> str:
    """Why ``method`` must be left out for this run, or ``""`` if it can be computed at every state."""
    one, last = METHODS[method], Frozen.of_run(run, run.states.num_states)
    for frozen in (*last.earlier, last):
        if one.needs is None:
            try:
                one(frozen.take(slice(2)))
            except NotStored as error:
                return str(error).removesuffix(".")
        for need in one.needs or ():
            if problem := frozen.lacks(need):
                return f"state {frozen.state} {problem}"
    return ""


def costs_table(run: Run) -> pd.DataFrame:
    """Costs at the run's last state, one row per method: counted from its classes and features, not timed.
    ``floats_stored``: numbers that must be kept from state to state or for scoring, beyond the model in use and the
    exemplar images; ``operations``: multiplications per image from the features on (the linear head is one of C x d);
    both NaN where the method does not say; ``needs``: what else. Empty if no weights are stored to count from."""
    columns = ["method", "floats_stored", "operations", "needs"]
    last, rows = Frozen.of_run(run, run.states.num_states), []
    if last.lacks("head"):
        return pd.DataFrame(columns=columns)
    (classes, features), past = last.head.weight.shape, last.num_past
    size = Size(classes, past, classes - past, last.state, features, classes * features, past * (features + 1))
    for name, one in METHODS.items():
        floats, operations = one.cost(size) if one.cost else (np.nan, np.nan)
        words = [NEEDS[need]["cost"] for need in one.needs or () if "cost" in NEEDS[need]]
        rows.append((name, floats, operations, "; ".join(words)))
    return pd.DataFrame(rows, columns=columns)
