"""``il2m ...``: arguments in, one library call, readable errors out.

commands.toml says what each command is for, and its arguments.
"""

import os
import sys
import warnings
from collections.abc import Sequence

from il2m.cli.command import COMMANDS, PARSER
from il2m.errors import InputError, nearest, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a job failed, 2 the input can't be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS.choices:
        PARSER.error(f"no command {arguments[0]!r}: {nearest(arguments[0], COMMANDS.choices)}")
    COMMANDS.choices["run"].set_defaults(command=["il2m", *arguments])  # kept with the plan
    given = vars(PARSER.parse_args(arguments))
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(message)}\n"
    try:
        return given.pop("function")(**given) or 0
    except InputError as error:
        print(f"il2m: {printable(error)}", file=sys.stderr)
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
