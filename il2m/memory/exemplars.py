"""First memory: which past images are kept, under a bound on their number. Each class's training images are ranked
once, when the class is new; what is kept for it later is a prefix of that ranking, which shrinks as classes come."""

from collections.abc import Mapping

import numpy as np

from il2m.data.states import States, places_by_class
from il2m.errors import InputError
from il2m.parameters import FineTuning


def kept_per_class(settings: FineTuning, num_past: int) -> int:
    """Images kept for each of ``num_past`` classes: a fixed number, or else ``K / num_past``, K = memory_size, rounded.
    Rounded up, as the authors' lists have it, up to ``num_past - 1`` images more than K are held in all."""
    added = num_past - 1 if settings.memory_rounding == "ceil" else 0
    return settings.exemplars_per_class or (settings.memory_size + added) // num_past


def check_memory(settings: FineTuning, states: States) -> None:
    """Raise InputError, naming state and smallest K, if some past class would have no image (K = 0: all may)."""
    if settings.balanced_epochs and not (settings.memory_size or settings.exemplars_per_class):
        raise InputError("balanced_epochs needs images per class, and memory_size = 0 keeps none: leave it 0.")
    size, needed = settings.memory_size, states.num_past(states.num_states)
    state = next((b for b in range(2, states.num_states + 1) if not kept_per_class(settings, states.num_past(b))), 0)
    if state and size:
        what = f"memory_size = {size} leaves less than one image per past class at state {state}"
        smallest = f"the smallest memory_size that works for all {states.num_states} states is {needed}"
        rounded = "with memory_rounding = floor (ceil leaves one of each)"
        raise InputError(f"{what}, which has {states.num_past(state)} past classes; {smallest} {rounded}.")


def of_past_classes(arrays: Mapping[str, np.ndarray], states: States, state: int) -> dict[str, np.ndarray]:
    """A state's arrays, those named ``exemplar_...`` without rows of its new classes: a memory saved after the state
    has these too, but current means and counts are of past classes' exemplars."""
    is_new = np.isin(arrays.get("exemplar_labels", ()), states.new_classes(state))
    return {name: array[~is_new] if name.startswith("exemplar_") else array for name, array in arrays.items()}


def held_out_places(num_ranked: int, share: float) -> np.ndarray:
    """Places in a class's ranking that are held out of training: ``floor(k * share)`` of any first k, so that what is
    held out stays so while the ranking's prefix shrinks."""
    return np.flatnonzero(np.diff(num_held_out(np.arange(num_ranked + 1), share)))


def num_held_out(num_ranked: np.ndarray, share: float) -> np.ndarray:
    """How many of the first ``num_ranked`` (any shape) images of a class are held out: ``floor(k * share)``."""
    return np.floor(num_ranked * share + 1e-9).astype(np.int64)


def herding_ranking(features: np.ndarray, num_kept: int) -> np.ndarray:
    """iCaRL's herding (Rebuffi et al., CVPR 2017, Alg. 4): positions of the kept images, (min(num_kept, n),), best
    first. Each pick brings the mean of the picked closest to the class mean, on l2-normalised features.
    features: (n, d), one class's training images under the model of the state where the class was new."""
    unit = unit_features(features.astype(np.float64))
    mean = unit.mean(axis=0)
    picked_sum = np.zeros_like(mean)
    available = np.ones(len(unit), dtype=bool)
    picks = np.empty(min(num_kept, len(unit)), dtype=np.int64)
    for k in range(len(picks)):
        distance = np.linalg.norm(mean - (picked_sum + unit) / (k + 1), axis=1)
        picks[k] = np.where(available, distance, np.inf).argmin()
        available[picks[k]] = False
        picked_sum += unit[picks[k]]
    return picks


def rank_classes(
    selection: str, features: np.ndarray | None, labels: np.ndarray, num_kept: int, seed: int
) -> dict[int, np.ndarray]:
    """For each class in ``labels``: positions (into ``labels``) of its best ``num_kept`` images, best first.
    selection: 'random' or 'herding'. features: (n, d), read only by herding. labels: (n,) int."""
    by_class = places_by_class(labels).items()
    if selection == "herding":
        return {label: places[herding_ranking(features[places], num_kept)] for label, places in by_class}
    return {label: np.random.default_rng([seed, label]).permutation(places)[:num_kept] for label, places in by_class}


def unit_features(features: np.ndarray) -> np.ndarray:
    """l2-normalised features, (n, d)."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
