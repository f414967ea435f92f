"""il2m export: figures and tables of a run's and of a study's notebooks, as files for a paper."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

import il2m
from il2m.cli import main
from il2m.notebook.catalogue import ANALYSIS
from il2m.report.paper import export
from il2m.report.tables import Link, show
from il2m.results.table import bias_table
from il2m.study.find import open_pair
from il2m.system.hashes import read_sealed, write_sealed

pytestmark = pytest.mark.xdist_group("report")  # they share one executed study


@pytest.fixture(scope="module")
def exported(half_done_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "of a study"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(half_done_study.parent)  # paths as they are typed
        asked = [half_done_study.name, os.path.relpath(out, half_done_study.parent), "--figures", "pdf,svg"]
        assert main(["export", *asked]) == 0
    return out


@pytest.mark.papermill
def test_every_figure_and_table_of_the_notebooks_is_a_file(exported: Path, half_done_study: Path):
    names = {path.name for path in exported.iterdir()}
    figures = {path.stem for path in exported.glob("*.pdf")}
    assert figures == {path.stem for path in exported.glob("*.svg")}
    assert {
        "03-past-classes-score-lower-than-new-ones",
        "03-what-kind-of-errors-they-are",
        "04-the-factors-of-il2m",
        "04-the-field-s-corrections-on-the-same-models-2",
        "05-report",
        "05-methods-against-fine-tuning",
    } <= figures
    assert {path.stem for path in exported.glob("*.tex")} == {path.stem for path in exported.glob("*.csv")}
    assert {"03-the-numbers.csv", "04-what-it-costs-and-what-it-does-besides.tex", "05-all-runs.csv"} <= names
    assert all(path.read_bytes().startswith(b"%PDF") for path in exported.glob("*.pdf"))
    assert b"/Type3" not in b"".join(path.read_bytes() for path in exported.glob("*.pdf"))
    assert not [path for path in exported.parent.iterdir() if path != exported]  # nothing of its making is left


@pytest.mark.papermill
def test_tables_hold_the_numbers_of_the_run(exported: Path, half_done_study: Path):
    run = il2m.open_run(half_done_study)
    told = pd.read_csv(exported / "03-the-numbers.csv", index_col="state")
    pd.testing.assert_frame_equal(told, bias_table(run), check_dtype=False, rtol=1e-6)  # unrounded
    table = (exported / "03-the-numbers.tex").read_text()
    rows = [row.rstrip("\\ ").split(" & ") for row in table.splitlines() if re.match(r"\d+ & ", row)]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    confidence = table.splitlines()[5].rstrip("\\ ").split(" & ").index("confidence")
    assert [row[confidence] for row in rows] == [f"{value:.3f}" for value in bias_table(run)["confidence"]]
    pair = " with ".join(each.name for each in open_pair(half_done_study).values())
    assert rf"Source: il2m {il2m.__version__}, {pair}".replace("_", r"\_") in table
    assert r"\caption{The numbers: " in table
    runs = pd.read_csv(exported / "05-all-runs.csv")
    assert "notebooks" not in runs  # links are for pages
    assert f"torch=={version('torch')}" in (exported / "environment.lock").read_text().splitlines()


@pytest.mark.papermill
def test_the_bibliography_has_every_method_with_a_source(exported: Path):
    entries = (exported / "methods.bib").read_text().split("@")[1:]
    assert len({entry.partition(",")[0] for entry in entries}) == len(entries)
    for name in il2m.METHODS:
        if (source := il2m.METHODS[name].source) and source != "this study":
            author, year = re.search(r"(\w+)(?: et al\.| and \w+)", source)[1], source[-4:]
            assert [e for e in entries if author in e and f"{{{year}}}" in e], source


def test_tables_for_latex_hold_text_alone():
    table = pd.DataFrame({"a_b": ["50 % of $x$", r"\input{secret}"], "top1": [0.123, float("nan")]})
    table.loc[2] = ["[x] --only <a|b>", 1.0]
    text = show(table, caption="{#1} & ~2").latex("A title", "a^b")
    assert r"{[}x{]} -{}-only $<$a$|$b$>$ & 100.0\% \\" in text
    assert r"50 \% of \$x\$ & 12.3\% \\" in text
    assert r"\textbackslash{}input\{secret\} & – \\" in text
    assert r"a\_b & top-1 \\" in text
    assert r"\caption{A title: \{\#1\} \& \textasciitilde{}2}" in text
    assert r"Source: a\^{}b" in text
    assert r"\begin{tabular}{lr}" in text


@pytest.mark.papermill
def test_one_run_in_chosen_forms_is_the_same_again(exported: Path, half_done_study: Path, tmp_path):
    out = export(il2m.open_run(half_done_study).folder, tmp_path / "of a run", figures=["pdf"], tables=[])
    assert {path.suffix for path in out.iterdir()} == {".bib", ".lock", ".pdf"}
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert files == {name: (exported / name).read_bytes() for name in files}
    assert {path.name for path in exported.glob("0[34]*.pdf")} == {name for name in files if name.endswith("pdf")}


@pytest.mark.papermill
def test_what_the_grid_said_of_the_analysis_holds_for_the_export(half_done_study: Path, tmp_path):
    """score_kind of the plan, not what the notebook has."""
    study = shutil.copytree(half_done_study, tmp_path / "study")
    run = il2m.open_run(study)
    (path,) = study.glob("plans/*.json")
    plan = read_sealed(path)
    for job in plan["jobs"]:
        if job["notebook"] == ANALYSIS:
            job["parameters"]["score_kind"] = "softmax"
    path.unlink()
    write_sealed(path, plan)
    out = export(run.folder, tmp_path / "paper", figures=[], tables=["csv"])
    told = pd.read_csv(out / "03-the-numbers.csv", index_col="state")
    expected = bias_table(run, score_kind="softmax")
    assert (expected["new_score"] - bias_table(run)["new_score"]).abs().max() > 0.01
    pd.testing.assert_frame_equal(told, expected, check_dtype=False, rtol=1e-6)


def test_what_cannot_be_exported_is_refused_and_nothing_written(tiny_study, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for asked, said in (
        ([str(tiny_study.off.folder), "full"], "full holds something already: name a new folder"),
        ([str(tiny_study.off.folder), "full/notes.txt"], "notes.txt holds something already"),
        ([str(tiny_study.base.folder), "new"], "is a base, not a fine-tuning run"),
        ([str(tmp_path), "new"], "no finished fine-tuning run"),
        ([str(tiny_study.off.folder), "new", "--figures", "pfd"], "figures = 'pfd': expected one of pdf, svg"),
        ([str(tiny_study.off.folder), "new", "--tables", "tex,word"], "tables = 'word': expected one of tex, csv"),
        ([str(tiny_study.off.folder), "new", "--plugin", "gone.py"], "gone.py"),
    ):
        source, out, *options = asked
        assert main(["export", source, str(tmp_path / out), *options]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "notes.txt"]


def test_lists_of_links_are_found_wherever_they_stand():
    table = show(pd.DataFrame({"a": [1, 2], "b": ["x", [Link("y", "y.html")]]}))
    assert table.table.map(lambda value: isinstance(value, Link | list)).any().tolist() == [False, True]
