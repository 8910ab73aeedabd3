"""What this package declares. Imported whenever methods are listed, so neither torch nor Lightning has a place here."""

from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

THUNDERSTONE_API = "1.0"

_NOISE = Reference(
    "Adding Gradient Noise Improves Learning for Very Deep Networks",
    "Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens",
    2015,
    "https://arxiv.org/abs/1511.06807",
)
_LAMP = Reference(
    "Layer-adaptive Sparsity for the Magnitude-based Pruning",
    "Lee, Park, Mo, Ahn, Shin",
    2021,
    "https://arxiv.org/abs/2010.07611",
)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """A method that changes training, and one that only listens."""
    return [
        MethodSpec(
            "gradient_noise",
            "thunderstone_flint.gradient_noise:GradientNoise",
            "flint",
            "Adds Gaussian noise to the gradient, less and less of it as training goes on",
            _NOISE,
            conformance="thunderstone_flint.conformance:GRADIENT_NOISE",
        ),
        MethodSpec(
            "json_lines",
            "thunderstone_flint.json_lines:JsonLines",
            "flint",
            "Writes what other methods report to a file, a line of JSON each, as it comes",
            conformance="thunderstone_flint.conformance:JSON_LINES",
        ),
    ]


@hookimpl
def thunderstone_strategies() -> list[StrategySpec]:
    """A score for the methods of thunderstone-pruning."""
    summary = "w^2 over the sum of the squares in its layer that are not smaller: layers share the sparsity themselves"
    return [StrategySpec("pruning.score", "lamp", "thunderstone_flint.lamp:lamp", summary, _LAMP)]
