"""Items and labels in the forms in which people have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

LISTS = (list, tuple, set, frozenset)


def is_items(X: Any) -> bool:
    """Whether X holds texts, or lists of texts, and not vectors of numbers.

    Example:
        >>> is_items(["a text"]), is_items([["tag", "other"]]), is_items([[0.5, 1.0]])
        (True, True, False)
    """
    if getattr(X, "ndim", 1) != 1 or hasattr(X, "toarray"):
        return False
    if not isinstance(X, (list, tuple)):
        convert = next(
            (getattr(X, name) for name in ("to_pylist", "to_list", "tolist") if hasattr(X, name)), None
        )
        if convert is None:
            return False
        X = convert()
    first = X[0] if len(X) else ""
    while isinstance(first, (list, tuple)) and len(first):
        first = first[0]
    return isinstance(first, str)


def labels_of(y: Any) -> tuple[list[list[Any]], str, np.ndarray]:
    """The labels of each item, the form in which they came, and the distinct labels in order.

    Args:
        y: a label for each item (form ``one``), a list of labels each (``lists``), or a binary matrix
            (``matrix``), whose labels are the numbers of columns.

    Raises:
        ValueError: when y is none of these.

    Example:
        >>> labels_of(["b", "a"])
        ([['b'], ['a']], 'one', array(['a', 'b'], dtype='<U1'))
        >>> labels_of([["b", "a"], ["a"]])[:2], labels_of(np.array([[0, 1], [1, 1]]))[:2]
        (([['a', 'b'], ['a']], 'lists'), ([[1], [0, 1]], 'matrix'))
    """
    if y is None:
        raise ValueError("this classifier requires y to be passed, but the target y is None")
    if not hasattr(y, "ndim") and hasattr(y, "__array__"):
        y = np.asarray(y)
    if not hasattr(y, "ndim") and any(isinstance(row, LISTS) for row in y):
        for place, row in enumerate(y):
            if not isinstance(row, LISTS) or not row:
                raise ValueError(
                    f"y[{place}] is {row!r}, and others are lists of labels: give it one at least"
                )
        names = {name for row in y for name in row}
        if len({isinstance(name, str) for name in names}) > 1:
            raise ValueError("some labels are texts and others are numbers: give all of them one type")
        even = len({*map(len, y)}) == 1
        if not (even and names <= {0, 1}) or type_of_target(y) != "multilabel-indicator":
            return [sorted({*row}) for row in y], "lists", np.array(sorted(names))
    if np.ndim(y) == 2 and type_of_target(y) == "multilabel-indicator":
        dense = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        return [row.nonzero()[0].tolist() for row in dense], "matrix", np.arange(dense.shape[1])
    column = column_or_1d(y, warn=True)
    check_classification_targets(column)
    return [[name] for name in column.tolist()], "one", np.unique(column)
