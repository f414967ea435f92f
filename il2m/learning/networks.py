"""Backbones, and a linear head over the classes seen so far."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, rectification_factors
from il2m.parameters import NETWORKS
from il2m.rules import FLAG, check_choice
from il2m.system.hashes import registered_source

Builder = Callable[[int], nn.Module]  # number of channels -> backbone


class Classifier(nn.Sequential):
    """A backbone, images (n, c, h, w) -> features (n, d), and a linear head, features -> raw scores (n, C)."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__(OrderedDict(backbone=backbone, head=nn.Linear(num_features, num_classes)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, a shortcut without parameters (He et al. 2016, option A); widening halves the image."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.extra_width = width - in_width
        self.conv1 = nn.Conv2d(in_width, width, 3, 2 if self.extra_width else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra_width)) if self.extra_width else x
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class CifarResNet(nn.Sequential):
    """Three stages of ``blocks`` basic blocks, 16, 32 and 64 wide (He et al. 2016, section 4.2): depth 6 blocks + 2."""

    def __init__(self, in_channels: int, blocks: int, stem_stride: int = 1) -> None:
        stem = nn.Conv2d(in_channels, 16, 3, stem_stride, padding=1, bias=False)
        widths = [16, *(width for width in (16, 32, 64) for _ in range(blocks))]
        body = [BasicBlock(before, width) for before, width in pairwise(widths)]
        super().__init__(stem, nn.BatchNorm2d(16), nn.ReLU(inplace=True), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _resnet18(in_channels: int) -> nn.Module:
    from torchvision.models import resnet18  # slow to import, and only needed here

    backbone = resnet18(weights=None)
    backbone.fc = nn.Identity()
    if in_channels != 3:
        backbone.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    return backbone


_BUILDERS: dict[str, Builder] = {
    "small": partial(CifarResNet, blocks=1, stem_stride=2),  # for quick studies
    "resnet8": partial(CifarResNet, blocks=1),
    "resnet20": partial(CifarResNet, blocks=3),
    "resnet32": partial(CifarResNet, blocks=5),
    "resnet18": _resnet18,  # torchvision's, the paper's
}


def register_network(name: str, builder: Builder) -> Builder:
    """Make ``network = name`` a network of the study. Raises InputError for a name that is taken, or a builder whose
    source can't be told: its hash is part of the hash of what it learned.
    builder: number of channels -> a module that turns images (n, c, h, w) into features (n, d) of a fixed width."""
    NETWORKS[name] = registered_source("network", name, builder, NETWORKS)
    _BUILDERS[name] = builder
    return builder


def build_network(
    network: str, in_channels: int, num_classes: int, seed: int, image_size: tuple[int, int] = (32, 32)
) -> Classifier:
    """A freshly initialised classifier. network: a name in NETWORKS. image_size: height and width. Raises InputError if
    it can't be built, or its features of such images are not (n, d) of one width for any n."""
    if network not in _BUILDERS:  # nor has this process loaded what registers it
        raise InputError(f"network {network!r} is registered elsewhere: several processes need it in a plugin.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone = _BUILDERS[network](in_channels)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                was_training = backbone.training
                backbone.eval()  # which leaves the statistics of batch normalisation alone
                shapes = [tuple(backbone(torch.zeros(n, in_channels, *image_size)).shape) for n in (2, 3)]
                backbone.train(was_training)
        except Exception as error:  # whatever the user's own code raises
            what = f"fails on images of {image_size[0]} x {image_size[1]} pixels and {in_channels} channel(s)"
            raise InputError(f"network {network!r} {what}: {type(error).__name__}: {error}") from error
        if len(shapes[0]) != 2 or shapes != [(n, shapes[0][1]) for n in (2, 3)]:
            what = f"2 and 3 images give features of shape {shapes[0]} and {shapes[1]}"
            raise InputError(f"network {network!r}: {what}; expected (n, d) with one d, as a linear head needs.")
        return Classifier(backbone, shapes[0][1], num_classes)


def check_rebuilt(network: str, height: int, width: int, channels: int) -> None:
    """Raise InputError for a network that can't be built, or that its weights, loaded into another, don't restore."""
    first, other = (build_network(network, channels, 1, seed, (height, width)).eval() for seed in (0, 1))
    other.load_state_dict(first.state_dict())
    images = torch.linspace(0, 1, 2 * channels * height * width).view(2, channels, height, width)
    with torch.no_grad():
        if not torch.equal(first(images), other(images)):
            what = "built twice and given the same weights, it gives two kinds of features, or none that are numbers"
            raise InputError(f"network {network!r}: {what}: make all that it draws a parameter or a persistent buffer.")


def with_head(model: Classifier, num_classes: int, head: str, seed: int) -> Classifier:
    """``model`` with its head over ``num_classes`` classes, ``new`` (re-initialised, as in the paper) or ``extended``,
    which keeps the past classes' weights. The backbone is shared, not copied."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = Classifier(model.backbone, model.head.in_features, num_classes)
    if head == "extended":
        with torch.no_grad():
            for past, both in zip(model.head.parameters(), grown.head.parameters(), strict=True):
                both[: len(past)] = past
    return grown


class Rectification(nn.Module):
    """Eq. 1 as a layer, raw scores (n, C) in and out; the statistics, each class's factor and whether it is new, and
    the gate are its buffers. parts: of rectification_factors. Raises InputError for statistics that lack a mean."""

    def __init__(self, statistics: ClassStatistics, *, gate: bool = True, **parts: Any) -> None:
        super().__init__()
        check_choice("gate", gate, FLAG)
        if np.isnan(np.concatenate([*vars(statistics).values()])).any():
            raise InputError("Eq. 1 lacks class means or confidences: was the run made without exemplars?")
        made = {"factors": rectification_factors(statistics, **parts).values, "is_new": ~statistics.is_past}
        for name, value in (vars(statistics) | made | {"gate": np.array(bool(gate))}).items():
            self.register_buffer(name, torch.tensor(value.astype(np.float32) if value.dtype.kind == "f" else value))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.where((self.is_new[scores.argmax(dim=1)] | ~self.gate)[:, None], scores * self.factors, scores)
