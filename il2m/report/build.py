"""Executed notebooks as pages that need no network, and the report over a whole study's folder."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from il2m.batch.records import warn_of_plugins
from il2m.errors import InputError, printable, warn_in_words
from il2m.notebook.catalogue import find_notebooks
from il2m.notebook.execute import execute_notebook, failed_copy
from il2m.notebook.pages import link_page, page_is_current, write_page
from il2m.study.runs import RESULTS_FILE, Run
from il2m.system.hashes import file_hash, read_sealed, write_sealed
from il2m.system.locks import locked, sweep
from il2m.system.machine import library_hash
from il2m.system.plugins import load_plugin, plugin_hash, resolved
from il2m.system.processes import without_script

REPORT = "05_report"
PAGE, EXPLORER, RECORD = "index.html", "explorer.html", ".report.json"  # the pages, and what they were made from


def check_study(folder: Path) -> None:
    """Raises InputError if the folder holds neither runs nor plans."""
    if not (any(folder.glob("*/config.json")) or any(folder.glob("plans/*.json"))):
        what = "holds no runs and no plans" if folder.is_dir() else "is no folder"
        what = "is a run, not what it lies in" if (folder / "config.json").exists() else what
        raise InputError(f"{folder} {what}: expected a study's folder, as il2m run --out makes it.")


def build_report(out_dir: str | Path, plugins: Sequence[str] = ()) -> Path:
    """Make the report of a study's folder, however far it is: the pages of executed and failed notebooks that have
    none, the explorer, ``notebooks/05_report.ipynb``, and from it ``index.html``, whose path is returned. plugins:
    loaded first; one that only a plan names is not, as a study from elsewhere shall not run code here: a warning says
    so. Raises InputError if the folder is no study, or if the report's notebook fails."""
    folder = Path(out_dir).absolute()
    check_study(folder)
    plugins = [*map(resolved, plugins)]
    warn_of_plugins(folder, plugins, "the report")
    notebook, report = (where / f"{REPORT}.ipynb" for where in (find_notebooks(), folder / "notebooks"))
    with locked(folder / ".report.lock", waiting_for="making this report"):
        leftovers = [path for name in (PAGE, EXPLORER, RECORD) for path in folder.glob(f"{name}*.tmp")]
        sweep(folder / ".report.lock", [*leftovers, *report.parent.glob(f".{REPORT}.*")])
        made_from = _made_from(folder, plugins)
        write_missing_pages(report.parent)
        options = {"title": folder.name, "plugins": plugins}
        spawning = {"mp_context": multiprocessing.get_context("spawn"), "initializer": warn_in_words}
        pool = ProcessPoolExecutor(1, **spawning) if plugins else ThreadPoolExecutor(1)
        with without_script(), pool as beside:  # the notebook runs elsewhere; what plugins register stays there
            explorer = beside.submit(_write_explorer, folder, plugins)
            if failure := execute_notebook(notebook, report, {"out_dir": str(folder)}, hide_code=True, **options):
                raise InputError(f"the report of {folder} could not be made: {failure} (see {failed_copy(report)})")
        os.replace(report.with_suffix(".html"), folder / PAGE)
        explorer.result()
        write_sealed(folder / RECORD, {**made_from, **_made(folder)})
    return folder / PAGE


def _write_explorer(folder: Path, plugins: Sequence[str]) -> None:
    """The explorer of the study's default pair of runs; a study in which none is finished gets none, and is told so."""
    from il2m.explorer.share import share

    try:
        for plugin in plugins:
            load_plugin(plugin)
        share([folder], folder / EXPLORER)
    except InputError as error:
        print(printable(f"no {EXPLORER}: {error}"), file=sys.stderr)
        (folder / EXPLORER).unlink(missing_ok=True)  # one of before would show other runs


def _made(folder: Path) -> dict[str, str]:
    return {name: file_hash(folder / name) for name in (PAGE, EXPLORER) if (folder / name).is_file()}


def _made_from(folder: Path, plugins: Iterable[str]) -> dict[str, Any]:
    """What a report says depends on: plans, how jobs stand, runs and their states, tables, the library and plugins."""
    files = [*folder.glob("plans/*.json"), *folder.glob("jobs/*.json"), *folder.glob(f"*/{RESULTS_FILE}")]
    files += [*folder.glob("*/config.json"), *folder.glob("*/state_[0-9][0-9]/state.json")]
    hashes = {}
    for path in sorted(files):
        with contextlib.suppress(FileNotFoundError):  # a job under way has replaced or removed it
            hashes[str(path.relative_to(folder))] = file_hash(path)
    made_by = {"code": library_hash(), "plugins": {plugin: plugin_hash(plugin) for plugin in plugins}}
    return made_by | {"notebook": file_hash(find_notebooks() / f"{REPORT}.ipynb"), "files": hashes}


def report_is_current(folder: Path, plugins: Sequence[str] | None = None) -> bool:
    """Whether a study's report is as it was made, of the notebook beside it, and would be made the same way now.
    plugins: with these; None: with those that it was made with."""
    with contextlib.suppress(OSError, ValueError):
        of_notebook = page_is_current(folder / PAGE, folder / "notebooks" / f"{REPORT}.ipynb")
        record = read_sealed(folder / RECORD)
        named = record.get("plugins", ()) if plugins is None else map(resolved, plugins)
        return of_notebook and record == {**_made_from(folder, named), **_made(folder)}
    return False


def refresh_report(out_dir: Path, plugins: Sequence[str] = ()) -> Path:
    """The report's page, made (see build_report) if there is none, or if anything that it shows has changed since."""
    if not report_is_current(out_dir, plugins):
        return build_report(out_dir, plugins)
    write_missing_pages(out_dir / "notebooks")
    return out_dir / PAGE


def write_missing_pages(folder: Path) -> None:
    """Make the pages of executed and failed notebooks in ``folder`` that have none, or one of another notebook, and
    link them to the report and to each other. What can't be read is passed over: its job will be run again."""
    pages: dict[Path, dict[str, Any]] = {}
    for notebook in sorted(folder.glob("0[1-4]_*.ipynb")):
        file = notebook.with_suffix(".html")
        with contextlib.suppress(Exception):  # damaged, in whatever way
            if not page_is_current(file, notebook):
                write_page(notebook, file, title=notebook.stem, hide_code=False)
        stage, _, run = notebook.stem.removesuffix(".failed").partition("-")
        pages[notebook] = {"file": file.name, "stage": stage, "run": run, "failed": notebook.stem.endswith(".failed")}
        with contextlib.suppress(InputError):
            pages[notebook]["base"] = Run(folder.parent / run).config.get("base")
    for notebook, page in pages.items():
        with contextlib.suppress(OSError, ValueError):
            link_page(notebook.with_suffix(".html"), notebook, page=page, pages=[*pages.values()], report=PAGE)
