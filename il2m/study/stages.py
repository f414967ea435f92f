"""The training stages: base training, fine-tuning, and joint training on *all* images of all classes so far, the upper
bound of a study. They meet on disk: finished states are kept, and of one that was interrupted the epochs up to its last
checkpoint (see training.py). Of two processes that ask for a run, one waits and takes what the other has made."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.batches import Normalisation
from il2m.data.file_batches import checked, images_mean_std
from il2m.data.states import places_by_class
from il2m.learning.networks import Classifier, with_head
from il2m.learning.scores import mean_by_class, score_images, score_training_images
from il2m.memory.exemplars import held_out_places, kept_per_class, rank_classes
from il2m.memory.statistics import QUANTITIES, reduce_scores, state_statistics
from il2m.parameters import BaseTraining, FineTuning, JointTraining
from il2m.study.find import open_base
from il2m.study.planning import Plan, images_to_train_on, load_images, plan_base, plan_fine_tuning
from il2m.study.progress import Progress
from il2m.study.runs import RESULT_VERSION, Run
from il2m.study.stage import Stage, check_device, train_missing


def train_base(settings: BaseTraining | None = None, **parameters: Any) -> Run:
    """Notebook 01's stage: train on the first state's classes from scratch, score, and store (state 1). A finished base
    is returned as it is. parameters: of parameters.BaseTraining, over ``settings``. Raises InputError as plan_base."""
    return train_planned(plan_base(settings, **parameters))


def train_planned(plan: Plan) -> Run:
    """Make the planned run as far as it is missing, in the folder and under the identity that the plan has."""
    if not plan.folder.exists():
        check_device(plan.identity, plan.settings.device)  # before anything is written
    run = Run.create(Path(plan.settings.out_dir), plan.kind, plan.identity, **plan.notes)
    source = plan.notes["source"]
    if plan.dataset.files and (before := run.config.get("source", source)) != source:
        warnings.warn(f"{run.name} is of {before}; {source} is taken for it: names and sizes agree.", stacklevel=3)
    if (base := run.config.get("base")) != (other := plan.notes.get("base")):
        warnings.warn(f"{run.name} goes on from {base}, not from {other}, its equal: give a new out_dir.", stacklevel=3)
    asked = {name: getattr(plan.settings, name) for name in ("device", "validate_every")}  # what no hash has
    settings = type(plan.settings).of_identity(run.identity, **asked)
    train_states = _train_base_state if plan.kind == "base" else _fine_tune_states
    return train_missing(run, plan.settings, lambda missing: train_states(plan, run, settings, missing))


def _train_base_state(plan: Plan, run: Run, settings: BaseTraining, _: list[int]) -> None:
    data = checked(plan.dataset, run.folder.parent, allow_leakage=plan.settings.allow_leakage)
    new = np.flatnonzero(data.train_labels < plan.states.num_seen(1))
    given = run.identity.get("normalisation")
    normalisation = Normalisation(**given) if given else images_mean_std(data.train_images[new])
    with Progress("base training", images_to_train_on(plan)[1], run.folder) as progress:
        Stage(run, settings, data, normalisation, progress).train(_train_first, [(new,)])


def _train_first(stage: Stage, new: np.ndarray) -> None:
    """State 1, trained on the images ``new`` (indices), scored and stored."""
    settings, model = stage.settings, stage.new_network(1, stage.seed(1, "weights"))
    history = stage.fit(model, new, state=1, epochs=settings.base_epochs, learning_rate=settings.learning_rate)
    _score_and_store(stage, 1, model, new, new[:0], new[:0], [(history, new)])


def fine_tune(settings: FineTuning | None = None, **parameters: Any) -> Run:
    """Notebook 02's stage: states 2..S, each from the previous state's weights, on new images and exemplars. Finished
    ones are kept. parameters: of parameters.FineTuning, over ``settings``. Raises InputError as plan_fine_tuning."""
    return train_planned(plan_fine_tuning(settings, **parameters))


def _fine_tune_states(plan: Plan, run: Run, settings: FineTuning, missing: list[int]) -> None:
    title = "fine-tuning" + (" with distillation" if settings.distillation else "")
    with Progress(title, sum(images_to_train_on(plan)[state] for state in missing), run.folder) as progress:
        stage = Stage(run, settings, plan.dataset, Normalisation(**run.state(1).info["normalisation"]), progress)
        stage.train(_fine_tune_state, [(state, plan.exemplars.get(state)) for state in missing])


def _fine_tune_state(stage: Stage, state: int, given: np.ndarray | None) -> None:
    """One incremental state, on its new images and the exemplars ``given`` (indices), or else chosen here."""
    kept = _choose_exemplars(stage, state) if given is None else given
    settings, states, labels = stage.settings, stage.run.states, stage.data.train_labels
    same = {"state": state, "teacher": stage.load_model(state - 1) if settings.distillation else None}
    model = with_head(stage.load_model(state - 1), states.num_seen(state), settings.head, stage.seed(state, "head"))
    model.backbone.requires_grad_(not settings.freeze)
    new, rate = np.flatnonzero(np.isin(labels, states.new_classes(state))), settings.learning_rate / state
    num_kept = kept_per_class(settings, states.num_past(state)) if given is None else np.bincount(labels[given]).max()
    held_out = _hold_out(stage, new, kept, num_kept)
    trained_on = np.concatenate([images[~np.isin(images, held_out)] for images in (new, kept)])
    trainings = [(stage.fit(model, trained_on, epochs=settings.epochs, learning_rate=rate, **same), trained_on)]
    if epochs := settings.balanced_epochs:
        features = score_images(model, stage.batches(new))[1] if settings.exemplar_selection == "herding" else None
        ranking = rank_classes(settings.exemplar_selection, features, labels[new], num_kept, settings.train_seed)
        balanced = np.concatenate([kept, *(new[positions] for positions in ranking.values())])
        balanced = balanced[~np.isin(balanced, held_out)]
        same["purpose"] = "balanced training"
        trainings += [(stage.fit(model, balanced, epochs=epochs, learning_rate=rate / 10, **same), balanced)]
    _score_and_store(stage, state, model, new, kept, held_out, trainings)


def _choose_exemplars(stage: Stage, state: int) -> np.ndarray:
    """Training-image indices of the first memory at ``state``, class by class, best first: the previous state's classes
    are ranked now, on the features of the model of that state; older ones keep a prefix of what they had."""
    settings, states, previous = stage.settings, stage.run.states, stage.run.state(state - 1)
    kept, chosen = kept_per_class(settings, states.num_past(state)), []
    if "exemplar_indices" in previous.array_names:
        indices, labels = previous.array("exemplar_indices"), previous.array("exemplar_labels")
        chosen = [indices[places[:kept]] for places in places_by_class(labels).values()]
    indices, features, labels = (previous.array(f"new_{name}") for name in ("indices", "features", "labels"))
    ranking = rank_classes(settings.exemplar_selection, features, labels, kept, settings.train_seed)
    return np.concatenate([*chosen, *(indices[positions] for positions in ranking.values())])


def _hold_out(stage: Stage, new: np.ndarray, kept: np.ndarray, num_kept: int) -> np.ndarray:
    """Training-image indices that ``held_out`` keeps from training: some exemplars, as many per new class (none in the
    base), random ones even with herding, maybe others than its ranking holds out. num_kept: exemplars per class."""
    settings, labels = stage.settings, stage.data.train_labels
    ranked = [kept[places] for places in places_by_class(labels[kept]).values()]
    ranking = rank_classes("random", None, labels[new], num_kept, settings.train_seed)
    ranked += [new[positions] for positions in ranking.values()]
    return np.concatenate([indices[held_out_places(len(indices), settings.held_out)] for indices in ranked])


def train_joint(settings: JointTraining | None = None, **parameters: Any) -> Run:
    """Train a network from scratch on all images of states 1..b, for each b >= 2, as the base was trained on state 1:
    network, optimiser and seed are the base's, and state 1 is the base itself. Stores validation scores only, in a run
    of its own. parameters: of parameters.JointTraining, over ``settings``; ``base`` may be a Run."""
    settings = JointTraining.given(settings, parameters)
    base = open_base(Path(settings.out_dir), settings.base)
    identity = {"joint_epochs": settings.joint_epochs or base.identity["base_epochs"]}
    identity |= {"base": base.identity, "state_sizes": base.identity["state_sizes"]}
    identity["result_version"] = RESULT_VERSION["image_size" in base.identity]
    run = Run.create(Path(settings.out_dir), "joint", identity, base=base.name, **base.notes)
    return train_missing(run, settings, lambda missing: _train_joint_states(run, settings, missing))


def _train_joint_states(run: Run, settings: JointTraining, missing: list[int]) -> None:
    data = load_images(run, settings.data_dir, num_workers=settings.num_workers)
    epochs, settings = run.identity["joint_epochs"], BaseTraining.of_identity(run.base.identity, device=settings.device)
    chosen = {state: np.flatnonzero(data.train_labels < run.states.num_seen(state)) for state in missing}
    with Progress("joint training", epochs * sum(map(len, chosen.values())), run.folder) as progress:
        normalisation = Normalisation(**run.state(1).info["normalisation"])
        Stage(run, settings, data, normalisation, progress).train(_train_joint_state, list(chosen.items()))


def _train_joint_state(stage: Stage, state: int, indices: np.ndarray) -> None:
    model = stage.new_network(state, stage.seed(state, "joint weights"))
    same = {"epochs": stage.run.identity["joint_epochs"], "learning_rate": stage.settings.learning_rate}
    history = stage.fit(model, indices, state=state, purpose="joint training", **same)
    arrays = stage.score_validation(model, state)
    del arrays["val_features"]
    stage.store(state, arrays, {}, {"history": [vars(epoch) for epoch in history]})


def _score_and_store(
    stage: Stage, state: int, model: Classifier, new: np.ndarray, kept: np.ndarray, held_out: np.ndarray, trained: list
) -> None:
    """Score all that later stages need, reduce it to the second memory, and store the state. new, kept, held_out:
    indices of new classes' images, exemplars, and those not trained on. trained: (history, indices) by training."""
    labels, states = stage.data.train_labels, stage.run.states
    num_past, num_seen = states.num_past(state), states.num_seen(state)
    arrays = stage.score_validation(model, state)
    training = score_training_images(model, stage.batches(new))
    if not num_past and stage.data.files:
        arrays |= {"train_digests": stage.data.train_images.digests, "val_digests": stage.data.val_images.digests}
    arrays |= {"new_indices": new, "new_labels": labels[new]} | {f"new_{name}": each for name, each in training.items()}
    if num_past and stage.settings.held_out:
        scores = score_images(model, stage.batches(held_out))[0]
        arrays |= {"held_out_indices": held_out, "held_out_labels": labels[held_out], "held_out_scores": scores}
    exemplar_scores, past_means = {}, {}
    if num_past:
        scores, features = score_images(model, stage.batches(kept))
        exemplar_scores = reduce_scores(scores, labels[kept])
        arrays |= {"exemplar_indices": kept, "exemplar_labels": labels[kept]}
        arrays |= {"exemplar_scores": scores, "exemplar_features": features}
        if stage.settings.score_all_past:
            past_means = mean_by_class(model, stage.batches(np.flatnonzero(labels < num_past)), num_past)
            arrays["past_class_features"] = past_means["unit_features"].astype(np.float32)
    second_memory = state_statistics(training, labels[new], exemplar_scores, labels[kept], num_past, num_seen)
    for kind, quantity in QUANTITIES.items():
        second_memory[kind]["all_current_means"] = list(past_means.get(f"own_{quantity}", []))
    epochs = [(epoch, len(indices)) for history, indices in trained for epoch in history]  # also before an interruption
    info = {"second_memory": second_memory, "normalisation": vars(stage.normalisation)}
    info["history"] = [vars(epoch) for epoch, _ in epochs]
    info["training_seconds"] = sum(num_images / epoch.images_per_second for epoch, num_images in epochs)
    stage.store(state, arrays, model.state_dict(), info)
