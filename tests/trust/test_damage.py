"""A short form of the damage test; the long one, with notebooks, the command and the report: damage.py."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import damage

READERS = cycle(["verify", "collect", "tables", "status", "verify", "export", "others"])  # quick ones, one a damage


@pytest.mark.skipif(sys.platform != "linux", reason="readers run in forked processes")
def test_damage_is_refused_told_or_without_effect(tmp_path: Path):
    """In a process of its own: one in which PyTorch has trained can't train in processes that are forked from it."""
    result = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def short_form(folder: Path) -> None:
    test = damage.Test(damage.make_study(folder, by_notebooks=False), random.Random(0))
    for number, case in enumerate(list(damage.cases(test.study, test.rng))):
        if number % 2 or case.path.suffix != ".npy":  # there are many kinds of arrays, and one way to read them
            test.cheaply(case, [next(READERS)])
    assert not test.faults, test.table()
    assert test.counts.total() > 200
    assert {outcome for _, _, outcome in test.counts} >= {"same", "same, told", "named", "refused", "left out"}


if __name__ == "__main__":
    short_form(Path(sys.argv[1]))
