"""What callbacks know of a run, taken down when it begins and put back when another round does."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback, ModelSummary, ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from thunderstone.attachment.method import Method
from thunderstone.attachment.module_state import ModuleState


class CallbackStates:
    """The attributes of callbacks that keep a state of the run.

    Those are Lightning's own (EarlyStopping, ModelCheckpoint, Timer, the averaging ones), the attached methods, and
    whichever has a `state_dict`: it says itself that there is something a run begins without. A user's callback that
    only collects goes on collecting, and what is shown on the screen is left alone.

    Args:
        callbacks: Of the Trainer.
        without: Callbacks that are to be left alone.
    """

    def __init__(self, callbacks: Iterable[Callback], without: Iterable[Callback]) -> None:
        left_alone = list(without)
        self._kept: list[tuple[Callback, dict[str, Any], list[ModuleState]]] = []
        for callback in callbacks:
            if any(callback is one for one in left_alone) or not has_state(callback):
                continue
            attributes = vars(callback)
            # The counters of an average; its weights are copied anew with the first update.
            averages = [ModuleState(value) for value in attributes.values() if isinstance(value, nn.Module)]
            self._kept.append((callback, _copied(dict(attributes)), averages))

    def restore(self) -> None:
        """Put everything back in place. May be called any number of times."""
        for callback, attributes, averages in self._kept:
            vars(callback).clear()
            vars(callback).update(_copied(attributes))
            for average in averages:
                average.restore()


def has_state(callback: Callback) -> bool:
    """Whether a callback begins every run anew."""
    if isinstance(callback, (ProgressBar, ModelSummary)):
        return False
    root = type(callback).__module__.partition(".")[0]
    return isinstance(callback, Method) or root == "lightning" or is_overridden("state_dict", callback, parent=Callback)


def _copied(value: Any) -> Any:
    copier: Callable[[Any], Any] | None = next((c for kind, c in _COPIERS if isinstance(value, kind)), None)
    return value if copier is None or hasattr(value, "_fields") else copier(value)


def _copied_dict(value: Any) -> Any:
    twin = copy.copy(value)
    for key in list(twin):
        twin[key] = _copied(twin[key])
    return twin


def _copied_list(value: Any) -> Any:
    twin = copy.copy(value)
    for number in range(len(twin)):
        twin[number] = _copied(twin[number])
    return twin


_COPIERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (nn.Parameter, lambda value: value),
    (Tensor, lambda value: value.detach().clone()),
    (np.ndarray, np.copy),
    (dict, _copied_dict),
    ((list, deque), _copied_list),
    (tuple, lambda value: type(value)(_copied(inner) for inner in value)),
    (set, copy.copy),
)
