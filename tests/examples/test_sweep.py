"""A sweep's file leads W&B's own agent to a command that runs, offline, and to a run that says what it was."""

from __future__ import annotations

import json
import os
import queue
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.wandb_agent import Agent

from thunderstone.cli.with_option import parse_option
from thunderstone.report.wandb_log import merge, records

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "examples" / "sweep.yaml"


@pytest.fixture
def sweep() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    return content


def run_by_agent(sweep: dict[str, Any], values: dict[str, Any], folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """What the agent does when the server asks it for one run of the sweep; the run's log."""
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_SWEEP_ID": "swept",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        # The agent sets these for its children; so that they are taken back.
        "WANDB_RUN_ID": "",
        "WANDB_SWEEP_PARAM_PATH": "",
    }.items():
        patch.setenv(name, value)
    patch.delenv("WANDB_SERVICE", raising=False)  # the process that writes this one's runs
    patch.chdir(ROOT)
    agent: Any = Agent(None, queue.Queue(), sweep_id="swept")
    agent._sweep_command = list(sweep["command"])
    arguments = {name: {"value": value} for name, value in values.items()}
    response = agent._process_command({"type": "run", "run_id": "run1", "program": sweep["program"], "args": arguments})
    assert "exception" not in response, response
    assert agent._run_processes["run1"].wait(timeout=250) == 0
    [log] = folder.glob("wandb/offline-run-*/run-run1.wandb")
    return log


def test_every_value_of_the_sweep_is_one_the_method_takes(sweep: dict[str, Any]) -> None:
    grid = list(product(*(parameter["values"] for parameter in sweep["parameters"].values())))
    assert len(grid) == 15
    methods = [parse_option(values[0]).build() for values in grid]
    assert {method.name for method in methods} == {"sam"}
    assert sorted({method.arguments["rho"] for method in methods}) == [0, 0.02, 0.05, 0.1, 0.2]
    assert (ROOT / sweep["program"]).is_file()


@pytest.mark.slow
def test_an_agent_runs_it(sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = run_by_agent(sweep, {"with": "sam:rho=0.1", "seed": 2}, tmp_path, monkeypatch)
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    tags: list[str] = []
    swept = ""
    for record in records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            merge(config, record.run.config.update)
            tags, swept = list(record.run.tags), record.run.sweep_id
        elif kind == "config":
            merge(config, record.config.update)
        elif kind == "summary":
            merge(summary, record.summary.update)
    assert swept == "swept"
    assert (config["with"], config["seed"], config["sam"]["rho"]) == ("sam:rho=0.1", 2, 0.1)
    assert tags == ["sam"]
    # What the sweep is judged by, and what SAM reports.
    assert summary[sweep["metric"]["name"]] > 0.8
    assert [key for key, value in summary.items() if key.startswith("sam/") and set(value) == {"min", "max", "last"}]
    record = json.loads((log.parent / "files" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "finished"
    assert record["seed"]["lightning"] == 2
    assert record["command"][-4:] == ["run", "--with=sam:rho=0.1", "--seed=2", "examples/sweep_digits.py"]
