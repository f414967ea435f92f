"""The shared explorer in a real browser, from a file: controls are moved, what is drawn is what the notebook's explorer
shows, nothing is asked of a network, and whoever can't see or use a mouse can use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from browsing import MARKS, PATIENCE, Axe, sync_api
from tiny import TinyStudy

import il2m
from il2m.explorer.outcomes import Exponents, RunOutcomes
from il2m.explorer.share import share
from il2m.explorer.views import VIEWS, Choice
from il2m.methods.registry import METHODS
from il2m.system.hashes import read_sealed, write_sealed

NAMES = ["</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>", "{{ 7 * 7 }}"]
NAMES += ['O\'Brien & "sons"', "<b>five</b>", "six"]
WIDTHS, THEMES = (420, 1100), ("light", "dark")

pytestmark = MARKS


@pytest.fixture(scope="module")
def shared(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RunOutcomes], Path]:
    """Two runs whose classes have names that would break a careless page, and the page."""
    folder = tmp_path_factory.mktemp("shared") / "study"
    shutil.copytree(tiny_study.out_dir, folder)
    for path in folder.glob("*/config.json"):
        write_sealed(path, {**read_sealed(path), "class_names": NAMES})
    runs = [folder / tiny_study.off.name, folder / tiny_study.on.name]
    return [RunOutcomes(type(tiny_study.off)(run)) for run in runs], share(runs, folder.parent / "explorer.html")


class Shared:
    """The page in a tab of its own, with what it asked for and complained of."""

    def __init__(self, browser: sync_api.Browser, path: Path, width: int = 1100, theme: str = "light") -> None:
        self.tab = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 900})
        self.tab.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(path.as_uri())
        self.wait()

    def wait(self) -> None:
        self.tab.locator("body[data-drawn=yes]").wait_for()

    def choose(self, **controls: object) -> None:
        """Set controls by name; sliders by their place."""
        for name, value in controls.items():
            found = self.tab.locator(f"#controls [name={name}]")
            if name == "view":
                self.tab.get_by_role("radio", name=str(value), exact=True).check(force=True)
            elif name in ("method", "label", "top", "origin", "gate"):
                found.select_option(str(value))
            else:
                found.fill(str(value))
            self.wait()

    def rows(self, run: int, figure: int = 0) -> list[dict]:
        """What a figure's Vega view draws."""
        return self.tab.evaluate(f"window.explorer.drawn.views[{run}][{figure}].data('rows')")


@pytest.fixture(scope="module")
def page(browser: sync_api.Browser, shared: tuple[list[RunOutcomes], Path]) -> Iterator[Shared]:
    page = Shared(browser, shared[1])
    yield page
    assert page.complaints == []
    assert page.asked == [shared[1].as_uri()]
    page.tab.close()


def test_it_opens_on_fine_tuning(page: Shared):
    assert page.tab.locator("#title").inner_text() == "True-class scores (FT, state 3)"
    assert page.tab.evaluate("window.broken") is None


@pytest.mark.parametrize(("method", "state"), [("FT", 3), ("IL2M", 3), ("IL2M-no-gate", 2), ("NEM", 3)])
def test_figures_are_those_of_the_notebook(
    page: Shared, shared: tuple[list[RunOutcomes], Path], method: str, state: int
):
    page.choose(view="true-class scores", method=method, state=state)
    for run, outcomes in enumerate(shared[0]):
        expected = VIEWS["true-class scores"](outcomes, Choice(state, method))
        drawn = {(row["line"], row["state"]): row["value"] for row in page.rows(run)}
        for group, b in product(("past", "new"), (2, 3)):
            assert drawn[f"{group} classes", b] == pytest.approx(expected.numbers.loc[b, group], abs=1e-6)
        assert (("past classes, FT", 3) in drawn) == (method not in ("FT", "NEM"))
        assert page.tab.locator(".found").nth(run).inner_text() == expected.finding
    page.choose(view="predictions")
    for run, outcomes in enumerate(shared[0]):
        numbers = VIEWS["predictions"](outcomes, Choice(state, method)).numbers
        drawn = {(row["series"], row["origin"]): row["value"] for row in page.rows(run)}
        for b in numbers.index:
            assert drawn[method, b] == pytest.approx(numbers.loc[b, "predicted"], abs=1e-6)
            assert drawn["truth", b] == pytest.approx(numbers.loc[b, "truth"], abs=1e-6)
    page.choose(view="states")
    for run, outcomes in enumerate(shared[0]):
        numbers = VIEWS["states"](outcomes, Choice(state, method)).numbers
        for row in page.rows(run):
            share = numbers.loc[row["true"], f"predicted {row['predicted']}"]
            assert row["value"] == pytest.approx(share, abs=1e-6)
    for top in (5, 1):
        page.choose(view="accuracy", top=top)
        for run, outcomes in enumerate(shared[0]):
            numbers = VIEWS["accuracy"](outcomes, Choice(state, method, top=top)).numbers
            drawn = {(row["line"], row["state"]): row["value"] for row in page.rows(run)}
            assert drawn == {(m, b): pytest.approx(numbers.loc[b, m], abs=1e-6) for m in numbers for b in (1, 2, 3)}


def test_one_class_is_that_of_the_notebook_and_a_point_chooses_it(page: Shared, shared: tuple[list[RunOutcomes], Path]):
    page.choose(view="one class", method="IL2M", state=3, label=1)
    for run, outcomes in enumerate(shared[0]):
        numbers = VIEWS["one class"](outcomes, Choice(3, "IL2M", label=1)).numbers.iloc[:2]  # when new, now
        (point,) = [row for row in page.rows(run) if row["place"] == 1]
        assert [point["when_new"], point["now"]] == pytest.approx(list(numbers.iloc[:, -1]), abs=1e-6)
        lines = {row["state"]: row["value"] for row in page.rows(run, 1) if not row["line"].endswith("FT")}
        assert [lines[1], lines[3]] == pytest.approx(list(numbers["mean"]), abs=1e-5)
    mark = page.tab.locator(".figure").first.locator("path[fill='#0072B2']").first
    mark.hover(force=True)
    told = page.tab.locator("#vg-tooltip-element").inner_text()
    assert any(name in told for name in NAMES)  # as text
    before = page.tab.locator("[name=label]").input_value()
    mark.click(force=True)
    page.tab.wait_for_function(f"document.querySelector('[name=label]').value !== '{before}'")
    page.wait()
    assert page.tab.evaluate("window.broken") is None


def test_distances_share_no_axis_and_no_sentence_with_scores(page: Shared):
    page.choose(view="one class", method="NEM", state=3, label=1)
    assert {row["line"] for row in page.rows(0, 1)} == {"its validation images"}
    found = page.tab.locator(".found").first.inner_text()
    assert "mean negated distance" in found
    assert "μ" not in found
    assert "mean negated distance of" in page.tab.locator("body").text_content()
    page.choose(view="one class", method="IL2M", state=3, label=1)
    assert "mean score" in page.tab.locator(".found").first.inner_text()


def test_axes_and_tables_are_in_order(page: Shared, shared: tuple[list[RunOutcomes], Path]):
    """States once each on the axis, and in order as heads of columns; undefined ratios have no number."""
    labels = "[...document.querySelector('.figure').querySelectorAll('.role-axis-label')].map(axis => axis.textContent)"
    for view in ("true-class scores", "accuracy"):
        page.choose(view=view, method="IL2M", state=3)
        assert "123" in page.tab.evaluate(labels)
        heads = page.tab.locator("#numbers table").first.locator("thead th").all_text_contents()
        assert heads[1:] == ["state 1", "state 2", "state 3"]
    page.choose(view="one class", state=3)
    titles = []
    for method in ("FT", "NEM", "FT"):
        page.choose(method=method)
        titles.append(page.tab.locator(".figure").nth(1).locator(".role-axis-title").nth(1).text_content())
    assert titles == ["mean score of this class", "mean negated distance of this class", "mean score of this class"]
    memory, rows = shared[0][0].run.statistics(3), page.tab.locator("#numbers table").nth(1).locator("tbody tr").all()
    for label, row in enumerate(rows):
        when_new, now = memory.initial_means[label], memory.current_means[label]
        ratio = f"{when_new / now:.2f}" if when_new > 0 and now > 0 else "–"
        assert row.locator("td").last.text_content() == ratio
    assert len(rows) == 4


def test_a_method_on_probabilities_shares_no_axis_with_scores(
    browser: sync_api.Browser, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(METHODS, "halved", METHODS["FT"])  # which is taken out again at the end

    @il2m.method("halved", source="this test", score_kinds=("softmax",))
    def halved(state):
        return state.scores * np.where(np.arange(state.scores.shape[1]) < state.num_past, 1, 0.5)

    page = Shared(browser, share([tiny_study.off], tmp_path / "explorer.html"))
    page.choose(view="true-class scores", method="halved", state=3)
    assert {row["line"] for row in page.rows(0)} == {"past classes", "new classes"}
    numbers = VIEWS["true-class scores"](RunOutcomes(tiny_study.off), Choice(3, "halved")).numbers
    drawn = {(row["line"], row["state"]): row["value"] for row in page.rows(0)}
    assert drawn["new classes", 3] == pytest.approx(numbers.loc[3, "new"], abs=1e-6)
    assert "mean true-class probability" in page.tab.locator(".figure").first.inner_html()
    page.choose(view="one class", label=1)
    told = page.tab.locator(".found").first.inner_text()
    assert "mean probability" in told
    assert "μ" not in told  # of raw scores, as the page has the second memory
    assert page.complaints == []
    page.tab.close()


def test_a_long_name_is_broken(browser: sync_api.Browser, tiny_study: TinyStudy, tmp_path: Path):
    shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    for path in tmp_path.glob("study/*/config.json"):
        write_sealed(path, {**read_sealed(path), "class_names": [f"{'long_' * 60}{label}" for label in range(6)]})
    page = Shared(browser, share([tmp_path / "study" / tiny_study.off.name], tmp_path / "explorer.html"), 420)
    page.choose(view="one class", label=1)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 420
    page.tab.close()


def test_what_if_follows_its_sliders_by_keyboard(page: Shared, shared: tuple[list[RunOutcomes], Path]):
    page.choose(view="what if", state=3, top=1)
    page.tab.get_by_role("button", name="IL2M's own choice").click()
    for name, key in (("class means", "ArrowRight"), ("the confidence", "ArrowLeft")):
        page.tab.get_by_role("slider", name=name).press(key)
    page.tab.get_by_role("combobox", name="Gate").press("ArrowDown")
    page.wait()
    chosen = Exponents(means=1.25, confidence=0.75, gate=0)
    page.tab.locator("#numbers summary").click()
    for run, outcomes in enumerate(shared[0]):
        numbers = VIEWS["what if"](outcomes, Choice(3, exponents=chosen)).numbers
        rows = {(row["line"], row["exponent"]): row["value"] for row in page.rows(run) if row["kind"] == "line"}
        names = {"past": "images of past classes", "new": "images of new classes", "all": "all images"}
        for group, line in names.items():
            assert rows[line, 1.25] == pytest.approx(numbers.loc["your choice", group], abs=1e-6)
            assert rows[f"{line}, FT", 2] == pytest.approx(numbers.loc["fine-tuning", group], abs=1e-6)
        table = page.tab.locator("#numbers table").nth(run).locator("tbody tr")
        assert table.nth(2).inner_text().split("\t") == [
            "your choice",
            *(f"{100 * share:.2f} %" for share in numbers.loc["your choice"]),
        ]
    assert page.tab.locator("#means-exponent").inner_text() == "1.25"
    page.tab.get_by_role("button", name="IL2M's own choice").click()
    page.wait()
    assert page.tab.locator("#means-exponent").inner_text() == "1"
    assert "undefined" in page.tab.locator("#status").inner_text()


def test_only_controls_that_do_something_are_shown(page: Shared):
    for view in page.tab.get_by_role("radio").evaluate_all("radios => radios.map(radio => radio.value)"):
        page.choose(view=view)
        hidden = page.tab.locator("#controls [data-control][hidden]").count()
        shown = page.tab.locator("#controls [data-control]:visible").count()
        assert 2 <= shown == 9 - hidden


@pytest.mark.parametrize(("width", "theme"), [*product(WIDTHS, THEMES)])
def test_it_fits_reads_and_is_accessible(
    browser: sync_api.Browser, shared: tuple[list[RunOutcomes], Path], width: int, theme: str
):
    page = Shared(browser, shared[1], width, theme)
    page.tab.locator("#numbers summary").click()
    for view in page.tab.get_by_role("radio").evaluate_all("radios => radios.map(radio => radio.value)"):
        page.choose(view=view)
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
        figures = page.tab.locator(".figure")
        assert min(figures.evaluate_all("all => all.map(each => each.querySelector('svg').clientWidth)")) > 300
        assert all(figures.evaluate_all("all => all.map(each => each.getAttribute('aria-label'))"))
        violations = Axe().run(page.tab).response["violations"]
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
    assert page.complaints == []
    assert page.asked == [shared[1].as_uri()]
    page.tab.close()
