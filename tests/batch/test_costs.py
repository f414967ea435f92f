"""What a plan says of costs: images, hours, memory and disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TinyStudy

from il2m.batch.jobs import PAGES, Job, memory_and_disk
from il2m.batch.status import Estimates
from il2m.cli import main
from il2m.notebook.catalogue import BASE, FINE_TUNING
from il2m.study.planning import plan_base, plan_fine_tuning


def test_what_a_stage_leaves_is_known_before(tiny_study: TinyStudy):
    base = plan_base(out_dir=str(tiny_study.out_dir), **tiny_study.base_parameters)
    tuning = plan_fine_tuning(
        out_dir=str(tiny_study.out_dir), base=tiny_study.base.name, **tiny_study.fine_tuning_parameters
    )
    for plan, notebook, run in ((base, BASE, tiny_study.base), (tuning, FINE_TUNING, tiny_study.off)):
        stored = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
        assert stored / 1.5 < memory_and_disk(plan, notebook)["disk"] - PAGES[notebook] < 1.5 * stored


def test_jobs_side_by_side_take_no_less_than_a_job_and_all_that_it_needs():
    jobs = [Job(BASE, "base", {}, kind="a", work=9.0)]
    jobs += [Job(FINE_TUNING, str(i), {}, kind="b", work=19.0, after=(jobs[0].name,)) for i in range(4)]
    estimates = Estimates(Path("none"), {})
    for kind in ("a", "b"):
        estimates.add(kind, 2.0, 1.0)  # a second to start, and one for each unit of work
    assert [estimates.side_by_side(jobs, slots) for slots in (1, 2, 100)] == [90, 45, 30]


def test_a_plan_tells_costs(tiny_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "one.yaml").write_text(f"parameters: {{dataset: {tiny_npz}, num_states: 3, memory_size: 12}}")
    command = ["run", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "study"), "--dry-run"]
    assert main(command) == 0
    plan = capsys.readouterr().out
    assert "not known: none was done before" in plan
    base = next(line for line in plan.splitlines() if line.startswith(f"  {BASE}")).split()
    assert base[1:5] == ["1", "0", "1", f"{30 * 24}"]  # 30 epochs of two classes of 12 images
