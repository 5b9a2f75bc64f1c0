"""Write one tiny encoder of each kind as people hand it on, with the vectors that it gives: see ``read.py``.

python -m tests.handover.write FOLDER
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lit_metric import hub
from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    Encoder,
    LastTokenPooling,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from tests.encoders.tokens import model_folder

PROMPTS = {"query": "w50 w51 ", "document": "w52 "}
LORA = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}


def kinds(bert: str, qwen: str) -> dict[str, Callable[[], Encoder]]:
    """An encoder of each kind, made when it is called."""
    return {
        "mean": lambda: TextEncoder(bert, projection=12, hidden=8, max_length=20),
        "cls": lambda: TextEncoder(bert, CLSPooling(), lower_case=True),
        "last token": lambda: TextEncoder(qwen, LastTokenPooling()),
        "attention over tokens": lambda: TextEncoder(bert, AttentionPooling(4, context=True), 8),
        "sets": lambda: SetEncoder(TextEncoder(bert), AttentionPooling(2, context=True), 8),
        "two towers": lambda: TwoTowerEncoder(
            TextEncoder(bert, CLSPooling(), 8, prompts={"query": "w50 "}), TextEncoder(bert, projection=8)
        ),
        "adapter": lambda: TextEncoder(bert, adapter=LORA),
        "matryoshka": lambda: TextEncoder(bert, truncate_dim=10),
        "prompts": lambda: TextEncoder(bert, AttentionPooling(), prompts=PROMPTS, replacements={"w7": "w8"}),
        "static": lambda: StaticEncoder(bert, projection=10),
        "static sets": lambda: SetEncoder(StaticEncoder(bert), AttentionPooling()),
    }


def items_of(encoder: Encoder) -> list[Any]:
    """Random texts, some of them too long, or sets of them."""
    chance = random.Random(0)
    texts = [
        " ".join(f"w{chance.randint(4, 49)}" for _ in range(chance.randint(1, 9) * (10 if row % 9 else 1)))
        for row in range(40)
    ]
    if not isinstance(encoder, SetEncoder):
        return texts
    return [[], ["w5 | w6", "w7\\"], *(chance.sample(texts, chance.randint(1, 5)) for _ in texts)]


def write(folder: Path) -> None:
    """All kinds, each with ``expected.json``: items, and their vectors in each role."""
    logging.getLogger("lit_metric.encoders").setLevel(logging.ERROR)  # some texts are too long
    bert, qwen = (model_folder(folder / "sources" / family, family) for family in ("bert", "qwen3"))
    for kind, make in kinds(bert, qwen).items():
        torch.manual_seed(0)
        encoder = make()
        with torch.no_grad():  # what starts at zero would not show
            for name, value in encoder.named_parameters():
                if "backbone.model" not in name or "lora" in name:
                    value.normal_(std=0.02 if "lora" in name else 0.4)
        items = items_of(encoder)
        roles = [None] if isinstance(encoder, (SetEncoder, StaticEncoder)) else [None, "query", "document"]
        if isinstance(encoder, TwoTowerEncoder):
            roles = ["query", "document"]
        place = folder / kind.replace(" ", "-")
        hub.export(encoder, place)
        hub.export_onnx(encoder, place / "onnx", "float32")
        expected = {
            "kind": kind,
            "items": items,
            "vectors": {role or "": encoder.encode(items, role=role).tolist() for role in roles},
        }
        (place / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
