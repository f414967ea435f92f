"""What a value may be: types and ranges, in code and in words."""

import numbers
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from il2m.errors import InputError, nearest

_LONGEST = 1_000_000  # list of numbers, and the highest of them: there are no more classes


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

    def problem(self, name: str, value: Any) -> str:
        """Why ``value`` is refused as ``name``, with what may have been meant; ``""`` if it is accepted."""
        if self.accepts(value):
            return ""
        meant = "" if isinstance(self.words, str) else nearest(value, self.words)
        return f"{name} = {repr(value)[:200]}: expected {self.expected}" + f"; {meant}" * meant.startswith("did")


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(low: int, high: float = 10**9, *, or_none: bool = False) -> Rule:
    """high: what no honest study comes near, refused before anything of that size is made."""
    words = f"a whole number of at least {low}" + (f" and at most {high:,}" if high < float("inf") else "")
    words += ", or None" if or_none else ""
    accepts = lambda v: (or_none and v is None) or (_is_integer(v) and low <= v <= high)  # noqa: E731
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


def check_choice(name: str, value: Any, names: Collection[str]) -> None:
    """Raise InputError unless ``value``, given as ``name``, is one of these."""
    if problem := choice(names).problem(name, value):
        raise InputError(problem)


def integers(low: int) -> Rule:
    words = f"a list of whole numbers of at least {low} (up to {_LONGEST:,}; empty: not given)"

    def accepts(v: Any) -> bool:
        short = isinstance(v, (list, tuple)) and len(v) <= _LONGEST
        return short and all(_is_integer(x) and low <= x <= _LONGEST for x in v)

    return Rule(accepts, words, convert=lambda v: [int(x) for x in v])


SEED, SEED_OR_NONE = (integer(0, float("inf"), or_none=or_none) for or_none in (False, True))
TEXT = Rule(lambda v: isinstance(v, str), "a text")
PATH = Rule(lambda v: isinstance(v, str | os.PathLike), "a text", convert=os.fspath)
SWITCH = Rule(lambda v: isinstance(v, bool), "True or False", convert=bool)


def read_rule(accepts: str | dict[str, Any]) -> Rule:
    """What parameters.toml says that a parameter accepts: a name, or a kind of value with its range."""
    if isinstance(accepts, str):
        return {"seed": SEED, "seed or none": SEED_OR_NONE, "text": TEXT, "path": PATH, "switch": SWITCH}[accepts]
    (kind, arguments), *ends = accepts.items()
    if kind == "choice":
        return choice(arguments)
    return {"integer": integer, "integers": integers, "number": number}[kind](*arguments, **dict(ends))
