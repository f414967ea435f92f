"""Executed notebooks as pages that need no network."""

import html
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from il2m.system.files import write_atomically
from il2m.system.hashes import file_hash, short_hash

_SEAL = "<!-- il2m: "
_LINKS = re.compile(r"(?<=<!-- links -->).*?(?=<!-- /links -->)", re.DOTALL)
_TEMPLATES = Path(__file__).parent / "templates"


def write_page(notebook: Path, page: Path, *, title: str, hide_code: bool) -> None:
    """Write an executed notebook as one HTML file that loads nothing: no scripts, formulas as MathML, pictures inside.
    title: of a notebook without a first heading. hide_code: with sections that show nothing then; else it is folded."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter
    from traitlets.config import Config

    headings: list[dict[str, Any]] = []  # of the page, as its markdown is converted
    # of an output's several forms the exporter shows the first of display_data_priority: no scripts
    options = {"extra_template_paths": [str(_TEMPLATES)], "exclude_input": hide_code}
    options["filters"] = {"markdown2html": partial(_markdown_as_html, headings=headings)}
    exporter = HTMLExporter(config=Config(json.loads((_TEMPLATES / "exporter.json").read_text())), **options)
    exporter.environment.globals["headings"] = headings
    styles = (HtmlFormatter(style=name, nobackground=True) for name in ("default", "github-dark"))
    light, dark = (style.get_style_defs(".highlight") for style in styles)
    css = f"{(_TEMPLATES / 'page.css').read_text()}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    text, _ = exporter.from_filename(str(notebook), {"page_title": title, "page_style": css})
    write_atomically(page, f"{text}{_seal(text, notebook)}")


def page_is_current(page: Path, notebook: Path) -> bool:
    """Whether a page is as it was made and linked, of this notebook as it is now; False where one can't be read."""
    try:
        text, _, seal = page.read_text().rpartition(_SEAL)
        return bool(_LINKS.search(text)) and f"{_SEAL}{seal}" == _seal(text, notebook)
    except (OSError, ValueError):
        return False


def link_page(page: Path, notebook: Path, /, **values: Any) -> None:
    """Put links at the head of a current page, where they are not there yet. values: of templates/links.html.j2."""
    from jinja2 import Environment

    links = Environment(autoescape=True).from_string((_TEMPLATES / "links.html.j2").read_text()).render(values)
    text = page.read_text().rpartition(_SEAL)[0]
    linked = _LINKS.sub(lambda _: links, text, count=1)
    if linked != text:
        write_atomically(page, f"{linked}{_seal(linked, notebook)}")


def _seal(text: str, notebook: Path) -> str:
    """The last line of a page: hashes of the notebook that it shows, and of itself."""
    return f"{_SEAL}notebook {file_hash(notebook)}, page {short_hash(text)} -->\n"


def _markdown_as_html(source: str, headings: list[dict[str, Any]]) -> str:
    """Markdown as HTML. Headings get ids, and are added to ``headings``; formulas become MathML, not MathJax."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **_: Any) -> str:
            name = re.sub(r"\W+", "-", html.unescape(re.sub("<[^>]*>", "", text)).lower()).strip("-")
            name += f"-{len(headings)}" * (not name or name in {other["id"] for other in headings})
            headings.append({"id": name, "level": level, "text": text})
            return f'<h{level} id="{name}">{text}</h{level}>\n'

        def inline_math(self, body: str, display: str = "inline") -> str:
            return convert(body, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")

        def block_math(self, body: str) -> str:
            return self.inline_math(body, "block")

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)
