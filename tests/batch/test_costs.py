"""What a plan says of costs: images, hours, memory and disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TinyStudy

from il2m.batch.costs import PAGES, memory_and_disk
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job, plan_jobs
from il2m.batch.status import Estimates
from il2m.cli import main
from il2m.notebook.catalogue import ABLATION, BASE, FINE_TUNING, find_notebooks
from il2m.study.planning import plan_base, plan_fine_tuning


def test_what_a_stage_leaves_is_known_before(tiny_study: TinyStudy):
    base = plan_base(out_dir=str(tiny_study.out_dir), **tiny_study.base_parameters)
    tuning = plan_fine_tuning(
        out_dir=str(tiny_study.out_dir), base=tiny_study.base.name, **tiny_study.fine_tuning_parameters
    )
    for plan, notebook, run in ((base, BASE, tiny_study.base), (tuning, FINE_TUNING, tiny_study.off)):
        stored = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
        assert stored / 1.5 < memory_and_disk(plan, notebook)["disk"] - PAGES[notebook] < 1.5 * stored


def test_a_measured_rate_holds_for_all_trainings_of_its_kind(tiny_npz: Path, tmp_path: Path):
    parameters = {"dataset": str(tiny_npz), "num_states": 3, "memory_size": 12, "distillation": False}
    grid = Grid("test", parameters=parameters | {"epochs": [1000, 2000]})
    jobs = plan_jobs(grid, find_notebooks(), tmp_path, measured=1)
    assert all(job.seconds > 0 for job in jobs)
    one, two = (job for job in jobs if job.notebook == FINE_TUNING)
    assert two.work == 2 * one.work
    assert one.kind == two.kind
    in_a_notebook = next(job.seconds for job in jobs if job.notebook == ABLATION)
    assert (two.seconds - in_a_notebook) / (one.seconds - in_a_notebook) == pytest.approx(2, rel=0.01)  # scored: once
    assert not any(job.seconds for job in plan_jobs(grid, find_notebooks(), tmp_path))
    assert Estimates(tmp_path, {}).total(jobs) == (sum(job.seconds for job in jobs), 0)


def test_jobs_side_by_side_take_no_less_than_a_job_and_all_that_it_needs():
    jobs = [Job(BASE, "base", {}, seconds=10.0)]
    jobs += [Job(FINE_TUNING, str(i), {}, seconds=20.0, after=(jobs[0].name,)) for i in range(4)]
    estimates = Estimates(Path("none"), {})
    assert [estimates.side_by_side(jobs, slots) for slots in (1, 2, 100)] == [90, 45, 30]


def test_a_plan_tells_costs_and_hours_where_they_are_measured(
    tiny_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "one.yaml").write_text(f"parameters: {{dataset: {tiny_npz}, num_states: 3, memory_size: 12}}")
    command = ["run", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "study"), "--dry-run"]
    assert main(command) == 0
    plan = capsys.readouterr().out
    assert "not known: none was done before" in plan
    assert plan.rstrip().endswith("(--measure tells how long training takes)")
    base = next(line for line in plan.splitlines() if line.startswith(f"  {BASE}")).split()
    assert base[1:5] == ["1", "0", "1", f"{30 * 24}"]  # 30 epochs of two classes of 12 images
    assert main([*command, "--measure", "--workers", "1"]) == 0
    measured = capsys.readouterr().out
    assert "not known" not in measured
    assert "up to 1 jobs side by side, about " in measured
