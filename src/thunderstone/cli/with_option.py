"""What `--with NAME[:key=value,…]` asks for: parsed, checked against the method, handed on in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thunderstone.cli.factory import VARIABLE
from thunderstone.cli.value_syntax import ValueSyntaxError, split
from thunderstone.cli.values import ValueParseError, argument_types, format_value, from_json, parse, to_json, type_name
from thunderstone.discovery import check_arguments, create, method_class
from thunderstone.errors import ArgumentError, RequestError

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method

_FORM = "NAME or NAME:key=value,key=value"


@dataclass(frozen=True)
class Attached:
    """One method to attach to every Trainer: its name and the arguments that were given.

    Attributes:
        name: E.g. ``"sam"``.
        arguments: Values by argument, of the types the method's signature says.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Method:
        """A new instance of the method. Raises what `thunderstone.create` raises."""
        return create(self.name, **self.arguments)


def parse_option(text: str) -> Attached:
    """Read one ``--with`` option; imports the method's class for the types of its arguments.

    Raises:
        RequestError: The text does not have the form ``NAME[:key=value,…]``.
        ArgumentError: The method has no such argument (the message has the nearest), needs one that is missing, or a
            value is of the wrong type.
        DiscoveryError: There is no such method (the message has the nearest name), or its plug-in is broken.
    """
    name, texts = _pairs(text)
    cls = method_class(name)
    check_arguments(cls, texts)
    types = argument_types(cls)
    arguments = {}
    for argument, value in texts.items():
        try:
            arguments[argument] = parse(value, types[argument])
        except ValueParseError as error:
            raise _wrong_type(cls, argument, value, types[argument], error) from None
    return Attached(name, arguments)


def format_option(attached: Attached) -> str:
    """The option `parse_option` reads as `attached`."""
    pairs = ",".join(f"{argument}={format_value(value)}" for argument, value in attached.arguments.items())
    return f"{attached.name}:{pairs}" if pairs else attached.name


def _pairs(text: str) -> tuple[str, dict[str, str]]:
    """``sam:rho=0.1`` as ``("sam", {"rho": "0.1"})``."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not name:
        raise RequestError(f"--with {text!r} names no method. HINT: write {_FORM}")
    if not colon:
        return name, {}
    try:
        parts = split(rest, ",")
    except ValueSyntaxError as error:
        raise RequestError(f"--with {text!r}: {error}. HINT: put a text with brackets or quotes in quotes") from None
    texts: dict[str, str] = {}
    for part in parts:
        argument, equals, value = part.partition("=")
        argument = argument.strip()
        if not equals or not argument:
            hint = "put a list in brackets, a text with commas in quotes" if texts else f"write {_FORM}"
            raise RequestError(f"--with {text!r}: {part!r} is not written as key=value. HINT: {hint}")
        if argument in texts:
            raise RequestError(f"--with {text!r}: {argument} is given twice. HINT: leave one of them out")
        texts[argument] = value.strip()
    return name, texts


def _wrong_type(cls: type, argument: str, value: object, annotation: Any, error: ValueParseError) -> ArgumentError:
    hint = f"{argument} is of type {type_name(annotation)}"
    return ArgumentError(cls.__name__, argument, value, str(error), hint)


def build_together(requested: Iterable[Attached]) -> list[Method]:
    """New instances of all methods, after a check that one Trainer can have them all.

    Raises:
        CompositionError: Two are the same method (without an argument that tells them apart), or own one resource.
    """
    from thunderstone.attachment.composition import check_composition

    methods = [attached.build() for attached in requested]
    check_composition(methods)
    return methods


def to_environment(requested: Sequence[Attached]) -> str:
    """The value of ``THUNDERSTONE_WITH``: a JSON list of ``{"name": …, "arguments": {…}}``."""
    return json.dumps([{"name": each.name, "arguments": to_json(each.arguments)} for each in requested])


def from_environment() -> list[Attached]:
    """What ``THUNDERSTONE_WITH`` asks for; nothing when it is unset or empty.

    Raises:
        RequestError: It does not hold what `to_environment` writes.
        ArgumentError, DiscoveryError: Like `parse_option`.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return []
    form = (
        f'HINT: {VARIABLE} is a JSON list such as [{{"name": "sam", "arguments": {{"rho": 0.05}}}}]; unset it or use '
    )
    form += "`thunderstone run --with`"
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{VARIABLE}={text!r} is not JSON: {error}. {form}") from None
    requested = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"{VARIABLE}={text!r}: {entry!r} names no method. {form}")
        arguments = entry.get("arguments", {})
        if not isinstance(arguments, dict):
            raise RequestError(f"{VARIABLE}={text!r}: the arguments of {entry['name']} are no JSON object. {form}")
        requested.append(_typed(entry["name"], arguments))
    return requested


def _typed(name: str, values: dict[str, Any]) -> Attached:
    cls = method_class(name)
    check_arguments(cls, values)
    types = argument_types(cls)
    arguments = {}
    for argument, value in values.items():
        try:
            arguments[argument] = from_json(value, types[argument])
        except ValueParseError as error:
            raise _wrong_type(cls, argument, value, types[argument], error) from None
    return Attached(name, arguments)
