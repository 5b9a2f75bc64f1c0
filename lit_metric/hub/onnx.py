"""Trained encoders as graphs of ONNX, with pooling, projection and length 1 inside."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lit_metric.data.progress import stage
from lit_metric.encoders import Encoder, SetEncoder, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.packing import attention, evaluating
from lit_metric.hub.check import (
    NEIGHBOURS,
    TOLERANCE,
    neighbour_recall,
    odd_texts,
    random_items,
    sample_items,
)
from lit_metric.hub.graphs import POOLINGS, SetGraph, TextGraph
from lit_metric.hub.loading import TOWERS
from lit_metric.store import write_json

log = logging.getLogger(__name__)

OnnxPrecision = Literal["float32", "int8", "both"]

TEXT, TEXT_INT8, SET = "text.onnx", "text-int8.onnx", "set.onnx"
RUNNER = "run_onnx.py"

OPSET = 17

EXTERNAL = (1 << 31) - (1 << 24)
"""Bytes of weights that a file of ONNX can hold, which is limited to 2 GiB. More lie in a file beside it."""

MIN_RECALL = 0.8
"""Recall@10 below which an int8 graph is of no use."""

SAMPLE = 1000
"""Items with which int8 is compared. For float32 a few of them do, as each has to agree."""
FEW = 64


@dataclass(frozen=True)
class OnnxCheck:
    """How the graphs of a folder compare with the encoder that they were written from.

    Attributes:
        folder: the graphs'.
        difference: of the float32 graph, from which int8 is made: the largest difference of a component,
            relative to the length of vectors.
        recall: of the ten nearest neighbours by float32 vectors, the share that the int8 graph finds; None
            where there is no such graph.
        items: how many there were to find neighbours of.
    """

    folder: Path
    difference: float
    recall: float | None
    items: int

    def __str__(self) -> str:
        parts = [f"float32 differs by at most {self.difference:.1e}"]
        if self.recall is not None:
            parts.append(f"int8 finds {self.recall:.1%} of the {NEIGHBOURS} neighbours of {self.items} items")
        return f"{self.folder}: {', '.join(parts)}"


def export_onnx(
    encoder: Encoder,
    folder: str | Path,
    precision: OnnxPrecision = "both",
    sample: Sequence[Any] | None = None,
) -> list[OnnxCheck]:
    """Write graphs for ONNX Runtime, their tokenizer, and a short Python file that runs them.

    The folder holds ``text.onnx`` (token ids and their mask to vectors, at any batch size, length and
    padding), ``text-int8.onnx`` (weights in int8, activations in int8 as they come), ``tokenizer.json``,
    ``settings.json`` (prompts and lengths by role) and ``run_onnx.py``, which needs onnxruntime, tokenizers
    and numpy. Of an encoder of sets there is also ``set.onnx``, from the vectors of an item's texts to the
    item's vector. Two towers get a folder each, ``query`` and ``document``. Weights beyond 2 GiB lie in a
    file ``text.onnx.data``. Adapters are merged, and weights are written in float32.

    What was written is read by ``run_onnx.py`` and compared with the encoder.

    Args:
        encoder: on any device, of any dtype.
        folder: is created; must be new or empty.
        precision: of the graphs; an int8 graph of little use is left out of "both", and the log says so.
        sample: items like those that will be encoded, to compare with; of more than 1,000 the first ones.
            None takes random texts of the tokenizer's vocabulary, and so does a tower that takes items of the
            other kind.

    Returns:
        For each folder with graphs, how they compare.

    Raises:
        ImportError: without onnx and onnxruntime.
        ValueError: for an encoder that can't be written so, or whose graph gives other vectors; nothing is
            left behind then.
    """
    folder = Path(folder)
    if precision not in get_args(OnnxPrecision):
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(get_args(OnnxPrecision))}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already and is not an empty folder; name another")
    for name in ("onnx", "onnxruntime"):
        _module(name)
    if any(each.dtype != torch.float32 or each.device.type != "cpu" for each in encoder.parameters()):
        encoder = copy.deepcopy(encoder).float().cpu()
    towers: dict[str, Encoder] = {"": encoder}
    if isinstance(encoder, TwoTowerEncoder):
        towers = {name: getattr(encoder, name) for name in TOWERS}
    for name, tower in towers.items():
        if reason := refusal(tower):
            raise ValueError(f"{f'the {name} tower' if name else 'this encoder'} has no ONNX graph: {reason}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    checks = []
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        written = Path(scratch, "onnx")
        for name, tower in towers.items():
            which = f"the {name} tower" if name else "the encoder"
            with stage(f"writing {which} as a graph"):
                _write(tower, written / name, name, precision)
            kind = (list, tuple) if isinstance(tower, SetEncoder) else str
            items = list(sample or [])[:SAMPLE]
            if not items or not isinstance(items[0], kind):
                items = random_items(tower, SAMPLE)
            with stage(f"comparing the graph of {which}"), odd_texts():
                checks.append(_check(tower, written / name, folder / name, name, items, precision))
        shutil.copyfile(Path(__file__).with_name(RUNNER), written / RUNNER)
        if folder.exists():
            folder.rmdir()
        written.rename(folder)
    return checks


def refusal(encoder: Encoder) -> str:
    """Why an encoder of one tower can't be written as a graph, "" if no reason is known."""
    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    if not isinstance(text, TextEncoder):
        return f"only encoders of texts and of sets have one, not {type(text).__name__}"
    for part in {encoder, text}:
        pooling: Any = part.pooling
        if type(pooling) not in POOLINGS:
            known = ", ".join(each.__name__ for each in POOLINGS)
            return (
                f"the pooling {type(pooling).__name__} has no form on padded tensors; those with one: {known}"
            )
    if text.backbone.way == "unpadded":
        kind = text.backbone.model.config.model_type
        return (
            f"padding changes the vectors of models of type {kind}, and graphs take padded batches. Encode "
            "with lit_metric.load or sentence-transformers in batches of texts of one length"
        )
    tokenizer = text.tokenizer.tokenizer
    if not tokenizer.is_fast:
        return "its tokenizer is a slow one of transformers, without tokenizer.json"
    if getattr(tokenizer, "split_special_tokens", False):
        return "its tokenizer splits special tokens, which tokenizer.json can't say"
    return ""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'ONNX graphs need the package {name}: pip install "lit-metric[onnx]"') from error


def _write(encoder: Encoder, folder: Path, role: str, precision: OnnxPrecision) -> None:
    """Graphs, tokenizer and settings of one tower."""
    folder.mkdir(parents=True)
    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    assert isinstance(text, TextEncoder)
    settings = _settings(encoder, text, role)
    with evaluating(encoder):
        _write_text(encoder, text, folder / TEXT, "prompt_tokens" in settings["roles"][""])
        if isinstance(encoder, SetEncoder):
            inputs = {"vectors": torch.ones(2, 3, text.dimension), "weights": torch.ones(2, 3)}
            inputs["weights"][1, 2] = 0
            _trace(SetGraph(encoder), inputs, folder / SET)
    if precision != "float32":
        _quantize(folder)
    tokenizer = Tokenizer.from_str(text.tokenizer.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(text.tokenizer.max_length, direction=settings["truncation_side"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "settings.json", settings)


def _settings(encoder: Encoder, text: TextEncoder, role: str) -> dict[str, Any]:
    """What a program has to know that feeds the graphs; texts without a role get what ``role`` says."""
    tokenizer, roles = text.tokenizer, {}
    shortened = any(tokenizer.prompt_tokens(each) for each in [role or None, *tokenizer.roles])
    for name in ["", *tokenizer.roles]:
        which = name or role or None
        roles[name] = {"prompt": tokenizer.prompt_of(which), "max_length": tokenizer.max_length_of(which)}
        if shortened:
            roles[name]["prompt_tokens"] = tokenizer.prompt_tokens(which)
    return {
        "format": 1,
        "sets": isinstance(encoder, SetEncoder),
        "dimension": encoder.dimension,
        "text_dimension": text.dimension,
        "normalized": encoder.normalize,
        "roles": roles,
        "replacements": tokenizer.replacements,
        "lower_case": tokenizer.lower_case,
        "special_tokens": tokenizer.special_tokens,
        "truncation_side": tokenizer.tokenizer.truncation_side,
    }


def _write_text(encoder: Encoder, text: TextEncoder, path: Path, prompt: bool) -> None:
    backbone = text.backbone
    model: Any = backbone.model if backbone.adapter is None else backbone.adapter.merged().eval()
    unit = encoder.normalize_texts if isinstance(encoder, SetEncoder) else encoder.normalize
    inputs = {
        "input_ids": torch.full((2, 8), text.tokenizer.padding_id),
        "attention_mask": torch.ones(2, 8, dtype=torch.int64),
    }
    inputs["attention_mask"][1, 5:] = 0
    if prompt:
        inputs["prompt_tokens"] = torch.tensor([1, 2])
    switchable = not isinstance(text, StaticEncoder) and model._can_set_attn_implementation()
    with attention(model, "eager") if switchable else nullcontext():
        _trace(TextGraph(text, model, unit), inputs, path)


def _trace(graph: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write a module as a graph in which the sizes of batch and length are free."""
    axes = {name: {0: "items", 1: "length"} for name in inputs} | {"embeddings": {0: "items"}}
    for name, value in inputs.items():
        if value.dim() == 1:
            axes[name] = {0: "items"}
    large = sum(value.numel() * value.element_size() for value in graph.state_dict().values()) > EXTERNAL
    target = path.parent / "pieces" / path.name if large else path
    target.parent.mkdir(exist_ok=True)
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                str(target),
                input_names=[*inputs],
                output_names=["embeddings"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        model = getattr(getattr(graph, "model", None), "config", None)
        kind = f"models of type {model.model_type}" if model is not None else type(graph).__name__
        raise ValueError(
            f"torch.onnx can't export {kind}: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        ) from error
    if large:  # PyTorch has written a file for each weight; they go into one
        onnx = _module("onnx")
        model = onnx.load(str(target))
        shutil.rmtree(target.parent)
        options = {"save_as_external_data": True, "all_tensors_to_one_file": True}
        onnx.save_model(model, str(path), location=f"{path.name}.data", **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this block neither the tracer nor the quantizer comments on what it meets."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def _quantize(folder: Path) -> None:
    quantization = _module("onnxruntime.quantization")
    external = (folder / f"{TEXT}.data").exists()
    with _quiet():
        quantization.quantize_dynamic(
            str(folder / TEXT),
            str(folder / TEXT_INT8),
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # eight bits overflow on processors without VNNI, and recall would be another
            use_external_data_format=external,
            extra_options={"MatMulConstBOnly": True},
        )


def _check(
    encoder: Encoder, written: Path, folder: Path, role: str, items: list[Any], precision: OnnxPrecision
) -> OnnxCheck:
    """Compare the graphs in ``written``, which will be ``folder``, and delete those that are not wanted.

    Raises:
        ValueError: if the float32 graph differs, or int8 alone is wanted and finds too few neighbours.
    """
    from lit_metric.hub.run_onnx import OnnxEncoder  # it needs onnxruntime

    settings = json.loads((written / "settings.json").read_text(encoding="utf-8"))
    graph, apart = OnnxEncoder(written), []
    few = [*sample_items(encoder), *items[:FEW]]
    for name in settings["roles"]:
        expected = encoder.encode(few, role=name or role or None)
        length = np.linalg.norm(expected, axis=1).mean() or 1.0
        apart.append(np.abs(graph.encode(few, name) - expected).max(initial=0) / length)
    difference = float(np.max(apart))
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise ValueError(
            f"the ONNX graph gives other vectors: they differ by {difference:.1e} relative to their length, "
            f"and rounding explains {TOLERANCE:.0e}. Nothing was written; use lit_metric.load, or the folder "
            "for sentence-transformers"
        )
    if precision == "float32":
        return OnnxCheck(folder, difference, None, len(items))
    found = OnnxEncoder(written, "int8").encode(items)
    recall = neighbour_recall(encoder.encode(items, role=role or None), found)
    useful = recall >= MIN_RECALL
    if not useful:
        message = (
            f"the int8 graph finds only {recall:.1%} of the {NEIGHBOURS} nearest neighbours of {len(items)} "
            f"items, and at least {MIN_RECALL:.0%} are required"
        )
        if precision == "int8":
            raise ValueError(f"{message}: take float32")
        log.warning("%s, so only the float32 graph was written", message)
    if precision == "int8" or not useful:
        unwanted = TEXT_INT8 if not useful else TEXT
        for name in (unwanted, f"{unwanted}.data"):
            (written / name).unlink(missing_ok=True)
    return OnnxCheck(folder, difference, recall if useful else None, len(items))
