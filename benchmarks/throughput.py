"""Texts per second of the same backbone here and in sentence-transformers: training steps and encoding.

Contenders take turns (A B A B ...), so that a machine that grows slower meanwhile is unfair to none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peer import DIRECTIONS
from benchmarks.results import Spread, spread
from lit_metric import TextEncoder
from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders.pretrained import locate
from lit_metric.losses import DensePairs, InfoNCELoss

Step = Callable[[Sequence[str], Tensor], Any]


def ours(options: Mapping[str, Any], device: str = "cpu") -> Step:
    """A training step of a text encoder with these arguments: tokens to updated weights.

    Tokens are made within the step, though a run makes them only once, as the peer makes them at each step.
    """
    encoder = TextEncoder(**options).to(device)
    encoder.train()
    loss = InfoNCELoss()
    optimizer = adamw(encoder)

    def step(texts: Sequence[str], labels: Tensor) -> None:
        tokens = encoder.tokenizer.tokenize_ragged(list(texts))
        vectors = encoder(EncoderInput.of_texts(tokens).to(device))
        same = (labels[:, None] == labels).to(device)
        pairs = DensePairs(same & ~torch.eye(len(texts), dtype=torch.bool, device=device), ~same)
        update(loss.on_pairs(vectors, vectors, pairs)["loss"], optimizer)

    return step


def peer(
    backbone: str,
    attention: str = "sdpa",
    recipe: str = "batch-hard",
    dropout: float | None = None,
    head_only: bool = False,
    device: str = "cpu",
) -> Step:
    """The same by sentence-transformers.

    Args:
        backbone: a pretrained text encoder.
        attention: which of transformers' implementations; ``sdpa`` is its default.
        recipe: ``batch-hard``, its loss for labelled batches, or ``ranking``, InfoNCE over all texts of a
            batch, whose first half are anchors and whose second half are their positives.
        dropout: replaces every dropout probability of BERT's configuration; None keeps them.
        head_only: train a dense layer on a frozen backbone, in place of the backbone.
        device: to train on.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses, modules

    names = () if dropout is None else ("hidden_dropout_prob", "attention_probs_dropout_prob")
    model = SentenceTransformer(
        str(locate(backbone)),
        device=device,
        model_kwargs={"attn_implementation": attention},
        config_kwargs=dict.fromkeys(names, dropout),
    )
    if head_only:
        model.requires_grad_(False)
        width: Any = model.get_embedding_dimension()
        model.append(modules.Dense(width, width).to(device))
    model.train()
    ranking = recipe == "ranking"
    loss = (
        losses.MultipleNegativesRankingLoss(model, directions=DIRECTIONS)
        if ranking
        else losses.BatchHardSoftMarginTripletLoss(model)
    )
    optimizer = adamw(model)

    def step(texts: Sequence[str], labels: Tensor) -> None:
        middle = len(texts) // 2
        columns = [texts[:middle], texts[middle:]] if ranking else [texts]
        inputs = [model.preprocess(list(column)) for column in columns]
        moved = [
            {name: value.to(device) if isinstance(value, Tensor) else value for name, value in each.items()}
            for each in inputs
        ]
        update(loss(moved, labels.to(device)), optimizer)

    return step


def half(step: Step, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Step:
    """The same step under autocast, by default to bfloat16, which few processors multiply in hardware."""

    def do(texts: Sequence[str], labels: Tensor) -> None:
        with torch.autocast(torch.device(device).type, dtype):
            step(texts, labels)

    return do


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW over what is trained."""
    return torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-5, fused=True)


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Backward and a step."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def in_turns(
    contenders: Mapping[str, Callable[[], int]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Spread]:
    """Texts per second of each contender, over ``rounds`` turns after one that does not count.

    Args:
        contenders: each does some work when called, and returns how many texts that were.
        rounds: turns of each.
        clock: in seconds.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            begin = clock()
            texts = work()
            if turn:
                rates[name].append(texts / (clock() - begin))
    return {name: spread(values) for name, values in rates.items()}


def counted(work: Callable[[], Any], texts: int) -> Callable[[], int]:
    """``work``, which then says that it was on this many texts."""

    def do() -> int:
        work()
        return texts

    return do


def training(
    texts: Sequence[str],
    labels: Sequence[str],
    options: Mapping[str, Any],
    batches: int,
    size: int,
    rounds: int,
) -> dict[str, Spread]:
    """Texts per second in training steps.

    Args:
        texts: from which ``batches`` batches of ``size`` are drawn, the same for all.
        labels: the class of each.
        options: of our encoder, as the config of the benchmark has them.
        batches: in a turn.
        size: texts in a batch.
        rounds: turns of each.
    """
    classes = {label: number for number, label in enumerate(sorted(set(labels)))}
    numbers = torch.tensor([classes[label] for label in labels])
    drawn = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[: batches * size]
    parts = [([texts[place] for place in part.tolist()], numbers[part]) for part in drawn.split(size)]
    like_peer = {**options, "freeze": False, "dropout": None}
    steps = {
        "lit-metric, as configured": ours(options),
        "lit-metric, with dropout and all trained": ours(like_peer),
        "lit-metric, the same, padded": ours({**like_peer, "packing": "never"}),
        "sentence-transformers": peer(options["backbone"]),
        "lit-metric, bfloat16, as configured": half(ours(options)),
        "lit-metric, bfloat16, with dropout and all trained": half(ours(like_peer)),
        "sentence-transformers, bfloat16": half(peer(options["backbone"])),
        "sentence-transformers, bfloat16, eager attention": half(peer(options["backbone"], "eager")),
    }

    def turn(step: Step) -> None:
        for part, kinds in parts:
            step(part, kinds)

    work = {name: counted(partial(turn, step), len(drawn)) for name, step in steps.items()}
    return in_turns(work, rounds)


def encoding(texts: Sequence[str], backbone: str, rounds: int) -> dict[str, Spread]:
    """Texts per second in encoding; both sort by length first, the peer in its batches of 32, and of 128."""
    from sentence_transformers import SentenceTransformer

    folder = str(locate(backbone))
    encoder, model = TextEncoder(backbone), SentenceTransformer(folder, device="cpu")
    rounded = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    rows = list(texts)
    work: dict[str, Callable[[], Any]] = {
        "lit-metric": partial(encoder.encode, rows),
        "sentence-transformers, batches of 32": partial(model.encode, rows, batch_size=32),
        "sentence-transformers, batches of 128": partial(model.encode, rows, batch_size=128),
        "lit-metric, bfloat16": partial(encoder.encode, rows, precision="bfloat16"),
        "sentence-transformers, bfloat16, batches of 32": partial(rounded.encode, rows, batch_size=32),
        "sentence-transformers, bfloat16, batches of 128": partial(rounded.encode, rows, batch_size=128),
    }
    return in_turns({name: counted(do, len(rows)) for name, do in work.items()}, rounds)
