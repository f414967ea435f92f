"""Outcomes of large runs, computed beside the page while it stays usable."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from il2m.explorer.outcomes import RunOutcomes

_BETWEEN = 0.4  # seconds between two reports, so that a page isn't drawn anew for each state


class Part(NamedTuple):
    """One of the outcomes that a view is made of."""

    outcomes: RunOutcomes
    state: int
    method: str
    score_kind: str

    def is_ready(self) -> bool:
        return self.outcomes.is_ready(*self[1:])

    def compute(self) -> None:
        self.outcomes.outcome(*self[1:])


class Worker:
    """Computes what is wanted in a thread of its own, first things first, and calls ``arrived`` as it comes: in the
    kernel's own loop where there is one, as widgets expect."""

    def __init__(self, arrived: Callable[[], object]) -> None:
        try:
            self._report: Callable[[], object] = partial(asyncio.get_running_loop().call_soon_threadsafe, arrived)
        except RuntimeError:  # a script
            self._report = arrived
        self._queue: list[tuple[Part, bool]] = []  # with whether the page waits for the part; those come first
        self._failures: dict[Part, Exception] = {}
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._task: Future[None] | None = None  # the part that is being computed
        self._guard = threading.Lock()  # of the queue, and of the task
        self._reported = 0.0

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Which of these aren't computed yet. Raises what computing one of them has raised."""
        for part in parts:
            if part in self._failures:
                raise self._failures[part]
        return [part for part in parts if not part.is_ready()]

    def want(self, parts: Sequence[Part], later: Sequence[Part] = ()) -> None:
        """Compute these in place of what was wanted before; then, without a report, what may be wanted later."""
        with self._guard:
            self._queue = [(part, True) for part in parts] + [(part, False) for part in later]
            if self._task is None:
                self._reported = time.monotonic()
                self._start_next()

    def _start_next(self) -> None:
        """A task is one part, so that what is no longer wanted is dropped, and a process can end between two."""
        self._task = self._executor.submit(self._compute, *self._queue.pop(0)) if self._queue else None

    def _compute(self, part: Part, is_waited_for: bool) -> None:
        try:
            part.compute()
        except Exception as error:  # told by ``missing``, to who needs this part
            self._failures[part] = error
        try:
            is_last = not any(waited_for for _, waited_for in self._queue)
            if is_waited_for and (is_last or time.monotonic() - self._reported > _BETWEEN):
                self._report()
                self._reported = time.monotonic()
        finally:
            with self._guard:
                self._start_next()

    def settle(self) -> None:
        """Wait until all that was wanted is computed."""
        while task := self._task:
            task.result()
