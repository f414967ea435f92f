"""What docs/results.md says of the deciding runs is what the committed tables hold."""

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import across
import deciding

PAGE = (PROJECT / "docs" / "results.md").read_text()
FOLDERS = sorted(path.parent for path in (PROJECT / "benchmarks" / "results").glob("*/hypotheses.csv"))
TOLD = PAGE[PAGE.index("## In short") : PAGE.index("## What is to be decided")]
TOLD += PAGE[PAGE.index("## Glyphs, S = 10, K = 50: the head decides") : PAGE.index("## Earlier runs")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_files(folder: Path):
    begin, end = (f"<!-- {folder.name}: {which} -->" for which in ("begin", "end"))
    assert PAGE.partition(begin)[2].partition(end)[0].strip() == deciding.told(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_files_are_of_the_committed_runs(folder: Path):
    """Estimates and intervals again, from the rows of the runs."""
    results = deciding.join(folder)
    for name, registered in (("hypotheses", True), ("besides", False)):
        again, path = deciding.decided(results, registered), folder / f"{name}.csv"
        assert path.exists() == bool(len(again))
        for column in ("estimate", "low", "high") if len(again) else ():
            expected = pytest.approx(pd.read_csv(path)[column].to_numpy(), abs=1e-12, nan_ok=True)
            assert again[column].to_numpy() == expected
        assert again.get("estimate", pd.Series(dtype=float)).notna().all()


def test_the_tables_across_all_settings_are_of_the_committed_runs():
    assert PAGE.partition("<!-- across: begin -->")[2].partition("<!-- across: end -->")[0].strip() == across.told()
    for name in ("methods", "heads", "contrasts", "tests"):
        again, kept = getattr(across, f"{name}_table")(), pd.read_csv(across.RESULTS / "across" / f"{name}.csv")
        pd.testing.assert_frame_equal(again.reset_index(drop=True), kept, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize(("condition", "method"), [("K = 50", "FT"), ("S = 25, K = 200", "IL2M")])
def test_what_the_head_changes_of_distillation_is_a_difference_of_differences(condition: str, method: str):
    """By literal loops: class order by class order, seed by seed, state by state."""
    folder, num_states = across.CONDITIONS[condition]
    by_order = []
    for order in range(3, 13):
        path, by_seed = across.RESULTS / folder / f"order-{order}.parquet", []
        if not path.exists():
            continue
        columns = ["score_kind", "method", "num_states", "train_seed", "head", "distillation", "state", "top1"]
        rows = pd.read_parquet(path, columns=columns)
        rows = rows[(rows["score_kind"] == "raw") & (rows["method"] == method) & (rows["num_states"] == num_states)]
        for seed in rows["train_seed"].unique():
            effect = {}
            for head in ("new", "extended"):
                on, off = (
                    [
                        row.top1
                        for row in rows.itertuples()
                        if (row.head, row.distillation, row.train_seed) == (head, distils, seed) and row.state > 1
                    ]
                    for distils in (True, False)
                )
                assert len(on) == len(off) == num_states - 1
                effect[head] = sum(on) / len(on) - sum(off) / len(off)
            by_seed.append(effect["new"] - effect["extended"])
        by_order.append(sum(by_seed) / len(by_seed))
    table = pd.read_csv(across.RESULTS / "across" / "heads.csv").set_index(["condition", "method", "head"])
    row = table.loc[condition, method, "new minus kept"]
    assert row["estimate"] == pytest.approx(sum(by_order) / len(by_order), abs=1e-12)
    assert row["num_units"] == len(by_order)


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
    [
        ("glyphs_k75_floor", "glyphs_k50", "rounding", 14),
        ("glyphs_k200_long", "glyphs_k200_again", "epochs", 28),
        ("glyphs_k200_unseen", "glyphs_k200_unseen_short", "epochs", 20),
    ],
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


def test_runs_that_were_made_again_came_out_to_the_same_bits():
    """Those for the oracle of unseen images, a session of changes later: every accuracy of all states and methods."""
    for again, before in (("unseen", "long"), ("unseen_short", "again")):
        for order in range(3, 9):
            keys = ["run", "state", "method", "score_kind"]
            folders = (across.RESULTS / f"glyphs_k200_{which}" for which in (again, before))
            tables = [pd.read_parquet(folder / f"order-{order}.parquet") for folder in folders]
            both = tables[0].merge(tables[1], on=keys, suffixes=("", " before"))
            assert len(both) == 440
            assert both["top1"].equals(both["top1 before"])
            assert both["top5"].equals(both["top5 before"])


def test_what_bf16_costs_is_what_its_table_says():
    page, rows = (PROJECT / "docs" / "speed.md").read_text(), []
    for row in pd.read_csv(PROJECT / "benchmarks" / "results" / "precision.csv").itertuples():
        means = [f"{value:.3f}".lstrip("0") for value in (row.float32, row.bf16)]
        points = f"{100 * row.estimate:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        rows.append(f"| `{row.method}` | {means[0]} | {means[1]} | {points} |")
    assert "\n".join(rows) in page


SECTIONS = [part for part in re.split(r"(?=^## )", TOLD, flags=re.MULTILINE) if part.strip()]
QUOTED = {  # of other sections' runs
    "glyphs_k200_long": ["glyphs_k200", "glyphs_k200_again", "glyphs_k50"],
    "glyphs_k200_unseen": ["glyphs_k200_unseen_short"],
    "glyphs_k75_floor": ["glyphs_k50"],
    "glyphs_s5_s25": ["glyphs_k200"],
    "cifar100_k2000": ["glyphs_k50"],
    "cifar100_full_size": ["cifar100_k2000"],
}


def numbers_of(folder: Path) -> set[str]:
    """Every number of a folder's tables as a sentence may write it, without its sign and a leading zero."""
    why, means = pd.read_csv(folder / "why.csv"), pd.read_csv(folder / "methods.csv")["mean"]
    if "train_seed" in why:  # means over training seeds are told
        about = [name for name in ("S", "K", "head", "distillation", "state") if name in why]
        why = why.groupby(about, as_index=False).mean(numeric_only=True)
    numbers = [*why.select_dtypes("number").to_numpy().ravel(), *means]
    for devices in folder.glob("devices.csv"):
        numbers += [*pd.read_csv(devices).select_dtypes("number").to_numpy().ravel()]
    return {f"{abs(value):.{digits}f}".lstrip("0") for value in numbers for digits in (1, 2, 3)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0].strip("# "))
def test_numbers_in_the_text_are_numbers_of_the_tables_of_its_section(section: str):
    """Points: of its own tables, those of all settings, and those that it may quote. Others: of its own runs."""
    own = re.findall(r"<!-- (\w+): begin -->", section)
    folders = FOLDERS if own in ([], ["across"]) else [PROJECT / "benchmarks" / "results" / name for name in own]
    quoted = [folder for folder in FOLDERS if folder.name in {each for name in own for each in QUOTED.get(name, ())}]
    tables = "\n".join([across.told(), *(deciding.told(folder) for folder in {*folders, *quoted})])
    points = {*re.findall(r"[+-]\d+\.\d", tables)}
    values = set().union(*(numbers_of(folder) for folder in {*folders, *quoted} if (folder / "why.csv").exists()))
    text = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", section, flags=re.DOTALL)
    said = re.findall(r"(?<![\w.])[+-]?\d*\.\d+(?!\.?\d)", text)  # but no version, as 2.14.1
    assert len(said) > 2
    assert [number for number in said if number[0] in "+-" and number not in points] == []
    assert [number for number in said if number[0] not in "+-" and number.lstrip("0") not in values] == []


def test_in_short_counts_what_the_tables_hold():
    """Ranges and counts of settings, again from the tables."""
    short = TOLD.partition("## Across all settings")[0]
    methods = pd.read_csv(across.RESULTS / "across" / "methods.csv")
    heads = {
        "new head": methods["head"] == "new",
        "kept head": methods["head"] == "extended",
        "": methods["head"] != "",
    }
    expected = [("IL2M gains over fine-tuning, top-1", "IL2M", "top1", "", "")]
    expected += [("the same in top-5", "IL2M", "top5", "", "CIFAR")]
    expected += [(f"glyphs, {head}", "IL2M", "top5", head, "K = |S = ") for head in ("new head", "kept head")]
    expected += [("FT-th, which stores", "FT-th", "top1", "", ""), ("WA, new head", "WA", "top1", "new head", "")]
    for words, method, column, head, where in expected:
        line = next(line for line in short.splitlines() if words in line)
        chosen = (methods["method"] == method) & (methods["column"] == column) & heads[head]
        rows = methods[chosen & methods["condition"].str.match(where)]
        low, high = 100 * rows["estimate"].min(), 100 * rows["estimate"].max()
        assert f"{low:+.1f} to {high:+.1f}" in line
        ahead, behind = (rows["low"] > 0).sum(), (rows["high"] < 0).sum()
        verdict = re.sub("° in .*", "", line.split("|")[-2])
        if " of " in verdict:
            counts = [int(count) for count in re.findall(r"(\d+)(?= of |,|\b)", verdict)]
            assert {*counts} <= {ahead, behind, len(rows)}
            assert ahead in counts
        elif "reproduced" in verdict:
            assert ahead == len(rows)


@pytest.mark.parametrize(
    ("words", "folders", "hypothesis", "marks"),
    [
        ("its class means alone gain", across.CONDITIONS, "IL2M-means gains", "° in 1"),
        ("distillation hurts fine-tuning where", {"K = 200, 100 epochs"}, "distillation helps FT, new", "reproduced °"),
        ("distillation hurts fine-tuning where", {"S = 5, K = 200"}, "distillation helps FT, new", "reproduced °"),
        ("kept head, all seven conditions", across.CONDITIONS, "distillation hurts FT, kept", "° in 3"),
        ("it hurts IL2M there", {"K = 200, 100 epochs"}, "distillation helps IL2M, new", "reproduced °"),
        ("FT-th, which stores counts alone", across.CONDITIONS, "FT-th gains over IL2M", "° in 4"),
        ("IL2M-pooled, over IL2M", across.CONDITIONS, "IL2M-pooled gains over IL2M", "° in 5"),
        ("IL2M gains over fine-tuning, top-1", across.CONDITIONS, "IL2M gains over FT", ""),
    ],
)
def test_in_short_marks_what_holm_does_not_leave(words: str, folders: Any, hypothesis: str, marks: str):
    line = next(line for line in TOLD.partition("## Across")[0].splitlines() if words in line)
    fragile = 0
    for folder, num_states in {across.CONDITIONS[condition] for condition in folders}:
        rows = pd.read_csv(across.RESULTS / folder / "hypotheses.csv")
        rows["p_adjusted"] = deciding.adjusted(rows, folder)
        rows = rows[
            (rows["S"] == num_states) & rows["hypothesis"].str.startswith(hypothesis) & (rows["verdict"] != "undecided")
        ]
        fragile += (rows["p_adjusted"] >= 0.05).sum()
    if marks.startswith("° in"):
        assert marks in line
        assert fragile == int(marks.split()[-1])
    else:
        assert fragile == len(folders) * bool(marks)
        assert marks in line if marks else "°" not in line


def test_the_readme_says_what_the_tables_say():
    readme = (PROJECT / "README.md").read_text()
    paragraphs = (" ".join(part.split()) for part in readme.split("\n\n"))
    paragraph = next(part for part in paragraphs if "the head decides what distillation does" in part)
    tables = "\n".join([across.told(), *(deciding.told(folder) for folder in FOLDERS)])
    points = {number[1:] for number in re.findall(r"[+-]\d+\.\d", tables)}
    said = re.findall(r"\d+\.\d", paragraph)
    assert len(said) == 16
    assert {*said} <= points
