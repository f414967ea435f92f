"""The bias explorer: views of finished runs behind controls, in JupyterLab; pictures of the same views elsewhere."""

import html
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets
from IPython.display import HTML, Image, display

from il2m.errors import InputError
from il2m.explorer.outcomes import Choice, Exponents, RunOutcomes, Shown, kind_for
from il2m.explorer.page import STYLE, figure_bytes, numbers_html, page_svg, save_links
from il2m.explorer.views import VIEWS
from il2m.methods.registry import METHODS
from il2m.results.collect import stored_results
from il2m.study.find import labelled, open_run, twin_run
from il2m.study.progress import is_headless, read_progress
from il2m.study.runs import ANALYSED, Run

LARGE = 20_000_000  # images times classes: who waits for more is told so first
MOST_RUNS = 4
SIDE_BY_SIDE = "side by side"


def bias_explorer(*runs: Run | str | Path, data_dir: str | Path = "../data") -> "BiasExplorer | None":
    """Explore the prediction bias of finished runs of the same classes, MOST_RUNS at most: returns the page, a widget.
    Where nobody can move a control (papermill, nbconvert) the views are displayed as they are, at the last state, and
    None is returned.
    runs: open runs, or their folders; a study's folder stands for its newest run without distillation and its twin.
    data_dir: where the runs' images are, as in the notebooks.
    Raises InputError for folders that hold no finished run, and for runs of different classes or states.
    """
    all_outcomes = open_outcomes(runs, data_dir)
    if not is_headless():
        return BiasExplorer(all_outcomes)
    show_static(all_outcomes)
    return None


def open_outcomes(runs: Sequence[Run | str | Path], data_dir: str | Path = "../data") -> list[RunOutcomes]:
    """The runs, checked that each is finished and that they can be compared, each with a label of its own."""
    opened = [run for given in runs for run in _open(given)]
    if not 1 <= len(opened) <= MOST_RUNS:
        raise InputError(f"{len(opened)} runs were given: the explorer shows 1 to {MOST_RUNS}.")
    for run in opened:
        if run.kind not in ANALYSED:
            raise InputError(f"{run.folder} is a {run.kind} run: give a fine-tuning run, or imported scores.")
        if run.missing_states:
            training = read_progress(run.folder)
            how = f"is still being trained ({training['where']})" if training else "is not finished"
            missing = f"states {run.missing_states} are missing. Come back when it has ended."
            raise InputError(f"{run.folder} {how}: {missing}")
        mine, first = ({"states": each.states.sizes, "classes": each.class_names} for each in (run, opened[0]))
        for what in mine:
            if mine[what] != first[what]:
                raise InputError(
                    f"{run.folder} and {opened[0].folder} can't be compared: their {what} differ "
                    f"({_in_short(mine[what])} and {_in_short(first[what])}). Explore them one by one."
                )
        table, _ = stored_results(run)
        if table is not None and (policy := table.attrs["undefined"]) != "keep":
            shown = "the explorer shows undefined = keep (a class whose ratio is undefined is left alone)"
            warnings.warn(f"{shown}; the table stored beside {run.name} has {policy}.", stacklevel=3)
    return [RunOutcomes(run, label, data_dir) for label, run in labelled(opened).items()]


def _open(given: Run | str | Path) -> list[Run]:
    """The run given, or in a folder; or a study's default pair."""
    if isinstance(given, Run) or (Path(given) / "config.json").exists():
        return [given if isinstance(given, Run) else Run(given)]
    try:
        run = open_run(given)
    except InputError as error:
        raise InputError(f"{given} is not a run folder: it has no config.json. Nor is it a study's: {error}") from None
    return [member for member in (run, twin_run(run)) if member]


def _in_short(values: Sequence[object]) -> str:
    return f"{len(values)}: {', '.join(map(str, values[:5]))}{', ...' if len(values) > 5 else ''}"


def first_choice(all_outcomes: Sequence[RunOutcomes]) -> Choice:
    """What is shown until something else is chosen: the last state, of IL2M where every run can give it."""
    has_il2m = not any("IL2M" in outcomes.left_out for outcomes in all_outcomes)
    return Choice(all_outcomes[0].num_states, "IL2M" if has_il2m else "FT")


def show_static(all_outcomes: Sequence[RunOutcomes]) -> None:
    """Display every view as a picture."""
    choice = first_choice(all_outcomes)
    for name, view in VIEWS.items():
        try:
            shown = {outcomes.label: view(outcomes, choice) for outcomes in all_outcomes}
        except InputError as error:
            display(HTML(f"<p>{html.escape(name)}: {html.escape(str(error))}</p>"))
            continue
        picture = Image(data=figure_bytes(shown, "png", background="white", dpi=80), format="png")
        title = f"{name.capitalize()} ({choice.method}, state {choice.state})"
        display(HTML(f"<h4>{html.escape(title)}</h4>"), picture)


class BiasExplorer(widgets.VBox):
    """The page. ``controls`` holds the controls by name; ``figure``, ``numbers`` and ``status`` what they change."""

    def __init__(self, all_outcomes: Sequence[RunOutcomes]) -> None:
        self.all_outcomes, self.controls = all_outcomes, make_controls(all_outcomes)
        self.shown: dict[str, Shown] = {}
        self._work = 0  # of what was computed since the last change
        self.reset = widgets.Button(description="IL2M's own choice", tooltip="set exponents and gate to 1")
        self.save = widgets.Button(description="Save this view", tooltip="make links that save figure and numbers")
        self.figure, self.numbers, self.status, self.links = (widgets.HTML() for _ in range(4))
        self.sliders = [self.controls.means, self.controls.confidence, self.controls.gate]
        self.what_if = widgets.HBox([*self.sliders, self.reset])
        super().__init__(self._arranged())
        for outcomes in all_outcomes:
            outcomes.on_work = self._on_work
        for control in vars(self.controls).values():
            control.observe(self.refresh, "value")
        self.reset.on_click(self._reset)
        self.save.on_click(self._save)
        self.refresh()

    def _arranged(self) -> list[widgets.Widget]:
        controls, state = self.controls, self.controls.state
        play = widgets.Play(min=1, max=state.max, value=state.value, interval=1500, tooltip="play the states")
        widgets.jslink((play, "value"), (state, "value"))
        rows = (
            [controls.view],
            [play, state, controls.method, *([controls.run] if len(self.all_outcomes) > 1 else [])],
            [controls.score_kind, controls.top, controls.by_origin, controls.class_name],
        )
        lines = [widgets.HBox(row, layout={"flex_flow": "row wrap", "align_items": "flex-end"}) for row in rows]
        saving, note = widgets.HBox([self.save, self.links]), widgets.HTML(_left_out_html(self.all_outcomes))
        return [widgets.HTML(STYLE), *lines, self.what_if, self.status, self.figure, self.numbers, saving, note]

    @property
    def choice(self) -> Choice:
        """What the controls say. Raises InputError for a class that can't be told."""
        label = find_class(self.controls.class_name.value, self.all_outcomes[0].titles)
        exponents = Exponents(*(slider.value for slider in self.sliders))
        names = ("state", "method", "score_kind", "top", "by_origin")
        chosen = {name: getattr(self.controls, name).value for name in names}
        return Choice(**chosen, label=label, exponents=exponents)

    def refresh(self, change: object = None) -> None:
        """Show what the controls say."""
        name, self._work = self.controls.view.value, 0
        self.what_if.layout.display = "" if name == "what if" else "none"
        self.links.value = ""
        try:
            self._show(name, self.choice)
        except InputError as error:
            self.shown, self.figure.value, self.numbers.value = {}, "", ""
            self._say(str(error))

    def _show(self, view: str, choice: Choice) -> None:
        runs = [shown for shown in self.all_outcomes if self.controls.run.value in (shown.label, SIDE_BY_SIDE)]
        self.shown = {outcomes.label: VIEWS[view](outcomes, choice) for outcomes in runs}
        self.figure.value = f'<div class="il2m">{page_svg(self.shown)}</div>'
        self.numbers.value = numbers_html(self.shown)
        notes = []
        if (kind := kind_for(choice.method, choice.score_kind)) != choice.score_kind:
            notes.append(f"{choice.method} is defined on {kind} scores: these are shown.")
        method = "IL2M" if view == "what if" else choice.method  # the what-if factors are Eq. 1's
        asked = choice.state, method, kind_for(method, choice.score_kind)
        every = ((outcomes.label, outcomes.undefined_note(*asked)) for outcomes in runs)
        notes += [f"{label}: {note}" for label, note in every if note]
        self._say(" ".join(notes))

    def _on_work(self, work: int) -> None:
        self._work += work
        if self._work > LARGE:
            self._say("Computing ...")

    def _say(self, text: str) -> None:
        self.status.value = f'<div class="il2m" role="status">{html.escape(text)}</div>'

    def _reset(self, button: object = None) -> None:
        for slider in self.sliders:
            slider.value = 1.0

    def _save(self, button: object = None) -> None:
        name = f"{self.controls.view.value}-{self.controls.method.value}-state-{self.controls.state.value}"
        self.links.value = save_links(self.shown, name.replace(" ", "-")) if self.shown else ""


def make_controls(all_outcomes: Sequence[RunOutcomes]) -> SimpleNamespace:
    """The controls that change what is shown, by name; each has a ``value``."""
    choice, titles = first_choice(all_outcomes), all_outcomes[0].titles
    wide, hint = {"style": {"description_width": "initial"}}, "name or number"
    left_out = {method for outcomes in all_outcomes for method in outcomes.left_out}
    methods = [(METHODS[name].label, name) for name in all_outcomes[0].methods if name not in left_out]
    buttons = partial(widgets.ToggleButtons, style={"button_width": "auto", "description_width": "initial"})
    exponent = partial(widgets.FloatSlider, value=1.0, min=0.0, max=2.0, step=0.05, layout={"width": "340px"}, **wide)
    return SimpleNamespace(
        view=buttons(options=list(VIEWS), description="View"),
        state=widgets.IntSlider(value=choice.state, min=1, max=choice.state, description="State", **wide),
        method=widgets.Dropdown(options=methods, value=choice.method, description="Method", **wide),
        run=buttons(options=[SIDE_BY_SIDE, *(outcomes.label for outcomes in all_outcomes)], description="Run"),
        score_kind=buttons(options=["raw", "softmax"], description="Scores"),
        top=buttons(options={"top-1": 1, "top-5": 5}, description="Accuracy"),
        by_origin=buttons(options={"together": False, "by state": True}, description="Past classes"),
        class_name=widgets.Combobox(value=titles[0], options=titles, description="Class", placeholder=hint, **wide),
        means=exponent(description="Class means, exponent"),
        confidence=exponent(description="Confidence, exponent"),
        gate=exponent(description="Gate", max=1.0),
    )


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


def _left_out_html(all_outcomes: Sequence[RunOutcomes]) -> str:
    """The methods that some run can't give, each with the first such run's reason."""
    left_out = {method: (runs, why) for runs in reversed(all_outcomes) for method, why in runs.left_out.items()}
    told = [f"<li>{html.escape(f'{method}: {runs.label}: {why}')}</li>" for method, (runs, why) in left_out.items()]
    summary = f"<summary>{len(told)} method(s) left out</summary>"
    return f'<details class="il2m">{summary}<ul>{"".join(told)}</ul></details>' if told else ""
