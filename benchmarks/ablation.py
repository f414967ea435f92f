"""How long all methods and factors of the ablation take, and how much memory: on a run of your own, or at full size.

    python benchmarks/ablation.py RUN_FOLDER      a finished run, for example of the default study
    python benchmarks/ablation.py                 50,000 validation images, 1,000 classes in two states, 512 features

Everything runs in this process, on one thread unless OMP_NUM_THREADS says otherwise. The second makes random scores
(about 1.3 GB in a temporary folder); making them is not counted.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from il2m.memory.statistics import class_means, own_and_top
from il2m.methods.registry import METHODS, missing_for
from il2m.results.factorial import factor_effects, factorial_table
from il2m.results.table import results_table, state_accuracies
from il2m.study.runs import Run

STATE_SIZES, NUM_FEATURES, VAL_PER_CLASS, NEW_PER_CLASS, MEMORY_SIZE = (500, 500), 512, 50, 100, 20_000


def measure(run: Run) -> None:
    """Print the time of each table of the notebook, all methods together, and the peak memory of this process."""
    left_out = {method: reason for method in METHODS if (reason := missing_for(run, method))}
    print("left out:", left_out or "nothing")
    start, cpu_start = time.perf_counter(), time.process_time()
    for name, table in {
        "all methods, all metrics": lambda: results_table(run, methods=METHODS, details=True),
        "factorial table": lambda: factor_effects(factorial_table(run)),
        "accuracy matrices": lambda: [state_accuracies(run, method) for method in ("FT", "IL2M")],
    }.items():
        began = time.perf_counter()
        table()
        print(f"{name:25} {time.perf_counter() - began:7.2f} s")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    print(f"{'in all':25} {wall:7.2f} s, {cpu:.2f} s of them on the processor")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GB, imports included (scores read from disk through memory maps count too)")


def make_run(folder: Path) -> Run:
    """A finished run of random features, heads, scores and statistics at full size, with held-out exemplars for BiC."""
    num_classes = sum(STATE_SIZES)
    base = {"state_sizes": list(STATE_SIZES), "class_order": list(range(num_classes)), "train_seed": 0}
    notes = {"dataset": "random", "order_seed": 0, "class_names": [str(c) for c in range(num_classes)]}
    base_run = Run.create(folder, "base", base, **notes)
    identity = {"memory_size": MEMORY_SIZE, "train_seed": 0, "base": base, "state_sizes": list(STATE_SIZES)}
    run = Run.create(folder, "fine_tuning", identity, base=base_run.name, **notes)
    for state in range(1, len(STATE_SIZES) + 1):
        make_state(base_run if state == 1 else run, state)
    return run


def make_state(run: Run, state: int) -> None:
    rng = np.random.default_rng(state)
    num_seen, num_past = run.states.num_seen(state), run.states.num_past(state)
    centres = np.random.default_rng(0).normal(size=(num_seen, NUM_FEATURES)).astype(np.float32)
    weight = 0.05 * centres + rng.normal(scale=0.02, size=centres.shape).astype(np.float32)
    weight[num_past:] *= 1.3  # the bias towards new classes
    bias = rng.normal(scale=0.05, size=num_seen).astype(np.float32)

    def images(prefix: str, classes: range, per_class: int) -> dict[str, np.ndarray]:
        labels = np.repeat(np.arange(classes.start, classes.stop), per_class)
        noise = rng.normal(scale=4, size=(len(labels), NUM_FEATURES)).astype(np.float32)
        features = np.maximum(centres[labels] + noise, 0)
        scores = features @ weight.T + bias
        return {f"{prefix}_labels": labels, f"{prefix}_features": features, f"{prefix}_scores": scores}

    arrays = images("val", range(num_seen), VAL_PER_CLASS)
    new = images("new", range(num_past, num_seen), NEW_PER_CLASS)
    scores, labels = new.pop("new_scores"), new["new_labels"]
    arrays |= new
    memory = {}
    past = images("exemplar", range(num_past), MEMORY_SIZE // num_past) if num_past else {}
    for kind, of_kind in (("raw", lambda s: s), ("softmax", lambda s: softmax(s, axis=1))):
        own, top = own_and_top(of_kind(scores), labels)
        memory[kind] = {
            "initial_means": class_means(own, labels, num_seen)[num_past:].tolist(),
            "confidence": float(top.mean()),
            "current_means": [],
        }
        if past:
            own, _ = own_and_top(of_kind(past["exemplar_scores"]), past["exemplar_labels"])
            memory[kind]["current_means"] = class_means(own, past["exemplar_labels"], num_past).tolist()
        memory[kind]["all_current_means"] = memory[kind]["current_means"]
    arrays |= past
    if num_past:
        held_out = images("held_out", range(num_seen), 4)
        arrays |= {name: held_out[name] for name in ("held_out_labels", "held_out_scores")}
        arrays["past_class_features"] = centres[:num_past]
    head = {"head.weight": torch.from_numpy(weight), "head.bias": torch.from_numpy(bias)}
    run.store(state, arrays, head, {"second_memory": memory})


def main() -> None:
    if len(sys.argv) > 1:
        measure(Run(Path(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        # in a process of its own, so that the peak is the computing's
        subprocess.run([sys.executable, __file__, str(run.folder)], check=True)


if __name__ == "__main__":
    main()
