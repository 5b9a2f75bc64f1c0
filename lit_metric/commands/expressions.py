"""Filters, draws and indexes as they are written on the command line: ``MarginFilter(0.05)``."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any


def described(expression: str, option: str, base: type, module: ModuleType) -> dict[str, Any]:
    """``class_path`` and ``init_args`` of what ``NAME(ARGUMENTS)`` calls; nothing is evaluated.

    Args:
        expression: a public class of ``module``, alone or called with numbers, strings and such calls.
        option: what it was given to, for the messages.
        base: the class that it must be a kind of.
        module: where the names are from.

    Raises:
        ValueError: if it is something else; the message lists the names.

    Example:
        >>> from lit_metric import mining
        >>> described("WithRandom(TopK(), share=0.2)", "--draw", mining.Draw, mining)["init_args"]
        {'draw': {'class_path': 'lit_metric.mining.TopK', 'init_args': {}}, 'share': 0.2}
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{option} {expression}: {error.msg}; {_known(base, module)}") from error
    found = _class(tree, option, expression, module)
    if not issubclass(getattr(module, found["class_path"].rpartition(".")[2]), base):
        raise ValueError(f"{option} {expression}: that is none of these; {_known(base, module)}")
    return found


def _class(node: ast.expr, option: str, expression: str, module: ModuleType) -> dict[str, Any]:
    name = node.func if isinstance(node, ast.Call) else node
    cls = getattr(module, name.id, None) if isinstance(name, ast.Name) else None
    if not inspect.isclass(cls):
        raise ValueError(f"{option} {expression}: {_known(object, module)}")
    arguments: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"{option} {expression}: name each argument")
        try:
            bound = inspect.signature(cls).bind_partial(
                *node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords}
            )
        except TypeError as error:
            raise ValueError(f"{option} {expression}: {error}; {cls.__name__} takes {_takes(cls)}") from error
        arguments = {key: _value(value, option, expression, module) for key, value in bound.arguments.items()}
    return {"class_path": f"{module.__name__}.{cls.__name__}", "init_args": arguments}


def _value(node: Any, option: str, expression: str, module: ModuleType) -> Any:
    if isinstance(node, ast.Call):
        return _class(node, option, expression, module)
    if isinstance(node, ast.List):
        return [_value(each, option, expression, module) for each in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        what = ast.unparse(node)
        raise ValueError(
            f"{option} {expression}: {what} is no number, quoted text, or call such as TopK()"
        ) from error


def _known(base: type, module: ModuleType) -> str:
    names = [
        name
        for name in module.__all__
        if inspect.isclass(cls := getattr(module, name))
        and issubclass(cls, base)
        and not inspect.isabstract(cls)
    ]
    return f"give one of {', '.join(names)}, such as {names[0]}({_takes(getattr(module, names[0]))})"


def _takes(cls: type) -> str:
    """The arguments with their defaults."""
    parameters = inspect.signature(cls).parameters.values()
    return ", ".join(
        each.name if each.default is each.empty else f"{each.name}={each.default!r}" for each in parameters
    )
