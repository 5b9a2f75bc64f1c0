"""Texts a second in training steps on Banking77, beside sentence-transformers.

Both train all parameters of the same backbone on the same batches, each of pairs from one class, with the
same AdamW. Ours has InfoNCE over all texts of a batch. The peer has the same loss or batch-hard triplets,
and the attention ``sdpa`` or ``eager`` of transformers: what is fastest in a first round on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import throughput
from benchmarks.engine.measures import OURS, banking77, compared, fastest, growth, in_turn, measured
from benchmarks.peer import BACKBONE, pairs
from benchmarks.throughput import Step

PEER = "sentence-transformers"
RECIPES = ("ranking", "batch-hard")
ATTENTIONS = ("sdpa", "eager")
TARGETS = {("fp32", 0.1): 6.0, ("fp32", 0.0): 4.0, ("bf16", 0.1): 4.0, ("bf16", 0.0): 4.0}
"""Ratios to reach, by precision and dropout."""

Texts = tuple[list[str], Tensor]


def batches(texts: Sequence[str], labels: Sequence[str], size: int, count: int) -> list[Texts]:
    """``count`` batches of ``size`` texts: anchors, then a positive of each, every pair of another class."""
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    half = size // 2
    first, second = pairs(labels, half, count, seed=0)
    drawn = []
    for start in range(0, count * half, half):
        places = first[start : start + half] + second[start : start + half]
        drawn.append(([texts[place] for place in places], torch.tensor([numbers[labels[p]] for p in places])))
    return drawn


def on(step: Step, drawn: Sequence[Texts]) -> Callable[[], None]:
    """Trains on some batches when called."""

    def work() -> None:
        for texts, labels in drawn:
            step(texts, labels)

    return work


def speed(
    ours: Step, peers: dict[str, Step], drawn: list[Texts], grown: dict[int, list[Texts]], rounds: int
) -> dict[str, Any]:
    """Texts a second of both, and how the seconds of a step grow with the batch.

    Args:
        ours: our step.
        peers: the steps of the peer by its settings, of which the fastest counts.
        drawn: batches.
        grown: one batch each by its number of texts.
        rounds: of each side.
    """
    tried = in_turn({name: on(step, drawn[:1]) for name, step in peers.items()}, rounds=1)
    best = fastest(tried)
    both = {OURS: ours, PEER: peers[best]}
    seconds = in_turn({name: on(step, drawn) for name, step in both.items()}, rounds)
    count = sum(len(texts) for texts, _ in drawn)
    rates = {name: [count / each for each in values] for name, values in seconds.items()}
    curves: dict[str, dict[int, float]] = {name: {} for name in both}
    for size, batch in grown.items():
        for name, values in in_turn({name: on(step, batch) for name, step in both.items()}, 1).items():
            curves[name][size] = values[0]
    return {
        **compared(rates[OURS], rates[PEER]),
        "chosen": best,
        "tried_seconds": tried,
        "growth": growth("texts in a batch", "seconds of a step", curves),
    }


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """In float32 and bfloat16, with dropout 0.1 and 0; see the module.

    Args:
        out: the folder of results.
        quick: small batches, one round.
    """
    size, count, rounds = (16, 1, 1) if quick else (128, 2, 5)
    sizes = (8, 16) if quick else (32, 64, 128)
    texts, labels = banking77()
    drawn = batches(texts, labels, size, count)
    grown = {each: batches(texts, labels, each, 1) for each in sizes}
    both = {
        "backbone": BACKBONE,
        "batch": size,
        "batches": count,
        "rounds": rounds,
        "sizes": sizes,
        "trained": "all parameters, fused AdamW",
    }

    def compare(precision: str, dropout: float, target: float) -> dict[str, Any]:
        settings = {
            "both": {**both, "precision": precision, "dropout": dropout},
            "ours": {"loss": "InfoNCELoss", "packing": "auto"},
            "peer": {"loss": RECIPES, "attention": ATTENTIONS, "counts": "the fastest of these"},
        }

        def work() -> dict[str, Any]:
            cast = throughput.half if precision == "bf16" else lambda step: step
            ours = cast(throughput.ours({"backbone": BACKBONE, "dropout": dropout}))
            peers = {
                f"{recipe}, {attention}": cast(throughput.peer(BACKBONE, attention, recipe, dropout))
                for recipe, attention in product(RECIPES, ATTENTIONS)
            }
            return {**speed(ours, peers, drawn, grown, rounds), "target": target}

        title = f"training, {precision}, dropout {dropout:g}: texts/s"
        return measured(out, f"training-{precision}-dropout-{dropout:g}", title, settings, work)

    return [compare(*kind, target) for kind, target in TARGETS.items()]
