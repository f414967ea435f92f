"""Parameters: names, types and ranges, all checked at once and before any work."""

import ast
import json

import numpy as np
import pytest
from tiny import PROJECT

from il2m.errors import InputError, count, nearest
from il2m.parameters import (
    CONCERNS,
    PARAMETERS,
    Analysis,
    BaseTraining,
    FineTuning,
    JointTraining,
    check_parameters,
    parameters_table,
)  # fmt: skip


@pytest.mark.parametrize(
    ("misspelt", "right"),
    [
        ("learning_rat", "learning_rate"),
        ("memorysize", "memory_size"),
        ("Epochs", "epochs"),
        ("num_state", "num_states"),
    ],
)
def test_misspelt_name_gets_the_nearest(misspelt, right):
    with pytest.raises(InputError, match=f"unknown parameter '{misspelt}': did you mean '{right}'?"):
        check_parameters({misspelt: 1})


def test_name_near_to_nothing_gets_all_names():
    with pytest.raises(InputError) as error:
        check_parameters({"zzz": 1}, known=["epochs", "flip"])
    assert str(error.value) == "unknown parameter 'zzz': known are: epochs, flip"


def test_a_parameter_of_another_notebook_is_unknown_here():
    with pytest.raises(InputError, match=r"unknown parameter 'base_epochs': did you mean 'epochs'\?"):
        check_parameters({"base_epochs": 3}, known=["epochs", "flip"])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", True, "a whole number of at least 1"),
        ("epochs", 0, "a whole number of at least 1"),
        ("epochs", 2.0, "a whole number of at least 1"),
        ("epochs", "2", "a whole number of at least 1"),
        ("epochs", None, "a whole number of at least 1"),
        ("batch_size", 1, "a whole number of at least 2"),
        ("memory_size", -1, "a whole number of at least 0"),
        ("order_seed", 1.5, "a whole number of at least 0, or None"),
        ("learning_rate", 0, "a number above 0"),
        ("learning_rate", -0.1, "a number above 0"),
        ("learning_rate", True, "a number above 0"),
        ("learning_rate", "0.1", "a number above 0"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("weight_decay", -1e-4, "a number of at least 0"),
        ("momentum", 1, "a number of at least 0 and below 1"),
        ("temperature", 0, "a number above 0"),
        ("distillation", 1, "True or False"),
        ("distillation", "on", "True or False"),
        ("network", "resnet50", "one of small, resnet8, resnet20, resnet32, resnet18"),
        ("network", ["small"], "one of small, resnet8"),
        ("head", "old", "one of new, extended"),
        ("schedule", "cosine", "one of step, plateau"),
        ("exemplar_selection", "best", "one of random, herding"),
        ("device", "gpu", "one of auto, cpu, cuda"),
        ("precision", 16, "one of float32, tf32, bf16, fp16"),
        ("undefined", "drop", "one of keep, as-published, raise"),
        ("score_kind", "logits", "one of raw, softmax"),
        ("dataset", 3, "a text"),
        ("state_sizes", 5, "a list of whole numbers of at least 1"),
        ("state_sizes", [2, 0], "a list of whole numbers of at least 1"),
        ("state_sizes", [2, True], "a list of whole numbers of at least 1"),
        ("class_order", [0, 1.0], "a list of whole numbers of at least 0"),
        ("class_order", True, "a list of whole numbers of at least 0"),
        ("class_order", ["a", True], "a list of whole numbers of at least 0"),
        ("state_sizes", "01", "a list of whole numbers of at least 1"),
        ("state_sizes", ["1"], "a list of whole numbers of at least 1"),
    ],
)
def test_wrong_type_or_range(name, value, expected):
    with pytest.raises(InputError) as error:
        check_parameters({name: value})
    assert str(error.value).startswith(f"{name} = {value!r}: expected {expected}")


def test_a_choice_that_is_nearly_right_names_the_one_meant():
    with pytest.raises(InputError, match=r"raise; did you mean 'as-published'\?$"):
        check_parameters({"undefined": "as_published"})


def test_all_problems_at_once():
    with pytest.raises(InputError) as error:
        check_parameters({"epochs": 0, "flip": True, "learning_rat": 0.1, "network": "big"})
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["epochs", "unknown", "network"]


def test_equal_values_get_one_form():
    given = {
        "learning_rate": 1, "epochs": np.int64(3), "state_sizes": (2, np.int64(4)), "order_seed": None, "flip": False
    }  # fmt: skip
    before = dict(given)
    checked = check_parameters(given)
    assert checked == {"learning_rate": 1.0, "epochs": 3, "state_sizes": [2, 4], "order_seed": None, "flip": False}
    assert [type(value) for value in checked.values()] == [float, int, list, type(None), bool]
    assert given == before


@pytest.mark.parametrize("stage", [BaseTraining, FineTuning, JointTraining, Analysis])
def test_the_defaults_of_a_stage_are_values_that_it_accepts(stage):
    settings = stage.given(values=vars(stage()))
    assert settings == stage.given()
    assert {one.concerns for one in stage.parameters().values()} <= set(CONCERNS)
    for one in stage.parameters().values():
        assert one.only_with is None or one.only_with[0] in {*stage.parameters(), "image_files"}


@pytest.mark.parametrize(
    ("notebook", "stage"),
    [
        ("01_base_training", BaseTraining),
        ("02_fine_tuning", FineTuning),
        ("03_dual_memory_analysis", Analysis),
        ("04_rectification_ablation", Analysis),
    ],
)
def test_a_notebooks_cell_says_what_the_settings_say(notebook, stage):
    """Name, default, meaning and unit, line by line; the two training stages have every parameter in their cells."""
    cells = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("#")]
    parameters = stage.parameters()
    for line in lines:
        name, _, rest = line.partition(" = ")
        literal, _, meaning = rest.partition("  # ")
        one, value = parameters[name], ast.literal_eval(literal)
        assert value == (
            [False, True] if name == "distillation" else [*one.default] if one.default == () else one.default
        )
        assert meaning == one.meaning + (f", {one.unit}" if one.unit else "")
    if stage is not Analysis:
        assert sorted(line.split()[0] for line in lines) == sorted(parameters)


def test_what_has_no_effect_is_left_out_of_what_shapes_a_result():
    plain = FineTuning.given().shaping(image_files=False)
    assert plain == FineTuning.given(values={"temperature": 9, "patience": 99, "num_threads": 4}).shaping(
        image_files=False
    )
    assert not {"temperature", "patience", "held_out", "balanced_epochs", "summed_batches", "out_dir"} & set(plain)
    distilling = FineTuning.given(values={"distillation": True}).shaping(image_files=False)
    assert set(distilling) - set(plain) == {"temperature", "distillation_weight"}
    assert set(plain) - set(FineTuning.given(values={"exemplars_per_class": 3}).shaping(image_files=False)) == {
        "memory_size", "memory_rounding",
    }  # fmt: skip
    assert set(plain) - set(FineTuning.given().shaping(image_files=True)) == {"max_shift"}
    of_files = BaseTraining.given().shaping(image_files=True)
    assert set(of_files) - set(BaseTraining.given().shaping(image_files=False)) == {"image_size"}


def test_settings_are_read_from_a_cells_names_and_from_a_run():
    cell = {"epochs": 3, "learning_rate": 1, "something": object(), "out_dir": PROJECT / "runs"}
    settings = FineTuning.read(cell, distillation=True)
    assert (settings.epochs, settings.learning_rate, settings.distillation) == (3, 1.0, True)
    assert settings.out_dir == str(PROJECT / "runs")
    again = FineTuning.of_identity(
        settings.shaping(image_files=False) | {"base": {}}, base="", out_dir=settings.out_dir
    )
    assert again == settings
    with pytest.raises(InputError, match="epochs = 0: expected a whole number of at least 1"):
        FineTuning.read({"epochs": 0})


def test_the_table_has_every_parameter_of_every_notebook():
    names, _, *rows = ([cell.strip() for cell in line[1:-1].split(" | ")] for line in parameters_table().splitlines())
    rows = [dict(zip(names, row, strict=True)) for row in rows]
    assert {row["parameter"] for row in rows} == set(PARAMETERS)
    assert all(row["meaning"] and row["accepts"] for row in rows)
    shift = next(row for row in rows if row["parameter"] == "max_shift")
    assert (shift["default"], shift["unit"], shift["concerns"]) == ("2", "pixels", "images in memory")


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("lr", "learning_rate"),
        ("bs", "batch_size"),
        ("K", "memory_size"),
        ("k", "memory_size"),
        ("S", "num_states"),
        ("T", "temperature"),
        ("wd", "weight_decay"),
        ("seed", "train_seed"),
    ],
)
def test_what_the_field_calls_a_parameter_leads_to_it(short: str, name: str):
    with pytest.raises(InputError, match=f"^unknown parameter '{short}': did you mean '{name}'[?]$"):
        check_parameters({short: 1})
    stage = BaseTraining if name in BaseTraining.parameters() else FineTuning
    with pytest.raises(InputError, match=f"did you mean '{name}'[?]"):
        stage.given(values={short: 1})


def test_counts_are_in_the_singular_for_one():
    assert [count(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_nearest():
    assert nearest("cifar", ["glyphs", "cifar100"]) == "did you mean 'cifar100'?"
    assert nearest("CIFAR-100", ["glyphs", "cifar100", "My-Photos"]) == "did you mean 'cifar100'?"
    assert nearest("my-photo", ["glyphs", "cifar100", "My-Photos"]) == "did you mean 'My-Photos'?"
    assert nearest("?", ["b", "a"]) == "known are: a, b"
    assert nearest(1, ["b", "a"]) == "known are: a, b", "a grid may have a number for a name"
