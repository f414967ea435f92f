"""Commands on studies: run them, look at them, read them whole, make a run again."""

import argparse
import shlex
import sys
from pathlib import Path

from il2m.cli.command import COUNT, FOLDER, REPEATED, argument, command
from il2m.errors import InputError, count, printable
from il2m.parameters import parameters_table

_SET = "set a parameter, over the grid's (YAML: 3, 0.1, true, [0, 1, 2]); may be repeated"
_PLUGIN = "load this Python file or module first, here and in each job; may be repeated"
_PLUGINS = {"dest": "plugins", "metavar": "FILE_OR_MODULE", **REPEATED}
_STUDY = argument("study", "the study's folder, however far it is", **FOLDER)


@command(
    "run",
    "execute a study: a grid of parameters through the notebooks",
    argument("grid", "a grid file, or the name of one that il2m grids lists", nargs="?"),
    argument("--out", "the study's folder (default: runs/<grid>, in the checkout or here)", **FOLDER),
    argument("-p", _SET, dest="overrides", metavar="name=value", **REPEATED),
    argument("--only", "this combination of the grid; may be repeated", metavar="NAME", **REPEATED),
    argument("--dry-run", "print the plan, job by job, and do nothing", action="store_true"),
    argument("--workers", "jobs side by side (default: one per GPU, or else per CPU core)", **COUNT),
    argument("--threads", "CPU threads of a job (default: 1)", default=1, **COUNT),
    argument("--scheduler", "run on this dask scheduler's workers (tcp:// or tls://)", default="", metavar="ADDRESS"),
    argument("--plugin", _PLUGIN, **_PLUGINS),
)
def _run(args: argparse.Namespace) -> int:
    from il2m.batch.run import run_study
    from il2m.batch.worker import Workers
    from il2m.notebook.catalogue import find_grid

    if not args.grid:
        print("il2m run GRID: name a grid file, or one of these", file=sys.stderr)
        _grids(args)
        return 2
    workers = Workers(args.workers, args.threads, args.scheduler)
    given = {name: vars(args)[name] for name in ("only", "overrides", "plugins", "dry_run")}
    folder, failed = run_study(find_grid(args.grid), out_dir=args.out, workers=workers, command=args.words, **given)
    if args.dry_run:
        return 0
    from il2m.report.build import refresh_report

    try:
        print(f"report: {refresh_report(folder, args.plugins)}")
    except InputError as error:  # it does not undo what was done
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


@command("parameters", "every parameter: notebook, default, unit, range, whom it concerns, meaning (Markdown)")
def _parameters(args: argparse.Namespace) -> None:
    rows = list(parameters_table())
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |")


@command("grids", "list the grids that come with il2m, each a name for il2m run")
def _grids(_: argparse.Namespace) -> None:
    from il2m.batch.grids import read_grid
    from il2m.notebook.catalogue import find_grids

    grids = find_grids()
    for name, file in grids.items():
        print(f"{name:{max(map(len, grids))}}  {read_grid(file).description}")


@command(
    "notebooks",
    "copy the notebooks into a folder, to open them there",
    argument("folder", "where to; notebooks that were changed there are not overwritten", **FOLDER),
)
def _notebooks(args: argparse.Namespace) -> None:
    from il2m.notebook.catalogue import copy_notebooks

    copies = copy_notebooks(args.folder)
    print(f"{len(copies)} notebooks: {args.folder}; data and runs will be kept in {args.folder.resolve().parent}")
    print(f"to open them, index.ipynb first: jupyter lab --notebook-dir {shlex.quote(str(args.folder))}")


@command("status", "how a study stands: done, running, failed, missing, by stage", _STUDY)
def _status(args: argparse.Namespace) -> None:
    from il2m.batch.status import status_text

    print(printable(status_text(args.study)))


@command(
    "report",
    "make a study's report again: index.html and the pages it links to",
    _STUDY,
    argument("--plugin", "load this Python file or module, as its grid did; may be repeated", **_PLUGINS),
)
def _report(args: argparse.Namespace) -> None:
    from il2m.report.build import build_report

    print(build_report(args.study, args.plugins))


@command(
    "share",
    "write the explorer as one HTML file to send around, which needs no network and no Python",
    argument("run", "the run's folder, or a study's: then its newest run without distillation", type=Path),
    argument("twin", "another run to stand beside it (default: its twin in distillation)", nargs="?", type=Path),
    argument("--out", "(default: explorer.html); a page that this command made is replaced", default="explorer.html"),
)
def _share(args: argparse.Namespace) -> None:
    from il2m.explorer.share import share
    from il2m.study.find import open_run, twin_run

    run = open_run(args.run)
    twin = args.twin or twin_run(run)
    print(share([run, twin] if twin else [run], Path(args.out)))


@command(
    "verify",
    "read a whole study, and name what is damaged, exchanged, stale, orphaned or unknown; exit code 1 if anything is",
    _STUDY,
    argument("--repair", "set aside what is damaged or orphaned, so that it is made again", action="store_true"),
    argument("--adopt", "make states of before version 0.2 say whose they are, as they lie", action="store_true"),
)
def _verify(args: argparse.Namespace) -> int:
    from il2m.report import verify

    if args.adopt:
        print(f"{count(verify.adopt(args.study), 'state')} of before version 0.2 adopted, as they lie")
    findings = verify.verify_study(args.study)
    for path, kind, why in findings:
        print(f"{kind}: {path.relative_to(args.study)}: {why}")
    if args.repair:
        verify.repair(findings)
    elif findings:
        print(f"to repair: {verify.repair_command(args.study)}")
    print(verify.summary(args.study, findings))
    return 1 if findings else 0


@command(
    "reproduce",
    "make a run again elsewhere, from its configuration, and tell whether it comes out the same",
    argument("run", "the run's folder", type=Path),
    argument("--out", "a new folder (default: a temporary one)", **FOLDER),
    argument("--data-dir", "where the project's datasets are (default: data)", default="data", metavar="DIR"),
    argument("-p", "dataset, if its images are elsewhere now; device, num_threads", dest="given", **REPEATED),
    argument("--plugin", _PLUGIN, **_PLUGINS),
)
def _reproduce(args: argparse.Namespace) -> int:
    from il2m.batch.grids import read_overrides
    from il2m.study.reproduce import DIFFERENT, reproduce
    from il2m.system.plugins import load_plugin

    for plugin in args.plugins:
        load_plugin(plugin)
    reproduction = reproduce(args.run, args.out, args.data_dir, **read_overrides(args.given))
    print(reproduction)
    return 1 if reproduction.verdict == DIFFERENT else 0
