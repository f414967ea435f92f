"""A run's numbers as a table: one row per state and method, which is all that tables, plots and reports read."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jinja2 import Template

from il2m.errors import InputError
from il2m.memory.statistics import as_array, own_and_top
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import FORMS, PARTS, count_undefined, undefined_in_words
from il2m.methods.registry import METHODS, method_scores, missing_for
from il2m.parameters import SCORE_KINDS, check_parameters, concerning
from il2m.results import metrics
from il2m.results.description import run_description
from il2m.rules import check_choice
from il2m.study.runs import RESULTS_FILE, Run
from il2m.system.files import replacing
from il2m.system.hashes import short_hash
from il2m.system.machine import library_hash

_WORDS = Template(Path(__file__).with_name("summary.j2").read_text(), trim_blocks=True).module


def results_table(
    run: Run, *, methods: Iterable[str] = tuple(PARTS), undefined: str = "keep", details: bool = False
) -> pd.DataFrame:
    """One row per state, method and score kind: accuracies and shares of predictions, as unrounded fractions.
    ``top1_past`` and ``top1_new`` are the top-1 accuracies on images of past and of new classes (NaN where the state
    has no past classes); ``predicted_new``, ``true_new`` the shares of images predicted as, and truly of, a new class;
    ``images_held`` the exemplars that the state was trained on (NaN where it has none to have, or does not say);
    ``undefined_past`` the number of past classes whose ratio in Eq. 1 is undefined (NaN for methods without one);
    ``undefined`` the policy for these; ``forgetting, backward_transfer`` of past states' classes, see metrics.
    methods: names in METHODS; those that the run can't give are left out (registry.missing_for says why).
    details: more columns: kinds of errors (metrics.error_breakdown), and what became of fine-tuning's ranks
    (metrics.rank_changes). ``attrs["methods"]`` of the table: source hashes of the methods that users registered."""
    about = run_description(run)
    methods = [method for method in methods if not missing_for(run, method)]
    kinds = [(method, kind) for kind in SCORE_KINDS for method in methods if kind in METHODS[method].score_kinds]
    rows, hits, class_states = [], {key: [] for key in kinds}, []
    for state in range(1, run.states.num_states + 1):
        stored, num_past = run.state(state), run.states.num_past(state)
        labels = np.asarray(stored.array("val_labels"))
        class_states.append(run.states.of_class[labels])
        held = len(stored.array("exemplar_labels")) if "exemplar_labels" in stored.array_names else np.nan
        frozen = {kind: Frozen.of_run(run, state, score_kind=kind, undefined=undefined) for kind in SCORE_KINDS}
        plain = metrics.ranks(frozen["raw"].scores, labels) if details else None
        for method, kind in kinds:
            scores = METHODS[method](frozen[kind])
            image_ranks = metrics.ranks(scores, labels)
            row = about | {"state": state, "num_classes": run.states.num_seen(state), "images_held": held}
            row |= {"method": method, "score_kind": kind} | _accuracies(scores, image_ranks, labels, num_past)
            hits[method, kind].append(image_ranks == 0)
            row |= {"forgetting": np.nan, "backward_transfer": np.nan}  # known once all states are
            row["undefined_past"] = count_undefined(frozen[kind].statistics, method) if method in FORMS else np.nan
            row["undefined"] = undefined
            if details:
                row |= metrics.error_breakdown(metrics.predictions(scores), labels, num_past)
                row |= metrics.rank_changes(plain, image_ranks)
            rows.append(row)
    matrices = {key: metrics.accuracy_matrix(hits[key], class_states) for key in kinds}
    for name in ("forgetting", "backward_transfer"):
        by_state = {key: getattr(metrics, name)(matrix) for key, matrix in matrices.items()}
        for row in rows:
            row[name] = by_state[row["method"], row["score_kind"]][row["state"] - 1]
    table = pd.DataFrame(rows).astype(dict.fromkeys(concerning("distillation")[1:] if rows else (), float))
    table.attrs |= provenance_of(run, undefined)
    table.attrs["methods"] = {method: code for method, code in METHODS.codes.items() if method in methods}
    return table


def provenance_of(run: Run, undefined: str) -> dict[str, Any]:
    """What a table of a run has to be made from and by, to be what would come out now."""
    states = {str(state): digest for state, digest in run.digests.items()}
    made_from = {"run": run.config["hash"], "about": short_hash(run_description(run)), "states": states}
    return made_from | {"undefined": undefined, "code": library_hash("memory", "methods", "results")}


def evaluate(scores: Any, labels: Any, state_sizes: Sequence[int]) -> dict[str, float]:
    """Shares of images at one state, by the names of results_table. scores: (n, C), over the classes seen so far: C
    tells the state. labels: (n,) in learning order. Both: arrays, tensors or lists. Raises InputError for others.

    >>> scores, labels, sizes = [[3.0, 1.0, 4.0, 0.0], [0.0, 1.0, 3.0, 1.0]], [0, 2], [2, 2]
    >>> rectified = il2m.rectify(scores, [4, 4, 5, 5], [2, 2], [6, 6], sizes)
    >>> [il2m.evaluate(each, labels, sizes)["top1"] for each in (scores, rectified)]
    [0.5, 1.0]
    """
    scores, labels = as_array(scores, "scores"), as_array(labels, "labels")
    seen = [0, *np.cumsum(as_array(state_sizes, "state_sizes")).tolist()]
    fits = scores.ndim == 2 and scores.shape[1] in seen[1:] and labels.shape == scores.shape[:1]
    if not fits or not {*labels.tolist()} <= {*range(scores.shape[1])}:
        what = f"(n, C), C one of {seen[1:]}, and whole labels (n,) from 0 to C - 1"
        raise InputError(f"scores {scores.shape} and labels {labels.shape}, {np.unique(labels)[:20]}: expected {what}.")
    num_past, labels = seen[seen.index(scores.shape[1]) - 1], labels.astype(np.int64)
    return _accuracies(scores, metrics.ranks(scores, labels), labels, num_past)


def _accuracies(scores: np.ndarray, image_ranks: np.ndarray, labels: np.ndarray, num_past: int) -> dict[str, float]:
    past, new, predicted = image_ranks[labels < num_past], image_ranks[labels >= num_past], metrics.predictions(scores)
    shares = {"top1": metrics.top_k(image_ranks, 1), "top5": metrics.top_k(image_ranks, 5)}
    shares |= {"top1_past": metrics.top_k(past, 1), "top1_new": metrics.top_k(new, 1)}
    shares["predicted_new"] = metrics.share_new(predicted, num_past)
    return shares | {"true_new": metrics.share_new(labels, num_past)}


def bias_table(run: Run, *, method: str = "FT", score_kind: str = "raw", undefined: str = "keep") -> pd.DataFrame:
    """The prediction bias of a method's validation scores, one row per state (the index). ``past_score, new_score``:
    mean score of the true class over images of past and of new classes (the paper's Fig. 1; NaN without past classes);
    ``confidence``: mu(M_b); ``predicted_new, true_new``: shares of images; and those of metrics.error_breakdown."""
    rows = []
    for state in range(1, run.states.num_states + 1):
        scores = method_scores(run, state, method, score_kind=score_kind, undefined=undefined)
        labels, num_past = np.asarray(run.state(state).array("val_labels")), run.states.num_past(state)
        own, predicted = own_and_top(scores, labels)[0], metrics.predictions(scores)
        past, new = own[labels < num_past], own[labels >= num_past]
        row = {"state": state, "past_score": past.mean() if num_past else np.nan, "new_score": new.mean()}
        row["confidence"] = run.statistics(state, score_kind).confidences[-1]
        row["predicted_new"], row["true_new"] = (metrics.share_new(each, num_past) for each in (predicted, labels))
        rows.append(row | metrics.error_breakdown(predicted, labels, num_past))
    return pd.DataFrame(rows).set_index("state")


def confusion_by_state(run: Run, state: int, *, method: str = "FT", score_kind: str = "raw") -> np.ndarray:
    """(state, state) shares: metrics.state_confusion of a method's validation predictions at ``state``."""
    predicted = metrics.predictions(method_scores(run, state, method, score_kind=score_kind))
    return metrics.state_confusion(predicted, np.asarray(run.state(state).array("val_labels")), run.states.of_class)


def series(table: pd.DataFrame, method: str, column: str = "top1", score_kind: str = "raw") -> list[float]:
    """A method's values by state, (S,), from the rows of one run. column: of numbers."""
    check_choice("method", method, [*table["method"].unique()])
    check_choice("column", column, [*table.select_dtypes("number")])
    check_parameters({"score_kind": score_kind})
    if table["run"].nunique() > 1:
        raise InputError(f"rows of {table['run'].nunique()} runs: choose those of one, table[table['run'] == ...].")
    rows = table[(table["method"] == method) & (table["score_kind"] == score_kind)]
    return rows.sort_values("state")[column].tolist()


def means_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1 and top-5 over states 2..S and over 1..S, one row per run, method and score kind."""
    keys = ["dataset", "run", "distillation", "method", "score_kind"]
    groups = table.sort_values("state", kind="stable").groupby(keys, sort=False, dropna=False)
    wanted = itertools.product(("top1", "top5"), (2, 1))
    means = {f"{name}, states {first}..S": groups[name].agg(metrics.mean_over_states, first) for name, first in wanted}
    return pd.DataFrame(means).reset_index()


def summary(table: pd.DataFrame, methods: Sequence[str] = ()) -> str:
    """The rows of one run (raw scores) in the shape of the authors' summary, for a person: four decimals.
    methods: else FT and IL2M, which is not defined without exemplars."""
    methods = methods or [method for method in ("FT", "IL2M") if method in set(table["method"])]
    about = {name: known(value) for name, value in table.iloc[0].items()}
    tops = {method: [series(table, method, column) for column in ("top1", "top5")] for method in methods}
    return _WORDS.summary(about, tops, metrics.mean_over_states, undefined_note(table))


def files_summary(top1: Mapping[str, Sequence[float]], top5: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of the authors' summary. top1, top5: method -> accuracies by state, (S,)."""
    return _WORDS.of_files(top1, top5, metrics.mean_over_states).splitlines()


def known(value: Any) -> Any:
    """A value of the results table for a person: unknown for None, on or off for a switch."""
    names = {True: "on", False: "off"} if isinstance(value, bool | np.bool) else {}
    return "unknown" if pd.isna(value) else names.get(value, value)


def undefined_note(table: pd.DataFrame, score_kind: str = "raw") -> str:
    """undefined_in_words of the IL2M rows of one run; ``""`` if there are none, or no counts in a table of before."""
    rows = table[(table["method"] == "IL2M") & (table["score_kind"] == score_kind)].sort_values("state")
    if rows.empty or "undefined_past" not in rows or rows["undefined_past"].isna().any():
        return ""
    past = [0, *rows["num_classes"][:-1]]
    counts = dict(zip(rows["state"], zip(rows["undefined_past"].astype(int), past, strict=True), strict=True))
    return undefined_in_words(counts, score_kind=score_kind, undefined=rows["undefined"].iloc[0])


def save_results(table: pd.DataFrame, folder: Path) -> Path:
    """Write ``results.parquet`` into ``folder`` with a checksum in its ``attrs``, all or nothing; returns its path."""
    target = folder / RESULTS_FILE
    table.to_parquet(buffer := io.BytesIO(), index=False)
    stored = pd.read_parquet(buffer)  # as it will be read: of whole numbers and None become fractions
    stored.attrs["checksum"] = _checksum(stored)
    with replacing(target, "wb") as file:
        stored.to_parquet(file, index=False)
    return target


def read_results(path: Path) -> pd.DataFrame:
    """A table that save_results wrote. Raises InputError if it can't be read, or is not as it was written."""
    try:
        table = pd.read_parquet(path)
        intact = table.attrs.pop("checksum", None) == _checksum(table)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException, MemoryError) as error:
        raise InputError(f"{path} can't be read ({type(error).__name__}); run notebook 04 again.") from None
    if not intact:
        raise InputError(f"{path} is not as it was written (or older than 0.2); run notebook 04 again.")
    return table


def _checksum(table: pd.DataFrame) -> str:
    """Hash of a table's values, columns, types and attrs."""
    values = pd.util.hash_pandas_object(table, index=False).tolist()
    kinds = [[name, str(kind)] for name, kind in table.dtypes.items()]  # in order, which says whose values are whose
    return short_hash([values, kinds, {name: value for name, value in table.attrs.items() if name != "checksum"}])


def state_accuracies(run: Run, method: str, *, score_kind: str = "raw", undefined: str = "keep") -> np.ndarray:
    """Top-1 of ``method`` on the classes of each state (row) at each state of the model (column), (S, S)."""
    hits, of_state = [], []
    for state in range(1, run.states.num_states + 1):
        labels = run.state(state).array("val_labels")
        scores = method_scores(run, state, method, score_kind=score_kind, undefined=undefined)
        hits.append(metrics.ranks(scores, labels) == 0)
        of_state.append(run.states.of_class[labels])
    return metrics.accuracy_matrix(hits, of_state)
