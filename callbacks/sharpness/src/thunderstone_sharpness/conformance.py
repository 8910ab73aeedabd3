"""What the conformance kit is told of each method of this family. Imported by checks alone."""

from __future__ import annotations

from functools import partial

import thunderstone_sharpness as family
from thunderstone.testing import Subject

# One module of the zoo calls its own forward, whose output these capture by default; in the others they have to be told
# where it is.
OUTPUTS = {
    "cnn": {"output": "head"},
    "transformer": {"output": "head"},
    "lstm": {"output": "recurrent:0"},
    "dict_output": {"output": "layer"},
    "metrics": {"output": "net"},
    "groups": {"output": "head"},
    "stream": {"output": "net"},
}
# A stream has no sample indices.
WITH_INDICES = ("mlp", *(name for name in OUTPUTS if name != "stream"))
# The gradient of a linear model's output is the same whatever its weights, and IGNITE has nothing to do.
NOT_LINEAR = ("mlp", *(name for name in OUTPUTS if name != "dict_output"))

SAM = Subject("sam", family.SAM, neutral=lambda: family.SAM(rho=0.0))
ASAM = Subject("asam", family.ASAM, neutral=lambda: family.ASAM(rho=0.0))
GRADIENT_NORM = Subject("gradient_norm", family.GradientNorm, neutral=lambda: family.GradientNorm(alpha=0.0))
SAF = Subject(
    "saf",
    lambda: family.SAF(start_epoch=1, epochs_back=1, weight=1.0),
    neutral=lambda: family.SAF(weight=0.0),
    zoo=WITH_INDICES,
    module_arguments=OUTPUTS,
)
MESA = Subject(
    "mesa",
    lambda: family.MESA(start_epoch=0, decay=0.5),
    neutral=lambda: family.MESA(weight=0.0),
    module_arguments=OUTPUTS,
)
IGNITE = Subject(
    "ignite", family.IGNITE, neutral=lambda: family.IGNITE(rho=0.0), zoo=NOT_LINEAR, module_arguments=OUTPUTS
)
# The two monitors measure little, so that a run of two epochs on every module takes a moment.
SHARPNESS_MONITOR = Subject(
    "sharpness_monitor",
    partial(
        family.SharpnessMonitor,
        measures=("average_sharpness", "worst_case_sharpness", "hessian_trace", "landscape"),
        examples=8,
        batch_size=4,
        draws=1,
        probes=1,
        steps=1,
        points=3,
    ),
    changes_weights=False,
)
OPPOSING_SIGNALS = Subject(
    "opposing_signals",
    partial(family.OpposingSignals, examples=8, every_n_steps=2, fraction=0.2),
    changes_weights=False,
)
