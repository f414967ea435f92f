"""The look of all plots: one colour has one meaning everywhere (Okabe and Ito's palette)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.ticker import MaxNLocator

PAST, NEW, ALL, TRUTH = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
UNNAMED = "#444444"  # bars and points of a label that was given no colour; lines take matplotlib's next
NONE_GIVEN: Mapping[str, str] = MappingProxyType({})  # label -> colour, or dashes
ERROR_COLOURS = {"past as new": "#D55E00", "past as past": "#0072B2", "new as past": "#56B4E9", "new as new": "#E69F00"}
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


def new_axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def nothing_to_draw(ax: Axes, what: str) -> Axes:
    """An empty picture that says so: a study of one state has no past classes."""
    ax.text(0.5, 0.5, f"no {what}", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def states_axis(ax: Axes) -> None:
    ax.set_xlabel("state")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def stack_errors(
    ax: Axes, places: Sequence[object], errors: Mapping[str, Sequence[float]], width: float, **legend: object
) -> dict[str, BarContainer]:
    """Bars of wrong images' shares, one group on the other, n of them. errors: (true, predicted) group -> (n,)."""
    bars, bottom = {}, np.zeros(len(places))
    for group, colour in ERROR_COLOURS.items():
        bars[group] = ax.bar(places, errors[group], width, bottom=bottom, color=colour, label=group)
        bottom = bottom + np.asarray(errors[group])
    ax.set_ylabel("share of validation images, wrong")
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.legend(title="true as predicted", reverse=True, **legend)
    return bars
