"""Jobs to workers and back: each when those it reads have ended, until all have, or until the study is stopped."""

from __future__ import annotations

import contextlib
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dask.distributed import Client, Future, as_completed, wait
from distributed import KilledWorker

from il2m.batch import records
from il2m.batch.cluster import Workers, check_workers, connected, dashboard
from il2m.batch.estimates import Estimates
from il2m.batch.jobs import Job
from il2m.batch.records import FAILED, RUNNING
from il2m.batch.status import Live
from il2m.batch.worker import JobEnd, run_job
from il2m.errors import InputError

_SECONDS_TO_STOP = 20


def execute_jobs(jobs: Sequence[Job], notebooks: Path, workers: Workers, estimates: Estimates) -> dict[str, str]:
    """Run the jobs, each when those it reads have ended; prints progress. Returns failed job -> reason.

    Whatever ends this early (Ctrl-C, SIGTERM, an error) ends the jobs that are under way as well.
    Raises InputError if the scheduler can't be reached, or is gone in the middle.
    """
    codes = records.codes_of(jobs, notebooks)
    with _interrupted_by_terminate(), _lease(jobs[0].out_dir) as lease, connected(workers) as client:
        if workers.scheduler:
            if not client.nthreads():
                print("waiting for the scheduler's first worker", flush=True)
                client.wait_for_workers(1)
            check_workers(client, lease, jobs[0], codes[jobs[0].name])
        if dashboard(client):
            print(f"dashboard: {dashboard(client)}", flush=True)
        dispatch = _Dispatch(client, codes, lease, estimates)
        try:
            with Live(jobs, estimates) as live:
                return dispatch.run(jobs, live)
        except BaseException as error:
            lease.unlink(missing_ok=True)
            if isinstance(error, KeyboardInterrupt):
                print("\nstopping ...", flush=True)
            dispatch.wait_for_those_under_way()
            raise


@contextlib.contextmanager
def _lease(out_dir: Path) -> Iterator[Path]:
    """A file in the study's folder that is there as long as its jobs may run, wherever they are."""
    lease = out_dir / "jobs" / f"{uuid.uuid4().hex}.lease"
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.touch()
    try:
        yield lease
    finally:
        lease.unlink(missing_ok=True)


@contextlib.contextmanager
def _interrupted_by_terminate() -> Iterator[None]:
    """SIGTERM, as batch systems send it, ends a study as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Dispatch:
    """The futures of a study's jobs, and how they came out."""

    def __init__(self, client: Client, codes: Mapping[str, str], lease: Path, estimates: Estimates) -> None:
        self._client, self._codes, self._lease, self._estimates = client, codes, lease, estimates
        self._futures: dict[str, Future] = {}
        self._ends: dict[str, JobEnd] = {}
        self._submitted: dict[str, tuple[Job, list]] = {}  # by the future's key: how far the job was then

    def run(self, jobs: Sequence[Job], live: Live) -> dict[str, str]:
        """Submit the jobs, and tell of each when it ends. Returns failed job -> reason."""
        for job in jobs:
            self._submit(job)
        ending = as_completed(self._futures.values(), raise_errors=False)
        while not ending.is_empty():
            for future in ending.next_batch(block=False):
                job, how_far = self._submitted[future.key]
                end = self._end(job, future, how_far)
                if end is None:  # once more
                    self._submit(job)
                    ending.add(self._futures[job.name])
                    continue
                self._ends[job.name] = end
                self._estimates.add(job.kind, end.seconds, end.work)
                live.ended(job, end.seconds, end.failure)
            live.show(self._under_way)
            time.sleep(0.25)
        return {name: end.failure for name, end in self._ends.items() if end.failure}

    def wait_for_those_under_way(self) -> None:
        """They end once their lease is gone. A second Ctrl-C does not wait for them."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # the scheduler may be gone
            given = {key for keys in self._client.processing().values() for key in keys}
            wait([future for future in self._futures.values() if future.key in given], timeout=_SECONDS_TO_STOP)

    def _submit(self, job: Job) -> None:
        before = [name for name in (*job.after, *job.beside) if name in self._futures]
        earlier = {name: self._ends.get(name, self._futures[name]) for name in before}
        key = f"{job.name}-{uuid.uuid4().hex}"
        self._submitted[key] = job, _how_far(job)
        arguments = (job, self._codes[job.name], self._lease, earlier)
        self._futures[job.name] = self._client.submit(run_job, *arguments, key=key, pure=False)

    def _end(self, job: Job, future: Future, how_far: list) -> JobEnd | None:
        """How a job came out; None if it is to be done again, because workers died but the job got on meanwhile, or
        because it was not this one that they died of. how_far: the job was when it was submitted."""
        if future.cancelled():
            raise InputError("the dask scheduler is gone, its jobs are stopped; the same command goes on from there.")
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, KilledWorker):
            if error.task != future.key or _how_far(job) != how_far:
                return None
            reason = "its workers died one after another, and it got no further (out of memory?)"
        else:
            reason = repr(error)
        records.write_record(job, FAILED, code=self._codes[job.name], reason=reason)
        return JobEnd(failure=f"failed: {reason}")

    def _under_way(self) -> tuple[list[Job], int]:
        """The jobs that workers are at (some that they were given still wait there), and how many they can do."""
        try:
            given = [key for keys in self._client.processing().values() for key in keys if key in self._submitted]
            slots = sum(self._client.nthreads().values())
        except (OSError, TimeoutError):  # the scheduler is gone, or busy: its futures will tell
            return [], 0
        jobs = [self._submitted[key][0] for key in given]
        return [job for job in jobs if records.read_record(job.file(".json")).get("status") == RUNNING], slots


def _how_far(job: Job) -> list[tuple[str, int]]:
    """Changes whenever a job's run stores a state or a checkpoint."""
    return sorted((path.name, path.stat().st_mtime_ns) for path in (job.out_dir / job.run).glob("state_*"))
