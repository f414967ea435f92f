"""What a value may be: types and ranges, in code and in words."""

import argparse
import numbers
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value may be: ``accepts(value)`` is True for good ones, ``convert`` gives equal values one form (1 and
    1.0). words: what is accepted, or the names of a choice: more may be registered later."""

    accepts: Callable[[Any], bool]
    words: str | Collection[str]
    convert: Callable[[Any], Any] = lambda value: value

    @property
    def expected(self) -> str:
        return self.words if isinstance(self.words, str) else "one of " + ", ".join(self.words)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(low: int, or_none: bool = False) -> Rule:
    words = f"a whole number of at least {low}" + (", or None" if or_none else "")
    accepts = lambda v: (or_none and v is None) or (_is_integer(v) and v >= low)  # noqa: E731
    return Rule(accepts, words, convert=lambda v: None if v is None else int(v))


def number(low: float, high: float = float("inf"), *, above: bool = False, below: bool = False) -> Rule:
    words = f"a number {'above' if above else 'of at least'} {low:g}"
    words += f" and {'below' if below else 'at most'} {high:g}" if high < float("inf") else ""

    def accepts(v: Any) -> bool:
        if not isinstance(v, numbers.Real) or isinstance(v, bool):
            return False
        return (v > low if above else v >= low) and (v < high if below or high == float("inf") else v <= high)

    return Rule(accepts, words, convert=float)


def choice(names: Collection[str]) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in names, names)


def integers(low: int) -> Rule:
    words = f"a list of whole numbers of at least {low} (empty: not given)"
    accepts = lambda v: isinstance(v, (list, tuple)) and all(_is_integer(x) and x >= low for x in v)  # noqa: E731
    return Rule(accepts, words, convert=lambda v: [int(x) for x in v])


TEXT = Rule(lambda v: isinstance(v, str), "a text")
PATH = Rule(lambda v: isinstance(v, str | os.PathLike), "a text", convert=os.fspath)
SWITCH = Rule(lambda v: isinstance(v, bool), "True or False", convert=bool)


# words of the command line


def at_least(low: int) -> Callable[[str], int]:
    """For argparse: a text that is a whole number of at least ``low``."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {low}")
        return int(text)

    return convert


def whole_numbers(text: str) -> tuple[int, ...]:
    """For argparse: whole numbers, separated by commas."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers, separated by commas") from None
