"""How a command is declared: a function of its name, which takes the arguments that commands.toml lists."""

import argparse
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from il2m import __version__
from il2m.parameters import PARAMETERS

PARSER = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
PARSER.add_argument("--version", action="version", version=f"il2m {__version__}")
COMMANDS = PARSER.add_subparsers(required=True, metavar="COMMAND")
Function = Callable[[argparse.Namespace], int | None]  # returns the exit code, None for 0
_DECLARED = tomllib.loads(Path(__file__).with_name("commands.toml").read_text())


def command(function: Function) -> Function:
    """Make a function the command of its name."""
    name = function.__name__.strip("_").replace("_", "-")
    about = _DECLARED[name]
    parser = COMMANDS.add_parser(name, help=about["meaning"], description=about["meaning"])
    for names, options in about.get("arguments", {}).items():
        if "type" in options:
            options["type"] = _TYPES[options["type"]]
        if isinstance(parameter := options.get("choices"), str):
            options["choices"] = PARAMETERS[parameter].rule.words
        parser.add_argument(*names.split(), **options)
    parser.set_defaults(command=function)
    return function


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


_TYPES = {"path": Path, "count": _at_least(1), "number": _at_least(0), "numbers": _whole_numbers}
