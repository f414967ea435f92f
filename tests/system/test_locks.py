"""Locks: between real processes, between threads, and after a crash."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from il2m.system.locks import Stopped, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from il2m.system.locks import locked
with locked(Path(sys.argv[1]), waiting_for="testing"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process of its own that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_a_lock_is_held_inside_and_free_after(tmp_path):
    path = tmp_path / "new" / "folder" / "lock"
    for _ in range(2):
        with locked(path, waiting_for="testing"):
            assert is_locked(path)
        assert path.exists()
        assert not is_locked(path)


def test_a_lock_is_free_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", waiting_for="testing"):
        raise KeyboardInterrupt
    assert not is_locked(tmp_path / "lock")


def test_asking_leaves_nothing_behind(tmp_path):
    assert not is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "no folder" / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_contention_says_nothing(tmp_path, capsys):
    with locked(tmp_path / "lock", waiting_for="testing"):
        pass
    assert capsys.readouterr().out == ""


def test_another_process_is_waited_for_and_its_death_by_sigkill_frees_the_lock(tmp_path, holder, capsys):
    path = tmp_path / "lock"
    assert is_locked(path)
    order = []

    def wait():
        with locked(path, waiting_for="training base-1"):
            order.append("held")

    thread = threading.Thread(target=wait)
    thread.start()
    said = ""
    while not said:
        said = capsys.readouterr().out
        time.sleep(0.01)
    assert said == "waiting: another process is training base-1\n"
    order.append("killed")
    os.kill(holder.pid, signal.SIGKILL)
    thread.join(timeout=30)
    assert order == ["killed", "held"]
    assert capsys.readouterr().out == "", "said once"
    assert not is_locked(path)


def test_waiting_can_be_stopped(tmp_path, holder):
    stop = threading.Event()
    stopped = []

    def wait():
        try:
            with locked(tmp_path / "lock", waiting_for="testing", stop=stop.is_set):
                stopped.append("held")
        except Stopped:
            stopped.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    assert stopped == []
    stop.set()
    thread.join(timeout=30)
    assert stopped == ["stopped"]
    assert is_locked(tmp_path / "lock"), "the holder's"


def test_stop_has_no_say_where_nothing_is_waited_for(tmp_path):
    with locked(tmp_path / "lock", waiting_for="testing", stop=lambda: True):
        assert is_locked(tmp_path / "lock")


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most, rounds = [], [], []

    def work():
        for _ in range(3):
            with locked(tmp_path / "lock", waiting_for="testing"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.005)
                inside.pop()
                rounds.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(rounds) == 12
    assert set(most) == {1}


def test_a_thread_that_has_the_lock_is_refused_and_not_left_waiting_for_itself(tmp_path):
    path = tmp_path / "lock"
    with locked(path, waiting_for="testing"), pytest.raises(RuntimeError), locked(path, waiting_for="testing"):
        pass
    assert not is_locked(path)


def test_a_forked_child_does_not_keep_a_killed_parents_lock(tmp_path):
    """Image workers and the like may outlive a killed trainer for a while."""
    forking = HOLD.replace('print("held", flush=True)', "child = os.fork()\n    if child: print(child, flush=True)")
    command = [sys.executable, "-c", "import os" + forking, tmp_path / "lock"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        assert is_locked(tmp_path / "lock")
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # raises if it were dead
        wait_until(lambda: not is_locked(tmp_path / "lock"))
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    """It works unlocked, with a warning, and leaves no marker that would outlive a crash."""

    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    done = []
    with pytest.warns(UserWarning, match=r"can't be locked .*: other processes may do the same work"):  # noqa: SIM117
        with locked(tmp_path / "lock", waiting_for="testing"):
            done.append(is_locked(tmp_path / "lock"))
    assert done == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), locked(tmp_path / "file" / "lock", waiting_for="testing"):
        pass
