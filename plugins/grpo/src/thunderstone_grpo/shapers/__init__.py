"""Changes of rewards and advantages with the log-probabilities at hand: strategies of the kind ``grpo.reward_shaper``.

Each is called with values (N,) and the `ScoredCompletions`, and returns values (N,). Its `stage` says what they are:
``"rewards"``, before the advantage is taken, or ``"advantages"``, after. `affine` says that it is one and the same
affine map for all completions, which an advantage may cancel.
"""

from collections.abc import Callable

from torch import Tensor

from thunderstone_grpo.completions import ScoredCompletions
from thunderstone_grpo.shapers.backward_correction import BackwardCorrection, backward_correction
from thunderstone_grpo.shapers.novelty import Novelty, novelty
from thunderstone_grpo.shapers.process_gate import ProcessGate, process_gate
from thunderstone_grpo.shapers.unlikeliness import Unlikeliness, unlikeliness

RewardShaper = Callable[[Tensor, ScoredCompletions], Tensor]

__all__ = [
    "BackwardCorrection",
    "Novelty",
    "ProcessGate",
    "RewardShaper",
    "Unlikeliness",
    "backward_correction",
    "novelty",
    "process_gate",
    "unlikeliness",
]
