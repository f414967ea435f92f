"""Tables and sentences as HTML for a page: all text escaped, numbers rounded for a person, and links."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML
from jinja2 import Environment, FileSystemLoader

from il2m.errors import printable

_FOLDER = Path(__file__).parent / "templates"
_PAGES = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True)
_PAGES.filters["printable"] = printable
_TEXTS = Environment(loader=FileSystemLoader(_FOLDER), trim_blocks=True)
_TEX = str.maketrans(json.loads((_FOLDER / "tex.json").read_text()))  # character -> what LaTeX prints as it
_TEXTS.filters |= {"printable": printable, "tex": lambda text: printable(text).translate(_TEX).replace("--", "-{}-")}
_COLUMNS = json.loads((_FOLDER / "columns.json").read_text())  # column -> its name in words, and its unit
WORDS = _TEXTS.get_template("words.j2").module


@dataclass(frozen=True)
class Link:
    """A link in a table, to a file that is there."""

    text: str
    address: str


class Table(HTML):
    """A table on a page, with what it was made from: ``table``, and what its templates are given."""

    def __init__(self, table: pd.DataFrame, given: dict[str, Any]) -> None:
        super().__init__(_PAGES.get_template("table.html.j2").render(given))
        self.table, self.given = table, given

    def latex(self, title: str, source: str) -> str:
        """The same words and numbers for a paper, with booktabs: a title before the caption, the source as last row."""
        return _TEXTS.get_template("table.tex.j2").render(self.given, title=title, source=source)


def show(table: pd.DataFrame, *, caption: str = "", fold: str = "", most: int = 60) -> Table | None:
    """A table as HTML, its named index as a column: words over columns, numbers in their units (columns.json), text
    escaped, Links (or lists of them) as links, a dash for what is undefined; nothing for a table without rows.
    fold: what stands in place of the table until it is opened. most: rows beyond these are folded."""
    if table.empty:
        return None
    table = table.reset_index() if table.index.name else table
    lengths = table.map(lambda value: len(str(value))).max()
    columns = [{"name": str(name), "kind": each.dtype.kind, "length": lengths[name]} for name, each in table.items()]
    given = {"columns": columns, "rows": [*table.itertuples(index=False, name=None)], "about": _COLUMNS}
    return Table(table, given | {"caption": caption, "fold": fold, "most": most})


def say(text: str, look: str = "", *, link: Link | None = None) -> HTML | None:
    """A sentence as a paragraph, with a class of the page's style, a link at its end; nothing for none."""
    return HTML(_PAGES.get_template("sentence.html.j2").render(text=text, look=look, link=link)) if text else None
