"""Notebook 03 in a real JupyterLab, in a real browser: controls are moved, what is shown is what the library computes;
and the report's pages, which need no network.

The browser is the system's chromium; where there is none these tests are skipped, but not in CI (``CI=true``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from browsing import MARKS, PATIENCE, Axe, sync_api
from tiny import PROJECT, TinyStudy

from il2m.explorer.explore import STORY
from il2m.explorer.outcomes import Choice, Exponents, RunOutcomes, Shown, accuracies
from il2m.explorer.views import VIEWS
from il2m.notebook.catalogue import find_notebooks
from il2m.report.build import build_report

NAME = "03_dual_memory_analysis"
THEMES, WIDTHS = ("JupyterLab Light", "JupyterLab Dark"), (420, 800, 1100, 1440)
USABLE = """() => [...document.querySelectorAll(
    '.il2m-explorer :is(button, input, select, summary, [tabindex="0"], [contenteditable=true])'
)].filter(it => it.offsetParent && !it.disabled)"""
ARE_BELOW_EACH_OTHER = """expected => {
    const tops = [...document.querySelectorAll('.il2m-figures figure')].map(it => it.getBoundingClientRect().top);
    return (tops[1] > tops[0]) === expected;
}"""
DESCRIBED = "it => `${it.tagName} ${it.ariaLabel || ''} ${it.innerText.slice(0, 40)}`"
LENGTHS = "all => all.map(it => it.getBoundingClientRect().width)"
OF_THEIR_OWN = ("favicon", "Failed to load resource", "webpack", "LSP", "service worker", "ResizeObserver")

RUN_ALL = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await Promise.all([app.restored, panel.context.ready, panel.revealed, panel.sessionContext.ready]);
    await panel.sessionContext.session.kernel.info;  // what is run before the kernel has answered may get lost
    app.commands.execute('notebook:run-all-cells');
}"""

pytestmark = MARKS


@pytest.fixture(scope="module")
def notebook(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notebook 03 in a folder of its own, its parameters set to the tiny study."""
    path = tmp_path_factory.mktemp("lab") / f"{NAME}.ipynb"
    content = nbformat.read(find_notebooks() / f"{NAME}.ipynb", as_version=4)
    cell = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('out_dir = "../runs/quickstart"', f"out_dir = {str(tiny_study.out_dir)!r}")
    assert str(tiny_study.out_dir) in cell.source
    nbformat.write(content, path)
    return path


@dataclass(frozen=True)
class Lab:
    port: int
    token: str

    def address(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"


def as_make_lab_starts_it() -> tuple[dict[str, str], list[str]]:
    """What ``make lab`` tells JupyterLab: variables of its environment, and options."""
    make = ["make", "--dry-run", "--silent", "--always-make", "lab"]
    printed = subprocess.run(make, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    command = printed[printed.index("JUPYTER_CONFIG_PATH=") :].replace("\\\n", " ")
    variable, *words = shlex.split(command)
    name, _, value = variable.partition("=")
    return {name: value.partition("$")[0]}, [word for word in words if word.startswith("--LabApp.")]


@pytest.fixture(scope="module")
def lab(notebook: Path) -> Iterator[Lab]:
    """A JupyterLab on a free port of this machine only, behind a token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Lab(free.getsockname()[1], secrets.token_hex(16))
    home = notebook.parent
    shutil.copy(find_notebooks() / "index.ipynb", home)
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "RUNTIME")}
    environment = {name: value for name, value in os.environ.items() if name != "IL2M_HEADLESS"} | folders
    tracker = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells out of sight are not part of the page
    variables, options = as_make_lab_starts_it()
    environment |= variables | {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "OMP_NUM_THREADS": "1"}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "JUPYTER_TOKEN": server.token}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={server.port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={home}", "--allow-root"]
    command += ["--LabApp.expose_app_in_browser=True", *options]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=home)
        try:
            _wait_for_server(server, process, home / "server.log")
            yield server
        finally:
            process.terminate()  # ends its kernels too
            process.wait(timeout=60)


def _wait_for_server(server: Lab, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urllib.request.urlopen(server.address("api/status"), timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)


@dataclass
class Explorer:
    """The explorer's page in the browser, and what the browser complained of."""

    page: sync_api.Page
    complaints: list[str]

    def press(self, name: str) -> None:
        self.page.locator(".jp-OutputArea button", has_text=re.compile(f"^{re.escape(name)}$")).first.click()

    def set_slider(self, description: str, key: str, presses: int) -> None:
        slider = self.page.locator(".widget-slider", has_text=description).locator(".noUi-handle").first
        slider.wait_for(state="visible")
        slider.focus()
        for _ in range(presses):
            slider.press(key)

    def shows(self, text: str, where: str = ".il2m") -> None:
        """Wait until some part of the page holds ``text``."""
        self.page.locator(where, has_text=text).first.wait_for(state="attached", timeout=PATIENCE)

    def shows_numbers(self, shown: Shown) -> None:
        """Wait until the first table of numbers is this one, rounded as in the figure."""
        numbers = shown.numbers if shown.table is None else shown.table
        expected = [shown.number_format.format(value) for value in numbers.to_numpy().ravel() if not np.isnan(value)]
        self.page.wait_for_function(
            """expected => {
                const table = [...document.querySelectorAll('.il2m table')].find(t => t.offsetParent);
                const found = table ? [...table.querySelectorAll('td')].map(cell => cell.innerText.trim()) : [];
                return JSON.stringify(found.filter(text => text)) === JSON.stringify(expected);
            }""",
            arg=expected,
            timeout=PATIENCE,
        )

    def figure(self) -> str | None:
        return self.page.locator(".il2m svg").first.text_content()

    def set_theme(self, theme: str) -> None:
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", arg=theme)
        self.page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")


def _run_all(page: sync_api.Page) -> None:
    """Run all cells, again where the request got lost: a session that is still being set up forgets it."""
    first_has_run = page.locator(".jp-InputArea-prompt", has_text="[1]:")
    for patience in (PATIENCE / 6, PATIENCE / 3, PATIENCE):
        page.evaluate(RUN_ALL)
        with contextlib.suppress(sync_api.TimeoutError):
            first_has_run.wait_for(state="attached", timeout=patience)
            return
    raise AssertionError("JupyterLab did not run the notebook's first cell")


def test_jupyterlab_opens_on_the_start_page_without_a_question_about_news(lab: Lab, browser: sync_api.Browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(lab.address())
    page.locator(".jp-RenderedMarkdown h1", has_text="Which notebook is for what").wait_for()
    page.locator(".jp-RenderedMarkdown table a", has_text="lesson").wait_for()
    page.evaluate("async () => { await window.jupyterapp.restored; }")
    page.wait_for_timeout(3000)  # the question used to come soon after
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 0
    assert page.locator(".Toastify__toast").count() == 0
    page.locator(".jp-RenderedMarkdown table a", has_text="03").click()
    page.locator(f".lm-TabBar-tabLabel:has-text('{NAME}')").first.wait_for()
    page.close()


@pytest.fixture(scope="module")
def explorer(lab: Lab, notebook: Path, browser: sync_api.Browser) -> Iterator[Explorer]:
    """Notebook 03, opened and run as a person does."""
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        # in a workspace of its own: JupyterLab may have stored what the start page's test left open
        page.goto(lab.address(f"lab/workspaces/explorer/tree/{NAME}.ipynb"))
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        _run_all(page)
        page.locator(".il2m svg").first.wait_for(state="attached")
        yield Explorer(page, complaints)
    finally:
        page.screenshot(path=notebook.parent / "at_the_end.png")  # for who looks into a failure
        page.close()


def test_notebook_03_in_jupyterlab(explorer: Explorer, tiny_study: TinyStudy):
    off, on = RunOutcomes(tiny_study.off), RunOutcomes(tiny_study.on)
    move_state_method_and_distillation(explorer, off, on)
    move_what_if_sliders(explorer, off)
    look_at_images_and_save_a_view(explorer, off)
    switch_themes(explorer)
    walk_the_tour_by_keyboard(explorer)
    reach_all_controls_by_keyboard(explorer)
    fit_any_width(explorer)
    find_nothing_that_keeps_anybody_out(explorer)
    check_that_nothing_went_wrong(explorer)


def move_state_method_and_distillation(explorer: Explorer, off: RunOutcomes, on: RunOutcomes) -> None:
    shown = VIEWS["true-class scores"](off, Choice(state=3, method="FT"))
    explorer.shows(shown.finding)
    explorer.shows_numbers(shown)

    explorer.set_slider("State", "ArrowLeft", 1)
    explorer.shows(VIEWS["true-class scores"](off, Choice(state=2, method="FT")).finding, ".il2m figure")

    explorer.press("errors")
    explorer.shows_numbers(VIEWS["errors"](off, Choice(state=2, method="FT")))
    before = explorer.figure()
    explorer.page.locator(".widget-dropdown", has_text="Method").locator("select").select_option("IL2M-no-gate")
    chosen = VIEWS["errors"](off, Choice(state=2, method="IL2M-no-gate"))
    explorer.shows_numbers(chosen)
    explorer.shows(chosen.finding, ".il2m figure")
    assert explorer.figure() != before

    explorer.press("distillation on")
    distilled = VIEWS["errors"](on, Choice(state=2, method="IL2M-no-gate"))
    explorer.shows_numbers(distilled)
    explorer.shows(distilled.finding, ".il2m figure")
    explorer.press("distillation off")
    explorer.shows_numbers(chosen)


def move_what_if_sliders(explorer: Explorer, off: RunOutcomes) -> None:
    explorer.press("what if")
    explorer.set_slider("State", "End", 1)
    explorer.set_slider("Class means, exponent", "Home", 1)
    explorer.set_slider("Confidence, exponent", "End", 1)
    explorer.set_slider("Gate", "Home", 1)
    exponents = Exponents(means=0, confidence=2, gate=0)
    shown = VIEWS["what if"](off, Choice(state=3, exponents=exponents))
    expected = accuracies(off.what_if(3, exponents), off.labels(3), off.run.states.num_past(3), 1)
    assert shown.numbers.loc["your choice"].to_dict() == expected
    explorer.shows_numbers(shown)
    explorer.press("IL2M's own choice")
    explorer.shows_numbers(VIEWS["what if"](off, Choice(state=3)))


def look_at_images_and_save_a_view(explorer: Explorer, off: RunOutcomes) -> None:
    explorer.press("images")
    explorer.page.locator(".il2m svg image").first.wait_for(state="attached")
    explorer.press("accuracy")
    expected = VIEWS["accuracy"](off, Choice(state=3, method="IL2M-no-gate"))
    explorer.shows_numbers(expected)
    explorer.press("Save this view")
    with explorer.page.expect_download() as download:
        explorer.page.locator(".il2m a", has_text="CSV").click()
    table = pd.read_csv(download.value.path(), index_col=["run", "state"])
    np.testing.assert_array_equal(table.to_numpy(), expected.numbers.to_numpy())


def switch_themes(explorer: Explorer) -> None:
    colours = {}
    for theme in THEMES:
        explorer.set_theme(theme)
        colours[theme] = explorer.page.locator(".il2m svg text").first.evaluate("text => getComputedStyle(text).fill")
    light, dark = (np.mean([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours.values())
    assert light < 100
    assert dark > 155


def walk_the_tour_by_keyboard(explorer: Explorer) -> None:
    page = explorer.page
    for number, step in enumerate(STORY["tour"], start=1):
        page.get_by_role("button", name="Next", exact=True).press("Enter")
        explorer.shows(f"{number} of 7: {step['title']}")
        page.get_by_role("button", name=step["set"]["view"], exact=True, pressed=True).wait_for()
        explorer.shows(STORY["views"][step["set"]["view"]]["about"])
    page.get_by_role("button", name="Back", exact=True).press("Enter")
    explorer.shows("6 of 7")


def reach_all_controls_by_keyboard(explorer: Explorer) -> None:
    """The Tab key goes through all that can be used, in the order in which it stands, and shows where it is."""
    page = explorer.page
    explorer.press("what if")  # the most controls
    page.get_by_role("img", name=re.compile("^what if")).wait_for()
    page.get_by_role(
        "button", name=STORY["buttons"]["reset"]["description"]
    ).wait_for()  # controls come after the figure
    there = page.evaluate(f"() => ({USABLE})().map({DESCRIBED})")
    assert len(there) > 20
    page.get_by_role("button", name="Back", exact=True).focus()
    reached = []
    for _ in there:
        focused = page.evaluate(f"() => ({DESCRIBED})(document.activeElement)")
        reached.append(focused)
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or focused.startswith("BUTTON Back"), focused  # not focused by a key
        page.keyboard.press("Tab")
    assert reached == there


def fit_any_width(explorer: Explorer) -> None:
    """Nothing sticks out, sliders can be aimed at, runs stand below each other where it is narrow, type can be read."""
    page = explorer.page
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    for view in ("what if", "true-class scores"):
        explorer.press(view)
        explorer.press("side by side")
        page.locator(".il2m-figures figure").nth(1).wait_for()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1400})
            page.wait_for_function("width => document.querySelector('.jp-Notebook').clientWidth <= width", arg=width)
            page.wait_for_function(ARE_BELOW_EACH_OTHER, arg=width < 1000)  # once it has been laid out anew
            sticks_out = page.locator(".il2m-explorer").evaluate("it => it.scrollWidth - it.clientWidth")
            assert sticks_out <= 1, (view, width)
            tracks = page.locator(".il2m-explorer .noUi-base").evaluate_all(LENGTHS)
            assert min(length for length in tracks if length) >= 60, (view, width)
            types = page.locator(".il2m-figures svg text").evaluate_all(
                "all => all.map(it => it.getBBox().height * it.getScreenCTM().a)"
            )
            assert min(height for height in types if height) >= 9, (view, width)  # one is empty
    page.set_viewport_size({"width": 1600, "height": 1400})


def find_nothing_that_keeps_anybody_out(explorer: Explorer) -> None:
    """What axe-core finds in the explorer itself, in both themes; JupyterLab around it is not ours."""
    for theme in THEMES:
        explorer.set_theme(theme)
        for view in ("images", "what if", "one class", "accuracy"):
            explorer.press(view)
            explorer.shows(STORY["views"][view]["about"])
            found = Axe().run(explorer.page, context=".il2m-explorer").response["violations"]
            assert [(each["impact"], each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def check_that_nothing_went_wrong(explorer: Explorer) -> None:
    assert explorer.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert explorer.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert [text for text in explorer.complaints if not any(part in text for part in OF_THEIR_OWN)] == []
    assert explorer.page.locator(".il2m svg").count() == 2  # one of each run: no figure was left behind


def test_exported_html_holds_the_pictures(notebook: Path, browser: sync_api.Browser, tmp_path: Path):
    executed = tmp_path / "executed.ipynb"
    commands = (
        ["papermill", str(notebook), str(executed), "--no-progress-bar", "--log-level", "ERROR"],
        ["nbconvert", "--to", "html", str(executed)],
    )
    for command in commands:
        result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    assert executed.stat().st_size < 2_000_000
    assert "application/vnd.jupyter.widget-view+json" not in json.dumps(nbformat.read(executed, as_version=4))
    page = browser.new_page()
    page.goto(executed.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    for view in VIEWS:
        page.locator("h4", has_text=f"{view.capitalize()} (").wait_for(state="attached", timeout=PATIENCE)
    figures = page.locator("svg[role=img]").evaluate_all("all => all.map(it => [it.ariaLabel, it.clientWidth])")
    assert [label.partition(", ")[0] for label, _ in figures] == [view for view in VIEWS for _ in range(2)]
    assert min(width for _, width in figures) > 300
    assert page.locator("img").count()
    page.close()


@pytest.mark.xdist_group("report")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report_is_read_without_a_network(half_done_study: Path, browser: sync_api.Browser, theme: str):
    index = build_report(half_done_study)
    page = browser.new_page(color_scheme=theme)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(index.as_uri())
    widths = page.locator("svg").evaluate_all("figures => figures.map(figure => figure.getBoundingClientRect().width)")
    assert widths
    assert min(widths) > 300
    ink, paper = (
        np.mean([int(n) for n in re.findall(r"\d+", page.locator("body").evaluate(f"body => {code}"))[:3]])
        for code in ("getComputedStyle(body).color", "getComputedStyle(body).backgroundColor")
    )
    assert (ink < paper) == (theme == "light")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # wide tables scroll, the page does not

    page.locator("a", has_text="ablation").first.click()
    page.locator("math[display=block] mfrac").first.wait_for()
    assert page.locator("math[display=block]").first.evaluate("formula => formula.getBoundingClientRect().height") > 20
    assert page.url.startswith(index.parent.as_uri())
    assert len({url for url in asked if url.endswith(".html")}) == 2
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    page.close()
