"""What this package declares. Light: neither torch nor Lightning is imported here."""

from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

THUNDERSTONE_API = "1.0"

_GRPO = Reference(
    "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    "Shao, Wang, Zhu, Xu, Song, Bi, Zhang, Zhang, Li, Wu, Guo",
    2024,
    "https://arxiv.org/abs/2402.03300",
)
_UNLIKELINESS = Reference(
    "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening",
    "He, Fried, Welleck",
    2025,
    "https://arxiv.org/abs/2506.02355",
)
_XRPO = Reference(
    "XRPO: Pushing the limits of GRPO with Targeted Exploration and Exploitation",
    "Bamba, Fang, Yu, Zheng, Lai",
    2025,
    "https://arxiv.org/abs/2510.06672",
)
_NOISY_VERIFIERS = Reference(
    "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect Verifiers",
    "Cai, Wang, Liu, Liu, Niu, Sugiyama",
    2025,
    "https://arxiv.org/abs/2510.00915",
)
_POSTERIOR = Reference(
    "Posterior-GRPO: Rewarding Reasoning Processes in Code Generation",
    "Fan, Zhang, Chen, Liu",
    2025,
    "https://arxiv.org/abs/2508.05170",
)
_DR_GRPO = Reference(
    "Understanding R1-Zero-Like Training: A Critical Perspective",
    "Liu, Chen, Li, Qi, Pang, Du, Lee, Lin",
    2025,
    "https://arxiv.org/abs/2503.20783",
)
_LEAVE_ONE_OUT = Reference(
    "Buy 4 REINFORCE Samples, Get a Baseline for Free!",
    "Kool, van Hoof, Welling",
    2019,
    "https://openreview.net/forum?id=r1lgTGL5DE",
)


def _advantage(name: str, cls: str, summary: str, reference: Reference | None) -> StrategySpec:
    return StrategySpec("grpo.advantage", name, f"thunderstone_grpo.advantages:{cls}", summary, reference)


def _shaper(name: str, cls: str, summary: str, reference: Reference) -> StrategySpec:
    return StrategySpec("grpo.reward_shaper", name, f"thunderstone_grpo.shapers:{cls}", summary, reference)


def _sampler(name: str, cls: str, summary: str, reference: Reference | None) -> StrategySpec:
    return StrategySpec("grpo.sampler", name, f"thunderstone_grpo.samplers:{cls}", summary, reference)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """The method of the GRPO family."""
    return [
        MethodSpec(
            "grpo",
            "thunderstone_grpo.grpo:GRPO",
            "grpo",
            "Trains a causal language model by the rewards of its own completions, relative to their group",
            _GRPO,
            conformance="thunderstone_grpo.conformance:GRPO",
        ),
    ]


@hookimpl
def thunderstone_strategies() -> list[StrategySpec]:
    """The strategies of the GRPO family."""
    return [
        StrategySpec(
            "grpo.rollout_engine",
            "cache",
            "thunderstone_grpo.rollouts.engines:with_cache",
            "A Hugging Face model's own generate with its cache; the plain loop for any other module",
        ),
        StrategySpec(
            "grpo.rollout_engine",
            "plain",
            "thunderstone_grpo.rollouts.engines:plain",
            "The whole text through the module for every token",
        ),
        _advantage("group_z_score", "GroupZScore", "(r - mean) / (std + eps) of the group", _GRPO),
        _advantage("centred", "Centred", "r - mean of the group", _DR_GRPO),
        _advantage("leave_one_out", "LeaveOneOut", "r - mean of the group's others", _LEAVE_ONE_OUT),
        _advantage("fixed_scale", "FixedScale", "(r - baseline) / scale, whatever the group", None),
        _advantage(
            "forward_correction",
            "ForwardCorrection",
            "Weights of the score function for a verifier that refuses some right answers",
            _NOISY_VERIFIERS,
        ),
        _shaper("unlikeliness", "Unlikeliness", "Less for right answers that were likely anyway", _UNLIKELINESS),
        _shaper("process_gate", "ProcessGate", "A process reward only where the outcome is right", _POSTERIOR),
        _shaper("novelty", "Novelty", "Larger advantages of right answers unlike the group's others", _XRPO),
        _shaper(
            "backward_correction",
            "BackwardCorrection",
            "The reward an exact verifier would have given, on average",
            _NOISY_VERIFIERS,
        ),
        _sampler("uniform", "Uniform", "As many completions for every prompt", None),
        _sampler("xrpo", "XRPO", "More completions where they tell more, solved examples where all fail", _XRPO),
    ]
