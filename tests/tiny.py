"""What many tests share: tiny images that can be learned, a study of them, and files that look untouched."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from il2m.batch import records
from il2m.batch.grids import Grid
from il2m.batch.jobs import Job
from il2m.exchange.importing import import_scores
from il2m.learning.networks import Classifier
from il2m.learning.training import Epoch, train
from il2m.methods.registry import METHODS
from il2m.notebook.catalogue import ABLATION
from il2m.notebook.pages import write_page
from il2m.parameters import FineTuning
from il2m.results.collect import collect_results
from il2m.results.table import results_table, save_results
from il2m.study.runs import Run
from il2m.system.hashes import write_sealed

PROJECT = Path(__file__).parents[1]

TINY_CLASSES = 6


def make_tiny_arrays() -> dict[str, np.ndarray]:
    """6 classes of grey 8 x 8 images, 12 to train and 5 to validate each: a pattern by class, and noise."""
    rng = np.random.default_rng(7)
    patterns = rng.uniform(40, 215, (TINY_CLASSES, 8, 8))
    arrays = {"class_names": np.array([f"class {c}" for c in range(TINY_CLASSES)])}
    for split, per_class in (("train", 12), ("test", 5)):
        labels = rng.permutation(np.repeat(np.arange(TINY_CLASSES), per_class))
        images = patterns[labels] + rng.normal(0, 30, (len(labels), 8, 8))
        arrays[f"x_{split}"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    return arrays


@dataclass(frozen=True)
class TinyStudy:
    """A finished study in ``out_dir``, and the parameters that made it; shared by tests, so never to be written to."""

    out_dir: Path
    base_parameters: dict[str, Any]
    fine_tuning_parameters: dict[str, Any]
    base: Run
    off: Run  # fine-tuning without distillation
    on: Run  # and with


def finish_by_hand(out: Path, before: Path | None = None) -> None:
    """Put beside the trained runs of a study what ``il2m run`` leaves there, without executing any notebook.

    before: where to keep what lies beside the runs as it is while the first of them is under way.
    """
    runs = [Run(path.parent) for path in sorted(out.glob("*/config.json"))]
    jobs = []
    for run in (run for run in runs if run.kind == "fine_tuning" and not run.missing_states):
        save_results(results_table(run, methods=METHODS), run.folder)
        job = Job(ABLATION, run.name, {"out_dir": str(out), "run": run.name})
        job.output.parent.mkdir(exist_ok=True)
        text = (PROJECT / "notebooks" / f"{ABLATION}.ipynb").read_text()
        job.output.write_text(text.replace("../runs/quickstart", f"{out}/{run.name}"))
        write_page(job.output, job.output.with_suffix(".html"), title="", hide_code=False)
        jobs.append(job)
        records.write_plan(out, Grid("tiny"), (), jobs, ["il2m", "run", "tiny"])
        records.write_record(job, records.RUNNING, code="")
        if before and len(jobs) == 1:
            save_results(collect_results(out).query("run == @run.name"), out)
            shutil.copytree(out, before, ignore=shutil.ignore_patterns("*-*[0-9a-f]", "imported_*"))
        records.write_record(job, records.DONE, code="")
    save_results(collect_results(out), out)


def import_states(run: Run, folder: Path) -> Run:
    """Scores of a run of ours, imported as if they came from elsewhere, and their results."""
    files = []
    for state in range(1, run.states.num_states + 1):
        stored, groups = run.state(state), ("val", "exemplar") if state > 1 else ("val",)
        arrays = {
            f"{group}_{what}": stored.array(f"{group}_{what}") for group in groups for what in ("scores", "labels")
        }
        files.append(folder.parent / f"{folder.name}_{state}.npz")
        np.savez(files[-1], state_sizes=run.states.sizes[:state], **arrays)
    imported = import_scores(files, folder, memory_size=run.memory_size)
    for file in files:
        file.unlink()
    save_results(results_table(imported, methods=METHODS), folder)
    return imported


def rewrite_checked(path: Path, info: dict[str, Any]) -> None:
    """Write a ``state.json`` or ``config.json`` as if the library had: for runs that hold other things than these. A
    state then does not say whose it is, as before version 0.2: all states of a run and its base have to be so."""
    write_sealed(path, {name: value for name, value in info.items() if name not in ("checksum", "origin")})


def kill_when_stalled(process: subprocess.Popen) -> None:
    """SIGKILL, in the middle of an epoch."""
    assert process.stdout.readline() == "stalled\n", process.stderr.read()
    process.kill()
    process.wait()


def train_with(
    model: Classifier, batches: Any, *, epochs: int, learning_rate: float, seed: int, **given: Any
) -> list[Epoch]:
    """train() with its settings given by name."""
    settings = FineTuning.given(values={name: given.pop(name) for name in [*given] if name in FineTuning.parameters()})
    return train(model, batches, settings, epochs=epochs, learning_rate=learning_rate, seed=seed, **given)
