"""A grid's study, run: planned, told, and its jobs executed side by side on dask.distributed."""

from __future__ import annotations

import contextlib
import multiprocessing
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from dask.distributed import Client, Future, as_completed, wait

from il2m import records
from il2m.cluster import Workers, check_workers, connected, dashboard, num_slots
from il2m.errors import InputError
from il2m.grids import Grid, read_grid, read_overrides
from il2m.job_process import process_context, visible_gpus
from il2m.jobs import ABLATION, BASE, FINE_TUNING, NOTEBOOKS, Job, find_notebooks, plan_jobs
from il2m.live import Live, duration, total_seconds
from il2m.provenance import environment
from il2m.records import RUNNING
from il2m.report import PAGE, build_report
from il2m.runs import RESULTS_FILE
from il2m.worker import Outcome, run_job

_SECONDS_TO_STOP = 20
_OLD = 86400  # seconds


def run_study(
    grid_file: Path,
    *,
    out_dir: Path | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    workers: Workers | None = None,
    dry_run: bool = False,
) -> int:
    """Execute a grid's study, print its plan, its progress and a summary, and make its report; returns 0, or 1 if a
    job failed.

    only: names of the grid's combinations. overrides: ``name=value`` texts, over the grid's values. dry_run: only print
    the plan. Everything is checked before the first job starts; raises InputError. What was done before, and is there,
    is not done again.
    """
    started, workers, notebooks = time.monotonic(), workers or Workers(), find_notebooks()
    out = (out_dir or notebooks.parent / "runs" / grid_file.stem).absolute()
    given = read_overrides(overrides)
    threads = {"num_threads": workers.threads} if workers.threads > 1 else {}
    grid = read_grid(grid_file).only(only).overridden(given | threads)
    # planning reads the data, in a process of its own: its memory is free for the jobs, whose warm server it starts
    context = multiprocessing.get_context("spawn") if dry_run else process_context()
    with ProcessPoolExecutor(1, mp_context=context) as child:
        jobs = child.submit(plan_jobs, grid, notebooks, out).result()
    _check_devices(jobs, workers)
    known = records.read_records(out)
    waiting = records.jobs_to_do(jobs, known, notebooks)
    estimates = records.Estimates(out, known)
    print(plan_text(grid, jobs, waiting, estimates, out, workers, each=dry_run), flush=True)
    if dry_run:
        return 0
    records.write_plan(out, grid, [*only, *overrides], jobs, [Path(sys.argv[0]).name, *sys.argv[1:]], environment())
    failed = execute_jobs(waiting, notebooks, workers, estimates) if waiting else {}
    _print_results(jobs, failed, out)
    if waiting or not (out / PAGE).exists():
        build_report(out)
    print(f"report: {out / PAGE}")
    print(f"{len(jobs) - len(failed)} of {len(jobs)} jobs done, {duration(time.monotonic() - started)}")
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} jobs are not done. To do them, and only them: {_command()}", file=sys.stderr)
    return 1 if failed else 0


def _check_devices(jobs: Sequence[Job], workers: Workers) -> None:
    """Refuse what no job here could be trained on. Other machines' workers have devices that are not known here."""
    for job in jobs:
        device, precision = (job.parameters.get(name) for name in ("device", "precision"))
        if workers.scheduler or visible_gpus():
            return
        if device == "cuda":
            raise InputError("device = 'cuda', but there is no GPU here: use 'auto' or 'cpu'.")
        if precision == "fp16":
            raise InputError("precision = 'fp16' needs a GPU: use 'bf16' or 'float32'.")


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def plan_text(
    grid: Grid,
    jobs: Sequence[Job],
    waiting: Sequence[Job],
    estimates: records.Estimates,
    out: Path,
    workers: Workers,
    *,
    each: bool,
) -> str:
    """The plan for a person: per notebook how many jobs there are, are done, and how long the others may take.

    each: also one line per job.
    """
    to_do = {job.name for job in waiting}
    seconds, unknown = total_seconds(waiting, estimates)
    num_bases, num_runs = (sum(job.notebook == notebook for job in jobs) for notebook in (BASE, FINE_TUNING))
    lines = [
        f"{grid.name}: {num_runs} runs from {num_bases} base trainings; {len(jobs)} jobs, "
        f"{len(jobs) - len(waiting)} of them already done, in {out}",
        f"  {'':28}{'jobs':>7}{'done':>7}{'to do':>7}   one after another",
    ]
    for notebook in NOTEBOOKS:
        of = [job for job in jobs if job.notebook == notebook]
        left = [job for job in of if job.name in to_do]
        lines.append(f"  {notebook:28}{len(of):7}{len(of) - len(left):7}{len(left):7}   {_told(left, estimates)}")
    if each:
        lines += [f"  {'to do' if job.name in to_do else 'done ':7}{job.name}  {_about(job)}" for job in jobs]
    where = f"the workers of {workers.scheduler}" if workers.scheduler else f"up to {workers.here} jobs side by side"
    if waiting:
        together = f", about {duration(seconds / workers.here)}" if seconds and not workers.scheduler else ""
        guess = f" and {unknown} jobs of kinds that were never done here" if unknown and seconds else ""
        lines.append(f"{where}{together}{guess}")
    return "\n".join(lines)


def _about(job: Job) -> str:
    return " ".join([records.swept_text(job), *(f"({name})" for name in job.combinations)]).strip()


def _told(jobs: Sequence[Job], estimates: records.Estimates) -> str:
    seconds, unknown = total_seconds(jobs, estimates)
    if not jobs:
        return ""
    if unknown == len(jobs):
        return "not known: none was done before"
    return f"about {duration(seconds)}" + (f" and {unknown} not known" if unknown else "")


def _print_results(jobs: Sequence[Job], failed: Mapping[str, str], out: Path) -> None:
    from il2m.results import save_results, summary  # imports torch: not while jobs need the memory

    ablated = [job for job in jobs if job.notebook == ABLATION and job.name not in failed]
    tables = [pd.read_parquet(out / job.run / RESULTS_FILE) for job in ablated]
    if len(tables) <= 4:
        print("".join(f"\n{summary(table)}\n" for table in tables))
    print(f"executed notebooks: {out / 'notebooks'}")
    if tables:
        print(f"results: {save_results(pd.concat(tables, ignore_index=True), out)}")


# running


def execute_jobs(
    jobs: Sequence[Job], notebooks: Path, workers: Workers, estimates: records.Estimates
) -> dict[str, str]:
    """Run the jobs, each when those it reads have ended; prints progress. Returns failed job -> reason."""
    stop_file = jobs[0].out_dir / "jobs" / f"{uuid.uuid4().hex}.stop"
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    for old in stop_file.parent.glob("*.stop"):  # of runs whose jobs were somewhere else when they were stopped
        if time.time() - old.stat().st_mtime > _OLD:
            old.unlink(missing_ok=True)
    with _interrupted_by_terminate(), connected(workers) as client:
        if workers.scheduler:
            _wait_for_workers(client)
            marker = stop_file.with_suffix(".seen")
            marker.touch()
            try:
                check_workers(client, marker, records.library_hash())
            finally:
                marker.unlink()
        if dashboard(client):
            print(f"dashboard: {dashboard(client)}", flush=True)
        codes = {name: records.code_hash(notebooks / f"{name}.ipynb") for name in {job.notebook for job in jobs}}
        futures: dict[str, Future] = {}
        for job in jobs:
            earlier = {name: futures[name] for name in (*job.after, *job.beside) if name in futures}
            arguments = (job, codes[job.notebook], stop_file, earlier)
            futures[job.name] = client.submit(run_job, *arguments, key=f"{job.name}-{stop_file.stem}", pure=False)
        try:
            with Live(jobs, num_slots(client), estimates) as live:
                return _outcomes(client, jobs, futures, live, estimates)
        except KeyboardInterrupt:
            _stop(client, futures, stop_file)
            raise


def _wait_for_workers(client: Client) -> None:
    if not client.nthreads():
        print("waiting for the scheduler's first worker", flush=True)
        client.wait_for_workers(1)


def _outcomes(
    client: Client, jobs: Sequence[Job], futures: Mapping[str, Future], live: Live, estimates: records.Estimates
) -> dict[str, str]:
    """Tell of each job when it ends, until all have. Returns failed job -> reason."""
    job_of = {futures[job.name].key: job for job in jobs}
    failed: dict[str, str] = {}
    ending = as_completed(futures.values(), raise_errors=False)
    while not ending.is_empty():
        for future in ending.next_batch(block=False):
            job = job_of[future.key]
            error = future.exception()
            outcome = Outcome(failure=_lost(error)) if error else future.result()
            if outcome.failure:
                failed[job.name] = outcome.failure
                live.failed += 1
            estimates.add(job.kind, outcome.seconds, outcome.work)
            live.ended(job, outcome.failure or f"{outcome.seconds:.0f} s")
        live.show(lambda: _under_way(client, job_of))
        time.sleep(0.25)
    return failed


def _under_way(client: Client, job_of: Mapping[str, Job]) -> list[Job]:
    """The jobs that workers are at; some that they were given may still wait there."""
    given = [job_of[key] for keys in client.processing().values() for key in keys if key in job_of]
    return [job for job in given if records.read_record(records.record_path(job)).get("status") == RUNNING]


def _lost(error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return f"failed: the workers that took it died one after another ({error})"
    return f"failed: {error!r}"


def _stop(client: Client, futures: Mapping[str, Future], stop_file: Path) -> None:
    """Let the jobs under way end at once; others are forgotten when the client goes. A second Ctrl-C does not wait."""
    print("\nstopping ...", flush=True)
    stop_file.touch()
    under_way = {key for keys in client.processing().values() for key in keys}
    ending = [future for future in futures.values() if future.key in under_way]
    with contextlib.suppress(TimeoutError):
        wait(ending, timeout=_SECONDS_TO_STOP)
        stop_file.unlink()


@contextlib.contextmanager
def _interrupted_by_terminate() -> Iterator[None]:
    """SIGTERM, as batch systems send it, ends a study as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
