"""Tickets and masks in files."""

from __future__ import annotations

import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_pruning.mask_files import Ticket, load_ticket

MASKS = {"net.0.weight": torch.tensor([[True, False], [False, True]])}


def test_a_ticket_comes_back(tmp_path) -> None:
    weights = {"net.0.weight": torch.nn.Parameter(torch.randn(2, 2)), "count": torch.tensor(3)}
    path = Ticket(MASKS, weights, {"round": 2}).save(tmp_path / "deep" / "ticket.ckpt")
    found = load_ticket(path)
    assert found.masks["net.0.weight"].equal(MASKS["net.0.weight"])
    assert found.weights is not None
    assert all(found.weights[name].equal(weights[name]) for name in weights)
    assert not found.weights["net.0.weight"].requires_grad
    assert found.metadata == {"round": 2}
    assert load_ticket(Ticket(MASKS).save(tmp_path / "masks.ckpt")).weights is None


def test_masks_of_a_checkpoint(tmp_path) -> None:
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {}, "callbacks": {"Timer": {"t": 1}, "some.Pruner": {"masks": MASKS}}}, path)
    found = load_ticket(path)
    assert found.weights is None
    assert found.masks["net.0.weight"].equal(MASKS["net.0.weight"])


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"FixedMask: path='.*nowhere.ckpt' is not allowed: there is no such file"):
        load_ticket(tmp_path / "nowhere.ckpt", who="FixedMask")
    (tmp_path / "text").write_text("masks", encoding="utf-8")
    with pytest.raises(ArgumentError, match="it cannot be read"):
        load_ticket(tmp_path / "text")
    torch.save({"state_dict": {}, "callbacks": {"Timer": {}}}, tmp_path / "plain.ckpt")
    with pytest.raises(ArgumentError, match="there are no masks in it"):
        load_ticket(tmp_path / "plain.ckpt")
    for number, rest in enumerate([{}, {"masks": {}, "weights": None, "metadata": {}}]):
        torch.save({"format": "thunderstone.pruning.ticket", **rest}, tmp_path / f"{number}.ckpt")
        with pytest.raises(ArgumentError, match="there are no masks in it"):
            load_ticket(tmp_path / f"{number}.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ArgumentError, match="there are no masks in it"):
        load_ticket(tmp_path / "list.ckpt")
