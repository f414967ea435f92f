"""The bias explorer: views of finished runs behind controls, in JupyterLab; pictures of the same views elsewhere."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anywidget
import ipywidgets as widgets
from IPython.display import HTML, display
from ruamel.yaml import YAML

from il2m.errors import InputError
from il2m.explorer.outcomes import Choice, Exponents, RunOutcomes, Shown, kind_for
from il2m.explorer.page import PARTS, STYLE, figures_html, save_links
from il2m.explorer.views import VIEWS
from il2m.methods.rectify import STEADIER
from il2m.methods.registry import METHODS
from il2m.results.collect import stored_results
from il2m.study.find import labelled, open_pair
from il2m.study.progress import is_headless
from il2m.study.runs import Run

MOST_RUNS = 4
SIDE_BY_SIDE = "side by side"
STORY = YAML(typ="safe").load(Path(__file__).parent / "story.yaml")  # what each control is, what each view uses, words


def bias_explorer(*runs: Run | str | Path, data_dir: str | Path = "../data") -> "BiasExplorer | None":
    """Explore the prediction bias of finished runs of the same classes, MOST_RUNS at most: returns the page, a widget;
    where nobody can move a control (papermill, nbconvert) displays the views of the last state, and returns None.
    runs: open runs, or their folders; a study's folder stands for its newest run without distillation and its twin.
    data_dir: of the runs' images. Raises InputError for no finished run, and for different classes or states."""
    all_outcomes = open_outcomes(runs, data_dir)
    return show_static(all_outcomes) if is_headless() else BiasExplorer(all_outcomes)


def open_outcomes(runs: Sequence[Run | str | Path], data_dir: str | Path = "../data") -> list[RunOutcomes]:
    """The runs, checked that each is finished and that they can be compared, each with a label of its own."""
    pairs = [open_pair(given, compare="" if (Path(given) / "config.json").exists() else "auto") for given in runs]
    opened = [run for pair in pairs for run in pair.values()]  # of a study its default pair
    if not 1 <= len(opened) <= MOST_RUNS:
        raise InputError(f"{len(opened)} runs were given: the explorer shows 1 to {MOST_RUNS}.")
    for run in opened:
        mine, first = ({"states": each.states.sizes, "classes": each.class_names} for each in (run, opened[0]))
        for what in mine:
            if mine[what] != first[what]:
                both = f"{run.folder} and {opened[0].folder} can't be compared: their {what} differ"
                theirs = f"{_in_short(mine[what])} and {_in_short(first[what])}"
                raise InputError(f"{both} ({theirs}). Explore them one by one.")
        table, _ = stored_results(run)
        if table is not None and (policy := table.attrs["undefined"]) != "keep":
            shown = "the explorer shows undefined = keep (a class whose ratio is undefined is left alone)"
            warnings.warn(f"{shown}; the table stored beside {run.name} has {policy}.", stacklevel=3)
    return [RunOutcomes(run, label, data_dir) for label, run in labelled(opened).items()]


def _in_short(values: Sequence[object]) -> str:
    return f"{len(values)}: {', '.join(map(str, values[:5]))}{', ...' if len(values) > 5 else ''}"


def show_static(all_outcomes: Sequence[RunOutcomes]) -> None:
    """Display every view as a picture: of fine-tuning, or of IL2M where a method is compared with it."""
    has_il2m = not any("IL2M" in outcomes.left_out for outcomes in all_outcomes)
    for name, view in VIEWS.items():
        about = STORY["views"][name]
        choice = Choice(all_outcomes[0].num_states, "IL2M" if has_il2m and "compares" in about else "FT")
        try:
            shown = {outcomes.label: view(outcomes, choice) for outcomes in all_outcomes}
            display(HTML(STYLE + PARTS.still(name, choice, about["about"]) + figures_html(name, shown)))
        except InputError as error:
            display(HTML(PARTS.about(f"{name}: {error}")))


def make_controls(all_outcomes: Sequence[RunOutcomes]) -> SimpleNamespace:
    """The controls that change what is shown, by name; at first at fine-tuning's last state, where the bias is."""
    last, titles = all_outcomes[0].num_states, all_outcomes[0].titles
    left_out = {method for outcomes in all_outcomes for method in outcomes.left_out}
    methods = [(METHODS[name].label, name) for name in all_outcomes[0].methods if name not in left_out]
    of_runs = {"state": {"value": last, "max": last}, "class_name": {"value": titles[0], "options": titles}}
    of_runs |= {"view": {"options": list(STORY["views"])}, "method": {"options": methods}}
    of_runs |= {"run": {"options": [SIDE_BY_SIDE, *(outcomes.label for outcomes in all_outcomes)]}}
    controls = {name: about | of_runs.get(name, {}) for name, about in STORY["controls"].items()}
    return SimpleNamespace(**{name: getattr(widgets, has.pop("widget"))(**has) for name, has in controls.items()})


def controls_of(view: str, method: str, methods: Sequence[str]) -> set[str]:
    """Names of the controls that can change what a view shows of ``method``; the kind of scores if it has any say."""
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
    """The class whose title (``label: name``) or number this is, or the first with it in its name; else InputError."""
    wanted = text.strip().casefold()
    if text in titles:
        return titles.index(text)
    if wanted.isdecimal() and int(wanted) < len(titles):
        return int(wanted)
    for label, title in enumerate(titles):
        if wanted and wanted in title.partition(": ")[2].casefold():
            return label
    raise InputError(f"no class is called {text!r}: type a part of a name, or a number up to {len(titles) - 1}.")


class _Names(anywidget.AnyWidget):
    """Tells screen readers the names of controls, which ipywidgets shows the eye alone; nothing is seen of it."""

    _esm = Path(__file__).parent / "names.js"


class BiasExplorer(widgets.VBox):
    """The page. ``controls`` holds the controls by name; ``figure``, ``numbers`` and ``status`` what they change."""

    def __init__(self, all_outcomes: Sequence[RunOutcomes]) -> None:
        self.all_outcomes, self.controls = all_outcomes, make_controls(all_outcomes)
        self.tour, self.step = tour_of(self.controls), -1  # of the tour; -1 before it begins
        self.shown: dict[str, Shown] = {}
        self._label, self._moving = 0, False  # the last class that could be told; while the tour sets controls
        self.back, self.next, self.reset, self.save = (widgets.Button(**about) for about in STORY["buttons"].values())
        self.story, self.about, self.figure, self.numbers, self.status, self.links = (widgets.HTML() for _ in range(6))
        self.play = widgets.Play(min=1, max=self.controls.state.max, value=self.controls.state.value, interval=1500)
        super().__init__(self._arranged())
        self.add_class("il2m-explorer")
        for control in vars(self.controls).values():
            control.observe(self.refresh, "value")
        self.reset.on_click(lambda button: self._set(vars(Exponents())))
        self.save.on_click(self._save)
        self.back.on_click(lambda button: self.go(self.step - 1))
        self.next.on_click(lambda button: self.go(self.step + 1))
        self.refresh()

    def _arranged(self) -> list[widgets.Widget]:
        widgets.jslink((self.play, "value"), (self.controls.state, "value"))
        named = vars(self) | vars(self.controls)
        lines = [widgets.HBox([named[name] for name in row]).add_class("il2m-row") for row in STORY["rows"]]
        runs = reversed(self.all_outcomes)  # so that the first run's reason stands
        left_out = {method: f"{each.label}: {why}" for each in runs for method, why in each.left_out.items()}
        saving, note = widgets.HBox([self.save, self.links]), widgets.HTML(PARTS.left_out(left_out))
        return [widgets.HTML(STYLE), _Names(), *lines, self.about, self.status, self.figure, self.numbers, saving, note]

    @property
    def choice(self) -> Choice:
        """What the controls say; of the class, the last one that could be told."""
        values = {name: control.value for name, control in vars(self.controls).items()}
        exponents, page = Exponents(**{name: values[name] for name in vars(Exponents())}), values["page"] - 1
        chosen = {name: values[name] for name in ("state", "method", "score_kind", "top", "by_origin")}
        return Choice(**chosen, label=self._label, exponents=exponents, page=page)

    def go(self, step: int) -> None:
        """Go to a step of the tour, from 0: set all controls, then show what they say."""
        self.step, self._moving = step, True
        self._set(self.tour[step]["set"])
        self._moving = False
        self.back.disabled, self.next.disabled = step < 1, step == len(self.tour) - 1
        self.refresh()

    def refresh(self, change: object = None) -> None:
        """Show what the controls say. Until it is drawn, the figure is marked as late."""
        if self._moving:
            return
        view, self.links.value = self.controls.view.value, ""
        self.figure.add_class("il2m-late")
        try:
            notes = self._show(view, STORY["views"][view])
        except InputError as error:
            notes, self.shown, self.figure.value, self.numbers.value = [str(error)], {}, "", ""
        self.status.value = PARTS.status(" ".join(notes))
        self._arrange_for(view)
        self.figure.remove_class("il2m-late")

    def _arrange_for(self, view: str) -> None:
        """Show only the controls that can change something, what the view is of, and the tour's step if it is here."""
        controls, method = self.controls, self.controls.method
        controls.page.max = max((what.pages for what in self.shown.values()), default=1)
        used = controls_of(view, method.value, [name for _, name in method.options])
        several = {"run": len(self.all_outcomes), "state": controls.state.max, "page": controls.page.max}
        used -= {name for name, count in several.items() if count == 1}
        for name, control in (*vars(controls).items(), ("state", self.play), ("gate", self.reset)):
            control.layout.display = None if name in used else "none"
        self.about.value = PARTS.about(STORY["views"][view]["about"])
        is_here = self.step >= 0 and self.tour[self.step]["set"]["view"] == view
        self.story.value = PARTS.story(self.tour, self.step if is_here else None)

    def _show(self, view: str, about: dict[str, Any]) -> list[str]:
        """Show a view; what there is to say beside it."""
        notes, runs = [], [each for each in self.all_outcomes if self.controls.run.value in (each.label, SIDE_BY_SIDE)]
        if "class_name" in about["uses"]:
            try:
                self._label = find_class(self.controls.class_name.value, self.all_outcomes[0].titles)
            except InputError as error:
                notes = [f"{self.all_outcomes[0].titles[self._label]} is still shown: {error}"]
        choice = self.choice
        self.shown = {outcomes.label: VIEWS[view](outcomes, choice) for outcomes in runs}
        self.figure.value, self.numbers.value = figures_html(view, self.shown), PARTS.numbers(self.shown)
        steadier = {parts["pooling"]: name for name, parts in STEADIER.items()}
        method = choice.method if "method" in about["uses"] else steadier.get(choice.exponents.pooling, about["of"])
        if (kind := kind_for(method, choice.score_kind)) != choice.score_kind:
            notes.append(f"{method} is defined on {kind} scores: these are shown.")
        every = ((outcomes.label, outcomes.undefined_note(choice.state, method, kind)) for outcomes in runs)
        return notes + [f"{label}: {note}" for label, note in every if note]

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            getattr(self.controls, name).value = value

    def _save(self, button: object = None) -> None:
        view, choice = self.controls.view.value, self.choice
        about, named = STORY["views"][view], {"top": f"top-{choice.top}", "class_name": f"class-{choice.label}"}
        parts = [view, choice.method if "method" in about["uses"] else about["of"], f"state-{choice.state}"]
        parts += [part for name, part in named.items() if name in about["uses"]]
        self.links.value = save_links(self.shown, "-".join(parts)) if self.shown else ""
