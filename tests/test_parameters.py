"""Parameters: names, types and ranges, all checked at once and before any work."""

import inspect

import numpy as np
import pytest

from il2m.errors import InputError, nearest
from il2m.parameters import PARAMETERS, check_parameters
from il2m.study.planning import plan_base, plan_fine_tuning


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
        ("precision", 16, "one of float32, bf16, fp16"),
        ("undefined", "drop", "one of keep, as-published, raise"),
        ("score_kind", "logits", "one of raw, softmax"),
        ("dataset", 3, "a text"),
        ("state_sizes", 5, "a list of whole numbers of at least 1"),
        ("state_sizes", [2, 0], "a list of whole numbers of at least 1"),
        ("state_sizes", [2, True], "a list of whole numbers of at least 1"),
        ("class_order", [0, 1.0], "a list of whole numbers of at least 0"),
        ("class_order", "01", "a list of whole numbers of at least 0"),
    ],
)
def test_wrong_type_or_range(name, value, expected):
    with pytest.raises(InputError) as error:
        check_parameters({name: value})
    assert str(error.value).startswith(f"{name} = {value!r}: expected {expected}")


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


@pytest.mark.parametrize("stage", [plan_base, plan_fine_tuning])
def test_every_parameter_of_a_stage_is_in_the_table_and_its_default_passes(stage):
    signature = inspect.signature(stage).parameters
    defaults = {name: signature[name].default for name in signature if name not in ("base_plan", "images")}
    assert set(defaults) <= set(PARAMETERS)
    checked = check_parameters(defaults)
    assert checked.keys() == defaults.keys()


def test_nearest():
    assert nearest("cifar", ["glyphs", "cifar100"]) == "did you mean 'cifar100'?"
    assert nearest("?", ["b", "a"]) == "known are: a, b"
    assert nearest(1, ["b", "a"]) == "known are: a, b", "a grid may have a number for a name"
