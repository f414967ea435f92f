"""Scores in: those of any method, or lists and scores in the authors' layout, become a run folder that notebooks 03 and
04 open. What can't be computed of it, as it was not given, stands in its ``config.json`` under ``missing``."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from il2m.authors.formats import read_text
from il2m.data.image_files import check_present
from il2m.data.states import ICARL, States, make_class_order
from il2m.errors import InputError, nearest
from il2m.exchange.score_files import PARTS, AuthorsFiles, check_labels, files_of, read_arrays
from il2m.memory.exemplars import of_past_classes
from il2m.memory.statistics import reduce_scores, state_statistics
from il2m.methods.rectify import count_undefined, undefined_in_words
from il2m.methods.registry import missing_for
from il2m.parameters import check_parameters
from il2m.results.description import About, unknown_in_words
from il2m.study.runs import Run
from il2m.system.hashes import file_hash

Arrays = dict[str, np.ndarray]  # by name
_MASKED = -1000  # or less, for all images: what a head is padded with, or one task's is hidden by
REQUIRED, SHAPES, HEAD, NEEDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).values()


def import_scores(
    files: Sequence[str | Path], out: str | Path, state_sizes: Sequence[int] = (), **about: Unpack[About]
) -> Run:
    """Make a run folder of any method's scores: a file per state, in any order, as read_arrays takes it, into ``out``.
    Each holds ``val_scores (n, C)`` raw scores of all classes seen so far, ``val_labels (n,)`` in learning order, and,
    unless given here, ``state_sizes``, the classes that each state brings, up to this state at least. Heads over all
    classes are cut to those seen so far. If there: ``new_scores, new_labels`` of the new classes' training images and
    ``exemplar_scores, exemplar_labels`` (both needed to rectify; new classes' exemplars are left out);
    ``val_features, new_features, exemplar_features``, (n, d); ``head_weight (C, d)``, ``head_bias (C,)``;
    ``held_out_scores, held_out_labels`` of images not trained on, for BiC; ``train_counts (C,)``, images trained on,
    else the rows of ``new_labels`` and ``exemplar_labels``. about: see About; runs of one method, data set and K that
    give their seeds are repetitions. Raises InputError, and makes nothing, for missing, unknown or unfitting arrays."""
    states, by_state, said = _arrange([*map(Path, [files] if isinstance(files, str | Path) else files)], state_sizes)
    told = _checked_about(about, states.num_classes)
    most_exemplars, missing = _check_all(states, by_state)
    run = _create(Path(out), states, told.get("memory_size", most_exemplars), by_state.values(), told, said + missing)
    for state, path in ((b, by_state[b]) for b in run.missing_states):
        arrays = of_past_classes(checked_arrays(read_arrays(path), path, states, state), states, state)
        if "new_scores" in arrays:
            reduced = reduce_scores(arrays.pop("new_scores"), arrays["new_labels"])
            arrays |= {f"new_{name}": values for name, values in reduced.items()}
        _store(run, state, arrays)
    return run


def _check_all(states: States, by_state: Mapping[int, Path]) -> tuple[int, list[str]]:
    """Check all files. Returns the most exemplars of a state, and what is doubtful, left out or can't be computed."""
    lengths, cut, rows, notes = {}, [], [], []
    for state, path in by_state.items():
        arrays = checked_arrays(read_arrays(path), path, states, state)
        lengths[state] = {name: len(array) for name, array in arrays.items()}
        if unseen := np.setdiff1d(np.arange(states.num_seen(state)), arrays["val_labels"]).tolist():
            notes.append(f"state {state}: no validation images of {len(unseen)} classes seen so far, as {unseen[:5]}")
        sums = arrays["val_scores"].sum(axis=1)
        if arrays["val_scores"].min() >= 0 and states.num_seen(state) > 1 and np.allclose(sums, 1, atol=1e-3):
            notes.append(f"state {state}: val_scores look like probabilities, but are taken as scores before softmax")
        past = of_past_classes(arrays, states, state)
        if num_cut := len(arrays.get("exemplar_labels", ())) - len(past.get("exemplar_labels", ())):
            cut.append(f"state {state}: {num_cut}")
        if state > 1 and {"new_labels", "exemplar_labels"} <= {*past} and "train_counts" not in past:
            counts = np.bincount(np.concatenate([past["new_labels"], past["exemplar_labels"]]))
            of_past, of_new = np.split(counts, [states.num_past(state)])
            rows.append(f"state {state}: {of_past.mean():.4g} and {of_new.mean():.4g}")
    for consequence, names in NEEDS.items():
        lacking = [(state, name) for state, given in lengths.items() for name in names if name not in given]
        if lacking := [(state, name) for state, name in lacking if state > 1 or not name.startswith("exemplar")]:
            absent, where = sorted({name for _, name in lacking}), dict.fromkeys(str(state) for state, _ in lacking)
            notes.append(f"no {', '.join(absent)} (state {', '.join(where)}): {consequence}")
    if cut:
        notes.append(f"exemplars of new classes are left out ({', '.join(cut)}): current means are of past classes")
    if rows:
        where = f"FT-th takes its prior from the rows given of each past and each new class ({', '.join(rows)})"
        notes.append(f"{where}: of a sample of the training images it is another")
    return max(length.get("exemplar_labels", 0) for length in lengths.values()), notes


def import_authors_files(files: AuthorsFiles, out: str | Path) -> Run:
    """Make a run folder of lists and scores in the authors' layout. Raises InputError as rectify_files does, and for
    scores beyond float32's range; nothing is made then."""
    check_present(files.paths, f"of {len(files.paths)} files are missing")
    for state in range(1, files.states.num_states + 1):
        _authors_arrays(files, state)  # all are read once before anything is made of them
    missing = ["no features and no head weights: methods that need them are left out"]
    told = {"dataset": files.dataset, "memory_size": files.memory_size}
    run = _create(Path(out), files.states, files.memory_size, files.paths, told, missing)
    for state in run.missing_states:
        _store(run, state, _authors_arrays(files, state))
    return run


def _authors_arrays(files: AuthorsFiles, state: int) -> Arrays:
    """What a run stores of a state: of its new training images' scores only what is made of them."""
    arrays: Arrays = {}
    for part, (_, path) in files.pairs(state).items():
        images, blocks = files.read(state, part)
        kept = []
        for scores, labels in blocks:
            if np.abs(scores).max() > np.finfo(np.float32).max:
                raise InputError(f"{path}: scores are beyond float32's range.")
            kept.append(reduce_scores(scores, labels) if part == "new" else {"scores": scores.astype(np.float32)})
        arrays[f"{part}_labels"] = images.labels
        arrays |= {f"{part}_{name}": np.concatenate([block[name] for block in kept]) for name in kept[0]}
    return arrays


def import_notes(run: Run) -> list[str]:
    """What a reader of an imported run should know: what is missing, what IL2M has no ratio for, what was not told."""
    states = () if missing_for(run, "IL2M") else range(1, run.states.num_states + 1)
    undefined = {b: (count_undefined(run.statistics(b)), run.states.num_past(b)) for b in states}
    return [*run.config["missing"], *filter(None, [undefined_in_words(undefined), unknown_in_words(run)])]


def _checked_about(about: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """What of ``about`` was given. Raises InputError for wrong types, and for names or an order of other classes."""
    given = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in about.items()}
    given = {name: value for name, value in given.items() if value not in (None, "", [], ())}
    given = check_parameters(given, About.__annotations__)
    if isinstance(names := given.get("class_names"), str | Path):
        check_present([names], "files of class names, one per line, are missing")
        given["class_names"] = read_text(names).rstrip("\n").split("\n")
    for name in {"class_names", "class_order"} & {*given}:
        given[name] = make_class_order(num_classes, 0, ICARL).tolist() if given[name] == ICARL else [*given[name]]
        if (number := len(set(given[name]))) != num_classes or len(given[name]) != num_classes:
            raise InputError(f"{name}: {number} different ones; expected {num_classes}, one per class.")
    return given


def _arrange(files: Sequence[Path], state_sizes: Sequence[int]) -> tuple[States, dict[int, Path], list[str]]:
    """The states, by the files' ``state_sizes`` or these; which file is of which; whether heads are cut, in words."""
    if not files:
        raise InputError("no files to import: give one .npz file per state.")
    if absent := [str(file) for file in files if not file.exists()]:
        raise InputError(f"{len(absent)} files are missing: {', '.join(absent)}")
    given = {file: _sizes_and_columns(file, state_sizes) for file in files}
    longest = max((sizes for sizes, *_ in given.values()), key=len)
    seen = {count: b for b, count in enumerate(accumulate(longest), 1)}
    by_state: dict[int, Path] = {}
    for file, (sizes, columns, in_labels) in given.items():
        if sizes != longest[: len(sizes)]:
            raise InputError(f"{file}: state_sizes {list(sizes)} disagree with another file's {list(longest)}.")
        is_full = columns >= sum(longest) + ([width for _, width, _ in given.values()].count(columns) == 1)
        state = seen.get(in_labels if is_full else columns)
        if state is None or state in by_state:
            why = "no state has as many classes" if state is None else f"{by_state[state]} is of the same state"
            where = f"{file}: val_scores has {columns} columns, but {why}; classes by state: {[*seen][:20]}"
            what = "val_labels must have all classes seen so far, or cut scores and head, as scores[:, :num_seen]"
            raise InputError(f"{where}. Is the head over all classes from the start? Then {what}.")
        by_state[state] = file
    last = max(by_state)
    if lacking := [b for b in range(1, last + 1) if b not in by_state]:
        raise InputError(f"no file of state(s) {lacking}: give one .npz file per state, 1 to {last}.")
    full = [str(b) for b, file in sorted(by_state.items()) if given[file][1] > sum(longest[:b])]
    said = [f"heads over more classes are cut to the classes seen so far (state {', '.join(full)})"] if full else []
    return States(longest[:last]), dict(sorted(by_state.items())), said


def _sizes_and_columns(file: Path, state_sizes: Sequence[int]) -> tuple[tuple[int, ...], int, int]:
    """A file's ``state_sizes``, or these if given; the columns of its ``val_scores``; and how many classes its
    ``val_labels`` are of, 0 if these are not the first ones."""
    arrays = read_arrays(file, REQUIRED) | ({"state_sizes": np.array(state_sizes)} if len(state_sizes) else {})
    if lacking := sorted({*REQUIRED} - {*arrays}):
        raise InputError(f"{file}: no {', '.join(lacking)}; found {sorted(read_arrays(file))}.")
    sizes, shape = np.atleast_1d(arrays["state_sizes"]), arrays["val_scores"].shape
    if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer) or len(sizes) == 0 or sizes.min() < 1:
        raise InputError(f"{file}: state_sizes is {sizes.tolist()}; expected each state's number of classes.")
    if len(shape) != 2:
        raise InputError(f"{file}: val_scores has shape {shape}; expected (images, classes).")
    classes = np.unique(arrays["val_labels"])
    return tuple(sizes.tolist()), shape[1], len(classes) * np.array_equal(classes, np.arange(len(classes)))


def checked_arrays(arrays: Mapping[str, np.ndarray], path: str | Path, states: States, state: int) -> Arrays:
    """The arrays of one state: float32 and int64, their shapes and labels checked against each other. A head over all
    classes from the start is cut to the classes seen. path: begins messages."""
    arrays = {name: array for name, array in arrays.items() if name != "state_sizes"}
    if unknown := sorted({*arrays} - {*SHAPES}):
        known = [*SHAPES, "state_sizes"]
        raise InputError("\n".join(f"{path}: unknown array {name!r}: {nearest(name, known)}" for name in unknown))
    width, num_seen = arrays["val_scores"].shape[-1], states.num_seen(state)
    for name, array in arrays.items():
        if width > num_seen and dict(zip(SHAPES[name], array.shape, strict=False)).get("classes") == width:
            arrays = arrays | {name: array.take(range(num_seen), SHAPES[name].index("classes"))}
    arrays = {name: _converted(array, f"{path}: {name}") for name, array in arrays.items()}
    if len(arrays["val_labels"]) == 0:
        raise InputError(f"{path}: state {state}: val_labels is empty; expected validation images.")
    if ("head_weight" in arrays) != ("head_bias" in arrays):
        raise InputError(f"{path}: head_weight and head_bias are only of use together.")
    if arrays.get("train_counts", np.ones(1)).min(initial=1) < 1:
        raise InputError(f"{path}: train_counts: expected images of each class seen, at least 1.")
    sizes = {part: len(arrays[f"{part}_labels"]) for part in PARTS if f"{part}_labels" in arrays}
    widths = {array.shape[-1] for name, array in arrays.items() if SHAPES[name][-1] == "features" and array.ndim}
    if len(widths) > 1:
        raise InputError(f"{path}: features and head have different widths: {sorted(widths)}.")
    sizes |= {"classes": states.num_seen(state), "features": max(widths, default=0)}
    for name, array in arrays.items():
        if (kind := SHAPES[name][0]) not in sizes:
            raise InputError(f"{path}: {kind}_scores or {kind}_features, but no {kind}_labels.")
        expected = tuple(sizes[axis] for axis in SHAPES[name])
        if array.shape != expected:
            raise InputError(f"{path}: state {state}: {name} has shape {array.shape}; expected {expected}.")
        if name.endswith("_scores") and len(array) and (top := array.max(axis=0)).min() <= _MASKED:
            raise InputError(f"{path}: {name}: class {top.argmin()} never scores above {_MASKED}: masked? Undo that.")
    past = of_past_classes(arrays, states, state)  # labels of classes to come are still in it
    for part in (part for part in PARTS if part in sizes):
        name, kind = f"{part}_labels", "val" if part == "exemplar" and state == 1 else part
        check_labels(f"{path}: {name}: state {state}", past[name], states, state, kind)
    return arrays


def _converted(array: np.ndarray, where: str) -> np.ndarray:
    """Labels as int64, all else as float32. where: the array's file and name."""
    is_whole, is_real = (np.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating))
    if where.endswith(("_labels", "train_counts")):
        if array.ndim != 1 or not (is_whole or (is_real and np.isfinite(array).all() and (array % 1 == 0).all())):
            raise InputError(f"{where} is {array.dtype} of shape {array.shape}; expected whole numbers (n,).")
        return array.astype(np.int64)
    if is_whole or is_real:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            array = array.astype(np.float32)
        if np.isfinite(array).all():
            return array
    raise InputError(f"{where} holds values that are not finite numbers (as float32).")


def _create(
    folder: Path, states: States, memory_size: int, files: Iterable[Path], told: dict[str, Any], missing: list[str]
) -> Run:
    """Raises InputError if the folder holds another run, or this one and other things were told of it."""
    hashes = [file_hash(file) for path in files for file in files_of(path)]
    identity = {"state_sizes": list(states.sizes), "memory_size": memory_size, "imported": hashes}
    names = list(map(str, range(states.num_classes)))
    notes = {"dataset": "unknown", "source": "imported", "order_seed": None, "class_names": names, "missing": missing}
    run = Run.create(folder, "imported", identity, **notes | told)
    kept = run.identity | run.config
    if others := [f"{name} {kept.get(name)}" for name, value in told.items() if kept.get(name) != value]:
        raise InputError(f"{folder} holds these scores with {', '.join(others)}: name another folder, or delete it.")
    return run


def _store(run: Run, state: int, arrays: Arrays) -> None:
    """arrays: those of SHAPES, but in place of ``new_scores`` what reduce_scores makes of them, as ``new_<name>``."""
    num_past, num_seen = run.states.num_past(state), run.states.num_seen(state)
    weights = {HEAD[name]: arrays.pop(name) for name in HEAD if name in arrays}
    new = {name.removeprefix("new_"): array for name, array in arrays.items() if name.startswith("new_")}
    new_labels, labels = (arrays.get(f"{name}_labels", np.empty(0, dtype=np.int64)) for name in ("new", "exemplar"))
    if "held_out_labels" in arrays and len(new_labels) and (len(labels) or not num_past):  # which are no rows of these
        arrays.setdefault("train_counts", np.bincount([*new_labels, *labels], minlength=num_seen))
    exemplars = reduce_scores(arrays["exemplar_scores"], labels) if num_past and "exemplar_scores" in arrays else {}
    statistics = state_statistics(new, new_labels, exemplars, labels, num_past, num_seen)
    run.store(state, arrays, weights, {"second_memory": statistics})
