"""What the conformance kit is told of each method of this family. Imported by checks alone."""

from __future__ import annotations

from functools import partial

import thunderstone_estimators as family
from thunderstone.testing import Subject

SVRG = Subject("svrg", family.SVRG, neutral=lambda: family.SVRG(alpha=0.0))
# Small, so that a run of two epochs on every module takes a moment.
GRADIENT_VARIANCE = Subject(
    "gradient_variance", partial(family.GradientVariance, every_n_steps=2, draws=2), changes_weights=False
)
SLICED_WASSERSTEIN_PENALTY = Subject(
    "sliced_wasserstein_penalty",
    family.SlicedWassersteinPenalty,
    neutral=lambda: family.SlicedWassersteinPenalty(weight=0.0),
    module_arguments={
        "cnn": {"output": "head"},
        "transformer": {"output": "head", "point_dims": 2},
        "lstm": {"output": "recurrent:0"},
        "dict_output": {"output": "layer", "control_variate": "gaussian"},
        "metrics": {"output": "net", "target": "uniform"},
        "groups": {"output": "backbone.1", "target": "output:backbone.0"},
        "stream": {"output": "net"},
    },
)
