"""The explorer without a browser: what controls do, what is shown, and that it is what the library computes."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import shutil
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tiny import TinyStudy, rewrite_checked

import il2m
from il2m import plots
from il2m.errors import InputError
from il2m.exchange.importing import import_scores
from il2m.explorer import explore, page
from il2m.explorer.explore import (
    STORY,
    BiasExplorer,
    bias_explorer,
    controls_of,
    find_class,
    open_outcomes,
    show_static,
)
from il2m.explorer.outcomes import Choice, Exponents, Outcome, RunOutcomes, Shown, what_if_factors
from il2m.explorer.views import EXPONENTS, VIEWS, true_class_scores, what_if_curves
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import rectification_factors
from il2m.methods.registry import METHODS, method_scores
from il2m.results.metrics import error_breakdown, ranks, state_confusion
from il2m.results.table import bias_table, results_table, save_results
from il2m.study.runs import Run
from il2m.system.locks import RUN_LOCK, locked

mpl.use("Agg")
IL2M_AS_EXPONENTS = {
    "FT": Exponents(0, 0),
    "IL2M": Exponents(),
    "IL2M-no-gate": Exponents(gate=0),
    "IL2M-means": Exponents(confidence=0),
    "IL2M-confidence": Exponents(means=0),
    "IL2M-pooled": Exponents(pooling="state", clipped=True),
    "IL2M-global": Exponents(pooling="past"),
}


@pytest.fixture
def outcomes(tiny_study: TinyStudy) -> RunOutcomes:
    return RunOutcomes(tiny_study.off, "off")


@pytest.fixture
def explorer(tiny_study: TinyStudy) -> BiasExplorer:
    return BiasExplorer(open_outcomes([tiny_study.on, tiny_study.off]))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Scores of a method of other code: no training images, no features, no pictures."""
    folder, rng = tmp_path_factory.mktemp("imported"), np.random.default_rng(3)
    for state, seen in ((1, 2), (2, 4)):
        labels = np.repeat(np.arange(seen), 4)
        scores = rng.normal(size=(len(labels), seen))
        np.savez(folder / f"{state}.npz", val_scores=scores, val_labels=labels, state_sizes=[2, 2][:state])
    return import_scores([folder / "1.npz", folder / "2.npz"], folder / "run")


# what is computed


@pytest.mark.parametrize("score_kind", ["raw", "softmax"])
def test_outcomes_are_what_the_methods_make(outcomes: RunOutcomes, score_kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("il2m.explorer.outcomes._ROWS", 7)  # several blocks, the last not full
    for method in (m for m in METHODS if m not in outcomes.left_out and score_kind in METHODS[m].score_kinds):
        for state in (1, 3):
            scores = method_scores(outcomes.run, state, method, score_kind=score_kind)
            found = outcomes.outcome(state, method, score_kind)
            np.testing.assert_array_equal(found.ranks, ranks(scores, found.labels), method)
            np.testing.assert_array_equal(found.predicted, scores.argmax(axis=1), method)
            np.testing.assert_allclose(found.own, scores[np.arange(len(scores)), found.labels], rtol=1e-5)


def test_a_method_without_probabilities_is_taken_on_raw_scores(outcomes: RunOutcomes):
    assert outcomes.outcome(2, "WA", "softmax") is outcomes.outcome(2, "WA", "raw")


@pytest.mark.parametrize("method", IL2M_AS_EXPONENTS)
@pytest.mark.parametrize("score_kind", ["raw", "softmax"])
def test_what_if_meets_the_methods_at_whole_exponents(outcomes: RunOutcomes, method: str, score_kind: str):
    for state in (1, 2, 3):
        found = outcomes.what_if(state, IL2M_AS_EXPONENTS[method], score_kind)
        np.testing.assert_array_equal(found, outcomes.outcome(state, method, score_kind).ranks)


def test_what_if_between_them_is_the_equation_with_exponents(outcomes: RunOutcomes):
    means, confidence, gate, state = 0.6, 1.7, 0.25, 3
    memory, num_past = outcomes.run.statistics(state), outcomes.run.states.num_past(state)
    scores, labels = outcomes.run.state(state).array("val_scores"), outcomes.labels(state)
    left_alone = rectification_factors(memory).undefined
    expected = []
    for row, label in zip(scores, labels, strict=True):
        opened = 1.0 if row.argmax() >= num_past else 1 - gate
        changed = row.astype(np.float64)
        for c in range(num_past):
            if not left_alone[c]:
                ratio = memory.initial_means[c] / memory.current_means[c]
                trust = memory.confidences[-1] / memory.confidences[memory.state_of_class[c] - 1]
                changed[c] *= ratio ** (means * opened) * trust ** (confidence * opened)
        expected.append(np.count_nonzero(changed > changed[label]))
    found = outcomes.what_if(state, Exponents(means, confidence, gate))
    np.testing.assert_array_equal(found, expected)
    assert (found != outcomes.outcome(state, "FT").ranks).any()


def test_what_if_leaves_alone_what_has_no_positive_mean(outcomes: RunOutcomes):
    memory = outcomes.run.statistics(3)
    memory.current_means[0] = -2.0
    for means in (0.5, 1.0, 2.0):  # the square of a negative mean would be positive
        assert (what_if_factors(memory, Exponents(means=means))[:, 0] == 1).all()
    confidence_only = what_if_factors(memory, Exponents(means=0))[1, 0]
    assert confidence_only == pytest.approx(memory.confidences[-1] / memory.confidences[0])


def test_some_rows_have_the_scores_they_have_among_all(outcomes: RunOutcomes):
    rows = np.array([4, 0, 11])
    for method in ("FT", "IL2M", "NEM", "ScaIL"):
        some = outcomes.some_scores(rows, 3, method)
        np.testing.assert_allclose(some, method_scores(outcomes.run, 3, method)[rows], rtol=1e-5)


# the views


def test_true_class_scores_are_those_of_the_bias_table(outcomes: RunOutcomes):
    shown = true_class_scores(outcomes, Choice(state=3, method="IL2M-no-gate"))
    expected = bias_table(outcomes.run, method="IL2M-no-gate")
    np.testing.assert_allclose(shown.numbers["past"], expected["past_score"], rtol=1e-5)
    np.testing.assert_allclose(shown.numbers["new"], expected["new_score"], rtol=1e-5)
    gap = expected.loc[3, "new_score"] - expected.loc[3, "past_score"]
    assert f"{abs(gap):.2f} {'below' if gap > 0 else 'above'}" in shown.finding


def test_past_classes_by_origin_average_to_past_classes_together(outcomes: RunOutcomes):
    numbers = true_class_scores(outcomes, Choice(state=3, by_origin=True)).numbers
    assert list(numbers.columns) == ["past", "new", "from state 1", "from state 2", "FT past", "FT new"]
    mean = numbers.loc[3, ["from state 1", "from state 2"]].mean()  # as many images of each
    assert mean == pytest.approx(numbers.loc[3, "past"], rel=1e-5)


def test_views_of_one_state_are_the_metrics(outcomes: RunOutcomes):
    choice, states = Choice(state=3, method="IL2M"), outcomes.run.states
    labels, predicted = outcomes.labels(3), method_scores(outcomes.run, 3, "IL2M").argmax(axis=1)
    origins = VIEWS["predictions"](outcomes, choice).numbers
    np.testing.assert_allclose(
        origins["predicted"], [np.mean(states.of_class[predicted] == state) for state in (1, 2, 3)]
    )
    np.testing.assert_allclose(origins["truth"], 1 / 3)
    confusion = VIEWS["states"](outcomes, choice).numbers
    np.testing.assert_allclose(confusion, state_confusion(predicted, labels, states.of_class))
    classes = VIEWS["classes"](outcomes, choice)
    assert classes.numbers.iloc[2, 4] == np.mean(predicted[labels == 2] == 4)
    assert classes.table["share"].is_monotonic_decreasing
    errors = VIEWS["errors"](outcomes, choice).numbers
    assert errors.loc["IL2M"].to_dict() == error_breakdown(predicted, labels, states.num_past(3))


@pytest.mark.parametrize("state", [1, 3])
def test_commonest_confusions_are_errors_the_most_frequent_first(outcomes: RunOutcomes, state: int):
    labels, predicted = outcomes.labels(state), method_scores(outcomes.run, state, "IL2M").argmax(axis=1)
    counts = Counter((true, guess) for true, guess in zip(labels, predicted, strict=True) if true != guess)
    pairs = sorted(counts, key=lambda pair: (-counts[pair], *pair))[:10]
    titles = [f"{label}: {name}" for label, name in enumerate(outcomes.run.class_names)]
    table = VIEWS["classes"](outcomes, Choice(state=state)).table
    assert list(table.index) == [titles[true] for true, _ in pairs]
    assert list(table["predicted"]) == [titles[guess] for _, guess in pairs]


@pytest.mark.parametrize("top", [1, 5])
def test_accuracy_is_that_of_the_results_table(outcomes: RunOutcomes, top: int):
    numbers = VIEWS["accuracy"](outcomes, Choice(state=3, top=top)).numbers
    table = results_table(outcomes.run, methods=list(numbers.columns))
    for method in numbers:
        rows = table[(table["method"] == method) & (table["score_kind"] == "raw")]
        np.testing.assert_allclose(numbers[method], rows[f"top{top}"], err_msg=method)


def test_one_class_then_and_now(outcomes: RunOutcomes):
    shown = VIEWS["one class"](outcomes, Choice(state=3, method="FT", label=2))
    for row, state in enumerate((2, 3)):
        scores, labels = outcomes.run.state(state).array("val_scores"), outcomes.labels(state)
        assert shown.numbers["mean"].iloc[row] == pytest.approx(scores[labels == 2, 2].mean())
    memory = outcomes.run.statistics(3)
    assert list(shown.numbers.iloc[:, -1]) == [memory.initial_means[2], memory.current_means[2]]
    with pytest.raises(InputError, match="learned at state 3, after state 2"):
        VIEWS["one class"](outcomes, Choice(state=2, label=5))


# fine-tuning beside the method


def drawn(shown: Shown) -> Axes:
    return shown.draw(ax=Figure().subplots())


def dotted(ax: Axes) -> dict[str, np.ndarray]:
    """Label -> values of the lines of dots."""
    return {line.get_label(): line.get_ydata() for line in ax.lines if line.get_linestyle() == ":"}


@pytest.mark.parametrize("method", ["FT", "IL2M", "NEM", "FT-th"])
@pytest.mark.parametrize("name", [name for name in VIEWS if name != "what if"])
def test_every_finding_names_the_method(outcomes: RunOutcomes, name: str, method: str):
    for state in (1, 2, 3):
        finding = VIEWS[name](outcomes, Choice(state, method)).finding
        assert re.match(rf"{method}[:,] ", finding)
        assert "nan" not in finding
        if state == 1 and name in ("true-class scores", "predictions", "states", "errors"):
            assert finding == f"{method}: all classes are new at state 1"
        elif name in ("predictions", "states", "errors", "accuracy"):
            assert ("; FT: " in finding) == (method != "FT")


@pytest.mark.parametrize("by_origin", [False, True])
def test_fine_tuning_stays_as_dots_beside_true_class_scores(outcomes: RunOutcomes, by_origin: bool):
    alone = true_class_scores(outcomes, Choice(3, "FT", by_origin=by_origin))
    beside = true_class_scores(outcomes, Choice(3, "IL2M", by_origin=by_origin))
    assert dotted(drawn(alone)) == {}
    dots = dotted(drawn(beside))
    for group in ("past", "new"):
        np.testing.assert_array_equal(dots[f"FT {group}"], alone.numbers[group])
    gap = alone.numbers.loc[3, "past"] - alone.numbers.loc[3, "new"]
    assert beside.finding.endswith(f"FT: {abs(gap):.2f} {'below' if gap < 0 else 'above'}")


def test_scores_of_another_scale_share_no_axis(outcomes: RunOutcomes):
    for name in ("true-class scores", "one class"):
        shown = VIEWS[name](outcomes, Choice(3, "NEM"))
        assert not [column for column in [*shown.numbers, *shown.numbers.index] if "FT" in str(column)]
        assert not dotted(drawn(shown))
        assert "negated distance" in drawn(shown).get_xlabel() + drawn(shown).get_ylabel()
    assert shown.numbers.iloc[:, -1].isna().all()  # the memory's means are logits
    assert not drawn(shown).lines
    raw = true_class_scores(outcomes, Choice(3, "FT")).numbers  # WA is defined on raw scores alone
    beside = true_class_scores(outcomes, Choice(3, "WA", score_kind="softmax")).numbers
    np.testing.assert_array_equal(beside["FT past"], raw["past"])


def test_fine_tuning_stays_as_outlines_on_predictions_and_one_class(outcomes: RunOutcomes):
    for name in ("predictions", "one class"):
        outlines = {
            method: [bar for bar in drawn(VIEWS[name](outcomes, Choice(3, method))).patches if not bar.get_fill()]
            for method in ("FT", "IL2M")
        }
        assert outlines["FT"] == []
        assert outlines["IL2M"]
        assert all(bar.get_linestyle() != "-" and bar.get_linewidth() > 1 for bar in outlines["IL2M"])
        if name == "predictions":
            alone = VIEWS[name](outcomes, Choice(3, "FT")).numbers["predicted"]
            np.testing.assert_array_equal([bar.get_height() for bar in outlines["IL2M"]], alone)
    alone, beside = (VIEWS["one class"](outcomes, Choice(3, method)).numbers for method in ("FT", "IL2M"))
    assert beside.loc["by FT, state 3", "mean"] == alone.loc["now, state 3", "mean"]


class Watched(RunOutcomes):
    """Remembers what it computed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.computed: list[tuple[int, str, str]] = []

    def _compute(self, *key: int | str) -> Outcome:
        self.computed.append(key)
        return super()._compute(*key)


def test_only_what_is_shown_is_computed(tiny_study: TinyStudy):
    for method, name, expected in (
        ("NEM", "true-class scores", {(state, "NEM") for state in (1, 2, 3)}),
        ("NEM", "one class", {(1, "NEM"), (3, "NEM")}),
        ("FT", "errors", {(3, "FT")}),
        ("IL2M", "classes", {(3, "IL2M")}),
        ("IL2M", "states", {(3, "IL2M"), (3, "FT")}),
    ):
        fresh = Watched(tiny_study.off)
        VIEWS[name](fresh, Choice(3, method))
        assert {key[:2] for key in fresh.computed} == expected
        assert len(set(fresh.computed)) == len(fresh.computed)


# what if


def test_what_if_says_all_that_was_chosen(outcomes: RunOutcomes):
    chosen = Exponents(gate=0.5, pooling="state", clipped=True)
    assert "^1, gate 0.5, means by state, clipped: " in VIEWS["what if"](outcomes, Choice(3, exponents=chosen)).finding
    assert "^1: " in VIEWS["what if"](outcomes, Choice(3)).finding


def test_what_if_marks_the_paper_and_the_best_of_each_curve(outcomes: RunOutcomes):
    choice = Choice(3, exponents=Exponents(0.5, 1.35))
    shown = VIEWS["what if"](outcomes, choice)
    assert (
        "(μP/μN)^0.5·(μ(MN)/μ(MP))^1.35: {:.1%}; IL2M".format(shown.numbers.loc["your choice", "all"]) in shown.finding
    )
    for panel, factor in zip(drawn(shown).child_axes, ("means", "confidence"), strict=True):
        curves, _ = what_if_curves(outcomes, choice, factor)
        lines = [line for line in panel.lines if line.get_marker() == "o"]
        stars = [line for line in panel.lines if line.get_marker() == "*"]
        for line, star, (group, series) in zip(lines, stars, curves.items(), strict=True):
            assert line.get_label() == group
            assert [EXPONENTS[at] for at in line.get_markevery()] == [1]
            (exponent,), (best,) = star.get_data()
            assert best == max(series) == series[EXPONENTS.index(exponent)]
    assert VIEWS["what if"](outcomes, Choice(1)).finding == "Eq. 1 changes nothing: all classes are new at state 1"


def test_what_if_shares_its_y_axis_between_runs(tiny_study: TinyStudy):
    runs = open_outcomes([tiny_study.on, tiny_study.off])
    figures = page.make_figures({run.label: VIEWS["what if"](run, Choice(3)) for run in runs})
    panels = [panel for figure in figures for ax in figure.axes for panel in ax.child_axes]
    assert len(panels) == 4
    assert len({panel.get_ylim() for panel in panels}) == 1
    values = [value for panel in panels for line in panel.lines[:6] for value in line.get_ydata()]
    low, high = panels[0].get_ylim()
    assert low <= min(values) < max(values) <= high


# images


@pytest.mark.parametrize("method", ["FT", "IL2M"])
def test_pages_of_images_hold_each_changed_image_once(
    outcomes: RunOutcomes, method: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("il2m.explorer.views._SHOWN", 1)
    was, now = (outcomes.outcome(3, each).ranks == 0 for each in ("FT", method))
    expected = {"mended": ~was & now, "broken": was & ~now}
    if method == "FT":
        as_new = (outcomes.labels(3) < 4) & (outcomes.outcome(3, "FT").predicted >= 4)
        expected = {"past taken for new": ~now & as_new, "other errors": ~now & ~as_new}
    pages = VIEWS["images"](outcomes, Choice(3, method)).pages
    assert pages == max(1, *(kind.sum() for kind in expected.values())) > 1
    rows = pd.concat([VIEWS["images"](outcomes, Choice(3, method, page=page)).numbers for page in range(pages)])
    for what, kind in expected.items():
        np.testing.assert_array_equal(np.sort(rows.index[rows["what"] == what]), np.flatnonzero(kind))
    last, beyond = (VIEWS["images"](outcomes, Choice(3, method, page=page)) for page in (pages - 1, pages + 7))
    assert last.finding == beyond.finding
    assert f"page {pages} of {pages}" in last.finding


def test_training_images_are_called_memory_only_where_they_are(outcomes: RunOutcomes):
    for state, label, heading in ((1, 0, "new at state 1"), (3, 0, "in memory"), (2, 5, "new at state 3")):
        ax = drawn(VIEWS["images"](outcomes, Choice(state, label=label)))
        assert ax.texts[0].get_text() == f"{heading}: {outcomes.titles[label]}"
        group = "exemplar" if heading == "in memory" else "new"
        count = np.sum(outcomes.run.state(state).array(f"{group}_labels") == label)
        assert len([image for image in ax.images if image.get_extent()[3] == 0]) == min(7, count)
    assert count == 0  # of a class that is learned later


# the page


def test_numbers_on_the_page_are_as_in_the_figure(outcomes: RunOutcomes):
    for name, cell in (
        ("true-class scores", r"-?\d+\.\d\d"),
        ("predictions", r"\d+%"),
        ("states", r"\d+%"),
        ("errors", r"\d+\.\d%"),
        ("accuracy", r"\d+\.\d%"),
        ("what if", r"\d+\.\d%"),
    ):
        cells = re.findall("<td>(.*?)</td>", page.PARTS.numbers({"": VIEWS[name](outcomes, Choice(3))}))
        assert cells
        assert not [text for text in cells if text and not re.fullmatch(cell, text)], name


def test_a_control_changes_figure_and_numbers(explorer: BiasExplorer):
    controls = explorer.controls
    for name, value in (
        ("state", 2),
        ("method", "IL2M-no-gate"),
        ("run", "distillation on"),
        ("score_kind", "softmax"),
        ("by_origin", True),
        ("view", "predictions"),
        ("view", "states"),
        ("view", "classes"),
        ("view", "errors"),
        ("view", "accuracy"),
        ("top", 5),
        ("view", "one class"),
        ("class_name", explorer.all_outcomes[0].titles[1]),
    ):
        before = explorer.figure.value
        getattr(controls, name).value = value
        assert explorer.figure.value != before, name
        assert "<svg" in explorer.figure.value
        for what in explorer.shown.values():
            assert what.finding.split(",")[0][:40] in re.sub(r"</?[^>]*>", "", explorer.figure.value)


def other_values(control: widgets.Widget) -> list[object]:
    """Values that a control could have and has not."""
    if isinstance(control, widgets.FloatSlider | widgets.IntSlider | widgets.BoundedIntText):
        values = [control.min, control.max]
    elif isinstance(control, widgets.Combobox):
        values = control.options[:3]
    else:
        options = control.options.items() if isinstance(control.options, dict) else control.options
        values = [option[1] if isinstance(option, tuple) else option for option in options]
    return [value for value in values if value != control.value]


def changes_what_is_shown(explorer: BiasExplorer, control: widgets.Widget) -> bool:
    """Whether figure, numbers or finding change with some other value of a control, which is set back then."""
    before, value, changed = (explorer.figure.value, explorer.numbers.value), control.value, False
    for other in other_values(control):
        control.value = other
        changed = (explorer.figure.value, explorer.numbers.value) != before
        if changed:
            break
    control.value = value
    return changed


@pytest.mark.parametrize("view", VIEWS)
def test_controls_that_change_nothing_are_hidden(tiny_study: TinyStudy, view: str):
    explorer = BiasExplorer(open_outcomes([tiny_study.off]))
    controls = vars(explorer.controls)
    with mpl.rc_context({"svg.hashsalt": "the same names in each file"}):
        controls["view"].value = view
        for method, names in (("IL2M", set(controls) - {"view"}), ("FT", {"score_kind"}), ("WA", {"score_kind"})):
            controls["method"].value = method
            for name in names:
                shown = controls[name].layout.display != "none"
                assert changes_what_is_shown(explorer, controls[name]) == shown, f"{name}, {method}"
    assert controls["view"].layout.display is None
    assert (explorer.play.layout.display, explorer.reset.layout.display == "none") == (None, view != "what if")


def test_a_run_that_stands_alone_is_not_chosen(explorer: BiasExplorer, tiny_study: TinyStudy):
    assert explorer.controls.run.layout.display is None
    assert BiasExplorer(open_outcomes([tiny_study.off])).controls.run.layout.display == "none"


def test_the_kind_of_scores_is_offered_where_some_method_shown_has_two():
    assert "score_kind" in controls_of("accuracy", "NEM", ["FT", "IL2M", "NEM"])
    assert "score_kind" not in controls_of("accuracy", "NEM", ["FT", "NEM"])  # softmax keeps the order of FT's
    assert "score_kind" in controls_of("what if", "NEM", ["FT", "IL2M", "NEM"])
    assert "score_kind" in controls_of("one class", "FT", ["FT"])


# the words, and the tour


def test_every_view_has_its_words_and_uses_controls_that_there_are(explorer: BiasExplorer):
    assert list(STORY["views"]) == list(VIEWS)
    for view, about in STORY["views"].items():
        assert set(about) <= {"about", "uses", "of", "scores", "compares"}
        assert set(about["uses"]) < set(vars(explorer.controls))
        explorer.controls.view.value = view
        assert about["about"] in unescape(explorer.about.value)


def test_the_tour_goes_there_and_back(explorer: BiasExplorer):
    assert explorer.back.disabled
    assert len(explorer.tour) == 7
    drawn, findings = [], []
    explorer.figure.observe(drawn.append, "value")
    for step in range(7):
        assert not explorer.next.disabled
        explorer.next.click()
        assert len(drawn) <= step + 1, "each step is drawn once"
        values = {name: control.value for name, control in vars(explorer.controls).items()}
        assert STORY["tour"][step]["set"].items() <= values.items()
        assert values["run"] == "distillation off"
        assert f"{step + 1} of 7: {STORY['tour'][step]['title']}" in unescape(explorer.story.value)
        assert STORY["tour"][step]["text"] in unescape(explorer.story.value)
        assert explorer.shown
        findings.append(explorer.shown["distillation off"].finding)
    assert explorer.next.disabled
    for step in reversed(range(6)):
        explorer.back.click()
        assert explorer.shown["distillation off"].finding == findings[step]
    assert explorer.back.disabled


def test_a_step_is_left_by_another_view_and_gone_on_from(explorer: BiasExplorer):
    for _ in range(5):
        explorer.next.click()
    explorer.controls.means.value = 0  # as the step asks for
    assert "5 of 7" in explorer.story.value
    explorer.controls.view.value = "states"
    assert "5 of 7" not in explorer.story.value
    explorer.next.click()
    assert "6 of 7" in explorer.story.value
    explorer.back.click()
    assert explorer.choice.exponents == Exponents()


def test_the_tour_of_scores_alone_does_without_il2m(imported: Run):
    page = BiasExplorer(open_outcomes([imported]))
    assert [step["title"] for step in page.tour] == ["The bias", "The second memory", "One class fading"]
    for _ in page.tour:
        page.next.click()
        assert page.shown


def test_it_opens_on_fine_tuning_where_the_bias_is(explorer: BiasExplorer):
    assert (explorer.choice.method, explorer.choice.state) == ("FT", 3)
    shown = explorer.shown["distillation off"].numbers
    expected = bias_table(explorer.all_outcomes[0].run, method="FT")
    np.testing.assert_allclose(shown["past"], expected["past_score"], rtol=1e-5)


# what it is read with


def test_figures_and_tables_tell_what_they_are(explorer: BiasExplorer):
    explorer.controls.view.value = "errors"
    finding = explorer.shown["distillation on"].finding
    labels = re.findall(r'<svg[^>]* role="img" aria-label="([^"]*)"', explorer.figure.value)
    assert [unescape(label) for label in labels][1] == f"errors, distillation on: {finding}"
    assert "<caption>distillation on</caption>" in explorer.numbers.value
    headers = re.findall(r'<th scope="(\w+)">([^<]*)</th>', explorer.numbers.value)
    assert headers[:2] == [("col", "method"), ("col", explorer.shown["distillation on"].numbers.columns[0])]
    assert ("row", "FT") in headers
    assert len(re.findall("<th\\b", explorer.numbers.value)) == len(headers)


def test_runs_share_the_y_axis_though_each_has_a_figure_of_its_own(explorer: BiasExplorer):
    for name in ("true-class scores", "errors", "accuracy"):
        explorer.controls.view.value = name
        figures = page.make_figures(explorer.shown)
        limits = [figure.axes[0].get_ylim() for figure in figures]
        assert len(limits) == 2
        assert limits[0] == limits[1]
        alone = [page.make_figures({label: what})[0].axes[0].get_ylim() for label, what in explorer.shown.items()]
        for low, high in alone:  # nothing is cut off, but for a margin that grows with what is seen
            assert limits[0][0] <= low + 0.1 * (high - low)
            assert limits[0][1] >= high - 0.1 * (high - low)


def test_a_long_legend_stands_below_the_axes(explorer: BiasExplorer):
    explorer.controls.view.value = "accuracy"
    (figure, _), methods = page.make_figures(explorer.shown), explorer.controls.method.options
    assert figure.axes[0].get_legend() is None
    assert len(figure.legends[0].get_texts()) == len(methods)
    figure.canvas.draw()
    box, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert 0 <= box.y0 < box.y1 < axes.y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_a_figure_is_marked_as_late_until_it_is_drawn(explorer: BiasExplorer):
    marks = []
    explorer.figure.observe(lambda change: marks.append("il2m-late" in explorer.figure._dom_classes), "value")
    explorer.controls.method.value = "ScaIL"
    assert marks
    assert all(marks)
    assert "il2m-late" not in explorer.figure._dom_classes
    explorer.controls.view.value, explorer.controls.state.value = "one class", 1
    explorer.controls.class_name.value = "5"
    assert "is learned at state 3, after state 1" in explorer.status.value
    assert "il2m-late" not in explorer.figure._dom_classes


# runs in it


def test_both_runs_lie_side_by_side_off_first(explorer: BiasExplorer, tiny_study: TinyStudy):
    assert [outcomes.run.name for outcomes in explorer.all_outcomes] == [tiny_study.off.name, tiny_study.on.name]
    assert list(explorer.shown) == ["distillation off", "distillation on"]
    explorer.controls.run.value = "distillation on"
    assert list(explorer.shown) == ["distillation on"]


def test_what_if_sliders_change_the_accuracy_shown_and_reset_restores_it(explorer: BiasExplorer):
    explorer.controls.view.value = "what if"
    numbers = explorer.shown["distillation off"].numbers
    assert (numbers.loc["your choice"] == numbers.loc["IL2M's own choice"]).all()
    explorer.controls.means.value = 0
    explorer.controls.confidence.value = 0
    numbers = explorer.shown["distillation off"].numbers
    assert (numbers.loc["your choice"] == numbers.loc["fine-tuning"]).all()
    assert f"<td>{numbers.loc['your choice', 'past']:.1%}</td>" in explorer.numbers.value
    explorer.reset.click()
    assert [explorer.choice.exponents] == [Exponents()]


def test_the_images_view_names_what_was_mended(explorer: BiasExplorer):
    explorer.controls.view.value, explorer.controls.method.value = "images", "IL2M"
    outcomes = explorer.all_outcomes[0]
    was, now = (outcomes.outcome(3, method).ranks == 0 for method in ("FT", "IL2M"))
    shown = explorer.shown["distillation off"]
    assert f"IL2M: {np.sum(~was & now)} mended, {np.sum(was & ~now)} broken" in shown.finding
    for place, row in shown.numbers.iterrows():
        assert (~was & now if row["what"] == "mended" else was & ~now)[place]  # validation images are in order
        scores = method_scores(outcomes.run, 3, "IL2M")[place]
        assert row["top-5 by IL2M"].startswith(f"{scores.argmax()}: ")
        assert row["top-5 by FT"].startswith(f"{outcomes.outcome(3, 'FT').predicted[place]}: ")


def test_a_view_is_saved_as_svg_png_and_csv(explorer: BiasExplorer):
    explorer.controls.view.value = "accuracy"
    explorer.save.click()
    links = dict(re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', explorer.links.value))
    runs = ("distillation-off", "distillation-on")
    names = [f"-{run}.{kind}" for kind in ("svg", "png") for run in runs]
    assert list(links) == [f"accuracy-FT-state-3-top-1{name}" for name in (".csv", *names)]
    csv, svg, _, png, _ = (base64.b64decode(data) for data in links.values())
    assert b"<svg" in svg
    assert explorer.shown["distillation off"].finding[:40].encode() in svg
    assert Image.open(io.BytesIO(png)).size[0] > 1000
    table = pd.read_csv(io.BytesIO(csv), index_col=["run", "state"])
    saved = table.loc[("distillation off", 3), "IL2M"]
    assert saved == explorer.shown["distillation off"].numbers.loc[3, "IL2M"]  # unrounded
    explorer.controls.state.value = 2
    assert explorer.links.value == ""


def test_what_is_saved_is_named_for_what_it_is_of(explorer: BiasExplorer):
    named = {"what if": "what-if-IL2M-state-3-top-1", "one class": "one-class-FT-state-3-class-2"}
    explorer.controls.class_name.value = explorer.all_outcomes[0].titles[2]
    for view, name in named.items():
        explorer.controls.view.value = view
        explorer.save.click()
        assert re.search(r'download="([^"]+).csv"', explorer.links.value)[1] == name


def test_all_rows_and_columns_of_the_numbers_are_on_the_page():
    numbers = pd.DataFrame(np.ones((20, 14))).rename_axis("state")
    html = page.PARTS.numbers({"a run": Shown(numbers, "", plots.plot_by_state)})
    assert html.count("<tr>") == 21
    assert html.count("<td>1.00</td>") == 20 * 14


def test_a_long_finding_is_whole_in_what_is_saved():
    words = "; ".join(f"class {label} of a long name" for label in range(9))
    shown = {"a run": Shown(pd.DataFrame(), words, lambda ax: ax.plot([0, 1]))}
    with mpl.rc_context(plots.page_style()):
        (figure,) = page.make_figures(shown)
        figure.draw_without_rendering()
    title = figure.axes[0].get_title("left")
    assert " ".join(title.split()) == f"a run {words}"
    assert figure.axes[0]._left_title.get_window_extent().y1 <= figure.bbox.y1


def test_shares_that_lie_close_have_ticks_of_their_own():
    ax = plots.plot_by_state({"FT": [0.99, 0.98, 0.968, 0.96]}, ylabel="accuracy")
    ax.figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert len({*ticks}) == len(ticks)
    assert [f"{round(100 * place, 2) + 0:g}%" for place in ax.get_yticks()] == ticks


def test_what_cannot_be_found_has_words_of_its_own(tiny_study: TinyStudy, tmp_path: Path):
    """No wrong image; no validation image of past classes."""
    files = []
    for state in (1, 2, 3):
        labels = np.arange(2 * state - 2, 2 * state).repeat(3)
        files.append(tmp_path / f"{state}.npz")
        np.savez(files[-1], state_sizes=[2] * state, val_labels=labels, val_scores=np.eye(2 * state)[labels])
    outcomes = RunOutcomes(import_scores(files, tmp_path / "run"))
    assert VIEWS["classes"](outcomes, Choice(3, "FT")).finding == "FT: no errors"
    for view in ("true-class scores", "states"):
        finding = VIEWS[view](outcomes, Choice(3, "FT")).finding
        assert finding == "FT: no images of past or of new classes to compare"
    with pytest.raises(InputError, match=r"^run: IL2M can't be computed: state 1 has no"):
        VIEWS["what if"](outcomes, Choice(3))


def test_undefined_ratios_are_those_of_the_means_that_were_chosen(explorer: BiasExplorer):
    explorer.controls.view.value = "what if"
    outcomes = explorer.all_outcomes[0]
    for pooling, method in {"class": "IL2M", "state": "IL2M-pooled", "past": "IL2M-global"}.items():
        explorer.controls.pooling.value = pooling
        note = outcomes.undefined_note(3, method, "raw")
        assert note in unescape(explorer.status.value) if note else "undefined" not in explorer.status.value


def test_figures_take_the_colour_of_the_page(explorer: BiasExplorer):
    assert "currentColor" in explorer.figure.value
    assert plots.INK not in explorer.figure.value
    saved = page.draw_figures(explorer.shown, "svg", facecolor="white")[0].decode()
    assert plots.INK in saved


def test_a_drawn_figure_is_not_kept(explorer: BiasExplorer):
    def alive() -> int:
        return sum(type(each) is Figure for each in gc.get_objects())

    gc.collect()
    before = alive()
    page.draw_figures(explorer.shown, "svg")
    assert alive() == before
    assert gc.isenabled()


def test_a_class_that_cannot_be_told_keeps_what_is_shown_and_is_said_once(explorer: BiasExplorer):
    controls = explorer.controls
    controls.view.value, controls.class_name.value = "one class", "2"
    label, numbers = explorer.choice.label, explorer.numbers.value
    controls.class_name.value = "walrus"
    assert explorer.choice.label == label == 2
    assert explorer.numbers.value == numbers
    assert "<svg" in explorer.figure.value
    assert explorer.status.value.count("no class is called &#39;walrus&#39;") == 1
    assert f"{explorer.all_outcomes[0].titles[2]} is still shown" in explorer.status.value
    controls.view.value = "errors"  # no class is asked for
    assert "no class" not in explorer.status.value
    controls.view.value, controls.class_name.value = "one class", "1"
    assert explorer.choice.label == 1
    assert "no class" not in explorer.status.value


def test_classes_are_found_by_title_number_and_part_of_name():
    titles = ["0: Zebra", "1: great white shark", "2: 0"]
    assert [find_class(text, titles) for text in ("0: Zebra", "1", "WHITE", " zeb ")] == [0, 1, 1, 0]
    for text in ("", "7", "whale"):
        with pytest.raises(InputError, match="no class"):
            find_class(text, titles)


def test_methods_that_a_run_cannot_give_are_named(explorer: BiasExplorer):
    assert "BiC" not in explorer.controls.method.options
    assert any("BiC: distillation off: state 2 held no" in getattr(part, "value", "") for part in explorer.children)


@pytest.fixture
def registered() -> Iterator[None]:
    """What is registered in a test is forgotten after it."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.usefixtures("registered")
def test_a_method_registered_later_is_in_an_explorer_opened_afterwards(explorer: BiasExplorer, tiny_study: TinyStudy):
    @il2m.method("halved-past", label="past halved")
    def halved_past(state: Frozen) -> np.ndarray:
        scores = state.scores.copy()
        scores[:, : state.num_past] /= 2
        return scores

    @il2m.method("of-held-out", needs="held_out")
    def of_held_out(state: Frozen) -> np.ndarray:
        return state.scores

    explorer.controls.view.value = "accuracy"  # one that was open before shows what it showed
    assert not {"halved-past", "of-held-out"} & set(explorer.shown["distillation off"].numbers)
    opened = BiasExplorer(open_outcomes([tiny_study.off]))
    assert ("past halved", "halved-past") in opened.controls.method.options
    assert "of-held-out: distillation off: state 2 held no" in opened.children[-1].value
    opened.controls.view.value, opened.controls.method.value = "accuracy", "halved-past"
    own, labels = method_scores(tiny_study.off, 3, "halved-past"), opened.all_outcomes[0].labels(3)
    numbers = opened.shown["distillation off"].numbers
    assert numbers.loc[3, "halved-past"] == np.mean(own.argmax(axis=1) == labels)
    assert "of-held-out" not in numbers


# what may be given


def copy_study(study: TinyStudy, folder: Path, *runs: Run) -> Path:
    for run in (study.base, *runs):
        shutil.copytree(run.folder, folder / run.name)
    return folder


def test_a_study_is_its_newest_run_and_the_twin(tiny_study: TinyStudy, tmp_path: Path):
    folder = copy_study(tiny_study, tmp_path / "study", tiny_study.on, tiny_study.off)
    off, on = open_outcomes([str(folder)])
    assert [off.run.folder, on.run.folder] == [folder / tiny_study.off.name, folder / tiny_study.on.name]
    assert [off.label, on.label] == ["distillation off", "distillation on"]


def test_a_study_of_one_run_alone_and_beside_a_run_of_another(tiny_study: TinyStudy, tmp_path: Path):
    folder = copy_study(tiny_study, tmp_path / "study", tiny_study.off)
    own = folder / tiny_study.off.name
    assert [outcomes.run.folder for outcomes in open_outcomes([folder])] == [own]
    for other in (tiny_study.on, tiny_study.on.folder):
        assert [outcomes.run.folder for outcomes in open_outcomes([other, folder])] == [own, tiny_study.on.folder]


def test_a_folder_of_imported_scores_is_one_run(imported: Run):
    assert [outcomes.label for outcomes in open_outcomes([imported.folder])] == ["imported scores"]


def test_runs_are_counted_as_they_are_shown(tiny_study: TinyStudy, tmp_path: Path):
    folder = copy_study(tiny_study, tmp_path / "study", tiny_study.on, tiny_study.off)
    with pytest.raises(InputError, match="5 runs were given: the explorer shows 1 to 4"):
        bias_explorer(folder, tiny_study.off, folder)


def test_a_stored_table_of_another_policy_is_told(tiny_study: TinyStudy, tmp_path: Path):
    folder = copy_study(tiny_study, tmp_path / "study", tiny_study.off)
    own, table = folder / tiny_study.off.name, results_table(tiny_study.off)
    for policy in ({}, {"undefined": "keep"}):
        table.attrs.update(policy)
        save_results(table, own)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_outcomes([own])
    table.attrs["undefined"] = "as-published"
    save_results(table, own)
    with pytest.warns(
        UserWarning, match=f"shows undefined = keep .* the table stored beside {own.name} has as-published"
    ):
        open_outcomes([own])


def test_what_an_explorer_computed_goes_with_it(tiny_study: TinyStudy):
    outcomes = RunOutcomes(Run(tiny_study.off.folder))
    first = what_if_curves(outcomes, Choice(state=3), "means")
    assert what_if_curves(outcomes, Choice(state=3), "means")[0] is first[0]
    gone = weakref.ref(outcomes)
    del outcomes
    gc.collect()
    assert gone() is None


# where nobody watches


def test_without_a_live_page_pictures_are_displayed(
    tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch, tiny_npz: Path
):
    shown = []
    monkeypatch.setattr(explore, "display", lambda *things: shown.extend(things))
    monkeypatch.setenv("IL2M_HEADLESS", "1")
    assert bias_explorer(tiny_study.off, str(tiny_study.on.folder)) is None
    pages = [thing.data for thing in shown]
    assert len(pages) == len(VIEWS)
    assert sum(map(len, pages)) < 1_500_000
    for view, text in zip(VIEWS, pages, strict=True):
        method = "IL2M" if view in ("errors", "what if", "images") else "FT"  # FT beside itself tells nothing
        assert f"<h4>{view.capitalize()} ({method}, state 3)</h4>" in text
        assert STORY["views"][view]["about"] in unescape(text)
        assert len(re.findall('<svg[^>]* role="img" aria-label=', text)) == 2
        assert text.count("<style>.il2m") == 1, "the style is markup, and no text"


def test_pictures_of_scores_alone(imported: Run, monkeypatch: pytest.MonkeyPatch):
    shown = []
    monkeypatch.setattr(explore, "display", lambda *things: shown.extend(things))
    show_static(open_outcomes([imported]))
    told = [thing.data for thing in shown if "imported scores come without images" in str(thing.data)]
    assert len(told) == 1
    assert len([thing for thing in shown if "<svg" in thing.data]) >= len(VIEWS) - 2


# bad input


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match=r"no finished fine-tuning run in .*: run base training and fine-tuning first"):
        bias_explorer(tmp_path)
    with pytest.raises(InputError, match="0 runs were given: the explorer shows 1 to 4"):
        bias_explorer()


def test_a_base_and_the_same_run_twice(tiny_study: TinyStudy):
    with pytest.raises(InputError, match="is a base, not a fine-tuning run"):
        bias_explorer(tiny_study.base)
    with pytest.raises(InputError, match="the same run was given twice"):
        bias_explorer(tiny_study.off, tiny_study.off.folder)


def test_runs_of_other_classes(tiny_study: TinyStudy, imported: Run):
    with pytest.raises(InputError, match="can't be compared: their states differ"):
        bias_explorer(tiny_study.off, imported)


def test_runs_of_classes_with_other_names(tiny_study: TinyStudy, tmp_path: Path):
    for run in (tiny_study.base, tiny_study.off):
        shutil.copytree(run.folder, tmp_path / run.name)
    path = tmp_path / tiny_study.off.name / "config.json"
    config = json.loads(path.read_text())
    rewrite_checked(path, {**config, "class_names": [*config["class_names"][:-1], "another"]})
    with pytest.raises(InputError, match="can't be compared: their classes differ"):
        bias_explorer(tiny_study.on, path.parent)


def test_a_run_that_is_still_trained(tiny_study: TinyStudy, tmp_path: Path):
    study = tmp_path / "study"
    shutil.copytree(tiny_study.out_dir, study)
    folder = study / tiny_study.off.name
    shutil.rmtree(folder / "state_03")
    with pytest.raises(InputError, match=r"is not finished \(states \[3\] are missing: run fine-tuning again"):
        bias_explorer(folder)
    (folder / "progress.json").write_text('{"where": "state 3/3, epoch 1/2"}')
    with pytest.raises(InputError, match=r"is not finished \(states \[3\] are missing"):  # who wrote that was killed
        bias_explorer(folder)
    still = pytest.raises(
        InputError, match=r"still being trained \(state 3/3, epoch 1/2\): come back when it has ended"
    )
    with locked(folder / RUN_LOCK, waiting_for=""), still:
        bias_explorer(folder)


def test_without_images_the_rest_works(tiny_study: TinyStudy, tmp_path: Path):
    study = tmp_path / "study"
    shutil.copytree(tiny_study.out_dir, study)
    config = study / tiny_study.off.name / "config.json"
    rewrite_checked(config, json.loads(config.read_text()) | {"source": str(tmp_path / "gone.npz")})
    page = BiasExplorer(open_outcomes([config.parent]))
    page.controls.view.value = "images"
    assert "its images are not at hand" in page.status.value
    assert page.figure.value == ""
    page.controls.view.value = "errors"
    assert "<svg" in page.figure.value


def test_accuracies_that_are_stored_are_not_computed_again(tiny_study: TinyStudy, tmp_path: Path):
    shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    run = Run(tmp_path / "study" / tiny_study.off.name)
    computed = VIEWS["accuracy"](RunOutcomes(run), Choice(3))
    save_results(results_table(run, methods=METHODS), run.folder)
    stored = Watched(run)
    pd.testing.assert_frame_equal(VIEWS["accuracy"](stored, Choice(3)).numbers, computed.numbers)
    assert stored.computed == []
    save_results(results_table(run, methods=METHODS, undefined="as-published"), run.folder)
    shown = VIEWS["accuracy"](RunOutcomes(run), Choice(3)).numbers
    pd.testing.assert_frame_equal(shown, computed.numbers), "the explorer shows undefined = keep"


@pytest.mark.parametrize(("first", "bad"), [(-10, 2), (10, 1)])
def test_ratios_that_are_undefined_are_told_where_il2m_is_shown(tmp_path: Path, first: float, bad: int):
    rng, classes = np.random.default_rng(3), {1: {"new": [0, 1]}, 2: {"new": [2, 3], "exemplar": [0, 1]}}
    for state, groups in classes.items():
        arrays = {}
        for group, labels in {"val": range(2 * state), **groups}.items():
            arrays[f"{group}_labels"] = np.repeat(labels, 4)
            arrays[f"{group}_scores"] = rng.normal(-10, size=(4 * len(labels), 2 * state))
            arrays[f"{group}_scores"][:, 0] += first + 10  # of class 0
        np.savez(tmp_path / f"{state}.npz", state_sizes=[2, 2][:state], **arrays)
    page = BiasExplorer(
        open_outcomes([import_scores([tmp_path / f"{state}.npz" for state in classes], tmp_path / "run")])
    )
    told = f"{bad} of 2 past classes undefined (state 2: a mean score is missing or not positive), left alone"
    for method, view, is_told in (("IL2M", "errors", True), ("FT", "errors", False), ("FT", "what if", True)):
        page.controls.method.value, page.controls.view.value = method, view
        assert (told in page.status.value) == is_told
    page.controls.method.value, page.controls.view.value = "IL2M-means", "errors"
    assert f"IL2M-means on raw scores: {told}" in page.status.value
    assert ("IL2M-means does nothing" in page.status.value) == (bad == 2)
    page.controls.method.value = "IL2M-confidence"  # takes no class means, and the highest scores are of class 0
    assert ("IL2M-confidence on raw scores: 2 of 2" in page.status.value) == (first < 0)
    assert ("undefined" in page.status.value) == (first < 0)
    page.controls.method.value = "IL2M"
    page.controls.score_kind.value = "softmax"
    assert told not in page.status.value


def test_scores_alone_are_explored_as_far_as_they_go(imported: Run):
    page = BiasExplorer(open_outcomes([imported]))
    assert page.controls.method.value == "FT"
    assert "IL2M" not in page.controls.method.options
    page.controls.view.value = "what if"
    assert "IL2M can&#39;t be computed: state 1 has no statistics" in page.status.value
    page.controls.view.value = "accuracy"
    expected = results_table(imported, methods=("FT",))["top1"].iloc[2]
    assert page.shown["imported scores"].numbers.loc[2, "FT"] == expected
