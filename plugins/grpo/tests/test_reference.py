"""What the KL term holds on to, and Hugging Face models with and without adapters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from causal import VOCABULARY, CausalLM, evens, fit, prompts_loader
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from thunderstone import UnsupportedSettingError
from thunderstone_grpo import GRPO
from thunderstone_grpo.reference import AdapterOff, FrozenCopy, find_reference
from thunderstone_grpo.rollouts.policy import find_policy

pytest.importorskip("transformers")

# peft and transformers warn of one another's versions.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=1, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(configuration)


class Holder(LightningModule):
    """Holds a language model and has no forward of its own."""

    def __init__(self, net: nn.Module, lr: float = 0.5) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: Any) -> Tensor:
        raise AssertionError("GRPO owns the objective")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)


def with_adapters() -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    chosen = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(llama(), chosen)


def method(**arguments: Any) -> GRPO:
    return GRPO(**{"reward": evens, "group_size": 4, "max_new_tokens": 5, **arguments})


def trained(net: Any, **arguments: Any) -> Holder:
    return fit(method(**arguments), module=Holder(net), loader=prompts_loader(6, 2))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_a_copy_is_the_first_weights_and_leaves_the_policy_alone() -> None:
    module = CausalLM()
    ids = torch.arange(6).view(2, 3)
    first, kept = module(ids).detach(), FrozenCopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    moved, storages = weights(module), [parameter.data_ptr() for parameter in module.parameters()]
    with kept.in_place():
        assert torch.equal(module(ids), first)
        assert not torch.is_grad_enabled()
    assert [parameter.data_ptr() for parameter in module.parameters()] == storages
    assert all(torch.equal(value, moved[name]) for name, value in module.named_parameters())
    with pytest.raises(ValueError, match="on purpose"), kept.in_place():
        raise ValueError("on purpose")
    assert all(torch.equal(value, moved[name]) for name, value in module.named_parameters())


def test_tied_weights_are_one_value() -> None:
    module = CausalLM()
    module.head.weight = module.embedding.weight
    assert len(FrozenCopy(module).values) == len(list(module.parameters()))


def test_adapters_are_switched_off_and_on_again() -> None:
    net = with_adapters()
    ids = torch.arange(6).view(2, 3)
    reference = find_reference("GRPO", "auto", net)
    assert isinstance(reference, AdapterOff)
    required = {name: value.requires_grad for name, value in net.named_parameters()}
    before = net(ids).logits
    with reference.in_place():
        assert torch.equal(net(ids).logits, llama()(ids).logits)
    assert not torch.equal(before, llama()(ids).logits)
    assert torch.equal(net(ids).logits, before)
    assert {name: value.requires_grad for name, value in net.named_parameters()} == required


def test_without_adapters_there_are_none_to_switch_off() -> None:
    with pytest.raises(UnsupportedSettingError, match=r"GRPO cannot run with reference='adapter'.*HINT"):
        find_reference("GRPO", "adapter", llama())


@pytest.mark.parametrize("reference", ["adapter", "copy"])
def test_adapters_are_trained_towards_their_reference(reference: str) -> None:
    """A heavy KL term alone pulls adapters to the model below them; to a copy of themselves it does not."""
    module = Holder(with_adapters(), lr=1.0)
    ids = torch.randint(VOCABULARY, (8, 6), generator=torch.Generator().manual_seed(0))

    def distance() -> float:
        with torch.no_grad():
            below, own = llama()(ids).logits.log_softmax(-1), module.net(ids).logits.log_softmax(-1)
        return float((own.exp() * (own - below)).sum(-1).mean())

    before, start = distance(), weights(module)
    same_reward: Any = _constant
    grpo = method(
        reward=same_reward, groups_without_signal="keep", kl_weight=5.0, kl="k3", reference=reference, updates=2
    )
    fit(grpo, module=module, loader=prompts_loader(14, 2), max_epochs=2)
    frozen = [name for name, value in module.named_parameters() if not value.requires_grad]
    assert all(torch.equal(weights(module)[name], start[name]) for name in frozen)
    assert (distance() < 0.7 * before) == (reference == "adapter")


def _constant(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def test_the_cache_changes_nothing() -> None:
    """A Hugging Face model's own generate, and the whole text for every token."""
    cached, plain = trained(llama()), trained(llama(), engine="plain")
    for one, other in zip(cached.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(
        not torch.equal(one, other) for one, other in zip(cached.parameters(), llama().parameters(), strict=True)
    )


def test_the_policy_is_the_only_language_model_inside() -> None:
    net = with_adapters()
    assert find_policy("GRPO", Holder(net), None).module is net.get_base_model()
    assert find_policy("GRPO", Holder(net), "net").module is net
    both = Holder(llama())
    both.judge = copy.deepcopy(both.net)
    with pytest.raises(UnsupportedSettingError, match=r"several language models \(net, judge\).*model='net'"):
        find_policy("GRPO", both, None)


def test_a_module_without_a_policy() -> None:
    with pytest.raises(UnsupportedSettingError, match=r"GRPO cannot run with a Holder without forward.*HINT"):
        fit(method(), module=Holder(nn.Linear(2, 2)))
