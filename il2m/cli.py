"""``il2m ...``: arguments in, one library call, readable errors out.

Each command is a function under the table of its arguments. What is slow to import is imported inside.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from il2m import __version__
from il2m.errors import InputError
from il2m.parameters import SCORE_KINDS, UNDEFINED_POLICIES, parameters_table
from il2m.rules import at_least, whole_numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a job failed, 2 the input can't be used."""
    args = _PARSER.parse_args(arguments)
    args.words = ["il2m", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        return args.command(args) or 0
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


_PARSER = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
_PARSER.add_argument("--version", action="version", version=f"il2m {__version__}")
_COMMANDS = _PARSER.add_subparsers(required=True, metavar="COMMAND")
_Function = Callable[[argparse.Namespace], int | None]  # returns the exit code, None for 0


def _command(name: str, meaning: str, *arguments: tuple[list[str], dict[str, Any]]) -> Callable[[_Function], _Function]:
    """Make the function below it a command with these arguments."""

    def add(function: _Function) -> _Function:
        parser = _COMMANDS.add_parser(name, help=meaning, description=meaning)
        for names, options in arguments:
            parser.add_argument(*names, **options)
        parser.set_defaults(command=function)
        return function

    return add


def _argument(names: str, meaning: str, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """An argument of a command; options: of argparse's add_argument."""
    return names.split(), {"help": meaning, **options}


_COUNT = {"type": at_least(1), "metavar": "N"}
_REPEATED = {"action": "append", "default": []}
_FOLDER = {"type": Path, "metavar": "DIR"}


# studies

_SET = "set a parameter, over the grid's (YAML: 3, 0.1, true, [0, 1, 2]); may be repeated"
_PLUGIN = "load this Python file or module first, here and in each job; may be repeated"
_STUDY = _argument("study", "the study's folder, however far it is", **_FOLDER)


@_command(
    "run",
    "execute a study: a grid of parameters through the notebooks",
    _argument("grid", "a grid file, or the name of one that il2m grids lists"),
    _argument("--out", "the study's folder (default: runs/<grid>, in the checkout or here)", **_FOLDER),
    _argument("-p", _SET, dest="overrides", metavar="name=value", **_REPEATED),
    _argument("--only", "this combination of the grid; may be repeated", metavar="NAME", **_REPEATED),
    _argument("--dry-run", "print the plan, job by job, and do nothing", action="store_true"),
    _argument("--workers", "jobs side by side (default: one per GPU, or else per CPU core)", **_COUNT),
    _argument("--threads", "CPU threads of a job (default: 1)", default=1, **_COUNT),
    _argument("--scheduler", "run on this dask scheduler's workers (tcp:// or tls://)", default="", metavar="ADDRESS"),
    _argument("--plugin", _PLUGIN, dest="plugins", metavar="FILE_OR_MODULE", **_REPEATED),
)
def _run(args: argparse.Namespace) -> int:
    from il2m.batch.dispatch import Workers
    from il2m.batch.run import run_study
    from il2m.notebook.catalogue import find_grid

    workers = Workers(args.workers, args.threads, args.scheduler)
    given = {name: vars(args)[name] for name in ("only", "overrides", "plugins", "dry_run")}
    study = run_study(find_grid(args.grid), out_dir=args.out, workers=workers, command=args.words, **given)
    if args.dry_run:
        return 0
    from il2m.report.build import refresh_report

    try:
        print(f"report: {refresh_report(study.folder, anew=study.is_new)}")
    except InputError as error:  # it does not undo what was done
        print(error, file=sys.stderr)
        return 1
    return 1 if study.failed else 0


@_command("parameters", "every parameter: notebook, default, unit, range, whom it concerns, meaning (Markdown)")
def _parameters(args: argparse.Namespace) -> None:
    rows = list(parameters_table())
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |")


@_command("grids", "list the grids that come with il2m, each a name for il2m run")
def _grids(_: argparse.Namespace) -> None:
    from il2m.batch.grids import read_grid
    from il2m.notebook.catalogue import find_grids

    grids = find_grids()
    for name, file in grids.items():
        print(f"{name:{max(map(len, grids))}}  {read_grid(file).description}")


@_command(
    "notebooks",
    "copy the notebooks into a folder, to open them there",
    _argument("folder", "where to; notebooks that were changed there are not overwritten", **_FOLDER),
)
def _notebooks(args: argparse.Namespace) -> None:
    from il2m.notebook.catalogue import copy_notebooks

    copies = copy_notebooks(args.folder)
    print(f"{len(copies)} notebooks: {args.folder}; data and runs will be kept in {args.folder.resolve().parent}")
    print(f"to open them, {copies[0].name} first: jupyter lab --notebook-dir {shlex.quote(str(args.folder))}")


@_command("status", "how a study stands: done, running, failed, missing, by stage", _STUDY)
def _status(args: argparse.Namespace) -> None:
    from il2m.batch.status import status_text

    print(status_text(args.study))


@_command("report", "make a study's report again: index.html and the pages it links to", _STUDY)
def _report(args: argparse.Namespace) -> None:
    from il2m.report.build import build_report

    print(build_report(args.study))


@_command(
    "reproduce",
    "make a run again elsewhere, from its configuration, and tell whether it comes out the same",
    _argument("run", "the run's folder", type=Path),
    _argument("--out", "a new folder (default: a temporary one)", **_FOLDER),
    _argument("--data-dir", "where the project's datasets are (default: data)", default="data", metavar="DIR"),
    _argument("-p", "dataset, if its images are elsewhere now; device, num_threads", dest="given", **_REPEATED),
    _argument("--plugin", _PLUGIN, dest="plugins", metavar="FILE_OR_MODULE", **_REPEATED),
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


# lists and images

_ROOT = _argument("--root", "where relative paths start (default: here)", default="", metavar="DIR")
_DECODERS = "processes that decode (default: 2; 0: this one)"
_IMAGES = (_ROOT, _argument("--workers", _DECODERS, type=at_least(0), default=2, metavar="N"))


@_command(
    "lists",
    "write image lists in the authors' layout",
    _argument("source", "a folder of images, a dataset of the project, or two lists: training, validation", nargs="+"),
    _argument("--out", "the folder of all lists", required=True, **_FOLDER),
    _argument("--name", "the dataset's name there", required=True),
    _argument("-S --states", "number of states (default: 10)", type=at_least(1), default=10, metavar="S"),
    _argument("--state-sizes", "classes of each state", type=whole_numbers, default=(), metavar="N,N,..."),
    _argument("-K --memory-size", "exemplars in all", type=int, nargs="+", required=True, metavar="K"),
    _argument("--order-seed", "of the class order (default: 0)", type=int, default=0, metavar="N"),
    _argument("--class-order", "the class order itself", type=whole_numbers, default=(), metavar="C,C,..."),
    _argument("--exemplars", "which ones (default: random)", choices=("random", "first"), default="random"),
    _argument("--exemplar-seed", "of random exemplars (default: 0)", type=int, default=0, metavar="N"),
    _argument("--root", "where relative paths of plain lists start", default="", metavar="DIR"),
    _argument("--relative-to", "write paths relative to it, not absolute ones", default="", metavar="DIR"),
    _argument("--data-dir", "where the project's datasets are (default: data)", default="data", metavar="DIR"),
)
def _lists(args: argparse.Namespace) -> None:
    from il2m.exchange.prepare import make_lists

    given = ("name", "state_sizes", "order_seed", "class_order", "exemplar_seed", "root", "relative_to", "data_dir")
    options = {"memory_sizes": args.memory_size, "num_states": args.states, "exemplar_selection": args.exemplars}
    folder = make_lists(args.source, args.out, **options, **{name: vars(args)[name] for name in given})
    num_states = len(args.state_sizes) or args.states
    print(f"lists: {folder}\nto study them: -p dataset=lists:{folder} -p num_states={num_states}")


@_command(
    "mean-std",
    "mean and standard deviation of a list's images, for normalisation",
    _argument("list", "the first state's training images: batch1/train.lst", type=Path),
    _argument("--name", "the name they get in the file", required=True),
    _argument("--file", "(default: %(default)s)", type=Path, default=Path("data/datasets_mean_std.txt")),
    *_IMAGES,
)
def _mean_std(args: argparse.Namespace) -> None:
    from il2m.exchange.prepare import add_mean_std

    given = add_mean_std(args.list, args.name, args.file, root=args.root, num_workers=args.workers)
    mean, std = ([round(value, 4) for value in values] for values in (given.mean, given.std))
    print(f"{args.name}: mean {mean}, std {std} -> {args.file}")


@_command(
    "check",
    "decode every image once, and name those that can't be read",
    _argument("images", "a list, folder:PATH, or lists:PATH for a layout of lists"),
    *_IMAGES,
)
def _check(args: argparse.Namespace) -> None:
    from il2m.exchange.prepare import check_images

    print(check_images(args.images, root=args.root, num_workers=args.workers))


# scores


@_command(
    "rectify",
    "what the authors' il2m.py does: score files in, accuracies out",
    _argument("lists", "folder of all image lists", type=Path),
    _argument("scores", "folder of all scores", type=Path),
    _argument("first_batch_scores", "folder of the first state's scores", type=Path),
    _argument("dataset", "the dataset's name in these folders"),
    _argument("S", "number of states, the first one included", type=at_least(1)),
    _argument("P", "classes per state; or of each state, for example 50,10,10", type=whole_numbers),
    _argument("K", "size of the memory", type=at_least(1)),
    _argument("--undefined", "where a mean is not positive", choices=UNDEFINED_POLICIES, default="keep"),
    _argument("--score-kind", "(default: raw, as the paper)", choices=SCORE_KINDS, default="raw"),
    _argument("--json", "also write the accuracies, in percent, unrounded", type=Path, metavar="FILE"),
    _argument("--out", "also make a run folder, for notebooks 03 and 04", type=Path, metavar="RUN"),
)
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


@_command(
    "export-scores",
    "write a run's lists and scores in the authors' layout",
    _argument("run", "the run's folder", type=Path),
    _argument("dir", "where to", type=Path),
)
def _export_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.exporting import export_scores
    from il2m.study.runs import Run

    print(f"arguments for il2m rectify, and for the authors' il2m.py:\n{export_scores(Run(args.run), args.dir)}")


@_command(
    "import-scores",
    "make a run folder of any method's scores, .npz files",
    _argument("files", "one .npz per state; the README says what it holds", nargs="+", type=Path),
    _argument("--out", "the run folder to make", type=Path, required=True, metavar="RUN"),
)
def _import_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.importing import import_scores

    run = import_scores(args.files, args.out)
    print("\n".join([f"run: {run.folder}", *run.config["missing"]]))


if __name__ == "__main__":
    sys.exit(main())
