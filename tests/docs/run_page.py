"""Runs a page's examples in their order, in the current folder: test_examples.py starts it, one process per page.

Python blocks are cells of one IPython shell, as in a notebook; shell blocks are bash scripts, which end at the first
command that fails. Of ``il2m run`` only the length of the training is another: one epoch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

SHELL = """
il2m() {
    if [ "$1" = run ]; then python -m il2m.cli "$@" $MORE_FOR_RUN; else python -m il2m.cli "$@"; fi
}
"""
MORE_FOR_RUN = {"": "-p base_epochs=1 -p epochs=1", "planned": "--dry-run"}


def main() -> None:
    """Standard input is a JSON list of blocks: ``where``, ``language``, ``text``, ``mark`` and ``about``."""
    shell = InteractiveShell.instance(colors="NoColor")
    for block in json.load(sys.stdin):
        print(f"--- {block['where']}", flush=True)
        if "file" in block["mark"]:
            with Path(block["about"]).open("a") as file:
                file.write(block["text"])
        if block["mark"] == "file":
            continue
        if block["language"] == "python":
            shell.run_cell(block["text"]).raise_error()
        else:
            environment = {**os.environ, "MORE_FOR_RUN": MORE_FOR_RUN[block["mark"]]}
            script = ["bash", "-e", "-x", "-c", SHELL + block["text"]]
            subprocess.run(script, check=True, env=environment, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
