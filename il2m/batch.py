"""The jobs of a study, executed side by side: papermill subprocesses on dask.distributed.

Each job is a ``python -m papermill`` of its own, because papermill changes the working directory, and because a kernel
of its own keeps one job's threads, memory and crashes from the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import nbformat
import pandas as pd
import yaml
from dask.distributed import Client, Future, LocalCluster, wait
from tqdm import tqdm

from il2m.grids import ABLATION, Job, find_notebooks, plan_jobs, read_grid, read_overrides
from il2m.progress import read_progress
from il2m.runs import RESULTS_FILE, Run


@dataclass(frozen=True)
class Outcome:
    """How a job ended: after how many seconds, and why it failed (empty: it did not)."""

    seconds: float
    failure: str = ""


def run_study(
    grid: Path, *, out_dir: Path | None = None, overrides: Sequence[str] = (), workers: int | None = None
) -> int:
    """Execute the grid's study and print its summary; returns 0, or 1 if a job failed.

    overrides: ``name=value`` texts, over the grid's values. workers: jobs side by side, by default one per CPU core.
    Everything is checked before the first job starts; raises InputError.
    """
    started = time.monotonic()
    notebooks = find_notebooks()
    out = (out_dir or notebooks.parent / "runs" / grid.stem).absolute()
    # planning reads the data and needs torch: done in a process of its own, its memory is free for the jobs
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        jobs = child.submit(plan_jobs, read_grid(grid) | read_overrides(overrides), notebooks, out).result()
    waiting = [job for job in jobs if not _is_done(job, notebooks)]
    workers = workers or len(os.sched_getaffinity(0))
    print(
        f"{grid.stem}: {len(jobs)} notebooks, {len(jobs) - len(waiting)} of them already done; up to {workers} side by "
        f"side, in {out}",
        flush=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    failed = _execute(waiting, notebooks, workers) if waiting else {}
    from il2m.results import save_results, summary  # imports torch: not while jobs need the memory

    results = [out / job.run / RESULTS_FILE for job in jobs if job.notebook == ABLATION and job.name not in failed]
    tables = [pd.read_parquet(path) for path in results]  # written, or checked to be readable, a moment ago
    for table in tables:
        print("\n" + summary(table))
    print(f"\nexecuted notebooks: {out / 'notebooks'}")
    if tables:
        print(f"results: {save_results(pd.concat(tables, ignore_index=True), out)}")
    print(f"{len(jobs) - len(failed)} of {len(jobs)} notebooks done, {time.monotonic() - started:.0f} s")
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _is_done(job: Job, notebooks: Path) -> bool:
    """True if the executed notebook is there, made with these parameters by this code."""
    folder = Path(job.parameters["out_dir"]) / job.run
    try:
        metadata = nbformat.read(job.output, as_version=4).metadata
        made_so = metadata["papermill"]["parameters"] == job.parameters
        made_by = metadata["il2m_code"] == _code_hash(notebooks / f"{job.notebook}.ipynb")
        if job.notebook == ABLATION:
            pd.read_parquet(folder / RESULTS_FILE)
        return made_so and made_by and not Run(folder).missing_states
    except Exception:  # missing or damaged, in whatever way: to be made again
        return False


def _code_hash(notebook: Path) -> str:
    """Hash of a notebook and of the library: what it showed with other code is not what it shows now."""
    files = [notebook, *sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _execute(jobs: Sequence[Job], notebooks: Path, workers: int) -> dict[str, str]:
    """Run the jobs, each when those it reads have ended; prints progress. Returns failed job -> reason."""
    ended: dict[str, Outcome] = {}
    # the workers are threads of this process, as the work is in the jobs' own; its pages are for this machine only
    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=workers, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
        StatusLine() as status,
    ):
        futures: dict[str, Future] = {}
        for job in jobs:
            earlier = {name: futures[name] for name in (*job.after, *job.beside) if name in futures}
            futures[job.name] = client.submit(run_job, job, notebooks, earlier, key=job.name, pure=False)
        while len(ended) < len(jobs):
            with contextlib.suppress(TimeoutError):
                running = [future for name, future in futures.items() if name not in ended]
                wait(running, timeout=1, return_when="FIRST_COMPLETED")
            for name, future in futures.items():
                if name not in ended and future.done():
                    error = future.exception()
                    ended[name] = Outcome(0.0, repr(error)) if error else future.result()
                    how = ended[name].failure or f"{ended[name].seconds:.0f} s"
                    status.print(f"[{len(ended)}/{len(jobs)}] {name}: {how}")
            status.show(job for job in jobs if job.name not in ended)
    return {name: outcome.failure for name, outcome in ended.items() if outcome.failure}


class StatusLine:
    """Plain lines for a log; at a terminal also one line, rewritten in place, on what is under way."""

    def __enter__(self) -> StatusLine:
        self._bar = tqdm(bar_format="{desc}", disable=None, leave=False, file=sys.stdout)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def print(self, line: str) -> None:
        self._bar.write(line)
        sys.stdout.flush()

    def show(self, jobs: Iterable[Job]) -> None:
        folders = {Path(job.parameters["out_dir"]) / job.run for job in jobs}
        stages = [progress for folder in sorted(folders) if (progress := read_progress(folder))]
        self._bar.set_description_str(
            " | ".join(f"{s['stage']}: {s['where']}, {s['seconds_left']:.0f} s left" for s in stages)
        )


def run_job(job: Job, notebooks: Path, earlier: Mapping[str, Outcome] = MappingProxyType({})) -> Outcome:
    """Execute one notebook in a process of its own.

    The executed copy appears under its name when it is whole; that of a failed job is kept as ``<name>.failed.ipynb``.
    earlier: how the jobs that this one waited for have ended; if one that it reads failed, it is not run.
    """
    for name in job.after:
        if name in earlier and earlier[name].failure:
            return Outcome(0.0, f"not run, because {name} failed")
    started = time.monotonic()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    staging = job.output.with_suffix(".running.ipynb")
    code = _code_hash(notebooks / f"{job.notebook}.ipynb")  # as it is now, before the kernel reads it
    threads = str(job.parameters.get("num_threads", 1))
    environment = os.environ | {
        "IL2M_HEADLESS": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel warns about frozen modules
    }
    command = [sys.executable, "-m", "papermill", str(notebooks / f"{job.notebook}.ipynb"), str(staging)]
    command += ["--cwd", str(notebooks), "--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR"]
    command += ["--parameters_yaml", yaml.safe_dump(job.parameters)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    failed_copy = job.output.with_suffix(".failed.ipynb")
    if result.returncode == 0:
        notebook = nbformat.read(staging, as_version=4)
        notebook.metadata["il2m_code"] = code
        nbformat.write(notebook, staging)
        os.replace(staging, job.output)
        failed_copy.unlink(missing_ok=True)
        return Outcome(seconds)
    if staging.exists():
        os.replace(staging, failed_copy)
    error = _last_error(result.stderr) or f"papermill ended with exit code {result.returncode}"
    return Outcome(seconds, f"failed: {error} (see {failed_copy})")


def _last_error(text: str) -> str:
    """The message of the last exception in what a process printed; it may have several lines."""
    lines = text.strip().splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return "\n".join(lines[starts[-1] if starts else -1 :])
