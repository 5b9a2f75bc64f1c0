"""Few-shot accuracy: classes that were never trained on, told apart by a few examples of each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def few_shot_accuracy(
    embeddings: Tensor,
    labels: Tensor,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> Tensor:
    """The accuracy of n-way k-shot episodes: queries take the class of the nearest prototype, by the cosine.

    Each episode draws ``ways`` classes, and of each ``shots`` examples, whose mean of unit vectors is the
    prototype, and up to ``queries`` others. Episodes depend on the labels and the seed alone, so two models
    can be compared episode by episode.

    Args:
        embeddings: ``[N, d]``.
        labels: ``[N]`` int64, below 0 for items to be left out. Classes of fewer than ``shots + 1`` items are
            left out, too.
        ways: n, at least 2.
        shots: k, at least 1.
        queries: of each class, at least 1.
        episodes: how many, at least 1.
        seed: of the draws.

    Returns:
        ``[episodes]`` float32 in [0, 1]; their mean is the usual figure.

    Raises:
        ValueError: if a number is out of range, shapes differ, or there are fewer classes than ``ways``.

    Example:
        >>> embeddings, labels = torch.eye(2).repeat(10, 1), torch.arange(2).repeat(10)
        >>> few_shot_accuracy(embeddings, labels, ways=2, episodes=3)
        tensor([1., 1., 1.])
    """
    for name, value, least in (
        *(("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1), ("episodes", episodes, 1)),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings must be [N, d] and labels [N], got {list(embeddings.shape)} and {list(labels.shape)}"
        )
    units = torch.nn.functional.normalize(embeddings.float(), dim=1)
    classes = labels.cpu().numpy()
    names, counts = np.unique(classes[classes >= 0], return_counts=True)
    members = [np.flatnonzero(classes == name) for name in names[counts > shots]]
    if len(members) < ways:
        raise ValueError(
            f"{ways}-way episodes of {shots} shots need {ways} classes with {shots + 1} items or more, and "
            f"there are {len(members)}; take fewer ways or shots"
        )
    random = np.random.default_rng([seed, episodes, ways, shots, queries])
    accuracies = []
    for _ in range(episodes):
        prototypes, asked, answers = [], [], []
        for number, place in enumerate(random.choice(len(members), ways, replace=False)):
            order = random.permutation(members[place])[: shots + queries]
            prototypes.append(units[torch.from_numpy(order[:shots])].mean(dim=0))
            asked.append(units[torch.from_numpy(order[shots:])])
            answers += [number] * len(asked[-1])
        centres = torch.nn.functional.normalize(torch.stack(prototypes), dim=1)
        nearest = (torch.cat(asked) @ centres.T).argmax(dim=1)
        accuracies.append((nearest.cpu() == torch.tensor(answers)).float().mean())
    return torch.stack(accuracies)
