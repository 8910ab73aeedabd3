"""How much faster a network gets when channels are removed: seconds of a forward pass and of an update, as shares.

Run it as ``python benchmarks/pruning_structured.py``; both networks take turns in one process.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from thunderstone_pruning import plan_channels, sparsity_report

ROUNDS = 8


class Residual(nn.Module):
    """A basic residual block."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def network() -> nn.Module:
    """Two blocks of 64 channels, two of 128."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        Residual(64, 64),
        Residual(64, 64),
        Residual(64, 128),
        Residual(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def update(net: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    return step


def main() -> None:
    x = torch.randn(16, 3, 32, 32)
    whole = network()
    for ratio in (0.25, 0.5, 0.75):
        smaller = copy.deepcopy(whole)
        plan_channels(whole, lambda m: m(x), ratio).apply(smaller)
        forward: list[float] = []
        training: list[float] = []
        steps = [update(net.train(), x) for net in (whole, smaller)]
        for number in range(ROUNDS + 2):
            with torch.no_grad():
                passes = [seconds(lambda net=net: net(x)) for net in (smaller, whole)]
            updates = [seconds(step) for step in reversed(steps)]
            if number >= 2:
                forward.append(passes[0] / passes[1])
                training.append(updates[0] / updates[1])
        sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (smaller, whole)]
        flops = [sparsity_report(net, example_inputs=x).flops or 0 for net in (smaller, whole)]
        print(
            f"{ratio:.2f}: {sizes[0] / sizes[1]:.3f} of the weights, {flops[0] / flops[1]:.3f} of the FLOPs; in time "
            f"{statistics.median(forward):.2f} of a forward pass, {statistics.median(training):.2f} of an update",
            flush=True,
        )


if __name__ == "__main__":
    main()
