"""The deciding runs: each class order as a small file, all of them joined, and the registered hypotheses decided.

    il2m run benchmarks/grids/glyphs_k50.yaml --only order-3
    python benchmarks/deciding.py keep runs/glyphs_k50 benchmarks/results/glyphs_k50
    python benchmarks/deciding.py join benchmarks/results/glyphs_k50
    python benchmarks/deciding.py tell benchmarks/results/glyphs_k50
    python benchmarks/deciding.py rounding benchmarks/results/glyphs_k75_floor benchmarks/results/glyphs_k50
    python benchmarks/deciding.py epochs benchmarks/results/glyphs_k200_long benchmarks/results/glyphs_k200_again

`keep` writes every finished run's rows into a file of its class order (order-3.parquet); runs that it holds besides
(another training seed's) stay, if the same code made them. `join` reads all files of a folder, checks that code, result
version and settings agree, and writes, orders for choosing (0 to 2) left out:
    hypotheses.csv      what docs/results.md registered before these runs: estimate, interval, verdict
    besides.csv         what was not registered and is told beside
    methods.csv         every method against fine-tuning, against IL2M, and head by head
    findings.csv        the paper's findings
(`keep` also writes why.csv: results.factorial.why_table, mean over class orders by training seed.) `tell` writes the
tables of these files into docs/results.md, between the folder's markers. `rounding` and `epochs` write rounding.csv and
epochs.csv into the first folder: its runs, whose memory is floored or whose fine-tuning is longer, minus those of the
second that have the same seeds, by class order.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from il2m.results.collect import collect_results
from il2m.results.comparison import PAIRED, by_order, compare_methods, differences, findings_table, mean_results
from il2m.results.factorial import why_table
from il2m.results.pairs import FEWEST_FOR_INTERVAL, LEVEL, holm, paired_difference
from il2m.study.find import find_runs
from il2m.system.machine import library_hash

FOR_CHOOSING = (0, 1, 2)
MUST_AGREE = ("analysis", "result_version", "torch", "gpu")
_NEW, _KEPT = {"head": "new"}, {"head": "extended"}
_OFF, _ON = {"distillation": False}, {"distillation": True}


class Claim(NamedTuple):
    """That a difference a - b (see differences) has this sign. registered: in docs/results.md, before the runs that it
    was made for (others apply it, see REGISTERED); what was not is told beside. memory: it is of runs with a memory,
    or else of those without."""

    a: dict
    b: dict
    sign: int = 1
    registered: bool = True
    memory: bool = True


def _of_distillation(method: str, head: dict, sign: int = 1, **about: bool) -> Claim:
    return Claim({"method": method, **head, **_ON}, {"method": method, **head, **_OFF}, sign, **about)


def _of_head(method: str, distils: dict, **about: bool) -> Claim:
    return Claim({"method": method, **_KEPT, **distils}, {"method": method, **_NEW, **distils}, **about)


# of grids for which not all claims were registered: a part of the words of those that were, "" for none
REGISTERED = dict.fromkeys(("glyphs_k200_long", "glyphs_k200_again", "glyphs_k200_unseen_short"), "")
REGISTERED["glyphs_k200_unseen"] = "unseen"
CLAIMS: dict[str, Claim] = {
    "the kept head gains over the new one, fine-tuning": _of_head("FT", _OFF),
    "the kept head gains over the new one, IL2M": _of_head("IL2M", _OFF),
    **{
        f"distillation {what} {method}, {words} head": _of_distillation(method, head, sign)
        for words, head, what, sign in (("new", _NEW, "helps", 1), ("kept", _KEPT, "hurts", -1))
        for method in ("FT", "IL2M", "FT-th")
    },
    **{
        f"distillation helps FT, {words} head, no memory": _of_distillation("FT", head, memory=False)
        for words, head in (("new", _NEW), ("kept", _KEPT))
    },
    **{
        f"{a} {'gains over' if registered else 'minus'} {b}, {words} head, distillation {on}": Claim(
            {"method": a, **head, **distils}, {"method": b, **head, **distils}, registered=registered
        )
        for a, b in (("IL2M", "FT"), ("IL2M-means", "FT"), ("IL2M-pooled", "IL2M"), ("FT-th", "IL2M"))
        for words, head in (("new", _NEW), ("kept", _KEPT))
        for on, distils in (("off", _OFF), ("on", _ON))
        for registered in [(a, words) != ("IL2M-pooled", "kept")]  # of which no gain was expected
    },
    **{
        f"{a} gains over {b}, {words} head, distillation off": Claim(
            {"method": a, **head, **_OFF}, {"method": b, **head, **_OFF}
        )
        for a, b in (("IL2M-unseen-oracle", "IL2M"), ("IL2M-means-unseen-oracle", "IL2M-means"))
        for words, head in (("new", _NEW), ("kept", _KEPT))
    },
    **{
        f"herding {'gains over' if registered else 'minus'} random exemplars, {method}": Claim(
            {"method": method, "exemplar_selection": "herding", **_NEW, **_OFF},
            {"method": method, "exemplar_selection": "random", **_NEW, **_OFF},
            registered=registered,
        )
        for method, registered in {"FT": True, "NEM": True, "IL2M": False, "FT-th": False}.items()
    },
    **{
        f"the kept head minus the new one, {words}, distillation on": _of_head(method, _ON, registered=False)
        for method, words in (("FT", "fine-tuning"), ("IL2M", "IL2M"))
    },
    "the kept head minus the new one, fine-tuning": _of_head("FT", _OFF, registered=False, memory=False),
}


def keep(study: Path, folder: Path, memory_size: int | None, epochs: int | None) -> None:
    """One file per class order of a study's finished runs, of one K and number of epochs or of all."""
    runs = [run for run in find_runs(study) if memory_size in (None, run.memory_size)]
    runs = {run.name: run for run in runs if epochs in (None, run.identity["epochs"])}
    results = collect_results(study)
    attrs, results = results.attrs, results[results["run"].isin([*runs])]
    folder.mkdir(parents=True, exist_ok=True)
    for order, rows in results.groupby("order_seed"):
        of_order = [runs[name] for name in rows["run"].unique()]
        states = [run.state(state).info for run in of_order for state in range(1, run.states.num_states + 1)]
        rows.attrs = {
            "analysis": library_hash("memory", "methods", "results"),
            "result_version": sorted({run.identity["result_version"] for run in of_order}),
            "torch": sorted({info["made_with"]["torch"] for info in states}),
            "cpu": sorted({info["made_with"]["cpu"] for info in states}),
            "gpu": sorted({info["made_with"]["gpu"] for info in states} - {None}),
            "states": {name: made for name, made in attrs["states"].items() if name in runs},
        }
        path = folder / f"order-{order:.0f}.parquet"
        if path.exists():
            rows = added(rows, pd.read_parquet(path), path)
        rows.reset_index(drop=True).to_parquet(path, index=False, compression="zstd")
        print(f"order {order:.0f}: {len(of_order)} runs -> {path}, which now holds {rows['run'].nunique()}")
    deciding = [run for run in runs.values() if run.config["order_seed"] not in FOR_CHOOSING]
    about = {name: name for name in ("head", "distillation", "train_seed")} | {"K": "memory_size"}
    why = [
        why_table(run).assign(S=run.states.num_states, **{name: run.identity[key] for name, key in about.items()})
        for run in deciding
    ]
    by = ["S", "K", "head", "distillation", "train_seed", "state"]
    table, path = pd.concat(why).groupby(by).mean().round(4), folder / "why.csv"
    if path.exists():
        before = pd.read_csv(path).set_index(by)
        table = pd.concat([before.drop(before.index.intersection(table.index)), table]).sort_index()
    table.to_csv(path)


def added(rows: pd.DataFrame, held: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Rows of runs, and those that a class order's file holds of other runs. Raises SystemExit if code differs."""
    stays = held[~held["run"].isin(rows["run"])]
    if stays.empty:
        return rows
    if differing := [name for name in MUST_AGREE if held.attrs.get(name, []) != rows.attrs.get(name, [])]:
        raise SystemExit(f"{path} holds runs that were made otherwise ({differing}): keep all of them anew.")
    both = pd.concat([stays, rows])
    both.attrs = rows.attrs | {
        "cpu": sorted({*held.attrs["cpu"], *rows.attrs["cpu"]}),
        "states": held.attrs["states"] | rows.attrs["states"],
    }
    return both


def was_registered(grid: str, hypothesis: str) -> bool:
    """Whether a claim, in words, was registered for the runs of this grid."""
    part = REGISTERED.get(grid)
    return part is None or bool(part and part in hypothesis)


def adjusted(hypotheses: pd.DataFrame, grid: str) -> pd.Series:
    """Holm's p-values; the families: what was registered for the runs of this grid, and what is applied to them."""
    families = [was_registered(grid, words) for words in hypotheses["hypothesis"]]
    return hypotheses.groupby(families)["p_value"].transform(lambda family: holm(family.to_numpy()))


def join(folder: Path) -> pd.DataFrame:
    """The rows of all orders that decide. Raises SystemExit if files can't stand in one table."""
    paths = [folder / f"order-{order}.parquet" for order in range(100) if order not in FOR_CHOOSING]
    tables = {path: pd.read_parquet(path) for path in paths if path.exists()}
    if not tables:
        raise SystemExit(f"{folder} holds no order-*.parquet that decides: keep the finished runs first.")
    first_path, first = next(iter(tables.items()))
    for path, table in tables.items():
        for name in MUST_AGREE:
            if table.attrs.get(name, []) != first.attrs.get(name, []):
                what = f"{path}: {name} is {table.attrs.get(name)}, but {first.attrs.get(name)} in {first_path.name}"
                raise SystemExit(f"{what}: keep all orders anew with one version.")
        if differing := {*table["setting"]} ^ {*first["setting"]}:
            raise SystemExit(f"{path}: its settings are not those of {first_path.name}: {differing}.")
        if (table.groupby(["num_states", "memory_size"])["recipe"].nunique() > 1).any():
            raise SystemExit(
                f"{path} holds runs that differ in more than S, K and what is claimed of: keep them apart."
            )
    for table in tables.values():
        table.attrs = {}
    return pd.concat(tables.values(), ignore_index=True)


def decided(results: pd.DataFrame, registered: bool = True) -> pd.DataFrame:
    """One row per claim, of those that were registered or of the others, and value of S and K that has pairs for it.
    Registered ones have a verdict."""
    rows = []
    for words, claim in CLAIMS.items():
        for (num_states, k), of_k in results.groupby(["num_states", "memory_size"]):
            chosen = claim.registered == registered and claim.memory == (k > 0)
            if not chosen or not {claim.a["method"], claim.b["method"]} <= {*of_k["method"]}:
                continue
            if of_k["exemplar_selection"].nunique() > 1 and "exemplar_selection" not in claim.a:
                continue  # it is of one way to choose exemplars
            pairs = differences(of_k, claim.a, claim.b)
            if len(pairs):
                found = paired_difference(by_order(pairs, "difference"), len(pairs))
                about = {"hypothesis": words, "S": num_states, "K": k, "held": mean_held(of_k)}
                verdict = {"verdict": found.verdict(claim.sign)} if registered else {}
                rows.append(about | vars(found) | verdict | {"note": found.note})
    return pd.DataFrame(rows)


COMPARED = [("FT", ""), ("IL2M", ""), *((name, "FT") for name in ("IL2M", "IL2M-means", "IL2M-pooled", "FT-th", "NEM"))]
COMPARED += [("IL2M-unseen-oracle", "FT"), ("IL2M-means-unseen-oracle", "FT"), ("IL2M-unseen-oracle", "IL2M")]
CHANGES = {"rounding": "floor minus ceil", "epochs": "100 epochs minus 20"}


def changes(here: Path, there: Path) -> pd.DataFrame:
    """What changes from the runs of ``there`` to those of ``here``: a row per method, or gain over another, of each
    head and distillation that ``here`` has."""
    both = [join(folder) for folder in (here, there)]
    means = [mean_results(results).query("score_kind == 'raw'") for results in both]
    rows = []
    for head, distillation in means[0][["head", "distillation"]].drop_duplicates().itertuples(index=False):
        of_setting = (of[(of["head"] == head) & (of["distillation"] == distillation)] for of in means)
        ours, theirs = (of.pivot_table("top1", PAIRED, "method") for of in of_setting)
        for method, reference in COMPARED:
            if not {method, reference or method} <= {*ours} & {*theirs}:
                continue
            values = [top1[method] - (top1[reference] if reference else 0) for top1 in (ours, theirs)]
            found = by_class_order(values[0] - values[1])
            setting = f"{'new' if head == 'new' else 'kept'} head, {'on' if distillation else 'off'}"
            what = f"{method} over {reference}" if reference else method
            rows.append({"what": what, "setting": setting} | found)
    held = [mean_held(results) for results in both]
    return pd.DataFrame(rows).assign(held_here=held[0], held_there=held[1])


def by_class_order(difference: pd.Series) -> dict[str, float]:
    """Statistics of a difference of each class order and seed, NaN where one side lacks it; seeds are averaged."""
    difference = difference.dropna()
    return vars(paired_difference(difference.groupby("class_order").mean(), len(difference)))


def told(folder: Path) -> str:
    """The tables of a joined folder, for docs/results.md: the hypotheses, and all methods, by K (and S, if several)."""
    hypotheses, methods = (pd.read_csv(folder / f"{name}.csv") for name in ("hypotheses", "methods"))
    fragile = (hypotheses["verdict"] != "undecided") & (adjusted(hypotheses, folder.name) >= LEVEL)
    hypotheses["verdict"] += fragile.map({True: " °", False: ""})
    besides = [pd.read_csv(path).assign(verdict="not registered") for path in folder.glob("besides.csv")]
    lines = ["| hypothesis | K (held) | points | orders | verdict |", "| --- | --- | --- | --- | --- |"]
    several = hypotheses["S"].nunique() > 1
    for row in pd.concat([hypotheses, *besides]).sort_values(["S", "K"], kind="stable").itertuples():
        what = f"{row.hypothesis}{f', S = {row.S}' * several} | {row.K} ({row.held:.0f})"
        lines.append(f"| {what} | {points(row)} | {row.num_units} | {row.verdict} |")
    methods = methods[methods["reference"] == "FT"]
    about = ["head", "distillation", "exemplar_selection"]
    for (num_states, k), of_k in methods.groupby(["num_states", "memory_size"]):
        chosen_ways = of_k["exemplar_selection"].nunique() > 1
        columns = {
            f"{words} head, {on}{f', {way}' * chosen_ways}": (head, distils, way)
            for words, head in (("new", "new"), ("kept", "extended"))
            for on, distils in (("off", False), ("on", True))
            for way in sorted(of_k["exemplar_selection"].unique(), reverse=True)
            if (of_k[about] == [head, distils, way]).all(axis=1).any()
        }
        title = f"S = {num_states}, " * several + f"K = {k:.0f}"
        lines += ["", f"| {title} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
        for method, rows in of_k.groupby("method", sort=False):
            cells = []
            for setting in columns.values():
                of_setting = rows[(rows[about] == [*setting]).all(axis=1)]
                if of_setting.empty:  # the method is not defined there
                    cells.append("")
                    continue
                row = of_setting.iloc[0]
                cells.append(f"{row['mean']:.3f}".lstrip("0") + f" {points(row)}" * (method != "FT"))
            lines.append(f"| `{method}` | {' | '.join(cells)} |")
    for name, words in CHANGES.items():
        for path in folder.glob(f"{name}.csv"):
            lines += ["", f"| {words} | points | orders |", "| --- | --- | --- |"]
            for row in pd.read_csv(path).itertuples():
                lines.append(f"| {row.what}, {row.setting} | {points(row)} | {row.num_units} |")
    return "\n".join(lines)


def points(row: Any) -> str:
    """An estimate in points, with its interval if it is of enough class orders to have one."""
    interval = f" ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
    return f"{100 * row.estimate:+.1f}{interval if row.num_units >= FEWEST_FOR_INTERVAL else ''}"


def tell(name: str, tables: str) -> None:
    """Write tables into docs/results.md, between the markers of this name."""
    page = Path(__file__).parents[1] / "docs" / "results.md"
    begin, end = (f"<!-- {name}: {which} -->" for which in ("begin", "end"))
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{tables}\n{end}{rest.partition(end)[2]}")


def mean_held(results: pd.DataFrame) -> float:
    """Mean number of images that the memory holds over states 2..S."""
    return results.loc[results["state"] > 1, "images_held"].mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "join", "tell", *CHANGES))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--memory-size", type=int, help="keep runs of this K alone")
    parser.add_argument("--epochs", type=int, help="keep runs of this many epochs of fine-tuning alone")
    arguments = parser.parse_args()
    if arguments.what == "keep":
        return keep(*arguments.folders, arguments.memory_size, arguments.epochs)
    if arguments.what in CHANGES:
        table = changes(*arguments.folders)
        return table.to_csv(arguments.folders[0] / f"{arguments.what}.csv", index=False)
    (folder,) = arguments.folders
    if arguments.what == "tell":
        return tell(folder.name, told(folder))
    results = join(folder)
    hypotheses = decided(results)
    hypotheses.to_csv(folder / "hypotheses.csv", index=False)
    if len(besides := decided(results, registered=False)):
        besides.to_csv(folder / "besides.csv", index=False)
    there = {*results["method"]}  # IL2M needs exemplars
    compared = [
        compare_methods(results, reference).assign(reference=reference)
        for reference in ("FT", "IL2M")
        if reference in there
    ]
    pd.concat(compared).to_csv(folder / "methods.csv", index=False)
    findings_table(results).to_csv(folder / "findings.csv", index=False)
    with pd.option_context("display.width", 200, "display.max_colwidth", 70, "display.max_rows", None):
        shown = hypotheses[["hypothesis", "S", "K", "estimate", "low", "high", "p_value", "num_units", "verdict"]]
        print(shown.round(3).to_string(index=False))
    return None


if __name__ == "__main__":
    main()
