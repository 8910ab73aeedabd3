"""The example of GRPO runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grpo_arithmetic.py"
SETTINGS = ["imitation", "GRPO", "GRPO + unlikeliness", "GRPO, random rewards", "GRPO, inverted rewards"]


@pytest.mark.slow
def test_grpo_arithmetic(
    short_run: Callable[[str, Path], str], shows_something: Callable[[Path], None], tmp_path: Path
) -> None:
    short_run("grpo_arithmetic", tmp_path)
    written = tmp_path / "grpo_arithmetic.json"
    outcomes: list[dict[str, Any]] = json.loads(written.read_text(encoding="utf-8"))
    assert [outcome["setting"] for outcome in outcomes] == SETTINGS
    for outcome in outcomes:
        assert list(outcome["passes"]) == ["pass@1", "pass@4", "pass@16"]
        values = list(outcome["passes"].values())
        assert values == sorted(values)
        assert values[0] >= 0
        assert values[-1] <= 1
        # Two rollouts, each worth two steps: a reward for each rollout.
        assert len(outcome["rewards"]) == (0 if outcome["setting"] == "imitation" else 2)
    lines = (tmp_path / "grpo_arithmetic.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == SETTINGS
    shows_something(tmp_path / "grpo_arithmetic.png")

    # Begun again, it does only what is missing, and comes to the same numbers.
    written.write_text(json.dumps(outcomes[:-1]))
    assert (
        len([line for line in short_run("grpo_arithmetic", tmp_path).splitlines() if line.startswith("seed 0, ")]) == 1
    )
    again = json.loads(written.read_text(encoding="utf-8"))
    assert [{**one, "seconds": 0} for one in again] == [{**one, "seconds": 0} for one in outcomes]


def test_rewards_are_what_they_are_called() -> None:
    example = runpy.run_path(str(EXAMPLE), run_name="example")
    completions, answer = [" 7", " 8", "", " 14/2"], ["7", "7", "7", "7"]
    assert example["exact"](completions, answer=answer) == [1.0, 0.0, 0.0, 1.0]
    assert example["inverted"](completions, answer=answer) == [0.0, 1.0, 1.0, 0.0]
    coins = example["RandomRewards"](3)(["x"] * 2000)
    assert set(coins) == {0.0, 1.0}
    assert abs(sum(coins) / 2000 - 0.5) < 0.05


def test_the_model_learns_answers_and_not_prompts() -> None:
    """The loss of the example is that of the answer's tokens and of the end, counted by hand."""
    example = runpy.run_path(str(EXAMPLE), run_name="example")
    torch.manual_seed(0)
    module = example["Calculator"](example["FAST"])
    batch = {"prompt": ["3 + 4 =", "10 × 10 ="], "answer": ["7", "100"]}
    total, count = 0.0, 0
    for prompt, answer in zip(*batch.values(), strict=True):
        ids = module.tokenizer.encode(f"{prompt} {answer}", add_special_tokens=True)
        scores = module.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(len(prompt), len(ids)):
            total, count = total - scores[place - 1, ids[place]].item(), count + 1
    assert module.training_step(batch).item() == pytest.approx(total / count, rel=1e-5)
