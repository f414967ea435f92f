"""Executed notebooks as pages that need no network."""

from pathlib import Path

from il2m.system.files import write_atomically
from il2m.system.hashes import file_hash, short_hash

_SEAL = "<!-- il2m: "
_TEMPLATES = Path(__file__).parent / "templates"
# of what a notebook's output holds in several forms, the first of these is shown: nothing that needs a script
_SHOWN = ["image/svg+xml", "text/html", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain"]


def write_page(notebook: Path, page: Path, *, title: str, hide_code: bool) -> None:
    """Write an executed notebook as one HTML file that loads nothing, for offline reading: no scripts, formulas as
    MathML, pictures inside. A reader sees the old page or the new one, never a part."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter
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
    styles = (HtmlFormatter(style=name, nobackground=True) for name in ("default", "github-dark"))
    light, dark = (style.get_style_defs(".highlight") for style in styles)
    css = f"{(_TEMPLATES / 'page.css').read_text()}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    resources = {"page_title": title, "page_style": css}
    text, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources)
    write_atomically(page, f"{text}{_seal(text, notebook)}")


def page_is_current(page: Path, notebook: Path) -> bool:
    """Whether a page is as write_page made it, of this notebook as it is now. Raises OSError if either can't be read,
    and ValueError if the page is no text."""
    text, start, _ = page.read_text().rpartition(_SEAL) if page.is_file() else ("", "", "")
    return bool(start) and page.read_text() == f"{text}{_seal(text, notebook)}"


def _seal(text: str, notebook: Path) -> str:
    """The last line of a page: hashes of the notebook that it shows, and of itself."""
    return f"{_SEAL}notebook {file_hash(notebook)}, page {short_hash(text)} -->\n"


def _markdown_with_mathml(source: str) -> str:
    """Markdown as HTML, formulas as MathML: MathJax, which notebooks are shown with, would be loaded from elsewhere."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str, display: str = "inline") -> str:
            mathml = convert(body, display=display)
            return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML needs none

        def block_math(self, body: str) -> str:
            return self.inline_math(body, "block")

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)
