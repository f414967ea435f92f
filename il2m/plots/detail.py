"""Plots of one state and method in detail, as the explorer shows them; see plots for what they have in common."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from il2m.plots.style import ALL, NEW, PAST, TRUTH, Series, set_up, stack_errors

Change = tuple[np.ndarray, str, Sequence[str], Sequence[str]]  # image, caption, classes before, classes after


def plot_class_confusion(shares: np.ndarray, state_of_class: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Where images of each class (rows) are predicted (columns), as shares of the row, with lines between states.
    Darkness grows with a share's square root, so that rare ones are seen. shares: (C, C). state_of_class: (C,)."""
    labels = {"xlabel": "predicted class, in learning order", "ylabel": "true class, in learning order"}
    ax = set_up(ax, plain="xy", whole="xy", **labels)
    ax.imshow(np.sqrt(shares), vmin=0, vmax=1, cmap="Blues", interpolation="nearest" if len(shares) < 200 else "auto")
    for first in np.flatnonzero(np.diff(state_of_class)) + 0.5:
        ax.axhline(first, color=TRUTH, linewidth=0.6)
        ax.axvline(first, color=TRUTH, linewidth=0.6)
    return ax


def plot_origins(predicted: Sequence[float], truth: Sequence[float], *, ax: Axes | None = None) -> Axes:
    """Shares of predictions and of truth by the state in which the class was new, (N,) each; the last state is new."""
    labels = {"xlabel": "state in which the class was new", "ylabel": "share of validation images"}
    states = np.arange(1, len(predicted) + 1)
    ax = set_up(ax, percent="y", plain="x", whole="x", at=range(1, len(states) + 1), **labels)
    ax.bar(states - 0.2, truth, 0.36, color=TRUTH)
    ax.bar(states + 0.2, predicted, 0.36, color=[PAST] * (len(states) - 1) + [NEW])
    keys = {"truth": TRUTH, "predicted as past": PAST, "predicted as new": NEW}
    ax.margins(y=0.3)  # room for the legend
    ax.legend(handles=[Patch(color=colour, label=key) for key, colour in keys.items()], loc="upper left")
    return ax


def plot_own_scores(
    scores: Mapping[str, np.ndarray], means: Mapping[str, float], *, unit: str = "raw score", ax: Axes | None = None
) -> Axes:
    """Distributions of a class's own-class scores. scores: label -> (n,), the first grey, the last blue.
    means: the same labels -> a mean of the second memory, drawn as a line where it is a number."""
    ax = set_up(ax, xlabel=f"{unit} of the true class", ylabel="validation images", whole="y")
    bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins=24)
    for colour, (label, own) in zip((TRUTH, PAST), scores.items(), strict=False):
        ax.hist(own, bins, histtype="stepfilled", color=colour, alpha=0.45, label=f"{label} ({len(own)} images)")
        if np.isfinite(means.get(label, np.nan)):
            ax.axvline(means[label], color=colour, linestyle="--", linewidth=2, label=f"second memory, {label}")
    ax.legend(loc="upper left", fontsize="small")
    return ax


def plot_errors_before_after(errors: Mapping[str, Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """A stacked bar per entry: label -> (true, predicted) group -> share of all images. Values stand in the bars."""
    ax = set_up(ax, plain="x")
    by_group = {group: [shares[group] for shares in errors.values()] for group in next(iter(errors.values()))}
    for group, bars in stack_errors(ax, list(errors), by_group, 0.6, loc="center right").items():
        labels = [f"{share:.1%}" if share > 0.02 else "" for share in by_group[group]]
        ink = "black" if group.startswith("new") else "white"  # whose colours are pale
        ax.bar_label(bars, labels, label_type="center", color=ink, fontsize="small")
    ax.set_xlim(-0.6, len(errors) + 0.3)
    return ax


def plot_what_if(
    exponents: Sequence[float], accuracies: Series, chosen: float, *, factor: str, ax: Axes | None = None
) -> Axes:
    """Accuracy of ``past``, ``new`` and ``all`` images as one factor's exponent goes from off to twice IL2M's own
    (dashed line at 1), with the ``chosen`` exponent as a full line."""
    ax = set_up(ax, xlabel=f"exponent of the {factor}", xticks=[0, 1, 2], percent="y")
    for (group, series), colour in zip(accuracies.items(), (PAST, NEW, ALL), strict=True):
        ax.plot(exponents, series, color=colour, label=group, linewidth=3 if group == "all" else 1.5)
    ax.axvline(1, color=TRUTH, linestyle="--", label="IL2M's own")
    ax.axvline(chosen, color=TRUTH, linewidth=2.5, alpha=0.6, label="your choice")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    return ax


def plot_changed_images(
    kept: Sequence[np.ndarray], columns: Mapping[str, Sequence[Change]], *, heading: str, ax: Axes | None = None
) -> Axes:
    """A row of images, (h, w, c) uint8, under ``heading``; and columns of images under headings of their own, with what
    they were taken for before and after."""
    ax = set_up(ax)
    tall = max((len(entries) for entries in columns.values()), default=0)
    title = {"weight": "bold", "va": "bottom", "parse_math": False}
    small = {"va": "top", "fontsize": 7.5, "linespacing": 1.25, "parse_math": False}

    def show(image: np.ndarray, left: float, top: float, side: float) -> None:
        place = (left, left + side, top + side, top)
        ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=place, interpolation="nearest")

    ax.text(0, -0.08, heading, **title)
    for i, image in enumerate(kept):
        show(image, 0.8 * i, 0, 0.72)
    for left, (column, entries) in zip(range(0, 3 * len(columns), 3), columns.items(), strict=True):
        ax.text(left, 1.22, column, **title)
        for row, (image, caption, before, after) in enumerate(entries):
            top = 1.3 + 1.08 * row
            show(image, left, top, 0.98)
            ax.text(left + 1.06, top, caption, weight="bold", **small)
            for shift, when, classes in ((1.06, "before", before), (1.96, "after", after)):
                listed = [when, *(name if len(name) < 13 else f"{name[:11]}..." for name in classes)]
                ax.text(left + shift, top + 0.15, "\n".join(listed), **small)
    ax.set(xlim=(0, 3 * max(len(columns), 1)), ylim=(1.3 + 1.08 * tall, -0.35), aspect="equal", anchor="NW")
    ax.set_axis_off()
    return ax
