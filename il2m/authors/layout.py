"""Where the authors' lists lie on disk."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListLayout:
    """Where the lists of one dataset and one split into states lie: ``folder`` is ``<lists>/<dataset>/S~<S>``."""

    folder: Path

    def separated_val(self, state: int) -> Path:
        """The validation images of the classes that ``state`` brings."""
        return self.folder / ("batch1/val.lst" if state == 1 else f"separated/val/batch{state}")

    def accumulated_val(self, state: int) -> Path:
        """The validation images of all classes seen at ``state``."""
        return self.folder / ("batch1/val.lst" if state == 1 else f"accumulated/val/batch{state}")

    def new(self, state: int, memory_size: int) -> Path:
        """The training images of the classes that ``state`` brings."""
        return self.folder / ("batch1/train.lst" if state == 1 else f"unbalanced/train/K~{memory_size}/{state}_new")

    def old(self, state: int, memory_size: int) -> Path:
        """The exemplars at ``state``."""
        return self.folder / f"unbalanced/train/K~{memory_size}/{state}_old"
