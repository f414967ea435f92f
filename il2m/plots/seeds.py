"""Plots of many runs: over seeds and settings, and paired differences; see plots for what they have in common."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from il2m.plots.style import PLAIN, TRUTH, UNNAMED, Looks, Numbers, Series, Values, nothing_to_draw, set_up

BySetting = Mapping[str, Mapping[float, Values]]  # by label and value of a setting
_DIFFERENCE = "difference in mean top-1, points"


def plot_means(means: Mapping[str, Numbers], *, xlabel: str, colours: Looks = PLAIN, ax: Axes | None = None) -> Axes:
    """Horizontal bars, each with its value. means: method -> (group -> value), from full to pale; all NaN: left out."""
    ax = set_up(ax, xlabel=xlabel, percent="x", plain="y")
    means = {method: by_group for method, by_group in means.items() if not np.isnan([*by_group.values()]).all()}
    if not means:
        return nothing_to_draw(ax, "past classes")
    groups = list(next(iter(means.values())))
    height, places = 0.8 / len(groups), np.arange(len(means))[::-1]
    full = [colours.get(method, UNNAMED) for method in means]
    patches = []
    for i, group in enumerate(groups):
        values = [by_group.get(group, np.nan) for by_group in means.values()]
        hatch, offset = "//" if i else "", (len(groups) - 1) / 2 - i
        look = {"color": full, "alpha": 1 - 0.55 * i / len(groups), "hatch": hatch}
        bars = ax.barh(places + offset * height, values, height * 0.92, **look)
        ax.bar_label(bars, fmt="{:.1%}", padding=3, fontsize="small")
        patches.append(Patch(facecolor="#AAAAAA", hatch=hatch, label=group))
    ax.set(yticks=places, yticklabels=list(means))
    ax.margins(x=0.12)
    if len(groups) > 1:
        ax.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def plot_differences(
    points: Series, intervals: Series, *, xlabel: str = _DIFFERENCE, colours: Looks = PLAIN, ax: Axes | None = None
) -> Axes:
    """Paired differences by label: every pair as a point, their mean as a bar across, its interval as a line.
    points: label -> differences (fractions), one of each pair. intervals: label -> (low, high), or NaN."""
    ax = set_up(ax, xlabel=xlabel, plain="y")
    places = np.arange(len(points))[::-1]
    for place, (label, values) in zip(places, points.items(), strict=True):
        colour, percent = colours.get(label, UNNAMED), 100 * np.asarray(values)
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
        ax.plot(percent, place + spread, "o", color=colour, alpha=0.45, markersize=5)
        ax.plot(100 * np.asarray(intervals[label]), [place, place], color=colour, linewidth=2.5)
        ax.plot(percent.mean(), place, "|", color=colour, markersize=18, markeredgewidth=2.5)
    ax.axvline(0, color=TRUTH, linewidth=1)
    ax.set(yticks=places, yticklabels=list(points), ylim=(-0.5, max(len(points), 1) - 0.5))
    return ax


def plot_over_seeds(
    values: BySetting, intervals: BySetting, *, xlabel: str, colours: Looks = PLAIN, ax: Axes | None = None
) -> Axes:
    """Accuracy of each method against a setting, whose values stand at equal distances: every seed as a point, their
    mean on a line, its interval as a band.
    values: method -> (value of the setting -> fractions, one of each seed). intervals: the same -> (low, high)."""
    ax = set_up(ax, xlabel=xlabel, ylabel="mean top-1 over states 2..S", percent="y", plain="x")
    settings = sorted({setting for by_setting in values.values() for setting in by_setting})
    for i, (method, by_setting) in enumerate(values.items()):
        places = np.array([settings.index(setting) for setting in by_setting]) + 0.07 * (i - (len(values) - 1) / 2)
        means = [np.mean(np.asarray(seeds)) for seeds in by_setting.values()]
        (line,) = ax.plot(places, means, "-", color=colours.get(method), linewidth=2, label=method)
        band = np.array([intervals[method][setting] for setting in by_setting]).T
        ax.fill_between(places, *band, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.vlines(places, *band, color=line.get_color(), linewidth=1)  # a single value has no band
        for place, seeds in zip(places, by_setting.values(), strict=True):
            ax.plot(np.full(len(seeds), place), seeds, "o", color=line.get_color(), alpha=0.45, markersize=4)
    ax.set_xticks(range(len(settings)), [f"{setting:g}" for setting in settings])
    ax.set_xlim(-0.5, len(settings) - 0.5)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=len(values), columnspacing=1, handlelength=1.4)
    return ax
