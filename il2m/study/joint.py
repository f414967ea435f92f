"""Joint training: for each state one training on *all* images of all classes so far, the upper bound of a study."""

from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.batches import Normalisation
from il2m.data.dataset import Dataset
from il2m.parameters import BaseTraining, JointTraining
from il2m.study.find import open_base
from il2m.study.planning import RESULT_VERSION, load_images
from il2m.study.progress import Progress
from il2m.study.runs import Run
from il2m.study.stage import Stage, missing_states, seed_for, set_machine


def train_joint(settings: JointTraining | None = None, **parameters: Any) -> Run:
    """Train a network from scratch on all images of states 1..b, for each b >= 2, as the base was trained on state 1.

    parameters: of parameters.JointTraining, over ``settings``; ``base`` may be a Run. Network, optimiser and seed are
    the base's; state 1 is the base itself.
    Stores validation scores only, in a run of its own (``joint-<hash>``). Finished states are kept.
    """
    settings = JointTraining.given(settings, parameters)
    base = open_base(Path(settings.out_dir), settings.base)
    epochs = settings.joint_epochs or base.identity["base_epochs"]
    identity = {
        "joint_epochs": epochs,
        "result_version": RESULT_VERSION,
        "base": base.identity,
        "state_sizes": base.identity["state_sizes"],
    }
    notes = {name: base.config[name] for name in ("dataset", "source", "order_seed", "class_names")}
    run = Run.create(Path(settings.out_dir), "joint", identity, base=base.name, **notes)
    if not run.missing_states:
        return run
    data = load_images(base, settings.data_dir, num_workers=settings.num_workers)
    set_machine(settings)
    with missing_states(run) as missing:
        if missing:
            _train_joint_states(run, data, missing, epochs, settings.device)
    return run


def _train_joint_states(run: Run, data: Dataset, missing: list[int], epochs: int, device: str) -> None:
    settings = BaseTraining.of_identity(run.base.identity, device=device)
    num_images = sum(int(np.count_nonzero(data.train_labels < run.states.num_seen(state))) for state in missing)
    with Progress("joint training", epochs * num_images, run.folder) as progress:
        normalisation = Normalisation(**run.state(1).info["normalisation"])
        stage = Stage(run, settings, data, normalisation, progress)
        for state in missing:
            _train_joint_state(stage, state, epochs)


def _train_joint_state(stage: Stage, state: int, epochs: int) -> None:
    """Train from scratch on all classes up to ``state``, score the validation images and store the scores."""
    settings = stage.settings
    model = stage.new_network(state, seed_for(settings.train_seed, state, "joint weights"))
    chosen = np.flatnonzero(stage.data.train_labels < stage.states.num_seen(state))
    rate = settings.learning_rate
    history = stage.fit(model, chosen, state=state, epochs=epochs, learning_rate=rate, purpose="joint training")
    info = {"history": [vars(epoch) for epoch in history]}
    stage.store(state, stage.score_validation(model, state), {}, info)
