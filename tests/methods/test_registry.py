"""Methods and factors on a run folder, against the run's own arrays; and what is said where something is missing."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from tiny import rewrite_checked

from il2m.errors import InputError
from il2m.memory.exemplars import rank_classes
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import PARTS, STEADIER, count_undefined, rectify
from il2m.methods.registry import METHODS, costs_table, method_scores, missing_for
from il2m.results.factorial import factor_effects, factorial_table, why_table
from il2m.results.metrics import error_breakdown, ranks, top_k
from il2m.results.table import results_table, state_accuracies
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base

POLICIES = ("keep", "as-published")


def stored(run, state, *names):
    return [np.asarray(run.state(state).array(name)) for name in names]


def head(run, state):
    weights = run.state(state).model_weights()
    return weights["head.weight"].numpy(), weights["head.bias"].numpy()


def unit(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def held_out_run(tiny_study, tmp_path_factory):
    """6 exemplars per past class at state 2, 3 at state 3; a third of them is held out."""
    out_dir = tmp_path_factory.mktemp("held_out")
    base = train_base(out_dir=str(out_dir), **tiny_study.base_parameters)
    return fine_tune(out_dir=str(out_dir), base=base, held_out=0.34, **tiny_study.fine_tuning_parameters)


def test_the_head_gives_the_stored_scores(tiny_study):
    for state in (1, 2, 3):
        features, scores = stored(tiny_study.off, state, "val_features", "val_scores")
        weight, bias = Frozen.of_run(tiny_study.off, state).head
        assert_allclose(features @ weight.T + bias, scores, rtol=1e-4, atol=1e-4)


def test_il2m_and_its_factors_are_those_of_rectify(tiny_study):
    run = tiny_study.off
    for kind in ("raw", "softmax"):
        (scores,) = stored(run, 3, "val_scores")
        scores = softmax(scores, axis=1) if kind == "softmax" else scores
        statistics = run.statistics(3, kind)
        for method, switches in (("IL2M", {}), ("IL2M-no-gate", {"gate": False})):
            got = method_scores(run, 3, method, score_kind=kind, undefined="as-published")
            assert_allclose(got, rectify(scores, statistics, undefined="as-published", **switches))
        assert_array_equal(method_scores(run, 3, "FT", score_kind=kind), scores)


def test_prior_thresholding_counts_what_the_state_was_trained_on(tiny_study):
    (scores,) = stored(tiny_study.off, 3, "val_scores")
    log_counts = np.log([3, 3, 3, 3, 12, 12])
    got = method_scores(tiny_study.off, 3, "FT-th")
    assert_allclose(softmax(got, axis=1), softmax(scores - log_counts, axis=1), rtol=1e-4)


def test_held_out_images_are_not_counted(held_out_run):
    assert_array_equal(Frozen.of_run(held_out_run, 2).counts, [4, 4, 10, 10])
    assert_array_equal(Frozen.of_run(held_out_run, 3).counts, [2, 2, 2, 2, 11, 11])


def test_nearest_exemplar_mean_uses_as_many_new_images_as_past_exemplars(tiny_study):
    run = tiny_study.off
    val, past, past_labels, new, new_labels = stored(
        run, 3, "val_features", "exemplar_features", "exemplar_labels", "new_features", "new_labels"
    )
    kept = rank_classes("random", new, new_labels, 3, run.identity["train_seed"])
    means = [unit(past[past_labels == c]).mean(axis=0) for c in range(4)]
    means += [unit(new[kept[c]]).mean(axis=0) for c in (4, 5)]
    expected = [[-np.linalg.norm(f - unit(m)) for m in means] for f in unit(val)]
    assert_allclose(method_scores(run, 3, "NEM"), expected, rtol=1e-3, atol=1e-5)


def test_nearest_class_mean_uses_all_images(tiny_study):
    run = tiny_study.off
    val, past, new, new_labels = stored(run, 3, "val_features", "past_class_features", "new_features", "new_labels")
    means = [*past, *(unit(new[new_labels == c]).mean(axis=0) for c in (4, 5))]
    expected = [[-np.linalg.norm(f - unit(m)) for m in means] for f in unit(val)]
    assert_allclose(method_scores(run, 3, "NCM-oracle"), expected, rtol=1e-3, atol=1e-5)


def test_weight_alignment_scales_new_scores_about_their_bias(tiny_study):
    (scores,) = stored(tiny_study.off, 3, "val_scores")
    weight, bias = head(tiny_study.off, 3)
    norms = np.linalg.norm(weight, axis=1)
    expected = scores.copy()
    expected[:, 4:] = (scores[:, 4:] - bias[4:]) * norms[:4].mean() / norms[4:].mean() + bias[4:]
    assert_allclose(method_scores(tiny_study.off, 3, "WA"), expected, rtol=1e-3, atol=1e-4)


def test_siw_uses_each_classs_initial_weights(tiny_study):
    run = tiny_study.off
    (features,) = stored(run, 3, "val_features")
    confidences = run.statistics(3).confidences
    plain, calibrated = method_scores(run, 3, "SIW"), method_scores(run, 3, "SIW-calibrated")
    for c in range(6):
        own_state = c // 2 + 1
        weight, bias = head(run, own_state)
        expected = features @ ((weight[c] - weight[c].mean()) / weight[c].std()) + bias[c]
        assert_allclose(plain[:, c], expected, rtol=1e-3, atol=1e-4)
        assert_allclose(calibrated[:, c], expected * confidences[2] / confidences[own_state - 1], rtol=1e-3, atol=1e-4)


def test_scail_leaves_new_classes_alone_and_scales_the_initial_weights_of_past_ones(tiny_study):
    run = tiny_study.off
    features, scores = stored(run, 3, "val_features", "val_scores")
    got = method_scores(run, 3, "ScaIL")
    assert_allclose(got[:, 4:], scores[:, 4:], rtol=1e-4, atol=1e-4)
    now = -np.sort(-np.abs(head(run, 3)[0][4:]), axis=1).mean(axis=0)
    spread = np.abs(head(run, 3)[1]).sum() / np.linalg.norm(head(run, 3)[1])
    for c in range(4):
        weight, bias = head(run, c // 2 + 1)
        own = slice(c // 2 * 2, c // 2 * 2 + 2)
        before = -np.sort(-np.abs(weight[own]), axis=1).mean(axis=0)
        scaled = np.empty_like(weight[c])
        for rank, k in enumerate(sorted(range(len(scaled)), key=lambda k: -abs(weight[c, k]))):
            scaled[k] = weight[c, k] * now[rank] / before[rank]
        expected = features @ scaled + bias[c] * spread / (np.abs(bias).sum() / np.linalg.norm(bias))
        assert_allclose(got[:, c], expected, rtol=1e-3, atol=1e-4)


def test_bias_correction_is_fitted_on_images_that_were_not_trained_on(held_out_run):
    for state, per_class in ((2, 2), (3, 1)):
        labels, indices, exemplars, new = stored(
            held_out_run, state, "held_out_labels", "held_out_indices", "exemplar_indices", "new_indices"
        )
        assert_array_equal(np.bincount(labels), np.full(2 * state, per_class))
        assert np.isin(indices, np.concatenate([exemplars, new])).all()
        (scores,) = stored(held_out_run, state, "val_scores")
        got, num_past = method_scores(held_out_run, state, "BiC"), 2 * (state - 1)
        assert_array_equal(got[:, :num_past], scores[:, :num_past])
        slope, intercept = np.polyfit(scores[:, num_past:].ravel(), got[:, num_past:].ravel(), 1)
        assert_allclose(got[:, num_past:], scores[:, num_past:] * slope + intercept, rtol=1e-3, atol=1e-3)


def test_what_is_held_out_once_is_never_trained_on_later(held_out_run):
    (held_at_2,) = stored(held_out_run, 2, "held_out_indices")
    held_at_3, exemplars_at_3 = stored(held_out_run, 3, "held_out_indices", "exemplar_indices")
    trained_on = np.setdiff1d(exemplars_at_3, held_at_3)
    assert len(trained_on) == 2 * 4
    assert not np.isin(trained_on, held_at_2).any()


def test_task_aware_bound_is_not_beaten_by_fine_tuning(tiny_study):
    for state in (1, 2, 3):
        (labels,) = stored(tiny_study.off, state, "val_labels")
        top1 = {m: top_k(ranks(method_scores(tiny_study.off, state, m), labels), 1) for m in METHODS if m != "BiC"}
        assert top1["task-aware-oracle"] >= max(top1["FT"], top1["FT-th"], top1["IL2M-confidence"])


@pytest.mark.parametrize("method", ["FT", "IL2M", "FT-th", "WA", "ScaIL", "BiC", "task-aware-oracle"])
def test_state_1_has_nothing_to_correct(held_out_run, method):
    (scores,) = stored(held_out_run, 1, "val_scores")
    assert_allclose(method_scores(held_out_run, 1, method), scores, rtol=1e-4, atol=1e-4)


def test_an_unknown_method_or_kind_of_score_is_refused(tiny_study):
    with pytest.raises(InputError, match=r"unknown method 'ILM2': did you mean 'IL2M'\?"):
        method_scores(tiny_study.off, 2, "ILM2")
    with pytest.raises(InputError, match="WA is defined on raw scores, not on softmax"):
        method_scores(tiny_study.off, 2, "WA", score_kind="softmax")


# what is missing


def without(run, folder, *files):
    """A copy of the run, with its base, that stores none of ``files``."""
    for source in (run.folder, run.base.folder):
        shutil.copytree(source, folder / source.name)
    for path in folder.glob("*/state_*/state.json"):
        info = json.loads(path.read_text())
        for file in files:
            if info["files"].pop(file, None):
                (path.parent / file).unlink()
        rewrite_checked(path, info)
    return Run(folder / run.folder.name)


def test_methods_that_need_features_or_weights_are_left_out_of_imported_scores(tiny_study, tmp_path):
    run = without(tiny_study.off, tmp_path, "val_features.npy", "new_features.npy", "model.safetensors")
    assert missing_for(run, "IL2M") == missing_for(run, "FT-th") == missing_for(run, "task-aware-oracle") == ""
    assert missing_for(run, "NEM") == "state 1 stores no val_features"
    assert missing_for(run, "WA") == "state 1 stores no val_features"
    with pytest.raises(InputError, match="SIW can't be computed: state 1 stores no val_features"):
        method_scores(run, 2, "SIW")
    shown = set(results_table(run, methods=METHODS, details=True)["method"])
    assert shown == {*PARTS, *STEADIER, "FT-th", "task-aware-oracle"}


def test_methods_that_need_the_head_say_so(tiny_study, tmp_path):
    run = without(tiny_study.off, tmp_path, "model.safetensors")
    assert missing_for(run, "WA") == "state 1 has no weights of the head"
    assert missing_for(run, "NEM") == ""


def test_bic_says_that_nothing_was_held_out(tiny_study):
    assert missing_for(tiny_study.off, "BiC") == "state 2 held no exemplars out of training (held_out is 0)"


def test_bic_says_that_the_memory_is_too_small(tiny_study, tmp_path):
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters)
    run = fine_tune(out_dir=str(tmp_path), base=base, held_out=0.2, **tiny_study.fine_tuning_parameters)
    problem = missing_for(run, "BiC")  # 3 exemplars per class at state 3: a fifth of them is none
    assert problem.startswith("state 3 has no held-out image of 6 class(es): a larger memory_size or held_out")
    assert missing_for(run, "WA") == ""


def test_a_run_of_one_state_shows_what_there_is(tiny_study, tmp_path):
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters | {"num_states": 1})
    run = fine_tune(out_dir=str(tmp_path), base=base, **tiny_study.fine_tuning_parameters)
    table = results_table(run, methods=METHODS, details=True)
    assert set(table["method"]) == set(METHODS)  # with no past classes nothing is missing, BiC's exemplars neither
    assert table["forgetting"].isna().all()
    assert len(factorial_table(run)) == 0
    assert len(factor_effects(factorial_table(run))) == 0


def test_states_of_one_class_work(tiny_study, tmp_path):
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters | {"state_sizes": [3, 1, 2]})
    run = fine_tune(out_dir=str(tmp_path), base=base, **tiny_study.fine_tuning_parameters)
    table = results_table(run, methods=METHODS, details=True)
    assert set(table["method"]) == {*METHODS} - {"BiC"}
    assert np.isfinite(table.loc[table["state"] > 1, "forgetting"]).all()


# tables


def test_metrics_agree_with_each_methods_scores(tiny_study):
    run = tiny_study.off
    table = results_table(run, methods=METHODS, details=True).set_index(["state", "method", "score_kind"])
    assert table.index.is_unique
    labels, scores = stored(run, 3, "val_labels", "val_scores")
    row = table.loc[(3, "IL2M", "raw")]
    rectified = method_scores(run, 3, "IL2M")
    after, before = ranks(rectified, labels), ranks(scores, labels)
    assert row["corrected"] == np.mean((before > 0) & (after == 0))
    assert row["moved up"] == np.mean(after < before)
    for name, share in error_breakdown(rectified.argmax(axis=1), labels, 4).items():
        assert row[name] == share
    assert (table.loc[(slice(None), "FT"), ["corrected", "broken", "moved up", "moved down"]] == 0).all(axis=None)


def test_state_accuracies_add_up_to_top1(tiny_study):
    matrix = state_accuracies(tiny_study.off, "IL2M")
    for state in (1, 2, 3):
        (labels,) = stored(tiny_study.off, state, "val_labels")
        top1 = top_k(ranks(method_scores(tiny_study.off, state, "IL2M"), labels), 1)
        assert matrix[:state, state - 1].mean() == pytest.approx(top1)  # equally many images per class
    assert np.isnan(matrix[np.tril_indices(3, -1)]).all()


def test_the_factorial_table_holds_the_named_methods(tiny_study):
    run = tiny_study.off
    table = factorial_table(run)
    key = ["score_kind", "statistics", "undefined", "gate", "means", "confidence"]
    assert not table.duplicated(key).any()
    table = table.set_index(key)
    named = {
        "FT": (True, False, False), "IL2M": (True, True, True), "IL2M-no-gate": (False, True, True),
        "IL2M-means": (True, True, False), "IL2M-confidence": (True, False, True),
    }  # fmt: skip
    for method, switches in named.items():
        for kind in ("raw", "softmax"):
            for policy in ("keep", "as-published") if method != "FT" else ("keep",):
                top1 = []
                for state in (2, 3):
                    scores = method_scores(run, state, method, score_kind=kind, undefined=policy)
                    top1.append(top_k(ranks(scores, stored(run, state, "val_labels")[0]), 1))
                row = table.loc[(kind, "exemplars", policy, *switches)]
                assert row["top1"] == pytest.approx(np.mean(top1))
                plain = table.loc[(kind, "exemplars", "keep", True, False, False)]
                assert row["gain_top1"] == pytest.approx(row["top1"] - plain["top1"])


def test_the_factorial_tables_oracle_uses_the_means_of_all_images(tiny_study):
    run = tiny_study.off
    table = factorial_table(run).set_index(["score_kind", "statistics", "undefined", "gate", "means", "confidence"])
    top1 = []
    for state in (2, 3):
        statistics, info = run.statistics(state), run.state(state).info
        scores, labels = stored(run, state, "val_scores", "val_labels")
        means = np.array(info["second_memory"]["raw"]["all_current_means"])
        statistics.current_means[: len(means)] = means
        top1.append(top_k(ranks(rectify(scores, statistics), labels), 1))
    assert table.loc[("raw", "all", "keep", True, True, True), "top1"] == pytest.approx(np.mean(top1))


def test_undefined_classes_and_the_images_they_touch_are_counted(tiny_study, tmp_path):
    run = without(tiny_study.off, tmp_path)
    for state in (1, 2, 3):
        path = run.state(state).path / "state.json"
        info = json.loads(path.read_text())
        memory = info["second_memory"]["raw"]
        for name in ("initial_means", "current_means", "all_current_means"):
            memory[name] = [1.0 for _ in memory[name]]
        memory["confidence"] = 1.0
        if state == 3:
            memory["current_means"][1] = -0.5
        rewrite_checked(path, info)
    table = factorial_table(Run(run.folder)).set_index("score_kind").loc["raw"]
    scores, labels = stored(run, 3, "val_scores", "val_labels")
    for _, row in table.iterrows():
        undefined = row["means"] and row["statistics"] == "exemplars"
        gated = np.sum(scores.argmax(axis=1) >= 4) if row["gate"] else len(labels)
        assert row["undefined_classes"] == (1 if undefined else 0)
        assert row["undefined_images"] == (gated if undefined else 0)
        if not undefined or row["undefined"] == "keep":
            assert row["gain_top1"] == 0  # all other ratios are 1


def test_factor_effects_are_differences_within_the_table(tiny_study):
    table = factorial_table(tiny_study.off)
    effects = factor_effects(table).set_index(["score_kind", "factor"])
    used = table[(table["statistics"] == "exemplars") & (table["undefined"] == "keep") & (table["score_kind"] == "raw")]
    top1 = used.set_index(["gate", "means", "confidence"])["top1"]
    assert effects.loc[("raw", "gate"), "last"] == top1[True, True, True] - top1[False, True, True]
    assert effects.loc[("raw", "means"), "last"] == top1[True, True, True] - top1[True, False, True]
    assert effects.loc[("raw", "confidence"), "last"] == top1[True, True, True] - top1[True, True, False]
    assert effects.loc[("raw", "means"), "alone"] == top1[False, True, False] - top1[True, False, False]
    assert effects.loc[("raw", "gate"), "alone"] == 0


def test_effects_and_reasons_are_of_the_policy_that_is_asked_for(tiny_study):
    run = tiny_study.off
    assert sum(count_undefined(run.statistics(state)) for state in (2, 3))
    table = factorial_table(run)
    kept, multiplied = (factor_effects(table, policy).set_index(["score_kind", "factor"]) for policy in POLICIES)
    assert kept.equals(factor_effects(table, "raise").set_index(["score_kind", "factor"]))
    of_policy = table[(table["undefined"] == "as-published") & (table["statistics"] == "exemplars") & table["gate"]]
    gain = of_policy.query("score_kind == 'raw' and means and confidence")["gain_top1"].item()
    without = of_policy.query("score_kind == 'raw' and not means and confidence")["gain_top1"].item()
    assert multiplied.loc[("raw", "means"), "last"] == pytest.approx(gain - without)
    assert not kept.equals(multiplied)
    for policy in POLICIES:
        shown = results_table(run, undefined=policy).query("state > 1 and method == 'IL2M' and score_kind == 'raw'")
        assert why_table(run, policy)["IL2M"].tolist() == shown["top1"].tolist()


def test_costs_are_counted_from_classes_and_features(tiny_study, tmp_path):
    table = costs_table(tiny_study.off).set_index("method")
    assert set(table.index) == set(METHODS)
    d = head(tiny_study.off, 3)[0].shape[1]
    assert table.loc["FT", "floats_stored"] == 0
    assert table.loc["FT", "operations"] == 6 * d
    assert table.loc["IL2M", "floats_stored"] == 6 + 3
    assert table.loc["IL2M", "operations"] == 6 * d + 4
    assert table.loc["SIW", "floats_stored"] == 4 * (d + 1)
    assert table.loc["NEM", "floats_stored"] == 6 * d
    assert "held out" in table.loc["BiC", "needs"]
    assert len(costs_table(without(tiny_study.off, tmp_path, "model.safetensors"))) == 0


def test_why_il2m_gains_what_it_does(tiny_study):
    """Against the numbers taken one by one from what the run stores."""
    run = tiny_study.on
    table = why_table(run)
    assert table.index.tolist() == [2, 3]
    memory, stored = run.statistics(3), run.state(3)
    scores, labels, new = stored.array("val_scores"), stored.array("val_labels"), stored.array("val_labels") >= 4
    means = zip(memory.initial_means[:4], memory.current_means[:4], strict=True)
    ratios = [initial / current for initial, current in means if initial > 0 and current > 0]
    assert table.loc[3, ["median ratio", "largest ratio"]].tolist() == pytest.approx(
        [np.median(ratios) if ratios else np.nan, max(ratios, default=np.nan)], nan_ok=True
    )
    assert table.loc[3, "new classes, before"] == (scores.argmax(axis=1) == labels)[new].mean()
    assert table.loc[3, "IL2M"] == results_table(run).query("state == 3 and method == 'IL2M'")["top1"].iloc[0]
    bias = stored.tensor("head.bias")
    assert table.loc[3, "bias, past - new"] == pytest.approx(bias[:4].mean() - bias[4:].mean())
