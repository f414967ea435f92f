"""Rectification of past-class scores: the paper's Eq. 1, with its gate and its two factors one by one.

``p'(C_i) = p(C_i) * mu_P(C_i) / mu_N(C_i) * mu(M_N) / mu(M_P)`` for past C_i, if the top-1 class is new."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, as_array, rectification_factors
from il2m.parameters import check_parameters
from il2m.rules import FLAG, check_choice

FORMS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())  # of Eq. 1
STEADIER = {name: form["parts"] for name, form in FORMS.items() if "steadier" in form}
# name -> which parts of Eq. 1 are on; fine-tuning itself has neither factor
PARTS: dict[str, dict[str, Any]] = {"FT": {"use_means": False, "use_confidence": False}}
PARTS |= {name: form["parts"] for name, form in FORMS.items() if name not in STEADIER}

_ROWS = 256  # rectified at a time: small enough to stay in the processor's cache


def count_undefined(statistics: ClassStatistics, method: str = "IL2M") -> int:
    """For how many past classes a method of FORMS has an undefined ratio."""
    check_choice("method", method, FORMS)
    parts = {name: value for name, value in FORMS[method]["parts"].items() if name != "gate"}
    return int(rectification_factors(statistics, **parts).undefined.sum())


def undefined_in_words(
    counts: Mapping[int, tuple[int, int]], score_kind: str = "raw", undefined: str = "keep", method: str = "IL2M"
) -> str:
    """A sentence on a method's undefined ratios, and what to try; ``""`` if there are none. counts: state -> (past
    classes whose ratio is undefined, past classes), of count_undefined."""
    bad, past = (sum(numbers) for numbers in zip((0, 0), *counts.values(), strict=True))
    states = ", ".join(str(state) for state, (some, _) in counts.items() if some)
    done = f"left alone{f': {method} does nothing' * (bad == past)}" if undefined == "keep" else "multiplied anyway"
    what = f"{bad} of {past} past classes undefined (state {states}: a mean score is missing or not positive), {done}"
    hint = "to try: score_kind = softmax (probabilities are positive), another undefined = ..."
    return f"{method} on {score_kind} scores: {what}; {hint}" if bad else ""


def rectify(scores: Any, *memory: Any, gate: bool = True, **factors: Any) -> np.ndarray:
    """IL2M's rectified scores (Eq. 1), (n, C), a new array of the scores' kind (float64 for whole numbers).
    scores: (n, C), raw scores or probabilities: an array, a tensor of any device, or lists.
    memory: a ClassStatistics of the same kind of scores, or what ClassStatistics.of_arrays makes one of.
    gate: rectify only images whose top-1 class is new, as the paper does; off, rectify all.
    factors: ``use_means, use_confidence, undefined, pooling, clip`` of rectification_factors.

    >>> initial_means, current_means_of_past, confidences, state_sizes = [4, 4, 5, 5], [2, 2], [6, 6], [2, 2]
    >>> il2m.rectify([[3.0, 1.0, 4.0, 0.0]], initial_means, current_means_of_past, confidences, state_sizes)
    array([[6., 2., 4., 0.]])"""
    check_parameters(factors, rectification_factors.__kwdefaults__)
    check_choice("gate", gate, FLAG)
    scores = as_array(scores, "scores")
    statistics = memory[0] if [*map(type, memory)] == [ClassStatistics] else ClassStatistics.of_arrays(*memory)
    factors = rectification_factors(statistics, **factors).values
    if scores.ndim != 2 or scores.shape[1] != len(factors):
        raise InputError(f"scores of shape {scores.shape} do not fit statistics of {len(factors)} classes.")
    num_past = int(statistics.is_past.sum())
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)  # else the factors would be cut to whole numbers
    factors = factors.astype(scores.dtype)
    rectified = np.empty_like(scores)
    for start in range(0, len(scores), _ROWS):
        rows = slice(start, start + _ROWS)
        np.multiply(scores[rows], factors, out=rectified[rows])
        if gate:
            kept = scores[rows].argmax(axis=1) < num_past  # predicted past: nothing changes
            rectified[rows][kept] = scores[rows][kept]
    return rectified
