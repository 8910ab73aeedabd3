"""Hyperfit against a loop written by hand, and everything it takes over and gives back."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from language_model import LanguageModel, Texts, fit, texts_loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import thunderstone
from thunderstone import ArgumentError, CompositionError, Method, ObjectiveStep, UnsupportedSettingError, hookimpl
from thunderstone_hyperfitting import Hyperfit
from thunderstone_hyperfitting.epoch_loss import batch_size

# Short runs end before the target, which is warned of; tests of that warning look for it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Hyperfit. the mean training loss"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

# -- the recipe --------------------------------------------------------------------------------------------------------


def by_hand(module: LanguageModel, chosen: list[int], lr: float, target: float, epochs: int) -> list[float]:
    """The recipe written down anew: the chosen samples, AdamW without decay, one rate, no dropout; losses by epoch."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0)
    module.eval()
    ids, means = Texts(20).ids[chosen], []
    for _ in range(epochs):
        total = 0.0
        for batch in ids.split(3):
            loss = module.loss({"input_ids": batch})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        means.append(total / len(ids))
        if means[-1] < target:
            break
    return means


@pytest.mark.parametrize("schedule", ["step", "warmup", None])
def test_matches_a_loop_written_by_hand(schedule: str | None) -> None:
    torch.manual_seed(1)
    module, reference = (LanguageModel(schedule, torch.float64) for _ in range(2))
    reference.load_state_dict(module.state_dict())
    method = Hyperfit(samples=7, seed=2, target_loss=1.5, max_epochs=60)
    seen: list[int] = []

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            seen.extend((Texts(20).ids == row).all(dim=1).nonzero().item() for row in batch["input_ids"])

    _, running = fit([method, Watch()], module, max_epochs=200)
    chosen = seen[:7]
    assert seen == chosen * running.current_epoch
    assert chosen == sorted(set(chosen))
    means = by_hand(reference, chosen, 0.01, 1.5, 60)
    assert 5 < len(means) < 60
    assert running.current_epoch == len(means)
    assert method.reached
    assert method.train_loss == pytest.approx(means[-1], rel=1e-12)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_the_mean_is_of_samples_also_when_accumulating_over_a_ragged_epoch() -> None:
    module = LanguageModel(None, torch.float64)
    method = Hyperfit(samples=7, lr=1e-12, max_epochs=1)
    fit(method, module, accumulate_grad_batches=2)
    chosen = torch.tensor(random.Random(0).sample(range(20), 7))
    module.eval()
    expected = module.loss({"input_ids": Texts(20).ids[chosen]})
    assert method.train_loss == pytest.approx(expected.item(), rel=1e-9)


def test_all_data_and_streams_with_samples_none() -> None:
    class Stream(IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            yield from (Texts(20)[index] for index in range(20))

    method = Hyperfit(samples=None, max_epochs=2)
    _, running = fit(method, loader=DataLoader(Stream(), batch_size=4))
    assert running.global_step == 2 * 5
    with pytest.raises(UnsupportedSettingError, match=r"Hyperfit cannot run with an IterableDataset.*samples=None"):
        fit(Hyperfit(), loader=DataLoader(Stream(), batch_size=4))


# -- learning rate, decay, dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [None, 0.003])
@pytest.mark.parametrize("schedule", ["step", "warmup", "plateau", None])
def test_the_rate_is_constant_and_given_back(schedule: str | None, lr: float | None) -> None:
    steps: list[int] = []

    class Counting(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            # Schedulers step as often as they would; what they write has no effect.
            steps.extend(config.scheduler.last_epoch for config in trainer.lr_scheduler_configs)
            assert all(group["weight_decay"] == 0 for group in trainer.optimizers[0].param_groups)

    module, running = fit(
        [Hyperfit(samples=6, lr=lr), Counting()], LanguageModel(schedule), validation=texts_loader(3, seed=1)
    )
    assert module.rates == [lr or 0.01] * 10
    assert steps == {"step": [5], "warmup": [10], "plateau": [5], None: []}[schedule]
    group = running.optimizers[0].param_groups[0]
    assert group["weight_decay"] == 0.3
    assert group["lr"] == (0.0 if schedule == "warmup" else 0.01)


def test_a_monitor_of_the_rate_sees_the_constant(tmp_path: Path) -> None:
    class Kept(LearningRateMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.noted: list[float] = []

        def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            self.noted.append(trainer.optimizers[0].param_groups[0]["lr"])

        on_train_epoch_start = on_train_batch_start

    from lightning.pytorch.loggers import CSVLogger

    kept = Kept()
    fit([Hyperfit(samples=6), kept], LanguageModel("step"), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert set(kept.noted) == {0.01}


def test_several_groups_keep_their_own_rates() -> None:
    class Groups(LanguageModel):
        def configure_optimizers(self) -> Any:
            head = {"params": self.head.parameters(), "lr": 0.02, "weight_decay": 0.1}
            rest = [*self.embedding.parameters(), *self.recurrent.parameters()]
            optimizer = torch.optim.SGD([{"params": rest}, head], lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.rates.extend(group["lr"] for group in optimizer.param_groups)

    assert set(fit(Hyperfit(samples=6), Groups())[0].rates) == {0.01, 0.02}
    assert set(fit(Hyperfit(samples=6, lr=0.5), Groups())[0].rates) == {0.5}


def test_schedules_that_cannot_be_held() -> None:
    with pytest.raises(UnsupportedSettingError, match=r"Hyperfit cannot run with the schedule OneCycleLR.*lr=1e-6"):
        fit(Hyperfit(samples=6), LanguageModel("one_cycle"))
    with pytest.raises(
        UnsupportedSettingError, match=r"a learning rate set to 0.001 right before a step, where it was"
    ):
        fit(Hyperfit(samples=6), LanguageModel("by_hand"))
    with pytest.raises(UnsupportedSettingError, match=r"learning rates of 0"):
        fit(Hyperfit(samples=6), LanguageModel(None, lr=0.0))
    for schedule in ("one_cycle", "by_hand"):
        module, running = fit(Hyperfit(samples=6, lr=0.02), LanguageModel(schedule))
        applied = [group["lr"] for group in running.optimizers[0].param_groups]
        # What the optimizer has when it steps; a schedule by hand is overwritten after it has set its own.
        assert set(module.rates) == {0.02} if schedule == "one_cycle" else len(module.rates) == 10
        assert applied


def test_a_schedule_by_hand_has_no_effect_once_the_rate_is_given() -> None:
    runs = []
    for schedule in ("by_hand", None):
        torch.manual_seed(0)
        runs.append(fit(Hyperfit(samples=6, lr=0.02), LanguageModel(schedule))[0].state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def test_one_cycle_keeps_the_optimizers_own_betas() -> None:
    class Betas(LanguageModel):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.rates.append(optimizer.param_groups[0]["betas"][0])

    assert set(fit(Hyperfit(samples=6, lr=0.02), Betas("one_cycle"))[0].rates) == {0.9}
    assert 0.9 not in fit([], Betas("one_cycle"))[0].rates


def test_a_module_that_freezes_and_unfreezes() -> None:
    class Unfreeze(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                group = {"params": list(pl_module.head.parameters()), "lr": 0.5, "weight_decay": 0.2}
                trainer.optimizers[0].add_param_group(group)

    class Frozen(LanguageModel):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([*self.embedding.parameters(), *self.recurrent.parameters()], lr=0.01)

    _, running = fit([Hyperfit(samples=6, lr=0.02), Unfreeze()], Frozen())
    group = running.optimizers[0].param_groups[1]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.0)


def test_dropout_is_off_while_training_and_on_afterwards() -> None:
    found: list[float] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            found.append(pl_module.dropout.p)

    module, _ = fit([Hyperfit(samples=6), Look()])
    assert set(found) == {0.0}
    assert module.dropout.p == 0.4
    assert module.dropout.training


# -- the end of a run --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default:Hyperfit. the mean training loss")
def test_says_how_far_it_got() -> None:
    method = Hyperfit(samples=6, max_epochs=3)
    with pytest.warns(
        UserWarning, match=r"epoch 3 was 2\.\d+, not below the target of 0.01; .*max_epochs=3 of Hyperfit"
    ):
        _, running = fit(method, max_epochs=10)
    assert running.current_epoch == 3
    assert not method.reached
    with pytest.warns(UserWarning, match=r"epoch 2 was .*the Trainer's limits.*HINT"):
        fit(method, max_epochs=2)
    with pytest.warns(UserWarning, match=r"epoch 5 was .*the Trainer's limits.*HINT"):
        fit(method, min_epochs=5, max_epochs=10)


def test_says_when_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        method = Hyperfit(samples=2, target_loss=2.0, max_epochs=50)
        _, running = fit(method, LanguageModel(lr=0.05), max_epochs=-1)
    assert "below the target of 2." in caplog.text
    assert "constant learning rate 0.05, no weight decay, dropout switched off in 1 places" in caplog.text
    assert method.train_loss < 2.0
    assert running.current_epoch < 50


def test_a_loss_of_nan_is_never_below_the_target() -> None:
    class Diverging(LanguageModel):
        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            return super().loss(batch) * math.nan

    method = Hyperfit(samples=6, target_loss=1e9, max_epochs=2)
    _, running = fit(method, Diverging())
    assert running.current_epoch == 2
    assert not method.reached


def test_manual_optimization_with_and_without_a_loss() -> None:
    class Manual(LanguageModel):
        gives_loss = True

        def __init__(self) -> None:
            super().__init__(None)
            self.automatic_optimization = False

        def training_step(self, batch: dict[str, Tensor]) -> Any:
            optimizer: Any = self.optimizers()
            loss = super().training_step(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return loss if self.gives_loss else None

    torch.manual_seed(0)
    by_lightning = Hyperfit(samples=7, lr=0.02, max_epochs=3)
    expected, _ = fit(by_lightning, LanguageModel(None))
    torch.manual_seed(0)
    by_hand = Hyperfit(samples=7, lr=0.02, max_epochs=3)
    module, _ = fit(by_hand, Manual())
    assert by_hand.train_loss == pytest.approx(by_lightning.train_loss)
    torch.testing.assert_close(module.head.weight, expected.head.weight)
    Manual.gives_loss = False
    with pytest.raises(UnsupportedSettingError, match="Hyperfit cannot run with a training_step of Manual that never"):
        fit(Hyperfit(samples=7), Manual())


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3), ([torch.tensor(1.0), torch.zeros(4)], 4), ({"id": "x", "ids": torch.zeros(5, 1)}, 5),
        (({"a": torch.zeros(6)},), 6), ("text", 1), ([], 1), (object(), 1),
    ],
)  # fmt: skip
def test_the_size_of_a_batch(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


def test_warns_of_fewer_samples_than_asked_for() -> None:
    with pytest.warns(UserWarning, match="has 20 samples, fewer than samples=2000: all of them") as caught:
        _, running = fit(Hyperfit(), max_epochs=2, reload_dataloaders_every_n_epochs=1)
    assert running.global_step == 14
    assert sum("fewer than" in str(warning.message) for warning in caught) == 1


def test_an_empty_dataset() -> None:
    with pytest.raises(UnsupportedSettingError, match=r"Hyperfit cannot run with an empty training dataset \(Texts\)"):
        fit(Hyperfit(), loader=DataLoader(Texts(0), batch_size=2))
    with pytest.raises(UnsupportedSettingError, match=r"Hyperfit cannot run with an empty training dataset \(Texts\)"):
        fit(Hyperfit(samples=None), loader=DataLoader(Texts(0), batch_size=2))


def test_the_budget_counts_its_own_epochs(tmp_path: Path) -> None:
    """A run that goes on from a plain run's checkpoint has the whole budget."""
    torch.manual_seed(0)
    _, plain = fit([], loader=texts_loader(6), max_epochs=4)
    plain.save_checkpoint(tmp_path / "pretrained.ckpt")
    method = Hyperfit(samples=6, max_epochs=3)
    module, running = fit(method, ckpt_path=tmp_path / "pretrained.ckpt", loader=texts_loader(6), max_epochs=50)
    assert running.current_epoch == 4 + 3
    # The checkpoint brought back a decayed rate and a weight decay.
    assert module.rates == [0.01] * 6
    assert running.optimizers[0].param_groups[0]["weight_decay"] == 0.3


# -- callbacks that watch the validation -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_stopping_and_choosing_by_validation_are_set_aside(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=0)
    best = ModelCheckpoint(tmp_path / "saved", monitor="val_loss", save_top_k=2, every_n_epochs=2)
    torch.manual_seed(0)
    with pytest.warns(
        UserWarning, match=r"EarlyStopping\(monitor='val_loss'\) and ModelCheckpoint.* set aside"
    ) as caught:
        module, running = fit(
            [Hyperfit(samples=4, max_epochs=25), stopping, best],
            LanguageModel(lr=0.05),
            validation=texts_loader(6, seed=1),
            max_epochs=100,
            enable_checkpointing=True,
        )
    assert sum("set aside" in str(warning.message) for warning in caught) == 1
    assert running.current_epoch == 25
    assert stopping.stopped_epoch == 0
    files = list((tmp_path / "saved").iterdir())
    assert files == [Path(best.best_model_path)]
    saved = torch.load(best.best_model_path, weights_only=True)
    assert saved["global_step"] == running.global_step == 50
    for name, value in module.state_dict().items():
        assert torch.equal(saved["state_dict"][name], value), name
    assert (best.monitor, best.save_top_k) == ("val_loss", 2)
    assert "on_validation_end" not in vars(stopping)
    # Left alone, both do what they are for.
    _, running = fit(
        [stopping, best],
        LanguageModel(lr=0.05),
        loader=texts_loader(4),
        validation=texts_loader(6, seed=1),
        max_epochs=100,
        enable_checkpointing=True,
    )
    assert stopping.stopped_epoch > 0


@pytest.mark.parametrize("filename", ["always", None])
@pytest.mark.parametrize("save_last", [None, True])
def test_the_last_weights_are_saved_whatever_the_name(
    tmp_path: Path, filename: str | None, save_last: bool | None
) -> None:
    best = ModelCheckpoint(tmp_path / "saved", filename, monitor="val_loss", save_last=save_last)
    with pytest.warns(UserWarning, match="set aside"):
        module, running = fit(
            [Hyperfit(samples=4), best],
            validation=texts_loader(6, seed=1),
            check_val_every_n_epoch=2,
            enable_checkpointing=True,
        )
    for path in filter(None, (best.best_model_path, best.last_model_path)):
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == running.global_step
        assert torch.equal(saved["state_dict"]["head.weight"], module.head.weight)
    assert len(list((tmp_path / "saved").iterdir())) == (2 if save_last else 1)


def test_callbacks_that_watch_training_are_left_alone(tmp_path: Path) -> None:
    stopping = EarlyStopping("train_loss", stopping_threshold=1e9)
    best = ModelCheckpoint(tmp_path / "saved", monitor="train_loss")
    _, running = fit([Hyperfit(samples=6), stopping, best], max_epochs=50, enable_checkpointing=True)
    assert running.current_epoch == 1
    assert best.best_model_score is not None


def test_callbacks_come_back_after_a_failure(tmp_path: Path) -> None:
    class Failing(LanguageModel):
        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            if self.global_step == 3:
                raise KeyError("on purpose")
            return super().training_step(batch)

    stopping, best = EarlyStopping("val_loss"), ModelCheckpoint(tmp_path / "saved", monitor="val_loss", save_top_k=3)
    module = Failing()
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(KeyError):
        fit([Hyperfit(samples=6), stopping, best], module, validation=texts_loader(3), enable_checkpointing=True)
    assert (best.monitor, best.save_top_k) == ("val_loss", 3)
    assert not {"on_validation_end", "on_train_epoch_end"} & vars(stopping).keys()
    assert module.dropout.p == 0.4


# -- resuming, and doing nothing ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_epoch_has_the_mean_of_the_whole(tmp_path: Path) -> None:
    class Kept(Hyperfit):
        name = "hyperfit"

        def record(self, name: str, value: Any) -> None:
            self.noted = [*getattr(self, "noted", []), value]

    checkpoint = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=4, save_top_k=-1)

    def run(path: Path | None, seed: int) -> tuple[Kept, dict[str, Tensor]]:
        torch.manual_seed(seed)
        method = Kept(samples=9, max_epochs=3)
        loader = texts_loader(shuffle=True)
        module, _ = fit([method, checkpoint], loader=loader, ckpt_path=path, enable_checkpointing=True)
        return method, module.state_dict()

    whole, expected = run(None, 1)
    saved = next((tmp_path / "saved").glob("*step=4.ckpt"))
    resumed, weights = run(saved, 2)
    assert len(whole.noted) == 3
    assert resumed.noted == whole.noted[1:]
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_does_nothing_with_fast_dev_run_to_callbacks(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "saved", monitor="val_loss")
    with pytest.warns(UserWarning, match="set aside"):
        fit([Hyperfit(samples=6), best], validation=texts_loader(3), fast_dev_run=2, enable_checkpointing=True)
    assert not (tmp_path / "saved").exists() or not list((tmp_path / "saved").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "Hyperfit: samples=0 is not allowed: it must be at least 1. HINT: the paper uses 2000"),
        ({"target_loss": -1.0}, "target_loss=-1.0 .*at least 0"),
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"lr": 0.0}, "lr=0.0 .*above 0"),
        ({"prompts": "Once"}, "prompts='Once' .*list of texts"),
        ({"prompts": ["Once"]}, "prompts=.'Once'. .*pass a tokenizer"),
        ({"prompts": [""], "tokenizer": "t"}, "none of them empty"),
        ({"tokenizer": 3}, "tokenizer=3 .*must be text"),
        ({"enabled": "no"}, "enabled='no'"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Hyperfit(**arguments)


class Surrogate(Method):
    """Trains the module's loss less its value: its gradient is the loss's, and it is 0 throughout."""

    name = "surrogate"
    exclusive = frozenset({"objective"})

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @hookimpl
    def compute_loss(self, step: ObjectiveStep) -> Tensor | None:
        if not self.enabled:
            return None
        loss = step.module.training_step(step.batch)
        return loss - loss.detach()


def test_a_loss_that_is_another_methods_is_no_target() -> None:
    names = "Hyperfit and Surrogate cannot be attached to one Trainer: both own the training loss"
    with pytest.raises(CompositionError, match=rf"{names}.*target_loss=0.01.*pass target_loss=0"):
        fit([Surrogate(), Hyperfit(samples=6)])
    _, trainer = fit([Surrogate(), Hyperfit(samples=6, target_loss=0.0)], max_epochs=3)
    assert trainer.current_epoch == 3
    fit([Hyperfit(samples=6), Surrogate(enabled=False)], max_epochs=1)


def test_found_by_name() -> None:
    method = thunderstone.create("hyperfit", samples=5)
    assert isinstance(method, Hyperfit)
    assert method.samples == 5
