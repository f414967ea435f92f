"""How fast images in files reach the network while it trains, against torchvision's ImageFolder and a DataLoader.

    python benchmarks/image_files.py [--against CHECKOUT]

Makes JPEGs of about 500 x 375 pixels in a temporary folder (smooth noise, about as many bytes as ImageNet's). One epoch
each in turns, as often as ROUNDS says, each in a process of its own with workers that are warm, and with the checks of
contents that a training makes. Medians, and ratios of medians. CHECKOUT: of another version, to be compared with.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NUM_IMAGES, NUM_CLASSES, SIZE, BATCH_SIZE, WORKERS, ROUNDS = 800, 20, 224, 128, 2, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", metavar="CHECKOUT")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*measured(EPOCHS[args.one[0]](Path(args.one[1]))))
        return
    here = str(Path(__file__).parents[1])
    ways = {"il2m": ("il2m", here), "ImageFolder + DataLoader": ("ImageFolder", here)}
    if args.against:
        ways["il2m there"] = ("il2m", args.against)
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        for _ in range(ROUNDS):
            for name, (way, checkout) in ways.items():
                command = [sys.executable, __file__, "--one", way, folder]
                environment = {**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"}
                out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
                times[name].append([float(word) for word in out.split()[-2:]])
    print(f"| {NUM_IMAGES} images, {WORKERS} workers, batches of {BATCH_SIZE}, medians of {ROUNDS} in turns |", end="")
    print(" images/s | ms of CPU per image | il2m is faster by | with less CPU by |\n| --- | --- | --- | --- | --- |")
    ours = [statistics.median(values) for values in zip(*times["il2m"], strict=True)]
    for name, values in times.items():
        wall, cpu = (statistics.median(each) for each in zip(*values, strict=True))
        rates = f"{NUM_IMAGES / wall:.0f} | {cpu / NUM_IMAGES * 1e3:.2f}"
        print(f"| {name} | {rates} | {wall / ours[0]:.2f} | {cpu / ours[1]:.2f} |")


def make_images(root: Path, distinct: int = 200, num_images: int = NUM_IMAGES) -> None:
    """The same ``distinct`` images over and over, three of four wider than high."""
    rng, contents = np.random.default_rng(0), []
    for i in range(distinct):
        width, height = (375, 500) if i % 4 == 0 else (500, 375)
        pixels = rng.normal(128, 14, (height, width, 3))
        for cells, strength in ((8, 80), (32, 50), (128, 30)):  # rough and fine structure, as photographs have
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += (np.asarray(noise.resize((width, height))).astype(float) - 128) * strength / 74
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "one.jpg", quality=90)
        contents.append((root / "one.jpg").read_bytes())
    (root / "one.jpg").unlink()
    for i in range(num_images):
        folder = root / "images" / f"{i % NUM_CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04d}.jpg").write_bytes(contents[i % distinct])


def il2m_epochs(root: Path):
    """A function that goes through all images once, as training does."""
    from dataclasses import replace

    from il2m.data.batches import Normalisation
    from il2m.data.file_batches import FileBatches, checked
    from il2m.data.lists import load_folder

    data = checked(load_folder(root / "images", image_size=SIZE, num_workers=WORKERS), root, allow_leakage=True)
    train, val = data.train_images, data.val_images
    every = {name: np.concatenate([getattr(train, name), getattr(val, name)]) for name in ("paths", "digests")}
    labels, generator = np.concatenate([data.train_labels, data.val_labels]), torch.Generator().manual_seed(0)
    batches = FileBatches(replace(train, **every), labels, Normalisation(MEAN, STD))
    return lambda: sum(len(labels) for _, labels in batches.augmented(BATCH_SIZE, generator, max_shift=0, flip=True))


def image_folder_epochs(root: Path):
    """The same of what PyTorch's own ImageNet example does."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = ImageFolder(root / "images", transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return lambda: sum(len(labels) for _, labels in loader)


def measured(epoch) -> tuple[float, float]:
    """Seconds, and those of all processors, of the second epoch. Workers add to their parent's when they end, so theirs
    are read where Linux has them."""
    epoch()
    before, start = cpu_seconds(), time.perf_counter()
    assert epoch() == NUM_IMAGES
    return time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    import psutil

    own = resource.getrusage(resource.RUSAGE_SELF)
    children = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return own.ru_utime + own.ru_stime + sum(times.user + times.system for times in children)


EPOCHS = {"il2m": il2m_epochs, "ImageFolder": image_folder_epochs}

if __name__ == "__main__":
    main()
