"""The results of all runs in a study's folder."""

import warnings
from pathlib import Path

import pandas as pd

from il2m.errors import InputError
from il2m.methods.registry import METHODS, missing_for
from il2m.parameters import check_parameters
from il2m.results.table import provenance_of, read_results, results_table
from il2m.study.find import distinct, find_joint_runs, find_runs
from il2m.study.runs import RESULTS_FILE, Run


def collect_results(out_dir: str | Path, *, undefined: str = "") -> pd.DataFrame:
    """The results of all finished runs in a study's folder, of every method that each can give, and of its joint
    trainings (method ``joint``, raw scores, the base's seeds). What notebook 04 stored beside a run is read, and
    computed again where it is damaged, or made from other states or by other code; ``attrs["computed"]``: name of each
    such run -> why. A copy of a run counts as one with it. Damaged runs are left out, with a warning. undefined: a
    policy for all; ``""``: each table's own, "keep" where none is. Raises InputError if none is left."""
    if undefined:
        check_parameters({"undefined": undefined})
    tables, computed, policies, states = [], {}, {}, {}
    for run in [*distinct(find_runs(out_dir)), *find_joint_runs(out_dir)]:
        try:
            if run.kind == "joint":
                table = results_table(run, methods=("FT",)).query("score_kind == 'raw'")
                tables.append(table.assign(method="joint", train_seed=run.base.identity["train_seed"]))
                continue
            table, why = stored_results(run, undefined)
            if why:
                policy = undefined or ("keep" if table is None else table.attrs["undefined"])
                table = results_table(run, methods=METHODS, undefined=policy)
                computed[run.name] = why
            tables.append(table)
            policies[run.name], states[run.name] = table.attrs["undefined"], table.attrs["states"]
        except InputError as error:  # of a state's files, which are read here first
            warnings.warn(f"left out {run.name}: {error}", stacklevel=2)
    if not policies:
        what = f"no finished fine-tuning run in {Path(out_dir).absolute()} that can be read"
        raise InputError(f"{what}: run base training and fine-tuning first; il2m verify tells what is damaged.")
    collected = pd.concat(tables, ignore_index=True)
    collected.attrs = {"computed": computed, "undefined": policies, "states": states}
    return collected


def stored_results(run: Run, undefined: str = "") -> tuple[pd.DataFrame | None, str]:
    """The table that notebook 04 stored beside a run, and why it is not what would come out now: ``""`` if it is. None
    for a table that is not there or damaged. undefined: a policy that it has to have, ``""`` for any."""
    path = run.folder / RESULTS_FILE
    if not path.exists():
        return None, "notebook 04 was not run"
    try:
        table = read_results(path)
    except InputError:
        return None, "its table is damaged, or older than 0.2"
    made, methods = table.attrs, table.attrs.get("methods", {})
    expected = provenance_of(run, undefined or made.get("undefined", "keep"))
    if any(made.get(name) != expected[name] for name in ("run", "about", "states")):
        is_its_own = made.get("run") == expected["run"]  # another's is not asked for its policy
        return table if is_its_own else None, "its table is of another run or of other states"
    if made["undefined"] != expected["undefined"]:
        return table, f"its table is of undefined = {made['undefined']}"
    codes = METHODS.codes.items()
    known = all(methods[name] == code if name in methods else missing_for(run, name) for name, code in codes)
    return table, "" if known and made.get("code") == expected["code"] else "its table was made by other code"
