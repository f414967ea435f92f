"""What the field does about the bias towards new classes, after training: small functions on stored arrays.

Raw scores are ``s = features @ weight.T + bias``, (n, C). The classes are in learning order, ``num_past`` of them past.
Each method returns new scores or a new head; none changes what it is given. In a state without past classes all leave
things alone.
"""

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
    weight, bias = head
    scores = features @ weight.T
    scores += bias
    return scores


def threshold_by_prior(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Prior thresholding, (n, C): raw scores minus the log of each class's share of the training images, relative to
    equal ones. After softmax this divides the probabilities by the prior (Buda et al., Neural Networks 2018).
    counts: (C,) training images of each class, all > 0."""
    prior = counts / counts.mean()
    return scores - np.log(prior).astype(scores.dtype)


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


def align_weights(head: Head, num_past: int) -> Head:
    """Weight alignment (WA; Zhao et al., CVPR 2020): new classes' weights scaled to the mean norm of past ones. Biases
    stay. The paper's weight clipping during training is not part of it."""
    norms, aligned = np.linalg.norm(head[0], axis=1), head[0].copy()
    if num_past:
        aligned[num_past:] *= norms[:num_past].mean() / norms[num_past:].mean()
    return Head(aligned, head[1])


def mean_by_rank(weight: np.ndarray) -> np.ndarray:
    """(d,): the mean over classes (rows) of their largest absolute weight, of their second largest, and so on."""
    return -np.sort(-np.abs(weight), axis=1).mean(axis=0)


def scale_initial_head(initial: Head, current: Head, own: slice, num_past: int) -> Head:
    """ScaIL's head for the classes ``own`` that one past state brought (Belouadah and Popescu, WACV 2020).

    Their initial weights, the dimension of rank r (by absolute weight, within the class) times the ratio of the mean
    r-th largest absolute weight of the current new classes to that of the initial ones. Biases: times the ratio of
    ``sum |b| / norm(b)`` of the current head to the initial one. (The published script differs: it looks the factor up
    by ``argsort(-w)[dimension]``, which is not a rank, and normalises each bias by itself, so that its bias ratio is
    that of the two heads' numbers of classes.)
    initial: the head at the end of the past state, over all classes it knew. current: the current state's head.
    """
    weight, bias = initial[0][own], initial[1][own]
    before, now = mean_by_rank(weight), mean_by_rank(current[0][num_past:])
    ratio = np.divide(now, before, out=np.ones_like(now), where=before > 0)
    rank = np.argsort(np.argsort(-np.abs(weight), axis=1, kind="stable"), axis=1)
    spread_before, spread_now = (np.abs(b).sum() / max(np.linalg.norm(b), 1e-12) for b in (initial[1], current[1]))
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


def standardise(weight: np.ndarray) -> np.ndarray:
    """Each class's weight vector (row) with mean 0 and standard deviation 1, (C, d) (SIW; Belouadah et al., BMVC
    2020)."""
    centred = weight - weight.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)


def calibrate_past(scores: np.ndarray, confidences: np.ndarray, state_of_class: np.ndarray) -> np.ndarray:
    """Scores (n, C) times ``mu(M_N) / mu(M_P)`` of each class's state P: 1 for new classes (SIW "with calibration").
    confidences: (N,) mu(M_b) of states 1..N. state_of_class: (C,) from 1."""
    return scores * (confidences[-1] / confidences[state_of_class - 1]).astype(scores.dtype)


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


def within_own_state(scores: np.ndarray, labels: np.ndarray, state_of_class: np.ndarray) -> np.ndarray:
    """Scores (n, C) of the classes of each image's *true* state, -inf for all others: an oracle. Its top-1 bounds what
    any method that only shifts the balance between states can reach (task-aware accuracy, as in van de Ven and Tolias
    2019's task-incremental scenario). labels: (n,). state_of_class: (C,) from 1."""
    return np.where(state_of_class == state_of_class[labels][:, None], scores, -np.inf).astype(scores.dtype, copy=False)
