"""What bf16 costs in accuracy: paired over class orders, bf16 minus float32, with its interval.

    il2m run benchmarks/precision.yaml      # 12 bases and 12 fine-tunings
    python benchmarks/precision.py runs/precision benchmarks/results/precision.csv

For each method, the mean top-1 over states 2..S of each run. A pair is two runs that differ in precision alone.
"""

import argparse

import pandas as pd

from il2m.results.comparison import mean_results
from il2m.results.pairs import paired_difference
from il2m.results.table import results_table
from il2m.study.find import find_runs

METHODS = ("FT", "IL2M", "IL2M-pooled", "FT-th", "NEM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="folder with the finished runs")
    parser.add_argument("out", help="table to write")
    arguments = parser.parse_args()
    tables = [
        mean_results(results_table(run, methods=METHODS)).assign(precision=run.identity["precision"])
        for run in find_runs(arguments.study)
    ]
    means = pd.concat(tables).query("score_kind == 'raw'")
    rows = []
    for method in METHODS:
        top1 = means[means["method"] == method].pivot(index="class_order", columns="precision", values="top1")
        found = paired_difference((top1["bf16"] - top1["float32"]).dropna())
        rows.append({"method": method, **top1.mean().to_dict(), **vars(found)})
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out, index=False)
    print(table[["method", "float32", "bf16", "estimate", "low", "high", "p_value", "num_units"]].round(4).to_string())


if __name__ == "__main__":
    main()
