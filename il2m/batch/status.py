"""How a study stands, for a person: jobs by stage and status, what is under way, and what failed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd

from il2m.batch.live import stage_text
from il2m.batch.records import DONE, FAILED, RUNNING, STATUSES, jobs_table, read_plans
from il2m.errors import InputError

_MOST_REASONS = 20


def status_text(out_dir: Path) -> str:
    """Raises InputError for a folder into which no grid was run."""
    plans = read_plans(out_dir)
    table = jobs_table(out_dir, plans)
    if not plans:
        raise InputError(f"{out_dir}: no grid was run into this folder (il2m run GRID --out {out_dir}).")
    lines = [f"{out_dir}: {', '.join(dict.fromkeys(plan['grid'] for plan in plans))}"]
    counts = pd.crosstab(table["notebook"], table["status"]).reindex(columns=STATUSES, fill_value=0)
    lines.append(f"  {'':28}" + "".join(f"{status:>9}" for status in STATUSES))
    for notebook, row in counts.iterrows():
        lines.append(f"  {notebook:28}" + "".join(f"{row[status]:9}" for status in STATUSES))
    job_of = {job.name: job for plan in plans for job in plan["jobs"]}
    lines += [f"running: {stage_text(job_of[name])}" for name in table.loc[table["status"] == RUNNING, "job"]]
    reasons = table[table["reason"] != ""]
    lines += [f"{job.status}: {job.job}: {job.reason}" for job in reasons.iloc[:_MOST_REASONS].itertuples()]
    if len(reasons) > _MOST_REASONS:
        lines.append(f"... and {len(reasons) - _MOST_REASONS} more")
    if (table["status"] == FAILED).any():
        lines.append(f"each failed notebook, with its traceback: {out_dir / 'notebooks'}/*.failed.html")
    not_done = set(table.loc[table["status"] != DONE, "job"])
    for plan in plans:
        if not_done & {job.name for job in plan["jobs"]}:
            lines.append(f"to go on with {plan['grid']}: {shlex.join(plan['command'])}  (in {plan['folder']})")
    if other_code := int(table["other_code"].sum()):
        lines.append(f"{other_code} were done by other code: il2m run executes their notebooks again (stages are kept)")
    return "\n".join(lines)
