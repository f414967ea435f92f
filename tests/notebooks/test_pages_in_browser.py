"""The report and a page of an executed notebook as a browser shows them: accessible, in both themes, at any width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browsing import MARKS, Axe, sync_api

from il2m.report.build import build_report

pytestmark = [*MARKS, pytest.mark.xdist_group("report")]


@pytest.fixture(scope="module")
def pages(half_done_study: Path) -> list[Path]:
    return [build_report(half_done_study), next(half_done_study.glob("notebooks/04_*.html"))]


def colour(page: sync_api.Page, element: str, name: str) -> float:
    """How bright a colour of the first such element is, 0 to 255."""
    code = f"element => getComputedStyle(element).{name}.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    return float(np.mean(page.locator(element).first.evaluate(code)))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_are_accessible_and_their_figures_follow_the_theme(
    browser: sync_api.Browser, pages: list[Path], theme: str
):
    for path in pages:
        context = browser.new_context(color_scheme=theme, bypass_csp=True)  # axe is a script, and pages run none
        page = context.new_page()
        page.goto(path.as_uri())
        found = Axe().run(page).response["violations"]
        assert [
            (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
        ] == []
        assert page.locator("h1").count() == 1
        assert page.locator("main svg").count() > 0
        assert page.locator("main svg:not([aria-label])").count() == 0
        assert page.locator("img:not([alt])").count() == 0
        ink, paper = colour(page, "main svg text", "fill"), colour(page, "body", "backgroundColor")
        assert abs(ink - paper) > 120
        assert (ink < paper) == (theme == "light")
        page.set_viewport_size({"width": 420, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        context.close()


def test_one_gets_from_the_report_to_a_run_and_along_its_pages(browser: sync_api.Browser, pages: list[Path]):
    page = browser.new_page()
    page.goto(pages[0].as_uri())
    for link in page.locator("nav.contents a").all():
        address = link.get_attribute("href")
        assert page.locator(f"main {address}").count() == 1
    page.locator("table a", has_text="fine-tuning").first.click()
    for link, title in (("Previous", "Base training"), ("Next", "Fine tuning"), ("Report", pages[0].parent.name)):
        page.locator("nav.pages a", has_text=link).last.click()
        assert page.title().startswith(title)
    page.close()


def test_printed_pages_show_no_controls(browser: sync_api.Browser, pages: list[Path]):
    page = browser.new_page()
    page.goto(pages[0].as_uri())
    page.emulate_media(media="print")
    assert page.locator("nav").first.is_hidden()
    assert page.locator("main svg").first.is_visible()
    page.close()
