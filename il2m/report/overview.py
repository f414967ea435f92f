"""A study's folder, and what its report says of the results: which runs belong together, findings, titles."""

import contextlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes

from il2m.batch.records import job_rows, read_plans
from il2m.errors import InputError
from il2m.parameters import PARAMETERS
from il2m.report.build import check_study
from il2m.report.tables import WORDS, say
from il2m.results import comparison
from il2m.results.collect import collect_results
from il2m.results.description import run_recipe
from il2m.results.pairs import FEWEST_FOR_INTERVAL, FEWEST_FOR_VERDICT, VERDICTS, Points, mean_interval
from il2m.results.table import bias_table, known
from il2m.study.find import find_runs
from il2m.study.runs import Run
from il2m.system.hashes import short_hash

_WORDS = json.loads((Path(__file__).parent / "templates" / "settings.json").read_text())  # column -> words of a value
_WORDS |= {name: f"{name.replace('_', ' ')} {{:g}}" for name in comparison.DISTILLATION[1:]}
_UNSAID = {name: PARAMETERS[name].default for name in _WORDS} | {"num_states": 0, "memory_size": None}
_APART = ("dataset", "recipe", *_WORDS, "distillation")  # what tells groups of runs apart, besides their seeds
_PLAIN = ["distillation"]  # shown side by side, and all else apart
Panels = Iterator[tuple[Axes, str, pd.DataFrame, pd.DataFrame]]  # see drawn
Cut = Callable[[pd.DataFrame], Mapping[str, pd.DataFrame]]  # rows of a figure -> those of its panels
_COUNTED = "past classes undefined"  # the column of comparison.COUNTS in words
_MOST_GROUPS = 8  # beyond them a page is not read any more


@dataclass(frozen=True)
class Study:
    """What lies in a study's folder: ``plans`` and ``jobs`` as records reads them (none where notebooks were run by
    hand), all ``runs``, ``results`` of the finished ones (None if there are none; ``past`` beside ``undefined_past``:
    of how many classes), ``recipes``: hash -> words, and ``damaged``: what could not be read."""

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
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        runs, results = find_runs(folder, finished=False), None
        finished = [run for run in runs if not run.missing_states]
        if finished:
            with contextlib.suppress(InputError):  # all are damaged: it has warned of each
                results = collect_results(folder)
                seen = results.sort_values("state").groupby(["run", "method", "score_kind"])["num_classes"]
                results["past"] = seen.shift().where(results["undefined_past"].notna())
        plans = read_plans(folder)
    damaged = list(dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning))
    return Study(folder, plans, jobs_table(folder, plans), runs, results, recipe_names(finished), damaged)


def jobs_table(folder: Path, plans: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """The rows of records.job_rows; its columns are there without rows as well."""
    columns = ["job", "notebook", "run", "grid", "combination", "swept", "status", "seconds", "reason", "file"]
    return pd.DataFrame(job_rows(folder, plans), columns=[*columns, "other_code"])


def origins_in_words(study: Study) -> str:
    """Sentences on numbers computed for this report, as stored ones are stale, and on runs of before 0.2; or ``""``."""
    computed = Counter(study.results.attrs["computed"].values() if study.results is not None else ())
    return WORDS.origins(computed.most_common(), sum(any(not r.state(b).made for b in r.digests) for r in study.runs))


def recipe_names(runs: Iterable[Run]) -> dict[str, str]:
    """Recipes in words: the data set, and what of a recipe is not the same in all these runs."""
    recipes = {short_hash(run_recipe(run)): (run.config["dataset"], run_recipe(run)) for run in runs}
    names = {}
    for key, (dataset, recipe) in recipes.items():
        others = [other for other_dataset, other in recipes.values() if other_dataset == dataset]
        names[key] = dataset
        for name, value in recipe.items():
            said_already = name.startswith("base_") and recipe.get(name.removeprefix("base_")) == value
            always = name in ("method", "scores", "memory")
            if always or (any(other.get(name) != value for other in others) and not said_already):
                names[key] += f", {name} {value if len(str(value)) <= 30 else short_hash(value)}"
    return names


def groups(study: Study, *, shown: Sequence[str], vary: str = "") -> tuple[dict[str, pd.DataFrame], str]:
    """The results (states 2..S) of runs that share all but their seeds and what is ``shown`` (columns of the results
    table), under what they share, in words; and sentences on what is left out, ``""`` if nothing is: groups beyond the
    first few, and of each group the runs whose seeds not all have that are shown side by side.
    vary: a column; groups in which it has a single value are left out, as there is nothing to compare."""
    groups = {words: rows for words, rows in _all_groups(study, shown).items() if not vary or rows[vary].nunique() > 1}
    first = dict(list(groups.items())[:_MOST_GROUPS])
    kept = {words: rows[comparison.common_seeds(rows, _sides(rows, shown))] for words, rows in first.items()}
    counts = {words: (rows["run"].nunique(), kept[words]["run"].nunique()) for words, rows in first.items()}
    return {words: rows for words, rows in kept.items() if len(rows)}, WORDS.left_out(counts, len(groups))


def _sides(rows: pd.DataFrame, shown: Sequence[str]) -> list[str]:
    """The columns that tell apart what is ``shown``: how runs distil, where it is shown whether they do."""
    shown = [*shown, *comparison.DISTILLATION] if "distillation" in shown else shown
    return [name for name in dict.fromkeys(shown) if name in rows.columns]


def _all_groups(study: Study, shown: Sequence[str]) -> dict[str, pd.DataFrame]:
    if study.results is None:
        return {}
    results = study.results.query("state > 1 and method != 'joint'")
    sides = _sides(results, shown)
    groups = _by_words(results, [name for name in _APART if name in results and name not in sides], study.recipes)
    return dict(sorted(groups.items(), key=lambda item: item[0].count(",")))  # the plainest first


def panels(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by whether and how their runs distil, in words."""
    return _by_words(rows, _sides(rows, ["distillation"]), {})


def by_method(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of fine-tuning, IL2M and the best other method."""
    return {method: rows[rows["method"] == method] for method in comparison.best_methods(rows, most=3)}


def drawn(study: Study, split: Cut = panels, *, vary: str = "", shown: Sequence[str] = (), share: str = "x") -> Panels:
    """One figure per group of runs (vary, shown: see groups), a panel for each part that ``split`` makes of its rows:
    axes to draw into, the part in words, its rows, those of the figure, which is shown once its last panel is drawn.
    share: the axis of numbers, ``x`` or ``y``; on the other each panel has settings or methods of its own."""
    several, left_out = groups(study, shown=[*filter(None, [vary]), *shown, "distillation"], vary=vary)
    for words, rows in several.items():
        parts = split(rows)
        figure, axes = plt.subplots(1, len(parts), figsize=(12, 4.2), squeeze=False, **{f"share{share}": True})
        figure.suptitle(words, x=0.01, ha="left", fontweight="bold", parse_math=False)
        for ax, (part, same) in zip(axes[0], parts.items(), strict=True):
            yield ax, part, same, rows
        plt.show()
        display(say(WORDS.reading(comparison.class_orders(rows).nunique(), FEWEST_FOR_INTERVAL)))
    if left_out:
        display(say(left_out))


def _by_words(rows: pd.DataFrame, keys: list[str], recipes: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Rows that share the values of ``keys``, under these in words."""
    grouped = rows.groupby(keys, dropna=False)
    return {in_words(dict(zip(keys, key, strict=True)), recipes): group for key, group in grouped}


def in_words(values: Mapping[str, Any], recipes: Mapping[str, str]) -> str:
    """Values of columns of the results table, for a person; defaults are not mentioned."""
    words = [recipes.get(values["recipe"], str(values.get("dataset", "")))] if "recipe" in values else []
    said = [name for name in _WORDS if pd.notna(values.get(name)) and values[name] not in ("", _UNSAID[name])]
    words += [_WORDS[name].format(values[name]) for name in said]
    words += [f"distillation {known(values['distillation'])}"] if "distillation" in values else []
    return ", ".join(words)


def seeds_in_words(study: Study) -> str:
    """How many seeds the runs have, as a sentence."""
    if study.results is None:
        return WORDS.seeds(0)
    runs = study.results[study.results["method"] != "joint"].drop_duplicates("run")
    orders, trains = comparison.class_orders(runs).nunique(), runs["train_seed"].nunique()
    unknown = int(runs[comparison.SEEDS].isna().all(axis=1).sum())
    keys = [runs[name] for name in ("setting", *_sides(runs, ["distillation"]))]
    most = int(comparison.class_orders(runs).groupby(keys, dropna=False).nunique().max())
    return WORDS.seeds(len(runs), orders, trains, unknown, most, FEWEST_FOR_VERDICT)


def findings(study: Study) -> pd.DataFrame:
    """comparison.findings_table of every group of runs, with ``setting`` in words: finding by finding."""
    tables = []
    for words, rows in _all_groups(study, _PLAIN).items():
        table = comparison.findings_table(rows.drop(columns="setting"))
        how = table[table.columns.intersection(comparison.DISTILLATION)].to_dict("records")
        tables.append(table.assign(setting=[", ".join(filter(None, [words, in_words(row, {})])) for row in how]))
    if not (tables := [table for table in tables if len(table)]):
        return pd.DataFrame(columns=["finding"])
    table, order = pd.concat(tables, ignore_index=True), list(comparison.FINDINGS)
    return table.sort_values("finding", key=lambda names: names.map(order.index), kind="stable")


def headline(study: Study) -> str:
    """What the study says of IL2M in its plainest setting, as far as its class orders allow."""
    gains = findings(study).query("finding == 'IL2M gains over fine-tuning'").to_dict("records")
    most, settings = 0 if study.results is None else study.results["num_states"].max(), _all_groups(study, _PLAIN)
    return WORDS.headline(gains, len(settings), most, FEWEST_FOR_VERDICT)


def plainest(study: Study) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """The runs in the plainest setting that has several states, without distillation if there are such, in words; their
    rows of the results, of raw scores; and their mean bias_table. None if there are none, or no scores can be read."""
    off = "distillation == False and method == 'IL2M'"  # groups that the headline may be of come first
    for words, rows in sorted(_all_groups(study, _PLAIN).items(), key=lambda group: group[1].query(off).empty):
        side, names = next((side, set(rows["run"])) for side, rows in panels(rows).items())
        tables = []
        for run in (run for run in study.runs if run.name in names):
            with contextlib.suppress(InputError):  # its scores are damaged
                tables.append(bias_table(run))
        if tables:
            how = f"mean of {len(tables)} runs" if len(tables) > 1 else "one run"
            rows = study.results[study.results["run"].isin(names)].query("score_kind == 'raw'")
            return f"{words}, {side} ({how})", rows, pd.concat(tables).groupby("state").mean()
    return None


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per finding of findings: in how many settings it was reproduced or not, the range of its differences."""
    return pd.DataFrame(
        {"finding": finding, "difference, points": WORDS.span(rows["estimate"]), "settings": len(rows)}
        | {verdict: int((rows["verdict"] == verdict).sum()) for verdict in VERDICTS}
        for finding, rows in table.groupby("finding", sort=False)
    )


def findings_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of findings for a person: each finding named once, estimate and interval in points."""
    points = "points (95 % interval)" if table.get("low", table["finding"]).notna().any() else "points"
    words = _with_counts(table).assign(**{points: [WORDS.points(row) for row in table.itertuples()]})
    words = words.rename(columns={"p_value": "p", "num_units": "class orders"}).reset_index(drop=True)
    words = words.reindex(columns=["finding", "setting", points, "p", "class orders", _COUNTED, "verdict", "note"])
    words = words.dropna(axis="columns", how="all") if len(words) else words  # there may be no pairs of runs
    return words.assign(finding=words["finding"].mask(words["finding"].duplicated(), ""))


def systems(study: Study) -> pd.DataFrame:
    """comparison.systems_table, with what the runs share in words; without G_IL where nothing was trained jointly."""
    if study.results is None:
        return pd.DataFrame()
    table = comparison.systems_table(study.results)
    table.insert(0, "setting", [in_words(row, study.recipes) for row in table.to_dict("records")])
    table = table.sort_values(["recipe", "num_states", "memory_size"], kind="stable", ignore_index=True)
    said = [*_APART, *["left_out"] * (not table["left_out"].any())]
    return _with_counts(table).drop(columns=said, errors="ignore").dropna(axis="columns", how="all")


def _with_counts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with comparison.COUNTS in words."""
    rows = table.reindex(columns=comparison.COUNTS).itertuples(index=False)
    words = [f"{bad:.0f} of {past:.0f}" if past > 0 else None for bad, past in rows]
    return table.drop(columns=comparison.COUNTS, errors="ignore").assign(**{_COUNTED: words})


def distillation_effects(rows: pd.DataFrame, method: str) -> Points:
    """What distillation changes of a method's mean top-1, on minus off, by S and K in words."""
    sides = ({"method": method, "distillation": distillation} for distillation in (True, False))
    keys = _sides(rows, ["num_states", "memory_size", "head", *comparison.DISTILLATION[1:]])
    pairs = comparison.differences(rows, *sides).sort_values(keys)
    points = {words: comparison.by_order(group, "difference") for words, group in _by_words(pairs, keys, {}).items()}
    return points, {words: mean_interval(differences) for words, differences in points.items()}


def span_in_words(points: Mapping[str, np.ndarray]) -> str:
    """Smallest and largest mean of paired differences, in points."""
    return f"{WORDS.span(pairs.mean() for pairs in points.values())} points" if points else "no pairs"


def best_in_words(points: Mapping[str, np.ndarray]) -> str:
    """The method with the largest mean difference to fine-tuning."""
    best = max(points, key=lambda method: points[method].mean(), default="")
    return f"best is {best}, {span_in_words({best: points[best]})}" if points else "no runs"


def gains_in_words(rows: pd.DataFrame, by: str) -> str:
    """What IL2M gains over fine-tuning, at the values of ``by``."""
    pairs = comparison.differences(rows, {"method": "IL2M"}, {"method": "FT"})
    points = {str(value): comparison.by_order(group, "difference") for value, group in pairs.groupby(by)}
    return f"IL2M against fine-tuning: {span_in_words(points)}"
