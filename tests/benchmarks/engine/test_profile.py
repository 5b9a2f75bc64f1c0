"""Shares of time by kind of work."""

from __future__ import annotations

import pytest
import torch

from benchmarks.engine.profile import KINDS, OTHER, PYTHON, kind_of, shares


def test_each_operation_has_one_kind() -> None:
    names = {
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "mkldnn::_linear_pointwise": "matrix products",
        "aten::gelu_backward": "activations, norms, dropout",
        "aten::embedding_dense_backward": "embeddings",
        "aten::_fused_adamw_": "optimizer",
        "aten::index_select": "copies",
        "aten::sub": OTHER,
    }
    assert {name: kind_of(name) for name in names} == names


def test_shares_add_up() -> None:
    matrix = torch.randn(256, 256)
    seconds, of = shares(lambda: [matrix @ matrix for _ in range(20)])
    assert seconds > 0
    assert list(of) == [*KINDS, OTHER, PYTHON]
    assert sum(of.values()) == pytest.approx(1)
    assert of["matrix products"] > 0
    assert of["attention"] == 0
