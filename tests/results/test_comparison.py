"""Paired statistics against enumeration and known cases, and the tables made of many runs' results."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from il2m.errors import InputError
from il2m.results.comparison import (
    FINDINGS,
    SYSTEMS,
    against,
    best_methods,
    common_seeds,
    compare_methods,
    differences,
    findings_table,
    gap_table,
    mean_results,
    over_seeds,
    systems_table,
)
from il2m.results.pairs import PairedDifference, holm, mean_interval, paired_difference

SEEDS = [(order, train) for train, orders in ((0, (0, 1, 2, 3)), (1, (4, 5))) for order in orders]
TOP1 = {"FT": 0.40, "IL2M": 0.46, "IL2M-means": 0.45, "WA": 0.50}


OF_A_MEMORY = [finding for finding, claim in FINDINGS.items() if "memory" not in claim]


def make_results(*, seeds=SEEDS, distillation=(False, True), shift=-0.02, **settings):
    """Three states; state 1 at .9, state 2 at a method's mean + .1, state 3 at its mean - .1; distillation adds
    ``shift``."""
    rng = np.random.default_rng(5)
    rows = []
    for (order_seed, train_seed), distils in itertools.product(seeds, distillation):
        about = {
            "run": f"run-{order_seed}{train_seed}{distils:d}{len(settings)}", "dataset": "toy", "num_states": 3,
            "base": f"base-{order_seed}{train_seed}",
            "memory_size": 60, "exemplar_selection": "random", "distillation": distils,
            "order_seed": order_seed, "train_seed": train_seed, **settings,
        }  # fmt: skip
        for method, mean in TOP1.items():
            mean += shift * distils + rng.normal(scale=0.003)
            for state, top1 in ((1, 0.9), (2, mean + 0.1), (3, mean - 0.1)):
                rows.append(
                    about | {"state": state, "method": method, "score_kind": "raw", "top1": top1, "top5": top1 + 0.05}
                )
    return pd.DataFrame(rows)


# statistics


@pytest.mark.parametrize("num_units", [2, 5, 6, 9])
def test_the_sign_flip_test_agrees_with_enumeration(num_units):
    values = np.random.default_rng(num_units).normal(loc=0.4, size=num_units)
    means = [np.mean(values * flips) for flips in itertools.product((1, -1), repeat=num_units)]
    larger = np.mean([mean >= values.mean() - 1e-12 for mean in means])
    smaller = np.mean([mean <= values.mean() + 1e-12 for mean in means])
    assert paired_difference(values).sign_flip_p == pytest.approx(min(1, 2 * min(larger, smaller)))


def test_interval_and_test_by_hand():
    """Of 1, 2, 3, 4, 5, 6: mean 3.5, standard deviation sqrt(3.5), t of 5 degrees of freedom 2.570582."""
    found = paired_difference([6, 1, 5, 2, 4, 3])
    half = 2.570582 * math.sqrt(3.5 / 6)
    assert [found.estimate, found.low, found.high] == pytest.approx([3.5, 3.5 - half, 3.5 + half], abs=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(3.5 / math.sqrt(3.5 / 6), 5))


@pytest.mark.parametrize("num_units", [1, 2, 3, 5, 6])
def test_few_units_have_no_interval_and_no_verdict(num_units):
    found = paired_difference(np.linspace(1, 1.1, num_units))
    assert np.isnan([found.low, found.high]).all() == (num_units < 3)
    assert found.verdict(1) == ("reproduced" if num_units == 6 else "undecided")
    assert found.verdict(-1) == ("reversed" if num_units == 6 else "undecided")
    assert found.note == ("" if num_units == 6 else f"{num_units} class order(s): no verdict on fewer than 6")


def test_a_table_that_can_not_decide_says_what_it_would_need():
    values = np.array([-2, -1, 0, 1, 2, 3]) / 100
    found = paired_difference(values)
    half = stats.t.ppf(0.975, 5) * values.std(ddof=1) / math.sqrt(6)
    needed = math.ceil((1.96 * values.std(ddof=1) / 0.005) ** 2 + 3)
    assert found.verdict(1) == "undecided"
    assert found.note == f"half width {100 * half:.1f} points: a mean like this would need about {needed} class orders"
    enough = np.random.default_rng(0).normal(size=needed)
    enough = 0.005 + (enough - enough.mean()) / enough.std(ddof=1) * values.std(ddof=1)
    assert paired_difference(enough).verdict(1) == "reproduced"
    assert "more than 999 class orders" in paired_difference(values - 0.00499).note


def test_the_order_of_rows_has_no_say():
    values = np.random.default_rng(2).normal(size=20)
    assert paired_difference(values) == paired_difference(values[::-1])


def test_equal_differences_have_an_interval_of_no_width():
    assert paired_difference(np.full(6, 0.25)) == PairedDifference(0.25, 0.25, 0.25, 0.0, 0.03125, 6, 6)
    assert paired_difference(np.zeros(6)).verdict(1) == "undecided"
    assert paired_difference(np.zeros(6)).p_value == 1


def test_holm_by_hand():
    assert holm(np.array([0.01, np.nan, 0.04, 0.03])).tolist() == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8], ids=lambda value: f"correlation {value} within an order")
def test_intervals_over_orders_cover_and_tests_hold_their_level(correlation):
    """Six class orders, three training seeds of each: 2,000 simulated studies of no difference."""
    rng = np.random.default_rng(7)
    orders = rng.normal(size=(2000, 6, 1)) * math.sqrt(correlation)
    units = (orders + rng.normal(size=(2000, 6, 3)) * math.sqrt(1 - correlation)).mean(axis=2)
    intervals = np.array([mean_interval(each) for each in units])
    covered = np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0))
    assert covered >= 0.93
    assert 1 - covered <= 0.06, "a verdict is given where the interval leaves 0 out"


def test_runs_of_one_order_are_averaged_before():
    """Three orders, two seeds of each: by order, and by seed for who has one order only."""
    pairs = [(0, 0, 0.04), (0, 1, 0.06), (1, 0, 0.10), (1, 1, 0.10), (2, 0, 0.0), (2, 1, 0.02)]
    results = make_results(seeds=[pair[:2] for pair in pairs], distillation=[False])
    for order, train, difference in pairs:
        seed = (results["order_seed"] == order) & (results["train_seed"] == train) & (results["state"] > 1)
        results.loc[seed & (results["method"] == "FT"), "top1"] = 0.4
        results.loc[seed & (results["method"] == "WA"), "top1"] = 0.4 + difference
    found = {unit: compare_methods(results, unit=unit).set_index("method").loc["WA"] for unit in ("order", "seed")}
    assert (found["order"]["num_units"], found["order"]["num_pairs"]) == (3, 6)
    assert [found["order"]["low"], found["order"]["high"]] == pytest.approx(mean_interval([0.05, 0.10, 0.01]))
    assert (found["seed"]["num_units"], found["seed"]["unit"]) == (6, "seed")
    assert [found["seed"]["low"], found["seed"]["high"]] == pytest.approx(mean_interval([pair[2] for pair in pairs]))
    assert found["order"]["note"] == "3 class order(s): no verdict on fewer than 6"
    with pytest.raises(InputError, match="unit = 'run'"):
        compare_methods(results, unit="run")


def test_methods_of_a_setting_are_a_family():
    table = compare_methods(make_results(distillation=[False])).set_index("method")
    tested = table.drop(index="FT")
    assert np.isnan(table.loc["FT", "p_adjusted"])
    assert tested["p_adjusted"].tolist() == holm(tested["p_value"].to_numpy()).tolist()
    assert (tested["p_adjusted"] > tested["p_value"]).sum() >= len(tested) - 1


# tables


def test_mean_results_leave_the_first_state_out():
    means = mean_results(make_results())
    assert len(means) == len(SEEDS) * 2 * len(TOP1)
    row = means[(means["method"] == "IL2M") & ~means["distillation"]].iloc[0]
    assert row["top1"] == pytest.approx(0.46, abs=0.02)
    assert row["top5"] == pytest.approx(row["top1"] + 0.05)


def test_differences_pair_the_same_seeds_whatever_the_order_of_rows():
    results = make_results()
    pairs = differences(results, {"method": "IL2M"}, {"method": "FT"})
    assert len(pairs) == 2 * len(SEEDS)
    shuffled = differences(results.sample(frac=1, random_state=0), {"method": "IL2M"}, {"method": "FT"})
    key = ["class_order", "train_seed", "distillation"]  # this table has no hash of the order: its seed stands for it
    assert_allclose(pairs.sort_values(key)["difference"], shuffled.sort_values(key)["difference"])
    means = mean_results(results).set_index(["method", *key])["top1"]
    for _, pair in pairs.iterrows():
        seed = tuple(pair[key])
        assert pair["difference"] == pytest.approx(means["IL2M", *seed] - means["FT", *seed])


def test_seeds_without_a_partner_make_no_pair():
    results = make_results()
    gone = results["distillation"] & (results["order_seed"] == 2)
    choice = {"method": "FT", "distillation": True}, {"method": "FT", "distillation": False}
    assert len(differences(results[~gone], *choice)) == 5


def test_several_runs_of_the_same_seeds_are_refused():
    results = make_results()
    again = results.assign(run="another")
    with pytest.raises(InputError, match=r"several runs have the same seeds and settings \(run-0000, another\)"):
        compare_methods(pd.concat([results, again]))


def test_runs_of_other_settings_are_compared_apart():
    results = pd.concat([make_results(memory_size=60), make_results(memory_size=30, seeds=SEEDS[:2])])
    table = compare_methods(results).set_index(["memory_size", "distillation", "method"])
    assert table.loc[(60, False, "IL2M"), "num_pairs"] == 6
    assert table.loc[(30, False, "IL2M"), "num_pairs"] == 2
    assert table.loc[(30, False, "IL2M"), "note"].startswith("2 class order(s): no verdict")


def test_runs_of_another_policy_for_undefined_ratios_are_compared_apart():
    kept = make_results(seeds=[(0, 0), (1, 0), (2, 0)], undefined="keep")
    multiplied = make_results(seeds=[(3, 0), (4, 0), (5, 0)], undefined="as-published")
    table = findings_table(pd.concat([kept, multiplied])).query("finding == 'IL2M gains over fine-tuning'")
    assert table[["undefined", "num_units"]].values.tolist() == [["keep", 3], ["as-published", 3]]


def test_sides_may_differ_in_a_setting():
    """The hash of all settings tells such runs apart too, and is none of what a pair has in common."""
    small = make_results(setting="s", recipe="r")
    large = make_results(setting="t", recipe="r").assign(memory_size=120, run="large")
    large["run"] += (
        large["order_seed"].astype(str) + large["train_seed"].astype(str) + large["distillation"].astype(str)
    )
    results = pd.concat([small, large.assign(top1=large["top1"] + 0.1)])
    a, b = ({"method": "IL2M", "memory_size": k} for k in (120, 60))
    assert_allclose(differences(results, a, b)["difference"], 0.1)
    assert len(differences(results, a, b)) == 2 * len(SEEDS)
    assert len(differences(pd.concat([small, large.assign(recipe="other")]), a, b)) == 0


def test_a_mean_counts_an_order_once_however_many_seeds_it_has():
    results = make_results(seeds=[(0, 0), (0, 1), (0, 2), (1, 0)], distillation=(False,))
    table = compare_methods(results).set_index("method")
    means = mean_results(results).query("method == 'IL2M'").groupby("order_seed")["top1"].mean()
    assert table.loc["IL2M", "mean"] == pytest.approx(means.mean())
    of_runs = compare_methods(results, unit="seed").set_index("method")
    assert of_runs.loc["IL2M", "mean"] == pytest.approx(mean_results(results).query("method == 'IL2M'")["top1"].mean())


def test_compare_methods_against_fine_tuning_and_against_il2m():
    table = compare_methods(make_results()).set_index(["distillation", "method"])
    assert table.loc[(False, "FT"), "estimate"] == 0
    assert table.loc[(False, "WA"), "estimate"] == pytest.approx(0.1, abs=0.01)
    assert table.loc[(False, "WA"), "low"] > 0
    against = compare_methods(make_results(), "IL2M", column="top5").set_index(["distillation", "method"])
    assert against.loc[(True, "FT"), "estimate"] == pytest.approx(-0.06, abs=0.01)
    assert against.loc[(True, "FT"), "sign_flip_p"] == pytest.approx(0.03125)


def test_what_is_found_without_a_memory_is_no_finding_of_one():
    """Of runs with K = 0 it is said that distillation helps, of all others that it hurts."""
    results = make_results(shift=0.03)
    without = findings_table(results.assign(memory_size=0))
    assert [*without["finding"]] == ["distillation helps fine-tuning when no memory is allowed"]
    assert [*without["verdict"]] == ["reproduced"]
    assert not findings_table(results)["finding"].str.contains("no memory").any()
    both = findings_table(pd.concat([results, results.assign(memory_size=0)]))
    assert len(both) == len(findings_table(results)) + 1
    unknown = findings_table(results.drop(columns="memory_size"))
    assert [*unknown["finding"]] == [*findings_table(results)["finding"]]


def test_findings_of_a_study_that_reproduces_the_paper():
    table = findings_table(make_results(shift=-0.02)).set_index("finding")
    assert set(table.index) == set(OF_A_MEMORY)
    assert (table["verdict"] == "reproduced").all()
    assert (table["num_pairs"] == 6).all()


def test_findings_of_a_study_where_distillation_helps_or_does_nothing():
    helps = findings_table(make_results(shift=0.03)).set_index("finding")["verdict"]
    nothing = findings_table(make_results(shift=0.0)).set_index("finding")["verdict"]
    for finding in OF_A_MEMORY:
        about_distillation = finding.startswith("distillation")
        assert helps[finding] == ("reversed" if about_distillation else "reproduced")
        assert nothing[finding] == ("undecided" if about_distillation else "reproduced")


def test_findings_with_few_seeds_are_undecided_and_say_why():
    table = findings_table(make_results(seeds=SEEDS[:3]))
    assert (table["verdict"] == "undecided").all()
    assert table["note"].str.contains(r"3 class order\(s\): no verdict on fewer than 6").all()


def test_a_finding_without_pairs_is_left_out():
    table = findings_table(make_results(distillation=(False,)))
    assert set(table["finding"]) == {name for name in FINDINGS if not name.startswith("distillation")}


def joint_rows():
    rows = make_results(distillation=(False,))
    rows = rows[rows["method"] == "FT"].assign(method="joint", memory_size=0, exemplar_selection="")
    return rows.assign(top1=0.8, top5=0.95, run="joint-" + rows["run"])


def test_gaps_to_joint_training():
    results = make_results(distillation=(False,))
    gaps = gap_table(pd.concat([results, joint_rows()]))
    assert set(gaps["method"]) == set(TOP1)
    one = gaps[(gaps["method"] == "FT") & (gaps["run"] == "run-0000")]["gap"].item()
    top1 = results[(results["method"] == "FT") & (results["run"] == "run-0000") & (results["state"] > 1)]["top1"]
    assert one == pytest.approx(np.mean([(value - 0.8) / 0.2 for value in top1]))
    assert len(gap_table(results)) == 0


def test_known_systems_are_their_combinations():
    held_out = make_results(distillation=(True,), held_out=0.1, balanced_epochs=0)
    held_out.loc[held_out["method"] == "WA", "method"] = "BiC"
    balanced = make_results(distillation=(True,), held_out=0.0, balanced_epochs=9, shift=0.2)
    herding = make_results(distillation=(True,), exemplar_selection="herding", held_out=0.0, balanced_epochs=0)
    herding.loc[herding["method"] == "WA", "method"] = "NEM"
    plain = make_results(held_out=0.0, balanced_epochs=0)
    parts = [plain, held_out, balanced, herding]
    runs = pd.concat([part.assign(run=part["run"] + f"-{i}") for i, part in enumerate(parts)] + [joint_rows()])
    table = systems_table(runs).set_index("system")
    assert set(table.index) == set(SYSTEMS) - {"ScaIL", "SIW"}  # no rows of those here
    assert (table["num_runs"] == 6).all()
    expected = {"fine-tuning": 0.40, "IL2M": 0.46, "iCaRL-like": 0.48}
    expected |= {"E2EIL-like": 0.60, "BiC-like": 0.48, "WA-like": 0.48}
    for system, top1 in expected.items():
        assert table.loc[system, "top1"] == pytest.approx(top1, abs=0.01)
        assert table.loc[system, "gap"] == pytest.approx((top1 - 0.8) / 0.2, abs=0.05)
    assert table.loc["iCaRL-like", "made of"] == "distillation + herding + NEM"
    assert table.loc["E2EIL-like", "made of"] == "distillation + balanced fine-tuning"
    assert table.loc["BiC-like", "made of"] == "distillation + held-out exemplars + BiC"


def test_a_system_is_of_its_own_choice_of_exemplars():
    """Nearest means of random exemplars are not iCaRL, and what was trained on herded ones is none of the others."""
    parts = {selection: make_results(exemplar_selection=selection) for selection in ("random", "herding")}
    parts["random"].loc[parts["random"]["method"] == "IL2M-means", "method"] = "NEM"
    parts["herding"]["top1"] = 0.1
    runs = pd.concat([part.assign(run=part["run"] + selection) for selection, part in parts.items()])
    table = systems_table(runs).set_index("system")
    assert set(table.index) == {"fine-tuning", "IL2M", "WA-like"}
    assert (table["num_runs"] == 6).all()
    assert (table["top1"] > 0.3).all()


def test_known_systems_without_joint_training_have_no_gap():
    table = systems_table(make_results())
    assert table["gap"].isna().all()
    assert table["top1"].notna().all()


def test_a_study_of_one_state_has_tables_without_rows():
    results = make_results()
    one_state = results[results["state"] == 1]
    for table in (compare_methods, findings_table, systems_table, gap_table, mean_results):
        empty, full = table(one_state), table(results)
        assert len(empty) == 0
        assert list(empty.columns) == list(full.columns)


# over settings


def test_other_recipes_in_the_same_folder_make_systems_of_their_own():
    small, large = make_results(recipe="small"), make_results(recipe="large", shift=0.3)
    large["run"] += "-large"
    table = systems_table(pd.concat([small, large])).set_index(["recipe", "system"])
    assert (table["num_runs"] == 6).all()
    assert table.loc[("small", "WA-like"), "top1"] == pytest.approx(0.48, abs=0.01)
    assert table.loc[("large", "WA-like"), "top1"] == pytest.approx(0.80, abs=0.01)


def test_values_and_intervals_over_seeds_are_by_method_and_value():
    results = pd.concat([make_results(memory_size=60), make_results(memory_size=30, seeds=SEEDS[:2], shift=0)])
    off = results[~results["distillation"]]
    values, intervals = over_seeds(off, "memory_size", ["FT", "WA", "BiC"])
    assert list(values) == list(intervals) == ["FT", "WA"]  # there is no BiC here
    assert list(values["WA"]) == list(intervals["WA"]) == [30, 60]
    assert [len(found) for found in values["WA"].values()] == [2, 6]
    means = mean_results(off).query("method == 'WA' and memory_size == 60")["top1"]
    assert_allclose(np.sort(values["WA"][60]), np.sort(means))
    assert intervals["WA"][60] == mean_interval(values["WA"][60])


def test_differences_against_a_reference_leave_oracles_out():
    results = make_results(distillation=(False,))
    oracle = results[results["method"] == "WA"].assign(method="NCM-oracle")
    points, intervals = against(pd.concat([results, oracle]), "FT")
    assert list(points) == list(intervals) == ["IL2M", "IL2M-means", "WA"]
    table = compare_methods(results).set_index("method")
    for method, found in points.items():
        assert len(found) == 6
        assert found.mean() == pytest.approx(table.loc[method, "estimate"])
        assert intervals[method] == (table.loc[method, "low"], table.loc[method, "high"])
    results = results.assign(top5=results["top1"] ** 2)
    five = compare_methods(results, column="top5").set_index("method")
    for method, found in against(results, "FT", "top5")[0].items():
        assert found.mean() == pytest.approx(five.loc[method, "estimate"])
    assert (five["estimate"] - table["estimate"]).abs().max() > 1e-3, "another quantity"
    assert against(results[results["method"] != "FT"], "FT") == ({}, {})


def test_best_methods_begin_with_what_the_study_is_about():
    results = make_results()
    oracle = results[results["method"] == "WA"].assign(method="NCM-oracle", top1=1.0)
    results = pd.concat([results, oracle, joint_rows()])
    assert best_methods(results, most=3) == ["FT", "IL2M", "WA"]
    assert best_methods(results, most=2) == ["FT", "IL2M"]
    assert best_methods(results[results["method"] == "WA"], most=3) == ["WA"]


def test_the_interval_of_a_mean():
    values = np.random.default_rng(3).normal(0.4, 0.02, size=12)
    low, high = mean_interval(values)
    found = paired_difference(values)
    assert (low, high) == pytest.approx((found.low, found.high))
    assert low < values.mean() < high
    assert np.isnan(mean_interval(values[:1])).all()


# which runs belong together


def with_temperatures(off, **on):
    """Rows of ``off`` without distillation, and those of each of ``on`` (results) at its temperature."""
    parts = [off[~off["distillation"]].assign(temperature=np.nan, distillation_weight=np.nan)]
    for name, rows in on.items():
        rows = rows[rows["distillation"]].assign(temperature=float(name.removeprefix("t")), distillation_weight=1.0)
        parts.append(rows.assign(run=rows["run"] + name))
    return pd.concat(parts, ignore_index=True)


def test_a_run_without_distillation_is_the_partner_of_each_that_distils_in_its_own_way():
    results = with_temperatures(make_results(), t2=make_results(shift=-0.02), t5=make_results(shift=0.03))
    found = findings_table(results).set_index(["finding", "temperature"])
    finding = next(iter(FINDINGS))
    assert found.loc[(finding, 2.0), ["num_pairs", "verdict"]].tolist() == [6, "reproduced"]
    assert found.loc[(finding, 5.0), ["num_pairs", "verdict"]].tolist() == [6, "reversed"]
    gains = found.loc["IL2M gains over fine-tuning"]  # without distillation there is no temperature
    assert (len(gains), gains.index.isna().all(), gains["num_pairs"].item()) == (1, True, 6)
    methods = compare_methods(results)
    assert len(methods) == 3 * len(TOP1)
    assert set(methods["num_pairs"]) == {6}
    systems = systems_table(results)
    assert systems.loc[systems["system"] == "WA-like", "temperature"].tolist() == [2.0, 5.0]


def test_orders_are_paired_as_they_are_be_they_drawn_or_given():
    drawn = make_results(seeds=[(0, 0), (0, 1)]).assign(class_order="a")
    given = make_results(seeds=[(0, 0), (0, 1)]).assign(class_order="b", order_seed=None)
    given["run"] += "-given"
    of_before = make_results(seeds=[(1, 0), (1, 1)])  # without a hash: order_seed 1
    results = pd.concat([drawn, given, of_before])
    pairs = differences(results, {"method": "IL2M"}, {"method": "FT"})
    assert pairs.groupby("class_order").size().to_dict() == {1: 4, "a": 4, "b": 4}
    found = findings_table(results)
    assert (set(found["num_pairs"]), set(found["num_units"])) == ({6}, {3})


def test_means_side_by_side_are_over_the_seeds_that_all_have():
    results = make_results(held_out=0.0, balanced_epochs=0)
    unfinished = results[~(results["distillation"] & (results["order_seed"] == 2))]
    table = compare_methods(unfinished).set_index(["distillation", "method"])
    assert set(table.loc[False, "left_out"]) == {1}
    assert set(table.loc[True, "left_out"]) == {0}
    assert set(table.loc[False, "num_pairs"]) == {6}  # a difference is paired: it needs no other side
    means = mean_results(results).query("method == 'WA' and order_seed != 2")
    for distils in (False, True):
        expected = means.loc[means["distillation"] == distils, "top1"].mean()
        assert table.loc[(distils, "WA"), "mean"] == pytest.approx(expected)
    systems = systems_table(unfinished).set_index("system")
    assert systems.loc["IL2M", ["num_runs", "left_out"]].tolist() == [5, 1]
    assert systems.loc["WA-like", ["num_runs", "left_out"]].tolist() == [5, 0]
    nothing = results[results["distillation"] == (results["order_seed"] == 2)]  # no seed on both sides
    assert compare_methods(nothing)["mean"].isna().all()
    assert set(systems_table(nothing)["num_runs"]) == {0}


def test_runs_of_unknown_seeds_are_left_as_they_are():
    unknown = make_results(seeds=[(None, None)], distillation=(False,), run="mine", dataset="mine")
    rows = pd.concat([make_results(seeds=SEEDS[:2]), unknown], ignore_index=True)
    assert common_seeds(rows, ["dataset", "distillation"]).all()


def test_several_joint_trainings_of_a_base_are_named_and_none_is_taken():
    other = joint_rows().query("base == 'base-00'").assign(run="joint-other", top1=0.9)
    results = pd.concat([make_results(distillation=(False,)), joint_rows(), other])
    with pytest.warns(UserWarning, match=r"base-00 has several joint trainings \(joint-run-0000, joint-other\)"):
        gaps = gap_table(results)
    assert set(gaps["run"]) == {f"run-{order}{train}00" for order, train in SEEDS} - {"run-0000"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"reference": "IL2m"}, r"reference = 'IL2m': expected one of FT, IL2M, IL2M-means, WA; did you mean 'IL2M'\?"),
        ({"score_kind": "soft-max"}, r"score_kind = 'soft-max': .*did you mean 'softmax'\?"),
        ({"column": "top-1"}, r"column = 'top-1': expected one of top1, top5; did you mean 'top1'\?"),
    ],
)
def test_choices_of_a_comparison_are_checked(choice, message):
    with pytest.raises(InputError, match=message):
        compare_methods(make_results(), **choice)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        ({"methd": "IL2M"}, r"unknown parameter 'methd': did you mean 'method'\?"),
        ({"method": "IL2M", "K": 60}, r"unknown parameter 'K': "),
        ({"method": "IL2M", "top1": 0.5}, r"unknown parameter 'top1': "),
        ({"method": "IL2m"}, r"method = 'IL2m': expected one of .*; did you mean 'IL2M'\?"),
        ({"method": ["IL2M"]}, r"a = \{'method': \['IL2M'\]\}: expected a value by name"),
        ({}, r"a = \{\}: expected a value by name, as in \{'method': 'IL2M'\}"),
        ("IL2M", r"a = 'IL2M': expected a value by name"),
    ],
)
def test_sides_that_choose_nothing_are_refused(a, message):
    results, b = make_results(), {"method": "FT"}
    with pytest.raises(InputError, match=message):
        differences(results, a, b)
    with pytest.raises(InputError, match=message.replace("a = ", "b = ")):
        differences(results, b, a)
    assert differences(results, {"method": "SIW"}, b).empty, "a method that the runs lack has no pairs"


def test_what_tells_runs_apart_is_checked_by_name():
    with pytest.raises(InputError, match=r"by = 'memorysize': .*did you mean 'memory_size'\?"):
        over_seeds(make_results(memory_size=60), "memorysize", ["FT"])
    with pytest.raises(InputError, match=r"unit = 'orders': expected one of order, seed; did you mean 'order'\?"):
        findings_table(make_results(), unit="orders")


def test_undefined_ratios_are_counted_beside_findings_and_systems():
    """Of each seed, at state 3: 1 of 4 past classes for IL2M without distillation, none with."""
    results = make_results(seeds=SEEDS[:3], held_out=0.0, balanced_epochs=0)
    ratios = results["method"].isin(["IL2M", "IL2M-means"])
    assert findings_table(results)[["undefined_past", "past"]].isna().all(axis=None), "nobody counted"
    counted = results.assign(
        undefined_past=(~results["distillation"]).astype(float).where(results["state"] > 2, 0).where(ratios),
        past=((results["state"] - 1) * 2.0).where(ratios),
    )
    last = results["state"].max()
    past = sum(2 * (state - 1) for state in range(2, last + 1))
    found = findings_table(counted).set_index("finding")[["undefined_past", "past"]]
    assert found.loc["IL2M gains over fine-tuning"].tolist() == [3 * (last - 2), 3 * past]
    assert found.loc["distillation hurts IL2M when a memory is allowed"].tolist() == [3 * (last - 2), 6 * past]
    assert found.loc["distillation hurts fine-tuning when a memory is allowed"].isna().all()
    made = systems_table(counted).set_index("system")[["undefined_past", "past"]]
    assert made.loc["IL2M"].tolist() == [3 * (last - 2), 3 * past]
    assert made.loc["fine-tuning"].isna().all()
    same = [name for name in findings_table(results) if name not in ("undefined_past", "past")]
    pd.testing.assert_frame_equal(findings_table(results)[same], findings_table(counted)[same])
