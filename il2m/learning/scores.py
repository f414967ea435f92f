"""A model and un-augmented images, in order -> score arrays: the model's outputs before softmax ("raw scores")."""

from collections.abc import Iterator

import numpy as np
import torch

from il2m.data.batches import ImageBatches
from il2m.learning.networks import Classifier
from il2m.memory.exemplars import unit_features
from il2m.memory.statistics import reduce_scores
from il2m.system.processes import gathered


@torch.inference_mode()
def score_batches(model: Classifier, batches: ImageBatches) -> Iterator[tuple[torch.Tensor, ...]]:
    """Raw scores (m, C), features (m, d), both float32, and labels (m,) of one batch after the other, on the device."""
    model.eval()
    for images, labels in batches.my_part().to(next(model.parameters()).device).plain():
        # whole float32, and to the same bits, on a GPU too, where PyTorch rounds convolutions unless it is told
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features = model.backbone(images)
            scores = model.head(features)
        yield scores.float(), features.float(), labels


def score_images(model: Classifier, batches: ImageBatches) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores (n, C) and features (n, d) of all images, float32. They leave the device once, at the end."""
    shape, device = (len(batches), model.head.out_features), next(model.parameters()).device
    scores, features = torch.empty(shape, device=device), torch.empty(shape[0], model.head.in_features, device=device)
    done = 0
    for batch_scores, batch_features, labels in score_batches(model, batches):
        rows = slice(done, done + len(labels))
        scores[rows], features[rows], done = batch_scores, batch_features, rows.stop
    parts = [gathered([part[:done].cpu().numpy()]) for part in (scores, features)]
    return tuple(np.concatenate(part) if len(part) > 1 else part[0] for part in parts)


def score_training_images(model: Classifier, batches: ImageBatches) -> dict[str, np.ndarray]:
    """What the second memory needs of training images, reduced batch by batch: raw ``own_scores, top_scores`` and
    softmax ``own_probabilities, top_probabilities``, (n,) each, and ``features`` (n, d), all float32."""
    reduced = []
    for batch in score_batches(model, batches):
        scores, features, labels = (part.cpu().numpy() for part in batch)
        reduced.append(reduce_scores(scores, labels) | {"features": features})
    reduced = gathered(reduced)
    return {name: np.concatenate([part[name] for part in reduced]) for name in reduced[0]}


def mean_by_class(model: Classifier, batches: ImageBatches, num_classes: int) -> dict[str, np.ndarray]:
    """Means over each class's images, float64: ``own_scores, own_probabilities`` (C,), ``unit_features`` (C, d)."""
    sums = {"counts": np.zeros(num_classes)}
    for batch in score_batches(model, batches):
        scores, features, labels = (part.cpu().numpy() for part in batch)
        np.add.at(sums["counts"], labels, 1)
        values = reduce_scores(scores, labels) | {"unit_features": unit_features(features)}
        for name in ("own_scores", "own_probabilities", "unit_features"):
            total = sums.setdefault(name, np.zeros((num_classes, *values[name].shape[1:])))
            np.add.at(total, labels, values[name])
    parts = gathered([sums])  # the last one has images, however few they are
    sums = {name: sum(part.get(name, 0) for part in parts) for name in parts[-1]}
    return {name: (total.T / sums["counts"]).T for name, total in sums.items() if name != "counts"}
