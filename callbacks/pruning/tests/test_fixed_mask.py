"""Training under the masks of a file."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from thunderstone import ArgumentError
from thunderstone_pruning import FixedMask, RandomPruning
from thunderstone_pruning.mask_files import Ticket


@pytest.fixture
def masks() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "net.0.weight": torch.rand(6, 4, generator=generator) < 0.5,
        "net.2.weight": torch.rand(3, 6, generator=generator) < 0.5,
    }


@pytest.fixture
def ticket(masks, classifier, tmp_path) -> str:
    """Masks with the weights of a classifier that is no other's."""
    module = classifier(dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.arange(parameter.numel()).view_as(parameter) / 50)
    return str(Ticket(masks, module.state_dict()).save(tmp_path / "ticket.ckpt"))


def test_the_tickets_weights_train_under_its_masks(classifier, fit, by_hand, same, dataset, ticket, masks) -> None:
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    fit(module, FixedMask(ticket), data=dataset(torch.float64))
    reference.weights = torch.load(ticket, weights_only=True)["weights"]
    reference.masks = {name: mask.double() for name, mask in masks.items()}
    reference.mask()
    for _ in range(6):
        reference.update()
    same(module, reference.weights)


def test_the_modules_own_weights(classifier, fit, ticket, masks, dataset) -> None:
    module = classifier(dtype=torch.float64)
    own = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    method = FixedMask(ticket, weights=False)
    fit(module, method, data=dataset(torch.float64), max_steps=1, max_epochs=-1)
    assert all(method.masks[name].equal(masks[name]) for name in masks)
    # One step at a rate of 0.2 is not as far as the ticket's weights are.
    assert (module.net[2].bias - own["net.2.bias"]).abs().max() < 0.2


class First(FixedMask):
    """Keeps the weights that training starts with."""

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        self.first = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}


def test_the_reinitialised_control(classifier, fit, ticket, masks, dataset) -> None:
    weights = torch.load(ticket, weights_only=True)["weights"]
    firsts = []
    for seed in (0, 0, 1):
        method = First(ticket, control="reinitialised", seed=seed)
        fit(classifier(dtype=torch.float64), method, data=dataset(torch.float64), max_steps=1, max_epochs=-1)
        assert all(method.masks[name].equal(masks[name]) for name in masks)
        for name, mask in masks.items():
            # Other places, the same values.
            present = method.first[name][mask]
            assert not present.equal(weights[name][mask])
            assert set(present.tolist()) <= set(weights[name].flatten().tolist())
        assert method.first["net.0.bias"].equal(weights["net.0.bias"])
        firsts.append(method.first["net.0.weight"])
    assert firsts[0].equal(firsts[1])
    assert not firsts[0].equal(firsts[2])


def test_the_random_mask_control(classifier, fit, ticket, masks, dataset) -> None:
    weights = torch.load(ticket, weights_only=True)["weights"]
    method = First(ticket, control="random_mask")
    fit(classifier(dtype=torch.float64), method, data=dataset(torch.float64), max_steps=1, max_epochs=-1)
    for name, mask in masks.items():
        assert int(method.masks[name].sum()) == int(mask.sum())
        assert not method.masks[name].equal(mask)
        assert method.first[name].equal(weights[name] * method.masks[name])


def test_masks_of_another_runs_checkpoint(classifier, fit, tmp_path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="run")
    random = RandomPruning(0.5)
    fit(classifier(), random, saving, enable_checkpointing=True)
    method = FixedMask(str(tmp_path / "run.ckpt"))
    module = fit(classifier(), method)
    assert all(method.masks[name].equal(random.masks[name]) for name in random.masks)
    assert int(module.net[0].weight.count_nonzero()) == int(random.masks["net.0.weight"].sum())


def test_a_pruned_checkpoint_loads_into_a_plain_module_and_is_sparse_there(classifier, fit, tmp_path) -> None:
    fit(classifier(), RandomPruning(0.5), ModelCheckpoint(tmp_path, filename="run"), enable_checkpointing=True)
    plain = classifier()
    plain.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"])
    assert int(plain.net[0].weight.count_nonzero()) == 12


def test_a_file_of_another_architecture_changes_nothing(classifier, fit, masks, tmp_path) -> None:
    module = classifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong: list[tuple[Ticket, str]] = [
        (Ticket({"net.9.weight": masks["net.0.weight"]}), "net.9.weight"),
        (Ticket({"net.0.weight": masks["net.2.weight"]}), "net.0.weight"),
        (Ticket(masks, {**before, "net.7.bias": torch.zeros(3)}), "it holds 'net.7.bias' of shape"),
        (Ticket(masks, {**before, "net.0.bias": torch.zeros(7)}), r"it holds 'net.0.bias' of shape \(7,\)"),
    ]
    for number, (ticket, message) in enumerate(wrong):
        path = ticket.save(tmp_path / f"{number}.ckpt")
        with pytest.raises(ArgumentError, match=f"FixedMask: .*{message}"):
            fit(module, FixedMask(str(path)))
        assert all(value.equal(before[name]) for name, value in module.state_dict().items())


def test_a_missing_file_is_found_out_before_anything_runs(classifier, fit, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"FixedMask: path='.*' is not allowed: there is no such file"):
        fit(classifier(), FixedMask(str(tmp_path / "none.ckpt")))


@pytest.mark.parametrize("bad", [{"path": 3}, {"path": ""}, {"weights": "no"}, {"control": "reinit"}, {"seed": 0.5}])
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"FixedMask: {name}="):
        FixedMask(**{"path": "x.ckpt", **bad})
