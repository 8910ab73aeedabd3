"""The modules whose `__all__` is public."""

MODULES = [
    "thunderstone",
    "thunderstone.generation",
    "thunderstone.isolation",
    "thunderstone.testing",
    "thunderstone_estimators",
    "thunderstone_grpo",
    "thunderstone_hyperfitting",
    "thunderstone_hyperfitting.measures",
    "thunderstone_pruning",
    "thunderstone_sharpness",
    "thunderstone_sharpness.measures",
]
