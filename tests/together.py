"""What tests let several processes do together; they import it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import make_tiny_arrays, train_with
from torch import nn

from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.errors import InputError
from il2m.learning.networks import Classifier
from il2m.learning.scores import mean_by_class, score_images, score_training_images
from il2m.system.processes import HERE, gathered

SETTINGS = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "max_shift": 1,
    "flip": True,
    "seed": 5,
    "device": "cpu",
}


def without_normalisation(num_classes: int, seed: int) -> Classifier:
    """No batch normalisation, which sees a process's share only."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten()
    return Classifier(nn.Sequential(*layers), 8, num_classes)


def tiny_batches(num_images: int) -> ImageBatches:
    arrays = make_tiny_arrays()
    images, labels = arrays["x_train"][:num_images, ..., None], arrays["y_train"][:num_images]
    return ImageBatches(images, labels, channel_mean_std(images))


def train_and_score(**more: Any) -> dict[str, np.ndarray]:
    """67 images: the last of an epoch's batches has 3, of which no two processes can have two each."""
    model, teacher = without_normalisation(6, 0), without_normalisation(4, 1)
    history = train_with(model, tiny_batches(67), teacher=teacher, **SETTINGS | more)
    found = {f"trained {name}": value.numpy() for name, value in model.state_dict().items()}
    found["loss"] = np.array([epoch.loss for epoch in history])
    fixed = without_normalisation(6, 2)  # the same in all, whatever was trained
    for num_images in (0, 1, 2, 67):
        scores, features = score_images(fixed, tiny_batches(num_images)) if num_images else (0, 0)
        found |= {f"scores of {num_images}": scores, f"features of {num_images}": features}
    for name, value in score_training_images(fixed, tiny_batches(67)).items():
        found[f"training {name}"] = value
    for name, value in mean_by_class(fixed, tiny_batches(67), 6).items():
        found[f"mean {name}"] = value
    return found


def note_train_and_score(folder: Path, **more: Any) -> None:
    np.savez(folder / f"{HERE.rank}.npz", **train_and_score(**more))


def fail_in_the_second() -> None:
    if HERE.rank == 1:
        raise InputError("this is wrong:\n  and that too")
    gathered([])


def note_meeting(folder: Path) -> None:
    """What each process on a GPU of its own hears of all others."""
    torch.cuda.set_device(HERE.rank)
    total = torch.tensor(float(HERE.rank + 1), device="cuda")
    torch.distributed.all_reduce(total)
    met = [None] * HERE.count
    HERE.gather(met, (HERE.rank, HERE.count, torch.distributed.get_backend(), float(total)))
    (folder / f"{HERE.rank}.json").write_text(json.dumps({"met": met}))
