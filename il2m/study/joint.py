"""Joint training: for each state one training on *all* images of all classes so far, the upper bound of a study."""

from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.batches import Normalisation
from il2m.parameters import BaseTraining, JointTraining
from il2m.study.find import open_base
from il2m.study.planning import RESULT_VERSION, load_images
from il2m.study.progress import Progress
from il2m.study.runs import Run
from il2m.study.stage import Stage, train_missing


def train_joint(settings: JointTraining | None = None, **parameters: Any) -> Run:
    """Train a network from scratch on all images of states 1..b, for each b >= 2, as the base was trained on state 1:
    network, optimiser and seed are the base's, and state 1 is the base itself. Stores validation scores only, in a run
    of its own. parameters: of parameters.JointTraining, over ``settings``; ``base`` may be a Run."""
    settings = JointTraining.given(settings, parameters)
    base = open_base(Path(settings.out_dir), settings.base)
    identity = {"joint_epochs": settings.joint_epochs or base.identity["base_epochs"]}
    identity |= {"base": base.identity, "state_sizes": base.identity["state_sizes"]}
    identity["result_version"] = RESULT_VERSION["image_size" in base.identity]
    run = Run.create(Path(settings.out_dir), "joint", identity, base=base.name, **base.notes)
    return train_missing(run, settings, lambda missing: _train_joint_states(run, settings, missing))


def _train_joint_states(run: Run, settings: JointTraining, missing: list[int]) -> None:
    data = load_images(run, settings.data_dir, num_workers=settings.num_workers)
    epochs, settings = run.identity["joint_epochs"], BaseTraining.of_identity(run.base.identity, device=settings.device)
    chosen = {state: np.flatnonzero(data.train_labels < run.states.num_seen(state)) for state in missing}
    with Progress("joint training", epochs * sum(map(len, chosen.values())), run.folder) as progress:
        normalisation = Normalisation(**run.state(1).info["normalisation"])
        stage = Stage(run, settings, data, normalisation, progress)
        for state, indices in chosen.items():
            model = stage.new_network(state, stage.seed(state, "joint weights"))
            same = {"state": state, "learning_rate": settings.learning_rate, "purpose": "joint training"}
            history = stage.fit(model, indices, epochs=epochs, **same)
            arrays = stage.score_validation(model, state)
            del arrays["val_features"]
            stage.store(state, arrays, {}, {"history": [vars(epoch) for epoch in history]})
