"""All commands: on studies, and on what comes in and goes out. What is slow to import is imported inside."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from il2m.cli.command import command
from il2m.errors import InputError, count, name_first, printable
from il2m.parameters import parameters_table


@command
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


@command
def _parameters(args: argparse.Namespace) -> None:
    rows = list(parameters_table())
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |")


@command
def _grids(_: argparse.Namespace) -> None:
    from il2m.batch.grids import read_grid
    from il2m.notebook.catalogue import find_grids

    grids = find_grids()
    for name, file in grids.items():
        print(f"{name:{max(map(len, grids))}}  {read_grid(file).description}")


@command
def _notebooks(args: argparse.Namespace) -> None:
    from il2m.notebook.catalogue import copy_notebooks

    copies = copy_notebooks(args.folder)
    print(f"{len(copies)} notebooks: {args.folder}; data and runs will be kept in {args.folder.resolve().parent}")
    print(f"to open them, index.ipynb first: jupyter lab --notebook-dir {shlex.quote(str(args.folder))}")


@command
def _status(args: argparse.Namespace) -> None:
    from il2m.batch.status import status_text

    print(printable(status_text(args.study)))


@command
def _report(args: argparse.Namespace) -> None:
    from il2m.report.build import build_report

    print(build_report(args.study, args.plugins))


@command
def _share(args: argparse.Namespace) -> None:
    from il2m.explorer.share import share
    from il2m.study.find import open_run, twin_run

    run = open_run(args.run)
    twin = args.twin or twin_run(run)
    print(share([run, twin] if twin else [run], Path(args.out)))


@command
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


@command
def _reproduce(args: argparse.Namespace) -> int:
    from il2m.batch.grids import read_overrides
    from il2m.study.reproduce import DIFFERENT, reproduce
    from il2m.system.plugins import load_plugin

    for plugin in args.plugins:
        load_plugin(plugin)
    reproduction = reproduce(args.run, args.out, args.data_dir, **read_overrides(args.given))
    print(reproduction)
    return 1 if reproduction.verdict == DIFFERENT else 0


@command
def _lists(args: argparse.Namespace) -> int:
    from il2m.data.image_files import find_missing
    from il2m.data.lists import listed_images
    from il2m.exchange.prepare import make_lists

    given = ("name", "state_sizes", "order_seed", "class_order", "exemplar_seed", "root", "relative_to")
    options = {"memory_sizes": args.memory_size, "num_states": args.states, "memory_rounding": args.rounding}
    folder = make_lists(args.source, args.out, **options, **{name: vars(args)[name] for name in given})
    num_states = len(args.state_sizes) or args.states
    print(f"lists: {folder}\nto study them: -p dataset=lists:{folder} -p num_states={num_states}")
    if missing := find_missing(listed_images(folder, args.relative_to)):
        print(printable(name_first("images of these lists are missing on disk", missing)), file=sys.stderr)
    return int(bool(missing))


@command
def _check(args: argparse.Namespace) -> None:
    from il2m.exchange.prepare import check_images

    print(check_images(args.images, root=args.root, num_workers=args.workers))


@command
def _rectify(args: argparse.Namespace) -> None:
    from il2m.exchange.score_files import authors_files, rectify_files
    from il2m.system.files import write_atomically

    files = authors_files(args.lists, args.scores, args.first_batch_scores, args.dataset, args.S, args.P, args.K)
    summary = rectify_files(files, score_kind=args.score_kind, undefined=args.undefined)
    print(summary)
    if args.json:
        write_atomically(args.json, json.dumps(summary.percent(), indent=1))
    if args.out:
        from il2m.exchange.importing import import_authors_files

        print(f"run: {import_authors_files(files, args.out).folder}")


@command
def _export_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.exporting import export_scores
    from il2m.study.runs import Run

    files = export_scores(Run(args.run), args.dir, name=args.name)
    print(f"arguments for il2m rectify, and for the authors' il2m.py:\n{files}")


@command
def _import_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.importing import About, import_notes, import_scores

    about = vars(args) | {"distillation": {"on": True, "off": False}.get(args.distillation)}
    told = {name: about[name] for name in About.__annotations__}
    with TemporaryDirectory() as nowhere:
        run = import_scores(args.files, Path(nowhere, "run") if args.dry_run else args.out, args.state_sizes, **told)
        for state in map(run.state, range(1, run.states.num_states + 1) if args.dry_run else ()):
            print(f"{state.path.name}:", *(f"{name} {state.array(name).shape}" for name in state.array_names))
        print("nothing was written" if args.dry_run else f"run: {run.folder}", *import_notes(run), sep="\n")
