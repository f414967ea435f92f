"""What a study may be told: each parameter once, in parameters.toml, and one settings object per stage. From its fields
come what is accepted, what shapes the stage's result (and so its hash and its checkpoints), which runs are replicates
or twins of each other, and the table of `il2m parameters`. A notebook's cell repeats it, which a test keeps equal."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Self

from il2m.errors import InputError, nearest
from il2m.rules import Rule, choice, read_rule

# name -> hash of its source, "" for what is built in; those that are registered are added
NETWORKS = dict.fromkeys(("small", "resnet8", "resnet20", "resnet32", "resnet18"), "")
_DECLARED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
CONCERNS = _DECLARED["concerns"]  # whom a parameter concerns -> does it shape what is learned, as it stands?


@dataclass(frozen=True)
class Parameter:
    """One parameter of a stage. What its fields mean stands at the head of parameters.toml."""

    default: Any
    rule: Rule
    meaning: str
    unit: str = ""
    concerns: str = "training"
    only_with: Sequence[Any] | None = None
    neutral: Any = None
    column: bool = False
    short: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of one stage; what each means its Parameter says."""

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        return {one.name: one.metadata["parameter"] for one in fields(cls)}

    @classmethod
    def given(cls, settings: Self | None = None, values: Mapping[str, Any] | None = None) -> Self:
        """``settings`` (or the defaults) with these values. Raises InputError that lists every problem at once."""
        return cls(**check_parameters(vars(settings or cls()) | dict(values or {}), rules=cls.parameters()))

    @classmethod
    def read(cls, cell: Mapping[str, Any], **changed: Any) -> Self:
        """The settings that a notebook's names give (``globals()`` there), checked; changed: over them."""
        return cls.given(values={name: cell[name] for name in cls.parameters() if name in cell} | changed)

    @classmethod
    def of_identity(cls, identity: Mapping[str, Any], **others: Any) -> Self:
        """The settings that trained a run, from what its hash is of; what is left out of that is neutral, or had no
        effect. others: what a run does not tell, as the machine."""
        known = cls.parameters()
        off = {name: known[name].default if known[name].neutral is None else known[name].neutral for name in known}
        return cls(**{name: identity.get(name, off[name]) for name in cls().of_training()} | others)

    def of_training(self) -> dict[str, Any]:
        """All values that could shape what is learned, be they of effect as they stand or not."""
        return {name: vars(self)[name] for name, one in self.parameters().items() if CONCERNS[one.concerns]}

    def shaping(self, *, image_files: bool) -> dict[str, Any]:
        """What shapes the result, of these settings: those of of_training that have an effect as they stand."""
        known, facts, shaping = self.parameters(), vars(self) | {"image_files": image_files}, self.of_training()
        for name, value in self.of_training().items():
            needed, needed_value = known[name].only_with or (name, value)
            if value == known[name].neutral or facts[needed] != needed_value:
                del shaping[name]
        return shaping


def _stage(name: str, has_all_of: type[Settings] = Settings) -> type[Settings]:
    """The settings of a stage: its own parameters after those of the stage whose parameters it has too."""
    own = []
    for parameter, about in _DECLARED[name].items():
        default, accepts = about.pop("default", None), about.pop("accepts")
        rule = choice(NETWORKS) if accepts == "network" else read_rule(accepts)
        one = Parameter(() if default == [] else default, rule, **about)
        own.append((parameter, Any, field(default=one.default, metadata={"parameter": one})))
    return make_dataclass(name, own, bases=(has_all_of,), namespace={"__module__": __name__}, frozen=True, kw_only=True)


_AllStages = _stage("Settings")
_Machine = _stage("Machine", _AllStages)
Training = _stage("Training", _Machine)
BaseTraining = _stage("BaseTraining", Training)
FineTuning = _stage("FineTuning", Training)
JointTraining = _stage("JointTraining", _Machine)
Analysis = _stage("Analysis", _AllStages)
STAGES: dict[str, type[Settings]] = {"01": BaseTraining, "02": FineTuning, "03, 04": Analysis}  # by notebook
_ALL = (JointTraining, *STAGES.values())
PARAMETERS: dict[str, Parameter] = {name: one for stage in _ALL for name, one in stage.parameters().items()}
SCORE_KINDS = tuple(PARAMETERS["score_kind"].rule.words)


def concerning(*concerns: str) -> list[str]:
    """The names of the parameters that concern one of these (keys of CONCERNS)."""
    return [name for name, one in PARAMETERS.items() if one.concerns in concerns]


def check_parameters(
    values: Mapping[str, Any], known: Iterable[str] | None = None, rules: Mapping[str, Parameter] = PARAMETERS
) -> dict[str, Any]:
    """The values in their one form. known: the names that may be given here; None: all of ``rules``, what each may be.
    Raises InputError that lists all problems: unknown names (with the nearest right one), wrong types and ranges."""
    known, problems = set(rules if known is None else known), []
    long_names = {one.short.casefold(): name for name, one in rules.items() if one.short}
    for name, value in values.items():
        if name not in known:
            problems.append(f"unknown parameter {name!r}: {nearest(long_names.get(str(name).casefold(), name), known)}")
        elif name in rules and (problem := rules[name].rule.problem(name, value)):
            problems.append(problem)
    if problems:
        raise InputError("\n".join(problems))
    return {name: rules[name].rule.convert(value) if name in rules else value for name, value in values.items()}


def parameters_table() -> str:
    """One row per parameter and notebook that has it, as Markdown."""
    rows = [["notebook", "parameter", "default", "unit", "accepts", "concerns", "meaning"], ["---"] * 7]
    for notebooks, stage in STAGES.items():
        for name, one in stage.parameters().items():
            default = repr([*one.default] if isinstance(one.default, tuple) else one.default)
            rows.append([notebooks, name, default, one.unit, one.rule.expected, one.concerns, one.meaning])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
