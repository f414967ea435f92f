"""The workers, and a job in one of them: executed under its lock, with a GPU if there is one, and put on record."""

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from il2m.batch import records
from il2m.batch.jobs import Job
from il2m.errors import InputError
from il2m.notebook.catalogue import ABLATION, BASE, FINE_TUNING, find_notebooks
from il2m.notebook.execute import execute_notebook, failed_copy
from il2m.study.runs import RESULTS_FILE
from il2m.system.locks import Stopped, locked, sweep
from il2m.system.machine import usable_cores, visible_gpus

PRELOAD = ("il2m.batch.warm",)  # what processes of jobs are forked with, where they are forked


@dataclass(frozen=True)
class Workers:
    """How many jobs run side by side, and where. Raises InputError if both count and scheduler are given."""

    count: int | None = None  # on this machine; None: one per GPU, or as many as the cores have room for
    threads: int = 1  # of the CPU, for each job
    scheduler: str = ""  # a dask scheduler's address, or its file; its workers' threads then take a job each

    def __post_init__(self) -> None:
        if self.scheduler and self.count:
            raise InputError("--workers are jobs on this machine; workers at --scheduler have --nthreads of their own.")

    @property
    def slots(self) -> int:
        """Jobs at a time on this machine."""
        return self.count or len(visible_gpus()) or max(1, (usable_cores() or 1) // self.threads)


@dataclass(frozen=True)
class JobEnd:
    seconds: float = 0.0
    work: float = 0.0  # 0: its results were there
    failure: str = ""  # why it failed; "": it did not


def why_not_here(marker: Path, job: Job, code: str) -> str:
    """Why a job can't be done here, "" if it can. marker: a file in the study's folder. code: see run_job."""
    host = socket.gethostname()
    if not marker.is_file():
        return f"on {host} does not see {job.out_dir}: all machines must share the study's folder, under one path."
    if records.code_hash(find_notebooks() / f"{job.notebook}.ipynb", job.plugins) != code:
        return f"on {host} has another version of il2m or of a plugin: use the same files, and start it again."
    return ""


def run_job(job: Job, code: str, lease: Path, earlier: Mapping[str, JobEnd] = {}) -> JobEnd:
    """Execute one job's notebook, unless another process did so in the meantime. Never raises.
    code: records.code_hash, as it must be here. lease: a file in the study's folder; the job ends when it is gone.
    earlier: how the jobs that this one waited for have ended; if one that it reads failed, it is not run."""
    host = socket.gethostname()
    failed = [name for name, end in earlier.items() if end.failure]
    if needed := [name for name in job.after if name in failed]:
        return JobEnd(failure=f"not run, because {needed[0]} failed")
    try:
        if not lease.exists():
            raise Stopped
        notebook = find_notebooks() / f"{job.notebook}.ipynb"
        if records.code_hash(notebook, job.plugins) != code:
            raise InputError(f"{host} has another version of il2m or of a plugin, or their files changed meanwhile")
        with locked(job.file(".lock"), waiting_for=f"at {job.name}", stop=lambda: not lease.exists()):
            shown = [name for name in job.beside if name not in failed]
            ran = any(earlier[name].seconds for name in job.after if name in earlier)
            if not ran and records.is_done(job, records.read_record(job.file(".json")), code, shown):
                return JobEnd()
            return _run_locked(job, notebook, code, shown, lease)
    except Stopped:
        return JobEnd(failure="stopped" if lease.parent.is_dir() else f"failed: {host} does not see {job.out_dir}")
    except Exception as error:  # a full disk, no right to write, ...: of this job alone
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            records.write_record(job, records.FAILED, code=code, reason=reason)
        return JobEnd(failure=f"failed: {reason}")


def _run_locked(job: Job, notebook: Path, code: str, shown: Sequence[str], lease: Path) -> JobEnd:
    leftovers = [*job.output.parent.glob(f".{job.name}.*"), *lease.parent.glob(f"{job.name}.*.tmp")]
    leftovers += (job.out_dir / job.run).glob(f"{RESULTS_FILE}*.tmp") if job.notebook == ABLATION else []
    sweep(job.file(".lock"), [*leftovers, *job.output.parent.glob(f"{job.name}.*.tmp")])
    details = {"code": code, "host": socket.gethostname(), "pid": os.getpid()}
    records.write_record(job, records.RUNNING, **details)
    is_begun = job.notebook in (BASE, FINE_TUNING) and any((job.out_dir / job.run).glob("state_*"))
    work = 0 if is_begun else job.work  # the time of a training that was begun before tells nothing
    log, started = job.file(".log"), time.monotonic()
    with leased_gpus(job.parameters.get("num_processes", 1)) as gpu:
        options = {"plugins": job.plugins, "environment": gpu, "preload": PRELOAD, "log": log}
        failure = execute_notebook(notebook, job.output, job.parameters, stop=lambda: not lease.exists(), **options)
    details["seconds"] = time.monotonic() - started
    if failure:
        records.write_record(job, records.FAILED, reason=failure, **details)
        copy = failed_copy(job.output)
        return JobEnd(details["seconds"], failure=f"failed: {failure}" + f" (see {copy})" * copy.is_file())
    log.unlink(missing_ok=True)
    records.write_record(job, records.DONE, shown=shown, work=work, **details)
    return JobEnd(details["seconds"], work)


_jobs_on: Counter[str] = Counter()
_counting = threading.Lock()


@contextlib.contextmanager
def leased_gpus(count: int = 1) -> Iterator[dict[str, str]]:
    """The environment that gives a job the GPUs of this worker that have the fewest jobs; empty without GPUs."""
    with _counting:
        gpus = sorted(visible_gpus(), key=lambda name: _jobs_on[name])[:count]
        _jobs_on.update(gpus)
    try:
        yield {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    finally:
        with _counting:
            _jobs_on.subtract(gpus)
