"""Grid files: which settings a study is made of. They are data: YAML that can name values, and nothing else.
What they may hold: docs/batches.md. For a parameter that is itself a list, a list of lists is swept."""

import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML, MappingNode, Node, SafeConstructor, ScalarNode
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError

from il2m.errors import InputError, nearest
from il2m.notebook.catalogue import find_grids
from il2m.parameters import PARAMETERS, check_parameters

_KEYS = {  # of a file: the type of what they give, and what is expected there
    "extends": (str, "'extends' names one other grid"),
    "description": (str, "'description' is a text"),
    "parameters": (dict, "expected 'description' and 'parameters' (a mapping of name: value)"),
    "combinations": (dict, "expected 'combinations' as name: {parameter: value, ...}"),
}
_MOST_TEXT, _DEEPEST = 1 << 16, 50  # characters and levels of a file, or of a value of the command line
_MOST_VALUES, _MOST_DIGITS, _MOST_PROBLEMS = 50_000, 64, 100
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MOST_SETTINGS = 100_000  # a slip of a list or two should be told, not planned for hours


@dataclass(frozen=True)
class Grid:
    """A grid as its file, and the files that it extends, give it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    combinations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def only(self, names: Sequence[str]) -> Self:
        """The same grid with these of its combinations. Raises InputError for one that it does not have."""
        if unknown := [name for name in names if name not in self.combinations]:
            known = nearest(unknown[0], self.combinations) if self.combinations else "it has none."
            raise InputError(f"grid {self.name}: no combination {unknown[0]!r}: {known}")
        return replace(self, combinations={name: self.combinations[name] for name in names} or self.combinations)

    def overridden(self, overrides: Mapping[str, Any]) -> Self:
        """The same grid with these parameters said otherwise, in its combinations as well."""
        named = self.combinations.items()
        combinations = {name: {p: v for p, v in values.items() if p not in overrides} for name, values in named}
        return replace(self, parameters={**self.parameters, **overrides}, combinations=combinations)


class _Constructor(SafeConstructor):
    """Refuses what is no value of a grid before it costs time or memory, and names given twice, by a merge key too."""

    def construct_document(self, node: Node) -> Any:
        waiting, count = [node], 0
        while waiting:  # aliases are followed each time they are met, and one that holds itself never ends
            if (count := count + 1) > _MOST_VALUES:
                raise MarkedYAMLError(problem=f"it stands for more than {_MOST_VALUES:,} values, or for itself")
            part, names = waiting.pop(), set()
            waiting += () if isinstance(part, MappingNode | ScalarNode) else part.value
            for key, value in part.value if isinstance(part, MappingNode) else ():
                if str(key.value) in names:
                    raise MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                names.add(str(key.value))
                waiting += key, value
        return super().construct_document(node)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            is_long = isinstance(value, int | float) and len(node.value) > _MOST_DIGITS
            if is_long or (isinstance(value, str) and _NO_TEXT.search(value)):
                raise ValueError
            return value
        except (ValueError, LookupError, ArithmeticError, AttributeError):  # of whatever Python makes of it
            what = f"{str(node.value)[:40]!r}{'...' * (len(node.value) > 40)} can't be taken as {node.tag[18:]}"
            raise MarkedYAMLError(problem=what, problem_mark=node.start_mark) from None


def _read_yaml(text: bytes, where: str) -> Any:
    """What a text says, as plain values. Raises InputError of one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.max_depth = _Constructor, _DEEPEST
    try:
        if len(text) > _MOST_TEXT:
            raise MarkedYAMLError(problem=f"it has more than {_MOST_TEXT:,} characters")
        return yaml.load(text)
    except MaxDepthExceededError:
        problem = "it is nested too deeply"
    except MarkedYAMLError as error:
        problem = f"line {error.problem_mark.line + 1}: {error.problem}" if error.problem_mark else error.problem
    except Exception as error:  # a file that is no text, and whatever else ruamel.yaml meets: of many types
        problem = f"{type(error).__name__}: {error}"
    raise InputError(f"{where} is not valid YAML: {' '.join(problem.split())[:300]}")


def read_grid(path: Path, below: tuple[Path, ...] = ()) -> Grid:
    """A grid file with those it extends; InputError if one is not a grid. below: the files that extend this one."""
    content = _checked(path, below)
    if path.resolve() in below:
        raise InputError(f"{path} extends itself, by way of {', '.join(child.name for child in below)}.")
    up = content.get("extends")  # a file, or the name of a grid that comes with il2m
    parent = Grid("") if up is None else read_grid(find_grids().get(up, path.parent / up), (*below, path.resolve()))
    parent = parent.overridden(content["parameters"])
    combinations = (parent.combinations | content["combinations"]).items()
    combinations = {name: values for name, values in combinations if values is not None}
    return Grid(path.stem, content.get("description", parent.description), parent.parameters, combinations)


def _checked(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    try:
        if below and not path.is_file():  # what a file names shall not be waited for
            raise InputError(f"can't read the grid {path}: no such file.")
        with path.open("rb") as file:
            content = _read_yaml(file.read(_MOST_TEXT + 1), str(path))
    except OSError as error:
        raise InputError(f"can't read the grid {path}: {error.strerror}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: {_KEYS['parameters'][1]}.")
    for key, value in content.items():
        if key not in _KEYS:
            raise InputError(f"{path}: unknown key {key!r}: {nearest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key][0] | None):
            raise InputError(f"{path}: {_KEYS[key][1]}.")
    content = {"parameters": {}, "combinations": {}} | {key: each for key, each in content.items() if each is not None}
    combinations = {str(name): values for name, values in content["combinations"].items()}
    if not all(isinstance(values, dict | None) for values in combinations.values()):
        raise InputError(f"{path}: {_KEYS['combinations'][1]}.")
    if len(combinations) < len(content["combinations"]):
        raise InputError(f"{path}: two combinations have one name; names are texts.")
    return content | {"combinations": combinations}


def read_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``name=value`` texts of the command line, values read as YAML."""
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"-p {text!r}: expected name=value, for example -p memory_size=100")
        if (name := name.strip()) in overrides:
            raise InputError(f"-p {name} is given twice.")
        overrides[name] = _read_yaml(os.fsencode(value), f"-p {text[:80]!r}: the value")
    return overrides


def values_to_sweep(name: str, value: Any) -> list[Any]:
    """A list's items, unless the parameter is itself a list."""
    is_sequence = name in PARAMETERS and isinstance(PARAMETERS[name].default, tuple)
    if isinstance(value, list) and (not is_sequence or any(isinstance(item, list) for item in value)):
        if not value:
            raise InputError(f"{name} = []: a list of values to sweep needs at least one.")
        return value
    return [value]


def swept_names(grid: Grid, defaults: Mapping[str, Any]) -> list[str]:
    """Parameters of several values (1 and 1.0 are one) in the grid's order. grid, defaults: as all_settings passed."""
    values_of: dict[str, set[str]] = {}
    for combination in (grid.combinations or {"": {}}).values():
        for name, value in {**grid.parameters, **defaults, **grid.parameters, **combination}.items():
            forms = (check_parameters({name: single}, [name])[name] for single in values_to_sweep(name, value))
            values_of.setdefault(name, set()).update(map(repr, forms))
    return [name for name, values in values_of.items() if len(values) > 1]


def all_settings(grid: Grid, defaults: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every setting of a grid and the name of its combination ("": none). defaults: every parameter, and what holds
    where the grid is silent, lists swept too. Raises InputError for all bad names and values at once, and too many."""
    if problems := dict.fromkeys(itertools.islice(_problems(grid, defaults), _MOST_PROBLEMS)):
        raise InputError("\n".join(problems))
    lists = {name: value for name, value in defaults.items() if len(values_to_sweep(name, value)) > 1}
    settings: list[tuple[dict[str, Any], str]] = []
    for name, combination in (grid.combinations or {"": {}}).items():
        swept = {p: values_to_sweep(p, v) for p, v in {**lists, **grid.parameters, **combination}.items()}
        if (total := len(settings) + math.prod(map(len, swept.values()))) > _MOST_SETTINGS:
            raise InputError(f"grid {grid.name}: {total:,} settings; a grid may have {_MOST_SETTINGS:,} at most.")
        settings += [(dict(zip(swept, values, strict=True)), name) for values in itertools.product(*swept.values())]
    return settings


def _problems(grid: Grid, known: Mapping[str, Any]) -> Iterator[str]:
    """Every unknown name and bad value of a grid."""
    parts = [("", grid.parameters), *((f"combination {name}: ", values) for name, values in grid.combinations.items())]
    for where, values in parts:
        for name, value in values.items():
            for single in values_to_sweep(name, value):
                try:
                    check_parameters({name: single}, known)
                except InputError as error:
                    yield f"{where}{error}"
