"""How fast training is on one GPU, against what else could be done there. Each figure is of one run of this script.

    python benchmarks/gpu.py steps        a bare step on one resident batch: one by one, as a CUDA graph, by precision
    python benchmarks/gpu.py training     train(), against the bare step, and a DataLoader with Pillow (8 workers)
    python benchmarks/gpu.py together     trainings side by side in 1, 4, 8 and 16 processes, with MPS where it runs
    python benchmarks/gpu.py ilsvrc       ResNet-18 at 224 pixels by the paper's recipe: images in memory, and JPEGs

Images are random, as large as CIFAR's but for ilsvrc, whose files are those of image_files.py.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import image_files
import numpy as np
import torch
import torch.nn.functional as F
from bare_step import BareStep
from PIL import Image
from torchvision import transforms

from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std
from il2m.data.file_batches import FileBatches, checked
from il2m.data.lists import load_folder
from il2m.learning.networks import build_network
from il2m.learning.training import train
from il2m.parameters import FineTuning

NETWORKS = {"small": 32, "resnet8": 64, "resnet32": 128, "resnet18": 128}  # and the size of a batch
CLASSES, PAST, SIDE = 100, 90, 32
TF32 = "tf32"
torch.backends.cudnn.allow_tf32 = False  # as a study has it


def images_per_second(call: Callable[[], object], images: int, seconds: float = 0.5) -> float:
    """call: does ``images`` images. It is timed until ``seconds`` are over, after one that is not."""
    call()
    torch.cuda.synchronize()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
        calls += 5
    return calls * images / (time.perf_counter() - start)


@contextmanager
def rounding(tf32: bool, deterministic: bool, benchmark: bool = False) -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    yield
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False


class GpuStep(BareStep):
    """A bare step on the GPU, launched one by one or as a graph."""

    def __init__(self, network: str, layout, precision: str, compiled: bool = False, distils: bool = False) -> None:
        shape, past = (NETWORKS[network], 3, SIDE, SIDE), PAST * distils
        super().__init__(network, shape, CLASSES, past=past, layout=layout, device="cuda", bf16=precision == "bf16")
        self.model = torch.compile(self.model) if compiled else self.model

    def as_graph(self) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        return graph.replay


def steps(networks: list[str], compiled: bool) -> dict[str, float]:
    """Images per second of bare steps."""
    found = {}
    layouts = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    for network, precision, (name, layout) in itertools.product(networks, ("float32", TF32, "bf16"), layouts.items()):
        title, tf32 = f"{network} {precision} {name}", precision == TF32
        ways = {"": (False, False), " deterministic": (True, False), " benchmark": (False, True)}
        for way, (deterministic, benchmark) in ways.items() if not compiled else ():
            with rounding(tf32, deterministic, benchmark):
                step = GpuStep(network, layout, precision)
                if not way:
                    found[f"{title}: one by one"] = images_per_second(step, step.size, 0.3)
                found[f"{title}{way}: graph"] = images_per_second(step.as_graph(), step.size, 0.3)
        if compiled and name == "NHWC":
            with rounding(tf32, False):
                start = time.perf_counter()
                step = GpuStep(network, layout, precision, compiled=True)
                replay = step.as_graph()
                seconds = time.perf_counter() - start
                found[f"{title}: compiled in {seconds:.0f} s, graph"] = images_per_second(replay, step.size, 0.3)
        print({what: round(speed) for what, speed in found.items() if title in what}, flush=True)
    return found


def random_batches(num_images: int, side: int = SIDE) -> ImageBatches:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)
    return ImageBatches(images, rng.integers(0, CLASSES, len(images)), channel_mean_std(images))


def trained(network: str, epochs: int, num_batches: int, distils: bool = False, **given) -> float:
    """Images per second of train(), in the last half of its epochs."""
    model = build_network(network, 3, CLASSES, seed=0)
    teacher = build_network(network, 3, PAST, seed=1) if distils else None
    settings = FineTuning.given(
        values={"batch_size": NETWORKS[network], "device": "cuda", "flip": True, "max_shift": 4, **given}
    )
    options = {"epochs": epochs, "learning_rate": 0.01, "seed": 0, "teacher": teacher}
    history = train(model, random_batches(num_batches * NETWORKS[network]), settings, **options)
    return float(np.median([epoch.images_per_second for epoch in history[epochs // 2 :]]))


class PillowImages(torch.utils.data.Dataset):
    """What most code does: one image after the other through Pillow."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        to_tensor = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
        self.view = transforms.Compose(
            [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), *to_tensor]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self.view(Image.fromarray(self.images[place])), int(self.labels[place])


def plain_loop(network: str, workers: int = 8) -> float:
    """Images per second of a DataLoader with Pillow and steps one by one, in PyTorch's own precision and layout: three
    epochs, the last timed."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100 * NETWORKS[network], SIDE, SIDE, 3), dtype=np.uint8)
    data = PillowImages(images, rng.integers(0, CLASSES, len(images)))
    options = {"num_workers": workers, "shuffle": True, "persistent_workers": True, "pin_memory": True}
    loader = torch.utils.data.DataLoader(data, NETWORKS[network], **options)
    model = build_network(network, 3, CLASSES, seed=0).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    with rounding(tf32=True, deterministic=False):
        for _ in range(3):
            start = time.perf_counter()
            for batch, labels in loader:
                optimizer.zero_grad()
                scores = model(batch.to("cuda", non_blocking=True))
                F.cross_entropy(scores, labels.to("cuda", non_blocking=True)).backward()
                optimizer.step()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
    return len(data) / seconds


def compare(networks: list[str]) -> dict[str, float]:
    """Images per second of train(), of bare steps of the same precision, layout and determinism, and a plain loop."""
    found = {}
    for network in networks:
        for precision in ("float32", TF32, "bf16"):
            title = f"{network} {precision}"
            found[f"{title}: training"] = trained(network, 8, 50, precision=precision)
            layout = torch.contiguous_format if precision == "float32" else torch.channels_last
            with rounding(precision == TF32, deterministic=True):
                step = GpuStep(network, layout, precision)
                found[f"{title}: bare step, graph"] = images_per_second(step.as_graph(), step.size, 0.3)
                if precision == TF32:
                    found[f"{title}: training with distillation"] = trained(network, 8, 50, True, precision=precision)
                    distilling = GpuStep(network, layout, precision, distils=True)
                    what = f"{title}: bare step with distillation, graph"
                    found[what] = images_per_second(distilling.as_graph(), step.size, 0.3)
                    found[f"{title}: bare step, one by one"] = images_per_second(step, step.size, 0.3)
        found[f"{network} tf32: DataLoader and Pillow, 8 workers"] = plain_loop(network)
        print({what: round(speed) for what, speed in found.items() if network in what}, flush=True)
    return found


def ilsvrc(num_images: int = 4096) -> dict[str, float]:
    """Images per second of train() by the paper's recipe (mini-batches of 32, eight of them summed for a step), and of
    256 images a step, which are replayed, in the last of three epochs; of JPEGs with as many workers as cores."""
    found, workers = {}, len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        image_files.make_images(Path(folder), num_images=num_images)
        data = load_folder(Path(folder) / "images", image_size=224, num_workers=workers)
        data = checked(data, Path(folder), allow_leakage=True)
        files, labels = data.train_images, data.train_labels
        jpegs = FileBatches(files, labels, Normalisation(image_files.MEAN, image_files.STD))
        resident = random_batches(num_images, 224)
        recipe = {"batch_size": 32, "summed_batches": 8}
        ways = [("in memory", resident, recipe), ("in memory", resident, {"batch_size": 256})]
        ways += [(f"JPEGs, {workers} workers", jpegs, recipe)]
        for precision, (what, batches, sizes) in itertools.product(("float32", TF32, "bf16"), ways):
            settings = FineTuning.given(values={"device": "cuda", "flip": True, "precision": precision, **sizes})
            model = build_network("resnet18", 3, 1000, seed=0, image_size=(224, 224))
            history = train(model, batches, settings, epochs=3, learning_rate=0.01, seed=0)
            title = f"resnet18, 224 pixels, {precision}, {' x '.join(map(str, sizes.values()))}, {what}"
            found[title] = history[-1].images_per_second
            print(title, round(found[title]), flush=True)
    return found


WORKER = """
import sys
sys.path.insert(0, "benchmarks")
import gpu
network, epochs, batches, precision = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
gpu.trained(network, 2, 4)
print("ready", flush=True)
sys.stdin.readline()
print(gpu.trained(network, epochs, batches, precision=precision), flush=True)
"""


def side_by_side(network: str, count: int, precision: str = "float32", epochs: int = 6, batches: int = 100) -> float:
    """Images per second of all trainings together, from the first one's start to the last one's end."""
    command = [sys.executable, "-c", WORKER, network, str(epochs), str(batches), precision]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    start = time.perf_counter()
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    for job in jobs:
        job.stdout.readline()
    seconds = time.perf_counter() - start
    for job in jobs:
        job.communicate()
    return count * epochs * batches * NETWORKS[network] / seconds


@contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's multi-process service: kernels of several processes run at the same time, not in turns."""
    control = shutil.which("nvidia-cuda-mps-control")
    folder = "/tmp/il2m-mps"
    os.makedirs(folder, exist_ok=True)
    os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    started = control and subprocess.run([control, "-d"]).returncode == 0
    try:
        yield started
    finally:
        if started:
            subprocess.run([control], input="quit\n", text=True)
        del os.environ["CUDA_MPS_PIPE_DIRECTORY"], os.environ["CUDA_MPS_LOG_DIRECTORY"]


def together(networks: list[str], counts: list[int], precision: str) -> dict[str, float]:
    found = {}
    for network in networks:
        for count in counts:
            found[f"{network} {precision}: {count} in turns"] = side_by_side(network, count, precision)
            print(network, count, "in turns", round(found[f"{network} {precision}: {count} in turns"]), flush=True)
    with mps() as running:
        print("MPS:", running, flush=True)
        for network in networks if running else ():
            for count in counts:
                found[f"{network} {precision}: {count} at the same time (MPS)"] = side_by_side(
                    network, count, precision
                )
                print(network, count, "MPS", round([*found.values()][-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "training", "together", "ilsvrc"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["small", "resnet8", "resnet32"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    parser.add_argument("--json", help="a file to write the figures to")
    args = parser.parse_args()
    if args.what == "steps":
        found = steps(args.networks, args.compiled)
    elif args.what == "training":
        found = compare(args.networks)
    elif args.what == "ilsvrc":
        found = ilsvrc()
    else:
        found = together(args.networks, args.counts, args.precision)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **found}, file, indent=1)


if __name__ == "__main__":
    main()
