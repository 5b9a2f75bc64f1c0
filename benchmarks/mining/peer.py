"""Training on hard negatives against mining offline once an epoch by sentence-transformers, for as many
steps.

The peer is a process of its own:

    python -m benchmarks.mining.peer --spec SPEC.json --report REPORT.json

Before each epoch ``mine_hard_negatives`` searches all texts with the weights of the moment, and its trainer
goes through batches of pairs of one class, with its ranking loss in all four directions, each pair of another
class. It knows of pairs alone, so that most of the nearest are of the anchor's class: a tenth of a wide range
is drawn at random, and what is of the anchor's class is left out afterwards. Optimizer and learning rate go
on from one epoch to the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.mining.fits import Runs, map_at_r
from benchmarks.mining.modes import turns
from benchmarks.mining.offline import CANDIDATES, SHARE, positives
from benchmarks.mining.process import in_process, main_of
from benchmarks.peer import DIRECTIONS, in_order, pairs, read, train, trainer_ready
from benchmarks.results import spread

NEGATIVES = 2
DRAWN = 10
ENCODED = 128
# The best of 1e-4, 2e-4 and 4e-4 by MAP@R after four epochs over 2,000 texts, one seed each (--peer-lr).
LEARNING_RATE = 4e-4
WARMUP = 0.1
LESS_MINING = 5.0


class Mined(NamedTuple):
    """What ``mine_hard_negatives`` came to.

    Args:
        negatives: for each of ``n`` texts the places of ``NEGATIVES`` others.
        seconds: that it took.
        share: of the negatives that it found; the others are of another class at random.
    """

    negatives: list[list[int]]
    seconds: float
    share: float


def mine(model: Any, texts: list[str], labels: list[str], seed: int) -> Mined:
    """``NEGATIVES`` hard negatives for every text by ``mine_hard_negatives``.

    Args:
        model: of sentence-transformers.
        texts: ``n`` different ones.
        labels: the class of each.
        seed: of what is drawn at random.
    """
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    largest = max(labels.count(label) for label in set(labels))
    own = [(place, other) for place, other in enumerate(positives(labels)) if place != other]
    data = Dataset.from_dict(
        {"anchor": [texts[place] for place, _ in own], "positive": [texts[other] for _, other in own]}
    )
    random.seed(seed)
    began = time.perf_counter()
    mined = mine_hard_negatives(
        data,
        model,
        corpus=texts,
        num_negatives=DRAWN,
        range_max=max(DRAWN, min(len(texts) - 1, largest + CANDIDATES)),
        relative_margin=1 - SHARE,
        sampling_strategy="random",
        batch_size=ENCODED,
        output_format="triplet",
        verbose=False,
    )
    seconds = time.perf_counter() - began
    place = {text: number for number, text in enumerate(texts)}
    found: list[list[int]] = [[] for _ in texts]
    for anchor, negative in zip(mined["anchor"], mined["negative"], strict=True):
        row, other = found[place[anchor]], place[negative]
        if labels[other] != labels[place[anchor]] and len(row) < NEGATIVES:
            row.append(other)
    share = sum(map(len, found)) / (NEGATIVES * len(texts))
    draw = random.Random(seed)
    for anchor, row in enumerate(found):
        while len(row) < NEGATIVES:
            other = draw.randrange(len(texts))
            if labels[other] != labels[anchor]:
                row.append(other)
    return Mined(found, seconds, share)


def child(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One run of the peer.

    Args:
        spec: see :func:`fit`.
        folder: of the run.

    Returns:
        ``mining_seconds``, ``mined`` (the share of negatives that mining found) and ``epoch_seconds`` (of
        training's batches alone) by epoch, and ``map@r`` of the test texts among themselves by ``step`` and
        ``seconds`` (of both), beginning with the untrained encoder.
    """
    import sentence_transformers as library
    from sentence_transformers.sentence_transformer import losses
    from transformers import get_linear_schedule_with_warmup

    from lit_metric.encoders.pretrained import locate

    trainer_ready()
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    texts, labels = read(spec["train"])
    model = library.SentenceTransformer(str(locate(spec["backbone"])), device="cpu")
    loss = losses.MultipleNegativesRankingLoss(model, directions=DIRECTIONS)
    steps, epochs, rows = spec["batches"], spec["epochs"], spec["rows"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["lr"], weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps * epochs), steps * epochs)
    states, mining, training = [_copy(model)], list[Mined](), list[float]()
    for epoch in range(epochs):
        seed = spec["seed"] * epochs + epoch
        mined = mine(model, texts, labels, seed)
        mining.append(mined)
        data = _tuples(texts, mined.negatives, pairs(labels, rows, steps, seed))
        options = {"max_steps": steps, "per_device_train_batch_size": rows, "seed": seed}
        own = (optimizer, schedule)
        taken = train(model, data, loss, folder / "trainer", options, in_order, optimizers=own).loop
        training.append(taken)
        states.append(_copy(model))
        print(f"epoch {epoch + 1}: mined in {mined.seconds:.1f} s, trained in {taken:.1f} s", flush=True)
    moments = [0.0]
    for before, taken in zip(mining, training, strict=True):
        moments.append(moments[-1] + before.seconds + taken)
    return {
        "mining_seconds": [each.seconds for each in mining],
        "mined": [each.share for each in mining],
        "epoch_seconds": training,
        "map@r": [_score(model, state, spec["test"]) for state in states],
        "step": [steps * epoch for epoch in range(epochs + 1)],
        "seconds": moments,
    }


def _tuples(texts: list[str], negatives: list[list[int]], places: tuple[list[int], list[int]]) -> Any:
    """Anchors, positives and negatives as a ``datasets.Dataset``, batch after batch."""
    from datasets import Dataset

    first, second = places
    columns = {"anchor": first, "positive": second} | {
        f"negative_{number}": [negatives[anchor][number] for anchor in first] for number in range(NEGATIVES)
    }
    return Dataset.from_dict({name: [texts[place] for place in own] for name, own in columns.items()})


def _score(model: Any, state: Mapping[str, torch.Tensor], test: str) -> float:
    model.load_state_dict(state)
    model.eval()
    return map_at_r(lambda texts: model.encode(texts, convert_to_numpy=True), *read(test))


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def fit(runs: Runs, seed: int) -> dict[str, Any]:
    """One run of the peer, or what ``OUT`` holds of it."""
    corpus = runs.corpus
    labels = read(corpus.train)[1]
    lr = runs.peer_lr or LEARNING_RATE
    several = sum(labels.count(label) > 1 for label in set(labels))
    own = {
        **corpus.settings,
        "recipe": "ranking, mined once an epoch",
        "rows": min(corpus.batch // 2, several),
        "batches": corpus.batches,
        "negatives": NEGATIVES,
        "drawn": DRAWN,
        "seed": seed,
        "epochs": runs.epochs,
        "threads": runs.threads,
        "backbone": runs.backbone,
        "lr": lr,
        "warmup": WARMUP,
    }
    rate = "" if lr == LEARNING_RATE else f"-lr-{lr:g}"
    label = f"peer-{corpus.name}-{runs.epochs}-epochs{rate}-{seed}"
    spec = {**own, "train": str(corpus.train), "test": str(corpus.test)}
    return in_process("benchmarks.mining.peer", runs.out, label, {**runs.common, **own}, spec)


def reached(scores: Sequence[float], seconds: Sequence[float], wanted: float) -> float | None:
    """The first moment at which ``wanted`` was reached, None if it never was.

    Example:
        >>> reached([0.4, 0.5, 0.7], [0.0, 9.0, 20.0], 0.6), reached([0.4], [0.0], 0.6)
        (20.0, None)
    """
    return next((moment for score, moment in zip(scores, seconds, strict=True) if score >= wanted), None)


def compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """One seed.

    Args:
        ours: see :func:`benchmarks.mining.fits.child`.
        theirs: see :func:`child`.

    Returns:
        Of both sides (``ours_NAME``, ``peer_NAME``) ``map@r``, ``seconds`` of the run with all mining, and
        ``reach``, the seconds until the peer's last MAP@R (``ours_reach`` is None if that was not reached);
        ``mining``, all seconds spent on it, by whatever process, and ``refresh``, those after the first
        table. ``ours_waited`` is what training waited for it.
    """
    cold = ours["cold_start_seconds"]
    moments = [0.0, *(cold + second for second in ours["seconds"][1:])]
    stalled = sum(each.get("stall_seconds", 0.0) for each in ours["refreshes"])
    snapshots = sum(ours["snapshot_seconds"])
    # Where training waited longer than mining took, the process was not there yet.
    spent = sum(max(each["seconds"], each.get("stall_seconds", 0.0)) for each in ours["refreshes"])
    refresh = spent + snapshots
    wanted = theirs["map@r"][-1]
    return {
        "ours_map@r": ours["map@r"][-1],
        "peer_map@r": wanted,
        "ours_seconds": moments[-1],
        "peer_seconds": theirs["seconds"][-1],
        "ours_reach": reached(ours["map@r"], moments, wanted),
        "peer_reach": reached(theirs["map@r"], theirs["seconds"], wanted),
        "ours_mining": cold + refresh,
        "peer_mining": sum(theirs["mining_seconds"]),
        "ours_refresh": refresh,
        "peer_refresh": sum(theirs["mining_seconds"][1:]),
        "ours_waited": cold + snapshots + stalled,
    }


def measure(runs: Runs) -> dict[str, Any]:
    """Ours with free refresh, and the peer, in turn.

    Returns:
        ``seeds``: :func:`compared` for each; ``runs``: the mean and spread of each number; ``curves``: MAP@R
        by seconds for both, seed by seed; ``ours`` and ``peer``: the mean seconds to reach the peer's last
        MAP@R, ``ratio`` of the two, None where ours did not reach it with some seed; ``mining``: the ratios
        of the seconds spent on mining, in all, after the first table, and as training waits for it;
        ``targets``.
    """
    free = {"free": runs.kinds["free"]}
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for seed in range(runs.seeds):
        for side in ("ours", "peer") if seed % 2 == 0 else ("peer", "ours"):
            if side == "ours":
                ours += turns(runs, free, [seed])["free"]
            else:
                theirs.append(fit(runs, seed))
    each = [compared(*both) for both in zip(ours, theirs, strict=True)]
    numbers = {
        name: spread([row[name] for row in each])
        for name in each[0]
        if all(row[name] is not None for row in each)
    }
    mining = {
        name: numbers[f"ours_{one}"].mean / numbers[f"peer_{other}"].mean
        for name, one, other in (
            ("all", "mining", "mining"),
            ("refresh", "refresh", "refresh"),
            ("waited", "waited", "mining"),
        )
        if numbers[f"peer_{other}"].mean
    }
    reach = [numbers[name].mean if name in numbers else None for name in ("ours_reach", "peer_reach")]
    better = numbers["ours_map@r"].mean - numbers["peer_map@r"].mean
    return {
        "seeds": each,
        "runs": numbers,
        "curves": {"ours": _curves(ours), "peer": _curves(theirs)},
        "ours": reach[0],
        "peer": reach[1],
        "ratio": reach[0] / reach[1] if reach[0] is not None and reach[1] else None,
        "mining": mining,
        "targets": {
            "mining": {
                "at most": 1 / LESS_MINING,
                "is": mining["all"],
                "met": mining["all"] <= 1 / LESS_MINING,
            },
            "map@r": {"no worse by": 0.0, "is": better, "met": better >= 0},
        },
        "settings": {**runs.settings, "peer": theirs[0]["settings"]},
    }


def _curves(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, list[float]]]:
    curves = []
    for one in runs:
        start = one.get("cold_start_seconds", 0.0)
        moments = [0.0, *(start + second for second in one["seconds"][1:])]
        curves.append({"seconds": moments, "map@r": list(one["map@r"])})
    return curves


def main(arguments: Sequence[str] | None = None) -> None:
    """One run of the peer."""
    main_of("benchmarks.mining.peer", child, arguments)


if __name__ == "__main__":
    main()
