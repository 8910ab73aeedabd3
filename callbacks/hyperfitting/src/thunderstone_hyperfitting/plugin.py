"""What this package declares. Light: neither torch nor Lightning is imported here."""

from thunderstone import MethodSpec, Reference, hookimpl

THUNDERSTONE_API = "1.0"

_HYPERFITTING = Reference(
    "The Hyperfitting Phenomenon: Sharpening and Stabilizing LLMs for Open-Ended Text Generation",
    "Carlsson, Liu, Ward, Kurfali, Nivre",
    2024,
    "https://arxiv.org/abs/2412.04318",
)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """The methods of the hyperfitting family."""
    return [
        MethodSpec(
            "hyperfit",
            "thunderstone_hyperfitting.hyperfit:Hyperfit",
            "hyperfitting",
            "Trains on very few samples to next to no loss: greedy texts of a language model become more diverse",
            _HYPERFITTING,
            conformance="thunderstone_hyperfitting.conformance:HYPERFIT",
        ),
    ]
