"""Arrays that users give in ``.npz`` files."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from il2m.errors import InputError


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of a file, or those of ``names`` that it has. Raises InputError for a file that is damaged, holds
    Python objects in place of numbers, or is no ``.npz``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if names is None or name in names}
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib or numpy meet first
        what = "file: it is damaged, or is no .npz at all. Write it again with numpy.savez."
        if "Object arrays" in str(error):
            what = "file of plain arrays: it holds Python objects, as numpy makes of images of differing size. "
            what += "All images must have one size and be saved as one uint8 array."
        raise InputError(f"{path}: not a readable .npz {what}") from None
