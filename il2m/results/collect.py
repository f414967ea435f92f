"""The results of all runs in a study's folder."""

from pathlib import Path

import pandas as pd

from il2m.errors import InputError
from il2m.methods.registry import METHODS, missing_for
from il2m.parameters import check_parameters
from il2m.results.description import run_description
from il2m.results.table import results_table
from il2m.study.find import find_joint_runs, find_runs
from il2m.study.runs import RESULTS_FILE, Run


def collect_results(out_dir: str | Path, *, undefined: str = "keep") -> pd.DataFrame:
    """The results of all finished runs in a study's folder, of every method that each can give, and of its joint
    trainings (method ``joint``, raw scores, the base's seeds).

    What notebook 04 stored beside a run is read and not computed again; ``undefined`` is for the others. A copy of a
    run counts as one with it. Raises InputError if there are no runs.
    """
    check_parameters({"undefined": undefined})
    runs = {run.config["hash"]: run for run in find_runs(out_dir)}
    if not runs:
        raise InputError(
            f"no finished fine-tuning run in {Path(out_dir).absolute()}: run base training and fine-tuning first."
        )
    tables = []
    for run in runs.values():
        table = _stored_results(run)
        tables.append(results_table(run, methods=METHODS, undefined=undefined) if table is None else table)
    for joint in find_joint_runs(out_dir):
        table = results_table(joint, methods=("FT",)).query("score_kind == 'raw'")
        tables.append(table.assign(method="joint", train_seed=joint.base.identity["train_seed"]))
    return pd.concat(tables, ignore_index=True)


def _stored_results(run: Run) -> pd.DataFrame | None:
    """The table beside the run, if it can be read, describes this run as this library does, and has every registered
    method that the run can give, of the same source."""
    try:
        table = pd.read_parquet(run.folder / RESULTS_FILE)
        about = run_description(run)
        described = table[list(about)].drop_duplicates().to_dict("records")
    except (OSError, ValueError, KeyError):  # ValueError: pyarrow's errors
        return None
    same = len(described) == 1 and all(
        described[0][name] == value or (value is None and pd.isna(described[0][name])) for name, value in about.items()
    )
    stored = table.attrs.get("methods", {})
    current = all(
        stored[name] == code if name in stored else missing_for(run, name) for name, code in METHODS.codes.items()
    )
    return table if same and current and table["state"].nunique() == run.states.num_states else None
