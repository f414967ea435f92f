"""The images themselves: exemplars of a class, and what a rectification mended or broke."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from il2m import plots
from il2m.data.dataset import Dataset
from il2m.data.image_files import ImageFiles
from il2m.errors import InputError
from il2m.explorer.outcomes import RunOutcomes, kind_for
from il2m.explorer.views import Choice, Shown
from il2m.study.planning import load_images

_KEPT, _SHOWN = 7, 3  # exemplars, and images of each kind


def find_images(outcomes: RunOutcomes, data_dir: str | Path) -> Dataset:
    """The images that the run was made from. Raises InputError, in words for the page, if they are not at hand."""
    if outcomes.run.kind == "imported":
        raise InputError(f"{outcomes.label}: imported scores come without images; all other views work.")
    try:
        return load_images(outcomes.run, data_dir)
    except (InputError, OSError) as error:
        raise InputError(f"{outcomes.label}: its images are not at hand ({error}) All other views work.") from None


def pixels_of(images: np.ndarray | ImageFiles, indices: np.ndarray) -> list[np.ndarray]:
    """Some images, (h, w, c) uint8 each: from memory, or decoded here and cut as they are to be scored."""
    if not isinstance(images, ImageFiles):
        return list(images[indices])
    try:
        return list(images[indices])
    except InputError as error:
        raise InputError(f"an image can't be read ({error}); all other views work.") from None


def images(outcomes: RunOutcomes, choice: Choice, data: Dataset) -> Shown:
    """The class's first exemplars at this state, or its training images where it is new; and images that the method
    mended or broke, with their top-5 before and after.
    data: the run's images in learning order (planning.load_images)."""
    kind, methods = kind_for(choice.method, choice.score_kind), ("FT", choice.method)
    stored, titles = outcomes.run.state(choice.state), np.array(outcomes.titles, dtype=object)
    was, now = (outcomes.outcome(choice.state, method, kind).ranks < choice.top for method in methods)
    changed = {"mended": np.flatnonzero(~was & now), "broken": np.flatnonzero(was & ~now)}
    labels, places = outcomes.labels(choice.state), stored.array("val_indices")
    rows, columns = [], {}
    for what, changed_rows in changed.items():
        some = changed_rows[np.linspace(0, len(changed_rows) - 1, min(_SHOWN, len(changed_rows))).astype(int)]
        scores = (outcomes.some_scores(some, choice.state, method, kind) for method in methods)
        top_5 = [titles[np.argsort(-by_class, axis=1, kind="stable")[:, :5]] for by_class in scores]  # (m, 5) each
        true, pixels = titles[labels[some]], pixels_of(data.val_images, places[some])
        entries = columns[f"{len(changed_rows)} {what} by {choice.method}"] = []
        for place, image, title, *best in zip(places[some].tolist(), pixels, true, *top_5, strict=True):
            entries.append((image, f"true: {title}", *best))
            rows.append((place, what, title, *map(" | ".join, best)))
    finding = "{} mends {} images and breaks {} (top-{})".format(choice.method, *map(len, changed.values()), choice.top)
    numbers = pd.DataFrame(rows, columns=["image", "what", "true", "top-5 before", "top-5 after"]).set_index("image")
    group = "exemplar" if choice.label < outcomes.run.states.num_past(choice.state) else "new"
    own = np.flatnonzero(stored.array(f"{group}_labels") == choice.label)[:_KEPT]
    kept = pixels_of(data.train_images, stored.array(f"{group}_indices")[own])
    draw = partial(plots.plot_changed_images, kept, columns, heading=f"in memory: {titles[choice.label]}")
    return Shown(numbers, finding, draw, height=5.6)
