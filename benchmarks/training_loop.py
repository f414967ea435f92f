"""How much of the training loop's time goes into forward, backward and step, and what channels-last brings.

    python benchmarks/training_loop.py

Everything is measured in one process on one thread, and printed as ratios: absolute times differ between machines.
"""

import time
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.learning.networks import Classifier, build_network
from il2m.learning.training import train
from il2m.parameters import Training

SETTINGS = {
    "glyphs: small, 28 x 28 grey, batch 32": ("small", 28, 1, 32, 1700),
    "CIFAR: resnet20, 32 x 32 colour, batch 64": ("resnet20", 32, 3, 64, 1280),
}
seconds = {"in the network": 0.0}


@contextmanager
def counted():
    start = time.perf_counter()
    yield
    seconds["in the network"] += time.perf_counter() - start


def count(owner, name):
    """Count the time spent in ``owner.name``."""
    original = getattr(owner, name)

    def timed(*args, **kwargs):
        with counted():
            return original(*args, **kwargs)

    setattr(owner, name, timed)


def share_in_network(network, size, channels, batch_size, num_images, epochs=3):
    """Share of train()'s time in forward, loss.backward and step; and its images per second."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, size, size, channels), dtype=np.uint8)
    batches = ImageBatches(images, rng.integers(0, 20, num_images), channel_mean_std(images))
    model = build_network(network, channels, 20, seed=0)
    settings = Training.given(values={"batch_size": batch_size, "flip": True, "device": "cpu"})
    options = {"learning_rate": 0.01, "seed": 0}
    train(model, batches, settings, epochs=1, **options)  # warm up
    seconds["in the network"] = 0.0
    start = time.perf_counter()
    train(model, batches, settings, epochs=epochs, **options)
    total = time.perf_counter() - start
    return seconds["in the network"] / total, epochs * num_images / total


def channels_last_speed(network, size, channels, batch_size, steps=20):
    """Time of a training step in the default memory layout over that in channels-last."""
    times: dict = {}
    for layout in (torch.contiguous_format, torch.channels_last) * 5:  # in turns, the best of each: machines are noisy
        model = build_network(network, channels, 20, seed=0).to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, fused=True)
        images = torch.randn(batch_size, channels, size, size).contiguous(memory_format=layout)
        labels = torch.randint(20, (batch_size,))
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        times[layout] = min(times.get(layout, float("inf")), time.perf_counter() - start)
    return times[torch.contiguous_format] / times[torch.channels_last]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for title, setting in SETTINGS.items():
        print(f"{title}: channels-last is {channels_last_speed(*setting[:4]):.2f} times as fast as the default layout")
    count(Classifier, "forward")
    count(Accelerator, "backward")
    count(AcceleratedOptimizer, "step")
    for title, setting in SETTINGS.items():
        share, speed = share_in_network(*setting)
        print(f"{title}: {share:.1%} of the loop's time in forward, backward and step; {speed:,.0f} images/s")
