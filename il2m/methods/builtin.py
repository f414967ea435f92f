"""The study's own methods: fine-tuning, IL2M with its parts switched off one by one, and what the field does about the
bias after training. In a state without past classes all leave things alone."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from il2m.memory.exemplars import kept_per_class, rank_classes, unit_features
from il2m.methods.frozen import Frozen, Head
from il2m.methods.rectify import FORMS, rectify
from il2m.methods.registry import METHODS, Function, Size, method
from il2m.parameters import SCORE_KINDS

_ABOUT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def _own(name: str, cost: Callable[[Size], tuple[float, float]]) -> Callable[[Function], Function]:
    """Register one of the study's own: ``method``, with what builtin.toml says of it."""
    return method(name, cost=cost, **_ABOUT[name])


@_own("FT", lambda size: (0, size.linear))
def fine_tuning(state: Frozen) -> np.ndarray:
    """Nothing: fine-tuning's own scores."""
    return state.scores


for _name, _form in FORMS.items():

    def _rectified(state: Frozen, parts: dict[str, Any] = _form["parts"]) -> np.ndarray:
        return rectify(state.scores, state.statistics, undefined=state.undefined, **parts)

    def _cost(size: Size, kept: dict[str, int] = _form["kept"]) -> tuple[int, int]:
        return kept["per_class"] * size.classes + kept["per_state"] * size.states, size.linear + size.past

    _rectified.__doc__ = _form["meaning"]
    method(_name, _form["source"], _form["needs"], _cost, _form["colour"], score_kinds=SCORE_KINDS)(_rectified)


@_own("FT-th", lambda size: (size.classes, size.linear))
def prior_thresholding(state: Frozen) -> np.ndarray:
    """Raw scores minus the log of each class's share of the training images (of imported scores: of the rows given).
    After softmax this divides the probabilities by the prior, relative to equal ones."""
    return state.scores - np.log(state.counts / state.counts.mean()).astype(state.scores.dtype)


def mean_directions(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Each class's mean of l2-normalised features, re-normalised, (num_classes, d); zeros for a class without images:
    the prototypes of iCaRL (Rebuffi et al., CVPR 2017, Alg. 1). features: (n, d). labels: (n,)."""
    sums = np.zeros((num_classes, features.shape[1]))
    by_class = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[by_class], return_index=True)
    sums[present] = np.add.reduceat(unit_features(features[by_class]), starts, axis=0, dtype=np.float64)
    return unit_features(sums)  # the direction of a sum is that of its mean


def nearest_mean_scores(features: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Minus the distance of each l2-normalised feature to each class's direction, (n, C) (iCaRL, Alg. 1).
    features: (n, d). directions: (C, d), of unit length: with all images of each class this is the nearest class mean,
    with exemplars the nearest exemplar mean. Distances are not raw scores: no softmax makes probabilities of them."""
    scores = unit_features(features) @ directions.T.astype(features.dtype)
    scores *= 2
    scores -= 2  # minus the squared distance of two unit vectors
    return -np.sqrt(np.maximum(-scores, 0, out=scores), out=scores)


@_own("NEM", lambda size: (size.linear, size.linear + size.features))  # means in place of the head; the feature's norm
def nearest_exemplar_mean(state: Frozen) -> np.ndarray:
    """Nearest mean of exemplars in feature space.
    Of new classes the exemplars that they would leave behind: as many as a past class has, by the run's own rule."""
    settings, new, exemplars, num_past = state.settings, state.new, state.exemplars, state.num_past
    at_first = max(kept_per_class(settings, state.states.num_past(2)), 1)
    num_kept = int(np.bincount(exemplars.labels).max()) if num_past else at_first
    ranking = rank_classes(settings.exemplar_selection, new.features, new.labels, num_kept, settings.train_seed)
    kept = np.concatenate([*ranking.values()])
    directions = mean_directions(new.features[kept], new.labels[kept], state.num_classes)
    if num_past:
        directions[:num_past] = mean_directions(exemplars.features, exemplars.labels, num_past)
    return nearest_mean_scores(state.features, directions)


def head_scores(features: np.ndarray, head: Head) -> np.ndarray:
    """Raw scores (n, C) of features (n, d)."""
    scores = features @ head.weight.T
    scores += head.bias
    return scores


@_own("WA", lambda size: (0, size.linear))
def weight_alignment(state: Frozen) -> np.ndarray:
    """New classes' weight vectors scaled to the mean norm of past ones.
    Biases stay. The paper's weight clipping during training is not part of it."""
    features, (weight, bias), num_past = state.features, state.head, state.num_past
    norms, aligned = np.linalg.norm(weight, axis=1), weight.copy()
    if num_past:
        aligned[num_past:] *= norms[:num_past].mean() / norms[num_past:].mean()
    return head_scores(features, Head(aligned, bias))


def scale_initial_head(initial: Head, current: Head, own: slice, num_past: int) -> Head:
    """ScaIL's head for the classes ``own`` that one past state brought (Belouadah and Popescu, WACV 2020): their
    initial weights, the dimension of rank r (by absolute weight, within the class) times the ratio of the mean r-th
    largest absolute weight of the current new classes to that of the initial ones. Biases: times the ratio of
    ``sum |b| / norm(b)`` of the current head to the initial one. (The published script differs: it looks the factor up
    by ``argsort(-w)[dimension]``, which is not a rank, and normalises each bias by itself, so that its bias ratio is
    that of the two heads' numbers of classes.) initial: at the end of the past state, over all classes it knew."""
    weight, bias = initial.weight[own], initial.bias[own]
    before, now = (-np.sort(-np.abs(each), axis=1).mean(axis=0) for each in (weight, current.weight[num_past:]))
    ratio = np.divide(now, before, out=np.ones_like(now), where=before > 0)  # by rank
    rank = np.argsort(np.argsort(-np.abs(weight), axis=1, kind="stable"), axis=1)
    spread_before, spread_now = (np.abs(b).sum() / max(np.linalg.norm(b), 1e-12) for b in (initial.bias, current.bias))
    return Head(weight * ratio[rank], bias * (spread_now / max(spread_before, 1e-12)))


def keep_top_past(corrected: np.ndarray, scores: np.ndarray, num_past: int, kept: int = 10) -> np.ndarray:
    """``corrected`` (n, C) with only each image's ``kept`` past classes of highest raw score in play, the others -inf
    (of ScaIL). scores: (n, C), before correction; past classes that tie with the last one kept stay too."""
    result = corrected.copy()
    if num_past > kept:
        past = scores[:, :num_past]
        last_kept = np.partition(past, num_past - kept, axis=1)[:, num_past - kept, None]
        result[:, :num_past][past < last_kept] = -np.inf
    return result


@_own("ScaIL", lambda size: (size.initial_head + size.states * (size.features + 1), 2 * size.linear))
def scail(state: Frozen) -> np.ndarray:
    """Past classes' initial weights, scaled rank by rank to the new ones' size; the 10 best past classes stay."""
    current = state.head
    scaled = Head(*(tensor.copy() for tensor in current))
    for past in state.earlier:
        own = slice(past.num_past, past.num_classes)
        scaled.weight[own], scaled.bias[own] = scale_initial_head(past.head, current, own, state.num_past)
    return keep_top_past(head_scores(state.features, scaled), state.scores, state.num_past)


@_own("SIW", lambda size: (size.initial_head, size.linear))
def standardised_initial_weights(state: Frozen) -> np.ndarray:
    """Each class's initial weights, standardised."""
    parts = [(each.head, each.num_past) for each in (*state.earlier, state)]  # as they were where the class was new
    weight, bias = (np.concatenate([head[i][num_past:] for head, num_past in parts]) for i in (0, 1))
    centred = weight - weight.mean(axis=1, keepdims=True)
    standardised = centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)
    return head_scores(state.features, Head(standardised, bias))


@_own("SIW-calibrated", lambda size: (size.initial_head + size.states, size.linear + size.past))
def standardised_and_calibrated(state: Frozen) -> np.ndarray:
    """SIW, past scores times the ratio of confidences."""
    confidences, scores = state.statistics.confidences, standardised_initial_weights(state)
    return scores * (confidences[-1] / confidences[state.state_of_class - 1]).astype(scores.dtype)


def fit_bias_correction(scores: np.ndarray, labels: np.ndarray, num_past: int) -> tuple[float, float]:
    """BiC's two numbers alpha and beta (Wu et al., CVPR 2019), fitted by cross-entropy: convex in the two; where the
    images are separated without error it has no minimum, and the fit stops where it is flat.
    scores: (n, C) raw, of images that were not trained on, equally many per class. labels: (n,)."""
    scores = scores.astype(np.float64)
    images = np.arange(len(labels))

    def loss_and_gradient(alpha_beta: np.ndarray) -> tuple[float, np.ndarray]:
        probabilities = softmax(correct_bias(scores, num_past, *alpha_beta), axis=1)
        loss = -np.log(np.maximum(probabilities[images, labels], 1e-300)).mean()
        probabilities[images, labels] -= 1  # from here on the gradient with respect to the corrected scores
        new = probabilities[:, num_past:]
        return loss, np.array([(new * scores[:, num_past:]).sum(), new.sum()]) / len(labels)

    return tuple(minimize(loss_and_gradient, (1.0, 0.0), jac=True, method="L-BFGS-B").x.tolist())


def correct_bias(scores: np.ndarray, num_past: int, alpha: float, beta: float) -> np.ndarray:
    """BiC's bias-correction layer, (n, C): ``alpha s + beta`` for new classes, past classes as they are."""
    corrected = scores.copy()
    corrected[:, num_past:] = alpha * scores[:, num_past:] + beta
    return corrected


@_own("BiC", lambda size: (2, size.linear + size.new))
def bias_correction(state: Frozen) -> np.ndarray:
    """Two numbers for new classes' scores, fitted on images held out of training."""
    if not state.num_past:
        return state.scores
    fitted = fit_bias_correction(state.held_out.scores, state.held_out.labels, state.num_past)
    return correct_bias(state.scores, state.num_past, *fitted)


@_own("NCM-oracle", METHODS["NEM"].cost)
def nearest_class_mean(state: Frozen) -> np.ndarray:
    """Nearest mean of all training images, past ones too: breaks the memory limit."""
    directions = mean_directions(state.new.features, state.new.labels, state.num_classes)
    if state.num_past:
        directions[: state.num_past] = unit_features(state.past_class_features)
    return nearest_mean_scores(state.features, directions)


@_own("task-aware-oracle", lambda size: (0, size.linear))
def task_aware(state: Frozen) -> np.ndarray:
    """Only classes of the image's true state compete: bounds what any cure of the bias between states can reach.
    Its top-1 is the task-aware accuracy of a task-incremental scenario (van de Ven and Tolias, 2019)."""
    competes = state.state_of_class == state.state_of_class[state.val_labels][:, None]
    return np.where(competes, state.scores, -np.inf).astype(state.scores.dtype, copy=False)
