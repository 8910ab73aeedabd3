"""The process that trains, is killed, and resumes: ``python -m thunderstone.testing.program``.

It reads one job a line (JSON) from its input, forks a child for every rank of it, waits, and answers with one line.
The children start from an interpreter that has imported everything and trained nothing, so each is as good as a new
process, at the price of a fork.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

import thunderstone.attachment.attaching  # noqa: F401 - what every rank needs and would import for itself
from thunderstone.discovery import refresh, registry
from thunderstone.testing.memory_logger import MemoryLogger
from thunderstone.testing.observer import parameters_of
from thunderstone.testing.training import SEED, final_state, make_trainer, seed
from thunderstone.testing.zoo import CASES, Case

_POLL = 0.005
_GRACE = 2.0


class Saver(Checkpoint):
    """Writes a checkpoint over the last one after every few batches. A Checkpoint, so that it is called last."""

    def __init__(self, path: str, every: int) -> None:
        super().__init__()
        self.path, self.every, self.done = path, every, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.done = trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.done += 1
        if self.done % self.every == 0:
            # Under another name first: a kill in the middle of writing must not take the last checkpoint along.
            trainer.save_checkpoint(f"{self.path}.part")
            if trainer.is_global_zero:
                os.replace(f"{self.path}.part", self.path)


class Killer(Checkpoint):
    """Ends the process with SIGKILL in a batch: nothing is flushed, closed or told."""

    def __init__(self, batch: int, place: str) -> None:
        super().__init__()
        self.batch, self.place, self.begun = batch, place, 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.begun += 1
        self._perhaps("on_train_batch_start")

    def on_before_backward(self, *_: Any) -> None:
        self._perhaps("on_before_backward")

    def on_train_batch_end(self, *_: Any) -> None:
        self._perhaps("on_train_batch_end")

    def _perhaps(self, place: str) -> None:
        if place == self.place and self.begun == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


class Blocked(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{fullname} is not installed here", name=fullname)
        return None


def train_rank(job: dict[str, Any], rank: int) -> None:
    """One rank's training; writes what it ends with to ``<folder>/rank<rank>.pt``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ranks = job["ranks"]
    if ranks > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"]))
    method = _build(job["method"]) if job["method"] is not None else None
    case = _case(job["case"])
    # A process that resumes has no reason to draw the same weights and numbers as the one it continues.
    offset = 1000 if job["resume"] is not None else 0
    seed(SEED + offset)
    module, loader = case.module(), case.loader()
    validation = case.validation() if case.validation is not None else None
    logger = MemoryLogger()
    callbacks: list[Any] = [] if method is None else [method]
    if job["save_every"]:
        callbacks.append(Saver(job["checkpoint"], job["save_every"]))
    if job["kill"] is not None:
        callbacks.append(Killer(*job["kill"]))
    trainer = make_trainer(
        job["folder"],
        callbacks,
        logger=logger,
        enable_checkpointing=bool(job["save_every"] or job["kill"] is not None),
        accumulate_grad_batches=job["accumulate"],
        **({"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}),
    )
    initial = parameters_of(module)
    if job["blocked"]:
        _block(job["blocked"])
    seed(SEED + 1 + offset)
    trainer.fit(module, loader, validation, ckpt_path=job["resume"])
    torch.save(
        {
            **final_state(trainer, module),
            "initial": initial,
            "method": method.state_dict() if method is not None else {},
            "logged": sorted({key for _, metrics in logger.entries for key in metrics}),
        },
        Path(job["folder"]) / f"rank{rank}.pt",
    )


def _case(description: str | dict[str, Any]) -> Case:
    if isinstance(description, str):
        return CASES[description]
    _extend_path(description["path"])
    case: Case = pickle.loads(Path(description["file"]).read_bytes())
    return case


def _extend_path(entries: Sequence[str]) -> None:
    for entry in entries:
        if entry not in sys.path:
            sys.path.append(entry)
            if any(Path(entry).glob("*.dist-info")):
                refresh()


def _build(description: dict[str, Any]) -> Any:
    _extend_path(description["path"])
    name = description["module"]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        # A test module that its runner imported from its file.
        spec = importlib.util.spec_from_file_location(name, description["file"])
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    value: Any = module
    for part in description["qualname"].split("."):
        value = getattr(value, part)
    return value(**pickle.loads(Path(description["arguments"]).read_bytes()))


def _block(packages: list[str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    sys.meta_path.insert(0, Blocked(packages))


def _child(job: dict[str, Any], rank: int) -> None:
    """A forked rank; never returns."""
    code = 1
    with open(Path(job["folder"]) / f"rank{rank}.log", "w", buffering=1) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            os.chdir(job["folder"])
            train_rank(job, rank)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _wait(children: list[int], limit: float) -> list[int | None]:
    """Exit codes (negative for signals, None where the time was up); once one fails the others are ended."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + limit
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
                    if codes[child] != 0:
                        deadline = min(deadline, time.monotonic() + _GRACE)
        if time.monotonic() > deadline:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[child] = None
        time.sleep(_POLL)
    return [codes[child] for child in children]


def serve() -> None:
    """Answer jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        children: list[int] = []
        for rank in range(job["ranks"]):
            child = os.fork()
            if child == 0:
                _child(job, rank)
            children.append(child)
        answers.write(json.dumps({"codes": _wait(children, job["limit"])}) + "\n")


if __name__ == "__main__":
    registry()  # which every rank asks for its strategies
    serve()
