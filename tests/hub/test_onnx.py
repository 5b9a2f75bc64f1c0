"""ONNX graphs give the vectors of the encoders that they were written from."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    ComposedPooling,
    ConjunctionPooling,
    Encoder,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.hub import onnx
from lit_metric.hub.check import random_items
from lit_metric.hub.graphs import pool_padded
from tests.encoders.conftest import tiny  # noqa: F401
from tests.encoders.models import PACKABLE, PADDED
from tests.encoders.tokens import model_folder
from tests.end_to_end.command import run
from tests.small import write_csv

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from lit_metric.hub.run_onnx import OnnxEncoder, split_texts  # noqa: E402

TEXTS = ["w5 w6 w7", "W8 w9 x", "w10", "", "w40 " * 90, "w11 w12 w13 w14 w15 w16 w17 w18 w19"]
SETS = [["w5 w6", "w7"], [], ["w8"], ["w5 w6", "w9 w10 w11", "w12", "w7 w7"], ["", "w20 | w21"]]


def shaken(encoder: Encoder) -> Encoder:
    """The encoder with other weights in what starts at zero, so that it shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if "backbone" not in name or "lora" in name:
                value.normal_(std=0.05 if "lora" in name else 0.5)
    return encoder


def text_encoder(folder: Path, family: str, pooling: Pooling, **options: Any) -> TextEncoder:
    encoder = shaken(TextEncoder(model_folder(folder, family), pooling, **options))
    assert isinstance(encoder, TextEncoder)
    return encoder


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "pooling",
    [
        lambda heads: MeanPooling(),
        lambda heads: MaxPooling(),
        lambda heads: CLSPooling(),
        lambda heads: LastTokenPooling(),
        lambda heads: AttentionPooling(heads, "dot", empty="learned"),
        lambda heads: AttentionPooling(heads, hidden=3),
        lambda heads: AttentionPooling(heads, context=True),
        lambda heads: ConjunctionPooling(heads, hidden=3),
        lambda heads: ComposedPooling(hidden=3),
    ],
    ids=["mean", "max", "cls", "last", "dot", "feedforward", "context", "conjunction", "composed"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_poolings_on_padded_rows_are_those_on_ragged_ones(pooling: Any, heads: int, weighted: bool) -> None:
    made = pooling(heads)
    made.build(4)
    torch.manual_seed(0)
    for value in made.parameters():
        torch.nn.init.normal_(value)
    lengths = torch.tensor([3, 0, 1, 5])
    rows = Ragged.from_lengths(torch.randn(9, 4), lengths)
    weights = torch.rand(9) + 0.1 if weighted else torch.ones(9)
    states, given = torch.full((4, 6, 4), torch.nan), torch.zeros(4, 6)
    for row, (start, length) in enumerate(zip(rows.offsets, lengths, strict=False)):
        states[row, :length] = rows.values[start : start + length]
        given[row, :length] = weights[start : start + length]
    expected = made(rows, weights if weighted else None)
    torch.testing.assert_close(pool_padded(made, states, given), expected, atol=1e-6, rtol=1e-5)


KINDS: dict[str, Any] = {
    "mean": lambda folder: text_encoder(
        folder, "bert", MeanPooling(), projection=6, hidden=5, truncate_dim=4, max_length=9
    ),
    "cls": lambda folder: text_encoder(
        folder,
        "roberta",
        CLSPooling(),
        normalize=False,
        replacements={"w5": "w30", "w30 w6": "w31"},
        lower_case=True,
        prompt="w50 ",
        prompts={"query": "W51 ", "title": ""},
        max_lengths={"query": 7},
    ),
    "last": lambda folder: text_encoder(folder, "qwen3", LastTokenPooling()),
    "attention": lambda folder: text_encoder(folder, "modernbert", AttentionPooling(2, context=True)),
    "prompt left out": lambda folder: text_encoder(
        folder,
        "distilbert",
        AttentionPooling(score="dot"),
        prompts={"query": "w50 w51 "},
        pool_prompt=False,
    ),
    "adapter": lambda folder: text_encoder(
        folder, "bert", MeanPooling(), adapter={"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
    ),
    "static": lambda folder: shaken(StaticEncoder(model_folder(folder), AttentionPooling(4), 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_the_same_vectors_at_any_padding(kind: str, tmp_path: Path) -> None:
    if kind == "adapter":
        pytest.importorskip("peft")
    encoder = KINDS[kind](tmp_path / "model")
    modes = [module.training for module in encoder.train().modules()]
    before = encoder.encode(TEXTS)
    (check,) = onnx.export_onnx(encoder, tmp_path / "graphs", "float32")
    assert [module.training for module in encoder.modules()] == modes
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)  # the encoder is as it was
    assert check.difference < 1e-5
    files = {"run_onnx.py", "settings.json", "text.onnx", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "graphs").iterdir()} == files
    graph = OnnxEncoder(tmp_path / "graphs", batch=4)
    for role in ("", "query", "title"):
        expected = encoder.encode(TEXTS, role=role or None)
        np.testing.assert_allclose(graph.encode(TEXTS, role), expected, atol=1e-5)
    texts = [text for text in TEXTS if len(text) < 90]  # with room for padding
    rows = encoder.tokenizer.tokenize(texts)
    longest = max(map(len, rows)) + 3
    for shift in (0, 3):  # padding on the right, and on both sides, of a token that exists
        ids, mask = np.full((len(rows), longest), 7), np.zeros((len(rows), longest), np.int64)
        for line, row in enumerate(rows):
            ids[line, shift : shift + len(row)], mask[line, shift : shift + len(row)] = row, 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if kind == "prompt left out":
            inputs["prompt_tokens"] = np.zeros(len(rows), np.int64)
        np.testing.assert_allclose(graph.text.run(None, inputs)[0], encoder.encode(texts), atol=1e-5)


@pytest.mark.parametrize(
    "pooling", [ConjunctionPooling(2, hidden=5), ComposedPooling(hidden=5)], ids=["conjunction", "composed"]
)
def test_poolings_by_pairs_and_places_have_a_graph(pooling: Pooling, tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = shaken(SetEncoder(TextEncoder(tiny, dropout=0.0), pooling, 5)).eval()
    [check] = onnx.export_onnx(encoder, tmp_path / "onnx", "float32")
    assert check.difference < 1e-4
    graph = OnnxEncoder(tmp_path / "onnx")
    np.testing.assert_allclose(graph.encode(SETS), encoder.encode(SETS), atol=1e-5)
    given = {
        "vectors": graph._encode_texts(["w5 w6", "w7"], "")[None],
        "weights": np.array([[3.0, 0.5]], np.float32),
    }
    weighted = encoder.encode([["w5 w6", "w7"]], weights=[[3.0, 0.5]])
    np.testing.assert_allclose(graph.set.run(None, given)[0], weighted, atol=1e-5)


def test_sets_have_a_graph_of_their_own(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    text = TextEncoder(tiny, projection=8, replacements={"w20": "w22"})
    pooling = AttentionPooling(2, context=True, empty="learned")
    encoder = shaken(SetEncoder(text, pooling, 5, normalize_texts=True))
    onnx.export_onnx(encoder, tmp_path, "float32")
    graph = OnnxEncoder(tmp_path, batch=2)
    expected = encoder.encode(SETS)
    np.testing.assert_allclose(graph.encode(SETS), expected, atol=1e-5)
    joined = ["w5 w6 | w7", "", "w8", "w5 w6 | w9 w10 w11 | w12 | w7 w7", " | w20 \\| w21"]
    np.testing.assert_allclose(graph.encode(joined), expected, atol=1e-5)
    np.testing.assert_allclose(graph.encode([[], []]), encoder.encode([[], []]), atol=1e-5)
    vectors = OnnxEncoder(tmp_path)._encode_texts(["w5 w6", "w7"], "")
    given = {"vectors": vectors[None], "weights": np.array([[3.0, 0.5]], np.float32)}
    weighted = encoder.encode([["w5 w6", "w7"]], weights=[[3.0, 0.5]])
    np.testing.assert_allclose(graph.set.run(None, given)[0], weighted, atol=1e-5)


def test_two_towers_get_a_folder_each(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    query = TextEncoder(tiny, CLSPooling(), 4, prompts={"query": "w50 "}, max_lengths={"query": 8})
    document = StaticEncoder(tiny, projection=4, prompts={"document": "w51 ", "title": "w52 "})
    encoder = TwoTowerEncoder(query, document)
    checks = onnx.export_onnx(encoder, tmp_path / "graphs", "float32")
    assert [check.folder for check in checks] == [tmp_path / "graphs/query", tmp_path / "graphs/document"]
    for tower, role, given in [
        ("query", "query", ""),
        ("document", "document", ""),
        ("document", "title", "title"),
    ]:
        found = OnnxEncoder(tmp_path / "graphs" / tower).encode(TEXTS, given)
        np.testing.assert_allclose(found, encoder.encode(TEXTS, role=role), atol=1e-5)


def test_int8_is_measured_by_neighbours_and_weights_may_lie_beside_the_graphs(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx, "EXTERNAL", 1000)
    encoder = TextEncoder(tiny)
    items = random_items(encoder, 60)
    (check,) = onnx.export_onnx(encoder, tmp_path, "both", items)
    graphs = {"text.onnx", "text.onnx.data", "text-int8.onnx", "text-int8.onnx.data"}
    assert {path.name for path in tmp_path.iterdir()} - graphs == {
        "run_onnx.py",
        "settings.json",
        "tokenizer.json",
    }
    assert (tmp_path / "text.onnx.data").stat().st_size > 4 * 32 * 60  # the embeddings of tokens, for one
    near, other = encoder.encode(items), OnnxEncoder(tmp_path, "int8").encode(items)
    assert np.abs(near - other).max() > 1e-5  # so it is int8
    np.testing.assert_allclose(OnnxEncoder(tmp_path).encode(items), near, atol=1e-5)
    hits = 0
    for row in range(len(items)):  # a naive loop, in which a neighbour as near as the tenth is one of the ten
        scores = {each: float(near[row] @ near[each]) for each in range(len(items)) if each != row}
        least = sorted(scores.values())[-10] - 1e-6
        order = sorted(scores, key=lambda each: float(other[row] @ other[each]), reverse=True)
        hits += sum(scores[each] >= least for each in order[:10])
    assert check.recall == pytest.approx(hits / (10 * len(items)), abs=0.01)


def test_an_int8_graph_that_finds_too_few_neighbours_is_left_out(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(onnx, "MIN_RECALL", 1.01)
    encoder = StaticEncoder(tiny, projection=4)
    with pytest.raises(ValueError, match="finds only"):
        onnx.export_onnx(encoder, tmp_path / "none", "int8")
    assert not [*tmp_path.iterdir()]
    (check,) = onnx.export_onnx(encoder, tmp_path / "both", "both")
    assert check.recall is None
    assert "only the float32 graph was written" in caplog.text
    assert {path.name for path in (tmp_path / "both").glob("*.onnx*")} == {"text.onnx"}
    monkeypatch.setattr(onnx, "MIN_RECALL", 0)
    onnx.export_onnx(encoder, tmp_path / "int8", "int8")
    assert {path.name for path in (tmp_path / "int8").glob("*.onnx*")} == {"text-int8.onnx"}


class OtherPooling(MeanPooling):
    """Pools in its own way."""


def test_what_has_no_graph_is_refused_with_the_reason(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="OtherPooling has no form on padded tensors"):
        onnx.export_onnx(TextEncoder(tiny, OtherPooling()), tmp_path / "graphs")
    mixing = TextEncoder(model_folder(tmp_path / "model", "fnet"))
    with pytest.raises(ValueError, match="padding changes the vectors of models of type fnet"):
        onnx.export_onnx(TwoTowerEncoder(TextEncoder(tiny), mixing), tmp_path / "graphs")
    with pytest.raises(ValueError, match="choose one of float32, int8, both"):
        onnx.export_onnx(TextEncoder(tiny), tmp_path / "graphs", "fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not an empty folder"):
        onnx.export_onnx(TextEncoder(tiny), tmp_path)
    assert not (tmp_path / "graphs").exists()


class Doubled(TextEncoder):
    """Computes something that the graph doesn't know of."""

    def features(self, inputs: Any) -> torch.Tensor:
        return super().features(inputs) + 1


def test_a_graph_that_differs_is_not_left_behind(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="the ONNX graph gives other vectors"):
        onnx.export_onnx(Doubled(tiny), tmp_path / "graphs")
    assert not [*tmp_path.iterdir()]


def test_half_precision_is_written_in_float32_beside_a_copy_of_the_runner(
    tiny: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    encoder = StaticEncoder(tiny).to(torch.bfloat16)
    onnx.export_onnx(encoder, tmp_path, "float32")
    assert {each.dtype for each in encoder.parameters()} == {torch.bfloat16}
    found = OnnxEncoder(tmp_path).encode(TEXTS)
    np.testing.assert_allclose(found, encoder.float().encode(TEXTS), atol=1e-5)
    source = Path(onnx.__file__).with_name("run_onnx.py").read_text(encoding="utf-8")
    assert (tmp_path / "run_onnx.py").read_text(encoding="utf-8") == source
    assert json.loads((tmp_path / "settings.json").read_text())["special_tokens"] is False
    assert OnnxEncoder(tmp_path).encode([]).shape == (0, 32)
    with pytest.raises(TypeError, match="put it into a list"):
        OnnxEncoder(tmp_path).encode("w5")


def test_the_command_writes_graphs_beside_the_folder(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    document = SetEncoder(StaticEncoder(tiny))
    encoder = TwoTowerEncoder(StaticEncoder(tiny), document)
    encoder.save(tmp_path / "model")
    write_csv(tmp_path / "texts.csv", [(f"w{row} w{row + 7}", "") for row in range(4, 50)])
    export = ["export", "--model", "model", "--format", "lit-metric"]
    with caplog.at_level(logging.INFO):
        run(tmp_path, *export, "--output", "out", "--onnx", "both", "--sample", "texts.csv")
    told = "\n".join(caplog.messages)
    assert "out/onnx/query: float32 differs by at most" in told
    assert "neighbours of 46 items" in told
    assert "neighbours of 1000 items" in told  # random sets
    found = OnnxEncoder(tmp_path / "out/onnx/document").encode(SETS)
    np.testing.assert_allclose(found, document.encode(SETS), atol=1e-5)
    with pytest.raises(SystemExit):
        run(tmp_path, *export, "--output", "other", "--sample", "texts.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    # The tokenizer of Qwen2 adds a token of its own, which the tiny model has no embedding of.
    sorted({*PACKABLE, *PADDED} - {"qwen2"}),
)
def test_every_family_that_can_be_padded_has_a_graph(family: str, tmp_path: Path) -> None:
    """``export_onnx`` compares."""
    pooling = {"mpnet": MaxPooling(), "gpt2": LastTokenPooling()}.get(family, AttentionPooling(2))
    encoder = text_encoder(tmp_path / "model", family, pooling)
    onnx.export_onnx(encoder, tmp_path / "graphs", "float32")


@pytest.mark.parametrize(
    ("item", "texts"),
    [("", []), ("a", ["a"]), ("\\", [""]), ("a | b\\\\ | \\|", ["a", "b\\", "|"]), ("a|b | ", ["a|b", ""])],
)
def test_sets_in_one_string_are_taken_apart(item: str, texts: list[str]) -> None:
    assert split_texts(item) == texts
