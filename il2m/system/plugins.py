"""Plugins: a user's Python files (paths that end in ``.py``) and modules that register methods, networks, data sets."""

import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from il2m.errors import InputError
from il2m.system.hashes import file_hash, short_hash

LOADED: dict[str, ModuleType] = {}  # by the names under which processes in any folder find them


def resolved(plugin: str) -> str:
    """The name by which processes in any folder know it: of a file its absolute path."""
    return os.path.abspath(os.path.expanduser(plugin)) if plugin.endswith(".py") else plugin


def load_plugin(plugin: str) -> ModuleType:
    """Import a plugin, once in a process. Raises InputError in one line if it isn't there, or fails."""
    files, name = _files(plugin), plugin
    try:
        if plugin.endswith(".py"):
            name = f"il2m_plugin_{re.sub(r'[^0-9A-Za-z]', '_', files[0].stem)}_{short_hash(str(files[0]))}"
        if name not in sys.modules and name != plugin:
            code = compile(files[0].read_bytes(), files[0], "exec", dont_inherit=True)  # not from a .pyc of before
            sys.modules[name] = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, files[0]))
            exec(code, vars(sys.modules[name]))
        LOADED[resolved(plugin)] = importlib.import_module(name)
        return LOADED[resolved(plugin)]
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        places += [(error.filename, error.lineno)] if isinstance(error, SyntaxError) else []
        places = [(file, line) for file, line in places if file and Path(file) in files]
        where = "".join(f", line {line}" + f" of {file}" * (len(files) > 1) for file, line in places[-1:])
        raise InputError(f"plugin {plugin}{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def plugin_hash(plugin: str) -> str:
    """Hash of a plugin's source; of a package, of all its Python files. Raises InputError if it isn't there."""
    try:
        hashes = [file_hash(file) for file in _files(plugin)]
    except (OSError, ValueError) as error:  # ValueError: of a name that no file can have
        raise InputError(f"plugin {plugin}: {getattr(error, 'strerror', error)}") from None
    return hashes[0] if len(hashes) == 1 else short_hash(hashes)


def _files(plugin: str) -> list[Path]:
    if plugin.endswith(".py"):
        return [Path(resolved(plugin))]
    try:
        spec = importlib.util.find_spec(plugin)  # imports the packages around it
        folders = spec.submodule_search_locations or []
        return sorted(file for folder in folders for file in Path(folder).rglob("*.py")) or [Path(spec.origin)]
    except Exception:  # of whatever type: load_plugin says why
        return [Path(plugin)]
