"""Objects written down as a class path and arguments, the form that a YAML configuration has, and built again
from that."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

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
        given = self.__dict__.get("_arguments", {})  # a class may have no __init__ at all

        def inner(name: str, value: Any) -> Spec:
            if isinstance(value, Described):
                return value.spec()
            raise TypeError(
                f"{_path(cls)}({name}=...) is a {type(value).__name__}, which can't be written down; derive "
                "it from Described"
            )

        arguments = {name: _plain(value, functools.partial(inner, name)) for name, value in given.items()}
        return {"class_path": _path(cls), "init_args": arguments}


def spec(thing: object) -> Spec:
    """``{"class_path": …, "init_args": …}`` of an object that keeps its arguments under their own names.

    What the attributes say now counts, and not what they were built with. Arguments that are such objects
    themselves, or lists of them, are described the same way. A class that keeps an argument under another
    name says so in ``_kept_as``, a mapping of argument to attribute.

    Raises:
        TypeError: if an argument was not kept or is nothing that JSON can hold.

    Example:
        >>> class Rule:
        ...     def __init__(self, maximum: float = 0.7) -> None:
        ...         self.maximum = maximum
        >>> spec(Rule(0.8))["init_args"]
        {'maximum': 0.8}
    """
    cls = type(thing)

    def inner(name: str, value: Any) -> Spec:
        if isinstance(value, Described):
            return value.spec()
        if _foreign(value):
            raise TypeError(
                f"{cls.__name__} cannot be described: its argument {name!r} must be kept as an attribute and "
                "be a number, a string, a list of such, or an object that can be described itself"
            )
        return spec(value)

    values = _kept(thing)
    arguments = {name: _plain(value, functools.partial(inner, name)) for name, value in values.items()}
    return {"class_path": _path(cls), "init_args": arguments}


def parts(thing: object) -> Iterator[object]:
    """``thing``, and all objects that :func:`spec` describes with it, outer ones first.

    Example:
        >>> from lit_metric.index import ExactIndex
        >>> from lit_metric.mining import DuplicateFilter
        >>> [type(part).__name__ for part in parts([DuplicateFilter(index=ExactIndex())])]
        ['DuplicateFilter', 'ExactIndex']
    """
    if isinstance(thing, (list, tuple, dict)):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from parts(value)
    elif not _foreign(thing):
        yield thing
        for value in _kept(thing).values():
            yield from parts(value)


_MISSING = object()


def _kept(thing: object) -> dict[str, Any]:
    """What ``thing`` keeps of its arguments."""
    cls = type(thing)
    kept_as = getattr(cls, "_kept_as", {})
    # Of the class, not of its __init__: a class without one has no arguments.
    names = inspect.signature(cls).parameters
    return {name: getattr(thing, kept_as.get(name, name), _MISSING) for name in names}


def _foreign(value: object) -> bool:
    """Whether it is nothing that keeps its arguments under their names."""
    return type(value).__module__.split(".")[0] in {"builtins", "torch", "numpy"}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any, inner: Callable[[Any], Spec]) -> Any:
    """``value`` in JSON types, and by ``inner`` where it is an object."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, inner) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, inner) for key, item in value.items()}
    return inner(value)


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


def build(described: Any, kind: type = Described, trust_remote_code: bool = False) -> Any:
    """The object that :func:`spec` or :meth:`Described.spec` describes; lists and dicts of such likewise.

    Args:
        described: descriptions inside are built too; what describes nothing comes back as it is.
        kind: which classes may be named: ``Described``, unless the description is from the same user.
        trust_remote_code: allow classes outside lit_metric, whose import runs their code.

    Raises:
        ValueError: if it names anything else than a class of ``kind``, or one that isn't trusted.
    """
    if isinstance(described, list):
        return [build(item, kind, trust_remote_code) for item in described]
    if not isinstance(described, dict):
        return described
    if described.keys() != {"class_path", "init_args"}:
        return {key: build(value, kind, trust_remote_code) for key, value in described.items()}
    path, arguments = described["class_path"], described["init_args"]
    if not trust_remote_code and path.split(".")[0] != TRUSTED:
        raise ValueError(
            f"{path} lies outside {TRUSTED}: pass trust_remote_code=True if you trust where this is from"
        )
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ValueError(f"{path} is no class that can be built from a description")
    if not trust_remote_code and arguments.get("trust_remote_code"):
        raise ValueError(
            f"{path} asks to run code that comes with its weights: pass trust_remote_code=True to allow it"
        )
    return cls(**{key: build(value, kind, trust_remote_code) for key, value in arguments.items()})


def rebuilt(described: Any) -> Any:
    """The object that :func:`spec` describes, whatever its class, for a description from the same user.

    Example:
        >>> from lit_metric.mining.filters import AbsoluteMax
        >>> rebuilt(spec(AbsoluteMax(0.8))).maximum
        0.8
    """
    return build(described, kind=object, trust_remote_code=True)
