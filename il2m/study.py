"""The two training stages, base training and fine-tuning; each meets the others on disk, and resumes where it stopped."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from il2m.datasets import Dataset, absolute_source, load_dataset
from il2m.errors import InputError
from il2m.exemplars import check_memory, exemplars_per_past_class, held_out_places, rank_classes
from il2m.formats import MEAN_STD_FILE, read_mean_std
from il2m.image_files import check_readable, image_batches, images_mean_std
from il2m.images import ImageBatches, Normalisation
from il2m.lists import given_exemplars
from il2m.memory import QUANTITIES, reduce_scores, state_statistics
from il2m.networks import Classifier, build_network, with_head
from il2m.parameters import check_parameters
from il2m.progress import Progress
from il2m.runs import Run, StateFolder, short_hash, write_state
from il2m.scores import mean_by_class, score_images, score_training_images
from il2m.states import States, make_class_order, make_states
from il2m.training import Epoch, train

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
) -> Plan:
    """Check base training's parameters against each other and the data. Raises InputError before any work is done.

    Lists in the authors' layout bring their own states and class order.
    image_size, num_workers: for image files only; see datasets.load_dataset.
    mean_std: the name under which ``datasets_mean_std.txt`` gives the normalisation; ``""`` computes it from the first
    state's training images.
    """
    given = check_parameters(dict(locals()))
    images = load_dataset(dataset, data_dir, image_size=image_size, num_workers=num_workers)
    states, order = _states_and_order(images, num_states, state_sizes, order_seed, class_order)
    images = images.in_learning_order(order)
    not_of_the_result = {"dataset", "data_dir", "out_dir", "num_states", "order_seed", "mean_std", "num_workers"}
    if schedule == "step":
        not_of_the_result.add("patience")
    if summed_batches == 1:
        not_of_the_result.add("summed_batches")
    if images.files is None:
        not_of_the_result.add("image_size")
    identity = {name: value for name, value in given.items() if name not in not_of_the_result}
    identity |= {
        "result_version": RESULT_VERSION,
        "fingerprint": images.fingerprint,
        "class_order": order.tolist(),
        "state_sizes": list(states.sizes),
    }
    if mean_std:
        identity["normalisation"] = named_mean_std(mean_std, data_dir, images.num_channels)
    notes = {
        "dataset": images.name,
        "source": absolute_source(dataset, Path.cwd()),
        "order_seed": order_seed,
        "class_names": list(images.class_names),
    }
    return Plan(Path(out_dir), "base", identity, notes, images, states)


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
    folders = (Path(data_dir), Path(__file__).parents[1] / "data")
    path = next((f / MEAN_STD_FILE for f in folders if (f / MEAN_STD_FILE).is_file()), folders[0] / MEAN_STD_FILE)
    mean, std = read_mean_std(path, name)
    if len(mean) != num_channels:
        raise InputError(f"{path}: {name!r} has {len(mean)} channels, but the images have {num_channels}.")
    return {"mean": list(mean), "std": list(std)}


def train_base(*, device: str = "auto", num_threads: int = 1, **parameters: Any) -> Run:
    """Notebook 01's stage: train on the first state's classes from scratch, score, and store (state 1).

    parameters: those of plan_base. device: 'auto', 'cpu' or 'cuda'. num_threads: CPU threads for this process.
    A finished base is returned as it is.
    """
    check_parameters({"device": device, "num_threads": num_threads})
    plan = plan_base(**parameters)
    run = Run.create(plan.out_dir, plan.kind, plan.identity, **plan.notes)
    if run.has_state(1):
        run.state(1).info  # noqa: B018 - reading it checks the files
        return run
    set_machine(device, num_threads)
    settings, data = run.identity, plan.dataset
    new = np.flatnonzero(data.train_labels < plan.states.num_seen(1))
    check_readable(data, plan.out_dir)
    given = settings.get("normalisation")
    normalisation = Normalisation(**given) if given else images_mean_std(data.train_images[new])
    seed = settings["train_seed"]
    model = build_network(settings["network"], data.num_channels, plan.states.num_seen(1), seed_for(seed, 1, "weights"))
    progress = Progress("base training", len(new) * settings["base_epochs"], run.folder)
    try:
        _train_and_store(
            run, data, 1, model, None, new, new[:0], normalisation, settings["base_epochs"], device, progress
        )
    finally:
        progress.close()
    return run


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
    score_all_past: also reduce *all* past training images to a mean score and a mean feature per class. The memory would
    not allow it: only the oracles of the ablation read them.
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
    not_of_the_result = {"dataset", "data_dir", "out_dir", "order_seed", "num_workers"}
    if summed_batches == 1:
        not_of_the_result.add("summed_batches")
    if not distillation:
        not_of_the_result |= {"temperature", "distillation_weight"}
    if schedule == "step":
        not_of_the_result.add("patience")
    if exemplars_per_class:
        not_of_the_result.add("memory_size")
    not_of_the_result |= {name for name in ("held_out", "balanced_epochs") if not given[name]}
    identity = {name: value for name, value in given.items() if name not in not_of_the_result}
    identity |= {"result_version": RESULT_VERSION, "base": base_identity, "state_sizes": list(states.sizes)}
    exemplars = {}
    if images.files and images.files.lists and not exemplars_per_class:
        exemplars = given_exemplars(images, memory_size, states)
        digest = short_hash([indices.tolist() for indices in exemplars.values()])
        identity |= {"exemplar_selection": "lists", "exemplar_lists": digest}
    notes = {"base": base_name} | {
        name: base_notes[name] for name in ("dataset", "source", "order_seed", "class_names")
    }
    return Plan(Path(out_dir), "fine_tuning", identity, notes, images, states, exemplars)


def fine_tune(*, device: str = "auto", num_threads: int = 1, **parameters: Any) -> Run:
    """Notebook 02's stage: states 2..S, each from the previous state's weights, on new images and exemplars.

    parameters: those of plan_fine_tuning. Finished states are kept: what was interrupted goes on with the next state.
    """
    check_parameters({"device": device, "num_threads": num_threads})
    plan = plan_fine_tuning(**parameters)
    run = Run.create(plan.out_dir, plan.kind, plan.identity, **plan.notes)
    settings, data, states = run.identity, plan.dataset, plan.states
    done = [b for b in range(2, states.num_states + 1) if run.has_state(b)]
    for state in (1, *done):
        run.state(state).info  # noqa: B018 - reading it checks the files
    missing = run.missing_states
    if not missing:
        return run
    set_machine(device, num_threads)
    normalisation = Normalisation(**run.state(1).info["normalisation"])
    seed = settings["train_seed"]
    progress = Progress(
        "fine-tuning" + (" with distillation" if settings["distillation"] else ""),
        sum(_images_to_train_on(settings, states, data, b) for b in missing),
        run.folder,
    )
    try:
        for state in missing:
            previous = run.state(state - 1)
            kept = plan.exemplars.get(state)
            if kept is None:
                kept = _choose_exemplars(settings, states, state, previous)
            old_model = _load_model(run, state - 1, data.num_channels)
            teacher = _load_model(run, state - 1, data.num_channels) if settings["distillation"] else None
            model = with_head(old_model, states.num_seen(state), settings["head"], seed_for(seed, state, "head"))
            new = np.flatnonzero(np.isin(data.train_labels, states.new_classes(state)))
            _train_and_store(
                run, data, state, model, teacher, new, kept, normalisation, settings["epochs"], device, progress
            )
    finally:
        progress.close()
    return run


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


def open_base(out_dir: Path, base: str) -> Run:
    """The base named, or the one trained last in ``out_dir``."""
    if base:
        folder = next((p for p in (out_dir / base, Path(base)) if (p / "config.json").exists()), None)
        if folder is None:
            raise InputError(
                f"no base {base!r} in {out_dir.absolute()}: run notebook 01 first, or name another folder."
            )
        run = Run(folder)
        if run.kind != "base":
            raise InputError(f"{folder} is not a base but a {run.kind} run.")
    else:
        folders = sorted(out_dir.glob("base-*/state_01/state.json"), key=lambda path: path.stat().st_mtime)
        if not folders:
            raise InputError(f"no finished base in {out_dir.absolute()}: run notebook 01 first.")
        run = Run(folders[-1].parent.parent)
    if run.missing_states:
        raise InputError(f"base {run.folder} is not finished: run notebook 01 again with its parameters.")
    return run


def set_machine(device: str, num_threads: int) -> None:
    """Set this process's CPU threads. Raises InputError if ``device`` is 'cuda' and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch finds no CUDA device here: use 'auto' or 'cpu'.")
    torch.set_num_threads(num_threads)


def seed_for(train_seed: int, state: int, purpose: str) -> int:
    """A seed of its own for each state and purpose, so that a resumed run repeats an undisturbed one exactly."""
    entropy = np.random.SeedSequence([train_seed, state, zlib.crc32(purpose.encode())])
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)


def _num_kept(settings: dict[str, Any], states: States, state: int) -> int:
    return exemplars_per_past_class(
        settings.get("memory_size", 0), settings["exemplars_per_class"], states.num_past(state)
    )


def _images_to_train_on(settings: dict[str, Any], states: States, data: Dataset, state: int) -> int:
    """Images over all epochs of a state: new classes' and exemplars, less what is held out; then the balanced ones."""
    counts = np.bincount(data.train_labels)[: states.num_seen(state)]
    kept = np.minimum(counts, _num_kept(settings, states, state))
    held = np.array([len(held_out_places(n, settings.get("held_out", 0))) for n in kept])
    images = np.where(states.of_class[: len(counts)] < state, kept, counts) - held
    return int(settings["epochs"] * images.sum() + settings.get("balanced_epochs", 0) * (kept - held).sum())


def _choose_exemplars(settings: dict[str, Any], states: States, state: int, previous: StateFolder) -> np.ndarray:
    """Training-image indices of the first memory at ``state``, class by class, best first.

    Classes older than the previous state keep a prefix of what they had; the previous state's classes are ranked now,
    on the features of the model of that state.
    """
    kept = _num_kept(settings, states, state)
    chosen = []
    if "exemplar_indices.npy" in previous.info["files"]:
        indices, labels = previous.array("exemplar_indices"), previous.array("exemplar_labels")
        chosen = [indices[labels == label][:kept] for label in range(states.num_past(state - 1))]
    indices = previous.array("new_indices")
    ranking = rank_classes(
        settings["exemplar_selection"],
        previous.array("new_features"),
        previous.array("new_labels"),
        kept,
        settings["train_seed"],
    )
    chosen += [indices[ranking[label]] for label in states.new_classes(state - 1)]
    return np.concatenate(chosen)


def _hold_out(settings: dict[str, Any], states: States, state: int, data: Dataset, kept: np.ndarray) -> np.ndarray:
    """Training-image indices that ``held_out`` keeps from training: some exemplars, as many images per new class."""
    share = settings.get("held_out", 0)
    if not share:
        return kept[:0]
    ranked = [kept[data.train_labels[kept] == label] for label in range(states.num_past(state))]
    new = np.flatnonzero(np.isin(data.train_labels, states.new_classes(state)))
    num_kept = _num_kept(settings, states, state)
    ranking = rank_classes("random", None, data.train_labels[new], num_kept, settings["train_seed"])
    ranked += [new[ranking[label]] for label in states.new_classes(state)]
    return np.concatenate([indices[held_out_places(len(indices), share)] for indices in ranked])


def _load_model(run: Run, state: int, num_channels: int) -> Classifier:
    network = run.base.identity["network"]
    model = build_network(network, num_channels, run.states.num_seen(state), seed=0)
    model.load_state_dict(run.state(state).model_weights())
    return model


def _train_and_store(
    run: Run,
    data: Dataset,
    state: int,
    model: Classifier,
    teacher: Classifier | None,
    new: np.ndarray,
    kept: np.ndarray,
    normalisation: Normalisation,
    epochs: int,
    device: str,
    progress: Progress,
) -> None:
    """Train one state on the images ``new`` and the exemplars ``kept`` (indices), score what later stages need, store."""
    settings, states = run.identity, run.states

    def batches(indices: np.ndarray) -> ImageBatches:
        return image_batches(data.train_images[indices], data.train_labels[indices], normalisation)

    def fit(indices: np.ndarray, epochs: int, rate: float, purpose: str) -> list[Epoch]:
        return train(
            model,
            batches(indices),
            epochs=epochs,
            batch_size=settings["batch_size"],
            learning_rate=rate,
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            schedule=settings["schedule"],
            patience=settings.get("patience", 0),
            max_shift=settings["max_shift"],
            flip=settings["flip"],
            seed=seed_for(settings["train_seed"], state, purpose),
            teacher=teacher,
            temperature=settings.get("temperature", 1.0),
            distillation_weight=settings.get("distillation_weight", 0.0),
            summed_batches=settings.get("summed_batches", 1),
            device=device,
            precision=settings["precision"],
            on_epoch=lambda epoch: progress.epoch_done(state, states.num_states, epochs, len(indices), epoch),
        )

    held_out = _hold_out(settings, states, state, data, kept) if state > 1 else kept
    together = np.concatenate([new, kept])
    together = together[~np.isin(together, held_out)]
    rate = settings["learning_rate"] / state
    start = time.perf_counter()
    history = fit(together, epochs, rate, "training")
    if settings.get("balanced_epochs"):
        selection, num_kept = settings["exemplar_selection"], _num_kept(settings, states, state)
        features = score_images(model, batches(new))[1] if selection == "herding" else None
        ranking = rank_classes(selection, features, data.train_labels[new], num_kept, settings["train_seed"])
        balanced = np.concatenate([kept, *(new[positions] for positions in ranking.values())])
        balanced = balanced[~np.isin(balanced, held_out)]
        history += fit(balanced, settings["balanced_epochs"], rate / 10, "balanced training")
    seconds = time.perf_counter() - start
    seen_val = np.flatnonzero(data.val_labels < states.num_seen(state))
    val = image_batches(data.val_images[seen_val], data.val_labels[seen_val], normalisation)
    val_scores, val_features = score_images(model, val)
    training = score_training_images(model, batches(new))
    new_labels = data.train_labels[new]
    arrays = {
        "val_indices": seen_val,
        "val_labels": data.val_labels[seen_val],
        "val_scores": val_scores,
        "val_features": val_features,
        "new_indices": new,
        "new_labels": new_labels,
        **{f"new_{name}": values for name, values in training.items()},
    }
    if settings.get("held_out"):
        arrays |= {
            "held_out_indices": held_out,
            "held_out_labels": data.train_labels[held_out],
            "held_out_scores": score_images(model, batches(held_out))[0],
        }
    exemplar_scores, all_past_means = {}, {}
    if state > 1:
        scores, features = score_images(model, batches(kept))
        exemplar_scores = reduce_scores(scores, data.train_labels[kept])
        arrays |= {
            "exemplar_indices": kept,
            "exemplar_labels": data.train_labels[kept],
            "exemplar_scores": scores,
            "exemplar_features": features,
        }
        if settings["score_all_past"]:
            past = np.flatnonzero(data.train_labels < states.num_past(state))
            means = mean_by_class(model, batches(past), states.num_past(state))
            arrays["past_class_features"] = means["unit_features"].astype(np.float32)
            all_past_means = {kind: means[f"own_{quantity}"].tolist() for kind, quantity in QUANTITIES.items()}
    second_memory = state_statistics(
        training, new_labels, exemplar_scores, data.train_labels[kept], states.num_past(state), states.num_seen(state)
    )
    for kind in QUANTITIES:
        second_memory[kind]["all_current_means"] = all_past_means.get(kind, [])
    info = {
        "second_memory": second_memory,
        "normalisation": {"mean": normalisation.mean, "std": normalisation.std},
        "history": [vars(epoch) for epoch in history],
        "training_seconds": seconds,
    }
    write_state(run.folder, state, arrays, model.state_dict(), info)
