"""What sharing and running side by side gains on a grid, and what starting its jobs costs.

    python benchmarks/grid.py [--epochs 20] [--workers 2]      about a quarter of an hour on two idle cores

12 fine-tunings of glyphs (3 K x distillation off and on x 2 training seeds), their bases and analyses, from nothing:
    together        one grid: each base trained once, ``--workers`` jobs side by side
    one by one      the same 12 settings, each with a base of its own, one job after another
and, of the grid, how much of the jobs' time was not spent in cells that train or analyse: starting papermill and the
kernel, imports, saving the notebook and its page.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat

from il2m.batch import records
from il2m.batch.dispatch import Workers, execute_jobs
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job, plan_jobs
from il2m.batch.status import Estimates
from il2m.notebook.catalogue import find_notebooks

SETTINGS = [(k, distillation, seed) for seed in (0, 1) for k in (100, 200, 400) for distillation in (False, True)]


def run(parameters: dict, out_dir: Path, workers: int) -> tuple[list[Job], float]:
    """Execute a grid; its jobs, and the seconds from the first job's start to the last one's end."""
    jobs = plan_jobs(Grid("benchmark", parameters=parameters), find_notebooks(), out_dir)
    start = time.monotonic()
    failed = execute_jobs(jobs, find_notebooks(), Workers(workers), Estimates(out_dir, {}))
    if failed:
        raise SystemExit(str(failed))
    return jobs, time.monotonic() - start


def seconds_of_work(job: Job) -> float:
    """Seconds in a notebook's cells, less those of the cell that imports."""
    cells = [cell for cell in nbformat.read(job.output, as_version=4).cells if cell.cell_type == "code"]
    imports = next(cell for cell in cells if cell.source.startswith("import") or "\nfrom il2m" in cell.source)
    return sum(cell.metadata.papermill.duration or 0 for cell in cells if cell is not imports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of fine-tuning; bases have half as many again")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    common = {"dataset": "glyphs", "epochs": arguments.epochs, "base_epochs": arguments.epochs * 3 // 2}
    with tempfile.TemporaryDirectory() as folder:
        swept = {"memory_size": [100, 200, 400], "distillation": [False, True], "train_seed": [0, 1]}
        jobs, together = run(common | swept, Path(folder, "together"), arguments.workers)
        known = records.read_records(Path(folder, "together"))
        in_jobs = sum(known[job.name]["seconds"] for job in jobs)
        in_cells = sum(map(seconds_of_work, jobs))
        alone = 0.0
        for i, (k, distillation, seed) in enumerate(SETTINGS):
            one = {"memory_size": k, "distillation": distillation, "train_seed": seed}
            alone += run(common | one, Path(folder, f"alone{i}"), 1)[1]
    print(f"together: {len(jobs)} jobs, {together:.0f} s; one by one: {alone:.0f} s; ratio {alone / together:.2f}")
    print(
        f"of {in_jobs:.0f} s in jobs {in_cells:.0f} s are work: {1 - in_cells / in_jobs:.1%} start-up, imports, saving"
    )
    waiting = 1 - in_jobs / (together * arguments.workers)
    print(f"of the time of {arguments.workers} workers {waiting:.1%} were spent without a job")


if __name__ == "__main__":
    main()
