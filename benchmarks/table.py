"""Run the quick benchmarks, and write what they found into docs/speed.md, with the machine, versions and date.

    python benchmarks/table.py [training_loop] [authors_files] [explorer] [image_files] [many_classes]

Without names all are run. Rows of those that are not run stay as they are.
"""

import datetime
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from explorer import large_run

from il2m.system.machine import cpu_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"
PRINT_A_TABLE = ("image_files", "many_classes")
QUICK = ("training_loop", "authors_files", "explorer", *PRINT_A_TABLE)


def table_of(script: str) -> str:
    """What a script found, as a Markdown table: it prints one, or with --json its rows in its last line."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["large", str(large_run(Path(folder)))] if script == "explorer" else []
        options += [] if script in PRINT_A_TABLE else ["--json"]
        command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    if script in PRINT_A_TABLE:
        return "\n".join(line for line in lines if line.startswith("|"))
    rows = [f"| {what} | {found} |" for what, found in json.loads(lines[-1]).items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def block(script: str) -> str:
    made = f"{cpu_model()}; Python {sys.version.split()[0]}, PyTorch {version('torch')}, NumPy {version('numpy')}"
    return f"`benchmarks/{script}.py`, {datetime.date.today()}, on {made}:\n\n{table_of(script)}"


def main() -> None:
    for script in sys.argv[1:] or QUICK:
        begin, end = f"<!-- {script}: begin -->", f"<!-- {script}: end -->"
        new = f"{begin}\n{block(script)}\n{end}"
        before, found, rest = PAGE.read_text().partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            sys.exit(f"{PAGE} has no place for {script}: expected the lines {begin} and {end}.")
        PAGE.write_text(before + new + after)
        print(new)


if __name__ == "__main__":
    main()
