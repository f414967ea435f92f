"""The house: what may import what, what importing costs, how large a room may be."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import PROJECT

import il2m
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.batch.records import write_plan
from il2m.data.sources import load_dataset

LIBRARY = Path(il2m.__file__).parent
MODULES = sorted(LIBRARY.rglob("*.py"))


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh process has after running ``code``."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, sep='\\n')"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_no_room_imports_one_above_it_and_there_are_no_circles():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    "package", ["methods", "results", "plots", "study.find", "memory.statistics", "exchange.score_files"]
)
def test_numbers_and_plots_do_without_torch(package):
    modules = sorted(path for path in (LIBRARY / package.replace(".", "/")).glob("*.py"))
    names = [f"il2m.{package}"] + [f"il2m.{package}.{path.stem}" for path in modules if path.stem != "__init__"]
    assert "torch" not in loaded_by("import " + ", ".join(names))


def test_the_face_loads_a_room_when_it_is_asked_for_something_in_it():
    ours = {name for name in loaded_by("import il2m") if name.startswith("il2m")}
    assert ours == {"il2m"}
    assert not {"torch", "numpy", "pandas", "matplotlib"} & loaded_by("import il2m")
    loaded = loaded_by("import il2m; il2m.results_table, il2m.METHODS, il2m.open_run")
    assert "il2m.results.table" in loaded
    assert "torch" not in loaded


def test_a_plan_and_a_look_at_a_study_load_nothing_that_is_slow(tmp_path: Path):
    load_dataset("glyphs", tmp_path)  # drawn once
    command = ["run", "quickstart", "--dry-run", "--out", str(tmp_path / "study"), "-p", f"data_dir={tmp_path}"]
    slow = {"torch", "nbformat", "jsonschema", "rfc3987_syntax", "papermill", "distributed", "IPython"}
    slow |= {"pandas", "scipy", "pyarrow", "matplotlib", "tqdm"}
    assert not slow & (loaded := loaded_by(f"from il2m.cli import main; main({command})"))
    assert "il2m.study.planning" in loaded  # it was planned there
    write_plan(tmp_path, Grid("one"), (), [Job("01_base_training", "base-1", {"out_dir": "study"})], ["il2m"])
    assert not slow & (loaded := loaded_by(f"from il2m.cli import main; main(['status', {str(tmp_path)!r}])"))
    assert "il2m.batch.status" in loaded
    assert not slow & loaded_by("import il2m.report.build")


def test_a_plan_of_image_files_does_without_torch(tmp_path: Path):
    for split, label in itertools.product(("train", "val"), range(10)):
        (folder := tmp_path / "images" / split / f"class {label}").mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (label, number, 0)).save(folder / f"{number}.png")
    command = ["run", "quickstart", "--dry-run", "--out", str(tmp_path / "study"), "-p", "image_size=8"]
    command += ["-p", f"dataset=folder:{tmp_path / 'images'}"]
    loaded = loaded_by(f"from il2m.cli import main; main({command})")
    assert "il2m.data.image_files" in loaded
    assert not {"torch", "torchvision"} & loaded


def test_the_face_gives_what_it_says():
    for name in il2m.__all__:
        assert getattr(il2m, name) is not None
    assert set(il2m.__all__) <= set(dir(il2m))
    with pytest.raises(AttributeError, match="module 'il2m' has no attribute 'nothing'"):
        il2m.nothing  # noqa: B018


def test_rooms_are_one_reading_each():
    assert len(list(LIBRARY.glob("*.py"))) <= 6
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path): length for path, length in lengths.items() if length > 300} == {}
    assert sum(lengths.values()) < 10_500


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_functions_are_one_screen_each(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 50} == {}


@pytest.mark.xdist_group("one worker")
def test_tests_of_a_group_run_on_one_worker(request: pytest.FixtureRequest):
    """Else what they share is made once on each, and those that keep several cores busy do so at the same time."""
    if not getattr(request.config.option, "loadgroup", False):  # pytest-xdist sets it in its workers
        pytest.skip("not run by pytest-xdist with --dist loadgroup")
    assert request.node.nodeid.endswith("@one worker")
