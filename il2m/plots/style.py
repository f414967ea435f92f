"""The look of all plots. One colour has one meaning in all notebooks (Okabe and Ito's palette, safe for colour-blind
readers): past classes blue, new classes vermilion, truth grey, and each method its own. All else is in *.mplstyle."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython import get_ipython
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

Values = Sequence[float]
Series = Mapping[str, Values]  # by label
Numbers = Mapping[str, float]  # by label, too
Looks = Mapping[str, str]  # label -> colour, or dashes

PAST, NEW, ALL, TRUTH = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
AGES = [PAST, "#A0A0A0", NEW]  # between them, states and epochs of states: readable on light and on dark paper
_FILES = [Path(__file__).with_name(f"{name}.mplstyle") for name in ("il2m", "page")]
_STYLE, _PAGE = (dict(rc_params_from_file(file, use_default_template=False)) for file in _FILES)
INK, PAPER = _STYLE["text.color"], _STYLE["legend.facecolor"]  # on a page they become the theme's
UNNAMED = INK  # bars and points of a label that was given no colour; lines take matplotlib's next
PLAIN: Looks = MappingProxyType({})  # none given
ERROR_COLOURS = {"past as new": "#D55E00", "past as past": "#0072B2", "new as past": "#56B4E9", "new as new": "#E69F00"}


def use_style() -> None:
    """Set the look of all figures of a notebook: calm, readable on paper and on screen; there SVG, see themed."""
    sns.set_theme(context="notebook", style="whitegrid", rc=_STYLE)
    if shell := get_ipython():
        plt.switch_backend(plt.get_backend())  # an inline one sets its own formats once it is loaded
        shell.display_formatter.formatters["image/png"].pop(Figure, None)
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, _figure_svg)


def _figure_svg(figure: Figure) -> str:
    titles = [figure.get_suptitle(), *(ax.get_title(loc) for ax in figure.axes for loc in ("left", "center"))]
    figure.savefig(file := io.StringIO(), format="svg", bbox_inches="tight", facecolor="none", metadata={"Date": None})
    return themed(file.getvalue(), ". ".join(filter(None, titles)))


def themed(svg: str, label: str = "") -> str:
    """A figure drawn in INK on PAPER as SVG that takes the colours of the page it is put into, in light and dark themes
    and in print; as a picture of its own it is dark on white. label: what a reader is told who does not see it."""
    name = f' role="img" aria-label="{html.escape(" ".join(label.split()))}"' if label else ""
    alone = "<style>svg:root { color: black; background: white }</style>"
    svg = re.sub(r' id="(?!C[0-9a-f]+_)[\w.]+_\d+"', "", svg[svg.index("<svg") :])  # the same in every figure
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper, #ffffff)")
    return re.sub(r"^<svg([^>]*)>", lambda tag: f"<svg{tag[1]}{name}>{alone}", svg, count=1)


def page_style() -> dict[str, object]:
    """The same look as matplotlib parameters for figures that lie on a page: smaller type, see also page.mplstyle."""
    return sns.axes_style("whitegrid") | sns.plotting_context("notebook", font_scale=0.85) | _STYLE | _PAGE


def set_up(
    ax: Axes | None, *, percent: str = "", whole: str = "", at: range = range(0), plain: str = "", **settings: object
) -> Axes:
    """``ax``, or a new figure's, with the ``settings`` of Axes.set. ``x``, ``y`` or ``xy`` say which axis is in
    ``percent``, has ticks at ``whole`` numbers only (``at`` some of these states, all of a dozen), or no grid lines."""
    ax = plt.subplots()[1] if ax is None else ax
    ax.set(**settings)
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(lambda share, place: f"{round(100 * share, 2) + 0:g}%")
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


def set_finding(ax: Axes, label: str, finding: str, value: float) -> None:
    """Title of a panel: its label, and what is found there, a sentence with room for a value, unless that is NaN."""
    ax.set_title(label if np.isnan(value) else f"{label}: {finding.format(value)}")


def stack_errors(ax: Axes, places: Sequence, errors: Series, width: float, **legend: object) -> dict[str, BarContainer]:
    """Bars of wrong images' shares, one group on the other, n of them. errors: (true, predicted) group -> (n,)."""
    set_up(ax, ylabel="share of validation images, wrong", percent="y")
    bars, bottom = {}, np.zeros(len(places))
    for group, colour in ERROR_COLOURS.items():
        bars[group] = ax.bar(places, errors[group], width, bottom=bottom, color=colour, label=group)
        bottom = bottom + np.asarray(errors[group])
    ax.legend(title="true as predicted", reverse=True, **legend)
    return bars
