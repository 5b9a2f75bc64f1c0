"""What an object was built from, in the form that a YAML configuration has."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any


def spec(thing: object) -> dict[str, Any]:
    """``{"class_path": …, "init_args": …}`` of an object that keeps its arguments under their own names.

    Arguments that are such objects themselves, or lists of them, are described the same way. A class that
    keeps an argument under another name says so in ``_kept_as``, a mapping of argument to attribute.

    Raises:
        TypeError: if an argument was not kept or is nothing that JSON can hold.

    Example:
        >>> from lit_metric.mining.filters import AbsoluteMax
        >>> spec(AbsoluteMax(0.8))
        {'class_path': 'lit_metric.mining.filters.AbsoluteMax', 'init_args': {'maximum': 0.8}}
    """
    cls = type(thing)
    kept_as = getattr(cls, "_kept_as", {})
    # Of the class, not of its __init__: a class without one has no arguments.
    names = list(inspect.signature(cls).parameters)
    arguments = {name: _plain(getattr(thing, kept_as.get(name, name), _MISSING), cls, name) for name in names}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


_MISSING = object()


def _plain(value: Any, cls: type, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence):
        return [_plain(item, cls, name) for item in value]
    if type(value).__module__.split(".")[0] in {"builtins", "torch", "numpy"}:
        raise TypeError(
            f"{cls.__name__} cannot be described: its argument {name!r} must be kept as an attribute and be "
            "a number, a string, a list of such, or an object that can be described itself"
        )
    return spec(value)


def build(described: Any) -> Any:
    """The object that :func:`spec` describes. It imports whatever module is named, so the description must be
    from the same user.

    Example:
        >>> from lit_metric.mining.filters import AbsoluteMax
        >>> build(spec(AbsoluteMax(0.8))).maximum
        0.8
    """
    if isinstance(described, list):
        return [build(item) for item in described]
    if not (isinstance(described, dict) and described.keys() == {"class_path", "init_args"}):
        return described
    module, _, name = described["class_path"].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    return cls(**{key: build(value) for key, value in described["init_args"].items()})
