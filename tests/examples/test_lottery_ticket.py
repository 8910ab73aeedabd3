"""The example of lottery tickets runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from thunderstone_pruning import load_ticket

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lottery_ticket.py"
SETTINGS = ["tickets", "late rewinding", "reinitialised", "random masks"]
SEEDS = 2


@pytest.mark.slow
def test_lottery_ticket(
    short_run: Callable[[str, Path], str], shows_something: Callable[[Path], None], tmp_path: Path
) -> None:
    printed = short_run("lottery_ticket", tmp_path)

    outcomes: list[dict[str, Any]] = json.loads((tmp_path / "lottery_ticket.json").read_text())
    # Four trainings of the dense network and three tickets, two ways to rewind, and two controls of the last ticket.
    assert len(outcomes) == SEEDS * (2 * 4 + 2)
    for outcome in outcomes:
        assert outcome["early_stop"] % 20 == 0
        assert 0 < outcome["early_stop"] <= 120
        # Of a layer's weights two fifths stay each time, in the output layer seven tenths.
        left = (64 * 300 + 300 * 100) * 0.4 ** outcome["round"] + 100 * 10 * 0.7 ** outcome["round"]
        assert outcome["remaining"] == pytest.approx(100 * left / 50_200, abs=0.01)

    def accuracy(setting: str, number: int) -> list[float]:
        return [one["accuracy"] for one in outcomes if (one["setting"], one["round"]) == (setting, number)]

    # Both begin with the same dense network, and part when one of them is rewound to a later place.
    assert accuracy("tickets", 0) == accuracy("late rewinding", 0)
    assert accuracy("tickets", 3) != accuracy("late rewinding", 3)
    assert min(accuracy("tickets", 0)) > 90
    # What it is for: with these weights a fourteenth of them does, with others it does not.
    assert min(accuracy("tickets", 3)) > 85
    for control in SETTINGS[2:]:
        assert max(accuracy(control, 3)) < min(accuracy("tickets", 3))

    lines = (tmp_path / "lottery_ticket.md").read_text(encoding="utf-8").splitlines()
    header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line)
    assert header == ["weights left", *(f"{what}: {name}" for what in ("accuracy", "early stop") for name in SETTINGS)]
    assert [row[0] for row in rows] == ["100.0%", "7.0%"]
    found = accuracy("tickets", 3)
    assert rows[1][1] == f"{mean(found):.1f} ± {stdev(found):.1f}"
    assert rows[0][3:5] == rows[0][7:] == ["", ""]
    assert rows[1][1] in printed

    # A ticket is what it was called, and its weights are those the dense network began with.
    tickets = [load_ticket(tmp_path / "tickets" / "tickets-0" / f"round-{number}.ckpt") for number in (1, 2, 3)]
    assert tickets[0].weights is not None
    assert tickets[2].weights is not None
    assert all(tickets[0].weights[name].equal(tickets[2].weights[name]) for name in tickets[0].weights)
    assert all(bool((tickets[0].masks[name] | ~tickets[2].masks[name]).all()) for name in tickets[0].masks)

    shows_something(tmp_path / "lottery_ticket.png")
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == SEEDS * 4
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
    # Tickets are in W&B's files of those runs that drew some.
    tracked = [b"imp-ticket" in next(folder.glob("run-*.wandb")).read_bytes() for folder in folders]
    assert sum(tracked) == SEEDS * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "0 is less than 1"),
        (["--steps", "-3"], "-3 is less than 1"),
        (["--data", "nowhere"], "no t10k-images-idx3-ubyte.gz and no t10k-labels-idx1-ubyte.gz in"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, refusal: Callable[[str, list[str]], str]) -> None:
    assert message in refusal("lottery_ticket", arguments)
