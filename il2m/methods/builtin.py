"""The study's own methods: fine-tuning, IL2M with its parts switched off one by one, and what the field does about the
bias after training; without past classes all leave things alone. Longer formulas: rectify.py, corrections.py."""

import numpy as np

from il2m.memory.exemplars import kept_per_class, rank_classes, unit_features
from il2m.methods import corrections
from il2m.methods.corrections import Head, head_scores
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import PARTS, rectify
from il2m.methods.registry import Size, method
from il2m.parameters import SCORE_KINDS

HEAD = ("features", "head")


@method("FT", score_kinds=SCORE_KINDS, needs=(), cost=lambda size: (0, size.linear), colour="#7F7F7F")
def fine_tuning(state: Frozen) -> np.ndarray:
    """Nothing: fine-tuning's own scores."""
    return state.scores


for _name, _what, _colour, _means, _confidences in (
    # an initial mean per class is kept, and a confidence per state
    ("IL2M", "Past scores times the ratio of class means and that of confidences (Eq. 1).", "#009E73", 1, 1),
    ("IL2M-no-gate", "Eq. 1 without its gate: images predicted as past are rectified too.", "#56B4E9", 1, 1),
    ("IL2M-means", "Eq. 1 without the ratio of confidences.", "#CC79A7", 1, 0),
    ("IL2M-confidence", "Eq. 1 without the ratio of class means.", "#E69F00", 0, 1),
):

    def _rectified(state: Frozen, parts: dict[str, bool] = PARTS[_name]) -> np.ndarray:
        return rectify(state.scores, state.statistics, undefined=state.undefined, **parts)

    _rectified.__doc__ = _what
    _cost = lambda size, a=_means, b=_confidences: (a * size.classes + b * size.states, size.linear + size.past)  # noqa: E731
    method(_name, "Belouadah and Popescu, ICCV 2019", "statistics", _cost, _colour, score_kinds=SCORE_KINDS)(_rectified)


@method("FT-th", "Buda et al., Neural Networks 2018", "counts", lambda size: (size.classes, size.linear), "#8C564B")
def prior_thresholding(state: Frozen) -> np.ndarray:
    """Raw scores minus the log of each class's share of the training images (of imported scores: of the rows given).

    After softmax this divides the probabilities by the prior, relative to equal ones.
    """
    prior = state.counts / state.counts.mean()
    return state.scores - np.log(prior).astype(state.scores.dtype)


def _mean_cost(size: Size) -> tuple[int, int]:
    """A mean per class in place of the head; the feature's norm."""
    return size.linear, size.linear + size.features


@method(
    "NEM", "iCaRL, Rebuffi et al., CVPR 2017", ("features", "new", "exemplars"), _mean_cost, "#9467BD", distances=True
)
def nearest_exemplar_mean(state: Frozen) -> np.ndarray:
    """Nearest mean of exemplars in feature space.

    New classes have as many images as a past class has exemplars, chosen by the run's own rule: the exemplars that they
    would leave behind.
    """
    settings, features, labels = state.settings, state.new.features, state.new.labels
    if state.num_past:
        kept = [(state.exemplars.features, state.exemplars.labels)]
        num_kept = int(np.bincount(state.exemplars.labels).max())
    else:
        kept, num_kept = [], kept_per_class(settings, state.states.num_past(2))
    ranking = rank_classes(settings.exemplar_selection, features, labels, num_kept, settings.train_seed)
    kept += [(features[positions], labels[positions]) for positions in ranking.values()]
    features, labels = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    directions = corrections.mean_directions(features, labels, state.num_classes)
    return corrections.nearest_mean_scores(state.features, directions)


@method("WA", "Zhao et al., CVPR 2020", HEAD, lambda size: (0, size.linear), "#17BECF")
def weight_alignment(state: Frozen) -> np.ndarray:
    """New classes' weight vectors scaled to the mean norm of past ones.

    Biases stay. The paper's weight clipping during training is not part of it.
    """
    features, (weight, bias), num_past = state.features, state.head, state.num_past
    norms, aligned = np.linalg.norm(weight, axis=1), weight.copy()
    if num_past:
        aligned[num_past:] *= norms[:num_past].mean() / norms[num_past:].mean()
    return head_scores(features, Head(aligned, bias))


@method(
    "ScaIL",
    "Belouadah and Popescu, WACV 2020",
    HEAD,
    lambda size: (size.initial_head + size.states * (size.features + 1), 2 * size.linear),
    "#BCBD22",
)
def scail(state: Frozen) -> np.ndarray:
    """Past classes' initial weights, scaled rank by rank to the new ones' size; the 10 best past classes stay."""
    current = state.head
    scaled = Head(*(tensor.copy() for tensor in current))
    for past in state.earlier:
        own = slice(past.num_past, past.num_classes)
        scaled.weight[own], scaled.bias[own] = corrections.scale_initial_head(past.head, current, own, state.num_past)
    return corrections.keep_top_past(head_scores(state.features, scaled), state.scores, state.num_past)


@method("SIW", "Belouadah et al., BMVC 2020", HEAD, lambda size: (size.initial_head, size.linear), "#88A9D9")
def standardised_initial_weights(state: Frozen) -> np.ndarray:
    """Each class's initial weights, standardised."""
    parts = [(each.head, each.num_past) for each in (*state.earlier, state)]  # as they were where the class was new
    weight, bias = (np.concatenate([head[i][num_past:] for head, num_past in parts]) for i in (0, 1))
    centred = weight - weight.mean(axis=1, keepdims=True)
    standardised = centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)
    return head_scores(state.features, Head(standardised, bias))


@method(
    "SIW-calibrated",
    "Belouadah et al., BMVC 2020",
    (*HEAD, "statistics"),
    lambda size: (size.initial_head + size.states, size.linear + size.past),
    "#4C6FBF",
)
def standardised_and_calibrated(state: Frozen) -> np.ndarray:
    """SIW, past scores times the ratio of confidences."""
    confidences, scores = state.statistics.confidences, standardised_initial_weights(state)
    return scores * (confidences[-1] / confidences[state.state_of_class - 1]).astype(scores.dtype)


@method("BiC", "Wu et al., CVPR 2019", "held_out", lambda size: (2, size.linear + size.new), "#D4479B")
def bias_correction(state: Frozen) -> np.ndarray:
    """Two numbers for new classes' scores, fitted on images held out of training."""
    if not state.num_past:
        return state.scores
    fitted = corrections.fit_bias_correction(state.held_out.scores, state.held_out.labels, state.num_past)
    return corrections.correct_bias(state.scores, state.num_past, *fitted)


@method("NCM-oracle", needs=("features", "new", "all_past"), colour="#8A8A8A", cost=_mean_cost, distances=True)
def nearest_class_mean(state: Frozen) -> np.ndarray:
    """Nearest mean of *all* training images: breaks the memory limit."""
    directions = corrections.mean_directions(state.new.features, state.new.labels, state.num_classes)
    if state.num_past:
        directions[: state.num_past] = unit_features(state.past_class_features)
    return corrections.nearest_mean_scores(state.features, directions)


@method("task-aware-oracle", needs="val_labels", colour="#A6A6A6", dash=":", cost=lambda size: (0, size.linear))
def task_aware(state: Frozen) -> np.ndarray:
    """Only classes of the image's true state compete: bounds what any cure of the bias between states can reach.

    Its top-1 is the task-aware accuracy of a task-incremental scenario (van de Ven and Tolias, 2019).
    """
    competes = state.state_of_class == state.state_of_class[state.val_labels][:, None]
    return np.where(competes, state.scores, -np.inf).astype(state.scores.dtype, copy=False)
