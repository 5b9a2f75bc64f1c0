"""What an evaluation measures, and evaluation outside of Lightning's loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_metric.data import Batch
from lit_metric.data.evaluated import MEAN, EvaluationView
from lit_metric.data.progress import stage, track
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.metrics import (
    NeighbourMetrics,
    PairMetrics,
    QueryValues,
    SpaceMetrics,
    TripletMetrics,
    percentile_interval,
    resampled_means,
)
from lit_metric.renamed import refuse_old_names

Role = Literal["queries", "corpus"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What an evaluation found.

    Args:
        values: by the name of the metric, as :meth:`Evaluation.compute` returns them.
        queries: the values of each query behind them, under what names of metrics begin with: nothing, or
            ``NAME/`` for a data set of several. ``nearest`` is that of the retrieval metrics.
    """

    values: dict[str, float]
    queries: dict[str, QueryValues]


@dataclass(frozen=True)
class Intervals:
    """95% intervals of a metric before and after, and of the change, by a paired bootstrap over queries.

    Args:
        before, after, change: lower and upper bound.
        queries: how many have a value.
    """

    before: tuple[float, float]
    after: tuple[float, float]
    change: tuple[float, float]
    queries: int


def intervals(
    before: Measured, after: Measured, resamples: int = 1000, seed: int = 0
) -> dict[str, Intervals]:
    """How much of a change could be due to the choice of queries, by the name of the metric.

    Metrics without values by query, such as a macro mean over classes, are left out.

    Args:
        before, after: of the same queries.
        resamples, seed: of :func:`~lit_metric.metrics.resampled_means`.
    """
    found = {}
    for prefix, first in before.queries.items():
        second = after.queries.get(prefix)
        if second is None or not torch.equal(first.ids.cpu(), second.ids.cpu()):
            continue
        names = [name for name in first.columns if name in second.columns]
        sides = [  # [q, m] each
            torch.stack([each.columns[name] for name in names], dim=1).double().cpu()
            for each in (first, second)
        ]
        mass = [first.weights.get(name, torch.ones(len(first.ids))).double().cpu() for name in names]
        weights = torch.stack(mass, dim=1).repeat(1, 2).numpy()
        means = resampled_means(torch.cat(sides, dim=1).numpy(), weights, resamples, seed)
        for place, name in enumerate(names):
            old, new = means[:, place], means[:, len(names) + place]
            first_bounds, last_bounds, bounds = map(percentile_interval, (old, new, new - old))
            if first_bounds and last_bounds and bounds and f"{prefix}{name}" in after.values:
                count = int((~sides[1][:, place].isnan()).sum())
                found[f"{prefix}{name}"] = Intervals(first_bounds, last_bounds, bounds, count)
    return found


class Evaluation(nn.Module):
    """The metrics of one split, chosen by what the data set knows about its items.

    - One class each: retrieval (``hit_rate@k``, ``map@r``, ...) and classification (``knn10_accuracy``, ...),
      under the split's protocol, see ``validation_corpus`` of the data module. With ``"both"``, retrieval is
      leave-one-out among the queries, and the training items vote.
    - Any number of classes each: the same, with ``knn10_f1_micro`` and ``knn10_f1_macro``, and as below.
    - Pairs, judgements, triples: retrieval in the split's corpus, with ``ndcg@10``, ``map@10`` and
      ``recall@10``.
    - Triples besides: ``hits@1``, ``hits@3``, ``hits@10`` and ``filtered_mrr``, without other known facts.
    - Scored pairs besides: ``spearman``, ``pearson``, and ``pair_ap`` where there are two scores only.
    - Triplets besides: ``tot``, and ``tot_GROUP`` for each group.
    - Where queries have groups: ``hit_rate@k_GROUP`` besides.

    Args:
        data: after its ``setup``.
        split: whose items are the queries.
        ks: list lengths of recall and precision.
        knn: numbers of voting neighbours.
        knn_temperature: of the votes; see :class:`~lit_metric.metrics.NeighbourMetrics`.
        graded: list lengths of nDCG, MAP and recall, where relevance is more than a class.
        filtered: list lengths of filtered hits, where relations exclude pairs from the ranking.
        space: whether to add `SpaceMetrics` of the queries.
    """

    def __init__(
        self,
        data: EvaluationView,
        split: str,
        ks: tuple[int, ...] = (1, 5, 10),
        knn: tuple[int, ...] = (1, 10),
        knn_temperature: float | None = None,
        graded: tuple[int, ...] = (10,),
        filtered: tuple[int, ...] = (1, 3, 10),
        space: bool = False,
    ) -> None:
        super().__init__()
        self.roles: list[Role] = ["queries", "corpus"] if len(data.roles(split)) == 2 else ["queries"]
        labels = getattr(data.relations, "labels", None)
        one_each = isinstance(labels, Tensor)

        def metrics(classify: bool) -> NeighbourMetrics:
            return NeighbourMetrics(
                data.relations,
                labels if classify else None,
                ks,
                knn if classify else (),
                knn_temperature=knn_temperature,
                class_counts=data.class_counts if classify and one_each else None,
                graded=() if one_each else graded,
                filtered=filtered if getattr(data.relations, "ignores", False) else (),
                groups=data.dataset.groups,
            )

        searched = "corpus" in self.roles
        alone = not searched or (labels is not None and data.compared_with(split) != "train")
        self.among_queries = metrics(labels is not None and not searched) if alone else None
        self.in_corpus = metrics(labels is not None) if searched else None
        self.space = SpaceMetrics(data.relations, labels if one_each else None) if space else None
        pairs, triplets = data.dataset.pairs.get(split), data.dataset.triplets.get(split)
        self.pairs = None if pairs is None else PairMetrics(pairs.anchors, pairs.candidates, pairs.targets)
        self.triplets = None
        if triplets is not None:
            columns = (triplets.anchors, triplets.positives, triplets.negatives)
            self.triplets = TripletMetrics(*columns, triplets.groups)

    def names(self) -> set[str]:
        """All names that :meth:`compute` may return."""
        each = (self.in_corpus, self.among_queries, self.space, self.pairs, self.triplets)
        return {name for metrics in each if metrics is not None for name in metrics.names()}

    def searched(self, role: str) -> str | None:
        """The role under which all items of ``role`` are searched, for an evaluation of some queries only.

        None: nothing searches them.
        """
        if role == "corpus":
            return role
        return None if self.among_queries is None else "others"

    def update(self, embeddings: Tensor, ids: Tensor, role: str) -> None:
        """Add ``embeddings [n, d]`` of the items ``ids [n]``.

        The role ``others`` is for queries that search their own split: all items of it, the queries included.
        """
        if self.among_queries is not None and role == "others":
            self.among_queries.update(embeddings, ids, corpus=True)
            return
        if self.among_queries is not None and role == "queries":
            self.among_queries.update(embeddings, ids)
        if self.space is not None and role == "queries":
            self.space.update(embeddings, ids)
        if self.in_corpus is not None:
            self.in_corpus.update(embeddings, ids, corpus=role == "corpus")
        for given in (self.pairs, self.triplets):
            if given is not None:
                given.update(embeddings, ids)

    def compute(self, partial: bool = False) -> dict[str, float]:
        """All values, over all processes; then reset.

        Args:
            partial: leave out given pairs and triplets of which an item was not given.
        """
        return self.measure(partial).values

    def measure(self, partial: bool = False) -> Measured:
        """The values of :meth:`compute`, and those of each query behind them; then reset."""
        results: dict[str, float] = {}
        queries: QueryValues | None = None
        for metrics in (self.in_corpus, self.among_queries):
            if metrics is None:
                continue
            found, by_query = metrics.measure()
            values = {name: float(value) for name, value in found.items()}
            metrics.reset()
            if metrics is self.in_corpus and self.among_queries is not None:  # whose training items only vote
                voted = ("knn", "queries_without_voter")
                values = {name: value for name, value in values.items() if name.startswith(voted)}
            results |= values
            columns = by_query.columns if queries is None else queries.columns | by_query.columns
            queries = QueryValues(by_query.ids, columns, by_query.weights, by_query.nearest)
        results |= _finish(self.space)
        given = _finish(self.pairs, partial=partial) | _finish(self.triplets, partial=partial)
        if given and math.isnan(results["mrr"]):  # low scores only, say: there is nothing to retrieve
            results = {"effective_rank": results["effective_rank"]}
        return Measured(results | given, {} if queries is None else {"": queries})


class MixtureEvaluation(nn.Module):
    """The evaluations of a split of several data sets.

    Names of metrics are ``NAME/METRIC``. ``mean`` is the mean of the data sets' main metrics (see
    :attr:`~lit_metric.MetricDataModule.main_metric`), without those that can't be measured.

    Args:
        data: of a mixture, after its ``setup``.
        split: of those data sets that have it.
        options: the other arguments of :class:`Evaluation`.
    """

    def __init__(self, data: EvaluationView, split: str, **options: Any) -> None:
        super().__init__()
        parts = {name: part for name, part in data.parts.items() if split in part.splits}
        sizes = [len(part.relations) for part in data.parts.values()]
        starts = dict(zip(data.parts, accumulate(sizes, initial=0), strict=False))
        self.starts = {name: starts[name] for name in parts}
        self.parts = nn.ModuleList([Evaluation(part, split, **options) for part in parts.values()])
        self.main = {name: part.headlines(split)[0] for name, part in parts.items()}

    def names(self) -> set[str]:
        """All names that :meth:`compute` may return."""
        parts: list[Any] = [*self.parts]
        each = zip(self.starts, parts, strict=True)
        return {MEAN, *(f"{name}/{metric}" for name, part in each for metric in part.names())}

    def searched(self, role: str) -> str | None:
        """See :meth:`Evaluation.searched`."""
        name, _, own = role.rpartition("/")
        part: Any = self.parts[[*self.starts].index(name)]
        again = part.searched(own)
        return None if again is None else f"{name}/{again}"

    def update(self, embeddings: Tensor, ids: Tensor, role: str) -> None:
        """Add ``embeddings [n, d]`` of the items ``ids [n]`` as ``NAME/queries`` or ``NAME/corpus``."""
        name, _, own = role.rpartition("/")
        part: Any = self.parts[[*self.starts].index(name)]
        part.update(embeddings, ids - self.starts[name], own)

    def compute(self, partial: bool = False) -> dict[str, float]:
        """See :meth:`Evaluation.compute`."""
        return self.measure(partial).values

    def measure(self, partial: bool = False) -> Measured:
        """See :meth:`Evaluation.measure`."""
        results: dict[str, float] = {}
        queries: dict[str, QueryValues] = {}
        main = []
        for name, part in zip(self.starts, self.parts, strict=True):
            found = part.measure(partial)  # type: ignore[operator]
            main.append(found.values.get(self.main[name], math.nan))
            results |= {f"{name}/{metric}": value for metric, value in found.values.items()}
            for own in found.queries.values():
                start = self.starts[name]
                nearest = torch.where(own.nearest >= 0, own.nearest + start, -1)
                queries[f"{name}/"] = QueryValues(own.ids + start, own.columns, own.weights, nearest)
        measured = [value for value in main if not math.isnan(value)]
        return Measured({MEAN: sum(measured) / len(measured) if measured else math.nan, **results}, queries)


def evaluation_of(data: EvaluationView, split: str, **options: Any) -> Evaluation | MixtureEvaluation:
    """The evaluation of a split, of one data set or of several."""
    return (MixtureEvaluation if data.parts else Evaluation)(data, split, **options)


def _finish(metrics: Metric | None, **options: bool) -> dict[str, float]:
    """The values of a metric, which is then reset; none for None."""
    if metrics is None:
        return {}
    values = {name: float(value) for name, value in metrics.compute(**options).items()}
    metrics.reset()
    return values


def encode_split(
    encoder: Encoder,
    data: MetricDataModule,
    ids: Tensor,
    rank: int = 0,
    world_size: int = 1,
    shown: str | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of the items ``ids``, in evaluation mode: ``([n, d] vectors, [n] ids)`` per batch.

    ``shown`` is the title of a bar.
    """
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            batches = track(data.encoding_loader(ids), shown or "", shown=shown is not None and rank == 0)
            for number, batch in enumerate(batches):
                if number % world_size == rank:
                    yield encode_batch(encoder, batch.to(encoder.device))
    finally:
        encoder.train(training)


def encode_batch(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """``[A, d]`` raw vectors of a batch's anchors, and their ids ``[A]``."""
    vectors = encoder(batch.inputs)
    return vectors[batch.anchors], batch.anchor_ids


def encode_roles(
    encoder: Encoder,
    data: MetricDataModule,
    split: str,
    evaluation: Evaluation | MixtureEvaluation,
    rank: int = 0,
    world_size: int = 1,
    shown: str | None = None,
    searched_only: bool = False,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> None:
    """Encode the items of each role of ``split`` and give them to its evaluation; all ranks together.

    Args:
        encoder, data, split, evaluation: what to encode, and for whom.
        rank, world_size: this process among all.
        shown: the title of a bar, None for none.
        searched_only: encode only what queries search, after some of the queries were encoded elsewhere.
            Queries that search fewer items would get higher values.
        seen: called with this rank's vectors ``[n, d]`` and ids ``[n]`` of each batch.
    """
    for role, name in data.roles(split).items():
        if (target := evaluation.searched(role) if searched_only else role) is not None:
            for vectors, ids in encode_split(encoder, data, data.splits[name], rank, world_size, shown):
                evaluation.update(vectors, ids, target)
                if seen is not None:
                    seen(vectors, ids)


def evaluate(
    encoder: Encoder,
    data: MetricDataModule,
    split: str,
    evaluation: Evaluation | MixtureEvaluation,
    rank: int = 0,
    world_size: int = 1,
    shown: str | None = None,
) -> dict[str, float]:
    """Encode what the evaluation of ``split`` needs and measure it; arguments as in `encode_roles`."""
    return measure(encoder, data, split, evaluation, rank, world_size, shown).values


def measure(
    encoder: Encoder,
    data: MetricDataModule,
    split: str,
    evaluation: Evaluation | MixtureEvaluation,
    rank: int = 0,
    world_size: int = 1,
    shown: str | None = None,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> Measured:
    """The same as :func:`evaluate`, with the values of each query; ``seen`` as in :func:`encode_roles`."""
    evaluation.to(encoder.device)
    encode_roles(encoder, data, split, evaluation, rank, world_size, shown, seen=seen)
    with stage("searching neighbours", shown is not None and rank == 0):
        return evaluation.measure()


refuse_old_names(__name__)
