"""Executed notebooks as pages that need no network, and the report over a whole study's folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from il2m.errors import InputError
from il2m.files import write_atomically
from il2m.locks import locked

REPORT = "05_report"
PAGE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"
# of what a notebook's output holds in several forms, the first of these is shown: nothing that needs a script
_SHOWN = ["image/svg+xml", "text/html", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain"]


def write_page(notebook: Path, page: Path, *, title: str, hide_code: bool) -> None:
    """Write an executed notebook as one HTML file that loads nothing, for offline reading: no scripts, formulas as
    MathML, pictures inside. A reader sees the old page or the new one, never a part."""
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    exporter = HTMLExporter(
        template_name="basic",
        template_file="page.html.j2",
        extra_template_paths=[str(_TEMPLATES)],
        config=Config({"NbConvertBase": {"display_data_priority": _SHOWN}}),
        filters={"markdown2html": _markdown_with_mathml},
        exclude_input=hide_code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"page_title": title, "page_style": _style()}
    text, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources)
    write_atomically(page, text)


def check_study(folder: Path) -> None:
    """Raises InputError if the folder holds neither runs nor plans."""
    if not (any(folder.glob("*/config.json")) or any(folder.glob("plans/*.json"))):
        what = "holds no runs and no plans" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder} {what}: expected a study's folder, as il2m run --out makes it.")


def build_report(out_dir: str | Path) -> Path:
    """Make the report of a study's folder, however far it is: the pages of executed and failed notebooks that have
    none, ``notebooks/05_report.ipynb``, and from it ``index.html``, whose path is returned.

    Raises InputError if the folder is no study, or if the report's notebook fails.
    """
    from il2m.job_process import execute_notebook, failed_copy
    from il2m.jobs import find_notebooks

    folder = Path(out_dir).absolute()
    check_study(folder)
    notebook, report = (where / f"{REPORT}.ipynb" for where in (find_notebooks(), folder / "notebooks"))
    with locked(folder / ".report.lock", waiting_for="making this report"):
        write_missing_pages(report.parent)
        options = {"title": f"Report: {folder.name}", "hide_code": True}
        failure = execute_notebook(notebook, report, {"out_dir": str(folder)}, **options)
        if failure:
            raise InputError(f"the report of {folder} could not be made: {failure} (see {failed_copy(report)})")
        os.replace(report.with_suffix(".html"), folder / PAGE)
    return folder / PAGE


def write_missing_pages(folder: Path) -> None:
    """Make the pages of executed and failed notebooks in ``folder`` that have none, or an older one. What can't be
    read is passed over: its job will be run again."""
    for notebook in sorted(folder.glob("0[1-4]_*.ipynb")):
        page = notebook.with_suffix(".html")
        if _is_newer(page, notebook):
            continue
        with contextlib.suppress(Exception):  # damaged, in whatever way
            write_page(notebook, page, title=notebook.stem, hide_code=False)


def _is_newer(page: Path, notebook: Path) -> bool:
    return page.is_file() and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns


def _style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        HtmlFormatter(style=style, nobackground=True).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    return f"{(_TEMPLATES / 'page.css').read_text()}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _markdown_with_mathml(source: str) -> str:
    """Markdown as HTML, formulas as MathML: MathJax, which notebooks are shown with, would be loaded from elsewhere."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return _without_namespace(convert(body))

        def block_math(self, body: str) -> str:
            return _without_namespace(convert(body, display="block"))

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)


def _without_namespace(mathml: str) -> str:
    return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML knows it, and it looks like a link
