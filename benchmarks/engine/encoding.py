"""Texts a second in encoding 1,500 questions of Banking77, beside the fastest engines for a processor.

Peers are sentence-transformers on torch, ONNX Runtime and OpenVINO, in float32, bfloat16 and int8. All sort
texts by length. For each, the size of a batch is chosen among ``SIZES`` on some of the texts. Then the
fastest of ours and the fastest of theirs take turns. A contender counts if its neighbours agree with those
of float32: recall@10 of at least ``AGREEMENT``. Times include tokenising, and vectors come back as float32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.engine import backends
from benchmarks.engine.backends import Array, Encode
from benchmarks.engine.measures import OURS, banking77, compared, growth, in_turn, measured
from benchmarks.mining.scale import recall
from benchmarks.peer import BACKBONE
from benchmarks.results import BenchmarkError
from lit_metric.encoders.base import Precision

SIZES = (16, 32, 64, 128)
AGREEMENT = 0.98
K = 10
TARGET = 1.3
PRECISIONS = tuple(each for each in get_args(Precision) if each != "float16")
"""Ours; half precision of 10 bits has no products on most processors."""


def neighbours(vectors: Array) -> Array:
    """``[n, K]`` places of the nearest other rows of unit vectors ``[n, d]``."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def tuned(encode: Encode, texts: Sequence[str], sizes: Sequence[int]) -> tuple[int, dict[int, float]]:
    """The fastest size of a batch, and texts a second by size; the first call of all doesn't count."""
    encode(texts[: len(texts) // 4], sizes[0])
    rates = {}
    for size in sizes:
        begin = time.perf_counter()
        encode(texts, size)
        rates[size] = len(texts) / (time.perf_counter() - begin)
    return max(rates, key=lambda size: rates[size]), rates


def survey(
    contenders: Mapping[str, Encode], texts: Sequence[str], sizes: Sequence[int], few: int
) -> dict[str, dict[str, Any]]:
    """Batch, texts a second and agreement of each contender; the first is the reference.

    Args:
        contenders: by name.
        texts: all.
        sizes: of batches to choose from.
        few: texts to choose by.
    """
    found: dict[str, dict[str, Any]] = {}
    reference: Array | None = None
    for name, encode in contenders.items():
        size, rates = tuned(encode, texts[:few], sizes)
        begin = time.perf_counter()
        vectors = encode(texts, size)
        seconds = time.perf_counter() - begin
        nearest = neighbours(vectors)
        reference = nearest if reference is None else reference
        found[name] = {
            "batch": size,
            "texts_per_second": len(texts) / seconds,
            "recall@10": recall(nearest, reference),
            "tuning": {str(each): rate for each, rate in rates.items()},
        }
        print(
            f"  {name}: {len(texts) / seconds:.0f} texts/s, recall@10 {found[name]['recall@10']:.3f}",
            flush=True,
        )
    return found


def best(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The fastest of those that agree with float32.

    Raises:
        BenchmarkError: none agrees.
    """
    names = [name for name, each in found.items() if each["recall@10"] >= AGREEMENT]
    if not names:
        raise BenchmarkError(f"no neighbours agree with those of float32 to recall@10 {AGREEMENT}")
    return max(names, key=lambda name: found[name]["texts_per_second"])


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """See the module.

    Args:
        out: the folder of results.
        quick: 64 texts, two sizes, one round.
    """
    count, sizes, rounds = (64, SIZES[:2], 1) if quick else (1500, SIZES, 5)
    texts, _ = banking77()
    texts, calibration = texts[:count], texts[-backends.CALIBRATION :]
    settings = {
        "both": {
            "backbone": BACKBONE,
            "texts": count,
            "sizes": sizes,
            "rounds": rounds,
            "agreement": AGREEMENT,
        },
        "ours": {"precision": PRECISIONS, "max_tokens": "64 x size"},
        "peer": {"counts": "the fastest of sentence-transformers, ONNX Runtime and OpenVINO"},
    }

    def work() -> dict[str, Any]:
        mine = {precision: backends.ours(BACKBONE, precision) for precision in PRECISIONS}
        with tempfile.TemporaryDirectory() as folder:
            theirs = backends.peers(BACKBONE, backends.export(BACKBONE, Path(folder), calibration))
            named = {f"{OURS}, {precision}": encode for precision, encode in mine.items()}
            found = survey({**named, **theirs}, texts, sizes, max(count // 4, 16))
        names = {
            OURS: best({name: found[name] for name in named}),
            "peer": best({name: found[name] for name in theirs}),
        }
        both = {side: ({**named, **theirs}[name], found[name]["batch"]) for side, name in names.items()}

        def seconds(part: Sequence[str], rounds: int) -> dict[str, list[float]]:
            return in_turn(
                {side: partial(encode, part, size) for side, (encode, size) in both.items()}, rounds
            )

        rates = {side: [count / each for each in values] for side, values in seconds(texts, rounds).items()}
        curves: dict[str, dict[int, float]] = {name: {} for name in names.values()}
        for part in (count // 4, count // 2, count):
            for side, values in seconds(texts[:part], 1).items():
                curves[names[side]][part] = values[0]
        return {
            **compared(rates[OURS], rates["peer"], TARGET),
            "chosen": names,
            "contenders": found,
            "growth": growth("texts", "seconds", curves),
        }

    return [measured(out, "encoding", f"encoding, recall@10 ≥ {AGREEMENT}: texts/s", settings, work)]
