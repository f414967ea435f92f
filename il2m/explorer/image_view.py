"""The images themselves: exemplars of a class, and what a rectification mended or broke."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from il2m import plots
from il2m.data.dataset import Dataset
from il2m.data.image_files import ImageFiles, open_image, scoring_view
from il2m.errors import InputError
from il2m.explorer.outcomes import RunOutcomes, kind_for
from il2m.explorer.views import Choice, Shown, class_titles
from il2m.study.planning import load_images

_KEPT, _SHOWN = 7, 3  # exemplars, and images of each kind


def find_images(of: RunOutcomes, data_dir: str | Path) -> Dataset:
    """The images that the run was made from. Raises InputError, in words for the page, if they are not at hand."""
    if of.run.kind == "imported":
        raise InputError(f"{of.label}: imported scores come without images; all other views work.")
    try:
        return load_images(of.run, data_dir)
    except (InputError, OSError) as error:
        raise InputError(f"{of.label}: its images are not at hand ({error}) All other views work.") from None


def pixels_of(images: np.ndarray | ImageFiles, indices: np.ndarray) -> list[np.ndarray]:
    """Some images, (h, w, c) uint8 each: from memory, or decoded here and cut as they are to be scored."""
    if not isinstance(images, ImageFiles):
        return list(images[indices])
    view = scoring_view(images.image_size)
    try:
        return [view(open_image(path)).permute(1, 2, 0).numpy() for path in images[indices].paths.tolist()]
    except Exception as error:  # Pillow's decoders raise whatever they meet in damaged data
        raise InputError(f"an image can't be read ({error}); all other views work.") from None


def images(of: RunOutcomes, choice: Choice, data: Dataset) -> Shown:
    """Exemplars of the class, and images that the method mended or broke, with their top-5 before and after.

    data: the run's images in learning order (study.load_images).
    """
    stored, kind = of.run.state(choice.state), kind_for(choice.method, choice.score_kind)
    before = of.outcome(choice.state, "FT", kind)
    after = of.outcome(choice.state, choice.method, kind)
    was, now = before.ranks < choice.top, after.ranks < choice.top
    chosen = {"mended": np.flatnonzero(~was & now), "broken": np.flatnonzero(was & ~now)}
    counts = {name: len(rows) for name, rows in chosen.items()}
    places = stored.array("val_indices")
    names, rows, columns = class_titles(of), [], {}
    kept = pixels_of(data.train_images, _kept_images(of, choice))
    for group, all_rows in chosen.items():
        some = all_rows[np.linspace(0, len(all_rows) - 1, min(_SHOWN, len(all_rows))).astype(int)]
        guesses = [_top_5(of.some_scores(some, choice.state, method, kind)) for method in ("FT", choice.method)]
        entries = []
        for pixels, row, *tops in zip(pixels_of(data.val_images, places[some]), some, *guesses, strict=True):
            listed = [[names[c] for c in top] for top in tops]
            true = names[before.labels[row]]
            entries.append((pixels, f"true: {true}", *listed))
            place = {"image": int(places[row]), "what": group, "true": true}
            rows.append(place | {"top-5 before": " | ".join(listed[0]), "top-5 after": " | ".join(listed[1])})
        columns[f"{counts[group]} {group} by {choice.method}"] = entries
    finding = f"{choice.method} mends {counts['mended']} images and breaks {counts['broken']} (top-{choice.top})"
    table = pd.DataFrame(rows, columns=["image", "what", "true", "top-5 before", "top-5 after"]).set_index("image")
    draw = partial(plots.plot_changed_images, kept, columns, heading=f"in memory: {names[choice.label]}")
    return Shown(table, finding, draw, height=5.6)


def _kept_images(of: RunOutcomes, choice: Choice) -> np.ndarray:
    """Indices of the class's first exemplars at this state, or of its training images where it is new."""
    stored = of.run.state(choice.state)
    group = "exemplar" if choice.label < of.run.states.num_past(choice.state) else "new"
    own = np.flatnonzero(stored.array(f"{group}_labels") == choice.label)[:_KEPT]
    return np.asarray(stored.array(f"{group}_indices")[own])


def _top_5(scores: np.ndarray) -> np.ndarray:
    """The five classes of highest score, best first, (m, 5); of equal scores the lower label is first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]
