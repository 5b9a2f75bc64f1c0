"""Attention in buckets against attention text by text with an explicit mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import attention
from lit_metric.encoders.attention import (
    FULL,
    PackedMask,
    PackingError,
    bucket_attention,
    packed,
    packed_attention,
    varlen_attention,
)
from lit_metric.encoders.layout import Layout
from tests.encoders.gradients import assert_equal_with_gradients

LENGTHS = torch.tensor([5, 1, 12, 0, 3, 12, 7, 2])

PATTERNS = {
    "full": (bidirectional_mask_function, lambda i, j: True),
    "causal": (causal_mask_function, lambda i, j: j <= i),
    "window": (sliding_window_bidirectional_mask_function(2), lambda i, j: abs(i - j) <= 2),
    "wide window": (sliding_window_bidirectional_mask_function(40), lambda i, j: True),
    "causal window": (sliding_window_causal_mask_function(3), lambda i, j: i - 3 < j <= i),
    "chunks": (
        chunked_causal_mask_function(4, torch.zeros(1).long()),
        lambda i, j: j <= i and i // 4 == j // 4,
    ),
}


def layout() -> Layout:
    return Layout.of(Ragged.from_lengths(torch.zeros(int(LENGTHS.sum())), LENGTHS), max_buckets=3)


def heads(seed: int = 0, key_heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    total = int(LENGTHS.sum())
    return [
        torch.randn(total, count, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (4, key_heads, key_heads)
    ]


def naive(query: Tensor, key: Tensor, value: Tensor, sees: object, scaling: float) -> Tensor:
    """Softmax of the scores of each text, one head at a time."""
    group = query.shape[1] // key.shape[1]
    texts, start = [], 0
    for length in LENGTHS.tolist():
        rows = slice(start, start + length)
        start += length
        hidden = torch.tensor([[not sees(i, j) for j in range(length)] for i in range(length)])  # type: ignore[operator]
        one_text = []
        for head in range(query.shape[1]):
            scores = query[rows, head] @ key[rows, head // group].T * scaling
            if length:
                scores = scores.masked_fill(hidden, -math.inf)
            one_text.append(scores.softmax(1) @ value[rows, head // group])
        texts.append(torch.stack(one_text, 1))
    return torch.cat(texts)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_buckets_equal_text_by_text(pattern: str, scaling: float | None, key_heads: int) -> None:
    function, sees = PATTERNS[pattern]
    given = heads(key_heads=key_heads)
    found = PackedMask.read(layout(), function, "cpu").attend(given, 0.0, scaling)
    expected = naive(*given, sees, scaling or 6**-0.5)
    assert_equal_with_gradients(found, expected, given)


@pytest.mark.parametrize(
    ("pattern", "band", "grid"),
    [
        ("full", (-1, -1), False),
        ("causal", (-1, 0), False),
        ("window", (2, 2), True),
        ("wide window", (-1, -1), False),
        ("causal window", (2, 0), True),
        ("chunks", None, True),
    ],
)
def test_patterns_are_recognised(pattern: str, band: tuple[int, int] | None, grid: bool) -> None:
    mask = PackedMask.read(layout(), PATTERNS[pattern][0], "cpu")
    assert mask.band == band
    assert (mask.grid is not None) == grid


def test_short_buckets_of_a_window_need_no_mask() -> None:
    mask = PackedMask.read(layout(), sliding_window_bidirectional_mask_function(4), "cpu")
    assert mask.band == (4, 4)
    allowed = {bucket.length: mask.of_bucket(bucket)[0] for bucket in layout().buckets}
    assert sorted(allowed) == [3, 7, 12]
    assert [None if mask is None else mask.shape[2] for _, mask in sorted(allowed.items())] == [1, 7, 12]


def test_padding_that_sees_nothing_makes_no_nan() -> None:
    """A window narrower than the padding leaves padded rows without any real token to look at."""
    lengths = torch.tensor([2, 12])
    narrow = Layout.of(Ragged.from_lengths(torch.zeros(14), lengths), max_buckets=1)
    given = [torch.randn(14, 2, 4, requires_grad=True) for _ in range(3)]
    out = PackedMask.read(narrow, sliding_window_bidirectional_mask_function(1), "cpu").attend(given)
    out.square().sum().backward()
    assert out.isfinite().all()
    for states in given:
        assert states.grad is not None
        assert states.grad.isfinite().all()


def test_dropout_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    texts = Ragged.from_lengths(torch.zeros(8000), torch.full((2000,), 4))
    one = [torch.randn(4, 2, 3) for _ in range(3)]
    given = [states.repeat(2000, 1, 1) for states in one]
    mask = PackedMask(Layout.of(texts), FULL, None)
    dropped = mask.attend(given, dropout=0.3).view(2000, 4, 2, 3)
    expected = mask.attend(given).view(2000, 4, 2, 3)
    assert not torch.allclose(dropped[0], dropped[1])
    torch.testing.assert_close(dropped.mean(0), expected[0], atol=0.1, rtol=0)


def test_what_changes_attention_is_refused() -> None:
    states = torch.zeros(1, 2, int(LENGTHS.sum()), 4)
    mask, layer = PackedMask(layout(), FULL, None), nn.Identity()
    with pytest.raises(PackingError, match="softcap"):
        packed_attention(layer, states, states, states, mask, softcap=30.0)
    with pytest.raises(PackingError, match="position_bias"):
        packed_attention(layer, states, states, states, mask, position_bias=states)
    with pytest.raises(PackingError, match="output_attentions"):
        packed_attention(layer, states, states, states, mask, output_attentions=True)
    with pytest.raises(PackingError, match="tokens"):
        packed_attention(layer, states[:, :, 1:], states, states, mask)
    with packed(layout()), pytest.raises(PackingError, match="its own mask"):
        packed_attention(layer, states, states, states, torch.ones(1, 1, 4, 4))
    # what is None or says nothing new is fine
    packed_attention(layer, states, states, states, mask, softcap=None, is_causal=False, sliding_window=3)


def test_the_kernel_is_for_half_precision_on_cuda_only() -> None:
    given = [states.detach().bfloat16() for states in heads()]
    mask = PackedMask(layout(), FULL, None)
    assert varlen_attention(given, mask, 0.0, None) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(attention.varlen_attn is None, reason="this PyTorch has no variable-length attention")
@pytest.mark.parametrize("pattern", ["full", "causal", "window", "causal window"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_kernel_equals_the_buckets(pattern: str, key_heads: int) -> None:
    lengths = torch.tensor([5, 1, 300, 0, 17, 64])
    texts = Ragged.from_lengths(torch.zeros(int(lengths.sum())), lengths).to("cuda")
    mask = PackedMask.read(Layout.of(texts), PATTERNS[pattern][0], "cuda")
    torch.manual_seed(0)
    given = [
        torch.randn(len(texts.values), count, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for count in (4, key_heads, key_heads)
    ]
    found = varlen_attention(given, mask, 0.0, None)
    assert found is not None
    expected = mask.attend([states.float() for states in given])
    assert (found.float() - expected).norm() < 0.01 * expected.norm()
    weights = torch.randn_like(expected)
    for mine, reference in zip(
        torch.autograd.grad((found.float() * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        assert (mine - reference).float().norm() < 0.02 * reference.float().norm()


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    given, mask = [states.detach() for states in heads()], PackedMask(layout(), FULL, None)
    monkeypatch.setattr(attention, "_kernel", lambda heads, mask, scaling: heads[0])
    assert not attention._kernel_agrees(given, mask, None)

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(attention, "_kernel", broken)
    assert not attention._kernel_agrees(given, mask, None)
    monkeypatch.setattr(attention, "_kernel", lambda heads, mask, scaling: mask.attend(heads, 0.0, scaling))
    assert attention._kernel_agrees(given, mask, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("added", [False, True])
def test_half_precision_on_a_cpu_is_attended_to_in_float32(dtype: torch.dtype, added: bool) -> None:
    given = [states.detach().to(dtype).requires_grad_() for states in heads()]
    masks = [
        (torch.linspace(0, 1, bucket.length, dtype=dtype).expand(bucket.rows, 1, 1, -1), False)
        if added
        else (None, False)
        for bucket in layout().buckets
    ]
    with torch.autocast("cpu", dtype):
        found = bucket_attention(given, layout(), masks)
    exact = [states.detach().float().requires_grad_() for states in given]
    wide = [(None if mask is None else mask.float(), causal) for mask, causal in masks]
    wanted = bucket_attention(exact, layout(), wide)
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found.backward(slope)
    wanted.backward(slope.float())
    for mine, other in zip(given, exact, strict=True):
        assert torch.equal(mine.grad, other.grad.to(dtype))


@pytest.mark.parametrize(
    "lengths", [[5] * 7, [1, 2, 16, 7, 3, 3, 1, 9, 30], [1], [16, 16, 16], [4, 3, 17, 40]]
)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_short_texts_that_share_a_row_do_not_see_each_other(lengths: list[int], key_heads: int) -> None:
    texts = Ragged.from_lengths(torch.arange(sum(lengths)), torch.tensor(lengths))
    torch.manual_seed(0)
    given = [torch.randn(sum(lengths), count, 8).bfloat16() for count in (4, key_heads, key_heads)]
    layout = Layout.of(texts, max_buckets=3)
    with torch.no_grad():
        found = PackedMask(layout, FULL, None).attend(given)
        parts = [states.float().split(lengths) for states in given]
        for number, (query, key, value) in enumerate(zip(*parts, strict=True)):
            key, value = (each.repeat_interleave(4 // key_heads, 1) for each in (key, value))
            weights = torch.einsum("qhd,khd->hqk", query, key).mul(8**-0.5).softmax(-1)
            expected = torch.einsum("hqk,khd->qhd", weights, value)
            rows = found[texts.offsets[number] : texts.offsets[number + 1]]
            torch.testing.assert_close(rows.float(), expected, rtol=0, atol=0.03)
