"""The formulas of the field's corrections that take more than a line or two; builtin.py has the others. The classes are
in learning order, ``num_past`` of them past. None changes what it is given."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from il2m.memory.exemplars import unit_features


class Head(NamedTuple):
    """A linear layer over C classes: weight (C, d) and bias (C,)."""

    weight: np.ndarray
    bias: np.ndarray


def head_scores(features: np.ndarray, head: Head) -> np.ndarray:
    """Raw scores (n, C) of features (n, d)."""
    scores = features @ head.weight.T
    scores += head.bias
    return scores


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
    with exemplars the nearest exemplar mean. Distances are not raw scores: no softmax makes probabilities of them.
    """
    scores = unit_features(features) @ directions.T.astype(features.dtype)
    scores *= 2
    scores -= 2  # minus the squared distance of two unit vectors
    return -np.sqrt(np.maximum(-scores, 0, out=scores), out=scores)


def scale_initial_head(initial: Head, current: Head, own: slice, num_past: int) -> Head:
    """ScaIL's head for the classes ``own`` that one past state brought (Belouadah and Popescu, WACV 2020).

    Their initial weights, the dimension of rank r (by absolute weight, within the class) times the ratio of the mean
    r-th largest absolute weight of the current new classes to that of the initial ones. Biases: times the ratio of
    ``sum |b| / norm(b)`` of the current head to the initial one. (The published script differs: it looks the factor up
    by ``argsort(-w)[dimension]``, which is not a rank, and normalises each bias by itself, so that its bias ratio is
    that of the two heads' numbers of classes.)
    initial: the head at the end of the past state, over all classes it knew. current: the current state's head.
    """
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

    alpha, beta = minimize(loss_and_gradient, (1.0, 0.0), jac=True, method="L-BFGS-B").x
    return float(alpha), float(beta)


def correct_bias(scores: np.ndarray, num_past: int, alpha: float, beta: float) -> np.ndarray:
    """BiC's bias-correction layer, (n, C): ``alpha s + beta`` for new classes, past classes as they are."""
    corrected = scores.copy()
    corrected[:, num_past:] *= alpha
    corrected[:, num_past:] += beta
    return corrected
