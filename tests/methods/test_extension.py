"""Methods that users register: what is taken, what is refused and how it is told, and states made of arrays."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from frozen_states import frozen_state
from numpy.testing import assert_allclose, assert_array_equal

import il2m
from il2m import METHODS, Frozen, InputError, method, method_scores, results_table
from il2m.methods.registry import costs_table, missing_for
from il2m.results.collect import collect_results
from il2m.results.comparison import is_bound
from il2m.results.table import save_results


@pytest.fixture(autouse=True)
def registry_of_this_test():
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def halved(state: Frozen) -> np.ndarray:
    """New classes' scores halved."""
    scores = state.scores.copy()
    scores[:, state.num_past :] /= 2
    return scores


def test_a_method_needs_a_name_and_a_function_alone(tiny_study):
    assert method("halved")(halved) is halved
    table = results_table(tiny_study.off, methods=METHODS, details=True)
    rows = table[table["method"] == "halved"]
    assert rows["state"].tolist() == [1, 2, 3]
    assert (rows["score_kind"] == "raw").all()
    expected = tiny_study.off.state(3).array("val_scores").copy()
    expected[:, 4:] /= 2
    assert_array_equal(method_scores(tiny_study.off, 3, "halved"), expected)
    costs = costs_table(tiny_study.off).set_index("method").loc["halved"]
    assert np.isnan(costs["floats_stored"])
    assert costs["needs"] == ""
    assert METHODS.colours["halved"] not in [METHODS[name].colour for name in METHODS if name != "halved"]
    assert METHODS.table().loc["halved", "what it does"] == "New classes' scores halved."


def test_a_method_says_what_it_costs_and_looks_like(tiny_study):
    about = {
        "source": "Nobody, 2026",
        "colour": "#123456",
        "label": "Halved!",
        "cost": lambda size: (size.new, size.linear),
    }
    method("halved", needs=("features", "head"), **about)(halved)
    one = METHODS["halved"]
    assert (one.source, METHODS.colours["halved"], one.label) == ("Nobody, 2026", "#123456", "Halved!")
    costs = costs_table(tiny_study.off).set_index("method").loc["halved"]
    assert (costs["floats_stored"], costs["operations"]) == (2, 6 * 64)


def test_taken_names_and_bad_ones_are_refused():
    method("halved")(halved)
    with pytest.raises(InputError, match="method 'halved' is registered already: take another name"):
        method("halved")(halved)
    for name in ("IL2M", "FT"):
        with pytest.raises(InputError, match=f"method '{name}' is the name of one that is built in"):
            method(name)(halved)
    with pytest.raises(InputError, match="method 'joint' is the name of one that is built in"):
        method("joint")(halved)  # tables would take its rows for joint training's
    for name in ("", " x", "a\nb"):
        with pytest.raises(InputError, match="expected a printable name"):
            method(name)(halved)
    with pytest.raises(InputError, match=r"method 'x': unknown need 'feature': did you mean 'features'\?"):
        method("x", needs="feature")
    with pytest.raises(InputError, match=r"method 'x': score_kinds = 'sofmax': .* did you mean 'softmax'\?"):
        method("x", score_kinds=["raw", "sofmax"])  # no table would have had a row of it
    with pytest.raises(InputError, match=r"unknown method 'halve': did you mean 'halved'\?"):
        METHODS["halve"]


def test_code_without_a_source_is_refused():
    namespace = {"__name__": "nowhere"}
    exec("def anonymous(state): return state.scores", namespace)
    with pytest.raises(InputError, match="the source of anonymous can't be read"):
        method("anonymous")(namespace["anonymous"])


def changes_its_input(state):
    state.scores[:] = 0
    return state.scores


def changes_the_states(state):
    state.state_of_class[:] = 1
    return state.scores


def fails_at_state_2(state):
    return state.scores / (0 if state.state == 2 else 1) if state.state != 2 else [][1]


def gives_nan(state):
    scores = state.scores.copy()
    scores[0, 0] = np.nan
    return scores


BAD = {
    "another shape": (lambda state: state.scores[:, :1], r"returned scores of shape \(\d+, 1\); expected \(n, C\) = "),
    "fewer images": (lambda state: state.scores[1:], "returned scores of shape"),
    "no array": (lambda state: state.scores.tolist(), "returned list; expected a numpy array"),
    "words": (lambda state: state.scores.astype(str), "expected a numpy array of scores"),
    "changes its input": (
        changes_its_input,
        "fails: ValueError: .*read-only.*a method may not change what it is given",
    ),
    "changes the states": (changes_the_states, "fails: ValueError: .*read-only"),
    "complex numbers": (lambda state: state.scores + 1j, "expected a numpy array of scores"),
    "fails at state 2": (fails_at_state_2, "at state 2 fails: IndexError"),
    "not a number": (gives_nan, "gives scores that are not numbers"),
    "depends on the others": (lambda state: state.scores - state.scores.mean(axis=0), "scores of an image depend on"),
    "on the best other": (lambda state: state.scores / np.abs(state.scores).max(), "scores of an image depend on"),
    "peeks": (lambda state: state.scores + state.val_labels[:, None], "validation labels are for oracles only"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_method_gets_wrong_is_told_by_name(name, tiny_study):
    function, message = BAD[name]
    method(name)(function)
    with pytest.raises(InputError, match=rf"method '{name}'.*{message}|^{message}"):
        results_table(tiny_study.off, methods=[name])


def test_the_study_s_own_methods_see_each_image_by_itself(tiny_study):
    """What is checked at each use of a registered method."""
    for name in METHODS:
        if not missing_for(tiny_study.off, name):
            whole = Frozen.of_run(tiny_study.off, 3)
            scores = METHODS[name](whole)
            for rows in (slice(7), slice(7, None), np.array([3, 1])):
                assert_allclose(METHODS[name](whole.take(rows)), scores[rows], rtol=1e-4, atol=1e-5)
                assert_array_equal(
                    METHODS["FT"](whole.take(rows)), scores[rows] if name == "FT" else whole.scores[rows]
                )
    part = whole.take(np.array([4, 9, 2]))
    assert_array_equal(part.take(slice(1, None)).scores, whole.scores[[9, 2]])


def test_who_knows_the_labels_is_an_oracle_and_named_so(tiny_study):
    @method("cheat", needs="val_labels")
    def cheat(state):
        return np.eye(state.num_classes)[state.val_labels]

    assert "cheat-oracle" in METHODS
    assert "cheat" not in METHODS
    assert is_bound("cheat-oracle")
    table = results_table(tiny_study.off, methods=["cheat-oracle"])
    assert (table["top1"] == 1).all()
    assert costs_table(tiny_study.off).set_index("method").loc["cheat-oracle", "needs"].endswith("an oracle")
    assert METHODS.dashes["cheat-oracle"] != "-"
    with pytest.raises(InputError, match="an oracle says what it knows, needs="):
        method("my-oracle")


def test_validation_labels_are_given_to_who_asks_alone(tiny_study):
    for state in (Frozen.of_run(tiny_study.off, 2), Frozen.of_run(tiny_study.off, 3).earlier[1]):
        with pytest.raises(InputError, match="validation labels are for oracles only"):
            state.val_labels  # noqa: B018


def test_a_run_that_lacks_what_a_method_reads_leaves_it_out(tiny_study, tmp_path):
    files = []
    for state in (1, 2, 3):
        files.append(tmp_path / f"{state}.npz")
        stored = tiny_study.off.state(state)
        arrays = {name: stored.array(name) for name in ("val_scores", "val_labels")}
        np.savez(files[-1], **arrays, state_sizes=tiny_study.off.states.sizes[:state])
    run = il2m.import_scores(files, tmp_path / "run")
    method("declared", needs="features")(lambda state: state.scores * state.features[:, :1])
    method("undeclared")(lambda state: state.scores * state.features[:, :1])
    method("halved")(halved)
    assert missing_for(run, "declared") == "state 1 stores no val_features"
    assert missing_for(run, "undeclared") == "state 1 stores no val_features"
    assert set(results_table(run, methods=METHODS)["method"]) == {"FT", "task-aware-oracle", "halved"}


def test_a_method_that_asks_for_exemplars_at_the_first_state_is_named(tiny_study):
    method("as-exemplars", needs="exemplars")(lambda state: state.scores + state.exemplars.scores.mean())
    told = r"^method 'as-exemplars' at state 1: state 1 stores no exemplar_scores\. needs must name all that is read; "
    with pytest.raises(InputError, match=told):
        results_table(tiny_study.off, methods=("FT", "as-exemplars"))


def test_stored_results_of_another_version_of_a_method_are_not_taken(tiny_study, tmp_path, monkeypatch):
    study = shutil.copytree(tiny_study.out_dir, tmp_path / "study")
    run = il2m.open_run(study)
    save_results(results_table(run, methods=METHODS), run.folder)
    assert "halved" not in set(collect_results(study)["method"])
    method("halved")(halved)
    assert "halved" in set(collect_results(study)["method"])  # computed, as the stored table lacks it
    stored = results_table(run, methods=METHODS)
    stored.loc[stored["method"] == "halved", "top1"] = 0.125
    save_results(stored, run.folder)
    of_run = collect_results(study).query("run == @run.name and method == 'halved'")
    assert (of_run["top1"] == 0.125).all()  # the stored one is of this very source: taken
    monkeypatch.setitem(METHODS, "halved", replace(METHODS["halved"], code="other"))
    of_run = collect_results(study).query("run == @run.name and method == 'halved'")
    assert (of_run["top1"] != 0.125).any()


def test_a_cell_that_is_run_again_takes_the_place_of_what_it_registered():
    code = """
from IPython.core.interactiveshell import InteractiveShell
import il2m
shell = InteractiveShell.instance()
cell = "import il2m\\n@il2m.method('mine')\\ndef mine(state):\\n    return state.scores * {}"
codes, colours = [], []
assert shell.run_cell(cell.replace("'mine'", "'other'").format(1)).success
for factor in (2, 3, 3):
    result = shell.run_cell(cell.format(factor))
    assert result.success, result.error_in_exec
    codes.append(il2m.METHODS["mine"].code)
    colours.append(il2m.METHODS["mine"].colour)
assert codes[0] != codes[1] == codes[2], codes
assert colours[0] == colours[1] == colours[2] != il2m.METHODS["other"].colour, colours
assert not shell.run_cell(cell.replace("mine", "WA").format(2)).success
print("done")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.endswith("done\n"), result.stdout + result.stderr


# a state made of arrays


def frozen_of_arrays(run, last: int) -> Frozen:
    """The states of a run, from its arrays alone."""
    made: list[Frozen] = []
    for b in range(1, last + 1):
        stored = run.state(b)
        names = [name.removesuffix(".npy") for name in stored.info["files"] if name.endswith("_features.npy")]
        arrays = {name: stored.array(name) for name in names}
        arrays |= {name: stored.array(name) for name in ("new_labels", "val_labels")}
        if b > 1:
            arrays |= {name: stored.array(name) for name in ("exemplar_labels", "exemplar_scores")}
        weights = {name: value.numpy() for name, value in stored.model_weights().items() if name.startswith("head")}
        arrays |= {"head_weight": weights["head.weight"], "head_bias": weights["head.bias"]}
        arrays["new_scores"] = arrays["new_features"] @ arrays["head_weight"].T + arrays["head_bias"]
        made.append(frozen_state(stored.array("val_scores"), run.states.sizes[:b], earlier=made, **arrays))
    return made[-1]


def test_a_state_of_arrays_gives_what_the_run_gives(tiny_study):
    state = frozen_of_arrays(tiny_study.off, 3)
    for name in (
        "FT",
        "IL2M",
        "IL2M-no-gate",
        "FT-th",
        "WA",
        "ScaIL",
        "SIW",
        "SIW-calibrated",
        "NCM-oracle",
        "task-aware-oracle",
    ):
        expected = method_scores(tiny_study.off, 3, name)
        assert_allclose(METHODS[name](state), expected, rtol=1e-3, atol=1e-4)
    assert_array_equal(state.counts, Frozen.of_run(tiny_study.off, 3).counts)


def test_nem_takes_as_many_new_images_as_there_are_exemplars(tiny_study):
    """Three of each class, whatever the settings' memory would allow: by a literal loop."""
    state = frozen_of_arrays(tiny_study.off, 3)
    assert np.bincount(state.exemplars.labels).tolist() == [3] * 4
    assert state.settings.memory_size == 200
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    means = []
    for label in range(6):
        if label < 4:
            features = state.exemplars.features[state.exemplars.labels == label]
        else:
            own = np.flatnonzero(state.new.labels == label)
            order = np.random.default_rng([0, label]).permutation(len(own))
            features = state.new.features[own[order[:3]]]
        means.append(unit(unit(features).mean(axis=0)))
    distances = np.linalg.norm(unit(state.features)[:, None] - np.stack(means), axis=2)
    assert_allclose(METHODS["NEM"](state), -distances, atol=1e-4)


def test_what_a_state_does_not_have_is_told_and_what_it_has_stays_as_it_is():
    state = frozen_state(np.zeros((4, 5)), [2, 3])
    with pytest.raises(InputError, match="state 2 stores no val_features"):
        METHODS["WA"](state)
    for some in (state, state.take(slice(2)), state.take(np.array([0, 2]))):
        with pytest.raises(ValueError, match="read-only"):
            some.scores[0] = 1
