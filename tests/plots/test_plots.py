"""Plots, tested through what they draw: line data, bar heights, tick labels."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from il2m import plots
from il2m.methods.registry import METHODS
from il2m.plots import detail
from il2m.plots.style import UNNAMED

mpl.use("Agg")
COLOURS = {"FT": "#7F7F7F", "IL2M": "#009E73", "WA": "#17BECF"}


@pytest.fixture(autouse=True)
def style_and_clean_up():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def test_by_state_draws_a_line_per_entry_from_its_first_state():
    ax = plots.plot_by_state({"FT": [0.9, 0.5], "IL2M": [0.9, 0.6]}, first_state=2, colours=COLOURS)
    assert [line.get_label() for line in ax.lines] == ["FT", "IL2M"]
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [2, 3])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.9, 0.6])
    assert ax.lines[1].get_color() == COLOURS["IL2M"]
    assert ax.get_xlabel() == "state"


def test_a_label_without_a_colour_gets_the_next_of_lines_or_grey():
    first, second = mpl.rcParams["axes.prop_cycle"].by_key()["color"][:2]
    lines = plots.plot_by_state({"mine": [0.9], "FT": [0.8], "yours": [0.7]}, colours=COLOURS, dashes={"FT": ":"}).lines
    assert [line.get_color() for line in lines] == [first, COLOURS["FT"], second]
    assert [line.get_linestyle() for line in lines] == ["-", ":", "-"]
    lines = plots.plot_over_seeds({"mine": {1: [0.5]}}, {"mine": {1: (0.4, 0.6)}}, xlabel="K", colours=COLOURS).lines
    assert {line.get_color() for line in lines} == {first}  # points and interval like their line
    lines = plots.plot_differences({"mine": [0.5], "FT": [0.1]}, {"mine": (0, 1), "FT": (0, 1)}, colours=COLOURS).lines
    assert [line.get_color() for line in lines[:6]] == 3 * [UNNAMED] + 3 * [COLOURS["FT"]]
    bars = plots.plot_means({"mine": {"off": 0.5}, "FT": {"off": 0.4}}, xlabel="top-1", colours=COLOURS).patches
    assert [mpl.colors.to_hex(bar.get_facecolor()) for bar in bars] == [UNNAMED, COLOURS["FT"].lower()]


def test_past_and_new_have_their_colours():
    ax = plots.plot_past_and_new([np.nan, 1.0], [3.0, 2.0], ylabel="score")
    assert [line.get_color() for line in ax.lines] == [plots.PAST, plots.NEW]
    assert ax.get_ylabel() == "score"


def test_prediction_share_starts_at_state_2():
    ax = plots.plot_prediction_share([0.6, 0.5], [0.5, 0.3])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 3])


def test_class_means_are_points_and_a_diagonal():
    ax = plots.plot_class_means(np.array([3.0, 4.0]), np.array([1.0, 5.0]), np.array([1, 2]))
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[3, 1], [4, 5]])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())


def test_state_confusion_shows_shares_and_states_from_1():
    ax = plots.plot_state_confusion(np.array([[0.75, 0.25], [0.0, 1.0]]))
    assert [text.get_text() for text in ax.texts] == ["75%", "25%", "0%", "100%"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"]


def test_error_breakdown_stacks_to_the_error():
    errors = {
        "past as past": [0.1, 0.2],
        "past as new": [0.3, 0.3],
        "new as past": [0.0, 0.1],
        "new as new": [0.1, 0.1],
    }
    ax = plots.plot_error_breakdown(errors)
    tops = [max(bar.get_y() + bar.get_height() for c in ax.containers for bar in [c[i]]) for i in range(2)]
    np.testing.assert_allclose(tops, [0.5, 0.7])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(errors)


def test_means_draw_a_labelled_bar_per_method_and_group():
    ax = plots.plot_means({"FT": {"off": 0.5, "on": 0.4}, "IL2M": {"off": 0.6, "on": 0.5}}, xlabel="top-1")
    widths = [[bar.get_width() for bar in container] for container in ax.containers]
    assert widths == [[0.5, 0.6], [0.4, 0.5]]
    assert [text.get_text() for text in ax.texts] == ["50.0%", "60.0%", "40.0%", "50.0%"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["FT", "IL2M"]


def test_history_with_validation_accuracies():
    losses = {"state 2": [1.0, 0.5, 0.4], "state 3": [1.2, 0.6, 0.5]}
    ax = plots.plot_history(losses, {"state 2": [None, 0.5, None], "state 3": [None, 0.25, 0.375]})
    (other,) = (each for each in ax.figure.axes if each is not ax)
    assert [line.get_xydata().tolist() for line in other.lines] == [[[2, 0.5]], [[2, 0.25], [3, 0.375]]]
    assert [line.get_color() for line in other.lines] == [line.get_color() for line in ax.lines]
    never = plots.plot_history(losses, {"state 2": [None] * 3, "state 3": [None] * 3})
    assert never.figure.axes == [never]


def test_history_draws_epochs_from_1():
    ax = plots.plot_history({"state 2": [1.0, 0.5], "state 3": [1.2, 0.6]})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2])
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_laid_out_row_by_row(channels: int):
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, channels), dtype=np.uint8)
    ax = plots.plot_images({"a": images, "b": images[:1]})
    sheet = ax.images[0].get_array()
    assert sheet.shape[:2] == (12, 18)
    assert (sheet[0, 6:10] == 1).all()
    assert (sheet[6, 6:10] == 255).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_plots_take_plain_values(kind: type):
    pair, square = kind([0.25, 0.75]), kind([[0.25, 0.75], [0.0, 1.0]])
    drawn = {
        "plot_by_state": ({"FT": pair},),
        "plot_past_and_new": (pair, pair),
        "plot_prediction_share": (pair, pair),
        "plot_class_means": (pair, pair, kind([1, 2])),
        "plot_state_confusion": (square,),
        "plot_accuracy_matrix": (square,),
        "plot_error_breakdown": (dict.fromkeys(plots.ERROR_COLOURS, pair),),
        "plot_history": ({"state 2": pair},),
        "plot_images": ({"a": kind([[[[1], [2]], [[3], [4]]]])},),
        "plot_means": ({"FT": {"off": 0.5}},),
        "plot_differences": ({"FT": pair}, {"FT": pair}),
        "plot_over_seeds": ({"FT": {1: pair}}, {"FT": {1: pair}}),
    }
    assert drawn.keys() == {name for name in dir(plots) if name.startswith("plot_")}
    labels = {
        "plot_past_and_new": {"ylabel": "score"},
        "plot_means": {"xlabel": "K"},
        "plot_over_seeds": {"xlabel": "K"},
    }
    for name, values in drawn.items():
        ax = getattr(plots, name)(*values, **labels.get(name, {}))
        assert ax.has_data(), name


def test_plots_draw_where_they_are_told():
    _, ax = plt.subplots()
    assert plots.plot_by_state({"FT": [1.0]}, ax=ax) is ax


def test_differences_are_points_a_mean_and_an_interval():
    intervals = {"IL2M": (0.0, 0.04), "WA": (np.nan, np.nan)}
    ax = plots.plot_differences({"IL2M": [0.01, 0.03], "WA": [0.05]}, intervals, colours=COLOURS)
    points, interval, mean = ax.lines[:3]
    np.testing.assert_allclose(points.get_xdata(), [1, 3])
    np.testing.assert_allclose(interval.get_xdata(), [0, 4])
    np.testing.assert_allclose(mean.get_xdata(), [2])
    assert points.get_color() == COLOURS["IL2M"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["IL2M", "WA"]
    np.testing.assert_array_equal(ax.get_yticks(), [1, 0])  # read from the top


def test_over_seeds_draws_every_seed_its_mean_and_its_interval():
    values = {"FT": {50: [0.3, 0.5], 200: [0.6, 0.6]}, "WA": {200: [0.7]}}
    intervals = {"FT": {50: (0.3, 0.5), 200: (0.6, 0.6)}, "WA": {200: (np.nan, np.nan)}}
    ax = plots.plot_over_seeds(values, intervals, xlabel="K", colours=COLOURS)
    means = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in means] == ["FT", "WA"]
    np.testing.assert_allclose(means[0].get_ydata(), [0.4, 0.6])
    np.testing.assert_allclose(means[0].get_xdata(), [0, 1], atol=0.1)
    np.testing.assert_allclose(means[1].get_xdata(), [1], atol=0.1)  # at 200, as its label says
    assert [label.get_text() for label in ax.get_xticklabels()] == ["50", "200"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.3, 0.5])  # the seeds
    band, upright = ax.collections[:2]
    assert {tuple(point) for point in band.get_paths()[0].vertices[:, 1:].round(3)} >= {(0.3,), (0.5,)}
    np.testing.assert_allclose(upright.get_segments()[0][:, 1], [0.3, 0.5])
    assert {line.get_color() for line in ax.lines} == {COLOURS["FT"], COLOURS["WA"]}


def test_accuracy_matrix_leaves_what_is_not_known_blank():
    ax = plots.plot_accuracy_matrix(np.array([[0.75, 0.25], [np.nan, 1.0]]))
    assert [text.get_text() for text in ax.texts] == ["75%", "25%", "100%"]
    assert ax.get_xlabel() == "state of the model"


def test_every_method_has_a_colour_of_its_own():
    assert set(METHODS) <= set(METHODS.colours)
    own = [colour for method, colour in METHODS.colours.items() if not method.endswith("oracle")]
    assert len(set(own)) == len(own)


@pytest.mark.parametrize("count", [3, 12, 13, 25, 50, 100])
def test_every_tick_of_an_axis_over_states_or_classes_stands_at_one_and_says_which(count: int):
    rng = np.random.default_rng(0)
    later = {group: rng.random(count - 1) for group in plots.ERROR_COLOURS}
    first_and_axes = [
        (1, plots.plot_state_confusion(rng.random((count, count)))),
        (1, plots.plot_by_state({"FT": rng.random(count), "WA": rng.random(count - 1)})),
        (1, detail.plot_origins({"truth": rng.random(count), "predicted": rng.random(count)})),
        (2, plots.plot_error_breakdown(later)),
        (2, plots.plot_prediction_share(*list(later.values())[:2])),
        (0, detail.plot_class_confusion(rng.random((count, count)), np.arange(count))),
    ]
    for first, ax in first_and_axes:
        low, high = ax.get_xlim()
        labels = [label.get_text() for label in ax.get_xticklabels()]
        shown = {tick: text for tick, text in zip(ax.get_xticks(), labels, strict=True) if low <= tick <= high}
        last = count - (first == 0)
        assert set(shown) <= set(range(first, last + 1))
        assert all(tick == int(text) for tick, text in shown.items())
        assert 2 <= len(shown) <= 13
        if first and count <= 12:
            assert list(shown) == list(range(first, last + 1))
    confusion = first_and_axes[0][1]
    np.testing.assert_array_equal(confusion.get_yticks(), confusion.get_xticks())
    np.testing.assert_array_equal(confusion.images[0].get_extent(), [0.5, count + 0.5, count + 0.5, 0.5])
    matrix = plots.plot_accuracy_matrix(rng.random((count, count)))
    for place, label in zip(matrix.get_xticks(), matrix.get_xticklabels(), strict=True):
        assert place + 0.5 == int(label.get_text())  # the middle of a cell
    assert 2 <= len(matrix.get_xticks()) <= 12


def test_names_with_dollar_signs_are_no_formulas():
    name = r"cost $\frac$ and $x$"
    with mpl.rc_context():
        plots.use_style()
        image = np.zeros((1, 8, 8, 1), dtype=np.uint8)
        axes = [plots.plot_images({name: image}), plots.plot_by_state({name: [0.1, 0.2], "b": [0.3, 0.4]})]
        axes.append(plots.plot_history({"state 1": [3.0, 0.2, 0.004]}))
        axes.append(plots.plot_class_means(np.array([1.0, 2]), np.array([0.5, 1]), np.array([1, 1])))
        for ax in axes:
            ax.set_title(name)
            ax.figure.canvas.draw()  # raises for a formula that is none
        assert axes[0].get_yticklabels()[0].get_text() == name
        assert not any("$" in label.get_text() for label in axes[2].get_yticklabels(which="both"))
        assert axes[3].xaxis.label.get_parse_math()
    plt.close("all")


def test_no_tick_needs_a_digit_more_than_its_step():
    for low, high, label in ((-0.539, -0.358, "−0.50"), (0.52, 0.61, "54%")):
        ax = plots.plot_by_state({"NEM": [low, high]}, percent=label.endswith("%"))
        ax.figure.canvas.draw()
        labels = {text.get_text(): at for at, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
        assert label in labels
        for text, at in labels.items():
            assert float(text.replace("−", "-").rstrip("%")) == pytest.approx(at * (100 if "%" in text else 1))
            assert len(text) <= 5
