"""Global magnitude masks of many weights, beside torch.kthvalue and torch.topk alone.

    python benchmarks/pruning_topk.py                  100 million weights in 20 layers
    python benchmarks/pruning_topk.py --write          and put the table into RESULTS.md

kthvalue and topk are given all scores in one tensor, made beforehand, and find the threshold or the largest; the masks
are made from the layers as they are, threshold, ties and all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from side_by_side import Line, arguments, interleaved, paired, report, verdict, with_interval
from torch import Tensor

from thunderstone_pruning import global_masks

LAYERS, SIZE = 20, 5_000_000
DENSITIES = (0.8, 0.5, 0.1)
LIMIT = 1.2


def seconds(call: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure


def layers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Scales that differ by layer, as trained weights have.
    return {
        f"layer{number:02d}": torch.randn(SIZE, generator=generator).mul_(0.02 + 0.01 * (number % 5)).abs_()
        for number in range(LAYERS)
    }


def main() -> None:
    options = arguments(__doc__ or "", rounds=5)
    torch.set_num_threads(1)
    scores = layers()
    together = torch.cat(list(scores.values()))
    total = together.numel()
    lines = []
    for density in DENSITIES:
        keep = round(density * total)
        masks = global_masks(scores, keep)
        assert sum(int(torch.count_nonzero(mask)) for mask in masks.values()) == keep
        del masks
        times = interleaved(
            {
                "masks": seconds(lambda keep=keep: global_masks(scores, keep)),  # type: ignore[misc]
                "kthvalue": seconds(lambda keep=keep: torch.kthvalue(together, total - keep + 1)),  # type: ignore[misc]
                "topk": seconds(lambda keep=keep: torch.topk(together, keep, sorted=False)),  # type: ignore[misc]
            },
            options.rounds,
        )
        middle = {name: statistics.median(values) for name, values in times.items()}
        faster = min(("kthvalue", "topk"), key=middle.__getitem__)
        ratios = {name: paired(times["masks"], times[name]) for name in ("kthvalue", "topk")}
        lines.append(
            Line(
                f"{density:.0%} stay",
                (
                    f"{middle['masks']:.2f} s",
                    f"{middle['kthvalue']:.2f} s",
                    f"{middle['topk']:.2f} s",
                    with_interval(ratios["kthvalue"]),
                    with_interval(ratios["topk"]),
                    verdict(ratios[faster], LIMIT),
                ),
            )
        )
    report(
        "Global exact masks",
        ["100 million weights", "Masks", "kthvalue", "topk", "Ratio to kthvalue", "Ratio to topk", "By the faster"],
        lines,
        f"Masks of the largest of {total // 10**6} million scores in {LAYERS} layers, one thread, beside the threshold "
        "(`torch.kthvalue`) or the largest (`torch.topk`, unsorted) of the same scores in one tensor; "
        f"{options.rounds} interleaved rounds, medians and 95% bootstrap intervals of paired ratios.",
        options.write,
    )


if __name__ == "__main__":
    main()
