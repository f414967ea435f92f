"""What a stage is asked to do, checked against itself, its base and the data before any work is done."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.dataset import Dataset
from il2m.data.image_files import with_options
from il2m.data.sources import absolute_source, load_dataset
from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError
from il2m.memory.exemplars import check_memory, kept_per_class, num_held_out
from il2m.parameters import NETWORKS, BaseTraining, FineTuning, Training
from il2m.study.find import open_base
from il2m.study.runs import RESULT_VERSION, Run
from il2m.system.hashes import short_hash
from il2m.system.machine import SHIPPED


@dataclass(frozen=True)
class Plan:
    """A stage that was checked and can start: its settings, its run's kind, identity and notes, and its images."""

    settings: Training
    kind: str
    identity: dict[str, Any]
    notes: dict[str, Any]
    dataset: Dataset  # in learning order
    states: States
    exemplars: dict[int, np.ndarray] = field(default_factory=dict)  # by state, where lists give them

    @property
    def folder(self) -> Path:
        return Run.folder_for(Path(self.settings.out_dir), self.kind, self.identity)


def plan_base(settings: BaseTraining | None = None, *, images: Dataset | None = None, **parameters: Any) -> Plan:
    """Check base training's settings against each other and the data. Raises InputError before any work is done; warns
    of files that are not used, and of odd_contents of images in memory. parameters: over ``settings``. images: the data
    set, where it is loaded already. Lists in the authors' layout bring their own states and class order."""
    settings = BaseTraining.given(settings, parameters)
    options = {"image_size": settings.image_size, "num_workers": settings.num_workers}
    images = images or load_dataset(settings.dataset, settings.data_dir, **options)
    states, order = _states_and_order(images, settings)
    resolved = {"fingerprint": images.fingerprint, "class_order": order.tolist()}
    for odd in images.files.unused if images.files else images.odd_contents(images.contents, settings.allow_leakage):
        warnings.warn(odd, stacklevel=2)
    followed = {"on": True, "off": False, "auto": not (images.files and images.files.lists)}[settings.exif_rotation]
    if images.files and followed and (images.train_images.any_turned or images.val_images.any_turned):
        resolved["exif_rotation"] = True  # only where EXIF data turn an image: all other runs keep their hash
        images = with_options(images, *[{"exif_rotation": True}] * 2)
    images = images.in_learning_order(order)
    _check_sizes(settings, images)
    if images.train_counts[: states.num_seen(1)].sum() < 2:
        raise InputError("state 1 has one training image, and batch normalisation needs two: give it more classes.")
    if settings.mean_std:
        resolved["normalisation"] = named_mean_std(settings.mean_std, settings.data_dir, images.num_channels)
    if source := NETWORKS[settings.network]:
        from il2m.learning.networks import check_rebuilt  # imports torch, which built-in networks can do without here

        resolved["network_source"] = source
        check_rebuilt(settings.network, *images.train_images.shape[1:])
    notes = {"dataset": images.name, "source": absolute_source(settings.dataset, Path.cwd()), "exif_rotation": followed}
    is_given = settings.class_order or (images.files and images.files.lists)
    notes["order_seed"] = None if is_given else settings.order_seed  # what drew the class order
    notes |= {"class_names": list(images.class_names), "image_shape": list(images.train_images.shape[1:])}  # (h, w, c)
    return Plan(settings, "base", _identity(settings, images, states, resolved), notes, images, states)


def _identity(settings: Training, images: Dataset, states: States, resolved: dict) -> dict[str, Any]:
    """All that shapes a stage's result. resolved: what came of its settings and the data, over the settings."""
    in_files = images.files is not None
    of_all = {"state_sizes": list(states.sizes), "result_version": RESULT_VERSION[in_files]}
    return settings.shaping(image_files=in_files) | resolved | of_all


def _check_sizes(settings: Training, images: Dataset) -> None:
    """Raise InputError for batches too small for their processes, or a shift that could leave nothing of an image."""
    if settings.batch_size < (least := 2 * settings.num_processes):
        what = f"batch_size = {settings.batch_size}: {settings.num_processes} processes share each mini-batch"
        raise InputError(f"{what}, and batch normalisation needs two images in each: use {least} or more.")
    _, height, width, _ = images.train_images.shape
    if images.files is None and settings.max_shift >= min(height, width):
        raise InputError(f"max_shift = {settings.max_shift}: expected less than the images' {height} x {width} pixels.")


def _states_and_order(images: Dataset, settings: BaseTraining) -> tuple[States, np.ndarray]:
    """The states and the class order asked for, or those that the dataset's lists give."""
    listed = images.files.state_sizes if images.files else ()
    num_states, sizes, order = settings.num_states, tuple(settings.state_sizes), settings.class_order
    if not listed:
        states = make_states(images.num_classes, num_states, sizes)
        return states, make_class_order(images.num_classes, settings.order_seed, order, images.class_names)
    if order or (sizes or listed) != listed or (not sizes and num_states != len(listed)):
        what = f"the lists give {len(listed)} states of {list(listed)} classes and their order"
        remedy = f"use num_states = {len(listed)}, and leave state_sizes and class_order empty"
        raise InputError(f"{images.files.lists}: {what}: {remedy}.")
    return States(listed), np.arange(images.num_classes)


def named_mean_std(name: str, data_dir: str | Path, num_channels: int) -> dict[str, list[float]]:
    """The normalisation that ``datasets_mean_std.txt``, in ``data_dir`` or else the project's, gives under ``name``."""
    from il2m.authors.formats import MEAN_STD_FILE, read_mean_std  # slow to import, and only needed here

    folders = (Path(data_dir), SHIPPED / "data")
    path = next((f / MEAN_STD_FILE for f in folders if (f / MEAN_STD_FILE).is_file()), folders[0] / MEAN_STD_FILE)
    mean, std = read_mean_std(path, name)
    if len(mean) != num_channels:
        raise InputError(f"{path}: {name!r} has {len(mean)} channels, but the images have {num_channels}.")
    if not (0 <= min(mean) <= max(mean) <= 1 and max(std) <= 1):
        problem = f"mean {list(mean)} and std {list(std)} are not of pixel values scaled to 0..1"
        raise InputError(f"{path}: {name!r}: {problem}: divide those of 0..255 by 255.")
    return {"mean": list(mean), "std": list(std)}


def plan_fine_tuning(settings: FineTuning | None = None, *, base_plan: Plan | None = None, **parameters: Any) -> Plan:
    """Check fine-tuning's settings against its base and the data. Raises InputError before any work is done. base_plan:
    a base that need not be trained yet (``il2m run`` checks all stages first). ``base`` may be a Run."""
    settings = FineTuning.given(settings, parameters)
    base = base_plan or open_base(Path(settings.out_dir), settings.base)
    place = settings.data_dir, settings.dataset, settings.num_workers
    images = base_plan.dataset if base_plan else load_images(base, *place)
    states, drawn_by = base.states, base.notes["order_seed"]
    if settings.order_seed is not None and settings.order_seed != drawn_by:
        what = f"base {base.folder.name} has the class order of order_seed {drawn_by}, not {settings.order_seed}"
        raise InputError(f"{what}: name another base, or train one.")
    _check_sizes(settings, images)
    resolved, exemplars = {"base": base.identity}, {}
    if images.files and images.files.lists and settings.memory_size and not settings.exemplars_per_class:
        from il2m.data.lists import given_exemplars  # imports pyarrow, which images in memory do without

        exemplars = given_exemplars(images, settings.memory_size, states)
        digest = short_hash([indices.tolist() for indices in exemplars.values()])
        resolved |= {"exemplar_selection": "lists", "exemplar_lists": digest}
        # floor is neutral: lists decide, also how many images of a new class count as exemplars, other than once
        rounding = "ceil" if settings.held_out or settings.balanced_epochs else "floor"
        settings = replace(settings, memory_rounding=rounding)
    else:
        check_memory(settings, states)
    identity = _identity(settings, images, states, resolved)
    return Plan(settings, "fine_tuning", identity, {"base": base.folder.name, **base.notes}, images, states, exemplars)


def images_to_train_on(plan: Plan) -> dict[int, int]:
    """Images that each state passes through the network in all its epochs, to tell the time left: state -> images."""
    settings, states = plan.settings, plan.states
    if plan.kind == "base":
        return {1: int(settings.base_epochs * plan.dataset.train_counts[: states.num_seen(1)].sum())}
    images = {}
    for state in range(2, states.num_states + 1):
        counts, num_past = plan.dataset.train_counts[: states.num_seen(state)], states.num_past(state)
        kept = np.full(len(counts), kept_per_class(settings, num_past))
        if state in plan.exemplars:  # lists say which
            kept[:num_past] = given = np.bincount(plan.dataset.train_labels[plan.exemplars[state]], minlength=num_past)
            kept[num_past:] = given.max()
        kept = np.minimum(counts, kept)
        held = num_held_out(kept, settings.held_out)
        trained = np.where(states.of_class[: len(counts)] < state, kept, counts) - held
        images[state] = int(settings.epochs * trained.sum() + settings.balanced_epochs * (kept - held).sum())
    return images


def load_images(run: Run, data_dir: str | Path, dataset: str = "", num_workers: int = 2) -> Dataset:
    """The images that a run was made from, in its learning order. dataset: where they are now, if not where they were
    then; files are compared with what they held then when they are decoded. Raises InputError if they are others."""
    base, source = run.base, dataset or run.config["source"]
    images = load_dataset(source, data_dir, image_size=base.identity.get("image_size", 224), num_workers=num_workers)
    if images.fingerprint != base.identity["fingerprint"]:
        what = f"base {base.name} was trained on {base.config['dataset']} ({base.config['source']})"
        remedy = "name the dataset the base was trained on, or train a base on this one"
        raise InputError(f"{what}, but {source} holds other images: {remedy}.")
    if images.files is not None:
        same, state = {"exif_rotation": base.identity.get("exif_rotation", False)}, base.state(1)
        stored = [f"{part}_digests" for part in ("train", "val")]  # none in states of before version 0.2
        digests = [state.array(name) if name in state.array_names else None for name in stored]
        images = with_options(images, *({**same, "digests": each} for each in digests))
    return images.in_learning_order(np.array(base.identity["class_order"]))
