"""A study's folder read whole, file by file: what in it is damaged, exchanged, stale, orphaned or unknown."""

import hashlib
import re
import shlex
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from il2m.batch import records
from il2m.data.dataset import read_npz
from il2m.errors import InputError, count
from il2m.notebook.pages import page_is_current
from il2m.report.build import PAGE, RECORD, REPORT, check_study, report_is_current
from il2m.results.collect import stored_results
from il2m.results.table import read_results
from il2m.study.find import run_folders
from il2m.study.runs import ANALYSED, RESULTS_FILE, Run
from il2m.system.files import SET_ASIDE, set_aside
from il2m.system.locks import RUN_LOCK, is_locked

DAMAGED, STALE, ORPHANED, UNKNOWN = "damaged or exchanged", "stale", "orphaned", "unknown"
_NAMES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


class Finding(NamedTuple):
    """What is wrong with a file or folder of a study."""

    path: Path
    kind: str  # DAMAGED, STALE, ORPHANED or UNKNOWN
    why: str


def verify_study(folder: Path) -> list[Finding]:
    """All that is wrong in a study's folder, but for what a process is at. Raises InputError if it is no study."""
    check_study(folder)
    findings, runs, folders = [], [], run_folders(folder)
    for path in folders:
        try:
            runs.append(Run(path))
        except InputError as error:
            findings.append(Finding(path / "config.json", DAMAGED, str(error)))
    for run in runs:
        findings += () if is_locked(run.folder / RUN_LOCK) else _of_run(run)
    for path in sorted(folder.glob("readable-*")):
        try:
            read_npz(path)
        except InputError as error:
            findings.append(Finding(path, DAMAGED, str(error)))
    for place in ("jobs", "plans", "notebooks"):
        findings += _unknown(folder / place, _NAMES["known"][place])
    findings += _unknown(folder, "|".join([_NAMES["known"]["study"], *(re.escape(each.name) for each in folders)]))
    return [*findings, *_of_jobs(folder), *_of_collected(folder / RESULTS_FILE, runs), *_of_pages(folder)]


def _unknown(folder: Path, known: str) -> Iterator[Finding]:
    for path in sorted(folder.glob("*")):  # hidden ones, too
        leftover = re.fullmatch(_NAMES["leftover"], path.name) and not re.fullmatch(known, path.name)
        if leftover and not is_locked(path):
            yield Finding(path, ORPHANED, "left by a process that was killed; it may be deleted")
        elif not leftover and not re.fullmatch(f"{known}|{_NAMES['others']}", path.name):
            yield Finding(path, UNKNOWN, "nothing of this study is known by this name")


def _of_run(run: Run) -> Iterator[Finding]:
    yield from _unknown(run.folder, _NAMES["known"]["run"])
    try:
        run.base  # noqa: B018 - it is looked for, and compared
    except InputError as error:
        yield Finding(run.folder, ORPHANED, str(error))
        return
    for path in sorted(run.folder.glob("state_[0-9][0-9]")):
        state = int(path.name[-2:])
        try:
            if run.kind != "joint" and any(missing < state for missing in run.missing_states):
                yield Finding(path, STALE, "a state before it is missing; it is kept if that comes out as it was")
                continue
            run.state(state).check(remembered=False)
            yield from _unknown(path, "|".join(map(re.escape, {*run.state(state).info["files"], "state.json"})))
        except InputError as error:
            yield Finding(path, DAMAGED, str(error))
    for checkpoint in sorted(run.folder.glob("state_*.checkpoint")):
        content = checkpoint.read_bytes()
        if (run.folder / checkpoint.name[: len("state_01")]).exists():
            yield Finding(checkpoint, ORPHANED, "the state is finished; it may be deleted")
        elif hashlib.sha256(content[32:]).digest() != content[:32]:
            yield Finding(checkpoint, DAMAGED, "it is not as it was written: that training starts again")
    if (path := run.folder / RESULTS_FILE).exists():
        try:
            why = "its states are not all there" if run.missing_states else stored_results(run)[1]
        except InputError:
            why = "its states don't belong together"
        if why:
            yield Finding(path, STALE, why)


def _of_jobs(folder: Path) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        plans = records.read_plans(folder)
    damaged = {*(folder / "plans").glob("*.json")} - {folder / "plans" / plan["file"] for plan in plans}
    for path in damaged:
        why = next(str(each.message) for each in caught if path.name in str(each.message))
        yield Finding(path, DAMAGED, f"{why} Give its il2m run command again: only you know it now.")
    jobs = {job.name: job for plan in plans for job in plan["jobs"]}
    for name, record in records.read_records(folder).items():
        path = folder / "jobs" / f"{name}.json"
        if "damaged" in record:
            yield Finding(path, DAMAGED, record["damaged"])
        elif name not in jobs and not damaged and not any(folder.glob(f"plans/{SET_ASIDE}*")):  # else it may be known
            yield Finding(path, ORPHANED, "no plan asks for this job")
        elif name in jobs and record["status"] == records.DONE and (why := records.standing(jobs[name], record)[1]):
            yield Finding(path, STALE, why)


def _of_collected(path: Path, runs: Iterable[Run]) -> Iterator[Finding]:
    if not path.exists():
        return
    try:
        made_from = read_results(path).attrs["states"]
        known = {run.config["hash"] for run in runs if run.name in made_from}  # copies count once
        if any(run.kind in ANALYSED and not run.missing_states and run.config["hash"] not in known for run in runs):
            yield Finding(path, STALE, "it lacks runs that are finished")
        for run, states in made_from.items():
            if records.states_of(path.parent / run) != states:
                yield Finding(path, STALE, f"the states of {run} are not those that it was collected from")
    except (InputError, KeyError) as error:
        yield Finding(path, STALE, str(error))


def _of_pages(folder: Path) -> Iterator[Finding]:
    for page in sorted(folder.glob("notebooks/*.html")):
        notebook = page.with_suffix(".ipynb")
        if not notebook.exists():
            yield Finding(page, ORPHANED, "its notebook is gone")
        elif not page_is_current(page, notebook):
            yield Finding(page, STALE, "it is not as it was made, or of another notebook than lies here")
    if (folder / PAGE).exists() and not report_is_current(folder):
        why = f"it, {REPORT}.ipynb, {RECORD} or what it shows has changed since, or it was made by other code"
        yield Finding(folder / PAGE, STALE, why)


def summary(folder: Path, findings: Iterable[Finding]) -> str:
    """What was read, and how much of it is not as it should be, in a sentence or two."""
    kinds = Counter(finding.kind for finding in findings)
    states = [path for path in folder.glob("*/state_[0-9][0-9]/state.json") if SET_ASIDE not in str(path)]
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "all as it was made"
    old = sum(b'"origin"' not in path.read_bytes() for path in states)
    before = f" {count(old, 'state')} of before version 0.2: a swap can't be told." if old else ""
    return f"{folder}: {count(len(states), 'state')} read; {told}.{before}"


def repair(findings: Iterable[Finding]) -> None:
    """Set aside what is damaged or orphaned, so that the commands that made a study make it again. (What is stale they
    make again anyway, and states that were trained from a damaged one if that comes out otherwise.)"""
    for path, kind, _ in findings:
        if kind in (DAMAGED, ORPHANED) and path.exists():
            set_aside(path.parent if path.name == "config.json" else path)


def repair_command(folder: Path) -> str:
    """What makes a study again where it is not as it should be: one line for a shell."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        plans = records.read_plans(folder)
    again = [f"(cd {shlex.quote(plan['folder'])} && {shlex.join(plan['command'])})" for plan in plans]
    again = again or [f"il2m report {shlex.quote(str(folder))}"]
    return f"il2m verify {shlex.quote(str(folder))} --repair; {' && '.join(again)}"  # it exits 1: it found some
