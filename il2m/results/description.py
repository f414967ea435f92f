"""What tells runs apart, and which are repetitions of each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from il2m.parameters import FineTuning, concerning
from il2m.study.find import effective
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


def run_description(run: Run) -> dict[str, object]:
    """What tells one run from another, as columns of the results table; None for what nobody told of imported scores.
    ``setting``: a hash of all that shapes the run but its seeds, its class order, and whether and how it distils (joint
    training never does): runs of one setting that distil alike are repetitions of each other. ``recipe``: a hash of
    what of that has no column of its own, see run_recipe. ``memory_rounding``: of K / past classes; ``""`` where
    something else decides. ``class_order``: a hash of the order, be it drawn or given; None if it is unknown.
    ``temperature`` and the like are None for runs that don't distil."""
    settings = run.identity
    order = run.base.identity.get("class_order") or run.config.get("class_order")  # the latter of imported scores
    if order and str(run.config.get("source")).startswith("lists:"):  # these name their classes in learning order:
        order = [run.base.identity["fingerprint"], order]  # the order is known by their fingerprint
    # a number per class, or lists, may decide instead of K / past classes; which was rounded to the floor before 0.2
    others_decide = settings.get("exemplars_per_class") or "exemplar_lists" in settings or run.kind != "fine_tuning"
    columns = {"run": run.name, "base": run.base.name, "setting": short_hash(effective(_shaping(run), "distillation"))}
    columns |= {"recipe": short_hash(run_recipe(run)), "dataset": run.config["dataset"]}
    columns |= {"num_states": run.states.num_states, "memory_size": run.memory_size}
    columns |= {"memory_rounding": "" if others_decide else settings.get("memory_rounding", "floor")}
    columns |= {name: settings.get(name, "") for name in ("exemplar_selection", "head")}
    columns |= {name: settings.get(name) for name in concerning("distillation")}
    kinds = {"distillation": bool, "held_out": float, "balanced_epochs": int}
    columns |= {name: kind(settings.get(name, 0)) for name, kind in kinds.items()}
    columns |= {"class_order": short_hash(order) if order else None}
    columns |= {"order_seed": run.config.get("order_seed"), "train_seed": settings.get("train_seed")}
    if run.kind == "imported":
        shaping = {"dataset": columns["dataset"], "num_states": columns["num_states"]} | run_recipe(run)
        setting = shaping.get("scores") or short_hash(shaping | {"memory_size": run.memory_size})
        columns |= {name: run.config.get(name) for name in ("distillation", "order_seed", "train_seed")}
        columns |= {"memory_size": run.memory_size or run.config.get("memory_size"), "setting": setting}
    return columns


def run_recipe(run: Run) -> dict[str, object]:
    """What shapes a run beside its seeds and what the results table has columns for: name -> value, those of the base
    as ``base_<name>``. Sizes of states only where they differ: the table has their number. Of imported scores: what was
    told, and, unless method, data set and both seeds were, the run's name: nobody knows whether it repeats another."""
    sizes = {"state_sizes": list(run.states.sizes)} if len({*run.states.sizes}) > 1 else {}
    if run.kind == "imported":
        told = {"method": run.config["method"]} if run.config.get("method") else {}
        *orders, seed = (run.config.get(name) is not None for name in ("order_seed", "class_order", "train_seed"))
        is_known = told and run.config["dataset"] != "unknown" and any(orders) and seed
        return told | ({} if is_known else {"scores": run.name}) | sizes
    settings = _shaping(run)
    settings |= {f"base_{name.removeprefix('base_')}": value for name, value in settings.pop("base").items()}
    columns = {name for name, one in FineTuning.parameters().items() if one.column}
    columns |= {"exemplar_lists", "state_sizes", "base_state_sizes"}
    memory = {"memory": "images per class"} if settings.get("exemplars_per_class") else {}
    return {name: value for name, value in settings.items() if name not in columns} | sizes | memory


def _shaping(run: Run) -> dict[str, Any]:
    """A run's identity, that of its base within, but for seeds and class order."""
    return effective(run.identity | {"base": run.base.identity}, "training seed", "class order")


def unknown_in_words(run: Run) -> str:
    """What was not told of an imported run, as a sentence; ``""`` if all was, and for runs of ours."""
    names = [name for name in About.__annotations__ if not name.startswith("class_") and run.kind == "imported"]
    unknown = [name for name in names if run.config.get(name) in (None, "unknown")]
    words = [f"{name} (counted: {run.memory_size})" if name == "memory_size" else name for name in unknown]
    return f"not known of these scores: {', '.join(words)}" if words else ""
