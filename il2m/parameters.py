"""What a study may be told: each parameter once, with its type, range, default, unit, meaning, and whom it concerns.

One settings object per stage. From its fields come what is accepted, what shapes the stage's result (and so its hash
and its checkpoints), which runs are replicates or twins of each other, and the table of `il2m parameters`. A notebook's
cell repeats name, default and meaning for its reader; a test keeps the two equal.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Self

from il2m.errors import InputError, nearest
from il2m.rules import PATH, SEED, SEED_OR_NONE, SWITCH, TEXT, Rule, choice, integer, integers, number

# name -> hash of its source, "" for what is built in; those that are registered are added
NETWORKS = dict.fromkeys(("small", "resnet8", "resnet20", "resnet32", "resnet18"), "")
UNDEFINED_POLICIES = ("keep", "as-published", "raise")
SCORE_KINDS = ("raw", "softmax")

CONCERNS = {  # whom a parameter concerns -> does it shape what is learned, as it stands?
    "training": True,
    "first memory": True,
    "distillation": True,  # runs that differ in nothing else are twins
    "image files": True,
    "images in memory": True,
    "training seed": True,  # runs that differ in nothing but it and the class order are replicates
    "class order": False,  # the order that comes of it does
    "states": False,  # the sizes that come of them do
    "normalisation": False,  # the mean and standard deviation that come of it do
    "image orientation": False,  # that images were turned does
    "warnings": False,
    "joint training": False,
    "places": False,
    "machine": False,
    "analysis": False,
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a stage. unit: ``""`` for none. concerns: a key of CONCERNS.
    only_with: (name, value) of another parameter of the stage, or ("image_files", True or False): without it this one
    has no effect. neutral: a value at which it has none. What has no effect is left out of the hash. column: whether
    the results table has a column of it.
    """

    default: Any
    rule: Rule
    meaning: str
    unit: str = ""
    concerns: str = "training"
    only_with: tuple[str, Any] | None = None
    neutral: Any = None
    column: bool = False
    short: str = ""  # what the field calls it


def parameter(*args: Any, **kwargs: Any) -> Any:
    """A dataclass field that is a Parameter; arguments as there."""
    one = Parameter(*args, **kwargs)
    return field(default=one.default, metadata={"parameter": one})


_place = partial(parameter, concerns="places")
_machine = partial(parameter, concerns="machine")
_states = partial(parameter, concerns="states")
_first_memory = partial(parameter, concerns="first memory", column=True)
_order = partial(parameter, concerns="class order")
_when_distilling = partial(parameter, concerns="distillation", only_with=("distillation", True), column=True)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of one stage; what each means its Parameter says."""

    out_dir: str = _place("../runs/quickstart", PATH, "folder of the study: runs and results")
    data_dir: str = _place("../data", PATH, "folder where datasets are cached or looked for")

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        return {one.name: one.metadata["parameter"] for one in fields(cls)}

    @classmethod
    def given(cls, settings: Self | None = None, values: Mapping[str, Any] | None = None) -> Self:
        """``settings`` (or the defaults) with these values. Raises InputError that lists every problem at once."""
        known = cls.parameters()
        return cls(**check_parameters(vars(settings or cls()) | dict(values or {}), known, known))

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


# fmt: off
_patience = partial(
    parameter, rule=integer(0), meaning="epochs without a lower loss before the rate drops (plateau only)",
    only_with=("schedule", "plateau"))
_base = partial(_place, "", PATH, "base run, a folder or its name in out_dir; empty: the one trained last")


@dataclass(frozen=True, kw_only=True)
class _Machine(Settings):
    device: str = _machine("auto", choice(("auto", "cpu", "cuda")), "auto, cpu or cuda")
    num_threads: int = _machine(1, integer(1, 10_000), "CPU threads; equal seeds give equal bits for equal threads")
    num_workers: int = _machine(2, integer(0, 10_000), "processes that decode image files")


@dataclass(frozen=True, kw_only=True)
class Training(_Machine):
    """What base training and fine-tuning have in common."""

    batch_size: int = parameter(32, integer(2, 10**6), "images per mini-batch", short="bs")
    summed_batches: int = parameter(
        1, integer(1), "mini-batches whose gradients are summed for one step (the authors: 8)", neutral=1)
    learning_rate: float = parameter(0.1, number(0, above=True), "of SGD, divided by the state's number", short="lr")
    momentum: float = parameter(0.9, number(0, 1, below=True), "of SGD, 0 to 1")
    weight_decay: float = parameter(1e-4, number(0), "L2 penalty", short="wd")
    schedule: str = parameter(
        "step", choice(("step", "plateau")),
        "step: rate x .1 at 60 % and 85 % of the epochs; plateau: when the loss stalls")
    patience: int = _patience(10)
    max_shift: int = parameter(
        2, integer(0, 10_000), "random shift while training (not of image files)", "pixels",
        concerns="images in memory", only_with=("image_files", False))
    flip: bool = parameter(False, SWITCH, "mirror training images at random")
    train_seed: int = parameter(
        0, SEED, "seed of weights, heads, exemplars, image order and augmentation", concerns="training seed")
    precision: str = parameter(
        "float32", choice(("float32", "bf16", "fp16")), "float32, bf16 or fp16 (mixed precision)")


@dataclass(frozen=True, kw_only=True)
class BaseTraining(Training):
    """Notebook 01: the first state."""

    dataset: str = _place(
        "glyphs", TEXT, "glyphs (embedded), cifar10, cifar100, PATH.npz, folder:PATH or lists:PATH (image files)")
    image_size: int = parameter(
        224, integer(8, 10_000), "side of image files once cropped (folder: and lists: only)", "pixels",
        concerns="image files", only_with=("image_files", True))
    exif_rotation: str = parameter(
        "auto", choice(("auto", "on", "off")),
        "turn image files as their EXIF data say: on, off, or auto: folder: on, lists: off",
        concerns="image orientation")
    mean_std: str = parameter(
        "", TEXT, "name in datasets_mean_std.txt; empty: computed over the first state's images",
        concerns="normalisation")
    allow_leakage: bool = parameter(
        False, SWITCH, "no warning of validation images that are training images too", concerns="warnings")
    num_states: int = _states(5, integer(1), "number of states of equal size (classes must divide evenly)", short="S")
    state_sizes: list[int] = _states(
        (), integers(1), "classes of each state, for example [50, 10, 10, 10, 10, 10]; empty: equal sizes")
    order_seed: int = _order(0, SEED, "seed of the order in which classes arrive")
    class_order: list[int] = _order((), integers(0), "class ids in learning order; empty: shuffled by order_seed")
    network: str = parameter(
        "small", choice(NETWORKS), "small, resnet8, resnet20, resnet32 (32-pixel images) or resnet18 (the paper's)")
    base_epochs: int = parameter(30, integer(1), "passes over the first state's images")
    joint_epochs: int = parameter(
        0, integer(0), "epochs of joint training on all classes so far, once per state: the upper bound; 0: none",
        concerns="joint training")


@dataclass(frozen=True, kw_only=True)
class FineTuning(Training):
    """Notebook 02: states 2..S."""

    base: str = _base()
    dataset: str = _place("", TEXT, "name or path, if it is not where the base found it; must hold the base's images")
    order_seed: int | None = _order(None, SEED_OR_NONE, "if given, the base must have this class order")
    memory_size: int = _first_memory(
        200, integer(0), "K, exemplar images in total, shared evenly by the past classes", short="K",
        only_with=("exemplars_per_class", 0))
    memory_rounding: str = _first_memory(
        "ceil", choice(("ceil", "floor")),
        "of K / past classes: ceil (the authors; the memory may hold more than K images) or floor",
        only_with=("exemplars_per_class", 0), neutral="floor")
    exemplars_per_class: int = _first_memory(
        0, integer(0), "images per past class instead of K in total; 0: use memory_size")
    exemplar_selection: str = _first_memory("random", choice(("random", "herding")), "random or herding (iCaRL)")
    head: str = parameter(
        "new", choice(("new", "extended")),
        "new: re-initialised at each state (the paper); extended: past weights kept", column=True)
    freeze: bool = parameter(
        False, SWITCH, "True: only the head is trained, the backbone stays as state 1 left it", neutral=False)
    distillation: bool = parameter(
        False, SWITCH, "False is the method, True the ablation; a list trains one run each", concerns="distillation",
        column=True)
    temperature: float = _when_distilling(
        2.0, number(0, above=True), "T, softens both sides of the distillation loss", short="T")
    distillation_weight: float = _when_distilling(
        1.0, number(0), "weight of the distillation loss beside cross-entropy")
    distillation_share: bool = _when_distilling(
        False, SWITCH, "True: that loss times s, cross-entropy times 1 - s, s = past classes / all (BiC, WA)",
        neutral=False)
    temperature_squared: bool = _when_distilling(
        False, SWITCH, "True: the distillation loss times T^2 (Hinton)", neutral=False)
    epochs: int = parameter(20, integer(1), "passes over the images of each state")
    balanced_epochs: int = parameter(
        0, integer(0), "further passes over equally many images per class, rate / 10 (balanced fine-tuning)",
        neutral=0, column=True)
    held_out: float = parameter(
        0.0, number(0, 0.5), "share of the exemplars kept from training, 0 to .5; BiC needs some (its authors: .1)",
        neutral=0, column=True)
    patience: int = _patience(5)
    score_all_past: bool = parameter(
        True, SWITCH, "also reduce all past training images to class means, for oracles only")


@dataclass(frozen=True, kw_only=True)
class JointTraining(_Machine):
    """The upper bound: a training from scratch on all classes so far, for each state."""

    base: str = _base()
    joint_epochs: int = parameter(0, integer(0), "epochs of each training; 0: the base's")


@dataclass(frozen=True, kw_only=True)
class Analysis(Settings):
    """Notebooks 03 and 04."""

    run: str = _place(
        "", PATH, "run to analyse, a folder or its name in out_dir; empty: the newest without distillation")
    compare: str = _place("auto", PATH, "a second run shown beside it; auto: its twin in distillation; empty: none")
    score_kind: str = parameter(
        "raw", choice(SCORE_KINDS), "raw (before softmax, the paper) or softmax (probabilities)", concerns="analysis")
    undefined: str = parameter(
        "keep", choice(UNDEFINED_POLICIES), "keep: that class's score is left alone; as-published: multiplied anyway; "
        "raise: stop", concerns="analysis")
# fmt: on


STAGES: dict[str, type[Settings]] = {"01": BaseTraining, "02": FineTuning, "03, 04": Analysis}  # by notebook
PARAMETERS: dict[str, Parameter] = {
    name: one for stage in (JointTraining, *STAGES.values()) for name, one in stage.parameters().items()
}


def concerning(*concerns: str) -> list[str]:
    """The names of the parameters that concern one of these (keys of CONCERNS)."""
    return [name for name, one in PARAMETERS.items() if one.concerns in concerns]


def check_parameters(
    values: Mapping[str, Any], known: Iterable[str] | None = None, rules: Mapping[str, Parameter] = PARAMETERS
) -> dict[str, Any]:
    """The values in their one form. known: the names that may be given here; by default every parameter of the study.
    rules: what each may be. Raises InputError that lists every problem at once: unknown names (with the nearest right
    one), and wrong types or ranges."""
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


def parameters_table() -> Iterator[dict[str, str]]:
    """One row per parameter and notebook that has it."""
    for notebooks, stage in STAGES.items():
        for name, one in stage.parameters().items():
            default = repr([*one.default] if isinstance(one.default, tuple) else one.default)
            row = {"notebook": notebooks, "parameter": name, "default": default, "unit": one.unit}
            yield row | {"accepts": one.rule.expected, "concerns": one.concerns, "meaning": one.meaning}
