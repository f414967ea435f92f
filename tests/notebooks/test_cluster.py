"""Grids on a real dask scheduler and its worker processes, which are killed; two runs at once; Ctrl-C; refusals."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from tiny import PROJECT

from il2m.batch.dispatch import Workers, connected, execute_jobs
from il2m.batch.jobs import Job
from il2m.batch.records import read_record
from il2m.batch.status import Estimates
from il2m.batch.worker import leased_gpus
from il2m.cli import main
from il2m.errors import InputError
from il2m.methods.registry import METHODS
from il2m.notebook.catalogue import BASE, find_notebooks
from il2m.parameters import BaseTraining, FineTuning
from il2m.report.overview import jobs_table
from il2m.results.collect import collect_results
from il2m.results.table import results_table, save_results
from il2m.study.find import find_runs
from il2m.study.progress import read_progress
from il2m.study.stages import fine_tune, train_base
from il2m.system.machine import visible_gpus

pytestmark = [pytest.mark.dask, pytest.mark.xdist_group("cluster")]
PATIENCE = 240.0  # seconds after which something must be wrong; nothing is asserted on time


@pytest.fixture
def grid(tmp_path: Path, tiny_npz: Path) -> Path:
    """Two fine-tunings of one base, long enough to be met in the middle."""
    path = tmp_path / "tiny.yaml"
    parameters = {"dataset": str(tiny_npz), "num_states": 3, "memory_size": 12, "distillation": [False, True]}
    parameters |= {"base_epochs": 4, "epochs": 150, "batch_size": 8, "learning_rate": 0.02}
    path.write_text(json.dumps({"description": "for tests", "parameters": parameters}))  # JSON is YAML
    return path


@contextlib.contextmanager
def started(*arguments: str, log: Path) -> Iterator[subprocess.Popen]:
    """A command, in a process group of its own that is gone at the end; what it prints is in ``log``."""
    with log.open("w") as file:
        options = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen([sys.executable, "-m", *arguments], **options)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(true: Callable[[], object], process: subprocess.Popen | None = None, log: Path | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        told = log.read_text() if log else ""
        assert process is None or process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


@contextlib.contextmanager
def dask_cluster(folder: Path, num_workers: int) -> Iterator[str]:
    """``dask scheduler`` and ``dask worker`` processes as a user starts them; yields the scheduler's address."""
    file = folder / "scheduler.json"
    here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        command = ("dask", "scheduler", "--port", "0", "--scheduler-file", str(file), *here)
        stack.enter_context(started(*command, log=folder / "scheduler.log"))
        wait_until(file.exists)
        for i in range(num_workers):
            options = ("--scheduler-file", str(file), "--nthreads", "1", "--local-directory", str(folder), *here)
            stack.enter_context(started("dask", "worker", *options, log=folder / f"worker{i}.log"))
        yield json.loads(file.read_text())["address"]


def state_files(study: Path) -> dict[str, dict]:
    """Hashes of all that each run's states hold: what training came to, bit for bit."""
    return {
        f"{run.name}/{state}": run.state(state).info["files"]
        for run in find_runs(study)
        for state in range(1, run.states.num_states + 1)
    }


def trained_here(study: Path, grid: Path, **changed: int) -> None:
    """The runs of the grid without notebooks and undisturbed: trained in this process, one after the other."""
    parameters = json.loads(grid.read_text())["parameters"] | changed
    base, fine_tuning = (
        {name: value for name, value in parameters.items() if name in kind.parameters()}
        for kind in (BaseTraining, FineTuning)
    )
    train_base(out_dir=str(study), **base)
    for distillation in parameters["distillation"]:
        fine_tune(out_dir=str(study), **fine_tuning | {"distillation": distillation})


def test_a_worker_is_killed_in_mid_training_and_the_study_ends_as_if_undisturbed(grid: Path, tmp_path: Path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    log = tmp_path / "run.log"
    with dask_cluster(tmp_path, 2) as address:
        command = ("il2m.cli", "run", str(grid), "--out", str(disturbed), "--scheduler", address)
        with started(*command, log=log) as study:
            wait_until(lambda: in_state(disturbed, 3), study, log)
            run = in_state(disturbed, 3)
            kept = (disturbed / run / "state_02" / "state.json").stat()
            record = json.loads((disturbed / "jobs" / f"02_fine_tuning-{run}.json").read_text())
            os.kill(record["pid"], signal.SIGKILL)
            assert study.wait(PATIENCE) == 0, log.read_text()
        assert (disturbed / run / "state_02" / "state.json").stat() == kept  # not trained again
        again = json.loads((disturbed / "jobs" / f"02_fine_tuning-{run}.json").read_text())
        assert again["pid"] != record["pid"]
        assert again["status"] == "done"
        nothing = ("il2m.cli", "run", str(grid), "--out", str(disturbed), "--scheduler", address)
        with started(*nothing, log=log) as study:
            assert study.wait(PATIENCE) == 0
        assert "7 of them already done" in log.read_text()
    trained_here(undisturbed, grid)
    assert state_files(disturbed) == state_files(undisturbed)
    for run in find_runs(undisturbed):
        save_results(results_table(run, methods=METHODS), run.folder)
    results, expected = pd.read_parquet(disturbed / "results.parquet"), collect_results(undisturbed)
    pd.testing.assert_frame_equal(results[[*expected]], expected)  # notebook 04 adds columns


def in_state(study: Path, state: int) -> str:
    """The name of a run of which this state is being trained now, "" if there is none."""
    for folder in sorted(study.glob("fine_tuning-*")):
        progress = read_progress(folder)
        if progress and progress["where"].startswith(f"state {state}/"):
            return folder.name
    return ""


def test_two_runs_of_one_grid_at_once_share_the_work(grid: Path, tmp_path: Path):
    study, logs = tmp_path / "study", [tmp_path / "one.log", tmp_path / "two.log"]
    short = ("il2m.cli", "run", str(grid), "--out", str(study), "-p", "epochs=20", "--workers", "2")
    with started(*short, log=logs[0]) as one, started(*short, log=logs[1]) as two:
        codes = [process.wait(PATIENCE) for process in (one, two)]
    printed = [log.read_text() for log in logs]
    assert codes == [0, 0], printed
    assert all("7 of 7 jobs done" in text for text in printed)
    assert "waiting: another process is at 01_base_training" in "".join(printed)
    assert jobs_table(study)["status"].eq("done").all()
    assert not list(study.glob("*/.state*"))
    assert not list(study.glob("notebooks/.*"))
    trained_here(alone := tmp_path / "alone", grid, epochs=20)
    assert state_files(study) == state_files(alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_interrupted_stops_at_once_and_goes_on_later(grid: Path, tmp_path: Path, number: int):
    study, log = tmp_path / "study", tmp_path / "run.log"
    command = ("il2m.cli", "run", str(grid), "--out", str(study), "--workers", "2", "-p", "epochs=300")
    with started(*command, log=log) as process:
        wait_until(lambda: in_state(study, 2), process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        assert listening(psutil.Process(process.pid), *children) <= {"127.0.0.1"}  # nothing beyond this machine
        process.send_signal(number)
        assert process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 130)
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]
    printed = log.read_text()
    assert ("stopped; what is finished is kept" in printed) == (number != signal.SIGKILL)
    assert "Traceback" not in printed
    assert "Error" not in printed
    table = jobs_table(study).set_index("notebook")
    assert table.loc["01_base_training", "status"] == "done"
    assert "running" not in set(table["status"])
    assert "was interrupted" in set(table["reason"])
    if number == signal.SIGKILL:
        assert main(["run", str(grid), "--out", str(study), "-p", "epochs=300"]) == 0
        assert jobs_table(study)["status"].eq("done").all()


def listening(*processes: psutil.Process) -> set[str]:
    """The network addresses at which processes wait for connections."""
    found = [connection for process in processes for connection in process.net_connections("inet")]
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


WORKS_AFTER_A_PAUSE = """
import sys
from il2m.batch.dispatch import Workers, connected

with connected(Workers(1)) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    print(client.submit(sum, [1, 2]).result(timeout=60))
"""


def test_a_study_that_sleeps_for_long_wakes_with_its_workers():
    """As of a laptop, or by Ctrl-Z. dask gives up a worker that is silent for 5 minutes; here for 2 seconds."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2s"}
    with subprocess.Popen([sys.executable, "-c", WORKS_AFTER_A_PAUSE], env=environment, **options) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        process.send_signal(signal.SIGCONT)
        time.sleep(2)  # enough for the scheduler to look for silent workers
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert out == "3\n", err


def test_a_branch_that_fails_does_not_hold_up_the_rest(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    study = tmp_path / "study"
    broken = {"extends": grid.name, "parameters": {"epochs": 5, "distillation": False}}
    broken["combinations"] = {"good": {}, "diverges": {"learning_rate": 1e18, "base_epochs": 3}}
    path = tmp_path / "broken.yaml"
    path.write_text(json.dumps(broken))
    assert main(["run", str(path), "--out", str(study)]) == 1
    captured = capsys.readouterr()
    assert "training diverged" in captured.err
    assert "not done: 4 jobs. To do only what is left: " in captured.err
    table = jobs_table(study)
    by_branch = table.groupby("combination")["status"].value_counts().to_dict()
    assert by_branch == {("good", "done"): 4, ("diverges", "failed"): 1, ("diverges", "blocked"): 3}
    assert main(["status", str(study)]) == 0
    told = capsys.readouterr().out
    assert "training diverged" in told
    assert "blocked: 02_fine_tuning-" in told
    page = (study / "index.html").read_text()
    assert "training diverged" in page
    failed = table.loc[table["status"] == "failed", "file"].item()
    assert failed.replace(".ipynb", ".html") in page
    assert main(["run", str(path), "--out", str(study), "--dry-run"]) == 0
    assert "8 jobs, 4 of them already done" in capsys.readouterr().out


def test_a_scheduler_that_goes_away_is_told_and_its_jobs_end(grid: Path, tmp_path: Path):
    study, log, file = tmp_path / "study", tmp_path / "run.log", tmp_path / "scheduler.json"
    with dask_cluster(tmp_path, 1) as address:
        command = ("il2m.cli", "run", str(grid), "--out", str(study), "--scheduler", address, "-p", "epochs=2000")
        with started(*command, log=log) as process:
            wait_until(lambda: in_state(study, 2), process, log)
            next(p for p in psutil.process_iter(["cmdline"]) if str(file) in (p.info["cmdline"] or [])).kill()
            assert process.wait(PATIENCE) == 2
        assert "the dask scheduler is gone" in log.read_text()
        assert "Traceback" not in log.read_text()
        wait_until(lambda: "running" not in set(jobs_table(study)["status"]))


def test_a_job_that_kills_its_workers_fails_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, checkout = tmp_path / "study", tmp_path / "checkout"
    shutil.copytree(PROJECT / "il2m", checkout / "il2m")
    shutil.copy(PROJECT / "pyproject.toml", checkout)  # by which it is known as one
    notebooks = checkout / "notebooks"
    notebooks.mkdir()
    for name, source in (("kills", KILLS_ITS_WORKER), ("works", "print('well')"), (BASE, "")):
        parameters = new_code_cell("out_dir = ''")
        parameters.metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[parameters, new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, notebooks / f"{name}.ipynb")
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.chdir(checkout)
    jobs = [Job("kills", "a", {"out_dir": str(out)}), Job("works", "b", {"out_dir": str(out)}, beside=("kills-a",))]
    with dask_cluster(tmp_path, 2) as address:
        failed = execute_jobs(jobs, notebooks, Workers(scheduler=address), Estimates(out, {}))
    assert list(failed) == ["kills-a"]
    assert "its workers died one after another (out of memory?)" in failed["kills-a"]
    assert read_record(jobs[0].file(".json"))["status"] == "failed"
    assert read_record(jobs[1].file(".json"))["beside"] == []


def test_a_worker_with_another_version_of_a_plugin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "study"
    for folder, word in (("theirs", "one"), ("ours", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "il2m_test_versions.py").write_text(f"word = {word!r}")
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "theirs"), path])))
    monkeypatch.syspath_prepend(tmp_path / "ours")
    job = Job(BASE, "a", {"out_dir": str(out)}, plugins=("il2m_test_versions",))
    with dask_cluster(tmp_path, 1) as address:
        expected = r"^worker tcp://127\.0\.0\.1:\d+ on .* has another version of il2m or of a plugin: use the same"
        with pytest.raises(InputError, match=expected):
            execute_jobs([job], find_notebooks(), Workers(scheduler=address), Estimates(out, {}))
    assert not job.file(".json").exists()


KILLS_ITS_WORKER = """
import os, signal, psutil
worker = next(p for p in psutil.Process().parents() if any("spawn_main" in word for word in p.cmdline()))
os.kill(worker.pid, signal.SIGKILL)
"""


def test_what_can_not_be_reached_is_told(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setattr("il2m.batch.dispatch._PATIENCE", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    assert main(["run", str(grid), "--out", str(tmp_path / "x"), "--scheduler", address]) == 2
    assert f"no dask scheduler answers at {address}" in capsys.readouterr().err
    file = tmp_path / "scheduler.json"
    for content in (None, json.dumps({"address": address}), "", "{}", "[1]", "no JSON"):
        if content is not None:
            file.write_text(content)
        assert main(["run", str(grid), "--out", str(tmp_path / "x"), "--scheduler", str(file)]) == 2
        told = capsys.readouterr().err
        assert f"no dask scheduler answers at {file}: " in told
        assert "Traceback" not in told


def test_a_scheduler_is_found_by_its_file(tmp_path: Path):
    with dask_cluster(tmp_path, 0) as address, connected(Workers(scheduler=f"{tmp_path}/scheduler.json")) as client:
        assert client.scheduler.address == address


def test_workers_here_and_a_scheduler_do_not_go_together(grid: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(InputError, match="--workers are jobs on this machine"):
        Workers(2, scheduler="tcp://x:1")
    assert main(["run", str(grid), "--workers", "2", "--scheduler", "tcp://x:1"]) == 2
    assert "--workers are jobs on this machine" in capsys.readouterr().err


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that vouches for itself, and its key, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=il2m -addext subjectAltName=IP:127.0.0.1"
    key = subprocess.run([*command.split(), "-keyout", "-", "-out", str(path)], check=True, capture_output=True).stdout
    path.write_bytes(key + path.read_bytes())
    return path


CONNECT = """
import sys
from il2m.batch.dispatch import Workers, connected

with connected(Workers(scheduler=sys.argv[1])) as client:
    print(client.scheduler_info()["address"])
"""


def test_a_scheduler_with_tls_answers_only_with_its_certificates(tmp_path: Path, certificate: Path):
    file = tmp_path / "scheduler.json"
    here = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file))
    tls = [word for option in ("ca-file", "cert", "key") for word in (f"--tls-{option}", str(certificate))]
    with started("dask", "scheduler", "--protocol", "tls", *tls, *here, log=tmp_path / "scheduler.log"):
        wait_until(file.exists)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://127.0.0.1")
        variables = [f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")]
        command, environment = [sys.executable, "-c", CONNECT, address], dict.fromkeys(variables, str(certificate))
        options = {"capture_output": True, "text": True, "timeout": PATIENCE}
        with_certificates = subprocess.run(command, env=os.environ | environment, **options)
        assert with_certificates.stdout == f"{address}\n", with_certificates.stderr
        with (
            pytest.raises(InputError, match="no dask scheduler answers at tls://") as error,
            connected(Workers(scheduler=address)),
        ):
            pass
        assert "\n" not in str(error.value)
        assert all(name in str(error.value) for name in variables)


def test_jobs_share_the_gpus_evenly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    visible_gpus.cache_clear()
    try:
        with leased_gpus() as one, leased_gpus() as two, leased_gpus() as three:
            given = [environment["CUDA_VISIBLE_DEVICES"] for environment in (one, two, three)]
            assert sorted(given[:2]) == ["4", "7"]
            assert given[2] in ("4", "7")
        with leased_gpus(2) as both, leased_gpus(3) as no_more:
            assert both == no_more == {"CUDA_VISIBLE_DEVICES": "4,7"}
        assert Workers().slots == 2
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        visible_gpus.cache_clear()
        with leased_gpus() as none:
            assert none == {}
    finally:
        visible_gpus.cache_clear()
