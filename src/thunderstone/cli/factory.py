"""What Lightning calls for every Trainer it builds (entry-point group ``lightning.pytorch.callbacks_factory``).

Any process that builds a Trainer imports this module, whether or not anything is to be attached: at the top of it
stands nothing but `os`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from thunderstone.attachment.method import Method

VARIABLE = "THUNDERSTONE_WITH"
"""JSON list of methods to attach to every Trainer; `thunderstone run --with` sets it."""

RUN = "THUNDERSTONE_RUN"
"""The folder of this run; `thunderstone compare` sets it, and what every Trainer logs is written down there."""

trainers_built = 0
"""How many Trainers of this process asked for callbacks while ``THUNDERSTONE_WITH`` was set."""


def run_variables(folder: object) -> dict[str, str]:
    """The variables under which everything that a run writes goes to its own folder."""
    # The second is Lightning's own: loggers and checkpoints of a script that names no folder. Two runs that begin in
    # one moment would take the same `lightning_logs/version_0`, and test one another's checkpoints.
    return {RUN: str(folder), "PL_TRAINER_DEFAULT_ROOT_DIR": str(folder)}


def callbacks() -> list[Callback]:
    """New instances of the methods ``THUNDERSTONE_WITH`` asks for, and what watches a run of `thunderstone compare`.

    Empty, with nothing imported, when neither variable is set.

    Raises:
        ThunderstoneError: The variable asks for something that cannot be built. The Trainer is not built then either:
            a run without the method it was started for is a run wasted.
    """
    if not os.environ.get(VARIABLE) and not os.environ.get(RUN):
        return []
    return [*_methods(), *_observers()]


def _methods() -> list[Method]:
    if not os.environ.get(VARIABLE):
        return []
    global trainers_built
    trainers_built += 1
    from thunderstone.cli.with_option import build_together, from_environment

    return build_together(from_environment())


def _observers() -> list[Callback]:
    from thunderstone.cli.seeding import seed_worker

    seed_worker()
    if not os.environ.get(RUN):
        return []
    from thunderstone.comparison.observer import observer

    return [observer()]


def pytorch_lightning_callbacks() -> list[Any]:
    """The same for Trainers of the separate package ``pytorch_lightning``: refuses when anything is to be attached.

    Raises:
        UnsupportedSettingError: ``THUNDERSTONE_WITH`` is set.
    """
    if not os.environ.get(VARIABLE):
        return []
    from thunderstone.errors import UnsupportedSettingError

    raise UnsupportedSettingError(
        "thunderstone run --with",
        "a Trainer of `pytorch_lightning`",
        "methods are callbacks of `lightning.pytorch`, and the two packages are separate copies that do not mix",
        "write `import lightning.pytorch as pl` for `import pytorch_lightning as pl` in the script",
    )
