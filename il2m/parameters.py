"""What a study may be told: each parameter's type and range, in one table.

The notebooks' parameter cells, the grids and the two training stages all check against it, before any work starts.
Defaults live in the notebooks' parameter cells and in the stages' signatures (a test keeps the two equal).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from il2m.errors import InputError, nearest

NETWORKS = ("small", "resnet8", "resnet20", "resnet32", "resnet18")
SELECTIONS = ("random", "herding")
HEADS = ("new", "extended")
SCHEDULES = ("step", "plateau")
PRECISIONS = ("float32", "bf16", "fp16")
UNDEFINED_POLICIES = ("keep", "as-published", "raise")
SCORE_KINDS = ("raw", "softmax")


@dataclass(frozen=True)
class Parameter:
    """What one parameter may be: ``accepts(value)`` is True for good values, ``expected`` says it in words, ``convert``
    gives equal values one form (1 and 1.0, a list and a tuple)."""

    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    is_sequence: bool = False


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _integer(low: int, or_none: bool = False) -> Parameter:
    words = f"a whole number of at least {low}" + (", or None" if or_none else "")
    return Parameter(
        words,
        lambda v: (or_none and v is None) or (_is_integer(v) and v >= low),
        convert=lambda v: None if v is None else int(v),
    )


def _number(low: float, high: float = float("inf"), open_low: bool = False, open_high: bool = False) -> Parameter:
    words = f"a number {'above' if open_low else 'of at least'} {low:g}"
    if high < float("inf"):
        words += f" and {'below' if open_high else 'at most'} {high:g}"

    def accepts(value: Any) -> bool:
        if not _is_number(value):
            return False
        return (value > low if open_low else value >= low) and (
            value < high if open_high or high == float("inf") else value <= high
        )

    return Parameter(words, accepts, convert=float)


def _choice(*names: str) -> Parameter:
    return Parameter("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


def _integers(low: int) -> Parameter:
    return Parameter(
        f"a list of whole numbers of at least {low} (empty: not given)",
        lambda v: isinstance(v, (list, tuple)) and all(_is_integer(x) and x >= low for x in v),
        convert=lambda v: [int(x) for x in v],
        is_sequence=True,
    )


_TEXT = Parameter("a text", lambda v: isinstance(v, str))
_SWITCH = Parameter("True or False", lambda v: isinstance(v, bool), convert=bool)

PARAMETERS: dict[str, Parameter] = {
    # where things are
    "dataset": _TEXT,
    "data_dir": _TEXT,
    "out_dir": _TEXT,
    "base": _TEXT,
    "run": _TEXT,
    "compare": _TEXT,
    # states
    "num_states": _integer(1),
    "state_sizes": _integers(1),
    "order_seed": _integer(0, or_none=True),
    "class_order": _integers(0),
    # image files
    "image_size": _integer(8),
    "mean_std": _TEXT,
    # first memory
    "memory_size": _integer(0),
    "exemplars_per_class": _integer(0),
    "exemplar_selection": _choice(*SELECTIONS),
    # training
    "network": _choice(*NETWORKS),
    "head": _choice(*HEADS),
    "distillation": _SWITCH,
    "temperature": _number(0, open_low=True),
    "distillation_weight": _number(0),
    "held_out": _number(0, 0.5),
    "balanced_epochs": _integer(0),
    "joint_epochs": _integer(0),
    "base_epochs": _integer(1),
    "epochs": _integer(1),
    "batch_size": _integer(2),
    "summed_batches": _integer(1),
    "learning_rate": _number(0, open_low=True),
    "momentum": _number(0, 1, open_high=True),
    "weight_decay": _number(0),
    "schedule": _choice(*SCHEDULES),
    "patience": _integer(0),
    "max_shift": _integer(0),
    "flip": _SWITCH,
    "score_all_past": _SWITCH,
    "train_seed": _integer(0),
    # machine
    "device": _choice("auto", "cpu", "cuda"),
    "precision": _choice(*PRECISIONS),
    "num_threads": _integer(1),
    "num_workers": _integer(0),
    # analysis
    "undefined": _choice(*UNDEFINED_POLICIES),
    "score_kind": _choice(*SCORE_KINDS),
}


def check_parameters(values: dict[str, Any], known: Iterable[str] | None = None) -> dict[str, Any]:
    """The values in their one form; refuse unknown names (naming the nearest right one) and wrong types or ranges.

    ``known``: the names that may be given here; by default every parameter of the study.
    Raises InputError that lists every problem at once.
    """
    known = set(PARAMETERS if known is None else known)
    problems = []
    for name, value in values.items():
        if name not in known:
            problems.append(f"unknown parameter {name!r}: {nearest(name, known)}")
        elif name in PARAMETERS and not PARAMETERS[name].accepts(value):
            problems.append(f"{name} = {value!r}: expected {PARAMETERS[name].expected}")
    if problems:
        raise InputError("\n".join(problems))
    return {name: PARAMETERS[name].convert(value) if name in PARAMETERS else value for name, value in values.items()}
