"""One notebook, executed by papermill in a process of its own with a kernel of its own.

papermill changes the working directory, and a kernel of its own keeps one job's threads, memory and crashes from the
others: so nothing is shared. Both processes end when the one that started them does, however that ends. They are forked
from a server that has imported everything already (warm.py); where a GPU might be touched, or forking is not safe, they
start from nothing. The kernel listens on Unix sockets, not on a network.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from il2m.system.machine import visible_gpus

KERNEL_ENVIRONMENT = {
    "IL2M_HEADLESS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # a kernel sets it, if matplotlib is not imported yet
    "OMP_NUM_THREADS": "1",  # a stage sets the threads that it is told; what else counts in parallel shall not
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel warns about frozen modules
}
_POLL_SECONDS = 0.2


class Stopped(Exception):
    """A job was stopped before its end, because it was asked to."""


def is_warm() -> bool:
    """Whether processes are forked from a server that has everything imported."""
    return sys.platform == "linux" and not visible_gpus() and _is_short(tempfile.gettempdir())


def _is_short(folder: str) -> bool:
    """Whether the path of a Unix socket somewhere in it stays within the 107 bytes that it may have."""
    return len(os.fsencode(folder)) < 64


def process_context(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    """How processes of this project are started: anew, or forked from a server that has imported ``preload``."""
    context = multiprocessing.get_context("forkserver" if is_warm() else "spawn")
    if is_warm():
        context.set_forkserver_preload(list(preload))
    return context


def execute_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    title: str = "",
    hide_code: bool = False,
    preload: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Execute ``notebook`` with ``parameters`` into ``output``, and make its page beside it (.html); returns why it
    failed, ``""`` if it did not. The notebook's folder is the working directory.

    Copy and page appear when they are whole; those of a failure as failed_copy(output), its traceback in place.
    Only one process at a time may execute into the same output.
    preload: modules that the process should find imported, see process_context.
    environment: more variables for the job's processes. log: a file for what they print beside the notebook's output.
    stop: asked several times a second. Raises Stopped once it is true; the processes are gone then.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = output.with_name(f".{output.name}")
    try:
        arguments = (notebook, staging, dict(parameters), dict(environment or {}), log, title or output.stem, hide_code)
        failure = _in_a_process(arguments, preload, log, stop)
        target = failed_copy(output) if failure else output
        for suffix in (".html", ".ipynb"):  # the notebook last: it is what counts
            if staging.with_suffix(suffix).exists():
                os.replace(staging.with_suffix(suffix), target.with_suffix(suffix))
    finally:
        _remove(staging)
    if not failure:
        _remove(failed_copy(output))
    return failure


def failed_copy(output: Path) -> Path:
    """Where the notebook of a failed job is kept, with the traceback in its place."""
    return output.with_suffix(".failed.ipynb")


def _remove(notebook: Path) -> None:
    """Remove a copy and its page, if there are any."""
    for path in (notebook, notebook.with_suffix(".html")):
        path.unlink(missing_ok=True)


def _in_a_process(
    arguments: tuple[Any, ...], preload: Sequence[str], log: Path | None, stop: Callable[[], bool]
) -> str:
    """Run _job_main in a process of its own; returns what it replies, or how it ended without a reply."""
    multiprocessing.current_process().daemon = False  # a dask worker is a daemon of its nanny, and may have no children
    reply, sender = multiprocessing.Pipe(duplex=False)
    process = process_context(preload).Process(target=_job_main, args=(sender, *arguments))
    process.start()
    sender.close()
    try:
        while not reply.poll(_POLL_SECONDS):
            if stop():
                raise Stopped
        return reply.recv()
    except EOFError:
        process.join()
        how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with exit code {process.exitcode}"
        return f"its process ended {how}" + (f", see {log}" if log else "")
    finally:
        _end(process)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """The process, its kernel and what that started are gone. All that they write appears whole or not at all."""
    process.join(timeout=2 * _POLL_SECONDS)
    if process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # not yet at the head of a group of its own, or gone
            process.kill()
    process.join()


# in the job's processes


def _job_main(
    reply: Connection,
    notebook: Path,
    output: Path,
    parameters: dict[str, Any],
    environment: dict[str, str],
    log: Path | None,
    title: str,
    hide_code: bool,
) -> None:
    os.setpgid(0, 0)  # a group of its own: Ctrl-C reaches the process that started it only
    os.environ |= KERNEL_ENVIRONMENT | environment
    _print_into(log)
    kernel = _Kernel()  # while there is but one thread to fork
    _end_with_parent()
    try:
        failure = _execute(kernel, notebook, output, parameters)
    finally:
        kernel.end()
    if output.is_file():
        from il2m.notebook.pages import write_page

        write_page(output, output.with_suffix(".html"), title=title, hide_code=hide_code)
    reply.send(failure)


def _execute(kernel: _Kernel, notebook: Path, output: Path, parameters: dict[str, Any]) -> str:
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": notebook.parent, "start_timeout": 300}
    try:
        papermill.execute_notebook(notebook, output, parameters, **options, kernel_manager_class=kernel.manager_class())
    except papermill.PapermillExecutionError as error:
        return error.evalue if error.ename == "InputError" else f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "its kernel died: out of memory, or killed"
    return ""


def _print_into(log: Path | None) -> None:
    """Send what this process and its children print to a file, or nowhere."""
    sys.stdout.flush(), sys.stderr.flush()
    file = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1), os.dup2(file, 2)
    os.close(file)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Kernel:
    """A process that becomes a Jupyter kernel when it is told its connection file.

    It is started before papermill and its threads: forked from a process with threads it might not work.
    """

    stdin = stdout = stderr = None  # these, and the methods, are what jupyter_client asks of a process

    def __init__(self) -> None:
        self._pipe, its_end = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork" if is_warm() else "spawn")
        self._process = context.Process(target=_kernel_main, args=(its_end,), name="kernel", daemon=True)
        self._process.start()
        its_end.close()
        self.pid = self._process.pid
        self._sockets = Path(tempfile.mkdtemp(prefix="il2m-", dir=None if _is_short(tempfile.gettempdir()) else "/tmp"))

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def start(self, command: list[str]) -> None:
        self._pipe.send((command[command.index("ipykernel_launcher") + 1 :], os.getcwd()))

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def manager_class(self) -> type:
        """A jupyter_client kernel manager that takes this process for its kernel."""
        from jupyter_client import AsyncKernelManager
        from jupyter_client.provisioning import LocalProvisioner
        from traitlets import default

        kernel = self

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], **_: Any) -> Any:
                kernel.start(cmd)
                self.process, self.pid, self.pgid = kernel, kernel.pid, None
                return self.connection_info

        class Manager(AsyncKernelManager):
            @default("transport")
            def _unix_sockets(self) -> str:
                return "ipc"

            @default("connection_file")
            def _connection_file(self) -> str:
                return str(kernel._sockets / "kernel.json")

            async def _async_pre_start_kernel(self, **options: Any) -> Any:
                self.kernel_id = self.kernel_id or f"kernel-{kernel.pid}"
                about = {"kernel_id": self.kernel_id, "kernel_spec": self.kernel_spec}
                self.provisioner = self.provisioner or Provisioner(parent=self, **about)
                return await super()._async_pre_start_kernel(**options)

        return Manager


def _kernel_main(orders: Connection) -> None:
    try:
        arguments, folder = orders.recv()
    except EOFError:  # the job ended before it needed a kernel
        return
    multiprocessing.current_process().daemon = False  # it may have children, which decode images
    _end_with_parent()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # papermill interrupts by it
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=[*arguments, "--log-level=ERROR"])
