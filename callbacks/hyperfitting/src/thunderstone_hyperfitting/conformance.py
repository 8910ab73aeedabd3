"""What the conformance kit is told of this family's method. Imported by checks alone."""

from __future__ import annotations

from thunderstone.testing import Subject
from thunderstone_hyperfitting.hyperfit import Hyperfit

HYPERFIT = Subject(
    "hyperfit",
    Hyperfit,
    neutral=lambda: Hyperfit(enabled=False),
    # Not the stream, whose samples cannot be chosen: that is refused.
    zoo=("mlp", "cnn", "transformer", "lstm", "dict_output", "metrics", "groups"),
    # Without dropout the first loss is another one.
    plain_first_step=False,
)
