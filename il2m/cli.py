"""``il2m ...``: arguments in, one library call, readable errors out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from il2m.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a job failed, 2 the input can't be used."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except InputError as error:
        print(f"il2m: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "il2m: stopped; what is finished is kept, and the same command goes on from there.",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="il2m", description="A study of class-incremental learning with dual memory.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a study: a grid of parameters through the notebooks")
    run.add_argument("grid", type=Path, help="a grid file, for example notebooks/grids/quickstart.yaml")
    run.add_argument("--out", type=Path, metavar="DIR", help="the study's folder (default: runs/<name of the grid>)")
    run.add_argument(
        "-p",
        dest="overrides",
        action="append",
        default=[],
        metavar="name=value",
        help="set a parameter, over the grid's (YAML: 3, 0.1, true, [0, 1, 2]); may be repeated",
    )
    run.add_argument("--workers", type=int, metavar="N", help="jobs side by side (default: one per CPU core)")
    run.set_defaults(command=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from il2m.batch import run_study  # imports torch and dask: not for `il2m --help`

    return run_study(args.grid, out_dir=args.out, overrides=args.overrides, workers=args.workers)


if __name__ == "__main__":
    sys.exit(main())
