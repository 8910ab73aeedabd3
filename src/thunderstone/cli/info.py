"""`thunderstone info`: everything a user wants to know of one method or strategy before using it."""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

from thunderstone.cli.docstrings import Docstring, parse_docstring
from thunderstone.cli.values import argument_types, format_value, to_json, type_name
from thunderstone.discovery import method_class, registry
from thunderstone.errors import UnknownNameError
from thunderstone.specs import MethodSpec, StrategySpec

_TOLD_ELSEWHERE = ("Args", "Arguments", "Attributes", "Raises", "References", "Reference")


def show(name: str) -> None:
    """Print what is known of a method (``sam``), strategy (``kind:name`` or ``kind/name``) or kind of strategies.

    Raises:
        DiscoveryError: There is no such thing (the message has the nearest name), or it cannot be imported.
    """
    kind, separator, rest = name.replace("/", ":").partition(":")
    if separator:
        _show_strategy(registry().strategy(kind, rest))
        return
    try:
        spec = registry().method(name)
    except UnknownNameError:
        if name in registry().strategies:
            _show_kind(name)
            return
        kinds = [kind for kind, specs in registry().strategies.items() if name in specs]
        if not kinds:
            raise
        for kind in kinds:
            _show_strategy(registry().strategies[kind][name])
        return
    _show_method(spec)


def _show_method(spec: MethodSpec) -> None:
    cls = method_class(spec.name)
    docs = parse_docstring(cls.__doc__)
    page = _Page()
    page.heading(f"{spec.name} ({spec.family}): {spec.summary}")
    page.text(docs.text)
    _arguments(page, cls, docs)
    page.section("Paper", _reference(spec))
    for title, text in docs.sections.items():
        if title not in _TOLD_ELSEWHERE:
            page.section(title, text)
    page.section("Refuses", "\n".join(_refusals(cls)))
    path = import_path(cls)
    page.section("In code", _in_code(cls, path))
    page.section("Any script", f"thunderstone run --with {_with(spec.name, cls)} train.py")
    page.section("YAML", _in_yaml(cls, path))
    _origin(page, spec)


def _show_kind(kind: str) -> None:
    specs = registry().strategies[kind]
    for name, spec in specs.items():
        print(f"{kind}:{name}: {spec.summary}")
    print(f"\nMore of one: thunderstone info {kind}:{next(iter(specs))}")


def _show_strategy(spec: StrategySpec) -> None:
    strategy = spec.load()
    docs = parse_docstring(strategy.__doc__)
    page = _Page()
    page.heading(f"{spec.kind}:{spec.name}: {spec.summary}")
    page.text(docs.text)
    if callable(strategy):
        _arguments(page, strategy, docs)
    page.section("Paper", _reference(spec))
    for title, text in docs.sections.items():
        if title not in _TOLD_ELSEWHERE:
            page.section(title, text)
    module, attribute = spec.target.split(":")
    page.section(
        "In code",
        f"from {module} import {attribute.split('.')[0]}\n"
        f"or: thunderstone.strategy({json.dumps(spec.kind)}, {json.dumps(spec.name)})",
    )
    _origin(page, spec)


class _Page:
    """Headings, wrapped prose, verbatim sections and tables on the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)

    def heading(self, text: str) -> None:
        self.console.print(text, style="bold", markup=False)

    def text(self, text: str) -> None:
        """Prose: paragraphs are filled to the width of the terminal; indented ones are left as they are."""
        for paragraph in re.split(r"\n\s*\n", text):
            if paragraph:
                filled = paragraph if paragraph[0].isspace() else " ".join(paragraph.split())
                self.console.print(f"\n{filled}", markup=False)

    def section(self, title: str, text: str) -> None:
        if text:
            self.console.print(f"\n{title}", style="bold", markup=False)
            for line in text.splitlines():
                self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        self.console.print(f"\n{title}", style="bold", markup=False)
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=True)
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)


def _arguments(page: _Page, target: Any, docs: Docstring) -> None:
    parameters = _parameters(target)
    if not parameters:
        return
    described = docs.items("Args") or docs.items("Arguments")
    if isinstance(target, type):
        types = argument_types(target)
        described = described or parse_docstring(target.__init__.__doc__).items("Args")  # type: ignore[misc]
    else:
        types = {name: parameter.annotation for name, parameter in parameters.items()}
    rows = []
    for name, parameter in parameters.items():
        annotation = types.get(name, Any)
        shown = annotation if isinstance(annotation, str) else type_name(annotation)
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        rows.append([name, shown, default, described.get(name, "")])
    page.table("Arguments", ["Name", "Type", "Default", "Meaning"], rows)


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some C functions have none
        return {}


def _reference(spec: MethodSpec | StrategySpec) -> str:
    if spec.reference is None:
        return ""
    return f"{spec.reference.authors} ({spec.reference.year}). {spec.reference.title}.\n{spec.reference.url}"


def _refusals(cls: Any) -> list[str]:
    lines = [f"a second method that owns the {resource}" for resource in sorted(cls.exclusive)]
    lines += [f"strategy {strategy}: {reason}" for strategy, reason in sorted(cls.unsupported_strategies.items())]
    return lines


def import_path(cls: type) -> str:
    """Where users import a class from: its top-level package if that exports it, otherwise its module."""
    package = cls.__module__.partition(".")[0]
    if getattr(sys.modules.get(package), cls.__name__, None) is cls:
        return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _example(cls: type) -> dict[str, Any]:
    """Arguments for an example: the required ones as placeholders, else the first that has a default to show."""
    parameters = _parameters(cls)
    required = {name: ... for name, parameter in parameters.items() if parameter.default is parameter.empty}
    first = {name: parameter.default for name, parameter in parameters.items() if parameter.default is not None}
    return required or dict(list(first.items())[:1])


def _in_code(cls: type, path: str) -> str:
    shown = ", ".join(f"{name}={'...' if value is ... else repr(value)}" for name, value in _example(cls).items())
    module = path.rpartition(".")[0]
    return f"from {module} import {cls.__name__}\nTrainer(callbacks=[{cls.__name__}({shown})])"


def _with(name: str, cls: type) -> str:
    shown = ",".join(f"{key}={'...' if value is ... else format_value(value)}" for key, value in _example(cls).items())
    return f"{name}:{shown}" if shown else name


def _in_yaml(cls: type, path: str) -> str:
    lines = ["trainer:", "  callbacks:", f"    - class_path: {path}"]
    example = _example(cls)
    if example:
        lines.append("      init_args:")
        lines += [
            f"        {name}: {'...' if value is ... else json.dumps(to_json(value))}"
            for name, value in example.items()
        ]
    return "\n".join(lines)


def _origin(page: _Page, spec: MethodSpec | StrategySpec) -> None:
    owner = registry().owner(spec)
    page.section("Package", f"{owner.distribution} {owner.version} ({spec.target})")
