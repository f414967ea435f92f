"""Joint training: for each state one training on *all* images of all classes so far, the upper bound of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from il2m.datasets import Dataset
from il2m.image_files import image_batches
from il2m.images import Normalisation
from il2m.networks import build_network
from il2m.parameters import check_parameters
from il2m.progress import Progress
from il2m.runs import Run, write_state
from il2m.scores import score_images
from il2m.study import RESULT_VERSION, load_images, open_base, seed_for, set_machine
from il2m.training import train


def train_joint(
    *,
    out_dir: str = "../runs/quickstart",
    base: str | Run = "",
    data_dir: str = "../data",
    joint_epochs: int = 0,
    device: str = "auto",
    num_threads: int = 1,
) -> Run:
    """Train a network from scratch on all images of states 1..b, for each b >= 2, as the base was trained on state 1.

    base: the base's folder or its name in ``out_dir``; ``""`` is the one trained last. Network, optimiser and seed are
    the base's; state 1 is the base itself. joint_epochs: of each training; 0 takes the base's.
    Stores validation scores only, in a run of its own (``joint-<hash>``). Finished states are kept.
    """
    check_parameters({"joint_epochs": joint_epochs, "device": device, "num_threads": num_threads})
    base = base if isinstance(base, Run) else open_base(Path(out_dir), base)
    epochs = joint_epochs or base.identity["base_epochs"]
    identity = {
        "joint_epochs": epochs,
        "result_version": RESULT_VERSION,
        "base": base.identity,
        "state_sizes": base.identity["state_sizes"],
    }
    notes = {name: base.config[name] for name in ("dataset", "source", "order_seed", "class_names")}
    run = Run.create(Path(out_dir), "joint", identity, base=base.name, **notes)
    missing = run.missing_states
    if not missing:
        return run
    data = load_images(base, data_dir)
    set_machine(device, num_threads)
    sizes = [int(np.count_nonzero(data.train_labels < run.states.num_seen(state))) for state in missing]
    progress = Progress("joint training", epochs * sum(sizes), run.folder)
    try:
        for state in missing:
            _train_joint_state(run, data, state, epochs, device, progress)
    finally:
        progress.close()
    return run


def find_joint_runs(out_dir: str | Path) -> list[Run]:
    """The finished joint trainings in a study's folder."""
    runs = [Run(path.parent) for path in sorted(Path(out_dir).glob("joint-*/config.json"))]
    return [run for run in runs if not run.missing_states]


def find_joint(run: Run) -> Run | None:
    """The finished joint training beside ``run``, of the same base; the one of most epochs if there are several."""
    same_base = [r for r in find_joint_runs(run.folder.parent) if r.identity["base"] == run.base.identity]
    return max(same_base, key=lambda other: other.identity["joint_epochs"], default=None)


def _train_joint_state(run: Run, data: Dataset, state: int, epochs: int, device: str, progress: Progress) -> None:
    """Train from scratch on all classes up to ``state``, score the validation images and store the scores."""
    settings, num_seen = run.base.identity, run.states.num_seen(state)
    normalisation = Normalisation(**run.state(1).info["normalisation"])
    chosen = np.flatnonzero(data.train_labels < num_seen)
    seed = settings["train_seed"]
    model = build_network(settings["network"], data.num_channels, num_seen, seed_for(seed, state, "joint weights"))
    history = train(
        model,
        image_batches(data.train_images[chosen], data.train_labels[chosen], normalisation),
        epochs=epochs,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        schedule=settings["schedule"],
        patience=settings.get("patience", 0),
        max_shift=settings["max_shift"],
        flip=settings["flip"],
        summed_batches=settings.get("summed_batches", 1),
        seed=seed_for(seed, state, "joint training"),
        device=device,
        precision=settings["precision"],
        on_epoch=lambda epoch: progress.epoch_done(state, run.states.num_states, epochs, len(chosen), epoch),
    )
    seen_val = np.flatnonzero(data.val_labels < num_seen)
    labels = data.val_labels[seen_val]
    scores, _ = score_images(model, image_batches(data.val_images[seen_val], labels, normalisation))
    arrays = {"val_indices": seen_val, "val_labels": labels, "val_scores": scores}
    info: dict[str, Any] = {"history": [vars(epoch) for epoch in history]}
    write_state(run.folder, state, arrays, {}, info)
