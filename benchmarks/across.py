"""All deciding runs side by side: what one grid alone does not show.

    python benchmarks/across.py

Reads the class orders in benchmarks/results/, and writes benchmarks/results/across/ and the tables between the markers
`across` of docs/results.md:
    methods.csv      each setting: IL2M against fine-tuning, and other methods against IL2M, in top-1 and top-5
    heads.csv        what distillation does with a new head, with a kept one, and the difference of the two
    contrasts.csv    what distillation does, between two grids
    tests.csv        how many registered hypotheses were decided, and how many stay so under Holm's correction
"""

from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
from deciding import LEVEL, adjusted, by_class_order, join, points, tell, was_registered

from il2m.results.comparison import PAIRED, compare_methods, mean_results
from il2m.results.pairs import FEWEST_FOR_VERDICT, STATISTICS, holm

RESULTS = Path(__file__).parent / "results"
CONDITIONS = {  # in words -> folder, S
    "K = 50": ("glyphs_k50", 10),
    "K = 100": ("glyphs_k100", 10),
    "K = 200": ("glyphs_k200", 10),
    "S = 5, K = 200": ("glyphs_s5_s25", 5),
    "S = 25, K = 200": ("glyphs_s5_s25", 25),
    "K = 200, 100 epochs": ("glyphs_k200_long", 10),
    "CIFAR-100, K = 2000": ("cifar100_k2000", 10),
}
AGAIN = {"K = 200, made again": ("glyphs_k200_again", 10)}  # the same grid from other bases: counted once
OTHERS = ("IL2M-confidence", "FT-th", "NEM", "WA", "ScaIL", "SIW")
CONTRASTS = [
    ("K = 200, 100 epochs", "K = 200, made again"),
    ("S = 5, K = 200", "K = 200"),
    ("S = 5, K = 200", "K = 200, made again"),
]
_HEADS = {"new": "new", "kept": "extended"}
_SETTING = ["condition", "head", "distillation"]


@cache
def rows_of(condition: str) -> pd.DataFrame:
    """The results of a condition's class orders that decide."""
    folder, num_states = (CONDITIONS | AGAIN)[condition]
    results = join(RESULTS / folder)
    return results[results["num_states"] == num_states]


def methods_table() -> pd.DataFrame:
    """Paired differences of methods on the same models, one row per setting, method and column (top1, top5)."""
    tables = []
    for condition in CONDITIONS:
        rows = rows_of(condition)
        rows = rows[rows["method"].isin(["FT", "IL2M", *OTHERS]) & (rows["score_kind"] == "raw")]
        for column in ("top1", "top5"):
            for reference, methods in {"FT": ("IL2M",), "IL2M": OTHERS}.items():
                table = compare_methods(rows, reference, column=column)
                table = table[table["method"].isin(methods)]
                tables.append(table.assign(condition=condition, reference=reference, column=column))
    return pd.concat(tables)[[*_SETTING, "column", "method", "reference", *STATISTICS]]


def distillation(condition: str, method: str) -> pd.DataFrame:
    """What distillation changes, (class orders and seeds, heads): mean top-1 over states 2..S, on minus off."""
    means = mean_results(rows_of(condition)).query("score_kind == 'raw' and method == @method")
    top1 = means.pivot_table("top1", PAIRED, ["head", "distillation"])
    return pd.DataFrame({words: top1[head, True] - top1[head, False] for words, head in _HEADS.items()})


def heads_table() -> pd.DataFrame:
    rows = []
    for condition in CONDITIONS | AGAIN:
        for method in ("FT", "IL2M", "task-aware-oracle"):
            effect = distillation(condition, method)
            effect["new minus kept"] = effect["new"] - effect["kept"]
            about = {"condition": condition, "method": method}
            rows += [about | {"head": each} | by_class_order(effect[each]) for each in effect]
    return pd.DataFrame(rows)


def contrasts_table() -> pd.DataFrame:
    rows = []
    for here, there in CONTRASTS:
        for method in ("FT", "IL2M"):
            change = distillation(here, method) - distillation(there, method)
            about = {"condition": here, "minus": there, "method": method}
            rows += [about | {"head": head} | by_class_order(change[head]) for head in change]
    return pd.DataFrame(rows)


def tests_table() -> pd.DataFrame:
    """By grid, and over all: registered hypotheses on enough class orders, decided ones, and those that Holm leaves."""
    tables = {path.parent.name: pd.read_csv(path) for path in sorted(RESULTS.glob("*/hypotheses.csv"))}
    tables = {grid: table.assign(p_adjusted=adjusted(table, grid)) for grid, table in tables.items()}
    tested = pd.concat(tables, names=["grid", ""]).reset_index("grid")
    tested = tested[[was_registered(row.grid, row.hypothesis) for row in tested.itertuples()]]
    tested = tested[tested["num_units"] >= FEWEST_FOR_VERDICT]
    tested = tested.assign(over_all=holm(tested["p_value"].to_numpy()))
    is_decided = tested["verdict"] != "undecided"
    counted = tested.assign(
        tested=1,
        decided=is_decided,
        holm_of_grid=is_decided & (tested["p_adjusted"] < LEVEL),
        holm_of_all=is_decided & (tested["over_all"] < LEVEL),
    )
    counts = counted.groupby("grid")[["tested", "decided", "holm_of_grid", "holm_of_all"]].sum()
    return pd.concat([counts, counts.sum().to_frame("all").T.rename_axis("grid")]).astype(int).reset_index()


def in_short(row: pd.Series) -> str:
    """An estimate in points; in brackets where nothing is decided."""
    text = f"{100 * row.estimate:+.1f}"
    return text if row.low > 0 or row.high < 0 else f"[{text}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def told(folder: Path = RESULTS / "across") -> str:
    """The tables of docs/results.md."""
    methods, heads, contrasts, tests = (
        pd.read_csv(folder / f"{name}.csv") for name in ("methods", "heads", "contrasts", "tests")
    )
    parts = []
    for method, reference in (("IL2M", "FT"), ("FT-th", "IL2M")):
        columns = [(column, distils) for distils in (False, True) for column in ("top1", "top5")]
        of_pair = methods[(methods["method"] == method) & (methods["reference"] == reference)]
        by_setting, rows = of_pair.set_index([*_SETTING, "column"]), []
        for condition, (words, head) in product(CONDITIONS, _HEADS.items()):
            cells = (by_setting.loc[condition, head, distils, column] for column, distils in columns)
            rows.append([condition, words, *map(in_short, cells)])
        about = [f"{'top-' + column[-1]}, distillation {'on' if distils else 'off'}" for column, distils in columns]
        parts.append(table([f"`{method}` over `{reference}`", "head", *about], rows))
    rows = []
    top1 = methods[(methods["column"] == "top1") & (methods["reference"] == "IL2M")]
    for method, (words, head) in product(OTHERS, _HEADS.items()):
        of_method = top1[(top1["method"] == method) & (top1["head"] == head)]
        better, worse = (of_method["low"] > 0).sum(), (of_method["high"] < 0).sum()
        reach = f"{100 * of_method['estimate'].min():+.1f} to {100 * of_method['estimate'].max():+.1f}"
        rows.append([f"`{method}`", words, better, len(of_method) - better - worse, worse, reach])
    parts.append(table(["against `IL2M`, top-1", "head", "better", "undecided", "worse", "from, to"], rows))
    for method in ("FT", "IL2M", "task-aware-oracle"):
        rows = []
        for condition, of in heads[heads["method"] == method].groupby("condition", sort=False):
            rows.append([condition, *map(points, of.itertuples())])
        parts.append(table([f"distillation, `{method}`", "new head", "kept head", "new minus kept"], rows))
    rows = [
        [f"{row.condition} minus {row.minus}", f"`{row.method}`", row.head, points(row)]
        for row in contrasts.itertuples()
    ]
    parts.append(table(["what distillation does", "", "head", "points"], rows))
    rows = [[row.grid.replace("_", " "), *row[2:]] for row in tests.itertuples()]
    parts.append(table(["hypotheses", "tested", "decided", "by Holm in the grid", "by Holm over all"], rows))
    return "\n\n".join(parts)


def main() -> None:
    folder = RESULTS / "across"
    folder.mkdir(exist_ok=True)
    for name, made in {
        "methods": methods_table,
        "heads": heads_table,
        "contrasts": contrasts_table,
        "tests": tests_table,
    }.items():
        made().to_csv(folder / f"{name}.csv", index=False)
    tell("across", told(folder))


if __name__ == "__main__":
    main()
