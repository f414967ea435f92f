"""Executed notebooks as pages that need no network, and the report over a whole study's folder."""

import contextlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from il2m.batch.records import read_plans
from il2m.batch.worker import PRELOAD
from il2m.errors import InputError
from il2m.notebook.catalogue import find_notebooks
from il2m.notebook.execute import execute_notebook, failed_copy, process_context
from il2m.notebook.pages import write_page
from il2m.system.locks import locked
from il2m.system.plugins import load_plugin

REPORT = "05_report"
PAGE = "index.html"


def check_study(folder: Path) -> None:
    """Raises InputError if the folder holds neither runs nor plans."""
    if not (any(folder.glob("*/config.json")) or any(folder.glob("plans/*.json"))):
        what = "holds no runs and no plans" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder} {what}: expected a study's folder, as il2m run --out makes it.")


def build_report(out_dir: str | Path) -> Path:
    """Make the report of a study's folder, however far it is: the pages of executed and failed notebooks that have
    none, ``notebooks/05_report.ipynb``, and from it ``index.html``, whose path is returned.

    Raises InputError if the folder is no study, or if the report's notebook fails.
    """
    folder = Path(out_dir).absolute()
    check_study(folder)
    notebook, report = (where / f"{REPORT}.ipynb" for where in (find_notebooks(), folder / "notebooks"))
    with locked(folder / ".report.lock", waiting_for="making this report"):
        write_missing_pages(report.parent)
        options = {"preload": PRELOAD, "title": f"Report: {folder.name}", "hide_code": True}
        options["plugins"] = _loadable_plugins(folder)
        failure = execute_notebook(notebook, report, {"out_dir": str(folder)}, **options)
        if failure:
            raise InputError(f"the report of {folder} could not be made: {failure} (see {failed_copy(report)})")
        os.replace(report.with_suffix(".html"), folder / PAGE)
    return folder / PAGE


def _loadable_plugins(folder: Path) -> list[str]:
    """The plugins of all plans of a study, without those that can't be loaded here: a warning is printed of each.

    Each is tried in a process of its own, which is gone with it.
    """
    plugins = list(dict.fromkeys(name for plan in read_plans(folder) for job in plan["jobs"] for name in job.plugins))
    problems = {}
    for name in plugins:
        try:
            with ProcessPoolExecutor(1, mp_context=process_context(PRELOAD)) as child:
                problems[name] = child.submit(_problem, name).result()
        except BrokenProcessPool:
            problems[name] = f"plugin {name}: it ended its process"
    for problem in filter(None, problems.values()):
        print(f"warning: the report is made without {problem}", file=sys.stderr)
    return [name for name, problem in problems.items() if not problem]


def _problem(plugin: str) -> str:
    """Why a plugin can't be loaded, "" if it can."""
    try:
        load_plugin(plugin)
    except InputError as error:
        return str(error)
    return ""


def refresh_report(out_dir: Path, *, anew: bool) -> Path:
    """The report's page, made if there is none, if ``anew``, or if a job's record has changed since."""
    page, jobs = out_dir / PAGE, out_dir / "jobs"
    is_older = not page.exists() or page.stat().st_mtime < jobs.stat().st_mtime
    return build_report(out_dir) if anew or is_older else page


def write_missing_pages(folder: Path) -> None:
    """Make the pages of executed and failed notebooks in ``folder`` that have none, or an older one. What can't be
    read is passed over: its job will be run again."""
    for notebook in sorted(folder.glob("0[1-4]_*.ipynb")):
        page = notebook.with_suffix(".html")
        if _is_newer(page, notebook):
            continue
        with contextlib.suppress(Exception):  # damaged, in whatever way
            write_page(notebook, page, title=notebook.stem, hide_code=False)


def _is_newer(page: Path, notebook: Path) -> bool:
    return page.is_file() and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns
