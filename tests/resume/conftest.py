"""This folder's own modules within reach of its tests and of the processes they start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest imports test modules one by one (importlib mode), so what they share must be importable by itself.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seeds_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # `seed_everything` leaves these behind for processes started later.
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
