"""Damage to every kind of file of a study, through every reader: ``python tests/trust/damage.py``.

A small study is made (or one is given), and each kind of file in it is cut, emptied, flipped, replaced by garbage, by
its neighbour or by an older version of itself, or removed. Every reader then has to refuse it by name, leave it out
with a warning, make it again to the same numbers, or show the same numbers as before. All else is a fault: other
numbers without a word, a traceback, a hang, a damaged file that `il2m verify` does not name. The exit code is 1 if
there is one. Linux only: readers run in forked processes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib as mpl
import numpy as np
from PIL import Image
from tiny import finish_by_hand, import_states, make_tiny_arrays

from il2m import cli
from il2m.errors import InputError
from il2m.learning import training
from il2m.study.find import find_runs, twin_run
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base, train_joint

SECONDS = 120  # that a reader may take
DAMAGES = ("cut", "emptied", "a bit", "64 bits", "garbage", "exchanged", "older", "removed")
ELSEWHERE = "glyph cache"  # not in the study, so that verify does not see it
SUMMARIES = ("findings", "systems")  # numbers over several runs: others if one is left out
TRAINING = {"num_states": 3, "network": "small", "base_epochs": 2, "batch_size": 8, "learning_rate": 0.05,
            "max_shift": 1, "memory_size": 12, "epochs": 2}  # fmt: skip
LONG_BASE = {"base_epochs": 400, "train_seed": 7}  # long enough to be killed in its middle


# the study


@dataclass
class Study:
    """A finished study in ``root/study``, versions of its files from before it was finished in ``root/before``."""

    root: Path
    command: list[str]  # that makes it, without --out; empty: it was made without notebooks

    @property
    def folder(self) -> Path:
        return self.root / "study"

    def files(self) -> dict[str, list[Path]]:
        """Kind of file (or of folder) -> those of that kind."""
        kinds: dict[str, list[Path]] = defaultdict(list)
        for path in sorted([*self.folder.rglob("*"), *self.root.glob("data/glyphs-*.npz")]):
            if kind := self._kind(path):
                kinds[kind].append(path)
        return dict(kinds)

    def _kind(self, path: Path) -> str:
        if path.parent.name == "data":
            return "glyph cache"
        place, name = path.parent.relative_to(self.folder).parts, path.name
        if path.is_dir():
            return "a state" if name.startswith("state_") else ""
        if name.endswith((".lock", ".log", ".tmp")) or name == "notes.txt":
            return ""
        if not place:
            return "readable-*" if name.startswith("readable-") else f"the study's {name}"
        if place[0] in ("plans", "jobs", "notebooks"):
            return f"{place[0]}/{name[:2]}*{path.suffix}" if place[0] == "notebooks" else f"{place[0]}/*{path.suffix}"
        run = place[0].split("-")[0]
        if name in ("config.json", "state.json"):
            return f"{name} of {run}"
        if name.endswith(".npz") or len(place) > 1:
            return name
        return "a run's checkpoint" if name.endswith(".checkpoint") else f"a run's {name}"

    def older(self, path: Path, same_kind: Sequence[Path]) -> Path | None:
        """The same file as it was before the study was finished, or as another seed has it."""
        before = self.root / "before" / path.relative_to(self.root)
        if before.exists():
            return before
        tail = path.parts[len(self.folder.parts) + 1 :]
        others = [other for other in same_kind if other.parts[len(self.folder.parts) + 1 :] == tail]
        return next((other for other in reversed(others) if _content(other) != _content(path)), None)


def _content(path: Path) -> object:
    if path.is_dir():
        return {each.name: each.read_bytes() for each in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def make_study(root: Path, by_notebooks: bool) -> Study:
    """Two bases, from each a run with and without distillation and joint training; imported scores; image files; a
    training that was killed."""
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "tiny.npz", **make_tiny_arrays())
    study, given = Study(root, []), TRAINING | {"dataset": str(root / "tiny.npz")}
    if by_notebooks:
        values = given | {"distillation": "[false, true]", "train_seed": "[0, 1]", "joint_epochs": 1}
        (root / "it.yaml").write_text("parameters:\n" + "".join(f"  {name}: {one}\n" for name, one in values.items()))
        study.command = ["run", str(root / "it.yaml"), "--workers", "2", "-p", f"data_dir={root / 'data'}"]
        _il2m(*study.command, "-p", "distillation=false", "-p", "train_seed=0", "--out", study.folder)
        shutil.copytree(study.folder, root / "before" / "study")
    _in_a_child(lambda: _train(study, given))
    if by_notebooks:
        _il2m(*study.command, "--out", study.folder)
    return study


def _il2m(*words: object) -> str:
    """Give a command; returns what it printed."""
    result = subprocess.run([sys.executable, "-m", "il2m.cli", *map(str, words)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"the study could not be made:\n{result.stdout}{result.stderr}")
    return result.stdout


def _train(study: Study, given: dict) -> None:
    """Its stages, as far as the command has not made them; all that the command does not make."""
    out, machine = study.folder, {"device": "cpu", "out_dir": str(study.folder)}
    of_base = {name: given[name] for name in given if name not in ("memory_size", "epochs")} | machine
    of_tuning = {name: given[name] for name in ("memory_size", "epochs", "batch_size", "learning_rate", "max_shift")}
    for seed in (0, 1):
        base = train_base(**of_base, train_seed=seed)
        runs = [fine_tune(**of_tuning, **machine, base=base, train_seed=seed, distillation=on) for on in (False, True)]
        train_joint(base=base, joint_epochs=1, **machine)
        import_states(runs[0], out / f"imported_{seed}")
    for number, image in enumerate(np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3), dtype=np.uint8)):
        folder = study.root / "images" / ("train" if number < 16 else "val") / f"class {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    train_base(**of_base | IMAGES | {"dataset": f"folder:{study.root / 'images'}"})
    if not study.command:
        finish_by_hand(out, study.root / "before" / "study")
    else:
        from il2m.data.sources import load_dataset

        load_dataset("glyphs", study.root / "data")
    _kill_in_training(of_base | LONG_BASE)


IMAGES = {"image_size": 16, "num_workers": 0, "num_states": 2}


def _kill_in_training(parameters: dict) -> None:
    """A run with progress and a checkpoint, whose process is gone."""

    def train() -> None:
        training.CHECKPOINT_SECONDS = 0
        train_base(**parameters)

    child = multiprocessing.get_context("fork").Process(target=train)
    child.start()
    while child.is_alive() and not all(any(Path(parameters["out_dir"]).glob(f"base-*/{name}"))
                                       for name in ("*.checkpoint", "progress.json")):  # fmt: skip
        time.sleep(0.02)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it was not killed in the middle"


def _in_a_child(function: Callable[[], object], seconds: float = 1200) -> object:
    """What a function returns in a process of its own (its threads are gone with it), or a fault as text."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def call() -> None:
        os.setpgid(0, 0)
        try:
            theirs.send(function())
        except BaseException:
            theirs.send(Fault(traceback.format_exc()))

    child = context.Process(target=call)
    child.start()
    theirs.close()
    try:
        result = ours.recv() if ours.poll(seconds) else Fault(f"no answer within {seconds:.0f} s")
    except EOFError:
        result = Fault("its process died")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    if isinstance(result, Fault) and seconds == 1200:
        raise SystemExit(result)
    return result


class Fault(str):
    """What a reader must not do."""


# damage


@contextlib.contextmanager
def damaged(path: Path, how: str, other: Path | None, stash: Path, rng: random.Random) -> Iterator[bool]:
    """A file or folder, damaged as long as the context lasts. Gives False if that changes nothing."""
    before, touched = _content(path), [path, *([other] if how == "exchanged" else [])]
    for number, each in enumerate(touched):
        os.rename(each, stash / str(number))  # files of this study may be linked: they are never written into
    try:
        if how == "exchanged":
            _copy(stash / "1", path), _copy(stash / "0", other)
        elif how == "older":
            _copy(other, path)
        elif how != "removed":
            path.write_bytes(_damaged_bytes(before, how, rng))
        yield _content(path) != before
    finally:
        for number, each in enumerate(touched):
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
            os.rename(stash / str(number), each)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def _damaged_bytes(content: bytes, how: str, rng: random.Random) -> bytes:
    if how in ("cut", "emptied"):
        return content[: len(content) // 2 if how == "cut" else 0]
    if how == "garbage":
        return rng.randbytes(len(content))
    changed = bytearray(content)
    for _ in range(1 if how == "a bit" else 64):
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


# readers


@dataclass
class Reading:
    """What a reader gave: ``numbers`` by name, all that it said, and whether it refused."""

    numbers: dict[str, str] = field(default_factory=dict)
    words: str = ""
    refused: bool = False


def collect(folder: Path, path: Path) -> dict[str, str]:
    from il2m.results.collect import collect_results

    table = collect_results(folder)
    print(table.attrs["computed"])
    return _rows(table)


def tables(folder: Path, path: Path) -> dict[str, str]:
    """The run that the file belongs to, by itself."""
    from il2m.results.table import bias_table, results_table

    run = _run_of(folder, path) or find_runs(folder)[0]
    if run.kind == "base":
        return {} if run.missing_states else {run.name: _hash(np.asarray(run.state(1).array("val_scores")))}
    bias = {} if run.kind == "joint" else {f"{run.name} bias": bias_table(run).to_csv()}
    return _rows(results_table(run)) | bias


def _rows(table: object) -> dict[str, str]:
    values = ["top1", "top5", "top1_past", "top1_new", "predicted_new"]
    names = table[["run", "method", "score_kind", "state"]].astype(str).agg(" ".join, axis=1)
    return dict(zip(names, map(repr, table[values].itertuples(index=False, name=None)), strict=True))


def explorer(folder: Path, path: Path) -> dict[str, str]:
    from il2m.explorer.explore import open_outcomes
    from il2m.explorer.page import draw_figures
    from il2m.explorer.views import VIEWS, Choice

    numbers, run = {}, _tuned(folder, path)
    every = open_outcomes([each for each in (run, twin_run(run)) if each])
    method = "FT" if any("IL2M" in outcomes.left_out for outcomes in every) else "IL2M"
    for outcomes in every:
        for state in range(1, outcomes.num_states + 1):
            one = outcomes.outcome(state, method)
            numbers[f"{outcomes.run.name} {state}"] = _hash(one.predicted, one.ranks)
        shown = VIEWS["true-class scores"](outcomes, Choice(state=outcomes.num_states, method=method))
        numbers[f"{outcomes.run.name} view"] = shown.numbers.to_csv()
    draw_figures({"it": shown}, "png")
    return numbers


def export(folder: Path, path: Path) -> dict[str, str]:
    run, out = _tuned(folder, path), Path(tempfile.mkdtemp())
    _command("export-scores", run.folder, out)
    files = [each for each in out.rglob("*") if each.is_file()]
    found = {f"{run.name} {each.relative_to(out)}": _hash(each.read_bytes()) for each in files}
    shutil.rmtree(out)
    return found


def _run_of(folder: Path, path: Path, kind: str = "") -> Run | None:
    """The run that a file belongs to, if there is one."""
    place = path.relative_to(folder).parts[0] if path.is_relative_to(folder) else "plans"
    is_run = any((folder / place).glob("config.json")) and place.startswith(kind)
    return Run(folder / place) if is_run else None


def _tuned(folder: Path, path: Path) -> Run:
    """The fine-tuned run that a file belongs to, or the first."""
    return _run_of(folder, path, "fine_tuning") or next(run for run in find_runs(folder) if run.kind == "fine_tuning")


def report_tables(folder: Path, path: Path) -> dict[str, str]:
    from il2m.report import inventory, overview

    study = overview.open_study(folder)
    print(study.damaged, overview.origins_in_words(study), inventory.progress_in_words(study))
    inventory.plans_table(study), inventory.environments_table({p["file"]: p["environment"] for p in study.plans})
    runs = inventory.runs_table(study).fillna("").astype(str)
    accuracies = ["FT top-1", "FT top-5", "IL2M top-1", "IL2M top-5"]
    rows = {" ".join(row[name] for name in list(runs)[:7]): row for row in runs.to_dict("records")}
    found = {name: str([row[each] for each in accuracies]) for name, row in rows.items() if row["FT top-1"]}
    made = {"findings": overview.findings_in_words(overview.findings(study)), "systems": overview.systems(study)}
    return {name: table.to_csv() for name, table in made.items()} | found


def status(folder: Path, path: Path) -> dict[str, str]:
    _command("status", folder)
    return {}


def verify(folder: Path, path: Path) -> dict[str, str]:
    code = cli.main(["verify", str(folder)])
    print(f"exit code {code}")
    return {}


def others(folder: Path, path: Path) -> dict[str, str]:
    """What is read where work goes on: the note on image files, a checkpoint, progress, the cache of glyphs."""
    from il2m.data.file_batches import checked
    from il2m.data.sources import load_dataset
    from il2m.study.progress import read_progress

    if path.name == "progress.json":
        print(read_progress(path.parent))
    elif path.name.startswith("readable-"):
        data = checked(load_dataset(f"folder:{folder.parent / 'images'}", "", image_size=16, num_workers=0), folder)
        return {name: _hash(images.digests) for name, images in vars(data).items() if name.endswith("images")}
    elif path.name.startswith("glyphs-"):
        return {"glyphs": load_dataset("glyphs", path.parent).fingerprint}
    elif path.name.endswith(".checkpoint"):
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(path.parent, copy / path.parent.name)
        settings = {name: one for name, one in Run(path.parent).identity.items() if name in {*TRAINING, *LONG_BASE}}
        dataset = {"dataset": str(folder.parent / "tiny.npz"), "num_states": 3}
        run = train_base(**settings, **dataset, device="cpu", out_dir=str(copy))
        return {"trained on": _hash(run.state(1).array("val_scores"))}
    return {}


def _command(*words: object) -> None:
    if code := cli.main([str(word) for word in words]):
        raise InputError(f"exit code {code}")


def _hash(*values: np.ndarray | bytes) -> str:
    return hashlib.sha256(b"".join(one if isinstance(one, bytes) else one.tobytes() for one in values)).hexdigest()[:10]


CHEAP = {
    function.__name__: function
    for function in (verify, status, collect, tables, report_tables, explorer, export, others)
}


def read(folder: Path, path: Path, readers: Sequence[str]) -> dict[str, Reading | Fault]:
    """Each reader's reading; to be called in a process of its own."""
    mpl.use("Agg")
    signal.signal(signal.SIGALRM, _too_long)
    readings: dict[str, Reading | Fault] = {}
    for name in readers:
        said, reading = io.StringIO(), Reading()
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.redirect_stdout(said))
                stack.enter_context(contextlib.redirect_stderr(said))
                warnings.simplefilter("always", UserWarning)
                reading.numbers = CHEAP[name](folder, path)
        except InputError as error:
            reading.refused = True
            said.write(str(error))
        except BaseException:
            readings[name] = Fault(traceback.format_exc())
            continue
        finally:
            signal.alarm(0)
        warned = sorted({str(one.message) for one in caught if one.category is UserWarning})
        reading.words = "\n".join([said.getvalue(), *warned])
        readings[name] = reading
    return readings


def _too_long(*_: object) -> None:
    raise TimeoutError(f"took longer than {SECONDS} seconds")


# heavy readers: each on a copy of the study, whose files are links

PROGRAM = [sys.executable, "-m", "il2m.cli"]
FINDINGS = ("damaged or exchanged:", "stale:", "orphaned:", "unknown:")


def again(study: Study, copy: Path, path: Path) -> Reading | Fault:
    """The same command."""
    return _after(copy, path, [*PROGRAM, *study.command, "--out", str(copy)])


def repaired(study: Study, copy: Path, path: Path) -> Reading | Fault:
    """The command that verify prints; verify finds nothing then, but what no plan asks for: the run that was killed,
    and scores that only their files can bring back."""
    line = next((line for line in _verified(copy) if line.startswith("to repair: ")), "to repair: true")
    shell = line.removeprefix("to repair: ")
    shell = f'il2m() {{ {sys.executable} -m il2m.cli "$@"; }}; {shell}'
    reading = _after(copy, path, ["bash", "-c", shell])
    others = r"progress\.json|\.tmp|\.checkpoint|imported_"
    left = [line for line in _verified(copy) if line.startswith(FINDINGS) and not re.search(others, line)]
    if left and isinstance(reading, Reading) and not reading.refused:
        return Fault("not good after the repair: " + "\n".join(left))
    return reading


def _verified(copy: Path) -> list[str]:
    return subprocess.run([*PROGRAM, "verify", str(copy)], capture_output=True, text=True).stdout.splitlines()


def report(study: Study, copy: Path, path: Path) -> Reading | Fault:
    return _after(copy, path, [*PROGRAM, "report", str(copy)])


def _after(copy: Path, path: Path, command: list[str]) -> Reading | Fault:
    """Give a command, and read the tables."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return Fault(f"took longer than 300 s: {command}")
    said = result.stdout + result.stderr
    if "Traceback" in said:
        return Fault(said)
    found = _in_a_child(lambda: read(copy, path, ["collect"]), 300)
    found = found if isinstance(found, Fault) else found["collect"]
    if isinstance(found, Fault):
        return found
    return Reading(found.numbers, said + found.words, result.returncode != 0 or found.refused)


def notebooks(study: Study, copy: Path, path: Path) -> Reading | Fault:
    """03 and 04 on the run that the file belongs to: all the text that they show."""
    return _in_a_child(lambda: _notebooks(copy, path), 300)


def _notebooks(copy: Path, path: Path) -> Reading:
    from il2m.notebook.catalogue import find_notebooks
    from il2m.notebook.execute import execute_notebook

    place, reading = path.relative_to(copy).parts[0] if path.is_relative_to(copy) else "", Reading()
    if not place.startswith("fine_tuning"):
        place = sorted(each.name for each in copy.glob("fine_tuning-*"))[0]
    for name in ("03_dual_memory_analysis", "04_rectification_ablation"):
        output = copy / "executed" / f"{name}.ipynb"
        failure = execute_notebook(find_notebooks() / f"{name}.ipynb", output, {"out_dir": str(copy), "run": place})
        if failure:
            reading.words, reading.refused = f"{reading.words}\n{failure}", True
            continue
        outputs = [out for cell in json.loads(output.read_text())["cells"] for out in cell.get("outputs", [])]
        warned = [out["text"] for out in outputs if out.get("name") == "stderr"]
        reading.words += "".join("".join(text) for text in warned)
        shown = [out.get("text") for out in outputs if out.get("name") == "stdout"]
        shown += [out["data"].get(kind) for out in outputs for kind in ("text/html", "text/plain") if "data" in out]
        text = re.sub(r"T_[0-9a-f]+|id=\\?\"[^\"]*\"|at 0x\w+", "", json.dumps(shown))
        reading.numbers[f"{place} {name}"] = _hash(text.encode())
    return reading


HEAVY = {function.__name__: function for function in (again, repaired, report, notebooks)}


# the run


@dataclass
class Case:
    """One damage: which kind of file, how, and to which file. other: what takes its place."""

    kind: str
    how: str
    path: Path
    other: Path | None

    @property
    def is_gone(self) -> bool:
        """Whether it leaves a run that is not finished, or none: that is nothing to warn of."""
        return self.how == "removed" and (self.kind == "a state" or self.kind.startswith("config.json"))

    def __str__(self) -> str:
        return f"{self.path} {self.how}" + (f" ({self.other})" if self.other else "")


def but_links(page: Path) -> str:
    """A page without what leads to other pages, which the report puts in anew, and its seal."""
    return re.sub("<!-- links -->.*?<!-- /links -->|<!-- il2m: .*? -->", "", page.read_text(), flags=re.DOTALL)


def judged(reader: str, case: Case, now: Reading | Fault, then: Reading) -> tuple[str, str]:
    """How a reading came out, against that of the undamaged study: a word for the table, and why it is a fault."""
    if isinstance(now, Fault):
        return "fault", now
    told, common = now.words != then.words or case.is_gone, now.numbers.keys() & then.numbers.keys()
    is_subset = now.numbers.keys() != then.numbers.keys()
    others = [name for name in common if now.numbers[name] != then.numbers[name]]
    others = [name for name in others if name not in SUMMARIES or not (told and now.words)]
    if others:
        return "fault", f"other numbers: {others[0]}: {now.numbers[others[0]]}, not {then.numbers[others[0]]}"
    if now.refused:
        return ("refused", "") if now.words.strip() else ("fault", "refused without a word")
    if reader == "verify" and case.kind != ELSEWHERE:
        near = {case.path.name, case.path.parent.name} - {"notebooks", "jobs", "plans"}
        if any(name in now.words for name in near) or (told and case.how in ("removed", "older")):
            return "named", ""
        is_harmless = case.path.suffix == ".parquet" and "bit" in case.how  # it changed no value
        is_harmless |= (
            case.how == "older" and case.path.suffix == ".html" and but_links(case.path) == but_links(case.other)
        )
        return ("same", "") if is_harmless or case.how == "removed" else ("fault", f"verify names {now.words}")
    if is_subset:
        return ("left out", "") if told else ("fault", f"without a word: {[*now.numbers.keys() ^ then.numbers.keys()]}")
    return ("same, told" if told else "same"), ""


def cases(study: Study, rng: random.Random, only: Sequence[str] = ()) -> Iterator[Case]:
    """Every kind of file x every damage, a file drawn for each."""
    for kind, paths in study.files().items():
        for how in () if only and kind not in only else DAMAGES[-3:] if paths[0].is_dir() else DAMAGES:
            path = rng.choice(paths)
            if how == "exchanged":
                others = [each for each in paths if _content(each) != _content(path)]
                other = rng.choice(others) if others else None
            else:
                other = study.older(path, paths) if how == "older" else None
            if other or how not in ("exchanged", "older"):
                yield Case(kind, how, path, other)


@dataclass
class Test:
    """A study, its readings undamaged, and how readings came out: (kind, damage, outcome) -> how often."""

    study: Study
    rng: random.Random
    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    undamaged: dict[tuple[str, str], Reading] = field(default_factory=dict)

    def cheaply(self, case: Case, readers: Sequence[str]) -> None:
        """One case through readers, all in one process."""
        folder, keys = self.study.folder, {name: self._key(name, case) for name in readers}
        lacking = [name for name in readers if keys[name] not in self.undamaged]
        for name, reading in _in_a_child(lambda: read(folder, case.path, lacking)).items() if lacking else ():
            if isinstance(reading, Fault) or reading.refused:
                raise SystemExit(f"{name} of the undamaged study: {reading}")
            self.undamaged[keys[name]] = reading
        with damaged(case.path, case.how, case.other, self.stash, self.rng) as is_changed:
            now = _in_a_child(lambda: read(folder, case.path, readers), SECONDS * 2) if is_changed else {}
        for name in readers if is_changed else ():
            self._note(name, case, now if isinstance(now, Fault) else now[name], self.undamaged[keys[name]])

    def heavily(self, case: Case) -> None:
        """One case through the heavy readers."""
        for name, reader in HEAVY.items():
            key, copy = self._key(name, case), self.study.root / "copy"
            path = copy / case.path.relative_to(self.study.folder) if case.kind != ELSEWHERE else case.path
            if key not in self.undamaged:
                self._copied(copy)
                if isinstance(reading := reader(self.study, copy, path), Fault) or reading.refused:
                    raise SystemExit(f"{name} of the undamaged study: {reading}")
                self.undamaged[key] = reading
            with damaged(case.path, case.how, case.other, self.stash, self.rng):
                self._copied(copy)
            self._note(name, case, reader(self.study, copy, path), self.undamaged[key])

    @property
    def stash(self) -> Path:
        (self.study.root / "stash").mkdir(exist_ok=True)
        return self.study.root / "stash"

    def _copied(self, copy: Path) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.study.folder, copy, copy_function=os.link)

    def _key(self, reader: str, case: Case) -> tuple[str, str]:
        """What a reading of the undamaged study depends on."""
        place = case.path.parts[len(self.study.root.parts) + 1]
        places = {"others": str(case.path), **dict.fromkeys(("tables", "explorer", "export", "notebooks"), place)}
        return reader, places.get(reader, "")

    def _note(self, reader: str, case: Case, now: Reading | Fault, then: Reading) -> None:
        outcome, why = judged(reader, case, now, then)
        self.counts[case.kind, case.how, outcome] += 1
        if why:
            self.faults.append(f"{reader}: {case}: {why}")
            print(f"FAULT {self.faults[-1]}", flush=True)

    def table(self) -> str:
        """Kind of file x damage -> how many readings came out how."""
        outcomes = ("same", "same, told", "named", "refused", "left out", "fault")
        lines = [f"{'':32}" + "".join(f"{how:>14}" for how in DAMAGES) + f"    ({' / '.join(outcomes)})"]
        for kind in dict.fromkeys(kind for kind, _, _ in self.counts):
            rows = [[self.counts[kind, how, outcome] for outcome in outcomes] for how in DAMAGES]
            lines.append(f"{kind:32}" + "".join(f"{'/'.join(map(str, row)) if any(row) else '-':>14}" for row in rows))
        totals = {outcome: sum(n for key, n in self.counts.items() if key[2] == outcome) for outcome in outcomes}
        return "\n".join([*lines, ", ".join(f"{total} {outcome}" for outcome, total in totals.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", type=Path, help="a finished study (default: a small one is made)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="files drawn for each kind and damage, for quick readers")
    parser.add_argument("--readers", type=int, default=len(CHEAP), help="quick readers of each damage, in turn")
    parser.add_argument("--heavy", type=int, default=30, help="cases for the command, the repair, report and notebooks")
    parser.add_argument("--only", action="append", default=[], help="this kind of file; may be repeated")
    parser.add_argument("--out", type=Path, help="where the study lies, or is made (default: a new temporary folder)")
    args = parser.parse_args()
    root = (args.out or Path(tempfile.mkdtemp(prefix="damage-"))).resolve()
    if args.study:
        shutil.copytree(args.study, root / "study")
    if not (root / "study").exists():
        make_study(root, by_notebooks=True)
    command = ["run", str(root / "it.yaml"), "--workers", "2", "-p", f"data_dir={root / 'data'}"]
    test = Test(Study(root, command * (root / "it.yaml").exists()), random.Random(args.seed))
    every = [case for _ in range(args.rounds) for case in cases(test.study, test.rng, args.only)]
    in_turn = itertools.cycle(CHEAP)
    for case in every:
        test.cheaply(case, list(itertools.islice(in_turn, args.readers)))
    inside = [case for case in cases(test.study, test.rng, args.only) if case.kind != ELSEWHERE]
    heavy = test.rng.sample(inside, min(args.heavy, len(inside))) if test.study.command else []
    for case in heavy:
        test.heavily(case)
    print(test.table())
    print(f"{test.counts.total():,} readings of {len(every) + len(heavy):,} damages, {len(test.faults)} faults")
    print(f"again: python tests/trust/damage.py --out {root} --seed {args.seed}")
    return 1 if test.faults else 0


if __name__ == "__main__":
    sys.exit(main())
