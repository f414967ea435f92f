"""Paired differences: estimates, intervals, tests and verdicts."""

import math
import warnings
from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import bootstrap, permutation_test

LEVEL = 0.05
Points = tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]  # differences (pairs,); their means' intervals
VERDICTS = ("reproduced", "not reproduced", "undecided")
FEWEST_PAIRS = 6  # 2 / 2^6 is the first of the smallest two-sided p-values to lie below LEVEL


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences, its 95 % BCa bootstrap interval, and the p-value of a two-sided sign-flip test."""

    estimate: float
    low: float
    high: float
    p_value: float
    num_pairs: int

    @property
    def note(self) -> str:
        """What the number of pairs does not allow, ``""`` if it is large enough."""
        if self.num_pairs >= FEWEST_PAIRS:
            return ""
        pairs, smallest = f"{self.num_pairs} pair{'s' * (self.num_pairs > 1)}", 2 / 2**self.num_pairs
        return f"with {pairs} no two-sided test can reach p = {LEVEL}: the smallest possible is {smallest:.3g}"

    def verdict(self, sign: int) -> str:
        """``reproduced`` if the difference has the claimed sign, by interval and test; ``not reproduced`` if it has the
        other one; else ``undecided``."""
        if not (self.low > 0 or self.high < 0) or self.p_value > LEVEL:
            return "undecided"
        return "reproduced" if self.estimate * sign > 0 else "not reproduced"


STATISTICS = [field.name for field in fields(PairedDifference)]


def paired_difference(differences: np.ndarray) -> PairedDifference:
    """Statistics of the mean of ``differences`` (n,), n >= 1, one of each pair. The interval is BCa's (Efron
    1987; 9,999 resamples), the test flips the signs of the differences in all 2^n ways (9,999 random ones if there are
    more). Both take the pairs as independent: runs that share a class order are so only in part, so that intervals over
    few class orders are rather too narrow."""
    differences, p_value = np.asarray(differences, dtype=np.float64), 1.0
    if len(differences) > 1:
        test = permutation_test((differences,), np.mean, permutation_type="samples", vectorized=True, rng=0)
        p_value = float(test.pvalue)
    interval = mean_interval(differences)
    return PairedDifference(float(differences.mean()), *interval, p_value, len(differences))


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of the mean of ``values`` (n,), n >= 1; NaN for a single one."""
    if len(values) == 1:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few values make some resamples constant
        result = bootstrap((values,), np.mean, method="BCa", confidence_level=1 - LEVEL, rng=0)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
