"""What a stage is asked to do, checked against itself, its base and the data before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from il2m.authors.formats import MEAN_STD_FILE, read_mean_std
from il2m.data.dataset import Dataset
from il2m.data.lists import given_exemplars
from il2m.data.sources import absolute_source, load_dataset
from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError
from il2m.memory.exemplars import check_memory, kept_per_class, num_held_out
from il2m.parameters import check_parameters
from il2m.study.find import open_base
from il2m.study.runs import Run
from il2m.system.hashes import short_hash
from il2m.system.machine import SHIPPED

RESULT_VERSION = 1  # to be raised when the same parameters come to give other results: old runs are then not reused


@dataclass(frozen=True)
class Plan:
    """A stage that was checked and can start: its run's kind, identity and notes, and its images."""

    out_dir: Path
    kind: str
    identity: dict[str, Any]
    notes: dict[str, Any]
    dataset: Dataset  # in learning order
    states: States
    exemplars: dict[int, np.ndarray] = field(default_factory=dict)  # by state, where lists give them

    @property
    def folder(self) -> Path:
        return Run.folder_for(self.out_dir, self.kind, self.identity)


def plan_base(
    *,
    dataset: str = "glyphs",
    data_dir: str = "../data",
    out_dir: str = "../runs/quickstart",
    num_states: int = 5,
    state_sizes: Sequence[int] = (),
    order_seed: int = 0,
    class_order: Sequence[int] = (),
    network: str = "small",
    base_epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: str = "step",
    patience: int = 10,
    max_shift: int = 2,
    flip: bool = False,
    train_seed: int = 0,
    precision: str = "float32",
    summed_batches: int = 1,
    image_size: int = 224,
    mean_std: str = "",
    num_workers: int = 2,
    images: Dataset | None = None,
) -> Plan:
    """Check base training's parameters against each other and the data. Raises InputError before any work is done.

    Lists in the authors' layout bring their own states and class order.
    image_size, num_workers: for image files only; see datasets.load_dataset.
    mean_std: the name under which ``datasets_mean_std.txt`` gives the normalisation; ``""`` computes it from the first
    state's training images.
    images: the data set, where it is loaded already (``il2m run`` plans many bases of one).
    """
    given = check_parameters({name: value for name, value in locals().items() if name != "images"})
    if order_seed is None:
        raise InputError(
            "order_seed = None: expected a whole number of at least 0, so that the class order can be had again."
        )
    if images is None:
        images = load_dataset(dataset, data_dir, image_size=image_size, num_workers=num_workers)
    states, order = _states_and_order(images, num_states, state_sizes, order_seed, class_order)
    images = images.in_learning_order(order)
    said_otherwise = {"num_states", "mean_std"}  # by state_sizes and normalisation
    identity = _shaping(given, said_otherwise if images.files else {*said_otherwise, "image_size"})
    identity |= {"fingerprint": images.fingerprint, "class_order": order.tolist(), "state_sizes": list(states.sizes)}
    if mean_std:
        identity["normalisation"] = named_mean_std(mean_std, data_dir, images.num_channels)
    notes = {
        "dataset": images.name,
        "source": absolute_source(dataset, Path.cwd()),
        "order_seed": None if class_order else order_seed,  # what drew the class order
        "class_names": list(images.class_names),
    }
    return Plan(Path(out_dir), "base", identity, notes, images, states)


def _shaping(given: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    """What shapes a stage's result, of its parameters: not where things are, nor what has no effect as it stands."""
    left_out = left_out | {"dataset", "data_dir", "out_dir", "order_seed", "num_workers"}
    if given["schedule"] == "step":
        left_out.add("patience")
    if given["summed_batches"] == 1:
        left_out.add("summed_batches")
    shaping = {name: value for name, value in given.items() if name not in left_out}
    return shaping | {"result_version": RESULT_VERSION}


def _states_and_order(
    images: Dataset, num_states: int, state_sizes: Sequence[int], order_seed: int, class_order: Sequence[int]
) -> tuple[States, np.ndarray]:
    """The states and the class order asked for, or those that the dataset's lists give."""
    listed = images.files.state_sizes if images.files else ()
    if not listed:
        states = make_states(images.num_classes, num_states, state_sizes)
        return states, make_class_order(images.num_classes, order_seed, class_order)
    if len(class_order) or (tuple(state_sizes) or listed) != listed or (not state_sizes and num_states != len(listed)):
        raise InputError(
            f"{images.files.lists}: the lists give {len(listed)} states of {list(listed)} classes and their order: use "
            f"num_states = {len(listed)}, and leave state_sizes and class_order empty."
        )
    return States(listed), np.arange(images.num_classes)


def named_mean_std(name: str, data_dir: str | Path, num_channels: int) -> dict[str, list[float]]:
    """The normalisation that ``datasets_mean_std.txt``, in ``data_dir`` or else the project's, gives under ``name``."""
    folders = (Path(data_dir), SHIPPED / "data")
    path = next((f / MEAN_STD_FILE for f in folders if (f / MEAN_STD_FILE).is_file()), folders[0] / MEAN_STD_FILE)
    mean, std = read_mean_std(path, name)
    if len(mean) != num_channels:
        raise InputError(f"{path}: {name!r} has {len(mean)} channels, but the images have {num_channels}.")
    return {"mean": list(mean), "std": list(std)}


def plan_fine_tuning(
    *,
    out_dir: str = "../runs/quickstart",
    base: str | Run = "",
    dataset: str = "",
    data_dir: str = "../data",
    order_seed: int | None = None,
    memory_size: int = 200,
    exemplars_per_class: int = 0,
    exemplar_selection: str = "random",
    head: str = "new",
    distillation: bool = False,
    temperature: float = 2.0,
    distillation_weight: float = 1.0,
    held_out: float = 0.0,
    epochs: int = 20,
    balanced_epochs: int = 0,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: str = "step",
    patience: int = 5,
    max_shift: int = 2,
    flip: bool = False,
    train_seed: int = 0,
    precision: str = "float32",
    score_all_past: bool = True,
    summed_batches: int = 1,
    num_workers: int = 2,
    base_plan: Plan | None = None,
) -> Plan:
    """Check fine-tuning's parameters against its base and the data. Raises InputError before any work is done.

    base: the base's folder or its name in ``out_dir``; ``""`` is the one trained last.
    dataset: ``""`` is the base's; order_seed: None is the base's. Given, they must agree with the base.
    held_out: share of the exemplars, and as many images of each new class, that are kept from training, for methods
    that fit something on them (BiC). Classes of state 1 were trained on whole in the base; with herding, new classes
    hold out random images, which need not be those that the ranking holds out later.
    balanced_epochs: epochs of a second stage at a tenth of the rate on equally many images per class (balanced
    fine-tuning; Castro et al. 2018).
    score_all_past: also reduce *all* past training images to a mean score and a mean feature per class. The memory
    would not allow it: only the oracles of the ablation read them.
    base_plan: a base that is planned but need not be trained yet (``il2m run`` checks all stages first).
    """
    given = check_parameters({name: v for name, v in locals().items() if name not in ("base", "base_plan")})
    if base_plan is None:
        base_run = base if isinstance(base, Run) else open_base(Path(out_dir), base)
        if base_run.folder.parent.resolve() != Path(out_dir).resolve():  # a run names its base as its neighbour
            raise InputError(
                f"base {base_run.name} lies in {base_run.folder.parent.resolve()}, not in {Path(out_dir).resolve()}: "
                "copy its folder there, or give the folder it lies in as out_dir."
            )
        base_identity, base_notes, base_name = base_run.identity, base_run.config, base_run.name
        images = load_images(base_run, data_dir, dataset, num_workers)
        states = States(tuple(base_identity["state_sizes"]))
    else:
        base_identity, base_notes, base_name = base_plan.identity, base_plan.notes, base_plan.folder.name
        images, states = base_plan.dataset, base_plan.states
    if order_seed is not None and order_seed != base_notes["order_seed"]:
        raise InputError(
            f"base {base_name} has the class order of order_seed {base_notes['order_seed']}, not {order_seed}: name "
            "another base, or train one with notebook 01."
        )
    check_memory(memory_size, exemplars_per_class, states)
    without_effect = {name for name in ("held_out", "balanced_epochs") if not given[name]}
    if not distillation:
        without_effect |= {"temperature", "distillation_weight"}
    if exemplars_per_class:
        without_effect.add("memory_size")
    identity = _shaping(given, without_effect) | {"base": base_identity, "state_sizes": list(states.sizes)}
    exemplars = {}
    if images.files and images.files.lists and not exemplars_per_class:
        exemplars = given_exemplars(images, memory_size, states)
        digest = short_hash([indices.tolist() for indices in exemplars.values()])
        identity |= {"exemplar_selection": "lists", "exemplar_lists": digest}
    notes = {"base": base_name} | {
        name: base_notes[name] for name in ("dataset", "source", "order_seed", "class_names")
    }
    return Plan(Path(out_dir), "fine_tuning", identity, notes, images, states, exemplars)


def images_to_train_on(plan: Plan) -> dict[int, int]:
    """Images that each state of a stage passes through the network in all its epochs: state -> images.

    At a base those of state 1; in fine-tuning the new classes' and the exemplars, less what is held out, and the
    balanced second stage's. Counted, so that time left can be told before the work begins.
    """
    settings, states = plan.identity, plan.states
    if plan.kind == "base":
        return {1: int(settings["base_epochs"] * plan.dataset.train_counts[: states.num_seen(1)].sum())}
    images = {}
    for state in range(2, states.num_states + 1):
        counts = plan.dataset.train_counts[: states.num_seen(state)]
        kept = np.minimum(counts, kept_per_class(settings, states.num_past(state)))
        held = num_held_out(kept, settings.get("held_out", 0))
        trained = np.where(states.of_class[: len(counts)] < state, kept, counts) - held
        balanced = settings.get("balanced_epochs", 0) * (kept - held).sum()
        images[state] = int(settings["epochs"] * trained.sum() + balanced)
    return images


def load_images(run: Run, data_dir: str | Path, dataset: str = "", num_workers: int = 2) -> Dataset:
    """The images that a run was made from, in its learning order.

    dataset: where they are now, if not where they were then. Raises InputError if they are other images.
    """
    base, source = run.base, dataset or run.config["source"]
    image_size = base.identity.get("image_size", 224)
    images = load_dataset(source, data_dir, image_size=image_size, num_workers=num_workers)
    if images.fingerprint != base.identity["fingerprint"]:
        raise InputError(
            f"base {base.name} was trained on {base.config['dataset']} ({base.config['source']}), but {source} holds "
            "other images: name the dataset the base was trained on, or train a base on this one."
        )
    return images.in_learning_order(np.array(base.identity["class_order"]))
