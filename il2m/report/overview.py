"""A study's folder as its report shows it: how far it is, which runs belong together, all runs with their pages."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from il2m.batch.records import FAILED, jobs_table, read_plans
from il2m.report.build import check_study
from il2m.results import comparison
from il2m.results.collect import collect_results
from il2m.results.comparison import FINDINGS
from il2m.results.description import run_recipe
from il2m.results.pairs import FEWEST_PAIRS, VERDICTS, mean_interval
from il2m.study.find import find_runs
from il2m.study.runs import Run
from il2m.system.hashes import short_hash

_APART = [  # what tells groups of runs apart, beside their seeds
    "dataset", "recipe", "num_states", "memory_size", "exemplar_selection", "held_out", "balanced_epochs",
    "distillation",
]  # fmt: skip
_MOST_GROUPS = 8  # beyond them a page is not read any more


@dataclass(frozen=True)
class Study:
    """What lies in a study's folder.

    ``plans`` and ``jobs`` as records reads them (none where notebooks were run by hand), all ``runs``, finished or not,
    ``results`` of the finished ones (None if there are none), ``recipes``: hash -> words, and ``damaged``: what could
    not be read.
    """

    folder: Path
    plans: list[dict[str, Any]]
    jobs: pd.DataFrame
    runs: list[Run]
    results: pd.DataFrame | None
    recipes: dict[str, str]
    damaged: list[str]

    @cached_property
    def failed(self) -> set[str]:
        """The names of the jobs that failed."""
        return set(self.jobs.loc[self.jobs["status"] == FAILED, "job"])


def open_study(out_dir: str | Path) -> Study:
    """Read a study's folder. Raises InputError if it is none."""
    folder = Path(out_dir).absolute()
    check_study(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        runs = find_runs(folder, finished=False)
        finished = [run for run in runs if not run.missing_states]
        results = collect_results(folder) if finished else None
    damaged = list(dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning))
    plans = read_plans(folder)
    return Study(folder, plans, jobs_table(folder, plans), runs, results, recipe_names(finished), damaged)


def recipe_names(runs: Iterable[Run]) -> dict[str, str]:
    """Recipes in words: the data set, and what of a recipe is not the same in all these runs."""
    recipes = {short_hash(run_recipe(run)): (run.config["dataset"], run_recipe(run)) for run in runs}
    of_dataset: dict[str, list[dict[str, Any]]] = {}
    for dataset, recipe in recipes.values():
        of_dataset.setdefault(dataset, []).append(recipe)
    names = {}
    for key, (dataset, recipe) in recipes.items():
        others = of_dataset[dataset]
        differing = [name for name in recipe if any(other.get(name) != recipe[name] for other in others)]
        differing = [name for name in differing if not _is_said(name, recipe)]
        names[key] = ", ".join([dataset, *(f"{name} {_short(recipe[name])}" for name in differing)])
    return names


def _is_said(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a setting of the base is that of the fine-tuning too, which is named."""
    return name.startswith("base_") and recipe.get(name.removeprefix("base_")) == recipe[name]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 30 else short_hash(value)


# groups of runs


def groups(study: Study, *, shown: Sequence[str], vary: str = "") -> tuple[dict[str, pd.DataFrame], str]:
    """The results (states 2..S) of runs that share all but their seeds and what is ``shown`` (columns of the results
    table), under what they share, in words; and a sentence on what is left out, ``""`` if nothing is.

    vary: a column; groups in which it has a single value are left out, as there is nothing to compare.
    """
    found = _all_groups(study, shown)
    if vary:
        found = {words: rows for words, rows in found.items() if rows[vary].nunique() > 1}
    if not found:
        return {}, f"No finished runs differ in {_NAMES.get(vary, vary)} alone." if vary else "No run is finished yet."
    many = len(found) > _MOST_GROUPS
    return dict(list(found.items())[:_MOST_GROUPS]), (
        f"The first {_MOST_GROUPS} of {len(found)} groups of runs are shown." if many else ""
    )


def _all_groups(study: Study, shown: Sequence[str]) -> dict[str, pd.DataFrame]:
    if study.results is None:
        return {}
    results = study.results[(study.results["state"] > 1) & (study.results["method"] != "joint")]
    keys = [name for name in _APART if name not in shown]
    found = {
        in_words(dict(zip(keys, key, strict=True)), study.recipes): rows
        for key, rows in results.groupby(keys, dropna=False)
    }
    return dict(sorted(found.items(), key=lambda item: item[0].count(",")))  # the plainest first


_NAMES = {"memory_size": "K", "num_states": "S"}


def in_words(values: Mapping[str, Any], recipes: Mapping[str, str]) -> str:
    """Values of columns of the results table, for a person; defaults are not mentioned."""
    words = [recipes.get(values["recipe"], str(values.get("dataset", "")))] if "recipe" in values else []
    for name, text in (("num_states", "S = {}"), ("memory_size", "K = {}"), ("exemplar_selection", "{}")):
        if name in values and values[name] not in ("random", ""):
            words.append(text.format(values[name]))
    if values.get("held_out"):
        words.append(f"{values['held_out']:.0%} of exemplars held out")
    if values.get("balanced_epochs"):
        words.append(f"{values['balanced_epochs']} balanced epochs")
    if "distillation" in values:
        words.append(switch(values["distillation"]))
    return ", ".join(words)


def switch(distillation: bool) -> str:
    return "distillation on" if distillation else "distillation off"


def seeds_in_words(study: Study) -> str:
    """How many seeds the runs have, as a sentence."""
    if study.results is None:
        return "No run is finished yet, so there is nothing to compare."
    runs = study.results[study.results["method"] != "joint"].drop_duplicates("run")
    orders, trains = (runs[name].nunique() for name in comparison.SEEDS)
    sentence = f"{count(len(runs), 'finished run')}, {count(orders, 'class order')}, {count(trains, 'training seed')}."
    most = runs.groupby(["setting", "distillation"]).size().max()
    if most >= FEWEST_PAIRS:
        return sentence
    return (
        f"{sentence} No setting has more than {count(most, 'seed')}, and with fewer than {FEWEST_PAIRS} no "
        "test can settle anything: take what follows as a first look."
    )


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


# findings


def findings(study: Study) -> pd.DataFrame:
    """comparison.findings_table of every group of runs, with ``setting`` in words: finding by finding."""
    tables = [
        comparison.findings_table(rows.drop(columns="setting")).assign(setting=words)
        for words, rows in _all_groups(study, ["distillation"]).items()
    ]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame(columns=["finding"])
    found = pd.concat(tables, ignore_index=True)
    return found.sort_values("finding", key=lambda names: names.map(list(FINDINGS).index), kind="stable")


def verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """One row per finding: in how many settings it was reproduced or not, and the range of its differences."""
    rows = []
    for finding, group in found.groupby("finding", sort=False):
        counts = group["verdict"].value_counts()
        points = 100 * group["estimate"]
        span = f"{points.min():+.1f}" if len(group) == 1 else f"{points.min():+.1f} to {points.max():+.1f}"
        row = {"finding": finding, "difference, points": span, "settings": len(group)}
        rows.append(row | {verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS})
    return pd.DataFrame(rows)


def findings_in_words(found: pd.DataFrame) -> pd.DataFrame:
    """One row per finding and setting, for a person: each finding named once, estimate and interval in points."""
    rows = []
    for row in found.itertuples():
        interval = "" if np.isnan(row.low) else f" ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        about = {"finding": row.finding, "setting": row.setting, "points (95 % interval)": f"{100 * row.estimate:+.1f}"}
        about["points (95 % interval)"] += interval
        rows.append(about | {"p": row.p_value, "pairs": row.num_pairs, "verdict": row.verdict})
    table = pd.DataFrame(rows)
    return table.assign(finding=table["finding"].mask(table["finding"].duplicated(), "")) if rows else table


def systems(study: Study) -> pd.DataFrame:
    """comparison.systems_table, with what the runs share in words; without G_IL where nothing was trained jointly."""
    if study.results is None:
        return pd.DataFrame()
    table = comparison.systems_table(study.results)
    apart = ["recipe", "num_states", "memory_size"]
    words = [in_words(row, study.recipes) for row in table[apart].to_dict("records")]
    table.insert(0, "setting", words)
    table = table.sort_values(apart, kind="stable", ignore_index=True)
    table = table.drop(columns=["dataset", *apart]).dropna(axis="columns", how="all")
    return table.rename(columns={"top1": "top-1", "top5": "top-5", "gap": "G_IL", "num_runs": "runs"})


def distillation_effects(
    rows: pd.DataFrame, method: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """What distillation changes of a method's mean top-1, on minus off: S and K in words -> (pairs,); and intervals."""
    sides = ({"method": method, "distillation": distillation} for distillation in (True, False))
    keys = ["num_states", "memory_size"]
    pairs = comparison.differences(rows, *sides).sort_values(keys)
    points = {
        in_words(dict(zip(keys, key, strict=True)), {}): group["difference"].to_numpy()
        for key, group in pairs.groupby(keys)
    }
    return points, {words: mean_interval(found) for words, found in points.items()}


# titles


def span_in_words(points: Mapping[str, np.ndarray]) -> str:
    """Smallest and largest mean of paired differences, in points."""
    means = [100 * found.mean() for found in points.values()]
    if not means:
        return "no pairs"
    return f"{means[0]:+.1f} points" if len(means) == 1 else f"{min(means):+.1f} to {max(means):+.1f} points"


def best_in_words(points: Mapping[str, np.ndarray]) -> str:
    """The method with the largest mean difference to fine-tuning."""
    if not points:
        return "no runs"
    best = max(points, key=lambda method: points[method].mean())
    return f"best is {best}, {span_in_words({best: points[best]})}"


def gains_in_words(rows: pd.DataFrame, by: str) -> str:
    """What IL2M gains over fine-tuning, at the values of ``by``."""
    pairs = comparison.differences(rows, {"method": "IL2M"}, {"method": "FT"})
    points = {str(value): group["difference"].to_numpy() for value, group in pairs.groupby(by)}
    return f"IL2M against fine-tuning: {span_in_words(points)}"
