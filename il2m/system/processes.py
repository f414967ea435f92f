"""Several processes at one training, each with its share of every mini-batch and of the images that are scored. They
start from nothing, as nothing of a notebook's kernel should be forked. No torch here until it is needed."""

import contextlib
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

from il2m.errors import InputError
from il2m.system.locks import POLL_SECONDS
from il2m.system.plugins import LOADED, load_plugin

HERE = SimpleNamespace(rank=0, count=1)  # which one of how many this process is; the first one alone writes


def gathered(values: list) -> list:
    """The values of all processes, in order of rank, once all have come here."""
    parts = [values] * HERE.count
    if HERE.count > 1:
        HERE.gather(parts, values)
    return [value for part in parts for value in part]


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Processes that multiprocessing starts meanwhile do not run the script of this one: it may have no guard."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("none")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def run_in_processes(count: int, on_cpu: bool, meanwhile: Callable, function: Callable, *arguments: Any) -> None:
    """Call ``function`` in ``count`` processes, on CPU cores or each on a GPU of its own, and ``meanwhile`` here, some
    times a second. Raises InputError with the reason if one fails: all end then, as they do when this process ends."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        task = [*LOADED], pickle.dumps((function, *arguments))
        asked = count, on_cpu, f"{folder}/meeting", torch.get_num_threads(), *task
        with without_script():
            started = torch.multiprocessing.start_processes(_work, asked, count, join=False, start_method="spawn")
        try:
            while not started.join(POLL_SECONDS):
                meanwhile()
        except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException) as error:
            _, is_input, told = str(error).rpartition("InputError: ")
            raise InputError(("" if is_input else f"one of {count} processes failed: ") + told.strip()) from None
        finally:
            for process in started.processes:
                process.kill()
                process.join()


def _work(rank: int, count: int, on_cpu: bool, meeting: str, num_threads: int, plugins: list, task: bytes) -> None:
    """In each of the processes."""
    import torch

    end_with_parent()
    HERE.rank, HERE.count, HERE.gather = rank, count, torch.distributed.all_gather_object
    numbers = dict.fromkeys(("RANK", "LOCAL_RANK"), rank) | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), count)
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"ACCELERATE_USE_CPU": str(on_cpu)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"  # nobody else can connect
    warnings.simplefilter("ignore" if rank else "default")
    for plugin in plugins:
        load_plugin(plugin)
    torch.set_num_threads(num_threads), torch.set_float32_matmul_precision("highest")  # as train_missing
    group = {"store": torch.distributed.FileStore(meeting, count), "rank": rank, "world_size": count}
    torch.distributed.init_process_group("gloo" if on_cpu else "nccl", **group)
    function, *arguments = pickle.loads(task)
    function(*arguments)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is stored; at Python's own end threads that still run make C++ abort, now and then


def end_with_parent() -> None:
    """End this process when the one that started it by multiprocessing ends, however that ends."""
    threading.Thread(target=lambda: [multiprocessing.parent_process().join(), os._exit(1)], daemon=True).start()
