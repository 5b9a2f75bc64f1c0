"""One pass of mining over labelled texts, by this library and by sentence-transformers, with the same model.

Each is a process of its own:

    python -m benchmarks.mining.offline --by ours --train FILE.parquet --report FILE.json

Both encode every text, search the neighbours of every text, and choose ``negatives`` of them below 95% of
the positive's score. The peer knows of pairs alone: one positive for each anchor, here the next text of its
class.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer import BACKBONE, read
from benchmarks.results import Finished, Spread, digest, kept, read_json, run, spread, write_json

BY = ("ours", "peer")
SHARE = 0.95
CANDIDATES = 50


def positives(labels: Sequence[str]) -> list[int]:
    """For each item the next one of its class, around the end; itself where it is alone.

    Example:
        >>> positives(["a", "b", "a", "c", "a"])
        [2, 1, 4, 3, 0]
    """
    members: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)
    following = {place: own[(at + 1) % len(own)] for own in members.values() for at, place in enumerate(own)}
    return [following[place] for place in range(len(labels))]


def ours(texts: list[str], labels: list[str], negatives: int, backbone: str) -> dict[str, Any]:
    """Encode, mine, draw: seconds, the pairs found, and how many are of one class."""
    from lit_metric import TextEncoder
    from lit_metric.data import LabelRelations
    from lit_metric.index import Embeddings
    from lit_metric.mining import Miner, RelativeMargin, TopK

    encoder = TextEncoder(backbone)
    relations = LabelRelations.from_names(labels, torch.arange(len(labels)))
    ids = torch.arange(len(texts))
    miner = Miner(
        top_k=CANDIDATES, negatives=negatives, filters=[RelativeMargin(1 - SHARE)], draw=TopK(), sample=0
    )
    began = time.perf_counter()
    vectors = encoder.encode(texts)
    encoded = time.perf_counter()
    table = miner.mine(Embeddings(ids, vectors), relations)
    drawn = table.draw(miner.draw, negatives, ids, relations, 0, 0, 0).numpy()
    ended = time.perf_counter()
    pairs = [(anchor, other) for anchor, row in enumerate(drawn.tolist()) for other in row if other >= 0]
    return {
        "seconds": ended - began,
        "encode_seconds": encoded - began,
        "search_seconds": ended - encoded,
        **_told(pairs, labels, len(texts)),
    }


def peer(texts: list[str], labels: list[str], negatives: int, backbone: str) -> dict[str, Any]:
    """The same by ``mine_hard_negatives``."""
    import sentence_transformers
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    from lit_metric.encoders.pretrained import locate

    model = sentence_transformers.SentenceTransformer(str(locate(backbone)), device="cpu")
    own = [(place, other) for place, other in enumerate(positives(labels)) if place != other]
    data = Dataset.from_dict(
        {"anchor": [texts[place] for place, _ in own], "positive": [texts[other] for _, other in own]}
    )
    began = time.perf_counter()
    mined = mine_hard_negatives(
        data,
        model,
        corpus=texts,
        num_negatives=negatives,
        range_max=CANDIDATES,
        relative_margin=1 - SHARE,
        output_format="triplet",
        verbose=False,
    )
    seconds = time.perf_counter() - began
    place = {text: number for number, text in enumerate(texts)}
    pairs = [
        (place[one], place[other]) for one, other in zip(mined["anchor"], mined["negative"], strict=True)
    ]
    return {"seconds": seconds, **_told(pairs, labels, len(texts))}


def _told(pairs: Sequence[tuple[int, int]], labels: Sequence[str], count: int) -> dict[str, Any]:
    same = sum(labels[one] == labels[other] for one, other in pairs)
    anchors = len({one for one, _ in pairs})
    return {
        "texts": count,
        "negatives": len(pairs),
        "anchors": anchors / count,
        "false_negatives": same / max(1, len(pairs)),
    }


def measure(
    out: Path,
    common: Mapping[str, Any],
    train: Path,
    repeats: int,
    threads: int,
    negatives: int = 4,
    backbone: str = BACKBONE,
) -> dict[str, Any]:
    """Both, in turn.

    Args:
        out: the folder to write to.
        common: settings that every result depends on.
        train: file with the columns ``text`` and ``label``.
        repeats: of each.
        threads: of each process.
        negatives: of each anchor.
        backbone: a pretrained text encoder.

    Returns:
        ``ours`` and ``peer``: the mean and spread of each measure; ``ratio``: our seconds divided by theirs,
        for mining with an encoding pass, and ``ratio_search`` for that without, as free refresh does it.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in BY}
    own = {
        "train": digest(train),
        "negatives": negatives,
        "candidates": CANDIDATES,
        "share": SHARE,
        "threads": threads,
        "backbone": backbone,
    }
    for repeat in range(repeats):
        for by in BY:
            name = f"offline-{by}-{repeat}"

            def run_child(by: str = by, name: str = name) -> dict[str, Any]:
                print(f"{name} ...", flush=True)
                report = out / "offline" / f"{name}.json"
                words: list[str | int | Path] = ["--by", by, "--train", train, "--negatives", negatives]
                words += ["--threads", threads, "--backbone", backbone, "--report", report]
                command = [sys.executable, "-m", "benchmarks.mining.offline", *map(str, words)]
                finished: Finished = run(command, log=out / f"{name}.log")
                return {**read_json(report), "peak_memory": finished.peak_memory}

            results[by].append(kept(out / f"{name}.json", {**common, **own, "repeat": repeat}, run_child))
    means: dict[str, dict[str, Spread]] = {
        by: {
            key: spread([each[key] for each in found]) for key in found[0] if key not in ("settings", "texts")
        }
        for by, found in results.items()
    }
    theirs = means["peer"]["seconds"].mean
    return {
        **means,
        "ratio": means["ours"]["seconds"].mean / theirs,
        "ratio_search": means["ours"]["search_seconds"].mean / theirs,
        "settings": {**own, "repeats": repeats},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """One measurement."""
    parser = argparse.ArgumentParser("benchmarks.mining.offline")
    parser.add_argument("--by", choices=BY, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    texts, labels = read(given.train)
    unique = np.unique(texts, return_index=True)[1]  # The peer knows texts by their wording alone.
    texts, labels = [texts[place] for place in sorted(unique)], [labels[place] for place in sorted(unique)]
    found = {"ours": ours, "peer": peer}[given.by](texts, labels, given.negatives, given.backbone)
    write_json(given.report, found)


if __name__ == "__main__":
    main()
