"""How long jobs will take, from those that were done before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from il2m.batch.jobs import Job
from il2m.batch.records import DONE, read_record
from il2m.notebook.catalogue import BASE, FINE_TUNING

_START_UP = 1.0  # seconds of a job that do not grow with its work
_FEW = 500  # records of other studies that are read to tell how long a job may take


class Estimates:
    """Seconds that jobs may take, from those of their kind that were done before: here, or in the studies beside."""

    def __init__(self, out_dir: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._rates: dict[str, list[float]] = {}
        self._medians: dict[str, float] = {}
        self._kept = {name: record.get("key") for name, record in records.items() if record.get("status") == DONE}
        others = [path for path in out_dir.parent.glob("*/jobs/*.json") if path.parent.parent != out_dir]
        others = sorted(others, key=lambda path: path.stat().st_mtime)[-_FEW:]
        for record in [*map(read_record, others), *records.values()]:
            if record.get("status") == DONE:
                self.add(record.get("kind", ""), record.get("seconds", 0), record.get("work", 0))

    def add(self, kind: str, seconds: float, work: float) -> None:
        """work: 0 where the job found its results done, so that its time tells nothing."""
        if work > 0:
            self._rates.setdefault(kind, []).append(max(seconds - _START_UP, 0) / work)
            self._medians.pop(kind, None)

    def seconds(self, job: Job) -> float | None:
        """None where no such job was ever done. A stage that is stored is only looked at, whatever code made it."""
        if job.notebook in (BASE, FINE_TUNING) and self._kept.get(job.name) == job.key:
            return _START_UP
        if job.kind not in self._medians and job.kind in self._rates:
            self._medians[job.kind] = statistics.median(self._rates[job.kind])
        return _START_UP + self._medians[job.kind] * job.work if job.kind in self._medians else None
