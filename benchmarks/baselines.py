"""What a person would try first on items made of tags: columns of tags or of their words, and scikit-learn.

    python -m benchmarks.baselines --output runs/baselines.json

Every choice (how neighbours vote, how strong the regulariser is) is made on the validation items; the test
items are scored once, by the model chosen. Columns and their weights come from the training items. So a tag
that training never met has no one-hot column, and an item of such tags alone is given the most frequent
training label; a column per word still knows the words that such a tag shares with others.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from benchmarks.tagged_items import SHIPPED, TaggedItems, read_splits
from benchmarks.unseen_tags import SHARE, unseen_splits

NEIGHBOURS = 10
INVERSE_REGULARISATION = (0.1, 0.3, 1.0, 3.0, 10.0)

Scores = dict[str, float]
Labels = NDArray[np.str_]


class Baseline(NamedTuple):
    """How one row of the table is fitted: its columns, its settings to choose from, and what to choose by."""

    vectorizer: Callable[[], Any]
    classifier: Callable[[Any], Any]
    settings: tuple[Any, ...]
    chosen_by: tuple[str, ...]


def words(tags: Sequence[str]) -> list[str]:
    """The words that tags are made of.

    Example:
        >>> words(["works-with::image:raster"])
        ['works', 'with', 'image', 'raster']
    """
    return [word for tag in tags for word in re.findall(r"[^-:]+", tag)]


def similarity_votes(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the neighbours' votes: their cosine similarity."""
    return 1.0 - distances


def nearest_neighbours(weights: Any) -> KNeighborsClassifier:
    """10-NN by exact cosine similarity."""
    return KNeighborsClassifier(NEIGHBOURS, metric="cosine", algorithm="brute", weights=weights)


def logistic(class_weight: str | None) -> Callable[[float], LogisticRegression]:
    """A factory of multinomial logistic regressions by inverse regularisation."""
    return lambda C: LogisticRegression(C=C, class_weight=class_weight, max_iter=1000)


BASELINES = {
    "one-hot TF-IDF 10-NN": Baseline(
        lambda: TfidfVectorizer(analyzer=list),
        nearest_neighbours,
        ("uniform", similarity_votes),
        ("macro", "micro"),
    ),
    "word TF-IDF 10-NN": Baseline(
        lambda: TfidfVectorizer(analyzer=words),
        nearest_neighbours,
        ("uniform", similarity_votes),
        ("macro", "micro"),
    ),
    "logistic regression": Baseline(
        lambda: CountVectorizer(analyzer=list, binary=True),
        logistic(None),
        INVERSE_REGULARISATION,
        ("micro",),
    ),
    "logistic regression, class-balanced": Baseline(
        lambda: CountVectorizer(analyzer=list, binary=True),
        logistic("balanced"),
        INVERSE_REGULARISATION,
        ("macro",),
    ),
}
"""A plain model is chosen by the share of items it gets right, a class-balanced one by the mean over classes,
which is what each of them optimises; neighbours by the sum of both."""


class Fitted(NamedTuple):
    """A baseline fitted to training items, with the setting that did best on validation."""

    vectorizer: Any
    classifier: Any
    most_frequent: str
    setting: Any
    validation: Scores

    def predict(self, tags: Sequence[Sequence[str]]) -> Labels:
        """``[n]``, the label of each list of tags."""
        features = self.vectorizer.transform(tags)
        known = np.flatnonzero(features.getnnz(axis=1))
        predicted = np.full(len(tags), self.most_frequent, dtype=self.classifier.classes_.dtype)
        if len(known):
            predicted[known] = self.classifier.predict(features[known])
        return predicted


def accuracy(labels: Sequence[str], predicted: Sequence[str] | Labels) -> Scores:
    """The share of correct predictions over all items (micro), and its mean over the true classes (macro).

    Example:
        >>> accuracy(["a", "a", "a", "b"], ["a", "a", "b", "a"])
        {'macro': 0.333..., 'micro': 0.5}
    """
    truth = np.asarray(labels)
    correct = truth == np.asarray(predicted)
    macro = np.mean([correct[truth == label].mean() for label in np.unique(truth)])
    return {"macro": float(macro), "micro": float(correct.mean())}


# Small sparse matrices: several threads mostly wait for each other, the longer the busier the cores.
@threadpool_limits.wrap(limits=1)
def fit(baseline: Baseline, train: TaggedItems, validation: TaggedItems) -> Fitted:
    """Fit a baseline with each of its settings and keep the one best on validation (if equal, the first)."""
    vectorizer = baseline.vectorizer()
    features = vectorizer.fit_transform(train.tags)
    labels, counts = np.unique(train.sections, return_counts=True)
    most_frequent = str(labels[counts.argmax()])
    candidates = []
    for setting in baseline.settings:
        classifier = baseline.classifier(setting).fit(features, train.sections)
        fitted = Fitted(vectorizer, classifier, most_frequent, setting, {})
        scores = accuracy(validation.sections, fitted.predict(validation.tags))
        candidates.append(fitted._replace(validation=scores))
    return max(candidates, key=lambda fitted: sum(fitted.validation[name] for name in baseline.chosen_by))


def baselines(train: TaggedItems, validation: TaggedItems, test: TaggedItems) -> dict[str, Scores]:
    """Test accuracies of every baseline: ``{name: {"macro": …, "micro": …}}``, between 0 and 1."""
    return {
        name: accuracy(test.sections, fit(baseline, train, validation).predict(test.tags))
        for name, baseline in BASELINES.items()
    }


def unseen_baselines(splits: dict[str, TaggedItems], share: float = SHARE, part: int = 0) -> dict[str, Any]:
    """The same where ``share`` of the tags never occur in training; ``benchmarks.unseen_tags`` says how.

    Returns:
        ``n``, the number of test items (those with an unseen tag); ``unseen_tags``, how many tags are unseen;
        ``only-unseen`` and ``all-tags``, the tables for test items under their unseen tags and under all.
    """
    variants, unseen = unseen_splits(splits, share, part)
    tables: dict[str, dict[str, Scores]] = {variant: {} for variant in variants}
    for name, baseline in BASELINES.items():
        some = variants["only-unseen"]
        fitted = fit(baseline, some["train"], some["validation"])
        for variant, parts in variants.items():
            test = parts["test"]
            tables[variant][name] = accuracy(test.sections, fitted.predict(test.tags))
    return {"n": len(variants["only-unseen"]["test"].names), "unseen_tags": len(unseen), **tables}


def format_table(title: str, table: dict[str, Scores]) -> str:
    """A table of accuracies as lines of text."""
    rows = [f"{name:<40}{scores['macro']:>8.3f}{scores['micro']:>8.3f}" for name, scores in table.items()]
    return "\n".join([f"{title:<40}{'macro':>8}{'micro':>8}", *rows])


def main() -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="Parquet with name, tags, section, split")
    parser.add_argument("--output", type=Path, help="a JSON file to write the numbers to")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    splits = read_splits(arguments.data)
    result: dict[str, Any] = {"test": baselines(splits["train"], splits["validation"], splits["test"])}
    result["unseen"] = unseen_baselines(splits)
    result["seconds"] = round(time.perf_counter() - begin, 1)
    print(format_table(f"test, {len(splits['test'].names):,} items", result["test"]), end="\n\n")
    for variant in ("only-unseen", "all-tags"):
        print(
            format_table(f"{variant}, {result['unseen']['n']:,} items", result["unseen"][variant]), end="\n\n"
        )
    print(f"{result['seconds']} s")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
