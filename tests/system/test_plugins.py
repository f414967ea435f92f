"""Plugins: found, loaded once, hashed, and what is told of those that can't be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from il2m.errors import InputError
from il2m.system.hashes import file_hash
from il2m.system.plugins import load_plugin, plugin_hash, resolved


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def run(code: str, folder: Path, *plugins: str) -> str:
    """What a fresh process in ``folder`` prints."""
    command = [sys.executable, "-c", f"from il2m.system.plugins import *\nimport sys\n{code}", *plugins]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_file_is_loaded_once_under_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counted = "import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\n"
    one, two = write(tmp_path / "a" / "same name.py", counted), write(tmp_path / "b" / "same name.py", counted)
    try:
        module = load_plugin(one)
        assert load_plugin(one) is module
        monkeypatch.chdir(tmp_path / "a")
        assert load_plugin("same name.py") is module
        assert load_plugin(two) is not module
        assert sys.loads == 2
    finally:
        del sys.loads
    assert module.__file__ == one
    assert sys.modules[module.__name__] is module
    printed = run("print(load_plugin(sys.argv[1]).__name__)", tmp_path, one)
    assert printed == f"{module.__name__}\n"  # the same in every process


def test_classes_of_a_plugin_can_be_pickled_and_annotations_are_as_in_any_file(tmp_path: Path):
    text = "import dataclasses\n@dataclasses.dataclass\nclass Thing:\n    size: int = 3\n"
    plugin = write(tmp_path / "p.py", text)
    printed = run(
        "import pickle\nThing = load_plugin(sys.argv[1]).Thing\n"
        "print(pickle.loads(pickle.dumps(Thing(4))), Thing.__annotations__)",
        tmp_path,
        plugin,
    )
    assert printed == "Thing(size=4) {'size': <class 'int'>}\n"


def test_a_changed_file_is_another_version_however_soon(tmp_path: Path):
    plugin = write(tmp_path / "p.py", "print('one')")
    before = plugin_hash(plugin)
    assert before == file_hash(Path(plugin))
    assert run("load_plugin(sys.argv[1])", tmp_path, plugin) == "one\n"
    write(tmp_path / "p.py", "print('two')")
    assert plugin_hash(plugin) != before
    assert run("load_plugin(sys.argv[1])", tmp_path, plugin) == "two\n"


def test_a_module_is_imported_by_its_name_and_a_package_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "il2m_test_package" / "__init__.py", "")
    write(tmp_path / "il2m_test_package" / "part.py", "value = 3")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_plugin("il2m_test_package.part").value == 3
    assert plugin_hash("il2m_test_package.part") == file_hash(tmp_path / "il2m_test_package" / "part.py")
    before = plugin_hash("il2m_test_package")
    write(tmp_path / "il2m_test_package" / "part.py", "value = 4")
    assert plugin_hash("il2m_test_package") != before
    assert resolved("il2m_test_package") == "il2m_test_package"


def test_a_file_is_known_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("p.py") == str(tmp_path / "p.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef f():\n    raise ValueError('no\\nway')\nf()", ", line 3: ValueError: no way"),
        ("x = 1\ny = = 2", ", line 2: SyntaxError: invalid syntax"),
        ("x = '\\0'\nimport no_such_module", ", line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import json\njson.loads('{')", ", line 2: JSONDecodeError: "),
        ("import sys\nsys.exit('enough')", ", line 2: SystemExit: enough"),
        ("from il2m.errors import InputError\nraise InputError('taken')", ", line 2: InputError: taken"),
    ],
)
def test_a_plugin_that_fails_is_told_with_its_line(tmp_path: Path, text: str, expected: str):
    plugin = write(tmp_path / "bad.py", text)
    for _ in range(2):  # it is not taken for loaded
        with pytest.raises(InputError, match=re.escape(f"plugin {plugin}{expected}")) as error:
            load_plugin(plugin)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("plugin", ["none.py", "il2m_no_such_module", "il2m_no.such", "", ".relative", "folder"])
def test_a_plugin_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str):
    monkeypatch.chdir(tmp_path)
    for function in (load_plugin, plugin_hash):
        with pytest.raises(InputError, match=f"^plugin {re.escape(plugin)}: ") as error:
            function(plugin)
        assert "\n" not in str(error.value)


def test_a_package_that_fails_is_told_with_the_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "il2m_test_broken" / "__init__.py", "from il2m_test_broken import part")
    part = write(tmp_path / "il2m_test_broken" / "part.py", "x = 1\nx / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"plugin il2m_test_broken, line 2 of {part}: ZeroDivisionError")):
        load_plugin("il2m_test_broken")
