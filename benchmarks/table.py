"""Run the quick benchmarks, and write what they found into docs/speed.md, with the machine, versions and date.

    python benchmarks/table.py [training_loop] [authors_files] [explorer]

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
QUICK = ("training_loop", "authors_files", "explorer")


def rows_of(script: str) -> dict[str, str]:
    """What a script found: it prints one JSON object in its last line."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["large", str(large_run(Path(folder)))] if script == "explorer" else []
        command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options, "--json"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def block(script: str, rows: dict[str, str]) -> str:
    made = f"{cpu_model()}; Python {sys.version.split()[0]}, PyTorch {version('torch')}, NumPy {version('numpy')}"
    head = f"`benchmarks/{script}.py`, {datetime.date.today()}, on {made}:\n\n| | |\n| --- | --- |"
    return "\n".join([head, *(f"| {what} | {value} |" for what, value in rows.items())])


def main() -> None:
    for script in sys.argv[1:] or QUICK:
        begin, end = f"<!-- {script}: begin -->", f"<!-- {script}: end -->"
        new = f"{begin}\n{block(script, rows_of(script))}\n{end}"
        before, found, rest = PAGE.read_text().partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            sys.exit(f"{PAGE} has no place for {script}: expected the lines {begin} and {end}.")
        PAGE.write_text(before + new + after)
        print(new)


if __name__ == "__main__":
    main()
