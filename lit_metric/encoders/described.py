"""Modules that can be written down as a class path and arguments, and built again from that."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any, TypeVar

Self = TypeVar("Self", bound="Described")
Spec = dict[str, Any]

TRUSTED = "lit_metric"
"""The one package whose classes a saved folder may name."""


class Described:
    """Remembers the arguments of its ``__init__``; every subclass does so by itself.

    Arguments must be None, bool, int, float, str, lists or dicts of such, or Described themselves; others
    only matter when the description is asked for.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    def spec(self) -> Spec:
        """``{"class_path": ..., "init_args": {...}}`` in JSON types, as in a YAML file of Lightning's CLI.

        Raises:
            TypeError: if an argument can't be written down.
        """
        cls = type(self)
        path = f"{cls.__module__}.{cls.__qualname__}"
        given = self.__dict__.get("_arguments", {})  # a class may have no __init__ at all
        arguments = {name: _plain(value, f"{path}({name}=...)") for name, value in given.items()}
        return {"class_path": path, "init_args": arguments}


def _remembering(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # the outermost class's, not those it hands to its bases
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["_arguments"] = dict(list(bound.arguments.items())[1:])
        init(self, *args, **kwargs)

    return wrapper


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Described):
        return value.spec()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    raise TypeError(
        f"{where} is a {type(value).__name__}, which can't be written down; derive it from Described"
    )


def build(spec: Spec, trust_remote_code: bool = False) -> Any:
    """The object that a :meth:`Described.spec` describes.

    Args:
        spec: as returned by ``spec()``; described arguments inside are built too.
        trust_remote_code: allow classes outside lit_metric, whose import runs their code.

    Raises:
        ValueError: if the spec names anything else than a Described class, or one that isn't trusted.
    """
    path = spec["class_path"]
    if not trust_remote_code and path.split(".")[0] != TRUSTED:
        raise ValueError(
            f"{path} lies outside {TRUSTED}: pass trust_remote_code=True if you trust where this is from"
        )
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not (inspect.isclass(cls) and issubclass(cls, Described)):
        raise ValueError(f"{path} is no class that can be built from a description")
    if not trust_remote_code and spec["init_args"].get("trust_remote_code"):
        raise ValueError(
            f"{path} asks to run code that comes with its weights: pass trust_remote_code=True to allow it"
        )
    return cls(**{key: _build(value, trust_remote_code) for key, value in spec["init_args"].items()})


def _build(value: Any, trust_remote_code: bool) -> Any:
    if isinstance(value, dict) and value.keys() == {"class_path", "init_args"}:
        return build(value, trust_remote_code)
    if isinstance(value, list):
        return [_build(item, trust_remote_code) for item in value]
    return value
