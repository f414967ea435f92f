"""``il2m ...``: arguments in (see commands.toml), one library call, readable errors out."""

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from il2m import __version__
from il2m.cli import commands
from il2m.errors import InputError, nearest, printable, warn_in_words
from il2m.parameters import PARAMETERS
from il2m.system.plugins import load_plugin

PARSER = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
PARSER.add_argument("--version", action="version", version=f"il2m {__version__}")
COMMANDS = PARSER.add_subparsers(required=True, metavar="COMMAND")


def _whole(low: int, *, several: bool = False) -> Callable[[str], int | tuple[int, ...]]:
    """A text that is a whole number of at least ``low``; or several, separated by commas."""
    expected = "whole numbers, separated by commas" if several else f"a whole number of at least {low}"

    def convert(text: str) -> int | tuple[int, ...]:
        parts = text.split(",") if several else [text]
        if not all(re.fullmatch("[0-9]{1,18}", part) and int(part) >= low for part in parts):
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected {expected}")
        return tuple(map(int, parts)) if several else int(text)

    return convert


def _printing(place: str, says: str = "{}") -> Callable[..., None]:
    """A command that prints what the function at ``room:name`` returns; the room is imported when it is used."""
    room, _, name = place.partition(":")
    return lambda **given: print(printable(says.format(getattr(import_module(room), name)(**given))))


def _path(text: str) -> Path:
    if not text.strip():  # of a variable that is not set; Path would make it the current folder
        raise argparse.ArgumentTypeError("an empty path: for the current folder give .")
    return Path(text)


_TYPES = {"path": _path, "count": _whole(1), "number": _whole(0), "numbers": _whole(0, several=True)}
_TYPES["words"] = lambda text: text.split(",") if text else []
_TYPES["order"] = lambda t: _TYPES["numbers" if re.fullmatch("[0-9,]+", t) else "words"](t) if "," in t else t


# a command's function takes the arguments by name, and returns the exit code, None for 0
for _name, _about in tomllib.loads(Path(__file__).with_name("commands.toml").read_text()).items():
    _parser = COMMANDS.add_parser(_name, help=_about["meaning"], description=_about["meaning"])
    for _names, _options in _about.get("arguments", {}).items():
        if "type" in _options:
            _options["type"] = _TYPES[_options["type"]]
        if isinstance(_parameter := _options.get("choices"), str):
            _options["choices"] = PARAMETERS[_parameter].rule.words
        _parser.add_argument(*_names.split(), **_options)
    _own = _printing(*_about["prints"]) if "prints" in _about else getattr(commands, _name.replace("-", "_"))
    _parser.set_defaults(function=_own)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a job failed, 2 the input can't be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS.choices:
        PARSER.error(f"no command {arguments[0]!r}: {nearest(arguments[0], COMMANDS.choices)}")
    COMMANDS.choices["run"].set_defaults(command=["il2m", *arguments])  # kept with the plan
    given = vars(PARSER.parse_args(arguments))
    warn_in_words()
    try:
        for plugin in given.pop("load", ()):
            load_plugin(plugin)
        code = given.pop("function")(**given) or 0
        sys.stdout.flush()  # to find here that nobody reads it, or that no room is left
        return code
    except InputError as error:
        print(f"il2m: {printable(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # who read what is printed has seen enough; a path can't be written; a full disk
        try:
            sys.stdout.flush()
        except OSError:  # then not once more when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        where = error.filename2 or error.filename
        print(f"il2m: {f'{where}: ' if where else ''}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("il2m: stopped; what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130
