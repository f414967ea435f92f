"""What a stage will cost: memory and disk, counted from what is held and stored, and seconds, where they are asked for,
from how fast a few of its batches are trained here and now. (Of what was done before, status.Estimates knows.)"""

import statistics
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np

from il2m.memory.exemplars import kept_per_class
from il2m.notebook.catalogue import ABLATION, ANALYSIS, BASE, FINE_TUNING
from il2m.study.planning import Plan, images_to_train_on
from il2m.system.plugins import load_plugin

PAGES = {BASE: 1.0e6, FINE_TUNING: 0.5e6, ANALYSIS: 2.5e6, ABLATION: 1.9e6}  # bytes: an executed copy and its page
IN_A_NOTEBOOK = 5.0  # seconds, beside training
_PROCESS = 0.7e9  # bytes of a job before it has any images
_NETWORKS = {  # numbers in the weights, width of the features, numbers kept per pixel of an image for its gradients
    "small": (75_000, 64, 39), "resnet8": (76_000, 64, 147), "resnet20": (271_000, 64, 372),
    "resnet32": (466_000, 64, 596), "resnet18": (11_200_000, 512, 111),
}  # fmt: skip


def memory_and_disk(plan: Plan, notebook: str) -> dict[str, float]:
    """Bytes that a stage takes at most while it runs, and those that it leaves; a registered network counts as the
    largest that is built in. Image files are not held."""
    images, states, settings = plan.dataset, plan.states, plan.settings
    network = plan.identity.get("base", plan.identity)["network"]
    weights, width, kept_by_pixel = _NETWORKS.get(network, _NETWORKS["resnet18"])
    val, disk = np.bincount(images.val_labels), PAGES[notebook]
    for state in images_to_train_on(plan):
        past, seen = states.num_past(state), states.num_seen(state)
        rows = val[:seen].sum() + (past and past * kept_per_class(settings, past))
        new = images.train_counts[past:seen].sum()
        disk += 4 * float(weights + rows * (seen + width + 4) + new * (width + 8))
    pixels, num_images = int(np.prod(images.train_images.shape[1:3])), len(images.train_labels) + len(images.val_labels)
    memory = _PROCESS + 4 * settings.batch_size * pixels * kept_by_pixel + 16 * weights
    memory += 0 if images.files else 2 * num_images * pixels * images.num_channels
    return {"memory": memory + 8.0 * len(images.val_labels) * (images.num_classes + width), "disk": disk}


def stopwatch(slots: int, threads: int, plugins: Sequence[str] = ()) -> Callable[[str, str, Plan], float]:
    """What tells the seconds of a stage, by its kind, its device, and its plan: the rate of each kind is measured once,
    in ``slots`` processes at a time, as jobs will run. slots: 0 measures nothing, and tells 0."""
    if not slots:
        return lambda kind, device, plan: 0.0
    children, rates = ProcessPoolExecutor(slots, mp_context=get_context("spawn")), {}

    def seconds(kind: str, device: str, plan: Plan) -> float:
        if kind not in rates:
            told = children.map(_rate, *([each] * slots for each in (plan, device, threads, plugins)))
            rates[kind] = statistics.median(told)
        images, trained = plan.dataset, images_to_train_on(plan)
        labels = np.concatenate([images.train_labels, images.val_labels])
        scored = sum((labels < plan.states.num_seen(state)).sum() for state in trained)  # in a third of the time
        return IN_A_NOTEBOOK + (sum(trained.values()) + float(scored) / 3) / rates[kind]

    return seconds


def _rate(plan: Plan, device: str, threads: int, plugins: Sequence[str]) -> float:
    import torch

    from il2m.data.batches import Normalisation
    from il2m.data.image_files import image_batches
    from il2m.learning.networks import build_network
    from il2m.learning.training import train

    for plugin in plugins:
        load_plugin(plugin)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # of a network that learns nothing
    (_, *size, channels), settings, classes = plan.dataset.train_images.shape, plan.settings, plan.states.num_seen(1)
    network = plan.identity.get("base", plan.identity)["network"]
    model, teacher = (build_network(network, channels, classes, seed, tuple(size)) for seed in (0, 1))
    asked = {"learning_rate": 1e-9, "seed": 0, "teacher": teacher if plan.identity.get("distillation") else None}
    rate, normalisation = 0.0, Normalisation((0.5,) * channels, (1.0,) * channels)
    for seconds in (0.0, 0.5, 2.0):  # each asks for as many images as the one before tells that they take
        images = plan.dataset.train_images[: max(int(rate * seconds), 4 * settings.batch_size)]
        batches = image_batches(images, np.arange(len(images)) % classes, normalisation)
        rate = train(model, batches, replace(settings, device=device), epochs=2, **asked)[-1].images_per_second
    return rate
