"""What bf16 costs in accuracy: paired over seeds, bf16 minus float32, with its interval.

    il2m run benchmarks/precision.yaml      # 18 bases and 36 fine-tunings: with distillation and without
    python benchmarks/precision.py runs/precision

For FT and IL2M, the mean top-1 over states 2..S of each run. A pair is two runs that differ in precision alone.
"""

import argparse
from collections import defaultdict

from il2m.results.pairs import paired_difference
from il2m.results.table import results_table
from il2m.study.find import find_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="folder with the finished runs")
    top1 = defaultdict(dict)  # (method, what else tells a run) -> precision -> mean top-1
    for run in find_runs(parser.parse_args().study):
        identity = {**run.base.identity, **run.identity}
        precision = identity.pop("precision")
        others = str(sorted((name, str(value)) for name, value in identity.items() if "base" not in name))
        table = results_table(run, methods=("FT", "IL2M")).query("score_kind == 'raw' and state > 1")
        for method, mean in table.groupby("method")["top1"].mean().items():
            top1[method, others][precision] = mean
    for method in ("FT", "IL2M"):
        pairs = [of for (name, _), of in top1.items() if name == method and {"float32", "bf16"} <= of.keys()]
        if pairs:
            found = paired_difference([of["bf16"] - of["float32"] for of in pairs])
            interval = f"({found.low:+.4f} to {found.high:+.4f}), p = {found.p_value:.3f}, {found.num_pairs} pairs"
            print(f"{method}: top-1 in bf16 minus float32 {found.estimate:+.4f} {interval}")
        else:
            print(f"{method}: no two runs that differ in precision alone")


if __name__ == "__main__":
    main()
