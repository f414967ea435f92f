"""Plots of one state and method in detail, as the explorer shows them; see plots for what they have in common."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from il2m.plots.style import ALL, NEW, PAST, TRUTH, Numbers, Series, Values, set_up, stack_errors

Changes = Mapping[str, Sequence[tuple[np.ndarray, str, Mapping[str, Sequence[str]]]]]  # see plot_changed_images
_OUTLINE = {"fill": False, "linestyle": ":", "linewidth": 1.8}  # of what stands beside


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


def plot_origins(shares: Series, *, ax: Axes | None = None) -> Axes:
    """Shares of images by the state in which the class was new, (N,) each; the last state is new. shares: ``truth``
    and ``predicted``, drawn as bars, and what is predicted by another method, as dotted outlines on them."""
    labels = {"xlabel": "state in which the class was new", "ylabel": "share of validation images"}
    states = np.arange(1, len(shares["truth"]) + 1)
    ax = set_up(ax, percent="y", plain="x", whole="x", at=range(1, len(states) + 1), **labels)
    ax.bar(states - 0.2, shares["truth"], 0.36, color=TRUTH)
    ax.bar(states + 0.2, shares["predicted"], 0.36, color=[PAST] * (len(states) - 1) + [NEW])
    keys = {"truth": TRUTH, "predicted as past": PAST, "predicted as new": NEW}
    handles = [Patch(color=colour, label=key) for key, colour in keys.items()]
    handles += [ax.bar(states + 0.2, shares[name], 0.36, label=name, **_OUTLINE) for name in list(shares)[2:]]
    ax.margins(y=0.15)  # room for the legend
    ax.legend(handles=handles, loc="upper left", ncols=4)
    return ax


def plot_own_scores(scores: Series, means: Numbers, *, unit: str = "raw score", ax: Axes | None = None) -> Axes:
    """Distributions of a class's own-class scores. scores: label -> (n,), the first grey, the second blue, the third a
    dotted outline. means: the same labels -> a mean of the second memory, drawn as a line where it is a number."""
    ax = set_up(ax, xlabel=f"{unit} of the true class", ylabel="validation images", whole="y")
    bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins=24)
    looks = ({"color": TRUTH, "alpha": 0.45}, {"color": PAST, "alpha": 0.45}, _OUTLINE)
    for look, (label, own) in zip(looks, scores.items(), strict=False):
        ax.hist(own, bins, histtype="stepfilled", label=f"{label} ({len(own)} images)", **look)
        if np.isfinite(means.get(label, np.nan)):
            ax.axvline(means[label], color=look["color"], linestyle="--", linewidth=2, label=f"second memory, {label}")
    ax.margins(y=0.4)  # room for the legend
    ax.legend(loc="upper left", fontsize="small", ncols=2)
    return ax


def plot_errors_before_after(errors: Mapping[str, Numbers], *, ax: Axes | None = None) -> Axes:
    """A stacked bar per entry: label -> (true, predicted) group -> share of all images. Values stand in the bars."""
    ax = set_up(ax, plain="x")
    by_group = {group: [shares[group] for shares in errors.values()] for group in next(iter(errors.values()))}
    for group, bars in stack_errors(ax, list(errors), by_group, 0.6, loc="center right").items():
        labels = [f"{share:.1%}" if share > 0.02 else "" for share in by_group[group]]
        ink = "black" if group.startswith("new") else "white"  # whose colours are pale
        ax.bar_label(bars, labels, label_type="center", color=ink, fontsize="small")
    ax.set_xlim(-0.6, len(errors) + 0.3)
    return ax


def plot_what_if(exponents: Values, accuracies: Series, chosen: float, *, factor: str, ax: Axes | None = None) -> Axes:
    """Accuracy of ``past``, ``new`` and ``all`` images as one factor's exponent goes from off to twice the paper's; the
    ``chosen`` one is a line. Each curve has a point at the paper's exponent, 1, and a star at its best."""
    ax = set_up(ax, xlabel=f"exponent of the {factor}", percent="y")
    ax.set_xticks([0, 1, 2], ["0: off", "1: the paper", "2"])
    for (group, series), colour in zip(accuracies.items(), (PAST, NEW, ALL), strict=True):
        width, paper = 3 if group == "all" else 1.5, exponents.index(1)
        ax.plot(exponents, series, "o-", markevery=[paper], color=colour, label=group, linewidth=width)
        best = max(zip(series, exponents, strict=True), key=lambda point: (point[0], -abs(point[1] - 1)))
        ax.plot(*best[::-1], "*", color=colour, markersize=12, label="best" if group == "all" else None)
    ax.axvline(chosen, color=TRUTH, linewidth=2.5, alpha=0.6, label="your choice")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    return ax


def plot_changed_images(kept: Sequence[np.ndarray], columns: Changes, *, heading: str, ax: Axes | None = None) -> Axes:
    """A row of images, (h, w, c) uint8, under ``heading``; and columns of images under headings of their own, with what
    they were taken for. columns: heading -> (image, caption, method -> classes)."""
    ax = set_up(ax)
    tall = max((len(entries) for entries in columns.values()), default=0)
    title = {"weight": "bold", "va": "bottom", "parse_math": False}
    small = {"va": "top", "fontsize": 9, "linespacing": 1.15, "parse_math": False}

    def show(image: np.ndarray, left: float, top: float, side: float) -> None:
        place = (left, left + side, top + side, top)
        ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=place, interpolation="nearest")

    ax.text(0, -0.06, heading if len(heading) < 60 else f"{heading[:58]}…", **title)
    for i, image in enumerate(kept):
        show(image, 0.64 * i, 0, 0.6)
    for left, (column, entries) in zip(range(0, 3 * len(columns), 3), columns.items(), strict=True):
        ax.text(left, 0.94, column, **title)
        for row, (image, caption, lists) in enumerate(entries):
            top = 1 + 1.2 * row
            show(image, left, top, 1)
            ax.text(left + 1.06, top, caption if len(caption) < 24 else f"{caption[:22]}…", weight="bold", **small)
            for i, (method, classes) in enumerate(lists.items()):
                listed = [method, *(name if len(name) < 12 else f"{name[:10]}…" for name in classes)]
                ax.text(left + 1.06 + 0.95 * i, top + 0.17, "\n".join(listed), **small)
    ax.set(xlim=(0, 3 * max(len(columns), 1)), ylim=(1 + 1.2 * tall, -0.3), aspect="equal", anchor="NW")
    ax.set_axis_off()
    return ax
