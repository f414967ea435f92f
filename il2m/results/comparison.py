"""Paired comparisons over seeds: from the results table of many runs to estimates, intervals, tests and verdicts. A
pair is one seed (a class order, and a seed of training) under both of the things compared; what is compared is the mean
over the incremental states 2..S. Pairs of one class order are averaged: orders are the independent units."""

import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from il2m.errors import InputError
from il2m.methods.rectify import PARTS
from il2m.methods.registry import METHODS
from il2m.parameters import check_parameters, concerning
from il2m.results.metrics import mean_gap
from il2m.results.pairs import STATISTICS, PairedDifference, Points, holm, mean_interval, paired_difference
from il2m.rules import check_choice

SEEDS = ["order_seed", "train_seed"]
PAIRED = ["class_order", "train_seed"]  # equal within a pair: an order counts as itself, be it drawn or given
DISTILLATION = concerning("distillation")  # whether and how
COUNTS = ["undefined_past", "past"]  # how many past classes' ratios are undefined, of how many
_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
SETTINGS = [*_TABLES["settings"], *DISTILLATION]  # what else tells runs apart
SYSTEMS: dict[str, dict[str, Any]] = _TABLES["systems"]  # the field's, as near as this study comes to them
FINDINGS: dict[str, dict[str, Any]] = _TABLES["findings"]  # the paper's: ``a``, ``b`` of differences; its ``sign``


def mean_results(results: pd.DataFrame) -> pd.DataFrame:
    """One row per run, method and score kind: settings and seeds; over states 2..S mean ``top1, top5``, sums of COUNTS
    (NaN where not there, and of methods without ratios). results: of results.parquet. Runs of one state have none."""
    results = results.assign(class_order=class_orders(results), **{name: results.get(name, np.nan) for name in COUNTS})
    keys = ["run", *_known(results), *SEEDS, "class_order", "method", "score_kind", *_known(results, ["recipe"])]
    groups = results[results["state"] > 1].groupby(keys, sort=False, dropna=False)
    return groups[["top1", "top5"]].mean().join(groups[COUNTS].sum(min_count=1)).reset_index()


def class_orders(results: pd.DataFrame) -> pd.Series:
    """What tells the class order of each row: its hash, or in tables of before 0.2 the seed that drew it."""
    orders = results.get("class_order", results.get("order_seed")).astype(object)
    return orders.fillna(results.get("order_seed", orders))


def by_order(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Mean of a column within each class order, (orders,), rising; runs whose order nobody told are taken as of one."""
    return np.sort(rows[column].groupby(class_orders(rows), dropna=False).mean().to_numpy())


def common_seeds(rows: pd.DataFrame, sides: Sequence[str], apart: Sequence[str] = ()) -> pd.Series:
    """Whether every side (value of the columns ``sides``) has the seeds of a row, (rows,) bool; within each value of
    ``apart``. Means set side by side are over such rows, or else they may differ by their seeds alone: a grid may be
    unfinished. Runs of unknown seeds have none in common with any, and stay."""
    seeds = [class_orders(rows), rows["train_seed"]]
    known = seeds[0].notna() & seeds[1].notna()
    group = rows.groupby(list(apart), dropna=False).ngroup() if apart else pd.Series(0, index=rows.index)
    side = rows.groupby(list(sides), dropna=False).ngroup().where(known)
    num_sides = side.groupby(group).transform("nunique")
    return (side.groupby([group, *seeds], dropna=False).transform("nunique") == num_sides) | ~known


def over_seeds(results: pd.DataFrame, by: str, methods: Sequence[str]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Mean top-1 over states 2..S (raw): method -> value of ``by``, rising -> by class order; and means' intervals."""
    means = mean_results(results).query("score_kind == 'raw'")
    check_choice("by", by, [*means])
    grouped = {method: means[means["method"] == method].groupby(by) for method in methods}
    values = {name: {key: by_order(runs, "top1") for key, runs in rows} for name, rows in grouped.items() if len(rows)}
    return values, {method: {value: mean_interval(runs[value]) for value in runs} for method, runs in values.items()}


def against(results: pd.DataFrame, reference: str, column: str = "top1") -> Points:
    """Paired differences of mean ``column`` of all methods but oracles to ``reference``: by method, one per order."""
    methods = [name for name in results["method"].unique() if name != reference and not is_bound(name)]
    pairs = {name: differences(results, {"method": name}, {"method": reference}, column=column) for name in methods}
    points = {name: by_order(rows, "difference") for name, rows in pairs.items() if len(rows)}
    return points, {name: mean_interval(values) for name, values in points.items()}


def is_bound(method: str) -> bool:
    """Whether a method is none that could be used, but a bound: it knows more than a memory holds."""
    return method == "joint" or method.endswith("oracle")


def best_methods(results: pd.DataFrame, *, most: int) -> list[str]:
    """FT, IL2M and the best others that are no oracle nor joint training, by mean top-1: ``most`` at most."""
    means = mean_results(results).query("score_kind == 'raw'").groupby("method")["top1"].mean()
    others = means[[not is_bound(name) and name not in PARTS for name in means.index]]
    first = [method for method in ("FT", "IL2M") if method in means.index]
    return first + others.nlargest(most - len(first)).index.tolist()


def differences(
    results: pd.DataFrame, a: Mapping[str, Any], b: Mapping[str, Any], *, column: str = "top1", score_kind: str = "raw"
) -> pd.DataFrame:
    """Paired differences a - b of mean ``column`` (top1, top5) over states 2..S: a row per pair, with settings, seeds,
    ``a``, ``b``, ``difference`` and COUNTS of both sides. Settings that neither side names must be equal within a pair.
    Where one side alone distils, a pair has its temperature and the like: a run that doesn't is the partner of each
    that does, in whatever way. a, b: values of ``method`` and of settings that choose a side's rows. Raises InputError
    for other names, an unknown method, and several runs of the same seeds on a side: no one can say which pair up."""
    check_parameters({"score_kind": score_kind})
    check_choice("column", column, ("top1", "top5"))
    means = mean_results(results).query("score_kind == @score_kind")
    _check_side("a", a, means), _check_side("b", b, means)
    instead = {"setting": "recipe"} if {*a, *b} - {"method", *DISTILLATION} and "recipe" in means else {}  # its hash
    shared = [instead.get(name, name) for name in _known(results) if name not in {*a, *b}] + PAIRED
    how = [name for name in DISTILLATION if name in shared and a.get("distillation") != b.get("distillation")]
    shared, sides = [name for name in shared if name not in how], []
    for name, choice in (("a", a), ("b", b)):
        chosen = np.logical_and.reduce([means[key] == value for key, value in choice.items()])
        keys = shared + how * bool(choice.get("distillation"))
        side = means.loc[chosen, [*keys, "run", column, *COUNTS]].rename(columns={column: name})
        if side.duplicated(keys).any():
            runs = next(group["run"].tolist() for _, group in side.groupby(keys, dropna=False) if len(group) > 1)
            problem = f"several runs have the same seeds and settings ({', '.join(runs)}), so they can't be paired"
            raise InputError(f"{problem}: compare the runs of one grid at a time, or tell imports a train_seed each.")
        sides.append(side.drop(columns="run"))
    pairs = sides[0].merge(sides[1], on=shared, suffixes=("", "_b"))
    counts = {name: pairs[name].add(pairs.pop(f"{name}_b"), fill_value=0) for name in COUNTS}
    return pairs.assign(difference=pairs["a"] - pairs["b"], **counts)


def _check_side(side: str, choice: Mapping[str, Any], means: pd.DataFrame) -> None:
    """Raise InputError unless a side of differences is chosen by one value each of what tells rows apart."""
    if not (isinstance(choice, Mapping) and choice and all(map(pd.api.types.is_scalar, choice.values()))):
        raise InputError(f"{side} = {choice!r}: expected a value by name, as in {{'method': 'IL2M'}}.")
    check_parameters(choice, {*means} - {"top1", "top5", "score_kind", *COUNTS}, rules={})
    check_choice("method", choice.get("method", "FT"), sorted({*METHODS, *means["method"]}))


def compare_methods(
    results: pd.DataFrame, reference: str = "FT", *, column: str = "top1", score_kind: str = "raw", unit: str = "order"
) -> pd.DataFrame:
    """Every method against ``reference`` on the same models: one row per setting and method. Columns: the settings,
    ``method``, ``mean`` of the method over the seeds that all methods have, with distillation and without,
    ``left_out``, how many others it has, and those of PairedDifference, over all, its note, and ``p_adjusted``: Holm's,
    the methods of a setting being the family. unit: of independent repetition, ``order``, or ``seed`` (of training) for
    runs of one order: each run then counts, and says nothing of other orders."""
    methods, rows, settings = [*results["method"].unique()] or [reference], [], _known(results)
    check_choice("reference", reference, methods)
    options, b = {"column": column, "score_kind": score_kind}, {"method": reference}
    pairs = [differences(results, a := {"method": method}, b, **options).assign(**a) for method in methods]
    pairs = pd.concat(pairs, ignore_index=True)
    distils = [name for name in settings if name in DISTILLATION]
    pairs["common"] = common_seeds(pairs, ["method", *distils], [name for name in settings if name not in distils])
    for row, group, _ in _paired(pairs, ["method", *settings], unit):
        common = group[group["common"]]
        mean = (pd.Series(by_order(common, "a")) if unit == "order" else common["a"]).mean()
        rows.append(row | {"mean": mean, "left_out": len(group) - len(common)})
    table = pd.DataFrame(rows, columns=[*settings, "method", "mean", "left_out", *STATISTICS, "note"])
    tested = table["p_value"].where(table["method"] != reference)
    families = tested.groupby([table[name] for name in settings], dropna=False, sort=False)
    return table.assign(p_adjusted=families.transform(lambda family: holm(family.to_numpy(dtype=float))))


def findings_table(results: pd.DataFrame, unit: str = "order") -> pd.DataFrame:
    """The paper's findings against this study: one row per finding and setting that has pairs for it. Columns:
    ``finding``, the settings but distillation, those of PairedDifference, ``verdict``, ``note`` and, summed over pairs,
    COUNTS. They were named before, and are tested one by one. unit: see compare_methods."""
    rows, settings = [], [name for name in _known(results) if name != "distillation"]
    for finding, claim in FINDINGS.items():
        pairs = differences(results, claim["a"], claim["b"])
        memory = pairs.get("memory_size", pd.Series(1, pairs.index)).astype(float)  # a run of unknown K takes no part
        pairs = pairs[memory == 0 if claim.get("memory") == 0 else memory > 0]
        for row, group, difference in _paired(pairs, settings, unit):
            row |= {"finding": finding, "verdict": difference.verdict(claim["sign"])}
            rows.append(row | group[COUNTS].sum(min_count=1).to_dict())
    return pd.DataFrame(rows, columns=["finding", *settings, *STATISTICS, "verdict", "note", *COUNTS])


def _paired(pairs: pd.DataFrame, keys: list[str], unit: str) -> Iterator[tuple[dict, pd.DataFrame, PairedDifference]]:
    """Of each setting: the columns that the tables share, its rows of ``pairs``, and their statistics."""
    for key, group in pairs.groupby(keys, sort=False, dropna=False):
        units = by_order(group, "difference") if unit == "order" else group["difference"]
        difference = paired_difference(units, len(group), unit)
        yield dict(zip(keys, key, strict=True)) | asdict(difference) | {"note": difference.note}, group, difference


def gap_table(results: pd.DataFrame) -> pd.DataFrame:
    """Gaps of every run and method (raw scores) to the joint training of the same base: ``run, method``, ``gap`` (by
    state, of top-1), ``survey_gap`` (of mean top-5, to the training on all classes), settings and seeds. Empty without
    rows of method ``joint``. Of several joint trainings of a base, of other epochs, none is taken, with a warning."""
    raw, shared = results.query("score_kind == 'raw' and state > 1"), ["base", "state"]
    joint = raw.loc[raw["method"] == "joint", ["run", *shared, "top1", "top5"]].drop_duplicates(["run", *shared])
    for base, runs in joint.groupby("base")["run"].unique().items():
        if len(runs) > 1:
            what = f"{base} has several joint trainings ({', '.join(runs)}), so its runs have no G_IL"
            warnings.warn(f"{what}: leave out all but one.", stacklevel=2)
            joint = joint[joint["base"] != base]
    joint = joint.drop(columns="run").rename(columns={"top1": "joint", "top5": "joint_top5"})
    both = raw[raw["method"] != "joint"].merge(joint, on=shared).sort_values("state", kind="stable")
    rows, keys = [], ["run", *_known(results), *SEEDS, "method"]
    for key, group in both.groupby(keys, sort=False, dropna=False):
        of_survey = mean_gap([group["top5"].mean()], group["joint_top5"].iloc[-1:])
        rows.append((*key, mean_gap(group["top1"], group["joint"]), of_survey))
    return pd.DataFrame(rows, columns=[*keys, "gap", "survey_gap"])


def systems_table(results: pd.DataFrame) -> pd.DataFrame:
    """The field's known systems as this study's combinations (SYSTEMS): one row per system that has runs, apart by data
    set, recipe (network, epochs, ...), S and K. They share this study's network, head and schedule, so that they differ
    in method alone; figures of the original papers had others. Columns: these (if there), ``system``, what it is made
    of, how it distils; over states 2..S and the seeds that all systems there have, mean ``top1, top5, gap, survey_gap``
    (of runs with a joint training), ``num_runs``, sums of COUNTS; and ``left_out``, how many other runs there are."""
    means = mean_results(results).query("score_kind == 'raw'")
    means = means.merge(gap_table(results)[["run", "method", "gap", "survey_gap"]], on=["run", "method"], how="left")
    apart = _known(results, ("dataset", "recipe", "num_states", "head", "memory_size", "memory_rounding"))
    how = _known(results, DISTILLATION[1:])
    means["balanced"], means["held out"] = (means.get(name, 0) > 0 for name in ("balanced_epochs", "held_out"))
    systems = []
    for system, parts in SYSTEMS.items():
        chosen = np.logical_and.reduce([means[name] == value for name, value in (_TABLES["plain"] | parts).items()])
        training = ["distillation" if "distillation" in parts else "fine-tuning"]
        training += [words for name, words in _TABLES["words"].items() if name in parts]
        made_of = " + ".join(training + [parts["method"]] * (parts["method"] != "FT"))
        systems.append(means[chosen].assign(**{"system": system, "made of": made_of}))
    runs, rows, keys = pd.concat(systems, ignore_index=True), [], [*apart, "system", "made of", *how]
    runs["common"] = common_seeds(runs, ["system", *how], apart)
    for key, group in runs.groupby(keys, sort=False, dropna=False):
        common = group[group["common"]]
        means = (pd.Series(by_order(common, name)).mean() for name in ("top1", "top5", "gap", "survey_gap"))
        rows.append((*key, *means, len(common), len(group) - len(common), *common[COUNTS].sum(min_count=1)))
    return pd.DataFrame(rows, columns=[*keys, "top1", "top5", "gap", "survey_gap", "num_runs", "left_out", *COUNTS])


def _known(results: pd.DataFrame, names: Sequence[str] = SETTINGS) -> list[str]:
    """Those of these columns, by default SETTINGS, that the table has."""
    return [name for name in names if name in results.columns]
