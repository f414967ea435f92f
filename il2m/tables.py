"""Tables and sentences as HTML for a page: all text escaped, numbers rounded for a person, and links."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML


@dataclass(frozen=True)
class Link:
    """A link in a table, to a file that is there."""

    text: str
    address: str


def show(table: pd.DataFrame, *, caption: str = "") -> HTML:
    """A table as HTML: numbers to three decimals, text escaped, Links as links; nothing for a table without rows."""
    if table.empty:
        return HTML("")
    is_number = {name: pd.api.types.is_numeric_dtype(table[name]) for name in table.columns}
    head = "".join(_cell("th", html.escape(str(name)), is_number[name]) for name in table.columns)
    body = "".join(
        f"<tr>{''.join(_cell('td', _content(value), is_number[name]) for name, value in row.items())}</tr>"
        for row in table.to_dict("records")
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return HTML(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def say(text: str) -> HTML:
    """A sentence as a paragraph."""
    return HTML(f"<p>{html.escape(text)}</p>" if text else "")


def _cell(element: str, content: str, is_number: bool) -> str:
    return f"<{element}>{content}</{element}>" if is_number else f'<{element} class="words">{content}</{element}>'


def _content(value: Any) -> str:
    if isinstance(value, Link):
        return f'<a href="{html.escape(value.address)}">{html.escape(value.text)}</a>'
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return html.escape(str(value))
