"""Tables as HTML: whatever stands in them is text."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from il2m.report import tables
from il2m.report.tables import Link, say, show

EVIL = "<img src=x onerror=alert(1)>\x1b[2J"
SAFE = "&lt;img src=x onerror=alert(1)&gt;\\x1b[2J"


@pytest.mark.parametrize("what", ["cell", "column", "index", "its name", "caption", "fold", "link", "list"])
def test_tables_hold_text_alone(what: str):
    cell = {"cell": EVIL, "link": Link(EVIL, EVIL), "list": [Link(EVIL, "a.html"), "b"]}.get(what, "b")
    table = pd.DataFrame({EVIL if what == "column" else "a": [cell, 0.123456]})
    table.index = pd.Index([EVIL if what == "index" else "first", 2], name=EVIL if what == "its name" else "name")
    page = show(table, caption=EVIL if what == "caption" else "", fold=EVIL if what == "fold" else "").data
    assert SAFE in page
    assert "<img" not in page
    assert "0.123<" in page


def test_tables_and_sentences_of_the_report_hold_text_alone():
    page = show(pd.DataFrame({EVIL: [EVIL]}), caption=EVIL).data + say(EVIL).data
    assert page.count(SAFE) == 4
    assert "<img" not in page
    assert "\x1b" not in page


def rows_of(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(?:<span[^>]*>)?([^<]*)", row) for row in rows]


def test_tables_are_for_people():
    table = pd.DataFrame(
        {
            "top1": [0.61449, np.nan],
            "gain_top1": [-0.0001, 0.0412],
            "gate": [True, False],
            "floats_stored": [1234567.0, np.nan],
            "num_states": [5, 10],
            "ratio": [1.23456, np.nan],
        }
    )
    head, first, second = rows_of(show(table).data)
    assert head == ["top-1", "top-1, points on FT", "gate", "numbers kept", "num_states", "ratio"]
    assert first == ["61.4%", "+0.0", "yes", "1,234,567", "5", "1.235"]
    assert second == ["–", "+4.1", "no", "–", "10", "–"]


def test_rows_beyond_the_first_are_folded():
    table = pd.DataFrame({"n": range(20)})
    page = show(table, most=8).data
    shown, _, folded = page.partition("<details")
    assert [row[0] for row in rows_of(shown)[1:]] == [str(n) for n in range(8)]
    assert "<summary>12 more rows</summary>" in folded
    assert [row[0] for row in rows_of(folded)[1:]] == [str(n) for n in range(8, 20)]
    assert "<details" not in show(table, most=20).data
    assert show(table, fold="All of them").data.startswith('<details class="fold"><summary>All of them</summary>')
    assert show(table.iloc[:0]) is None


def test_every_column_in_words_has_a_known_unit():
    assert {about.get("unit") for about in tables._COLUMNS.values()} <= {None, "percent", "points", "whole", "number"}
