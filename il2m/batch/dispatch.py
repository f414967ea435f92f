"""Jobs to workers and back, here or on a dask cluster, each when those it reads have ended; what is told meanwhile."""

import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dask import config
from dask.distributed import Client, Future, KilledWorker, as_completed, wait

from il2m.batch import records
from il2m.batch.jobs import Job
from il2m.batch.status import Estimates, say, stage_text, title
from il2m.batch.worker import JobEnd, Workers, run_job, why_not_here
from il2m.errors import InputError, printable
from il2m.system.files import modified
from il2m.system.locks import is_locked, locked, sweep

_PATIENCE = 20  # seconds for a scheduler to answer, and for jobs to stop
_SECONDS_BETWEEN_LINES = {True: 10, False: 60}  # on what is under way, at a terminal and in a log
_TLS = "Name the certificates (PEM files) in dask's configuration, for example by the environment variables "
_TLS += ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))


def connected(workers: Workers) -> Client:
    """A client of the workers, to be closed. Raises InputError if the scheduler can't be reached, or refuses."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":  # it logs a lost connection with its traceback: what it means is told
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if not workers.scheduler:  # threads of this process, as the work is in the jobs' own; nothing listens beyond here
        options = dict.fromkeys(("dashboard_address", "worker_dashboard_address"), "127.0.0.1:0")
        options |= {"processes": False, "protocol": "inproc", "n_workers": 1, "threads_per_worker": workers.slots}
        with config.set({"distributed.scheduler.worker-ttl": None}):  # a laptop asleep, or Ctrl-Z, costs no worker
            return Client(**options)
    is_file = os.path.isfile(workers.scheduler)  # what `dask scheduler --scheduler-file` writes
    try:
        return Client(**{"scheduler_file" if is_file else "address": workers.scheduler}, timeout=_PATIENCE)
    except (OSError, ValueError, RuntimeError, TypeError, AssertionError) as error:  # certificates, an odd file
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = _TLS if workers.scheduler.startswith("tls:") else "Start one with `dask scheduler`."
        raise InputError(f"no dask scheduler answers at {workers.scheduler}: {reason}. {advice}") from None


def execute_jobs(jobs: Sequence[Job], notebooks: Path, workers: Workers, estimates: Estimates) -> dict[str, str]:
    """Run the jobs, each when those it reads have ended; prints progress. Returns failed job -> reason.
    Whatever ends this early (Ctrl-C, SIGTERM, an error) ends the jobs that are under way as well.
    Raises InputError if the scheduler can't be reached, is gone in the middle, or a worker of it can't do the jobs."""
    codes = records.codes_of(jobs, notebooks)
    with contextlib.ExitStack() as stack:
        # SIGTERM, as batch systems send it, ends a study as Ctrl-C does
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        # a file that is there as long as the jobs may run, wherever they are
        lease = jobs[0].out_dir / "jobs" / f"{uuid.uuid4().hex}.lease"
        stack.enter_context(locked(lease, waiting_for=""))
        stack.callback(lease.unlink, missing_ok=True)
        others = [path for path in lease.parent.glob("*.lease") if time.time() - modified(path) > _PATIENCE]
        sweep(lease, [path for path in others if not is_locked(path)])  # of processes that were killed
        client = stack.enter_context(connected(workers))
        if workers.scheduler:
            if not client.nthreads():
                print("waiting for the scheduler's first worker", flush=True)
                client.wait_for_workers(1)
            for address, problem in client.run(why_not_here, lease, jobs[0], codes[jobs[0].name]).items():
                if problem:
                    raise InputError(f"worker {address} {problem}")
        dispatch = _Dispatch(client, codes, lease, estimates)
        try:
            return dispatch.run(jobs)
        except BaseException as error:
            lease.unlink(missing_ok=True)
            if isinstance(error, KeyboardInterrupt):
                print("\nstopping ...", flush=True)
            dispatch.wait_for_those_under_way()
            raise


class _Dispatch:
    """The futures of a study's jobs, and how they came out."""

    def __init__(self, client: Client, codes: Mapping[str, str], lease: Path, estimates: Estimates) -> None:
        self._client, self._codes, self._lease, self._estimates = client, codes, lease, estimates
        self._outcomes: dict[str, Future | JobEnd] = {}  # of each job: how it ended, once it is known
        self._submitted: dict[str, Job] = {}  # by the future's key

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Submit the jobs, and tell of each when it ends. Returns failed job -> reason."""
        ending = as_completed(map(self._submit, jobs), raise_errors=False)
        live = _Live(jobs, self._estimates)
        while not ending.is_empty():
            for future in ending.next_batch(block=False):
                job = self._submitted[future.key]
                if end := self._end(future):
                    self._outcomes[job.name] = end
                    self._estimates.add(job.kind, end.seconds, end.work)
                    live.ended(job, end.seconds, end.failure)
                else:  # once more
                    ending.add(self._submit(job))
            live.show(self._under_way)
            time.sleep(0.25)
        return {name: end.failure for name, end in self._outcomes.items() if end.failure}

    def wait_for_those_under_way(self) -> None:
        """They end once their lease is gone. A second Ctrl-C does not wait for them."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # the scheduler may be gone
            given = set().union(*self._client.processing().values())
            wait([it for it in self._outcomes.values() if isinstance(it, Future) and it.key in given], _PATIENCE)

    def _submit(self, job: Job) -> Future:
        earlier = {name: self._outcomes[name] for name in (*job.after, *job.beside) if name in self._outcomes}
        arguments, key = (job, self._codes[job.name], self._lease, earlier), f"{job.name}-{uuid.uuid4().hex}"
        self._submitted[key] = job
        self._outcomes[job.name] = future = self._client.submit(run_job, *arguments, key=key, pure=False)
        return future

    def _end(self, future: Future) -> JobEnd | None:
        """How a job came out; None if it is to be submitted again: workers died, but not of this job."""
        job = self._submitted[future.key]
        if future.cancelled():
            raise InputError("the dask scheduler is gone, its jobs are stopped; the same command goes on from there.")
        if (error := future.exception()) is None:
            return future.result()
        is_killed = isinstance(error, KilledWorker)
        if is_killed and error.task != future.key:
            return None
        reason = "its workers died one after another (out of memory?)" if is_killed else repr(error)
        records.write_record(job, records.FAILED, code=self._codes[job.name], reason=reason)
        return JobEnd(failure=f"failed: {reason}")

    def _under_way(self) -> tuple[list[Job], int]:
        """The jobs that workers are at (some that they were given still wait there), and how many they can do."""
        try:
            given = self._submitted.keys() & set().union(*self._client.processing().values())
            slots = sum(self._client.nthreads().values())
        except (OSError, TimeoutError):  # the scheduler is gone, or busy: its futures will tell
            return [], 0
        jobs = [job for key, job in self._submitted.items() if key in given]
        return [job for job in jobs if records.read_record(job.file(".json")).get("status") == records.RUNNING], slots


class _Live:
    """Lines on each job that ends, and on what is under way."""

    def __init__(self, jobs: Iterable[Job], estimates: Estimates) -> None:
        self._left, self._shown = {job.name: job for job in jobs}, time.monotonic()
        self._about = {"total": len(self._left), "failed": 0, "left": self._left, "estimates": estimates}

    def ended(self, job: Job, seconds: float, failure: str) -> None:
        """A job has ended. failure: "" if it did not fail."""
        self._left.pop(job.name)
        self._about["failed"] += bool(failure)
        how = failure or (f"{seconds:.0f} s" if seconds else "was done already")
        total = self._about["total"]
        print(f"[{total - len(self._left)}/{total}] {printable(f'{title(job)}: {how}')}", flush=True)

    def show(self, under_way: Callable[[], tuple[Iterable[Job], int]]) -> None:
        """Say what is under way, and at how many jobs a time: to a person more often than to a log."""
        if time.monotonic() - self._shown >= _SECONDS_BETWEEN_LINES[sys.stdout.isatty()]:
            self._shown, (jobs, slots) = time.monotonic(), under_way()
            print(say("under_way", **self._about, slots=slots, running=map(stage_text, jobs)), flush=True)
