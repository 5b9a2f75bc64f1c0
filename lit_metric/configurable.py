"""Objects written down as a class path and arguments, the form that a YAML configuration has, and built again
from that."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

TRUSTED = "lit_metric"
"""The one package whose classes a saved folder may name."""


POSITIONAL = "*"
"""Where what was given as ``*arguments`` is remembered."""


class Configurable:
    """Remembers the arguments of its ``__init__``; every subclass does so by itself.

    Arguments must be None, bool, int, float, str, lists or dicts of such, or Configurable themselves; others
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
            if isinstance(value, Configurable):
                return value.spec()
            raise TypeError(
                f"{_path(cls)}({name}=...) is a {type(value).__name__}, which can't be written down; derive "
                "it from Configurable"
            )

        if given.get(POSITIONAL):
            raise TypeError(
                f"{_path(cls)} was given *arguments, which can't be written down; give them names"
            )
        named = {name: value for name, value in given.items() if name != POSITIONAL}
        arguments = {name: _plain(value, functools.partial(inner, name)) for name, value in named.items()}
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
        if isinstance(value, Configurable):
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
    names = parameters_of(cls)
    return {name: getattr(thing, kept_as.get(name, name), _MISSING) for name in names}


def parameters_of(cls: type) -> list[str]:
    """The arguments of a class; where it hands ``**options`` on, those of its base class, too."""
    # Of the class, not of its __init__: a class without one has no arguments.
    parameters = inspect.signature(cls).parameters.values()
    names = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    base = cls.__mro__[1]
    if len(names) < len(parameters) and "__init__" in cls.__dict__ and base is not object:
        names += [name for name in parameters_of(base) if name not in names]
    return names


def _foreign(value: object) -> bool:
    """Whether it is nothing that keeps its arguments under their names."""
    return type(value).__module__.split(".")[0] in {"builtins", "torch", "numpy"}


def _path(cls: type) -> str:
    """The path that names a class: of ours, that of the package which exports it, as modules may move."""
    package = ".".join(cls.__module__.split(".")[:2])
    if package.startswith(f"{TRUSTED}.") and getattr(sys.modules[package], cls.__qualname__, None) is cls:
        return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any, inner: Callable[[Any], Spec]) -> Any:
    """``value`` in JSON types, and by ``inner`` where it is an object."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, inner) for item in value]
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(
                f"{odd[0]!r} is a key of a mapping, which can only be written down if it is a string"
            )
        return {key: _plain(item, inner) for key, item in value.items()}
    return inner(value)


def _remembering(init: Any) -> Any:
    signature = inspect.signature(init)
    kinds = {each.kind: name for name, each in signature.parameters.items()}
    keywords = kinds.get(inspect.Parameter.VAR_KEYWORD)
    positional = kinds.get(inspect.Parameter.VAR_POSITIONAL)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # the outermost class's, not those it hands to its bases
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            given |= given.pop(keywords, {}) if keywords else {}
            if positional:
                given[POSITIONAL] = given.pop(positional)
            self.__dict__["_arguments"] = given
        init(self, *args, **kwargs)

    return wrapper


def build(described: Any, kind: type = Configurable, trust_remote_code: bool = False) -> Any:
    """The object that :func:`spec` or :meth:`Configurable.spec` describes; lists and dicts of such likewise.

    Args:
        described: descriptions inside are built too; what describes nothing comes back as it is.
        kind: which classes may be named: ``Configurable``, unless the description is from the same user.
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
    cls = _class(path)
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ValueError(f"{path} is no class that can be built from a description")
    if not trust_remote_code and arguments.get("trust_remote_code"):
        raise ValueError(
            f"{path} asks to run code that comes with its weights: pass trust_remote_code=True to allow it"
        )
    return cls(**{key: build(value, kind, trust_remote_code) for key, value in arguments.items()})


def _class(path: str) -> Any:
    """What a dotted path names, also a class inside a class; None if there is nothing.

    Raises:
        ValueError: if its module can't be imported.
    """
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
                raise  # a module that this one needs
            continue
        rest = names[count:]
        if names[0] == TRUSTED and len(rest) > 1 and not hasattr(found, rest[0]):
            rest = rest[1:]  # a module of an earlier version, whose classes its package exports
        for name in rest:
            found = getattr(found, name, None)
        return found
    raise ValueError(f"{path} can't be found: there is no module {names[0]!r} that could be imported here")


def checked_spec(thing: object) -> Spec:
    """The description of an object, from which an equal one has been built to see that it can be.

    Raises:
        TypeError: if an argument was not kept or is nothing that JSON can hold.
        ValueError: if nothing, or something else, is built from the description.

    Example:
        >>> from lit_metric.mining.filters import MaxScore
        >>> checked_spec(MaxScore(0.8))["init_args"]
        {'maximum': 0.8}
    """
    described = thing.spec() if isinstance(thing, Configurable) else spec(thing)
    name = _path(type(thing))
    if "<locals>" in name:
        raise ValueError(f"{name} is defined inside a function: move it to the top of a module")
    try:
        copy = rebuilt(described)
        again = copy.spec() if isinstance(copy, Configurable) else spec(copy)
    except Exception as error:
        raise ValueError(f"{name} can't be built again from {described['init_args']}: {error}") from error
    if again != described:
        odd = [key for key, value in described["init_args"].items() if again["init_args"].get(key) != value]
        raise ValueError(f"{name} differs when it is built again from its arguments: {', '.join(odd)}")
    return described


def rebuilt(described: Any) -> Any:
    """The object that :func:`spec` describes, whatever its class, for a description from the same user.

    Example:
        >>> from lit_metric.mining.filters import MaxScore
        >>> rebuilt(spec(MaxScore(0.8))).maximum
        0.8
    """
    return build(described, kind=object, trust_remote_code=True)
