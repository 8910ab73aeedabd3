"""Values on the command line: read by their type, and written so that reading gives them back."""

# ruff: noqa: UP007, UP045 - both spellings of an optional type are what methods have

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.cli.values import (
    ValueParseError,
    argument_types,
    format_value,
    from_json,
    parse,
    to_json,
    type_name,
)


class Shape(enum.Enum):
    ROUND = 1
    SQUARE = 2


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        (" -3 ", int, -3),
        ("1_000", int, 1000),
        ("3", float, 3.0),
        ("1e-3", float, 1e-3),
        (".5", float, 0.5),
        ("2.", float, 2.0),
        ("-inf", float, -math.inf),
        ("true", bool, True),
        ("False", bool, False),
        ("1", bool, True),
        ("off", bool, False),
        ("none", type(None), None),
        ("none", str, "none"),
        ("it's", str, "it's"),
        ('"a, b"', str, "a, b"),
        (r'"tab\t\"quoted\""', str, 'tab\t"quoted"'),
        (r"'C:\new'", str, r"C:\new"),
        ("", str, ""),
        ("None", Optional[int], None),
        ("7", Optional[int], 7),
        ("null", float | None, None),
        ("7", Union[int, float], 7),
        ("7.0", int | float, 7.0),
        ("7", str | int, 7),
        ('"7"', str | int, "7"),
        ("auto", int | Literal["auto"], "auto"),
        ("l2", Literal["l2", "linf"], "l2"),
        ("2", Literal[1, 2], 2),
        ("none", Literal["a", None], None),
        ("SQUARE", Shape, Shape.SQUARE),
        ("a/b.c", Path, Path("a/b.c")),
        ("[]", list[int], []),
        ("[1, 2]", list[int], [1, 2]),
        ("[1, 2,]", list[int], [1, 2]),
        ("[a, 'b, c']", list[str], ["a", "b, c"]),
        ("[[1], []]", list[list[int]], [[1], []]),
        ("[1]", Sequence[int], [1]),
        ("[1, x]", list, [1, "x"]),
        ("(0.9, 0.999)", tuple[float, float], (0.9, 0.999)),
        ("[1, a]", tuple[int, str], (1, "a")),
        ("(1, 2, 3)", tuple[int, ...], (1, 2, 3)),
        ("()", tuple[()], ()),
        ("{a: 1, b: 2}", dict[str, int], {"a": 1, "b": 2}),
        ('{"a:b": [1]}', Mapping[str, list[int]], {"a:b": [1]}),
        ("{1: x}", dict[int, str], {1: "x"}),
        ("3", Annotated[int, "positive"], 3),
        ("3", Any, 3),
        ("3.5", Any, 3.5),
        ("True", Any, True),
        ("none", Any, None),
        ("yes", Any, "yes"),
        ("[1, {a: (b)}]", Any, [1, {"a": ("b",)}]),
        ("[1] | None", str, "[1] | None"),
    ],
)
def test_a_text_is_read_as_its_type(text, annotation, value):
    read = parse(text, annotation)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "reason"),
    [
        ("1.5", int, "a whole number"),
        ("true", int, "a whole number"),
        ("", int, "a whole number"),
        ('"3"', int, "a whole number"),
        ("9" * 5000, int, "digits"),
        ("fast", float, "a number"),
        ("1__0", float, "1__0"),
        ("2", bool, "true or false"),
        ("x", int | None, "it must be none, or it must be a whole number"),
        ("lin", Literal["l2", "linf"], "one of l2, linf (did you mean 'linf'?)"),
        ("lin", Literal["l2", "linf"] | int, "(did you mean 'linf'?), or it must be a whole number"),
        ("SQUAR", Shape, "one of ROUND, SQUARE (did you mean 'SQUARE'?)"),
        ("1, 2", list[int], "stand between [] or ()"),
        ("[1", list[int], "stand between"),
        ("[1, (2]]", list[Any], "closes nothing"),
        ("[1,,2]", list[int], "nothing between two commas"),
        ("[1, x]", list[int], "a whole number"),
        ("(1, 2, 3)", tuple[int, int], "2 values, not 3"),
        ("{a}", dict[str, int], "key: value"),
        ("{a: b}", dict[str, int], "a whole number"),
        ("['a]", list[str], "quote ' is not closed"),
        (r'"\q"', str, "not a JSON string"),
        ("x", type, "type cannot be written on the command line"),
        ("x", bytes, "bytes cannot be written on the command line"),
    ],
)
def test_what_is_no_value_of_the_type_says_why(text, annotation, reason):
    with pytest.raises(ValueParseError) as caught:
        parse(text, annotation)
    assert reason in str(caught.value)


floats = st.floats(allow_nan=False)
VALUES = [
    (int, st.integers()),
    (float, floats),
    (bool, st.booleans()),
    (str, st.text()),
    (Optional[str], st.none() | st.text()),
    (Union[int, float, bool, str, None], st.none() | st.booleans() | st.integers() | floats | st.text()),
    (Literal["a", "none", 3], st.sampled_from(["a", "none", 3])),
    (Shape, st.sampled_from(Shape)),
    (list[str], st.lists(st.text())),
    (tuple[int, str], st.tuples(st.integers(), st.text())),
    (tuple[float, ...], st.lists(floats).map(tuple)),
    (dict[str, list[int]], st.dictionaries(st.text(), st.lists(st.integers()))),
    (dict[int, float], st.dictionaries(st.integers(), floats)),
    (list[tuple[str, Optional[bool]]], st.lists(st.tuples(st.text(), st.none() | st.booleans()))),
    (
        Any,
        st.recursive(
            st.none() | st.booleans() | st.integers() | floats | st.text(),
            lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    ),
]
annotated_values = st.sampled_from(VALUES).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))


@given(annotated_values)
def test_reading_what_was_written_gives_the_value_back(pair):
    annotation, value = pair
    read = parse(format_value(value), annotation)
    assert read == value
    assert type(read) is type(value)


@given(annotated_values)
def test_a_value_survives_the_environment_variable(pair):
    annotation, value = pair
    if annotation is Any:  # JSON has no tuples, so without a type they come back as lists
        value = to_json(value)
    assert from_json(json.loads(json.dumps(to_json(value))), annotation) == value


def test_a_path_survives_both():
    assert parse(format_value(Path("a b/c")), Path) == Path("a b/c")
    assert from_json(to_json(Path("a b/c")), Path) == Path("a b/c")


def test_a_value_without_a_text_is_refused():
    with pytest.raises(TypeError, match="cannot be written on the command line"):
        format_value(object())


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (float, "float"),
        (float | None, "float | None"),
        (Optional[int], "int | None"),
        (Literal["l2", "linf"], "'l2' | 'linf'"),
        (tuple[int, ...], "tuple[int, ...]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Annotated[int, 1], "int"),
        (None, "None"),
        (Any, "any"),
        (Shape, "Shape"),
    ],
)
def test_a_type_has_the_name_users_know(annotation, name):
    assert type_name(annotation) == name


def test_annotations_are_resolved_and_those_that_cannot_be_leave_the_others_alone():
    class Good:
        def __init__(self, rho: float, *, layers: list[str] | None = None, anything=None) -> None: ...

    class Partly:
        def __init__(self, rho: float, other: OnlyForTypeCheckers, last: "int") -> None: ...  # noqa: F821, UP037

    class Bare:
        pass

    assert argument_types(Good) == {"rho": float, "layers": list[str] | None, "anything": Any}
    assert argument_types(Partly) == {"rho": float, "other": Any, "last": int}
    assert argument_types(Bare) == {}
