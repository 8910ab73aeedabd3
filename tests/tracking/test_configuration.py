"""A run's configuration is made of primitives, and the same in every run."""

from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reporting_run import Sharpened

from thunderstone.tracking.configuration import configuration, names, primitive


class Norm(Enum):
    L2 = "l2"


class Level(str, Enum):
    HIGH = "high"


class Plain:
    pass


class Shown:
    def __repr__(self) -> str:
        return "Shown(3)"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("linf", "linf"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (np.float32(0.5), 0.5),
        (torch.tensor(2), 2),
        (torch.ones(2, 3), "Tensor(shape=(2, 3), dtype=torch.float32)"),
        (Norm.L2, "L2"),
        (Level.HIGH, "HIGH"),
        (Path("a") / "b", "a/b"),
        ((1, [2.0, "x"]), [1, [2.0, "x"]]),
        ({"b", "a"}, ["a", "b"]),
        ({1: {"deep": Norm.L2}}, {"1": {"deep": "L2"}}),
        (math.sqrt, "math.sqrt"),
        (Plain, f"{__name__}.Plain"),
        (Plain(), f"{__name__}.Plain"),
        (Shown(), "Shown(3)"),
    ],
)
def test_arguments_become_primitives(value: Any, expected: Any) -> None:
    assert primitive(value) == expected
    json.dumps(primitive(value), allow_nan=False)


def test_methods_of_one_name_are_numbered_and_tagged_once() -> None:
    methods = [Sharpened(), Sharpened(0.1), Sharpened(0.2)]
    assert {name: arguments["rho"] for name, arguments in configuration(methods).items()} == {
        "sharpened": 0.05,
        "sharpened_2": 0.1,
        "sharpened_3": 0.2,
    }
    assert names(methods) == ["sharpened"]


def test_a_method_without_a_name_goes_by_its_class() -> None:
    class Unnamed(Sharpened):
        name = ""

    assert list(configuration([Unnamed()])) == ["Unnamed"]
    assert names([Unnamed()]) == ["Unnamed"]
