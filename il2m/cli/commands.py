"""The commands that do more than commands.toml can say. What is slow to import is imported inside."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from il2m.errors import InputError, printable


def run(grid: str | None, workers: int | None, threads: int, scheduler: str, **asked: Any) -> int:
    from il2m.batch.run import run_study
    from il2m.batch.worker import Workers
    from il2m.notebook.catalogue import find_grid

    if not grid:
        print("il2m run GRID: name a grid file, or one of these", file=sys.stderr)
        grids()
        return 2
    folder, failed = run_study(find_grid(grid), workers=Workers(workers, threads, scheduler), **asked)
    if asked["dry_run"]:
        return 0
    from il2m.report.build import refresh_report

    try:
        print(f"report: {refresh_report(folder, asked['plugins'])}")
    except InputError as error:  # it does not undo what was done
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


def grids() -> None:
    from il2m.batch.grids import read_grid
    from il2m.notebook.catalogue import find_grids

    files = find_grids()
    for name, file in files.items():
        print(f"{name:{max(map(len, files))}}  {read_grid(file).description}")


def notebooks(folder: Path) -> None:
    from il2m.notebook.catalogue import copy_notebooks

    copies = copy_notebooks(folder)
    print(f"{len(copies)} notebooks: {folder}; data and runs will be kept in {folder.resolve().parent}")
    print(f"to open them, index.ipynb first: jupyter lab --notebook-dir {shlex.quote(str(folder))}")


def share(run: Path, twin: Path | None, out: Path) -> None:
    from il2m.batch.records import warn_of_plugins
    from il2m.explorer.share import share
    from il2m.study.find import open_run, twin_run
    from il2m.system.plugins import LOADED

    opened = open_run(run)
    warn_of_plugins(opened.folder.parent, LOADED, "the page")
    print(share([*filter(None, (opened, twin or twin_run(opened)))], out))


def verify(study: Path, repair: bool) -> int:
    from il2m.report import verify

    findings = verify.verify_study(study)
    for path, kind, why in findings:
        print(printable(f"{kind}: {path.relative_to(study)}: {why}"))
    if repair:
        verify.repair(findings)
    elif any(finding.kind != verify.UNKNOWN for finding in findings):
        print(printable(f"to repair: {verify.repair_command(study)}"))
    print(printable(verify.summary(study, findings)))
    return 1 if findings else 0


def reproduce(folder: Path, given: Sequence[str], **where: Any) -> int:
    from il2m.batch.grids import read_overrides
    from il2m.study.reproduce import DIFFERENT, reproduce

    reproduction = reproduce(folder, **where, **read_overrides(given))
    print(reproduction)
    return 1 if reproduction.verdict == DIFFERENT else 0


def lists(**options: Any) -> None:
    from il2m.data.lists import load_lists
    from il2m.exchange.prepare import make_lists

    folder = make_lists(**options)
    print(f"lists: {folder}\nto study them: -p dataset=lists:{folder} -p num_states={folder.name.removeprefix('S~')}")
    load_lists(folder, Path(options["relative_to"]))  # says what is odd, as images that are missing on disk


def rectify(score_kind: str, undefined: str, percent: Path | None, out: Path | None, **files: Any) -> None:
    from il2m.exchange.score_files import authors_files, rectify_files
    from il2m.system.files import write_atomically

    found = authors_files(**files)
    summary = rectify_files(found, score_kind=score_kind, undefined=undefined)
    print(summary)
    if percent:
        write_atomically(percent, json.dumps(summary.percent(), indent=1))
    if out:
        from il2m.exchange.importing import import_authors_files

        print(f"run: {import_authors_files(found, out).folder}")


def import_scores(out: Path, dry_run: bool, distillation: str | None, **given: Any) -> None:
    from il2m.exchange.importing import import_notes, import_scores

    given["distillation"] = {"on": True, "off": False}.get(distillation)
    with TemporaryDirectory() as nowhere:
        run = import_scores(out=Path(nowhere, "run") if dry_run else out, **given)
        for state in map(run.state, range(1, run.states.num_states + 1) if dry_run else ()):
            print(f"{state.path.name}:", *(f"{name} {state.array(name).shape}" for name in state.array_names))
        print("nothing was written" if dry_run else f"run: {run.folder}", *import_notes(run), sep="\n")


def predict(**asked: Any) -> None:
    from il2m.exchange.predicting import predict

    print(predict(**asked).to_csv(index=False), end="")
