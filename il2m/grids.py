"""A grid of parameters -> the jobs of a study, checked before the first one starts.

A grid file is YAML with ``description`` and ``parameters``. A parameter's value goes to every notebook whose parameters
cell names it; a list of values is swept (for a parameter that is itself a list, a list of lists).
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import yaml
from papermill.inspection import inspect_notebook

from il2m.errors import InputError
from il2m.parameters import PARAMETERS, check_parameters, nearest
from il2m.runs import but_distillation, short_hash

if TYPE_CHECKING:
    from il2m.planning import Plan

BASE, FINE_TUNING, ANALYSIS, ABLATION = NOTEBOOKS = (
    "01_base_training",
    "02_fine_tuning",
    "03_dual_memory_analysis",
    "04_rectification_ablation",
)
_GRID_KEYS = ("description", "parameters")
_CHOSEN_HERE = {
    "out_dir": "use --out",
    "base": "each run gets its own",
    "run": "each run is analysed",
}
_NOT_PLANNED = ("device", "num_threads", "joint_epochs")  # without a say in what a base or a fine-tuning comes to be


@dataclass(frozen=True)
class Job:
    """One notebook to execute, for the run folder named ``run``; ``output`` is the executed copy.

    ``after`` names the jobs whose results it needs, ``beside`` those whose results it shows too if there are any.
    """

    notebook: str
    run: str
    parameters: dict[str, Any]
    output: Path
    after: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.output.stem


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number, as Python does; YAML 1.1 asks for 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def find_notebooks() -> Path:
    """The folder of notebooks: of this checkout, or of the current directory."""
    for root in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (root / "notebooks" / f"{BASE}.ipynb").is_file():
            return root / "notebooks"
    raise InputError("no notebooks/ folder beside the il2m package or here: run il2m from a checkout of the project.")


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and default values in a notebook's parameters cell.

    papermill only warns when the tag is missing, and then ignores what it is given: here that is an InputError.
    """
    cells = nbformat.read(path, as_version=4).cells
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        raise InputError(f"{path}: no cell is tagged 'parameters', so no parameter of it could be set.")
    return {name: ast.literal_eval(found["default"]) for name, found in inspect_notebook(str(path)).items()}


def read_grid(path: Path) -> dict[str, Any]:
    """The ``parameters`` of a grid file, as written. Raises InputError if the file is not a grid."""
    try:
        grid = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise InputError(f"can't read the grid {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(grid, dict) or not isinstance(grid.get("parameters") or {}, dict):
        raise InputError(f"{path}: expected 'description' and 'parameters' (a mapping of name: value).")
    for key in grid:
        if key not in _GRID_KEYS:
            raise InputError(f"{path}: unknown key {key!r}: {nearest(str(key), _GRID_KEYS)}")
    return grid.get("parameters") or {}


def read_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``name=value`` texts of the command line, values read as YAML."""
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"-p {text!r}: expected name=value, for example -p memory_size=100")
        try:
            overrides[name.strip()] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise InputError(f"-p {text!r}: the value is not valid YAML: {error}") from None
    return overrides


def plan_jobs(given: dict[str, Any], notebooks: Path, out_dir: Path) -> list[Job]:
    """All jobs of a grid, each stage once however many combinations share it; every stage's parameters are checked.

    given: parameter -> value, or list of values to sweep; relative paths start at the current directory.
    Raises InputError for all unknown names and bad values at once, and for stages that can't work.
    """
    defaults = {name: _absolute(notebook_parameters(notebooks / f"{name}.ipynb"), notebooks) for name in NOTEBOOKS}
    known = set().union(*defaults.values())
    swept = {name: _values(name, value) for cell in defaults.values() for name, value in cell.items()}
    swept = {name: values for name, values in swept.items() if len(values) > 1}  # a notebook may itself ask for several
    swept |= {name: _values(name, value) for name, value in given.items()}
    _check(swept, known)
    for name, instead in _CHOSEN_HERE.items():
        if name in given:
            raise InputError(f"{name} can't be given to a whole study: {instead}.")
    for name, values in swept.items():
        if len(values) > 1 and not (name in defaults[BASE] or name in defaults[FINE_TUNING]):
            raise InputError(f"{name} = {values}: it only says how runs are shown, and can't be swept; give one value.")
    jobs: dict[str, Job] = {}

    def add(notebook: str, run: str, parameters: dict[str, Any], **order: tuple[str, ...]) -> str:
        job = Job(notebook, run, parameters, out_dir / "notebooks" / f"{notebook}-{run}.ipynb", **order)
        return jobs.setdefault(job.name, job).name

    runs: dict[str, tuple[Plan, dict[str, dict[str, Any]]]] = {}
    for values in itertools.product(*swept.values()):
        chosen = _absolute(dict(zip(swept, values, strict=True)), Path.cwd()) | {"out_dir": str(out_dir)}
        of = {name: {p: v for p, v in chosen.items() if p in defaults[name]} for name in NOTEBOOKS}
        base = _plan_base(defaults[BASE] | of[BASE])
        tuned = _plan_fine_tuning(defaults[FINE_TUNING] | of[FINE_TUNING], base)
        before = add(BASE, base.folder.name, of[BASE])
        parameters = of[FINE_TUNING] | {"base": base.folder.name}
        runs[add(FINE_TUNING, tuned.folder.name, parameters, after=(before,))] = tuned, of
    twins: dict[str, list[str]] = {}
    for job, (plan, _) in runs.items():
        twins.setdefault(short_hash(but_distillation(plan.identity)), []).append(job)
    for job, (plan, of) in runs.items():
        beside = tuple(twins[short_hash(but_distillation(plan.identity))])
        for notebook in (ANALYSIS, ABLATION):
            name = plan.folder.name
            add(notebook, name, of[notebook] | {"run": name}, after=(job,), beside=beside)
    return list(jobs.values())


def _plan_base(parameters: dict[str, Any]) -> Plan:
    from il2m.planning import plan_base  # imports torch

    return plan_base(**{name: value for name, value in parameters.items() if name not in _NOT_PLANNED})


def _plan_fine_tuning(parameters: dict[str, Any], base: Plan) -> Plan:
    from il2m.planning import plan_fine_tuning  # imports torch

    from_the_base = ("base", "dataset")
    kept = {name: v for name, v in parameters.items() if name not in (*_NOT_PLANNED, *from_the_base)}
    return plan_fine_tuning(**kept, base_plan=base)


def _values(name: str, value: Any) -> list[Any]:
    """The values to sweep: a list's items, unless the parameter is itself a list."""
    is_sequence = name in PARAMETERS and PARAMETERS[name].is_sequence
    if isinstance(value, list) and (not is_sequence or any(isinstance(item, list) for item in value)):
        if not value:
            raise InputError(f"{name} = []: a list of values to sweep needs at least one.")
        return value
    return [value]


def _check(swept: dict[str, Sequence[Any]], known: set[str]) -> None:
    problems = []
    for name, values in swept.items():
        for value in values:
            try:
                check_parameters({name: value}, known)
            except InputError as error:
                problems.append(str(error))
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def _absolute(parameters: dict[str, Any], start: Path) -> dict[str, Any]:
    """The same with paths made absolute: jobs run in the notebooks' folder, users type theirs somewhere else."""
    from il2m.datasets import absolute_source  # imports torch

    paths = {name: parameters[name] for name in ("data_dir", "out_dir") if name in parameters}
    absolute = {name: str((start / Path(value).expanduser()).resolve()) for name, value in paths.items()}
    if "dataset" in parameters:
        absolute["dataset"] = absolute_source(str(parameters["dataset"]), start)
    return parameters | absolute
