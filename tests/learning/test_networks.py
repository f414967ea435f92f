"""Backbones, and heads that are new or extended."""

import copy

import pytest
import torch

from il2m.learning.networks import build_network, with_head
from il2m.parameters import NETWORKS


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_turns_images_into_scores(network, channels):
    model = build_network(network, channels, num_classes=5, seed=0).eval()
    images = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, features = model(images), model.backbone(images)
    assert scores.shape == (2, 5)
    assert features.shape == (2, 512 if network == "resnet18" else 64)
    torch.testing.assert_close(scores, features @ model.head.weight.T + model.head.bias)
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize(
    ("network", "num_classes", "parameters"),
    # counted by the architectures: He et al. (2016) give .27 and .46 million for CIFAR, torchvision 11,689,512
    [("resnet20", 10, 269_722), ("resnet32", 10, 464_154), ("resnet18", 1000, 11_689_512)],
)
def test_sizes_as_published(network, num_classes, parameters):
    model = build_network(network, 3, num_classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_small_differs_from_resnet8_by_its_stride():
    small, resnet8 = (build_network(network, 1, 3, seed=0) for network in ("small", "resnet8"))
    assert equal(weights(small), weights(resnet8))
    assert (small.backbone[0].stride, resnet8.backbone[0].stride) == ((2, 2), (1, 1))


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model, again, other = (build_network("small", 1, 3, seed=seed) for seed in (0, 0, 1))
    with_head(model, 5, "new", seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert equal(weights(model), weights(again))
    assert not equal(weights(model), weights(other))


def test_new_head_forgets_and_shares_the_backbone():
    model = build_network("small", 1, 3, seed=0)
    before = weights(model)
    grown = with_head(model, 5, "new", seed=1)
    assert grown.head.weight.shape == (5, 64)
    assert grown.backbone is model.backbone
    assert not torch.equal(grown.head.weight[:3], model.head.weight)
    assert not torch.equal(grown.head.bias[:3], model.head.bias)
    assert equal(weights(model), before)
    assert torch.equal(grown.head.weight, with_head(model, 5, "new", seed=1).head.weight)
    assert not torch.equal(grown.head.weight, with_head(model, 5, "new", seed=2).head.weight)


def test_extended_head_keeps_the_past_classes_weights():
    model = build_network("small", 1, 3, seed=0)
    extended, new = (with_head(model, 5, head, seed=1) for head in ("extended", "new"))
    assert torch.equal(extended.head.weight[:3], model.head.weight)
    assert torch.equal(extended.head.bias[:3], model.head.bias)
    assert torch.equal(extended.head.weight[3:], new.head.weight[3:])
    assert extended.head.weight.requires_grad
    past = copy.deepcopy(model.head.weight)
    with torch.no_grad():
        extended.head.weight.zero_()
    assert torch.equal(model.head.weight, past), "a copy, so that training one does not touch the other"
