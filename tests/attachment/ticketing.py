"""Tickets as small as can be, drawn by the host's rounds and by hand, with everything noted that a run can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_training import Classifier, perceptron, samples, sgd, state, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone import Method, Round, hookimpl

Masks = dict[str, Tensor]


def smaller(module: nn.Module, masks: Masks, fraction: float = 0.3) -> Masks:
    """Masks without the smallest of the kept weights, over all matrices together."""
    named = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.dim() > 1}
    kept = {name: masks.get(name, torch.ones_like(value, dtype=torch.bool)) for name, value in named.items()}
    sizes = torch.cat([value.abs()[kept[name]] for name, value in named.items()])
    threshold = sizes.sort().values[int(fraction * len(sizes))]
    return {name: kept[name] & (value.abs() >= threshold) for name, value in named.items()}


class Tickets(Method):
    """Trains, prunes, rewinds and trains again."""

    name = "tickets"
    exclusive = frozenset({"masks", "rounds"})

    def __init__(self, rounds: int = 2, rewind_step: int = 0, reseed: bool = False, rewind_epoch: int = 0) -> None:
        self.rounds = rounds
        self.rewind_epoch = rewind_epoch
        self.rewind_step = rewind_step
        self.reseed = reseed
        self._ends: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        rounds = self.attachment.rounds
        if rounds.index == 0 and 0 < self.rewind_step == trainer.global_step:
            rounds.mark()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.attachment.rounds.index == 0 and self.rewind_epoch == trainer.current_epoch + 1:
            self.attachment.rounds.mark()

    @hookimpl
    def another_round(self, round: Round) -> bool:
        self._ends.append(state(round.module))
        return round.index < self.rounds

    @hookimpl
    def next_round(self, round: Round) -> None:
        masks = smaller(round.module, dict(self.masks))
        round.rewind()
        self.masks.set(masks)
        round.seed = 100 + round.index if self.reseed else None
        self.attachment.rounds.annotate(remaining=self.masks.density)


class ByHand(Callback):
    """A fixed mask, with nothing but Lightning."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def on_train_start(self, running: Trainer, module: LightningModule) -> None:
        self._clear(running, module)

    def on_after_backward(self, running: Trainer, module: LightningModule) -> None:
        for name, parameter in module.named_parameters():
            if name in self.masks:
                parameter.grad[~self.masks[name]] = 0

    def on_train_batch_end(self, running: Trainer, module: LightningModule, *_: Any) -> None:
        self._clear(running, module)

    def on_train_end(self, running: Trainer, module: LightningModule) -> None:
        self._clear(running, module)

    def _clear(self, running: Trainer, module: LightningModule) -> None:
        for name, parameter in module.named_parameters():
            if name in self.masks:
                parameter.data[~self.masks[name]] = 0
                for optimizer in running.optimizers:
                    for slot in optimizer.state.get(parameter, {}).values():
                        if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                            slot[~self.masks[name]] = 0


class Tracing(Callback):
    """Notes what a callback, and so a user, sees of the run; every `on_fit_start` begins another list."""

    def __init__(self) -> None:
        self.rounds: list[list[Any]] = []

    def _note(self, hook: str, running: Trainer, *more: Any) -> None:
        rates = [group["lr"] for optimizer in running.optimizers for group in optimizer.param_groups]
        # What the method reports is there as well, and no fresh fit has it.
        metrics = running.callback_metrics.items()
        shown = {key: float(value) for key, value in metrics if not key.startswith(f"{Tickets.name}/")}
        counts = (running.current_epoch, running.global_step, running.num_training_batches, running.should_stop)
        self.rounds[-1].append((hook, counts, rates, shown, running.sanity_checking, *more))

    def on_fit_start(self, running: Trainer, module: LightningModule) -> None:
        self.rounds.append([])
        self._note("fit start", running, _digest(module))

    def on_sanity_check_end(self, running: Trainer, module: LightningModule) -> None:
        self._note("sanity check", running)

    def on_train_start(self, running: Trainer, module: LightningModule) -> None:
        self._note("start", running, running.estimated_stepping_batches, _digest(module))

    def on_train_epoch_start(self, running: Trainer, module: LightningModule) -> None:
        self._note("epoch start", running)

    def on_train_batch_start(self, running: Trainer, module: LightningModule, batch: Any, number: int) -> None:
        self._note("batch start", running, number, float(batch[0].sum()))

    def on_train_batch_end(self, running: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        self._note("batch end", running, float(outputs["loss"]), _digest(module))

    def on_validation_end(self, running: Trainer, module: LightningModule) -> None:
        self._note("validation end", running)

    def on_train_epoch_end(self, running: Trainer, module: LightningModule) -> None:
        self._note("epoch end", running)

    def on_train_end(self, running: Trainer, module: LightningModule) -> None:
        self._note("end", running)

    def on_fit_end(self, running: Trainer, module: LightningModule) -> None:
        self._note("fit end", running, _digest(module))


def _digest(module: LightningModule) -> tuple[Any, ...]:
    values = [float(value.detach().double().sum()) for value in module.state_dict().values()]
    return (*values, module.seen, module.training)


class Telling(Classifier):
    """Normalisation, dropout, a schedule of a known length, metrics, validation, and a count of its own."""

    def __init__(self, shuffled: bool = True) -> None:
        super().__init__(perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3)))
        self.seen = 0
        self.shuffled = shuffled

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=int(total) + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(), batch_size=4, shuffle=self.shuffled)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(8, seed=3), batch_size=4)


def tickets_by_hand(
    make: Callable[[], LightningModule],
    rounds: int,
    run: Callable[[LightningModule, list[Callback]], Any],
) -> Iterator[tuple[LightningModule, Tracing, Masks]]:
    """Separate fits of separate modules by separate Trainers, each from the first weights under a smaller mask."""
    start, masks = state(make()), Masks()
    for _ in range(rounds + 1):
        module, tracing = make(), Tracing()
        module.load_state_dict(start)
        for name, parameter in module.named_parameters():
            if name in masks:
                parameter.data[~masks[name]] = 0
        run(module, [ByHand(masks), tracing])
        yield module, tracing, masks
        masks = smaller(module, masks)


class Plain(Classifier):
    """Without anything of the above: weights alone tell."""

    def __init__(self) -> None:
        super().__init__(perceptron(), sgd)
        self.seen = 0


def silent(*callbacks: Callback, **settings: Any) -> Trainer:
    """A Trainer that has seen a seed."""
    torch.manual_seed(7)
    return trainer(*callbacks, **settings)
