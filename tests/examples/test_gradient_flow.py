"""The flow gets nearer, by the exact distance; table, numbers and figure say the same."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gradient_flow.py"
SETTINGS = ["plain", "lower", "upper", "gaussian, orthogonal", "plain, 10 × L"]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the example sets for its process is put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gradient_flow.py", "--fast", "--output", str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert str(tmp_path) in capsys.readouterr().out.replace("\n", "")
    flows = json.loads((tmp_path / "gradient_flow.json").read_text())
    assert [flow["setting"] for flow in flows] == SETTINGS * 2
    for flow in flows:
        assert flow["marks"] == [0, 30, 60]
        first, second, third = flow["squared_distance"]
        # The two classes are as far apart at the start of every flow, and every flow takes a good part of it off.
        assert first == flows[0]["squared_distance"][0]
        assert third < second < 0.9 * first
        assert flow["milliseconds_per_step"] > 0
    # What a control variate takes off is the flow's randomness.
    ends = {name: [flow["squared_distance"][-1] for flow in flows if flow["setting"] == name] for name in SETTINGS}
    assert abs(np.diff(ends["gaussian, orthogonal"])[0]) < abs(np.diff(ends["plain"])[0])

    header, dashes, *rows = (tmp_path / "gradient_flow.md").read_text().splitlines()
    assert header == "| setting | step 30 | step 60 | time a step |"
    assert set(dashes) <= set("| -")
    assert [row.split("|")[1].strip() for row in rows] == SETTINGS
    low, high = sorted(ends["plain"])
    assert f"({low:.3f} to {high:.3f})" in rows[0]
    pixels = imread(tmp_path / "gradient_flow.png")[..., :3]
    assert min(pixels.shape[:2]) > 1000
    assert 0.01 < (pixels.mean(-1) < 0.9).mean() < 0.6


def test_point_clouds(example: dict[str, Any], tmp_path: Path) -> None:
    """The paper's setting on a small pair: 20 apart in each coordinate, and moved with a rate of 0.01."""
    file = tmp_path / "pair.npy"
    clouds = np.random.default_rng(0).normal(size=(2, 40, 3)).astype(np.float32)
    np.save(file, clouds)
    problem = example["point_clouds"](file, (0, 10, 20), (10, 20))
    assert torch.equal(problem.source, torch.tensor(clouds[0] * 2 - 10))
    assert torch.equal(problem.target, torch.tensor(clouds[1] * 2 + 10))
    settings = example["settings"](problem, 10)
    assert settings["gaussian, qmc"] == {"num_projections": 10, "control_variate": "gaussian", "directions": "qmc"}
    kept, cost = example["flow"](problem, settings["gaussian, qmc"], 1)
    assert torch.equal(kept[0], problem.source)
    assert cost > 0
    # N SW_2 of clouds that are far apart has the gradient delta / (sqrt(3) |delta|) at every point, |delta| being the
    # distance of the means.
    delta = problem.target.mean(0) - problem.source.mean(0)
    moved = (kept[2] - kept[0]).mean(0)
    torch.testing.assert_close(moved, 20 * 0.01 * delta / (3**0.5 * delta.norm()), rtol=0.01, atol=0)
    again, _ = example["flow"](problem, settings["gaussian, qmc"], 1)
    assert torch.equal(again[2], kept[2])


def test_the_exact_distance(example: dict[str, Any]) -> None:
    """Against a case with a known answer: points that only swap places, and a shift."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    assert example["squared_distance"](x, x.flip(0)) == pytest.approx(0)
    assert example["squared_distance"](x, x + torch.tensor([3.0, 4.0])) == pytest.approx(25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.npy"], "there is no file nowhere.npy"),
        (["--projections", "0"], "0 is less than 1"),
        (["--seeds", "-1"], "-1 is less than 1"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, refusal: Callable[[str, list[str]], str]) -> None:
    assert message in refusal("gradient_flow", arguments)


def test_a_file_of_another_shape(example: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((4, 3), dtype=np.float32))
    with pytest.raises(SystemExit, match=r"flat.npy is \(4, 3\), not \(two or more clouds, points, 3\)"):
        example["point_clouds"](tmp_path / "flat.npy", (0,), (0,))
