"""Commands on what comes in and goes out: image lists, images, scores."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from il2m.cli.command import command
from il2m.errors import name_first, printable


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
