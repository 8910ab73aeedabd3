"""Masks that cannot be, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from masked_networks import Tied
from masking import Fixed, Given, largest
from tiny_training import FEATURES, Ascend, Classifier, assert_same_bits, fit, loader, perceptron, state, trainer
from torch import Tensor

from thunderstone import ArgumentError, CompositionError, ResumeError, StepError, UnsupportedSettingError

FULL = torch.ones(8, FEATURES, dtype=torch.bool)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"net.0.wieght": FULL}, r"Given: masks='net.0.wieght' .* no such parameter. HINT: .*net.0.weight"),
    "shape": ({"net.0.weight": FULL[1:]}, r"shape \(8, 6\), the mask \(7, 6\)"),
    "dtype": ({"net.0.weight": FULL.float()}, "a mask is a bool tensor, not a tensor of torch.float32"),
    "type": ({"net.0.weight": [True]}, "a mask is a bool tensor, not list"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_what_is_no_mask_is_refused_and_nothing_is_half_done(kind: str) -> None:
    masks, message = BAD[kind]
    module, method = Classifier(), Given({"net.2.weight": torch.zeros(3, 8, dtype=torch.bool), **masks})
    before = state(module)
    with pytest.raises(ArgumentError, match=message):
        fit(module, method)
    assert_same_bits(before, module)
    assert not method.masks


def test_tied_weights_with_two_masks() -> None:
    module = Classifier(Tied())
    mask = largest(module, 0.5)["net.first.weight"]
    with pytest.raises(ArgumentError, match=r"net.second.weight.*tied to 'net.first.weight', which has another mask"):
        fit(module, Given({"net.first.weight": mask, "net.second.weight": ~mask}))
    fit(module, Given({"net.first.weight": mask, "net.second.weight": mask}))


def test_masks_outside_of_a_fit() -> None:
    method = Fixed()
    with pytest.raises(StepError, match=r"Fixed: masks were set while no fit is running. HINT: set them from on_fit_"):
        method.masks.set({})
    with pytest.raises(StepError, match=r"Ascend does not own masks. HINT: declare exclusive = frozenset"):
        _ = Ascend().masks


def test_two_owners() -> None:
    with pytest.raises(CompositionError, match=r"Fixed and Given cannot be attached .* both own the masks"):
        fit(Classifier(), Fixed(), Given())


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_parameters(strategy: Any) -> None:
    running, method = trainer(Fixed()), Fixed()
    running.strategy.__class__ = type("Sharded", (strategy,), {"teardown": lambda self: None})
    with pytest.raises(UnsupportedSettingError, match="masks are laid over whole parameters"):
        method.setup(_with(running, method), Classifier(), "fit")


def _with(running: Any, method: Any) -> Any:
    running.callbacks = [method]
    return running


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    method = Fixed()
    fit(Classifier(), method).save_checkpoint(tmp_path / "small.ckpt")
    saved = torch.load(tmp_path / "small.ckpt", weights_only=True)
    masks: dict[str, Tensor] = saved["callbacks"][method.state_key]["masks"]
    masks["net.0.weight"] = masks["net.0.weight"][:4]
    torch.save(saved, tmp_path / "small.ckpt")
    with pytest.raises(ResumeError, match=r"Fixed: the checkpoint holds a mask for 'net.0.weight' that does not fit"):
        trainer(Fixed(), max_epochs=2).fit(Classifier(perceptron()), loader(), ckpt_path=tmp_path / "small.ckpt")
