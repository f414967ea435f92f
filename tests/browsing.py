"""What tests in a real browser share: the system's chromium, driven by playwright, and axe-core.

Where one of them is missing these tests are skipped, but not in CI (``CI=true``): there it is an error.
"""

from __future__ import annotations

import os
import shutil

import pytest

IN_CI = os.environ.get("CI") == "true"
if IN_CI:
    import playwright.sync_api as sync_api
    from axe_playwright_python.sync_playwright import Axe
else:
    reason = "playwright and axe-playwright-python are not installed"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason, exc_type=ImportError)
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason, exc_type=ImportError).Axe
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 120_000  # ms that a condition may take on a busy machine
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM and not IN_CI, reason="no chromium: apt-get install chromium"),
]
