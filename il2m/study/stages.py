"""The two training stages, base training and fine-tuning; they meet on disk, and resume where they stopped.

Finished states are kept, and of a state that was interrupted the epochs up to its last checkpoint (see training.py).
A run is locked while it is trained: of two processes that ask for it, one waits and takes what the other has made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from il2m.data.batches import Normalisation
from il2m.data.dataset import Dataset
from il2m.data.image_files import check_readable, images_mean_std
from il2m.data.states import States
from il2m.learning.networks import Classifier, build_network, with_head
from il2m.learning.scores import mean_by_class, score_images, score_training_images
from il2m.learning.training import Epoch
from il2m.memory.exemplars import held_out_places, kept_per_class, rank_classes
from il2m.memory.statistics import QUANTITIES, reduce_scores, state_statistics
from il2m.parameters import check_parameters
from il2m.study.planning import Plan, images_to_train_on, plan_base, plan_fine_tuning
from il2m.study.progress import Progress
from il2m.study.runs import Run, StateFolder
from il2m.study.stage import Stage, missing_states, seed_for, set_machine


def train_base(*, device: str = "auto", num_threads: int = 1, **parameters: Any) -> Run:
    """Notebook 01's stage: train on the first state's classes from scratch, score, and store (state 1).

    parameters: those of plan_base. device: 'auto', 'cpu' or 'cuda'. num_threads: CPU threads for this process.
    A finished base is returned as it is.
    """
    check_parameters({"device": device, "num_threads": num_threads})
    plan = plan_base(**parameters)
    run = Run.create(plan.out_dir, plan.kind, plan.identity, **plan.notes)
    if run.missing_states:
        set_machine(device, num_threads)
        with missing_states(run) as missing:
            if missing:
                _train_base_state(plan, run, device)
    run.state(1).info  # noqa: B018 - reading it checks the files
    return run


def _train_base_state(plan: Plan, run: Run, device: str) -> None:
    settings, data = run.identity, plan.dataset
    new = np.flatnonzero(data.train_labels < plan.states.num_seen(1))
    check_readable(data, plan.out_dir)
    given, epochs = settings.get("normalisation"), settings["base_epochs"]
    normalisation = Normalisation(**given) if given else images_mean_std(data.train_images[new])
    seed = seed_for(settings["train_seed"], 1, "weights")
    model = build_network(settings["network"], data.num_channels, plan.states.num_seen(1), seed)
    with Progress("base training", len(new) * epochs, run.folder) as progress:
        stage = Stage(run.folder, settings, data, plan.states, normalisation, device, progress)
        rate = settings["learning_rate"]
        history = stage.fit(model, new, state=1, epochs=epochs, learning_rate=rate, purpose="training")
        _score_and_store(stage, 1, model, new, new[:0], new[:0], history, _seconds(history, new))


def fine_tune(*, device: str = "auto", num_threads: int = 1, **parameters: Any) -> Run:
    """Notebook 02's stage: states 2..S, each from the previous state's weights, on new images and exemplars.

    parameters: those of plan_fine_tuning. Finished states are kept; one that was interrupted goes on there.
    """
    check_parameters({"device": device, "num_threads": num_threads})
    plan = plan_fine_tuning(**parameters)
    run = Run.create(plan.out_dir, plan.kind, plan.identity, **plan.notes)
    for state in set(range(1, plan.states.num_states + 1)) - set(run.missing_states):
        run.state(state).info  # noqa: B018 - reading it checks the files
    if run.missing_states:
        set_machine(device, num_threads)
        with missing_states(run) as missing:
            if missing:
                _fine_tune_states(plan, run, missing, device)
    return run


def _fine_tune_states(plan: Plan, run: Run, missing: list[int], device: str) -> None:
    settings, data, states = run.identity, plan.dataset, plan.states
    title = "fine-tuning" + (" with distillation" if settings["distillation"] else "")
    num_images = sum(images_to_train_on(plan)[state] for state in missing)
    with Progress(title, num_images, run.folder) as progress:
        normalisation = Normalisation(**run.state(1).info["normalisation"])
        stage = Stage(run.folder, settings, data, states, normalisation, device, progress)
        for state in missing:
            kept = plan.exemplars.get(state)
            if kept is None:
                kept = _choose_exemplars(settings, states, state, run.state(state - 1))
            _fine_tune_state(stage, run, state, kept)


def _fine_tune_state(stage: Stage, run: Run, state: int, kept: np.ndarray) -> None:
    """One incremental state, trained on its new images and the exemplars ``kept`` (indices), scored and stored."""
    settings, data, states = stage.settings, stage.data, stage.states
    old_model = _load_model(run, state - 1, data.num_channels)
    teacher = _load_model(run, state - 1, data.num_channels) if settings["distillation"] else None
    seed = seed_for(settings["train_seed"], state, "head")
    model = with_head(old_model, states.num_seen(state), settings["head"], seed)
    new = np.flatnonzero(np.isin(data.train_labels, states.new_classes(state)))
    held_out = _hold_out(settings, states, state, data, kept)
    trained_on = np.concatenate([new, kept])
    trained_on = trained_on[~np.isin(trained_on, held_out)]
    rate = settings["learning_rate"] / state
    of_state = {"state": state, "teacher": teacher}
    history = stage.fit(
        model, trained_on, epochs=settings["epochs"], learning_rate=rate, purpose="training", **of_state
    )
    seconds = _seconds(history, trained_on)
    if epochs := settings.get("balanced_epochs"):
        selection, num_kept = settings["exemplar_selection"], kept_per_class(settings, states.num_past(state))
        features = score_images(model, stage.batches(new))[1] if selection == "herding" else None
        ranking = rank_classes(selection, features, data.train_labels[new], num_kept, settings["train_seed"])
        balanced = np.concatenate([kept, *(new[positions] for positions in ranking.values())])
        balanced = balanced[~np.isin(balanced, held_out)]
        purpose = "balanced training"
        more = stage.fit(model, balanced, epochs=epochs, learning_rate=rate / 10, purpose=purpose, **of_state)
        history, seconds = history + more, seconds + _seconds(more, balanced)
    _score_and_store(stage, state, model, new, kept, held_out, history, seconds)


def _seconds(history: list[Epoch], indices: np.ndarray) -> float:
    """Time that a training on the images at ``indices`` took, before and after an interruption."""
    return sum(len(indices) / epoch.images_per_second for epoch in history)


def _choose_exemplars(settings: dict[str, Any], states: States, state: int, previous: StateFolder) -> np.ndarray:
    """Training-image indices of the first memory at ``state``, class by class, best first.

    Classes older than the previous state keep a prefix of what they had; the previous state's classes are ranked now,
    on the features of the model of that state.
    """
    kept = kept_per_class(settings, states.num_past(state))
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
    num_kept = kept_per_class(settings, states.num_past(state))
    ranking = rank_classes("random", None, data.train_labels[new], num_kept, settings["train_seed"])
    ranked += [new[ranking[label]] for label in states.new_classes(state)]
    return np.concatenate([indices[held_out_places(len(indices), share)] for indices in ranked])


def _load_model(run: Run, state: int, num_channels: int) -> Classifier:
    network = run.base.identity["network"]
    model = build_network(network, num_channels, run.states.num_seen(state), seed=0)
    model.load_state_dict(run.state(state).model_weights())
    return model


def _score_and_store(
    stage: Stage,
    state: int,
    model: Classifier,
    new: np.ndarray,
    kept: np.ndarray,
    held_out: np.ndarray,
    history: list[Epoch],
    seconds: float,
) -> None:
    """Score all that later stages need, reduce it to the second memory, and store the state.

    new, kept, held_out: indices of the new classes' training images, the exemplars, and those not trained on.
    """
    settings, data, states = stage.settings, stage.data, stage.states
    num_past, num_seen = states.num_past(state), states.num_seen(state)
    val = np.flatnonzero(data.val_labels < num_seen)
    val_scores, val_features = score_images(model, stage.val_batches(val))
    training = score_training_images(model, stage.batches(new))
    arrays = {
        "val_indices": val,
        "val_labels": data.val_labels[val],
        "val_scores": val_scores,
        "val_features": val_features,
        "new_indices": new,
        "new_labels": data.train_labels[new],
        **{f"new_{name}": values for name, values in training.items()},
    }
    if settings.get("held_out"):
        arrays |= {
            "held_out_indices": held_out,
            "held_out_labels": data.train_labels[held_out],
            "held_out_scores": score_images(model, stage.batches(held_out))[0],
        }
    exemplar_scores, all_past_means = {}, {}
    if num_past:
        scores, features = score_images(model, stage.batches(kept))
        exemplar_scores = reduce_scores(scores, data.train_labels[kept])
        arrays |= {
            "exemplar_indices": kept,
            "exemplar_labels": data.train_labels[kept],
            "exemplar_scores": scores,
            "exemplar_features": features,
        }
        if settings["score_all_past"]:
            means = mean_by_class(model, stage.batches(np.flatnonzero(data.train_labels < num_past)), num_past)
            arrays["past_class_features"] = means["unit_features"].astype(np.float32)
            all_past_means = {kind: means[f"own_{quantity}"].tolist() for kind, quantity in QUANTITIES.items()}
    labels = arrays["new_labels"], data.train_labels[kept]
    second_memory = state_statistics(training, labels[0], exemplar_scores, labels[1], num_past, num_seen)
    for kind in QUANTITIES:
        second_memory[kind]["all_current_means"] = all_past_means.get(kind, [])
    info = {
        "second_memory": second_memory,
        "normalisation": {"mean": stage.normalisation.mean, "std": stage.normalisation.std},
        "history": [vars(epoch) for epoch in history],
        "training_seconds": seconds,
    }
    stage.store(state, arrays, model.state_dict(), info)
