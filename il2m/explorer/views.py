"""What the explorer shows: each view makes a table of numbers, a finding in words, and a drawing, of one run.

A view is a function of a run's outcomes and of what was chosen; nothing here knows of controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from il2m import plots
from il2m.errors import InputError
from il2m.explorer.outcomes import Exponents, Outcome, RunOutcomes, accuracies, kind_for
from il2m.methods.registry import METHODS
from il2m.plots.style import METHOD_COLOURS, METHOD_DASHES
from il2m.results.metrics import error_breakdown, share_new, state_confusion

EXPONENTS = np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2])  # where the curves of the what-if view are computed
_CURVE_WORK = 4_000_000  # images times classes of one point of these curves: a larger run gives a part of its images


@dataclass(frozen=True)
class Choice:
    """What the controls say. ``label`` is a class in learning order; ``top`` is 1 or 5; ``wait`` False leaves out of
    views by state what isn't computed yet."""

    state: int
    method: str = "IL2M"
    score_kind: str = "raw"
    top: int = 1
    by_origin: bool = False
    label: int = 0
    exponents: Exponents = field(default_factory=Exponents)
    wait: bool = True

    @property
    def unit(self) -> str:
        return "probability" if kind_for(self.method, self.score_kind) == "softmax" else "score"


@dataclass(frozen=True)
class Shown:
    """numbers: behind the drawing, all of them. finding: in words. draw: what draws it into an Axes.
    table: the numbers that a page has room for, if not all."""

    numbers: pd.DataFrame
    finding: str
    draw: Callable[..., Axes]
    table: pd.DataFrame | None = None
    height: float = 3.9


def _by_state(of: RunOutcomes, choice: Choice, method: str) -> Iterator[tuple[int, int, Outcome | None]]:
    """(state, number of past classes, outcome), the outcome None where it isn't to be waited for."""
    for state in range(1, of.num_states + 1):
        known = choice.wait or of.is_ready(state, method, choice.score_kind)
        outcome = of.outcome(state, method, choice.score_kind) if known else None
        yield state, of.run.states.num_past(state), outcome


def _mean(values: np.ndarray) -> float:
    """Mean of the finite ones (methods may take a class out of play); NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def true_class_scores(of: RunOutcomes, choice: Choice) -> Shown:
    """Mean score of the true class, past against new (the paper's Fig. 1), past classes together or by origin."""
    rows = []
    for state, num_past, outcome in _by_state(of, choice, choice.method):
        row: dict[str, float] = {"state": state, "past": np.nan, "new": np.nan}
        if outcome is not None:
            past = outcome.labels < num_past
            row |= {"past": _mean(outcome.own[past]), "new": _mean(outcome.own[~past])}
            origin = of.run.states.of_class[outcome.labels]
            row |= {f"from state {p}": _mean(outcome.own[origin == p]) for p in range(1, state)}
        rows.append(row)
    numbers = pd.DataFrame(rows).set_index("state")
    past, new = numbers.loc[choice.state, ["past", "new"]]
    finding = f"past classes score {abs(new - past):.2f} {'below' if past < new else 'above'} new ones"
    if not choice.by_origin:
        draw = partial(
            plots.plot_past_and_new, numbers["past"], numbers["new"], ylabel=f"mean true-class {choice.unit}"
        )
        return Shown(numbers, finding if choice.state > 1 else "no past classes yet", draw, numbers[["past", "new"]])
    origins = [column for column in numbers if column.startswith("from")]
    blues = dict(zip(origins, sns.light_palette(plots.PAST, len(origins) + 2)[2:][::-1], strict=True))
    lines = {"new classes": numbers["new"], **{origin: numbers[origin] for origin in origins}}
    colours = {"new classes": plots.NEW, **blues}
    draw = partial(plots.plot_by_state, lines, ylabel=f"mean true-class {choice.unit}", percent=False, colours=colours)
    return Shown(numbers, finding if choice.state > 1 else "no past classes yet", draw)


def prediction_origins(of: RunOutcomes, choice: Choice) -> Shown:
    """Where predictions go, by the state in which the class was new, against where they should."""
    outcome, states = of.outcome(choice.state, choice.method, choice.score_kind), of.run.states
    shares = {
        name: np.bincount(states.of_class[classes], minlength=choice.state + 1)[1:] / len(classes)
        for name, classes in (("predicted", outcome.predicted), ("truth", outcome.labels))
    }
    numbers = pd.DataFrame(shares, index=pd.RangeIndex(1, choice.state + 1, name="state of class"))
    num_past = states.num_past(choice.state)
    predicted, true = (share_new(classes, num_past) for classes in (outcome.predicted, outcome.labels))
    finding = f"{predicted:.0%} of images are taken for new classes, {true:.0%} are"
    return Shown(numbers, finding, partial(plots.plot_origins, numbers["predicted"], numbers["truth"]))


def state_by_state(of: RunOutcomes, choice: Choice) -> Shown:
    """State x state confusion in learning order."""
    outcome = of.outcome(choice.state, choice.method, choice.score_kind)
    seen = of.run.states.of_class[: of.run.states.num_seen(choice.state)]
    shares = state_confusion(outcome.predicted, outcome.labels, seen)
    numbers = pd.DataFrame(
        shares,
        index=pd.RangeIndex(1, choice.state + 1, name="true state"),
        columns=[f"predicted {state}" for state in range(1, choice.state + 1)],
    )
    num_past = of.run.states.num_past(choice.state)
    past = outcome.labels < num_past
    finding = "no past classes yet"
    if num_past:
        finding = f"{share_new(outcome.predicted[past], num_past):.0%} of past images land in the newest state"
    return Shown(numbers, finding, partial(plots.plot_state_confusion, shares, colorbar=False), height=4.8)


def class_by_class(of: RunOutcomes, choice: Choice) -> Shown:
    """Class x class confusion in learning order; the table holds the commonest confusions."""
    outcome, num_seen = of.outcome(choice.state, choice.method, choice.score_kind), of.run.states.num_seen(choice.state)
    counts = np.bincount(outcome.labels * num_seen + outcome.predicted, minlength=num_seen**2)
    shares = state_confusion(outcome.predicted, outcome.labels, np.arange(1, num_seen + 1))
    names = class_titles(of)[:num_seen]
    wrong = counts.reshape(num_seen, num_seen) * ~np.eye(num_seen, dtype=bool)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:10] if num_seen < 200 else _largest(wrong.ravel(), 10)
    true, predicted = np.divmod(pairs, num_seen)
    common = pd.DataFrame(
        {"true": [names[c] for c in true], "predicted": [names[c] for c in predicted], "share": shares[true, predicted]}
    ).set_index("true")
    taker = int(wrong.sum(axis=0).argmax())
    finding = f"{wrong[:, taker].sum() / max(wrong.sum(), 1):.0%} of errors go to {names[taker]}"
    draw = partial(plots.plot_class_confusion, shares, of.run.states.of_class[:num_seen])
    return Shown(
        pd.DataFrame(shares, index=pd.Index(names, name="true"), columns=names), finding, draw, common, height=4.8
    )


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, best first: without sorting a million of them."""
    places = np.argpartition(-values, count)[:count]
    return places[np.argsort(-values[places], kind="stable")]


def one_class(of: RunOutcomes, choice: Choice) -> Shown:
    """Own-class scores of one class's validation images when it was new and now, with what the second memory kept."""
    origin, name = int(of.run.states.of_class[choice.label]), class_titles(of)[choice.label]
    if origin > choice.state:
        raise InputError(f"class {name} is learned at state {origin}, after state {choice.state}.")
    kind = kind_for(choice.method, choice.score_kind)
    scores, means = {}, {}
    for label, state in {"when new": origin, "now": choice.state}.items():
        outcome = of.outcome(state, choice.method, kind)
        own = outcome.own[outcome.labels == choice.label]
        scores[f"{label}, state {state}"] = own[np.isfinite(own)].astype(np.float64)
    if "IL2M" not in of.left_out:
        memory = of.run.statistics(choice.state, kind)
        kept = memory.initial_means[choice.label], memory.current_means[choice.label]
        means = dict(zip(scores, kept, strict=False))
    columns = {"images": len, "mean": _mean, "standard deviation": lambda own: float(own.std()) if len(own) else np.nan}
    rows = {label: {name: f(own) for name, f in columns.items()} for label, own in scores.items()}
    numbers = pd.DataFrame(rows).T
    numbers["images"] = numbers["images"].astype(int)
    numbers["second memory (training images, exemplars)"] = [means.get(label, np.nan) for label in scores]
    then, now = numbers["mean"].iloc[0], numbers["mean"].iloc[-1]
    finding = f"class {name}: mean {choice.unit} {then:.2f} when new, {now:.2f} now"
    return Shown(numbers, finding, partial(plots.plot_own_scores, scores, means, unit=choice.unit))


def errors(of: RunOutcomes, choice: Choice) -> Shown:
    """Kinds of errors of fine-tuning, and of the method."""
    num_past = of.run.states.num_past(choice.state)
    found = {}
    for method in dict.fromkeys(("FT", choice.method)):
        outcome = of.outcome(choice.state, method, choice.score_kind)
        found[method] = error_breakdown(outcome.predicted, outcome.labels, num_past)
    before, after = found["FT"]["past as new"], found[choice.method]["past as new"]
    finding = f"past taken for new: {before:.1%} of images before, {after:.1%} after {choice.method}"
    numbers = pd.DataFrame(found).T.rename_axis("method")
    return Shown(numbers, finding, partial(plots.plot_errors_before_after, found))


def accuracy(of: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy on all classes seen so far, by state: the chosen method against all others."""
    columns = {}
    for method in (method for method in METHODS if method not in of.left_out):
        of_method = [o for _, _, o in _by_state(of, choice, method)]
        columns[method] = [np.nan if o is None else float(np.mean(o.ranks < choice.top)) for o in of_method]
    numbers = pd.DataFrame(columns, index=pd.RangeIndex(1, of.num_states + 1, name="state"))
    now = numbers.loc[choice.state]
    finding = f"{choice.method} {now[choice.method]:.1%}, {100 * (now[choice.method] - now['FT']):+.1f} points on FT"
    ylabel, strong = f"top-{choice.top} accuracy", list(dict.fromkeys((choice.method, "FT", "IL2M")))
    looks = {"colours": METHOD_COLOURS, "dashes": METHOD_DASHES}
    draw = partial(plots.plot_by_state, {m: numbers[m] for m in numbers}, ylabel=ylabel, strong=strong, **looks)
    return Shown(numbers, finding, draw, numbers.loc[[choice.state]].T.rename_axis("method"))


def what_if(of: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy of past, new and all images had Eq. 1 other exponents; curves over each of the two factors."""
    state, kind, num_past = choice.state, choice.score_kind, of.run.states.num_past(choice.state)
    labels = of.labels(state)
    found = {"fine-tuning": of.outcome(state, "FT", kind).ranks}
    if why := of.left_out.get("IL2M"):
        raise InputError(f"IL2M can't be computed: {why}.")
    found["IL2M's own choice"] = of.outcome(state, "IL2M", kind).ranks
    found["your choice"] = of.what_if(state, choice.exponents, kind)
    numbers = pd.DataFrame({name: accuracies(r, labels, num_past, choice.top) for name, r in found.items()}).T
    numbers = numbers.rename_axis(f"top-{choice.top}")
    chosen, own = numbers.loc["your choice", "all"], numbers.loc["IL2M's own choice", "all"]
    return Shown(
        numbers, f"all: {chosen:.1%} with your choice, {own:.1%} with IL2M's own", partial(_curves, of, choice)
    )


def _curves(of: RunOutcomes, choice: Choice, *, ax: Axes) -> Axes:
    """Two panels in place of ``ax``: accuracy against the exponent of the class means, and of the confidence."""
    means, confidence = ax.inset_axes((0, 0, 0.46, 1)), ax.inset_axes((0.54, 0, 0.46, 1))
    ax.set_axis_off()
    for panel, factor in ((means, "means"), (confidence, "confidence")):
        others = replace(choice.exponents, **{factor: 1.0})
        curves, share = what_if_curves(of, replace(choice, exponents=others, method="IL2M", label=0), factor)
        chosen = getattr(choice.exponents, factor)
        title = {"means": "class means", "confidence": "confidence"}[factor]
        plots.plot_what_if(EXPONENTS, curves, chosen, factor=title, ax=panel)
    confidence.tick_params(labelleft=False)
    low, high = (f(*(panel.get_ylim()[i] for panel in (means, confidence))) for i, f in enumerate((min, max)))
    for panel in (means, confidence):
        panel.set_ylim(low, high)
    means.set_ylabel(f"top-{choice.top} accuracy" + ("" if share == 1 else f" ({share:.0%} of images)"))
    confidence.legend(fontsize="x-small")
    return ax


@lru_cache(maxsize=64)  # a slider of one factor leaves the curves over that factor as they are
def what_if_curves(of: RunOutcomes, choice: Choice, factor: str) -> tuple[Mapping[str, Sequence[float]], float]:
    """Accuracy by group over EXPONENTS of ``factor``, the other as chosen; and the share of images used."""
    step = -(-of.work(choice.state) // _CURVE_WORK)
    rows = slice(None, None, step)
    labels = of.labels(choice.state)[rows]
    curves: dict[str, list[float]] = {"past": [], "new": [], "all": []}
    for exponent in EXPONENTS.tolist():
        exponents = replace(choice.exponents, **{factor: exponent})
        image_ranks = of.what_if(choice.state, exponents, choice.score_kind, rows)
        found = accuracies(image_ranks, labels, of.run.states.num_past(choice.state), choice.top)
        for group, value in found.items():
            curves[group].append(value)
    return curves, 1 / step


def class_titles(of: RunOutcomes) -> list[str]:
    """``label: name`` of each class in learning order, so that equal names stay apart."""
    return [f"{label}: {name}" for label, name in enumerate(of.run.class_names)]


@dataclass(frozen=True)
class View:
    """show: makes it. by_state: it needs every state. methods: which, of all that the run can give, it needs."""

    show: Callable[[RunOutcomes, Choice], Shown]
    by_state: bool = False
    methods: Callable[[RunOutcomes, Choice], Sequence[str]] = lambda of, choice: ("FT", choice.method)

    def needs(self, of: RunOutcomes, choice: Choice) -> list[tuple[int, str]]:
        """(state, method) of each outcome that the view is made of, the chosen state's first."""
        states = [choice.state, *(s for s in range(of.num_states, 0, -1) if s != choice.state and self.by_state)]
        if self.show is one_class:
            states = sorted({choice.state, min(choice.state, int(of.run.states.of_class[choice.label]))})
        return [(state, method) for method in dict.fromkeys(self.methods(of, choice)) for state in states]


def _every_method(of: RunOutcomes, choice: Choice) -> Sequence[str]:
    return [choice.method, *(method for method in METHODS if method not in of.left_out)]


def _what_if_methods(of: RunOutcomes, choice: Choice) -> Sequence[str]:
    return [method for method in ("FT", "IL2M") if method not in of.left_out]


VIEWS: dict[str, View] = {
    "true-class scores": View(true_class_scores, by_state=True, methods=lambda of, choice: (choice.method,)),
    "predictions": View(prediction_origins, methods=lambda of, choice: (choice.method,)),
    "states": View(state_by_state, methods=lambda of, choice: (choice.method,)),
    "classes": View(class_by_class, methods=lambda of, choice: (choice.method,)),
    "one class": View(one_class, methods=lambda of, choice: (choice.method,)),
    "errors": View(errors),
    "accuracy": View(accuracy, by_state=True, methods=_every_method),
    "what if": View(what_if, methods=_what_if_methods),
}
