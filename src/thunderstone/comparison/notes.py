"""What must be said beside a comparison's numbers."""

from __future__ import annotations

from collections.abc import Sequence

from thunderstone.comparison.results import Result


def notes(results: Sequence[Result], metric: str, guessed: str | None = None) -> list[str]:
    """Sentences about the runs that a table shows: seeds the script asked for, seeds that changed nothing.

    Args:
        results: The runs.
        metric: What is compared.
        guessed: The mode that was taken although neither an option nor the metric's name says which; None otherwise.
    """
    said = []
    if guessed is not None:
        taken, other = ("larger", "min") if guessed == "max" else ("smaller", "max")
        said.append(
            f"The name {metric!r} does not say whether larger or smaller is better: {taken} was taken, and --mode "
            f"{other} takes the other."
        )
    asked = sorted({seed for result in results for seed in result.seeds_overridden})
    if asked:
        calls = ", ".join(f"seed_everything({seed})" for seed in asked)
        said.append(f"The script calls {calls}, and got each run's own seed instead.")
    finished = [result for result in results if result.finished and metric in result.metrics]
    for label in dict.fromkeys(result.setting for result in finished):
        values = [result.metrics[metric] for result in finished if result.setting == label]
        if len(values) > 1 and len(set(values)) == 1:
            said.append(
                f"Every seed of {label} gave the same value: does the script seed a generator of its own? {{seed}} in "
                "its arguments stands for the run's seed."
            )
            break
    return said
