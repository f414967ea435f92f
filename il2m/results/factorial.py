"""IL2M's factors in every combination, and what each of them adds."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from il2m.methods import rectify
from il2m.methods.frozen import Frozen
from il2m.methods.registry import missing_for
from il2m.parameters import SCORE_KINDS
from il2m.results.metrics import ranks, top_k
from il2m.study.runs import Run

_FACTORS = ("statistics", "undefined", "gate", "means", "confidence")


def factorial_table(run: Run) -> pd.DataFrame:
    """Every combination of IL2M's factors, averaged over the incremental states 2..S; one row per combination.
    Columns: ``score_kind``, ``statistics`` (current means of ``exemplars``, or of ``all`` past training images: an
    oracle), ``undefined`` (policy), ``gate, means, confidence`` (bool); ``top1, top5`` and their ``gain_top1,
    gain_top5`` over fine-tuning; ``undefined_classes``, whose ratio is undefined, and ``undefined_images``, whose
    rectification met such a class, summed over states. Combinations that can't differ from another are left out."""
    rows = []
    for score_kind in SCORE_KINDS:
        by_state = [_factorial_at(run, state, score_kind) for state in range(2, run.states.num_states + 1)]
        for key in by_state[0] if by_state else ():
            top1, top5, classes, images = np.array([values[key] for values in by_state]).T
            rows.append((score_kind, *key, top1.mean(), top5.mean(), int(classes.sum()), int(images.sum())))
    columns = ["score_kind", *_FACTORS, "top1", "top5", "undefined_classes", "undefined_images"]
    table = pd.DataFrame(rows, columns=columns)
    for column in ("top1", "top5"):
        plain = table[~table["means"] & ~table["confidence"]].set_index("score_kind")[column]
        table[f"gain_{column}"] = table[column] - table["score_kind"].map(plain)
    return table


def _factorial_at(run: Run, state: int, score_kind: str) -> dict[tuple, tuple[float, float, int, int]]:
    """{combination: (top-1, top-5, undefined classes, undefined images)} of one state."""
    scores, labels = Frozen.of_run(run, state, score_kind=score_kind).scores, run.state(state).array("val_labels")
    predicted_new = scores.argmax(axis=1) >= run.states.num_past(state)
    plain = ranks(scores, labels)
    result = {("exemplars", "keep", True, False, False): (top_k(plain, 1), top_k(plain, 5), 0, 0)}
    if missing_for(run, "IL2M"):
        return result
    by_source = {"exemplars": run.statistics(state, score_kind)}
    if means_of_all := run.state(state).info["second_memory"][score_kind].get("all_current_means"):
        current = np.concatenate([means_of_all, by_source["exemplars"].current_means[len(means_of_all) :]])
        by_source["all"] = replace(by_source["exemplars"], current_means=current)
    for source, statistics in by_source.items():
        for means, confidence, undefined in itertools.product((True, False), (True, False), ("keep", "as-published")):
            if not means and (not confidence or source == "all"):
                continue
            factors = {"use_means": means, "use_confidence": confidence, "undefined": undefined}
            bad = int(rectify.rectification_factors(statistics, **factors).undefined.sum())
            ungated = ranks(rectify.rectify(scores, statistics, gate=False, **factors), labels)
            gated = np.where(predicted_new, ungated, plain)  # rows are independent: the gate only chooses between them
            for gate, image_ranks, touched in ((True, gated, predicted_new.sum()), (False, ungated, len(labels))):
                key = (source, undefined, gate, means, confidence)
                result[key] = top_k(image_ranks, 1), top_k(image_ranks, 5), bad, int(touched) if bad else 0
    return result


def factor_effects(table: pd.DataFrame, undefined: str = "keep") -> pd.DataFrame:
    """What each of IL2M's factors adds to mean top-1, one row per score kind and factor, from factorial_table's rows.
    ``alone``: the factor added to fine-tuning (the gate alone has nothing to gate). ``last``: the factor added to the
    other two. undefined: the policy (``raise``, if nothing was, is ``keep``). Statistics of the exemplars."""
    names, rows = _FACTORS[2:], []
    of_policy = (table["undefined"] == undefined.replace("raise", "keep")) | ~(table["means"] | table["confidence"])
    for score_kind, group in table[(table["statistics"] == "exemplars") & of_policy].groupby("score_kind", sort=False):
        top1 = {tuple(row[list(names)]): row["top1"] for _, row in group.iterrows()}
        if len(top1) == 1:
            continue  # fine-tuning alone: the run has no second memory
        plain, full = top1[True, False, False], top1[True, True, True]
        for name in names:
            alone = plain if name == "gate" else top1[False, name == "means", name == "confidence"]
            without = top1[tuple(name != other for other in names)]
            rows.append({"score_kind": score_kind, "factor": name, "alone": alone - plain, "last": full - without})
    return pd.DataFrame(rows, columns=["score_kind", "factor", "alone", "last"])


def why_table(run: Run, undefined: str = "keep") -> pd.DataFrame:
    """Why IL2M gains what it does, and where it goes too far, one row per state 2..S: past classes' ratios of means,
    where defined; top-1 on new classes before and after; of the head, where it is stored, means of biases and of weight
    norms, past classes against new ones; top-1 of IL2M, and with 20 added to all scores and means."""
    rows, policy = [], {"undefined": undefined}
    for state in range(2, run.states.num_states + 1):
        frozen, num_past = Frozen.of_run(run, state), run.states.num_past(state)
        scores, labels, memory = frozen.scores, run.state(state).array("val_labels"), frozen.statistics
        ratios = rectify.rectification_factors(memory, use_confidence=False)
        defined = pd.Series(ratios.values[:num_past][~ratios.undefined[:num_past]])
        shifted = {name: values + 20 for name, values in vars(memory).items() if name != "state_of_class"}
        plain, own = (ranks(each, labels) for each in (scores, rectify.rectify(scores, memory, **policy)))
        raised = ranks(rectify.rectify(scores + 20, replace(memory, **shifted), **policy), labels)
        row = {"state": state, "median ratio": defined.median(), "largest ratio": defined.max()}
        for when, image_ranks in (("before", plain), ("after", own)):
            row[f"new classes, {when}"] = top_k(image_ranks[labels >= num_past], 1)
        if not frozen.lacks("head"):
            norms = np.linalg.norm(frozen.head.weight, axis=1)
            row["bias, past - new"] = frozen.head.bias[:num_past].mean() - frozen.head.bias[num_past:].mean()
            row["norm, past / new"] = norms[:num_past].mean() / norms[num_past:].mean()
        rows.append(row | {"IL2M": top_k(own, 1), "IL2M, scores + 20": top_k(raised, 1)})
    return pd.DataFrame(rows).set_index("state")
