"""The rectification ablation: what every method makes of a run's frozen models, from the arrays that the run stores.

Methods and their sources are in rectify.py (IL2M and its factors) and methods.py (the field's); here they meet run
folders.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from safetensors import safe_open
from scipy.special import softmax

from il2m.errors import InputError, nearest
from il2m.memory.exemplars import kept_per_class, rank_classes
from il2m.methods import corrections as methods
from il2m.methods import rectify
from il2m.parameters import SCORE_KINDS, FineTuning
from il2m.study.runs import Run


def validation_scores(run: Run, state: int, score_kind: str = "raw") -> np.ndarray:
    """The model's scores of the state's validation images, (n, C): ``raw``, or probabilities for ``softmax``."""
    scores = run.state(state).array("val_scores")
    return softmax(scores, axis=1) if score_kind == "softmax" else scores


def head(run: Run, state: int) -> methods.Head:
    """Weight (C, d) and bias (C,) of the head at the end of ``state``."""
    with safe_open(run.state(state).path / "model.safetensors", framework="numpy") as weights:
        return weights.get_tensor("head.weight"), weights.get_tensor("head.bias")


def training_counts(run: Run, state: int) -> np.ndarray:
    """Images of each class that ``state`` was trained on, (C,): exemplars of past classes, all images of new ones."""
    stored, num_classes = run.state(state), run.states.num_seen(state)
    counts = np.bincount(stored.array("new_labels"), minlength=num_classes)
    if state > 1:
        counts += np.bincount(stored.array("exemplar_labels"), minlength=num_classes)
        if "held_out_labels.npy" in stored.info["files"]:
            counts -= np.bincount(stored.array("held_out_labels"), minlength=num_classes)
    return counts


def _features(run: Run, state: int) -> np.ndarray:
    return run.state(state).array("val_features")


def _prior_thresholding(run: Run, state: int) -> np.ndarray:
    """The prior is that of the state's first training; a balanced second stage (balanced_epochs) has a flat one, which
    this leaves out of account."""
    return methods.threshold_by_prior(validation_scores(run, state), training_counts(run, state))


def _nearest_exemplar_mean(run: Run, state: int) -> np.ndarray:
    """New classes have as many images as a past class has exemplars, chosen by the run's own rule: the exemplars that
    they would leave behind."""
    stored, settings = run.state(state), run.identity
    num_kept = kept_per_class(FineTuning.of_identity(settings), run.states.num_past(max(state, 2)))
    features, labels = stored.array("new_features"), stored.array("new_labels")
    if state > 1:
        num_kept = int(np.bincount(stored.array("exemplar_labels")).max())
    selection = settings.get("exemplar_selection", "random")
    ranking = rank_classes(selection, features, labels, num_kept, settings.get("train_seed", 0))
    chosen = np.concatenate(list(ranking.values()))
    features, labels = features[chosen], labels[chosen]
    if state > 1:
        features = np.concatenate([stored.array("exemplar_features"), features])
        labels = np.concatenate([stored.array("exemplar_labels"), labels])
    directions = methods.mean_directions(features, labels, run.states.num_seen(state))
    return methods.nearest_mean_scores(_features(run, state), directions)


def _nearest_class_mean(run: Run, state: int) -> np.ndarray:
    """With all training images of every class: an oracle, past images beyond the exemplars are not in the memory."""
    stored, num_past = run.state(state), run.states.num_past(state)
    directions = methods.mean_directions(
        stored.array("new_features"), stored.array("new_labels"), run.states.num_seen(state)
    )
    if num_past:
        directions[:num_past] = methods.unit_features(stored.array("past_class_features"))
    return methods.nearest_mean_scores(_features(run, state), directions)


def _weight_alignment(run: Run, state: int) -> np.ndarray:
    return methods.head_scores(
        _features(run, state), methods.align_weights(head(run, state), run.states.num_past(state))
    )


def _initial_head(run: Run, state: int) -> methods.Head:
    """Each class's weight and bias at the end of the state where it was new."""
    parts = [(head(run, b), run.states.num_past(b)) for b in range(1, state + 1)]
    return tuple(np.concatenate([tensors[i][num_past:] for tensors, num_past in parts]) for i in (0, 1))


def _scail(run: Run, state: int) -> np.ndarray:
    num_past, current = run.states.num_past(state), head(run, state)
    weight, bias = (tensor.copy() for tensor in current)
    for past_state in range(1, state):
        own = slice(run.states.num_past(past_state), run.states.num_seen(past_state))
        weight[own], bias[own] = methods.scale_initial_head(head(run, past_state), current, own, num_past)
    corrected = methods.head_scores(_features(run, state), (weight, bias))
    return methods.keep_top_past(corrected, validation_scores(run, state), num_past)


def _siw(run: Run, state: int) -> np.ndarray:
    weight, bias = _initial_head(run, state)
    return methods.head_scores(_features(run, state), (methods.standardise(weight), bias))


def _siw_calibrated(run: Run, state: int) -> np.ndarray:
    statistics = run.statistics(state)
    return methods.calibrate_past(_siw(run, state), statistics.confidences, statistics.state_of_class)


def _bias_correction(run: Run, state: int) -> np.ndarray:
    scores, num_past = validation_scores(run, state), run.states.num_past(state)
    if not num_past:
        return scores
    stored = run.state(state)
    fitted = methods.fit_bias_correction(stored.array("held_out_scores"), stored.array("held_out_labels"), num_past)
    return methods.correct_bias(scores, num_past, *fitted)


def _task_aware(run: Run, state: int) -> np.ndarray:
    labels = run.state(state).array("val_labels")
    of_class = run.states.of_class[: run.states.num_seen(state)]
    return methods.within_own_state(validation_scores(run, state), labels, of_class)


_FIELD: dict[str, tuple[Callable[[Run, int], np.ndarray], tuple[str, ...]]] = {
    # name -> its scores at a state, and what every state must store for it
    "FT-th": (_prior_thresholding, ("new_labels", "exemplar_labels")),
    "NEM": (_nearest_exemplar_mean, ("val_features", "new_features", "exemplar_features")),
    "WA": (_weight_alignment, ("val_features", "head")),
    "ScaIL": (_scail, ("val_features", "head")),
    "SIW": (_siw, ("val_features", "head")),
    "SIW-calibrated": (_siw_calibrated, ("val_features", "head", "second memory")),
    "BiC": (_bias_correction, ("held_out_scores",)),
    "NCM-oracle": (_nearest_class_mean, ("val_features", "new_features", "past_class_features")),
    "task-aware-oracle": (_task_aware, ()),
}
METHODS = (*rectify.METHODS, *_FIELD)


def score_kinds(method: str) -> tuple[str, ...]:
    """Kinds of score that a method is defined on: raw and softmax for IL2M and its factors, raw alone for the
    others."""
    return SCORE_KINDS if method in rectify.METHODS else ("raw",)


def method_scores(run: Run, state: int, method: str, *, score_kind: str = "raw", undefined: str = "keep") -> np.ndarray:
    """Validation scores of ``state`` as ``method`` (a name in METHODS) gives them, (n, C).

    undefined: IL2M's policy, see rectify.rectification_factors. Raises InputError for a method that the run can't give.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: {nearest(method, METHODS)}")
    if score_kind not in score_kinds(method):
        raise InputError(f"{method} is defined on {score_kinds(method)[0]} scores, not on {score_kind}.")
    if problem := missing_for(run, method):
        raise InputError(f"{run.folder}: {method} can't be computed: {problem}.")
    if method in _FIELD:
        return _FIELD[method][0](run, state)
    scores = validation_scores(run, state, score_kind)
    if method == "FT":
        return scores
    return rectify.rectify(scores, run.statistics(state, score_kind), undefined=undefined, **rectify.METHODS[method])


def missing_for(run: Run, method: str) -> str:
    """Why ``method`` must be left out for this run, or ``""`` if it can be computed at every state."""
    needs = _FIELD[method][1] if method in _FIELD else () if method == "FT" else ("second memory",)
    for state in range(1, run.states.num_states + 1):
        for need in needs:
            if problem := _missing(run, state, need):
                return f"state {state} {problem}"
    return ""


def _missing(run: Run, state: int, need: str) -> str:
    """What ``state`` lacks of ``need``, ``""`` if nothing. State 1 has no past classes, so needs nothing of them."""
    info = run.state(state).info
    if need == "second memory":
        memory = info.get("second_memory", {}).get("raw", {})
        values = [*memory["initial_means"], *memory["current_means"], memory["confidence"]] if memory else [np.nan]
        complete = np.isfinite(values).all() and len(memory["current_means"]) == run.states.num_past(state)
        return "" if complete else "has no statistics of training images and exemplars"
    if need == "head":
        return "" if "model.safetensors" in info["files"] else "has no weights of the head"
    of_past = need.startswith(("exemplar_", "past_", "held_out_"))
    if of_past and state == 1:
        return ""
    if f"{need}.npy" not in info["files"]:
        if need == "held_out_scores":
            return "held no exemplars out of training (held_out is 0)"
        return f"stores no {need}"
    if need == "held_out_scores":
        held = np.bincount(run.state(state).array("held_out_labels"), minlength=run.states.num_seen(state))
        if not held.all():
            return (
                f"has no held-out image of {np.count_nonzero(held == 0)} class(es): a larger memory_size or held_out "
                "leaves some"
            )
    return ""
