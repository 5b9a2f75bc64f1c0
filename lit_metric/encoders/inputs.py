"""What people hand to ``encode``: lists, arrays and columns of texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

_TO_LIST = ("to_pylist", "to_list", "tolist")
"""Of pyarrow's arrays, the Series of pandas and polars, and NumPy's arrays."""


def as_list(values: Any, what: str) -> list[Any]:
    """A sequence of any library as a list.

    Raises:
        TypeError: if it is one text, a table, or has no order.

    Example:
        >>> import numpy as np
        >>> as_list(np.array(["a", "b"]), "items")
        ['a', 'b']
    """
    if isinstance(values, list):
        return values
    columns = getattr(values, "column_names", None) or getattr(values, "columns", None)
    if isinstance(values, Mapping):
        columns = [*values]
    if columns is not None:
        names = [str(name) for name in columns if isinstance(name, str)]
        example = f"[{names[0]!r}]" if names else "[column]"
        raise TypeError(
            f"{what}: a {type(values).__name__} is a table, not a column: pass one of its columns, as in "
            f"table{example}" + (f"; it has {', '.join(names[:8])}" if names else "")
        )
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{what}: this is one text, not a list of texts: put it into a list, as in [text]")
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{what}: a set has no order in which vectors could be returned: pass a list")
    for name in _TO_LIST:
        if callable(convert := getattr(values, name, None)):
            return list(convert())
    if not isinstance(values, Iterable):
        raise TypeError(f"{what}: a {type(values).__name__} is no sequence: pass a list")
    return list(values)


def check_texts(texts: Sequence[Any], name: Callable[[int], str]) -> None:
    """Refuse what is no text.

    Args:
        texts: all of one call.
        name: of the text in a row, for messages.

    Raises:
        TypeError: names the first that is no string, and how many there are.
    """
    odd = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if odd:
        value = texts[odd[0]]
        kind = "" if value is None else f", a {type(value).__name__}"
        more = f" ({len(odd)} of {len(texts)} are no texts)" if len(odd) > 1 else ""
        raise TypeError(
            f"{name(odd[0])} is {value!r:.60}{kind}, and a text was expected{more}: leave it out, or put "
            "a text in its place"
        )


def tell_empty(texts: Sequence[str], name: Callable[[int], str]) -> None:
    """Say how many texts hold nothing: they are encoded, all alike."""
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        log.warning(
            "%d of %d texts are empty, the first is %s: their vector is the same and says nothing",
            len(empty),
            len(texts),
            name(empty[0]),
        )
