"""Names that have changed. Each old name is refused with the new one, in Python, in YAML and in options."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Each new name is a name, or a sentence that says what to do where nothing took the place of the old one.
NAMES: dict[str, dict[str, str]] = {
    "lit_metric": {"described": "lit_metric.configurable"},
    "lit_metric.batching": {
        "DataSet": "MixturePart",
        "ItemVectors": "lit_metric.index.Embeddings",
        "resume_epoch": "use resume_position, which gives the epoch and the step",
    },
    "lit_metric.callbacks": {
        "monitors": "lit_metric.callbacks.checkpoints",
        "run_folder": "lit_metric.loggers",
    },
    "lit_metric.data": {
        "Content": "Dataset",
        "Reading": "ReadOptions",
        "concatenate": "nothing used it",
        "excluded": "lit_metric.data.formats.listed_rows",
        "files": "lit_metric.store",
        "given": "lit_metric.data.dataset",
        "guessed": "guess_supervision",
        "labelled_items": "use MetricDataModule, or Labels(...).items(Columns(table, problems))",
        "memory": "lit_metric.data.progress",
        "rejected": "use Problems.write, a method",
        "stored": "lit_metric.store",
    },
    "lit_metric.encoders": {"from_spec": "lit_metric.configurable.rebuilt"},
    "lit_metric.losses": {
        "GuidedPairs": "PairsWrapper",
        "SameClass": "LabelPairs",
        "WeightedAnchors": "PairsWrapper",
        "allocate_saved": "use load_state_dict, which creates missing proxies",
        "batch_all": "use TripletLoss with mining",
        "batch_hard": "use TripletLoss with mining",
        "batch_semi_hard": "use TripletLoss with mining",
        "distillation_kl": "use DistillationKLLoss",
        "informative": "use MultiSimilarityLoss",
        "pair_norms": "use NPairLoss",
        "too_alike": "too_similar",
    },
    "lit_metric.metrics": {
        "average_precision": "use sklearn.metrics.average_precision_score",
        "functional": "lit_metric.metrics",
        "macro_f1": "use f1_macro of prediction_counts",
        "normalized_mutual_information": "use sklearn.metrics.normalized_mutual_info_score",
        "occurrence_skewness": "use scipy.stats.skew",
        "pearson": "use scipy.stats.pearsonr",
        "spearman": "use scipy.stats.spearmanr",
    },
    "lit_metric.mining": {
        **dict.fromkeys(("bank", "snapshot", "supervisor", "timetable", "worker"), "lit_metric.refresh"),
        "AbsoluteMax": "MaxScore",
        "MarginFilter": "AbsoluteMargin",
        "Moment": "DrawContext",
        "PercentageFilter": "use RelativeMargin(margin=0.05) in place of PercentageFilter(0.95)",
        "Pool": "DrawContext",
        "RankWindow": "RankRange",
        "TableVectors": "use open_vectors, a function",
        "arrays": "lit_metric.configurable",
        "collect": "collect_versions",
    },
}
"""Classes, functions and modules, by the package that they were imported from."""

HOOKS = {
    "build": "setup(self, context)",
    "needs_classes": "requires_labels",
    "uses_targets": "requires_scores",
}
"""What a loss of a user's own may still define."""

ARGUMENTS: dict[str, dict[str, str]] = {
    "lit_metric.batching.PlanSampler": {
        "epoch_fn": "use position_fn, which gives the epoch and the number of its batches trained on before",
        "planned_fn": "use before_fn, which may act, and version_fn, which only looks",
        "start_fn": "use position_fn, which gives the epoch and the number of its batches trained on before",
    },
    "lit_metric.clusters.k_means": {"metric": "similarity"},
    "lit_metric.clusters.nearest_centres": {"metric": "similarity"},
    "lit_metric.data.Labels": {"unlabelled=candidates": "negatives_if_mined"},
    "lit_metric.data.UnionRelations": {"offsets": "leave it out; the parts say where each begins"},
    "lit_metric.datamodule.MetricDataModule": {
        "test_against": "test_corpus",
        "validate_against": "validation_corpus",
    },
    "lit_metric.evaluation.Evaluation": {"temperature": "knn_temperature"},
    "lit_metric.index.ExactIndex": {"metric": "similarity"},
    "lit_metric.index.FaissIndex": {"metric": "similarity"},
    "lit_metric.index.Index.search": {"left_out": "exclude"},
    "lit_metric.losses.InfoNCELoss": {
        "other_positives": "use positives_in_denominator: true (in) or false (out)"
    },
    "lit_metric.losses.RelationPairs": {"certain": "labelled_relations", "drawn": "mined_negatives"},
    "lit_metric.metrics.NeighbourMetrics": {"temperature": "knn_temperature"},
    "lit_metric.mining.AbsoluteMargin": {"reference": "positive_score"},
    "lit_metric.mining.BM25Proposer": {"metric": "similarity"},
    "lit_metric.mining.ClusterProposer": {"metric": "similarity"},
    "lit_metric.mining.GuideFilter": {"reference": "positive_score"},
    "lit_metric.mining.MaxScore": {"maximum": "max_score"},
    "lit_metric.mining.Miner": {
        "candidates": "top_k",
        "cold_start": "use data.refresh.first_table: before_training (mine), in_background (in_batch)",
        "delay": "data.refresh.delay",
        "device": "data.refresh.device",
        "free_refresh": "data.refresh.reuse_training_embeddings",
        "max_fetch": "max_scanned",
        "max_staleness": "leave it out; a table is at most every + delay - 1 batches old",
        "mode": "use data.refresh.mode: inline or scheduled, which takes the place of eager, too",
        "refresh": "data.refresh.every",
        "restarts": "data.refresh.restarts",
        "strict": "data.refresh.strict",
        "threads": "data.refresh.threads",
        "timeout": "data.refresh.timeout",
    },
    "lit_metric.mining.Miner.mine": {
        "ids": "use mine(Embeddings(ids, vectors), relations), with lit_metric.index.Embeddings"
    },
    "lit_metric.mining.NegativeTable": {"metric": "similarity"},
    "lit_metric.mining.RandomProposer": {"metric": "similarity"},
    "lit_metric.mining.RankRange": {"start": "range_min", "stop": "range_max"},
    "lit_metric.mining.RelativeMargin": {
        "reference": "positive_score",
        "share": "use margin: 1 - share, so 0.05 in place of 0.95",
    },
    "lit_metric.mining.SimANS": {"reference": "positive_score"},
    "lit_metric.modules.MetricLearner": {"vote_temperature": "knn_temperature"},
}
"""Arguments by class, function or ``Class.method``. ``name=value`` is one value of an argument."""

METHODS: dict[str, dict[str, str]] = {
    "lit_metric.batching.BatchPlanner": {"plan_by": "use plan(ids, relations, seed, epoch, vectors=...)"},
    "lit_metric.data.Batch": {"drawn": "mined_negatives"},
    "lit_metric.data.Dataset": {"facts": "judgements"},
    "lit_metric.data.Relations": {"certain": "labelled_only"},
    "lit_metric.data.Supervision": {"planned": "use Dataset.planned, which is set when the data are read"},
    "lit_metric.datamodule.MetricDataModule": {
        "chunk_loader": "encoding_loader",
        "given_pairs": "use dataset.pairs",
        "given_triplets": "use dataset.triplets",
        "planned_for": "use refresher.version(batch)",
        "tables": "use refresher.task.tables",
        "version_for": "use refresher.version(batch)",
    },
    "lit_metric.index.ExactIndex": {"search_own": "search_by_id"},
    "lit_metric.index.Index": {"leaves_out": "excludes", "metric": "use similarity, an attribute"},
    "lit_metric.losses.Pairs": {"targets": "use rows(start, stop, targets=True).target"},
    "lit_metric.mining.Miner": {"drawing": "use draw, an attribute", "source": "use TableNegatives"},
}
"""Methods and attributes of instances, by class."""

METRICS: dict[str, str] = {"accuracy_frequent": "accuracy_head", "accuracy_rare": "accuracy_tail"}
"""Endings of the names of metrics, such as ``val/knn10_accuracy_rare``."""

OPTIONS: dict[str, dict[str, str]] = {
    "mine": {
        "--candidates": "--top_k",
        "--filter": "--filters",
        "--max-tokens": "--data.max_tokens",
        "--seed": "--data.seed",
    },
    "search": {"--top-k": "--k"},
}
"""Options by command."""


def refusal(old: str, new: str) -> str:
    """The message that refuses an old name.

    Example:
        >>> refusal("RankWindow", "RankRange")
        'RankWindow is called RankRange now'
        >>> refusal("eager", "use scheduled, which repeats bit for bit")
        'eager is gone: use scheduled, which repeats bit for bit'
    """
    return f"{old} is gone: {new}" if " " in new else f"{old} is called {new} now"


def refused_name(path: str) -> str | None:
    """The message that refuses the old name of a class, bare or as a path; None for any other name.

    Example:
        >>> refused_name("lit_metric.mining.RankWindow")
        'RankWindow is called RankRange now'
    """
    package, _, name = path.rpartition(".")
    for place, names in NAMES.items():
        if name in names and (package == place or (not package and name[0].isupper())):
            return refusal(name, names[name])
    return None


def refused_argument(cls: type, name: str, value: Any = None) -> str | None:
    """The message that refuses an old argument of a class or its bases, or an old value of an argument."""
    for each in cls.__mro__:
        if said := _refused(f"{'.'.join(each.__module__.split('.')[:2])}.{each.__qualname__}", name, value):
            return said
    return None


def refused_metric(name: str) -> str | None:
    """The message that refuses the old name of a metric, such as ``val/NAME``."""
    for old, new in METRICS.items():
        if name.endswith(f"_{old}"):
            return refusal(name, f"{name.removesuffix(old)}{new}")
    return None


def refuse_old_hooks(loss: type) -> None:
    """Raise ``TypeError`` if a loss defines a hook by an old name, which nothing would call."""
    for old, new in HOOKS.items():
        if old in loss.__dict__:
            raise TypeError(f"{loss.__name__}.{old} has another name now: {new}")


def refuse_old_names(module: str) -> None:
    """Refuse the old names of a package and the old arguments and methods of what it offers.

    Call it at the end of the package's ``__init__``.
    """
    space = vars(sys.modules[module])
    if module in NAMES and "__getattr__" not in space:
        space["__getattr__"] = functools.partial(refuse_attribute, module)
    for path in ARGUMENTS:
        for owner, name in _offered(module, path):
            if inspect.isclass(getattr(owner, name)):
                owner, name = getattr(owner, name), "__init__"
            setattr(owner, name, _checked(path, getattr(owner, name)))
    for path, methods in METHODS.items():
        for owner, name in _offered(module, path):
            for old, new in methods.items():
                setattr(getattr(owner, name), old, _OldMethod(refusal(f"{name}.{old}", new)))


def refuse_attribute(module: str, name: str) -> NoReturn:
    """What a package's ``__getattr__`` does with a name that it doesn't know.

    Raises:
        ImportError: for an old name; ``from package import name`` shows the message of no other error.
        AttributeError: for any other name.
    """
    if name in NAMES.get(module, {}):
        raise ImportError(f"{module}.{refusal(name, NAMES[module][name])}")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


class _OldMethod:
    """Stands on a class in place of a method that has another name now."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __get__(self, instance: object, owner: type) -> _OldMethod:
        if instance is None:  # somebody looks through the attributes of the class
            return self
        raise AttributeError(self.message)


def _offered(module: str, path: str) -> Iterator[tuple[Any, str]]:
    """The object that holds what ``path`` names and its name there, if it is in ``module``."""
    if path.startswith(f"{module}."):
        *owners, name = path.removeprefix(f"{module}.").split(".")
        owner: Any = sys.modules[module]
        for each in owners:
            owner = getattr(owner, each, None)
        if name in getattr(owner, "__dict__", {}):
            yield owner, name


def _refused(path: str, name: str, value: Any) -> str | None:
    old = ARGUMENTS.get(path, {})
    place = path.rpartition(".")[2]
    if name in old:
        return refusal(f"{name} of {place}", old[name])
    if f"{name}={value}" in old:
        return refusal(f"{value!r} as {name} of {place}", old[f"{name}={value}"])
    return None


def _checked(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        for name, value in named.items():
            if said := _refused(path, name, value):
                raise TypeError(said)
        return function(*arguments, **named)

    return wrapper
