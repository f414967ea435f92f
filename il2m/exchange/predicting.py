"""Images in, answers out: what a run's network takes images for, as it is and rectified."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from il2m.data.image_files import ImageFiles, find_missing
from il2m.data.lists import EXTENSIONS
from il2m.errors import InputError, name_first
from il2m.study.find import open_run


def predict(
    run: str | Path, images: Iterable[str | Path], *, state: int | None = None, method: str = "IL2M"
) -> pd.DataFrame:
    """What the network of ``state`` (None: the last) takes images for: one row per image and rank 1..5, with class and
    raw score of fine-tuning and of ``method`` (see Run.model). run: as open_run takes it. images: files, or folders
    of them. They are seen as validation images were, turned as EXIF data say but for runs of lists; for runs of arrays
    the middle of each is brought to their size, grey where these are. InputErrors name files that can't be read."""
    opened, paths = open_run(run), []
    for given in map(Path, images):
        inside = (path for path in sorted(given.rglob("*")) if path.suffix.lower() in EXTENSIONS)
        paths += ([*inside] if given.is_dir() else [given]) or [given / "*"]
    if missing := find_missing(paths):
        raise InputError(name_first("no image files there", missing))
    if not (shape := opened.base.config.get("image_shape")):
        raise InputError(f"{opened.folder} does not say of what size its images are: imported, or of before 0.2.")
    import torch
    from PIL import Image, ImageOps

    state = opened.states.num_states if state is None else state
    models = {name: opened.model(state, name) for name in dict.fromkeys(("FT", method))}
    of_files, (height, width, channels) = "image_size" in opened.base.identity, shape
    turned = not opened.config["source"].startswith("lists:") or opened.base.identity.get("exif_rotation", False)
    files = ImageFiles(np.array([*map(str, paths)]), height, exif_rotation=turned)
    rows = []
    decoded = files if of_files else (files.read(place)[0] for place in range(len(files)))
    for path, pixels in zip(paths, decoded, strict=True):
        if not of_files:
            fitted = ImageOps.fit(Image.fromarray(pixels), (width, height))
            pixels = np.array(fitted.convert("L" if channels == 1 else "RGB")).reshape(shape)
        image, best = torch.from_numpy(pixels).permute(2, 0, 1)[None], {}
        for name, model in models.items():
            with torch.inference_mode():
                scores, labels = model(image)[0].topk(min(5, len(model.class_names)))
            best |= {name: [model.class_names[label] for label in labels], f"{name} score": scores.tolist()}
        rows.append(pd.DataFrame({"image": str(path), "rank": range(1, 1 + len(best["FT"])), **best}))
    return pd.concat(rows, ignore_index=True)
