"""The wheel, away from the checkout: it brings what it needs, and writes to the current folder only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny import PROJECT

from il2m.batch.records import library_hash
from il2m.study.planning import named_mean_std

pytestmark = [pytest.mark.papermill, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was unpacked, as an installation does."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    subprocess.run([*command, folder, PROJECT], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    wheel.unlink()
    return folder


def python(installed: Path, folder: Path, *arguments: str) -> str:
    """What Python prints in a folder, where il2m is the installed one."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def hashes(folder: Path, prefix: str = "", pattern: str = "*") -> dict[str, str]:
    """Hash by name of the files below a folder, without what Python and Jupyter keep for themselves."""
    files = [path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()]
    files = [file for file in files if not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts)]
    return {f"{prefix}{file}": hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def test_it_holds_the_library_the_notebooks_and_the_means_and_nothing_else(installed: Path):
    in_wheel = {name: digest for name, digest in hashes(installed).items() if ".dist-info" not in name}
    shipped = hashes(PROJECT / "notebooks", "notebooks/") | hashes(PROJECT / "data", "data/", "datasets_mean_std.txt")
    library = hashes(PROJECT / "il2m", "il2m/")
    assert in_wheel == library | {f"il2m/shipped/{name}": digest for name, digest in shipped.items()}
    assert {"il2m/explorer/templates/share.js", "il2m/explorer/templates/figures/what_if.json"} <= in_wheel.keys()
    assert {"il2m/notebook/templates/page.html.j2", "il2m/shipped/notebooks/grids/quickstart.yaml"} <= in_wheel.keys()


def test_it_is_the_checkouts_library_and_knows_the_authors_means(installed: Path, tmp_path: Path):
    code = "from il2m.batch.records import library_hash; from il2m.study.planning import named_mean_std"
    code += "; print(library_hash(), named_mean_std('ilsvrc', 'data', 3))"
    printed = python(installed, tmp_path, "-c", code)
    assert printed.split(maxsplit=1) == [library_hash(), f"{named_mean_std('ilsvrc', 'data', 3)}\n"]


def test_a_study_runs_and_writes_to_the_current_folder_only(installed: Path, tmp_path: Path):
    before = hashes(installed), sorted(installed.rglob("*"))
    here = tmp_path / "my work"
    here.mkdir()
    assert "quickstart" in python(installed, here, "-m", "il2m.cli", "grids")
    python(installed, here, "-m", "il2m.cli", "notebooks", "notebooks")
    tiny = ("num_states=2", "base_epochs=1", "epochs=1", "distillation=false")
    command = ("-m", "il2m.cli", "run", "quickstart", *(word for setting in tiny for word in ("-p", setting)))
    printed = python(installed, here, *command)
    assert "4 of 4 jobs done" in printed
    assert printed.endswith(f"report: {here / 'runs' / 'quickstart' / 'index.html'}\n")
    assert sorted(path.name for path in here.iterdir()) == ["data", "notebooks", "runs"]
    assert [path.suffix for path in (here / "data").iterdir()] == [".npz"]
    assert {path.name for path in (here / "notebooks").iterdir()} == {p.name for p in PROJECT.glob("notebooks/*.ipynb")}
    assert (here / "runs" / "quickstart" / "results.parquet").is_file()
    assert ", 4 of them already done, in " in python(installed, here, *command)
    assert (hashes(installed), sorted(installed.rglob("*"))) == before
