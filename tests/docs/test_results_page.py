"""What docs/results.md says of the deciding runs is what the committed tables hold."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import deciding

PAGE = (PROJECT / "docs" / "results.md").read_text()
FOLDERS = sorted(path.parent for path in (PROJECT / "benchmarks" / "results").glob("*/hypotheses.csv"))
TOLD = PAGE[PAGE.index("## In short") : PAGE.index("## What is to be decided")]
TOLD += PAGE[PAGE.index("## Glyphs, S = 10: the head decides") : PAGE.index("## Earlier runs")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_files(folder: Path):
    begin, end = (f"<!-- {folder.name}: {which} -->" for which in ("begin", "end"))
    assert PAGE.partition(begin)[2].partition(end)[0].strip() == deciding.told(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_files_are_of_the_committed_runs(folder: Path):
    """Estimates and intervals again, from the rows of the runs."""
    results = deciding.join(folder)
    for name, hypotheses in (("hypotheses", deciding.HYPOTHESES), ("besides", deciding.BESIDES)):
        again, path = deciding.decided(results, hypotheses), folder / f"{name}.csv"
        assert path.exists() == bool(len(again))
        for column in ("estimate", "low", "high") if len(again) else ():
            expected = pytest.approx(pd.read_csv(path)[column].to_numpy(), abs=1e-12, nan_ok=True)
            assert again[column].to_numpy() == expected
        assert again.get("estimate", pd.Series(dtype=float)).notna().all()


def test_runs_of_another_seed_are_added_if_the_same_code_made_them():
    path = PROJECT / "benchmarks" / "results" / "glyphs_k50" / "order-3.parquet"
    whole = pd.read_parquet(path)
    first, second = (whole[whole["head"] == head] for head in ("new", "extended"))
    both = deciding.added(second, first, path)
    assert len(both) == len(whole)
    assert {*both["run"]} == {*whole["run"]}
    assert both.attrs == whole.attrs
    assert len(deciding.added(second, whole, path)) == len(whole)  # those that were kept before are written anew
    second.attrs = whole.attrs | {"analysis": "another"}
    with pytest.raises(SystemExit, match=r"order-3.parquet holds runs that were made otherwise \(\['analysis'\]\)"):
        deciding.added(second, first, path)


@pytest.mark.parametrize(
    ("here", "there", "name", "rows"),
    [("glyphs_k75_floor", "glyphs_k50", "rounding", 14), ("glyphs_k200_long", "glyphs_k200_again", "epochs", 28)],
)
def test_what_changes_between_two_folders_is_of_the_committed_runs(here: str, there: str, name: str, rows: int):
    """Each row again by literal loops: class order by class order, the mean over states 2..S."""
    both = [PROJECT / "benchmarks" / "results" / folder for folder in (here, there)]
    table = pd.read_csv(both[0] / f"{name}.csv")
    assert len(table) == rows
    for row in table.itertuples():
        method, _, reference = row.what.partition(" over ")
        differences = []
        for order in range(3, 9):
            sides = []
            for folder in both:
                rows = pd.read_parquet(folder / f"order-{order}.parquet")
                rows = rows[rows["head"] == ("new" if row.setting.startswith("new") else "extended")]
                rows = rows[rows["distillation"] == row.setting.endswith("on")]
                rows = rows[(rows["score_kind"] == "raw") & (rows["state"] > 1) & (rows["train_seed"] == 0)]
                top1 = {name: rows[rows["method"] == name]["top1"].mean() for name in (method, reference) if name}
                sides.append(top1[method] - top1.get(reference, 0))
            differences.append(sides[0] - sides[1])
        assert row.estimate == pytest.approx(sum(differences) / 6, abs=1e-12)
        assert row.num_units == 6
    assert table["held_here"][0] == pytest.approx(table["held_there"][0], abs=0.1)


def test_what_bf16_costs_is_what_its_table_says():
    page, rows = (PROJECT / "docs" / "speed.md").read_text(), []
    for row in pd.read_csv(PROJECT / "benchmarks" / "results" / "precision.csv").itertuples():
        means = [f"{value:.3f}".lstrip("0") for value in (row.float32, row.bf16)]
        points = f"{100 * row.estimate:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        rows.append(f"| `{row.method}` | {means[0]} | {means[1]} | {points} |")
    assert "\n".join(rows) in page


def test_numbers_in_the_text_are_numbers_of_the_tables():
    text = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", TOLD, flags=re.DOTALL)
    tables = "\n".join(deciding.told(folder) for folder in FOLDERS)
    points = {*re.findall(r"[+-]\d+\.\d", tables)}
    values = set()
    for folder in FOLDERS:
        why, means = pd.read_csv(folder / "why.csv"), pd.read_csv(folder / "methods.csv")["mean"]
        if "train_seed" in why:  # means over training seeds are told
            about = [name for name in ("S", "K", "head", "distillation", "state") if name in why]
            why = why.groupby(about, as_index=False).mean(numeric_only=True)
        numbers = [*why.select_dtypes("number").to_numpy().ravel(), *means]
        for devices in folder.glob("devices.csv"):
            numbers += [*pd.read_csv(devices).select_dtypes("number").to_numpy().ravel()]
        values |= {f"{abs(value):.{digits}f}".lstrip("0") for value in numbers for digits in (1, 2, 3)}
    said = re.findall(r"(?<![\w.])[+-]?\d*\.\d+(?!\.?\d)", text)  # but no version, as 2.14.1
    assert len(said) > 30
    assert [number for number in said if number[0] in "+-" and number not in points] == []
    assert [number for number in said if number[0] not in "+-" and number.lstrip("0") not in values] == []


def test_the_readme_says_what_the_tables_say():
    readme = (PROJECT / "README.md").read_text()
    paragraphs = (" ".join(part.split()) for part in readme.split("\n\n"))
    paragraph = next(part for part in paragraphs if "the head decides what distillation does" in part)
    tables = "\n".join(deciding.told(folder) for folder in FOLDERS)
    points = {number[1:] for number in re.findall(r"[+-]\d+\.\d", tables)}
    said = re.findall(r"\d+\.\d", paragraph)
    assert len(said) == 14
    assert {*said} <= points
