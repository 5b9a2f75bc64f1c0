"""Read what ``write.py`` wrote in an environment without lit-metric, and compare vectors and neighbours.

python tests/handover/read.py sentence-transformers FOLDER
python tests/handover/read.py onnx FOLDER
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ABSENT = {
    "sentence-transformers": ("lit_metric", "lightning", "onnxruntime"),
    "onnx": ("lit_metric", "torch", "transformers", "onnx"),
}
"""What an environment must not have, or the comparison would show nothing."""

NEIGHBOURS = 5

Encode = Callable[[list[Any], str], np.ndarray]


def by_sentence_transformers(folder: Path) -> Encode:
    """As a colleague does it. A set is one string."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    ways = {"": model.encode, "query": model.encode_query, "document": model.encode_document}

    def encode(items: list[Any], role: str) -> np.ndarray:
        given = [
            item if isinstance(item, str) else " | ".join(re.sub(r"([\\|])", r"\\\1", text) for text in item)
            for item in items
        ]
        vectors = ways[role](given, show_progress_bar=False)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    return encode


def by_onnx(folder: Path) -> Encode:
    """By the Python file in the folder."""
    path = folder / "onnx" / "run_onnx.py"
    spec = importlib.util.spec_from_file_location("run_onnx", path)
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)

    def encode(items: list[Any], role: str) -> np.ndarray:
        tower = folder / "onnx" / role
        if role and tower.is_dir():
            return runner.OnnxEncoder(tower).encode(items)
        return runner.OnnxEncoder(folder / "onnx").encode(items, role)

    return encode


def neighbours(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """``[n, 5]``: the rows of ``corpus`` nearest to each query."""
    return np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :NEIGHBOURS]


def compare(folder: Path, encode: Encode) -> tuple[float, float]:
    """The largest difference of a component, and the share of equal neighbours, over all roles."""
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    known = {role: np.array(vectors) for role, vectors in expected["vectors"].items()}
    found = {role: encode(expected["items"], role) for role in known}
    apart = max(float(np.abs(found[role] - known[role]).max()) for role in known)
    first, last = next(iter(known)), [*known][-1]
    same = neighbours(known[first], known[last]) == neighbours(found[first], found[last])
    return apart, float(same.mean())


def main(way: str, root: Path) -> int:
    """One line for each kind; 1 if any of them differs, else 0."""
    present = [name for name in ABSENT[way] if importlib.util.find_spec(name) is not None]
    if present:
        print(f"this environment has {', '.join(present)}, so it shows nothing")
        return 1
    failed = 0
    for path in sorted(root.glob("*/expected.json")):
        read = by_onnx if way == "onnx" else by_sentence_transformers
        apart, same = compare(path.parent, read(path.parent))
        good = apart <= 1e-5 and same == 1
        failed += not good
        print(
            f"{way:22}{path.parent.name:24}differs by {apart:.1e}, {same:.0%} equal neighbours"
            + ("" if good else ": WRONG")
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
