"""The explorer as a file: what it holds is what the notebook's explorer shows, whoever named the classes."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tiny import TinyStudy, import_states

from il2m.cli import main
from il2m.explorer.outcomes import Exponents, RunOutcomes
from il2m.explorer.share import GATES, TOPS, share
from il2m.explorer.views import EXPONENTS, VIEWS, Choice
from il2m.methods.registry import METHODS
from il2m.system.hashes import read_sealed, write_sealed

HOSTILE = ["</script><script>broken = 1</script>", "<!--<script>", "<img src=x onerror='broken = 1'>", "{{ 7 * 7 }}"]
HOSTILE += ['O\'Brien & "sons"', "\u2028\u202eевил"]


def page_data(page: Path) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data".*?>(.*?)</script>', page.read_text())[1])


def rename_classes(folder: Path, names: list[str]) -> None:
    """Give the classes of a study's runs other names, as if its data set had them: no result depends on them."""
    for path in folder.glob("*/config.json"):
        write_sealed(path, {**read_sealed(path), "class_names": names})


@pytest.fixture(scope="module")
def page(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share([tiny_study.on, tiny_study.off], tmp_path_factory.mktemp("shared") / "explorer.html")


def assert_same(found: dict[str, list], expected: dict[str, list]) -> None:
    """Column by column, null for NaN, to the six decimals that the page keeps."""
    assert list(found) == list(map(str, expected))
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(np.array(one, dtype=float), np.array(other, dtype=float), atol=6e-7)


def test_the_page_holds_what_the_views_show(page: Path, tiny_study: TinyStudy):
    data = page_data(page)
    assert [run["label"] for run in data["runs"]] == ["distillation off", "distillation on"]
    for run, shown in zip((tiny_study.off, tiny_study.on), data["runs"], strict=True):
        outcomes = RunOutcomes(run)
        assert list(data["methods"]) == [name for name in METHODS if name not in outcomes.left_out]
        for view, method, state in product(("true-class scores", "predictions", "states"), data["methods"], (1, 3)):
            expected = VIEWS[view](outcomes, Choice(state, method))
            finding, numbers = shown[view][method][state - 1]
            assert finding == expected.finding
            assert_same(numbers, expected.numbers.to_dict("list"))
        for top in TOPS:
            numbers = VIEWS["accuracy"](outcomes, Choice(3, "FT", top=top)).numbers
            assert_same(shown["accuracy"][str(top)], numbers.to_dict("list"))


def test_each_class_has_its_means(page: Path, tiny_study: TinyStudy):
    outcomes, data = RunOutcomes(tiny_study.off), page_data(page)["runs"][0]
    for method, label in product(("FT", "IL2M", "NCM-oracle"), (0, 3)):
        numbers = VIEWS["one class"](outcomes, Choice(3, method, label=label)).numbers.iloc[:2]  # when new, now
        origin = tiny_study.off.states.of_class[label]
        own = [data["own"][method][state - 1][label] for state in (origin, 3)]
        np.testing.assert_allclose(own, numbers["mean"], atol=1e-5)
        if method == "IL2M":
            kept = [data["memory"][2][which][label] for which in ("initial_means", "current_means")]
            np.testing.assert_allclose(kept, numbers.iloc[:, -1], atol=6e-7)


def test_what_if_lies_on_its_grid(page: Path, tiny_study: TinyStudy):
    outcomes, data = RunOutcomes(tiny_study.off), page_data(page)
    assert data["grid"] == {"exponents": list(EXPONENTS), "gates": list(GATES)}
    for state, top in product((2, 3), TOPS):
        found = data["runs"][0]["what if"][state - 2]
        assert found["step"] == 1
        for place, exponents in list(enumerate(product(EXPONENTS, EXPONENTS, GATES)))[::17]:
            shown = VIEWS["what if"](outcomes, Choice(state, top=top, exponents=Exponents(*exponents)))
            shares = [found[str(top)][group][place] for group in ("past", "new", "all")]
            np.testing.assert_allclose(np.array(shares, dtype=float), shown.numbers.loc["your choice"], atol=6e-7)


def test_a_large_state_gives_a_part_of_its_images(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("il2m.explorer.outcomes.CURVE_WORK", 60)  # 30 images of 6 classes at state 3
    found = page_data(share([tiny_study.off], tmp_path / "page.html"))["runs"][0]["what if"][1]
    assert found["step"] == 3
    outcomes, own = RunOutcomes(tiny_study.off), list(product(EXPONENTS, EXPONENTS, GATES)).index((1, 1, 1))
    assert found["1"]["all"][own] == pytest.approx(np.mean(outcomes.outcome(3, "IL2M").ranks[::3] == 0))


def test_names_reach_the_page_as_text(tiny_study: TinyStudy, tmp_path: Path):
    study = tmp_path / "<b>study & 'co'"
    shutil.copytree(tiny_study.out_dir, study)
    rename_classes(study, HOSTILE)
    page = share([study], tmp_path / "page.html")
    assert page_data(page)["classes"]["titles"][:5] == [f"{label}: {name}" for label, name in enumerate(HOSTILE[:5])]
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page.read_text())
    assert tags.count("script") == 3
    assert {"img", "b"}.isdisjoint(tags)
    assert "<h1>IL2M explorer: &lt;b&gt;study &amp; &#39;co&#39;</h1>" in page.read_text()


def test_scores_without_statistics_are_shared_without_what_if(tiny_study: TinyStudy, tmp_path: Path):
    imported = import_states(tiny_study.off, tmp_path / "imported")
    (data,) = page_data(share([imported], tmp_path / "page.html"))["runs"]
    assert "IL2M" in data["about"]["left_out"]
    assert data["memory"] == data["what if"] == []
    assert data["about"]["train_seed"] is None


def test_undefined_ratios_are_told_by_method_and_state(page: Path, tiny_study: TinyStudy):
    outcomes, notes = RunOutcomes(tiny_study.off), page_data(page)["runs"][0]["notes"]
    for method, state in product(notes, (1, 2, 3)):
        assert notes[method][state - 1] == outcomes.undefined_note(state, method, "raw")
    assert "IL2M on raw scores: 3 of 4 past classes undefined" in notes["IL2M"][2]


# the command


def test_a_run_is_shared_with_its_twin(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    off, on = str(tiny_study.off.folder), str(tiny_study.on.folder)
    for command in ([off], [on], [str(tiny_study.out_dir)], [off, on]):
        assert main(["share", *command]) == 0  # again and again: what it made itself is replaced
        assert capsys.readouterr().out == "explorer.html\n"
        runs = [run["about"]["run"] for run in page_data(tmp_path / "explorer.html")["runs"]]
        assert runs == [tiny_study.off.name, tiny_study.on.name]
    assert [path.name for path in tmp_path.iterdir()] == ["explorer.html"]


def test_what_can_not_be_shared_is_refused(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture):
    off, unfinished, other = str(tiny_study.off.folder), tmp_path / "study", tmp_path / "other"
    for copy in (unfinished, other):
        shutil.copytree(tiny_study.out_dir, copy)
    shutil.rmtree(unfinished / tiny_study.off.name / "state_03")
    rename_classes(other, list("abcdef"))
    (tmp_path / "mine.html").write_text("<p>my own</p>")
    for command, message in (
        ([str(unfinished / tiny_study.off.name)], r"not finished \(states \[3\] are missing"),
        ([off, str(unfinished / tiny_study.off.name)], r"is not finished \(states \[3\] are missing"),
        ([off, str(other / tiny_study.on.name)], "can't be compared: their classes differ"),
        ([str(tiny_study.base.folder)], "is a base, not a fine-tuning run"),
        ([off, "--out", str(tmp_path)], "is a folder: name a file in it, for example .*explorer.html"),
        ([off, "--out", str(tmp_path / "mine.html")], "was not made by il2m share: name another file, or delete it"),
        ([off, "--out", str(tmp_path / "mine.html" / "below.html")], "mine.html"),
    ):
        assert main(["share", *command]) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("il2m: ")
        assert re.search(message, error), error
    assert (tmp_path / "mine.html").read_text() == "<p>my own</p>"
    assert not (tmp_path / "explorer.html").exists()
