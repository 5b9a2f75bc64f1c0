"""Objects described in JSON types and built again: class path and arguments, as in a YAML configuration.

Nothing is pickled. An object with tensors, such as relations, is described by its attributes. Its tensors
become named arrays, which are stored next to the JSON.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Spec = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

TRUSTED = "lit_metric"
"""The one package whose classes a saved folder may name."""

POSITIONAL = "*"
"""The key under which ``*arguments`` are remembered."""


class Configurable:
    """Remembers the arguments of its ``__init__``; every subclass does so by itself.

    Arguments must be None, bool, int, float, str, paths, lists or dicts of such, or objects that :func:`spec`
    describes; others only matter when the description is needed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        init: Any = cls.__init__
        signature = inspect.signature(init)
        kinds = {each.kind: name for name, each in signature.parameters.items()}
        keywords = kinds.get(inspect.Parameter.VAR_KEYWORD)
        positional = kinds.get(inspect.Parameter.VAR_POSITIONAL)

        @functools.wraps(init)
        def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
            if "_arguments" not in self.__dict__:  # the outermost class's, not those it hands to its bases
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                given = dict(list(bound.arguments.items())[1:])
                given |= given.pop(keywords, {}) if keywords else {}
                if positional:
                    given[POSITIONAL] = given.pop(positional)
                self.__dict__["_arguments"] = given
            init(self, *args, **kwargs)

        cls.__init__ = remembering  # type: ignore[method-assign]

    def spec(self) -> Spec:
        """See :func:`spec`."""
        described: Spec = spec(self)
        return described


def spec(thing: Any, name: str = "", arrays: Arrays | None = None, kinds: tuple[type, ...] = ()) -> Any:
    """``thing`` in JSON types; an object becomes ``{"class_path": …, "init_args": {…}}``.

    The arguments are those that a :class:`Configurable` remembers. Other objects keep their arguments as
    attributes of the same names, whose present values count.

    Args:
        thing: None, bool, int, float, str, an object, or lists, tuples and dicts of such.
        name: of the thing in messages, and with which the names of its arrays begin.
        arrays: grows by the tensors of ``thing``, which is then written down as its attributes, under
            ``state``. None: there must be no tensors.
        kinds: classes of objects that may be written down so.

    Raises:
        TypeError: if something can't be written down.

    Example:
        >>> class Rule:
        ...     def __init__(self, maximum: float = 0.7) -> None:
        ...         self.maximum = maximum
        >>> spec(Rule(0.8))["init_args"]
        {'maximum': 0.8}
        >>> from lit_metric.data import Ragged
        >>> arrays = Arrays()
        >>> described = spec(Ragged.from_lists([[7], [8, 9]]), "rows", arrays, (Ragged,))
        >>> build(described, Ragged, arrays=arrays).tolist(), sorted(arrays)
        ([[7], [8, 9]], ['rows.offsets', 'rows.values'])
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, PurePath):
        return str(thing)
    if isinstance(thing, (list, tuple)):
        items = [spec(item, f"{name}.{place}", arrays, kinds) for place, item in enumerate(thing)]
        return {"tuple": items} if isinstance(thing, tuple) and arrays is not None else items
    if isinstance(thing, dict):
        if odd := [key for key in thing if not isinstance(key, str)]:
            raise TypeError(
                f"{odd[0]!r} is a key of a mapping, which can only be written down if it is a string"
            )
        values = {key: spec(value, f"{name}.{key}", arrays, kinds) for key, value in thing.items()}
        return values if arrays is None else {"dict": values}
    cls: Any = type(thing)
    if arrays is not None:
        if isinstance(thing, Tensor):
            arrays[name] = thing.detach().cpu().numpy()
            return {"array": name}
        if not isinstance(thing, kinds):
            raise TypeError(f"{name} is a {cls.__name__}, which can't be written as arrays")
        # The attributes that a copy of it keeps.
        own = "__getstate__" in {name for base in cls.__mro__[:-1] for name in vars(base)}
        kept = dict(cls.__getstate__(thing) if own else vars(thing))
        if is_dataclass(thing):
            kept = {field.name: getattr(thing, field.name) for field in fields(thing)}
        state = {key: spec(value, f"{name}.{key}", arrays, kinds) for key, value in kept.items()}
        return {"class_path": class_path(cls), "state": state}
    if is_foreign(thing):
        raise TypeError(
            f"{name} is a {cls.__name__}, which can't be written down: it has to be a number, a string, a "
            "list of such, or an object that keeps its arguments as attributes or derives from Configurable"
        )
    given, path = arguments_of(thing), class_path(cls)
    if given.pop(POSITIONAL, None):
        raise TypeError(f"{path} was given *arguments, which can't be written down; give them names")
    expected = [] if isinstance(thing, Configurable) else parameters_of(cls)
    if lost := [each for each in expected if each not in given]:
        raise TypeError(
            f"{path} cannot be described: its argument {lost[0]!r} must be kept as an attribute of that name"
        )
    arguments = {each: spec(value, f"{path}({each}=...)") for each, value in given.items()}
    return {"class_path": path, "init_args": arguments}


def build(
    described: Any,
    kind: type | tuple[type, ...] = Configurable,
    trust_remote_code: bool = False,
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    """The object that :func:`spec` describes, or a list or dict of such objects.

    Args:
        described: descriptions inside are built too; what describes nothing comes back as it is.
        kind: which classes may be named.
        trust_remote_code: allow classes outside lit_metric, whose import runs their code.
        arrays: those that :func:`spec` filled; tensors share their memory.

    Raises:
        ValueError: if it names anything else than a class of ``kind``, or one that isn't trusted.
    """
    inner = functools.partial(build, kind=kind, trust_remote_code=trust_remote_code, arrays=arrays)
    if isinstance(described, list):
        return [inner(item) for item in described]
    if not isinstance(described, dict):
        return described
    if arrays is not None and len(described) == 1:
        ((form, value),) = described.items()
        if form == "array":
            return torch.from_numpy(np.array(arrays[value]))
        return tuple(inner(value)) if form == "tuple" else {key: inner(each) for key, each in value.items()}
    arguments = described.get("init_args" if arrays is None else "state")
    if len(described) != 2 or "class_path" not in described or not isinstance(arguments, dict):
        return {key: inner(value) for key, value in described.items()}
    path = described["class_path"]
    if not trust_remote_code and path.split(".")[0] != TRUSTED:
        raise ValueError(
            f"{path} lies outside {TRUSTED}: pass trust_remote_code=True if you trust where this is from"
        )
    cls = find_class(path)
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ValueError(f"{path} is no class that can be built from a description")
    if not trust_remote_code and arguments.get("trust_remote_code"):
        raise ValueError(
            f"{path} asks to run code that comes with its weights: pass trust_remote_code=True to allow it"
        )
    values = {key: inner(value) for key, value in arguments.items()}
    if arrays is None:
        return cls(**values)
    # Not through __init__: relations are kept as their constructor left them, sorted and without repeats.
    thing = cls.__new__(cls)
    thing.__dict__.update(values)
    return thing


def rebuilt(described: Any) -> Any:
    """The object that :func:`spec` describes, of any class; for descriptions that this user wrote.

    Example:
        >>> from lit_metric.mining.filters import MaxScore
        >>> rebuilt(spec(MaxScore(0.8))).max_score
        0.8
    """
    return build(described, kind=object, trust_remote_code=True)


def checked_spec(thing: object) -> Spec:
    """The description of an object, after a check that an equal object can be built from it.

    Raises:
        TypeError: if an argument was not kept or can't be written as JSON.
        ValueError: if nothing, or something else, is built from the description.

    Example:
        >>> from lit_metric.mining.filters import MaxScore
        >>> checked_spec(MaxScore(0.8))["init_args"]
        {'max_score': 0.8}
    """
    described: Spec = spec(thing)
    name, arguments = class_path(type(thing)), described["init_args"]
    if "<locals>" in name:
        raise ValueError(f"{name} is defined inside a function: move it to the top of a module")
    try:
        again = spec(rebuilt(described))
    except Exception as error:
        raise ValueError(f"{name} can't be built again from {arguments}: {error}") from error
    if again != described:
        odd = [key for key, value in arguments.items() if again["init_args"].get(key) != value]
        raise ValueError(f"{name} differs when it is built again from its arguments: {', '.join(odd)}")
    return described


def check_importable(described: Any) -> None:
    """Raise ``TypeError`` unless another process can import all classes that a description names."""
    if isinstance(described, dict):
        path = described.get("class_path")
        if isinstance(path, str) and (
            path.startswith("__main__.") or "<locals>" in path or find_class(path) is None
        ):
            raise TypeError(f"{path} can't be imported by another process: move the class into a module")
        described = list(described.values())
    if isinstance(described, list):
        for each in described:
            check_importable(each)


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
    elif not is_foreign(thing):
        yield thing
        for value in arguments_of(thing).values():
            yield from parts(value)


def needs_trust(thing: object) -> bool:
    """Whether ``load`` needs ``trust_remote_code=True`` for what was saved of ``thing``.

    That is so if a class outside lit_metric, or code that comes with weights, is part of it.

    Example:
        >>> from lit_metric.index import ExactIndex
        >>> needs_trust(ExactIndex())
        False
    """
    return any(
        class_path(type(part)).split(".")[0] != TRUSTED or bool(arguments_of(part).get("trust_remote_code"))
        for part in parts(thing)
    )


def arguments_of(thing: object) -> dict[str, Any]:
    """The arguments that an object remembers, or else those that it keeps as attributes."""
    if isinstance(thing, Configurable):
        return dict(vars(thing).get("_arguments", {}))  # a class may have no __init__ at all
    return {name: getattr(thing, name) for name in parameters_of(type(thing)) if hasattr(thing, name)}


def parameters_of(cls: type) -> list[str]:
    """The arguments of a class; where it hands ``**options`` on, those of its base class, too."""
    # Of the class, not of its __init__: a class without one has no arguments.
    parameters = inspect.signature(cls).parameters.values()
    names = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    base = cls.__mro__[1]
    if len(names) < len(parameters) and "__init__" in cls.__dict__ and base is not object:
        names += [name for name in parameters_of(base) if name not in names]
    return names


def class_path(cls: type) -> str:
    """The path that names a class: of ours, that of the package which exports it, as modules may move."""
    package = ".".join(cls.__module__.split(".")[:2])
    if package.startswith(f"{TRUSTED}.") and getattr(sys.modules[package], cls.__qualname__, None) is cls:
        return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def find_class(path: str) -> Any:
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


def is_foreign(value: object) -> bool:
    """Whether a value is of a package whose objects don't keep their arguments as attributes."""
    return type(value).__module__.split(".")[0] in {"builtins", "torch", "numpy"}
