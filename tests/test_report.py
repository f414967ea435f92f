"""Pages of executed notebooks, and the report over a study's folder: whole, offline, with every link resolved."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from il2m.grids import find_notebooks
from il2m.report import write_page


class Page(HTMLParser):
    """What a page would load, what it links to, its elements and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.elements: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster", "action") or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def check_self_contained(path: Path) -> Page:
    page = Page(path)
    assert all(address.startswith("data:") for address in page.loaded)
    assert not {"script", "iframe", "object", "embed"} & set(page.elements)
    assert not re.search(r"url\(|@import", path.read_text())
    assert "default-src 'none'" in path.read_text()
    return page


def write_notebook(path: Path, *cells: nbformat.NotebookNode) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def test_formulas_become_mathml(tmp_path: Path):
    text = "# Of $\\mu_P(C_i)$\n\nbecause\n\n$$\\frac{a}{b} < c$$\n\nbut `$x$` is code, and this costs 3 \\$"
    notebook = write_notebook(tmp_path / "a.ipynb", new_markdown_cell(text))
    write_page(notebook, tmp_path / "a.html", title="A", hide_code=False)
    page = check_self_contained(tmp_path / "a.html")
    assert page.elements.count("math") == 2
    assert {"mfrac", "msub"} <= set(page.elements)
    assert "$x$" in page.text
    assert "frac" not in page.text.replace("mfrac", "")


@pytest.mark.parametrize("path", sorted(find_notebooks().glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_is_converted(path: Path, tmp_path: Path):
    write_page(path, tmp_path / "page.html", title=path.stem, hide_code=True)
    page = check_self_contained(tmp_path / "page.html")
    prose = "".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    written = re.findall(r"\$\$.+?\$\$|\$.+?\$", prose, re.DOTALL)
    assert page.elements.count("math") == len(written)
    assert "$" not in page.text
    assert "\\" not in page.text
    assert "merror" not in page.elements


def test_output_that_holds_html_stays_text(tmp_path: Path):
    harm = "<script>alert(1)</script><img src='http://example.org/x.png'>"
    outputs = [
        new_output("stream", name="stdout", text=harm),
        new_output("execute_result", data={"text/plain": harm}),
        new_output("error", ename="E", evalue=harm, traceback=[f"\x1b[31mE\x1b[0m: {harm}"]),
    ]
    cell = new_code_cell(f"print({harm!r})", outputs=outputs)
    write_page(write_notebook(tmp_path / "a.ipynb", cell), tmp_path / "a.html", title=harm, hide_code=False)
    page = check_self_contained(tmp_path / "a.html")
    assert page.text.count(harm) >= 4  # title, stream, result and traceback; in the source it is split by colours
    assert page.loaded == ["data:,"]


def test_outputs_that_need_a_script_are_shown_as_text(tmp_path: Path):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "IntSlider(value=3)"}
    outputs = [
        new_output("display_data", data=data),
        new_output("display_data", data={"application/javascript": "alert(1)", "text/plain": "a script"}),
    ]
    notebook = write_notebook(tmp_path / "a.ipynb", new_code_cell("slider", outputs=outputs))
    write_page(notebook, tmp_path / "a.html", title="A", hide_code=False)
    page = check_self_contained(tmp_path / "a.html")
    assert "IntSlider(value=3)" in page.text
    assert "a script" in page.text


def test_code_is_hidden_only_if_asked(tmp_path: Path):
    outputs = [new_output("stream", name="stdout", text="shown")]
    notebook = write_notebook(tmp_path / "a.ipynb", new_code_cell("hidden_or_not = 1", outputs=outputs))
    for hide in (True, False):
        write_page(notebook, tmp_path / "a.html", title="A", hide_code=hide)
        page = Page(tmp_path / "a.html")
        assert "shown" in page.text
        assert ("hidden_or_not" in page.text) is not hide
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.ipynb"]  # nothing temporary stays


def test_pages_are_made_without_torch():
    code = "import il2m.report, sys; sys.exit('torch' in sys.modules or 'nbconvert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
