"""Relations and items written down as arrays and JSON, for a process that must not unpickle anything."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations
from lit_metric.data.relations.lookup import Memo, PairSet

Arrays = dict[str, NDArray[Any]]

_PARTS = (Relations, Items, Ragged, PairSet, Memo)
"""What may be built from a description."""


def describe(thing: Any, name: str, arrays: Arrays) -> Any:
    """``thing`` in JSON types; its tensors are put into ``arrays`` under names that begin with ``name``.

    Args:
        thing: relations, items, or a part of them: tensors, strings, numbers, lists and dicts of such.
        name: how to call it.
        arrays: grows by the tensors.

    Raises:
        TypeError: if something in it can be written neither as an array nor in JSON, or its class can't be
            imported by name.

    Example:
        >>> arrays = {}
        >>> described = describe(Ragged.from_lists([[7], [8, 9]]), "rows", arrays)
        >>> build(described, arrays).tolist(), sorted(arrays)
        ([[7], [8, 9]], ['rows.offsets', 'rows.values'])
    """
    if isinstance(thing, Tensor):
        arrays[name] = thing.detach().cpu().numpy()
        return {"array": name}
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        items = [describe(item, f"{name}.{place}", arrays) for place, item in enumerate(thing)]
        return items if isinstance(thing, list) else {"tuple": items}
    if isinstance(thing, dict) and all(isinstance(key, str) for key in thing):
        return {"dict": {key: describe(value, f"{name}.{key}", arrays) for key, value in thing.items()}}
    if not isinstance(thing, _PARTS):
        raise TypeError(f"{name} is a {type(thing).__name__}, which can't be written as arrays")
    cls = type(thing)
    if is_dataclass(thing):
        state = {field.name: getattr(thing, field.name) for field in fields(thing)}
    else:
        state = {} if isinstance(thing, Memo) else thing.__dict__
    return {
        "class_path": importable(cls),
        "state": {key: describe(value, f"{name}.{key}", arrays) for key, value in state.items()},
    }


def build(described: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """What :func:`describe` wrote down; the tensors share memory with ``arrays``.

    Raises:
        ValueError: if it names a class that is none of those that are written down.
    """
    if isinstance(described, list):
        return [build(item, arrays) for item in described]
    if not isinstance(described, dict):
        return described
    if described.keys() == {"array"}:
        return torch.from_numpy(np.array(arrays[described["array"]]))
    if described.keys() == {"tuple"}:
        return tuple(build(described["tuple"], arrays))
    if described.keys() == {"dict"}:
        return {key: build(value, arrays) for key, value in described["dict"].items()}
    cls = _class_of(described["class_path"])
    thing = cls.__new__(cls)
    # Not through __init__: relations are kept as their constructor left them, sorted and without repeats.
    thing.__dict__.update({key: build(value, arrays) for key, value in described["state"].items()})
    return thing


def importable(cls: type) -> str:
    """The path by which another process finds a class.

    Raises:
        TypeError: if it was defined in a script or inside a function.
    """
    path = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise TypeError(f"{path} can't be imported by another process: move the class into a module")
    return path


def check_importable(spec: Any, find: Callable[[str], Any] = importlib.import_module) -> None:
    """Raise ``TypeError`` unless another process can import all classes that ``spec`` names."""
    if isinstance(spec, list):
        for each in spec:
            check_importable(each, find)
    elif isinstance(spec, dict):
        if isinstance(path := spec.get("class_path"), str):
            module, _, name = path.rpartition(".")
            if module == "__main__" or "<locals>" in path or not hasattr(find(module), name):
                raise TypeError(f"{path} can't be imported by another process: move the class into a module")
        for each in spec.values():
            check_importable(each, find)


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, _PARTS)):
        raise ValueError(f"{path} is none of the classes that data is written down as")
    return cls
