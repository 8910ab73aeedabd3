"""What this package declares. Light: neither torch nor Lightning is imported here."""

from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

THUNDERSTONE_API = "1.0"

_CONTROL_VARIATES = Reference(
    "Sliced Wasserstein Estimation with Control Variates",
    "Nguyen, Ho",
    2023,
    "https://arxiv.org/abs/2305.00402",
)
_SWAE = Reference(
    "Sliced-Wasserstein Autoencoder: An Embarrassingly Simple Generative Model",
    "Kolouri, Pope, Martin, Rohde",
    2018,
    "https://arxiv.org/abs/1804.01947",
)
_HARMONICS = Reference(
    "Sliced-Wasserstein Estimation with Spherical Harmonics as Control Variates",
    "Leluc, Dieuleveut, Portier, Segers, Zhuman",
    2024,
    "https://arxiv.org/abs/2402.01493",
)
_REINFORCE = Reference(
    "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    "Williams",
    1992,
    "https://doi.org/10.1007/BF00992696",
)
_LEAVE_ONE_OUT = Reference(
    "Buy 4 REINFORCE Samples, Get a Baseline for Free!",
    "Kool, van Hoof, Welling",
    2019,
    "https://openreview.net/forum?id=r1lgTGL5DE",
)
_VAR_GRAD = Reference(
    "VarGrad: A Low-Variance Gradient Estimator for Variational Inference",
    "Richter, Boustati, Nüsken, Ruiz, Akyildiz",
    2020,
    "https://arxiv.org/abs/2010.10436",
)
_NVIL = Reference(
    "Neural Variational Inference and Learning in Belief Networks",
    "Mnih, Gregor",
    2014,
    "https://arxiv.org/abs/1402.0030",
)
_MUPROP = Reference(
    "MuProp: Unbiased Backpropagation for Stochastic Neural Networks",
    "Gu, Levine, Sutskever, Mnih",
    2016,
    "https://arxiv.org/abs/1511.05176",
)
_REBAR = Reference(
    "REBAR: Low-variance, unbiased gradient estimates for discrete latent variable models",
    "Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein",
    2017,
    "https://arxiv.org/abs/1703.07370",
)
_RELAX = Reference(
    "Backpropagation through the Void: Optimizing control variates for black-box gradient estimation",
    "Grathwohl, Choi, Wu, Roeder, Duvenaud",
    2018,
    "https://arxiv.org/abs/1711.00123",
)
_ARM = Reference(
    "ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks",
    "Yin, Zhou",
    2019,
    "https://arxiv.org/abs/1807.11143",
)
_DISARM = Reference(
    "DisARM: An Antithetic Gradient Estimator for Binary Latent Variables",
    "Dong, Mnih, Tucker",
    2020,
    "https://arxiv.org/abs/2006.10680",
)
_ALPHA_SVRG = Reference(
    "A Coefficient Makes SVRG Effective",
    "Yin, Xu, Li, Darrell, Liu",
    2023,
    "https://arxiv.org/abs/2311.05589",
)


def _score(name: str, cls: str, summary: str, reference: Reference) -> StrategySpec:
    target = f"thunderstone_estimators.score_function:{cls}"
    return StrategySpec("estimators.score_function", name, target, summary, reference)


def _variate(name: str, summary: str, reference: Reference | None) -> StrategySpec:
    target = f"thunderstone_estimators.sliced_wasserstein.variates:{name}"
    return StrategySpec("estimators.control_variate", name, target, summary, reference)


def _prior(name: str, summary: str) -> StrategySpec:
    return StrategySpec("estimators.prior", name, f"thunderstone_estimators.priors:{name}", summary)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """Methods that attach to a Trainer."""
    return [
        MethodSpec(
            "svrg",
            "thunderstone_estimators.gradients.svrg:SVRG",
            "estimators",
            "Takes off each batch's gradient what the batch misses of the full gradient at earlier weights",
            _ALPHA_SVRG,
            conformance="thunderstone_estimators.conformance:SVRG",
        ),
        MethodSpec(
            "gradient_variance",
            "thunderstone_estimators.gradients.gradient_variance:GradientVariance",
            "estimators",
            "Measures variance and signal-to-noise of the gradient the optimizer is given, and what methods do to it",
            conformance="thunderstone_estimators.conformance:GRADIENT_VARIANCE",
        ),
        MethodSpec(
            "sliced_wasserstein_penalty",
            "thunderstone_estimators.sliced_wasserstein_penalty:SlicedWassersteinPenalty",
            "estimators",
            "Matches the distribution of an output to a prior or a second batch, e.g. an auto-encoder's code",
            _SWAE,
            conformance="thunderstone_estimators.conformance:SLICED_WASSERSTEIN_PENALTY",
        ),
    ]


@hookimpl
def thunderstone_strategies() -> list[StrategySpec]:
    """Control variates of sliced Wasserstein, priors, and score-function gradients."""
    return [
        _variate("lower", "(theta . delta)^2 of the means: a lower bound of W2^2", _CONTROL_VARIATES),
        _variate("upper", "The lower bound plus both projected variances: an upper bound of W2^2", _CONTROL_VARIATES),
        _variate("gaussian", "W2^2 of the Gaussians with the projected moments", None),
        _variate("harmonic", "Even spherical harmonics, as many as half the draws can fit", _HARMONICS),
        _prior("normal", "Standard normal"),
        _prior("uniform", "Uniform on [-1, 1] in every coordinate"),
        _prior("laplace", "Laplace of scale 1 in every coordinate"),
        _prior("sphere", "Uniform on the unit sphere"),
        _score("reinforce", "Reinforce", "f times the score; any distribution", _REINFORCE),
        _score("leave_one_out", "LeaveOneOut", "The mean of the other draws is each draw's baseline", _LEAVE_ONE_OUT),
        _score("vargrad", "VarGrad", "Gradient of half the variance of the log ratio over draws", _VAR_GRAD),
        _score("nvil", "NVIL", "A running mean and a learned baseline", _NVIL),
        _score("muprop", "MuProp", "The Taylor expansion of f around the mean for a control variate", _MUPROP),
        _score("rebar", "REBAR", "The relaxed f for a control variate; Bernoulli", _REBAR),
        _score("relax", "RELAX", "A learned control variate on the relaxed draw; Bernoulli", _RELAX),
        _score("arm", "ARM", "Antithetic pairs weighted by their uniform; Bernoulli", _ARM),
        _score("disarm", "DisARM", "Antithetic pairs with the uniform integrated out; Bernoulli", _DISARM),
    ]
