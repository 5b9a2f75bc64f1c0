"""The same encoder in other engines: ONNX Runtime and OpenVINO, with pooling and length 1 inside the graph.

The graph comes from transformers' BERT by ``torch.onnx.export``. ONNX Runtime makes int8 of the products
with weights in two ways: *dynamic* scales activations as they come, *static* takes their scales from
training texts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.results import BenchmarkError
from lit_metric.encoders.pretrained import locate

Array = NDArray[Any]
Inputs = dict[str, Array]
Encode = Callable[[Sequence[str], int], Array]
"""Texts and the size of a batch to unit vectors ``[n, d]``, in the order of the texts."""

NAMES = ("input_ids", "attention_mask")
CALIBRATION = 256
"""Texts from which static int8 takes its scales."""


class Pooled(nn.Module):
    """Token ids and mask, ``[n, l]`` both, to unit vectors ``[n, d]``: the mean of a backbone's states."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(states.dtype)[:, :, None]
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


class Tokens:
    """The fast tokenizer of a backbone, and batches of similar length."""

    def __init__(self, backbone: str) -> None:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(locate(backbone))
        self.fast = tokenizer.backend_tokenizer
        self.fast.no_padding()

    def batches(self, texts: Sequence[str], size: int) -> Iterator[tuple[Array, Inputs]]:
        """Places of the texts, and their inputs, longest first; padded to the longest of the batch."""
        rows = [row.ids for row in self.fast.encode_batch_fast(list(texts))]
        order = np.argsort([-len(row) for row in rows], kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            ids = np.zeros((len(places), len(rows[places[0]])), dtype=np.int64)
            for line, place in enumerate(places):
                ids[line, : len(rows[place])] = rows[place]
            lengths = np.array([len(rows[place]) for place in places])
            mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
            yield places, dict(zip(NAMES, (ids, mask), strict=True))


def export(backbone: str, folder: Path, calibrate: Sequence[str]) -> dict[str, Path]:
    """Write the graph in float32 and both kinds of int8.

    Args:
        backbone: a pretrained BERT.
        folder: to write to.
        calibrate: texts for the scales of static int8.

    Returns:
        Files by kind: ``fp32``, ``int8 dynamic``, ``int8 static``.

    Raises:
        BenchmarkError: onnx or onnxruntime is missing.
    """
    try:
        import onnx  # noqa: F401
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationDataReader
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise BenchmarkError(f"{error}: pip install onnx onnxruntime openvino") from error
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        kind: folder / f"{kind.replace(' ', '-')}.onnx" for kind in ("fp32", "int8 dynamic", "int8 static")
    }
    example = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "texts", 1: "tokens"} for name in NAMES}
    with torch.no_grad():
        torch.onnx.export(
            Pooled(Path(locate(backbone))),
            (example, example),
            str(files["fp32"]),
            input_names=[*NAMES],
            output_names=["vectors"],
            dynamic_axes={**axes, "vectors": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(files["fp32"]), str(prepared), skip_symbolic_shape=True)
    options: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul"],
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "extra_options": {"MatMulConstBOnly": True},
    }
    logging.getLogger("root").setLevel(logging.ERROR)  # a line for each product without weights
    quantize_dynamic(str(prepared), str(files["int8 dynamic"]), **options)

    class Reader(CalibrationDataReader):
        rows = Tokens(backbone).batches(calibrate[:CALIBRATION], 1)

        def get_next(self) -> Inputs | None:
            return next((inputs for _, inputs in self.rows), None)

    options |= {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8}
    quantize_static(str(prepared), str(files["int8 static"]), Reader(), **options)
    return files


def collect(batches: Iterator[tuple[Array, Inputs]], run: Callable[[Inputs], Array], calls: int) -> Array:
    """Vectors in the order of the texts; ``calls`` batches run at the same time."""
    if calls == 1:
        found = [(places, run(inputs)) for places, inputs in batches]
    else:
        with ThreadPoolExecutor(calls) as pool:
            found = [*pool.map(lambda batch: (batch[0], run(batch[1])), batches)]
    vectors = np.empty((sum(len(places) for places, _ in found), found[0][1].shape[1]), dtype=np.float32)
    for places, rows in found:
        vectors[places] = rows
    return vectors


def onnx_runtime(file: Path, tokens: Tokens, calls: int) -> Encode:
    """ONNX Runtime on the processor.

    Args:
        file: a graph.
        tokens: of the backbone.
        calls: batches at the same time, which share the threads that torch would use.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads() // calls)
    # Threads that spin after a run would slow the contender whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str], size: int) -> Array:
        return collect(tokens.batches(texts, size), lambda inputs: session.run(None, inputs)[0], calls)

    return encode


def openvino(file: Path, tokens: Tokens, precision: str, hint: str) -> Encode:
    """OpenVINO on the processor.

    Args:
        file: a graph.
        tokens: of the backbone.
        precision: of matrix products, ``f32`` or ``bf16``.
        hint: ``LATENCY``, one batch at a time, or ``THROUGHPUT``, as many as OpenVINO chooses.
    """
    import openvino as ov

    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
    calls = 1 if hint == "LATENCY" else int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def encode(texts: Sequence[str], size: int) -> Array:
        found: dict[int, Array] = {}
        queue = ov.AsyncInferQueue(compiled, calls)
        queue.set_callback(
            lambda request, start: found.update({start: request.get_output_tensor(0).data.copy()})
        )
        places = []
        for number, (rows, inputs) in enumerate(tokens.batches(texts, size)):
            places.append(rows)
            queue.start_async(inputs, number)
        queue.wait_all()
        vectors = np.empty((len(texts), found[0].shape[1]), dtype=np.float32)
        for number, rows in enumerate(places):
            vectors[rows] = found[number]
        return vectors

    return encode


def sentence_transformers(
    backbone: str, dtype: torch.dtype, device: str = "cpu", attention: str = "sdpa"
) -> Encode:
    """sentence-transformers on torch, which sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": dtype, "attn_implementation": attention}
    model = SentenceTransformer(str(locate(backbone)), device=device, model_kwargs=options)

    def encode(texts: Sequence[str], size: int) -> Array:
        vectors = model.encode(list(texts), batch_size=size, show_progress_bar=False, convert_to_tensor=True)
        return nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()

    return encode


def ours(backbone: str, precision: Any, device: str = "cpu") -> Encode:
    """lit-metric; its batch has ``size`` times 64 tokens."""
    from lit_metric import TextEncoder

    encoder = TextEncoder(backbone).to(device)
    return lambda texts, size: encoder.encode(list(texts), max_tokens=64 * size, precision=precision)


def peers(backbone: str, files: dict[str, Path]) -> dict[str, Encode]:
    """All others on the processor, by name, with every way to use its cores.

    Args:
        backbone: a pretrained BERT.
        files: see :func:`export`.
    """
    tokens, cores = Tokens(backbone), os.cpu_count() or 1
    found = {
        "sentence-transformers, fp32": sentence_transformers(backbone, torch.float32),
        "sentence-transformers, bf16": sentence_transformers(backbone, torch.bfloat16),
    }
    for kind, file in files.items():
        for calls in sorted({1, min(cores, torch.get_num_threads())}):
            found[f"ONNX Runtime, {kind}, {calls} at a time"] = onnx_runtime(file, tokens, calls)
    for kind, precision in (
        ("fp32", "f32"),
        ("fp32", "bf16"),
        ("int8 static", "f32"),
        ("int8 static", "bf16"),
    ):
        name = "bf16" if (kind, precision) == ("fp32", "bf16") else kind
        rest = " in bf16" if (kind, precision) == ("int8 static", "bf16") else ""
        for hint in ("LATENCY", "THROUGHPUT"):
            found[f"OpenVINO, {name}{rest}, {hint.lower()}"] = openvino(files[kind], tokens, precision, hint)
    return found
