"""Where images come from: a name or a file -> a Dataset of training and validation images with labels."""

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import PIL.features

from il2m.data.dataset import NUMBERED, Dataset, checked_labels, read_npz
from il2m.data.glyphs import VERSION, render_glyphs
from il2m.errors import InputError, nearest
from il2m.system.files import replacing
from il2m.system.hashes import registered_source

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_NPZ = f"an .npz file with {', '.join(REQUIRED)}"
PUBLISHED_GLYPHS = "1b41f36aaef8c4e9"  # fingerprint of those that the published figures are of
Loader = Callable[[Path], Mapping[str, np.ndarray] | Dataset]  # of a data folder


def load_dataset(dataset: str | Path, data_dir: str | Path, *, image_size: int = 224, num_workers: int = 2) -> Dataset:
    """Load ``glyphs``, ``cifar10``, ``cifar100``, the path of an ``.npz`` file, or image files: ``folder:PATH`` (one
    folder per class) or ``lists:PATH`` (lists in the authors' layout, PATH being ``<lists>/<dataset>/S~<S>``).
    data_dir: where rendered glyphs are cached and CIFAR is looked for, then downloaded to; and where relative image
    paths of lists start. image_size, num_workers: as of ImageFiles. Raises InputError for malformed data."""
    dataset, options = os.fspath(dataset), {"image_size": image_size, "num_workers": num_workers}
    kind, _, path = dataset.partition(":")
    if kind in ("folder", "lists") and path:
        from il2m.data.lists import load_folder, load_lists  # imports pyarrow, which arrays do without

        folder = Path(os.path.expanduser(path))
        folder = folder.resolve() if ".." in folder.parts else folder.absolute()  # its name is the data set's
        return load_folder(folder, **options) if kind == "folder" else load_lists(folder, Path(data_dir), **options)
    if dataset.lower().endswith(".npz"):
        file = Path(os.path.expanduser(dataset))
        if not file.is_file():
            raise InputError(f"no file {file.absolute()}: give the path of {_NPZ}.")
        arrays = read_npz(file, (*REQUIRED, "class_names")) or dict.fromkeys(np.load(file).files)  # to tell of
        return dataset_from_arrays(file.stem, arrays, source=dataset)
    if dataset not in _LOADERS:
        others = f"or give the path of {_NPZ}, or folder:PATH or lists:PATH"
        raise InputError(f"unknown dataset {dataset!r}: {nearest(dataset, _LOADERS)} ({others})")
    try:
        loaded = _LOADERS[dataset](Path(data_dir))
        if isinstance(loaded, Dataset):  # known by what it holds now: its loader may have changed it
            if loaded.files:
                from il2m.data.lists import listed_anew  # imports pyarrow

                return listed_anew(dataset, loaded, **options)
            parts = loaded.train_images, loaded.train_labels, loaded.val_images, loaded.val_labels
            loaded = dict(zip(REQUIRED, parts, strict=True), class_names=loaded.class_names)
        if not isinstance(loaded, Mapping):
            what = f"its loader returned {type(loaded).__name__}; expected arrays by name"
            raise InputError(f"dataset {dataset!r}: {what}, or an il2m.Dataset.")
        arrays = {key: np.asarray(array) for key, array in loaded.items()}
    except InputError:
        raise
    except Exception as error:  # whatever the user's own code raises
        hint = " (images of differing size? all must have one)" * ("inhomogeneous" in str(error))
        raise InputError(f"dataset {dataset!r} can't be loaded: {type(error).__name__}: {error}{hint}") from error
    return dataset_from_arrays(dataset, arrays, source=dataset)


def register_dataset(name: str, loader: Loader) -> Loader:
    """Make ``dataset = name`` a data set of the study. Raises InputError for a name that is taken or would be read as a
    path. loader: ``data_dir`` -> arrays as dataset_from_arrays takes them, or a Dataset. What it loads is known by its
    content: the fingerprint of the images shapes the results."""
    if name.lower().endswith(".npz") or ":" in name:
        raise InputError(f"dataset {name!r} would be read as a path: take another name.")
    _SOURCES[name] = registered_source("dataset", name, loader, _SOURCES)
    _LOADERS[name] = loader
    return loader


def absolute_source(dataset: str, start: Path) -> str:
    """``dataset`` with a path in it made absolute, as seen from ``start``; names stay as they are."""
    kind, _, path = dataset.partition(":")
    if kind in ("folder", "lists") and path:
        return f"{kind}:{(start / os.path.expanduser(path)).resolve()}"
    return str((start / os.path.expanduser(dataset)).resolve()) if dataset.lower().endswith(".npz") else dataset


def dataset_from_arrays(name: str, arrays: dict[str, np.ndarray], source: str = "arrays") -> Dataset:
    """Check ``x_train, y_train, x_test, y_test[, class_names]`` and make them a Dataset.
    x: (n, h, w), (n, h, w, 1) or (n, h, w, 3) uint8. y: (n,) whole numbers 0..C-1, each class with both training and
    validation images. Raises InputError that names the array and what is wrong with it."""
    if missing := [key for key in REQUIRED if key not in arrays]:
        remedy = f"Expected {', '.join(REQUIRED)}: save them again under these names"
        raise InputError(f"{source}: no {', '.join(missing)}; found {sorted(arrays)}. {remedy}.")
    train_images, val_images = (_checked_images(arrays[key], f"{source}: {key}") for key in ("x_train", "x_test"))
    if train_images.shape[1:] != val_images.shape[1:]:
        shapes = f"of shape {train_images.shape[1:]} and x_test of {val_images.shape[1:]} (height, width, channels)"
        raise InputError(f"{source}: x_train holds images {shapes}: all images must have one size.")
    train_labels = checked_labels(arrays["y_train"], len(train_images), f"{source}: y_train")
    val_labels = checked_labels(arrays["y_test"], len(val_images), f"{source}: y_test")
    num_classes = 1 + int(max(train_labels.max(), val_labels.max()))
    for key, labels, what in (("y_train", train_labels, "training"), ("y_test", val_labels, "validation")):
        if absent := np.setdiff1d(np.arange(num_classes), labels).tolist():
            problem = f"{key} has no image of class(es) {absent[:10]}: every class needs {what} images"
            raise InputError(f"{source}: labels must be 0..{num_classes - 1} without gaps, but {problem}. {NUMBERED}")
    names = np.ravel(arrays.get("class_names", range(num_classes)))
    names = (name if isinstance(name, bytes) else str(name).encode(errors="backslashreplace") for name in names)
    names = tuple(name.decode(errors="backslashreplace") for name in names)  # halves of characters, in words
    if not len({*names}) == len(names) == num_classes:
        found = f"{len(names)} names for {num_classes} classes"
        raise InputError(f"{source}: class_names has {found}; expected one each, no two alike.")
    digest = hashlib.sha256()
    for array in (train_images, train_labels, val_images, val_labels):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\0".join(names).encode())
    return Dataset(name, train_images, train_labels, val_images, val_labels, names, digest.hexdigest()[:16])


def _checked_images(array: np.ndarray, where: str) -> np.ndarray:
    """(n, height, width, channels). where: the array's file and name, to begin messages with."""
    if array.dtype != np.uint8:
        hint = "(x * 255).round().astype('uint8') of values 0..1, x.round().astype('uint8') of 0..255"
        hint += ", (x // 257).astype('uint8') of 0..65535"
        hint = "images of differing size? all must have one" if array.dtype == object else hint
        raise InputError(f"{where} has dtype {array.dtype}; expected uint8, values 0..255 ({hint}).")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        expected = "(n, height, width) for grey images or (n, height, width, 3) for colour"
        expected += " (channels first: x.transpose(0, 2, 3, 1))" * (array.ndim == 4 and array.shape[1] in (1, 3))
        raise InputError(f"{where} has shape {array.shape}; expected {expected}.")
    return array


def _cached_glyphs(data_dir: Path) -> Dataset:
    """The rendered glyphs, from the cache if it holds what was written (it has their fingerprint, and what rendered
    them), else rendered anew and cached. Warns of a cache that is not used, and of others than the published ones."""
    path = data_dir / f"glyphs-v{VERSION}.npz"
    if path.is_file():
        with contextlib.suppress(InputError):
            arrays = read_npz(path)
            glyphs = dataset_from_arrays("glyphs", arrays)
            if glyphs.fingerprint == str(arrays.get("fingerprint")):
                return glyphs
        warnings.warn(f"{path} does not hold the glyphs that il2m wrote there: they are rendered anew.", stacklevel=3)
    arrays = render_glyphs()
    glyphs = dataset_from_arrays("glyphs", arrays)
    rendered_by = f"Pillow {PIL.__version__}, FreeType {PIL.features.version('freetype2')}, numpy {np.__version__}"
    if glyphs.fingerprint != PUBLISHED_GLYPHS:
        what = f"the glyphs as rendered here ({rendered_by}) have the fingerprint {glyphs.fingerprint}, not the"
        warnings.warn(f"{what} published study's {PUBLISHED_GLYPHS}: figures may differ a little.", stacklevel=3)
    with replacing(path, "wb") as file:  # two jobs may render at once: the last one's stays
        np.savez(file, **arrays, fingerprint=glyphs.fingerprint, rendered_by=rendered_by)
    return glyphs


def _load_cifar(name: str, data_dir: Path) -> dict[str, np.ndarray]:
    import torchvision  # slow to import, and only needed here

    make = getattr(torchvision.datasets, name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its download bar would flood a log
            train, test = (make(str(data_dir), train=part, download=True) for part in (True, False))
    except Exception as error:  # network, disk and archive errors alike have one remedy
        what = f"{name.lower()}: not found under {data_dir.absolute()}, and the download failed ({error})"
        remedy = f"Put the python version's archive ({make.filename}, unpacked as {make.base_folder}/) there by hand"
        raise InputError(f"{what}. {remedy}, or give the images as an .npz file: dataset=PATH.npz.") from None
    arrays = {"x_train": train.data, "y_train": train.targets, "x_test": test.data, "y_test": test.targets}
    return arrays | {"class_names": train.classes}


_LOADERS: dict[str, Loader] = {"glyphs": _cached_glyphs}
_LOADERS |= {name.lower(): partial(_load_cifar, name) for name in ("CIFAR10", "CIFAR100")}
_SOURCES = dict.fromkeys(_LOADERS, "")  # name -> hash of its source, "" for what is built in
