"""What Thunderstone's conformance kit runs: each method in a setting that acts in a short run."""

import os

from thunderstone.testing import Subject

from thunderstone_flint.gradient_noise import GradientNoise
from thunderstone_flint.json_lines import JsonLines


def _noise() -> GradientNoise:
    return GradientNoise(eta=0.3)


def _no_noise() -> GradientNoise:
    return GradientNoise(eta=0)


def _lines() -> JsonLines:
    return JsonLines(path=os.devnull)


GRADIENT_NOISE = Subject("gradient_noise", _noise, neutral=_no_noise)
JSON_LINES = Subject("json_lines", _lines, changes_weights=False, reports=False)
