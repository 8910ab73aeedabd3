"""The wiring between a Trainer and the methods in its callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import pluggy
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from thunderstone.attachment.composition import check_composition
from thunderstone.attachment.data_view import DataView
from thunderstone.attachment.gradient_step import GradientStep, Objective, UpdateStep
from thunderstone.attachment.hookspecs import AttachmentHooks
from thunderstone.attachment.loss_terms import LossStep, LossTerms
from thunderstone.attachment.method import Method
from thunderstone.attachment.outputs import OutputCapture
from thunderstone.attachment.replay import gradient_scaler, replay, without_sync
from thunderstone.attachment.strategies import (
    Parallelism,
    check_strategy,
    hand_out_buffers,
    hands_out_buffers,
    parallelism,
)
from thunderstone.attachment.untrained_parameters import UntrainedParameters
from thunderstone.attachment.window import MicroBatch, UpdatePlan, Window
from thunderstone.errors import HookError, StepError, UnsupportedSettingError, suggestion
from thunderstone.lightning_private import callbacks_of, logging_step, set_callbacks, skips_backward
from thunderstone.markers import PROJECT
from thunderstone.tracking.records import Record
from thunderstone.tracking.tracker import Tracker

_STEP_HOOKS = ("loss_terms", "plan_update", "transform_gradients", "after_update")


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Looking for hooks must not evaluate a method's properties: some only have a value during a fit.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def attach(trainer: Trainer, module: LightningModule) -> Attachment:
    """The attachment of this Trainer's current fit, made by whichever method asks first.

    Raises:
        CompositionError: Two methods own one resource.
        UnsupportedSettingError: A method cannot work with this module or strategy.
        HookError: A method's hook is misspelt or asks for arguments the hook does not have.
    """
    for callback in list(callbacks_of(trainer)):
        current = callback._attachment if isinstance(callback, Method) else None
        if current is not None and current.active and current.trainer is trainer:
            return current
        if current is not None and not current.active:
            # Of a fit that failed: Lightning calls no `teardown` then.
            current.detach()
    resume = _exact_resume(trainer)
    methods = [callback for callback in callbacks_of(trainer) if isinstance(callback, Method)]
    try:
        attachment = Attachment(trainer, module, methods, inserted=resume)
    except BaseException:
        if resume is not None:
            set_callbacks(trainer, [callback for callback in callbacks_of(trainer) if callback is not resume])
        raise
    if resume is not None:
        # Lightning is in the middle of its own round of `setup` calls over the list as it was.
        resume.setup(trainer, module, "fit")
    return attachment


def _exact_resume(trainer: Trainer) -> Method | None:
    from thunderstone.resume import ExactResume

    if any(isinstance(callback, ExactResume) for callback in callbacks_of(trainer)):
        return None
    resume: Method = ExactResume()
    # First in the list, and in a list of its own: Lightning is iterating over the present one.
    set_callbacks(trainer, [resume, *callbacks_of(trainer)])
    return resume


class Attachment:
    """One fit of one Trainer: its methods, their hooks, and the step objects they are handed.

    Attributes:
        trainer: The Trainer.
        module: The LightningModule being fitted.
        methods: The attached methods, in the order of `trainer.callbacks`.
        manager: The pluggy manager on which every method and observer is a plug-in. Register an observer with
            ``manager.register(observer)``.
        window: The accumulation window in progress.
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
        self._warned_observer = False
        self._parallelism = Parallelism()
        self._original: dict[str, Callable[..., Any]] = {}
        self._patched_before: dict[str, Any] = {}
        self.manager = _Manager(PROJECT)
        self.manager.add_hookspecs(AttachmentHooks)
        self._started = False
        self._tracker: Tracker | None = None
        check_composition(self.methods)
        # pluggy calls the last registered first; users read their list of callbacks from the front.
        for number, method in reversed(list(enumerate(self.methods))):
            self._register(method, f"{type(method).__name__}[{number}]")
        self._check_settings()
        if trainer.is_global_zero:
            self._tracker = Tracker(trainer)
            self.manager.register(self._tracker, "tracker")
        self.loss_terms = LossTerms(self.manager, self.methods)
        attached: list[Method] = []
        try:
            for method in self.methods:
                method._attachment = self
                attached.append(method)
                method.on_attach(trainer, module)
        except BaseException:
            self.active = False
            for method in attached[:-1]:
                method.on_detach(trainer, module)
            for method in attached:
                method._attachment = None
            raise

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: the strategy and the optimizers are set up. Called by every method, acts once."""
        if self._started:
            return
        self._started = True
        # Once more: the module's own `setup` has run since.
        self._check_settings()
        if self._tracker is not None:
            self._tracker.start([method for method in self.methods if method is not self._inserted])
        if self.manager.hook.prepare_data.get_hookimpls():
            self._wrap("process_dataloader", self._process_dataloader)
        if self._takes_part_in_steps():
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
            if self._tracker is not None:
                undo.callback(self._tracker.finish)
            undo.callback(self._release_views)
            for capture in self.loss_terms.captures:
                undo.callback(capture.remove)
            undo.callback(self._unwrap)

    def _unwrap(self) -> None:
        for name in self._original:
            vars(self.trainer.strategy).pop(name, None)
        vars(self.trainer.strategy).update(self._patched_before)

    def _release_views(self) -> None:
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
        """Hand a record to every observer; an observer that fails is reported once and never stops training."""
        if not self.active or self._replaying or not self.trainer.is_global_zero:
            return
        record = Record(
            method=method.name or type(method).__name__,
            name=name,
            value=value,
            step=logging_step(self.trainer),
            epoch=self.trainer.current_epoch,
            within_step=self._within_step,
        )
        try:
            self.manager.hook.record(record=record)
        except Exception as error:
            if not self._warned_observer:
                self._warned_observer = True
                rank_zero_warn(
                    f"An observer failed on the record {record.key!r}: {type(error).__name__}: {error}. Training goes "
                    "on; further failures of observers are not reported."
                )

    # -- the wrapped strategy ------------------------------------------------------------------------------------------

    def _process_dataloader(self, loader: Any) -> Any:
        loader = self._original["process_dataloader"](loader)
        if self.trainer.training:
            if any(view.started for view in self.views):
                # `reload_dataloaders_every_n_epochs`: the loaders of earlier epochs are not iterated any more.
                self._release_views()
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
        if plan.recompute and not skips_backward(self.trainer):
            device = self.trainer.strategy.root_device
            if not self.window.batches:
                self.window.handed_out_buffers = hands_out_buffers(self.trainer)
            last = self.window.batches[-1].module_state if self.window.batches else None
            untrained = UntrainedParameters(self.module, self.trainer.optimizers, last.untrained if last else None)
            self.window.batches.append(MicroBatch.take(self.module, device, arguments, keywords, indices, untrained))
        # The last micro-batch's step runs inside the optimizer's, which goes on after it.
        outer, self._within_step = self._within_step, True
        try:
            return self._with_terms(arguments, keywords, plan, indices, replaying=False)
        finally:
            self._within_step = outer

    def _replayed_step(self, batch: MicroBatch, plan: UpdatePlan, objective: Objective | None) -> Any:
        arguments, keywords = batch.fresh_call()
        return self._with_terms(arguments, keywords, plan, batch.indices, replaying=True, objective=objective)

    def _with_terms(
        self,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        plan: UpdatePlan,
        indices: Tensor | None,
        replaying: bool,
        objective: Objective | None = None,
    ) -> Any:
        training_step = partial(self._original["training_step"], *arguments, **keywords)
        if not self.loss_terms and objective is None:
            return training_step()
        batch = arguments[0] if arguments else next(iter(keywords.values()))

        def make_step(loss: Tensor) -> LossStep:
            return LossStep(self.trainer, self.module, batch, loss, plan.index, replaying, indices, training_step)

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
                self._transform(optimizer, plan)
            return result

        self._within_step = True
        try:
            output = self._original["optimizer_step"](optimizer, closure_then_hooks, *rest, **keywords)
            skipped = scaler is not None and scaler.get_scale() < scale
            self.manager.hook.after_update(
                step=UpdateStep(self.trainer, self.module, optimizer, plan.index, skipped=skipped)
            )
            return output
        finally:
            self._within_step = False
            # As after the reduction that every update ends with in a plain run.
            hand_out_buffers(self.trainer, True)
            self.window.clear()

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
                self._names(),
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

    def _transform(self, optimizer: Optimizer, plan: UpdatePlan) -> None:
        def recompute(sync: bool, objective: Objective | None) -> None:
            self._replaying = True
            again = partial(self._replayed_step, plan=plan, objective=objective)
            try:
                replay(self.trainer, self.window, again, optimizer, sync=sync)
            finally:
                self._replaying = False

        step = GradientStep(
            optimizer,
            self.module,
            index=plan.index,
            recompute=recompute if plan.recompute else None,
            scaler=gradient_scaler(self.trainer),
            synchronised=not plan.local_gradients,
            replicas=self._parallelism.replicas,
            aliased=self._parallelism.aliased,
            shard_group=self._parallelism.shard_group,
        )
        try:
            self.manager.hook.transform_gradients(step=step)
        except StopIteration as error:
            # Lightning would take it for the end of the epoch and go on as if nothing had happened.
            raise StepError(f"a transform_gradients hook of {self._names()} raised StopIteration") from error
        step.synchronise()

    # -- checks --------------------------------------------------------------------------------------------------------

    def _register(self, method: Method, name: str) -> None:
        try:
            self.manager.register(method, name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            known = [hook for hook in vars(AttachmentHooks) if not hook.startswith("_")]
            unknown = [
                attribute
                for attribute in dir(type(method))
                if self.manager.parse_hookimpl_opts(method, attribute) is not None and attribute not in known
            ]
            advice = suggestion(unknown[0], known) if unknown else f"Hooks: {', '.join(known)}."
            who = type(method).__name__
            raise HookError(f"{who} implements a hook that does not fit: {error}. {advice}") from error

    def _takes_part_in_steps(self) -> bool:
        return any(getattr(self.manager.hook, hook).get_hookimpls() for hook in _STEP_HOOKS)

    def _names(self) -> str:
        using = [
            type(method).__name__
            for method in self.methods
            if any(caller.name in _STEP_HOOKS for caller in self.manager.get_hookcallers(method) or ())
        ]
        return " and ".join(using)

    def _check_settings(self) -> None:
        strategy = type(self.trainer.strategy).__name__
        for method in self.methods:
            if strategy in method.unsupported_strategies:
                raise UnsupportedSettingError(
                    type(method).__name__,
                    f"strategy={strategy}",
                    method.unsupported_strategies[strategy],
                    "use another strategy, or leave the method out",
                )
        if not self._takes_part_in_steps():
            return
        if not self.module.automatic_optimization:
            raise UnsupportedSettingError(
                self._names(),
                f"manual optimization ({type(self.module).__name__}.automatic_optimization is False)",
                "the module steps its optimizers itself, so there is no moment at which the gradients of a whole "
                "batch are there and the optimizer has not run",
                "let Lightning optimize (automatic_optimization = True and a training_step that returns the loss), "
                "or call the method's pure function from your own loop",
            )
        check_strategy(self.trainer, self._names())
        if "dataloader_iter" in inspect.signature(self.module.training_step).parameters:
            raise UnsupportedSettingError(
                self._names(),
                "training_step(self, dataloader_iter)",
                "batches drawn by the module itself cannot be gone through a second time",
                "take `batch` and let Lightning draw it",
            )
