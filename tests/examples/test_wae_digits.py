"""The auto-encoder as it stands, and with the penalty attached from the command line."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "wae_digits.py"


def outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "wae_digits.json").read_text())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the example sets for its process is put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_penalty_makes_it_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, penalty = tmp_path / "plain", tmp_path / "penalty"
    monkeypatch.setattr(sys, "argv", ["wae_digits.py", "--fast", "--output", str(plain)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "plain auto-encoder" in capsys.readouterr().out

    thunderstone = shutil.which("thunderstone", path=str(Path(sys.executable).parent))
    assert thunderstone is not None
    with_penalty = ["--with", "sliced_wasserstein_penalty:output=encoder,weight=2"]
    arguments = ["--fast", "--output", str(penalty), "--beside", str(plain)]
    done = subprocess.run(
        [thunderstone, "run", *with_penalty, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr + done.stdout
    assert "plain auto-encoder" in done.stdout
    assert "with SlicedWassersteinPenalty" in done.stdout
    before, after = outcome(plain), outcome(penalty)
    assert before["methods"] == []
    assert after["methods"] == ["SlicedWassersteinPenalty"]
    # The codes are the prior's, and what is decoded from the prior is nearer to images than before.
    assert after["codes_to_prior"] < 0.6 * before["codes_to_prior"]
    assert after["samples_to_images"] < before["samples_to_images"]
    assert after["kinds"] > before["kinds"]
    assert after["reconstruction"] < 0.1
    assert before["images_recognised"] == after["images_recognised"] > 0.7

    shown = torch.load(penalty / "wae_digits.pt", weights_only=True)
    assert shown["samples"].shape == (40, 64)
    assert shown["samples"].std(0).mean() > 0.02
    one, both = imread(plain / "wae_digits.png"), imread(penalty / "wae_digits.png")
    assert both.shape[0] == 2 * one.shape[0] > 500
    assert 0.02 < (both[..., :3].mean(-1) < 0.9).mean() < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--beside", "nowhere"], "there is no wae_digits.json in nowhere"), (["--code", "0"], "0 is less than 1")],
)
def test_bad_requests(arguments: list[str], message: str, refusal: Callable[[str, list[str]], str]) -> None:
    assert message in refusal("wae_digits", arguments)
