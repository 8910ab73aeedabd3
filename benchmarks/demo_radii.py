"""The radii of SAM and ASAM in `thunderstone demo`: a sweep on splits of the data that the demo does not show.

Nothing of it is tracked. The demo uses rho=0.5 and rho=2.5.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from side_by_side import Line, arguments, report
from training_runs import torch

from thunderstone.demo import training
from thunderstone.demo.digits import noisy_digits
from thunderstone.demo.main import EPOCHS
from thunderstone.demo.results import Quantity
from thunderstone.demo.settings import Setting

SETTINGS = (
    Setting("plain"),
    *(Setting("SAM", "sam", {"rho": rho}) for rho in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    *(Setting("ASAM", "asam", {"rho": rho}) for rho in (0.5, 1.0, 2.0, 2.5, 3.0, 4.0)),
)
FIRST_SEED = 100


def main() -> None:
    options = arguments(__doc__, rounds=5)
    torch.set_num_threads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + options.rounds)
    lines = []
    with tempfile.TemporaryDirectory() as folder, patch.object(training, "_logger", lambda *_: None):
        for setting in SETTINGS:
            results = [
                training.train(setting, seed, noisy_digits(seed), EPOCHS, Path(folder), lambda *_: None)
                for seed in seeds
            ]
            lines.append(
                Line(
                    " ".join([setting.label, *(f"{name}={value}" for name, value in setting.arguments.items())]),
                    (
                        Quantity(tuple(result.test_accuracy[-1] for result in results)).written(".1f", 100),
                        Quantity(tuple(result.memorised[-1] for result in results)).written(".0f", 100),
                        Quantity(tuple(result.largest_eigenvalue for result in results)).written(".1f"),
                        Quantity(tuple(result.loss_rise for result in results)).written(".2f"),
                    ),
                )
            )
    report(
        "Radii for the demo",
        ("Training", "Test accuracy, %", "Wrong labels learnt, %", "Hessian eigenvalue", "Loss rise at 0.5"),
        lines,
        f"The demo's network and data (600 digits, 40% of them with a wrong label, {EPOCHS} epochs) on seeds "
        f"{seeds[0]} to {seeds[-1]}; mean ± standard deviation.",
        options.write,
    )


if __name__ == "__main__":
    main()
