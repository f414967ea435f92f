"""How a command is declared: commands.toml says what it is for, lists its arguments, and names the function that it
prints the result of; one without such a function has one of its own name in commands.py, which takes the arguments."""

import argparse
import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from il2m import __version__
from il2m.cli import commands
from il2m.errors import printable
from il2m.parameters import PARAMETERS

PARSER = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
PARSER.add_argument("--version", action="version", version=f"il2m {__version__}")
COMMANDS = PARSER.add_subparsers(required=True, metavar="COMMAND")


def _at_least(low: int) -> Callable[[str], int]:
    """A text that is a whole number of at least ``low``."""

    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected a whole number of at least {low}")
        return int(text)

    return convert


def _whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas."""
    if not re.fullmatch("[0-9]{1,18}(,[0-9]{1,18})*", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected whole numbers, separated by commas")
    return tuple(map(int, text.split(",")))


def _printing(place: str) -> Callable[..., None]:
    """A command that prints what the function at ``room:name`` returns; the room is imported when it is used."""
    room, _, name = place.partition(":")
    return lambda **given: print(printable(getattr(import_module(room), name)(**given)))


_TYPES = {"path": Path, "count": _at_least(1), "number": _at_least(0), "numbers": _whole_numbers}


def _declare(name: str, about: dict[str, Any]) -> None:
    """Add a command to the parser. Its function takes the arguments by name, and returns the exit code, None for 0."""
    parser = COMMANDS.add_parser(name, help=about["meaning"], description=about["meaning"])
    for names, options in about.get("arguments", {}).items():
        if "type" in options:
            options["type"] = _TYPES[options["type"]]
        if isinstance(parameter := options.get("choices"), str):
            options["choices"] = PARAMETERS[parameter].rule.words
        parser.add_argument(*names.split(), **options)
    own = _printing(about["prints"]) if "prints" in about else getattr(commands, name.replace("-", "_"))
    parser.set_defaults(function=own)


for _name, _about in tomllib.loads(Path(__file__).with_name("commands.toml").read_text()).items():
    _declare(_name, _about)
