"""A job in a dask worker: executed under its lock, with a GPU if there is one, and put on record."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from il2m.batch import records
from il2m.batch.jobs import Job
from il2m.batch.records import DONE, FAILED, RUNNING
from il2m.errors import InputError
from il2m.notebook.catalogue import BASE, FINE_TUNING, find_notebooks
from il2m.notebook.execute import Stopped, execute_notebook, failed_copy
from il2m.system.locks import WaitingStopped, locked
from il2m.system.machine import visible_gpus

PRELOAD = ("il2m.batch.warm",)  # what processes of jobs are forked with, where they are forked


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: after how many seconds, doing how much work (0: its results were there), and why it failed
    (empty: it did not)."""

    seconds: float = 0.0
    work: float = 0.0
    failure: str = ""


def run_job(job: Job, code: str, lease: Path, earlier: Mapping[str, JobEnd] = MappingProxyType({})) -> JobEnd:
    """Execute one job's notebook, unless another process did so in the meantime. Never raises.

    The executed copy appears under its name when it is whole; that of a failed job is kept as ``<name>.failed.ipynb``.
    code: records.code_hash, as it must be here. lease: a file in the study's folder; the job ends when it is gone.
    earlier: how the jobs that this one waited for have ended; if one that it reads failed, it is not run.
    """
    for name in job.after:
        if name in earlier and earlier[name].failure:
            return JobEnd(failure=f"not run, because {name} failed")
    if not lease.exists():
        host = socket.gethostname()
        return JobEnd(failure="stopped" if lease.parent.is_dir() else f"failed: {host} does not see {job.out_dir}")
    try:
        notebook = find_notebooks() / f"{job.notebook}.ipynb"
        if records.code_hash(notebook, job.plugins) != code:
            raise InputError(
                f"{socket.gethostname()} has another version of il2m or of a plugin, or their files changed meanwhile"
            )
        with locked(job.file(".lock"), waiting_for=f"at {job.name}", stop=lambda: not lease.exists()):
            shown = [name for name in job.beside if name not in earlier or not earlier[name].failure]
            if records.is_done(job, records.read_record(job.file(".json")), code, shown):
                return JobEnd()
            return _run_locked(job, notebook, code, shown, lease)
    except (Stopped, WaitingStopped):
        return JobEnd(failure="stopped")
    except Exception as error:  # a full disk, no right to write, ...: of this job alone
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            records.write_record(job, FAILED, code=code, reason=reason)
        return JobEnd(failure=f"failed: {reason}")


def _run_locked(job: Job, notebook: Path, code: str, shown: Sequence[str], lease: Path) -> JobEnd:
    log = job.file(".log")
    machine = {"host": socket.gethostname(), "pid": os.getpid()}
    records.write_record(job, RUNNING, code=code, **machine)
    work = 0 if _has_results(job) else job.work
    started = time.monotonic()
    with leased_gpu() as gpu:
        options = {"environment": gpu, "preload": PRELOAD, "log": log, "stop": lambda: not lease.exists()}
        failure = execute_notebook(notebook, job.output, job.parameters, plugins=job.plugins, **options)
    seconds = time.monotonic() - started
    about = {"code": code, "seconds": seconds, **machine}
    if failure:
        records.write_record(job, FAILED, reason=failure, **about)
        copy = failed_copy(job.output)
        return JobEnd(seconds, failure=f"failed: {failure}" + f" (see {copy})" * copy.is_file())
    log.unlink(missing_ok=True)
    records.write_record(job, DONE, shown=shown, work=work, **about)
    return JobEnd(seconds, work)


def _has_results(job: Job) -> bool:
    """Whether a training was begun or done already, so that its time now would tell nothing."""
    return job.notebook in (BASE, FINE_TUNING) and any((job.out_dir / job.run).glob("state_*"))


_jobs_on: Counter[str] = Counter()
_counting = threading.Lock()


@contextlib.contextmanager
def leased_gpu() -> Iterator[dict[str, str]]:
    """The environment that gives a job the GPU of this worker that has the fewest jobs; empty without GPUs."""
    gpus = visible_gpus()
    if not gpus:
        yield {}
        return
    with _counting:
        gpu = min(gpus, key=lambda name: _jobs_on[name])
        _jobs_on[gpu] += 1
    try:
        yield {"CUDA_VISIBLE_DEVICES": gpu}
    finally:
        with _counting:
            _jobs_on[gpu] -= 1


def what_a_worker_sees(marker: Path, job: Job) -> tuple[bool, str, str]:
    """Whether it sees a file of the study, its code for a job, and the name of its machine."""
    return marker.is_file(), records.codes_of([job], find_notebooks())[job.name], socket.gethostname()
