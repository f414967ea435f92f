"""Progress of a long stage: for a person at a terminal or in JupyterLab, and as a small file for those who look on."""

import json
import os
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from il2m.system.files import write_atomically
from il2m.system.processes import HERE

PROGRESS_FILE = "progress.json"


def is_headless() -> bool:
    """True where nobody watches: no terminal and no live notebook, or a notebook that papermill or nbconvert executes:
    ``il2m run`` says so by IL2M_HEADLESS; one that is executed otherwise is told by that it can't ask for input."""
    if os.environ.get("IL2M_HEADLESS") or HERE.count > 1:
        return True
    if "ipykernel" not in sys.modules:
        return not sys.stderr.isatty()
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and not kernel.get_parent("shell").get("content", {}).get("allow_stdin", True)


class Progress(AbstractContextManager):
    """Counts images over all epochs and states of a stage, so that rate and time left are of the whole stage."""

    def __init__(self, title: str, total_images: int, folder: Path) -> None:
        """folder: the run's, where progress.json is kept while the stage is under way."""
        from tqdm import auto, std  # slow to import, and not needed to look on

        self._file = folder / PROGRESS_FILE
        self._started = self._written = time.monotonic()
        bar = std.tqdm if is_headless() else auto.tqdm
        self._bar = bar(total=total_images, unit="img", unit_scale=True, desc=title, disable=is_headless())
        self._title, self._total, self._done, self._resumed = title, total_images, 0, 0

    def resumed(self, num_images: int) -> None:
        """Count images of epochs that a checkpoint held: done, but not now, so that the rate leaves them out."""
        self._done += num_images
        self._resumed += num_images
        if not self._bar.disable:
            for count in ("initial", "n", "last_print_n"):  # what tqdm takes its rate from
                setattr(self._bar, count, getattr(self._bar, count) + num_images)
            self._bar.refresh()

    def epoch_done(self, state: int, num_states: int, epochs: int, num_images: int, epoch: int, loss: float) -> None:
        """Count an epoch of ``num_images``: the ``epoch``-th of ``epochs``, with this mean loss."""
        self._done += num_images
        where = f"state {state}/{num_states}, epoch {epoch}/{epochs}, loss {loss:.3f}"
        self._bar.set_postfix_str(where, refresh=False)
        self._bar.update(num_images)
        now = time.monotonic()
        if HERE.rank == 0 and (now - self._written >= 0.5 or self._done == self._total):
            self._written = now
            rate = (self._done - self._resumed) / (now - self._started)
            status = {"stage": self._title, "where": where, "images_per_second": rate}
            status |= {"seconds_left": (self._total - self._done) / rate, "share_done": self._done / self._total}
            write_atomically(self._file, json.dumps(status), durable=False)

    def follow(self) -> None:
        """Show what the process that trains has noted."""
        if status := read_progress(self._file.parent):
            self._bar.set_postfix_str(status["where"], refresh=False)
            self._bar.update(round(status["share_done"] * self._total) - self._bar.n)

    def __reduce__(self) -> tuple[type, tuple]:  # in another process it begins anew
        return Progress, (self._title, self._total, self._file.parent)

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        self._file.unlink(missing_ok=True)


def read_progress(folder: Path) -> dict | None:
    """The state of the stage that is under way in a run folder, or None."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads((folder / PROGRESS_FILE).read_text())
    return None
