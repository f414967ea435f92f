"""Plots: values in, Axes out. They compute nothing and save nothing; pass ``ax`` to draw into a figure of your own.

One colour has one meaning in all notebooks (Okabe and Ito's palette, safe for colour-blind readers): past classes blue,
new classes vermilion, truth grey, and each method its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

PAST, NEW, TRUTH = "#0072B2", "#D55E00", "#7F7F7F"
METHOD_COLOURS = {
    "FT": "#7F7F7F",
    "IL2M": "#009E73",
    "IL2M-no-gate": "#56B4E9",
    "IL2M-means": "#CC79A7",
    "IL2M-confidence": "#E69F00",
    "FT-th": "#8C564B",
    "NEM": "#9467BD",
    "WA": "#17BECF",
    "ScaIL": "#BCBD22",
    "SIW": "#88A9D9",
    "SIW-calibrated": "#4C6FBF",
    "BiC": "#D4479B",
    "NCM-oracle": "#8A8A8A",
    "task-aware-oracle": "#A6A6A6",
    "joint": "#B0B0B0",
}
ERROR_COLOURS = {"past as new": "#D55E00", "past as past": "#0072B2", "new as past": "#56B4E9", "new as new": "#E69F00"}
_DASHES = {"NCM-oracle": "--", "task-aware-oracle": ":"}  # grey too: what no method is allowed to do has no colour
_STYLE = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Set the look of all figures of a notebook: calm, readable on paper and on screen."""
    sns.set_theme(context="notebook", style="whitegrid")
    mpl.rcParams.update(_STYLE)


def page_style(ink: str) -> dict[str, object]:
    """The same look as matplotlib parameters for figures that lie on a page: no background, all lines and text in
    ``ink``, smaller type; places of axes are set by hand, which is several times faster than a computed layout."""
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    backgrounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    style = sns.axes_style("whitegrid") | sns.plotting_context("notebook", font_scale=0.85) | _STYLE
    style |= dict.fromkeys((*inked, "legend.labelcolor", "grid.color"), ink) | dict.fromkeys(backgrounds, "none")
    fixed = {"figure.constrained_layout.use": False, "axes.titley": 1.0, "patch.linewidth": 0}
    return style | fixed | {"grid.alpha": 0.15, "svg.fonttype": "none"}


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def _nothing(ax: Axes, what: str) -> Axes:
    """An empty picture that says so: a study of one state has no past classes."""
    ax.text(0.5, 0.5, f"no {what}", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def _states_axis(ax: Axes) -> None:
    ax.set_xlabel("state")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_by_state(
    values: Mapping[str, Sequence[float]],
    *,
    first_state: int = 1,
    ylabel: str = "top-1 accuracy",
    percent: bool = True,
    colours: Mapping[str, str] = METHOD_COLOURS,
    strong: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One line per entry of ``values`` (label -> value by state, from ``first_state`` on).

    strong: labels whose lines stand out, the first most; None draws all alike.
    """
    ax = _axes(ax)
    for label, series in values.items():
        states = np.arange(first_state, first_state + len(series))
        look = {"color": colours.get(label), "linestyle": _DASHES.get(label, "-")}
        if strong is not None:
            look |= {"linewidth": 1, "alpha": 0.6} if label not in strong else {"linewidth": 2, "zorder": 3}
            look |= {"linewidth": 3.5, "zorder": 4} if label == strong[0] else {}
        ax.plot(states, series, marker="o", markersize=4, label=label, **look)
    _states_axis(ax)
    ax.set_ylabel(ylabel)
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(values) > 1:
        ax.legend()
    return ax


def plot_past_and_new(
    past: Sequence[float], new: Sequence[float], *, ylabel: str, percent: bool = False, ax: Axes | None = None
) -> Axes:
    """Two lines by state, (S,) each: a quantity of past classes (NaN at state 1) and of new classes."""
    colours = {"past classes": PAST, "new classes": NEW}
    return plot_by_state(
        {"past classes": past, "new classes": new}, ylabel=ylabel, percent=percent, colours=colours, ax=ax
    )


def plot_prediction_share(predicted_new: Sequence[float], true_new: Sequence[float], *, ax: Axes | None = None) -> Axes:
    """Share of images predicted as a new class against the share that truly is new, by state from 2 on."""
    return plot_by_state(
        {"predicted as new": predicted_new, "truly new": true_new},
        first_state=2,
        ylabel="share of validation images",
        colours={"predicted as new": NEW, "truly new": TRUTH},
        ax=ax,
    )


def plot_class_means(
    initial: np.ndarray,
    current: np.ndarray,
    state_of_class: np.ndarray,
    *,
    unit: str = "raw score",
    ax: Axes | None = None,
) -> Axes:
    """Each past class as a point: its mean score when it was new against now; below the diagonal it has faded.

    initial, current, state_of_class: (past classes,).
    """
    ax = _axes(ax)
    if len(initial) == 0:
        return _nothing(ax, "past classes")
    points = ax.scatter(initial, current, c=state_of_class, cmap="viridis", s=22, zorder=3)
    low = min(np.nanmin(initial), np.nanmin(current), 0)
    high = max(np.nanmax(initial), np.nanmax(current))
    ax.plot([low, high], [low, high], color=TRUTH, linewidth=1, linestyle="--")
    ax.set_xlabel(f"mean {unit} when new, $\\mu_P(C_i)$")
    ax.set_ylabel(f"mean {unit} now, $\\mu_N(C_i)$")
    bar = ax.figure.colorbar(points, ax=ax, label="state in which the class was new")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def plot_state_confusion(shares: np.ndarray, *, colorbar: bool = True, ax: Axes | None = None) -> Axes:
    """Where images of each state's classes (rows) are predicted (columns), as shares of the row. shares: (N, N)."""
    ax = _axes(ax)
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    states = np.arange(1, len(shares) + 1)
    if len(shares) <= 12:
        ax.set_xticks(states - 1, states)
        ax.set_yticks(states - 1, states)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize="small", color=colour)
    ax.grid(visible=False)
    ax.set_xlabel("predicted: state of the class")
    ax.set_ylabel("true: state of the class")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="share of the row's images", format=PercentFormatter(1.0, decimals=0))
    return ax


def plot_error_breakdown(errors: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Stacked shares of wrong images by (true, predicted) group, by state from 2 on. errors: group -> (S - 1,)."""
    ax = _axes(ax)
    bottom = np.zeros(len(errors[next(iter(ERROR_COLOURS))]))
    states = np.arange(2, 2 + len(bottom))
    for group in ERROR_COLOURS:
        ax.bar(states, errors[group], bottom=bottom, width=0.7, color=ERROR_COLOURS[group], label=group)
        bottom = bottom + np.asarray(errors[group])
    _states_axis(ax)
    ax.set_ylabel("share of validation images, wrong")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], title="true as predicted", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_means(means: Mapping[str, Mapping[str, float]], *, xlabel: str, ax: Axes | None = None) -> Axes:
    """Horizontal bars, each with its value. means: method -> (group -> value); groups go from full to pale."""
    ax = _axes(ax)
    groups = list(next(iter(means.values())))
    height = 0.8 / len(groups)
    places = np.arange(len(means))[::-1]
    for i, group in enumerate(groups):
        values = [means[method].get(group, np.nan) for method in means]
        colours = [METHOD_COLOURS.get(method, "#444444") for method in means]
        offset = (len(groups) - 1) / 2 - i
        bars = ax.barh(places + offset * height, values, height * 0.92, color=colours, alpha=1 - 0.55 * i / len(groups))
        for bar in bars:
            bar.set_hatch("//" if i else "")
        ax.bar_label(bars, labels=[f"{value:.1%}" for value in values], padding=3, fontsize="small")
    ax.set_yticks(places, list(means))
    ax.set_xlabel(xlabel)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    if len(groups) > 1:
        patches = [
            mpl.patches.Patch(facecolor="#AAAAAA", hatch="//" if i else "", label=g) for i, g in enumerate(groups)
        ]
        ax.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def plot_differences(
    points: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
    *,
    xlabel: str = "difference in mean top-1, points",
    ax: Axes | None = None,
) -> Axes:
    """Paired differences by method: every pair as a point, their mean as a bar across, its interval as a line.

    points: method -> differences (fractions), one of each pair. intervals: method -> (low, high), NaN if there is none.
    """
    ax = _axes(ax)
    places = np.arange(len(points))[::-1]
    for place, (method, values) in zip(places, points.items(), strict=True):
        colour = METHOD_COLOURS.get(method, "#444444")
        percent, spread = 100 * np.asarray(values), np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
        ax.plot(percent, place + spread, "o", color=colour, alpha=0.45, markersize=5)
        ax.plot(100 * np.asarray(intervals[method]), [place, place], color=colour, linewidth=2.5)
        ax.plot(percent.mean(), place, "|", color=colour, markersize=18, markeredgewidth=2.5)
    ax.axvline(0, color=TRUTH, linewidth=1)
    ax.set_yticks(places, list(points))
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    return ax


def plot_over_seeds(
    values: Mapping[str, Mapping[float, Sequence[float]]],
    intervals: Mapping[str, Mapping[float, tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str = "mean top-1 over states 2..S",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy of each method against a setting, whose values stand at equal distances: every seed as a point, their
    mean on a line, its interval upright.

    values: method -> (value of the setting -> fractions, one of each seed). intervals: the same -> (low, high).
    """
    ax = _axes(ax)
    settings = sorted({setting for by_setting in values.values() for setting in by_setting})
    for i, (method, by_setting) in enumerate(values.items()):
        places = np.array([settings.index(setting) for setting in by_setting]) + 0.07 * (i - (len(values) - 1) / 2)
        colour = METHOD_COLOURS.get(method, "#444444")
        ax.plot(places, [np.mean(found) for found in by_setting.values()], "-", color=colour, linewidth=2, label=method)
        for place, (setting, found) in zip(places, by_setting.items(), strict=True):
            ax.plot(np.full(len(found), place), found, "o", color=colour, alpha=0.45, markersize=4)
            ax.plot([place, place], intervals[method][setting], color=colour, linewidth=2)
            ax.plot(place, np.mean(found), "_", color=colour, markersize=12, markeredgewidth=2)
    ax.set_xticks(range(len(settings)), [f"{setting:g}" for setting in settings])
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=len(values), columnspacing=1, handlelength=1.4)
    return ax


def plot_accuracy_matrix(matrix: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Top-1 on the classes of each state (rows) by the model of each state (columns), NaN blank. matrix: (S, S)."""
    ax = _axes(ax)
    states = np.arange(1, len(matrix) + 1)
    sns.heatmap(
        matrix,
        vmin=0,
        vmax=1,
        cmap="viridis",
        annot=len(matrix) <= 12,
        fmt=".0%",
        annot_kws={"size": "small"},
        square=True,
        xticklabels=states,
        yticklabels=states,
        cbar_kws={"label": "top-1 accuracy", "format": PercentFormatter(1.0, decimals=0)},
        ax=ax,
    )
    ax.grid(False)
    ax.set_xlabel("state of the model")
    ax.set_ylabel("state of the classes")
    return ax


def plot_history(losses: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Training loss by epoch, one line per label (label -> loss by epoch), the first pale and the last dark."""
    ax = _axes(ax)
    for label, colour in zip(losses, sns.color_palette("crest", len(losses)), strict=True):
        ax.plot(np.arange(1, len(losses[label]) + 1), losses[label], label=label, color=colour)
    ax.set_xlabel("epoch")
    ax.set_ylabel("training loss (nats per image)")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(losses) > 1:
        ax.legend()
    return ax


def plot_images(rows: Mapping[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """A contact sheet: label -> images (n, h, w, c) uint8, one row per label."""
    ax = _axes(ax)
    if not rows:
        return _nothing(ax, "images")
    height, width, channels = next(iter(rows.values())).shape[1:]
    gap = 2
    most = max(len(images) for images in rows.values())
    sheet = np.full((len(rows) * (height + gap), most * (width + gap), channels), 255, dtype=np.uint8)
    for i, images in enumerate(rows.values()):
        for j, image in enumerate(images):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_yticks(np.arange(len(rows)) * (height + gap) + height / 2, list(rows))
    ax.set_xticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax
