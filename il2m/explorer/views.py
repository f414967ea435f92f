"""What the explorer shows: each view makes a table of numbers, a finding in words, and a drawing, of a run's outcomes
and of what was chosen. Nothing here knows of controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from il2m import plots
from il2m.data.image_files import ImageFiles
from il2m.errors import InputError
from il2m.explorer.outcomes import Choice, Outcome, RunOutcomes, Shown, accuracies, kind_for
from il2m.methods.registry import METHODS
from il2m.plots import detail
from il2m.results.metrics import error_breakdown, share_new, state_confusion
from il2m.results.table import series

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # where the curves of the what-if view are computed
_CURVE_WORK = 4_000_000  # images times classes of one point of these curves: a larger run gives a part of its images
_NO_PAST = "no past classes yet"
_KEPT, _SHOWN = 7, 3  # exemplars, and images of each kind


def _by_state(outcomes: RunOutcomes, choice: Choice, method: str) -> dict[int, Outcome]:
    """state -> the method's outcome there."""
    states = range(1, outcomes.num_states + 1)
    return {state: outcomes.outcome(state, method, choice.score_kind) for state in states}


def _mean(values: np.ndarray) -> float:
    """Mean of the finite ones (methods may take a class out of play); NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def true_class_scores(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Mean score of the true class, past against new (the paper's Fig. 1), past classes together or by origin."""
    columns: dict[str, dict[int, float]] = {"past": {}, "new": {}}
    for state, outcome in _by_state(outcomes, choice, choice.method).items():
        origin = outcomes.run.states.of_class[outcome.labels]
        columns["past"][state] = _mean(outcome.own[origin < state])
        columns["new"][state] = _mean(outcome.own[origin == state])
        for past in range(1, state):
            columns.setdefault(f"from state {past}", {})[state] = _mean(outcome.own[origin == past])
    numbers = pd.DataFrame(columns, index=pd.RangeIndex(1, outcomes.num_states + 1, name="state"), dtype=float)
    past, new = numbers.loc[choice.state, ["past", "new"]]
    gap = f"past classes score {abs(new - past):.2f} {'below' if past < new else 'above'} new ones"
    finding, ylabel = gap if choice.state > 1 else _NO_PAST, f"mean true-class {choice.unit}"
    if not choice.by_origin:
        draw = partial(plots.plot_past_and_new, numbers["past"], numbers["new"], ylabel=ylabel)
        return Shown(numbers, finding, draw, numbers[["past", "new"]])
    lines = {"new classes": numbers["new"], **numbers.filter(like="from")}
    blues = sns.light_palette(plots.PAST, len(lines) + 1)[2:][::-1]
    colours = dict(zip(lines, (plots.NEW, *blues), strict=True))
    draw = partial(plots.plot_by_state, lines, ylabel=ylabel, percent=False, colours=colours)
    return Shown(numbers, finding, draw)


def prediction_origins(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Where predictions go, by the state in which the class was new, against where they should."""
    outcome = outcomes.outcome(choice.state, choice.method, choice.score_kind)
    shares = {
        name: np.bincount(outcomes.run.states.of_class[classes], minlength=choice.state + 1)[1:] / len(classes)
        for name, classes in (("predicted", outcome.predicted), ("truth", outcome.labels))
    }
    numbers = pd.DataFrame(shares, index=pd.RangeIndex(1, choice.state + 1, name="state of class"))
    finding = "{predicted:.0%} of images are taken for new classes, {truth:.0%} are".format(**numbers.iloc[-1])
    return Shown(numbers, finding, partial(detail.plot_origins, numbers["predicted"], numbers["truth"]))


def state_by_state(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """State x state confusion in learning order."""
    states, outcome = outcomes.run.states, outcomes.outcome(choice.state, choice.method, choice.score_kind)
    num_past = states.num_past(choice.state)
    shares = state_confusion(outcome.predicted, outcome.labels, states.of_class[: states.num_seen(choice.state)])
    index = pd.RangeIndex(1, choice.state + 1, name="true state")
    numbers = pd.DataFrame(shares, index=index, columns=[f"predicted {state}" for state in index])
    finding = _NO_PAST
    if num_past:
        of_past = share_new(outcome.predicted[outcome.labels < num_past], num_past)
        finding = f"{of_past:.0%} of past images land in the newest state"
    return Shown(numbers, finding, partial(plots.plot_state_confusion, shares, colorbar=False), height=4.8)


def class_by_class(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Class x class confusion in learning order; the table holds the commonest confusions."""
    states, outcome = outcomes.run.states, outcomes.outcome(choice.state, choice.method, choice.score_kind)
    num_seen = states.num_seen(choice.state)
    shares = state_confusion(outcome.predicted, outcome.labels, np.arange(1, num_seen + 1))
    names = np.array(outcomes.titles[:num_seen], dtype=object)
    wrong = outcome.predicted != outcome.labels
    pairs, counts = np.unique(outcome.labels[wrong] * num_seen + outcome.predicted[wrong], return_counts=True)
    true, predicted = np.divmod(pairs[np.argsort(-counts, kind="stable")[:10]], num_seen)
    common = {"true": names[true], "predicted": names[predicted], "share": shares[true, predicted]}
    taken = np.bincount(outcome.predicted[wrong], minlength=num_seen)
    finding = f"{taken.max() / max(taken.sum(), 1):.0%} of errors go to {names[taken.argmax()]}"
    numbers = pd.DataFrame(shares, index=pd.Index(names, name="true"), columns=names)
    draw = partial(detail.plot_class_confusion, shares, states.of_class[:num_seen])
    return Shown(numbers, finding, draw, pd.DataFrame(common).set_index("true"), height=4.8)


def one_class(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Own-class scores of one class's validation images when it was new and now, with what the second memory kept."""
    origin, title = int(outcomes.run.states.of_class[choice.label]), outcomes.titles[choice.label]
    if origin > choice.state:
        raise InputError(f"class {title} is learned at state {origin}, after state {choice.state}.")
    kind = kind_for(choice.method, choice.score_kind)
    scores, kept = {}, (np.nan, np.nan)
    for when, state in {"when new": origin, "now": choice.state}.items():
        outcome = outcomes.outcome(state, choice.method, kind)
        own = outcome.own[outcome.labels == choice.label]
        scores[f"{when}, state {state}"] = own[np.isfinite(own)].astype(np.float64)
    if "IL2M" not in outcomes.left_out:
        memory = outcomes.run.statistics(choice.state, kind)
        kept = memory.initial_means[choice.label], memory.current_means[choice.label]
    measures = {"images": len, "mean": _mean, "standard deviation": lambda own: own.std() if len(own) else np.nan}
    numbers = pd.DataFrame({name: [measure(own) for own in scores.values()] for name, measure in measures.items()})
    numbers = numbers.set_axis(scores).assign(**{"second memory (training images, exemplars)": kept})
    finding = "class {}: mean {} {:.2f} when new, {:.2f} now".format(title, choice.unit, *numbers["mean"])
    draw = partial(detail.plot_own_scores, scores, dict(zip(scores, kept, strict=True)), unit=choice.unit)
    return Shown(numbers, finding, draw)


def errors(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Kinds of errors of fine-tuning, and of the method."""
    num_past, shares = outcomes.run.states.num_past(choice.state), {}
    for method in dict.fromkeys(("FT", choice.method)):
        outcome = outcomes.outcome(choice.state, method, choice.score_kind)
        shares[method] = error_breakdown(outcome.predicted, outcome.labels, num_past)
    before, after = shares["FT"]["past as new"], shares[choice.method]["past as new"]
    finding = f"past taken for new: {before:.1%} of images before, {after:.1%} after {choice.method}"
    numbers = pd.DataFrame(shares).T.rename_axis("method")
    return Shown(numbers, finding, partial(detail.plot_errors_before_after, shares))


def accuracy(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy on all classes seen so far, by state: the chosen method against all others."""
    columns, stored = {}, outcomes.stored
    for method in outcomes.methods:
        if stored is not None and (stored["method"] == method).any():
            kind = kind_for(method, choice.score_kind)
            columns[method] = series(stored, method, f"top{choice.top}", kind)
        else:
            by_state = _by_state(outcomes, choice, method).values()
            columns[method] = [np.mean(outcome.ranks < choice.top) for outcome in by_state]
    numbers = pd.DataFrame(columns, index=pd.RangeIndex(1, outcomes.num_states + 1, name="state"), dtype=float)
    now = numbers.loc[choice.state]
    finding = f"{choice.method} {now[choice.method]:.1%}, {100 * (now[choice.method] - now['FT']):+.1f} points on FT"
    look = {"strong": (choice.method, "FT", "IL2M"), "colours": METHODS.colours, "dashes": METHODS.dashes}
    draw = partial(plots.plot_by_state, dict(numbers), ylabel=f"top-{choice.top} accuracy", **look)
    return Shown(numbers, finding, draw, numbers.loc[[choice.state]].T.rename_axis("method"))


def what_if(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy of past, new and all images had Eq. 1 other exponents; curves over each of the two factors."""
    state, kind = choice.state, choice.score_kind
    if why := outcomes.left_out.get("IL2M"):
        raise InputError(f"IL2M can't be computed: {why}.")
    ranks = {
        "fine-tuning": outcomes.outcome(state, "FT", kind).ranks,
        "IL2M's own choice": outcomes.outcome(state, "IL2M", kind).ranks,
        "your choice": outcomes.what_if(state, choice.exponents, kind),
    }
    labels, num_past = outcomes.labels(state), outcomes.run.states.num_past(state)
    numbers = pd.DataFrame({name: accuracies(r, labels, num_past, choice.top) for name, r in ranks.items()}).T
    own, chosen = numbers["all"].iloc[1:]
    finding = f"all: {chosen:.1%} with your choice, {own:.1%} with IL2M's own"
    return Shown(numbers.rename_axis(f"top-{choice.top}"), finding, partial(_curves, outcomes, choice))


def _curves(outcomes: RunOutcomes, choice: Choice, *, ax: Axes) -> Axes:
    """Two panels in place of ``ax``: accuracy against the exponent of the class means, and of the confidence."""
    ax.set_axis_off()
    left = ax.inset_axes((0, 0, 0.46, 1))
    right = ax.inset_axes((0.54, 0, 0.46, 1), sharey=left)
    for panel, factor, title in ((left, "means", "class means"), (right, "confidence", "confidence")):
        curves, share = what_if_curves(outcomes, choice, factor)
        detail.plot_what_if(EXPONENTS, curves, getattr(choice.exponents, factor), factor=title, ax=panel)
    right.tick_params(labelleft=False)
    left.set_ylabel(f"top-{choice.top} accuracy" + ("" if share == 1 else f" ({share:.0%} of images)"))
    right.legend(fontsize="x-small")
    return ax


def what_if_curves(outcomes: RunOutcomes, choice: Choice, factor: str) -> tuple[Mapping[str, Sequence[float]], float]:
    """Accuracy by group over EXPONENTS of ``factor``, the other as chosen; and the share of images used."""
    state, kind, top, step = choice.state, choice.score_kind, choice.top, -(-outcomes.work(choice.state) // _CURVE_WORK)
    points = [replace(choice.exponents, **{factor: exponent}) for exponent in EXPONENTS]
    key = (state, kind, top, *points)  # a slider of one factor leaves the curves over that factor as they are
    if key not in outcomes.curves:
        rows = slice(None, None, step)
        labels, num_past = outcomes.labels(state)[rows], outcomes.run.states.num_past(state)
        curve = [accuracies(outcomes.what_if(state, point, kind, rows), labels, num_past, top) for point in points]
        outcomes.curves[key] = pd.DataFrame(curve).to_dict("list"), 1 / step
    return outcomes.curves[key]


def images(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """The class's first exemplars at this state, or its training images where it is new; and images that the method
    mended or broke, with their top-5 before and after."""
    data, kind, methods = outcomes.images, kind_for(choice.method, choice.score_kind), ("FT", choice.method)
    stored, titles = outcomes.run.state(choice.state), np.array(outcomes.titles, dtype=object)
    was, now = (outcomes.outcome(choice.state, method, kind).ranks < choice.top for method in methods)
    changed = {"mended": np.flatnonzero(~was & now), "broken": np.flatnonzero(was & ~now)}
    labels, places = outcomes.labels(choice.state), stored.array("val_indices")
    rows, columns = [], {}
    for what, changed_rows in changed.items():
        some = changed_rows[np.linspace(0, len(changed_rows) - 1, min(_SHOWN, len(changed_rows))).astype(int)]
        scores = (outcomes.some_scores(some, choice.state, method, kind) for method in methods)
        top_5 = [titles[np.argsort(-by_class, axis=1, kind="stable")[:, :5]] for by_class in scores]  # (m, 5) each
        true, pixels = titles[labels[some]], pixels_of(data.val_images, places[some])
        entries = columns[f"{len(changed_rows)} {what} by {choice.method}"] = []
        for place, image, title, *best in zip(places[some].tolist(), pixels, true, *top_5, strict=True):
            entries.append((image, f"true: {title}", *best))
            rows.append((place, what, title, *map(" | ".join, best)))
    finding = "{} mends {} images and breaks {} (top-{})".format(choice.method, *map(len, changed.values()), choice.top)
    numbers = pd.DataFrame(rows, columns=["image", "what", "true", "top-5 before", "top-5 after"]).set_index("image")
    group = "exemplar" if choice.label < outcomes.run.states.num_past(choice.state) else "new"
    own = np.flatnonzero(stored.array(f"{group}_labels") == choice.label)[:_KEPT]
    kept = pixels_of(data.train_images, stored.array(f"{group}_indices")[own])
    draw = partial(detail.plot_changed_images, kept, columns, heading=f"in memory: {titles[choice.label]}")
    return Shown(numbers, finding, draw, height=5.6)


def pixels_of(images: np.ndarray | ImageFiles, indices: np.ndarray) -> list[np.ndarray]:
    """Some images, (h, w, c) uint8 each: from memory, or decoded here and cut as they are to be scored."""
    try:
        return list(images[indices])
    except InputError as error:
        raise InputError(f"an image can't be read ({error}); all other views work.") from None


VIEWS: dict[str, Callable[[RunOutcomes, Choice], Shown]] = {
    "true-class scores": true_class_scores,
    "predictions": prediction_origins,
    "states": state_by_state,
    "classes": class_by_class,
    "one class": one_class,
    "errors": errors,
    "accuracy": accuracy,
    "what if": what_if,
    "images": images,
}
