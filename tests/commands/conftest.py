"""Models to use from the command line, and rows to use them on."""

from __future__ import annotations

import pytest

from lit_metric import SetEncoder, TextEncoder, TwoTowerEncoder
from tests.small import Small


@pytest.fixture(scope="module")
def texts(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, str]:
    """An encoder of texts and where it is saved."""
    folder = tmp_path_factory.mktemp("texts")
    encoder = TextEncoder(small / "backbone", projection=8)
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def sets(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[SetEncoder, str]:
    """An encoder of sets and where it is saved."""
    folder = tmp_path_factory.mktemp("sets")
    encoder = SetEncoder(TextEncoder(small / "backbone"))
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def prompted(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, str]:
    """One encoder with a prompt for each role, and where it is saved."""
    folder = tmp_path_factory.mktemp("prompted")
    prompts = {"query": "w40 w41 ", "passage": "w42 "}
    encoder = TextEncoder(small / "backbone", prompts=prompts, pool_prompt=False)
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def towers(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoTowerEncoder, str]:
    """A tower of sets of tags for queries, one of texts for documents, and where they are saved."""
    folder = tmp_path_factory.mktemp("towers")
    document = TextEncoder(small / "backbone", prompts={"document": "w42 "})
    encoder = TwoTowerEncoder(SetEncoder(TextEncoder(small / "backbone")), document)
    encoder.save(folder)
    return encoder, str(folder)
