"""Hostile input, for every reader of files and words that come from outside: ``python tests/trust/fuzz.py 100000``.

Inputs are valid ones, damaged by a seeded generator: bits flipped, parts cut, doubled or put in, values of other types,
huge numbers, texts that are none. Each must give a result, a warning, or an InputError of one screen, within five
seconds and a gigabyte, run no code, and write nothing outside its folder. All else is a fault: its input and its
traceback are kept in a folder that the end of the table names. The exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from PIL import Image
from tiny import PROJECT, rewrite_checked

from il2m.authors.formats import read_image_list, read_mean_std, read_scores
from il2m.batch import records
from il2m.batch.grids import Grid, all_settings, read_grid, read_overrides, swept_names
from il2m.batch.jobs import Job
from il2m.cli import PARSER
from il2m.data.file_batches import read_all
from il2m.data.image_files import ImageFiles
from il2m.data.lists import load_lists
from il2m.data.sources import load_dataset
from il2m.errors import InputError
from il2m.exchange.importing import import_scores
from il2m.exchange.prepare import make_lists
from il2m.learning.checkpoints import read_checkpoint, write_checkpoint
from il2m.notebook.catalogue import notebook_parameters
from il2m.parameters import PARAMETERS
from il2m.report.overview import jobs_table
from il2m.results.collect import collect_results
from il2m.results.comparison import mean_results
from il2m.results.table import means_table, read_results, results_table, save_results, summary
from il2m.study.find import find_runs
from il2m.study.progress import read_progress
from il2m.study.runs import Run
from il2m.system.hashes import file_hash, short_hash
from il2m.system.plugins import load_plugin, plugin_hash

SECONDS, BYTES = 5, 1 << 30  # that an input may take
LONGEST = 60_000  # characters of an error: one that repeats its input without end fills a disk
STATES, CLASSES = 2, 4
DEFAULTS = {name: one.default for name, one in PARAMETERS.items()}


# damage

# fmt: off
ODD_BYTES = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b"\n", b"\t", b"'", b'"', b"\\", b"%s", b"{0}", b"../",
    b"1_0", b"0x1p3", b"1e999", b"-1", b"nan", b"9" * 400, b"9" * 5000, b"[" * 3000, b"{a: " * 500, b"- " * 3000,
    "\u0661\u0662".encode(), "\u202e".encode(), "\ufffd".encode(), "\U0001f600".encode(), b"\xed\xa0\x80", b'"\\ud800"',
    b"!!int ", b"!!float x", b"2001-99-99", b"0b_", b"&a [*a]", b"<<: *a", b"!!python/name:os.system ", b'"a\\0b"',
    b"true", b"null", b"[]", b"{}", b": ", b", ", b"=", b"import os", b"__import__('os')", b"$x$", b"<b>",
]
ODD_VALUES = [
    None, True, False, 0, -1, 2, 0.5, 1e308, 10**30, -(10**18), float("nan"), float("inf"), "", "x", "\0", "\ud800",
    "../../x", "/etc/passwd", "a" * 100_000, "<img src=x>", "9" * 5000, [], {}, [[]], [None], {"": None}, [1, 2, 3],
]
# fmt: on


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes or text, damaged at one to four places."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        end = min(at + rng.choice((1, 1, 2, 8, 64, 1000)), len(content))
        match rng.randrange(8):
            case 0 | 1 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at:end]
            case 3:
                del content[at:]
            case 4:
                content[at:at] = content[at:end] * rng.choice((1, 2, 50))
            case 5:
                content[at:end] = rng.randbytes(end - at)
            case 6 if numbers := list(re.finditer(rb"\d+", content)):
                start, stop = rng.choice(numbers).span()
                content[start:stop] = rng.choice(ODD_BYTES)
            case _:
                content[at:at] = rng.choice(ODD_BYTES)
    return bytes(content)


def changed(rng: random.Random, value: Any) -> Any:
    """JSON-like values with one to three of them of another type, gone, or in another place."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(rng.choice(ODD_VALUES))
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1:
                other, other_key = rng.choice(places)
                with contextlib.suppress(LookupError):
                    holder[key] = json.loads(json.dumps(other[other_key]))
            case 2 if isinstance(holder, dict):
                key = rng.choice(["../x", "", "\ud800", "files", "0", "extra"])
                holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place that holds a value, as what it is in and its key there."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def changed_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with one or two of them of another type, shape, range or name, or gone."""
    arrays = dict(arrays)
    for _ in range(rng.choice((1, 2))):
        name = rng.choice(list(arrays))
        array = arrays[name]
        is_number = array.dtype.kind in "iuf"
        match rng.randrange(9):
            case 0 if len(arrays) > 1:
                del arrays[name]
            case 1 if is_number:
                kinds = ["float64", "float16", "int8", "uint64", "U5", "bool", "complex64"]
                arrays[name] = array.astype(rng.choice(kinds))
            case 2:
                arrays[name] = array[..., None] if rng.random() < 0.5 else array.reshape(-1)
            case 3:
                arrays[name] = np.atleast_1d(array)[: rng.randrange(3)]
            case 4:
                arrays[name] = np.array([_Trap(), None], dtype=object)
            case 5:
                arrays[rng.choice(["extra", "../../x", "state_sizes", "é"])] = array
            case 6:
                arrays[name] = np.array(rng.choice([0, 10**12, -1, float("nan"), "\ud800", "a" * 5000]))
            case _:
                flat = np.array(array, order="C").reshape(-1)
                if is_number and flat.size:
                    top = np.finfo(flat.dtype).max if flat.dtype.kind == "f" else np.iinfo(flat.dtype).max
                    flat[rng.randrange(flat.size)] = rng.choice([top, -1 if flat.dtype.kind != "u" else 0, 0, top // 2])
                arrays[name] = flat.reshape(np.shape(array))
    return arrays


class _Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/il2m-fuzz-ran-code",)


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def dumped(rng: random.Random, value: Any) -> bytes:
    """As JSON; now and then nested deeper than any reader goes."""
    text = json.dumps(value)
    if rng.random() < 0.03:
        deep = rng.choice((1_000, 100_000))
        text = text.replace(":", ": " + "[" * deep + "]" * deep + ', "x":', 1)
    return text.encode()


# readers: each takes a generator of damage and a folder of its own, in which all of `Seeds` lies


@dataclasses.dataclass
class Seeds:
    """A folder of valid files: a run of imported scores in a study with a plan, records and results; and the others."""

    root: Path

    def make(self) -> None:
        """Make them; what a process of its own is for, as pyarrow's threads don't live through a fork."""
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(CLASSES), 3)
        for state in range(1, STATES + 1):
            seen, past = 2 * state, 2 * (state - 1)
            of = {"val": labels[labels < seen], "new": labels[(labels >= past) & (labels < seen)]}
            of |= {"exemplar": labels[labels < past]} if past else {}
            arrays = {f"{name}_labels": values for name, values in of.items()}
            arrays |= {f"{name}_scores": rng.normal(0, 2, (len(values), seen)) for name, values in of.items()}
            np.savez(self.root / f"state{state}.npz", state_sizes=[2, 2], **arrays)
        study = self.root / "study"
        run = import_scores([self.root / f"state{state}.npz" for state in (1, 2)], study / "mine")
        save_results(results_table(run), run.folder)
        images = rng.integers(0, 255, (16, 8, 8), dtype=np.uint8)
        arrays = {"x_train": images, "x_test": images[:8], "y_train": np.arange(16) % 4, "y_test": np.arange(8) % 4}
        np.savez(self.root / "images.npz", class_names=np.array(["a", "b", "c", "d"]), **arrays)
        for i in range(24):
            path = self.root / "images" / ("train" if i < 16 else "val") / "abcd"[i % 4] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i % 16]).save(path)
        make_lists([str(self.root / "images")], self.root / "lists", name="it", num_states=2, memory_sizes=[4],
                   relative_to=self.root)  # fmt: skip
        for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
            Image.fromarray(images[0]).convert("RGB").save(self.root / f"image.{kind}")
        parameters = {"out_dir": "x", "num_states": 2, "learning_rate": 0.1, "run": "mine"}
        jobs = [Job("03_dual_memory_analysis", "mine", parameters, swept={"num_states": 2}, combinations=("one",))]
        jobs = [dataclasses.replace(job, parameters=job.parameters | {"out_dir": str(study)}) for job in jobs]
        records.write_plan(study, Grid("g", "a grid"), (), jobs, ["il2m", "run", "g"])
        records.write_record(jobs[0], records.FAILED, code="c", reason="why", seconds=1.0)
        (study / "mine" / "progress.json").write_text('{"stage": "base", "where": "state 1", "seconds_left": 3.5}')
        write_checkpoint(self.root / "it.checkpoint", {"a": 1}, {"epoch": 3, "losses": [0.5, 0.25]})
        (self.root / "scores").write_text("".join(f"{i}.25 -{i}e-1 +.5 7\n" for i in range(9)))
        (self.root / "the.lst").write_text("".join(f"train/class {i % 4}/{i}.png {i % 4}\n" for i in range(12)))


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def grid(rng: random.Random, folder: Path) -> None:
    text = b"extends: other.yaml\ndescription: it\nparameters: &p {num_states: [2, 3], learning_rate: 1e-2}\n"
    text += b"combinations:\n  a: {epochs: 3}\n  b: {<<: *p, epochs: 4, class_order: [[0, 1], [1, 0]]}\n"
    _file(folder, "other.yaml", b"parameters: {memory_size: 20, dataset: glyphs}\n")
    one = read_grid(_file(folder, "it.yaml", _damaged_values(rng, text)))
    all_settings(one, DEFAULTS), swept_names(one, DEFAULTS)


def _damaged_values(rng: random.Random, text: bytes) -> bytes:
    """The same, or only one of its values another."""
    values = list(re.finditer(rb"(?<=[ \[=])[\w.]+(?=[],}\n]|$)", text))
    if rng.random() < 0.4 or not values:
        return damaged(rng, text)
    start, stop = rng.choice(values).span()
    return text[:start] + rng.choice([*ODD_BYTES, b"2", b"1e-3", b"[1, 2, 3]", b"small", b"1.0"]) + text[stop:]


def overrides(rng: random.Random, folder: Path) -> None:
    name = rng.choice([*PARAMETERS, "nothing"])
    value = rng.choice([b"3", b"0.1", b"[0, 1, 2]", b"true", b"glyphs", b"{a: 1}", b"[[1, 2], [2, 1]]", b"1e-4"])
    text = os.fsdecode(_damaged_values(rng, name.encode() + b"=" + value)).replace("\0", "")
    all_settings(Grid("g").overridden(read_overrides([text])), DEFAULTS)


def image_list(rng: random.Random, folder: Path) -> None:
    read_image_list(_file(folder, "l", damaged(rng, (folder / "the.lst").read_bytes()))).paths(folder)


def scores(rng: random.Random, folder: Path) -> None:
    for _ in read_scores(_file(folder, "s", damaged(rng, (folder / "scores").read_bytes())), 4):
        pass


def mean_std(rng: random.Random, folder: Path) -> None:
    text = b"mine:mean=[0.485, 0.456, 0.406];std=[0.229, 0.224, 0.225]\nother:mean=[0.5];std=[0.25]\n"
    read_mean_std(_file(folder, "m", damaged(rng, text)), rng.choice(["mine", "other"]))


def layout(rng: random.Random, folder: Path) -> None:
    split = folder / "lists" / "it" / "S~2"
    path = rng.choice(sorted(path for path in split.rglob("*") if path.is_file()))
    with _replaced(path, lambda content: damaged(rng, content)):
        load_lists(split, folder)


def scores_npz(rng: random.Random, folder: Path) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    path = folder / f"state{rng.choice((1, 2))}.npz"
    with _replaced(path, lambda content: _damaged_npz(rng, content)):
        import_scores([folder / "state1.npz", folder / "state2.npz"], folder / "out")


def images_npz(rng: random.Random, folder: Path) -> None:
    content = _damaged_npz(rng, (folder / "images.npz").read_bytes())
    load_dataset(str(_file(folder, "it.npz", content)), folder)


def _damaged_npz(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.4:
        return damaged(rng, content)
    with np.load(io.BytesIO(content)) as archive:
        return npz(changed_arrays(rng, dict(archive)))


def image(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.glob("image.*")))
    with _replaced(path, lambda content: damaged(rng, content)):
        read_all(ImageFiles(np.array([str(path)], dtype=np.dtypes.StringDType()), image_size=8, num_workers=0))


@contextlib.contextmanager
def _replaced(path: Path, change: Callable[[bytes], bytes] = lambda content: content) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(change(content))
    try:
        yield
    finally:
        path.write_bytes(content)


def _damaged_json(rng: random.Random, path: Path, sign: Callable[[dict], None] = lambda info: None) -> bytes:
    """Its bytes damaged; or its values changed, and its checksum made to fit, as one would who means harm."""
    if rng.random() < 0.3:
        return damaged(rng, path.read_bytes())
    info = changed(rng, json.loads(path.read_bytes()))
    with contextlib.suppress(Exception):  # what can't be signed goes unsigned
        sign(info)
        if "checksum" in info:
            rewrite_checked(path, info)
            return path.read_bytes()
    return dumped(rng, info)


def config(rng: random.Random, folder: Path) -> None:
    def sign(info: dict) -> None:
        info["hash"] = short_hash(info["identity"])

    path = folder / "study" / "mine" / "config.json"
    with _replaced(path):
        path.write_bytes(_damaged_json(rng, path, sign))
        for run in [*find_runs(folder / "study"), Run(folder / "study" / "mine")]:
            repr(run), run.class_names, run.label, run.memory_size, run.missing_states, run.notes, run.base
            run.statistics(STATES), results_table(run, methods=("FT",))


def state(rng: random.Random, folder: Path) -> None:
    path = folder / "study" / "mine" / "state_02" / "state.json"
    with _replaced(path):
        path.write_bytes(_damaged_json(rng, path))
        run = Run(folder / "study" / "mine")
        for name in run.state(2).array_names:
            run.state(2).array(name)
        for kind in ("raw", "softmax"):
            run.statistics(2, kind)
        results_table(run, methods=("FT", "IL2M"))


def state_array(rng: random.Random, folder: Path) -> None:
    """An array's file damaged, and its hash made to fit."""
    where = folder / "study" / "mine" / "state_02"
    path = rng.choice(sorted(where.glob("*.npy")))
    with _replaced(path, lambda content: damaged(rng, content)), _replaced(where / "state.json"):
        info = json.loads((where / "state.json").read_text())
        info["files"][path.name] = file_hash(path)
        rewrite_checked(where / "state.json", info)
        results_table(Run(folder / "study" / "mine"), methods=("FT", "IL2M"))


def record(rng: random.Random, folder: Path) -> None:
    path = next((folder / "study" / "jobs").glob("*.json"))
    with _replaced(path, lambda content: _damaged_json(rng, path)):
        records.read_records(folder / "study"), jobs_table(folder / "study")
        for job in (job for plan in records.read_plans(folder / "study") for job in plan["jobs"]):
            records.jobs_to_do([job], records.read_records(folder / "study"), PROJECT / "notebooks")


def plan(rng: random.Random, folder: Path) -> None:
    path = folder / "study" / "plans" / "g.json"
    with _replaced(path, lambda content: _damaged_json(rng, path)):
        plans = records.read_plans(folder / "study")
        jobs_table(folder / "study", plans)


def parquet(rng: random.Random, folder: Path) -> None:
    path = folder / "study" / "mine" / "results.parquet"

    def change(content: bytes) -> bytes:
        if rng.random() < 0.7:
            return damaged(rng, content)
        table = read_results(path)
        column = rng.choice(list(table))
        other = table.assign(**{column: rng.choice([1, "x", None])})
        other = rng.choice([table, other, other, table.drop(columns=column), table.iloc[: rng.randrange(3)]])
        other.attrs = table.attrs if rng.random() < 0.7 else changed(rng, table.attrs)
        with contextlib.suppress(Exception):  # what can't be written stays as it was
            save_results(other, path.parent)
        return path.read_bytes()

    with _replaced(path, change):
        results = collect_results(folder / "study")
        means_table(results), summary(results), mean_results(results)


def progress(rng: random.Random, folder: Path) -> None:
    path = folder / "study" / "mine" / "progress.json"
    with _replaced(path, lambda content: _damaged_json(rng, path)):
        read_progress(path.parent)


def checkpoint(rng: random.Random, folder: Path) -> None:
    with _replaced(folder / "it.checkpoint", lambda content: damaged(rng, content)):
        read_checkpoint(folder / "it.checkpoint", {"a": 1})


NOTEBOOK = json.loads((PROJECT / "notebooks" / "02_fine_tuning.ipynb").read_bytes())


def notebook_cell(rng: random.Random, folder: Path) -> None:
    cell = next(cell for cell in NOTEBOOK["cells"] if "parameters" in cell["metadata"].get("tags", []))
    match rng.randrange(3):
        case 0:
            content = damaged(rng, json.dumps({"cells": [cell]}).encode())
        case 1:
            content = dumped(rng, changed(rng, {"cells": [cell]}))
        case _:
            source = damaged(rng, "".join(cell["source"]).encode()).decode(errors="replace")
            content = json.dumps({"cells": [cell | {"source": source}]}).encode()
    notebook_parameters(_file(folder, "it.ipynb", content))


def plugin_name(rng: random.Random, folder: Path) -> None:
    name = os.fsdecode(damaged(rng, rng.choice([b"no_such.py", b"il2m_no_such", b"il2m_no.such.one"])))
    plugin_hash(name)
    if name.endswith(".py"):
        load_plugin(name)


def plugin_file(rng: random.Random, folder: Path) -> None:
    """Its text cut or damaged where that makes no code that does anything."""
    text = b"NAME = 'a method'\nVALUES = [1, 2, 3]\n\n\ndef one(frozen):\n    return frozen.scores\n"
    load_plugin(str(_file(folder, "it.py", b"if False:\n    " + damaged(rng, text).replace(b"\n", b"\n    "))))


def numbers(rng: random.Random, folder: Path) -> None:
    numbers = [os.fsdecode(damaged(rng, rng.choice([b"1", b"10", b"2,3,4"]))) for _ in range(4)]
    words = ["rectify", "a", "b", "c", "d", *numbers[:3]]
    if rng.random() < 0.5:
        words = ["lists", "a", "--out", "b", "--name", "c"]
        words += ["-K", numbers[0], "-S", numbers[1], "--state-sizes", numbers[2]]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            PARSER.parse_args(words)
    except SystemExit as end:
        raise InputError(f"exit code {end.code}") from None


READERS = {
    "grids": grid, "-p": overrides, "image lists": image_list, "score files": scores, "mean/std file": mean_std,
    "layout of lists": layout, "scores .npz": scores_npz, "images .npz": images_npz, "image files": image,
    "config.json": config, "state.json": state, "a state's arrays": state_array, "job records": record, "plans": plan,
    "results.parquet": parquet, "progress.json": progress, "checkpoints": checkpoint,
    "a notebook's parameters": notebook_cell, "plugin names": plugin_name, "plugin files": plugin_file,
    "command-line numbers": numbers,
}  # fmt: skip

SHARE = {  # of those that take longer, fewer inputs than of others
    "results.parquet": 0.1, "scores .npz": 0.5, "config.json": 0.5, "state.json": 0.5, "a state's arrays": 0.5,
    "job records": 0.5, "progress.json": 0.5, "layout of lists": 0.5,
}  # fmt: skip


# the run


class Fault(Exception):
    """What a reader must not do."""


def guard(folder: Path) -> list[str]:
    """Take down what this process does beside reading, from now on: code run, processes started, files changed outside
    ``folder``."""
    done: list[str] = []
    allowed = (str(folder), os.devnull)

    def watch(event: str, arguments: tuple) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            done.append(f"{event} {arguments!r:.200}")
        elif event == "pickle.find_class" and arguments[0] not in ("collections", "torch._utils"):
            done.append(f"unpickled {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                check("open", arguments[0])
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"):
            check(event, arguments[1 if event in ("os.rename", "os.link", "os.symlink") else 0])

    def check(event: str, path: Any) -> None:
        if isinstance(path, str | bytes) and not os.path.abspath(os.fsdecode(path)).startswith(allowed):
            done.append(f"{event} {path!r:.200}")

    sys.addaudithook(watch)
    return done


def _too_long(*_: object) -> None:
    raise Fault(f"took longer than {SECONDS} seconds")


@dataclasses.dataclass
class Feeding:
    """What the process that feeds a reader and the one that looks on have in common."""

    name: str
    seed: int
    folder: Path
    at: Any  # the number of the input under way
    counts: Any  # accepted, refused, faults

    def feed(self, numbers: range) -> None:
        """In a process of its own: inputs one after another."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="fed-"))
        shutil.copytree(self.folder / "seeds", folder, dirs_exist_ok=True)
        os.chdir(folder)
        tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
        pd.Series(["text"] * 1000, dtype="str")  # Arrow reserves a gigabyte of addresses when it is first used
        resource.setrlimit(resource.RLIMIT_AS, (_bytes_now() + BYTES,) * 2)
        signal.signal(signal.SIGALRM, _too_long)
        done = guard(folder)
        for number in numbers:
            self.at.value = number
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            refused, fault = self._outcome(random.Random(f"{self.name} {self.seed} {number}"), folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if fault := fault or "\n".join(done):
                self.keep(fault)
            else:
                self.counts[refused] += 1
            done.clear()
        shutil.rmtree(folder, ignore_errors=True)

    def _outcome(self, rng: random.Random, folder: Path) -> tuple[bool, str]:
        """Whether an input was refused, or warned of; and the fault, if there was one."""
        try:
            with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("always")
                READERS[self.name](rng, folder)
            return bool(caught), ""
        except InputError as error:
            length = len(str(error))
            return True, f"an error of {length} characters" if length > LONGEST else ""
        except BaseException:
            return True, traceback.format_exc()

    def keep(self, what: str) -> None:
        """A fault, with the command that shows it again."""
        self.counts[2] += 1
        (self.folder / "faults").mkdir(exist_ok=True)
        path = self.folder / "faults" / f"{re.sub('[^a-z]+', '-', self.name.lower())}-{self.at.value}.txt"
        again = f"python tests/trust/fuzz.py 1 --only {self.name!r} --seed {self.seed} --first {self.at.value}"
        path.write_text(f"{again}\n{what}\n", errors="backslashreplace")


def _bytes_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(total: int, *, seed: int, folder: Path, only: tuple[str, ...] = (), first: int = 0) -> pd.DataFrame:
    """Feed about ``total`` inputs, see SHARE; a row per reader: accepted, refused, faults, seconds.

    Faults are kept in ``folder / "faults"``. only: names of readers. first: the number to begin with.
    """
    context = multiprocessing.get_context("fork")
    (folder / "seeds").mkdir(parents=True)
    maker = context.Process(target=Seeds(folder / "seeds").make)
    maker.start(), maker.join()
    assert maker.exitcode == 0, "the valid inputs could not be made"
    names, rows = [name for name in READERS if not only or name in only], {}
    each = total / sum(SHARE.get(name, 1) for name in names)
    for name in names:
        feeding = Feeding(name, seed, folder, context.Value("q", -1), context.Array("q", 3))
        numbers, started = range(first, first + math.ceil(each * SHARE.get(name, 1))), time.monotonic()
        while numbers:
            child = context.Process(target=feeding.feed, args=(numbers,))
            child.start()
            _wait(child, feeding.at)
            if child.exitcode == 0:
                break
            feeding.keep(f"its process ended with {child.exitcode}, or was stuck")
            numbers = range(feeding.at.value + 1, numbers.stop)
        rows[name] = [*feeding.counts, round(time.monotonic() - started, 1)]
    return pd.DataFrame(rows, index=["accepted", "refused", "faults", "seconds"]).T.rename_axis("reader")


def _wait(child: multiprocessing.Process, at: Any) -> None:
    """Until it has ended; one that is stuck at an input, where no signal reaches it, is killed."""
    seen, since = None, time.monotonic()
    while child.is_alive():
        child.join(0.5)
        if at.value != seen:
            seen, since = at.value, time.monotonic()
        elif time.monotonic() - since > 4 * SECONDS:
            child.kill()
            child.join()


def kinds_of_faults(folder: Path) -> Counter[tuple[str, str]]:
    """How often the faults kept in a folder happened: the reader and the place in the library, and the error's type."""
    kinds: Counter[tuple[str, str]] = Counter()
    for path in folder.iterdir():
        text, reader = path.read_text(), path.stem.rpartition("-")[0]
        frames = re.findall(r'File ".*/(il2m/.*\.py)", line (\d+)', text)
        errors = re.findall(r"^([\w.]+)(?::|$)", text.partition("Traceback")[2], re.MULTILINE)
        kinds[f"{reader} {':'.join(frames[-1]) if frames else ''}", errors[-1] if errors else text[-80:].strip()] += 1
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", type=int, nargs="?", default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], choices=READERS, help="this reader; may be repeated")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to see one again")
    parser.add_argument("--table", type=Path, help="also write the table here, as CSV")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="il2m-fuzz-"))
    table = fuzz(args.inputs, seed=args.seed, folder=folder, only=tuple(args.only), first=args.first)
    if args.table:
        table.to_csv(args.table)
    print(table.astype({"accepted": int, "refused": int, "faults": int}).to_string())
    accepted, refused, faults, _ = map(int, table.sum())
    print(f"{accepted + refused + faults:,} inputs, {faults} faults")
    if faults:
        for (place, error), count in kinds_of_faults(folder / "faults").most_common():
            print(f"{count:6} {place}: {error}")
        print(f"faults: {folder / 'faults'}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
