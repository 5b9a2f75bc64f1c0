"""Batches of clusters of near items (NGAME, WSDM 2023, arXiv 2207.04452)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_metric.batching.classes import IntArray, Members, first_seen, members_of, require_classes
from lit_metric.batching.pairs import one_positive_each
from lit_metric.batching.plan import Plan, VectorPlanner, even_lengths, grid_vectors, random_stream
from lit_metric.clusters import balanced_clusters
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import PairRelations, Relations
from lit_metric.index import Embeddings


class NGAMEPlanner(VectorPlanner):
    """Batches of random clusters of near items, so that most negatives of a batch are hard ones.

    All items are clustered by balanced 2-means (:func:`~lit_metric.clusters.balanced_clusters`) at every
    epoch; clusters are laid end to end in random order, and cut into batches. So each item is an anchor once
    an epoch. Where a batch ends, a cluster may go on in the next one.

    - Where items have labels, all of a batch are anchors and candidates, and each brings one random item more
      of one of its classes as a candidate, so that positives meet that lie far apart. Items without a label
      are left out.
    - Where there are pairs, anchors are clustered, and each brings one of its positives, another one each
      epoch. What two anchors of a batch share is a candidate once, and a negative of neither.

    Args:
        batch_size: the largest number of anchors in a batch, at least 2. An epoch has ``ceil(anchors /
            batch_size)`` batches, whose sizes differ by at most one.
        cluster_size: the largest number of items in a cluster, at least 2: between half of it and all of it.
            The larger, the harder the batch, and the fewer kinds of items are in it; that of a whole batch
            gives the hardest.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when no item has a label or a positive, and ``TypeError`` when the relations have neither labels
            nor pairs.
    """

    def __init__(self, batch_size: int = 256, cluster_size: int = 16) -> None:
        if not 2 <= cluster_size <= batch_size:
            raise ValueError(
                f"cluster_size={cluster_size} must be at least 2, and at most batch_size={batch_size}"
            )
        self.batch_size = batch_size
        self.cluster_size = cluster_size

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        if isinstance(relations, PairRelations):
            anchors = len(one_positive_each(ids.unique().cpu(), relations.to("cpu"), seed, 0)[0])
        else:
            anchors = self._members(ids, relations).items
        return -(-anchors // self.batch_size)

    def _members(self, ids: Tensor, relations: Relations) -> Members:
        members = members_of(ids, relations, asking="NGAMEPlanner")
        require_classes(members, 1, 1, "NGAMEPlanner")
        return members

    def _plan(self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        random = random_stream(seed, epoch)
        if isinstance(relations, PairRelations):
            anchors, partners = one_positive_each(ids.unique().cpu(), relations.to("cpu"), seed, epoch)
            own, others = anchors.numpy(), partners.numpy()
        else:
            members = self._members(ids, relations)
            own = np.unique(members.ids)
            others = partners_of(own, members, random)
        clusters = balanced_clusters(
            lambda rows: grid_vectors(vectors, own[rows]), len(own), self.cluster_size, random
        )
        order = np.concatenate([clusters[place] for place in random.permutation(len(clusters))])
        lengths = even_lengths(len(own), -(-len(own) // self.batch_size))
        rows = Ragged.from_lengths(torch.from_numpy(own[order]), lengths)
        brought = Ragged.from_lengths(torch.from_numpy(others[order]), lengths)
        if isinstance(relations, PairRelations):
            return Plan(rows, _distinct([brought]))
        return Plan(rows, _distinct([rows, brought]))


def partners_of(items: IntArray, members: Members, random: np.random.Generator) -> IntArray:
    """``[n]`` a random other member of a random class of each of ``items [n]``, -1 if there is none.

    Args:
        items: distinct ids, rising, those of ``members``.
        members: by class.
        random: draws.

    Example:
        >>> members = Members(np.array([4, 7, 9]), np.array([2, 1]))
        >>> partners_of(np.array([4, 7, 9]), members, np.random.default_rng(0)).tolist()
        [7, 4, -1]
    """
    sizes = np.repeat(members.sizes, members.sizes)
    order = random.permutation(len(members.ids))
    order = order[sizes[order] > 1]
    found, first = np.unique(members.ids[order], return_index=True)
    places, starts = order[first], np.repeat(members.starts, members.sizes)
    steps = random.integers(1, sizes[places])
    within = (places - starts[places] + steps) % sizes[places]
    partners = np.full(len(items), -1, dtype=np.int64)
    partners[np.searchsorted(items, found)] = members.ids[starts[places] + within]
    return partners


def _distinct(parts: list[Ragged]) -> Ragged:
    """The rows of all ``parts`` side by side, each id once a row, without -1."""
    batches = len(parts[0])
    ids = torch.cat([part.values for part in parts]).numpy()
    batch_of = torch.cat([part.segment_ids for part in parts]).numpy()
    ids, batch_of = ids[ids >= 0], batch_of[ids >= 0]
    kept = np.flatnonzero(first_seen(batch_of, ids))
    kept = kept[np.argsort(batch_of[kept], kind="stable")]
    lengths = np.bincount(batch_of[kept], minlength=batches)
    return Ragged.from_lengths(torch.from_numpy(ids[kept]), torch.from_numpy(lengths))
