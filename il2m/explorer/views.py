"""What the explorer shows: a view makes of a run's outcomes and a Choice numbers, a finding in words, and a drawing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from il2m import plots
from il2m.errors import InputError
from il2m.explorer.outcomes import Choice, Outcome, RunOutcomes, Shown, accuracies, kind_for
from il2m.methods.registry import METHODS
from il2m.plots import detail
from il2m.results.metrics import error_breakdown, share_new, state_confusion, top_k
from il2m.results.table import series

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # where the curves of the what-if view are computed
_NO_PAST = "all classes are new at state 1"
_KEPT, _SHOWN = 7, 4  # exemplars, and images of each kind on a page


def _compared(outcomes: RunOutcomes, choice: Choice) -> list[Outcome]:
    """What the compared methods make of the chosen state."""
    return [outcomes.outcome(choice.state, method, choice.kind) for method in choice.compared]


def _finding(choice: Choice, words: str, values: Iterable[str]) -> str:
    """``words`` on past classes with the method's value in place of {}, then the value of fine-tuning beside it."""
    value, *others = values
    if choice.state == 1 or value.startswith("nan"):
        return f"{choice.method}: {_NO_PAST if choice.state == 1 else 'no images of past or of new classes to compare'}"
    return "; FT: ".join([f"{choice.method}: {words.format(value)}", *others])


def _mean(values: np.ndarray) -> float:
    """Mean of the finite ones (methods may take a class out of play); NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def true_class_scores(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Mean score of the true class, past against new (the paper's Fig. 1), past classes together or by origin."""
    columns: dict[str, dict[int, float]] = {}
    states, of_class = range(1, outcomes.num_states + 1), outcomes.run.states.of_class
    for method, state in product(choice.of_one_scale, states):
        outcome, prefix = outcomes.outcome(state, method, choice.kind), "" if method == choice.method else f"{method} "
        origin = of_class[outcome.labels]
        groups = {f"{prefix}past": origin < state, f"{prefix}new": origin == state}
        groups |= {f"from state {past}": origin == past for past in range(1, state) if not prefix}
        for name, group in groups.items():
            columns.setdefault(name, {})[state] = _mean(outcome.own[group])
    numbers = pd.DataFrame(columns, index=pd.Index(states, name="state"), dtype=float)
    past, new = (numbers.loc[choice.state].filter(like=group).to_numpy() for group in ("past", "new"))
    gaps = (f"{abs(gap):.2f} {'below' if gap < 0 else 'above'}" for gap in past - new)
    finding, origins = _finding(choice, "past classes score {} new ones", gaps), list(numbers.filter(like="from"))
    lines = numbers.drop(columns=["past"] if choice.by_origin else origins)
    blues = sns.light_palette(plots.PAST, len(origins) + 2)[2:][::-1]
    colours = {"past": plots.PAST, "new": plots.NEW, "FT past": plots.PAST, "FT new": plots.NEW}
    colours |= dict(zip(origins, blues, strict=True))
    looks = {"colours": colours, "dashes": {"FT past": ":", "FT new": ":"}, "percent": False}
    draw = partial(plots.plot_by_state, dict(lines), ylabel=f"mean true-class {choice.unit}", **looks)
    return Shown(numbers, finding, draw, lines)


def prediction_origins(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Where predictions go, by the state in which the class was new, against where they should."""
    of_class, predicted = outcomes.run.states.of_class, (each.predicted for each in _compared(outcomes, choice))
    columns = zip(("truth", "predicted", "FT"), (outcomes.labels(choice.state), *predicted), strict=False)
    shares = {name: pd.Series(of_class[classes]).value_counts(normalize=True) for name, classes in columns}
    numbers = pd.DataFrame(shares, index=pd.RangeIndex(1, choice.state + 1, name="state of class")).fillna(0)
    truth, *taken = (f"{share:.0%}" for share in numbers.iloc[-1])
    finding = _finding(choice, f"{{}} go to new classes, {truth} should", taken)
    return Shown(numbers, finding, partial(detail.plot_origins, numbers), number_format="{:.0%}")


def state_by_state(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """State x state confusion in learning order."""
    states, compared = outcomes.run.states, _compared(outcomes, choice)
    num_past, of_class = states.num_past(choice.state), states.of_class[: states.num_seen(choice.state)]
    shares = state_confusion(compared[0].predicted, compared[0].labels, of_class)
    index = pd.RangeIndex(1, choice.state + 1, name="true state")
    numbers = pd.DataFrame(shares, index=index, columns=[f"predicted {state}" for state in index])
    landed = (f"{share_new(each.predicted[each.labels < num_past], num_past):.0%}" for each in compared)
    finding = _finding(choice, "{} of past images land in the newest state", landed)
    draw = partial(plots.plot_state_confusion, shares, colorbar=False)
    return Shown(numbers, finding, draw, height=4.8, number_format="{:.0%}")


def class_by_class(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Class x class confusion in learning order; the table holds the commonest confusions."""
    states, outcome = outcomes.run.states, outcomes.outcome(choice.state, choice.method, choice.score_kind)
    num_seen = states.num_seen(choice.state)
    shares = state_confusion(outcome.predicted, outcome.labels, np.arange(1, num_seen + 1))
    names = np.array(outcomes.titles[:num_seen], dtype=object)
    wrong = outcome.predicted != outcome.labels
    pairs, counts = np.unique(outcome.labels[wrong] * num_seen + outcome.predicted[wrong], return_counts=True)
    true, predicted = np.divmod(pairs[np.argsort(-counts, kind="stable")[:10]], num_seen)
    common = pd.DataFrame({"true": names[true], "predicted": names[predicted], "share": shares[true, predicted]})
    taken = np.bincount(outcome.predicted[wrong], minlength=num_seen)
    how = f"{taken.max() / taken.sum():.0%} of errors go to {names[taken.argmax()]}" if wrong.any() else "no errors"
    numbers = pd.DataFrame(shares, index=pd.Index(names, name="true"), columns=names)
    draw = partial(detail.plot_class_confusion, shares, states.of_class[:num_seen])
    return Shown(numbers, f"{choice.method}: {how}", draw, common.set_index("true"), height=4.8, number_format="{:.0%}")


def one_class(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Own-class scores of one class's validation images when it was new and now, with what the second memory kept."""
    origin, title = int(outcomes.run.states.of_class[choice.label]), outcomes.titles[choice.label]
    if origin > choice.state:
        raise InputError(f"class {title} is learned at state {origin}, after state {choice.state}.")
    places = {"when new": (choice.method, origin), "now": (choice.method, choice.state)}
    places |= {f"by {beside}": (beside, choice.state) for beside in choice.of_one_scale[1:]}
    scores, kept = {}, [np.nan] * len(places)
    for when, (method, state) in places.items():
        outcome = outcomes.outcome(state, method, choice.kind)
        own = outcome.own[outcome.labels == choice.label]
        scores[f"{when}, state {state}"] = own[np.isfinite(own)].astype(np.float64)
    if "IL2M" not in outcomes.left_out and not METHODS[choice.method].distances:  # the memory holds means of scores
        memory = outcomes.run.statistics(choice.state, choice.kind)
        kept[:2] = memory.initial_means[choice.label], memory.current_means[choice.label]
    measures = {"images": len, "mean": _mean, "standard deviation": lambda own: own.std() if len(own) else np.nan}
    numbers = pd.DataFrame({name: [measure(own) for own in scores.values()] for name, measure in measures.items()})
    numbers = numbers.set_axis(scores).assign(**{"second memory (training images, exemplars)": kept})
    told = ", ".join(f"{mean:z.2f} {when}" for mean, when in zip(numbers["mean"], places, strict=True))
    draw = partial(detail.plot_own_scores, scores, dict(zip(scores, kept, strict=True)), unit=choice.unit)
    return Shown(numbers, f"{choice.method}, class {title}: mean {choice.unit} {told}", draw)


def errors(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Kinds of errors of fine-tuning, and of the method."""
    num_past = outcomes.run.states.num_past(choice.state)
    kinds = [error_breakdown(each.predicted, each.labels, num_past) for each in _compared(outcomes, choice)]
    finding = _finding(choice, "{} of images are past taken for new", (f"{each['past as new']:.1%}" for each in kinds))
    shares = dict(zip(choice.compared[::-1], kinds[::-1], strict=True))
    numbers = pd.DataFrame(shares).T.rename_axis("method")
    return Shown(numbers, finding, partial(detail.plot_errors_before_after, shares), number_format="{:.1%}")


def accuracy(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy on all classes seen so far, by state: the chosen method against all others."""
    columns, stored, states = {}, outcomes.stored, range(1, outcomes.num_states + 1)
    for method in outcomes.methods:
        kind = kind_for(method, choice.score_kind)
        if stored is not None and (stored["method"] == method).any():
            columns[method] = series(stored, method, f"top{choice.top}", kind)
        else:
            columns[method] = [top_k(outcomes.outcome(state, method, kind).ranks, choice.top) for state in states]
    numbers = pd.DataFrame(columns, index=pd.Index(states, name="state"), dtype=float)
    finding = "; ".join(f"{method}: {numbers.at[choice.state, method]:.1%}" for method in choice.compared)
    look = {"strong": (choice.method, "FT", "IL2M"), "colours": METHODS.colours, "dashes": METHODS.dashes}
    draw = partial(plots.plot_by_state, dict(numbers), ylabel=f"top-{choice.top} accuracy", **look)
    return Shown(numbers, finding, draw, numbers.loc[[choice.state]].T.rename_axis("method"), number_format="{:.1%}")


def what_if(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """Accuracy of past, new and all images had Eq. 1 other exponents; curves over each of the two factors."""
    state, kind = choice.state, choice.score_kind
    if why := outcomes.left_out.get("IL2M"):
        raise InputError(f"{outcomes.label}: IL2M can't be computed: {why}.")
    plain, rectified = (outcomes.outcome(state, method, kind).ranks for method in ("FT", "IL2M"))
    yours = outcomes.what_if(state, choice.exponents, kind)
    ranks = {"fine-tuning": plain, "IL2M's own choice": rectified, "your choice": yours}
    labels, num_past = outcomes.labels(state), outcomes.run.states.num_past(state)
    numbers = pd.DataFrame({name: accuracies(r, labels, num_past, choice.top) for name, r in ranks.items()}).T
    given, (reference, own, chosen) = choice.exponents, (f"{share:.1%}" for share in numbers["all"])
    how = f", gate {given.gate:g}" * (given.gate != 1) + f", means by {given.pooling}" * (given.pooling != "class")
    finding = f"p'=p·(μP/μN)^{given.means:g}·(μ(MN)/μ(MP))^{given.confidence:g}{how}{', clipped' * given.clipped}"
    finding += f": {chosen}; IL2M {own}, FT {reference}"
    if state == 1:
        finding = f"Eq. 1 changes nothing: {_NO_PAST}"
    draw = partial(_curves, outcomes, choice)
    return Shown(numbers.rename_axis(f"top-{choice.top}"), finding, draw, height=4.2, number_format="{:.1%}")


def _curves(outcomes: RunOutcomes, choice: Choice, *, ax: Axes) -> Axes:
    """Two panels in place of ``ax``, whose y axis they share: accuracy against the exponent of each factor."""
    ax.set_axis_off()
    left, right = (ax.inset_axes((x, 0, 0.46, 0.88), sharey=ax) for x in (0, 0.54))
    for panel, factor, title in ((left, "means", "class means"), (right, "confidence", "confidence")):
        curves, share = what_if_curves(outcomes, choice, factor)
        detail.plot_what_if(EXPONENTS, curves, getattr(choice.exponents, factor), factor=title, ax=panel)
    right.tick_params(labelleft=False)
    left.set_ylabel(f"top-{choice.top} accuracy" + ("" if share == 1 else f" ({share:.0%} of images)"))
    ax.legend(*right.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(-0.02, 1.04), ncols=6)
    return ax


def what_if_curves(outcomes: RunOutcomes, choice: Choice, factor: str) -> tuple[Mapping[str, Sequence[float]], float]:
    """Accuracy by group over EXPONENTS of ``factor``, the other as chosen; and the share of images used."""
    points = tuple(replace(choice.exponents, **{factor: exponent}) for exponent in EXPONENTS)
    curves = outcomes.curves(choice.state, points, choice.score_kind)  # kept: a slider of one factor leaves its own
    return curves[choice.top], 1 / curves["step"]


def images(outcomes: RunOutcomes, choice: Choice) -> Shown:
    """The class's first exemplars at this state, or its training images where it is new; and a page of the images that
    the method mended or broke (of those that fine-tuning gets wrong, if it is chosen), with their top-5."""
    data, stored = outcomes.images, outcomes.run.state(choice.state)
    titles, methods = np.array(outcomes.titles, dtype=object), choice.compared[::-1]
    of_class, places = outcomes.run.states.of_class, stored.array("val_indices")
    own, *others = _compared(outcomes, choice)
    wrong, origin = own.ranks >= choice.top, of_class[choice.label]
    as_new = (of_class[own.labels] < choice.state) & (of_class[own.predicted] == choice.state)
    kinds = {"past taken for new": wrong & as_new, "other errors": wrong & ~as_new}
    for reference in others:
        missed = reference.ranks >= choice.top
        kinds = {"mended": missed & ~wrong, "broken": ~missed & wrong}
    pages = max(1, *(-(-np.count_nonzero(kind) // _SHOWN) for kind in kinds.values()))
    page = min(choice.page, pages - 1)
    rows, columns = [], {}
    for what, kind in kinds.items():
        some = np.flatnonzero(kind)[page::pages]  # of all classes, on every page
        scores = (outcomes.some_scores(some, choice.state, method, choice.kind) for method in methods)
        top_5 = [titles[np.argsort(-by_class, axis=1, kind="stable")[:, :5]] for by_class in scores]  # (m, 5) each
        true, pixels = titles[own.labels[some]], pixels_of(data.val_images, places[some])
        entries = columns[f"{np.count_nonzero(kind)} {what}"] = []
        for place, image, title, *best in zip(places[some].tolist(), pixels, true, *top_5, strict=True):
            entries.append((image, f"true: {title}", dict(zip(methods, best, strict=True))))
            rows.append((place, what, title, *map(" | ".join, best)))
    finding = f"{choice.method}: {', '.join(columns)} (top-{choice.top}); page {page + 1} of {pages}"
    numbers = pd.DataFrame(rows, columns=["image", "what", "true", *(f"top-5 by {method}" for method in methods)])
    group, heading = ("exemplar", "in memory") if origin < choice.state else ("new", f"new at state {origin}")
    kept = stored.array(f"{group}_indices")[stored.array(f"{group}_labels") == choice.label][:_KEPT]
    memory = pixels_of(data.train_images, kept)
    draw = partial(detail.plot_changed_images, memory, columns, heading=f"{heading}: {titles[choice.label]}")
    return Shown(numbers.set_index("image"), finding, draw, height=7.2, pages=pages)


def pixels_of(images: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    """Some images of a Dataset, (h, w, c) uint8 each: from memory, or decoded here and cut as they are to be scored."""
    try:
        return list(images[indices])
    except InputError as error:
        raise InputError(f"an image can't be shown ({error}); all other views work.") from None


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
