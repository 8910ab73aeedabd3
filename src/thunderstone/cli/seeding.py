"""`thunderstone run --seed`: the seed of a script that was not written for it.

Everything that asks Lightning for a seed gets this one: the process begins with it, `seed_everything()` finds it in the
environment, and `seed_everything(42)` in the script is answered with it, which is said. A generator that the script
seeds by other means (`torch.manual_seed(42)`, `torch.Generator().manual_seed(42)`) is the script's own.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

VARIABLE = "THUNDERSTONE_SEED"
"""The seed, for this process and the workers it starts; `thunderstone run --seed` sets it."""

LARGEST = 2**32 - 1

overridden: list[int] = []
"""Seeds that the script of this process passed to `seed_everything` and did not get."""

_seeded = False


def seed_program(seed: int) -> None:
    """Seed this process, and see that `seed_everything` gives the same seed from now on. Imports Lightning.

    Args:
        seed: From 0 to 2³² − 1.
    """
    global _seeded
    os.environ[VARIABLE] = str(seed)
    import lightning.fabric.utilities.seed as seeds
    import lightning.pytorch  # noqa: F401 - its modules hold names of the function that is replaced below

    original = seeds.seed_everything
    # Lightning's own random workers too: without this their NumPy and Python generators begin alike in every run.
    original(seed, workers=True, verbose=False)
    if _seeded:
        return
    _seeded = True

    @functools.wraps(original)
    def answer(seed: Any = None, workers: bool = False, verbose: bool = True) -> int:
        given = int(os.environ[VARIABLE])
        if seed is not None and int(seed) != given and int(seed) not in overridden:
            overridden.append(int(seed))
            print(
                f"thunderstone run: the script asks for seed_everything({int(seed)}) and gets {given}, as --seed says.",
                file=sys.stderr,
            )
        return original(given, workers=workers, verbose=verbose)

    for module in list(sys.modules.values()):
        # `from … import seed_everything` has put it into several modules.
        if getattr(module, "__dict__", {}).get("seed_everything") is original:
            vars(module)["seed_everything"] = answer


def seed_worker() -> None:
    """In a process that Lightning has started from the script: seed it, unless that has been done.

    Its script has begun without us, and may have seeded itself; what counts is that all ranks draw the same data.
    """
    if os.environ.get(VARIABLE) and not _seeded:
        seed_program(int(os.environ[VARIABLE]))
