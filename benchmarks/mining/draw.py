"""What to draw where a fifth of the labels is hidden: how often a hidden positive is drawn as a negative, and
what training comes to.

Each run is a ``lit-metric fit`` of Banking77 with the unlabelled texts as candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.peer import BACKBONE, read
from benchmarks.results import REPOSITORY, Spread, digest, fit, kept, spread
from lit_metric.configurable import rebuilt
from lit_metric.mining import Miner, NegativeTable, versions

CONFIG = "configs/banking77.yaml"
HIDDEN = 0.2
MEASURES = ("hidden_positives", "map@r", "seconds")


def _of(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"lit_metric.mining.{name}", "init_args": arguments}


def variants(backbone: str = BACKBONE) -> dict[str, dict[str, Any]]:
    """The arguments of the miner by the name of what is compared."""
    guide = _of("EncoderGuide", encoder=backbone)
    return {
        "top-k": {"filters": [], "draw": _of("TopK")},
        "window": {"filters": [], "draw": _of("UniformWindow", start=10, stop=50)},
        "margin": {"filters": [_of("AbsoluteMargin", margin=0.05)], "draw": _of("TopK")},
        "percentage": {"filters": [_of("RelativeMargin", margin=0.05)], "draw": _of("TopK")},
        "SimANS": {"filters": [], "draw": _of("SimANS", a=100.0, b=0.0)},
        "guide": {"filters": [_of("GuideFilter", guide=guide)], "draw": _of("TopK")},
        "default": {},
    }


NAMES = ("none", *variants())


def hide(train: Path, path: Path, seed: int, share: float = HIDDEN) -> list[str]:
    """Write ``train`` with a share of its labels left out, chosen by sha256 of seed, place and text.

    Returns:
        The true label of every row, hidden or not.
    """
    texts, labels = read(train)
    shown = [
        None if _number(f"{seed} {place} {text}") < share else label
        for place, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, "label": pa.array(shown, pa.string())}), path)
    return list(labels)


def _number(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13


def hidden_positives(
    folder: Path, labels: Sequence[str], seed: int, steps: Sequence[int] = (0, 1, 2)
) -> dict[str, float]:
    """Of the negatives that the newest table of a run gives, the share that is of the anchor's true class.

    Args:
        folder: of the run.
        labels: true, by item id; ids beyond are of no training item.
        seed: of the draws.
        steps: draws that are counted.
    """
    root = folder / "negatives"
    table = NegativeTable.open(root, versions(root)[-1])
    miner = rebuilt(table.settings)
    assert isinstance(miner, Miner)
    anchors = torch.from_numpy(table.anchors.astype("int64"))
    drawn = wrong = without = 0
    for step in steps:
        # Nothing here is drawn at random beside the table, so no relations are asked.
        found = table.draw(miner.draw, miner.negatives, anchors, None, seed, 0, step)  # type: ignore[arg-type]
        without += int((found[:, 0] < 0).sum())
        for anchor, row in zip(anchors.tolist(), found.tolist(), strict=True):
            own = [other for other in row if other >= 0]
            drawn += len(own)
            wrong += sum(labels[other] == labels[anchor] for other in own)
    return {
        "hidden_positives": wrong / max(1, drawn),
        "without": without / max(1, len(steps) * len(anchors)),
    }


def measure(
    out: Path,
    common: Mapping[str, Any],
    train: Path,
    test: Path,
    seeds: int,
    options: Sequence[str],
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Every variant, and training without mined negatives, for every seed.

    Args:
        out: the folder to write to.
        common: settings that every result depends on.
        train, test: files with the columns ``text`` and ``label``.
        seeds: runs of each.
        options: more of the command line of every fit.
        names: some of ``NAMES``; all if None.

    Returns:
        ``runs``: the mean and spread of each measure by variant; ``ours``: the MAP@R of the default, ``peer``
        that of top-k, ``ratio`` of the two.
    """
    miners: dict[str, dict[str, Any] | None] = {"none": None, **variants()}
    chosen = {name: each for name, each in miners.items() if names is None or name in names}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in range(seeds):
        source = out / "draw" / f"train-{seed}.parquet"
        truth = hide(train, source, seed)
        for name, miner in chosen.items():
            own = {
                "data": digest(source, test),
                "config": digest(REPOSITORY / CONFIG),
                "miner": miner,
                "seed": seed,
                "options": list(options),
            }

            def run_fit(
                name: str = name,
                miner: dict[str, Any] | None = miner,
                seed: int = seed,
                source: Path = source,
                truth: list[str] = truth,
            ) -> dict[str, Any]:
                label = f"draw-{name}-{seed}"
                print(f"{label} ...", flush=True)
                words = ["--data.train", str(source), "--data.test", str(test), *_supervision()]
                if miner is not None:
                    words += [f"--data.miner={json.dumps(_miner(miner))}", "--data.refresh.mode=inline"]
                metrics, finished = fit(
                    CONFIG,
                    out / label,
                    *words,
                    "--seed_everything",
                    str(seed),
                    *options,
                    log=out / f"{label}.log",
                )
                found = {} if miner is None else hidden_positives(out / label, truth, seed)
                return {
                    **found,
                    "map@r": metrics["after"]["map@r"],
                    "seconds": metrics["seconds"],
                    "peak_memory": finished.peak_memory,
                }

            results[name].append(kept(out / f"draw-{name}-{seed}.json", {**common, **own}, run_fit))
    runs: dict[str, dict[str, Spread]] = {
        name: {key: spread([each[key] for each in found]) for key in found[0] if key != "settings"}
        for name, found in results.items()
    }
    summary: dict[str, Any] = {
        "runs": runs,
        "settings": {"hidden": HIDDEN, "seeds": seeds, "options": list(options)},
    }
    if {"default", "top-k"} <= runs.keys():
        ours, peer = (runs[name]["map@r"].mean for name in ("default", "top-k"))
        summary |= {"ours": ours, "peer": peer, "ratio": ours / peer}
    return summary


def _supervision() -> list[str]:
    fields = {"text": "text", "label": "label", "unlabelled": "negatives_if_mined"}
    given = [word for name, value in fields.items() for word in (f"--data.supervision.{name}", value)]
    return ["--data.supervision", "lit_metric.data.Labels", *given]


def _miner(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "lit_metric.Miner", "init_args": arguments}
