"""Pages of executed notebooks, and the report over a study's folder: whole, offline, with every link resolved."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tiny import PROJECT, TinyStudy

from il2m import plots
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.batch.records import write_plan
from il2m.cli import main
from il2m.errors import InputError
from il2m.notebook.catalogue import BASE, find_notebooks
from il2m.notebook.execute import execute_notebook
from il2m.notebook.pages import page_is_current, write_page
from il2m.report.build import build_report, refresh_report, report_is_current
from il2m.report.verify import STALE, repair_command, verify_study
from il2m.results.collect import collect_results
from il2m.results.comparison import mean_results
from il2m.study.runs import Run

pytestmark = [pytest.mark.papermill, pytest.mark.xdist_group("report")]  # they share one executed study


class Page(HTMLParser):
    """What a page would load, what it links to, its elements and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "srcset", "data", "poster", "action") or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] != ["style"]:
            self.text += data


def check_self_contained(path: Path) -> Page:
    page = Page(path)
    assert all(address.startswith("data:") for address in page.loaded)
    assert not {"script", "iframe", "object", "embed"} & set(page.elements)
    assert not re.search(r"url\((?!#)|@import", path.read_text())  # but parts of a figure name each other
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
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    nbformat.write(notebook, tmp_path / path.name)
    write_page(tmp_path / path.name, tmp_path / "page.html", title=path.stem, hide_code=False)
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


def make_page(folder: Path, *cells: nbformat.NotebookNode, name: str = "a", hide_code: bool = False) -> str:
    notebook = write_notebook(folder / f"{name}.ipynb", *cells)
    write_page(notebook, folder / f"{name}.html", title=name, hide_code=hide_code)
    check_self_contained(folder / f"{name}.html")
    return (folder / f"{name}.html").read_text()


def test_headings_have_ids_and_are_the_contents(tmp_path: Path):
    text = "# 1 · A\n\n## Of $x$ & <b>b</b>\n\n### Same\n\n## Same"
    page = make_page(tmp_path, new_markdown_cell(text), name="02_fine_tuning-fine_tuning-0123456789")
    assert re.findall(r"<(h\d) id=\"([^\"]+)\"", page) == [
        ("h1", "1-a"),
        ("h2", "of-x-b"),
        ("h3", "same"),
        ("h2", "same-3"),
    ]
    assert re.findall(r'<a href="#([^"]+)"', page) == ["of-x-b", "same", "same-3"]
    assert page.count("<h1") == 1
    assert "<title>Fine tuning of fine_tuning-0123456789</title>" in page
    named = Page(tmp_path / "02_fine_tuning-fine_tuning-0123456789.html").ids
    assert len(named) == len(set(named))


def test_code_is_folded_but_for_the_parameters_of_the_run(tmp_path: Path):
    cells = [new_code_cell(f"value = {i}") for i in range(3)]
    cells[0].metadata["tags"], cells[1].metadata["tags"] = ["parameters"], ["injected-parameters"]
    page = make_page(tmp_path, *cells)
    folds = re.findall(r'<details class="code"( open="")?>\s*<summary>([^<]+)</summary>', page)
    assert [(name, bool(is_open)) for is_open, name in folds] == [
        ("Parameters, defaults", False),
        ("Parameters of this run", True),
        ("Code", False),
    ]


def test_sections_in_which_nothing_is_shown_leave_a_page_without_code(tmp_path: Path):
    shown = [new_output("stream", text="shown")]
    titles = ["# Title", "## Empty", "### Empty below", "## Full\n\nProse of it", "### Filled", "### Bare", "## Last"]
    cells = [each for title in titles for each in (new_markdown_cell(title), new_code_cell("1"))]
    cells[titles.index("### Filled") * 2 + 1].outputs = shown
    page = make_page(tmp_path, *cells, hide_code=True, name="study")
    assert re.findall(r"<h\d[^>]*>([^<]+)", page) == ["study", "Full", "Filled"]
    assert "Prose of it" in page
    assert all(title.lstrip("# ").partition("\n")[0] in make_page(tmp_path, *cells) for title in titles)


def test_figures_are_part_of_the_page_and_take_its_colours(tmp_path: Path):
    code = "import matplotlib.pyplot as plt\nfrom il2m import plots\n\nplots.use_style()\n"
    code += "ax = plots.plot_by_state({'FT': [0.9, 0.5], '<IL2M>': [0.9, 0.6]})\nax.set_title('IL2M <wins> & more');"
    notebook = write_notebook(tmp_path / "figure.ipynb", new_code_cell(code))
    assert execute_notebook(notebook, tmp_path / "out.ipynb", {}) == ""
    page = (tmp_path / "out.html").read_text()
    check_self_contained(tmp_path / "out.html")
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert 'aria-label="IL2M &lt;wins&gt; &amp; more"' in svg
    assert "currentColor" in svg
    assert plots.INK not in svg
    assert plots.INK not in page.partition("</style>")[2]
    assert "var(--paper" in svg  # below the legend


# the report of a whole folder


def check_links(path: Path) -> list[str]:
    """Every link of a page leads to something that is there; returns the files."""
    addresses = [urllib.parse.unquote(link) for link in Page(path).links if not link.startswith(("#", "data:"))]
    for address in addresses:
        assert ":" not in address
        assert (path.parent / address).is_file(), address
    return addresses


def without_page(folder: Path, pattern: str) -> Path:
    page = next(folder.glob(pattern))
    page.unlink()
    return page


def test_report_of_a_half_done_study_says_what_is_missing_and_why(half_done_study: Path):
    page = check_self_contained(build_report(half_done_study))
    assert "3 of 8 planned notebooks done, 1 failed, 3 blocked, 1 missing" in page.text
    assert "training diverged" in page.text
    assert "is not as it left it" in page.text
    assert "A branch that <b>fails</b> & one that works." in page.text
    assert f"run {shlex.quote(str(half_done_study.parent / 'tiny.yaml'))} --out" in page.text


def test_report_links_to_every_page_and_to_nothing_else(half_done_study: Path):
    linked = check_links(build_report(half_done_study))
    pages = {str(path.relative_to(half_done_study)) for path in half_done_study.glob("notebooks/*.html")}
    assert set(linked) == {*pages, "explorer.html"}
    assert sorted(page.partition("-")[0] for page in pages) == [
        "notebooks/01_base_training", "notebooks/01_base_training", "notebooks/02_fine_tuning",
        "notebooks/04_rectification_ablation",
    ]  # fmt: skip
    assert sum(page.endswith(".failed.html") for page in pages) == 1


def test_pages_of_executed_notebooks_are_self_contained(half_done_study: Path):
    build_report(half_done_study)
    pages = sorted(half_done_study.glob("notebooks/*.html"))
    assert len(pages) == 4
    for path in pages:
        page = check_self_contained(path)
        check_links(path)
        assert ("training diverged" in page.text) == path.name.endswith(".failed.html")


def test_pages_lead_back_to_the_report_and_on_to_the_next(half_done_study: Path):
    build_report(half_done_study)
    pages = sorted(half_done_study.glob("notebooks/0[1-4]*.html"))
    runs = {page.stem.partition("-")[2]: page.name for page in pages if page.name.startswith("04_")}
    assert len(runs) == 1
    for run, last in runs.items():
        second = next(page for page in pages if page.name.startswith("02_") and page.stem.endswith(run))
        base = Run(half_done_study / run).base.name
        first = next(page for page in pages if page.stem.endswith(f"01_base_training-{base}"))
        assert check_links(first)[:1] == ["../index.html"]
        assert second.name in check_links(first)
        assert check_links(second) == ["../index.html", first.name, last]
        assert check_links(half_done_study / "notebooks" / last) == ["../index.html", second.name]


def test_missing_and_old_pages_are_made_and_others_left(half_done_study: Path):
    folder = half_done_study / "notebooks"
    gone = without_page(folder, "02_*.html")
    kept = next(folder.glob("01_*.html"))
    before = kept.stat().st_mtime_ns
    build_report(half_done_study)
    assert gone.is_file()
    assert kept.stat().st_mtime_ns == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # nothing temporary stays
    kept.write_bytes(b"no page")
    index = (half_done_study / "index.html").read_bytes()
    refresh_report(half_done_study)
    assert page_is_current(kept, kept.with_suffix(".ipynb"))
    assert (half_done_study / "index.html").read_bytes() == index, "the report itself was as it should be"


def test_report_of_runs_made_by_hand(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "by hand"
    shutil.copytree(tiny_study.out_dir, out)
    shutil.rmtree(out / tiny_study.on.name / "state_03")
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = check_self_contained(out / "index.html")
    assert check_links(out / "index.html") == ["explorer.html"]
    assert "No grid was run into this folder: its 2 runs came by hand, 1 finished." in page.text
    assert "states 3 not finished" in page.text
    explorer = (out / "explorer.html").read_text()
    assert tiny_study.off.name in explorer
    assert tiny_study.on.name not in explorer, "it is not finished"
    refresh_report(out)
    assert (out / "explorer.html").read_text() == explorer, "its states are as they were"
    (out / "explorer.html").write_text(explorer[:-100])
    refresh_report(out)
    assert (out / "explorer.html").read_text() != explorer[:-100], "damaged, and made again"
    assert report_is_current(out)
    assert report_is_current(out, [])
    (plugin := tmp_path / "mine.py").write_text("import il2m\n")
    assert not report_is_current(out, [str(plugin)]), "it was made without"
    notebook, index = out / "notebooks" / "05_report.ipynb", out / "index.html"
    for damage in (notebook.unlink, lambda: notebook.write_text(notebook.read_text() + " ")):
        damage()
        assert [(each.path, each.kind) for each in verify_study(out) if each.path == index] == [(index, STALE)]
        refresh_report(out)  # as the last thing that il2m run does
        assert index not in [each.path for each in verify_study(out)], "of a notebook that is there"
    means = mean_results(collect_results(out)).query("score_kind == 'raw'").set_index("method")
    for method in ("FT", "IL2M"):
        assert f"{means.loc[method, 'top1']:.1%}" in page.text
    executed = nbformat.read(out / "notebooks" / "05_report.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_the_printed_repair_of_a_report_without_its_notebook_mends_it(tiny_study: TinyStudy, tmp_path: Path):
    out = Path(shutil.copytree(tiny_study.out_dir, tmp_path / "my study"))
    build_report(out)
    (out / "notebooks" / "05_report.ipynb").unlink()
    assert (out / "index.html") in [each.path for each in verify_study(out)]
    il2m = tmp_path / "il2m"
    il2m.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m il2m.cli "$@"\n')
    il2m.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    subprocess.run(repair_command(out), shell=True, env=environment, check=True)
    assert verify_study(out) == []


def test_no_process_of_a_report_or_a_status_looks_for_torch(tiny_study: TinyStudy, tmp_path: Path):
    shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    write_plan(tmp_path / "study", Grid("one"), (), [Job(BASE, tiny_study.base.name, {"out_dir": "study"})], ["il2m"])
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'looked for')!r}, 'a').close()\nraise ImportError")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    for command in ("status", "report"):
        words = [sys.executable, "-m", "il2m.cli", command, "study"]
        result = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "study" / "index.html").is_file()
    assert not (tmp_path / "looked for").exists()


def test_report_where_nothing_is_finished(tiny_study: TinyStudy, tmp_path: Path):
    shutil.copytree(tiny_study.out_dir / tiny_study.base.name, tmp_path / tiny_study.base.name)
    page = check_self_contained(build_report(tmp_path))
    assert not (tmp_path / "explorer.html").exists()
    assert "No run is finished yet" in page.text


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(InputError, match="holds no runs and no plans: expected a study's folder"):
        build_report(tmp_path)
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
