"""A run made again from its own configuration, elsewhere, and what of it is the same."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from il2m.errors import InputError
from il2m.parameters import BaseTraining, FineTuning, JointTraining
from il2m.study.find import effective, open_base
from il2m.study.planning import Plan, plan_base, plan_fine_tuning
from il2m.study.runs import Run, StateFolder
from il2m.study.stages import train_joint, train_planned
from il2m.system.hashes import short_hash

IDENTICAL, CLOSE, DIFFERENT = VERDICTS = ("bit-identical", "close", "different")
MOST = 1e-3  # of the largest value of its kind: the largest difference that is still close
_MACHINE = tuple(name for name, one in JointTraining.parameters().items() if one.concerns == "machine")


@dataclass(frozen=True)
class Reproduction:
    """A run made again. states: state -> verdict, what differs. made_with: what may round otherwise -> then, now."""

    run: Run
    states: Mapping[int, tuple[str, str]]
    made_with: Mapping[str, tuple[Any, Any]]

    @property
    def verdict(self) -> str:
        """The worst of its states'."""
        return max((verdict for verdict, _ in self.states.values()), key=VERDICTS.index)

    def __str__(self) -> str:
        lines = [f"state {state}: {verdict}{about}" for state, (verdict, about) in self.states.items()]
        lines += [f"{name}: {then} then, {now} now" for name, (then, now) in self.made_with.items()]
        return "\n".join([*lines, f"{self.verdict}: {self.run.folder}"])


def reproduce(folder: str | Path, out: Path | None = None, data_dir: str | Path = "data", **given: Any) -> Reproduction:
    """Train a run again from its configuration, base first, and compare all that its finished states store. Raises
    InputError before any training for what can't be made again. out: a new folder; None: a temporary one. given:
    ``dataset``, where its images are now, and parameters of the machine; num_threads are as then, if that is known."""
    run = Run(folder)
    wanted = [1] if run.kind == "base" else range(1, run.states.num_states + 1)
    then = {state: run.state(state) for state in wanted if run.has_state(state)}
    for state in then.values():
        state.check()
    out = out or Path(tempfile.gettempdir()) / f"{run.name}-again-{os.getpid()}"
    where = {**given, "out_dir": str(out), "data_dir": str(data_dir)}
    try:
        _check_can_be_made(run, then, out, given)
        plans = _plans(run, then, where.pop("dataset", ""), where)
    except InputError as error:
        hint = " (--plugin loads what registers it)" if re.search("regist|unknown dataset", str(error)) else ""
        raise InputError(f"{folder} can't be made again: {error}{hint}") from None
    print(f"making {run.name} again in {out}", flush=True)
    again = [train_planned(plan) for plan in plans][-1]
    if run.kind == "joint":
        again = train_joint(base=again, joint_epochs=run.identity["joint_epochs"], **{**_threads(then), **where})
    made_with = {}
    for state, stored in then.items():
        before, now = (each.info.get("made_with", {}) for each in (stored, again.state(state)))
        both = {name: (before.get(name, "not recorded"), value) for name, value in now.items()}
        made_with |= {name: values for name, values in both.items() if values[0] != values[1]}
    return Reproduction(again, {b: compare_states(state, again.state(b)) for b, state in then.items()}, made_with)


def _check_can_be_made(run: Run, states: Mapping[int, StateFolder], out: Path, given: Mapping[str, Any]) -> None:
    """Raises InputError for what planning would not find."""
    if run.kind == "imported" or not states:
        raise InputError("its scores are imported, what made them is not known" if states else "no state is finished.")
    if others := given.keys() - {"dataset", *_MACHINE}:
        raise InputError(f"it is made as it was: only dataset, {', '.join(_MACHINE)} may be given, not {min(others)}.")
    inside = any(out.resolve().is_relative_to(each.folder.resolve()) for each in (run, run.base))
    if inside or out.exists():
        raise InputError(f"{out} {'lies in it' if inside else 'is there already'}: name a new folder with --out.")


def _threads(states: Mapping[int, StateFolder]) -> dict[str, int]:
    """With how many the last of these states was made."""
    return {"num_threads": states[max(states)].info.get("made_with", {}).get("threads", 1)}


def _plans(run: Run, then: Mapping[int, StateFolder], dataset: str, where: Mapping[str, Any]) -> list[Plan]:
    """The stages that make the run, each under the identity that it has, and on as many threads."""
    base = open_base(run.base.folder.parent, run.base.name)
    source = dataset or base.config["source"]
    states = {name: base.identity[name] for name in ("state_sizes", "class_order")}
    if source.startswith("lists:"):  # they give both
        states = {"num_states": len(base.identity["state_sizes"])}
    if "image_size" in base.identity:
        is_turned = base.config.get("exif_rotation", "exif_rotation" in base.identity)
        states["exif_rotation"] = "on" if is_turned else "off"
    threads = _threads({1: then[1]} if 1 in then else then)
    settings = BaseTraining.of_identity(base.identity, dataset=source, **{**threads, **states, **where})
    plans = [_as_it_was(plan_base(settings), base)]
    if run.kind == "fine_tuning":
        chosen = {"exemplar_selection": "random"} if "exemplar_lists" in run.identity else {}  # lists say it again
        settings = FineTuning.of_identity(run.identity | chosen, **{**_threads(then), **where})
        plans.append(_as_it_was(plan_fine_tuning(settings, base_plan=plans[0]), run))
    return plans


def _as_it_was(plan: Plan, run: Run) -> Plan:
    """The plan under the run's own identity. Raises InputError if it is another that its settings and images give."""
    given = {name: run.identity[name] for name in ("normalisation",) if name in run.identity}  # not by mean_std's name
    then, now = effective(run.identity), effective(plan.identity | given)
    if differing := [name for name in then | now if short_hash(then.get(name)) != short_hash(now.get(name))]:
        told = (f"{name} = {str(now.get(name))[:50]}, not {str(then.get(name))[:50]}" for name in differing)
        raise InputError(f"its settings and images now give another run than {run.name}: {'; '.join(told)}.")
    return replace(plan, identity=run.identity, notes=plan.notes | {"order_seed": run.config["order_seed"]})


def compare_states(then: StateFolder, now: StateFolder) -> tuple[str, str]:
    """One of VERDICTS, and what differs, of all that two states of one identity store but times and what made them."""
    stored, again = _numbers(then), _numbers(now)
    apart = {name: _apart(stored.get(name), again.get(name)) for name in stored | again}
    worst = max(apart, key=apart.get)
    if apart[worst] == 0:
        return IDENTICAL, ""
    about = f": {worst} by {apart[worst]:.2g} of its largest value"
    if apart["val_labels"] == 0 and apart["val_scores"] < np.inf:
        scores = [each["val_scores"].astype(float) for each in (stored, again)]
        others = np.sum(scores[0].argmax(axis=1) != scores[1].argmax(axis=1))
        about += f"; scores by up to {abs(scores[1] - scores[0]).max():.2g}, {others} of {len(scores[0])} predictions"
    return DIFFERENT if apart[worst] > MOST else CLOSE, about


def _numbers(state: StateFolder) -> dict[str, np.ndarray]:
    """All that a state stores but its times, by name."""
    memory = state.info.get("second_memory", {})
    means = {f"{kind} {name}": np.array(each, float) for kind in memory for name, each in memory[kind].items()}
    weights = state.model_weights() if "model.safetensors" in state.info["files"] else {}
    arrays = {name: state.array(name) for name in state.array_names}
    return arrays | means | {name: tensor.double().numpy() for name, tensor in weights.items()}


def _apart(then: np.ndarray | None, now: np.ndarray | None) -> float:
    """The largest difference, in parts of the largest value; 0: equal bit for bit; infinite: not to be compared."""
    if then is None or now is None or (then.shape, then.dtype) != (now.shape, now.dtype):
        return np.inf
    if then.tobytes() == now.tobytes():
        return 0.0
    if then.dtype.kind != "f" or (np.isnan(then) != np.isnan(now)).any():
        return np.inf
    return float(max(np.nanmax(abs(now - then)), 1e-300) / (np.nanmax(abs(then)) or 1))
