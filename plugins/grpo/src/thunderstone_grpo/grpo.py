"""Group relative policy optimization."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import default_collate

from thunderstone import (
    ArgumentError,
    CompositionError,
    DataView,
    Method,
    ObjectiveStep,
    UnsupportedSettingError,
    UpdateStep,
    hookimpl,
)
from thunderstone.arguments import finite, flag, one_of, whole
from thunderstone_grpo.collector import Collected, Collector, CollectorSettings
from thunderstone_grpo.figures import (
    add_notes,
    completions_table,
    means,
    measured_uplift,
    replicas,
    rollout_sums,
    summed_over_replicas,
)
from thunderstone_grpo.reference import REFERENCES, AdapterOff, FrozenCopy, find_reference
from thunderstone_grpo.rewards import RewardRunner
from thunderstone_grpo.rewards_by_name import resolved_rewards
from thunderstone_grpo.rollouts.chunk import Buffer
from thunderstone_grpo.rollouts.policy import evaluation_mode, find_policy
from thunderstone_grpo.rollouts.prompts import PromptReader
from thunderstone_grpo.rollouts.sampling import Sampling, checked_stop_tokens, seeded_generator
from thunderstone_grpo.rollouts.scoring import score
from thunderstone_grpo.rollouts.writing import Writer
from thunderstone_grpo.strategies import build, check_combination
from thunderstone_grpo.tokenizers import find_tokenizer, stop_tokens
from thunderstone_grpo.update_loss import checked_objective, chunk_loss, no_loss

WITHOUT_SIGNAL = ("drop", "keep", "resample")
_SHARDED = "it generates with whole weights, and under sharding no process holds them"


class GRPO(Method):
    """Trains a causal language model by the rewards of its own completions, relative to their group.

    Shao et al. 2024, arXiv 2402.03300. The training loader yields prompts. Of each batch the policy writes
    `group_size` completions a prompt, reward functions score them, and each completion is made more or less probable by
    its advantage over its group. The rollout is cut into `minibatches`, which are gone through `updates` times: so
    every batch of the loader is worth ``updates * minibatches`` steps, and the ratio to the policy at the time of the
    rollout is clipped. The module's own `training_step` is not called.

    The policy is the only Hugging Face causal language model in the module, or else the module's own forward, which
    maps ``input_ids`` (``attention_mask`` and ``position_ids`` where it takes them) to logits or an object with
    ``.logits``. Reward functions are called as TRL calls them.

    Args:
        reward: A function ``reward(prompts, completions, completion_ids, **columns)`` that returns a number or None
            for each completion, ``"package.module:function"``, or a list of several.
        reward_weights: A weight for each reward function; None counts all alike.
        reward_timeout: Seconds a reward function may take for a rollout before it is killed; None waits.
        group_size: Completions of each prompt.
        advantage: A strategy of the kind ``grpo.advantage``, by name (``"group_z_score"``, ``"fixed_scale(scale=2)"``)
            or as an object.
        shapers: Strategies of the kind ``grpo.reward_shaper``, applied in this order.
        sampler: A strategy of the kind ``grpo.sampler``, which shares completions out among the prompts.
        updates: How often a rollout is gone through.
        minibatches: Into how many steps of the loader it is cut. `accumulate_grad_batches` must divide it.
        max_new_tokens: Most tokens of a completion.
        temperature: What logits are divided by, where tokens are drawn and where they are scored.
        top_k: Draw among so many most probable tokens only.
        top_p: Draw among the most probable tokens that together have this probability only.
        stop_tokens: What ends a completion; None asks the tokenizer and then the model, [] is nothing.
        engine: A strategy of the kind ``grpo.rollout_engine``, which writes the completions.
        max_sequences: At most so many completions are written at a time, which bounds memory.
        loss: How tokens become one number: ``"dapo"`` is the mean over all tokens of an update, ``"grpo"`` the mean
            over completions of their means, ``"dr_grpo"`` the sum over completions and `max_new_tokens`.
        clip_low: How far below 1 the ratio may fall before it is clipped.
        clip_high: How far above 1 it may rise.
        clip_dual: An upper bound of the ratio where the advantage is negative, above 1; None for no bound.
        kl_weight: Weight of the divergence from the reference; 0 has none.
        kl: Its estimator: ``"k1"``, ``"k2"`` or ``"k3"`` (Schulman 2020).
        kl_correction: Multiply the estimate by the ratio, as TRL does by default (DeepSeek-V3.2).
        reference: ``"copy"`` of the weights at the beginning, ``"adapter"`` for the model with its peft adapters off,
            ``"auto"`` for the latter where there are any.
        entropy_weight: Weight of the entropy bonus.
        groups_without_signal: What is done with groups whose raw rewards do not differ: ``"drop"`` leaves them out,
            ``"resample"`` draws them again and leaves out what still does not differ, ``"keep"`` trains on them (a
            divergence and a share in the mean; an advantage too where it does not compare the group, such as
            ``"fixed_scale"``).
        max_attempts: How often groups are drawn again at most.
        mask_truncated: Leave completions that did not end out of the loss.
        correct_above: The raw reward above which a completion counts as right, for shapers and samplers.
        dropout: Leave the policy in training mode in the updates. False switches dropout off, as it is where old
            log-probabilities are computed.
        softmax_positions: How many positions go through the softmax at a time, which bounds memory; None for all.
        prompt_column: Where a batch that is a dictionary holds the prompts.
        tokenizer: For prompts that are texts: an object, the name of an attribute of the module or data module, or
            what AutoTokenizer loads. None asks for an attribute ``tokenizer``.
        model: Name of the submodule that is the policy.
        uplift: Score each rollout once more after its last update, and report the share of right completions at each
            likelihood rank whose probability rose.
        table_every: Report a table of completions of every n-th rollout; 0 reports none.
        table_rows: How many rows it has.
        seed: Of the draws.
        enabled: False leaves it all out; the module trains by its own `training_step`.

    Raises:
        ArgumentError: An argument is out of range, or strategies cancel one another.
        UnsupportedSettingError: The data holds no prompts, the module no policy, or prompts leave no room.
    """

    name: ClassVar[str] = "grpo"
    exclusive: ClassVar[frozenset[str]] = frozenset({"objective"})
    unsupported_strategies: ClassVar[dict[str, str]] = dict.fromkeys(
        ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"), _SHARDED
    )

    def __init__(
        self,
        reward: Any,
        reward_weights: list[float] | None = None,
        reward_timeout: float | None = None,
        group_size: int = 8,
        advantage: Any = "group_z_score",
        shapers: Any = None,
        sampler: Any = "uniform",
        updates: int = 1,
        minibatches: int = 1,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_tokens: list[int] | None = None,
        engine: Any = "cache",
        max_sequences: int | None = None,
        loss: str = "dapo",
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        clip_dual: float | None = None,
        kl_weight: float = 0.0,
        kl: str = "k3",
        kl_correction: bool = False,
        reference: str = "auto",
        entropy_weight: float = 0.0,
        groups_without_signal: str = "drop",
        max_attempts: int = 3,
        mask_truncated: bool = False,
        correct_above: float = 0.5,
        dropout: bool = False,
        softmax_positions: int | None = None,
        prompt_column: str = "prompt",
        tokenizer: Any = None,
        model: str | None = None,
        uplift: bool = False,
        table_every: int = 10,
        table_rows: int = 16,
        seed: int = 0,
        enabled: bool = True,
    ) -> None:
        who = type(self).__name__
        self.reward, self.reward_weights, self.reward_timeout = reward, reward_weights, reward_timeout
        self._functions = resolved_rewards(who, reward, reward_weights, reward_timeout)
        self.group_size = whole(who, "group_size", group_size, "use 4 to 64 completions a prompt")
        self.advantage, self.shapers, self.sampler, self.engine = advantage, shapers, sampler, engine
        self._advantage = build("grpo.advantage", advantage, who, "advantage")
        self._shapers = [build("grpo.reward_shaper", shaper, who, "shapers") for shaper in _listed(who, shapers)]
        self._sampler = build("grpo.sampler", sampler, who, "sampler")
        self._engine = build("grpo.rollout_engine", engine, who, "engine")
        check_combination(who, self._shapers, self._advantage, self.group_size)
        self.updates = whole(who, "updates", updates, "1 uses every completion once; more than 4 are unstable")
        self.minibatches = whole(who, "minibatches", minibatches, "1 makes one step of a rollout")
        self._sampling = Sampling.checked(who, max_new_tokens, temperature, top_k, top_p, max_sequences)
        self.max_new_tokens, self.temperature = self._sampling.max_new_tokens, self._sampling.temperature
        self.top_k, self.top_p, self.max_sequences = top_k, top_p, max_sequences
        self.stop_tokens = checked_stop_tokens(who, stop_tokens)
        self.loss, self.clip_low, self.clip_high, self.clip_dual = loss, clip_low, clip_high, clip_dual
        self.kl_weight, self.kl, self.kl_correction, self.entropy_weight = kl_weight, kl, kl_correction, entropy_weight
        self._objective = checked_objective(
            who, loss, clip_low, clip_high, clip_dual, kl_weight, kl, kl_correction, entropy_weight, self.max_new_tokens
        )
        self.reference = one_of(who, "reference", reference, REFERENCES)
        self.groups_without_signal = one_of(who, "groups_without_signal", groups_without_signal, WITHOUT_SIGNAL)
        if self.group_size == 1 and self.groups_without_signal != "keep":
            raise ArgumentError(
                who,
                "groups_without_signal",
                groups_without_signal,
                "with group_size=1 no group has rewards that differ, and all would be left out",
                "use groups_without_signal='keep', or 2 or more completions a prompt",
            )
        self.max_attempts = whole(who, "max_attempts", max_attempts, "3 draws a group up to four times in all")
        self.mask_truncated = flag(who, "mask_truncated", mask_truncated, "use True or False")
        self.correct_above = finite(who, "correct_above", correct_above, "0.5 is between right (1) and wrong (0)")
        self.dropout = flag(who, "dropout", dropout, "False switches dropout off in the updates")
        self.softmax_positions = (
            None if softmax_positions is None else whole(who, "softmax_positions", softmax_positions, "None for all")
        )
        self.prompt_column = _name(who, "prompt_column", prompt_column)
        self.tokenizer = tokenizer
        self.model = None if model is None else _name(who, "model", model)
        self.uplift = flag(who, "uplift", uplift, "True reports it at the price of a pass over each rollout")
        self.table_every = whole(who, "table_every", table_every, "0 reports no table", minimum=0)
        self.table_rows = whole(who, "table_rows", table_rows, "16 shows two groups of 8")
        self.seed = whole(who, "seed", seed, "any whole number from 0 on", minimum=0)
        self.enabled = flag(who, "enabled", enabled, "pass enabled=False to leave it out")
        self._buffer: Buffer | None = None
        self._reference: FrozenCopy | AdapterOff | None = None
        self._collector: Collector | None = None
        self._runner: RewardRunner | None = None
        self._loaded: dict[str, Any] | None = None
        self._of_rollout: dict[str, float] = {}
        self._of_updates: dict[str, float] = {}
        self._rollouts = 0

    @property
    def _steps(self) -> int:
        """Batches of the loader that a rollout is worth."""
        return self.updates * self.minibatches

    # -- taking over, and giving back ----------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin without a rollout."""
        self._buffer, self._reference, self._loaded, self._rollouts = None, None, None, 0
        self._of_rollout, self._of_updates = {}, {}
        if self.enabled:
            self._check_accumulation(trainer)

    @hookimpl(trylast=True)
    def prepare_data(self, view: DataView) -> None:
        """Have each batch come as often as its rollout is worth steps.

        Raises:
            CompositionError: A method wants to know the samples of a batch, whose outputs it remembers or measures.
        """
        if self.enabled:
            if view.indices_asked_by:
                # What goes through the module are completions, of which a sample has many, and others every time.
                hint = "leave one of them out; MESA and SAM need no samples"
                raise CompositionError("outputs of a batch", type(self).__name__, view.indices_asked_by, hint)
            hint = (
                "use updates=1 and minibatches=1, which need each batch once, or a DataLoader over a map-style dataset"
            )
            view.repeat(type(self).__name__, self._steps, hint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up policy, tokenizer and reference, and take up what a checkpoint brought."""
        if not self.enabled:
            return
        who, context = type(self).__name__, trainer.precision_plugin.train_step_context
        loaded, self._loaded = self._loaded or {}, None
        policy = find_policy(who, pl_module, self.model)
        tokenizer = find_tokenizer(who, self.tokenizer, trainer, pl_module)
        stops = stop_tokens(who, self.stop_tokens, tokenizer, policy.module)
        self._reference = None
        if self._objective.needs_reference:
            self._reference = find_reference(who, self.reference, policy.module)
            if loaded.get("reference"):
                self._reference.load_state_dict(loaded["reference"])
        collated = getattr(trainer.train_dataloader, "collate_fn", None) is default_collate
        reader = PromptReader(who, tokenizer, self.prompt_column, collated)
        self._runner = RewardRunner(self._functions, self.reward_weights, timeout=self.reward_timeout, who=who)
        writer = Writer(who, policy, self._engine, self._sampling, stops, reader, self._runner, context, self.progress)
        settings = CollectorSettings(
            self.group_size,
            self.minibatches,
            self.updates,
            self.groups_without_signal,
            self.max_attempts,
            self.mask_truncated,
            self.correct_above,
            self.temperature,
            self.softmax_positions,
            scores_old=self._scores_old(trainer),
        )
        self._collector = Collector(
            who,
            policy,
            reader,
            writer,
            self._sampler,
            self._shapers,
            self._advantage,
            self._reference,
            context,
            settings,
        )
        ranks = loaded.get("ranks", ())
        if len(ranks) == trainer.world_size and ranks[trainer.global_rank].get("buffer"):
            mine = ranks[trainer.global_rank]
            buffer = Buffer.from_state_dict(mine["buffer"], policy.device)
            # Under other settings it is cut in another way, or lacks the reference: then another one is drawn.
            if self._fits(buffer):
                self._buffer = buffer
        self._rollouts = loaded.get("rollouts", 0)
        self._of_rollout, self._of_updates = dict(loaded.get("of_rollout", {})), dict(loaded.get("of_updates", {}))

    def _fits(self, buffer: Buffer) -> bool:
        known = all(chunk.reference is not None for chunk in buffer.chunks if len(chunk))
        wanted = (self.updates, self.minibatches)
        return (buffer.passes, len(buffer.chunks)) == wanted and (known or not self._objective.needs_reference)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the processes that reward functions run in."""
        self._close()

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where training did not come to its end."""
        self._close()

    def _close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner = self._collector = None

    def _check_accumulation(self, trainer: Trainer) -> None:
        accumulate = trainer.accumulate_grad_batches
        if self.minibatches % accumulate:
            raise UnsupportedSettingError(
                type(self).__name__,
                f"accumulate_grad_batches={accumulate} and minibatches={self.minibatches}",
                "an update would be made of parts of two rollouts, and its tokens would not be counted when the "
                "first is computed",
                f"use minibatches={accumulate}, or a multiple of it",
            )

    def _scores_old(self, trainer: Trainer) -> bool:
        """Whether log-probabilities must be known before the first update; otherwise it computes them itself."""
        one_update = self.updates == 1 and self.minibatches == trainer.accumulate_grad_batches
        return not one_update or bool(self._shapers) or self.dropout

    # -- rollouts ------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Collect a rollout where one is due."""
        if self._collector is None:
            return
        first = trainer.fit_loop.total_batch_idx - batch_idx % self._steps
        if self._buffer is not None and self._buffer.first == first:
            return
        self._check_accumulation(trainer)
        generator = seeded_generator("rollout", self.seed, trainer.global_rank, first)
        collected = self._collector.collect(batch, first, generator, _state_of(trainer))
        if self._rollouts == 0:
            text = torch.cat([collected.rollout.prompts[0], collected.rollout.completions[0]])
            self._collector.policy.check_causal(text.to(self._collector.policy.device))
        self._join(trainer, collected)
        self._buffer = collected.buffer
        if self.table_every and self._rollouts % self.table_every == 0:
            self.record("completions", completions_table(collected.rollout, collected.advantages, self.table_rows))
        self._rollouts += 1

    def _join(self, trainer: Trainer, collected: Collected) -> None:
        """The rollout's totals and figures over all replicas, in one exchange."""
        buffer = collected.buffer
        sums = rollout_sums(collected)
        names = list(sums)
        numbers = [*buffer.totals.flatten().tolist(), *(number for pair in sums.values() for number in pair)]
        whole_vector = summed_over_replicas(trainer, torch.tensor(numbers, dtype=torch.float64))
        counts = buffer.totals.numel()
        buffer.totals = whole_vector[:counts].round().long().view_as(buffer.totals)
        self._of_rollout = {
            **means(names, whole_vector[counts:].view(-1, 2)),
            **{f"unscorable_{reason}": float(count) for reason, count in collected.rollout.unscorable.items()},
            **collected.rollout.metrics,
        }

    # -- updates -------------------------------------------------------------------------------------------------------

    @hookimpl
    def compute_loss(self, step: ObjectiveStep) -> Tensor | None:
        """The loss of the chunk that this step goes through."""
        if self._collector is None:
            return None
        if step.foreign:
            return self._foreign_loss(step)
        buffer, accumulate = self._buffer, step.trainer.accumulate_grad_batches
        assert buffer is not None
        loss = self._loss(step, buffer, buffer.chunk(step.batch_number), accumulate, keep=not step.replay)
        # Lightning divides by the one, and replicas average by the other.
        return loss * (accumulate * replicas(step.trainer))

    def _foreign_loss(self, step: ObjectiveStep) -> Tensor:
        """The loss of a rollout of other prompts, all of it in one step; nothing is kept.

        That of this process alone: who asks need not ask in every one.
        """
        assert self._collector is not None
        generator = seeded_generator("foreign", self.seed, step.trainer.global_rank, step.index)
        with torch.no_grad():
            buffer = self._collector.collect(step.batch, 0, generator, _state_of(step.trainer)).buffer
        count = len(buffer.chunks)
        losses = (self._loss(step, buffer, number, count, keep=False) for number in range(count))
        return sum(losses, torch.zeros((), device=self._collector.policy.device))

    def _loss(self, step: ObjectiveStep, buffer: Buffer, number: int, accumulate: int, keep: bool) -> Tensor:
        """A chunk's part of the loss of the update that so many chunks are accumulated to."""
        assert self._collector is not None
        chunk, policy = buffer.chunks[number], self._collector.policy
        if not len(chunk) or not bool(chunk.counted.any()):
            return no_loss(step.module)
        objective = self._objective
        kind = "graph" if objective.tokens.entropy_weight else "value"
        with evaluation_mode(policy.module, not self.dropout):
            found, entropies = score(policy, chunk, self.temperature, self.softmax_positions, kind)
        assert entropies is not None
        old = chunk.old if chunk.old is not None else found.detach()
        tokens, completions = buffer.of_update(number, accumulate)
        loss, notes = chunk_loss(chunk, found, old, entropies, objective, tokens, completions)
        if keep:
            chunk.old = old
            add_notes(buffer.notes, notes)
        return loss

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        """Report, and let a rollout go whose last update this was."""
        buffer = self._buffer
        if buffer is not None and buffer.place(step.trainer.fit_loop.total_batch_idx) == buffer.steps - 1:
            self._finish(step.trainer, buffer)
            self._buffer = None
        # With every update, so that whichever the logger is to be given tells of the latest rollout.
        for name, value in (*self._of_rollout.items(), *self._of_updates.items()):
            self.record(name, value)

    def _finish(self, trainer: Trainer, buffer: Buffer) -> None:
        """What the updates of a rollout came to."""
        names = ["clip_fraction", "entropy", *(["kl"] if self._objective.needs_reference else [])]
        nothing = torch.zeros(2, dtype=torch.float64)
        sums = torch.stack([buffer.notes.get(name, nothing).cpu().double() for name in names])
        self._of_updates = means(names, summed_over_replicas(trainer, sums))
        if self.uplift and self._collector is not None:
            self._report_uplift(trainer, buffer)

    def _report_uplift(self, trainer: Trainer, buffer: Buffer) -> None:
        assert self._collector is not None
        found = measured_uplift(trainer, self._collector, buffer)
        shares = found.share[found.count > 0]
        if len(shares):
            # The least likely of right completions against the likeliest: below 0 where training sharpens.
            self._of_updates["uplift_of_rare"] = float(shares[0] - shares[-1])
            if trainer.is_global_zero:
                # Where matplotlib is needed, and only there.
                from thunderstone_grpo.uplift_figure import draw

                self.record("uplift_by_rank", draw(found))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The rollout under way on every rank, and the reference."""
        mine = {"buffer": self._buffer.state_dict()} if self._buffer is not None else {}
        state = {
            **super().state_dict(),
            "ranks": self.gather_states(mine),
            "rollouts": self._rollouts,
            "of_rollout": dict(self._of_rollout),
            "of_updates": dict(self._of_updates),
        }
        if self._reference is not None:
            state["reference"] = self._reference.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken up when training starts."""
        super().load_state_dict(state_dict)
        self._loaded = state_dict


def _state_of(trainer: Trainer) -> Any:
    """What reward functions written for TRL look at: ``global_step``, ``epoch`` and ``max_steps``."""
    return SimpleNamespace(
        global_step=trainer.global_step, epoch=float(trainer.current_epoch), max_steps=int(trainer.max_steps)
    )


def _listed(who: str, shapers: Any) -> Sequence[Any]:
    if shapers is None:
        return ()
    if isinstance(shapers, (str, bytes)) or not isinstance(shapers, Sequence):
        raise ArgumentError(who, "shapers", shapers, "it is no list", "pass a list, e.g. ['unlikeliness(beta=0.25)']")
    return shapers


def _name(who: str, argument: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ArgumentError(who, argument, value, "it must be a name", "pass a text, or leave it out")
    return value
