"""Every kind of weight can be masked, and stays the parameter it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from masked_networks import NETWORKS, Embedded, Recurrent, Tied
from masking import Fixed, Given, Watching, assert_sparse, largest
from tiny_training import Classifier, assert_moved, fit, state
from torch.optim import Optimizer


def adamw(parameters: Iterable[Any]) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_every_kind_of_weight_can_be_pruned(kind: str) -> None:
    torch.manual_seed(3)
    module = Classifier(NETWORKS[kind](), adamw)
    names, places = list(module.state_dict()), [id(parameter) for parameter in module.parameters()]
    masks = largest(module, 0.5, dimensions=1)
    watching = Watching()
    fit(module, Given(masks), watching)
    assert watching._updates == 6
    assert list(module.state_dict()) == names
    assert [id(parameter) for parameter in module.parameters()] == places
    assert not any("mask" in name for name in vars(module.net))


@pytest.mark.parametrize("make", [torch.optim.SparseAdam, lambda p: torch.optim.SGD(p, lr=0.5)], ids=["adam", "sgd"])
def test_sparse_gradients_of_an_embedding(make: Callable[[Iterable[Any]], Optimizer]) -> None:
    torch.manual_seed(3)
    module = Classifier(Embedded(sparse=True), lambda _: make([module.net.embedding.weight]))
    before, watching = state(module), Watching()
    fit(
        module,
        Given(
            largest(module.net.embedding, 0.5)
            and {"net.embedding.weight": largest(module, 0.5)["net.embedding.weight"]}
        ),
        watching,
    )
    assert watching._gradients == 6
    assert_moved(before, module)


def test_the_weights_of_an_lstm_stay_one_block() -> None:
    module = Classifier(Recurrent())
    method = Fixed(0.5)
    places = [weight.data_ptr() for weight in module.net.lstm._flat_weights]
    fit(module, method)
    assert [weight.data_ptr() for weight in module.net.lstm._flat_weights] == places
    assert all(
        one is other for one, other in zip(module.net.lstm._flat_weights, module.net.lstm.parameters(), strict=True)
    )


def test_tied_weights_share_one_mask() -> None:
    module = Classifier(Tied())
    mask = largest(module, 0.5)["net.first.weight"]
    method = Given({"net.second.weight": mask})
    fit(module, method)
    assert list(method.masks) == ["net.first.weight"]
    assert_sparse(module, {"net.first.weight": mask})
    assert module.net.second.weight is module.net.first.weight
