"""Tables and sentences as HTML for a page: all text escaped, numbers rounded for a person, and links."""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from il2m.errors import printable


@dataclass(frozen=True)
class Link:
    """A link in a table, to a file that is there."""

    text: str
    address: str


def show(table: pd.DataFrame, *, caption: str = "") -> HTML | None:
    """A table as HTML: numbers to three decimals, text escaped, Links (or lists of them) as links; nothing for a table
    without rows."""
    if table.empty:
        return None
    kinds = {name: _kind(table[name]) for name in table.columns}
    head = "".join(f"<th{kinds[name]}>{_safe(str(name))}</th>" for name in table.columns)
    body = "".join(
        f"<tr>{''.join(f'<td{kinds[name]}>{_content(value)}</td>' for name, value in row.items())}</tr>"
        for row in table.to_dict("records")
    )
    title = f"<caption>{_safe(caption)}</caption>" if caption else ""
    return HTML(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _safe(value: Any) -> Any:
    return html.escape(printable(value)) if isinstance(value, str) else value


def styled(table: pd.DataFrame, *, caption: str = "", **formats: Any) -> Styler:
    """A table as pandas shows it, but with all text escaped. formats: of Styler.format."""
    table = table.map(_safe).rename(index=_safe, columns=_safe)
    return table.style.format(**formats).set_caption(_safe(caption))


def say(text: str) -> HTML | None:
    """A sentence as a paragraph; nothing for none."""
    return HTML(f"<p>{_safe(text)}</p>") if text else None


def _kind(column: pd.Series) -> str:
    """The class of a column's cells: numbers are set to the right, texts to the left, long ones in several lines."""
    if pd.api.types.is_numeric_dtype(column):
        return ""
    return ' class="words long"' if column.map(lambda value: len(str(value)) > 40).any() else ' class="words"'


def _content(value: Any) -> str:
    if isinstance(value, list):
        return " · ".join(map(_content, value))
    if isinstance(value, Link):
        return f'<a href="{html.escape(value.address)}">{_safe(value.text)}</a>'
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return _safe(str(value))
