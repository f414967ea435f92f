"""Grid files: what is read, inherited, swept and refused, before anything is planned."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from il2m.batch.grids import Grid, all_settings, read_grid, read_overrides, swept_names
from il2m.errors import InputError
from il2m.notebook.catalogue import find_grid

DEFAULTS = {"memory_size": 200, "epochs": 20, "distillation": [False, True], "state_sizes": [], "network": "small"}


def chosen(grid: Grid) -> list[dict[str, Any]]:
    return [values for values, _ in all_settings(grid, DEFAULTS)]


def write(folder: Path, **files: str) -> Path:
    """Grid files in ``folder``; returns the path of the last."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{list(files)[-1]}.yaml"


def test_lists_are_swept_in_every_combination():
    grid = Grid("g", parameters={"memory_size": [100, 50], "epochs": 3, "distillation": False})
    assert chosen(grid) == [
        {"distillation": False, "memory_size": 100, "epochs": 3},
        {"distillation": False, "memory_size": 50, "epochs": 3},
    ]


def test_a_list_of_the_notebooks_is_swept_unless_the_grid_says_otherwise():
    assert [values["distillation"] for values in chosen(Grid("g"))] == [False, True]
    assert [values["distillation"] for values in chosen(Grid("g", parameters={"distillation": True}))] == [True]


def test_a_parameter_that_is_a_list_is_swept_by_a_list_of_lists():
    off = {"distillation": False}
    assert chosen(Grid("g", parameters={"state_sizes": [2, 4], **off})) == [
        {"distillation": False, "state_sizes": [2, 4]}
    ]
    both = chosen(Grid("g", parameters={"state_sizes": [[2, 4], [4, 2]], **off}))
    assert [values["state_sizes"] for values in both] == [[2, 4], [4, 2]]


def test_combinations_are_swept_beside_each_other():
    grid = Grid(
        "g",
        parameters={"memory_size": [100, 50], "distillation": False},
        combinations={"plain": {}, "long": {"epochs": [30, 40], "memory_size": 10}},
    )
    found = [(name, values["memory_size"], values.get("epochs")) for values, name in all_settings(grid, DEFAULTS)]
    assert found == [("plain", 100, None), ("plain", 50, None), ("long", 10, 30), ("long", 10, 40)]
    assert swept_names(grid, DEFAULTS) == ["memory_size", "epochs"]


def test_overrides_hold_in_combinations_too():
    grid = Grid(
        "g", parameters={"memory_size": [100, 50]}, combinations={"long": {"epochs": 30}, "short": {"epochs": 3}}
    )
    short = chosen(grid.overridden({"epochs": 1, "memory_size": 100}))
    assert {values["epochs"] for values in short} == {1}
    assert {values["memory_size"] for values in short} == {100}


def test_an_override_that_can_not_be_is_told_and_not_tripped_over():
    grid = Grid("g", parameters={"memory_size": [100, 50]})
    with pytest.raises(InputError, match="memory_size = 'many': expected a whole number"):
        chosen(grid.overridden({"memory_size": "many"}))
    with pytest.raises(InputError, match="unknown parameter 'memory'"):
        chosen(grid.overridden({"memory": 3}))


def test_too_many_settings_are_told_and_not_planned():
    with pytest.raises(InputError, match=r"2,000,000 settings; a grid may have 100,000 at most"):
        chosen(Grid("g", parameters={"memory_size": list(range(1000)), "epochs": list(range(1, 1001))}))


def test_all_bad_names_and_values_are_told_at_once():
    grid = Grid("g", parameters={"memory_sise": 3, "epochs": [0, 2]}, combinations={"deep": {"network": "resnet19"}})
    with pytest.raises(InputError) as error:
        chosen(grid)
    message = str(error.value)
    assert "unknown parameter 'memory_sise': did you mean 'memory_size'?" in message
    assert "epochs = 0: expected a whole number of at least 1" in message
    assert "combination deep: network = 'resnet19': expected one of small" in message
    with pytest.raises(InputError, match=r"epochs = .*at least one"):
        chosen(Grid("g", parameters={"epochs": []}))


def test_a_grid_extends_another(tmp_path: Path):
    path = write(
        tmp_path,
        first="{description: one, parameters: {epochs: 3, memory_size: [1, 2]}, combinations: {a: {}, b: {epochs: 4}}}",
        second="{extends: first.yaml, parameters: {memory_size: 5}}",
        third="{extends: second.yaml, description: three, combinations: {b: null, c: {epochs: 9}}}",
    )
    grid = read_grid(path)
    assert grid.name == "third"
    assert grid.description == "three"
    assert grid.parameters == {"epochs": 3, "memory_size": 5}
    assert grid.combinations == {"a": {}, "c": {"epochs": 9}}
    assert read_grid(tmp_path / "second.yaml").description == "one"
    fourth = "{extends: first.yaml, parameters: {epochs: 7}}"
    assert read_grid(write(tmp_path, fourth=fourth)).combinations == {"a": {}, "b": {}}, "its own parameters hold"


def test_a_grid_that_comes_with_il2m_is_extended_by_its_name(tmp_path: Path):
    path = write(tmp_path, mine="{extends: quickstart, parameters: {memory_size: 100}}")
    assert read_grid(path).parameters == read_grid(find_grid("quickstart")).parameters | {"memory_size": 100}
    for no_grid in ("quickstartt", "''"):
        with pytest.raises(InputError, match="can't read the grid"):
            read_grid(write(tmp_path, mine=f"extends: {no_grid}"))


def test_a_grid_that_extends_itself_is_refused(tmp_path: Path):
    path = write(tmp_path, one="extends: two.yaml", two="extends: one.yaml")
    with pytest.raises(InputError, match=r"two\.yaml extends itself, by way of two\.yaml, one\.yaml"):
        read_grid(path)
    with pytest.raises(InputError, match=re.escape(f"can't read the grid {tmp_path / 'none.yaml'}")):
        read_grid(write(tmp_path, lost="extends: none.yaml"))


ALIAS_BOMB = "parameters:\n  a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"  {name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parameters: [1, 2]", "expected 'description' and 'parameters'"),
        ("just words", "expected 'description' and 'parameters'"),
        ("parametres: {}", "unknown key 'parametres': did you mean 'parameters'"),
        ("combinations: [1]", "expected 'combinations' as name: {parameter: value, ...}"),
        ("combinations: {a: 3}", "expected 'combinations' as name: {parameter: value, ...}"),
        ("exclude: [{epochs: 3}]", "unknown key 'exclude'"),
        ("extends: [a, b]", "'extends' names one other grid"),
        ("parameters: {a: [}", "not valid YAML"),
        ("parameters: {epochs: 3, epochs: 4}", "not valid YAML: line 1: 'epochs' is given twice"),
        ("parameters:\n  epochs: 3\n  epochs: {}", "not valid YAML: line 3: 'epochs' is given twice"),
        ("combinations: {a: &s {epochs: 3}, b: {<<: *s, epochs: 7, epochs: 8}}", "'epochs' is given twice"),
        ("combinations: {a: &s {epochs: 3}, b: {<<: *s, <<: *s}}", "'<<' is given twice"),
        ('extends: "a\\0b"', "not valid YAML: line 1: 'a\\x00b' can't be taken as str"),
        ('extends: "a\\ud800b"', "can't be taken as str"),
        ("extends: /dev/zero", "can't read the grid /dev/zero"),
        ("parameters: {seed: 0b_}", "line 1: '0b_' can't be taken as int"),
        ("parameters: {seed: 2001-99-99}", "line 1: '2001-99-99' can't be taken as timestamp"),
        ("parameters: {seed: !!float x}", "line 1: 'x' can't be taken as float"),
        ("parameters:\n  seed: !!int ", "line 2: '' can't be taken as int"),
        ("parameters: {seed: !!bool x}", "line 1: 'x' can't be taken as bool"),
        pytest.param("parameters: {seed: " + "9" * 400 + "}", "can't be taken as int", id="400 digits"),
        pytest.param("parameters: {seed: " + "9" * 5000 + "}", "can't be taken as int", id="5,000 digits"),
        pytest.param("parameters: {seed: " + "[" * 3000, "it is nested too deeply", id="3,000 ["),
        pytest.param("parameters:\n  " + "- " * 3000, "it is nested too deeply", id="3,000 -"),
        pytest.param(f"parameters: {{seed: {[*range(200_000)]}}}", "more than 65,536 characters", id="200,000 seeds"),
        pytest.param("".join(f"k{i:05}: 1\n" for i in range(20_000)), "more than 65,536", id="20,000 keys"),
        pytest.param(ALIAS_BOMB, "it stands for more than 50,000 values", id="9^8 aliases"),
        ("parameters: {seed: &a [*a]}", "it stands for more than 50,000 values, or for itself"),
        ("parameters: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("parameters: {epochs: !!python/name:os.system }", "not valid YAML"),
    ],
)
def test_files_that_are_no_grid_are_refused(tmp_path: Path, text: str, expected: str):
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        read_grid(write(tmp_path, grid=text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_list_of_problems_is_endless():
    grid = Grid("g", parameters=dict.fromkeys(map(str, range(5000)), 1))
    with pytest.raises(InputError) as caught:
        all_settings(grid, DEFAULTS)
    assert len(str(caught.value).splitlines()) == 100


@pytest.mark.parametrize(
    "value",
    [
        "2001-99-99", "2001-01-01T25:99:00", "!!int abc", "!!int ''", "!!bool x", "!!timestamp x", "!foo x", "=", "<<",
        "{<<: 3}", "*nope", "[1", "a: b: c", "\t- a", "9" * 5000, "[" * 5000, "{a: " * 5000, "x\0", "? {a: 1}\n: 3",
        "&a [*a]", "2001-01-01", "!!binary eA==", "yes", "1e4000",
    ],
)  # fmt: skip
def test_whatever_yaml_says_wrong_is_told_in_one_line(tmp_path: Path, value: str):
    """What YAML can't read, and what it can but no parameter may be."""
    for read in (
        lambda: read_grid(write(tmp_path, grid=f"parameters:\n  epochs: {value}")),
        lambda: Grid("g", parameters=read_overrides([f"epochs={value}"])),
    ):
        with pytest.raises(InputError) as error:
            chosen(read())
        assert str(error.value).strip()
        assert "\n" not in str(error.value)


def test_a_grid_that_is_no_text_is_told(tmp_path: Path):
    (tmp_path / "grid.yaml").write_bytes(b"parameters: {dataset: \xff}")
    with pytest.raises(
        InputError,
        match=r"grid\.yaml is not valid YAML: ReaderError: unacceptable character #x00ff: invalid start byte",
    ):
        read_grid(tmp_path / "grid.yaml")


def test_yaml_anchors_and_merges_are_allowed(tmp_path: Path):
    text = "combinations: {a: &short {epochs: 3}, b: {<<: *short, memory_size: 7}}"
    assert read_grid(write(tmp_path, grid=text)).combinations["b"] == {"epochs": 3, "memory_size": 7}
    text = "combinations: {a: &short {epochs: 3}, b: &long {<<: *short, epochs: 9}, c: {flip: true, <<: *long}}"
    assert read_grid(write(tmp_path, grid=text)).combinations["c"] == {"epochs": 9, "flip": True}


def test_a_missing_grid_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(f"can't read the grid {tmp_path / 'no.yaml'}")):
        read_grid(tmp_path / "no.yaml")


def test_overrides_are_yaml():
    texts = ["epochs=3", "learning_rate=0.5", "distillation=[false, true]", "dataset=a=b.npz"]
    assert read_overrides(texts) == {
        "epochs": 3, "learning_rate": 0.5, "distillation": [False, True], "dataset": "a=b.npz",
    }  # fmt: skip
    with pytest.raises(InputError, match="expected name=value"):
        read_overrides(["epochs"])
    with pytest.raises(InputError, match="-p epochs is given twice"):
        read_overrides(["epochs=3", "epochs =4"])


def test_numbers_with_an_exponent_are_numbers():
    assert read_overrides(["weight_decay=1e-4", "learning_rate=2.5E-1"]) == {
        "weight_decay": 1e-4,
        "learning_rate": 0.25,
    }
    assert read_overrides(["epochs=010", "network=off", "class_order=[0o10, 0x10]"]) == {  # as YAML 1.2 has it
        "epochs": 10,
        "network": "off",
        "class_order": [8, 16],
    }
