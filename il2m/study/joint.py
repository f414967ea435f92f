"""Joint training: for each state one training on *all* images of all classes so far, the upper bound of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.batches import Normalisation
from il2m.data.dataset import Dataset
from il2m.learning.networks import build_network
from il2m.learning.scores import score_images
from il2m.parameters import check_parameters
from il2m.study.find import open_base
from il2m.study.planning import RESULT_VERSION, load_images
from il2m.study.progress import Progress
from il2m.study.runs import Run
from il2m.study.stage import Stage, missing_states, seed_for, set_machine


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
    if not run.missing_states:
        return run
    data = load_images(base, data_dir)
    set_machine(device, num_threads)
    with missing_states(run) as missing:
        if missing:
            _train_joint_states(run, data, missing, epochs, device)
    return run


def _train_joint_states(run: Run, data: Dataset, missing: list[int], epochs: int, device: str) -> None:
    num_images = sum(int(np.count_nonzero(data.train_labels < run.states.num_seen(state))) for state in missing)
    with Progress("joint training", epochs * num_images, run.folder) as progress:
        normalisation = Normalisation(**run.state(1).info["normalisation"])
        stage = Stage(run.folder, run.base.identity, data, run.states, normalisation, device, progress)
        for state in missing:
            _train_joint_state(stage, run, state, epochs)


def _train_joint_state(stage: Stage, run: Run, state: int, epochs: int) -> None:
    """Train from scratch on all classes up to ``state``, score the validation images and store the scores."""
    settings, data, num_seen = stage.settings, stage.data, run.states.num_seen(state)
    seed = seed_for(settings["train_seed"], state, "joint weights")
    model = build_network(settings["network"], data.num_channels, num_seen, seed)
    chosen = np.flatnonzero(data.train_labels < num_seen)
    rate = settings["learning_rate"]
    history = stage.fit(model, chosen, state=state, epochs=epochs, learning_rate=rate, purpose="joint training")
    val = np.flatnonzero(data.val_labels < num_seen)
    scores, _ = score_images(model, stage.val_batches(val))
    arrays = {"val_indices": val, "val_labels": data.val_labels[val], "val_scores": scores}
    info: dict[str, Any] = {"history": [vars(epoch) for epoch in history]}
    stage.store(state, arrays, {}, info)
