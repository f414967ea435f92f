"""What a study's folder knows of its jobs: what was planned, how each job ended, what is under way.

<out>/plans/<grid>.json   one per grid run into the folder: its jobs, the command, the environment
<out>/jobs/<job>.json     how a job ended, and what it left behind
<out>/jobs/<job>.lock     held while a process is at the job
<out>/notebooks/          the executed copies, each with its page (.html); those of failed jobs end in .failed"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.errors import InputError
from il2m.notebook.catalogue import ABLATION, FINE_TUNING, find_notebooks
from il2m.notebook.execute import failed_copy
from il2m.parameters import PARAMETERS
from il2m.study.runs import RESULTS_FILE, Run
from il2m.system.hashes import file_hash, read_sealed, sealed, short_hash, write_sealed
from il2m.system.locks import is_locked
from il2m.system.machine import environment, library_hash
from il2m.system.plugins import plugin_hash

DONE, RUNNING, FAILED, BLOCKED, MISSING = STATUSES = ("done", "running", "failed", "blocked", "missing")
_States = Callable[[Path], Mapping[str, str]]  # see states_of


def write_plan(out_dir: Path, grid: Grid, changes: Sequence[str], jobs: Sequence[Job], command: Sequence[str]) -> None:
    """Keep what a grid, with the command line's changes, asks for, in place of what it asked for before."""
    name = f"{grid.name}-{short_hash(list(changes))}" if changes else grid.name
    path = out_dir / "plans" / f"{name}.json"
    plan = {"grid": grid.name, "description": grid.description, "command": command, "folder": str(Path.cwd())}
    plan |= {"environment": environment(), "jobs": [vars(job) for job in jobs], "file": path.name}
    with contextlib.suppress(FileNotFoundError, ValueError):
        known = read_sealed(path)
        is_newest = [plan["file"] for plan in read_plans(out_dir)][-1:] == [path.name]
        if is_newest and sealed(plan | {"made": known["made"]}) == sealed(known):
            return
    write_sealed(path, plan | {"made": datetime.now(UTC).isoformat()})


def read_plans(out_dir: Path) -> list[dict[str, Any]]:
    """A study's plans, oldest first: with Jobs, whole seconds, and a command for this folder. Warns of damaged ones."""
    plans = []
    for path in sorted((out_dir / "plans").glob("*.json")):
        try:
            plan = read_sealed(path)
            jobs = [_job(entry, out_dir) for entry in plan["jobs"]]
            if plan["file"] != path.name:
                raise ValueError(f"is that of {plan['file']}")
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
            warnings.warn(f"left out the plan {path.name}: it {_reason(error)}", stacklevel=2)
            continue
        planned = plan["jobs"][0]["parameters"].get("out_dir") if jobs else None
        plans.append(plan | {"jobs": jobs, "command": _command_for(plan["command"], planned, out_dir.resolve())})
    return [plan | {"made": f"{plan['made'][:19]}+00:00"} for plan in sorted(plans, key=lambda plan: plan["made"])]


def warn_of_plugins(out_dir: Path, plugins: Iterable[str], what: str) -> None:
    """Warn of plugins that a study's plans name, but not these: a study from elsewhere shall not run code here."""
    planned = dict.fromkeys(name for plan in read_plans(out_dir) for job in plan["jobs"] for name in job.plugins)
    for name in [name for name in planned if name not in plugins]:
        warnings.warn(f"{what} is made without plugin {name}: --plugin loads it", stacklevel=3)


def _command_for(command: list[str], planned: Any, folder: Path) -> list[str]:
    """A plan's command for the folder where the study lies now, be it copied or moved since. planned: where it lay."""
    if planned in (None, str(folder)):
        return command
    kept = [word for before, word in pairwise(["", *command]) if "--out" not in (before, word.partition("=")[0])]
    return [*kept, "--out", str(folder)]


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"can't be read ({type(error).__name__}: {error})"


def _job(entry: dict[str, Any], out_dir: Path) -> Job:
    """A job as it was planned, in the folder where it now lies."""
    tuples = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
    return Job(**{**entry, **tuples, "parameters": {**entry["parameters"], "out_dir": str(out_dir)}})


def write_record(job: Job, status: str, *, code: str, shown: Iterable[str] = (), **details: Any) -> None:
    """Keep how a job stands. code: see code_hash; shown: the jobs whose results it could show."""
    record = {"job": job.name, "status": status, "key": job.key, "code": code, "kind": job.kind, "beside": list(shown)}
    if status == DONE:  # by which one can tell that its results are there, and of what they were made
        files = [job.output] + [job.out_dir / job.run / RESULTS_FILE] * (job.notebook == ABLATION)
        record["files"] = {str(path.relative_to(job.out_dir)): file_hash(path) for path in files}
        runs = [job.run, *(name.removeprefix(f"{FINE_TUNING}-") for name in shown)]
        runs = [name for name in runs if (job.out_dir / name / "config.json").exists()]
        record["states"] = {name: states_of(job.out_dir / name) for name in runs}
    write_sealed(job.file(".json"), {**record, **details})


def states_of(run: Path) -> dict[str, str]:
    """The digest of each state of a run. Raises InputError if they don't belong together."""
    return {str(state): digest for state, digest in Run(run).digests.items()}


def read_record(path: Path) -> dict[str, Any]:
    """One record; empty if there is none, and ``damaged`` alone, with the reason, if it is not as it was written."""
    try:
        record = read_sealed(path)
        if record["job"] != path.stem:
            raise ValueError(f"is that of {record['job']}")
        return record
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError) as error:
        return {"damaged": f"its record {_reason(error)}"}


def read_records(out_dir: Path) -> dict[str, dict[str, Any]]:
    """All records of a study's folder: name of the job -> record."""
    return {path.stem: read_record(path) for path in sorted((out_dir / "jobs").glob("*.json"))}


def standing(job: Job, record: Mapping[str, Any], states: _States = states_of) -> tuple[str, str]:
    """How a job stands by its record, one of STATUSES, and why it is not done, where the record tells."""
    status = record.get("status", MISSING)
    if status == MISSING:
        return MISSING, record.get("damaged", "")
    if status == RUNNING:
        return (RUNNING, "") if is_locked(job.file(".lock")) else (MISSING, "was interrupted")
    if record["key"] != job.key:
        return MISSING, "was done with other parameters"
    if status != DONE:
        return status, record.get("reason", "")
    for name, content in record["files"].items():
        with contextlib.suppress(OSError):
            if file_hash(job.out_dir / name) == content:
                continue
        return MISSING, f"{name} is not as it left it"
    for run, read in record["states"].items():
        with contextlib.suppress(InputError, OSError):
            if states(job.out_dir / run) == read:
                continue
        return MISSING, f"the states of {run} are not those that it left or read"
    return DONE, ""


def is_done(job: Job, record: Mapping[str, Any], code: str, shown: Iterable[str], states: _States = states_of) -> bool:
    """Whether a job is done as it is asked for, by this code, showing the jobs ``shown`` at least, and stands so."""
    return record.get("code") == code and {*shown} <= {*record["beside"]} and standing(job, record, states)[0] == DONE


def code_hash(notebook: Path, plugins: Sequence[str]) -> str:
    """Hash of a notebook's cells (not of what they showed), of the library and of plugins, as what they show depends on
    all; "" where a file is gone, or is no notebook."""
    library = library_hash()
    with contextlib.suppress(OSError, InputError, ValueError, LookupError, TypeError):
        cells = [[cell["cell_type"], "".join(cell["source"])] for cell in json.loads(notebook.read_bytes())["cells"]]
        return short_hash([library, cells, *map(plugin_hash, plugins)])
    return ""


def codes_of(jobs: Iterable[Job], notebooks: Path) -> dict[str, str]:
    """Name of each job -> its code_hash in this process."""
    hash_once = cache(code_hash)
    return {job.name: hash_once(notebooks / f"{job.notebook}.ipynb", job.plugins) for job in jobs}


def jobs_to_do(jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any]], notebooks: Path) -> list[Job]:
    """Those that are not done, and those that need one of them; ``jobs`` come in an order in which they can be done."""
    codes, states = codes_of(jobs, notebooks), cache(states_of)
    to_do: dict[str, Job] = {}
    for job in jobs:
        if to_do.keys() & job.after or not is_done(job, records.get(job.name, {}), codes[job.name], job.beside, states):
            to_do[job.name] = job
    return list(to_do.values())


def job_rows(out_dir: Path, plans: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """One row per job that was planned in a study's folder; plans: as read_plans reads them, if they are read already.
    A row has ``job, notebook, run, grid, combination, swept`` (texts), ``status`` (of STATUSES; ``blocked``: it needs
    one that failed), ``seconds``, ``reason`` (why it failed or is blocked), ``file`` (the executed notebook, or that of
    the failure, relative to out_dir; "" if there is none) and ``other_code`` (it is done, but not by the code here)."""
    jobs: dict[str, Job] = {}
    grids: dict[str, dict[str, None]] = {}  # of each job, each once
    for plan in read_plans(out_dir) if plans is None else plans:
        for job in plan["jobs"]:
            jobs[job.name] = job
            grids.setdefault(job.name, {})[plan["grid"]] = None
    records, codes = read_records(out_dir), codes_of(jobs.values(), find_notebooks())
    rows, status_of, states = [], {}, cache(states_of)
    for job in jobs.values():
        record = records.get(job.name, {})
        status, reason = standing(job, record, states)
        culprit = next((name for name in job.after if status_of.get(name) in (FAILED, BLOCKED)), None)
        if status == MISSING and culprit:
            status, reason = BLOCKED, f"needs {culprit}, which {'failed' if status_of[culprit] == FAILED else 'waits'}"
        status_of[job.name] = status
        output = job.output if status != FAILED else failed_copy(job.output)
        row = {"job": job.name, "notebook": job.notebook, "run": job.run, "grid": ", ".join(grids[job.name])}
        row |= {"combination": ", ".join(job.combinations), "swept": swept_text(job), "status": status}
        row |= {"seconds": record.get("seconds", float("nan")), "reason": reason}
        row["file"] = str(output.relative_to(job.out_dir)) if output.is_file() else ""
        rows.append(row | {"other_code": status == DONE and record["code"] != codes[job.name]})
    return rows


def swept_text(job: Job) -> str:
    """What tells a job from others of its grid, for a person."""
    return ", ".join(f"{PARAMETERS[name].short or name}={json.dumps(value)}" for name, value in job.swept.items())
