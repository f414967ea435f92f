"""The pages for readers: their examples run, their links lead somewhere, and bash and zsh both take their commands.

A comment on the line before a code block says what is special about it:

    <!-- not run: reason -->    it needs a GPU, a cluster, hours, or files of others
    <!-- planned: reason -->    ``il2m run`` only checks and plans it (``--dry-run``)
    <!-- file: name -->         it is written to that file, which a later block uses
    <!-- cell and file: name -->    it is run, and added to that file

Every other block of Python or shell is run, in a working folder that stands for a checkout with a finished study.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from tiny import PROJECT

from il2m.data.glyphs import VERSION, render_glyphs

pytestmark = [pytest.mark.papermill, pytest.mark.xdist_group("docs")]  # one finished study for all pages

PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((PROJECT / "docs").glob("*.md"))
LANGUAGES = {"sh", "python", "yaml", "text", "bibtex"}
MARKS = ("not run", "planned", "file", "cell and file")
_MARK = re.compile(r"<!-- ([a-z ]+): (.+) -->$")
_CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@dataclass(frozen=True)
class Block:
    """A fenced block: ``where`` it starts, and its mark, if it has one, with what the mark says ``about`` it."""

    where: str
    language: str
    text: str
    mark: str = ""
    about: str = ""

    @property
    def is_run(self) -> bool:
        return self.mark == "file" or (self.mark != "not run" and self.language in ("sh", "python"))


def read_blocks(page: Path) -> list[Block]:
    lines, blocks, start = page.read_text().splitlines(), [], None
    for i, line in enumerate(lines):
        if start is None and line.startswith("```"):
            start = i
        elif start is not None and line == "```":
            mark = _MARK.match(lines[start - 1])
            text = "\n".join(lines[start + 1 : i]) + "\n"
            where, language = f"{page.relative_to(PROJECT)}:{start + 1}", lines[start].removeprefix("```")
            blocks.append(Block(where, language, text, *(mark.groups() if mark else ())))
            start = None
    assert start is None, f"{page}: the block at line {start + 1} does not end"
    return blocks


def prose(page: Path) -> str:
    """The page without its code blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def unquoted(script: str) -> Iterator[tuple[int, str]]:
    """The characters of a shell script that stand in no quotes and behind no backslash, each with its place."""
    quote, i = "", 0
    while i < len(script):
        character = script[i]
        if character == "\\" and quote != "'":
            i += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            yield i, character
        i += 1


# --- the examples run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader stands in: a checkout of the project, with fewer glyphs, and the default study run briefly."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    folder.mkdir()
    for name in ("il2m", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    (folder / "data").mkdir()
    for name in ("pyproject.toml", "README.md", "data/datasets_mean_std.txt"):
        shutil.copy(PROJECT / name, folder / name)
    np.savez(folder / "data" / f"glyphs-v{VERSION}.npz", **render_glyphs(train_per_class=12, val_per_class=4))
    study = "il2m run notebooks/grids/quickstart.yaml --out runs/quickstart\n"
    run_blocks([Block("the finished study", "sh", study)], folder)
    return folder


def run_blocks(blocks: list[Block], folder: Path) -> None:
    """Raises AssertionError with all that was printed, where a block fails."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    settings = {"PYTHONPATH": str(folder), "IPYTHONDIR": str(folder / ".ipython"), "MPLBACKEND": "agg"}
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_page.py"))],
        input=json.dumps([asdict(block) for block in blocks]),
        cwd=folder,
        env={**os.environ, "PATH": search, "OMP_NUM_THREADS": "1", **settings},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.is_run for block in read_blocks(page))], ids=lambda page: page.name
)
def test_the_examples_of_a_page_run_in_their_order(page: Path, checkout: Path, tmp_path: Path):
    folder = shutil.copytree(checkout, tmp_path / "checkout")
    run_blocks([block for block in read_blocks(page) if block.is_run], folder)


# --- what they look like


@every_page
def test_each_block_says_what_it_is(page: Path):
    for block in read_blocks(page):
        assert block.language in LANGUAGES, block
        assert block.mark in ("", *MARKS), block
        assert block.mark != "planned" or "il2m run" in block.text, block


@every_page
def test_zsh_takes_the_commands_as_bash_does(page: Path):
    for block in read_blocks(page):
        if block.language == "sh":
            for place, character in unquoted(block.text):
                line = block.text[: place + 1].splitlines()[-1] + " <- here"
                assert character not in "[]*?~", f"{block.where}: {character} must be quoted: {line}"
                assert character != "#", f"{block.where}: a terminal's zsh knows no comments: {line}"


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("a '[1]' b", "a  b"),
        ('"$x[1]" y~', " y~"),
        ("a\\*b *", "ab *"),
        ("'it' \"isn't\" ?", "  ?"),
        ('"a \\" ~" [', " ["),
        ("'\\' *", " *"),
    ],
)
def test_what_stands_in_no_quotes_is_found(script: str, left: str):
    assert "".join(character for _, character in unquoted(script)) == left


def test_the_readme_is_one_reading():
    assert len((PROJECT / "README.md").read_text().splitlines()) < 200


# --- where they lead


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(words)


@every_page
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("https://", "http://", "mailto:")):
            path, _, anchor = unquote(target).partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name} links to {target}, which is not there"
            assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}: no such heading"


@every_page
def test_files_that_are_named_exist(page: Path):
    rooms = "|".join(path.name for path in PROJECT.iterdir() if path.is_dir() and path.name not in ("runs", "build"))
    for span in _CODE_SPAN.findall(prose(page)):
        if re.fullmatch(rf"(?:{rooms})(?:/[\w.-]+)*/?", span) and "/" in span:
            assert (PROJECT / span).exists(), f"{page.name} names {span}, which is not there"


@every_page
def test_parts_of_the_library_that_are_named_exist(page: Path):
    text = prose(page)
    if page.name == "CHANGELOG.md":  # what was, and what is: the first column is gone
        text = re.sub(r"^\| `il2m[\w.]*`", "|", text, flags=re.MULTILINE)
    for span in _CODE_SPAN.findall(text):
        if name := re.match(r"il2m(?!\.py\b)(?:\.\w+)+(?![\w/-])", span):
            assert exists(name[0]), f"{page.name} names {name[0]}, which is not there"


def exists(name: str) -> bool:
    """Whether a module, or something in a module, has that dotted name."""
    module, _, attribute = name.rpartition(".")
    try:
        if importlib.util.find_spec(name):
            return True
    except ModuleNotFoundError:  # what stands before the last dot is no package
        pass
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False
