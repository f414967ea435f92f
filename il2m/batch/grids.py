"""Grid files: which settings a study is made of. They are data: YAML that can name values, and nothing else.

    extends: quickstart.yaml                 another grid, whose parameters hold where these don't say otherwise
    description: one line for people
    parameters: {memory_size: [100, 200]}    a value, or a list of values to sweep, for all notebooks
    combinations:                            named sets of further parameters; each is swept with the ones above
      plain: {}
      herding: {exemplar_selection: herding, distillation: true}
    exclude:                                 settings to leave out: those that have all these values
      - {memory_size: 100, distillation: true}

For a parameter that is itself a list, a list of lists is swept.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from il2m.errors import InputError, nearest
from il2m.parameters import PARAMETERS, check_parameters

_KEYS = ("extends", "description", "parameters", "combinations", "exclude")
_MOST_SETTINGS = 100_000  # a slip of a list or two should be told, not planned for hours


@dataclass(frozen=True)
class Grid:
    """A grid as its file, and the files that it extends, give it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    combinations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: Sequence[Mapping[str, Any]] = ()

    def only(self, names: Sequence[str]) -> Grid:
        """The same grid with these of its combinations. Raises InputError for one that it does not have."""
        for name in names:
            if name not in self.combinations:
                known = nearest(name, self.combinations) if self.combinations else "it has none."
                raise InputError(f"grid {self.name}: no combination {name!r}: {known}")
        combinations = {name: self.combinations[name] for name in names} if names else self.combinations
        return replace(self, combinations=combinations)

    def overridden(self, overrides: Mapping[str, Any]) -> Grid:
        """The same grid with these parameters said otherwise, in its combinations as well.

        What is excluded stays so; entries for values that are gone are gone with them.
        """
        combinations = {
            name: {p: v for p, v in given.items() if p not in overrides} for name, given in self.combinations.items()
        }
        over = {name: value for name, value in overrides.items() if name in PARAMETERS}
        exclude = [entry for entry in self.exclude if _overlaps(entry, over)]
        return replace(self, parameters={**self.parameters, **overrides}, combinations=combinations, exclude=exclude)


@dataclass(frozen=True)
class Setting:
    """One setting of a grid: the values of what the grid gives, and the name of its combination (empty: none)."""

    values: dict[str, Any]
    combination: str


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number, as Python does (YAML 1.1 asks for 1.0e-4), and refuses what is said twice:
    the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.YAMLError(f"{key!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_grid(path: Path) -> Grid:
    """A grid file together with those it extends. Raises InputError if one of them is not a grid."""
    return _read(path, ())


def _read(path: Path, below: tuple[Path, ...]) -> Grid:
    if path.resolve() in below:
        raise InputError(f"{path} extends itself, by way of {', '.join(child.name for child in below)}.")
    content = _checked(path)
    grid = Grid(path.stem)
    if "extends" in content:
        parent = _read(path.parent / content["extends"], (*below, path.resolve()))
        grid = replace(parent, name=path.stem)
    combinations = {**grid.combinations, **content["combinations"]}
    return Grid(
        name=path.stem,
        description=content.get("description", grid.description),
        parameters={**grid.parameters, **content["parameters"]},
        combinations={name: given for name, given in combinations.items() if given is not None},
        exclude=[*grid.exclude, *content["exclude"]],
    )


def _checked(path: Path) -> dict[str, Any]:
    """The content of one file, with the shape that its keys must have."""
    try:
        content = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise InputError(f"can't read the grid {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected 'description' and 'parameters' (a mapping of name: value).")
    for key in content:
        if key not in _KEYS:
            raise InputError(f"{path}: unknown key {key!r}: {nearest(str(key), _KEYS)}")
    content = {key: value for key, value in content.items() if value is not None}
    content = {"parameters": {}, "combinations": {}, "exclude": []} | content
    if not isinstance(content["parameters"], dict):
        raise InputError(f"{path}: expected 'description' and 'parameters' (a mapping of name: value).")
    if not all(isinstance(content.get(key, ""), str) for key in ("extends", "description")):
        raise InputError(f"{path}: 'extends' names one other grid file, 'description' is a text.")
    combinations, exclude = content["combinations"], content["exclude"]
    if not isinstance(combinations, dict) or any(not isinstance(v, dict | None) for v in combinations.values()):
        raise InputError(f"{path}: expected 'combinations' as name: {{parameter: value, ...}}.")
    if not isinstance(exclude, list) or any(not isinstance(e, dict) or not e for e in exclude):
        raise InputError(f"{path}: expected 'exclude' as a list of {{parameter: value, ...}}.")
    content["combinations"] = {str(name): given for name, given in combinations.items()}
    if len(content["combinations"]) < len(combinations):
        raise InputError(f"{path}: two combinations have one name; names are texts.")
    return content


def read_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``name=value`` texts of the command line, values read as YAML."""
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"-p {text!r}: expected name=value, for example -p memory_size=100")
        try:
            overrides[name.strip()] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise InputError(f"-p {text!r}: the value is not valid YAML: {error}") from None
    return overrides


def values_to_sweep(name: str, value: Any) -> list[Any]:
    """A list's items, unless the parameter is itself a list."""
    is_sequence = name in PARAMETERS and PARAMETERS[name].is_sequence
    if isinstance(value, list) and (not is_sequence or any(isinstance(item, list) for item in value)):
        if not value:
            raise InputError(f"{name} = []: a list of values to sweep needs at least one.")
        return value
    return [value]


def swept_names(grid: Grid, defaults: Mapping[str, Any]) -> list[str]:
    """Parameters that have more than one value in a grid, in the order in which it names them.

    defaults: what holds where the grid says nothing; a list there is swept too.
    """
    found: dict[str, set[str]] = {}
    for given in [{**defaults, **grid.parameters, **combination} for combination in _combinations(grid).values()]:
        for name in dict.fromkeys([*grid.parameters, *given]):
            found.setdefault(name, set()).update(map(repr, values_to_sweep(name, given[name])))
    return [name for name, values in found.items() if len(values) > 1]


def all_settings(grid: Grid, defaults: Mapping[str, Any]) -> list[Setting]:
    """Every setting of a grid that is not excluded.

    defaults: every parameter that may be given, and what holds where the grid says nothing; a list there is swept too.
    Raises InputError for all unknown names and bad values at once, and for an exclusion that excludes nothing.
    """
    _check(grid, defaults)
    lists = {name: v for name, v in defaults.items() if len(values_to_sweep(name, v)) > 1}
    total, settings = 0, []
    used = [False] * len(grid.exclude)
    for name, combination in _combinations(grid).items():
        swept = {p: values_to_sweep(p, v) for p, v in {**lists, **grid.parameters, **combination}.items()}
        total += math.prod(map(len, swept.values()))
        if total > _MOST_SETTINGS:
            raise InputError(f"grid {grid.name}: {total:,} settings; a grid may have {_MOST_SETTINGS:,} at most.")
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            excluded = [_matches(entry, {**defaults, **chosen}) for entry in grid.exclude]
            used = [before or now for before, now in zip(used, excluded, strict=True)]
            if not any(excluded):
                settings.append(Setting(chosen, name))
    for entry, was_used in zip(grid.exclude, used, strict=True):
        if not was_used:
            raise InputError(f"grid {grid.name}: exclude: {entry} is none of its settings.")
    if not settings:
        raise InputError(f"grid {grid.name}: every setting is excluded.")
    return settings


def _combinations(grid: Grid) -> Mapping[str, Mapping[str, Any]]:
    return grid.combinations or {"": {}}


def _matches(entry: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(any(_same(name, values[name], v) for v in values_to_sweep(name, e)) for name, e in entry.items())


def _overlaps(entry: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether an exclusion names, of each overridden parameter that it names, one of the values it now has."""
    return all(
        any(_matches({name: entry[name]}, {name: value}) for value in values_to_sweep(name, given))
        for name, given in overrides.items()
        if name in entry
    )


def _same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a parameter are one value: 1 and 1.0 of a number, but not 1 and True."""
    convert = PARAMETERS[name].rule.convert if name in PARAMETERS else lambda value: value
    return convert(one) == convert(other)


def _check(grid: Grid, known: Mapping[str, Any]) -> None:
    """Raise InputError that lists every unknown name and bad value of a grid."""
    problems = []
    for where, name, value in _given(grid):
        try:
            check_parameters({name: value}, known)
        except InputError as error:
            problems.append(f"{where}{error}")
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def _given(grid: Grid) -> Iterator[tuple[str, str, Any]]:
    """Every single value that a grid gives: where, the parameter's name, the value."""
    rooms = [("", grid.parameters)]
    rooms += [(f"combination {name}: ", given) for name, given in grid.combinations.items()]
    rooms += [("exclude: ", entry) for entry in grid.exclude]
    for where, given in rooms:
        for name, value in given.items():
            for single in values_to_sweep(name, value):
                yield where, name, single
