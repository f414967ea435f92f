"""What was told of imported scores, where a run of ours has its settings; what nobody told is None."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from il2m.study.runs import Run
from il2m.system.hashes import short_hash


class About(TypedDict, total=False):
    """What can be told of imported scores: kept beside the run; what is not given is shown as unknown."""

    method: str
    dataset: str
    class_names: str | Path | Sequence[str]  # (C,) in learning order, or a file of one per line
    class_order: Sequence[int]  # (C,) the data set's ids of the classes, in learning order
    order_seed: int | None
    train_seed: int | None
    memory_size: int | None  # K; if not given, the most exemplars of a state
    distillation: bool | None


def told_columns(run: Run) -> dict[str, object]:
    """Columns of the results table. K is counted from the exemplars where it was not told."""
    columns = {name: run.config.get(name) for name in ("distillation", "order_seed", "train_seed")}
    recipe, shaping = told_recipe(run), {"dataset": run.config["dataset"], "num_states": run.states.num_states}
    shaping |= recipe | {"memory_size": run.memory_size}
    return columns | {"memory_size": run.memory_size or None, "setting": recipe.get("scores") or short_hash(shaping)}


def told_recipe(run: Run) -> dict[str, object]:
    """What made the scores, as far as the table has no column for it. Unless method, data set and a seed were told, the
    run's name is part of it: nobody knows whether it repeats another."""
    told = {"method": run.config["method"]} if run.config.get("method") else {}
    seeds = [run.config.get(name) is not None for name in ("order_seed", "train_seed", "class_order")]
    if not told or run.config["dataset"] == "unknown" or not any(seeds):
        told["scores"] = run.name
    return told | ({"state_sizes": list(run.states.sizes)} if len(set(run.states.sizes)) > 1 else {})


def unknown_in_words(run: Run) -> str:
    """What was not told of an imported run, as a sentence; ``""`` if all was, and for runs of ours."""
    names = [name for name in About.__annotations__ if not name.startswith("class_") and run.kind == "imported"]
    unknown = [name for name in names if run.config.get(name) in (None, "unknown")]
    words = [f"{name} (counted: {run.memory_size})" if name == "memory_size" else name for name in unknown]
    return f"not known of these scores: {', '.join(words)}" if words else ""
