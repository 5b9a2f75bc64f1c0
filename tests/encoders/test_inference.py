"""Encoding without gradient on a CPU: in pieces, and in bfloat16 from a copy of the model."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import Backbone, TextEncoder, inference
from lit_metric.encoders.inference import HalfCopy, PackedLinear, half_copy, pieces, reentrant, run_pieces
from lit_metric.encoders.tokenizer import TextTokenizer
from tests.encoders.models import PACKABLE, PADDED, UNPADDED, make
from tests.encoders.sentences import SENTENCES
from tests.encoders.tokens import word_tokenizer

in_hardware = pytest.mark.skipif(
    not bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()), reason="needs a processor with bfloat16"
)


def backbone(family: str) -> Backbone:
    model = make(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.2)  # as small as in trained models, so that rounding stays small
    return Backbone(model, TextTokenizer(word_tokenizer(), 64), name=family)


def some_texts(count: int = 40) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 12, (count,), generator=generator)
    return Ragged.from_lengths(torch.randint(4, 60, (int(lengths.sum()),), generator=generator), lengths)


@torch.no_grad()
def half_states(backbone: Backbone, tokens: Ragged) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return backbone(tokens).values.float()


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("longest", [2, 9, 3000])
def test_pieces_hold_all_texts_in_order(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "TOKENS_AT_ONCE", 128)
    lengths = torch.randint(0, longest, (700,), generator=torch.Generator().manual_seed(1))
    tokens = Ragged.from_lengths(torch.arange(int(lengths.sum())), lengths)
    parts = pieces(tokens, threads=4)
    assert [row for part in parts for row in part.tolist()] == tokens.tolist()
    assert (len(parts) > 1) == (len(tokens.values) > 512)
    # A piece goes on for at most one text behind the limit.
    assert all(len(part.values) < 1024 + longest for part in parts)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "fnet"])
def test_pieces_change_no_states(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = some_texts(), backbone(family)
    expected = model(tokens).values  # with gradient, so in one piece
    monkeypatch.setattr(inference, "TOKENS_AT_ONCE", 16)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).values, expected, rtol=0, atol=2e-5)
        assert model(Ragged.from_lists([])).values.shape == (0, 32)
        assert model(Ragged.from_lists([[], []])).values.shape == (0, 32)


@pytest.fixture
def threads() -> Iterator[int]:
    """Of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", PACKABLE)
def test_pieces_run_at_once(family: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = some_texts(400), backbone(family)
    expected = model(tokens).values
    monkeypatch.setattr(inference, "TOKENS_AT_ONCE", 16)
    with torch.inference_mode():
        found = model(tokens).values
    assert found.is_inference()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert reentrant(model.model) == (type(model.model).__module__.startswith("transformers."))


def test_threads_of_pieces_share_those_of_pytorch(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "TOKENS_AT_ONCE", 1)
    monkeypatch.setattr(inference, "MOST_PIECES", 2)
    seen: dict[int, tuple[int, bool, bool]] = {}
    both = threading.Barrier(2)

    def work(part: Ragged) -> Tensor:
        seen[threading.get_ident()] = (
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )
        both.wait(timeout=60)
        return part.values[:, None].float()

    tokens = Ragged.from_lists([[each] * 2 for each in range(6)])
    with torch.no_grad():
        assert run_pieces(work, tokens, at_once=True).flatten().tolist() == tokens.values.tolist()
    assert [*seen.values()] == [(2, False, False)] * 2
    assert threading.get_ident() not in seen
    assert torch.get_num_threads() == threads
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [threads]


def test_a_model_that_changes_itself_runs_one_piece_after_the_other() -> None:
    model = make("qwen3")
    assert reentrant(model)
    next(each for each in model.modules() if hasattr(each, "rope_type")).rope_type = "dynamic"
    assert not reentrant(model)


@in_hardware
@pytest.mark.parametrize("family", [*PACKABLE, *PADDED, *UNPADDED])
def test_half_precision_is_close_in_every_family(family: str) -> None:
    tokens, model = some_texts(), backbone(family)
    expected = model(tokens).values.detach()
    assert apart(half_states(model, tokens), expected) < 0.05
    assert model.rounded._refused == (family == "fnet")  # which has no Fourier transform in bfloat16


@in_hardware
def test_the_copy_follows_the_weights() -> None:
    tokens, model = some_texts(), backbone("bert")
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(tokens).values.requires_grad
    assert model.rounded._made is None
    before = half_states(model, tokens)
    used = model.rounded._made
    assert used is not None
    assert torch.equal(half_states(model, tokens), before)
    assert model.rounded._made is used
    assert set(model.state_dict()) == set(backbone("bert").state_dict())
    other = make("bert", hidden_act="gelu")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.1)
        for parameter, value in zip(model.model.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)
        expected = model(tokens).values
    assert apart(half_states(model, tokens), expected) < 0.05
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.data.mul_(1.5)  # which counts as no new version
        expected = model(tokens).values
    assert apart(half_states(model, tokens), expected) < 0.05


@in_hardware
def test_a_copy_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = some_texts(), backbone("bert")
    expected = model(tokens).values.detach()

    def wrong(given: nn.Module) -> nn.Module:
        half = half_copy(given)  # type: ignore[arg-type]
        half.encoder.layer[-1].output.LayerNorm.weight.mul_(2)  # type: ignore[union-attr, operator, index]
        return half

    monkeypatch.setattr(inference, "half_copy", wrong)
    found = half_states(model, tokens)
    assert model.rounded._refused
    assert apart(found, expected) < 0.05


@in_hardware
def test_the_copy_follows_a_model_that_moves_and_loads() -> None:
    tokens, model = some_texts(), backbone("bert")
    before = half_states(model, tokens)
    larger = {name: 1.5 * value for name, value in model.state_dict().items()}
    model.load_state_dict(larger)
    after = half_states(model, tokens)
    assert apart(after, before) > 0.05
    model.double()
    half_states(model, tokens)
    model.float()
    assert torch.equal(half_states(model, tokens), after)
    model.load_state_dict({name: value / 1.5 for name, value in larger.items()}, assign=True)
    assert apart(half_states(model, tokens), before) < 0.01


@in_hardware
def test_threads_share_one_copy_and_none_uses_it_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = some_texts(), backbone("bert")
    expected = model(tokens).values.detach()
    made, together = [], threading.Barrier(4)

    def wrong(given: nn.Module) -> nn.Module:
        made.append(half_copy(given))  # type: ignore[arg-type]
        made[-1].encoder.layer[-1].output.LayerNorm.weight.mul_(2)  # type: ignore[union-attr, operator, index]
        return made[-1]

    def states(_: int) -> Tensor:
        together.wait(60)
        return half_states(model, tokens)

    monkeypatch.setattr(inference, "half_copy", wrong)
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(states, range(4))]
    assert len(made) == 1
    assert max(apart(each, expected) for each in found) < 0.05


@in_hardware
def test_the_copy_is_not_copied_along() -> None:
    tokens, model = some_texts(), backbone("bert")
    states = half_states(model, tokens)
    twin = copy.deepcopy(model)
    assert isinstance(twin.rounded, HalfCopy)
    assert twin.rounded._made is None
    assert torch.equal(half_states(twin, tokens), states)


@in_hardware
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias).bfloat16()
    states = torch.randn(1, 7, 24).bfloat16()
    with torch.no_grad():
        exact = F.linear(
            states.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float()
        )
        for found, expected in (
            (PackedLinear(layer)(states), exact),
            (PackedLinear(layer, gelu=True)(states), F.gelu(exact)),
        ):
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-7)


@in_hardware
def test_encoding_in_bfloat16_finds_the_same_neighbours(minilm: str) -> None:
    encoder = TextEncoder(minilm, max_length=64)
    texts = sorted({text for text in SENTENCES if text.strip()})
    exact, half = (
        torch.from_numpy(encoder.encode(texts, precision=each)) for each in ("float32", "bfloat16")
    )
    assert encoder.backbone.rounded._made is not None
    assert float((exact * half).sum(1).min()) > 0.998
    nearest = [(vectors @ vectors.T).fill_diagonal_(-1).argmax(1) for vectors in (exact, half)]
    assert float((nearest[0] == nearest[1]).float().mean()) > 0.95
