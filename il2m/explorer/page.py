"""What is shown, as it lies on a page: figures as SVG or PNG, numbers as HTML or CSV. Saves and displays nothing."""

import base64
import gc
import io
import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from il2m import plots
from il2m.explorer.outcomes import Shown

_WIDE = 6.2  # inches: type is readable where a narrow page makes a figure smaller
_HERE = Path(__file__).parent
STYLE = Markup(f"<style>{(_HERE / 'page.css').read_text()}</style>")
_SAVED = {"facecolor": "white", "dpi": 200}
PARTS = Environment(loader=FileSystemLoader(_HERE), autoescape=True).get_template("page.html.j2").module


def make_figures(shown: Mapping[str, Shown], *, titled: bool = True) -> list[Figure]:
    """A figure per run (label -> what is shown of it), with a legend of many lines below. They may be set beside each
    other, so they share the y axis: all are drawn before any is saved. titled: each under its label and finding."""
    figures, ax = [], None
    for label, what in shown.items():
        lines, below, right, figure = textwrap.wrap(what.finding, 64), 0.55, 0.15, Figure()
        above = max(0.62, 0.27 + 0.175 * len(lines)) if titled else 0.12
        ax = figure.add_subplot(sharey=ax)
        what.draw(ax=ax)
        if titled:
            ax.set_title("\n".join([label, *lines]), loc="left", pad=10)
        if (legend := ax.get_legend()) and len(legend.get_texts()) > 6:
            many = ax.get_legend_handles_labels()
            legend.remove()
            below += 0.2 * -(-len(many[0]) // 3)
            figure.legend(*many, loc="lower left", ncols=3, fontsize="small")
        tall = what.height - 1.17 + above + below
        figure.set_size_inches(_WIDE, tall)
        figure.subplots_adjust(0.75 / _WIDE, below / tall, 1 - right / _WIDE, 1 - above / tall)
        figures.append(figure)
    return figures


def draw_figures(shown: Mapping[str, Shown], kind: str, *, titled: bool = True, **settings: object) -> list[bytes]:
    """Those figures as files, ``svg`` or ``png``, with other ``settings`` of savefig. Their reference cycles are
    collected young: else they provoke a collection of all that a kernel holds, which takes longer than the figure."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with mpl.rc_context(plots.page_style()):  # figures get no name, which would keep them until we return
            return [_saved(figure, kind, **settings) for figure in make_figures(shown, titled=titled)]
    finally:
        if enabled:
            gc.enable()
            gc.collect(1)


def _saved(figure: Figure, kind: str, **settings: object) -> bytes:
    figure.savefig(file := io.BytesIO(), format=kind, metadata={"Date": None}, **settings)
    return file.getvalue()


def figures_html(view: str, shown: Mapping[str, Shown]) -> str:
    """The figures, each under its run and finding, as SVG in the colours of the page's theme, and of print."""
    drawn = zip(shown.items(), draw_figures(shown, "svg", titled=False), strict=True)
    themed = [plots.themed(svg.decode(), f"{view}, {label}: {what.finding}") for (label, what), svg in drawn]
    return PARTS.figures(shown, themed)


def save_links(shown: Mapping[str, Shown], name: str) -> str:
    """Links that hold what they save: a figure of each run as SVG and PNG, all numbers as CSV. Nothing is written."""
    numbers = pd.concat({label: what.numbers for label, what in shown.items()}, names=["run"])  # unrounded
    files = [("", "csv", numbers.to_csv().encode())]
    for kind in ("svg", "png"):
        files += [(label, kind, data) for label, data in zip(shown, draw_figures(shown, kind, **_SAVED), strict=True)]
    return PARTS.links(name, [(label, kind, base64.b64encode(data).decode()) for label, kind, data in files])
