"""How a study stands, and how long it will take."""

import shlex
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from il2m.batch.jobs import Job
from il2m.batch.records import DONE, FAILED, RUNNING, STATUSES, job_rows, read_plans, read_record, swept_text
from il2m.errors import InputError, count, name_first, printable
from il2m.notebook.catalogue import BASE, FINE_TUNING
from il2m.study.progress import read_progress
from il2m.system.files import modified

_START_UP = 1.0  # seconds of a job that do not grow with its work
_FEW = 500  # records of other studies that are read to tell how long a job may take


class Estimates:
    """Seconds that jobs may take, from those of their kind that were done before: here, or in the studies beside."""

    def __init__(self, out_dir: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._rates: dict[str, list[float]] = {}  # of each kind: seconds for a unit of work
        done = {name: record for name, record in records.items() if record.get("status") == DONE}
        there = (name for name, each in done.items() if all((out_dir / run).is_dir() for run in each.get("states", ())))
        self._kept = {name: done[name].get("key") for name in there}
        others = [path for path in out_dir.parent.glob("*/jobs/*.json") if path.parent.parent != out_dir]
        for record in [*map(read_record, sorted(others, key=modified)[-_FEW:]), *records.values()]:
            if record.get("status") == DONE:
                self.add(record.get("kind", ""), record.get("seconds", 0), record.get("work", 0))

    def add(self, kind: str, seconds: float, work: float) -> None:
        """work: 0 where the job found its results done, so that its time tells nothing."""
        if work > 0:
            self._rates.setdefault(kind, []).append(max(seconds - _START_UP, 0) / work)

    def of(self, job: Job) -> float | None:
        """Seconds that a job may take; None for a kind that was never done."""
        if job.notebook in (BASE, FINE_TUNING) and self._kept.get(job.name) == job.key:
            return _START_UP  # what is stored is only looked at, whatever code made it
        rates = self._rates.get(job.kind)
        return _START_UP + statistics.median(rates) * job.work if rates else None

    def total(self, jobs: Collection[Job]) -> tuple[float, int]:
        """Seconds that jobs may take one after another, and how many of them are of a kind that was never done."""
        seconds = [self.of(job) for job in jobs]
        return sum(filter(None, seconds)), sum(each is None for each in seconds)

    def side_by_side(self, jobs: Collection[Job], slots: int) -> float:
        """Seconds until all are done that are known, ``slots`` at a time: no less than a job and all that it needs."""
        ends: dict[str, float] = {}
        for job in jobs:
            ends[job.name] = (self.of(job) or 0) + max((ends.get(name, 0) for name in job.after), default=0)
        return max(self.total(jobs)[0] / slots, *ends.values())


def say(what: str, **about: Any) -> str:
    """A text for a person, of templates/<what>.txt.j2."""
    texts = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")))
    texts.filters |= {"shell": shlex.join, "printable": printable}
    texts.globals |= {"count": count, "duration": duration, "title": title, "first": name_first}
    return texts.get_template(f"{what}.txt.j2").render(about)


def duration(seconds: float) -> str:
    """For a person: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def title(job: Job) -> str:
    """A job's name, and what tells it from others of its grid."""
    return " ".join([f"{job.name} ", swept_text(job), *(f"({name})" for name in job.combinations)]).strip()


def stage_text(job: Job) -> str:
    """How far a job is that is under way."""
    progress = read_progress(job.out_dir / job.run) if job.notebook in (BASE, FINE_TUNING) else None
    if not progress:
        return title(job)
    return f"{title(job)}  {progress['stage']}, {progress['where']}, {duration(progress['seconds_left'])} left"


def status_text(out_dir: Path) -> str:
    """Jobs by stage and status, what is under way, and what failed. Raises InputError where no grid was run."""
    if not (plans := read_plans(out_dir)):
        raise InputError(f"{out_dir}: no grid was run into this folder (il2m run GRID --out {out_dir}).")
    rows = job_rows(out_dir, plans)
    job_of = {job.name: job for plan in plans for job in plan["jobs"]}
    running = [stage_text(job_of[row["job"]]) for row in rows if row["status"] == RUNNING]
    reasons = [f"{row['status']}: {row['job']}: {row['reason']}" for row in rows if row["reason"]]
    about = {"not_done": {row["job"] for row in rows if row["status"] != DONE}, "failed": FAILED, "statuses": STATUSES}
    return say("status", folder=out_dir, plans=plans, rows=rows, running=running, reasons=reasons, **about)
