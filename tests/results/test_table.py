"""Results: the table's rows against the metrics written out, the means, and the authors' form of summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import TinyStudy

from il2m.errors import InputError
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import PARTS, rectify
from il2m.methods.registry import method_scores
from il2m.results.collect import collect_results
from il2m.results.description import run_description, run_recipe
from il2m.results.table import (
    bias_table,
    confusion_by_state,
    means_table,
    read_results,
    results_table,
    save_results,
    series,
    state_accuracies,
    summary,
)
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base
from il2m.system.hashes import short_hash

COLUMNS = [
    "run",
    "base",
    "setting",
    "recipe",
    "dataset",
    "num_states",
    "memory_size",
    "memory_rounding",
    "exemplar_selection",
    "head",
    "distillation",
    "temperature",
    "distillation_weight",
    "distillation_share",
    "temperature_squared",
    "held_out",
    "balanced_epochs",
    "class_order",
    "order_seed",
    "train_seed",
    "state",
    "num_classes",
    "images_held",
    "method",
    "score_kind",
    "top1",
    "top5",
    "top1_past",
    "top1_new",
    "predicted_new",
    "true_new",
    "forgetting",
    "backward_transfer",
    "undefined_past",
    "undefined",
]


def test_table_has_one_row_per_state_method_and_score_kind(tiny_study: TinyStudy):
    table = results_table(tiny_study.off)
    assert list(table.columns) == COLUMNS
    assert len(table) == 3 * len(PARTS) * 2
    assert not table.duplicated(["state", "method", "score_kind"]).any()
    assert set(table["run"]) == {tiny_study.off.name}
    assert set(table["memory_size"]) == {12}
    assert set(table["num_classes"]) == {2, 4, 6}


def test_a_base_of_one_state_has_a_table_of_its_own(tiny_study: TinyStudy, tmp_path: Path):
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters | {"num_states": 1})
    table, run = results_table(base), fine_tune(out_dir=str(tmp_path), **tiny_study.fine_tuning_parameters)
    assert table["top1"].tolist() == results_table(run)["top1"].tolist()
    assert set(table["run"]) == set(table["base"]) == {base.name}
    assert run_recipe(base)["base_network"] == "small"


@pytest.fixture
def make_run(tmp_path: Path, tiny_study: TinyStudy):
    """A function: a run as the tiny study's, but for some of its settings or its base's; nothing is trained."""

    def make(base: dict[str, Any] | None = None, **changed: Any) -> Run:
        base_identity = tiny_study.base.identity | (base or {})
        notes = {name: tiny_study.base.config[name] for name in ("dataset", "source", "order_seed", "class_names")}
        parent = Run.create(tmp_path, "base", base_identity, **notes)
        identity = tiny_study.off.identity | {"base": base_identity, "state_sizes": base_identity["state_sizes"]}
        return Run.create(tmp_path, "fine_tuning", identity | changed, base=parent.name, **notes)

    return make


@pytest.mark.parametrize(
    "changed",
    [
        {"memory_size": 18},
        {"exemplar_selection": "herding"},
        {"distillation": True, "temperature": 2.0, "distillation_weight": 1.0},
        {"distillation": True, "temperature": 3.0, "distillation_weight": 0.5},
        {"train_seed": 5},
        {"held_out": 0.2},
        {"balanced_epochs": 3},
        {"base": {"train_seed": 5, "class_order": [5, 4, 3, 2, 1, 0]}},
        {"base": {"state_sizes": [3, 3]}},
    ],
    ids=lambda changed: ", ".join(changed),
)
def test_what_has_a_column_of_its_own_is_not_part_of_the_recipe(changed: dict[str, Any], make_run):
    assert run_recipe(make_run(**changed)) == run_recipe(make_run())


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"epochs": 9}, {"epochs": 9}),
        ({"base": {"network": "resnet8"}}, {"base_network": "resnet8"}),
        ({"base": {"base_epochs": 9}}, {"base_epochs": 9}),
        ({"base": {"state_sizes": [4, 2]}}, {"state_sizes": [4, 2]}),
        ({"exemplars_per_class": 2}, {"memory": "images per class"}),
    ],
    ids=lambda value: ", ".join(value),
)
def test_all_else_is(changed: dict[str, Any], shown: dict[str, Any], make_run):
    plain, found = run_recipe(make_run()), run_recipe(make_run(**changed))
    assert {name: value for name, value in found.items() if plain.get(name) != value} == shown
    assert run_description(make_run(**changed))["recipe"] != run_description(make_run())["recipe"]


def test_rows_say_what_the_scores_say(tiny_study: TinyStudy):
    run = tiny_study.on
    table = results_table(run).set_index(["state", "method", "score_kind"])
    for state in (2, 3):
        labels = np.asarray(run.state(state).array("val_labels"))
        scores = rectify(run.state(state).array("val_scores"), run.statistics(state), gate=False)
        predicted = scores.argmax(axis=1)
        num_past = 2 * (state - 1)
        row = table.loc[(state, "IL2M-no-gate", "raw")]
        assert row["top1"] == pytest.approx(np.mean(predicted == labels))
        assert row["top1_past"] == pytest.approx(np.mean((predicted == labels)[labels < num_past]))
        assert row["top1_new"] == pytest.approx(np.mean((predicted == labels)[labels >= num_past]))
        assert row["predicted_new"] == pytest.approx(np.mean(predicted >= num_past))
        assert row["true_new"] == pytest.approx(2 / (2 * state))


def test_all_methods_agree_at_the_first_state_which_has_no_past(tiny_study: TinyStudy):
    first = results_table(tiny_study.off).query("state == 1")
    assert first["top1"].nunique() == 1
    assert first["top1_past"].isna().all()
    assert (first["predicted_new"] == 1).all()


def test_softmax_leaves_fine_tuning_as_it_is(tiny_study: TinyStudy):
    table = results_table(tiny_study.off)
    assert series(table, "FT", score_kind="softmax") == series(table, "FT", score_kind="raw")
    np.testing.assert_allclose(Frozen.of_run(tiny_study.off, 2, score_kind="softmax").scores.sum(axis=1), 1, rtol=1e-5)


def test_method_scores_follow_the_undefined_policy(tiny_study: TinyStudy):
    run = tiny_study.off
    expected = rectify(
        run.state(3).array("val_scores"), run.statistics(3), use_confidence=False, undefined="as-published"
    )
    np.testing.assert_array_equal(method_scores(run, 3, "IL2M-means", undefined="as-published"), expected)


def make_table() -> pd.DataFrame:
    common = {"dataset": "toy", "run": "r", "distillation": False, "num_states": 3, "memory_size": 9}
    common |= {"order_seed": 0, "train_seed": 1, "score_kind": "raw", "method": "FT"}
    values = [(1, 0.9, 1.0), (2, 0.6, 0.8), (3, 0.3, 0.7)]
    return pd.DataFrame([common | {"state": b, "top1": top1, "top5": top5} for b, top1, top5 in values])


def test_means_are_over_the_incremental_states_and_over_all():
    row = means_table(make_table()).iloc[0]
    assert row["top1, states 2..S"] == pytest.approx(0.45)
    assert row["top1, states 1..S"] == pytest.approx(0.6)
    assert row["top5, states 2..S"] == pytest.approx(0.75)


def test_summary_has_the_authors_form():
    lines = summary(make_table(), methods=("FT",)).splitlines()
    assert lines[0] == "toy, 3 states, K = 9, distillation off, order seed 0, train seed 1 (r)"
    assert lines[2] == "Top1 Acc = [0.9, 0.6, 0.3]"
    assert lines[3] == "Top5 Acc = [1.0, 0.8, 0.7]"
    assert lines[4] == "Mean inc Acc | acc@1 = 0.4500 | acc@5 = 0.7500"


def test_results_are_written_and_read_back(tmp_path, tiny_study: TinyStudy):
    table = results_table(tiny_study.off)
    path = save_results(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert [p.name for p in tmp_path.iterdir()] == ["results.parquet"]


def test_bias_table_against_the_scores(tiny_study: TinyStudy):
    run = tiny_study.off
    table = bias_table(run)
    assert np.isnan(table.loc[1, "past_score"])
    scores, labels = run.state(3).array("val_scores"), np.asarray(run.state(3).array("val_labels"))
    own = [row[label] for row, label in zip(scores, labels, strict=True)]
    assert table.loc[3, "past_score"] == pytest.approx(np.mean([s for s, c in zip(own, labels, strict=True) if c < 4]))
    assert table.loc[3, "new_score"] == pytest.approx(np.mean([s for s, c in zip(own, labels, strict=True) if c >= 4]))
    assert table.loc[3, "confidence"] == pytest.approx(run.state(3).array("new_top_scores").mean(), rel=1e-6)
    errors = [column for column in table if " as " in column]
    top1 = results_table(run).query("state == 3 and method == 'FT' and score_kind == 'raw'")["top1"].item()
    assert table.loc[3, errors].sum() == pytest.approx(1 - top1)


def test_confusion_rows_add_up_to_one(tiny_study: TinyStudy):
    shares = confusion_by_state(tiny_study.off, 3)
    assert shares.shape == (3, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_a_stored_table_is_read_as_it_was_written_or_refused(tiny_study, tmp_path):
    """300 flipped bits: values and attributes are the same, or it is told."""
    table = results_table(tiny_study.off, details=True)
    path = save_results(table, tmp_path)
    pd.testing.assert_frame_equal(read_results(path), table)
    assert read_results(path).attrs == table.attrs
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for place, bit in zip(rng.integers(0, len(content), 300), rng.integers(0, 8, 300), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            read = read_results(path)
        except InputError:
            refused += 1
            continue
        pd.testing.assert_frame_equal(read, table, check_exact=True)
        assert read.attrs == table.attrs
    assert refused > 150


def test_columns_that_exchanged_their_names_are_told(tiny_study, tmp_path):
    table = results_table(tiny_study.off)
    path = save_results(table, tmp_path)
    stored = pd.read_parquet(path)
    exchanged = stored.rename(columns={"top1": "top5", "top5": "top1"})
    exchanged.attrs = stored.attrs
    exchanged.to_parquet(path, index=False)
    with pytest.raises(InputError, match="is not as it was written"):
        read_results(path)


def test_a_table_with_unknown_seeds_is_as_it_was_written(tiny_study, tmp_path):
    """Of whole numbers and None, as imported scores bring them, the file makes fractions."""
    table = results_table(tiny_study.off)
    table["train_seed"] = pd.Series([None, *table["train_seed"][1:]], dtype=object)
    read = read_results(save_results(table, tmp_path))
    assert read["train_seed"].isna().tolist() == table["train_seed"].isna().tolist()
    assert read.attrs == table.attrs


@pytest.mark.parametrize(
    "call",
    [
        lambda run, **choice: results_table(run, **choice),
        lambda run, **choice: bias_table(run, **choice),
        lambda run, **choice: method_scores(run, 2, "IL2M", **choice),
        lambda run, **choice: rectify(run.state(2).array("val_scores"), run.statistics(2), **choice),
        lambda run, **choice: state_accuracies(run, "IL2M", **choice),
        lambda run, **choice: collect_results(run.folder.parent, **choice),
    ],
)
def test_a_misspelt_policy_is_refused(call, tiny_study: TinyStudy):
    call(tiny_study.off, undefined="as-published")
    with pytest.raises(InputError, match=r"undefined = 'as_published': .* raise; did you mean 'as-published'\?"):
        call(tiny_study.off, undefined="as_published")


@pytest.mark.parametrize("call", [bias_table, lambda run, **kind: confusion_by_state(run, 3, **kind)])
def test_a_score_kind_that_is_none_is_told_as_such(call, tiny_study: TinyStudy):
    with pytest.raises(InputError, match=r"score_kind = 'logits': expected one of raw, softmax$"):
        call(tiny_study.off, score_kind="logits")


def test_a_series_of_what_the_table_has_not(tiny_study: TinyStudy):
    table = results_table(tiny_study.off)
    for choice, meant in (
        ({"method": "IL2m"}, "IL2M"),
        ({"method": "FT", "score_kind": "soft"}, "softmax"),
        ({"method": "FT", "column": "top3"}, "top5"),
        ({"method": "FT", "column": "top_5"}, "top5"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            series(table, **choice)
    for column in ("score_kind", ["top1"], None):
        with pytest.raises(InputError, match=r"column = .*: expected one of .*top1, top5"):
            series(table, "FT", column)


def test_a_series_or_a_summary_is_of_one_run(tiny_study: TinyStudy):
    both = pd.concat(map(results_table, (tiny_study.off, tiny_study.on)))
    for call in (lambda: series(both, "FT"), lambda: summary(both)):
        with pytest.raises(InputError, match=r"rows of 2 runs: choose those of one"):
            call()


@pytest.mark.parametrize("state", ["2", 2.0, None, True, 0, -1, 4, [2]])
@pytest.mark.parametrize(
    "call",
    [
        lambda run, state: confusion_by_state(run, state),
        lambda run, state: method_scores(run, state, "FT"),
        lambda run, state: Frozen.of_run(run, state),
        lambda run, state: run.state(state),
        lambda run, state: run.statistics(state),
    ],
)
def test_a_state_that_is_none_is_refused(call, state, tiny_study: TinyStudy):
    call(tiny_study.off, np.int64(3))
    with pytest.raises(InputError, match=r"state = .*: expected a whole number of at least 1 and at most 3$"):
        call(tiny_study.off, state)


# which runs are replicates, and which twins


def test_how_a_run_distils_is_told_by_columns_and_leaves_its_setting_that_of_its_twin(make_run):
    off = run_description(make_run())
    on = run_description(make_run(distillation=True, temperature=5.0, distillation_weight=0.5))
    differing = {name: on[name] for name in on if on[name] != off[name] and name != "run"}
    assert differing == {"distillation": True, "temperature": 5.0, "distillation_weight": 0.5}
    assert off["temperature"] is None


def test_a_given_class_order_is_an_order_as_a_drawn_one(make_run, tiny_study: TinyStudy):
    order = tiny_study.base.identity["class_order"]
    drawn, given = (run_description(make_run(base={"class_order": each})) for each in (order, order[::-1]))
    assert {name for name in drawn if drawn[name] != given[name]} == {"run", "base", "class_order"}
    same = make_run(base={"class_order": order})
    same.config["order_seed"] = None  # the same order, but given
    assert run_description(same)["class_order"] == drawn["class_order"] == short_hash(order)


def test_orders_of_lists_are_told_apart_though_each_counts_its_classes_from_0(make_run):
    runs = [make_run(base={"class_order": [*range(6)], "fingerprint": each}) for each in "ab"]
    for run in runs:
        run.config["source"] = "lists:/somewhere/S~3"
    assert len({run_description(run)["class_order"] for run in runs}) == 2


def test_temperatures_are_numbers_in_a_table(tiny_study: TinyStudy, tmp_path: Path):
    off, on = (results_table(run) for run in (tiny_study.off, tiny_study.on))
    stored = pd.read_parquet(save_results(off, tmp_path))
    assert stored["temperature"].dtype == on["temperature"].dtype == np.float64
    assert stored["temperature"].isna().all()
    assert set(on["temperature"]) == {2.0}


def test_a_table_with_unknown_whole_numbers_is_read_as_it_was_written(tiny_study, tmp_path):
    """As of imported scores: a column of whole numbers and None is one of fractions once it is read."""
    table = results_table(tiny_study.off)
    table["order_seed"] = pd.Series([1, None] * (len(table) // 2) + [2] * (len(table) % 2), dtype=object)
    assert read_results(save_results(table, tmp_path))["order_seed"].isna().sum() == len(table) // 2
