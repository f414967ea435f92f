"""What is shown, as it lies on a page: figures as SVG or PNG, numbers as HTML or CSV. Saves and displays nothing."""

import base64
import gc
import html
import io
import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from il2m import plots
from il2m.explorer.outcomes import Shown

STYLE = f"<style>{(Path(__file__).parent / 'page.css').read_text()}</style>"


def make_figure(shown: Mapping[str, Shown]) -> Figure:
    """One panel per run (label -> what is shown of it), each under its label and finding, with the legend of many
    lines at the right. Within the style of a page, see page_svg."""
    wide, letters = (6.2 * len(shown), 68) if len(shown) > 1 else (8.4, 90)
    tall = max(what.height for what in shown.values())
    figure, many = Figure(figsize=(wide, tall)), ()
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for ax, (label, what) in zip(axes, shown.items(), strict=True):
        what.draw(ax=ax)
        finding = "\n".join(textwrap.wrap(what.finding, letters)[:2])
        ax.set_title(f"{label}\n{finding}", loc="left", pad=10)
        if (legend := ax.get_legend()) and len(legend.get_texts()) > 6:
            many = ax.get_legend_handles_labels()
            legend.remove()
    right = 1.65 if many else 0.15
    figure.subplots_adjust(0.75 / wide, 0.55 / tall, 1 - right / wide, 1 - 0.62 / tall, wspace=0.16)
    if many:
        figure.legend(*many, loc="center right", fontsize="small")
    return figure


def page_svg(shown: Mapping[str, Shown]) -> str:
    """The figure as SVG that takes the page's colour for lines and text, in light and dark themes and in print."""
    return plots.themed(figure_bytes(shown, "svg").decode())


def figure_bytes(shown: Mapping[str, Shown], kind: str, *, background: str = "none", dpi: int = 100) -> bytes:
    """The figure as a file, ``svg`` or ``png``.
    Figures are full of reference cycles. Collected while they are young, they never provoke a collection of all that a
    kernel holds, which would take several times as long as the figure itself.
    """
    file, enabled = io.BytesIO(), gc.isenabled()
    gc.disable()
    try:
        with mpl.rc_context(plots.page_style()):  # the figure gets no name, which would keep it until we return
            make_figure(shown).savefig(file, format=kind, facecolor=background, dpi=dpi, metadata={"Date": None})
    finally:
        if enabled:
            gc.enable()
            gc.collect(1)
    return file.getvalue()


def numbers_html(shown: Mapping[str, Shown]) -> str:
    """The numbers that a page has room for, as HTML tables, one per run."""
    tables = ""
    for label, what in shown.items():
        table = what.numbers if what.table is None else what.table
        table = table.rename_axis(index=None, columns=table.index.name)  # the index's name in the header's own line
        rounded = table.iloc[:16, :12].to_html(border=0, float_format=what.number_format.format, na_rep="")
        tables += f"<div><b>{html.escape(label)}</b>{rounded}</div>"
    return f'<div class="il2m" style="display: flex; gap: 3em; flex-wrap: wrap">{tables}</div>'


def save_links(shown: Mapping[str, Shown], name: str) -> str:
    """Links that save the view as SVG, PNG and CSV, each file inside its link: nothing is written to disk here."""
    numbers = pd.concat({label: what.numbers for label, what in shown.items()}, names=["run"])  # unrounded
    links = ""
    for kind, mime, data in (
        ("svg", "image/svg+xml", figure_bytes(shown, "svg", background="white")),
        ("png", "image/png", figure_bytes(shown, "png", background="white", dpi=200)),
        ("csv", "text/csv", numbers.to_csv().encode()),
    ):
        address = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        links += f'<a download="{html.escape(name)}.{kind}" href="{address}">{kind.upper()}</a>'
    return f'<div class="il2m">{links}</div>'
