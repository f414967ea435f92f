"""Tables as HTML: whatever stands in them is text."""

from __future__ import annotations

import pandas as pd
import pytest

from il2m.report.tables import say, show, styled

EVIL = "<img src=x onerror=alert(1)>\x1b[2J"
SAFE = "&lt;img src=x onerror=alert(1)&gt;\\x1b[2J"


@pytest.mark.parametrize("what", ["cell", "column", "index", "caption"])
def test_styled_tables_hold_text_alone(what: str):
    table = pd.DataFrame({EVIL if what == "column" else "a": [EVIL if what == "cell" else "b", 0.123456]})
    table.index = [EVIL if what == "index" else "first", 2]
    page = styled(table, caption=EVIL if what == "caption" else "", precision=2).to_html()
    assert SAFE in page
    assert "<img" not in page
    assert "0.12<" in page


def test_tables_and_sentences_of_the_report_hold_text_alone():
    page = show(pd.DataFrame({EVIL: [EVIL]}), caption=EVIL).data + say(EVIL).data
    assert page.count(SAFE) == 4
    assert "<img" not in page
    assert "\x1b" not in page
