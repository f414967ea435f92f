"""Out to a paper: every figure and table that a run's or a study's notebooks show, as files."""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from IPython import get_ipython
from matplotlib.figure import Figure

from il2m import __version__
from il2m.batch.records import read_plans, warn_of_plugins
from il2m.errors import InputError
from il2m.notebook.catalogue import ABLATION, ANALYSIS, find_notebooks
from il2m.notebook.execute import execute_notebook
from il2m.report.build import REPORT
from il2m.report.tables import Link, Table, show
from il2m.rules import check_choice
from il2m.study.find import open_pair, open_run
from il2m.system.plugins import resolved

KINDS = {"figures": ("pdf", "svg", "eps", "png"), "tables": ("tex", "csv")}
SECTION = ""  # in a kernel: whose cell is executed


def export(source: str | Path, out: str | Path, *, plugins: Sequence[str] = (), **kinds: Sequence[str]) -> Path:
    """Write the figures of notebooks 03 and 04, and of 05 for a study, on white, and their tables: with booktabs, and
    unrounded as CSV; named by notebook and section. Beside them ``methods.bib`` and ``environment.lock``.
    source: a run's folder, or a study's: 03 and 04 are then of its newest run without distillation. kinds: ``figures``
    and ``tables``, of KINDS. Raises InputError, and writes nothing, if ``out`` holds files or a notebook fails."""
    for name, kind in ((name, kind) for name, chosen in kinds.items() for kind in chosen):
        check_choice(name, kind, KINDS[name])
    run, folder, out = open_run(Path(source).absolute()), Path(source).absolute(), Path(out).absolute()
    plugins = [*map(resolved, plugins)]
    warn_of_plugins(run.folder.parent, plugins, "what is exported")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise InputError(f"{out} holds something already: name a new folder.")
    planned = {job.name: job.parameters for plan in read_plans(run.folder.parent) for job in plan["jobs"]}
    of_run = {"out_dir": str(run.folder.parent), "run": run.name}
    asked = {name: planned.get(f"{name}-{run.name}", {}) | of_run for name in (ANALYSIS, ABLATION)}  # as the grid did
    asked |= {REPORT: {"out_dir": str(folder)}} if run.folder != folder else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        (made := Path(place, "made")).mkdir()
        for name, parameters in asked.items():
            pair = {} if name == REPORT else open_pair(**of_run, compare=parameters.get("compare", "auto"))
            names = " with ".join(each.name for each in pair.values()) or folder.name
            told = str(made), name[:2], f"il2m {__version__}, {names}"
            nbformat.write(_saving(name, {**kinds}, *told), notebook := Path(place, f"{name}.ipynb"))
            options = {"plugins": plugins, "environment": {"SOURCE_DATE_EPOCH": "0"}}  # no dates
            if failure := execute_notebook(notebook, Path(place, f"{name}.done.ipynb"), parameters, **options):
                raise InputError(f"{source} can't be exported: notebook {name}: {failure}")
        packages = sorted(f"{each.name}=={each.version}" for each in distributions())
        (made / "environment.lock").write_text("\n".join([f"# Python {sys.version}", *packages, ""]))
        shutil.copy(Path(__file__).with_name("methods.bib"), made)
        made.replace(out)
    return out


def _saving(name: str, *asked: object) -> nbformat.NotebookNode:
    """The notebook, saving what it shows by its headings; without cells of another purpose. asked: of save_shown."""
    notebook, section = nbformat.read(find_notebooks() / f"{name}.ipynb", as_version=4), ""
    notebook.cells = [cell for cell in notebook.cells if "not exported" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^#+ [\d.· ]*(.*)", cell.source, re.MULTILINE)][-1]
        elif "use_style()" in cell.source:
            cell.source += f"\nfrom il2m.report import paper\npaper.save_shown{asked!r}"
        elif "parameters" not in cell.metadata.get("tags", []):
            cell.source = f"paper.SECTION = {section!r}\n{cell.source}"
    return notebook


def save_shown(kinds: dict[str, Sequence[str]], folder: str, number: str, source: str) -> None:
    """In a kernel: from now on write every figure and table that is shown into ``folder``, too, links aside. number: of
    the notebook, begins their names. source: said below tables."""
    formatters, shown = get_ipython().display_formatter.formatters, Counter()

    def place() -> str:
        name = re.sub(r"\W+", "-", f"{number} {SECTION.casefold()}").strip("-")
        shown[name] += 1
        return f"{folder}/{name}" + f"-{shown[name]}" * (shown[name] > 1)

    def save_figure(figure: Figure) -> None:
        path = place()
        for kind in kinds.get("figures", ("pdf", "svg")):
            figure.savefig(f"{path}.{kind}", bbox_inches="tight", facecolor="white", dpi=300)

    def save_table(table: Table) -> None:
        path, links = place(), table.table.map(lambda value: isinstance(value, Link | list)).any()
        table = show(table.table.loc[:, ~links], caption=table.given["caption"])
        texts = {"tex": table.latex(SECTION, source), "csv": table.table.to_csv(index=False)}
        for kind in kinds.get("tables", texts):
            Path(f"{path}.{kind}").write_text(texts[kind])

    formatters["image/svg+xml"].for_type(Figure, save_figure)
    formatters["text/html"].for_type(Table, save_table)
