"""The wiring between a Trainer and the methods in its callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from thunderstone.attachment.composition import check_composition
from thunderstone.attachment.data_view import DataView
from thunderstone.attachment.gradient_step import GradientStep, Objective, UpdateStep
from thunderstone.attachment.hook_manager import HookManager, called
from thunderstone.attachment.loss_terms import LossStep, LossTerms
from thunderstone.attachment.mask_enforcement import MaskEnforcement
from thunderstone.attachment.method import Method
from thunderstone.attachment.objective import ObjectiveStep, StandIn, objective_owner
from thunderstone.attachment.outputs import OutputCapture
from thunderstone.attachment.rehearsal import Rehearsal, rehearse
from thunderstone.attachment.replay import gradient_scaler, replay, without_sync
from thunderstone.attachment.round_runner import runner_of
from thunderstone.attachment.rounds import Rounds
from thunderstone.attachment.settings import check_settings
from thunderstone.attachment.strategies import (
    Parallelism,
    check_strategy,
    hand_out_buffers,
    hands_out_buffers,
    parallelism,
)
from thunderstone.attachment.untrained_parameters import UntrainedParameters
from thunderstone.attachment.window import MicroBatch, UpdatePlan, Window
from thunderstone.errors import StepError, UnsupportedSettingError, sentence
from thunderstone.lightning_private import (
    callbacks_of,
    logging_step,
    set_callback_metric,
    set_callbacks,
    skips_backward,
)
from thunderstone.progress import Display
from thunderstone.tracking.records import Record
from thunderstone.tracking.scalars import monitored, taken
from thunderstone.tracking.tracker import Tracker

if TYPE_CHECKING:
    from thunderstone.attachment.training_pass import DrawnBatch


class Attachment:
    """One fit of one Trainer: its methods, their hooks, and the step objects they are handed.

    Attributes:
        trainer: The Trainer.
        module: The LightningModule being fitted.
        methods: The attached methods, in the order of `trainer.callbacks`.
        manager: The pluggy manager on which every method and observer is a plug-in. Register an observer with
            ``manager.register(observer)``.
        window: The accumulation window in progress.
        tracker: Writes what methods report; on rank zero alone.
        enforcement: What keeps masked weights at zero; None where no method owns masks.
        display: What methods show beside the Trainer's progress bar.
        active: Whether the fit is running.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, methods: Sequence[Method], inserted: Method | None = None
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.methods = list(methods)
        self.window = Window()
        self.active = True
        self._inserted = inserted
        self.views: list[DataView] = []
        self._within_step = False
        self._replaying = False
        self._failed_observers: set[int] = set()
        self._parallelism = Parallelism()
        self._original: dict[str, Callable[..., Any]] = {}
        self._patched_before: dict[str, Any] = {}
        self._started = False
        self.tracker: Tracker | None = None
        check_composition(self.methods)
        self.manager = HookManager(self.methods)
        check_settings(trainer, module, self.methods, self.manager)
        if trainer.is_global_zero:
            self.tracker = Tracker(trainer)
            self.manager.register(self.tracker, "tracker")
        self.loss_terms = LossTerms(self.manager, self.methods)
        self._stand_in: StandIn | None = None
        if objective_owner(self.methods, self.manager) and self.manager.hook.compute_loss.get_hookimpls():
            self._stand_in = StandIn(trainer, module, self.manager.hook.compute_loss)
        self._mask_owner = next((method for method in self.methods if "masks" in method.exclusive), None)
        self.enforcement: MaskEnforcement | None = None
        if self._mask_owner is not None:
            self._mask_owner.masks.begin(module)
            self.enforcement = MaskEnforcement(trainer, module, self._mask_owner.masks)
        self._runner = runner_of(self)
        self.display = Display(trainer, self._runner.rounds if self._runner is not None else None)
        attached: list[Method] = []
        try:
            if self._runner is not None:
                self._runner.prepare()
            for method in self.methods:
                method._attachment = self
                attached.append(method)
                method.on_attach(trainer, module)
        except BaseException:
            self.active = False
            if self._runner is not None:
                self._runner.stop()
            for method in attached[:-1]:
                method.on_detach(trainer, module)
            for method in attached:
                method._attachment = None
            raise
        if self.manager.hook.prepare_data.get_hookimpls():
            # Before `start`: a schedule may ask how many steps there will be, and so for the training loader, while
            # the optimizers are set up.
            self._wrap("process_dataloader", self._process_dataloader)

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: the strategy and the optimizers are set up. Called by every method, acts once."""
        if self._started:
            return
        self._started = True
        # Once more: the module's own `setup` has run since.
        check_settings(self.trainer, self.module, self.methods, self.manager)
        if self.tracker is not None:
            self.tracker.start([method for method in self.methods if method is not self._inserted])
        if self.enforcement is not None:
            self.enforcement.start()
        if self._runner is not None:
            self._runner.start()
        self.display.start()
        if self._stand_in is not None:
            self._stand_in.install()
        if self.manager.takes_part_in_steps:
            self._parallelism = parallelism(self.trainer)
            for capture in self.loss_terms.captures:
                capture.install(self.module)
            self._wrap("training_step", self._training_step)
            self._wrap("optimizer_step", self._optimizer_step)

    def _wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        strategy = self.trainer.strategy
        self._patched_before.update({name: vars(strategy)[name]} if name in vars(strategy) else {})
        self._original[name] = getattr(strategy, name)
        setattr(strategy, name, wrapper)

    def stop(self) -> None:
        """End: take every wrapper off and tell the methods. Safe to call more than once."""
        if not self.active:
            return
        self.active = False
        # What fails does not keep the rest from being undone; the stack runs from its end.
        with ExitStack() as undo:
            for method in reversed(self.methods):
                undo.callback(method.on_detach, self.trainer, self.module)
            if self._runner is not None:
                # After the last records are written, which it puts columns beside.
                undo.callback(self._runner.stop)
            if self.tracker is not None:
                undo.callback(self.tracker.finish)
            undo.callback(self.release_views)
            for capture in self.loss_terms.captures:
                undo.callback(capture.remove)
            if self.enforcement is not None:
                # Its wrapper lies below the attachment's own.
                undo.callback(self.enforcement.stop)
            undo.callback(self._unwrap)
            undo.callback(self.display.stop)
            if self._stand_in is not None:
                undo.callback(self._stand_in.remove)

    def _unwrap(self) -> None:
        for name in self._original:
            vars(self.trainer.strategy).pop(name, None)
        vars(self.trainer.strategy).update(self._patched_before)

    def release_views(self) -> None:
        """Give every training loader of this fit its own samplers back."""
        for view in self.views:
            view.release()
        self.views.clear()

    def detach(self) -> None:
        """`stop`, and forget the Trainer."""
        try:
            self.stop()
        finally:
            self.window.clear()
            self._remove_inserted()
            for method in self.methods:
                if method._attachment is self:
                    method._attachment = None

    def _remove_inserted(self) -> None:
        if self._inserted is not None:
            set_callbacks(
                self.trainer, [callback for callback in callbacks_of(self.trainer) if callback is not self._inserted]
            )

    # -- rounds --------------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> Rounds:
        """The rounds of this fit.

        Raises:
            StepError: No attached method declares that it owns them.
        """
        if self._runner is None:
            raise StepError(
                "no attached method owns rounds. HINT: declare exclusive = frozenset({'rounds'}) in the class"
            )
        return self._runner.rounds

    def begin_round(self) -> None:
        """Forget the data and the window of the round that is used up."""
        self.release_views()
        self.window.clear()

    # -- what methods ask of it in on_attach ---------------------------------------------------------------------------

    def capture(self, method: Method, output: str | None, call: int | None = None) -> OutputCapture:
        """Have a module's output captured in every training step; read it with `LossStep.output` in `loss_terms`.

        Args:
            method: Who asks.
            output: None for the module's own forward, or a submodule's name; see `OutputCapture`.
            call: Which call counts when there are several; see `OutputCapture`.
        """
        capture = OutputCapture(type(method).__name__, output, call)
        self.loss_terms.captures.append(capture)
        return capture

    # -- reporting -----------------------------------------------------------------------------------------------------

    def record(self, method: Method, name: str, value: Any) -> None:
        """Hand a record to every observer; one that fails is warned of once and never stops training.

        Scalars are also put among `trainer.callback_metrics`, on every rank: callbacks that monitor one ask on all.
        """
        if not self.active or self._replaying:
            return
        namespace, value = method.name or type(method).__name__, taken(value)
        metric = monitored(value)
        if metric is not None:
            set_callback_metric(self.trainer, f"{namespace}/{name}", metric)
        if not self.trainer.is_global_zero:
            return
        record = Record(
            method=namespace,
            name=name,
            value=value,
            step=logging_step(self.trainer),
            epoch=self.trainer.current_epoch,
            within_step=self._within_step,
        )
        for observer, error in self.manager.observe(record):
            if id(observer) not in self._failed_observers:
                self._failed_observers.add(id(observer))
                rank_zero_warn(
                    f"The observer {called(observer)} failed on the record {record.key!r}: "
                    f"{type(error).__name__}: {sentence(error)} Training goes on; further failures of this observer "
                    "are not reported."
                )

    @contextmanager
    def off_the_record(self) -> Iterator[None]:
        """Nothing that methods report inside reaches an observer."""
        outer, self._replaying = self._replaying, True
        try:
            yield
        finally:
            self._replaying = outer

    # -- what would be done with other batches -------------------------------------------------------------------------

    def micro_batch(self, drawn: DrawnBatch) -> MicroBatch:
        """A batch of a further pass as one that `rehearse` takes; it will see the random state of this moment."""
        names = list(inspect.signature(self.module.training_step).parameters)
        # As Lightning binds them: the batch first, its number where there is room for it.
        arguments = (drawn.batch, drawn.number) if len(names) > 1 or "batch_idx" in names else (drawn.batch,)
        device = self.trainer.strategy.root_device
        return MicroBatch.take(self.module, device, arguments, {}, drawn.indices, number=drawn.number, foreign=True)

    def rehearse(self, batches: Sequence[MicroBatch], without: Method) -> Rehearsal:
        """What the optimizer would be given at the present weights if the next update were made of these batches.

        All hooks of an update's gradients run, those of `without` aside, and no update is made: weights, `.grad`,
        module, random states, the methods' attributes, logs and records are as before. Under data parallelism to be
        called on every replica, and the gradients are those averaged over them.

        Args:
            batches: The micro-batches of the update: of a further pass (`micro_batch`) or of the present update
                (`GradientStep.micro_batches`).
            without: The method that asks.
        """
        if not self.manager.takes_part_in_steps:
            check_strategy(self.trainer, type(without).__name__)
            self._parallelism = parallelism(self.trainer)
        return rehearse(self, batches, without)

    # -- the wrapped strategy ------------------------------------------------------------------------------------------

    def _process_dataloader(self, loader: Any) -> Any:
        loader = self._original["process_dataloader"](loader)
        if self.trainer.training:
            if any(view.started for view in self.views):
                # `reload_dataloaders_every_n_epochs`: the loaders of earlier epochs are not iterated any more.
                self.release_views()
            view = DataView(self.trainer, self.module, loader, self._continued)
            self.views.append(view)
            self.manager.hook.prepare_data(view=view)
        return loader

    def _continued(self) -> bool:
        from thunderstone.resume import ExactResume

        return any(isinstance(method, ExactResume) and method.continued for method in self.methods)

    def _training_step(self, *arguments: Any, **keywords: Any) -> Any:
        plan = self._open_window()
        indices = self._indices()
        number = self.trainer.fit_loop.total_batch_idx
        if plan.recompute and not skips_backward(self.trainer):
            device = self.trainer.strategy.root_device
            if not self.window.batches:
                self.window.handed_out_buffers = hands_out_buffers(self.trainer)
            last = self.window.batches[-1].module_state if self.window.batches else None
            untrained = UntrainedParameters(self.module, self.trainer.optimizers, last.untrained if last else None)
            self.window.batches.append(
                MicroBatch.take(self.module, device, arguments, keywords, indices, untrained, number)
            )
        # The last micro-batch's step runs inside the optimizer's, which goes on after it.
        outer, self._within_step = self._within_step, True
        try:
            return self._with_terms(arguments, keywords, plan, indices, number, replaying=False)
        finally:
            self._within_step = outer

    def _replayed_step(self, batch: MicroBatch, plan: UpdatePlan, objective: Objective | None) -> Any:
        arguments, keywords = batch.fresh_call()
        return self._with_terms(
            arguments,
            keywords,
            plan,
            batch.indices,
            batch.number,
            replaying=True,
            foreign=batch.foreign,
            objective=objective,
        )

    def _with_terms(
        self,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        plan: UpdatePlan,
        indices: Tensor | None,
        number: int,
        replaying: bool,
        foreign: bool = False,
        objective: Objective | None = None,
    ) -> Any:
        # Not wrapped where no method takes part in steps; gradients of other batches may be asked for all the same.
        own_step = self._original.get("training_step", self.trainer.strategy.training_step)
        training_step = partial(own_step, *arguments, **keywords)
        batch = arguments[0] if arguments else next(iter(keywords.values()))
        if self._stand_in is not None:
            step = ObjectiveStep(self.trainer, self.module, batch, plan.index, number, replaying, foreign, indices)
            training_step = self._stand_in.answering(step)(training_step)
        if not self.loss_terms and objective is None:
            return training_step()

        def make_step(loss: Tensor) -> LossStep:
            return LossStep(
                self.trainer, self.module, batch, loss, plan.index, number, replaying, indices, training_step
            )

        context = self.trainer.precision_plugin.train_step_context
        return self.loss_terms.run(training_step, make_step, context, objective)

    def _indices(self) -> Tensor | None:
        tracked = [indices for view in self.views if (indices := view.current_indices()) is not None]
        return tracked[0] if len(tracked) == 1 else None

    def _optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *rest: Any, **keywords: Any) -> Any:
        plan = self._open_window()
        recorded = len(self.window.batches)
        scaler = gradient_scaler(self.trainer) if self.manager.hook.after_update.get_hookimpls() else None
        scale = scaler.get_scale() if scaler is not None else 1.0

        def closure_then_hooks() -> Any:
            # An optimizer with a line search calls its closure again: the last micro-batch is gone through anew.
            del self.window.batches[recorded:]
            with without_sync(self.trainer) if plan.local_gradients else nullcontext():
                result = closure()
            has_gradients = any(p.grad is not None for g in optimizer.param_groups for p in g["params"])
            if (result is not None or has_gradients) and not skips_backward(self.trainer):
                if self.enforcement is not None:
                    self.enforcement.mask_gradients()
                self._transform(optimizer, plan)
            return result

        self._within_step = True
        try:
            output = self._original["optimizer_step"](optimizer, closure_then_hooks, *rest, **keywords)
            skipped = scaler is not None and scaler.get_scale() < scale
            self.manager.hook.after_update(
                step=UpdateStep(self.trainer, self.module, optimizer, plan.index, skipped=skipped)
            )
            if self.enforcement is not None and self._others_move_weights():
                self.enforcement.enforce([optimizer])
            return output
        finally:
            self._within_step = False
            # As after the reduction that every update ends with in a plain run.
            hand_out_buffers(self.trainer, True)
            self.window.clear()
            if self.enforcement is not None:
                self.enforcement.forget_dense_gradients()

    def _others_move_weights(self) -> bool:
        hooks = self.manager.hook.after_update.get_hookimpls()
        return any(hook.plugin is not self._mask_owner for hook in hooks)

    def _open_window(self) -> UpdatePlan:
        epoch = self.trainer.current_epoch
        plan = self.window.plan
        if plan is not None and self.window.epoch == epoch and plan.index == self.trainer.global_step:
            return plan
        self._check_abandoned()
        self.window.clear()
        plan = UpdatePlan(self.trainer.global_step)
        self.manager.hook.plan_update(plan=plan)
        if plan.local_gradients and self._parallelism.no_local_gradients:
            raise UnsupportedSettingError(
                self.manager.step_users,
                f"strategy={type(self.trainer.strategy).__name__}",
                f"it asks for each replica's own gradients, and {self._parallelism.no_local_gradients}",
                "use gradients averaged over replicas (sync=True)",
            )
        self.window.plan, self.window.epoch = plan, epoch
        return plan

    def _check_abandoned(self) -> None:
        # A module's `optimizer_step` may leave out updates; Lightning then zeroes what those batches left in `.grad`.
        zeroes_itself = type(self.module).optimizer_zero_grad is not LightningModule.optimizer_zero_grad
        if self.window.batches and self.window.epoch == self.trainer.current_epoch and zeroes_itself:
            raise StepError(
                f"{type(self.module).__name__} left out an optimizer step and overrides optimizer_zero_grad, so it "
                "cannot be known which batches the gradients of the next step are made of. HINT: accumulate with "
                "Trainer(accumulate_grad_batches=...), or leave optimizer_zero_grad to Lightning"
            )

    def gradient_step(
        self, optimizer: Optimizer, plan: UpdatePlan, window: Window, *, rehearsal: bool = False
    ) -> GradientStep:
        """The step object of a window's gradients."""

        def recompute(sync: bool, objective: Objective | None) -> int:
            again = partial(self._replayed_step, plan=plan, objective=objective)
            with self.off_the_record():
                return replay(self.trainer, window, again, optimizer, sync=sync)

        return GradientStep(
            optimizer,
            self.module,
            index=plan.index,
            recompute=recompute if plan.recompute else None,
            scaler=gradient_scaler(self.trainer),
            synchronised=not plan.local_gradients,
            replicas=self._parallelism.replicas,
            aliased=self._parallelism.aliased,
            shard_group=self._parallelism.shard_group,
            micro_batches=window.batches,
            rehearsal=rehearsal,
        )

    def _transform(self, optimizer: Optimizer, plan: UpdatePlan) -> None:
        step = self.gradient_step(optimizer, plan, self.window)
        self.manager.hook.transform_gradients(step=step)
        step.synchronise()
