"""How fast training is, against a bare loop of forward, backward and step on one batch that lies in memory.

    python benchmarks/training_loop.py [--rounds 7] [--networks small resnet20 resnet32] [--json]

One process, one thread. A training and its bare loop take turns, an epoch each, in CPU time; each ratio is of two that
ran next to each other, and the median is told. Absolute times differ between machines, and on a busy one by the minute.
"""

import argparse
import json
import time
from functools import partial

import numpy as np
import torch
from bare_step import BareStep

from il2m.data.batches import ImageBatches, channel_mean_std
from il2m.learning.networks import build_network
from il2m.learning.training import train
from il2m.parameters import FineTuning

NETWORKS = {  # side and channels of images, batch size, steps of an epoch
    "small": (28, 1, 32, 32),
    "resnet20": (32, 3, 64, 4),
    "resnet32": (32, 3, 128, 2),
}
CLASSES, PAST = 20, 10


class BareLoop(BareStep):
    """An epoch of bare steps, of as many as a training's."""

    def __init__(self, network: str, layout=torch.channels_last, distils: bool = False) -> None:
        side, channels, batch_size, self.steps = NETWORKS[network]
        super().__init__(network, (batch_size, channels, side, side), CLASSES, past=PAST * distils, layout=layout)

    def __call__(self) -> float:
        """CPU seconds of an epoch."""
        start = time.process_time()
        for _ in range(self.steps):
            super().__call__()
        return time.process_time() - start


def speed_of_training(network: str, bare: BareLoop, rounds: int, **settings) -> float:
    """The bare loop's CPU seconds over those of train(), whose epochs are of as many batches."""
    size, channels, batch_size, steps = NETWORKS[network]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size * steps, size, size, channels), dtype=np.uint8)
    batches = ImageBatches(images, rng.integers(0, CLASSES, len(images)), channel_mean_std(images))
    teacher = build_network(network, channels, PAST, seed=1) if bare.past else None
    given = {"batch_size": batch_size, "device": "cpu", "flip": channels == 3, **settings}
    ratios, ended = [], [time.process_time()]

    def after(epoch):
        seconds = time.process_time() - ended[0]
        ratios.append(bare() / seconds)
        ended[0] = time.process_time()

    model = build_network(network, channels, CLASSES, seed=0)
    options = {"epochs": rounds + 1, "learning_rate": 0.01, "seed": 0, "teacher": teacher}
    train(model, batches, FineTuning.given(values=given), **options, on_epoch=after)
    return float(np.median(ratios[1:]))  # the first warms up


def measure(network: str, rounds: int) -> dict[str, str]:
    """What the table says of a network: speeds, as a share of the bare loop's."""
    size, channels, batch_size, _ = NETWORKS[network]
    bare, other, distilling = (
        BareLoop(network),
        BareLoop(network, torch.contiguous_format),
        BareLoop(network, distils=True),
    )
    bare(), other(), distilling()
    seconds = np.array([(bare(), other()) for _ in range(rounds)])
    trained = partial(speed_of_training, network, rounds=rounds)
    title = f"{network}, {size} x {size} x {channels}, batch {batch_size}"
    speed = bare.steps * batch_size / np.median(seconds[:, 0])
    return {
        f"{title}: bare loop": f"{speed:,.0f} images per CPU second",
        f"{title}: training, of the bare loop's speed": f"{trained(bare):.2f}",
        f"{title}: with distillation, of a bare loop that scores the teacher too": f"{trained(distilling):.2f}",
        f"{title}: in bf16, of the float32 bare loop's": f"{trained(bare, precision='bf16'):.2f}",
        f"{title}: bare loop in the default memory layout, of channels-last": (
            f"{np.median(seconds[:, 0] / seconds[:, 1]):.2f}"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--json", action="store_true", help="print one object, for benchmarks/table.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {what: value for network in args.networks for what, value in measure(network, args.rounds).items()}
    print(json.dumps(found) if args.json else "\n".join(f"{what}: {value}" for what, value in found.items()))


if __name__ == "__main__":
    main()
