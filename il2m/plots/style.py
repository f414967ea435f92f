"""The look of all plots. One colour has one meaning in all notebooks (Okabe and Ito's palette, safe for colour-blind
readers): past classes blue, new classes vermilion, truth grey, and each method its own."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.ticker import FixedLocator, MaxNLocator

Series = Mapping[str, Sequence[float]]  # label -> values
Looks = Mapping[str, str]  # label -> colour, or dashes

PAST, NEW, ALL, TRUTH = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
UNNAMED = "#444444"  # bars and points of a label that was given no colour; lines take matplotlib's next
NONE_GIVEN: Looks = MappingProxyType({})
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
    "text.parse_math": False,  # names of classes and runs may hold dollar signs
}


def use_style() -> None:
    """Set the look of all figures of a notebook: calm, readable on paper and on screen."""
    sns.set_theme(context="notebook", style="whitegrid", rc=_STYLE)


def page_style(ink: str) -> dict[str, object]:
    """The same look as matplotlib parameters for figures that lie on a page: no background, all lines and text in
    ``ink``, smaller type; places of axes are set by hand, which is several times faster than a computed layout."""
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    backgrounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    style = sns.axes_style("whitegrid") | sns.plotting_context("notebook", font_scale=0.85) | _STYLE
    style |= dict.fromkeys((*inked, "legend.labelcolor", "grid.color"), ink) | dict.fromkeys(backgrounds, "none")
    fixed = {"figure.constrained_layout.use": False, "axes.titley": 1.0, "patch.linewidth": 0, "ytick.major.size": 0}
    return style | fixed | {"grid.alpha": 0.15, "svg.fonttype": "none", "patch.edgecolor": ink}


def set_up(
    ax: Axes | None, *, percent: str = "", whole: str = "", at: range = range(0), plain: str = "", **settings: object
) -> Axes:
    """``ax``, or a new figure's, with the ``settings`` of Axes.set. ``x``, ``y`` or ``xy`` say which axis shows shares
    in ``percent``, which has ticks at ``whole`` numbers only (given states, ``at`` some of these, all of a dozen), and
    which is ``plain``, without grid lines."""
    ax = plt.subplots()[1] if ax is None else ax
    ax.set(**settings)
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter("{x:.0%}")
    for name in whole:
        getattr(ax, f"{name}axis").set_major_locator(FixedLocator(at, nbins=12) if at else MaxNLocator(integer=True))
    for name in plain:
        ax.grid(axis=name, visible=False)
    return ax


def nothing_to_draw(ax: Axes, what: str) -> Axes:
    """An empty picture that says so: a study of one state has no past classes."""
    ax.text(0.5, 0.5, f"no {what}", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def stack_errors(
    ax: Axes, places: Sequence[object], errors: Series, width: float, **legend: object
) -> dict[str, BarContainer]:
    """Bars of wrong images' shares, one group on the other, n of them. errors: (true, predicted) group -> (n,)."""
    set_up(ax, ylabel="share of validation images, wrong", percent="y")
    bars, bottom = {}, np.zeros(len(places))
    for group, colour in ERROR_COLOURS.items():
        bars[group] = ax.bar(places, errors[group], width, bottom=bottom, color=colour, label=group)
        bottom = bottom + np.asarray(errors[group])
    ax.legend(title="true as predicted", reverse=True, **legend)
    return bars
