"""What this package declares. Light: neither torch nor Lightning is imported here."""

from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

THUNDERSTONE_API = "1.0"

_SAM = Reference(
    "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    "Foret, Kleiner, Mobahi, Neyshabur",
    2021,
    "https://arxiv.org/abs/2010.01412",
)
_ASAM = Reference(
    "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
    "Kwon, Kim, Park, Choi",
    2021,
    "https://arxiv.org/abs/2102.11600",
)
_SAF = Reference(
    "Sharpness-Aware Training for Free",
    "Du, Zhou, Feng, Tan, Zhou",
    2022,
    "https://arxiv.org/abs/2205.14083",
)
_GRADIENT_NORM = Reference(
    "Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning",
    "Zhao, Zhang, Hu",
    2022,
    "https://arxiv.org/abs/2202.03599",
)
_IGNITE = Reference(
    "Incorporating Surrogate Gradient Norm to Improve Offline Optimization Techniques",
    "Dao, Nguyen, Truong, Hoang",
    2025,
    "https://arxiv.org/abs/2503.04242",
)


_MODERN_LOOK = Reference(
    "A Modern Look at the Relationship between Sharpness and Generalization",
    "Andriushchenko, Croce, Müller, Hein, Flammarion",
    2023,
    "https://arxiv.org/abs/2302.07011",
)
_OPPOSING = Reference(
    "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
    "Rosenfeld, Risteski",
    2023,
    "https://arxiv.org/abs/2311.04163",
)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """The methods of the sharpness family."""
    return [
        MethodSpec(
            "sam",
            "thunderstone_sharpness.sam:SAM",
            "sharpness",
            "Steps with the gradient at the worst point of a small neighbourhood: flatter minima for two passes",
            _SAM,
            conformance="thunderstone_sharpness.conformance:SAM",
        ),
        MethodSpec(
            "asam",
            "thunderstone_sharpness.asam:ASAM",
            "sharpness",
            "SAM in a neighbourhood that scales with the weights, so that rescaling a layer changes nothing",
            _ASAM,
            conformance="thunderstone_sharpness.conformance:ASAM",
        ),
        MethodSpec(
            "saf",
            "thunderstone_sharpness.saf:SAF",
            "sharpness",
            "Keeps predictions near those of some epochs ago: flatter minima for a memory and no further pass",
            _SAF,
            conformance="thunderstone_sharpness.conformance:SAF",
        ),
        MethodSpec(
            "mesa",
            "thunderstone_sharpness.mesa:MESA",
            "sharpness",
            "Keeps predictions near those of the averaged weights: flatter minima for one forward pass",
            _SAF,
            conformance="thunderstone_sharpness.conformance:MESA",
        ),
        MethodSpec(
            "gradient_norm",
            "thunderstone_sharpness.gradient_norm:GradientNorm",
            "sharpness",
            "Descends on the loss plus a penalty on the norm of its gradient; SAM is a special case",
            _GRADIENT_NORM,
            conformance="thunderstone_sharpness.conformance:GRADIENT_NORM",
        ),
        MethodSpec(
            "ignite",
            "thunderstone_sharpness.ignite:IGNITE",
            "sharpness",
            "Surrogates whose output changes little around the weights, for optimising against them",
            _IGNITE,
            conformance="thunderstone_sharpness.conformance:IGNITE",
        ),
        MethodSpec(
            "sharpness_monitor",
            "thunderstone_sharpness.sharpness_monitor:SharpnessMonitor",
            "sharpness",
            "Measures sharpness and curvature as training goes: worst and average case, Hessian, loss landscape",
            _MODERN_LOOK,
            conformance="thunderstone_sharpness.conformance:SHARPNESS_MONITOR",
        ),
        MethodSpec(
            "opposing_signals",
            "thunderstone_sharpness.opposing_signals:OpposingSignals",
            "sharpness",
            "Finds the paired groups of examples whose losses one step moves in opposite directions",
            _OPPOSING,
            conformance="thunderstone_sharpness.conformance:OPPOSING_SIGNALS",
        ),
    ]


@hookimpl
def thunderstone_strategies() -> list[StrategySpec]:
    """Ascent directions for SAM."""
    module = "thunderstone_sharpness.perturbations"
    kind = "sharpness.perturbation"
    return [
        StrategySpec(kind, "l2", f"{module}:l2", "rho * g / |g|, over all parameters together", _SAM),
        StrategySpec(kind, "adaptive_l2", f"{module}:adaptive_l2", "rho * T^2 g / |T g| with T = |w| + eta", _ASAM),
        StrategySpec(kind, "linf", f"{module}:linf", "rho * sign(g): the dual of the max norm", _SAM),
    ]
