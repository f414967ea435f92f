"""What a running study tells a log, and a person."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from il2m.batch import dispatch, status
from il2m.batch.jobs import Job
from il2m.batch.status import Estimates
from il2m.notebook.catalogue import FINE_TUNING
from il2m.study.progress import PROGRESS_FILE


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_durations(seconds: float, told: str):
    assert status.duration(seconds) == told


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    made = [Job(FINE_TUNING, f"fine_tuning-{i}", {"out_dir": str(tmp_path)}, kind="a", work=100.0) for i in range(3)]
    (tmp_path / "fine_tuning-1").mkdir()
    progress = {"stage": "fine-tuning", "where": "state 2/5, epoch 3/20, loss 1.234", "seconds_left": 200}
    (tmp_path / "fine_tuning-1" / PROGRESS_FILE).write_text(json.dumps(progress))
    return made


def test_a_log_has_a_line_for_each_job_and_now_and_then_what_is_under_way(
    jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    estimates = Estimates(tmp_path / "none", {})
    estimates.add("a", 60, 100)  # less a second to start, and again with it
    told = dispatch._Live(jobs, estimates)
    told.ended(jobs[0], 60, "")
    told.show(lambda: (jobs[1:], 2))  # too soon for another line
    monkeypatch.setattr(dispatch, "_SECONDS_BETWEEN_LINES", {False: 0})
    told.show(lambda: (jobs[1:], 2))
    told.show(lambda: ([], 0))
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] 02_fine_tuning-fine_tuning-0: 60 s",
        "1 of 3 jobs done, about 60 s left",  # two jobs of a minute, side by side
        "  02_fine_tuning-fine_tuning-1  fine-tuning, state 2/5, epoch 3/20, loss 1.234, 3 min left",
        "  02_fine_tuning-fine_tuning-2",
        "1 of 3 jobs done, waiting for a worker",
    ]


def test_a_job_is_told_by_what_differs(jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture):
    swept = {"memory_size": 100, "order_seed": 1, "distillation": False}
    job = replace(jobs[1], swept=swept, combinations=("small", "both"))
    differs = "K=100, order_seed=1, distillation=false (small) (both)"
    assert status.title(job) == f"02_fine_tuning-fine_tuning-1  {differs}"
    assert status.stage_text(job) == f"{status.title(job)}  fine-tuning, state 2/5, epoch 3/20, loss 1.234, 3 min left"
    dispatch._Live([job], Estimates(tmp_path / "none", {})).ended(job, 60, "")
    assert capsys.readouterr().out == f"[1/1] {status.title(job)}: 60 s\n"


def test_time_left_is_not_told_where_it_is_not_known(
    jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    estimates = Estimates(tmp_path / "none", {})
    assert estimates.total(jobs) == (0, 3)
    monkeypatch.setattr(dispatch, "_SECONDS_BETWEEN_LINES", {False: 0})
    dispatch._Live(jobs, estimates).show(lambda: ([], 2))
    assert capsys.readouterr().out == "0 of 3 jobs done\n"
