"""The explorer as one file to send around, see templates/: computed beforehand; its content policy lets nothing in."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from vl_convert import javascript_bundle

from il2m import __version__
from il2m.errors import InputError
from il2m.explorer.explore import open_outcomes
from il2m.explorer.outcomes import TOPS, Choice, Exponents, RunOutcomes
from il2m.explorer.views import EXPONENTS, VIEWS, accuracy
from il2m.memory.statistics import class_means
from il2m.methods.registry import METHODS
from il2m.results.description import run_description
from il2m.study.runs import Run
from il2m.system.files import write_atomically

GATES = (0, 1)
_OF_METHODS = ("label", "colour", "dash", "distances", "score_kinds")
_TEMPLATES = Path(__file__).parent / "templates"


def share(runs: Sequence[Run | str | Path], out: Path) -> Path:
    """Write the explorer of runs, given as to bias_explorer, as an HTML file that needs no network; returns its path.
    Replaces a page that it made. Raises InputError for any other ``out`` there is, and for runs as bias_explorer."""
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a file in it, for example {out / 'explorer.html'}")
    if out.exists() and '<meta name="generator" content="il2m ' not in out.read_text(errors="replace"):
        raise InputError(f"{out} is there, and was not made by il2m share: name another file, or delete it.")
    all_outcomes = open_outcomes(runs)
    first, study = all_outcomes[0], all_outcomes[0].run.folder.absolute().parent.name
    methods = [m for m in first.methods if not any(m in outcomes.left_out for outcomes in all_outcomes)]
    data = {"figures": {path.stem: json.loads(path.read_text()) for path in _TEMPLATES.glob("figures/*.json")}}
    data["methods"] = {method: {name: getattr(METHODS[method], name) for name in _OF_METHODS} for method in methods}
    data["classes"] = {"titles": first.titles, "origins": first.run.states.of_class}
    data["grid"] = {"exponents": EXPONENTS, "gates": GATES}
    data["runs"] = [_run_data(outcomes, methods) for outcomes in all_outcomes]
    about = {"study": study, "version": __version__, "made": datetime.now(UTC), "nonce": token_urlsafe()}
    as_json = pd.Series(data).to_json(double_precision=6).replace("<", r"\u003c")  # NaN becomes null
    vega = javascript_bundle().replace("</script", r"<\/script")  # with Vega-Lite and Vega-Embed
    page = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True).get_template("share.html.j2")
    write_atomically(out, page.render(about, data=as_json, vega=vega))
    return out


def _run_data(outcomes: RunOutcomes, methods: Sequence[str]) -> dict[str, Any]:
    """What the page shows of one run: by state each method's numbers, the second memory, and (from 2 on) what if."""
    run, states, data = outcomes.run, range(1, outcomes.num_states + 1), {}
    points = tuple(Exponents(*each) for each in product(EXPONENTS, EXPONENTS, GATES))  # means, confidence, gate
    of_il2m = () if "IL2M" in outcomes.left_out else states
    for view in ("true-class scores", "predictions", "states"):
        shown = {m: [VIEWS[view](outcomes, Choice(state, m)) for state in states] for m in methods}
        data[view] = {m: [(each.finding, each.numbers.to_dict("list")) for each in shown[m]] for m in methods}
    return data | {
        "label": outcomes.label,
        "about": run_description(run) | {"digests": run.digests, "left_out": outcomes.left_out},
        "accuracy": {k: accuracy(outcomes, Choice(states[-1], "FT", top=k)).numbers.to_dict("list") for k in TOPS},
        "own": {m: [_own_means(outcomes, state, m) for state in states] for m in methods},
        "notes": {m: [outcomes.undefined_note(state, m, "raw") for state in states] for m in methods},
        "memory": [vars(run.statistics(state)) for state in of_il2m],
        "what if": [outcomes.curves(state, points) for state in of_il2m[1:]],
    }


def _own_means(outcomes: RunOutcomes, state: int, method: str) -> np.ndarray:
    """Mean score of each class on its own validation images, (C,), where it is in play."""
    outcome = outcomes.outcome(state, method)
    in_play = np.isfinite(outcome.own)
    return class_means(outcome.own[in_play], outcome.labels[in_play], outcomes.run.states.num_seen(state))
