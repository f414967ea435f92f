"""A grid's study, run: planned, told, and its jobs executed side by side on dask.distributed."""

import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

from il2m.batch import records
from il2m.batch.grids import read_grid, read_overrides
from il2m.batch.jobs import Job, plan_jobs
from il2m.batch.status import Estimates, duration, say
from il2m.batch.worker import PRELOAD, Workers
from il2m.errors import InputError, printable, warn_in_words
from il2m.notebook.catalogue import ABLATION, BASE, FINE_TUNING, NOTEBOOKS, find_notebooks
from il2m.notebook.execute import process_context
from il2m.system.machine import CHECKOUT
from il2m.system.plugins import resolved

_MOST_SUMMARIES = 4  # runs whose accuracies are printed at the end; of more the report tells


def run_study(
    grid_file: Path,
    *,
    out_dir: Path | None,
    only: Sequence[str],
    overrides: Sequence[str],
    plugins: Sequence[str],
    workers: Workers,
    dry_run: bool,
    command: Sequence[str],
) -> tuple[Path, dict[str, str]]:
    """Execute a grid's study, print its plan, its progress and a summary; returns its folder, and failed job -> reason.
    What is done is kept. All is checked before the first job starts; raises InputError. only: combinations. overrides:
    ``name=value`` texts. dry_run: only print the plan. command: the words that asked for this, kept with the plan."""
    started, notebooks = time.monotonic(), find_notebooks()
    out = (out_dir or (CHECKOUT or Path.cwd()) / "runs" / grid_file.stem).resolve()
    grid = read_grid(grid_file).only(only).overridden(read_overrides(overrides))
    asked = grid, notebooks, out, workers.threads, plugins
    jobs = plan_jobs(*asked) if dry_run and not plugins else _planned_apart(asked, plugins, dry_run)
    known = records.read_records(out)
    waiting = records.jobs_to_do(jobs, known, notebooks)
    estimates = Estimates(out, known)
    about = {"notebooks": NOTEBOOKS, "training": (BASE, FINE_TUNING), "workers": workers, "estimates": estimates}
    about |= {"grid": grid, "jobs": jobs, "waiting": waiting, "to_do": {job.name for job in waiting}, "each": dry_run}
    print(printable(say("plan", **about)), flush=True)
    if dry_run:
        return out, {}
    records.write_plan(out, grid, sorted([*only, *overrides, *map(resolved, plugins)]), jobs, command)
    from il2m.batch.dispatch import execute_jobs  # slow to import, as what collects results: a plan does without

    failed = execute_jobs(waiting, notebooks, workers, estimates) if waiting else {}
    _print_results(jobs, failed, out)
    print(f"{len(jobs) - len(failed)} of {len(jobs)} jobs done, {duration(time.monotonic() - started)}")
    if failed:
        print(say("failed", failed=failed, command=command), file=sys.stderr)
    return out, failed


def _planned_apart(asked: tuple, plugins: Sequence[str], spawn: bool) -> list[Job]:
    """plan_jobs in a process of its own, which plugins may end, and whose memory is free then; it warms the server."""
    context = multiprocessing.get_context("spawn") if spawn else process_context(PRELOAD)
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=warn_in_words) as child:
            return child.submit(plan_jobs, *asked).result()
    except BrokenExecutor:
        suspects = f"plugin {', '.join(plugins)}" if plugins else "planning"
        raise InputError(f"{suspects}: it ended its process (os._exit, a crash, or no memory left).") from None


def _print_results(jobs: Sequence[Job], failed: Mapping[str, str], out: Path) -> None:
    """Print a summary of each run of a small study; collect the results of all runs in the study's folder."""
    from il2m.results.collect import collect_results
    from il2m.results.table import save_results, summary

    print(f"executed notebooks: {out / 'notebooks'}")
    try:
        results = collect_results(out)  # other grids' runs as well; it warns of damaged ones
    except InputError as error:
        print(error)
        return
    ablated = [job.run for job in jobs if job.notebook == ABLATION and job.name not in failed]
    for run in ablated if len(ablated) <= _MOST_SUMMARIES else ():
        if len(rows := results[results["run"] == run]):
            print(printable(f"\n{summary(rows)}"))
    print(f"\nresults: {save_results(results, out)}")
