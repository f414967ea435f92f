"""How long the explorer takes to show a control's change, and to open: times and memory of one run.

    python benchmarks/explorer.py default runs/quickstart   # the finished default study, distillation off and on
    python benchmarks/explorer.py large                     # makes 10 states of 100 classes, 50,000 images at the end
    python benchmarks/explorer.py large FOLDER              # and measures them; --json prints the table's rows

Drawing and its SVG are included; the browser's own time is not. What is first asked for is computed then, and kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from authors_files import peak_mb

from il2m.exchange.importing import import_scores
from il2m.explorer.explore import BiasExplorer, open_outcomes
from il2m.explorer.views import VIEWS

CHANGES = (
    ("state", -1),
    ("state", 0),
    ("method", "IL2M-no-gate"),
    ("method", "IL2M"),
    ("top", 5),
    ("top", 1),
    ("class_name", "3"),
    ("by_origin", True),
    ("by_origin", False),
    ("score_kind", "softmax"),
    ("score_kind", "raw"),
)
WHAT_IF = (("means", 0.5), ("confidence", 1.5), ("gate", 0.0), ("means", 1.2))


def large_run(folder: Path, num_states: int = 10, classes: int = 100, images: int = 50, exemplars: int = 20) -> Path:
    """Made-up scores of a biased classifier, of the size of ILSVRC's validation set, as a run folder."""
    rng, files = np.random.default_rng(0), []
    for state in range(1, num_states + 1):
        seen, past = state * classes, (state - 1) * classes
        arrays = {"state_sizes": [classes] * state}
        for name, first, count in (("val", 0, images), ("new", past, 20), ("exemplar", 0, exemplars)):
            labels = np.repeat(np.arange(first, past if name == "exemplar" else seen), count)
            scores = rng.standard_normal((len(labels), seen), dtype=np.float32)
            scores[np.arange(len(labels)), labels] += np.where(labels < past, 5, 7)
            scores[:, past:] += 1
            if len(labels):
                arrays |= {f"{name}_scores": scores, f"{name}_labels": labels}
        files.append(folder / f"state_{state}.npz")
        np.savez(files[-1], **arrays)
    run = import_scores(files, folder / "run")
    for file in files:
        file.unlink()
    return run.folder


def shown_after(page: BiasExplorer, name: str, value: object) -> float:
    """Seconds until a change is shown."""
    start = time.perf_counter()
    getattr(page.controls, name).value = value
    return time.perf_counter() - start


def measure(runs: list) -> dict[str, str]:
    start_memory, start = peak_mb(), time.perf_counter()
    page = BiasExplorer(open_outcomes(runs, data_dir="data"))
    opened = time.perf_counter() - start
    size = sum(one.run.state(one.num_states).array("val_scores").nbytes for one in page.all_outcomes) / 1e6
    print(f"open: {opened:.2f} s, {peak_mb() - start_memory:.0f} MB; scores {size:.0f} MB")
    last, medians, slowests = page.controls.state.max, [], []
    for view in VIEWS:
        times = {f"to view {view}": shown_after(page, "view", view)}
        for name, value in (*CHANGES, *(WHAT_IF if view == "what if" else ())):
            times[f"{name} {value}"] = shown_after(page, name, last + value if name == "state" else value)
        slowest, typical = max(times, key=times.get), np.median(list(times.values()))
        medians.append(1000 * typical)
        slowests.append(times[slowest])
        print(f"{view:>18}: median {1000 * typical:4.0f} ms, slowest {1000 * times[slowest]:4.0f} ms ({slowest})")
    memory = peak_mb() - start_memory
    print(f"peak memory over that of importing: {memory:.0f} MB")
    return {
        f"the explorer on {size:.0f} MB of scores": (
            f"opens in {opened:.1f} s; a control {min(medians):.0f} to {max(medians):.0f} ms in each view's median, "
            f"{max(slowests):.1f} s at most; {memory:.0f} MB"
        )
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["default", "large"])
    parser.add_argument(
        "folder", nargs="?", default="runs/quickstart", help="of the default study, or of the large run"
    )
    parser.add_argument("--json", action="store_true", help="end with one object, for benchmarks/table.py")
    args = parser.parse_args()
    if args.what == "default" or (Path(args.folder) / "config.json").exists():
        rows = measure([args.folder])
        if args.json:
            print(json.dumps(rows))
    else:
        folder = Path(tempfile.mkdtemp())
        print(f"made {large_run(folder)}: give this folder to measure it")  # making it would spoil the peak of memory
    return 0


if __name__ == "__main__":
    sys.exit(main())
