"""What a stage will cost: memory and disk, counted from what is held and stored. (How long: see status.Estimates.)"""

import numpy as np

from il2m.memory.exemplars import kept_per_class
from il2m.notebook.catalogue import ABLATION, ANALYSIS, BASE, FINE_TUNING
from il2m.study.planning import Plan, images_to_train_on

PAGES = {BASE: 1.0e6, FINE_TUNING: 0.5e6, ANALYSIS: 2.5e6, ABLATION: 1.9e6}  # bytes: an executed copy and its page
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
