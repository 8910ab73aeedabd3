"""Every public name says what it is, what it takes and, where it can be refused, what it raises."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib import import_module

import pytest
from public_modules import MODULES

from thunderstone.attachment.hookspecs import AttachmentHooks

# Public without an `__all__`: the functions and classes that are written there.
WRITTEN_THERE = ["thunderstone.arguments", "thunderstone.errors", "thunderstone.tensor_lists", "thunderstone.specs"]


def public_names():
    for name in MODULES:
        module = import_module(name)
        for attribute in module.__all__:
            value = getattr(module, attribute)
            if inspect.isclass(value) or inspect.isroutine(value):
                yield f"{name}.{attribute}", value
    for name in WRITTEN_THERE:
        for attribute, value in vars(import_module(name)).items():
            if not attribute.startswith("_") and getattr(value, "__module__", None) == name:
                yield f"{name}.{attribute}", value


NAMES = dict(public_names())


def said(value):
    """What is written about a class or function: its docstring, and for a class its `__init__`'s and its own bases'."""
    texts = [inspect.getdoc(value) or ""]
    if inspect.isclass(value):
        texts += [inspect.getdoc(vars(base).get("__init__")) or "" for base in value.__mro__ if base is not object]
        texts += [base.__doc__ or "" for base in value.__mro__[1:] if base.__module__.startswith("thunderstone")]
    return "\n".join(texts)


def parameters(value):
    """The arguments a caller gives, by name."""
    if inspect.isclass(value) and value.__init__ is object.__init__ and not dataclasses.is_dataclass(value):
        return []
    if inspect.isclass(value) and getattr(value, "_is_protocol", False):
        return []
    if inspect.isclass(value) and not dataclasses.is_dataclass(value):
        written = next((base for base in value.__mro__ if "__init__" in vars(base)), object)
        if not written.__module__.startswith("thunderstone"):
            return []
    try:
        signature = inspect.signature(value)
    except ValueError:
        return []
    catch_all = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        name for name, each in signature.parameters.items() if each.kind not in catch_all and not name.startswith("_")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_explains_itself(name):
    value = NAMES[name]
    text = inspect.getdoc(value)
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first[0].isupper() or first.startswith(("`", "'")), f"{name}: {first!r}"
    # dataclasses write one for those that have none
    assert not text.startswith(f"{value.__name__}("), f"{name} has no docstring of its own"


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained(name):
    value = NAMES[name]
    text = said(value)
    if "; handed to" in text:
        return  # nobody but the host builds one
    missing = [each for each in parameters(value) if not re.search(rf"\b{re.escape(each)}\b", text)]
    assert not missing, f"{name} does not say what {missing} are"


def test_every_hook_says_when_it_is_called():
    hooks = {name: hook for name, hook in vars(AttachmentHooks).items() if inspect.isfunction(hook)}
    assert len(hooks) >= 9
    for name, hook in hooks.items():
        assert "When:" in (inspect.getdoc(hook) or ""), f"{name} does not say when it is called"


def test_what_is_raised_is_said():
    """A public function of a family that checks an argument names the error it refuses with."""
    silent = []
    for name, value in NAMES.items():
        if not inspect.isfunction(value):
            continue
        raised = set(re.findall(r"^\s+raise (\w+(?:Error|Failure))\b", inspect.getsource(value), re.M))
        silent += [f"{name}: {error}" for error in raised if error not in (inspect.getdoc(value) or "")]
    assert not silent, silent
