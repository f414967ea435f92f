"""Fixtures of scores in the authors' layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import TinyStudy

from il2m.exchange.exporting import export_scores
from il2m.exchange.score_files import AuthorsFiles


@pytest.fixture(scope="module")
def exported(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> AuthorsFiles:
    return export_scores(tiny_study.off, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def files(exported: AuthorsFiles, tmp_path: Path) -> AuthorsFiles:
    """A copy to damage: 3 states of 2 classes, K = 12."""
    shutil.copytree(exported.lists.parent, tmp_path / "copy")
    roots = (tmp_path / "copy" / root.name for root in (exported.lists, exported.scores, exported.first_scores))
    return AuthorsFiles(*roots, exported.dataset, exported.states, exported.memory_size)
