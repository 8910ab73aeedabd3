"""The loss is the one TRL's GRPOTrainer computes, for its own completions, rewards and settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thunderstone_grpo import GroupZScore, PolicyLoss, ScoredCompletions
from thunderstone_grpo.rollouts.chunk import Chunk
from thunderstone_grpo.rollouts.policy import Policy
from thunderstone_grpo.rollouts.scoring import padded_texts, score
from thunderstone_grpo.update_loss import Objective, chunk_loss

WORDS = ["<pad>", "<end>", *"abcdefghijkl"]
PROMPTS = ["a b c", "d e", "f g h i", "j"]
GROUP, NEW = 4, 6

# Of the libraries TRL stands on, none of which this package imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(configuration)


def even_words(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(word in "bdfhjl" for word in text.split())) for text in completions]


def moved(module: nn.Module, by: float) -> None:
    """As an update would: the ratio is no longer 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GRPOTrainer, a policy that has moved since its rollout, and that rollout."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    folder: Path = tmp_path_factory.mktemp("trl")
    settings = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=len(PROMPTS) * GROUP, num_generations=GROUP, beta=0.2,
        max_completion_length=NEW, temperature=0.8, epsilon=0.1, epsilon_high=0.15, num_iterations=2, use_cpu=True,
        report_to="none", gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    # Its reference is loaded from where the model came from.
    model().save_pretrained(folder)
    trainer = GRPOTrainer(
        model=type(model()).from_pretrained(folder),
        reward_funcs=even_words,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer(),
    )
    torch.manual_seed(1)
    trainer.model.train()
    # The reference is what the policy was; the rollout is drawn by one that has moved since.
    moved(trainer.model, 0.02)
    rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(GROUP)]
    inputs = trainer._generate_and_score_completions(rows)
    moved(trainer.model, 0.02)
    trainer.current_gradient_accumulation_steps = 1
    return trainer, inputs


def as_chunk(inputs: dict[str, Any]) -> Chunk:
    prompts = [row[mask.bool()] for row, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    texts = [row[mask.bool()] for row, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)]
    ids, prompt_lengths, lengths = padded_texts(prompts, texts)
    rewards = torch.tensor(
        [float(sum(WORDS[token] in "bdfhjl" for token in text.tolist() if token > 1)) for text in texts]
    )
    completions = ScoredCompletions(
        rewards, torch.zeros(len(texts), 1), lengths, torch.arange(len(texts)) // GROUP, rewards > 0
    )
    advantages = GroupZScore()(rewards, completions)
    torch.testing.assert_close(advantages.float(), inputs["advantages"], rtol=1e-5, atol=1e-5)
    counted = torch.ones(len(texts), dtype=torch.bool)
    return Chunk(ids, prompt_lengths, lengths, counted, advantages, torch.arange(len(texts)))


@pytest.mark.parametrize(("kl_weight", "correction"), [(0.0, False), (0.2, False), (0.2, True)])
@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("delta", [None, 1.4])
def test_the_same_loss(trained: Any, aggregation: str, kl_weight: float, correction: bool, delta: float | None) -> None:
    trainer, inputs = trained
    trainer.args.use_bias_correction_kl = correction
    trainer.loss_type, trainer.beta, trainer.args.delta = aggregation, kl_weight, delta
    theirs = trainer._compute_loss(trainer.model, dict(inputs))
    chunk, policy = as_chunk(inputs), Policy("GRPO", trainer.model)

    def known(name: str) -> Tensor:
        return torch.where(chunk.mask, inputs[name][:, : chunk.mask.shape[1]], 0.0)

    chunk.reference, old = known("ref_per_token_logps"), known("old_per_token_logps")
    found, entropies = score(policy, chunk, temperature=0.8, softmax_positions=None, entropies="value")
    assert entropies is not None
    tokens, completions = chunk.totals()
    assert tokens == int(inputs["num_items_in_batch"])
    objective = Objective(
        PolicyLoss(clip_low=0.1, clip_high=0.15, clip_dual=delta, kl_weight=kl_weight, kl_correction=correction),
        aggregation,
        NEW,
    )
    ours, figures = chunk_loss(chunk, found, old, entropies, objective, tokens, completions)
    assert float(figures["clip_fraction"][0]) > 0
    assert chunk.lengths.unique().numel() > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    parameters = list(trainer.model.parameters())
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_log_probabilities_do_not_depend_on_the_padding(trained: Any) -> None:
    """Left and right padding as TRL lays it out, and right padding alone as here."""
    trainer, inputs = trained
    chunk = as_chunk(inputs)
    policy = Policy("GRPO", copy.deepcopy(trainer.model))
    found, _ = score(policy, chunk, temperature=0.8, softmax_positions=7)
    for row in range(len(chunk)):
        alone = Chunk(
            chunk.ids[row : row + 1, : int(chunk.prompt_lengths[row] + chunk.lengths[row])],
            *(getattr(chunk, name)[row : row + 1] for name in ("prompt_lengths", "lengths", "counted", "advantages")),
            chunk.rows[row : row + 1],
        )
        single, _ = score(policy, alone, temperature=0.8, softmax_positions=None)
        torch.testing.assert_close(found[row, : single.shape[1]], single[0], rtol=1e-5, atol=1e-6)


def test_the_same_advantages_where_nothing_can_be_said(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be scored has no part in the baseline; its tokens count in TRL's mean, and in none here."""
    trainer, _ = trained
    known: list[float | None] = [None, 0.0, 1.0, 3.0] * len(PROMPTS)
    monkeypatch.setattr(trainer, "reward_funcs", [lambda **_: known])
    theirs = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in PROMPTS for _ in range(GROUP)])
    rewards = torch.tensor([float("nan") if reward is None else reward for reward in known])
    completions = ScoredCompletions(
        rewards, torch.zeros(len(known), 1), torch.ones_like(rewards).long(), torch.arange(len(known)) // GROUP,
        rewards > 0,
    )  # fmt: skip
    advantages = GroupZScore()(rewards, completions)
    assert advantages[0] == 0
    assert advantages[1] < 0 < advantages[3]
    torch.testing.assert_close(advantages.float(), theirs["advantages"], rtol=1e-5, atol=1e-5)
    assert int(theirs["num_items_in_batch"]) == int(theirs["completion_mask"].sum())
    assert bool(theirs["completion_mask"][0].any())
