"""Scores of un-augmented images."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.learning.networks import Classifier, build_network
from il2m.learning.scores import mean_by_class, score_images, score_training_images
from il2m.memory.exemplars import unit_features
from il2m.memory.statistics import own_and_top

NUM_CLASSES = 4


@pytest.fixture(scope="module")
def model() -> Classifier:
    """Batch normalisation has statistics unlike those of any batch, so that scoring in training mode would show."""
    model = build_network("small", 1, NUM_CLASSES, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)  # more than one batch of 256


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, NUM_CLASSES, 300)


@pytest.fixture(scope="module")
def batches(images, labels) -> ImageBatches:
    return ImageBatches(images, labels, channel_mean_std(images))


@pytest.fixture(scope="module")
def by_loop(model, images) -> tuple[np.ndarray, np.ndarray]:
    """Scores and features of one image after the other."""
    normalisation = channel_mean_std(images)
    model.eval()
    scores, features = [], []
    with torch.no_grad():
        for image in images:
            pixels = (image.astype(np.float32) / 255 - normalisation.mean[0]) / normalisation.std[0]
            features.append(model.backbone(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0])
            scores.append(model.head(features[-1]).numpy())
    return np.stack(scores), torch.stack(features).numpy()


def test_scores_are_those_of_each_image_alone_before_softmax(model, batches, by_loop):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores, features = score_images(model, batches)
    assert scores.dtype == features.dtype == np.float32
    np.testing.assert_allclose(scores, by_loop[0], atol=1e-4)
    np.testing.assert_allclose(features, by_loop[1], atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scoring_twice_gives_the_same_bits(model, batches):
    for first, again in zip(score_images(model, batches), score_images(model, batches), strict=True):
        np.testing.assert_array_equal(first, again)


def test_own_and_top_by_hand():
    own, top = own_and_top(np.array([[1.0, 5.0, 2.0], [4.0, -1.0, 0.0]]), np.array([2, 1]))
    np.testing.assert_array_equal(own, [2, -1])
    np.testing.assert_array_equal(top, [5, 4])


def test_training_images_are_reduced_to_own_and_top(model, batches, labels, by_loop):
    reduced = score_training_images(model, batches)
    probabilities = softmax(by_loop[0], axis=1)
    everyone = np.arange(len(labels))
    expected = {
        "own_scores": by_loop[0][everyone, labels],
        "top_scores": by_loop[0].max(axis=1),
        "own_probabilities": probabilities[everyone, labels],
        "top_probabilities": probabilities.max(axis=1),
        "features": by_loop[1],
    }
    assert reduced.keys() == expected.keys()
    for name, values in expected.items():
        assert reduced[name].dtype == np.float32
        np.testing.assert_allclose(reduced[name], values, atol=1e-4, err_msg=name)


def test_mean_by_class_as_loops(model, batches, labels, by_loop):
    means = mean_by_class(model, batches, NUM_CLASSES)
    scores, features = by_loop
    for c in range(NUM_CLASSES):
        own = np.flatnonzero(labels == c)
        units = [features[i] / np.linalg.norm(features[i]) for i in own]
        np.testing.assert_allclose(means["own_scores"][c], np.mean([scores[i, c] for i in own]), atol=1e-4)
        np.testing.assert_allclose(
            means["own_probabilities"][c], np.mean([softmax(scores[i])[c] for i in own]), atol=1e-4
        )
        np.testing.assert_allclose(means["unit_features"][c], np.mean(units, axis=0), atol=1e-4)


def test_unit_features():
    np.testing.assert_allclose(unit_features(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
