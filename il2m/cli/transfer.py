"""Commands on what comes in and goes out: image lists, images, scores."""

import argparse
import json
import sys
from pathlib import Path

from il2m.cli.command import FOLDER, argument, at_least, command, whole_numbers
from il2m.errors import name_first, printable
from il2m.parameters import SCORE_KINDS, UNDEFINED_POLICIES


@command(
    "lists",
    "write image lists in the authors' layout",
    argument("source", "a folder of images, or two lists: training, validation", nargs="+"),
    argument("--out", "the folder of all lists", required=True, **FOLDER),
    argument("--name", "the dataset's name there", required=True),
    argument("-S --states", "number of states (default: 10)", type=at_least(1), default=10, metavar="S"),
    argument("--state-sizes", "classes of each state", type=whole_numbers, default=(), metavar="N,N,..."),
    argument("-K --memory-size", "exemplars in all", type=at_least(0), nargs="+", required=True, metavar="K"),
    argument("--rounding", "of K / past classes (default: ceil)", choices=("ceil", "floor"), default="ceil"),
    argument("--order-seed", "of the class order (default: 0)", type=at_least(0), default=0, metavar="N"),
    argument("--class-order", "the class order itself", type=whole_numbers, default=(), metavar="C,C,..."),
    argument("--exemplar-seed", "of random exemplars (default: 0)", type=at_least(0), default=0, metavar="N"),
    argument("--root", "where relative paths of plain lists start", default="", metavar="DIR"),
    argument("--relative-to", "write paths relative to it, not absolute ones", default="", metavar="DIR"),
)
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


@command(
    "check",
    "decode every image once, and name those that can't be read",
    argument("images", "a list, folder:PATH, or lists:PATH for a layout of lists"),
    argument("--root", "where relative paths start (default: here)", default="", metavar="DIR"),
    argument("--workers", "processes that decode (default: 2; 0: this one)", type=at_least(0), default=2, metavar="N"),
)
def _check(args: argparse.Namespace) -> None:
    from il2m.exchange.prepare import check_images

    print(check_images(args.images, root=args.root, num_workers=args.workers))


@command(
    "rectify",
    "what the authors' il2m.py does: score files in, accuracies out",
    argument("lists", "folder of all image lists", type=Path),
    argument("scores", "folder of all scores", type=Path),
    argument("first_batch_scores", "folder of the first state's scores", type=Path),
    argument("dataset", "the dataset's name in these folders"),
    argument("S", "number of states, the first one included", type=at_least(1)),
    argument("P", "classes per state; or of each state, for example 50,10,10", type=whole_numbers),
    argument("K", "size of the memory", type=at_least(1)),
    argument("--undefined", "where a mean is not positive", choices=UNDEFINED_POLICIES, default="keep"),
    argument("--score-kind", "(default: raw, as the paper)", choices=SCORE_KINDS, default="raw"),
    argument("--json", "also write the accuracies, in percent, unrounded", type=Path, metavar="FILE"),
    argument("--out", "also make a run folder, for notebooks 03 and 04", type=Path, metavar="RUN"),
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


@command(
    "export-scores",
    "write a run's lists and scores in the authors' layout",
    argument("run", "the run's folder", type=Path),
    argument("dir", "where to", type=Path),
    argument("--name", "the dataset's name there (default: the run's)", default=""),
)
def _export_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.exporting import export_scores
    from il2m.study.runs import Run

    files = export_scores(Run(args.run), args.dir, name=args.name)
    print(f"arguments for il2m rectify, and for the authors' il2m.py:\n{files}")


@command(
    "import-scores",
    "make a run folder of any method's scores, .npz files",
    argument("files", "one .npz per state; the README says what it holds", nargs="+", type=Path),
    argument("--out", "the run folder to make", type=Path, required=True, metavar="RUN"),
    *(argument(f"--{what}", "that the scores are of", metavar="NAME") for what in ("method", "dataset")),
    argument("--class-names", "one per line, in learning order", type=Path, metavar="FILE"),
    argument("--class-order", "the data set's ids of the classes", type=whole_numbers, metavar="C,C,..."),
    *(argument(f"--{what}", "of the run", type=at_least(0)) for what in ("order-seed", "train-seed", "memory-size")),
    argument("--distillation", "whether the training distilled", choices=("on", "off")),
)
def _import_scores(args: argparse.Namespace) -> None:
    from il2m.exchange.importing import About, import_notes, import_scores

    about = vars(args) | {"distillation": {"on": True, "off": False}.get(args.distillation)}
    run = import_scores(args.files, args.out, **{name: about[name] for name in About.__annotations__})
    print(f"run: {run.folder}", *import_notes(run), sep="\n")
