"""IL2M with a second memory of images that were never trained on: an oracle, of the validation images.

    il2m run benchmarks/grids/glyphs_k200_unseen.yaml --plugin benchmarks/plugins/unseen_means.py

Exemplars are trained on in each state, so that their mean scores may stay high while those of unseen images of the same
class fall. If that is why class means tell little of the bias, then means of unseen images tell more.
"""

import numpy as np

import il2m
from il2m.memory.statistics import ClassStatistics, class_means, own_and_top
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import PARTS, rectify


def statistics_of_unseen(state: Frozen) -> ClassStatistics:
    """What Eq. 1 needs, as its definitions have it, but of validation images in place of training images and exemplars.
    Current means are of the state's model, initial means and confidences of the model of the state that was new."""
    initial, confidences = np.empty(state.num_classes), []
    for each in (*state.earlier, state):
        each = each.with_val_labels().whole
        own, top = own_and_top(each.scores, each.val_labels)
        current, new = class_means(own, each.val_labels, each.num_classes), slice(each.num_past, each.num_classes)
        initial[new] = current[new]
        confidences.append(top[each.val_labels >= each.num_past].mean(dtype=np.float64))
    return ClassStatistics(initial, current, np.array(confidences), state.state_of_class)


@il2m.method("IL2M-unseen-oracle", needs="val_labels", colour="#56B4E9")
def il2m_of_unseen(state: Frozen) -> np.ndarray:
    """IL2M with means and confidences of the validation images: bounds what means of unseen images can do."""
    return rectify(state.scores, statistics_of_unseen(state), undefined=state.undefined, **PARTS["IL2M"])


@il2m.method("IL2M-means-unseen-oracle", needs="val_labels", colour="#009E73")
def means_of_unseen(state: Frozen) -> np.ndarray:
    """IL2M's class means alone, of the validation images."""
    return rectify(state.scores, statistics_of_unseen(state), undefined=state.undefined, **PARTS["IL2M-means"])
