"""Images in, answers out: what a run's network takes images for, as it is and rectified."""

import warnings
from collections.abc import Iterable
from glob import glob
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from il2m.data.image_files import ImageFiles, check_present
from il2m.data.lists import EXTENSIONS
from il2m.errors import InputError, name_first, printable
from il2m.methods.rectify import count_undefined, undefined_in_words
from il2m.study.find import open_run

_BATCH = 64  # images scored at a time


def predict(
    run: str | Path, images: str | Path | Iterable[str | Path], *, state: int | None = None, method: str = "IL2M"
) -> pd.DataFrame:
    """What the network of ``state`` (None: the last) takes images for: one row per image and rank 1..5, with class and
    raw score of fine-tuning and of ``method``, IL2M or FT. run: as open_run takes it. images: files, or folders with
    all image files in them but hidden ones. They are seen as validation images were, turned as their EXIF data say if
    those were; for runs of arrays the middle of each is brought to their size, grey where these are. Raises InputError
    that names what is missing, or the first file that can't be read."""
    opened, paths = open_run(run), []
    for given in map(Path, [images] if isinstance(images, str | Path) else images):
        files = [given / path for path in sorted(glob("**/*", root_dir=given, recursive=True))]
        files = [path for path in files if not path.is_dir()]
        inside = [path for path in files if path.suffix.lower() in EXTENSIONS]
        paths += (inside if given.is_dir() else [given]) or [given / "*"]
        if others := sorted(map(str, {*files} - {*inside})):
            warnings.warn(name_first("files are no images by their names, and left out", others), stacklevel=2)
    check_present(paths or ["(none given)"], "image files are not there")
    config, identity = opened.base.config, opened.base.identity
    if "image_shape" not in config:
        raise InputError(f"{opened.folder}: imported, or of before 0.2: it does not say of what size its images are.")
    import torch
    from PIL import Image, ImageOps

    state = opened.states.num_states if state is None else state
    model = opened.model(state, method)
    if method == "IL2M" and (bad := count_undefined(opened.statistics(state))):
        warnings.warn(undefined_in_words({state: (bad, opened.states.num_past(state))}), stacklevel=2)
    height, width, channels = shape = config["image_shape"]
    turned = identity.get("exif_rotation", config.get("exif_rotation", not config["source"].startswith("lists:")))
    files = ImageFiles(np.array([*map(str, paths)]), height, exif_rotation=turned)
    pixels = (Image.fromarray(files.read(place)[0]) for place in range(len(files)))
    fitted = (ImageOps.fit(image, (width, height)).convert("L" if channels == 1 else "RGB") for image in pixels)
    of_files, best, names = "image_size" in identity, {"FT": []}, np.array(model.class_names)
    views = iter(files) if of_files else (np.array(image).reshape(shape) for image in fitted)
    most = min(5, len(names))
    while batch := [*islice(views, _BATCH)]:
        with torch.inference_mode():
            scores = model[:3](torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2))
            best["FT"].append(scores.topk(most))
            if method == "IL2M":
                best.setdefault(method, []).append(model[3](scores).topk(most))
    table = {"image": np.repeat([*map(printable, paths)], most), "rank": np.tile(np.arange(most) + 1, len(paths))}
    for name, tops in best.items():
        values, labels = (torch.cat(each).flatten().numpy() for each in zip(*tops, strict=True))
        table |= {name: names[labels], f"{name} score": values}
    return pd.DataFrame(table)
