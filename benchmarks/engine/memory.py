"""Peak memory and time of training steps on large batches of short texts.

    python -m benchmarks.engine.memory --out DIR             # what `benchmarks.engine --only memory` runs
    python -m benchmarks.engine.memory --out DIR --largest   # 65,536 pairs too, which take up to an hour
    python -m benchmarks.engine.memory --out DIR --only recompute-chunks   # one of these:

- ``memory-flat``: InfoNCE over more and more pairs with ``recompute: chunks``.
- ``recompute-chunks``: that beside a step that keeps all activations, where both fit.
- ``cached-loss``: that beside CachedMultipleNegativesRankingLoss of sentence-transformers.

Each step runs in a process of its own. Its memory is the most that it held, less the most that it held when
the model was loaded. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.measures import banking77, compared, growth, measured
from benchmarks.peer import BACKBONE
from benchmarks.results import BenchmarkError
from benchmarks.throughput import adamw, update
from lit_metric import TextEncoder
from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders.pretrained import locate
from lit_metric.encoders.recompute import TOKENS_IN_MEMORY, resident_memory
from lit_metric.losses import InfoNCELoss

TEMPERATURE = 0.05
MEASURES = ("memory-flat", "recompute-chunks", "cached-loss")
PEER_SIZES = (16, 32, 64, 128, 256)
"""Mini-batches of the peer; see :func:`lean`."""
OUR_TOKENS = (1024, 2048, TOKENS_IN_MEMORY)
"""Tokens in memory beside the peer's cached loss; see :func:`lean`."""
NEARLY = 1.1
"""How many times the shortest time is still nearly the shortest."""

Step = Callable[[], Any]


def texts(count: int) -> list[str]:
    """The questions of Banking77, and again with their words in another order until there are enough."""
    questions, _ = banking77()
    draw = torch.Generator().manual_seed(0)
    made = questions[:count]
    while len(made) < count:
        words = questions[len(made) % len(questions)].split()
        made.append(" ".join(words[place] for place in torch.randperm(len(words), generator=draw).tolist()))
    return made


def our_step(pairs: int, options: dict[str, Any]) -> Step:
    """A training step on this many pairs; ``options`` are of the encoder, which is MiniLM by default."""
    encoder = TextEncoder(**{"backbone": BACKBONE, **options}).train()
    loss, optimizer, both = InfoNCELoss(TEMPERATURE), adamw(encoder), texts(2 * pairs)

    def step() -> None:
        vectors = encoder(EncoderInput.of_texts(encoder.tokenizer.tokenize_ragged(both)))
        update(loss(vectors[:pairs], vectors[pairs:]), optimizer)

    return step


def peer_step(pairs: int, options: dict[str, Any]) -> Step:
    """The same by sentence-transformers; ``options`` are of its loss and its ``dropout``."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    config = dict.fromkeys(names, options["dropout"])
    model = SentenceTransformer(str(locate(BACKBONE)), device="cpu", config_kwargs=config).train()
    loss = CachedMultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, mini_batch_size=options["mini_batch_size"]
    )
    optimizer, both = adamw(model), texts(2 * pairs)
    labels = torch.zeros(pairs, dtype=torch.int64)

    def step() -> None:
        columns = [model.preprocess(both[:pairs]), model.preprocess(both[pairs:])]
        update(loss(columns, labels), optimizer)

    return step


STEPS = {"ours": our_step, "peer": peer_step}


def peak() -> float:
    """The most memory that this process has held, in MB.

    On Linux ``ru_maxrss`` would count what the process that started this one held then.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")]
    if found:
        return found[0]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def reset_peak() -> float:
    """Let :func:`peak` be the most since here, and return the memory that this process holds, in MB.

    Where the system can't, this is :func:`peak`, and nothing changes.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return resident_memory() / 2**20


def run(side: str, pairs: int, steps: int, **options: Any) -> dict[str, Any]:
    """Some steps in a process of their own.

    Args:
        side: "ours" or "peer".
        pairs: of a batch.
        steps: after a first one, where there are several; its time doesn't count.
        options: see :func:`our_step` and :func:`peer_step`.

    Returns:
        ``seconds`` of a step, ``peak_mb`` and ``loaded_mb``: held at the most, and before the first step.
        ``libraries_mb`` is what was held before the model was loaded, and ``steps_peak_mb`` the most that was
        held during the steps.

    Raises:
        BenchmarkError: with the last lines of what the process wrote, if it failed.
    """
    given = json.dumps({"side": side, "pairs": pairs, "steps": steps, "options": options})
    command = [sys.executable, "-m", "benchmarks.engine.memory", "--step", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{given} failed with status {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {given}: {found}", flush=True)
    return found


def child(side: str, pairs: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """What :func:`run` returns, in this process."""
    torch.manual_seed(0)
    if "adapter" in options:
        importlib.import_module("peft")
    libraries = reset_peak()
    step = STEPS[side](pairs, options)
    loaded, seconds = peak(), []
    reset_peak()
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return {
        "seconds": statistics.median(seconds[1:] or seconds),
        "peak_mb": max(peak(), loaded),
        "loaded_mb": loaded,
        "libraries_mb": libraries,
        "steps_peak_mb": peak(),
    }


def added(found: dict[str, Any]) -> float:
    """MB that the steps took beside the loaded model."""
    return float(found["peak_mb"] - found["loaded_mb"])


def lean(steps: Sequence[dict[str, Any]]) -> int:
    """The place of the step that took least memory, of those that were nearly as fast as the fastest.

    Example:
        >>> sizes = [(10.0, 90), (9.5, 200), (9.4, 400), (30.0, 50)]
        >>> lean([{"seconds": of, "peak_mb": 100 + mb, "loaded_mb": 100} for of, mb in sizes])
        0
    """
    bound = NEARLY * min(step["seconds"] for step in steps)
    fast = [place for place, step in enumerate(steps) if step["seconds"] <= bound]
    return min(fast, key=lambda place: added(steps[place]))


def flat(out: Path, sizes: Sequence[int], tokens: int) -> dict[str, Any]:
    """Memory of the largest batch beside that of the smallest."""
    chunks = {"recompute": "chunks", "max_tokens_in_memory": tokens, "dropout": 0.1}
    settings = {"backbone": BACKBONE, "pairs": sizes, "ours": chunks, "loss": "InfoNCELoss", "steps": 1}

    def work() -> dict[str, Any]:
        found = {pairs: run("ours", pairs, 1, **chunks) for pairs in sizes}
        memory = {pairs: added(each) for pairs, each in found.items()}
        seconds = {"lit-metric": {pairs: each["seconds"] for pairs, each in found.items()}}
        return {
            **compared([memory[sizes[-1]]], [memory[sizes[0]]], target=1 / 1.1, higher=False),
            "growth": growth("pairs in a batch", "seconds of a step", seconds),
            "steps": {str(pairs): each for pairs, each in found.items()},
        }

    name = f"memory-flat-{sizes[-1]}"
    return measured(out, name, f"memory at {sizes[-1]} pairs beside {sizes[0]}: MB", settings, work)


def against_none(out: Path, pairs: int, tokens: int, dropout: float, rounds: int) -> dict[str, Any]:
    """Pairs a second with and without recomputation."""
    ways: list[dict[str, Any]] = [
        {"recompute": "chunks", "max_tokens_in_memory": tokens, "dropout": dropout},
        {"recompute": "none", "dropout": dropout},
    ]
    settings = {"backbone": BACKBONE, "pairs": pairs, "ours": ways[0], "peer": ways[1], "rounds": rounds}

    def work() -> dict[str, Any]:
        found = [[run("ours", pairs, 3, **way) for way in ways] for _ in range(rounds)]
        rates = [[pairs / each[side]["seconds"] for each in found] for side in (0, 1)]
        memory = [statistics.median(added(each[side]) for each in found) for side in (0, 1)]
        return {
            **compared(rates[0], rates[1], target=1 / 1.35),
            "memory_mb": {"ours": memory[0], "peer": memory[1]},
        }

    title = f"recompute: chunks beside none, dropout {dropout:g}: pairs/s"
    return measured(out, f"recompute-chunks-dropout-{dropout:g}", title, settings, work)


def cached_loss(out: Path, pairs: int, tokens: Sequence[int], dropout: float, rounds: int) -> dict[str, Any]:
    """Pairs a second beside the peer's cached loss, each side at the setting that :func:`lean` chooses."""
    ours: dict[str, Any] = {"recompute": "chunks", "max_tokens_in_memory": tokens, "dropout": dropout}
    peer = {"loss": "CachedMultipleNegativesRankingLoss", "mini_batch_size": PEER_SIZES, "dropout": dropout}
    settings = {"backbone": BACKBONE, "pairs": pairs, "ours": ours, "peer": peer, "rounds": rounds}
    ways = (
        ("ours", [{**ours, "max_tokens_in_memory": size} for size in tokens]),
        ("peer", [{"mini_batch_size": size, "dropout": dropout} for size in PEER_SIZES]),
    )

    def work() -> dict[str, Any]:
        few, tried, best = min(pairs, 512), {}, {}
        for side, options in ways:
            steps = [run(side, few, 1, **each) for each in options]
            tried[side] = [{**each, **step} for each, step in zip(options, steps, strict=True)]
            best[side] = options[lean(steps)]
        found = [[run(side, pairs, 1, **best[side]) for side, _ in ways] for _ in range(rounds)]
        rates = [[pairs / each[side]["seconds"] for each in found] for side in (0, 1)]
        memory = [statistics.median(added(each[side]) for each in found) for side in (0, 1)]
        return {
            **compared(rates[0], rates[1], target=2.0),
            "chosen": best,
            "tried": tried,
            "memory_mb": {"ours": memory[0], "peer": memory[1]},
        }

    title = f"{pairs} pairs beside the peer's cached loss, dropout {dropout:g}: pairs/s"
    return measured(out, f"cached-loss-dropout-{dropout:g}", title, settings, work)


def measure(
    out: Path, quick: bool, largest: bool = False, only: Sequence[str] = MEASURES
) -> list[dict[str, Any]]:
    """See the module.

    Args:
        out: the folder of results.
        quick: small batches, one round.
        largest: also 65,536 pairs.
        only: which of the measures.
    """
    tokens = 256 if quick else TOKENS_IN_MEMORY
    rounds = 1 if quick else 3
    sizes = [16, 32] if quick else [4096, 16384, *([65536] if largest else [])]
    results = [flat(out, sizes, tokens)] if "memory-flat" in only else []
    for dropout in (0.1, 0.0):
        if "recompute-chunks" in only:
            results.append(against_none(out, 16 if quick else 512, tokens, dropout, rounds))
        if "cached-loss" in only:
            several = (tokens,) if quick else OUR_TOKENS
            results.append(cached_loss(out, 16 if quick else 2048, several, dropout, rounds))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "benchmarks.engine.memory", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="small batches: does it run at all?")
    parser.add_argument("--largest", action="store_true", help="also 65,536 pairs")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES, help="(all)")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # what a process of its own is to do
    given = parser.parse_args(arguments)
    if given.step:
        print(json.dumps(child(**json.loads(given.step))))
        return
    if given.out is None:
        parser.error("--out is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    for result in measure(given.out.resolve(), given.quick, given.largest, given.only):
        print({key: result[key] for key in ("name", "ours", "peer", "ratio", "target")})


if __name__ == "__main__":
    main()
