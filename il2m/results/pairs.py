"""Paired differences: estimates, intervals, tests and verdicts. The unit is the class order: training seeds of one
order are correlated (.3 to .96 were seen), and averaged before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import permutation_test, t, ttest_1samp

from il2m.rules import check_choice

LEVEL = 0.05
Points = tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]  # differences (units,); their means' intervals
VERDICTS = ("reproduced", "reversed", "undecided")
UNITS = {"order": "class order", "seed": "training seed"}
FEWEST_FOR_INTERVAL, FEWEST_FOR_VERDICT = 3, 6  # units


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences of independent units, its 95 % t interval, the two-sided p-values of a t test and, beside
    it, of a sign-flip test; NaN where the units are too few. unit: a key of UNITS. num_pairs: that the units are of."""

    estimate: float
    low: float
    high: float
    p_value: float
    sign_flip_p: float
    num_units: int
    num_pairs: int
    unit: str = "order"

    @property
    def note(self) -> str:
        """Why there is no verdict, and how many units there would have to be; ``""`` if there is one, or no spread."""
        if self.num_units < FEWEST_FOR_VERDICT:
            return f"{self.num_units} {UNITS[self.unit]}(s): no verdict on fewer than {FEWEST_FOR_VERDICT}"
        if self.low > 0 or self.high < 0 or not self.high > self.low:
            return ""
        half, units = (self.high - self.low) / 2, np.inf
        if self.estimate:
            spread = half * math.sqrt(self.num_units) / t.ppf(1 - LEVEL / 2, self.num_units - 1)
            units = math.ceil((1.96 * spread / self.estimate) ** 2 + 3)
        needed = f"about {units}" if units <= 999 else "more than 999"
        return f"half width {100 * half:.1f} points: a mean like this would need {needed} {UNITS[self.unit]}s"

    def verdict(self, sign: int) -> str:
        """One of VERDICTS: whether by interval and t test the difference has the claimed sign, or the other one."""
        if self.num_units < FEWEST_FOR_VERDICT or not (self.low > 0 or self.high < 0):
            return "undecided"
        return "reproduced" if self.estimate * sign > 0 else "reversed"


STATISTICS = [field.name for field in fields(PairedDifference)]


def paired_difference(units: Sequence[float], num_pairs: int = 0, unit: str = "order") -> PairedDifference:
    """Statistics of the mean of ``units`` (n,), n >= 1: a difference of each independent unit. num_pairs: what they are
    means of, if not as many. unit: a key of UNITS. The sign-flip test flips in all 2^n ways (9,999 of them if more)."""
    check_choice("unit", unit, UNITS)
    units = np.sort(np.asarray(units, dtype=np.float64))  # the order of rows has no say
    p_value = sign_flip_p = math.nan
    if len(units) > 1:
        p_value = float(ttest_1samp(units, 0).pvalue) if np.ptp(units) else float(units[0] == 0)
        sign_flip_p = float(permutation_test((units,), np.mean, permutation_type="samples", rng=0).pvalue)
    counts = len(units), num_pairs or len(units)
    return PairedDifference(float(units.mean()), *mean_interval(units), p_value, sign_flip_p, *counts, unit)


def mean_interval(units: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of the mean of independent ``units`` (n,); NaN of fewer than three."""
    if len(units) < FEWEST_FOR_INTERVAL:
        return math.nan, math.nan
    half = t.ppf(1 - LEVEL / 2, len(units) - 1) * np.std(units, ddof=1) / math.sqrt(len(units))
    return float(np.mean(units) - half), float(np.mean(units) + half)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values of a family of tests, (n,); NaN is no member of it."""
    adjusted, order = np.full(len(p_values), np.nan), np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
