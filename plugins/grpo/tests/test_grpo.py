"""GRPO as a user attaches it: what it trains, on what, and what it says."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from causal import END, VOCABULARY, CausalLM, IdsOnly, Prompts, contains_wanted, evens, fit, prompts_loader
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import (
    GradientStep,
    Method,
    StepError,
    UnsupportedSettingError,
    UpdatePlan,
    hookimpl,
)
from thunderstone.generation import Generation
from thunderstone.testing.memory_logger import MemoryLogger
from thunderstone_grpo import GRPO
from thunderstone_grpo.rollouts.engines import RolloutRequest, plain


def method(**arguments: Any) -> GRPO:
    return GRPO(**{"reward": evens, "group_size": 4, "max_new_tokens": 5, "stop_tokens": [END], **arguments})


def logged(*callbacks: Any, **settings: Any) -> tuple[Any, dict[str, list[float]]]:
    """Train with a logger; the module and every series under ``grpo/``."""
    logger = MemoryLogger()
    module = fit(*callbacks, logger=logger, log_every_n_steps=1, **settings)
    series: dict[str, list[float]] = {}
    for _, metrics in logger.entries:
        for name, value in metrics.items():
            if name.startswith("grpo/"):
                series.setdefault(name[5:], []).append(float(value))
    return module, series


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(one[name], other[name]) for name in one)


# -- it trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"updates": 2, "minibatches": 2, "kl_weight": 0.01}, {"loss": "dr_grpo"}])
def test_the_reward_rises(arguments: dict[str, Any]) -> None:
    _, series = logged(method(group_size=8, **arguments), loader=prompts_loader(28, 4), max_epochs=6)
    rewards = torch.tensor(series["reward"])
    assert rewards[-7:].mean() > rewards[:7].mean() + 0.15


def test_a_module_that_takes_ids_alone() -> None:
    module = IdsOnly()
    before = weights(module)
    _, series = logged(method(), module=module)
    assert not all(torch.equal(value, before[name]) for name, value in weights(module).items())
    assert len(series["reward"]) == 7


def test_rollouts_are_used_as_often_as_asked_for() -> None:
    calls: list[int] = []

    def counted(completion_ids: list[list[int]], **_: Any) -> list[float]:
        calls.append(len(completion_ids))
        return [float(len(ids)) for ids in completion_ids]

    module = CausalLM()
    fit(method(reward=counted, updates=3, minibatches=2), module=module, accumulate_grad_batches=2, max_epochs=2)
    # 14 prompts in 7 batches, each a rollout of 2 groups; each rollout is 3 updates of 2 minibatches.
    assert calls == [2 * 4] * 14
    assert module.trainer.global_step == 3 * 14


def test_the_first_update_has_a_ratio_of_one_whatever_dropout_does() -> None:
    """Clipped at 1 ± 0, where any difference to the old log-probabilities would show."""

    def clipped(dropout: bool) -> float:
        # A shaper asks for log-probabilities before the update.
        grpo = method(clip_low=0.0, clip_high=0.0, minibatches=2, shapers=["unlikeliness"], dropout=dropout)
        _, series = logged(grpo, module=CausalLM(dropout=0.5), max_steps=1, accumulate_grad_batches=2)
        return series["clip_fraction"][0]

    assert clipped(dropout=False) == 0.0
    assert clipped(dropout=True) > 0.1


# -- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", ["drop", "keep", "resample"])
def test_equal_rewards_are_no_signal(groups: str) -> None:
    module = CausalLM()
    before = copy.deepcopy(module)
    _, series = logged(
        method(reward=lambda completions, **_: [1.0] * len(completions), groups_without_signal=groups), module=module
    )
    assert same(module, before)
    assert series["dead_groups"] == [1.0] * 7
    assert series["groups_drawn"] == [4.0 if groups == "resample" else 1.0] * 7


def test_kept_groups_without_signal_have_the_divergence_and_dropped_ones_nothing() -> None:
    def constant(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    def moved(groups: str) -> bool:
        module = CausalLM(lr=1.0)
        before = copy.deepcopy(module)
        grpo = method(reward=constant, groups_without_signal=groups, kl_weight=1.0, entropy_weight=0.1, updates=2)
        fit(grpo, module=module)
        return not same(module, before)

    assert moved("keep")
    assert not moved("drop")


def test_drawn_again_until_there_is_signal() -> None:
    """Every first rollout of a group is all wrong; what is drawn again is not."""
    seen: set[int] = set()

    def late(wanted: list[int], **_: Any) -> list[float]:
        rewards = [float(number) if token in seen else 0.0 for number, token in enumerate(wanted)]
        seen.update(wanted)
        return rewards

    loader = DataLoader(Prompts(1), batch_size=1)
    _, series = logged(method(reward=late, groups_without_signal="resample"), loader=loader)
    assert series["groups_drawn"] == [2.0]
    assert series["dead_groups"] == [0.0]


def test_unscorable_completions_are_left_out_and_counted() -> None:
    """One cannot be scored: the rest of its group is a smaller group."""

    def sometimes(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [None if number % 4 == 0 else float(number % 3) for number in range(len(completion_ids))]

    _, series = logged(method(reward=sometimes))
    assert series["unscorable"] == [0.25] * 7
    assert series["dead_groups"] == [0.0] * 7


def test_a_reward_that_raises_ends_no_run() -> None:
    def broken(completions: list[Any], **_: Any) -> list[float]:
        raise ValueError("on purpose")

    module = CausalLM()
    before = copy.deepcopy(module)
    with pytest.warns(UserWarning, match=r"broken"):
        _, series = logged(method(reward=broken), module=module)
    assert same(module, before)
    assert series["unscorable"] == [1.0] * 7
    assert "reward" not in series


def test_truncated_completions_can_be_left_out() -> None:
    """Nothing ends: every completion is truncated, and no step has a loss."""
    module = CausalLM()
    nn.init.constant_(module.head.bias[END : END + 1].detach(), -100.0)
    before = copy.deepcopy(module)
    _, series = logged(method(mask_truncated=True), module=module)
    assert series["truncated"] == [1.0] * 7
    assert same(module, before)
    fit(method(mask_truncated=False), module=module)
    assert not same(module, before)


def test_samplers_share_completions_out() -> None:
    sizes: list[list[int]] = []

    def noted(prompts: list[Any], completion_ids: list[list[int]], wanted: list[int], **_: Any) -> list[float]:
        sizes.append(wanted)
        return [sum(ids) / 100 for ids in completion_ids]

    _, series = logged(method(reward=noted, sampler="xrpo(seeding=False)", group_size=6), max_steps=1)
    # Three each to begin with, then six more in two stages.
    assert [len(part) for part in sizes] == [6, 3, 3]
    assert len(series["reward"]) == 1


def test_groups_of_one_train_where_the_advantage_compares_nothing() -> None:
    torch.manual_seed(0)
    untrained = CausalLM()
    trained = fit(
        method(group_size=1, advantage="fixed_scale(baseline=0.5)", groups_without_signal="keep"),
        module=copy.deepcopy(untrained),
        max_steps=1,
    )
    assert not same(trained, untrained)


def test_no_example_is_shown_where_there_is_no_room_for_it() -> None:
    class Short(CausalLM):
        class config:  # as Hugging Face models declare it
            max_position_embeddings = 8
            vocab_size = VOCABULARY

    lengths: list[int] = []

    def first_alone(prompts: list[str], **_: Any) -> list[float]:
        return [float(text == "cde") for text in prompts]

    def noted(request: RolloutRequest) -> Generation:
        lengths.extend(len(prompt) for prompt in request.prompts)
        return plain(request)

    module = Short()
    module.tokenizer = Letters()
    fit(
        method(reward=first_alone, sampler="xrpo", group_size=6, engine=noted),
        module=module,
        loader=DataLoader(["cde", "fgh"], batch_size=2),
    )
    # All stages were drawn, and every prompt is as it was.
    assert len(lengths) == 12
    assert set(lengths) == {3}


@pytest.mark.parametrize("other", [{"kl_weight": 0.1}, {"minibatches": 2}, {}])
def test_a_rollout_of_other_settings_is_drawn_again(tmp_path: Path, other: dict[str, Any]) -> None:
    torch.manual_seed(0)
    saving = ModelCheckpoint(dirpath=tmp_path, filename="first", every_n_train_steps=1)
    fit(method(updates=2), saving, max_steps=1, enable_checkpointing=True)
    told = Told()
    resumed = method(reward=told, updates=2, **other)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ExactResume: the resumed run may differ")
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
        fit(resumed, ckpt_path=tmp_path / "first.ckpt", max_steps=2)
    assert len(told.calls) == bool(other)


# -- prompts ---------------------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer of one's own: a letter is a token."""

    eos_token_id = END

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(token + ord("a")) for token in ids)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> list[int]:
        return self.encode("".join(message["content"] for message in messages) + "c")


class Told:
    """What a reward function was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **arguments: Any) -> list[float]:
        self.calls.append(arguments)
        return [float(len(ids) + number % 2) for number, ids in enumerate(arguments["completion_ids"])]


_PADDED = (([0, 4, 5], [0, 1, 1]), ([6, 7, 8], [1, 1, 1]))


def _with_tokenizer() -> CausalLM:
    module = CausalLM()
    module.tokenizer = Letters()
    return module


def test_texts_with_columns() -> None:
    told, rows = Told(), [{"prompt": "cde", "answer": 4}, {"prompt": "fg", "answer": 5}]
    fit(method(reward=told, stop_tokens=None), module=_with_tokenizer(), loader=DataLoader(rows, batch_size=2))
    (call,) = told.calls
    assert call["prompts"] == ["cde"] * 4 + ["fg"] * 4
    assert call["answer"] == [4] * 4 + [5] * 4
    for text, ids in zip(call["completions"], call["completion_ids"], strict=True):
        assert text == Letters().decode(ids)
    assert call["trainer_state"].global_step == 0


def test_chat_messages() -> None:
    told = Told()
    rows = [{"prompt": [{"role": "user", "content": text}], "answer": text} for text in ("cd", "efg")]
    loader = DataLoader(rows, batch_size=2, collate_fn=list)
    fit(method(reward=told, tokenizer=Letters()), loader=loader)
    (call,) = told.calls
    assert call["prompts"][0] == [{"role": "user", "content": "cd"}]
    assert call["completions"][0] == [{"role": "assistant", "content": Letters().decode(call["completion_ids"][0])}]


def test_padded_ids_in_the_prompt_column() -> None:
    told = Told()
    rows = [{"prompt": torch.tensor(ids), "attention_mask": torch.tensor(mask)} for ids, mask in _PADDED]
    fit(method(reward=told), loader=DataLoader(rows, batch_size=2))
    as_lists = DataLoader([{"prompt": ids, "attention_mask": mask} for ids, mask in _PADDED], 2, collate_fn=list)
    fit(method(reward=told), loader=as_lists)
    assert [call["prompts"] for call in told.calls] == [[[4, 5]] * 4 + [[6, 7, 8]] * 4] * 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": [4, 5, 6]}] * 2, "lists of ids"),
        ([{"prompt": [4, 5, 6]}] * 2, "lists of ids"),
        ([{"prompt": [{"role": "user", "content": "cd"}]}] * 2, "chat messages"),
        ([[{"role": "user", "content": "cd"}]] * 2, "chat messages"),
    ],
)
def test_what_default_collation_takes_apart_is_refused(rows: list[Any], message: str) -> None:
    with pytest.raises(UnsupportedSettingError, match=f"{message} and the DataLoader's default.*collate_fn=list"):
        fit(method(tokenizer=Letters()), loader=DataLoader(rows, batch_size=2))
    fit(method(tokenizer=Letters()), loader=DataLoader(rows, batch_size=2, collate_fn=list))


def test_ids_without_a_tokenizer() -> None:
    told = Told()
    fit(method(reward=told), loader=DataLoader(TensorDataset(torch.full((2, 3), 4)), batch_size=2))
    assert told.calls[0]["prompts"] == [[4, 4, 4]] * 8
    assert told.calls[0]["completions"] == told.calls[0]["completion_ids"]


def test_several_rewards_with_weights() -> None:
    def one(completions: list[Any], **_: Any) -> list[float]:
        return [float(number % 2) for number in range(len(completions))]

    _, series = logged(method(reward=[one, contains_wanted], reward_weights=[2.0, 0.5]), max_steps=1)
    assert series["reward_one"] == [0.5]
    assert series["reward"][0] == pytest.approx(2 * 0.5 + 0.5 * series["reward_contains_wanted"][0])


# -- in company ------------------------------------------------------------------------------------------------------


class Again(Method):
    """A second pass at the same weights: the gradients of both are kept."""

    name = "again"

    def __init__(self) -> None:
        self.pairs: list[tuple[list[Any], list[Any]]] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        first = [None if gradient is None else gradient.clone() for gradient in step.gradients]
        self.pairs.append((first, step.recompute()))


@pytest.mark.parametrize("arguments", [{}, {"updates": 2, "minibatches": 2, "kl_weight": 0.1}])
def test_a_second_pass_has_the_same_loss_function(arguments: dict[str, Any]) -> None:
    again = Again()
    assert same(fit(method(**arguments), seed=1), fit(method(**arguments), again, seed=1))
    assert len(again.pairs) == 7 * arguments.get("updates", 1) * arguments.get("minibatches", 1)
    for first, second in again.pairs:
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_who_asks_the_module_is_told_the_loss_of_a_rollout_and_changes_nothing() -> None:
    losses: list[float] = []

    def ask(trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
        losses.append(float(module.training_step(batch, number).detach()))

    asked = fit(method(updates=2), LambdaCallback(on_train_batch_end=ask))
    assert same(asked, fit(method(updates=2)))
    assert len(losses) == 14
    # A rollout of its own, at whose weights the mean of advantages is next to nothing, but not their token mean.
    assert 0 < max(map(abs, losses)) < 1


# -- engines ---------------------------------------------------------------------------------------------------------


def test_an_engine_of_ones_own() -> None:
    requests: list[RolloutRequest] = []

    def engine(request: RolloutRequest) -> Generation:
        requests.append(request)
        return plain(request)

    own, built_in = fit(method(engine=engine)), fit(method(engine="plain"))
    assert same(own, built_in)
    assert len(requests) == 7
    assert [prompt.tolist() for prompt in requests[0].prompts[:4]] == [requests[0].prompts[0].tolist()] * 4


def test_an_engine_that_returns_something_else() -> None:
    with pytest.raises(StepError, match=r"GRPO: the rollout engine returned list for 8 prompts.*HINT"):
        fit(method(engine=lambda request: []))


def test_chunks_of_generation_change_nothing() -> None:
    assert same(fit(method(max_sequences=3)), fit(method()))


def test_nothing_is_left_after_a_failure() -> None:
    def fails(request: RolloutRequest) -> Generation:
        if len(modes) > 2:
            raise KeyError("on purpose")
        modes.append(request.module.training)
        return plain(request)

    modes: list[bool] = []
    module, loader = CausalLM(), prompts_loader()
    own, before = loader.batch_sampler, weights(module)
    with pytest.raises(KeyError, match="on purpose"):
        fit(method(engine=fails, updates=2, kl_weight=0.1), module=module, loader=loader)
    assert modes == [True] * 3
    assert module.training
    assert "training_step" not in vars(module)
    assert loader.batch_sampler is own
    assert not all(torch.equal(value, before[name]) for name, value in weights(module).items())


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_evaluation_is_left_in_the_modes_it_found() -> None:
    """A part that the user keeps in evaluation mode stays there, and the rest in training mode."""
    module = CausalLM()
    module.dropout.eval()
    fit(method(updates=2), module=module)
    assert module.training
    assert module.head.training
    assert not module.dropout.training


def test_without_end_tokens_every_completion_runs_to_its_end() -> None:
    with pytest.warns(UserWarning, match=r"declares an end token.*none counts as truncated"):
        _, series = logged(method(stop_tokens=None), max_steps=1)
    assert series["completion_length"] == [5.0]
    assert series["truncated"] == [0.0]
    # That is meant:
    fit(method(stop_tokens=[]), max_steps=1)
