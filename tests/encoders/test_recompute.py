"""Gradients of recomputed batches are those of whole ones, and little is kept for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lit_metric.configurable import rebuilt
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import (
    AttentionPooling,
    Encoder,
    MeanPooling,
    SetEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.encoders import recompute as module
from lit_metric.encoders.description import check_rebuildable, describe
from lit_metric.encoders.recompute import in_chunks, length_chunks
from lit_metric.losses import InfoNCELoss
from tests.distributed import RankPool
from tests.encoders.models import make
from tests.encoders.tokens import model_folder, word_tokenizer

LENGTHS = (3, 1, 9, 0, 5, 5, 14, 2, 7, 4, 1, 6)
BUDGETS = (1, 11, 40)


def texts(count: int = len(LENGTHS), seed: int = 0) -> Ragged:
    """Texts of very different lengths, with their special tokens."""
    lengths = torch.tensor(LENGTHS).repeat(count // len(LENGTHS) + 1)[:count] + 2
    draw = torch.Generator().manual_seed(seed)
    return Ragged.from_lengths(torch.randint(4, 60, (int(lengths.sum()),), generator=draw), lengths)


def inputs(items: list[list[int]] | None = None, **more: Any) -> EncoderInput:
    tokens = texts()
    rows = [[row] for row in range(len(tokens))] if items is None else items
    return EncoderInput(tokens, Ragged.from_lists(rows), **more)


def build(folder: str, **options: Any) -> TextEncoder:
    """In training mode and float64; the same weights at every call."""
    torch.manual_seed(0)
    options = {"pooling": AttentionPooling(), "projection": 6, "hidden": 8, "dropout": 0.0, **options}
    encoder = TextEncoder(folder, **options).double().train()
    nn.init.normal_(encoder.pooling.query)  # type: ignore[arg-type]
    return encoder


def step(encoder: nn.Module, given: EncoderInput) -> tuple[Tensor, dict[str, Tensor]]:
    """Vectors, and gradients of a loss in which each vector meets all others."""
    encoder.zero_grad()
    vectors = encoder(given)
    half = len(vectors) // 2
    InfoNCELoss(0.2)(vectors[:half], vectors[half : 2 * half]).backward()
    found = {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}
    return vectors.detach(), {name: grad.clone() for name, grad in found.items()}


def assert_same(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


class Counted:
    """Counts the calls of a module's forward, and the texts in them."""

    def __init__(self, module: nn.Module) -> None:
        self.texts: list[int] = []
        forward: Callable[..., Any] = module.forward

        def counting(first: Any, *rest: Any) -> Any:
            self.texts.append(len(first))
            return forward(first, *rest)

        module.forward = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("freeze", [False, ["embeddings", "encoder.layer.0"], True])
def test_chunks_have_the_gradient_of_the_batch(tiny: str, freeze: Any, budget: int) -> None:
    expected = step(build(tiny, freeze=freeze), inputs())
    encoder = build(tiny, freeze=freeze, recompute="chunks", max_tokens_in_memory=budget)
    calls = Counted(encoder.backbone)
    assert_same(step(encoder, inputs()), expected)
    count = len([*length_chunks(texts().lengths, budget)])
    assert len(calls.texts) == 2 * count
    # in single precision, too
    encoder.float()
    single = step(encoder, inputs())
    assert single[0].dtype == torch.float32
    assert_same([x.double() for x in single[1].values()], [*expected[1].values()], 1e-4)


def test_text_ids_skipped_prompts_and_padding(tiny: str) -> None:
    more = {"text_ids": torch.arange(len(LENGTHS)), "skip": torch.tensor([0, 1, 2] * 4)}
    expected = step(build(tiny), inputs(**more))
    for packing in ("always", "never"):
        encoder = build(tiny, packing=packing, recompute="chunks", max_tokens_in_memory=20)
        assert_same(step(encoder, inputs(**more)), expected)


def test_a_batch_of_one_chunk_and_one_without_gradient_are_computed_once(tiny: str) -> None:
    plain = build(tiny)
    for budget, calls in ((int(texts().lengths.sum()), 1), (11, 9)):
        encoder = build(tiny, recompute="chunks", max_tokens_in_memory=budget)
        counted = Counted(encoder.backbone)
        with torch.no_grad():
            found = encoder(inputs())
        assert len(counted.texts) == calls
        assert_same(found, plain(inputs()))
    encoder = build(tiny, recompute="chunks")
    counted = Counted(encoder.backbone)
    found, expected = step(encoder, inputs()), step(plain, inputs())
    assert len(counted.texts) == 1
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][name], grad) for name, grad in expected[1].items())
    empty = EncoderInput.of_texts(Ragged.from_lists([]))
    assert encoder(empty).shape == (0, 6)


class Shifted(MeanPooling):
    """Two parameters whose gradients are one tensor."""

    def build(self, dimension: int) -> None:
        self.one, self.other = (nn.Parameter(torch.zeros(dimension)) for _ in range(2))

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        return super().forward(states, weights) + (self.one + self.other)


def test_parameters_that_share_a_gradient(tiny: str) -> None:
    expected = step(build_mean(tiny, pooling=Shifted()), inputs())
    encoder = build_mean(tiny, pooling=Shifted(), recompute="chunks", max_tokens_in_memory=11)
    assert_same(step(encoder, inputs()), expected)


def test_encode_gives_the_same_vectors(tiny: str) -> None:
    words = [" ".join(f"w{4 + place}" for place in range(length)) for length in LENGTHS]
    encoder = build_mean(tiny, recompute="chunks", max_tokens_in_memory=11)
    counted = Counted(encoder.backbone)
    assert_same(encoder.encode(words), build_mean(tiny).encode(words), 1e-6)
    assert len(counted.texts) == 9


def test_both_passes_see_the_same_dropout(tiny: str) -> None:
    options = {"dropout": 0.3, "recompute": "chunks", "max_tokens_in_memory": 11}
    encoder, plain = build(tiny, **options), build(tiny, dropout=0.3)
    torch.manual_seed(7)
    found = step(encoder, inputs())
    after = torch.rand(1)

    class OneByOne(nn.Module):
        """The chunks in their order, kept in memory."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = plain

        def forward(self, given: EncoderInput) -> Tensor:
            chunks = [*length_chunks(given.tokens.lengths, 11)]
            vectors = [self.encoder(EncoderInput.of_texts(given.tokens.select(rows))) for rows in chunks]
            return torch.cat(vectors)[torch.cat(chunks).argsort()]

    torch.manual_seed(7)
    vectors, gradients = step(OneByOne(), inputs())
    assert_same(found, (vectors, {name.removeprefix("encoder."): g for name, g in gradients.items()}))
    # The backward pass leaves the random state as it was.
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(8)
    assert not torch.allclose(step(encoder, inputs())[0], vectors)


def test_512_chunks_under_bfloat16_add_up_in_single_precision(tmp_path: Path) -> None:
    folder, tokens = str(tmp_path), EncoderInput.of_texts(texts(512))
    make("bert", num_hidden_layers=1).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)

    def gradient(half: bool, **options: Any) -> Tensor:
        encoder = build(folder, projection=None, hidden=None, **options).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            vectors = encoder(tokens)
        # Most gradients of a weight have one sign, as in a sum that half precision would lose.
        vectors.square().sum().backward()
        return torch.cat([each.grad.flatten() for each in encoder.parameters() if each.grad is not None])

    exact = gradient(False)
    errors = [
        float((gradient(True, **options) - exact).norm() / exact.norm())
        for options in ({}, {"recompute": "chunks", "max_tokens_in_memory": 1})
    ]
    assert 1e-4 < errors[0] < 0.02
    assert errors[1] < 1.2 * errors[0]


def test_gradients_of_bfloat16_weights_are_not_added_up_in_bfloat16() -> None:
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    vectors = in_chunks(lambda rows: weight.expand(len(rows), 2), torch.ones(512).long(), 1, [weight])
    vectors.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.tolist() == [512, 512]  # one by one, bfloat16 counts to 256


def test_vectors_are_all_that_is_kept(tiny: str) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def size(**options: Any) -> int:
        encoder, own = build(tiny, **options), set()
        own = {each.untyped_storage().data_ptr() for each in encoder.parameters()}
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoder.embed(EncoderInput.of_texts(tokens))
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}
        return sum(count for place, count in storages.items() if place not in own)

    tokens = texts(120)
    chunks = size(recompute="chunks", max_tokens_in_memory=50)
    assert chunks == 0
    layers, everything = size(recompute="layers"), size()
    assert layers < everything / 2


@pytest.mark.parametrize("tag_dropout", [0.0, 0.5])
def test_sets_of_tags(tiny: str, tag_dropout: float) -> None:
    items = [[0, 1], [2], [], [3, 2, 1, 0], [7, 8, 9, 10, 11], [2, 2, 3], [4, 5, 6], [1]]
    weights = torch.rand(sum(map(len, items)), generator=torch.Generator().manual_seed(0)) + 0.5

    def encoder(**options: Any) -> SetEncoder:
        text = build(tiny, **options)
        torch.manual_seed(1)
        return SetEncoder(text, projection=5, tag_dropout=tag_dropout).double().train()

    for given in (inputs(items), inputs(items, weights=weights)):
        chunked = encoder(recompute="chunks", max_tokens_in_memory=6)
        counted = Counted(chunked.pooling)
        torch.manual_seed(3)
        found = step(chunked, given)
        assert len(counted.texts) == 2 * len([*length_chunks(given.items.lengths, 6)])
        if tag_dropout == 0:
            assert_same(found, step(encoder(), given))
        else:  # both passes drop the same tags
            torch.manual_seed(3)
            assert_same(step(chunked, given), found)
            assert all(bool(grad.isfinite().all()) for grad in found[1].values())


def test_towers_each_in_their_own_way(tiny: str, tmp_path: Path) -> None:
    roles = torch.tensor([0, 1] * 6)
    other = model_folder(tmp_path, "modernbert")

    def towers(query: dict[str, Any], document: dict[str, Any]) -> Encoder:
        return TwoTowerEncoder(build(tiny, **query), build(other, **document)).train()

    expected = step(towers({}, {}), inputs(roles=roles))
    chunks = {"recompute": "chunks", "max_tokens_in_memory": 11}
    found = step(towers(chunks, {"recompute": "layers"}), inputs(roles=roles))
    assert_same(found, expected)


def test_a_frozen_backbone_encodes_each_text_once(tiny: str) -> None:
    options = {"pooling": None, "freeze": True}
    expected = step(build_mean(tiny, **options), inputs())
    given = inputs(text_ids=torch.arange(len(LENGTHS)))
    encoder = build_mean(tiny, **options, recompute="chunks", max_tokens_in_memory=11)
    counted = Counted(encoder.backbone)
    for _ in range(3):
        assert_same(step(encoder, given), expected)
    assert sum(counted.texts) == len(LENGTHS)
    assert len(counted.texts) == 9
    encoder = build_mean(tiny, **options, recompute="chunks", max_tokens_in_memory=11, cache_frozen=False)
    counted = Counted(encoder.backbone)
    assert_same(step(encoder, given), expected)
    assert sum(counted.texts) == len(LENGTHS)


def build_mean(folder: str, **options: Any) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(folder, projection=6, hidden=8, dropout=0.0, **options).double().train()


@pytest.mark.parametrize("family", ["modernbert", "qwen3", "gemma3_text", "deberta-v2", "convbert"])
def test_layers_of_many_families(family: str, tmp_path: Path) -> None:
    """Packed, causal, with windows, padded, and in batches of one length."""
    folder = model_folder(tmp_path, family)
    plain, encoder = build(folder), build(folder, recompute="layers")
    assert encoder.backbone.way == plain.backbone.way
    assert_same(step(encoder, inputs()), step(plain, inputs()))


def test_layers_are_computed_twice_and_frozen_ones_get_no_gradient(tiny: str) -> None:
    options = {"freeze": ["embeddings", "encoder.layer.0"], "dropout": 0.3}
    plain, encoder = build(tiny, **options), build(tiny, **options, recompute="layers")
    counted = Counted(encoder.backbone.model.encoder.layer[1].intermediate)
    torch.manual_seed(5)
    expected = step(plain, inputs())
    torch.manual_seed(5)
    assert_same(step(encoder, inputs()), expected)
    assert len(counted.texts) == 2
    states = encoder.backbone.model.embeddings(torch.tensor([[5, 6]]))
    assert not states.requires_grad
    encoder.eval()
    counted.texts.clear()
    with torch.no_grad():
        encoder(inputs())
    assert len(counted.texts) == 1


@pytest.mark.parametrize("family", ["albert", "mpnet"])
def test_models_without_checkpointing_take_chunks(family: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, family)
    with pytest.raises(ValueError, match=f"models of type {family}: take recompute: chunks"):
        TextEncoder(folder, recompute="layers")
    expected = step(build(folder), inputs())
    assert_same(step(build(folder, recompute="chunks", max_tokens_in_memory=11), inputs()), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recompute": "all"}, "'all'; choose one of none, chunks, layers"),
        ({"recompute": "chunks", "max_tokens_in_memory": 0}, "is 0; it has to be at least 1"),
        ({"max_tokens_in_memory": 4096}, "recompute is 'none', which has no chunks"),
        ({"recompute": "layers", "max_tokens_in_memory": 4096}, "recompute is 'layers'"),
    ],
)
def test_what_does_not_fit_is_refused(tiny: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoder(tiny, **options)


def test_saved_with_the_encoder(tiny: str, tmp_path: Path) -> None:
    encoder = build(tiny, recompute="chunks", max_tokens_in_memory=11).float()
    encoder.save(tmp_path / "saved")
    loaded = Encoder.load(tmp_path / "saved")
    assert isinstance(loaded, TextEncoder)
    assert (loaded.recompute, loaded.tokens_in_memory) == ("chunks", 11)
    # A folder of an earlier version has neither argument.
    written = json.loads((tmp_path / "saved" / "encoder.json").read_text())
    for name in ("recompute", "max_tokens_in_memory"):
        del written["init_args"][name]
    (tmp_path / "saved" / "encoder.json").write_text(json.dumps(written))
    loaded = Encoder.load(tmp_path / "saved")
    assert isinstance(loaded, TextEncoder)
    assert loaded.recompute == "none"


def test_described_in_yaml_and_without_weights(tiny: str) -> None:
    given = {"backbone": tiny, "recompute": "chunks", "max_tokens_in_memory": 11}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TextEncoder, "encoder")
    config = {"class_path": "lit_metric.encoders.TextEncoder", "init_args": given}
    parsed = parser.parse_object({"encoder": config})
    assert "recompute: chunks\n    max_tokens_in_memory: 11" in parser.dump(parsed)
    assert parser.instantiate_classes(parsed).encoder.tokens_in_memory == 11
    with pytest.raises(ArgumentError, match="'layer'"):
        parser.parse_object({"encoder": {**config, "init_args": {**given, "recompute": "layer"}}})
    for recompute in ("chunks", "layers"):
        encoder = TextEncoder(tiny, recompute=recompute)  # type: ignore[arg-type]
        check_rebuildable(encoder)
        described = describe(encoder)
        assert f'"recompute": "{recompute}"' in described["encoder.json"]
        assert type(rebuilt(encoder.spec())) is TextEncoder  # as the worker of a miner does it


def test_sharded_parameters_are_refused(tiny: str) -> None:
    encoder = build(tiny, recompute="chunks", max_tokens_in_memory=11)
    next(encoder.parameters())._sharded_size = (1,)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"sharded over processes \(FSDP\)"):
        encoder(inputs())
    with torch.no_grad():
        assert len(encoder(inputs())) == len(LENGTHS)


def ranks_step(folder: str, shares: list[list[int]], ddp: dict[str, Any]) -> dict[str, Tensor]:
    """The gradients of two steps on this rank's share of the texts."""
    import torch.distributed as dist

    encoder = build(folder, recompute="chunks", max_tokens_in_memory=11)
    module = DistributedDataParallel(Gathering(encoder), **ddp)
    for _ in range(2):
        module.zero_grad()
        module(torch.tensor(shares[dist.get_rank()], dtype=torch.int64)).backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}


class Gathering(nn.Module):
    """The mean over all texts of all ranks of the loss between them."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, rows: Tensor) -> Tensor:
        given = EncoderInput.of_texts(texts().select(rows))
        vectors = self.encoder(given) if len(rows) else self.encoder.nothing()
        return InfoNCELoss(0.2)(vectors, labels=rows % 3)


@pytest.mark.parametrize("ddp", [{}, {"find_unused_parameters": True}, {"static_graph": True}])
def test_ranks_with_unlike_numbers_of_chunks(tiny: str, pool: RankPool, ddp: dict[str, Any]) -> None:
    encoder = build(tiny)
    Gathering(encoder)(torch.arange(12)).backward()
    expected = {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}
    for split in (2, 0, 9):
        shares = [[*range(split)], [*range(split, 12)]]
        for found in pool.run(ranks_step, tiny, shares, ddp):
            assert_same(found, expected)


def test_memory_is_given_back_when_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    large = module.GROWTH
    sizes = [500, 501 + large, 400, 500 + large, 501 + large, 600, 700, 600, 701 + large, 500]
    after_loss = [500 + large, 501 + large]
    held, calls = iter([*sizes, after_loss[0], 300, after_loss[1], 300, 300, 301 + large]), list[str]()
    monkeypatch.setattr(module, "resident_memory", lambda: next(held))
    monkeypatch.setattr(module, "_release_function", lambda: lambda: calls.append("released"))
    monkeypatch.setattr(module, "BETWEEN", 3)
    heap = module.Heap("cpu")
    grown = []
    for _ in sizes:
        heap.after_chunk()
        grown.append(len(calls))
    # Not within three chunks; then from the next one, which has 600.
    assert grown == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    heap.after_loss()  # as much as the last chunk, and no more than may be added
    assert len(calls) == 2
    heap.after_chunk()
    heap.after_loss()
    assert len(calls) == 3
    for _ in range(3):
        heap.after_chunk()
    assert calls == ["released"] * 4
    other = module.Heap("cuda")
    other.after_chunk()
    other.after_loss()
    assert len(calls) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only there the allocator is asked for")
@pytest.mark.parametrize(
    ("symbols", "name", "released"),
    [
        ({"malloc_trim"}, "glibc", ("malloc_trim", 0)),
        (
            {"malloc_trim", "MallocExtension_ReleaseFreeMemory"},
            "tcmalloc",
            ("MallocExtension_ReleaseFreeMemory",),
        ),
        ({"malloc_trim", "mallctl"}, "jemalloc", None),
        ({"malloc_trim", "mi_malloc"}, "mimalloc", None),
        (set(), None, None),
    ],
)
def test_memory_is_given_back_by_the_allocator_that_has_it(
    symbols: set[str], name: str | None, released: tuple[Any, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    loaded = SimpleNamespace()
    for each in symbols:
        setattr(loaded, each, lambda *given, each=each: calls.append((each, *given)))
    monkeypatch.setattr(module.ctypes, "CDLL", lambda _: loaded)
    assert module.allocator() == name
    release = module._release_function.__wrapped__()
    if released is None:
        assert release is None
    else:
        assert release is not None
        release()
        assert calls == [released]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_parameter_that_no_chunk_reaches_gets_no_gradient(dtype: torch.dtype) -> None:
    used, unused = (torch.nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(2))
    rows = module.in_chunks(
        lambda rows: rows[:, None] * used, torch.tensor([1, 2, 3]), max_tokens=3, inputs=[used, unused]
    )
    rows.sum().backward()
    assert used.grad is not None
    assert used.grad.dtype == dtype
    assert used.grad.tolist() == [3.0] * 3  # 0 + 1 + 2
    assert unused.grad is None


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
def test_the_memory_of_the_process_is_read() -> None:
    before = module.resident_memory()
    some = bytearray(1 << 27)
    some[::4096] = b"x" * len(some[::4096])
    assert module.resident_memory() - before == pytest.approx(1 << 27, rel=0.1)
