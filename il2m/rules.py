"""What a value may be: types and ranges, in code and in words."""

import math
import numbers
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from il2m.errors import InputError, nearest

_MOST = 10**9  # whole numbers: what no honest study comes near, refused before anything of that size is made
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


def number(low: float, high: float = 0, *, above: bool = False, below: bool = False, whole: bool = False) -> Rule:
    """A number from ``low`` to ``high`` (0: not given). above, below: without that end. whole: an integer."""
    high = high or (_MOST if whole else math.inf)
    words = f"a {'whole ' * whole}number {'above' if above else 'of at least'} {low:g}"
    words += f" and {'below' if below else 'at most'} {high:,}" if high < math.inf else ""

    def accepts(v: Any) -> bool:
        if not isinstance(v, numbers.Integral if whole else numbers.Real) or isinstance(v, bool):
            return False
        return (v > low if above else v >= low) and (v < high if below or high == math.inf else v <= high)

    return Rule(accepts, words, convert=int if whole else float)


def choice(names: Collection[str]) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in names, names)


def check_choice(name: str, value: Any, accepted: Collection[str] | Rule) -> None:
    """Raise InputError unless ``value``, given as ``name``, is one of these, or as the rule says."""
    rule = accepted if isinstance(accepted, Rule) else choice(accepted)
    if problem := rule.problem(name, value):
        raise InputError(problem)


def integers(low: int, *, or_names: str = "") -> Rule:
    """A list of whole numbers from ``low``. or_names: what texts in it, or one text, may be, in words."""
    words = f"a list of whole numbers of at least {low} (up to {_LONGEST:,}; empty: not given)"
    one, names = number(low, _LONGEST, whole=True).accepts, str if or_names else ()

    def accepts(v: Any) -> bool:
        is_list = isinstance(v, list | tuple) and len(v) <= _LONGEST
        return isinstance(v, names) or (is_list and all(isinstance(each, names) or one(each) for each in v))

    def convert(v: Any) -> Any:
        return v if isinstance(v, str) else [each if isinstance(each, str) else int(each) for each in v]

    return Rule(accepts, words + f", or of {or_names}" * bool(or_names), convert)


SEED = number(0, math.inf, whole=True)
SEED_OR_NONE = Rule(
    lambda v: v is None or SEED.accepts(v), f"{SEED.words}, or None", convert=lambda v: None if v is None else int(v)
)
TEXT = Rule(lambda v: isinstance(v, str), "a text")
PATH = Rule(lambda v: isinstance(v, str | os.PathLike), "a text", convert=os.fspath)
SWITCH = Rule(lambda v: isinstance(v, bool), "True or False", convert=bool)
FLAG = Rule(lambda v: v in (True, False), SWITCH.words)  # of numpy too


def read_rule(accepts: str | dict[str, Any]) -> Rule:
    """What parameters.toml says that a parameter accepts: a name, or a kind of value with its range."""
    if isinstance(accepts, str):
        return {"seed": SEED, "seed or none": SEED_OR_NONE, "text": TEXT, "path": PATH, "switch": SWITCH}[accepts]
    (kind, limits), *ends = accepts.items()
    kinds = {"integer": partial(number, whole=True), "integers": integers, "number": number}
    return choice(limits) if kind == "choice" else kinds[kind](*limits, **dict(ends))
