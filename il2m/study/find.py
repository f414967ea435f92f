"""Which runs a folder holds, and which belong together."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from il2m.errors import InputError, printable
from il2m.parameters import concerning
from il2m.study.progress import read_progress
from il2m.study.runs import ANALYSED, KINDS, RESULT_VERSION, Run
from il2m.system.files import SET_ASIDE
from il2m.system.hashes import short_hash
from il2m.system.locks import RUN_LOCK, is_locked


def run_folders(out_dir: str | Path) -> list[Path]:
    """The folders in a study's that have a config.json, by name; not those that were set aside."""
    folders = [path.parent for path in sorted(Path(out_dir).glob("*/config.json"))]
    return [folder for folder in folders if not folder.name.startswith(SET_ASIDE)]


def find_runs(out_dir: str | Path, finished: bool = True) -> list[Run]:
    """A study's runs that can be analysed (fine-tuned or imported), oldest first. Warns of damaged ones, left out."""
    runs = open_readable(folder for folder in run_folders(out_dir) if not folder.name.startswith(("base-", "joint-")))
    runs = [run for run in runs if run.kind in ANALYSED and not (finished and run.missing_states)]
    return sorted(runs, key=lambda run: run.config.get("made", ""))  # before 0.2 they did not say: those first, by name


def distinct(runs: Iterable[Run]) -> list[Run]:
    """The runs by name, of copies the first; warns of a copy of which other things are told (scores imported twice)."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.name):
        kept = first.setdefault(run.config["hash"], run)
        if any(kept.config[name] != run.config.get(name) for name in kept.config if name not in ("made", "checksum")):
            warnings.warn(f"left out {run.name}: it is {kept.name} again, told otherwise.", stacklevel=3)
    return [*first.values()]


def open_readable(folders: Iterable[Path]) -> list[Run]:
    """The runs in these folders. Warns of damaged ones, and passes over what is no run (others have a config.json)."""
    runs = []
    for folder in folders:
        try:
            run = Run(folder)
            run.digests  # noqa: B018 - base and states are checked for whose they are
            runs.append(run)
        except InputError as error:
            if folder.name.startswith(tuple(f"{kind}-" for kind in KINDS)) or any(folder.glob("state_[0-9][0-9]")):
                warnings.warn(f"left out {folder.name}: {error}", stacklevel=3)
    return runs


def open_run(folder: str | Path, run: str = "") -> Run:
    """A finished run that can be analysed: ``folder`` itself, if it is a run's; or one of the study in it, by its name
    there or its own folder; ``""`` is the newest without distillation, or the newest of all if every run distils."""
    if not run and not (Path(folder) / "config.json").exists():
        if not (runs := find_runs(folder)):
            what = f"no finished fine-tuning run in {Path(folder).absolute()}"
            raise InputError(f"{what}: run base training and fine-tuning first.")
        return ([each for each in runs if not each.identity.get("distillation")] or runs)[-1]
    opened = Run(_one_of(folder, run, "run") if run else folder)
    if opened.kind not in ANALYSED or opened.missing_states:
        problem = f"not finished (states {opened.missing_states} are missing: run fine-tuning again, it goes on there)"
        if (progress := read_progress(opened.folder)) and is_locked(opened.folder / RUN_LOCK):
            problem = f"still being trained ({progress['where']}): come back when it has ended"
        if opened.kind not in ANALYSED:
            problem = f"a {KINDS[opened.kind].removesuffix(' training')}, not a fine-tuning run"
        raise InputError(f"{opened.folder} is {problem}.")
    return opened


def _one_of(out_dir: str | Path, name: str, what: str) -> Path:
    """The folder of a run, by its name in ``out_dir`` or as it is."""
    for folder in (Path(out_dir) / name, Path(name)):
        if (folder / "config.json").exists():
            return folder
    names = [each.name for each in run_folders(out_dir) if not each.name.startswith("joint-")]
    names = [each for each in names if each.startswith("base-") == (what == "base")]
    raise InputError(f"no {what} {name!r} in {Path(out_dir).absolute()}; there are: {', '.join(names) or 'none'}.")


def effective(identity: dict[str, Any], *but: str) -> dict[str, Any]:
    """A run's identity, its base's within, without the parameters that concern these (keys of CONCERNS). Equal for
    replicates without "training seed" and "class order" (drawn or given), for twins without "distillation"."""
    kept = {name: value for name, value in identity.items() if name not in concerning(*but)}
    return kept | ({"base": effective(kept["base"], *but)} if "base" in kept else {})


def twin_run(run: Run) -> Run | None:
    """The finished run beside ``run`` that differs from it in distillation only, if there is one. Of several, which
    distil each in its own way, none is taken: a warning names them."""
    same = effective(run.identity, "distillation")
    others = (other for other in find_runs(run.folder.parent) if other.label != run.label)
    others = [other for other in others if effective(other.identity, "distillation") == same]
    twins = {short_hash(effective(other.identity)): other for other in others}
    if len(twins) < 2:
        return next(iter(twins.values()), None)
    how = concerning("distillation")[1:]
    told = {it.name: [f"{name} {it.identity[name]}" for name in how if name in it.identity] for it in twins.values()}
    named = [f"{name} ({', '.join(values)})" for name, values in told.items()]
    what = f"{run.name} has several twins, and none is shown: name one as compare"
    warnings.warn(f"{what}, of {', '.join(named)}.", stacklevel=2)
    return None


def labelled(runs: Iterable[Run]) -> dict[str, Run]:
    """Runs under what tells them apart in a figure: their setting of distillation, off before on, or else their
    names. Raises InputError if the same run is given twice."""
    runs = sorted(runs, key=lambda run: run.label)
    for labels in ([run.label for run in runs], [printable(run.name) for run in runs]):
        if len(set(labels)) == len(runs):
            return dict(zip(labels, runs, strict=True))
    raise InputError(f"the same run was given twice: {', '.join(labels)}.")


def open_pair(out_dir: str | Path, run: str = "", compare: str = "auto") -> dict[str, Run]:
    """A run (see open_run) and one shown beside it, labelled: ``auto`` is its twin in distillation, ``""`` none."""
    main = open_run(out_dir, run)
    other = twin_run(main) if compare == "auto" else open_run(out_dir, compare) if compare else None
    return labelled(shown for shown in (main, other) if shown)


def find_joint_runs(out_dir: str | Path) -> list[Run]:
    """The finished joint trainings in a study's folder, several of a base if epochs differ; warns of damaged ones."""
    runs = open_readable(folder for folder in run_folders(out_dir) if folder.name.startswith("joint-"))
    return distinct(run for run in runs if not run.missing_states)


def open_base(out_dir: Path, base: str) -> Run:
    """The base named, or the last trained in ``out_dir``. Raises InputError unless it lies there, with its network."""
    if base:
        run = Run(_one_of(out_dir, base, "base"))
        if run.kind != "base":
            raise InputError(f"{run.folder} is not a base but a {run.kind} run.")
    else:
        if not (bases := [path.parents[1] for path in sorted(out_dir.glob("base-*/state_01/state.json"))]):
            raise InputError(f"no finished base in {out_dir.absolute()}: run base training first.")
        run = max(map(Run, bases), key=lambda base: (base.state(1).made, base.config.get("made", "")))
        if len(bases) > 1:
            what = f"of {len(bases)} bases in {out_dir} the one trained last is taken, {run.name}: of states of"
            warnings.warn(f"{what} {list(run.states.sizes)} classes. To take another, name it as base.", stacklevel=3)
    if run.missing_states:
        raise InputError(f"base {run.folder} is not finished: run base training again with its parameters.")
    if run.folder.parent.resolve() != out_dir.resolve():  # a run names its base as its neighbour
        what = f"base {run.name} lies in {run.folder.parent.resolve()}, not in {out_dir.resolve()}"
        raise InputError(f"{what}: copy its folder there, or give the folder it lies in as out_dir.")
    if (version := run.identity.get("result_version", 1)) != RESULT_VERSION["image_size" in run.identity]:
        what = f"base {run.name} is of result version {version}, and what went on from it would be of another"
        raise InputError(f"{what}: run base training again with its parameters.")
    run.check_network()
    return run
