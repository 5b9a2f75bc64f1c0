"""Packing must give what a text gives on its own, in every family, and give way where it doesn't."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import create_position_ids_from_input_ids

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import packing
from lit_metric.encoders.attention import PACKED
from lit_metric.encoders.packing import (
    attention,
    max_positions,
    packed_forward,
    padded_forward,
    position_ids,
    probe,
    unpadded_forward,
)
from tests.encoders.models import PACKABLE, PADDED, UNPADDED, VOCABULARY, WINDOW, make

LENGTHS = [5, 1, 40, 3, 17, 5, 2 * WINDOW + 3, 1]


def texts(lengths: list[int] = LENGTHS, seed: int = 3) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (sum(lengths),), generator=generator)
    return Ragged.from_lengths(ids, torch.tensor(lengths))


def one_by_one(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    """Each text alone, without padding, by transformers' own attention: the reference."""
    # eager attention takes its softmax in float32 in some families, whatever the dtype of the model
    kind = "sdpa" if model.dtype == torch.float64 else "eager"
    with attention(model, kind) if model._can_set_attn_implementation() else nullcontext():
        rows = [tokens[row] for row in range(len(tokens)) if len(tokens[row])]
        states = [model(input_ids=row[None], attention_mask=torch.ones_like(row[None])) for row in rows]
    return torch.cat([state.last_hidden_state[0] for state in states])


def gradients(model: PreTrainedModel, states: Tensor) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states).sin()
    named = dict(model.named_parameters())
    found = torch.autograd.grad((states * weights).sum(), list(named.values()), allow_unused=True)
    return {name: slope for name, slope in zip(named, found, strict=True) if slope is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", PACKABLE)
def test_packed_equals_each_text_alone(family: str, dtype: torch.dtype) -> None:
    model = make(family, dtype=dtype)
    tokens = texts()
    expected = one_by_one(model, tokens)
    with attention(model, PACKED):
        found = packed_forward(model, tokens)
    # Gemma takes its norms in float32, whatever the dtype of the model
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6 if family == "gemma3_text" else 1e-10
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    slopes, reference = gradients(model, found), gradients(model, expected)
    assert slopes.keys() == reference.keys()
    size = torch.stack([slope.norm() for slope in reference.values()]).norm()
    for name, slope in slopes.items():
        assert (slope - reference[name]).norm() <= tolerance * size, name


@pytest.mark.parametrize("family", PACKABLE)
def test_the_probe_admits_what_packs(family: str) -> None:
    verdict = probe(make(family), max_length=64, special={0, 1, 2}, padding=1)
    assert verdict.reason == ""
    assert verdict.packed


def test_a_model_that_is_loaded_under_autocast_packs() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert probe(make("bert"), max_length=64, special={0, 1, 2}, padding=1).reason == ""


@pytest.mark.parametrize("family", PADDED)
def test_families_with_their_own_attention_fall_back(family: str) -> None:
    model = make(family)
    before = model.config._attn_implementation
    verdict = probe(model, max_length=64, special={0, 1, 2}, padding=1)
    assert not verdict.packed
    assert type(model).__name__ in verdict.reason
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", UNPADDED)
@pytest.mark.parametrize("limit", [24, 64])
def test_families_that_padding_changes_run_by_length(family: str, limit: int) -> None:
    model, tokens = make(family), texts([5, 1, 40, 3, 17, 5, 5, 1])
    verdict = probe(model, max_length=limit, special={0, 1, 2}, padding=0)
    assert verdict.way == "unpadded"
    assert "outputs differ" in verdict.unpadded
    expected = one_by_one(model, tokens)
    apart = (unpadded_forward(model, tokens) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(apart.max()) < 1e-4  # MobileBERT has no norms, and large states
    assert not torch.allclose(padded_forward(model, tokens, 0, groups=1), expected, atol=1e-2)
    assert unpadded_forward(model, texts([0, 0])).shape == (0, 32)


@pytest.mark.parametrize("family", UNPADDED)
def test_a_text_s_vector_doesn_t_depend_on_its_company(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lit_metric.encoders import TextEncoder
    from tests.encoders.tokens import model_folder

    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        encoder = TextEncoder(model_folder(tmp_path, family), max_length=40)
    assert "runs in batches of texts of one length, which is slow" in caplog.text
    several = ["w5", "w6 w7", "w8 " * 20, "w9 w10 w11", "w12 " * 35, "w13 w14 " * 9, "w15 w16"]
    together = encoder.encode(several)
    for text, vector in zip(several, together, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], vector, atol=1e-5, rtol=1e-5)


def test_texts_that_change_each_other_in_any_batch_are_refused(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertModel

    from lit_metric.encoders import TextEncoder

    right = BertModel.forward

    def mixing(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        output = right(self, *args, **kwargs)
        output.last_hidden_state = (
            output.last_hidden_state - output.last_hidden_state.mean(0, keepdim=True) / 2
        )
        return output

    monkeypatch.setattr(BertModel, "forward", mixing)
    with pytest.raises(ValueError, match="depends on the other texts of its batch, padded or not"):
        TextEncoder(tiny, packing="never")


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("family", [*PADDED, "bert", "mpnet", "roberta", "qwen3"])
def test_padded_equals_the_familys_own_padded_forward(family: str, groups: int) -> None:
    model, tokens = make(family), texts()
    padding = model.config.pad_token_id
    rows = [tokens[row] for row in range(len(tokens))]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    found = padded_forward(model, tokens, padding, groups)
    torch.testing.assert_close(found, states[mask.bool()], atol=2e-5, rtol=1e-5)


def test_a_window_that_is_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_metric.encoders.attention import FULL, PackedMask

    monkeypatch.setattr(PackedMask, "read", lambda layout, *_: PackedMask(layout, FULL, None))
    for family in ("modernbert", "mistral", "qwen3"):
        verdict = probe(make(family), max_length=64, special={0, 1, 2}, padding=0)
        assert not verdict.packed
        assert "outputs differ" in verdict.reason


def test_positions_that_count_from_zero_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "position_ids", lambda model, tokens: tokens.positions)
    for family in ("roberta", "mpnet"):
        assert "outputs differ" in probe(make(family), max_length=60, special={0, 1, 2}, padding=1).reason


def test_wrong_gradients_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_metric.encoders.layout import Collect

    right = Collect.backward
    monkeypatch.setattr(Collect, "backward", staticmethod(lambda ctx, g: tuple(right(ctx, g * 1.01))))
    verdict = probe(make("bert"), max_length=64, special={0, 1, 2}, padding=0)
    assert "gradients differ" in verdict.reason


def test_texts_without_tokens_are_left_out() -> None:
    tokens = texts([0, 4, 0, 0, 6, 0])
    for family in ("bert", "mpnet", "roberta", "qwen3"):
        model = make(family)
        expected = one_by_one(model, tokens)
        torch.testing.assert_close(padded_forward(model, tokens, 1), expected, atol=1e-5, rtol=1e-5)
        with attention(model, PACKED):
            torch.testing.assert_close(packed_forward(model, tokens), expected, atol=1e-5, rtol=1e-5)
            assert packed_forward(model, texts([0, 0])).shape == (0, 32)
        assert padded_forward(model, texts([0, 0]), 1).shape == (0, 32)


def test_the_probe_leaves_no_trace() -> None:
    model = make("bert", dropout=0.1)
    model.train()
    model.encoder.layer[0].eval()
    flags = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    probe(model, max_length=64, special=set(), padding=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert flags == [module.training for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"


def test_the_probe_names_parameters_that_nothing_depends_on() -> None:
    verdict = probe(make("bert"), max_length=64, special=set(), padding=0)
    assert verdict.unused == ("pooler.dense.weight", "pooler.dense.bias")
    assert probe(make("distilbert"), max_length=64, special=set(), padding=0).unused == ()


def test_the_probe_outgrows_the_window() -> None:
    lengths = packing.probe_texts(make("modernbert"), 512, set()).lengths.tolist()
    assert max(lengths) > 2 * WINDOW
    assert min(lengths) == 1
    assert max(packing.probe_texts(make("modernbert"), 9, set()).lengths.tolist()) == 9


def test_gradient_checkpointing_changes_nothing() -> None:
    model, tokens = make("modernbert"), texts()
    with attention(model, PACKED):
        expected = gradients(model, packed_forward(model, tokens))
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        found = gradients(model, packed_forward(model, tokens))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_outside_a_packed_forward_the_model_works_as_usual() -> None:
    model, tokens = make("bert"), texts([4, 4])
    ids = tokens.values.view(2, 4)
    expected = model(input_ids=ids).last_hidden_state
    with attention(model, PACKED):
        torch.testing.assert_close(model(input_ids=ids).last_hidden_state, expected)


def test_the_padded_path_says_why_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    from lit_metric.encoders import Backbone, TextTokenizer
    from tests.encoders.tokens import word_tokenizer

    tokenizer = TextTokenizer(word_tokenizer(), max_length=32)
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        backbone = Backbone(make("deberta-v2"), tokenizer, name="deberta-tiny")
    assert not backbone.packed
    assert len(caplog.records) == 1
    assert "deberta-tiny" in caplog.text
    assert "DebertaV2Model" in caplog.text
    with pytest.raises(ValueError, match="deberta-tiny can't be packed"):
        Backbone(make("deberta-v2"), tokenizer, "always", "deberta-tiny")
    with pytest.raises(ValueError, match="sometimes"):
        Backbone(make("bert"), tokenizer, "sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_positions_count_from_behind_the_padding_as_in_transformers(
    family: str,
) -> None:
    model = make(family)
    count = getattr(
        model.embeddings, "create_position_ids_from_input_ids", create_position_ids_from_input_ids
    )
    tokens = Ragged.from_lists([[7, 1, 8, 1, 9], [1, 6]])
    expected = [count(tokens[row][None], 1)[0] for row in range(len(tokens))]
    assert torch.equal(position_ids(model, tokens), torch.cat(expected))
    assert expected[0].tolist() == [2, 1, 3, 1, 4]


def test_positions_count_from_zero() -> None:
    assert position_ids(make("bert"), Ragged.from_lists([[7, 1, 8], [1, 6]])).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_the_limit_is_the_last_text_that_the_model_takes(family: str) -> None:
    model = make(family)
    limit = max_positions(model)
    assert limit == 64  # 66 rows in RoBERTa and MPNet, of which the first two belong to padding
    assert model(torch.full((1, limit), 7)).last_hidden_state.shape == (1, limit, 32)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 7))
