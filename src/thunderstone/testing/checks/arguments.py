"""Rule 10: it explains itself. Arguments are explicit, typed, serialisable, checked; building touches nothing."""

from __future__ import annotations

import inspect
import json
import math
import re
import types
import typing
from typing import Any, Literal, get_args, get_origin

import torch
from torch.overrides import TorchFunctionMode

from thunderstone.attachment.method import Method
from thunderstone.errors import ThunderstoneError
from thunderstone.random_state import RandomState
from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import require_same
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check

_NO_STRING = "certainly not a choice"


def _parameters(cls: type[Method]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


@check(rule=10)
def check_arguments_are_explicit(bench: Bench) -> None:
    """Every argument is named, annotated, kept in an attribute of its name, documented, and its default JSON."""
    method = bench.method()
    cls = type(method)
    documented = _documented(cls)
    for name, parameter in _parameters(cls).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise CheckFailure(
                f"{cls.__name__}.__init__ takes {parameter}; a typo in an argument would go unnoticed. HINT: name "
                "every argument"
            )
        if parameter.annotation is parameter.empty:
            raise CheckFailure(f"{cls.__name__}: {name} has no type; command line and YAML cannot parse it")
        if not hasattr(method, name):
            raise CheckFailure(f"{cls.__name__}: {name} is not kept in an attribute self.{name}")
        if parameter.default is not parameter.empty:
            _require_json(cls.__name__, name, parameter.default)
        if name not in documented:
            raise CheckFailure(f"{cls.__name__}: {name} is not described in an Args section of the class docstring")


def _documented(cls: type) -> set[str]:
    text = "\n".join(inspect.getdoc(part) or "" for part in (cls, inspect.getattr_static(cls, "__init__")))
    section = re.search(r"^\s*Args:\s*\n((?:\s+.*\n?|\n)*)", text, re.MULTILINE)
    return set(re.findall(r"^\s+(\w+)\s*(?:\([^)]*\))?:", section.group(1), re.MULTILINE)) if section else set()


def _require_json(label: str, name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise CheckFailure(
            f"{label}: the default {name}={value!r} is not JSON: {error}. HINT: take a number, text, list, mapping or "
            "None, and build from it"
        ) from error


@check(rule=10)
def check_building_touches_nothing(bench: Bench) -> None:
    """__init__ draws no random number, makes no tensor and starts no device."""
    method = bench.method()
    before = RandomState().state_dict()
    cuda: Any = torch.cuda
    started = cuda.is_initialized()
    with _Tensors() as made:
        bench.method()
    require_same(bench.label, "the random state after building", before, RandomState().state_dict())
    if made.functions:
        raise CheckFailure(
            f"building {bench.label} makes tensors ({', '.join(sorted(made.functions))}), on whatever the default "
            "device is. HINT: do it in on_attach"
        )
    if cuda.is_initialized() and not started:
        raise CheckFailure(f"building {bench.label} starts CUDA; a fork after that fails")
    require_same(bench.label, "the arguments of two instances", method.arguments, bench.method().arguments)


class _Tensors(TorchFunctionMode):
    """Notes the names of torch functions that return tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.functions.add(getattr(func, "__name__", repr(func)))
        return result


@check(rule=10)
def check_refuses_bad_values(bench: Bench) -> None:
    """NaN and values of a wrong type raise a ThunderstoneError that names the method and the argument."""
    method = bench.method()
    cls = type(method)
    hints = typing.get_type_hints(cls.__init__)
    arguments = method.arguments
    tried = 0
    for name in _parameters(cls):
        for value in bad_values(hints.get(name, Any)):
            tried += 1
            shown = f"{cls.__name__}({name}={value!r})"
            try:
                cls(**{**arguments, name: value})
            except ThunderstoneError as error:
                missing = [part for part in (cls.__name__, name) if part not in str(error)]
                if missing:
                    raise CheckFailure(f"{shown} is refused without naming {' and '.join(missing)}: {error}") from error
            except Exception as error:
                raise CheckFailure(
                    f"{shown} raises {type(error).__name__}: {error}. HINT: raise thunderstone.ArgumentError; "
                    "thunderstone.arguments has the checks"
                ) from error
            else:
                raise CheckFailure(f"{shown} is accepted. HINT: check it in __init__ with thunderstone.arguments")
    if not tried:
        raise CheckSkipped(f"{cls.__name__} has no argument of which a bad value is known")


def bad_values(annotation: Any) -> list[Any]:
    """Values no argument of this type can take. Empty for types the kit knows nothing about."""
    kinds = _kinds(annotation)
    if kinds is None:
        return []
    bad: list[Any] = []
    if float in kinds or int in kinds:
        bad += [math.nan, math.inf]
    if float in kinds or int in kinds or bool in kinds:
        bad += [] if str in kinds else [_NO_STRING]
        bad += [] if kinds & {list, tuple} else [[]]
    if int in kinds and float not in kinds:
        bad += [1.5]
    if bool in kinds and not kinds & {int, float}:
        bad += [1.5]
    if kinds <= {str, type(None)}:
        bad += [math.nan, 3]
    if type(None) not in kinds and bad:
        bad.append(None)
    return bad


def _kinds(annotation: Any) -> set[type] | None:
    """The primitive types an annotation admits, or None when it admits anything else."""
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(part) for part in get_args(annotation)]
        return None if any(part is None for part in parts) else set().union(*(part for part in parts if part))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is typing.Annotated:
        return _kinds(get_args(annotation)[0])
    kind = origin or annotation
    return {kind} if kind in (float, int, bool, str, type(None), list, tuple) else None


@check(rule=10)
def check_works_in_yaml(bench: Bench) -> None:
    """LightningCLI's parser builds it from class_path and init_args, and from the YAML it writes."""
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise CheckSkipped("jsonargparse is not installed: pip install 'thunderstone[testing]'") from error
    from lightning.pytorch.callbacks import Callback

    method = bench.method()
    cls = type(method)
    entry = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": method.arguments}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    try:
        config = parser.parse_object({"callbacks": [entry]})
        built = parser.instantiate_classes(config).callbacks[0]
        text = parser.dump(config)
        rebuilt = parser.instantiate_classes(parser.parse_string(text)).callbacks[0]
    except Exception as error:
        raise CheckFailure(f"the parser of LightningCLI cannot build {cls.__name__}: {error}") from error
    for what, other in (("from class_path and init_args", built), ("from YAML", rebuilt)):
        require_same(cls.__name__, f"the arguments of a method built {what}", method.arguments, other.arguments)


@check(rule=10)
def check_has_a_unique_state_key(bench: Bench) -> None:
    """Its state_key holds the class's full path, is the same for equal arguments, and does not change in a fit."""
    method, twin = bench.method(), bench.method()
    cls = type(method)
    key = method.state_key
    if cls.__module__ not in key or cls.__qualname__ not in key:
        raise CheckFailure(
            f"{cls.__name__}.state_key is {key!r} and does not hold {cls.__module__}.{cls.__qualname__}: two packages "
            "with a class of this name would overwrite each other's state"
        )
    if twin.state_key != key:
        raise CheckFailure(f"two equal instances have state keys {key!r} and {twin.state_key!r}: no state would load")
    unknown = [name for name in cls.identified_by if name not in _parameters(cls)]
    if unknown:
        raise CheckFailure(f"{cls.__name__}.identified_by names {', '.join(unknown)}, which __init__ does not take")
    case = bench.case("mlp")
    fitted = bench.method(case)
    key = fitted.state_key
    bench.train(case, [fitted])
    if fitted.state_key != key:
        raise CheckFailure(f"{cls.__name__}.state_key changes during a fit, from {key!r} to {fitted.state_key!r}")


@check(rule=10)
def check_describes_itself(bench: Bench) -> None:
    """It has a name for metrics and a docstring whose first line says what it does."""
    cls = type(bench.method())
    if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.name):
        raise CheckFailure(
            f"{cls.__name__}.name is {cls.name!r}. HINT: name: ClassVar[str] = lower case letters, digits, underscores"
        )
    if not (cls.__doc__ or "").strip():
        raise CheckFailure(f"{cls.__name__} has no docstring")
