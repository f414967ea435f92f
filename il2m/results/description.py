"""What tells runs apart, and which are repetitions of each other."""

from typing import Any

from il2m.errors import printable
from il2m.parameters import FineTuning, concerning
from il2m.results.imported import told_columns, told_recipe
from il2m.study.find import but, but_distillation
from il2m.study.runs import Run
from il2m.system.hashes import short_hash


def run_description(run: Run) -> dict[str, object]:
    """What tells one run from another, as columns of the results table.

    ``setting``: a hash of all that shapes the run but its seeds, its class order, and whether and how it distils (joint
    training never does): runs of one setting that distil alike are repetitions of each other. Of imported scores:
    what was told of them, see imported.py. ``recipe``: a hash of what of that has no column of its own, see run_recipe.
    ``class_order``: a hash of the order, be it drawn or given; None if it is unknown. ``temperature`` and the like are
    None for runs that don't distil.
    """
    settings = run.identity
    shaping = but_distillation(_shaping(run))
    return {
        "run": run.name,
        "base": run.base.name,
        "setting": short_hash(shaping),
        "recipe": short_hash(run_recipe(run)),
        "dataset": printable(run.config["dataset"]),
        "num_states": run.states.num_states,
        "memory_size": run.memory_size,
        "exemplar_selection": settings.get("exemplar_selection", ""),
        **{name: settings.get(name) for name in concerning("distillation")},
        "distillation": bool(settings.get("distillation", False)),
        "held_out": float(settings.get("held_out", 0)),
        "balanced_epochs": int(settings.get("balanced_epochs", 0)),
        "class_order": _order_hash(run),
        "order_seed": run.config.get("order_seed"),
        "train_seed": settings.get("train_seed"),
    } | (told_columns(run) if run.kind == "imported" else {})


def run_recipe(run: Run) -> dict[str, object]:
    """What shapes a run beside its seeds and what the results table has columns for: name -> value, those of the base
    as ``base_<name>``. Sizes of states are part of it only where they differ: the table has their number."""
    if run.kind == "imported":
        return told_recipe(run)
    settings = _shaping(run)
    sizes = settings.pop("state_sizes")
    base = {f"base_{name.removeprefix('base_')}": value for name, value in settings.pop("base").items()}
    del base["base_state_sizes"]
    columns = {name for name, one in FineTuning.parameters().items() if one.column} | {"exemplar_lists"}
    recipe = {name: value for name, value in settings.items() if name not in columns} | base
    if len(set(sizes)) > 1:
        recipe["state_sizes"] = sizes
    if settings.get("exemplars_per_class"):
        recipe["memory"] = "images per class"
    return recipe


def _shaping(run: Run) -> dict[str, Any]:
    """A run's identity, that of its base within, but for seeds and class order."""
    return but(run.identity | {"base": run.base.identity}, "training seed", "class order")


def _order_hash(run: Run) -> str | None:
    """Lists name their classes in learning order: there the order is known by their fingerprint."""
    order = run.base.identity.get("class_order") or run.config.get("class_order")  # the latter of imported scores
    from_lists = str(run.config.get("source")).startswith("lists:")
    return short_hash([run.base.identity["fingerprint"], order] if from_lists else order) if order else None
