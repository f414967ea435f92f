"""Outcomes of large runs, computed beside the page while it stays usable."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from il2m.errors import InputError
from il2m.explorer.outcomes import RunOutcomes

Key = tuple[RunOutcomes, int, str, str]  # of which run, state, method and kind of score
_BETWEEN = 0.4  # seconds between two reports, so that a page isn't drawn anew for each state


class Worker:
    """A thread that computes what is wanted, first things first, and calls ``arrived`` as it comes: in the kernel's own
    loop where there is one, as widgets expect."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._wanted: list[Key] = []
        self._later: list[Key] = []
        self._failures: dict[Key, str] = {}
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()  # of what is wanted, and of whether a thread works on it
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """Which of these aren't computed yet. Raises InputError if one was tried in vain."""
        for key in keys:
            if key in self._failures:
                raise InputError(self._failures[key])
        return [key for key in keys if not key[0].is_ready(*key[1:])]

    def want(self, keys: Sequence[Key], later: Sequence[Key] = ()) -> None:
        """Compute these in place of what was wanted before; and then, without a report, those that may be wanted
        later."""
        with self._guard:
            self._wanted, self._later = list(keys), list(later)
            if (keys or later) and self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _next(self) -> tuple[Key, bool] | None:
        """What to compute next, and whether it is waited for; None, and the thread ends, if nothing is wanted."""
        with self._guard:
            queue = self._wanted or self._later
            if not queue:
                self._thread = None
                return None
            return queue.pop(0), queue is self._wanted

    def _work(self) -> None:
        reported = time.monotonic()
        while found := self._next():
            key, waited_for = found
            try:
                key[0].outcome(*key[1:])
            except InputError as error:
                self._failures[key] = str(error)
            if waited_for and (not self._wanted or time.monotonic() - reported > _BETWEEN):
                self._report()
                reported = time.monotonic()

    def _report(self) -> None:
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._arrived)
        else:
            self._arrived()

    def join(self) -> None:
        """Wait until all that was wanted is computed."""
        while thread := self._thread:
            thread.join()
