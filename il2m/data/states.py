"""States: the order in which classes arrive, and which classes each state brings. States are numbered from 1, as in the
paper. Inside the library a class's label is its place in the learning order, so the classes seen at state b are 0 ..
num_seen(b) - 1 and the new ones are the last of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from il2m.errors import InputError, nearest
from il2m.rules import check_choice

ICARL = "icarl-1993"  # numpy's legacy shuffle, of iCaRL for ImageNet, and of PyCIL and FACIL


@dataclass(frozen=True)
class States:
    """How many classes each state brings: ``sizes[b - 1]`` at state b."""

    sizes: tuple[int, ...]

    @property
    def num_states(self) -> int:
        return len(self.sizes)

    @property
    def num_classes(self) -> int:
        return sum(self.sizes)

    def num_seen(self, state: int) -> int:
        """Number of classes known after ``state``."""
        return sum(self.sizes[:state])

    def num_past(self, state: int) -> int:
        """Number of classes known before ``state``."""
        return sum(self.sizes[: state - 1])

    def new_classes(self, state: int) -> range:
        """Labels of the classes that ``state`` brings."""
        return range(self.num_past(state), self.num_seen(state))

    @cached_property
    def of_class(self) -> np.ndarray:
        """State in which each class was new, (C,) int64: P in the paper's Eq. 1."""
        of_class = np.repeat(np.arange(1, self.num_states + 1), self.sizes)
        of_class.flags.writeable = False  # it is kept: who wrote to it would change all that comes after
        return of_class


def places_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """The places of each class's images, in order, for the classes that have any, by label. labels: (n,) int."""
    classes, counts = np.unique(labels, return_counts=True)  # after the last class nothing is left to split
    return dict(zip(classes.tolist(), np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)), strict=False))


def make_states(num_classes: int, num_states: int, state_sizes: Sequence[int] = ()) -> States:
    """Split classes into ``state_sizes`` if given, else ``num_states`` of equal size; InputError if they can't be."""
    if state_sizes:
        if sum(state_sizes) != num_classes or min(state_sizes) < 1:
            what = f"state_sizes = {list(state_sizes)} add up to {sum(state_sizes)} classes"
            remedy = f"give sizes of at least 1 that add up to {num_classes}, or leave state_sizes empty"
            raise InputError(f"{what}, but the dataset has {num_classes}: {remedy}.")
        return States(tuple(int(size) for size in state_sizes))
    fitting = [s for s in range(1, num_classes + 1) if num_classes % s == 0]
    if num_states not in fitting:
        what = f"num_states = {num_states} does not divide the dataset's {num_classes} classes into equal states"
        raise InputError(f"{what}: use one of {fitting}, or give state_sizes (as 50 classes first, then 10 at a time).")
    return States((num_classes // num_states,) * num_states)


def make_class_order(
    num_classes: int, order_seed: int, class_order: Sequence[Any] | str = (), class_names: Sequence[str] = ()
) -> np.ndarray:
    """The dataset's class ids in learning order, (C,) int64: ``class_order`` if given (ids, names of ``class_names``,
    or ICARL), else a seeded shuffle. Raises InputError when ``class_order`` does not name each class once."""
    if len(class_order) == 0:
        return np.random.default_rng(order_seed).permutation(num_classes)
    if isinstance(class_order, str):
        check_choice("class_order", class_order, [ICARL])
        return np.random.RandomState(1993).permutation(num_classes)
    if any(isinstance(each, str) for each in class_order):
        ids = {name: label for label, name in enumerate(class_names)}
        if unknown := [name for name in class_order if name not in ids]:
            raise InputError(f"class_order: no class {unknown[0]!r}: {nearest(unknown[0], ids)}")
        class_order = [ids[name] for name in class_order]
    if (different := {*class_order}) != {*range(num_classes)} or len(class_order) > num_classes:
        missing = f"; missing: {lacking[:10]}" if (lacking := sorted({*range(num_classes)} - different)) else ""
        found = f"it has {len(class_order)} entries, {len(different)} of them different{missing}"
        raise InputError(f"class_order must name each of the classes 0..{num_classes - 1} once; {found}.")
    return np.array(class_order, dtype=np.int64)
