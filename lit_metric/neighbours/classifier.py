"""A classifier that asks the nearest labelled items, with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import as_list
from lit_metric.hub import load
from lit_metric.index import ExactIndex
from lit_metric.metrics import knn_predict, knn_predict_labels, knn_shares
from lit_metric.neighbours.inputs import is_items, labels_of
from lit_metric.neighbours.known import Answers, nearest_of_known
from lit_metric.neighbours.storage import read_classifier, write_classifier

QUERIES, COMPARED = 4096, 2**24
"""Items that are classified together, and pairs of votes that are compared together, at most."""


class NeighbourClassifier(ClassifierMixin, BaseEstimator):
    """Classifies items by the votes of their nearest labelled items, by cosine.

    It has the interface of scikit-learn's classifiers. It takes what its encoder takes, such as texts, or
    vectors ``[n, d]`` of numbers, also where there is an encoder. New labelled items, and new classes, join
    by :meth:`partial_fit`, without training.

    ``y`` holds one label for each item, or several: a list of labels each, or a binary matrix
    ``[n, classes]`` as scikit-learn has it. Predictions have the same form. With several labels, each
    neighbour votes for all of its labels, and those with half of the votes are predicted, at least one.

    An item that is unlike anything known can be answered by ``unknown``. What is measured is the cosine of an
    item to its nearest labelled item. ``p_known`` of an item is the share of held-out known items whose
    cosine is not above its own: ``(1 + number of them) / (1 + number of held-out items)``. Items with
    ``p_known <= refuse`` are refused. So of known items like the held-out ones, at most the share ``refuse``
    is refused on average. This is a conformal p-value (Bates et al., Annals of Statistics 2023).

    Args:
        encoder: one, or a path or id for :func:`lit_metric.load`; None takes vectors only.
        k: how many neighbours vote, at least 1.
        temperature: a vote weighs ``exp(cosine / temperature)``; None counts votes.
        refuse: the share of known items that may be refused, in (0, 1); None refuses nothing.
        unknown: the answer for refused items. None: ``"unknown"`` where labels are strings, -1 where they are
            numbers, and no label at all where items have several.
        role: of the items, for an encoder with roles.
        max_tokens: tokens that are encoded together.

    Attributes:
        classes_: ``[c]`` labels, in order.
        names_: ``[n]`` what the labelled items are called: their texts, where there are texts.

    Example:
        >>> classifier = NeighbourClassifier(k=2).fit([[1, 0], [0.9, 0.1], [0, 1]], ["a", "a", "b"])
        >>> classifier.predict([[1.0, 0.2]]).tolist()
        ['a']
        >>> classifier.partial_fit([[-1, 0]], ["c"]).predict([[-1.0, 0.1]]).tolist()
        ['c']
    """

    classes_: NDArray[Any]
    names_: list[str]
    _form: str
    _labels: Ragged

    def __init__(
        self,
        encoder: Encoder | str | Path | None = None,
        k: int = 10,
        temperature: float | None = 0.1,
        refuse: float | None = None,
        unknown: str | int | None = None,
        role: str | None = None,
        max_tokens: int = 16384,
    ) -> None:
        self.encoder = encoder
        self.k = k
        self.temperature = temperature
        self.refuse = refuse
        self.unknown = unknown
        self.role = role
        self.max_tokens = max_tokens

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    @property
    def y_(self) -> list[Any]:
        """``[n]`` the labels of the labelled items; lists where they have several."""
        classes = self.classes_.tolist()
        rows = [[classes[place] for place in row] for row in self._labels.tolist()]
        return [row[0] for row in rows] if self._form == "one" else rows

    def fit(self, X: Any, y: Any, names: Sequence[str] | None = None) -> NeighbourClassifier:
        """Take labelled items, in place of those that there were.

        Args:
            X: ``n`` items, or their vectors ``[n, d]``.
            y: the label or the labels of each.
            names: what to call the items; their texts, if None. Vectors have no name then.

        Raises:
            ValueError: when there is not one label, or list of labels, for each item, or an argument of
                ``__init__`` is out of range.
            TypeError: for items without an encoder.
        """
        self._check_settings()
        for name in ("classes_", "_held_out", "_loaded"):
            self.__dict__.pop(name, None)
        return self._add(X, y, names, reset=True)

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, names: Sequence[str] | None = None
    ) -> NeighbourClassifier:
        """Add labelled items to those that there are, also of new classes.

        Args:
            X, y, names: as in :meth:`fit`.
            classes: more labels that are to be known, with items or without, as scikit-learn has it.

        Raises:
            ValueError: as in :meth:`fit`; or items have one label each there and several here.
        """
        self._check_settings()
        return self._add(X, y, names, reset=not hasattr(self, "classes_"), classes=classes)

    def predict(self, X: Any) -> Any:
        """The label of each item, ``[n]``, or its labels, in the form of ``y``.

        Refused items have the label ``unknown``, or none.
        """
        return self._predict(self._search(X))

    def answer(self, X: Any) -> Answers:
        """All that is known of each item, by one search."""
        found = self._search(X)
        known = None if self.refuse is None else self._p_known(found[0])
        return Answers(self._predict(found), self._shares(found), known, found[0].numpy(), found[1].numpy())

    def _predict(self, found: tuple[Tensor, Tensor]) -> Any:
        refused = np.zeros(len(found[0]), dtype=bool)
        if self.refuse is not None and len(refused):
            refused = self._p_known(found[0]) <= self.refuse
        if self._form == "one":
            unknown = self._unknown()
            winners = [
                knn_predict(labels.values.view(scores.shape), scores, self.temperature)
                for labels, scores in self._votes(*found)
            ]
            names = self.classes_[torch.cat(winners).numpy()]
            return np.where(refused, unknown, names) if refused.any() else names
        several = [
            knn_predict_labels(labels, scores.shape[1], len(self.classes_), scores, self.temperature)
            for labels, scores in self._votes(*found)
        ]
        chosen = torch.cat(several)
        chosen[torch.from_numpy(refused)] = False
        if self._form == "matrix":
            return chosen.numpy().astype(np.int64)
        names_of: list[list[Any]] = [[] for _ in refused]
        for row, place in chosen.nonzero().tolist():
            names_of[row].append(self.classes_[place].item())
        answer = [] if self.unknown is None else [self.unknown]
        return [answer if each else row for row, each in zip(names_of, refused, strict=True)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """``[n, c]`` the share of each class in the votes; rows add up to 1 where items have one label."""
        return self._shares(self._search(X))

    def _shares(self, found: tuple[Tensor, Tensor]) -> NDArray[np.float64]:
        shares = [
            knn_shares(labels, scores.shape[1], len(self.classes_), scores, self.temperature)
            for labels, scores in self._votes(*found)
        ]
        return torch.cat(shares).double().numpy()

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest labelled items of each item.

        Args:
            X: items or vectors. None: the labelled items, each without itself.
            n_neighbors: how many; ``k`` if None. No more are returned than there are.
            return_distance: whether to return distances, too.

        Returns:
            Distances ``[n, m]``, which are ``1 - cosine`` and rise, and places ``[n, m]``, which count the
            labelled items from 0 in the order in which they were given; or the places alone.
        """
        check_is_fitted(self)
        count = min(self.k if n_neighbors is None else n_neighbors, len(self._index))
        if X is None:
            ids = torch.arange(len(self._index))
            width = min(count, max(len(ids) - 1, 1))
            scores, places = self._index.search_by_id(
                ids, width, lambda rows, found, _: found[None] == ids[rows][:, None]
            )
        else:
            scores, places = self._index.search(self._vectors_of(X), count)
        return ((1 - scores).numpy(), places.numpy()) if return_distance else places.numpy()

    def calibrate(self, X: Any) -> NeighbourClassifier:
        """Take held-out items of known classes, by which :meth:`p_known` is measured from now on.

        Without them, up to 2,000 of the labelled items are drawn, and each is compared with all others but
        its copies. An encoder that was trained on the labelled items brings these nearer to each other than
        new items are, so more known items are refused than ``refuse`` says. Then give items here that it was
        not trained on.

        Args:
            X: items or vectors, at least ``1 / refuse - 1``.
        """
        self._held_out = self._vectors_of(X)
        self.__dict__.pop("_nearest", None)
        return self

    def p_known(self, X: Any) -> NDArray[np.float64]:
        """``[n]`` in (0, 1]: how usual the cosine of each item to its nearest labelled one is among those of
        known items; see the class.

        Raises:
            ValueError: when there are too few held-out items to refuse the share ``refuse``.
        """
        return self._p_known(self._index.search(self._vectors_of(X), 1)[0])

    def _p_known(self, cosines: Tensor) -> NDArray[np.float64]:
        if not hasattr(self, "_nearest"):
            self._nearest = nearest_of_known(self._index, getattr(self, "_held_out", None))
        count = len(self._nearest)
        if self.refuse is not None and count < 1 / self.refuse - 1:
            raise ValueError(
                f"refuse={self.refuse} is too low for {count} held-out items: 1 / {count + 1} works"
            )
        not_above = torch.searchsorted(self._nearest, cosines[:, 0].contiguous(), right=True)
        return ((1 + not_above.double()) / (1 + count)).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the labelled items, the settings and the encoder, for :meth:`load`.

        There are safetensors and JSON only. They hold the names of the items, which are their texts unless
        other names were given. The encoder is in ``model``, so ``lit_metric.load(folder)`` reads it, too.
        Saved into the same folder again, a classifier replaces its earlier state as a whole.

        Raises:
            FileExistsError: there is something else in ``folder``.
            TypeError: when JSON can't hold the labels or settings.
        """
        check_is_fitted(self)
        state = {
            "classes": self.classes_.tolist(),
            "form": self._form,
            "names": self.names_,
            "settings": {name: value for name, value in self.get_params(False).items() if name != "encoder"},
        }
        tensors = {"vectors": self._vectors, "labels": self._labels.values, "offsets": self._labels.offsets}
        if hasattr(self, "_held_out"):
            tensors["held_out"] = self._held_out
        write_classifier(Path(folder), state, tensors, self._encoder())

    @classmethod
    def load(cls, folder: str | Path, trust_remote_code: bool = False) -> NeighbourClassifier:
        """Read what :meth:`save` wrote.

        Args:
            folder: as given to :meth:`save`.
            trust_remote_code: as for :func:`lit_metric.load`.

        Raises:
            StoredClassifierError: there is no classifier, one of another format, or a damaged one.
        """
        state, tensors, model = read_classifier(Path(folder))
        encoder = None if model is None else load(model, trust_remote_code)
        classifier = cls(encoder, **state["settings"])
        classifier._form = state["form"]
        classifier.classes_ = np.array(state["classes"])
        classifier._labels = Ragged(tensors["labels"], tensors["offsets"])
        classifier.names_ = state["names"]
        classifier._keep(tensors["vectors"])
        if "held_out" in tensors:
            classifier._held_out = tensors["held_out"]
        return classifier

    def _check_settings(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, or None, got {self.temperature}")
        if self.refuse is not None and not 0 < self.refuse < 1:
            raise ValueError(f"refuse is a share of known items, in (0, 1), or None; got {self.refuse}")

    def _add(
        self, X: Any, y: Any, names: Sequence[str] | None, reset: bool, classes: Any = None
    ) -> NeighbourClassifier:
        """Add items with labels; with ``reset`` there were none before."""
        vectors = self._vectors_of(X, fit=True, reset=reset)
        rows, form, found = labels_of(y)
        if names is None:
            items = as_list(X, "X") if is_items(X) else [""] * len(vectors)
            names = [item if isinstance(item, str) else ", ".join(item) for item in items]
        if not len(vectors) or len(rows) != len(vectors) or len(names) != len(vectors):
            counts = f"{len(vectors)} items, {len(rows)} labels and {len(names)} names"
            raise ValueError(f"{counts}: give one item at least, and each its own")
        before = [] if reset else self.classes_.tolist()
        if not reset and (form != self._form or (form == "matrix" and len(found) != len(before))):
            raise ValueError(
                f"y is in the form {form!r} with {len(found)} labels here, and was {self._form!r}"
            )
        if before or classes is not None:
            every = {*found.tolist(), *before, *([] if classes is None else np.asarray(classes).tolist())}
            if len({isinstance(name, str) for name in every}) > 1:
                raise ValueError("some labels are texts and others are numbers: give all of them one type")
            found = np.array(sorted(every))
        place = {name: number for number, name in enumerate(found.tolist())}
        known = [] if reset else [[place[before[label]] for label in row] for row in self._labels.tolist()]
        self._labels = Ragged.from_lists([*known, *([place[name] for name in row] for row in rows)])
        self.classes_, self._form = found, form
        self.names_ = [*([] if reset else self.names_), *names]
        self._keep(vectors if reset else torch.cat([self._vectors, vectors]))
        return self

    def _keep(self, vectors: Tensor) -> None:
        """Hold the vectors ``[n, d]`` of all labelled items, ready to be searched."""
        self._vectors = vectors
        self.n_features_in_ = vectors.shape[1]
        self._index = ExactIndex()
        self._index.add(vectors, torch.arange(len(vectors)))
        self.__dict__.pop("_nearest", None)

    def _encoder(self) -> Encoder | None:
        """The encoder, loaded once where a path was given."""
        if self.encoder is None or isinstance(self.encoder, Encoder):
            return self.encoder
        if getattr(self, "_loaded", (None,))[0] != self.encoder:
            self._loaded = (self.encoder, load(self.encoder))
        return self._loaded[1]

    def _vectors_of(self, X: Any, fit: bool = False, reset: bool = False) -> Tensor:
        """``[n, d]`` float32 vectors of items, or of what is vectors already."""
        if not fit:
            check_is_fitted(self)
        if not is_items(X):
            return torch.from_numpy(validate_data(self, X, dtype=np.float32, order="C", reset=reset).copy())
        encoder = self._encoder()
        if encoder is None:
            raise TypeError(
                "X holds texts, and there is no encoder: give NeighbourClassifier(encoder=...), or vectors"
            )
        items = as_list(X, "X")
        if not items:
            return torch.empty(0, encoder.dimension)
        vectors = torch.from_numpy(encoder.encode(items, self.max_tokens, role=self.role))
        if not reset and vectors.shape[1] != self.n_features_in_:
            raise ValueError(
                f"the encoder gives {vectors.shape[1]} components, labelled items have {self.n_features_in_}"
            )
        return vectors

    def _search(self, X: Any) -> tuple[Tensor, Tensor]:
        """Cosines and places, ``[n, k]``, of the nearest labelled items of each item."""
        vectors = self._vectors_of(X)
        return self._index.search(vectors, min(self.k, len(self._index)))

    def _votes(self, scores: Tensor, places: Tensor) -> Iterator[tuple[Ragged, Tensor]]:
        """The labels of the nearest items, and their cosines ``[b, k]``, in blocks."""
        rows = max(1, min(QUERIES, COMPARED // scores.shape[1] ** 2))
        for some, found in zip(scores.split(rows), places.split(rows), strict=True):
            yield self._labels.select(found.reshape(-1)), some

    def _unknown(self) -> Any:
        """The label of refused items.

        Raises:
            ValueError: when it is the name of a class.
        """
        strings = self.classes_.dtype.kind in "UO"
        unknown = self.unknown if self.unknown is not None else ("unknown" if strings else -1)
        if self.refuse is not None and unknown in self.classes_.tolist():
            raise ValueError(
                f"unknown={unknown!r} is one of the classes: name another answer for refused items"
            )
        return unknown
