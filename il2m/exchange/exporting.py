"""Scores out: a run's lists and scores in the authors' layout."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from il2m.authors.formats import TEXT, write_image_list, write_scores
from il2m.errors import InputError
from il2m.exchange.score_files import AuthorsFiles
from il2m.study.planning import load_images
from il2m.study.runs import ANALYSED, Run
from il2m.study.state_folder import StateFolder
from il2m.system.files import safe_name

_ROWS = 4096  # of scores, held at a time while exporting


def export_scores(
    run: Run | Path, out: str | Path, *, name: str = "", data_dir: str | Path | None = None, features: bool = False
) -> AuthorsFiles:
    """Write a run's lists and scores in the authors' layout into three folders under ``out``; returns where they lie,
    which as text is the arguments for the authors' ``il2m.py``. Images are named by their place, ``train/000012.png``.
    name: of the data set there, if not the run's own. data_dir: name image files by their paths instead; where those of
    lists start. features: each image's too, in a file ``features`` beside ``scores``. Raises InputError if training
    images' scores can't be had, for a base, for a name that can't be a folder's, or lacking image files."""
    run = Run(run)
    if run.kind not in ANALYSED:
        what = "base" if run.kind == "base" else f"{run.kind} training"
        raise InputError(f"{run.folder} is a {what}, not a fine-tuning run: only runs of all states can be exported.")
    dataset = safe_name(name or run.config["dataset"], f"{run.folder}: its data set (to name another, --name)")
    out, states = Path(out), run.states
    roots = (out / folder for folder in ("images_list_files", "scores", "scores_first_batch"))
    files = AuthorsFiles(*roots, dataset, states, run.memory_size)
    data = load_images(run, data_dir) if data_dir is not None else None
    if data and not data.files:
        raise InputError(f"{run.folder} is of an array of images, which have no paths.")
    for state in range(1, states.num_states + 1):
        stored = run.state(state)
        for part, (list_path, scores_path) in files.pairs(state).items():
            labels, folder = stored.array(f"{part}_labels"), "val" if part == "val" else "train"
            places = stored.array(f"{part}_indices") if f"{part}_indices" in stored.array_names else range(len(labels))
            images = np.array([f"{folder}/{place:06d}.png" for place in places], dtype=TEXT)
            if data:
                images = (data.val_images if part == "val" else data.train_images).paths[places]
            write_image_list(list_path, images, labels)
            if part == "val":
                is_new = np.isin(labels, states.new_classes(state))
                write_image_list(files.list_layout.val(state, "separated"), images[is_new], labels[is_new])
            write_scores(scores_path, _new_scores(stored) if part == "new" else _blocks(stored.array(f"{part}_scores")))
            if features:
                write_scores(scores_path.with_name("features"), _blocks(stored.array(f"{part}_features")))
    return files


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(_ROWS, len(rows), _ROWS))


def _new_scores(stored: StateFolder) -> Iterator[np.ndarray]:
    """Raw scores of the state's new training images, block after block, from their features and the model's head. A run
    keeps only each image's own and highest score: they are put back exactly, the others are computed again."""
    needed = ("new_features.npy", "new_own_scores.npy", "model.safetensors")
    if lacking := [file for file in needed if file not in stored.info["files"]]:
        what = "its training images' scores can't be had again, so this run can't be exported"
        raise InputError(f"{stored.path}: no {', '.join(lacking)}: {what}.")
    weight, bias = stored.tensor("head.weight"), stored.tensor("head.bias")
    names = ("features", "labels", "own_scores", "top_scores")
    for features, labels, own, top in zip(*(_blocks(stored.array(f"new_{name}")) for name in names), strict=True):
        scores = features @ weight.T + bias
        if not np.allclose(scores.max(axis=1), top, rtol=2e-2, atol=2e-2):  # bf16's; of an import, corrected later
            what = "its scores are not those of its last layer, so its training images' can't be had again"
            raise InputError(f"{stored.path}: {what}, and this run can't be exported.")
        np.put_along_axis(scores, scores.argmax(axis=1)[:, None], top[:, None], axis=1)
        np.put_along_axis(scores, labels[:, None], own[:, None], axis=1)
        yield scores
