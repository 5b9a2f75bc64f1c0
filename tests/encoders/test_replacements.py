"""Strings replaced before tokenisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lit_metric import TextEncoder, export, load
from tests.encoders.conftest import MINILM

REPLACED = {"::": " ", "-": " "}


def test_texts_are_encoded_as_if_written_so_and_after_loading_too(tmp_path: Path) -> None:
    encoder = TextEncoder(MINILM, replacements=REPLACED)
    plain = TextEncoder(MINILM)
    expected = plain.encode(["works with text", "role program"])
    np.testing.assert_array_equal(encoder.encode(["works-with::text", "role::program"]), expected)
    assert not np.allclose(plain.encode(["works-with::text"])[0], expected[0], atol=1e-3)
    assert encoder.tokenizer.fingerprint != plain.tokenizer.fingerprint
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(
        load(tmp_path / "saved").encode(["works-with::text", "role::program"]), expected
    )
    export(encoder, tmp_path / "exported")
    np.testing.assert_allclose(
        load(tmp_path / "exported").encode(["works-with::text", "role::program"]), expected, atol=1e-6
    )


def test_the_empty_string_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="the empty string"):
        TextEncoder(MINILM, replacements={"": "x"})
