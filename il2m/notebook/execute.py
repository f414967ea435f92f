"""One notebook, executed by papermill in a process and with a kernel of its own: jobs share no threads, memory, crashes
or working directory. Both end when the process that started them does, however that ends. They are forked from a server
that has imported everything already (batch/warm.py), or start from nothing where a GPU might be touched or forking is
not safe. The kernel listens on Unix sockets, not on a network."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from il2m.errors import InputError
from il2m.system.locks import POLL_SECONDS, Stopped
from il2m.system.machine import visible_gpus
from il2m.system.plugins import load_plugin
from il2m.system.processes import end_with_parent

KERNEL_ENVIRONMENT = tomllib.loads(Path(__file__).with_name("environment.toml").read_text())


def is_warm() -> bool:
    """Whether processes are forked from a server that has everything imported."""
    return sys.platform == "linux" and not visible_gpus() and _has_room_for_sockets()


def _has_room_for_sockets() -> bool:
    """Whether the path of a Unix socket in the folder for temporary files stays within the 107 bytes it may have."""
    return len(os.fsencode(tempfile.gettempdir())) < 64


def process_context(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    """How processes of this project are started: anew, or forked from a server that has imported ``preload``."""
    context = multiprocessing.get_context("forkserver" if is_warm() else "spawn")
    context.set_forkserver_preload(list(preload))
    return context


def execute_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    plugins: Sequence[str] = (),
    environment: Mapping[str, str] = {},
    log: Path | None = None,
    title: str = "",
    hide_code: bool = False,
    preload: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Execute ``notebook`` in its folder into ``output``, and make its page beside it (.html); returns why it failed,
    ``""`` if it did not. Copy and page appear when they are whole, those of a failure as failed_copy(output). One
    process at a time may execute into an output. plugins: loaded first, or the failure. preload: see process_context.
    environment: of the job's processes. log: a file for what they print beside the notebook's output. stop: asked
    several times a second. Raises Stopped once it is true; the processes are gone then."""
    output.parent.mkdir(parents=True, exist_ok=True)
    copy = output.with_name(f".{output.name}")
    page = {"title": title or output.stem, "hide_code": hide_code}
    try:
        failure = _in_a_process(preload, stop, log, environment, plugins, notebook, copy, parameters, page)
        _remove(failed_copy(output))
        for suffix in (".html", ".ipynb"):  # the notebook last: it is what counts
            if copy.with_suffix(suffix).exists():
                copy.with_suffix(suffix).replace((failed_copy(output) if failure else output).with_suffix(suffix))
    finally:
        _remove(copy)
    return failure


def failed_copy(output: Path) -> Path:
    """Where the notebook of a failed job is kept, with the traceback in its place."""
    return output.with_suffix(".failed.ipynb")


def _remove(notebook: Path) -> None:
    for path in (notebook, notebook.with_suffix(".html")):
        path.unlink(missing_ok=True)


def _in_a_process(preload: Sequence[str], stop: Callable[[], bool], log: Path | None, *arguments: Any) -> str:
    """Run _job_main in a process of its own; returns what it replies, or how it ended without a reply."""
    multiprocessing.current_process().daemon = False  # a dask worker is a daemon of its nanny, and may have no children
    reply, sender = multiprocessing.Pipe(duplex=False)
    process = process_context(preload).Process(target=_job_main, args=(sender, log, *arguments))
    process.start()
    sender.close()
    try:
        while not reply.poll(POLL_SECONDS):
            if stop():
                raise Stopped
        return reply.recv()
    except EOFError:
        process.join()
        how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with exit code {process.exitcode}"
        return f"its process ended {how}" + (f", see {log}" if log else "")
    finally:  # also of its kernel and what that started: all that they write appears whole or not at all
        process.join(timeout=2 * POLL_SECONDS)
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # not yet at the head of a group, or gone
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()


def _job_main(reply: Connection, log: Path | None, environment: Mapping, plugins: Sequence[str], *task: Any) -> None:
    """In the job's process: start its kernel, execute the notebook, and reply why that failed."""
    os.setpgid(0, 0)  # a group of its own: Ctrl-C reaches the process that started it only
    os.environ |= {**KERNEL_ENVIRONMENT, **environment}
    sys.stdout.flush(), sys.stderr.flush()
    with open(log or os.devnull, "wb") as file:  # for what this process and its children print
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    pipe, kernel_pipe = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork" if is_warm() else "spawn")
    kernel = context.Process(target=_kernel_main, args=(kernel_pipe, plugins), name="kernel", daemon=True)
    kernel.start()  # before papermill and its threads: forked from a process with threads it might not work
    kernel_pipe.close()
    end_with_parent()
    try:
        reply.send(_execute(kernel, pipe, *task))
    except OSError as error:  # a full disk, a folder that is gone
        reply.send(f"{type(error).__name__}: {error}")


def _execute(kernel: BaseProcess, pipe: Connection, notebook: Path, output: Path, given: Mapping, page: Mapping) -> str:
    import papermill
    from nbclient.exceptions import DeadKernelError

    from il2m.notebook.pages import write_page

    logging.getLogger("papermill").setLevel(logging.ERROR)
    sockets = tempfile.mkdtemp(prefix="il2m-", dir=None if _has_room_for_sockets() else "/tmp")
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": notebook.parent, "start_timeout": 300}
    options["kernel_manager_class"] = _manager_class(kernel, pipe, sockets)
    try:
        failure = pipe.recv()  # once it has loaded the plugins
        if not failure:
            paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)]  # it formats them
            papermill.execute_notebook(*paths, given, **options)
    except papermill.PapermillExecutionError as error:
        failure = error.evalue if error.ename == "InputError" else f"{error.ename}: {error.evalue}"
    except (DeadKernelError, EOFError):
        failure = "its kernel died: out of memory, or killed"
    finally:
        kernel.kill()
        kernel.join()
        shutil.rmtree(sockets, ignore_errors=True)
    if output.is_file():
        write_page(output, output.with_suffix(".html"), **page)
    return failure


def _manager_class(kernel: BaseProcess, pipe: Connection, sockets: str) -> type:
    """A jupyter_client kernel manager that takes this process for its kernel."""
    from jupyter_client import AsyncKernelManager
    from traitlets import Unicode

    asked = {"pid": kernel.pid, "poll": lambda: kernel.exitcode, "wait": kernel.join}  # of a process by jupyter_client
    asked["send_signal"] = lambda number: kernel.is_alive() and os.kill(kernel.pid, number)
    popen = SimpleNamespace(**asked, **dict.fromkeys(("stdin", "stdout", "stderr")))

    class Manager(AsyncKernelManager):
        transport = Unicode("ipc")
        connection_file = Unicode(f"{sockets}/kernel.json")

        async def _async_launch_kernel(self, kernel_cmd: list[str], **_: Any) -> None:
            pipe.send((kernel_cmd[kernel_cmd.index("ipykernel_launcher") + 1 :], os.getcwd()))
            self.provisioner.process, self.provisioner.pid = popen, popen.pid

    return Manager


def _kernel_main(pipe: Connection, plugins: Sequence[str]) -> None:
    """Load plugins, and become a Jupyter kernel when told its arguments and its working directory."""
    multiprocessing.current_process().daemon = False  # it may have children, which decode images
    end_with_parent()
    try:
        for plugin in plugins:
            load_plugin(plugin)
        pipe.send("")
        arguments, folder = pipe.recv()
    except InputError as error:
        pipe.send(str(error))
        return
    except EOFError:  # the job ended before it needed a kernel
        return
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # papermill interrupts by it
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=[*arguments, "--log-level=ERROR"])
