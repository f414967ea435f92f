"""Plots of a study state by state: quantities, memories, confusion, images; see plots for what they have in common."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from il2m.plots.style import AGES, NEW, PAST, PLAIN, TRUTH, Looks, Series, Values, nothing_to_draw, set_up, stack_errors


def plot_by_state(
    values: Series,
    *,
    first_state: int = 1,
    ylabel: str = "top-1 accuracy",
    percent: bool = True,
    colours: Looks = PLAIN,
    dashes: Looks = PLAIN,
    strong: Sequence[str] | None = None,
    at_end: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """One line per entry of ``values`` (label -> value by state, from ``first_state`` on).
    strong: labels whose lines stand out, the first most; None draws all alike. at_end: labels stand at the ends of the
    lines, not in a legend: where there are many."""
    at = range(first_state, first_state + max(map(len, values.values()), default=0))
    if not at:
        return nothing_to_draw(set_up(ax), "past classes")
    ax = set_up(ax, xlabel="state", ylabel=ylabel, whole="x", at=at, percent="y" if percent else "")
    ax.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))  # no steps of 2.5, which take a digit more
    for label, series in values.items():
        look = {"color": colours.get(label), "linestyle": dashes.get(label, "-")}
        if strong is not None:
            look |= {"linewidth": 1, "alpha": 0.6} if label not in strong else {"linewidth": 2, "zorder": 3}
            look |= {"linewidth": 3.5, "zorder": 4} if label == strong[0] else {}
        ax.plot(at[: len(series)], series, marker="o", markersize=4, label=label, **look)
    if at_end:
        _label_ends(ax)
    elif len(values) > 1:
        ax.legend()
    return ax


def _label_ends(ax: Axes) -> None:
    """Labels at the right ends of all lines, with room between them, and a stroke of the line's colour to each."""
    low, high = ax.get_ylim()
    lines = sorted(ax.lines, key=lambda line: line.get_ydata()[-1])
    ends = np.array([(line.get_ydata()[-1] - low) / (high - low) for line in lines])
    steps = np.arange(len(lines)) / max(18, len(lines))
    places = np.maximum.accumulate(ends - steps) + steps
    places -= max(np.mean(places - ends), places[-1] - 1)
    for line, place in zip(lines, places, strict=True):
        stroke = {"arrowstyle": "-", "color": line.get_color(), "shrinkA": 0, "shrinkB": 3, "linewidth": 1}
        stroke["relpos"] = (0, 0.5)  # where text begins, or it runs through others
        look = {"textcoords": "axes fraction", "va": "center", "fontsize": "small", "arrowprops": stroke}
        ax.annotate(line.get_label(), (line.get_xdata()[-1], line.get_ydata()[-1]), (1.06, place), **look)


def plot_past_and_new(past: Values, new: Values, *, ylabel: str, percent: bool = False, ax: Axes | None = None) -> Axes:
    """Two lines by state, (S,) each: a quantity of past classes (NaN at state 1) and of new classes."""
    lines, colours = {"past classes": past, "new classes": new}, {"past classes": PAST, "new classes": NEW}
    return plot_by_state(lines, ylabel=ylabel, percent=percent, colours=colours, ax=ax)


def plot_prediction_share(predicted_new: Values, true_new: Values, *, ax: Axes | None = None) -> Axes:
    """Share of images predicted as a new class against the share that truly is new, by state from 2 on."""
    lines = {"predicted as new": predicted_new, "truly new": true_new}
    colours = {"predicted as new": NEW, "truly new": TRUTH}
    return plot_by_state(lines, first_state=2, ylabel="share of validation images", colours=colours, ax=ax)


def plot_class_means(
    initial: np.ndarray, current: np.ndarray, origin: np.ndarray, *, unit: str = "raw score", ax: Axes | None = None
) -> Axes:
    """Each past class as a point: its mean score when it was new against now; below the diagonal it has faded.
    initial, current: the means; origin: the state in which the class was new; all (past classes,)."""
    ax = set_up(ax)
    if np.isnan(np.asarray(initial) - np.asarray(current)).all():
        return nothing_to_draw(ax, "past classes with both means")
    states = range(1, int(max(origin)) + 1)
    colours = {"cmap": ListedColormap(sns.blend_palette(AGES, len(states))), "vmin": 0.5, "vmax": len(states) + 0.5}
    points = ax.scatter(initial, current, c=origin, s=22, zorder=3, **colours)
    ends = min(np.nanmin([initial, current]), 0), np.nanmax([initial, current])
    ax.plot(ends, ends, color=TRUTH, linewidth=1, linestyle="--")
    ax.set_xlabel(f"mean {unit} when new, $\\mu_P(C_i)$", parse_math=True)
    ax.set_ylabel(f"mean {unit} now, $\\mu_N(C_i)$", parse_math=True)
    ticks = FixedLocator(states, nbins=12)
    ax.figure.colorbar(points, ax=ax, label="state in which the class was new", ticks=ticks).minorticks_off()
    return ax


def plot_state_confusion(shares: np.ndarray, *, colorbar: bool = True, ax: Axes | None = None) -> Axes:
    """Where images of each state's classes (rows) are predicted (columns), as shares of the row. shares: (N, N)."""
    states, end = range(1, len(shares) + 1), len(shares) + 0.5
    labels = {"xlabel": "predicted: state of the class", "ylabel": "true: state of the class"}
    ax = set_up(ax, plain="xy", whole="xy", at=states, **labels)
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", extent=(0.5, end, end, 0.5))
    if len(shares) <= 12:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            ax.text(column + 1, row + 1, f"{share:.0%}", ha="center", va="center", fontsize="small", color=colour)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="share of the row's images", format="{x:.0%}", shrink=0.85)
    return ax


def plot_error_breakdown(errors: Series, *, ax: Axes | None = None) -> Axes:
    """Stacked shares of wrong images by (true, predicted) group, by state from 2 on. errors: group -> (S - 1,)."""
    places = range(2, 2 + len(errors["past as new"]))
    if not places:
        return nothing_to_draw(set_up(ax), "past classes")
    ax = set_up(ax, xlabel="state", whole="x", at=places)
    stack_errors(ax, places, errors, 0.7, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_accuracy_matrix(matrix: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Top-1 on the classes of each state (rows) by the model of each state (columns), NaN blank. matrix: (S, S)."""
    ax = set_up(ax, plain="xy")
    states, every = pd.RangeIndex(1, len(matrix) + 1), -(-len(matrix) // 12)
    bar = {"label": "top-1 accuracy", "format": "{x:.0%}"}
    cells = {"annot": len(matrix) <= 12, "fmt": ".0%", "annot_kws": {"size": "small"}, "square": True}
    look = {"vmin": 0, "vmax": 1, "cmap": "viridis", "cbar_kws": bar} | cells
    sns.heatmap(pd.DataFrame(matrix, states, states), xticklabels=every, yticklabels=every, ax=ax, **look)
    ax.set(xlabel="state of the model", ylabel="state of the classes")
    ax.tick_params(axis="y", labelrotation=0)
    return ax


def plot_history(losses: Series, val_top1: Mapping[str, Sequence] | None = None, *, ax: Axes | None = None) -> Axes:
    """Training loss by epoch, one line per label (label -> loss by epoch), from the colour of what is past to that of
    what is new. val_top1: label -> accuracy by epoch, None where it is not known: dotted, on an axis of its own."""
    ax = set_up(ax, xlabel="epoch", ylabel="training loss (nats per image)", yscale="log", whole="x")
    ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    for label, colour in zip(losses, sns.blend_palette(AGES, len(losses)), strict=True):
        ax.plot(np.arange(1, len(losses[label]) + 1), losses[label], label=label, color=colour)
    if any(share is not None for shares in (val_top1 or {}).values() for share in shares):
        other = ax.twinx()
        other.grid(visible=False)  # one grid is enough
        other.set(ylabel="top-1 accuracy, validation (dotted)", ylim=(0, 1))
        for line in ax.lines:
            seen = [(i, share) for i, share in enumerate(val_top1[line.get_label()], 1) if share is not None]
            other.plot(*zip(*seen, strict=True), color=line.get_color(), linestyle=":", marker=".")
    if len(losses) > 1:
        ax.legend(handles=ax.lines[:: -(-len(losses) // 12)])
    return ax


def plot_images(rows: Mapping[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """A contact sheet: label -> images (n, h, w, c) uint8, one row per label."""
    ax = set_up(ax, plain="xy")
    if not any(map(len, rows.values())):
        return nothing_to_draw(ax, "images")
    height, width, channels = np.shape(next(iter(rows.values())))[1:]
    tall, wide, most = height + 2, width + 2, max(map(len, rows.values()))  # each with its gap
    sheet = np.full((len(rows), tall, most, wide, channels), 255, dtype=np.uint8)
    for row, images in zip(sheet, rows.values(), strict=True):
        row[:height, : len(images), :width] = np.swapaxes(images, 0, 1)
    sheet = sheet.reshape(len(rows) * tall, most * wide, channels)
    ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set(yticks=np.arange(len(rows)) * tall + height / 2, yticklabels=list(rows), xticks=[])
    ax.spines[:].set_visible(False)
    return ax
