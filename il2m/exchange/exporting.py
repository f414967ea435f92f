"""Scores out: a run's lists and scores in the authors' layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from il2m.authors.formats import write_image_list, write_scores
from il2m.errors import InputError
from il2m.exchange.importing import PAIRS
from il2m.exchange.score_files import AuthorsFiles
from il2m.study.runs import ANALYSED, Run

_ROWS = 4096  # of scores, held at a time while exporting


def export_scores(run: Run, out: str | Path) -> AuthorsFiles:
    """Write a run's lists and scores in the authors' layout under ``out``: ``images_list_files``, ``scores`` and
    ``scores_first_batch``; returns where they lie, and the arguments for the authors' ``il2m.py``.

    Images are named by their place, ``train/000012.png``. Raises InputError if training images' scores can't be had,
    and for a base.
    """
    if run.kind not in ANALYSED:
        what = "base" if run.kind == "base" else f"{run.kind} training"
        raise InputError(f"{run.folder} is a {what}, not a fine-tuning run: only runs of all states can be exported.")
    out, states = Path(out), run.states
    roots = (out / "images_list_files", out / "scores", out / "scores_first_batch")
    files = AuthorsFiles(*roots, run.config["dataset"], states, run.memory_size)
    for state in range(1, states.num_states + 1):
        stored = run.state(state)
        for name, part in PAIRS.items():
            if part not in files.pairs(state):
                continue
            list_path, scores_path = files.pairs(state)[part]
            labels = stored.array(f"{name}_labels")
            images = _image_names(stored.info["files"], stored, name, len(labels))
            write_image_list(list_path, images, labels)
            if part == "val":
                new = np.isin(labels, states.new_classes(state))
                separated = files.list_layout.separated_val(state)
                write_image_list(
                    separated, [image for image, is_new in zip(images, new, strict=True) if is_new], labels[new]
                )
            write_scores(
                scores_path, _new_scores(run, state) if part == "new" else _blocks(stored.array(f"{name}_scores"))
            )
    return files


def _image_names(stored_files: Mapping[str, str], stored: Any, name: str, count: int) -> list[str]:
    indices = stored.array(f"{name}_indices") if f"{name}_indices.npy" in stored_files else range(count)
    folder = "val" if name == "val" else "train"
    return [f"{folder}/{index:06d}.png" for index in indices]


def _blocks(scores: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(scores), _ROWS):
        yield scores[start : start + _ROWS]


def _new_scores(run: Run, state: int) -> Iterator[np.ndarray]:
    """Raw scores of the state's new training images, block after block, from their features and the model's head.

    A run keeps only each image's own and highest score: they are put back exactly, the others are computed again.
    """
    stored = run.state(state)
    lacking = [
        f for f in ("new_features.npy", "new_own_scores.npy", "model.safetensors") if f not in stored.info["files"]
    ]
    if lacking:
        raise InputError(
            f"{stored.path}: no {', '.join(lacking)}: its training images' scores can't be had again, so this run "
            "can't be exported."
        )
    weights = stored.model_weights()
    weight, bias = weights["head.weight"].numpy(), weights["head.bias"].numpy()
    features, labels = stored.array("new_features"), stored.array("new_labels")
    own, top = stored.array("new_own_scores"), stored.array("new_top_scores")
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = features[rows] @ weight.T + bias
        images = np.arange(len(scores))
        scores[images, scores.argmax(axis=1)] = top[rows]
        scores[images, labels[rows]] = own[rows]
        yield scores
