"""Items a second in training on tagged packages, beside sentence-transformers on joined tags.

Ours is ``configs/debtags.yaml``: an epoch of its batches, from plan to updated weights, with a frozen
backbone whose vectors of tags are kept, and attention over the tags of an item. The peer gets each item as
one text, its tags joined by commas, and its loss for labelled batches. It trains all parameters, or a dense
layer on a frozen backbone, with the attention ``sdpa`` or ``eager`` of transformers: what is fastest in a
first round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks import throughput
from benchmarks.engine.measures import OURS, compared, fastest, growth, in_turn, measured
from benchmarks.engine.training import ATTENTIONS, PEER, on
from benchmarks.peer import BACKBONE
from benchmarks.results import REPOSITORY, digest
from benchmarks.tagged_items import read_splits
from benchmarks.throughput import adamw, update
from lit_metric.cli.training import resolved
from lit_metric.configurable import rebuilt
from lit_metric.losses import RelationPairs

CONFIG = REPOSITORY / "configs" / "debtags.yaml"
TARGET = 20.0
TRAINED = ("all", "head")


def ours() -> tuple[Callable[[int], None], int]:
    """Trains on a number of batches of the config when called, and the number of items in a batch."""
    options = resolved("--config", str(CONFIG))
    learner, data = rebuilt(options["model"]), rebuilt(options["data"])
    encoder, loss = learner.encoder, learner.loss
    data.read()
    data.prepare(encoder.tokenizer, progress=False)
    encoder.train()
    optimizer = adamw(encoder)
    known = data.relations.labelled_only()
    loader: Any = data.train_dataloader()
    loader.sampler.position_fn = None  # there is no trainer whose progress it could ask for

    def work(count: int) -> None:
        done = 0
        while done < count:
            for batch in loader:
                vectors = encoder(batch.inputs)
                ids = batch.anchor_ids, batch.candidate_ids
                pairs = RelationPairs(data.relations, *ids, known, batch.mined_negatives)
                anchors, candidates = vectors[batch.anchors], vectors[batch.candidates]
                update(loss.on_pairs(anchors, candidates, pairs)["loss"], optimizer)
                done += 1
                if done == count:
                    return

    return work, int(data.planner.batch_size)


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """See the module.

    Args:
        out: the folder of results.
        quick: one batch of ours, 16 items of the peer's, one round.
    """
    batches, size, rounds = ((1, 2), 16, 1) if quick else ((1, 2, 6), 128, 5)
    settings = {
        "both": {"backbone": BACKBONE, "rounds": rounds, "data": "debtags", "precision": "fp32"},
        "ours": {"config": CONFIG.name, "sha256": digest(CONFIG), "batches": batches},
        "peer": {
            "batch": size,
            "batches": batches,
            "loss": "batch-hard",
            "trained": TRAINED,
            "attention": ATTENTIONS,
            "counts": "the fastest of these",
        },
    }

    def work() -> dict[str, Any]:
        train, items = ours()
        packages = read_splits()["train"]
        classes = {label: number for number, label in enumerate(sorted(set(packages.sections)))}
        places = torch.randperm(len(packages.tags), generator=torch.Generator().manual_seed(0)).tolist()
        drawn = []
        for start in range(0, batches[-1] * size, size):
            rows = places[start : start + size]
            joined = [", ".join(packages.tags[row]) for row in rows]
            drawn.append((joined, torch.tensor([classes[packages.sections[row]] for row in rows])))
        peers = {
            f"{trained}, {attention}": throughput.peer(BACKBONE, attention, head_only=trained == "head")
            for trained, attention in product(TRAINED, ATTENTIONS)
        }
        tried = in_turn({name: on(step, drawn[:1]) for name, step in peers.items()}, 1)
        chosen = fastest(tried)
        rates: dict[str, list[float]] = {}
        curves: dict[str, dict[int, float]] = {OURS: {}, PEER: {}}
        for count in batches:
            contenders: dict[str, Callable[[], None]] = {
                OURS: partial(train, count),
                PEER: on(peers[chosen], drawn[:count]),
            }
            last = count == batches[-1]
            amounts = {OURS: count * items, PEER: count * size}
            for name, seconds in in_turn(contenders, rounds if last else 1).items():
                curves[name][amounts[name]] = min(seconds)
                rates[name] = [amounts[name] / each for each in seconds]
        return {
            **compared(rates[OURS], rates[PEER], TARGET),
            "chosen": chosen,
            "tried_seconds": tried,
            "growth": growth("items", "seconds", curves),
        }

    return [measured(out, "sets", "training on sets of tags: items/s", settings, work)]
