"""Every file of a study is read: what is wrong with one is named, and a repair makes it good."""

import os
import shutil
from pathlib import Path

import pytest
from tiny import PROJECT, TinyStudy, finish_by_hand

from il2m.cli import main
from il2m.report.verify import DAMAGED, ORPHANED, STALE, UNKNOWN, verify_study
from il2m.results.collect import collect_results
from il2m.results.table import save_results
from il2m.study.runs import Run
from il2m.study.stages import fine_tune

NOTEBOOK = "04_rectification_ablation"


@pytest.fixture(scope="module")
def whole(tiny_study: TinyStudy, tmp_path_factory) -> Path:
    """The tiny study with all that il2m run leaves beside its states."""
    out = tmp_path_factory.mktemp("verify") / "study"
    shutil.copytree(tiny_study.out_dir, out)
    finish_by_hand(out)
    return out


@pytest.fixture
def study(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def found(study: Path) -> dict[str, str]:
    return {str(path.relative_to(study)): kind for path, kind, _ in verify_study(study)}


def test_a_study_as_it_was_made(study, capsys):
    assert found(study) == {}
    assert main(["verify", str(study)]) == 0
    assert capsys.readouterr().out == f"{study}: 5 states read; all as it was made.\n"


def flip(path: Path, place: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def exchange(first: Path, second: Path) -> None:
    other = first.with_name("other")
    first.rename(other), second.rename(first), other.rename(second)


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize(
    ("pattern", "kinds"),
    [
        ("fine_tuning-*/config.json", {DAMAGED}),
        ("fine_tuning-*/state_02/state.json", {DAMAGED}),
        ("base-*/state_01/val_scores.npy", {DAMAGED}),
        ("fine_tuning-*/state_03/model.safetensors", {DAMAGED}),
        ("fine_tuning-*/results.parquet", {STALE}),
        ("results.parquet", {STALE}),
        ("jobs/*.json", {DAMAGED}),
        ("plans/*.json", {DAMAGED}),
        ("notebooks/*.html", {STALE}),
        ("notebooks/*.ipynb", {STALE}),
    ],
)
def test_a_damaged_file_is_named(study, pattern, kinds, how):
    path = next(iter(sorted(study.glob(pattern))))
    if how == "flip" and path.suffix == ".parquet":  # not all of its bits count; garbage of its size then
        path.write_bytes(path.read_bytes()[::-1])
    elif how == "flip":
        flip(path, path.stat().st_size // 2)
    else:
        os.truncate(path, path.stat().st_size // 2 if how == "cut" else 0)
    findings = [each for each in verify_study(study) if path.name in f"{each.path} {each.why}"]
    assert {finding.kind for finding in findings} >= kinds
    assert main(["verify", str(study)]) == 1


@pytest.mark.parametrize("pattern", ["config.json", "state_02", "state_03", "results.parquet"])
def test_what_two_runs_exchanged_is_named(study, pattern):
    first, second = (run / pattern for run in sorted(study.glob("fine_tuning-*")))
    exchange(first, second)
    findings = found(study)
    for path in (first, second):
        assert findings[str(path.relative_to(study))] in (DAMAGED, STALE)


@pytest.mark.parametrize("pattern", ["jobs/*.json", "notebooks/*.html", "notebooks/*.ipynb"])
def test_what_two_jobs_exchanged_is_named(study, pattern):
    first, second = sorted(study.glob(pattern))
    exchange(first, second)
    assert len(found(study)) >= 2


def test_what_nobody_knows_and_what_nobody_needs(study):
    run = next(study.glob("fine_tuning-*"))
    paths = {study / "notes.txt": UNKNOWN, run / "state_02" / "more.npy": UNKNOWN, run / "other": UNKNOWN}
    paths |= {run / "results.parquetx1.tmp": ORPHANED, run / "state_02.training.checkpoint": ORPHANED}
    paths |= {study / "jobs" / "1.lease": ORPHANED, study / "notebooks" / "01_x.html": ORPHANED}
    for path in paths:
        path.write_text("x")
    assert found(study) == {str(path.relative_to(study)): kind for path, kind in paths.items()}
    shutil.rmtree(next(study.glob("base-*")))
    assert {found(study)[run.name] for run in study.glob("fine_tuning-*")} == {ORPHANED}


def test_unknown_files_need_no_repair_and_names_do_not_steer_a_terminal(study, capsys):
    (study / "a\x1b[31mred\udcff.txt").write_text("x")
    assert main(["verify", str(study)]) == 1
    printed = capsys.readouterr().out
    assert r"unknown: a\x1b[31mred\udcff.txt: nothing of this study" in printed
    assert "to repair" not in printed


def test_the_repair(study, tiny_study, capsys):
    run = Run(study / tiny_study.off.name)
    flip(run.folder / "state_02" / "val_scores.npy")
    assert main(["verify", str(study)]) == 1
    again = f"(cd {Path.cwd()} && il2m run tiny --out {study})"
    assert f"to repair: il2m verify {study} --repair; {again}" in capsys.readouterr().out
    main(["verify", str(study), "--repair"])
    assert (run.folder / "set_aside-state_02").is_dir()
    assert found(study)[f"{run.name}/state_03"] == STALE, "until the state before it is there again"
    fine_tune(**tiny_study.fine_tuning_parameters | {"out_dir": str(study), "base": tiny_study.base.name})
    assert found(study) == {}, "the state came out as it was, so that nothing else had to be made again"


def test_what_others_left_is_not_touched_and_what_was_set_aside_not_found_again(study):
    for name in (".ipynb_checkpoints", "dask-scratch-space", "notebooks/.ipynb_checkpoints"):
        (study / name).mkdir()
    plan = next(study.glob("plans/*.json"))
    flip(plan, 100)
    assert main(["verify", str(study), "--repair"]) == 1
    assert (study / "plans" / "set_aside-tiny.json-1").is_file()
    assert found(study) == {}, "jobs are not called orphaned while what asked for them can't be read"
    (study / ".gitignore").write_text("*\n")
    assert found(study)[".gitignore"] == UNKNOWN, "and never set aside"


def test_results_that_lack_a_run_are_named(study):
    run = sorted(study.glob("fine_tuning-*"))[0]
    table = collect_results(study)
    table.attrs["states"].pop(run.name)
    save_results(table[table["run"] != run.name], study)
    assert found(study) == {"results.parquet": STALE}


def test_states_of_before_are_told(tmp_path, capsys):
    study = Path(shutil.copytree(PROJECT / "tests" / "fixtures" / "study_0.1", tmp_path / "study"))
    for path in study.glob("*"):
        if not (path / "config.json").exists():
            path.unlink()
    assert main(["verify", str(study)]) == 0
    assert "2 states of before version 0.2: a swap can't be told." in capsys.readouterr().out
