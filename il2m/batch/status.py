"""How a study stands, how long it will take, and what a running one tells a log and a person at a terminal."""

import contextlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from il2m.batch.jobs import Job
from il2m.batch.records import DONE, FAILED, RUNNING, STATUSES, jobs_table, read_plans, read_record
from il2m.errors import InputError, printable
from il2m.notebook.catalogue import BASE, FINE_TUNING
from il2m.study.progress import read_progress
from il2m.system.files import modified

_START_UP = 1.0  # seconds of a job that do not grow with its work
_FEW = 500  # records of other studies that are read to tell how long a job may take
_MOST_REASONS = 20
_MOST_SHOWN = 8  # jobs under way that a person is shown
_SECONDS_BETWEEN_LINES = 60  # of a log, on what is under way


class Estimates:
    """Seconds that jobs may take, from those of their kind that were done before: here, or in the studies beside."""

    def __init__(self, out_dir: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._rates: dict[str, list[float]] = {}  # of each kind: seconds for a unit of work
        self._kept = {name: record.get("key") for name, record in records.items() if record.get("status") == DONE}
        others = [path for path in out_dir.parent.glob("*/jobs/*.json") if path.parent.parent != out_dir]
        others = sorted(others, key=modified)[-_FEW:]
        for record in [*map(read_record, others), *records.values()]:
            if record.get("status") == DONE:
                self.add(record.get("kind", ""), record.get("seconds", 0), record.get("work", 0))

    def add(self, kind: str, seconds: float, work: float) -> None:
        """work: 0 where the job found its results done, so that its time tells nothing."""
        if work > 0:
            self._rates.setdefault(kind, []).append(max(seconds - _START_UP, 0) / work)

    def total(self, jobs: Iterable[Job]) -> tuple[float, int]:
        """Seconds that jobs may take one after another, and how many of them are of a kind that was never done."""
        medians = {kind: statistics.median(rates) for kind, rates in self._rates.items()}
        seconds, unknown = 0.0, 0
        for job in jobs:
            if job.notebook in (BASE, FINE_TUNING) and self._kept.get(job.name) == job.key:
                seconds += _START_UP  # what is stored is only looked at, whatever code made it
            elif job.kind in medians:
                seconds += _START_UP + medians[job.kind] * job.work
            else:
                unknown += 1
        return seconds, unknown


def duration(seconds: float) -> str:
    """For a person: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def stage_text(job: Job) -> str:
    """How far a job is that is under way."""
    progress = read_progress(job.out_dir / job.run) if job.notebook in (BASE, FINE_TUNING) else None
    if not progress:
        return job.name
    return f"{job.name}  {progress['stage']}, {progress['where']}, {duration(progress['seconds_left'])} left"


def status_text(out_dir: Path) -> str:
    """Jobs by stage and status, what is under way, and what failed. Raises InputError where no grid was run."""
    plans = read_plans(out_dir)
    if not plans:
        raise InputError(f"{out_dir}: no grid was run into this folder (il2m run GRID --out {out_dir}).")
    table = jobs_table(out_dir, plans)
    grids = dict.fromkeys(plan["grid"] for plan in plans)
    lines = [f"{out_dir}: {', '.join(grids)}", f"  {'':28}" + "".join(f"{status:>9}" for status in STATUSES)]
    counts = pd.crosstab(table["notebook"], table["status"]).reindex(columns=STATUSES, fill_value=0)
    lines += [f"  {name:28}" + "".join(f"{count:9}" for count in row) for name, *row in counts.itertuples()]
    job_of = {job.name: job for plan in plans for job in plan["jobs"]}
    lines += [f"running: {stage_text(job_of[name])}" for name in table.loc[table["status"] == RUNNING, "job"]]
    reasons = table[table["reason"] != ""]
    lines += [f"{job.status}: {job.job}: {job.reason}" for job in reasons.iloc[:_MOST_REASONS].itertuples()]
    if len(reasons) > _MOST_REASONS:
        lines.append(f"... and {len(reasons) - _MOST_REASONS} more")
    if (table["status"] == FAILED).any():
        lines.append(f"each failed notebook, with its traceback: {out_dir / 'notebooks'}/*.failed.html")
    not_done = set(table.loc[table["status"] != DONE, "job"])
    for plan in plans:
        if not_done & {job.name for job in plan["jobs"]}:
            lines.append(f"to go on with {plan['grid']}: {shlex.join(plan['command'])}  (in {plan['folder']})")
    if other_code := int(table["other_code"].sum()):
        lines.append(f"{other_code} were done by other code: il2m run executes their notebooks again (stages are kept)")
    return "\n".join(lines)


class Live(contextlib.ExitStack):
    """Plain lines for a log; at a terminal also lines, rewritten in place, on each stage under way."""

    def __init__(self, jobs: Iterable[Job], estimates: Estimates) -> None:
        super().__init__()  # it closes the bars
        self._left = {job.name: job for job in jobs}
        self._total, self._failed, self._estimates = len(self._left), 0, estimates
        self._bars: list[tqdm] = []
        self._shown = time.monotonic()

    def ended(self, job: Job, seconds: float, failure: str) -> None:
        """A job has ended: a line that stays. failure: "" if it did not fail."""
        self._left.pop(job.name)
        self._failed += bool(failure)
        how = failure or (f"{seconds:.0f} s" if seconds else "was done by another process")
        with tqdm.external_write_mode(file=sys.stdout):
            print(f"[{self._total - len(self._left)}/{self._total}] {job.name}: {printable(how)}", flush=True)

    def show(self, under_way: Callable[[], tuple[Iterable[Job], int]]) -> None:
        """Say what is under way, and at how many jobs a time: to a person every second, to a log once a minute."""
        now, is_person = time.monotonic(), sys.stdout.isatty()
        if now - self._shown < (1 if is_person else _SECONDS_BETWEEN_LINES):
            return
        self._shown = now
        jobs, slots = under_way()
        lines = [self._summary(slots), *(f"  {stage_text(job)}" for job in jobs)]
        if not is_person:
            print("\n".join(lines), flush=True)
            return
        options = {"bar_format": "{desc}", "leave": False, "file": sys.stdout, "dynamic_ncols": True}
        for n in range(len(self._bars), min(len(lines), 1 + _MOST_SHOWN)):
            self._bars.append(self.enter_context(tqdm(position=n, **options)))
        for bar, line in zip_longest(self._bars, lines[: 1 + _MOST_SHOWN], fillvalue=""):
            bar.set_description_str(line)

    def _summary(self, slots: int) -> str:
        seconds, unknown = self._estimates.total(self._left.values())
        left = f", about {duration(seconds / slots)} left" if slots and seconds and not unknown else ""
        left = left if slots else ", waiting for a worker"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._total - len(self._left)} of {self._total} jobs done{failed}{left}"
