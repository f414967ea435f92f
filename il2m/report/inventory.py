"""What lies in a study's folder, as tables for its report: what was asked and how far it is, all runs, environments."""

import shlex
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from il2m.batch.records import FAILED, STATUSES
from il2m.notebook.catalogue import BASE, NOTEBOOKS
from il2m.report.overview import Study, in_words
from il2m.report.tables import WORDS, Link
from il2m.results import comparison
from il2m.results.description import run_description, unknown_in_words
from il2m.results.table import known, undefined_note

STAGES = dict(zip(("base", "fine-tuning", "analysis", "ablation"), NOTEBOOKS, strict=True))
_MOST_ROWS = 60  # beyond them a page is not read any more


def plans_table(study: Study) -> pd.DataFrame:
    """One row per grid that was run into the folder."""
    table = pd.DataFrame(study.plans, columns=["grid", "description", "made", "jobs", "command"])
    table = table.assign(jobs=table["jobs"].map(len), command=table["command"].map(shlex.join))
    return table.rename(columns={"description": "asks for"})


def stages_table(study: Study) -> pd.DataFrame:
    """One row per stage: how many jobs are done, under way, failed, blocked and missing, and how long they took."""
    rows = []
    for stage, notebook in STAGES.items():
        jobs = study.jobs[study.jobs["notebook"] == notebook]
        row = {"stage": stage, "planned": len(jobs)} | {s: int((jobs["status"] == s).sum()) for s in STATUSES}
        rows.append(row | {"seconds": jobs["seconds"].median()})
    return pd.DataFrame(rows)


def unfinished_table(study: Study, *statuses: str) -> pd.DataFrame:
    """The jobs that stand so: what they are, why, and a link to the notebook that failed; the first of many."""
    jobs = study.jobs[study.jobs["status"].isin(statuses)]
    rows = jobs.head(_MOST_ROWS).rename(columns={"swept": "of", "reason": "why"})
    rows = rows[["job", "grid", "of", "status", "why"]].to_dict("records")
    rows = [row | {"job": _page_link(study, row["job"], text=row["job"])} for row in rows]
    if len(jobs) > _MOST_ROWS:
        rows.append({"job": f"... and {len(jobs) - _MOST_ROWS} more: il2m status {shlex.quote(str(study.folder))}"})
    return pd.DataFrame(rows).fillna("")


def progress_in_words(study: Study) -> str:
    """How far the study is, as a sentence."""
    counts = study.jobs["status"].value_counts().to_dict()
    finished = sum(not run.missing_states for run in study.runs)
    return WORDS.progress(bool(study.plans), len(study.jobs), counts, STATUSES, len(study.runs), finished)


def _page_link(study: Study, job: str, *, text: str) -> Link | str:
    """To a job's page, of its failure first (an older notebook may have done well); plain text where there is none."""
    kinds = [(".html", ""), (".failed.html", " (failed)")]
    failed = study.jobs.loc[study.jobs["status"] == FAILED, "job"]
    for ending, note in reversed(kinds) if job in failed.to_numpy() else kinds:
        address = f"notebooks/{job}{ending}"
        if (study.folder / address).is_file():
            return Link(text + note, urllib.parse.quote(address))
    return text


def runs_table(study: Study) -> pd.DataFrame:
    """One row per run, finished or not: settings (``held``: images in memory, mean over states 2..S), mean top-1 and
    top-5 over states 2..S of FT and IL2M, and links to the pages of its notebooks."""
    means, held, attrs = {}, {}, {}
    if study.results is not None:
        attrs = study.results.attrs
        raw = comparison.mean_results(study.results).query("score_kind == 'raw'")
        means = raw.set_index(["run", "method"])[["top1", "top5"]].to_dict("index")
        later = study.results[study.results["state"] > 1].reindex(columns=["run", "images_held"])
        held = later.groupby("run")["images_held"].mean().to_dict()
    rows = []
    for run in study.runs:
        about = run_description(run)
        columns = {"S": about.pop("num_states"), "K": known(about.pop("memory_size"))}
        columns |= {"held": f"{held[run.name]:.0f}" if held.get(run.name, np.nan) >= 0 else ""}
        columns |= {"distillation": known(about.pop("distillation"))}
        columns |= {name.replace("_", " "): "-" if about[name] is None else about[name] for name in comparison.SEEDS}
        for method in ("FT", "IL2M"):
            columns |= {f"{method} top-{k}": means.get((run.name, method), {}).get(f"top{k}", np.nan) for k in (1, 5)}
        jobs = {stage: f"{name}-{run.base.name if name == BASE else run.name}" for stage, name in STAGES.items()}
        pages = [_page_link(study, job, text=stage) for stage, job in jobs.items()]
        columns["notebooks"] = [page for page in pages if isinstance(page, Link)]
        policy, computed = (attrs.get(name, {}).get(run.name, "") for name in ("undefined", "computed"))
        undefined = undefined_note(study.results[study.results["run"] == run.name]) if policy else ""
        columns["note"] = WORDS.note(run.missing_states, unknown_in_words(run), computed, undefined, policy)
        rows.append({"run": in_words(about, study.recipes)} | columns)
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).sort_values(list(rows[0])[:7], ignore_index=True)
    return table.drop(columns=[name for name in ("notebooks", "note") if not table[name].map(len).any()])


def environments_table(environments: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Environments (label -> provenance.environment()) side by side, one row per thing, packages last."""
    columns = {}
    for label, made in environments.items():
        git = made["git"]
        commit = f"{git['commit']}{' and changes' if git['changed'] else ''}" if git["commit"] else "unknown"
        about = {name: made[name] for name in ("python", "platform", "cpu", "cores", "memory_gb")}
        about |= {"gpus": ", ".join(made["gpus"]) or "none", "commit": commit}
        columns[label] = {name: str(value) for name, value in (about | made["packages"]).items()}
    return pd.DataFrame(columns).rename_axis("").reset_index()
