"""Measures of sharpness and curvature while a module trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from thunderstone import ArgumentError, Method, Phase, Table
from thunderstone.arguments import finite, one_of, whole
from thunderstone.isolation import silenced
from thunderstone_sharpness.measures.adaptive import NORMS, adaptive_sharpness, average_sharpness
from thunderstone_sharpness.measures.battery import Clock, Outcome, Reading, Task, run_battery
from thunderstone_sharpness.measures.eigenvalues import EigenResult, hessian_eigenvalues
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.evaluation import Loss, evaluation
from thunderstone_sharpness.measures.hessian import hessian_trace
from thunderstone_sharpness.measures.landscape import loss_landscape
from thunderstone_sharpness.measures.logits import check_where, logits_of
from thunderstone_sharpness.measures.probe import Probe, share_buffers
from thunderstone_sharpness.measures.step_loss import LossArgument, check_loss, module_loss
from thunderstone_sharpness.measures.stillness import fixed_randomness, unchanged

MEASURES = (
    "average_sharpness",
    "worst_case_sharpness",
    "hessian_trace",
    "hessian_eigenvalues",
    "landscape",
    "eigen_landscape",
)
_SHARDED = "it holds a part of the weights on each process, and the measures need them whole"


class SharpnessMonitor(Method):
    """Measures the sharpness of the loss around the weights, every few epochs or when training ends.

    Nothing about the training changes: weights, gradients, statistics, modes and random states are the same bits after
    a measurement. Measures are taken in evaluation mode, in the precision of the weights, the cheap ones first; what
    does not fit into the time budget is listed as left out in the table ``measures``. Under data parallelism every
    process measures the same examples on the same module, and none waits for another within a measure. Andriushchenko
    et al. 2023, arXiv 2302.07011, who find that sharpness does not correlate well with generalisation: diagnostics, not
    goals.

    Args:
        measures: Which to take: ``"average_sharpness"``, ``"worst_case_sharpness"``, ``"hessian_trace"``,
            ``"hessian_eigenvalues"`` (with 2 / learning rate beside them), ``"landscape"`` (along random directions)
            and ``"eigen_landscape"`` (along the directions of largest curvature).
        every_n_epochs: Measure after every n-th epoch, and when training ends; 0 measures at the end only.
        budget: Seconds a measurement may take; None is no limit. Read before each evaluation of the loss, under data
            parallelism between measures.
        examples: How many training examples to measure on.
        batch_size: Examples in a batch, the m of m-sharpness: worst cases are sought for each batch by itself.
        rho: Radius of the worst case, above 0.
        norm: Norm of the worst case, ``"linf"`` or ``"l2"``.
        steps: Gradient steps of the worst case.
        average_rho: Standard deviation of the average case relative to each weight, above 0.
        draws: Perturbations of the average case, each used with both signs.
        probes: Random vectors of the Hessian's trace.
        k: Number of eigenvalues.
        dimensions: 1 draws landscapes on a line, 2 on a plane.
        points: Points of a landscape along each direction, odd.
        normalise_logits: Take the sharpness with logits centred and divided by their norm: True for the output of the
            module's own forward, or the name of the submodule that gives the logits.
        loss: What is measured: a function ``(module, batch) -> mean loss``, the name of a method of the module that
            takes a batch, or ``"package.module:function"``. None is the module's `training_step`, its logging silenced.
        dataset: A map-style dataset (unaugmented, in the paper) whose first examples are used, a function that returns
            one, or ``"package.module:name"`` of either. None is the training data as the loader yields it; where that
            has no indices, or the module has transfer hooks of its own, copies of the first training batches.

    Raises:
        ArgumentError: An argument is out of range.
    """

    name: ClassVar[str] = "sharpness_monitor"
    unsupported_strategies: ClassVar[dict[str, str]] = {
        "FSDPStrategy": _SHARDED,
        "ModelParallelStrategy": _SHARDED,
        "DeepSpeedStrategy": _SHARDED,
    }

    def __init__(
        self,
        measures: Sequence[str] = MEASURES,
        every_n_epochs: int = 0,
        budget: float | None = 60.0,
        examples: int = 1024,
        batch_size: int = 128,
        rho: float = 0.002,
        norm: str = "linf",
        steps: int = 20,
        average_rho: float = 0.1,
        draws: int = 10,
        probes: int = 30,
        k: int = 1,
        dimensions: int = 1,
        points: int = 21,
        normalise_logits: bool | str = False,
        loss: LossArgument = None,
        dataset: Any = None,
    ) -> None:
        who = type(self).__name__
        if isinstance(measures, str) or not measures:
            hint = f"pass a list of some of {', '.join(MEASURES)}"
            raise ArgumentError(who, "measures", measures, "it must be a list that is not empty", hint)
        self.measures = [one_of(who, "measures", measure, MEASURES) for measure in measures]
        self.every_n_epochs = whole(who, "every_n_epochs", every_n_epochs, "0 measures at the end only", minimum=0)
        self.budget = None if budget is None else finite(who, "budget", budget, "None is no limit", above=0)
        self.examples = whole(who, "examples", examples, "the paper uses 1024")
        self.batch_size = whole(who, "batch_size", batch_size, "the paper uses 128")
        self.rho = finite(who, "rho", rho, "for ResNet-18 the paper uses 0.001 to 0.008 (l2: 0.25 to 2)", above=0)
        self.norm = one_of(who, "norm", norm, NORMS)
        self.steps = whole(who, "steps", steps, "the paper uses 20")
        self.average_rho = finite(who, "average_rho", average_rho, "the paper uses 0.05 to 0.4", above=0)
        self.draws = whole(who, "draws", draws, "10 draws are 20 perturbations")
        self.probes = whole(who, "probes", probes, "30 give a standard error of a few per cent on most networks")
        self.k = whole(who, "k", k, "1 is the largest eigenvalue alone")
        self.dimensions = int(one_of(who, "dimensions", str(dimensions), ("1", "2")))
        self.points = whole(who, "points", points, "21 points are 10 to either side", minimum=3)
        if self.points % 2 == 0:
            raise ArgumentError(who, "points", points, "the weights must be a point", "choose an odd number")
        self.normalise_logits = check_where(who, normalise_logits)
        check_loss(who, "loss", loss)
        self.loss = loss
        self.dataset = dataset
        self.readings: list[Reading] = []
        self._probe = Probe(who, self.examples, self.batch_size, dataset)
        self._measured_epoch: int | None = None

    # -- Lightning's side ----------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Looked up now: a name that does not exist should not wait for the end of training.
        module_loss(type(self).__name__, "loss", self.loss, pl_module)
        logits_of(type(self).__name__, pl_module, self.normalise_logits)
        self._measured_epoch = None
        self._probe.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.open(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._probe.offer(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.seal()
        regular = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if regular or _is_last(trainer):
            self.measure(trainer, pl_module)
            self._measured_epoch = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Training that was stopped by a callback in its last epoch. `current_epoch` counts the epochs done by now.
        if self._measured_epoch is None or self._measured_epoch != trainer.current_epoch - 1:
            self.measure(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._probe.close()

    def state_dict(self) -> dict[str, Any]:
        return self._probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._probe.load_state_dict(state_dict)

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measure(self, trainer: Trainer, module: LightningModule) -> list[Reading]:
        """Take the measures now, report them, and keep them in `readings`; call on every process.

        What cannot be measured (the loss is NaN, an operation has no second derivative) is warned of and listed, and
        training goes on; errors of the module's own code are raised.
        """
        several = trainer.world_size > 1
        agree = (lambda late: trainer.strategy.reduce_boolean_decision(late, all=False)) if several else None
        clock = Clock(self.budget, agree)
        going_on: list[Phase] = []
        loss = _counted(clock.limit(module_loss(type(self).__name__, "loss", self.loss, module)), going_on)
        with silenced(trainer, module), unchanged(module), trainer.precision_plugin.forward_context():
            # Also for the hooks that transfer the batches: they may draw, and should draw alike every time.
            fixed_randomness(trainer.strategy.root_device)
            share_buffers(trainer, module)
            self.readings = run_battery(self._tasks(trainer, module, loss, going_on), clock)
        self._report(trainer)
        return self.readings

    def _tasks(self, trainer: Trainer, module: LightningModule, loss: Loss, going_on: list[Phase]) -> list[Task]:
        batches: list[Any] = []
        eigen: list[EigenResult] = []

        def data() -> list[Any]:
            if not batches:
                batches.extend(self._probe.batches(trainer, module))
            return batches

        def eigenvalues(count: int) -> EigenResult:
            if not eigen or len(eigen[0].values) < count:
                eigen[:] = [hessian_eigenvalues(module, data(), loss, k=count)]
            return eigen[0]

        def mean_loss() -> Outcome:
            with evaluation("loss", module, data(), loss) as here:
                return {"loss": here.mean()}

        def average() -> Outcome:
            rho, logits = self.average_rho, self.normalise_logits
            found = average_sharpness(module, data(), loss, rho=rho, draws=self.draws, normalise_logits=logits)
            return {"average_sharpness": found}

        def worst_case() -> Outcome:
            found = adaptive_sharpness(
                module,
                data(),
                loss,
                rho=self.rho,
                norm=self.norm,
                steps=self.steps,
                normalise_logits=self.normalise_logits,
            )
            return {"worst_case_sharpness": found}

        def trace() -> Outcome:
            return {"hessian_trace": hessian_trace(module, data(), loss, draws=self.probes)}

        def spectrum() -> Outcome:
            # As many as any of the measures needs, so that Lanczos runs once.
            more = self.dimensions if "eigen_landscape" in self.measures else 0
            found = eigenvalues(max(self.k, more))
            outcome = {}
            for number in range(self.k):
                outcome[f"eigenvalue_{number + 1}"] = found.values[number]
                outcome[f"eigenvalue_{number + 1}_residual"] = found.residuals[number]
            return outcome | _stability_limit(trainer)

        def landscape() -> Outcome:
            dimensions, points = self.dimensions, self.points
            found = loss_landscape(module, data(), loss, dimensions=dimensions, points=points)
            return {"landscape": found.figure()}

        def eigen_landscape() -> Outcome:
            dimensions, points = self.dimensions, self.points
            known = eigenvalues(dimensions)
            found = loss_landscape(
                module, data(), loss, directions="eigenvectors", dimensions=dimensions, points=points, eigen=known
            )
            return {"eigen_landscape": found.figure()}

        # In forward passes: a gradient is about three, a Hessian-vector product about six, Lanczos 40 products.
        surface = float(self.points**self.dimensions)
        known = 0.0 if "hessian_eigenvalues" in self.measures else 240.0
        heights = self.points**self.dimensions + 1
        every = {
            "average_sharpness": Task("average_sharpness", 2.0 * self.draws, average, evaluations=2 * self.draws + 1),
            "worst_case_sharpness": Task(
                "worst_case_sharpness", 3.0 * self.steps, worst_case, evaluations=self.steps + 2
            ),
            "hessian_trace": Task("hessian_trace", 6.0 * self.probes, trace, evaluations=self.probes),
            "hessian_eigenvalues": Task("hessian_eigenvalues", 240.0, spectrum),
            "landscape": Task("landscape", surface, landscape, evaluations=heights),
            "eigen_landscape": Task(
                "eigen_landscape",
                max(surface + known, 241.0),
                eigen_landscape,
                evaluations=heights if known == 0.0 else None,
            ),
        }
        tasks = [
            Task("loss", 0.0, mean_loss, needed=True, evaluations=1),
            *(every[name] for name in dict.fromkeys(self.measures)),
        ]
        return [replace(task, take=partial(self._shown, task, data, going_on)) for task in tasks]

    def _shown(self, task: Task, data: Callable[[], list[Any]], going_on: list[Phase]) -> Outcome:
        """Take a measure, and show meanwhile how many losses of batches it has asked for."""
        total = None if task.evaluations is None else task.evaluations * len(data())
        with self.progress(task.name, total) as phase:
            going_on[:] = [phase]
            return task.take()

    def _report(self, trainer: Trainer) -> None:
        rows: list[list[Any]] = []
        for reading in self.readings:
            if reading.failed:
                rank_zero_warn(f"SharpnessMonitor: {reading.name} was not measured; {reading.status}")
            elif reading.status != "measured":
                rank_zero_info(f"SharpnessMonitor: {reading.name} was not measured; {reading.status}")
            numbers = 0
            for name, value in reading.outcome.items():
                if not isinstance(value, (float, Estimate)):
                    self.record(name, value)
                    continue
                self.record(name, float(value))
                error = value.standard_error if isinstance(value, Estimate) else None
                if error is not None:
                    self.record(f"{name}_error", error)
                rows.append([name, float(value), error, reading.status, reading.seconds])
                numbers += 1
            if not numbers:
                rows.append([reading.name, None, None, reading.status, reading.seconds])
        self.record("measures", Table(["measure", "value", "error", "status", "seconds"], rows))


def _counted(loss: Loss, going_on: list[Phase]) -> Loss:
    def counted(module: nn.Module, batch: Any) -> Tensor:
        value = loss(module, batch)
        for phase in going_on:
            phase.advance()
        return value

    return counted


def _is_last(trainer: Trainer) -> bool:
    """Whether the epoch that ends is known to be the last one."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs
    return by_epochs or (steps != -1 and trainer.global_step >= steps) or trainer.should_stop


def _stability_limit(trainer: Trainer) -> dict[str, float]:
    """2 / learning rate, of the largest rate there is: where gradient descent on a quadratic begins to diverge."""
    rates = [
        float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups if "lr" in group
    ]
    return {"two_over_learning_rate": 2 / max(rates)} if rates and max(rates) > 0 else {}
