"""What a model of any framework gives out, collected batch by batch into the file that import_scores reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.importing import Arrays, checked_arrays
from il2m.exchange.score_files import PARTS, as_array
from il2m.rules import check_choice
from il2m.system.files import replacing


class StateRecorder:
    """Collects one state of a model: add() its outputs by batch, tensors of any device and dtype, then save(). Classes
    not seen yet are cut off. state_sizes: classes that each state brings. state: from 1. class_order: the classes' ids
    in learning order, where labels, columns of scores and rows of the head go by ids. Raises InputError."""

    def __init__(self, state_sizes: Sequence[int], state: int, class_order: Sequence[int] = ()) -> None:
        self._states, self._state = States(tuple(map(int, state_sizes))), state
        order = class_order if len(class_order) else range(self._states.num_classes)
        order, num_seen = as_array(order, "class_order").astype(int).tolist(), self._states.num_seen(state)
        if not (1 <= state <= self._states.num_states and num_seen <= len({*order}) == len(order) and min(order) >= 0):
            raise InputError(f"state {state}, class_order {order}: don't fit states of {self._states.sizes} classes.")
        self._place, self._seen = {label: place for place, label in enumerate(order)}, order[:num_seen]
        self._batches: dict[str, list[Arrays]] = {}

    def add(self, part: str, scores: Any, labels: Any, features: Any = None) -> None:
        """A batch of plain images. part: ``val``, ``new`` (new classes' training images), ``exemplar`` (the memory of
        this training) or ``held_out``. scores: (n, C) before softmax. labels: (n,). features: (n, d), the head's."""
        check_choice("part", part, PARTS)
        given = {"scores": scores, "labels": labels, "features": features}
        batch = {name: np.array(as_array(values)) for name, values in given.items() if values is not None}
        shapes, first = [array.shape for array in batch.values()], self._batches.get(part, [batch])[0]
        is_one = [*map(len, shapes)] == [2, 1, 2][: len(shapes)] and len({shape[0] for shape in shapes}) == 1
        if not is_one or shapes != [(len(batch["labels"]), *array.shape[1:]) for array in first.values()]:
            raise InputError(f"{part}: shapes {shapes}; expected (n, C), (n,), (n, d), as wide as the first batch.")
        self._batches.setdefault(part, []).append(batch)

    def save(self, path: str | Path, weight: Any = None, bias: Any = None) -> Path:
        """Write the state's ``.npz``. weight: (C, d) and bias: (C,) of the last layer, for methods that change it."""
        where, bias = f"state {self._state}", np.zeros(np.shape(weight)[:1]) if bias is None else bias
        head = {} if weight is None else {"head_weight": weight, "head_bias": bias}
        arrays = {name: self._of_seen(as_array(values), name) for name, values in head.items()}
        for part, batches in self._batches.items():
            rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            if unknown := sorted({*rows["labels"].tolist()} - {*self._place}):
                raise InputError(f"{where}: {part} has labels {unknown[:10]}, not of the classes {[*self._place]}.")
            rows["labels"] = np.array([self._place[label] for label in rows["labels"].tolist()])
            rows["scores"] = self._of_seen(rows["scores"].T, f"{part} scores").T
            order = np.lexsort([*np.column_stack([*rows.values()]).T, rows["labels"]])  # whatever that of the batches
            arrays |= {f"{part}_{name}": array[order] for name, array in rows.items()}
        exemplars = arrays.get("exemplar_labels", np.empty(0))
        if "val_labels" not in arrays or (exemplars >= self._states.num_past(self._state)).any():
            what = "validation images, and of exemplars those of past classes, added before new ones come in"
            raise InputError(f"{where}: expected {what}.")
        arrays = checked_arrays(arrays, where, self._states, self._state)
        with replacing(path, "wb") as file:
            np.savez(file, state_sizes=self._states.sizes, **arrays)
        return Path(path)

    def _of_seen(self, array: np.ndarray, what: str) -> np.ndarray:
        """Of an array by class, (C, ...), the classes seen so far, in learning order."""
        if len(array) <= max(self._seen):
            raise InputError(f"{what}: {len(array)} classes; state {self._state} has seen class {max(self._seen)}.")
        return array[self._seen]
