"""Would it pay to differentiate only the texts that a hinge loss has a gradient for?

    LIT_METRIC_DATA=DIR python -m benchmarks.engine --out DIR --only active

Training with TripletLoss, whose triplets have no gradient once they keep the margin, on 20 intents of
Banking77, which are soon learned. The *two-pass* step encodes the batch without a graph, takes the gradient
of the loss by the vectors, encodes the texts whose gradient isn't zero again, now with a graph, and goes back
from there. Without dropout the weights get the same gradient, which is checked. It costs less than a whole
step while fewer than about two thirds of the texts are active.

Every few steps both are timed, in turn, by the time of the processor. The result has the share of active
texts and triplets and the seconds of both steps as training goes on; active.png is the plot. ``ours`` is the
mean step of a learner that takes two passes if fewer than half of the texts were active in the measured step
before. ``peer`` is the mean whole step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.banking77 import BACKBONE
from benchmarks.engine.measures import banking77, measured
from lit_metric import MetricDataModule, TextEncoder
from lit_metric.batching import PKPlanner
from lit_metric.data import Batch, Relations
from lit_metric.losses import Loss, RelationPairs, TripletLoss
from lit_metric.losses.triplet import Mining

INTENTS = 20
MINING: tuple[Mining, ...] = ("all", "hard")
MARGIN = 0.2
LR = 2e-4
WORTH_IT = 0.5
TOLERANCE = 1e-4


class Trainee:
    """An encoder, its loss and its optimizer, and both ways to compute the gradient of a batch."""

    def __init__(self, data: MetricDataModule, encoder: TextEncoder, loss: Loss, lr: float) -> None:
        self.collate: Callable[[Tensor, Tensor], Batch] = data.collator
        self.relations: Relations = data.relations
        self.encoder, self.loss = encoder, loss
        self.optimizer = torch.optim.AdamW(
            (each for each in encoder.parameters() if each.requires_grad), lr, fused=True
        )

    def of_vectors(self, vectors: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss, and what it logs, of ``vectors [I, d]`` of the items of a batch."""
        pairs = RelationPairs(self.relations, batch.anchor_ids, batch.candidate_ids)
        return self.loss.on_pairs(vectors[batch.anchors], vectors[batch.candidates], pairs)

    def whole(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The usual way.

        Returns:
            Which items have a gradient ``[I]``, and what the loss logs.
        """
        vectors = self.encoder(batch.inputs)
        vectors.retain_grad()
        logged = self.of_vectors(vectors, batch)
        logged["loss"].backward()
        assert vectors.grad is not None
        return vectors.grad.any(dim=1), logged

    def in_two_passes(self, batch: Batch) -> None:
        """Differentiate only items that have a gradient."""
        with torch.no_grad():
            vectors = self.encoder(batch.inputs)
        vectors.requires_grad_()
        self.of_vectors(vectors, batch)["loss"].backward()
        assert vectors.grad is not None
        active = vectors.grad.any(dim=1)
        if active.any():  # ids rise within a batch, so the items of the smaller one come in the same order
            ids = batch.item_ids[active]
            self.encoder(self.collate(ids, ids).inputs).backward(vectors.grad[active])

    def gradient(self) -> Tensor:
        """Of all weights, as one vector; then there is none."""
        weights = [each for each in self.encoder.parameters() if each.requires_grad]
        found = torch.cat(
            [
                torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten()
                for each in weights
            ]
        )
        self.optimizer.zero_grad()
        return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what ``work`` returns."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def progress(trainee: Trainee, batches: list[Batch], every: int) -> list[dict[str, float]]:
    """Train on ``batches``, and measure every ``every``-th of them.

    Returns:
        ``step``, ``texts`` and ``triplets`` (shares that are active), ``whole`` and ``two_passes`` (seconds).

    Raises:
        AssertionError: if both ways give other gradients.
    """
    found = []
    trainee.encoder.train()
    for step, batch in enumerate(batches):
        if step % every == 0:
            two_passes, _ = timed(partial(trainee.in_two_passes, batch))
            expected = trainee.gradient()
            whole, (active, logged) = timed(partial(trainee.whole, batch))
            got = trainee.gradient()
            assert (got - expected).norm() <= TOLERANCE * got.norm(), f"gradients differ in step {step}"
            found.append(
                {
                    "step": step,
                    "texts": float(active.float().mean()),
                    "triplets": float(logged["active"]),
                    "whole": whole,
                    "two_passes": two_passes,
                }
            )
        trainee.whole(batch)
        trainee.optimizer.step()
        trainee.optimizer.zero_grad()
    return found


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    """``ours``, ``peer`` and ``ratio`` of a learner that chooses by the last measured step.

    Example:
        >>> early = {"texts": 0.9, "whole": 3.0, "two_passes": 4.0}
        >>> late = {"texts": 0.2, "whole": 3.0, "two_passes": 2.0}
        >>> summary([early, late, late])["ours"]  # 3, 3 and 2 seconds
        2.6666666666666665
    """
    before = [1.0, *(each["texts"] for each in found[:-1])]
    chosen = [
        each["two_passes"] if share < WORTH_IT else each["whole"]
        for share, each in zip(before, found, strict=True)
    ]
    ours, peer = statistics.fmean(chosen), statistics.fmean(each["whole"] for each in found)
    return {"ours": ours, "peer": peer, "ratio": peer / ours, "target": None, "steps": found}


def plot(path: Path, curves: dict[str, list[dict[str, float]]]) -> None:
    """Shares of active texts, and what two passes cost, against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, found in curves.items():
        steps = [each["step"] for each in found]
        (line,) = axis.plot(steps, [each["texts"] for each in found], label=f"{name}: active texts")
        cost = [each["two_passes"] / each["whole"] for each in found]
        axis.plot(steps, cost, ":", color=line.get_color(), label=f"{name}: two passes / whole step")
    axis.axhline(1, color="grey", linewidth=0.5)
    axis.set(xlabel="step", ylim=(0, None), title="TripletLoss on Banking77")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """With the hardest triplets and with all; see the module."""
    steps, every, size = (4, 2, (4, 2)) if quick else (110, 10, (16, 4))
    texts, labels = banking77()
    kept = set(sorted(set(labels))[:INTENTS])
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if label in kept]
    table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    results, curves = [], {}
    for mining in MINING:

        def work(mining: Mining = mining) -> dict[str, Any]:
            torch.manual_seed(0)
            encoder = TextEncoder(BACKBONE, freeze=["embeddings"], dropout=0.0, max_length=64)
            data = MetricDataModule(table, planner=PKPlanner(*size), validation_share=0.1)
            data.prepare(encoder.tokenizer, progress=False)
            batches: list[Batch] = []
            epoch = 0
            while len(batches) < steps:
                plan = data.planner.plan(data.splits["train"], data.relations, 0, epoch)
                batches += [data.collator(*plan.batch(number)) for number in range(len(plan))]
                epoch += 1
            trainee = Trainee(data, encoder, TripletLoss(MARGIN, mining), LR)
            return summary(progress(trainee, batches[:steps], every))

        settings = {"both": {"backbone": BACKBONE, "intents": INTENTS, "classes, per_class": size, "lr": LR}}
        settings["both"] |= {"margin": MARGIN, "mining": mining, "steps": steps, "every": every}
        title = f"step that differentiates active texts only, {mining} triplets: seconds of the processor"
        result = measured(out, f"active-{mining}", title, settings, work)
        results.append(result)
        curves[f"{mining} triplets"] = result["steps"]
    plot(out / "active.png", curves)
    return results
