"""How what is done class by class grows with the number of classes, against loops that search all images for each.

    python benchmarks/many_classes.py

20 training images and 5 exemplars per class; in turns, the best of each. Eq. 1 and ranks: of scores with 20 million
values, per value. Prints a table; what both ways give is compared bit for bit.
"""

import time

import numpy as np

from il2m.data.states import places_by_class
from il2m.memory.exemplars import rank_classes
from il2m.memory.statistics import ClassStatistics
from il2m.methods.rectify import rectify
from il2m.results.metrics import ranks

CLASSES, PER_CLASS, KEPT, VALUES, ROUNDS = (100, 1000, 10_000), 20, 5, 20_000_000, 3


def rank_by_loop(labels):
    ranking = {}
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        ranking[int(label)] = positions[np.random.default_rng([0, int(label)]).permutation(len(positions))[:KEPT]]
    return ranking


def prefixes_by_loop(labels):
    return np.concatenate([np.flatnonzero(labels == label)[:KEPT] for label in range(labels.max() + 1)])


def prefixes(labels):
    return np.concatenate([places[:KEPT] for places in places_by_class(labels).values()])


def measured(num_classes):
    """Seconds of processor time by name."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(num_classes), PER_CLASS))
    ranking, slow = rank_classes("random", None, labels, KEPT, 0), rank_by_loop(labels)
    assert list(ranking) == list(slow)
    assert all(np.array_equal(ranking[label], slow[label]) for label in slow)
    assert np.array_equal(prefixes(labels), prefixes_by_loop(labels))
    scores = rng.standard_normal((VALUES // num_classes, num_classes), dtype=np.float32)
    scores[:, num_classes * 9 // 10 :] += 1
    own = rng.integers(0, num_classes, len(scores))
    state_of_class = np.repeat(np.arange(1, 11), num_classes // 10)
    statistics = ClassStatistics(*rng.uniform(1, 3, (2, num_classes)), rng.uniform(2, 3, 10), state_of_class)
    ways = {
        "ranking of all classes": lambda: rank_classes("random", None, labels, KEPT, 0),
        "the same by a loop": lambda: rank_by_loop(labels),
        "prefixes of all classes": lambda: prefixes(labels),
        "the same, by a loop": lambda: prefixes_by_loop(labels),
        "Eq. 1": lambda: rectify(scores, statistics),
        "ranks": lambda: ranks(scores, own),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, work in ways.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


if __name__ == "__main__":
    columns = [measured(num_classes) for num_classes in CLASSES]
    print("| | " + " | ".join(f"{num_classes:,} classes" for num_classes in CLASSES) + " |")
    print("| --- |" + " --- |" * len(CLASSES))
    for name in columns[0]:
        per, unit = (VALUES / 1e9, "ns per value") if name in ("Eq. 1", "ranks") else (1e-3, "ms")
        print(f"| {name} | " + " | ".join(f"{each[name] / per:.3g} {unit}" for each in columns) + " |")
