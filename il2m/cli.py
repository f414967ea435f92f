"""``il2m ...``: arguments in, one library call, readable errors out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from il2m.errors import InputError
from il2m.parameters import SCORE_KINDS, UNDEFINED_POLICIES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a job failed, 2 the input can't be used."""
    args = _parser().parse_args(arguments)
    args.words = ["il2m", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        return args.command(args)
    except InputError as error:
        print(f"il2m: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a path that can't be written, or a full disk
        where = error.filename2 or error.filename
        print(f"il2m: {f'{where}: ' if where else ''}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("il2m: stopped; what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a study: a grid of parameters through the notebooks")
    run.add_argument("grid", type=Path, help="a grid file, for example notebooks/grids/quickstart.yaml")
    run.add_argument("--out", type=Path, metavar="DIR", help="the study's folder (default: the checkout's runs/<grid>)")
    run.add_argument(
        "-p",
        dest="overrides",
        action="append",
        default=[],
        metavar="name=value",
        help="set a parameter, over the grid's (YAML: 3, 0.1, true, [0, 1, 2]); may be repeated",
    )
    run.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this of the grid's combinations; may be repeated"
    )
    run.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="load this Python file (.py) or module first, here and in each job; may be repeated",
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan, job by job, and do nothing")
    run.add_argument(
        "--workers",
        type=_at_least(1),
        metavar="N",
        help="jobs side by side (default: one per GPU, or else per CPU core)",
    )
    run.add_argument("--threads", type=_at_least(1), default=1, metavar="N", help="CPU threads of a job (default: 1)")
    run.add_argument(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="run on the workers of this dask scheduler (tcp:// or tls://)",
    )
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="how a study stands: done, running, failed, missing, by stage")
    status.add_argument("study", type=Path, metavar="DIR", help="the study's folder")
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="make a study's report again: index.html and the pages it links to")
    report.add_argument("study", type=Path, metavar="DIR", help="the study's folder, however far it is")
    report.set_defaults(command=_report)

    lists = commands.add_parser("lists", help="write image lists in the authors' layout")
    lists.add_argument(
        "source", nargs="+", help="a folder of images, a dataset of the project, or two lists: training and validation"
    )
    lists.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of all lists")
    lists.add_argument("--name", required=True, help="the dataset's name there")
    lists.add_argument(
        "-S", "--states", type=_at_least(1), default=10, metavar="S", help="number of states (default: 10)"
    )
    lists.add_argument(
        "--state-sizes", type=_whole_numbers, default=(), metavar="N,N,...", help="classes of each state"
    )
    lists.add_argument("-K", "--memory-size", type=int, nargs="+", required=True, metavar="K", help="exemplars in all")
    lists.add_argument("--order-seed", type=int, default=0, metavar="N", help="of the class order (default: 0)")
    lists.add_argument(
        "--class-order", type=_whole_numbers, default=(), metavar="C,C,...", help="the class order itself"
    )
    lists.add_argument(
        "--exemplars", choices=("random", "first"), default="random", help="which ones (default: random)"
    )
    lists.add_argument("--exemplar-seed", type=int, default=0, metavar="N", help="of random exemplars (default: 0)")
    lists.add_argument("--root", default="", metavar="DIR", help="where relative paths of plain lists start")
    lists.add_argument("--relative-to", default="", metavar="DIR", help="write paths relative to it, not absolute ones")
    lists.add_argument(
        "--data-dir", default="data", metavar="DIR", help="where the project's datasets are (default: data)"
    )
    lists.set_defaults(command=_lists)

    mean_std = commands.add_parser("mean-std", help="mean and standard deviation of a list's images, for normalisation")
    mean_std.add_argument("list", type=Path, help="the first state's training images: batch1/train.lst")
    mean_std.add_argument("--name", required=True, help="the name they get in the file")
    mean_std.add_argument(
        "--file", type=Path, default=Path("data/datasets_mean_std.txt"), help="(default: %(default)s)"
    )
    _add_images(mean_std)
    mean_std.set_defaults(command=_mean_std)

    check = commands.add_parser("check", help="decode every image once, and name those that can't be read")
    check.add_argument("images", help="a list, folder:PATH, or lists:PATH for a layout of lists")
    _add_images(check)
    check.set_defaults(command=_check)

    rectify = commands.add_parser("rectify", help="what the authors' il2m.py does: score files in, accuracies out")
    _add_authors_files(rectify)
    rectify.add_argument("--undefined", choices=UNDEFINED_POLICIES, default="keep", help="where a mean is not positive")
    rectify.add_argument("--score-kind", choices=SCORE_KINDS, default="raw", help="(default: raw, as the paper)")
    rectify.add_argument("--json", type=Path, metavar="FILE", help="also write the accuracies, in percent, unrounded")
    rectify.add_argument("--out", type=Path, metavar="RUN", help="also make a run folder, for notebooks 03 and 04")
    rectify.set_defaults(command=_rectify)

    export = commands.add_parser("export-scores", help="write a run's lists and scores in the authors' layout")
    export.add_argument("run", type=Path, help="the run's folder")
    export.add_argument("dir", type=Path, help="where to")
    export.set_defaults(command=_export_scores)

    imports = commands.add_parser("import-scores", help="make a run folder of any method's scores, .npz files")
    imports.add_argument("files", nargs="+", type=Path, help="one .npz per state; the README says what it holds")
    imports.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to make")
    imports.set_defaults(command=_import_scores)
    return parser


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--root", default="", metavar="DIR", help="where relative paths start (default: here)")
    command.add_argument(
        "--workers", type=_at_least(0), default=2, metavar="N", help="processes that decode (default: 2; 0: this one)"
    )


def _add_authors_files(command: argparse.ArgumentParser) -> None:
    command.add_argument("lists", type=Path, help="folder of all image lists")
    command.add_argument("scores", type=Path, help="folder of all scores")
    command.add_argument("first_batch_scores", type=Path, help="folder of the first state's scores")
    command.add_argument("dataset", help="the dataset's name in these folders")
    command.add_argument("S", type=_at_least(1), help="number of states, the first one included")
    command.add_argument("P", type=_whole_numbers, help="classes per state; or of each state, for example 50,10,10")
    command.add_argument("K", type=_at_least(1), help="size of the memory")


def _at_least(low: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {low}")
        return int(text)

    return convert


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers, separated by commas") from None


def _run(args: argparse.Namespace) -> int:
    from il2m.batch.dispatch import Workers
    from il2m.batch.run import run_study  # imports dask: not for `il2m --help`

    workers = Workers(args.workers, args.threads, args.scheduler)
    options = {"only": args.only, "overrides": args.overrides, "dry_run": args.dry_run, "command": args.words}
    options["plugins"] = args.plugins
    study = run_study(args.grid, out_dir=args.out, workers=workers, **options)
    if args.dry_run:
        return 0
    from il2m.report.build import refresh_report

    try:
        print(f"report: {refresh_report(study.folder, anew=study.is_new)}")
    except InputError as error:  # it does not undo what was done
        print(error, file=sys.stderr)
        return 1
    return 1 if study.failed else 0


def _status(args: argparse.Namespace) -> int:
    from il2m.batch.status import status_text

    print(status_text(args.study))
    return 0


def _report(args: argparse.Namespace) -> int:
    from il2m.report.build import build_report

    print(build_report(args.study))
    return 0


def _lists(args: argparse.Namespace) -> int:
    from il2m.exchange.prepare import make_lists

    folder = make_lists(
        args.source,
        args.out,
        name=args.name,
        memory_sizes=args.memory_size,
        num_states=args.states,
        state_sizes=args.state_sizes,
        order_seed=args.order_seed,
        class_order=args.class_order,
        exemplar_selection=args.exemplars,
        exemplar_seed=args.exemplar_seed,
        root=args.root,
        relative_to=args.relative_to,
        data_dir=args.data_dir,
    )
    num_states = len(args.state_sizes) or args.states
    print(f"lists: {folder}\nto study them: -p dataset=lists:{folder} -p num_states={num_states}")
    return 0


def _mean_std(args: argparse.Namespace) -> int:
    from il2m.exchange.prepare import add_mean_std

    found = add_mean_std(args.list, args.name, args.file, root=args.root, num_workers=args.workers)
    print(
        f"{args.name}: mean {[round(v, 4) for v in found.mean]}, std {[round(v, 4) for v in found.std]} -> {args.file}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    from il2m.exchange.prepare import check_images

    print(check_images(args.images, root=args.root, num_workers=args.workers))
    return 0


def _rectify(args: argparse.Namespace) -> int:
    from il2m.exchange.score_files import authors_files, rectify_files
    from il2m.system.files import replacing

    files = authors_files(args.lists, args.scores, args.first_batch_scores, args.dataset, args.S, args.P, args.K)
    summary = rectify_files(files, score_kind=args.score_kind, undefined=args.undefined)
    print(summary)
    if args.json:
        with replacing(args.json, "w") as file:
            json.dump(summary.percent(), file, indent=1)
    if args.out:
        from il2m.exchange.importing import import_authors_files  # imports torch: not for the accuracies alone

        print(f"run: {import_authors_files(files, args.out).folder}")
    return 0


def _export_scores(args: argparse.Namespace) -> int:
    from il2m.exchange.exporting import export_scores
    from il2m.study.runs import Run

    print(f"arguments for il2m rectify, and for the authors' il2m.py:\n{export_scores(Run(args.run), args.dir)}")
    return 0


def _import_scores(args: argparse.Namespace) -> int:
    from il2m.exchange.importing import import_scores

    run = import_scores(args.files, args.out)
    print("\n".join([f"run: {run.folder}", *run.config["missing"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
