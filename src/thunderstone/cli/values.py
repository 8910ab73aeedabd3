"""Values of a method's arguments as text: parsed by their annotation, formatted so that parsing gives them back."""

from __future__ import annotations

import collections.abc
import inspect
import json
import re
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from thunderstone.cli.value_syntax import is_quoted, items, split, unquoted
from thunderstone.errors import nearest

_NONE = {"none", "null"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTEGER = re.compile(r"[+-]?\d+(_\d+)*\Z")
_NUMBER = re.compile(r"[+-]?((\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?|inf|nan)\Z")
_BARE = re.compile(r"[A-Za-z_./][\w./-]*\Z")
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
# In a union the most particular reading wins: `1` is an int before it is a float, a string is the last resort.
_UNION_ORDER = (types.NoneType, Literal, Enum, int, float, bool, tuple, list, dict, Path)


class ValueParseError(ValueError):
    """A text is not a value of the argument's type. The message stands after a colon."""


def argument_types(cls: type) -> dict[str, Any]:
    """The annotation of every argument of a class, names resolved; `Any` where there is none or it does not resolve."""
    parameters = inspect.signature(cls).parameters
    initialiser = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    try:
        hints = get_type_hints(initialiser, include_extras=True)
    except Exception:  # a name imported for type checkers only: resolve what can be, argument by argument
        hints = {name: _resolved(initialiser, parameter.annotation) for name, parameter in parameters.items()}
    return {name: hints.get(name, Any) for name in parameters}


def _resolved(function: Any, annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        while isinstance(annotation, str):  # twice for a quoted annotation under `from __future__ import annotations`
            annotation = eval(annotation, dict(vars(sys.modules[function.__module__])))
    except Exception:
        return Any
    return annotation


def parse(text: str, annotation: Any) -> Any:
    """The value a text stands for, read as the annotation says.

    Args:
        text: ``1``, ``1e-3``, ``true``, ``none``, ``l2``, ``"a, b"``, ``[1, 2]``, ``(0.9, 0.999)``, ``{lr: 0.1}``.
        annotation: None, bool, int, float, str, Path, an Enum, Literal, list, tuple, dict, a union of them, or Any.

    Raises:
        ValueParseError: The text is no such value, or such values cannot be written on a command line.
    """
    try:
        return _parse(text.strip(), annotation)
    except ValueParseError:
        raise
    except ValueError as error:  # an open bracket or quote, or an int of more digits than Python reads
        raise ValueParseError(str(error)) from None


def _parse(text: str, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, object, inspect.Parameter.empty) or isinstance(annotation, TypeVar):
        return _inferred(text)
    if origin is Annotated:
        return _parse(text, arguments[0])
    if origin in (Union, types.UnionType):
        return _union(text, arguments)
    if origin is Literal:
        return _literal(text, arguments)
    kind = origin or annotation
    if kind is str:
        return unquoted(text)
    if isinstance(kind, type) and issubclass(kind, Path):
        return Path(unquoted(text))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(unquoted(text), kind)
    if kind is tuple:
        return _tuple(text, arguments)
    if kind in _LISTS:
        return [_parse(part, arguments[0] if arguments else Any) for part in items(text, "[]()")]
    if kind in _MAPPINGS:
        return _mapping(text, arguments or (Any, Any))
    return _scalar(text, kind)


def _scalar(text: str, kind: Any) -> Any:
    if kind in (None, types.NoneType):
        if text.lower() in _NONE:
            return None
        raise ValueParseError("it must be none")
    if kind is bool:
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        raise ValueParseError("it must be true or false")
    if kind is int:
        if _INTEGER.match(text):
            return int(text)
        raise ValueParseError("it must be a whole number")
    if kind is float:
        if _NUMBER.match(text.lower()):
            return float(text)
        raise ValueParseError("it must be a number")
    raise ValueParseError(f"a value of type {type_name(kind)} cannot be written on the command line")


def _inferred(text: str) -> Any:
    if is_quoted(text):
        return unquoted(text)
    if text.lower() in _NONE:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text.lower()):
        return float(text)
    if text.startswith("["):
        return _parse(text, list[Any])
    if text.startswith("("):
        return _parse(text, tuple[Any, ...])
    if text.startswith("{"):
        return _parse(text, dict[Any, Any])
    return text


def _union(text: str, members: tuple[Any, ...]) -> Any:
    def rank(member: Any) -> int:
        kind = get_origin(member) or member
        for position, ordered in enumerate(_UNION_ORDER):
            if kind is ordered or (ordered in (Enum, Path) and isinstance(kind, type) and issubclass(kind, ordered)):
                return position
        return len(_UNION_ORDER) + (kind is str)

    if is_quoted(text) and str in members:
        return unquoted(text)
    reasons = []
    for member in sorted(members, key=rank):
        try:
            return _parse(text, member)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueParseError(", or ".join(dict.fromkeys(reasons)))


def _literal(text: str, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if isinstance(choice, str):
            if unquoted(text) == choice:
                return choice
            continue
        try:
            value = _parse(text, type(choice))
        except ValueParseError:
            continue
        if value == choice:
            return choice
    names = [str(choice) for choice in choices]
    raise ValueParseError(f"it must be one of {', '.join(names)}{_near(unquoted(text), names)}")


def _member(name: str, kind: type[Enum]) -> Enum:
    if name in kind.__members__:
        return kind.__members__[name]
    names = list(kind.__members__)
    raise ValueParseError(f"it must be one of {', '.join(names)}{_near(name, names)}")


def _near(name: str, names: list[str]) -> str:
    # In brackets, since further types or a hint may follow.
    close = nearest(name, names)
    return f" (did you mean {close!r}?)" if close else ""


def _tuple(text: str, members: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = items(text, "()[]")
    if not members or members[-1] is Ellipsis:
        return tuple(_parse(part, members[0] if members else Any) for part in parts)
    if members == ((),):  # how Python 3.10 spells tuple[()]
        members = ()
    if len(parts) != len(members):
        raise ValueParseError(f"it must have {len(members)} values, not {len(parts)}")
    return tuple(_parse(part, member) for part, member in zip(parts, members, strict=True))


def _mapping(text: str, members: tuple[Any, ...]) -> dict[Any, Any]:
    mapping = {}
    for part in items(text, "{}"):
        pair = split(part, ":", most=1)
        if len(pair) != 2:
            raise ValueParseError(f"{part!r} is not written as key: value")
        mapping[_key(pair[0], members[0])] = _parse(pair[1], members[1])
    return mapping


def _key(text: str, annotation: Any) -> Any:
    try:
        return _parse(text, annotation)
    except ValueParseError:
        if is_quoted(text):  # JSON's keys are strings, whatever they were
            return _parse(unquoted(text), annotation)
        raise


def format_value(value: Any) -> str:
    """A text that `parse` reads as the value again, under the annotation it was parsed with."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        text = str(value)
        bare = _BARE.match(text) and text.lower() not in _BOOLEANS and _inferred(text) == text
        return text if bare else json.dumps(text)
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, tuple):
        return f"({','.join(map(format_value, value))})"
    if isinstance(value, dict):
        return "{" + ",".join(f"{format_value(key)}:{format_value(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"{value!r} cannot be written on the command line")


def to_json(value: Any) -> Any:
    """The value in JSON's own types: paths and enum members as strings, tuples as lists."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(to_json(key)): to_json(item) for key, item in value.items()}
    return value


def from_json(value: Any, annotation: Any) -> Any:
    """The value `to_json` was given, under the same annotation. Raises ValueParseError when it is none."""
    return parse(format_value(value), annotation)


def type_name(annotation: Any) -> str:
    """An annotation as users write it: ``float | None``, ``list[int]``, ``'l2' | 'linf'``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, types.NoneType):
        return "None"
    if annotation in (Any, inspect.Parameter.empty):
        return "any"
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(member) for member in arguments)
    if origin is Literal:
        return " | ".join(repr(choice) for choice in arguments)
    if origin is not None and arguments:
        inside = ", ".join("..." if member is Ellipsis else type_name(member) for member in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    return getattr(annotation, "__name__", None) or str(annotation)
