"""Where jobs run: on this machine, or on the workers of a dask cluster that is there already."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dask.distributed import Client

from il2m.batch.jobs import Job
from il2m.batch.worker import why_not_here
from il2m.errors import InputError
from il2m.system.machine import usable_cores, visible_gpus

_SECONDS_TO_CONNECT = 20
_TLS = (
    "Name the certificates (PEM files) in dask's configuration, for example by the environment variables "
    "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
    "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY."
)


@dataclass(frozen=True)
class Workers:
    """How many jobs run side by side, with how many CPU threads each, and where. Raises InputError if both are given.

    count: on this machine; None: one per GPU, or as many as the cores have room for. scheduler: the address of a dask
    scheduler, whose workers' threads then take a job each.
    """

    count: int | None = None
    threads: int = 1
    scheduler: str = ""

    def __post_init__(self) -> None:
        if self.scheduler and self.count:
            raise InputError("--workers are jobs on this machine; workers at --scheduler have --nthreads of their own.")

    @property
    def slots(self) -> int:
        """Jobs at a time on this machine."""
        return self.count or len(visible_gpus()) or max(1, (usable_cores() or 1) // self.threads)


@contextlib.contextmanager
def connected(workers: Workers) -> Iterator[Client]:
    """A client of the workers. Raises InputError if the scheduler can't be reached, or refuses."""
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        # dask logs a lost connection with its traceback, when luck has it so: what it means is told instead
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if workers.scheduler:
        options = {"address": workers.scheduler, "timeout": _SECONDS_TO_CONNECT}
    else:  # threads of this process, as the work is in the jobs' own; nothing listens beyond this machine
        options = {"processes": False, "protocol": "inproc", "n_workers": 1, "threads_per_worker": workers.slots}
        options |= {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    try:
        client = Client(**options)
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:  # the last for want of certificates
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = _TLS if workers.scheduler.startswith("tls:") else "Start one with `dask scheduler`."
        raise InputError(f"no dask scheduler answers at {workers.scheduler}: {reason}. {advice}") from None
    with client:
        yield client


def dashboard(client: Client) -> str:
    """The address of dask's dashboard, "" where it is off: it needs the package bokeh."""
    if not importlib.util.find_spec("bokeh"):
        return ""
    if client.scheduler.address.startswith("inproc"):  # dask would name an address at which this one does not listen
        return f"http://127.0.0.1:{client.scheduler_info()['services']['dashboard']}/status"
    return client.dashboard_link


def check_workers(client: Client, marker: Path, job: Job, code: str) -> None:
    """Raises InputError if a worker could not do the jobs, before the first one starts; see why_not_here."""
    for address, problem in client.run(why_not_here, marker, job, code).items():
        if problem:
            raise InputError(f"worker {address} {problem}")
