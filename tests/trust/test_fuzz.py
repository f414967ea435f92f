"""A short form of the fuzz run; the long one: ``python tests/trust/fuzz.py 100000``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

FUZZ = Path(__file__).parent / "fuzz.py"
NEVER_ACCEPTED = ["checkpoints"]  # their hash covers every bit
# readers with faults that are known
OPEN = ["config.json", "state.json", "a state's arrays", "job records", "plans", "results.parquet", "progress.json"]


def test_hostile_inputs_are_taken_or_refused_and_nothing_else(tmp_path: Path):
    command = [sys.executable, FUZZ, "2000", "--table", tmp_path / "table.csv"]  # a process of its own: it forks
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    table = pd.read_csv(tmp_path / "table.csv", index_col="reader")
    assert table[["accepted", "refused", "faults"]].to_numpy().sum() >= 2000
    assert not table["faults"].drop(index=OPEN).any(), result.stdout
    assert table.drop(index=NEVER_ACCEPTED)["accepted"].all(), result.stdout
