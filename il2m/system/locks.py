"""Locks between processes and threads, so that two that ask for the same work do it once. A lock is an empty file that
stays; who holds it is known to the kernel only (``flock``), and it is free when its holder lets go or dies, be it by
SIGKILL. How far this goes on file systems that machines share: docs/reliability.md."""

import contextlib
import errno
import fcntl
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

RUN_LOCK = ".lock"  # in a run's folder: held while its states are trained
POLL_SECONDS = 0.2
_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Stopped(Exception):
    """What was to be stopped once ``stop()`` is true has stopped."""


@contextlib.contextmanager
def locked(path: Path, *, waiting_for: str, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the lock of the file ``path``, which is made with its parents; wait while another process or thread has it.
    waiting_for: what the other is at, as in "waiting: another process is training base-0123456789", which is said once.
    stop: asked while waiting. Raises Stopped once it is true, and RuntimeError if this thread has the lock."""
    lock = FileLock(path, poll_interval=POLL_SECONDS, fallback_to_soft=False)
    try:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=2 * POLL_SECONDS, cancel_check=stop)  # is_locked may have it for an instant
        if not lock.is_locked:
            if not stop():
                print(f"waiting: another process is {waiting_for}", flush=True)
            lock.acquire(cancel_check=stop)
    except Timeout:
        raise Stopped(f"stopped waiting for {path}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        warnings.warn(f"{path.parent} can't be locked ({error.strerror}): other processes may do the same work "
                      "at the same time", stacklevel=3)  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process or thread holds the lock of the file ``path`` now; False where that can't be found out."""
    with contextlib.suppress(OSError), path.open("rb") as file:  # the right to read it is enough; closing it lets go
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False  # also where there is no such lock, or there are none on this file system


def sweep(lock: Path, leftovers: Iterable[Path]) -> None:
    """Remove what killed processes left half made, where locks work. lock: held by whoever makes such, and here."""
    for path in leftovers if is_locked(lock) else ():
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
