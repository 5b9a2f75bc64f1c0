"""Training steps with LoRA beside steps that train all parameters: pairs a second, and memory.

Both are steps of lit-metric on the same texts, with InfoNCE and a fused AdamW over what is trained. The
``peer`` of a result is the step of all parameters. Each side runs in a process of its own. Its memory is the
most that it held during the steps, less what it held before the model was loaded.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.engine.measures import compared, measured
from benchmarks.engine.memory import run
from benchmarks.peer import BACKBONE
from lit_metric.encoders.pretrained import locate

ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}
LARGE: dict[str, Any] = {
    "model_type": "modernbert",
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_attention_heads": 12,
    "num_hidden_layers": 15,
}
"""A ModernBERT as wide as the base one, of about 100 million parameters with MiniLM's vocabulary."""


def random_model(folder: Path, config: dict[str, Any]) -> str:
    """Write a model with random weights and the tokenizer of MiniLM, and say where."""
    tokenizer = AutoTokenizer.from_pretrained(locate(BACKBONE))
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": first,
        "bos_token_id": first,
        "sep_token_id": last,
        "eos_token_id": last,
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(vocab_size=len(tokenizer), **config, **special))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def beside_full(
    out: Path, name: str, config: dict[str, Any] | None, pairs: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Pairs a second and MB of both sides, which take turns.

    Args:
        out: the folder of results.
        name: of the model.
        config: of a random model; None takes MiniLM.
        pairs: of a batch.
        steps: of each process; the time of the first doesn't count, where there are several.
        rounds: of each side.
    """
    both = {"backbone": config or BACKBONE, "pairs": pairs, "steps": steps, "rounds": rounds}
    settings = {"both": both, "ours": {"adapter": ADAPTER}, "peer": {"trained": "all parameters"}}

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as place:
            backbone = BACKBONE if config is None else random_model(Path(place), config)
            ways: list[dict[str, Any]] = [{"backbone": backbone, "adapter": ADAPTER}, {"backbone": backbone}]
            found = [[run("ours", pairs, steps, **way) for way in ways] for _ in range(rounds)]
        rates = [[pairs / each[side]["seconds"] for each in found] for side in (0, 1)]
        memory = [
            statistics.median(each[side]["steps_peak_mb"] - each[side]["libraries_mb"] for each in found)
            for side in (0, 1)
        ]
        return {
            **compared(rates[0], rates[1], target=1.0),
            "memory_mb": {"ours": memory[0], "peer": memory[1]},
        }

    return measured(out, f"lora-{name}", f"LoRA beside all parameters, {name}: pairs/s", settings, work)


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """For MiniLM and a random ModernBERT of 100 million parameters; see the module.

    Args:
        out: the folder of results.
        quick: small batches, one round, and a ModernBERT of two layers.
    """
    if quick:
        small = {**LARGE, "num_hidden_layers": 2}
        return [beside_full(out, "minilm", None, 8, 1, 1), beside_full(out, "modernbert", small, 4, 1, 1)]
    return [
        beside_full(out, "minilm", None, 64, 4, 3),
        beside_full(out, "modernbert-100m", LARGE, 16, 4, 3),
    ]
