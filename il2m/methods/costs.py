"""What each method costs beyond the network and the exemplars: numbers kept, work per image, and what else it needs."""

from __future__ import annotations

import pandas as pd

from il2m.methods.registry import METHODS, head, missing_for
from il2m.study.runs import Run


def costs_table(run: Run) -> pd.DataFrame:
    """Costs at the run's last state, one row per method: counted from its classes and features, not timed.

    Columns: ``floats_stored``, numbers that must be kept from state to state or for scoring, beyond the model in use
    and the exemplar images; ``operations``, multiplications per image from the features on (the linear head is one of C
    x d); ``needs``, what else. Without stored weights the number of features is not known: an empty table.
    """
    if missing_for(run, "WA"):
        return pd.DataFrame(columns=["method", "floats_stored", "operations", "needs"])
    num_states = run.states.num_states
    classes, past = run.states.num_seen(num_states), run.states.num_past(num_states)
    features = head(run, num_states)[0].shape[1]
    new, linear = classes - past, classes * features
    initial_head = past * (features + 1)  # a weight vector and a bias per past class
    counted = {
        "FT": (0, linear, ""),
        "IL2M": (classes + num_states, linear + past, ""),  # an initial mean per class, a confidence per state
        "IL2M-no-gate": (classes + num_states, linear + past, ""),
        "IL2M-means": (classes, linear + past, ""),
        "IL2M-confidence": (num_states, linear + past, ""),
        "FT-th": (classes, linear, ""),  # a subtraction per class
        "NEM": (linear, linear + features, ""),  # a mean per class in place of the head; the feature's norm
        "WA": (0, linear, ""),  # the head itself is rescaled
        "ScaIL": (initial_head + num_states * (features + 1), 2 * linear, ""),  # means by rank too; scores choose
        "SIW": (initial_head, linear, ""),
        "SIW-calibrated": (initial_head + num_states, linear + past, ""),
        "BiC": (2, linear + new, "exemplars and new images held out of training"),
        "NCM-oracle": (linear, linear + features, "all past training images: breaks the memory limit"),
        "task-aware-oracle": (0, linear, "the state of each image's true class"),
    }
    rows = [dict(zip(("floats_stored", "operations", "needs"), counted[method], strict=True)) for method in METHODS]
    return pd.DataFrame(rows).assign(method=METHODS)[["method", "floats_stored", "operations", "needs"]]
