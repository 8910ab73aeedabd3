"""What a run has measured so far in an epoch: `self.log` accumulators, torchmetrics objects, and the metrics shown."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric, MetricCollection

from thunderstone import lightning_private
from thunderstone.resume.portable import detached, is_portable, map_tensors


def measured(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """All of it as tensors and primitives; what is neither is left out."""
    return {
        "results": _results(trainer),
        "metrics": {name: _metric_state(leader) for name, leader in _metrics(module).items()},
        "shown": _portable_items(lightning_private.logger_connector_state(trainer)),
    }


def restore_measured(trainer: Trainer, module: LightningModule, state: dict[str, Any]) -> None:
    """Put back what `measured` gave, on the module's device."""
    for name, metric in _metrics(module, leaders=False).items():
        if name in state["metrics"]:
            _load_metric(metric, state["metrics"][name])
    results = lightning_private.epoch_results(trainer)
    results.clear()
    for key, saved in state["results"].items():
        results[key] = _result(trainer, module, saved)
    lightning_private.load_logger_connector_state(trainer, _on(module.device, state["shown"]))


def _metrics(module: LightningModule, leaders: bool = True) -> dict[str, Metric]:
    """The module's torchmetrics objects by qualified name.

    Metrics of a MetricCollection that compute the same thing share one state, and only the first of such a group is
    up to date between two computations: with `leaders`, it stands for the others.
    """
    found = {name: child for name, child in module.named_modules() if isinstance(child, Metric)}
    if leaders:
        for name, child in module.named_modules():
            if isinstance(child, MetricCollection):
                members = dict(child.items(keep_base=True, copy_state=False))
                for group in child.compute_groups.values():
                    for member in group[1:]:
                        if group[0] in members and f"{name}.{member}" in found:
                            found[f"{name}.{member}"] = members[group[0]]
    return found


def _metric_state(metric: Metric) -> dict[str, Any]:
    # Compute groups hold the same tensors, which pickle keeps shared: nothing is stored twice.
    return {"updates": metric._update_count, "states": detached(dict(metric.metric_state))}


def _load_metric(metric: Metric, saved: dict[str, Any]) -> None:
    for name, value in saved["states"].items():
        # A copy: the metrics of a group would otherwise add to one tensor in turn.
        setattr(metric, name, map_tensors(value, lambda tensor: tensor.clone().to(metric.device)))
    metric._update_count = saved["updates"]
    metric._computed = None


def _results(trainer: Trainer) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    for key, result in lightning_private.epoch_results(trainer).items():
        arguments = lightning_private.result_arguments(result)
        if arguments is None or not is_portable(arguments):
            continue
        stored[key] = {
            "arguments": arguments,
            "state": _metric_state(result) if result.is_tensor else None,
            "last": detached(lightning_private.last_logged(result)),
            "reset": result.has_reset,
        }
        if not is_portable(stored[key]["last"]):
            stored[key]["last"] = None
    return stored


def _result(trainer: Trainer, module: LightningModule, saved: dict[str, Any]) -> Any:
    result = lightning_private.new_result(trainer, saved["arguments"])
    result.to(module.device)
    if saved["state"] is not None:
        for name, value in saved["state"]["states"].items():
            setattr(result, name, _on(module.device, value))
        result._update_count = saved["state"]["updates"]
    else:
        result.value = attrgetter(saved["arguments"]["meta"]["metric_attribute"])(module)
        result._update_count = result.value._update_count
    lightning_private.set_last_logged(result, _on(module.device, saved["last"]))
    result.has_reset = saved["reset"]
    return result


def _portable_items(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _portable_items(inner) if isinstance(inner, dict) else detached(inner)
        for key, inner in value.items()
        if isinstance(inner, dict) or is_portable(detached(inner))
    }


def _on(device: torch.device, value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.to(device))
