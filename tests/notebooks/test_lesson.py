"""The lesson: unsolved it goes on to its end and says so, solved it says that it is right, and what usually goes wrong
in its first exercise gets a hint of its own."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from tiny import TinyStudy

from il2m.explorer.views import VIEWS
from il2m.methods.frozen import Frozen
from il2m.methods.rectify import rectification_factors
from il2m.notebook.catalogue import find_notebooks
from il2m.notebook.execute import execute_notebook

LESSON = find_notebooks() / "lesson.ipynb"

EQ_1 = """
def my_rectify(scores, memory):
    past, own = memory.is_past, memory.confidences[memory.state_of_class - 1]
    factors = np.where(past, memory.initial_means / memory.current_means * memory.confidences[-1] / own, 1)
    gate = past[scores.argmax(axis=1)]
    return np.where(gate[:, None], scores, scores * factors)
"""
SHIFT = """
@il2m.method("my-own", source="this lesson")
def my_own(state):
    \"\"\"Past scores and a constant.\"\"\"
    scores = state.scores.copy()
    scores[:, : state.num_past] += np.float32(0.5)
    return scores
"""

NO_GATE = "The gate is missing: where the top-1 class is a past one, nothing may change."
NEW_TOO = "New classes have changed too: Eq. 1 is for past classes only."
RATIO = "The ratio of class means is upside down: a faded class must be lifted, so μ_P goes on top."
UNTOUCHED = "Where the top-1 class is new, past scores are as they were: it is these that change."
CONFIDENCE = "The confidences are upside down: the current state's, μ(M_N), goes on top."
UPSIDE_DOWN = "memory.current_means / memory.initial_means"


def lesson(**solutions: str) -> nbformat.NotebookNode:
    """The notebook, with solutions in the cells of these tags, ``exercise_1`` and ``exercise_2``."""
    notebook = nbformat.read(LESSON, as_version=4)
    for name, code in solutions.items():
        (cell,) = (cell for cell in notebook.cells if name.replace("_", "-") in cell.metadata.get("tags", []))
        cell.source = code.strip()
    return notebook


def execute(folder: Path, out_dir: Path, notebook: nbformat.NotebookNode) -> tuple[str, nbformat.NotebookNode]:
    """Why the notebook failed, "" if it did not, and what it left."""
    nbformat.write(notebook, folder / "lesson.ipynb")
    failure = execute_notebook(folder / "lesson.ipynb", folder / "out" / "lesson.ipynb", {"out_dir": str(out_dir)})
    left = folder / "out" / ("lesson.failed.ipynb" if failure else "lesson.ipynb")
    return failure, nbformat.read(left, as_version=4)


def printed(notebook: nbformat.NotebookNode, tag: str) -> str:
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return "".join(output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout")


def assert_whole_and_quiet(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None
            assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [data for data in shown if "image/svg+xml" in data or "<svg" in data.get("text/html", "")]
    assert len(pictures) >= 7 + len(VIEWS)


@pytest.mark.papermill
@pytest.mark.xdist_group("lesson")
def test_unsolved_it_says_so_and_goes_on_to_its_end(tiny_study: TinyStudy, tmp_path: Path):
    failure, executed = execute(tmp_path, tiny_study.out_dir, lesson())
    assert failure == ""
    assert_whole_and_quiet(executed)
    assert printed(executed, "check-1").startswith("Not solved yet: all scores are as they were.")
    assert printed(executed, "check-2").startswith("Not solved yet: my-own gives fine-tuning's scores.")


@pytest.mark.papermill
@pytest.mark.xdist_group("lesson")
def test_solved_it_says_that_it_is_right_and_what_a_method_gains(tiny_study: TinyStudy, tmp_path: Path):
    (first_try,) = (cell.source for cell in lesson().cells if "exercise-2" in cell.metadata.get("tags", []))
    solved = lesson(exercise_1=EQ_1, exercise_2=f"{first_try}\n{SHIFT}")  # a cell may be run again, changed
    failure, executed = execute(tmp_path, tiny_study.out_dir, solved)
    assert failure == ""
    assert_whole_and_quiet(executed)
    run, gains = tiny_study.off, []
    for state in (2, 3):
        scores, labels = (run.state(state).array(f"val_{what}") for what in ("scores", "labels"))
        shifted = scores + np.float32(0.5) * (np.arange(scores.shape[1]) < run.states.num_past(state))
        gains.append((shifted.argmax(axis=1) == labels).mean() - (scores.argmax(axis=1) == labels).mean())
    assert np.mean(gains) != 0
    right = f"Right: your Eq. 1 is the library's, on {len(scores)} images and 6 classes.\n"
    assert printed(executed, "check-1") == right
    expected = f"mean top-1 over states 2 to 3, against fine-tuning: my-own {100 * np.mean(gains):+.1f} points, IL2M "
    assert printed(executed, "check-2").startswith(expected)


@pytest.mark.papermill
@pytest.mark.xdist_group("lesson")
def test_without_a_study_it_says_how_to_make_one(tmp_path: Path):
    failure, executed = execute(tmp_path, tmp_path / "none", lesson())
    assert f"There is no finished study in {tmp_path / 'none'} yet. In a terminal, type: make study" in failure
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    (error,) = (output for output in outputs if output.output_type == "error")
    assert error.ename == "InputError"
    assert len(error.traceback) < 5, "a message, not a tour of the library"


def checked(study: TinyStudy, code: str) -> str:
    """What the first exercise's check prints of an answer; its cells need no kernel."""
    needed = {"parameters", "setup", "exercise-1", "check-1"}
    said, names = io.StringIO(), {}
    with mpl.rc_context(), contextlib.redirect_stdout(said):
        for cell in lesson(exercise_1=code).cells:
            tags = set(cell.metadata.get("tags", []))
            if needed & tags:
                exec(cell.source, names)
            if "parameters" in tags:
                names["out_dir"] = str(study.out_dir)
    return said.getvalue().partition("\n")[2].removesuffix("\n")  # the first line tells of the study


@pytest.fixture(scope="module")
def study(tiny_study: TinyStudy) -> TinyStudy:
    """One in which each mistake shows: images on both sides of the gate, and classes whose ratios are defined."""
    frozen = Frozen.of_run(tiny_study.off, 3)
    predicted_new = frozen.scores.argmax(axis=1) >= frozen.num_past
    assert 0 < predicted_new.sum() < len(predicted_new)
    assert (frozen.statistics.is_past & ~rectification_factors(frozen.statistics).undefined).any()
    return tiny_study


@pytest.mark.parametrize(
    ("right", "wrong", "hints"),
    [
        ("gate[:, None]", "False", [NO_GATE]),
        ("memory.initial_means / memory.current_means", UPSIDE_DOWN, [RATIO]),
        ("memory.confidences[-1] / own", "own / memory.confidences[-1]", [CONFIDENCE]),
        (
            "memory.initial_means / memory.current_means * memory.confidences[-1] / own",
            f"{UPSIDE_DOWN} * own / memory.confidences[-1]",
            ["Both ratios are upside down."],
        ),
        (" * memory.confidences[-1] / own", "", ["The confidences are missing: multiply by μ(M_N) / μ(M_P) too."]),
        (
            "memory.initial_means / memory.current_means * ",
            "",
            ["The class means are missing: multiply by μ_P / μ_N too."],
        ),
        ("/ own, 1)", "/ own, 1.1)", [NEW_TOO]),
        ("gate[:, None]", "~gate[:, None]", [UNTOUCHED, NO_GATE]),
        ("np.where(past, ", "np.where(~past, 2 * ", [UNTOUCHED, NEW_TOO]),
        (
            "    return np.where(gate[:, None], ",
            "    np.where(gate[:, None], ",
            ["Your function gave an array of shape ()"],
        ),
        ("/ own, 1)", "/ own + 0.01, 1)", ["Not yet. Image "]),
    ],
)
def test_each_typical_mistake_gets_its_own_hint(study: TinyStudy, right: str, wrong: str, hints: list[str]):
    assert EQ_1.count(right) == 1
    told = checked(study, EQ_1.replace(right, wrong)).split("\n")
    assert len(told) == len(hints)
    assert all(line.startswith(hint) for line, hint in zip(told, hints, strict=True)), told


def test_two_mistakes_at_once_get_both_hints(study: TinyStudy):
    code = EQ_1.replace("memory.initial_means / memory.current_means", UPSIDE_DOWN)
    assert checked(study, code.replace("gate[:, None]", "False")).split("\n") == [RATIO, NO_GATE]
    code = EQ_1.replace("/ own, 1)", "/ own, 2)").replace("gate[:, None]", "False")
    assert checked(study, code).split("\n") == [NEW_TOO, NO_GATE]


def test_other_ways_to_write_it_are_right_too(study: TinyStudy):
    loops = """
def my_rectify(scores, memory):
    for n in range(len(scores)):
        if not memory.is_past[scores[n].argmax()]:
            for c in range(scores.shape[1]):
                if memory.is_past[c]:
                    scores[n, c] *= memory.initial_means[c] / memory.current_means[c]
                    scores[n, c] *= memory.confidences[-1] / memory.confidences[memory.state_of_class[c] - 1]
    return scores
"""
    assert checked(study, EQ_1).startswith("Right: ")
    assert checked(study, loops).startswith("Right: ")
    assert checked(study, "my_rectify = il2m.rectify").startswith("Right: ")


def test_prose_names_views_that_there_are_and_states_no_result():
    prose = "\n".join(cell.source for cell in lesson().cells if cell.cell_type == "markdown")
    views = re.findall(r"[Vv]iew \*\*(.+?)\*\*", prose)
    assert len(views) >= 4
    assert set(views) <= set(VIEWS)
    assert not re.search(r"\d\s?%|\d\.\d", prose), "numbers are computed, in a cell"
    assert prose.count("<details><summary>") == prose.count("</details>") >= 8
