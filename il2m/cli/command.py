"""How a command is declared: a function under the table of its arguments."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from il2m import __version__

PARSER = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
PARSER.add_argument("--version", action="version", version=f"il2m {__version__}")
COMMANDS = PARSER.add_subparsers(required=True, metavar="COMMAND")
Function = Callable[[argparse.Namespace], int | None]  # returns the exit code, None for 0


def command(name: str, meaning: str, *arguments: tuple[list[str], dict[str, Any]]) -> Callable[[Function], Function]:
    """Make the function below it a command with these arguments."""

    def add(function: Function) -> Function:
        parser = COMMANDS.add_parser(name, help=meaning, description=meaning)
        for names, options in arguments:
            parser.add_argument(*names, **options)
        parser.set_defaults(command=function)
        return function

    return add


def argument(names: str, meaning: str, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """An argument of a command; options: of argparse's add_argument."""
    return names.split(), {"help": meaning, **options}


def at_least(low: int) -> Callable[[str], int]:
    """A text that is a whole number of at least ``low``."""

    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected a whole number of at least {low}")
        return int(text)

    return convert


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas."""
    if not re.fullmatch("[0-9]{1,18}(,[0-9]{1,18})*", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected whole numbers, separated by commas")
    return tuple(map(int, text.split(",")))


COUNT = {"type": at_least(1), "metavar": "N"}
REPEATED = {"action": "append", "default": []}
FOLDER = {"type": Path, "metavar": "DIR"}
