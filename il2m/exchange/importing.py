"""Scores in and out: imported ones become a run folder, a run's are written in the authors' layout.

An imported run has all its states in one folder and no model that could go on; notebooks 03 and 04 open it like any
other. What was not given can't be computed from it: ``config.json`` says so under ``missing``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from il2m.data.states import States
from il2m.errors import InputError, nearest
from il2m.exchange.score_files import AuthorsFiles, check_labels, classes_of
from il2m.memory.statistics import reduce_scores, state_statistics
from il2m.study.runs import Run, write_state
from il2m.system.hashes import file_hash

REQUIRED = ("val_scores", "val_labels", "state_sizes")
PAIRS = {"val": "val", "new": "new", "exemplar": "old"}  # arrays <name>_scores and <name>_labels -> part of a state
FEATURES = ("val_features", "new_features", "exemplar_features")
HEAD = {"head_weight": "head.weight", "head_bias": "head.bias"}
KNOWN = (*REQUIRED, *(f"{name}_{what}" for name in PAIRS for what in ("scores", "labels")), *FEATURES, *HEAD)


def import_scores(files: Sequence[str | Path], out: str | Path) -> Run:
    """Make a run folder of any method's scores: one ``.npz`` per state, in any order, into the folder ``out``.

    Each holds ``val_scores (n, C)`` raw scores of all classes seen so far, ``val_labels (n,)`` in learning order, and
    ``state_sizes``, the number of classes that each state brings, up to this state at least. If there:
    ``new_scores, new_labels`` of the new classes' training images and ``exemplar_scores, exemplar_labels`` (both are
    needed to rectify); ``val_features, new_features, exemplar_features``, (n, d); ``head_weight (C, d)``,
    ``head_bias (C,)``.
    Raises InputError for arrays that are missing, unknown or don't fit each other; nothing is made then.
    """
    states, by_state = _arrange([Path(file) for file in files])
    for state, path in by_state.items():  # all of them, before anything is made
        _checked(path, states, state)
    memory_size = max(len(_load(path, ["exemplar_labels"]).get("exemplar_labels", ())) for path in by_state.values())
    hashes = [file_hash(path) for path in by_state.values()]
    run = _create(Path(out), Path(out).name, states, memory_size, hashes, missing_arrays(by_state))
    for state in run.missing_states:
        arrays = _checked(by_state[state], states, state)
        memory: dict[str, dict[str, np.ndarray]] = {}
        for name in ("new", "exemplar"):
            scores = arrays.get(f"{name}_scores")
            memory[name] = {} if scores is None else reduce_scores(scores, arrays[f"{name}_labels"])
        arrays.pop("new_scores", None)  # images x classes of all training images: only what was made of them is kept
        weights = {HEAD[name]: torch.from_numpy(arrays.pop(name)) for name in HEAD if name in arrays}
        _store(run, state, arrays, memory, weights)
    return run


def import_authors_files(files: AuthorsFiles, out: str | Path) -> Run:
    """Make a run folder of lists and scores in the authors' layout. Raises InputError as rectify_files does, and for
    scores beyond float32's range; nothing is made then."""
    files.check_present()
    states = files.states
    _check_scores(files)
    every = [path for b in range(1, states.num_states + 1) for pair in files.pairs(b).values() for path in pair]
    missing = ["no features and no head weights: methods that need them are left out"]
    run = _create(Path(out), files.dataset, states, files.memory_size, [file_hash(path) for path in every], missing)
    for state in run.missing_states:
        arrays: dict[str, np.ndarray] = {}
        memory: dict[str, dict[str, np.ndarray]] = {}
        for name, part in PAIRS.items():
            if part not in files.pairs(state):
                memory[name] = {}
                continue
            images = files.labels(state, part)
            arrays[f"{name}_labels"] = images.labels
            blocks = files.blocks(state, part, images)
            if name == "new":
                memory[name] = _joined(reduce_scores(scores, labels) for scores, labels in blocks)
            else:
                arrays[f"{name}_scores"] = np.concatenate([scores.astype(np.float32) for scores, _ in blocks])
                memory[name] = reduce_scores(arrays[f"{name}_scores"], images.labels)
        _store(run, state, arrays, memory, {})
    return run


def _check_scores(files: AuthorsFiles) -> None:
    """Read every list and score file once, before anything is made of them."""
    for state in range(1, files.states.num_states + 1):
        for part, (_, path) in files.pairs(state).items():
            for scores, _ in files.blocks(state, part, files.labels(state, part)):
                if np.abs(scores).max() > np.finfo(np.float32).max:
                    raise InputError(f"{path}: scores are beyond float32's range.")


def missing_arrays(by_state: Mapping[int, Path]) -> list[str]:
    """What can't be computed from these files, and which arrays are missing for it."""
    needs = {
        ("new_scores", "new_labels"): "initial class means and confidences are unknown: no rectification",
        ("exemplar_scores", "exemplar_labels"): "current class means are unknown: no rectification",
        FEATURES: "methods that need features are left out",
        tuple(HEAD): "methods that need the head's weights are left out",
    }
    notes = []
    for names, consequence in needs.items():
        lacking = {
            state: [n for n in names if n not in found and not (state == 1 and n.startswith("exemplar"))]
            for state, found in ((state, _names(path)) for state, path in by_state.items())
        }
        absent = sorted({name for lacks in lacking.values() for name in lacks})
        if absent:
            where = [state for state, lacks in lacking.items() if lacks]
            notes.append(f"no {', '.join(absent)} (state {', '.join(map(str, where))}): {consequence}")
    return notes


def _arrange(files: list[Path]) -> tuple[States, dict[int, Path]]:
    """The states that the files' ``state_sizes`` give, and which file is of which state."""
    if not files:
        raise InputError("no files to import: give one .npz file per state.")
    if absent := [str(file) for file in files if not file.is_file()]:
        raise InputError(f"{len(absent)} files are missing: {', '.join(absent)}")
    sizes, columns = {}, {}
    for file in files:
        if lacking := sorted({*REQUIRED} - _names(file)):
            raise InputError(f"{file}: no {', '.join(lacking)}; found {sorted(_names(file))}.")
        if unknown := sorted(_names(file) - {*KNOWN}):
            raise InputError("\n".join(f"{file}: unknown array {name!r}: {nearest(name, KNOWN)}" for name in unknown))
        arrays = _load(file, ["state_sizes", "val_scores"])
        found = np.atleast_1d(arrays["state_sizes"])
        if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or len(found) == 0 or found.min() < 1:
            raise InputError(f"{file}: state_sizes is {found.tolist()}; expected each state's number of classes.")
        if arrays["val_scores"].ndim != 2:
            raise InputError(f"{file}: val_scores has shape {arrays['val_scores'].shape}; expected (images, classes).")
        sizes[file], columns[file] = tuple(found.tolist()), arrays["val_scores"].shape[1]
    longest = max(sizes.values(), key=len)
    seen = {sum(longest[:b]): b for b in range(1, len(longest) + 1)}
    by_state: dict[int, Path] = {}
    for file in files:
        if sizes[file] != longest[: len(sizes[file])]:
            raise InputError(f"{file}: state_sizes {list(sizes[file])} disagree with another file's {list(longest)}.")
        state = seen.get(columns[file])
        if state is None or state in by_state:
            why = "no state has as many classes" if state is None else f"{by_state[state]} is of the same state"
            raise InputError(
                f"{file}: val_scores has {columns[file]} columns, but {why}; classes by state: {list(seen)}."
            )
        by_state[state] = file
    last = max(by_state)
    if lacking := [b for b in range(1, last + 1) if b not in by_state]:
        raise InputError(f"no file of state(s) {lacking}: give one .npz file per state, 1 to {last}.")
    return States(longest[:last]), dict(sorted(by_state.items()))


def _names(path: Path) -> set[str]:
    return set(_open(path, lambda archive: archive.files))


def _load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that the file has."""
    return _open(path, lambda archive: {name: archive[name] for name in archive.files if name in names})


def _open(path: Path, take: Callable[[Any], Any]) -> Any:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return take(archive)
    except Exception:  # a damaged archive raises whatever zipfile, zlib or numpy meet first; numpy would unpickle it
        raise InputError(
            f"{path}: not a readable .npz file of plain arrays: it is damaged, holds Python objects, or is no .npz at "
            "all. Write it again with numpy.savez."
        ) from None


def _checked(path: Path, states: States, state: int) -> dict[str, np.ndarray]:
    """The arrays of one state: float32 and int64, their shapes and labels checked against each other."""
    arrays = _load(path, KNOWN)
    del arrays["state_sizes"]
    for name, array in arrays.items():
        if name.endswith("_labels"):
            if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
                raise InputError(
                    f"{path}: {name} is {array.dtype} of shape {array.shape}; expected whole numbers (n,)."
                )
            arrays[name] = array.astype(np.int64)
        elif not _is_finite(array):
            raise InputError(f"{path}: {name} holds values that are not finite numbers (as float32).")
        else:
            arrays[name] = array.astype(np.float32)
    num_seen, num_features = (
        states.num_seen(state),
        {a.shape[-1] for n, a in arrays.items() if n in (*FEATURES, "head_weight")},
    )
    if len(num_features) > 1:
        raise InputError(f"{path}: features and head have different widths: {sorted(num_features)}.")
    if len(arrays["val_labels"]) == 0:
        raise InputError(f"{path}: state {state}: val_labels is empty; expected validation images.")
    for name, part in PAIRS.items():
        labels, scores, features = (arrays.get(f"{name}_{what}") for what in ("labels", "scores", "features"))
        if labels is None and (scores is not None or features is not None):
            raise InputError(f"{path}: {name}_scores or {name}_features, but no {name}_labels.")
        for what, array, shape in (
            (f"{name}_scores", scores, (labels if labels is None else len(labels), num_seen)),
            (f"{name}_features", features, (labels if labels is None else len(labels), *num_features)),
        ):
            if array is not None and array.shape != shape:
                raise InputError(f"{path}: state {state}: {what} has shape {array.shape}; expected {shape}.")
        if labels is not None and (name != "exemplar" or state > 1):
            check_labels(f"{path}: {name}_labels: state {state}", labels, classes_of(states, state, part), part)
    for name, shape in (("head_weight", (num_seen, *num_features)), ("head_bias", (num_seen,))):
        if name in arrays and arrays[name].shape != shape:
            raise InputError(f"{path}: state {state}: {name} has shape {arrays[name].shape}; expected {shape}.")
    if ("head_weight" in arrays) != ("head_bias" in arrays):
        raise InputError(f"{path}: head_weight and head_bias are only of use together.")
    return arrays


def _is_finite(array: np.ndarray) -> bool:
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        return False
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        return bool(np.isfinite(array.astype(np.float32)).all())


def _create(folder: Path, dataset: str, states: States, memory_size: int, hashes: list[str], missing: list[str]) -> Run:
    identity = {"state_sizes": list(states.sizes), "memory_size": memory_size, "imported": hashes}
    names = [str(label) for label in range(states.num_classes)]
    notes = {"dataset": dataset, "source": "imported", "order_seed": None, "class_names": names, "missing": missing}
    return Run.create_at(folder, "imported", identity, **notes)


def _store(
    run: Run,
    state: int,
    arrays: dict[str, np.ndarray],
    memory: Mapping[str, Mapping[str, np.ndarray]],
    weights: Mapping[str, torch.Tensor],
) -> None:
    """memory: reduced scores (memory.reduce_scores) of ``new`` training images and of ``exemplar`` ones, or empty."""
    num_past, num_seen = run.states.num_past(state), run.states.num_seen(state)
    labels = [arrays.get(f"{name}_labels", np.empty(0, dtype=np.int64)) for name in ("new", "exemplar")]
    statistics = state_statistics(memory["new"], labels[0], memory["exemplar"], labels[1], num_past, num_seen)
    arrays |= {f"new_{name}": values for name, values in memory["new"].items()}
    write_state(run.folder, state, arrays, weights, {"second_memory": statistics})


def _joined(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
