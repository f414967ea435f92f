"""Speed and memory on files of the authors' size: one run, and ratios of what is measured in it.

    python benchmarks/authors_files.py [--dir DIR] [--json]

Makes the files (about 700 MB, in a temporary folder unless told otherwise), then measures, each in its own process:
  list      reading a list of 1.28 million lines
  files     `il2m rectify` on 10 states x 100 classes: 27,500 validation and 12,900 training rows of up to 1,000 scores
  loops     the same with plain python loops over lines and classes, the shape of the authors' script
  memory    50,000 x 1,000 float32 scores in memory: rectified, and ranked before and after; and one copy of them into
            memory that is there already
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_STATES, CLASSES_PER_STATE, MEMORY_SIZE = 10, 100, 900
VAL_PER_CLASS, TRAIN_PER_CLASS = 5, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="where the files are made, and kept")
    parser.add_argument("--json", action="store_true", help="print one object, for benchmarks/table.py")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(measure(TASKS[args.task], args.dir)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.dir or Path(temporary)
        make_files(folder)
        found = {task: in_its_own_process(task, folder) for task in TASKS}
    if args.json:
        print(json.dumps(rows_of_table(found)))
    else:
        report(found)


def rows_of_table(found: dict[str, dict]) -> dict[str, str]:
    files, loops, memory = found["files"], found["loops"], found["memory"]["result"]
    return {
        "a list of 1.28 million lines": f"{found['list']['wall_s']:.1f} s, {found['list']['peak_mb']:.0f} MB",
        "`il2m rectify` on 434 MB of text, 10 states x 100 classes": (
            f"{files['wall_s']:.1f} s, {files['peak_mb']:.0f} MB; {loops['cpu_s'] / files['cpu_s']:.1f} times less CPU "
            "than Python loops"
        ),
        "50,000 x 1,000 scores rectified, top-1 and top-5 before and after": (
            f"{memory['work_s'] / memory['copy_s']:.0f} times a copy of the array into memory that is there already; "
            f"{memory['extra_of_size']:.2f} times its size in extra memory"
        ),
    }


def report(found: dict[str, dict]) -> None:
    for task, numbers in found.items():
        shown = {name: value for name, value in numbers.items() if name != "result"}
        print(f"{task:<7}", "  ".join(f"{name} {value:.2f}" for name, value in shown.items()))
    files, loops = found["files"], found["loops"]
    differences = np.abs(np.array(files["result"]) - np.array(loops["result"]))
    print(
        f"list of 1.28 million lines: {found['list']['wall_s']:.2f} s, {found['list']['extra_mb']:.0f} MB extra, "
        f"{found['list']['peak_mb']:.0f} MB in all"
    )
    print(
        f"rectify files: {loops['cpu_s'] / files['cpu_s']:.1f} times less CPU than loops, "
        f"{loops['wall_s'] / files['wall_s']:.1f} times faster; {files['extra_mb']:.0f} MB extra (the largest state's "
        f"scores are {VAL_PER_CLASS * 1000 * 1000 * 8 / 1e6:.0f} MB); accuracies differ by {differences.max():.1e}"
    )
    memory = found["memory"]["result"]
    print(f"in memory: {memory['work_s'] / memory['copy_s']:.1f} times one copy ({memory['copy_s']:.3f} s); "
          f"extra memory {memory['extra_of_size']:.2f} times the array")  # fmt: skip


def in_its_own_process(task: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--task", task, "--dir", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(task, folder: Path) -> dict:
    import il2m.exchange.score_files  # noqa: F401 - its import is no part of what is measured

    before = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    result = task(folder)
    numbers = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return numbers | {"extra_mb": peak_mb() - before, "peak_mb": peak_mb(), "result": result}


def peak_mb() -> float:
    """This process's highest resident memory; Linux (getrusage's would be inherited from the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def files_of(folder: Path):
    from il2m.exchange.score_files import authors_files

    roots = (folder / "lists", folder / "scores", folder / "first")
    return authors_files(*roots, "made_up", NUM_STATES, (CLASSES_PER_STATE,), MEMORY_SIZE)


def make_files(folder: Path) -> None:
    """Lists and scores that a fine-tuned network might give: new classes score higher, true classes higher still."""
    from il2m.authors.formats import write_image_list, write_scores

    rng = np.random.default_rng(0)
    lines = (f"train/n{i // 1280:08d}/n{i // 1280:08d}_{i:07d}.JPEG {i // 1280}\n" for i in range(1_280_000))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "large.lst").open("w") as file:
        file.writelines(lines)
    files = files_of(folder)
    for state in range(1, NUM_STATES + 1):
        num_past, num_seen = files.states.num_past(state), files.states.num_seen(state)
        labels = {
            "new": np.repeat(np.arange(num_past, num_seen), TRAIN_PER_CLASS),
            "exemplar": np.repeat(np.arange(num_past), MEMORY_SIZE // max(num_past, 1)),
            "val": np.repeat(np.arange(num_seen), VAL_PER_CLASS),
        }
        for part, (list_path, scores_path) in files.pairs(state).items():
            scores = rng.normal(0, 2, (len(labels[part]), num_seen)).astype(np.float32)
            scores[:, num_past:] += 4
            scores[np.arange(len(scores)), labels[part]] += 5
            write_image_list(list_path, [f"{part}/{i:06d}.png" for i in range(len(scores))], labels[part])
            write_scores(scores_path, [scores])


def read_large_list(folder: Path) -> int:
    from il2m.authors.formats import read_image_list

    return len(read_image_list(folder / "large.lst"))


def rectify_with_il2m(folder: Path) -> list[float]:
    from il2m.exchange.score_files import rectify_files

    summary = rectify_files(files_of(folder), undefined="as-published")
    return [v for method in ("FT", "IL2M") for top in (summary.top1, summary.top5) for v in top[method]]


def rectify_with_loops(folder: Path) -> list[float]:
    """One line after the other, one class after the other, in dictionaries, scores stacked row by row into batches of
    256: the shape of the authors' script."""
    files = files_of(folder)
    initial, initial_count, confidence = {}, {}, {}
    hits: dict[tuple[str, int], list[float]] = {(m, k): [] for m in ("FT", "IL2M") for k in (1, 5)}
    for state in range(1, NUM_STATES + 1):
        pairs, num_past = files.pairs(state), files.states.num_past(state)
        highest, images = 0.0, 0
        for label, scores in rows(*pairs["new"]):
            initial[label] = initial.get(label, 0.0) + scores[label]
            initial_count[label] = initial_count.get(label, 0) + 1
            highest, images = highest + np.max(scores), images + 1
        confidence[state] = highest / images
        current, current_count = {}, {}
        for label, scores in rows(*pairs["exemplar"]) if "exemplar" in pairs else ():
            current[label] = current.get(label, 0.0) + scores[label]
            current_count[label] = current_count.get(label, 0) + 1
        right = dict.fromkeys(hits, 0)
        total, stacked, labels = 0, {}, []
        for label, scores in rows(*pairs["val"]):
            corrected = scores.copy()
            if np.argmax(scores) >= num_past:
                for c in range(num_past):
                    ratio = (initial[c] / initial_count[c]) / (current[c] / current_count[c])
                    corrected[c] *= ratio * confidence[state] / confidence[c // CLASSES_PER_STATE + 1]
            labels.append(label)
            for method, values in (("FT", scores), ("IL2M", corrected)):
                stacked[method] = np.vstack((stacked[method], values)) if method in stacked else values[None]
            if len(labels) == 256:
                count_hits(stacked, labels, right)
                total, stacked, labels = total + len(labels), {}, []
        if labels:
            count_hits(stacked, labels, right)
            total += len(labels)
        for key, count in right.items():
            hits[key].append(count / total)
    return [v for values in hits.values() for v in values]


def count_hits(stacked: dict[str, np.ndarray], labels: list[int], right: dict[tuple[str, int], int]) -> None:
    for method, scores in stacked.items():
        hits = np.argsort(-scores, axis=1)[:, :5] == np.array(labels)[:, None]
        for k in (1, 5):
            right[method, k] += int(hits[:, :k].sum())


def rows(list_path: Path, scores_path: Path):
    with list_path.open() as images, scores_path.open() as scores:
        for image, line in zip(images, scores, strict=True):
            yield int(image.split()[1]), np.array(line.split(), dtype=float)


def rectify_in_memory(folder: Path) -> dict[str, float]:
    import tracemalloc

    from il2m.exchange.score_files import ranks_before_and_after
    from il2m.memory.statistics import ClassStatistics

    rng = np.random.default_rng(0)
    scores = rng.standard_normal((50_000, 1000), dtype=np.float32)
    scores[:, 900:] += 1
    labels = rng.integers(0, 1000, len(scores))
    means = rng.uniform(1, 3, (2, 1000))
    statistics = ClassStatistics(*means, rng.uniform(2, 3, 10), np.repeat(np.arange(1, 11), 100))
    blocks = [(scores[i : i + 512], labels[i : i + 512]) for i in range(0, len(scores), 512)]
    there = np.ones_like(scores)  # written to, so that no copy waits for its pages
    times: dict[str, list[float]] = {"copy_s": [], "work_s": []}
    for _ in range(7):  # in turn, the best of each: the machine may be shared
        works = {
            "copy_s": lambda: np.copyto(there, scores),
            "work_s": lambda: ranks_before_and_after(blocks, statistics),
        }
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    tracemalloc.start()
    ranks_before_and_after(blocks, statistics)
    extra = tracemalloc.get_traced_memory()[1] / scores.nbytes
    return {name: min(values) for name, values in times.items()} | {"extra_of_size": extra}


TASKS = {"list": read_large_list, "files": rectify_with_il2m, "loops": rectify_with_loops, "memory": rectify_in_memory}

if __name__ == "__main__":
    main()
