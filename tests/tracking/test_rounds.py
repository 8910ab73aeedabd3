"""What loggers show of a budget that is spent several times."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, WandbLogger
from offline_run import read_run
from reporting_run import Regression, trainer_for
from torch import Tensor

from thunderstone import Method, Round, hookimpl


class Again(Method):
    """Two further rounds, each with a number of its own."""

    name = "again"
    exclusive = frozenset({"rounds"})

    @hookimpl
    def another_round(self, round: Round) -> bool:
        self.record("ended", float(round.index))
        return round.index < 2

    @hookimpl
    def next_round(self, round: Round) -> None:
        round.rewind()
        self.attachment.rounds.annotate(remaining=0.8 ** (round.index + 1))


class Own(Regression):
    """Logs a value of its own."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.log("own/step", float(self.trainer.global_step))
        return self.loss(batch)


def test_a_wandb_run_has_the_round_as_an_axis(tmp_path: Path) -> None:
    import wandb

    logger = WandbLogger(offline=True, save_dir=tmp_path)
    running = trainer_for(Again(), logger=logger, log_every_n_steps=4)
    running.fit(Own())
    steps = running.global_step
    wandb.finish()
    run = read_run(tmp_path)
    assert {of: axis for of, axis in run.axes.items() if of.startswith(("again/", "epoch"))} == {
        "again/*": "again/round",
        "again/round": "",
        "again/remaining": "again/round",
        "again/ended": "again/round",
        "epoch": "",
    }
    rows = [row for row in run.history if "own/step" in row]
    # The module counts from 0 in every round, the logger goes on.
    assert [row["own/step"] for row in rows] == [float(step) for step in range(3, steps, 4)] * 3
    assert [row["trainer/global_step"] for row in rows] == list(range(3, 3 * steps, 4))
    assert [row["again/round"] for row in rows] == [number for number in range(3) for _ in range(3, steps, 4)]
    remaining = {row["again/round"]: row.get("again/remaining") for row in rows}
    assert remaining == {0: None, 1: 0.8, 2: 0.8**2}
    ended = [(row["again/round"], row["again/ended"]) for row in run.history if "again/ended" in row]
    assert ended == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert run.summary["again/ended"] == {"min": 0, "max": 2, "last": 2}
    assert run.summary["again/remaining"] == {"min": 0.8**2, "max": 0.8, "last": 0.8**2}
    assert run.summary["again/round"] == 2


def test_axes_have_the_prefix_of_their_logger(tmp_path: Path) -> None:
    import wandb

    logger = WandbLogger(offline=True, save_dir=tmp_path, prefix="trial")
    trainer_for(Again(), logger=logger, log_every_n_steps=4).fit(Own())
    wandb.finish()
    run = read_run(tmp_path)
    assert run.axes["trial-again/ended"] == run.axes["trial-again/remaining"] == "trial-again/round"
    assert {"trial-again/round", "trial-again/remaining", "trial-again/ended"} <= set(run.summary)
    assert not [key for key in (*run.axes, *run.summary) if key.startswith("again/")]


def test_a_csv_file_has_a_column_for_the_round(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer_for(Again(), logger=logger, log_every_n_steps=4).fit(Own())
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    place, value = (lines[0].split(",").index(name) for name in ("again/round", "own/step"))
    rows = [line.split(",") for line in lines[1:]]
    assert all(row[place] for row in rows)
    assert [float(row[place]) for row in rows if row[value]] == sorted(float(row[place]) for row in rows if row[value])
