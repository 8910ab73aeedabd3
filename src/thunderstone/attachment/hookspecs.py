"""The second half of the contract: hooks a method or an observer may implement, called by the attachment.

Implement one by decorating a method of your `thunderstone.Method` with `thunderstone.hookimpl`. Methods are called in
the order in which they stand in `Trainer(callbacks=[...])`; pluggy's `tryfirst`, `trylast` and `wrapper=True` apply.
An implementation may leave out arguments it does not need, and one that is called differently than its hook names it:
``@hookimpl(specname="loss_terms")``. What is implemented at all decides what is wrapped: a fit pays for no hook that
nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thunderstone.markers import hookspec

if TYPE_CHECKING:
    from torch import Tensor

    from thunderstone.attachment.data_view import DataView
    from thunderstone.attachment.gradient_step import GradientStep, UpdatePlan, UpdateStep
    from thunderstone.attachment.loss_terms import LossStep
    from thunderstone.attachment.objective import ObjectiveStep
    from thunderstone.attachment.rounds import Round
    from thunderstone.tracking.records import Record


class AttachmentHooks:
    """Namespace of the hook specifications; never instantiated."""

    @hookspec
    def prepare_data(self, view: DataView) -> None:
        """Look at the training data, or have less of it drawn, before it is iterated.

        When:
            Once for every training loader, before its first batch: once a fit, again where loaders are reloaded, and in
            every round.

        Ranks:
            Every one.

        Implemented by:
            Any method.

        Args:
            view: The loader. `view.track_indices` makes known which samples a batch is made of, `view.subset` trains on
                a few of them, `view.repeat` makes several steps of each batch.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                from thunderstone import DataView, Method, hookimpl


                class FewSamples(Method):
                    \"\"\"Trains on a fixed choice of the samples.\"\"\"

                    name = "few_samples"

                    def __init__(self, samples: int = 1000, seed: int = 0) -> None:
                        self.samples, self.seed = samples, seed

                    @hookimpl
                    def prepare_data(self, view: DataView) -> None:
                        view.subset("FewSamples", self.samples, self.seed, "leave FewSamples out")
        """

    @hookspec
    def plan_update(self, plan: UpdatePlan) -> None:
        """Say what an update must keep for the hooks that follow.

        What is to be recorded can only be known before the update begins, and a method that acts on every tenth should
        not pay for the others.

        When:
            Before the first micro-batch of every update.

        Ranks:
            Every one, and with the same answer.

        Implemented by:
            Any method; it is needed by those that call `GradientStep.recompute`.

        Args:
            plan: The update. `plan.request_recompute()` has its micro-batches kept, for gradients at other weights;
                with `local_gradients=True` they are each replica's own.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                from thunderstone import GradientStep, Method, UpdatePlan, hookimpl


                class Extragradient(Method):
                    \"\"\"Steps with the gradient that is found one plain step ahead (Korpelevich, 1976).\"\"\"

                    name = "extragradient"
                    exclusive = frozenset({"gradient"})

                    def __init__(self, lookahead: float = 0.01) -> None:
                        self.lookahead = lookahead

                    @hookimpl
                    def plan_update(self, plan: UpdatePlan) -> None:
                        if self.lookahead:
                            plan.request_recompute()

                    @hookimpl
                    def transform_gradients(self, step: GradientStep) -> None:
                        if self.lookahead:
                            length = -self.lookahead / step.loss_scale
                            with step.perturbed([None if g is None else length * g for g in step.gradients]):
                                step.gradients = step.recompute()
        """

    @hookspec(firstresult=True)
    def compute_loss(self, step: ObjectiveStep) -> Tensor | Mapping[str, Any] | None:
        """Train another objective than the module's own.

        What is returned is treated as the module's own loss: `loss_terms` of other methods are added, and Lightning
        scales it for accumulation.

        When:
            In the place of every `training_step`, inside its graph and precision context. Again, with `step.replay` set
            and under the same random state, when a method goes through the batch a second time, where it is to be the
            same function of the weights.

        Ranks:
            Every one.

        Implemented by:
            The one method that declares ``exclusive = {"objective"}``.

        Args:
            step: The batch, the module and where training is.

        Returns:
            What `training_step` would return: a loss with its graph, or a mapping that has it as ``"loss"``. None
            leaves the step to the module.

        Example:
            .. code-block:: python

                from torch import Tensor, nn

                from thunderstone import Method, ObjectiveStep, hookimpl


                class LabelSmoothing(Method):
                    \"\"\"Cross entropy with targets that are not quite sure (Szegedy et al., 2016).\"\"\"

                    name = "label_smoothing"
                    exclusive = frozenset({"objective"})

                    def __init__(self, amount: float = 0.1) -> None:
                        self.amount = amount

                    @hookimpl
                    def compute_loss(self, step: ObjectiveStep) -> Tensor | None:
                        if not self.amount:
                            return None
                        x, y = step.batch
                        return nn.functional.cross_entropy(step.module(x), y, label_smoothing=self.amount)
        """

    @hookspec
    def loss_terms(self, step: LossStep) -> Mapping[str, Tensor] | None:
        """Add named losses to the module's.

        When:
            After every `training_step` that returned a loss, inside its graph and precision context, before Lightning
            scales it for accumulation. Again, with `step.replay` set, when a method goes through the batch a second
            time: what a method keeps of a batch is not to be changed then.

        Ranks:
            Every one.

        Implemented by:
            Any method.

        Args:
            step: The loss, the batch, the module and where training is.

        Returns:
            Name → 0-d tensor. Each is added, and recorded as ``method/name``. None or an empty mapping leaves the loss
            alone, to the last bit.

        Example:
            .. code-block:: python

                from torch import Tensor

                from thunderstone import LossStep, Method, hookimpl


                class Lasso(Method):
                    \"\"\"Pulls weights to zero by the sum of their sizes (Tibshirani, 1996).\"\"\"

                    name = "lasso"

                    def __init__(self, weight: float = 1e-4) -> None:
                        self.weight = weight

                    @hookimpl
                    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
                        if not self.weight:
                            return None
                        sizes = [p.abs().sum() for p in step.module.parameters() if p.requires_grad]
                        return {"penalty": self.weight * sum(sizes)}
        """

    @hookspec
    def transform_gradients(self, step: GradientStep) -> None:
        """Replace the gradients of an update.

        When:
            The gradients of the whole accumulated batch are there, and neither unscaling nor clipping has run. Not when
            every micro-batch's `training_step` returned None. With `step.rehearsal` set no update follows: transform as
            always, and keep nothing of it.

        Ranks:
            Every one. Averaged over replicas, unless `plan_update` asked for each one's own.

        Implemented by:
            Any method; one that replaces the gradient altogether declares ``exclusive = {"gradient"}``.

        Args:
            step: Parameters and gradients. Under a GradScaler they are multiplied by `step.loss_scale`. Assign to
                `step.gradients` to replace them.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                from torch import Tensor

                from thunderstone import GradientStep, Method, hookimpl


                def centered(gradient: Tensor) -> Tensor:
                    inputs = tuple(range(1, gradient.dim()))
                    return gradient - gradient.mean(inputs, keepdim=True) if inputs else gradient


                class Centralized(Method):
                    \"\"\"Takes the mean off the gradient of every output's weights (Yong et al., 2020).\"\"\"

                    name = "centralized"

                    def __init__(self, enabled: bool = True) -> None:
                        self.enabled = enabled

                    @hookimpl
                    def transform_gradients(self, step: GradientStep) -> None:
                        if self.enabled:
                            step.gradients = [None if g is None else centered(g) for g in step.gradients]
        """

    @hookspec
    def after_update(self, step: UpdateStep) -> None:
        """Look at the weights an update left, or correct them.

        When:
            After the optimizer has stepped, or was skipped by a GradScaler (`step.skipped`).

        Ranks:
            Every one.

        Implemented by:
            Any method.

        Args:
            step: The optimizer, the module and where training is.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                import torch

                from thunderstone import Method, UpdateStep, hookimpl


                class WeightClipping(Method):
                    \"\"\"Keeps every weight in an interval around zero (Arjovsky et al., 2017).\"\"\"

                    name = "weight_clipping"

                    def __init__(self, limit: float = 0.01) -> None:
                        self.limit = limit

                    @hookimpl
                    def after_update(self, step: UpdateStep) -> None:
                        with torch.no_grad():
                            for parameter in step.module.parameters():
                                parameter.clamp_(-self.limit, self.limit)
        """

    @hookspec(firstresult=True)
    def another_round(self, round: Round) -> bool | None:
        """Have the training budget spent again.

        When:
            It is used up (epochs, steps or time, or a callback asked to stop). Nothing is to be changed here.

        Ranks:
            Every one; rank zero's answer holds.

        Implemented by:
            The one method that declares ``exclusive = {"rounds"}``.

        Args:
            round: The round that is used up.

        Returns:
            True for a further round; False or None ends the fit.

        Example:
            .. code-block:: python

                from thunderstone import Method, Round, hookimpl


                class WarmRestarts(Method):
                    \"\"\"Goes on from where it ended, its schedule begun anew (Loshchilov & Hutter, 2017).\"\"\"

                    name = "warm_restarts"
                    exclusive = frozenset({"rounds"})

                    def __init__(self, rounds: int = 3) -> None:
                        self.rounds = rounds

                    @hookimpl
                    def another_round(self, round: Round) -> bool:
                        return round.index + 1 < self.rounds
        """

    @hookspec
    def next_round(self, round: Round) -> None:
        """Give the module the weights that the next round begins with.

        When:
            A training budget is used up and another follows. The module has the weights the round ended with;
            everything else is put back by the host afterwards: optimizers, schedules, counters, loaders, callbacks.

        Ranks:
            Every one, and to the same effect.

        Implemented by:
            Any method; where rounds begin is usually for the one that declares ``exclusive = {"rounds"}`` to say.

        Args:
            round: The round that is used up. `round.rewind()` gives the module back what rounds begin from;
                `round.seed` orders the data otherwise.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                from thunderstone import Method, Round, hookimpl


                class OtherOrders(Method):
                    \"\"\"Trains one start under several orders of the data; reports how far each goes.\"\"\"

                    name = "other_orders"
                    exclusive = frozenset({"rounds"})

                    def __init__(self, rounds: int = 3) -> None:
                        self.rounds = rounds

                    @hookimpl
                    def another_round(self, round: Round) -> bool:
                        return round.index + 1 < self.rounds

                    @hookimpl
                    def next_round(self, round: Round) -> None:
                        ends, starts = dict(round.module.named_parameters()), round.weights
                        squares = [(end.detach().cpu() - starts[name]).square().sum() for name, end in ends.items()]
                        self.record("distance", float(sum(squares)) ** 0.5)
                        round.rewind()
                        round.seed = round.index + 1
        """

    @hookspec
    def record(self, record: Record) -> None:
        """Observe what methods report.

        Each observer is called by itself. What one raises is warned of once, under its name, and reaches neither
        training nor another observer.

        When:
            A method has called `self.record`, or a loss term was added.

        Ranks:
            Rank zero.

        Implemented by:
            Any method, under another name than ``record``, which is what a method reports with; and any object that is
            registered by ``method.attachment.manager.register(observer)`` while a fit runs.

        Args:
            record: What was reported, by whom, and at which step.

        Returns:
            Nothing.

        Example:
            .. code-block:: python

                import json

                from thunderstone import Method, Record, hookimpl


                class Lines(Method):
                    \"\"\"Writes every number a method reports as a line of JSON.\"\"\"

                    name = "lines"

                    def __init__(self, path: str = "records.jsonl") -> None:
                        self.path = path

                    @hookimpl(specname="record")
                    def write(self, record: Record) -> None:
                        if getattr(record.value, "ndim", 0) == 0 and hasattr(record.value, "__float__"):
                            line = {"step": record.step, record.key: float(record.value)}
                            with open(self.path, "a", encoding="utf-8") as file:
                                file.write(json.dumps(line) + "\\n")
        """


HOOK_NAMES = tuple(name for name in vars(AttachmentHooks) if not name.startswith("_"))
"""In the order in which a fit comes to them."""
