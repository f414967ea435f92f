"""The explorer's controls, and the tour, which sets them step by step. What each is, what each view uses and the words
are in story.yaml."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
from ruamel.yaml import YAML

from il2m.errors import InputError
from il2m.explorer.outcomes import RunOutcomes
from il2m.methods.registry import METHODS

SIDE_BY_SIDE = "side by side"
STORY = YAML(typ="safe").load(Path(__file__).parent / "story.yaml")


def make_controls(all_outcomes: Sequence[RunOutcomes]) -> SimpleNamespace:
    """The controls that change what is shown, by name; each has a ``value``, at first that of the last state of
    fine-tuning, where the bias is."""
    last, titles = all_outcomes[0].num_states, all_outcomes[0].titles
    left_out = {method for outcomes in all_outcomes for method in outcomes.left_out}
    methods = [(METHODS[name].label, name) for name in all_outcomes[0].methods if name not in left_out]
    of_runs = {
        "view": {"options": list(STORY["views"])},
        "state": {"value": last, "max": last},
        "method": {"options": methods},
        "run": {"options": [SIDE_BY_SIDE, *(outcomes.label for outcomes in all_outcomes)]},
        "class_name": {"value": titles[0], "options": titles},
    }
    controls = {name: about | of_runs.get(name, {}) for name, about in STORY["controls"].items()}
    return SimpleNamespace(**{name: getattr(widgets, has.pop("widget"))(**has) for name, has in controls.items()})


def controls_of(view: str, method: str, methods: Sequence[str]) -> set[str]:
    """Names of the controls that can change what a view shows of ``method``, one of the ``methods`` at hand. The kind
    of scores is among them where some method that the view tells of has two, and it makes a difference."""
    about = STORY["views"][view]
    told = methods if about.get("of") == "all" else [about.get("of", method)]
    two_kinds = [name for name in told if len(METHODS[name].score_kinds) > 1 and ("scores" in about or name != "FT")]
    return {"view", "state", "run", *about["uses"], *(["score_kind"] if two_kinds else [])}


def tour_of(controls: SimpleNamespace) -> list[dict[str, Any]]:
    """The steps of the tour, without those of a method that is not at hand: ``title``, ``text``, and what each sets all
    controls to, those that it doesn't name to what they are now, with the first run alone."""
    now = {name: control.value for name, control in vars(controls).items()} | {"run": controls.run.options[1]}
    methods = [name for _, name in controls.method.options]
    return [step | {"set": now | step["set"]} for step in STORY["tour"] if step["set"]["method"] in methods]


def find_class(text: str, titles: Sequence[str]) -> int:
    """The class that a search text means: its title (``label: name``), its number, or the first whose name holds the
    text. Raises InputError if there is none."""
    wanted = text.strip().casefold()
    if text in titles:
        return titles.index(text)
    if wanted.isdecimal() and int(wanted) < len(titles):
        return int(wanted)
    for label, title in enumerate(titles):
        if wanted and wanted in title.partition(": ")[2].casefold():
            return label
    raise InputError(f"no class is called {text!r}: type a part of a name, or a number up to {len(titles) - 1}.")
