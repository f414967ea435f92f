"""What is recorded of the environment: true where it can be known, and nothing fails where it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from tiny import PROJECT

from il2m.system.machine import CHECKOUT, LIBRARY, SHIPPED, environment, git_state


def test_the_environment_names_what_made_the_results():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"]["il2m"] == metadata.version("il2m")
    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["memory_gb"] > 0.1


def test_in_a_checkout_its_own_files_are_used():
    assert CHECKOUT == SHIPPED == PROJECT
    assert LIBRARY == PROJECT / "il2m"


def test_the_packages_are_those_of_pyproject():
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [line.split(">=")[0] for line in required]
    assert list(environment()["packages"])[:1] == ["il2m"]
    assert set(environment()["packages"]) == {"il2m", *names}, "pyproject.toml has changed: pip install -e . again"


def test_nothing_fails_where_no_program_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["gpus"] == []
    assert found["git"] == {"commit": None, "changed": None}


@pytest.mark.parametrize("script", ["exit 1", "echo 'NVIDIA A100-SXM4-80GB, 81920 MiB, 570.1'"])
def test_gpus_are_what_nvidia_smi_lists(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment()["gpus"] == ([] if script == "exit 1" else ["NVIDIA A100-SXM4-80GB, 81920 MiB, 570.1"])


def test_the_state_of_a_checkout(tmp_path: Path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert git_state(tmp_path) == {"commit": None, "changed": None}
    git("init")
    assert git_state(tmp_path) == {"commit": None, "changed": None}  # nothing is committed yet
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}
    inside = tmp_path / "inside"
    inside.mkdir()
    assert git_state(inside) == {"commit": None, "changed": None}  # another project's checkout


def test_importing_it_does_not_import_torch():
    code = "import il2m.system.machine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
