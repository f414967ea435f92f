"""The one error that is the user's to mend."""

import difflib
import re
import warnings
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """What was given can't be used: the message says what, what was found, what is expected and what to do."""


# controls (but for the line's end), marks that turn the direction of text, halves of characters
_STEERING = re.compile("[\0-\t\v-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: object) -> str:
    """A text from elsewhere, for a terminal or a page: what could steer them is written out, as in ``\\x1b``."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def warn_in_words() -> None:
    """Warnings of this process as sentences, without the line of code that gives them."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(message)}\n"


def nearest(name: object, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known name closest to ``name``, capitals or not, or a list of what is known. A name
    that is no text, as a grid's may be, is taken as it is written."""
    known = {each.casefold(): each for each in sorted(known)}
    close = difflib.get_close_matches(str(name).casefold(), known, n=1, cutoff=0.5)
    return f"did you mean {known[close[0]]!r}?" if close else "known are: " + ", ".join(known.values())


def count(number: int, thing: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def name_first(what: str, problems: Sequence[str], limit: int = 10) -> str:
    """A count and the first ``limit`` of the problems, one line each."""
    more = [f"  ... and {len(problems) - limit} more"] if len(problems) > limit else []
    return "\n".join([f"{len(problems)} {what}:", *(f"  {problem}" for problem in problems[:limit]), *more])
