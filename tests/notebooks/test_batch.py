"""Batches: what a job leaves behind, what happens when it fails, is stopped, or is done by another process."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from il2m.batch import records, worker
from il2m.batch.dispatch import Workers, execute_jobs
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.batch.status import Estimates
from il2m.notebook.catalogue import BASE
from il2m.notebook.execute import execute_notebook, is_warm
from il2m.report.overview import jobs_table
from il2m.system.hashes import write_sealed
from il2m.system.locks import is_locked, locked
from il2m.system.machine import visible_gpus

pytestmark = [pytest.mark.dask, pytest.mark.xdist_group("batch")]  # jobs start from one warm process


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small notebooks: one that works, one that fails, one whose kernel dies, one that takes its time."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    sources = {
        "works": "print(value)",
        "fails": "raise ValueError(f'no such {value}')",
        "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "lasts": "import pathlib, time\npathlib.Path(out_dir, 'started').touch()\ntime.sleep(600)",
    }
    for name, source in sources.items():
        parameters = new_code_cell("value = 'default'  # a word\nout_dir = ''")
        parameters.metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[parameters, new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    monkeypatch.setattr(worker, "find_notebooks", lambda: folder)
    return folder


def make_job(tmp_path: Path, notebook: str, run: str, **about: tuple[str, ...]) -> Job:
    return Job(notebook, run, {"value": "thing", "out_dir": str(tmp_path / "out")}, **about)


def run_one(job: Job, notebooks: Path) -> worker.JobEnd:
    code = records.code_hash(notebooks / f"{job.notebook}.ipynb", job.plugins)
    lease = job.out_dir / "jobs" / "x.lease"
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.touch()
    return worker.run_job(job, code, lease)


def run_all(jobs: list[Job], notebooks: Path) -> dict[str, str]:
    estimates = Estimates(jobs[0].out_dir, {})
    return execute_jobs(jobs, notebooks, Workers(2), estimates)


def test_a_failed_job_is_told_and_the_rest_goes_on(notebooks: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    jobs = [
        make_job(tmp_path, "fails", "bad"),
        make_job(tmp_path, "works", "needs-bad", after=("fails-bad",)),
        make_job(tmp_path, "works", "needs-that", after=("works-needs-bad",)),
        make_job(tmp_path, "works", "shows-bad-too", beside=("fails-bad",)),
    ]
    failed = run_all(jobs, notebooks)
    assert set(failed) == {"fails-bad", "works-needs-bad", "works-needs-that"}
    assert "ValueError: no such thing" in failed["fails-bad"]
    assert failed["works-needs-bad"] == "not run, because fails-bad failed"
    out = tmp_path / "out" / "notebooks"
    names = ["fails-bad.failed.html", "fails-bad.failed.ipynb", "works-shows-bad-too.html", "works-shows-bad-too.ipynb"]
    assert sorted(path.name for path in out.iterdir()) == names
    kept = nbformat.read(out / "fails-bad.failed.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    assert "no such thing" in (out / "fails-bad.failed.html").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("[4/4] ") for line in lines)
    records.write_plan(tmp_path / "out", Grid("g"), (), jobs, ["il2m"])
    table = jobs_table(tmp_path / "out").set_index("run")
    assert table["status"].to_dict() == {
        "bad": "failed", "needs-bad": "blocked", "needs-that": "blocked", "shows-bad-too": "done",
    }  # fmt: skip
    assert table.loc["needs-bad", "reason"] == "needs fails-bad, which failed"
    assert table.loc["bad", "file"] == "notebooks/fails-bad.failed.ipynb"


def test_a_failure_is_forgotten_when_the_job_works(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "fails", "x")
    assert run_one(job, notebooks).failure
    works = nbformat.read(notebooks / "works.ipynb", as_version=4)
    nbformat.write(works, notebooks / "fails.ipynb")
    assert run_one(job, notebooks).failure == ""
    assert sorted(path.name for path in job.output.parent.iterdir()) == ["fails-x.html", "fails-x.ipynb"]
    assert records.read_record(job.file(".json"))["status"] == "done"
    assert not job.file(".log").exists()


def test_braces_in_paths_are_braces(notebooks: Path, tmp_path: Path):
    strange = notebooks.rename(tmp_path / "{value}}{0")
    output = tmp_path / "out {value} {x} }{" / "{value}.ipynb"
    assert execute_notebook(strange / "works.ipynb", output, {"value": "thing"}) == ""
    assert sorted(path.name for path in output.parent.iterdir()) == ["{value}.html", "{value}.ipynb"]


def test_why_a_page_can_not_be_written_is_told(notebooks: Path, tmp_path: Path):
    """As on a full disk: not only that the job's process ended."""
    (tmp_path / ".it.html").mkdir()
    failure = execute_notebook(notebooks / "works.ipynb", tmp_path / "it.ipynb", {"value": "thing"})
    assert failure.startswith("IsADirectoryError: ")
    assert str(tmp_path / ".it.html") in failure


def test_a_job_whose_study_is_deleted_says_so(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path / "gone", "works", "good")
    end = worker.run_job(job, "", tmp_path / "gone" / "jobs" / "a.lease")
    assert "does not see" in end.failure


def test_parameters_reach_the_notebook(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "good")
    assert run_one(job, notebooks).failure == ""
    assert nbformat.read(job.output, as_version=4).cells[-1].outputs[0].text == "thing\n"


def test_a_job_that_another_process_did_is_not_done_again(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "good")
    assert run_one(job, notebooks).seconds > 0
    before = job.output.stat().st_mtime_ns
    assert run_one(job, notebooks) == worker.JobEnd()
    assert job.output.stat().st_mtime_ns == before
    assert run_one(replace(job, parameters=job.parameters | {"value": "other"}), notebooks).seconds > 0


def test_a_job_is_done_again_when_there_is_more_to_show_beside_it(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "good")
    run_one(job, notebooks)
    record, code = records.read_record(job.file(".json")), records.code_hash(notebooks / "works.ipynb", ())
    assert records.is_done(job, record, code, ())
    assert not records.is_done(job, record, code, ["its twin"])
    assert not records.is_done(job, record, "other code", ())


def test_where_there_is_a_gpu_nothing_is_forked_and_each_job_is_given_one(
    notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shows = nbformat.read(notebooks / "works.ipynb", as_version=4)
    shows.cells[-1].source = "import os, sys\nprint(os.environ['CUDA_VISIBLE_DEVICES'], 'torch' in sys.modules)"
    nbformat.write(shows, notebooks / "works.ipynb")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    visible_gpus.cache_clear()
    try:
        assert not is_warm()
        job = make_job(tmp_path, "works", "x")
        assert run_one(job, notebooks).failure == ""
    finally:
        visible_gpus.cache_clear()
    assert nbformat.read(job.output, as_version=4).cells[-1].outputs[0].text == "3 False\n"


def test_a_kernel_that_dies_is_told(notebooks: Path, tmp_path: Path):
    outcome = run_one(make_job(tmp_path, "dies", "x"), notebooks)
    assert "its kernel died: out of memory, or killed" in outcome.failure


def test_a_job_stops_when_its_lease_is_gone_and_leaves_nothing(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "lasts", "x")
    found: list[worker.JobEnd] = []
    thread = threading.Thread(target=lambda: found.append(run_one(job, notebooks)))
    thread.start()
    while not (job.out_dir / "started").exists():
        thread.join(0.05)
        assert thread.is_alive()
    records.write_plan(job.out_dir, Grid("g"), (), [job], ["il2m"])
    assert jobs_table(job.out_dir)["status"].tolist() == ["running"]
    (job.out_dir / "jobs" / "x.lease").unlink()
    thread.join(60)
    assert found == [worker.JobEnd(failure="stopped")]
    assert not is_locked(job.file(".lock"))
    assert not list(job.output.parent.iterdir())
    row = jobs_table(job.out_dir).iloc[0]
    assert (row["status"], row["reason"]) == ("missing", "was interrupted")


def test_a_job_waits_for_the_one_who_is_at_it(notebooks: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    job = make_job(tmp_path, "works", "x")
    with locked(job.file(".lock"), waiting_for="the test"):
        thread = threading.Thread(target=run_one, args=(job, notebooks))
        thread.start()
        thread.join(2)
        assert thread.is_alive()
        assert not job.output.exists()
    thread.join(60)
    assert job.output.exists()
    assert "waiting: another process is at works-x" in capfd.readouterr().out


def test_another_version_of_the_code_is_refused(notebooks: Path, tmp_path: Path):
    (tmp_path / "x.lease").touch()
    outcome = worker.run_job(make_job(tmp_path, "works", "x"), "other", tmp_path / "x.lease")
    assert "has another version of il2m" in outcome.failure


def test_another_version_of_a_plugin_is_refused_and_what_an_older_one_did_is_done_again(
    notebooks: Path, tmp_path: Path
):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import builtins\nbuiltins.word = 'one'")
    source = nbformat.read(notebooks / "works.ipynb", as_version=4)
    source.cells[-1].source = "print(word)"
    nbformat.write(source, notebooks / "works.ipynb")
    job = make_job(tmp_path, "works", "x", plugins=(str(plugin),))
    assert run_one(job, notebooks).failure == ""
    code = records.code_hash(notebooks / "works.ipynb", job.plugins)
    assert records.jobs_to_do([job], records.read_records(job.out_dir), notebooks) == []
    plugin.write_text("import builtins\nbuiltins.word = 'two'")
    assert records.jobs_to_do([job], records.read_records(job.out_dir), notebooks) == [job]
    refused = worker.run_job(job, code, job.out_dir / "jobs" / "x.lease")
    assert "has another version of il2m or of a plugin, or their files changed meanwhile" in refused.failure
    assert run_one(job, notebooks).failure == ""
    assert nbformat.read(job.output, as_version=4).cells[-1].outputs[0].text == "two\n"
    plugin.unlink()
    gone = worker.run_job(job, code, job.out_dir / "jobs" / "x.lease")
    assert "has another version of il2m or of a plugin, or their files changed meanwhile" in gone.failure


def test_a_job_whose_plugin_fails_says_so_and_names_no_notebook(notebooks: Path, tmp_path: Path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("\n1 / 0")
    end = run_one(make_job(tmp_path, "works", "x", plugins=(str(plugin),)), notebooks)
    assert end.failure == f"failed: plugin {plugin}, line 2: ZeroDivisionError: division by zero"


def test_a_damaged_plan_is_left_out_with_a_warning(tmp_path: Path):
    job = make_job(tmp_path, "works", "x")
    for name in ("g", "h"):
        records.write_plan(job.out_dir, Grid(name), (), [job], ["il2m"])
    path = job.out_dir / "plans" / "g.json"
    path.write_text(path.read_text().replace('"jobs"', '"jobz"'))
    with pytest.warns(UserWarning, match=r"left out the plan g\.json: it is not as it was written"):
        assert [plan["jobs"] for plan in records.read_plans(job.out_dir)] == [[job]]
    (job.out_dir / "plans" / "h.json").rename(path)
    with pytest.warns(UserWarning, match=r"left out the plan g\.json: it is that of h\.json"):
        assert records.read_plans(job.out_dir) == []


def test_a_worker_that_does_not_see_the_study_makes_no_folder_of_its_own(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "x")
    outcome = worker.run_job(job, "any", job.out_dir / "jobs" / "x.lease")
    assert outcome.failure.endswith(f"does not see {job.out_dir}")
    assert not job.out_dir.exists()


def test_what_can_not_be_written_fails_that_job_alone(notebooks: Path, tmp_path: Path):
    jobs = [
        make_job(tmp_path, "works", "a"),
        make_job(tmp_path, "works", "b"),
        make_job(tmp_path, "works", "c", beside=("works-a", "works-b")),
    ]
    jobs[0].file(".lock").mkdir(parents=True)  # where a file has to be
    failed = run_all(jobs, notebooks)
    assert list(failed) == ["works-a"]
    assert str(jobs[0].file(".lock")) in failed["works-a"]
    assert records.read_record(jobs[0].file(".json"))["status"] == "failed"
    assert records.read_record(jobs[2].file(".json"))["beside"] == ["works-b"]


def test_with_a_twin_that_keeps_failing_the_good_one_is_done_once(notebooks: Path, tmp_path: Path):
    jobs = [make_job(tmp_path, "fails", "bad"), make_job(tmp_path, "works", "good", beside=("fails-bad",))]
    assert list(run_all(jobs, notebooks)) == ["fails-bad"]
    before = jobs[1].output.stat().st_mtime_ns
    waiting = records.jobs_to_do(jobs, records.read_records(tmp_path / "out"), notebooks)
    assert list(run_all(waiting, notebooks)) == ["fails-bad"]
    assert jobs[1].output.stat().st_mtime_ns == before


def test_damaged_plans_and_records_are_as_none(notebooks: Path, tmp_path: Path):
    job = make_job(tmp_path, "works", "x")
    run_one(job, notebooks)
    records.write_plan(job.out_dir, Grid("g"), (), [job], ["il2m"])
    job.file(".json").write_text("{")
    (job.out_dir / "plans" / "other.json").write_text(json.dumps({"jobs": 3}))
    assert jobs_table(job.out_dir)["status"].tolist() == ["missing"]


def test_the_time_a_job_may_take_is_that_of_its_kind(tmp_path: Path):
    job = Job("works", "x", {"out_dir": str(tmp_path / "out")}, kind="a", work=300)
    others = {
        name: {"status": "done", "kind": "a", "seconds": seconds, "work": work}
        for name, seconds, work in (("one", 10, 100), ("two", 30, 100), ("three", 20, 100), ("found", 0.1, 0))
    }
    assert Estimates(job.out_dir, others).total([job]) == (1 + 3 * 19, 0)  # the median, 20 s for 100; 1 s to start
    assert Estimates(job.out_dir, others).total([replace(job, kind="b")]) == (0, 1)
    stage = replace(job, notebook=BASE)
    kept = others | {stage.name: {"status": "done", "key": job.key, "kind": "b", "states": {"run-1": {}}}}
    assert Estimates(job.out_dir, kept).total([stage]) == (1 + 3 * 19, 0)  # its run was deleted
    (job.out_dir / "run-1").mkdir(parents=True)
    assert Estimates(job.out_dir, kept).total([stage]) == (1, 0)  # it is only looked at
    beside = tmp_path / "another study" / "jobs" / "b.json"
    beside.parent.mkdir(parents=True)
    write_sealed(beside, {"job": "b", "status": "done", "kind": "b", "seconds": 6, "work": 10})
    assert Estimates(job.out_dir, others).total([replace(job, kind="b")]) == (151, 0)
