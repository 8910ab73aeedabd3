"""At which size, number of samples and learning rate hyperfitting begins to do what its paper says.

The training, the contexts and the measures are those of examples/hyperfit.py; what varies is the network's width, how
many sequences it is hyperfitted on, and how fast. Each line puts greedy texts after hyperfitting beside greedy texts
before, and beside texts sampled before at the temperature with the same mean entropy.

    python benchmarks/hyperfit_study.py --write                 # Python's reference
    python benchmarks/hyperfit_study.py --data FILE --write     # another text

Takes about half an hour on one core; `--only 0 1 2` measures some lines, and what was measured before is kept in
--output.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import Line, report
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import hyperfit as example

# Fewer samples are gone through more often.
GRID: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    ({}, {"samples": 8, "max_epochs": 250}),
    ({}, {"samples": 32, "max_epochs": 80}),
    ({}, {"samples": 32, "max_epochs": 80, "lr": 1e-4}),
    ({}, {"samples": 32, "max_epochs": 80, "lr": 3e-4}),
    ({}, {"samples": 32, "max_epochs": 80, "lr": 3e-3}),
    ({"width": 32}, {}),
    ({"width": 64}, {}),
)


def numbers(comparison: example.Comparison) -> dict[str, Any]:
    """What a line of the table shows."""
    by_name = {one.setting: one for one in comparison.rows}
    ways = {"before": "before, greedy", "control": "before, entropy-matched temperature", "after": "after, greedy"}
    after = by_name[ways["after"]]
    return {
        "epochs": comparison.epochs,
        "train_loss": after.train_loss,
        "val_loss": (by_name[ways["before"]].val_loss, after.val_loss),
        "entropy": (by_name[ways["before"]].entropy, after.entropy),
        "type_token_ratio": [by_name[way].type_token_ratio for way in ways.values()],
        "repetition_2": [by_name[way].repetition_2 for way in ways.values()],
        "overlap": [by_name[way].overlap for way in ways.values()],
        "human": by_name["the text itself"].type_token_ratio,
    }


def pretrained(texts: example.Texts, size: example.Size, path: Path) -> dict[str, Tensor]:
    """The weights before hyperfitting: those in a file, where it was written with these sizes, or trained now."""
    if path.exists():
        found = torch.load(path, weights_only=True)
        if found["size"] == asdict(size):
            weights: dict[str, Tensor] = found["weights"]
            return weights
    weights, _ = example.pretrained(texts, size)
    torch.save({"size": asdict(size), "weights": weights}, path)
    return weights


def measure(data: Path | None, only: list[int], folder: Path) -> list[dict[str, Any]]:
    """Every line of the grid that was measured, now or before."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in only:
        size_changes, recipe_changes = GRID[number]
        size, recipe = replace(example.Size(), **size_changes), replace(example.Recipe(), **recipe_changes)
        texts = example.corpus(data, size)
        weights = pretrained(texts, size, folder / f"width_{size.width}.pt")
        found = numbers(example.compare(texts, size, weights, recipe, [], full=False))
        found |= {"width": size.width, "samples": recipe.samples, "lr": recipe.lr}
        (folder / f"{number}.json").write_text(json.dumps(found), encoding="utf-8")
        print(number, found, flush=True)
    known = (folder / f"{number}.json" for number in range(len(GRID)))
    return [json.loads(path.read_text(encoding="utf-8")) for path in known if path.exists()]


def three(values: list[float], form: str) -> str:
    """Before, control and after."""
    return " / ".join(format(value, form) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=example.text_file, help="a text in UTF-8, instead of Python's reference")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of lines to measure, from 0; none only writes")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/hyperfit_study"), help="kept measurements (%(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md, in place of an older one")
    options = parser.parse_args()
    example.quiet()
    name = options.data.stem if options.data else "Python's reference"
    only = list(range(len(GRID))) if options.only is None else options.only
    rows = measure(options.data, only, options.output / name.replace(" ", "_").replace("'", ""))
    lines = [
        Line(
            f"width {one['width']}, {one['samples']} samples, rate {one['lr']:g}",
            (
                str(one["epochs"]),
                f"{one['train_loss']:.2f}",
                three(one["val_loss"], ".2f"),
                three(one["entropy"], ".2f"),
                three(one["type_token_ratio"], ".2f"),
                three(one["repetition_2"], ".2f"),
                three(one["overlap"], ".1f"),
            ),
        )
        for one in rows
    ]
    report(
        f"Hyperfitting, {name}",
        (
            "Hyperfitted",
            "Epochs",
            "Training loss",
            "Validation loss, before / after",
            "Entropy, before / after",
            "Type-token ratio",
            "Repeated bigrams",
            "Overlap with its samples",
        ),
        lines,
        "The last three columns: greedy texts before, texts sampled before at the temperature with that entropy, and "
        f"greedy texts after, of 96 tokens each. The text itself has a type-token ratio of {rows[0]['human']:.2f}. One "
        "run a line.",
        options.write,
    )


if __name__ == "__main__":
    main()
