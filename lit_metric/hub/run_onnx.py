"""Vectors from the ONNX graphs of a folder, without PyTorch: needs onnxruntime, tokenizers and numpy.

This file is copied into the folder::

    from run_onnx import OnnxEncoder

    vectors = OnnxEncoder("card-encoder/onnx").encode(["my card has not arrived"])
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

GRAPHS = {"float32": "text.onnx", "int8": "text-int8.onnx"}


class OnnxEncoder:
    """Texts, or sets of texts, to vectors.

    Args:
        folder: with graphs, ``tokenizer.json`` and ``settings.json``; of two towers, that of one of them.
        precision: "float32" or "int8".
        batch: texts that run together.
        threads: of ONNX Runtime; 0 means one for each core.
    """

    def __init__(
        self, folder: str | Path, precision: str = "float32", batch: int = 32, threads: int = 0
    ) -> None:
        folder, self.batch = Path(folder), batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.text: Any = onnxruntime.InferenceSession(str(folder / GRAPHS[precision]), options)
        self.set: Any = None
        if self.settings["sets"]:
            self.set = onnxruntime.InferenceSession(str(folder / "set.onnx"), options)

    def encode(self, items: Sequence[Any], role: str = "") -> np.ndarray:
        """Texts to float32 ``[n, dimension]``; a set is a list of texts, or they are joined by " | "."""
        if isinstance(items, str):
            raise TypeError("this is one text, not a list of texts: put it into a list, as in [text]")
        if self.set is None:
            return self._encode_texts(items, role)
        sets = [split_texts(item) if isinstance(item, str) else item for item in items]
        places = {
            text: place for place, text in enumerate(dict.fromkeys(text for row in sets for text in row))
        }
        known = self._encode_texts([*places] or [""], role)
        vectors = np.zeros((len(sets), self.settings["dimension"]), np.float32)
        for rows, texts, mask in batches([[places[text] for text in row] for row in sets], self.batch):
            inputs = {"vectors": known[texts], "weights": mask.astype(np.float32)}
            vectors[rows] = self.set.run(None, inputs)[0]
        return vectors

    def _encode_texts(self, texts: Sequence[str], role: str) -> np.ndarray:
        own = self.settings["roles"].get(role, self.settings["roles"][""])
        for old, new in self.settings["replacements"].items():
            texts = [text.replace(old, new) for text in texts]
        texts = [own["prompt"] + text for text in texts]
        if self.settings["lower_case"]:
            texts = [text.lower() for text in texts]
        self.tokenizer.enable_truncation(own["max_length"], direction=self.settings["truncation_side"])
        special = self.settings["special_tokens"]
        ids = [each.ids for each in self.tokenizer.encode_batch(texts, add_special_tokens=special)]
        vectors = np.zeros((len(texts), self.settings["text_dimension"]), np.float32)
        for rows, tokens, mask in batches(ids, self.batch):
            inputs = {"input_ids": tokens, "attention_mask": mask}
            if "prompt_tokens" in own:
                inputs["prompt_tokens"] = np.full(len(rows), own["prompt_tokens"], np.int64)
            vectors[rows] = self.text.run(None, inputs)[0]
        return vectors


def batches(rows: list[list[int]], size: int) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Places of rows of similar length, and int64 ``[n, longest]``: their padded values and 1 for each."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(rows), size):
        places = order[start : start + size]
        values = np.zeros((len(places), max(1, len(rows[places[-1]]))), np.int64)
        mask = np.zeros_like(values)
        for line, place in enumerate(places):
            values[line, : len(rows[place])] = rows[place]
            mask[line, : len(rows[place])] = 1
        yield places, values, mask


def split_texts(item: str) -> list[str]:
    r"""The texts of a set in one string: " | " stands between them, and "\\|" is a "|" within a text.

    Example:
        >>> split_texts("web | http \\| https | a|b")
        ['web', 'http | https', 'a|b']
    """
    if "\\" not in item:
        return item.split(" | ") if item else []
    texts = [""]
    for token in re.finditer(r"\\(.?)| \| |[^\\ ]+|.", item, re.DOTALL):
        if token[0] == " | ":
            texts.append("")
        else:
            texts[-1] += token[0] if token[1] is None else token[1]
    return texts
