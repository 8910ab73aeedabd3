"""What `self.log` has accumulated and where it is shown."""

from __future__ import annotations

import builtins
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor


def last_logged(result: Any) -> Any:
    """The value of a result's last `self.log`, which is shown with ``on_step=True``."""
    return result._forward_cache


def set_last_logged(result: Any, value: Any) -> None:
    """See `last_logged`."""
    result._forward_cache = value


def logger_connector_state(trainer: Trainer) -> dict[str, Any]:
    """The metrics shown so far and the two flags by which `self.log` knows a new epoch.

    Not in Lightning's checkpoints: a scheduler or EarlyStopping whose metric was logged before the checkpoint would
    not find it after a resume.
    """
    connector = trainer._logger_connector
    return {
        "progress_bar": dict(connector._progress_bar_metrics),
        "logged": dict(connector._logged_metrics),
        "callback": dict(connector._callback_metrics),
        "first_batch": connector._first_loop_iter,
        "hook": connector._current_fx,
    }


def load_logger_connector_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """See `logger_connector_state`."""
    connector = trainer._logger_connector
    connector._progress_bar_metrics = dict(state["progress_bar"])
    connector._logged_metrics = dict(state["logged"])
    connector._callback_metrics = dict(state["callback"])
    connector._first_loop_iter = state["first_batch"]
    connector._current_fx = state["hook"]


def set_callback_metric(trainer: Trainer, key: str, value: Tensor) -> None:
    """Put a value where callbacks find it under `key`: EarlyStopping and ModelCheckpoint as their ``monitor``.

    Through the public `trainer.callback_metrics` it would work too, but at an epoch's end reading that computes every
    epoch metric, which waits for all processes where one is synchronised; not all of them may be putting something.
    """
    trainer._logger_connector._callback_metrics[key] = value


def set_first_batch(trainer: Trainer, first: bool) -> None:
    """Say whether the batch under way is the first of its epoch: `self.log` then drops what the last one left."""
    trainer._logger_connector._first_loop_iter = first


def epoch_results(trainer: Trainer) -> Any:
    """What `self.log` has accumulated in this training epoch: a dict of result metrics by hook and name."""
    return trainer.fit_loop.epoch_loop._results


def result_arguments(result: Any) -> dict[str, Any] | None:
    """What the `self.log` that made a result was called with, as primitives; None if it named a process group."""
    meta = result.meta
    if meta.sync.group is not None:
        return None
    plain = {
        field.name: getattr(meta, field.name) for field in fields(meta) if field.name not in ("_sync", "reduce_fx")
    }
    return {
        "meta": plain,
        "reduce_fx": meta.reduce_fx.__name__,
        "builtin": meta.reduce_fx in (sum, max, min),
        "should": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "op": meta.sync.op,
        "is_tensor": result.is_tensor,
    }


def new_result(trainer: Trainer, arguments: dict[str, Any]) -> Any:
    """An empty result as the first `self.log` of a name makes it, from `result_arguments`."""
    reduction = getattr(builtins if arguments["builtin"] else torch, arguments["reduce_fx"])
    meta = _Metadata(**arguments["meta"], reduce_fx=reduction)
    meta.sync = _Sync(
        fn=trainer.strategy.reduce,
        _should=arguments["should"],
        rank_zero_only=arguments["rank_zero_only"],
        _op=arguments["op"],
    )
    return _ResultMetric(meta, arguments["is_tensor"])
