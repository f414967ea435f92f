"""The report's groups, words and tables, on small hand-made results."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny import TinyStudy

from il2m import plots
from il2m.exchange.importing import import_scores
from il2m.report import inventory, overview, tables
from il2m.report.overview import Study
from il2m.results import comparison
from il2m.results.collect import collect_results
from il2m.results.table import bias_table
from il2m.study.find import find_runs
from il2m.study.runs import Run

TOP1 = {"FT": 0.40, "IL2M": 0.46, "IL2M-means": 0.45, "WA": 0.50}


def make_results(*, seeds: int = 6, distillation: tuple[bool, ...] = (False, True), **settings: Any) -> pd.DataFrame:
    """Two states; at state 2 a method's accuracy, and .03 less with distillation."""
    about = {"dataset": "toy", "recipe": "r1", "setting": "s", "num_states": 2, "memory_size": 60, "held_out": 0.0}
    about |= {"exemplar_selection": "random", "balanced_epochs": 0, "score_kind": "raw"} | settings
    rng = np.random.default_rng(3)
    rows = []
    for seed, distils in itertools.product(range(seeds), distillation):
        run = {"run": f"{sorted(settings.items())}-{seed}-{distils}", "base": f"b{seed}", "distillation": distils}
        for (method, mean), state in itertools.product(TOP1.items(), (1, 2)):
            top1 = mean - 0.03 * distils + rng.normal(scale=0.0003)
            row = {"order_seed": seed, "train_seed": 0, "method": method, "state": state, "top1": top1, "top5": 0.9}
            rows.append(about | run | row)
    return pd.DataFrame(rows)


def make_study(*results: pd.DataFrame, folder: Path = Path("study"), **parts: Any) -> Study:
    about = {
        "plans": [],
        "jobs": pd.DataFrame(columns=["job", "notebook", "status", "reason"]),
        "runs": [],
        "recipes": {"r1": "toy", "r2": "toy, network resnet8"},
    }
    return Study(folder, results=pd.concat(results, ignore_index=True), damaged=[], **(about | parts))


# groups


def test_groups_share_all_but_seeds_and_what_is_shown():
    parts = [
        make_results(),
        make_results(memory_size=30),
        make_results(recipe="r2"),
        make_results(exemplar_selection="herding"),
    ]
    groups, left_out = overview.groups(make_study(*parts), shown=["distillation", "memory_size"], vary="memory_size")
    assert list(groups) == ["toy, S = 2"]
    assert set(groups["toy, S = 2"]["run"]) == set(parts[0]["run"]) | set(parts[1]["run"])
    assert set(groups["toy, S = 2"]["state"]) == {2}
    assert left_out == ""
    each, _ = overview.groups(make_study(*parts), shown=["distillation"])
    assert list(each) == [
        "toy, S = 2, K = 30",
        "toy, S = 2, K = 60",
        "toy, S = 2, K = 60, herding",
        "toy, network resnet8, S = 2, K = 60",
    ]


def test_what_can_not_be_compared_is_left_out():
    groups, left_out = overview.groups(make_study(make_results()), shown=["memory_size"], vary="memory_size")
    assert groups == {}
    assert left_out == ""  # its section is left out
    nothing = Study(Path("study"), [], pd.DataFrame(), [], None, {}, [])
    assert overview.groups(nothing, shown=["distillation"]) == ({}, "")
    assert overview.findings(nothing).empty
    assert overview.headline(nothing) == "No run is finished yet, so there is nothing to compare."
    assert overview.plainest(nothing) is None


def test_a_page_shows_a_few_groups_and_says_how_many_there_are():
    study = make_study(*(make_results(memory_size=10 * i, seeds=1) for i in range(1, 11)))
    groups, left_out = overview.groups(study, shown=["distillation"])
    assert len(groups) == 8
    assert left_out == "The first 8 of 10 groups of runs are shown."
    assert overview.findings(study)["setting"].nunique() == 10  # tables hold all


def in_two_ways(**settings: Any) -> pd.DataFrame:
    """Runs without distillation, at its usual temperature, and at 5."""
    parts = {None: make_results(distillation=(False,), **settings)}
    parts |= {each: make_results(distillation=(True,), **settings) for each in (2.0, 5.0)}
    rows = [part.assign(temperature=each, run=part["run"] + f"-{each}") for each, part in parts.items()]
    return pd.concat(rows).astype({"temperature": float}).assign(distillation_weight=1.0)


def test_ways_to_distil_are_apart_and_each_has_findings():
    study = make_study(in_two_ways())
    found = overview.findings(study)
    assert found.groupby("setting", sort=False).size().to_dict() == {
        "toy, S = 2, K = 60": 4,
        "toy, S = 2, K = 60, temperature 5": 2,
    }
    groups, _ = overview.groups(study, shown=["distillation"])
    (rows,) = groups.values()
    assert list(overview.panels(rows)) == ["distillation off", "distillation on", "temperature 5, distillation on"]
    assert {rows["run"].nunique() for rows in overview.panels(rows).values()} == {6}
    points, _ = overview.distillation_effects(rows, "FT")
    assert {words: len(pairs) for words, pairs in points.items()} == {
        "S = 2, K = 60": 6,
        "S = 2, K = 60, temperature 5": 6,
    }
    assert overview.seeds_in_words(study) == "18 finished runs, 6 class orders, 1 training seed."
    table = overview.systems(study)
    assert table.loc[table["system"] == "WA-like", "setting"].str.removeprefix("toy, ").tolist() == list(points)


def test_what_stands_side_by_side_is_of_the_same_seeds_and_what_is_left_out_is_said():
    off_has_more = [make_results(distillation=(False,)), make_results(distillation=(True,), seeds=4)]
    groups, left_out = overview.groups(make_study(*off_has_more), shown=["distillation"])
    (rows,) = groups.values()
    assert {tuple(sorted(side["order_seed"].unique())) for side in overview.panels(rows).values()} == {(0, 1, 2, 3)}
    said = "2 of 10 runs left out, as not all that is shown side by side has their seeds."
    assert left_out == f"toy, S = 2, K = 60: {said}"
    table = overview.systems(make_study(*off_has_more)).set_index("system")
    assert table.loc["IL2M", ["num_runs", "left_out"]].tolist() == [4, 2]
    none_in_common = make_results(distillation=(True,)).assign(order_seed=9)
    groups, left_out = overview.groups(make_study(off_has_more[0], none_in_common), shown=["distillation"])
    assert groups == {}
    assert "12 of 12 runs left out" in left_out


def test_given_orders_are_counted():
    orders = make_results(distillation=(False,)).assign(order_seed=None)
    orders["class_order"] = "order-" + orders["base"]
    assert overview.seeds_in_words(make_study(orders)) == "6 finished runs, 6 class orders, 1 training seed."


def test_defaults_are_not_mentioned():
    values = {"recipe": "r1", "num_states": 5, "memory_size": 200, "exemplar_selection": "random", "held_out": 0.2}
    values |= {"balanced_epochs": 9, "distillation": True}
    words = overview.in_words(values, {"r1": "toy"})
    assert words == "toy, S = 5, K = 200, 0.2 of exemplars held out, 9 balanced epochs, distillation on"


def test_recipes_are_told_by_what_differs(tiny_study: TinyStudy, tmp_path: Path):
    assert set(overview.recipe_names([tiny_study.off, tiny_study.on]).values()) == {"tiny"}
    notes = {name: tiny_study.off.config[name] for name in ("dataset", "source", "order_seed", "class_names")}
    Run.create(tmp_path, "base", tiny_study.base.identity, **notes)
    more = Run.create(
        tmp_path, "fine_tuning", tiny_study.off.identity | {"epochs": 9}, base=tiny_study.base.name, **notes
    )
    names = overview.recipe_names([tiny_study.off, more])
    assert set(names.values()) == {"tiny, epochs 2", "tiny, epochs 9"}
    base_identity = tiny_study.base.identity | {"learning_rate": 0.01}
    base = Run.create(tmp_path, "base", base_identity, **notes)
    identity = tiny_study.off.identity | {"base": base_identity, "learning_rate": 0.01}
    other = Run.create(tmp_path, "fine_tuning", identity, base=base.name, **notes)
    names = overview.recipe_names([tiny_study.off, other])
    assert set(names.values()) == {"tiny, learning_rate 0.05", "tiny, learning_rate 0.01"}  # the base's said with it


# findings and titles


def test_findings_are_counted_by_verdict():
    found = overview.findings(make_study(make_results(), make_results(memory_size=30, seeds=2)))
    counts = overview.verdicts(found).set_index("finding")
    hurts = counts.loc["distillation hurts fine-tuning when a memory is allowed"]
    assert (hurts["settings"], hurts["reproduced"], hurts["undecided"]) == (2, 1, 1)
    low, high = (float(word) for word in hurts["difference, points"].split(" to "))
    assert -3.5 < low <= high < -2.5
    words = overview.findings_in_words(found)
    assert overview.findings_in_words(found.iloc[:0]).empty
    assert overview.findings_in_words(pd.DataFrame(columns=["finding"])).empty, "as of a study without pairs"
    assert list(words["finding"]).count("IL2M gains over fine-tuning") == 1  # named once, over its settings
    assert len(words) == len(found) == 8
    interval = words["points (95 % interval)"].str.fullmatch(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)")
    assert interval.tolist() == (words["class orders"] > 2).tolist()
    assert words.loc[~interval, "note"].str.contains("no verdict on fewer than 6").all()


def test_the_headline_says_what_its_class_orders_allow():
    one, mean = overview.headline(make_study(make_results(seeds=1))), r"on average over states 2\.\.S"
    assert re.fullmatch(rf"IL2M \+6\.\d points over fine-tuning {mean}; one class order, so no verdict", one)
    four = overview.headline(make_study(make_results(seeds=4)))
    interval = r"95 % interval \+[56].* to \+6.*"
    assert re.fullmatch(rf"IL2M .* fine-tuning {mean}, {interval}; 4 class orders, so no verdict", four)
    six = overview.headline(make_study(make_results(), make_results(exemplar_selection="herding", seeds=1)))
    where = re.escape(" (in the first of 2 settings, toy, S = 2, K = 60), 95 % interval ")
    assert re.fullmatch(rf"IL2M \+6\.\d points over fine-tuning {mean}{where}.*; 6 class orders, reproduced", six)
    one_state = make_results().query("state == 1").assign(num_states=1)
    assert overview.headline(make_study(one_state)).startswith("One state only")
    assert "no intervals" in tables.WORDS.reading(2, 3)
    assert "95 % interval" in tables.WORDS.reading(3, 3)


def test_the_plainest_setting_is_shown_first(tiny_study: TinyStudy):
    study = overview.open_study(tiny_study.out_dir)
    words, rows, bias = overview.plainest(study)
    assert words == "tiny, S = 3, K = 12, distillation off (one run)"
    assert set(rows["run"]) == {tiny_study.off.name}
    assert set(rows["state"]) == {1, 2, 3}
    pd.testing.assert_frame_equal(bias, bias_table(tiny_study.off), check_dtype=False)


def test_a_figure_is_shown_once_all_its_panels_are_drawn(capsys: pytest.CaptureFixture):
    study = make_study(make_results(), make_results(memory_size=30, seeds=1))
    shown = [(part, capsys.readouterr().out.count("HTML object")) for _, part, *_ in overview.drawn(study)]
    assert shown == [("distillation off", 0), ("distillation on", 0), ("distillation off", 1), ("distillation on", 0)]
    assert [axes.figure for axes, *_ in overview.drawn(study, overview.by_method)].count(plt.gcf()) == 3
    assert list(overview.drawn(study, vary="num_states")) == []
    plt.close("all")


def test_seeds_in_words_warn_of_few():
    assert overview.seeds_in_words(make_study(make_results())) == "12 finished runs, 6 class orders, 1 training seed."
    few = overview.seeds_in_words(make_study(make_results(seeds=2), make_results(seeds=5, setting="other")))
    assert "No setting has more than 5 class orders, and fewer than 6 settle nothing" in few


def test_titles_state_the_finding():
    points = {"IL2M": np.array([0.04, 0.06]), "WA": np.array([0.10])}
    assert overview.best_in_words(points) == "best is WA, +10.0 points"
    assert overview.span_in_words(points) == "+5.0 to +10.0 points"
    assert overview.best_in_words({}) == "no runs"
    off = make_results(distillation=(False,))
    assert overview.gains_in_words(off, "memory_size").startswith("IL2M against fine-tuning: +6.")


def test_panels_that_differ_in_what_they_have_keep_their_own_labels():
    """A grid that is not done: without distillation three K, with it one. Numbers stand on one scale."""
    off = [make_results(memory_size=k, distillation=(False,)) for k in (10, 30, 60)]
    study = make_study(*off, make_results(memory_size=60, distillation=(True,)))
    labels = {}
    for ax, side, same, rows in overview.drawn(study, vary="memory_size", share="y"):
        values, intervals = comparison.over_seeds(same, "memory_size", comparison.best_methods(rows, most=5))
        plots.plot_over_seeds(values, intervals, xlabel="K", ax=ax)
        labels[side] = [text.get_text() for text in ax.get_xticklabels()], ax
    assert [found for found, _ in labels.values()] == [["10", "30", "60"], ["60"]]
    left, right = (ax for _, ax in labels.values())
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == (-0.5, 2.5)
    without = make_results(memory_size=0, distillation=(False, True)).query("method == 'FT'")
    shown = ["memory_size", "num_states", "head"]
    rows_of = {}
    for ax, method, _, rows in overview.drawn(
        make_study(without, make_results()), overview.by_method, vary="distillation", shown=shown
    ):
        plots.plot_differences(*overview.distillation_effects(rows, method), ax=ax)
        rows_of[method] = [text.get_text() for text in ax.get_yticklabels()]
    assert rows_of["FT"] == ["S = 2, K = 0", "S = 2, K = 60"]
    assert rows_of["IL2M"] == ["S = 2, K = 60"]
    plt.close("all")


def test_the_headline_and_what_is_shown_first_are_of_one_setting():
    without = make_results(memory_size=0).query("method == 'FT'")
    distilled = make_results(memory_size=30, distillation=(True,))
    study = make_study(without, distilled, make_results(distillation=(False,)))
    assert " (toy, S = 2, K = 60), 95 % interval " in overview.headline(study)
    assert [words for words, _ in groups_of(study)] == ["toy, S = 2, K = 0", "toy, S = 2, K = 30", "toy, S = 2, K = 60"]
    unknown = make_results(distillation=(False,)).assign(distillation=None)
    assert overview.headline(make_study(unknown)).startswith("No run that is known to be without distillation has both")


def groups_of(study: Study) -> list[tuple[str, pd.DataFrame]]:
    return [*overview.groups(study, shown=["distillation"])[0].items()]


def test_gains_in_words_count_a_class_order_once():
    """Order 0 with three training seeds at .1, order 1 with one at .2: .15."""
    rows = make_results(seeds=4, distillation=(False,)).query("method in ('FT', 'IL2M') and state == 2")
    order = (rows["order_seed"] == 3).astype(int)
    rows = rows.assign(train_seed=rows["order_seed"].mod(3), order_seed=order)
    rows["top1"] = 0.4 + (rows["method"] == "IL2M") * (0.1 + 0.1 * order)
    assert overview.gains_in_words(rows, "memory_size") == "IL2M against fine-tuning: +15.0 points"


def test_findings_of_other_policies_for_undefined_ratios_stand_apart():
    study = make_study(make_results(seeds=3, undefined="keep"), make_results(seeds=3, undefined="as-published"))
    found = overview.findings(study).query("finding == 'IL2M gains over fine-tuning'")
    settings = "toy, S = 2, K = 60", "toy, S = 2, K = 60, undefined ratios as-published"
    assert tuple(sorted(found["setting"])) == settings


def test_distillation_effects_are_by_states_and_memory():
    rows = pd.concat([make_results(), make_results(memory_size=30)])
    points, intervals = overview.distillation_effects(rows, "FT")
    assert list(points) == list(intervals) == ["S = 2, K = 30", "S = 2, K = 60"]
    assert len(points["S = 2, K = 30"]) == 6
    assert points["S = 2, K = 60"].mean() == pytest.approx(-0.03, abs=0.005)


def test_systems_of_other_recipes_stand_apart():
    table = overview.systems(make_study(make_results(), make_results(recipe="r2")))
    assert set(table["setting"]) == {"toy, S = 2, K = 60", "toy, network resnet8, S = 2, K = 60"}
    assert set(table["num_runs"]) == {6}
    assert "survey_gap" not in table  # nothing was trained jointly


# how far, runs, tables


def test_unfinished_jobs_are_listed_up_to_a_limit(tmp_path: Path):
    jobs = pd.DataFrame(
        [
            {"job": f"02_fine_tuning-r{i}", "notebook": "02_fine_tuning", "run": f"r{i}", "grid": "g", "swept": "K=1"}
            | {"status": "missing", "reason": "was interrupted" if i == 0 else "", "seconds": np.nan}
            for i in range(100)
        ]
    )
    study = make_study(make_results(), folder=tmp_path, jobs=jobs, plans=[{"grid": "g"}])
    table = inventory.unfinished_table(study, "missing")
    assert len(table) == 61
    assert table.iloc[0]["why"] == "was interrupted"
    assert table.iloc[-1]["job"] == f"... and 40 more: il2m status {tmp_path}"
    assert inventory.unfinished_table(study, "failed").empty
    assert inventory.progress_in_words(study).startswith("0 of 100 planned notebooks done, 100 missing. The commands")
    stages = inventory.stages_table(study).set_index("stage")
    assert stages.loc["fine-tuning", "missing"] == 100
    assert stages.loc["base", "planned"] == 0


def test_runs_are_listed_with_their_pages(tiny_study: TinyStudy, tmp_path: Path):
    (tmp_path / "notebooks").mkdir()
    pages = [
        f"01_base_training-{tiny_study.base.name}.html",
        f"03_dual_memory_analysis-{tiny_study.off.name}.failed.html",
    ]
    for page in pages:
        (tmp_path / "notebooks" / page).write_text("")
    study = make_study(make_results(), folder=tmp_path, runs=[tiny_study.on, tiny_study.off])
    off, on = inventory.runs_table(study).to_dict("records")
    assert (off["distillation"], on["distillation"], off["S"], off["K"]) == ("off", "on", 3, 12)
    assert off["notebooks"] == [
        tables.Link("base", f"notebooks/{pages[0]}"),
        tables.Link("analysis (failed)", f"notebooks/{pages[1]}"),
    ]
    assert [link.text for link in on["notebooks"]] == ["base"]


def import_shifted(run: Run, out: Path, shift: float, **about: Any) -> None:
    """The labels of a run with right scores, all of them negative: no two imports are of the same files."""
    files = [out.parent / f"{out.name} {state}.npz" for state in (1, 2, 3)]
    out.parent.mkdir(exist_ok=True)
    for state, file in enumerate(files, 1):
        arrays = {"state_sizes": [2] * state}
        for part in ("val", "new", "exemplar")[: 2 + (state > 1)]:
            labels = run.state(state).array(f"{part}_labels")
            arrays |= {f"{part}_labels": labels, f"{part}_scores": np.eye(2 * state)[labels] - shift}
        np.savez(file, **arrays)
    import_scores(files, out, **about)


def test_what_nobody_told_of_imported_scores_is_unknown(tiny_study: TinyStudy, tmp_path: Path):
    import_shifted(tiny_study.off, tmp_path / "study" / "mine", 9)
    for i, (seed, distils) in enumerate(itertools.product((0, 1), (False, True))):
        about = {"method": "LwF", "dataset": "toy", "order_seed": 0, "train_seed": seed, "distillation": distils}
        import_shifted(tiny_study.off, tmp_path / "study" / f"{i}", 10 + i, **about)
    study = overview.open_study(tmp_path / "study")
    *told, untold = inventory.runs_table(study).to_dict("records")
    assert [(row["distillation"], row["train seed"]) for row in told] == [("off", 0), ("off", 1), ("on", 0), ("on", 1)]
    assert (untold["run"], untold["distillation"], untold["order seed"]) == ("unknown, scores mine", "unknown", "-")
    assert (
        "not known of these scores: method, dataset, order_seed, train_seed, memory_size (counted: 12)"
        in untold["note"]
    )
    assert "6 of 6 past classes undefined" in untold["note"]
    seeds = "5 finished runs, 1 class order, 2 training seeds; 1 run of unknown seeds."
    assert overview.seeds_in_words(study).startswith(seeds)
    groups, _ = overview.groups(study, shown=["distillation"])
    assert list(groups) == ["toy, method LwF, S = 3, K = 12", "unknown, scores mine, S = 3, K = 12"]
    assert list(overview.panels(groups["unknown, scores mine, S = 3, K = 12"])) == ["distillation unknown"]
    assert set(overview.findings(study)["num_pairs"]) == {2}


def test_undefined_ratios_stand_beside_findings_and_systems(tiny_study: TinyStudy, tmp_path: Path):
    study = overview.open_study(tiny_study.out_dir)
    run = study.results.query("score_kind == 'raw' and method == 'IL2M' and not distillation")
    past = {1: 0, 2: 2, 3: 4}
    assert run.set_index("state")["past"].fillna(0).to_dict() == past
    bad = {off: int(rows["undefined_past"].sum()) for off, rows in run.groupby("distillation")}[False]
    found = overview.findings_in_words(overview.findings(study)).set_index("finding")["past classes undefined"]
    assert found["IL2M gains over fine-tuning"] == f"{bad} of 6"
    assert found["distillation hurts IL2M when a memory is allowed"].endswith(" of 12"), "of both runs"
    assert pd.isna(found["distillation hurts fine-tuning when a memory is allowed"])
    made = overview.systems(study).set_index("system")["past classes undefined"]
    assert made["IL2M"] == f"{bad} of 6"
    assert pd.isna(made["fine-tuning"])
    for seed in (0, 1):
        about = {"method": "LwF", "dataset": "toy", "order_seed": 0, "train_seed": seed, "distillation": False}
        import_shifted(tiny_study.off, tmp_path / "study" / str(seed), 10 + seed, **about)
    shifted = overview.findings_in_words(overview.findings(overview.open_study(tmp_path / "study")))
    counts = shifted.set_index("finding")["past classes undefined"]
    assert counts["IL2M gains over fine-tuning"] == "12 of 12", "of two seeds, and none has a ratio that means anything"
    assert "past classes undefined" not in overview.findings_in_words(overview.findings(make_study(make_results())))


def test_scores_imported_twice_and_told_otherwise_are_named(tiny_study: TinyStudy, tmp_path: Path):
    for name, method in (("a", "LwF"), ("b", "EWC")):
        import_shifted(tiny_study.off, tmp_path / "study" / name, 9, method=method)
    assert [run.config["method"] for run in find_runs(tmp_path / "study")] == ["LwF", "EWC"]
    with pytest.warns(UserWarning, match="left out b: it is a again, told otherwise"):
        assert set(collect_results(tmp_path / "study")["run"]) == {"a"}


def test_tables_escape_what_they_show():
    table = pd.DataFrame(
        {"<b>": ["<script>", "a & b"], "link": [tables.Link("<i>", "a%20b.html?x=1&y"), ""], "n": [0.5, np.nan]}
    )
    shown = tables.show(table, caption="<u>").data
    for raw in ("<script>", "<b>", "<i>", "<u>"):
        assert raw not in shown
    assert '<a href="a%20b.html?x=1&amp;y">&lt;i&gt;</a>' in shown
    assert "<td>0.500</td>" in shown
    assert "<td>–</td>" in shown
    assert tables.show(table.iloc[:0]) is None
    assert tables.say("a < b").data == "<p>a &lt; b</p>"
    assert tables.say("") is None


def test_environments_stand_side_by_side():
    made = {"python": "3.11", "platform": "p", "cpu": None, "cores": 2, "memory_gb": 8.1, "gpus": ["a GPU"]}
    made |= {"packages": {"il2m": "0.1.0"}, "git": {"commit": "abc", "changed": True}}
    other = made | {"git": {"commit": None, "changed": None}, "gpus": []}
    table = inventory.environments_table({"then": made, "now": other}).set_index("")
    assert table.loc["commit", "then"] == "abc and changes"
    assert table.loc["commit", "now"] == "unknown"
    assert table.loc["gpus"].tolist() == ["a GPU", "none"]
    assert table.loc["il2m", "then"] == "0.1.0"
