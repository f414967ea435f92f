"""A grid's settings -> the jobs of its study: each stage once however many settings share it, all checked first."""

import json
import os
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from il2m.batch.grids import Grid, all_settings, swept_names, values_to_sweep
from il2m.data.sources import absolute_source, load_dataset
from il2m.errors import InputError
from il2m.memory.exemplars import kept_per_class
from il2m.notebook.catalogue import ABLATION, ANALYSIS, BASE, FINE_TUNING, NOTEBOOKS, notebook_parameters
from il2m.parameters import PARAMETERS, STAGES
from il2m.study.find import effective, open_run
from il2m.study.planning import Plan, images_to_train_on, plan_base, plan_fine_tuning
from il2m.system.hashes import short_hash
from il2m.system.machine import CHECKOUT
from il2m.system.plugins import load_plugin, resolved

_MACHINE = ("device", "num_threads", "num_workers", "validate_every")  # where, how fast, what is told: not what comes
_PROCESS, PAGES, _NETWORKS, _CHOSEN_HERE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).values()


@dataclass(frozen=True)
class Job:
    """One notebook to execute, for the run folder named ``run``."""

    notebook: str
    run: str
    parameters: dict[str, Any]
    after: tuple[str, ...] = ()  # names of the jobs whose results it needs
    beside: tuple[str, ...] = ()  # of those whose results it shows too if there are any
    kind: str = ""  # jobs of one kind take seconds in proportion to their work
    work: float = 1.0  # image passes of a training, else 1
    swept: dict[str, Any] = field(default_factory=dict)  # the values that it has of what varies in the grid
    combinations: tuple[str, ...] = ()  # those of the grid that it serves
    memory: float = 0.0  # bytes, at most, while it runs
    disk: float = 0.0  # bytes that it leaves
    plugins: tuple[str, ...] = ()  # what is loaded before the notebook, see system.plugins

    @property
    def name(self) -> str:
        return f"{self.notebook}-{self.run}"

    @property
    def out_dir(self) -> Path:
        return Path(self.parameters["out_dir"])

    @property
    def output(self) -> Path:
        """The executed copy of the notebook."""
        return self.out_dir / "notebooks" / f"{self.name}.ipynb"

    @property
    def key(self) -> str:
        """Hash of what the job is asked for; not of the study's folder, of data_dir, nor of the machine it runs on."""
        left_out = (*_MACHINE, "out_dir", "data_dir")
        return short_hash({name: value for name, value in self.parameters.items() if name not in left_out})

    def file(self, suffix: str) -> Path:
        """What the study's folder holds of it: its record (.json), its lock (.lock), what it printed (.log)."""
        return self.out_dir / "jobs" / f"{self.name}{suffix}"


def plan_jobs(grid: Grid, notebooks: Path, out: Path, num_threads: int = 1, plugins: Sequence[str] = ()) -> list[Job]:
    """All jobs of a grid, in an order in which each comes after those it needs, and a run's soon after one another.
    Relative paths in the grid start at the current directory. num_threads: of each job. plugins: loaded here and by
    each job. Raises InputError for all unknown names and bad values at once, and for stages that can't work."""
    plugins = tuple(map(resolved, plugins))
    for plugin in plugins:
        load_plugin(plugin)
    start = notebooks if CHECKOUT else Path.cwd() / "notebooks"  # an installed package is not written to
    cells = {name: notebook_parameters(notebooks / f"{name}.ipynb") for name in NOTEBOOKS}
    _warn_of_edited(cells)
    defaults = {name: _absolute(cell, start) for name, cell in cells.items()}
    groups: dict[str, list[tuple[dict, dict]]] = {}
    for parameters, labels in _wanted(grid, defaults, {"out_dir": str(out), "num_threads": num_threads}):
        groups.setdefault(json.dumps(parameters[BASE], sort_keys=True), []).append((parameters, labels))
    load = cache(load_dataset)
    jobs: dict[str, Job] = {}
    for group in groups.values():  # a base's images are held only while its fine-tunings are planned
        for job in _jobs_of_base(group, defaults, load):
            jobs[job.name] = _merged(jobs.get(job.name, job), job)
    for compare in {job.parameters.get("compare", "") for job in jobs.values()} - {"", "auto"}:
        if open_run(out, compare).name in {job.run for job in jobs.values()}:
            raise InputError(f"compare = {compare!r} is a run of this grid, and can't be shown beside itself.")
    swept = {name for group in groups.values() for _, labels in group for name in labels["swept"]}
    if idle := sorted(swept.difference(*(job.swept for job in jobs.values()))):
        warnings.warn(f"{', '.join(idle)}: swept, but no run is another by it beside what else is given.", stacklevel=2)
    return [replace(job, plugins=plugins) for job in jobs.values()]


def _warn_of_edited(cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Say which defaults were changed in the notebooks, as JupyterLab saves them: they hold for every grid."""
    for notebook, cell in cells.items():
        known = next(stage for numbers, stage in STAGES.items() if notebook[:2] in numbers).parameters()
        for name, one in known.items():
            default = [*one.default] if isinstance(one.default, tuple) else one.default
            if name in cell and default not in values_to_sweep(name, cell[name]):
                what = f"{name} = {cell[name]!r} stands in the notebook {notebook} here, not {default!r}"
                warnings.warn(f"{what}: it is taken wherever a grid does not say otherwise.", stacklevel=3)


def _wanted(grid: Grid, defaults: Mapping[str, Mapping], fixed: Mapping) -> Iterator[tuple[dict, dict]]:
    """What each setting of a grid gives to each notebook, and ``swept`` and ``combinations`` of its jobs."""
    everywhere = {name: value for cell in defaults.values() for name, value in cell.items()}
    for name, instead in _CHOSEN_HERE.items():
        if any(name in values for values in (grid.parameters, *grid.combinations.values())):
            raise InputError(f"{name} can't be given to a whole study: {instead}.")
    settings = all_settings(grid, everywhere)
    swept = swept_names(grid, everywhere)
    needs = {name: one.only_with for name, one in PARAMETERS.items() if one.only_with and name not in swept}
    for name, (needed, value) in needs.items():  # of what no notebook has, images in files, nothing is known yet
        given = [values for values, _ in settings if name in values]
        if given and all(values.get(needed, everywhere.get(needed, value)) != value for values in given):
            warnings.warn(f"{name}, of grid or command, has no effect: it needs {needed} = {value}.", stacklevel=4)
    for name in swept:
        if name in (*_MACHINE, "joint_epochs") or (name not in defaults[BASE] and name not in defaults[FINE_TUNING]):
            what = f"{name} = {grid.parameters.get(name, 'swept')}: no run is another by it, and it"
            raise InputError(f"{what} can't be swept; give one value.")
    for values, combination in settings:
        chosen = {"data_dir": defaults[BASE]["data_dir"], **_absolute(values, Path.cwd()), **fixed}
        parameters = {notebook: {p: v for p, v in chosen.items() if p in cell} for notebook, cell in defaults.items()}
        varying = {name: values[name] for name in swept if name in values}
        yield parameters, {"swept": varying, "combinations": (combination,) * bool(combination)}


def _jobs_of_base(group: list[tuple[dict, dict]], defaults: Mapping, load: Callable) -> Iterator[Job]:
    """The jobs of settings that have their base training in common; some of them come several times."""
    given = {**defaults[BASE], **group[0][0][BASE]}
    base_plan = plan_base(**given, images=load(given["dataset"], given["data_dir"], image_size=given["image_size"]))
    twins: dict[str, list[tuple[Job, dict, dict]]] = {}  # runs that differ in distillation only are analysed together
    for parameters, labels in group:
        in_base = {name: value for name, value in labels["swept"].items() if name in defaults[BASE]}
        base = _training(base_plan, BASE, parameters[BASE], **labels | {"swept": in_base})
        yield base
        plan = plan_fine_tuning(**{**defaults[FINE_TUNING], **parameters[FINE_TUNING]}, base_plan=base_plan)
        given = parameters[FINE_TUNING] | {"base": base.run}
        tuning = _training(plan, FINE_TUNING, given, after=(base.name,), **labels)
        twins.setdefault(short_hash(effective(plan.identity, "distillation")), []).append((tuning, parameters, labels))
    for together in twins.values():
        yield from (tuning for tuning, _, _ in together)
        names = tuple(dict.fromkeys(tuning.name for tuning, _, _ in together))
        for tuning, parameters, labels in together:
            details = {"beside": names, "kind": f"of {base.kind}", "memory": tuning.memory, **labels}
            for notebook in (ANALYSIS, ABLATION):
                given = parameters[notebook] | {"run": tuning.run}
                yield Job(notebook, tuning.run, given, after=(tuning.name,), disk=PAGES[notebook], **details)


def _training(plan: Plan, notebook: str, parameters: dict[str, Any], **details: Any) -> Job:
    """The job of a stage. Stages of one kind take the same time per image."""
    base = plan.identity.get("base", plan.identity)
    extra = [plan.identity.get(name) for name in ("distillation", "precision")]
    kind = short_hash([plan.kind, base["network"], base["fingerprint"], base.get("image_size"), *extra])
    details |= memory_and_disk(plan, notebook) | {"kind": kind, "work": sum(images_to_train_on(plan).values())}
    return Job(notebook, plan.folder.name, parameters, **details)


def memory_and_disk(plan: Plan, notebook: str) -> dict[str, float]:
    """Bytes that a stage takes at most, and leaves; a registered network counts as the largest built in."""
    images, states, settings = plan.dataset, plan.states, plan.settings
    network = plan.identity.get("base", plan.identity)["network"]
    weights, width, kept_by_pixel = _NETWORKS.get(network, _NETWORKS["resnet18"])
    val, disk = np.bincount(images.val_labels), PAGES[notebook]
    for state in images_to_train_on(plan):
        past, seen = states.num_past(state), states.num_seen(state)
        rows = val[:seen].sum() + (past and past * kept_per_class(settings, past))
        new = images.train_counts[past:seen].sum()
        disk += 4 * float(weights + rows * (seen + width + 4) + new * (width + 8))
    pixels, num_images = int(np.prod(images.train_images.shape[1:3])), len(images.train_labels) + len(images.val_labels)
    memory = settings.num_processes * _PROCESS + 4 * settings.batch_size * pixels * kept_by_pixel + 16 * weights
    memory += 0 if images.files else 2 * num_images * pixels * images.num_channels
    return {"memory": memory + 8.0 * len(images.val_labels) * (images.num_classes + width), "disk": disk}


def _merged(known: Job, job: Job) -> Job:
    """One job for two settings that ask for the same."""
    joined = {name: tuple(dict.fromkeys(vars(known)[name] + vars(job)[name])) for name in ("combinations", "beside")}
    swept = {name: value for name, value in known.swept.items() if job.swept.get(name) == value}
    return replace(known, **joined, swept=swept)


def _absolute(parameters: Mapping[str, Any], start: Path) -> dict[str, Any]:
    """The same with paths made absolute: jobs run in the notebooks' folder, users type theirs somewhere else."""
    absolute = dict(parameters)
    if "data_dir" in parameters:
        absolute["data_dir"] = str((start / Path(os.path.expanduser(parameters["data_dir"]))).resolve())
    if "dataset" in parameters:
        absolute["dataset"] = absolute_source(str(parameters["dataset"]), start)
    if (compare := parameters.get("compare")) and (start / compare / "config.json").is_file():
        absolute["compare"] = str((start / compare).resolve())
    return absolute
