"""The ablation over many seeds, as small files and as tables for a README.

    il2m run notebooks/grids/glyphs_seeds.yaml
    python benchmarks/ablation_seeds.py runs/glyphs_seeds benchmarks/results/glyphs_seeds --joint data

reads every finished run of a study's folder and writes into the second one (with --joint DATA_DIR it first trains, for
each base, jointly on all classes so far):
    results.parquet     one row per run, state, method and score kind
    methods.csv         every method against fine-tuning, and against IL2M: paired over seeds, with interval and test
    systems.csv         the field's known systems
    findings.csv        the paper's findings with estimate, interval and verdict
"""

import argparse
from pathlib import Path

import pandas as pd

from il2m.results.collect import collect_results
from il2m.results.comparison import common_seeds, compare_methods, findings_table, gap_table, systems_table
from il2m.study.runs import Run
from il2m.study.stages import train_joint


def markdown(table: pd.DataFrame) -> str:
    """A table for a person: numbers to three decimals."""
    cells = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [cells.columns, ["---"] * len(cells.columns), *cells.to_numpy()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(table: pd.DataFrame) -> list[str]:
    """Each row's estimate with its interval and p-value, in words."""
    return [
        f"{row.estimate:+.3f} ({row.low:+.3f} to {row.high:+.3f}), p = {row.p_value:.3f}" for row in table.itertuples()
    ]


def methods_by_distillation(results: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1, difference to fine-tuning and G_IL of every method, distillation off and on; other settings plain."""
    results = results[(results["held_out"] == 0) & (results["balanced_epochs"] == 0)]
    results = results[results["exemplar_selection"] != "herding"]
    results = results[common_seeds(results, ["distillation"])]  # of an unfinished study
    compared, gaps = compare_methods(results[results["method"] != "joint"]), gap_table(results)
    columns = {}
    for distillation, name in ((False, "distillation off"), (True, "distillation on")):
        of = compared[compared["distillation"] == distillation].set_index("method")
        gap = gaps[gaps["distillation"] == distillation].groupby("method")["gap"].mean()
        columns |= {name: of["mean"], f"{name}: minus FT": pd.Series(with_interval(of), of.index), f"{name}: G_IL": gap}
    return pd.DataFrame(columns).loc[compared["method"].unique()].reset_index(names="method")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder with the finished runs")
    parser.add_argument("to", type=Path, help="folder to write the files into")
    parser.add_argument("--joint", metavar="DATA_DIR", help="train jointly for each base first; data from DATA_DIR")
    arguments = parser.parse_args()
    if arguments.joint:
        for path in sorted(arguments.study.glob("base-*/config.json")):
            base = Run(path.parent)
            print("joint:", train_joint(out_dir=str(arguments.study), base=base, data_dir=arguments.joint).folder)
    results = collect_results(arguments.study)
    without_joint = results[results["method"] != "joint"]
    compared = [compare_methods(without_joint, reference).assign(reference=reference) for reference in ("FT", "IL2M")]
    systems, findings = systems_table(results), findings_table(results)
    arguments.to.mkdir(parents=True, exist_ok=True)
    results.loc[:, :"true_new"].to_parquet(arguments.to / "results.parquet", index=False)
    pd.concat(compared).to_csv(arguments.to / "methods.csv", index=False)
    systems.to_csv(arguments.to / "systems.csv", index=False)
    findings.to_csv(arguments.to / "findings.csv", index=False)
    for (num_states, k), of_k in results.groupby(["num_states", "memory_size"]):
        print(f"S = {num_states}, K = {k}", markdown(methods_by_distillation(of_k)), sep="\n", end="\n\n")
    print(markdown(systems[["memory_size", "system", "made of", "top1", "top5", "gap", "num_runs"]]), end="\n\n")
    shown = findings[(findings["held_out"] == 0) & (findings["balanced_epochs"] == 0)]
    shown = shown.assign(difference=with_interval(shown))
    print(markdown(shown[["finding", "memory_size", "difference", "verdict"]]))


if __name__ == "__main__":
    main()
