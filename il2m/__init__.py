"""il2m: a study of class-incremental learning with dual memory (Belouadah and Popescu, ICCV 2019).
What a notebook needs, each from the room where it lives, imported when it is first asked for."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_ROOMS = {
    "il2m.errors": ("InputError",),
    "il2m.data.dataset": ("Dataset",),
    "il2m.data.sources": ("load_dataset", "register_dataset"),
    "il2m.learning.networks": ("register_network",),
    "il2m.study.find": ("find_runs", "open_run"),
    "il2m.study.stages": ("fine_tune", "train_base", "train_joint"),
    "il2m.methods.frozen": ("Frozen",),
    "il2m.methods.rectify": ("rectify",),
    "il2m.methods.registry": ("METHODS", "method", "method_scores"),
    "il2m.results.table": ("evaluate", "results_table"),
    "il2m.results.comparison": ("compare_methods",),
    "il2m.explorer.explore": ("bias_explorer",),
    "il2m.exchange.importing": ("import_scores",),
    "il2m.exchange.recorder": ("StateRecorder",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = ["__version__", *sorted(_ROOM_OF)]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'il2m' has no attribute {name!r}")
    return getattr(import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
