"""A study's folder as its report shows it: how far it is, which runs belong together, all runs with their pages."""

from __future__ import annotations

import shlex
import urllib.parse
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from il2m import comparison
from il2m.jobs import NOTEBOOKS
from il2m.records import STATUSES, jobs_table, read_plans
from il2m.report import check_study
from il2m.results import run_description, run_recipe
from il2m.runs import Run, find_runs, short_hash
from il2m.tables import Link

STAGES = dict(zip(("base", "fine-tuning", "analysis", "ablation"), NOTEBOOKS, strict=True))
_APART = [  # what tells groups of runs apart, beside their seeds
    "dataset", "recipe", "num_states", "memory_size", "exemplar_selection", "held_out", "balanced_epochs",
    "distillation",
]  # fmt: skip
_MOST_GROUPS, _MOST_ROWS = 8, 60  # beyond them a page is not read any more


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


def open_study(out_dir: str | Path) -> Study:
    """Read a study's folder. Raises InputError if it is none."""
    folder = Path(out_dir).absolute()
    check_study(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        runs = find_runs(folder, finished=False)
        finished = [run for run in runs if not run.missing_states]
        results = comparison.collect_results(folder) if finished else None
    damaged = list(dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning))
    return Study(folder, read_plans(folder), jobs_table(folder), runs, results, recipe_names(finished), damaged)


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
        names[key] = ", ".join([dataset, *(f"{name} {_short(recipe[name])}" for name in differing)])
    return names


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
    return {
        in_words(dict(zip(keys, key, strict=True)), study.recipes): rows
        for key, rows in results.groupby(keys, dropna=False)
    }


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
    orders, trains = (runs[name].nunique(dropna=False) for name in comparison.SEEDS)
    sentence = (
        f"{_count(len(runs), 'finished run')}, {_count(orders, 'class order')}, {_count(trains, 'training seed')}."
    )
    smallest = comparison.FEWEST_PAIRS
    few = f" With fewer than {smallest} pairs of seeds no test can settle anything: see such rows as a first look."
    return sentence + (few if orders * trains < smallest else "")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


# findings


def findings(study: Study) -> pd.DataFrame:
    """comparison.findings_table of every group of runs, with ``setting`` in words."""
    tables = [
        comparison.findings_table(rows.drop(columns="setting")).assign(setting=words)
        for words, rows in _all_groups(study, ["distillation"]).items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["finding"])


def verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """One row per finding: in how many settings it was reproduced or not, and the range of its differences."""
    rows = []
    for finding, group in found.groupby("finding", sort=False):
        counts = group["verdict"].value_counts()
        points = 100 * group["estimate"]
        span = f"{points.min():+.1f}" if len(group) == 1 else f"{points.min():+.1f} to {points.max():+.1f}"
        row = {"finding": finding, "difference, points": span, "settings": len(group)}
        rows.append(row | {verdict: int(counts.get(verdict, 0)) for verdict in comparison.VERDICTS})
    return pd.DataFrame(rows)


def with_intervals(found: pd.DataFrame) -> pd.DataFrame:
    """Estimate and interval in one column of text, in points, for a person."""
    texts = []
    for row in found.itertuples():
        interval = "" if np.isnan(row.low) else f" ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        texts.append(f"{100 * row.estimate:+.1f}{interval}")
    pairs = {"p_value": "p", "num_pairs": "pairs"}
    return found.assign(**{"difference (95 % interval), points": texts}).rename(columns=pairs)


def systems(study: Study) -> pd.DataFrame:
    """comparison.systems_table, with what the runs share in words."""
    if study.results is None:
        return pd.DataFrame()
    table = comparison.systems_table(study.results)
    words = [in_words(row, study.recipes) for row in table[["recipe", "num_states", "memory_size"]].to_dict("records")]
    table.insert(0, "setting", words)
    return table.drop(columns=["dataset", "recipe", "num_states", "memory_size"]).rename(
        columns={"top1": "top-1", "top5": "top-5", "gap": "G_IL", "num_runs": "runs"}
    )


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
    return points, {words: comparison.mean_interval(found) for words, found in points.items()}


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


# how far the study is


def plans_table(study: Study) -> pd.DataFrame:
    """One row per grid that was run into the folder."""
    rows = [
        {"grid": plan["grid"], "asks for": plan["description"], "made": plan["made"], "jobs": len(plan["jobs"])}
        | {"command": shlex.join(plan["command"])}
        for plan in study.plans
    ]
    return pd.DataFrame(rows)


def stages_table(study: Study) -> pd.DataFrame:
    """One row per stage: how many jobs are done, under way, failed, blocked and missing, and how long they took."""
    rows = []
    for stage, notebook in STAGES.items():
        jobs = study.jobs[study.jobs["notebook"] == notebook]
        counts = jobs["status"].value_counts()
        row = {"stage": stage, "planned": len(jobs)} | {name: int(counts.get(name, 0)) for name in STATUSES}
        rows.append(
            row | {"seconds, median": f"{jobs['seconds'].median():.0f}" if jobs["seconds"].notna().any() else ""}
        )
    return pd.DataFrame(rows)


def unfinished_table(study: Study, *statuses: str) -> pd.DataFrame:
    """The jobs that stand so: what they are, why, and a link to the notebook that failed; the first of many."""
    jobs = study.jobs[study.jobs["status"].isin(statuses)]
    rows = [
        {"job": _page_link(study.folder, job.notebook, job.run, text=job.job), "grid": job.grid, "of": job.swept}
        | {"status": job.status, "why": job.reason}
        for job in jobs.head(_MOST_ROWS).itertuples()
    ]
    if len(jobs) > _MOST_ROWS:
        rows.append({"job": f"... and {len(jobs) - _MOST_ROWS} more: il2m status {shlex.quote(str(study.folder))}"})
    return pd.DataFrame(rows).dropna(axis="columns", how="all").replace({np.nan: ""})


def progress_in_words(study: Study) -> str:
    """How far the study is, as a sentence."""
    if not study.plans:
        finished = sum(not run.missing_states for run in study.runs)
        return (
            f"No grid was run into this folder: its {_count(len(study.runs), 'run')} came by hand, {finished} finished."
            " What else was meant to be run can't be known."
        )
    counts = study.jobs["status"].value_counts()
    others = [f"{counts[name]} {name}" for name in STATUSES if name != "done" and counts.get(name, 0)]
    done = f"{counts.get('done', 0)} of {_count(len(study.jobs), 'planned notebook')} done"
    again = " The commands above, given again, do only what is not done." if others else ""
    return f"{', '.join([done, *others])}.{again}"


# all runs


def _page_link(folder: Path, notebook: str, run: str, *, text: str = "") -> Link | str:
    """To the page of an executed notebook, or else of one that failed; where there is none, plain text."""
    for ending, note in ((".html", ""), (".failed.html", " (failed)")):
        address = f"notebooks/{notebook}-{run}{ending}"
        if (folder / address).is_file():
            return Link((text or "open") + note, urllib.parse.quote(address))
    return text


def runs_table(study: Study) -> pd.DataFrame:
    """One row per run, finished or not: settings, mean top-1 and top-5 over states 2..S of FT and IL2M, and links to
    the pages of its notebooks."""
    means = {}
    if study.results is not None:
        raw = comparison.mean_results(study.results).query("score_kind == 'raw'")
        means = raw.set_index(["run", "method"])[["top1", "top5"]].to_dict("index")
    rows = []
    for run in study.runs:
        about = run_description(run)
        row = {"run": in_words(about | {"distillation": False}, study.recipes).removesuffix(", distillation off")}
        row |= {"distillation": "on" if about["distillation"] else "off"}
        row |= {name.replace("_", " "): _seed(about[name]) for name in comparison.SEEDS}
        for method in ("FT", "IL2M"):
            found = means.get((run.name, method), {})
            row |= {f"{method} top-1": found.get("top1", np.nan), f"{method} top-5": found.get("top5", np.nan)}
        row["state"] = f"states {_list(run.missing_states)} missing" if run.missing_states else "finished"
        for stage, notebook in STAGES.items():
            row[stage] = _page_link(study.folder, notebook, run.base.name if stage == "base" else run.name)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.sort_values(list(table.columns[:4]), ignore_index=True) if rows else table


def _seed(value: Any) -> str:
    return "" if value is None else str(value)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


# where it was made


def environments_table(environments: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Environments (label -> provenance.environment()) side by side, one row per thing, packages last."""
    columns = {}
    for label, made in environments.items():
        git = made["git"]
        commit = f"{git['commit']}{' and changes' if git['changed'] else ''}" if git["commit"] else "unknown"
        about = {name: made[name] for name in ("python", "platform", "cpu", "cores", "memory_gb")}
        about |= {"gpus": ", ".join(made["gpus"]) or "none", "commit": commit}
        columns[label] = {name: str(value) for name, value in (about | made["packages"]).items()}
    return pd.DataFrame(columns).rename_axis("").reset_index()
