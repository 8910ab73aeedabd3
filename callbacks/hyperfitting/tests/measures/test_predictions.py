"""Entropy, top-1 probability and the matched temperature against float64 arithmetic in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures import (
    PredictionEntropy,
    Top1Probability,
    matched_temperature,
    prediction_entropy,
    top1_probability,
)


def probabilities(logits, temperature=1.0):
    weights = [math.exp((value - max(logits)) / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


def entropy(logits, temperature=1.0):
    return -sum(p * math.log(p) for p in probabilities(logits, temperature) if p > 0)


LOGITS = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.lists(st.floats(-20, 20), min_size=size, max_size=size), min_size=1, max_size=5)
)


@given(LOGITS)
def test_they_are_their_definitions(rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    expected = sum(map(entropy, rows)) / len(rows)
    assert prediction_entropy(logits).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    expected = sum(max(probabilities(row)) for row in rows) / len(rows)
    assert top1_probability(logits).item() == pytest.approx(expected, rel=1e-9)


def test_forbidden_tokens_count_for_nothing():
    logits = torch.tensor([[1.0, 2.0, -torch.inf]])
    torch.testing.assert_close(prediction_entropy(logits), prediction_entropy(logits[:, :2]))
    torch.testing.assert_close(top1_probability(logits), top1_probability(logits[:, :2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    logits = torch.randn(4, 7, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.testing.assert_close(prediction_entropy(logits), prediction_entropy(logits.float()))
    assert prediction_entropy(logits).dtype is torch.float32


def test_padding_does_not_count():
    logits = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([5, 0, 2])
    mask = torch.arange(5) < lengths.unsqueeze(1)
    logits[~mask] = torch.nan  # what stands there may be anything
    kept = logits[mask]
    for measure, make in ((prediction_entropy, PredictionEntropy), (top1_probability, Top1Probability)):
        expected = measure(kept)
        torch.testing.assert_close(measure(logits, mask), expected)
        torch.testing.assert_close(measure(logits, lengths=lengths), expected)
        metric = make()
        metric.update(logits[:1])
        metric.update(logits[1:2], lengths=lengths[1:2])  # nothing that counts
        metric.update(logits[2:], mask=mask[2:])
        torch.testing.assert_close(metric.compute(), expected)


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(-60, 60), min_size=4, max_size=4), min_size=1, max_size=4),
    st.floats(math.log(0.05), math.log(50)),
)
def test_the_matched_temperature_has_the_entropy_it_was_asked_for(rows, log_temperature):
    values = [[value / 4 for value in row] for row in rows]
    target = sum(entropy(row, math.exp(log_temperature)) for row in values) / len(values)
    ties = sum(math.log(row.count(max(row))) for row in values) / len(values)
    assume(ties + 1e-6 < target < math.log(4) - 1e-6)
    logits = torch.tensor(values, dtype=torch.float64)
    found = matched_temperature(logits, target, tolerance=1e-9)
    assert sum(entropy(row, found) for row in values) / len(values) == pytest.approx(target, abs=2e-9)


def test_the_matched_temperature_is_the_one_that_was_applied():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)) * 3
    for temperature in (0.01, 0.3, 1.0, 4.0):
        target = prediction_entropy(logits / temperature)
        tolerance = min(1e-5, target.item() * 1e-3)
        assert matched_temperature(logits, target, tolerance=tolerance) == pytest.approx(temperature, rel=1e-3)
    mask = torch.arange(50) < 20
    expected = matched_temperature(logits[:20], 1.0)
    assert matched_temperature(logits, 1.0, mask) == expected
    assert matched_temperature(logits.unsqueeze(0), 1.0, lengths=torch.tensor([20])) == expected


@pytest.mark.parametrize("entropy", [0.0, math.log(3), 5.0])
def test_an_entropy_no_temperature_has_is_refused(entropy):
    logits = torch.tensor([[1.0, 2.0, 5.0, -torch.inf]])
    with pytest.raises(ArgumentError, match=r"lies between 0 and 1\.099 at any temperature"):
        matched_temperature(logits, entropy)


def test_ties_set_the_lower_end():
    with pytest.raises(ArgumentError, match=r"lies between 0\.6931 and 1\.099"):
        matched_temperature(torch.tensor([[1.0, 1.0, 0.0]]), 0.5)
    with pytest.raises(ArgumentError, match=r"lies between 1\.099 and 1\.099"):
        matched_temperature(torch.ones(2, 3), math.log(3))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "low", None])
def test_a_bad_entropy_is_named(value):
    with pytest.raises(ArgumentError, match="entropy="):
        matched_temperature(torch.randn(2, 3), value)


def matched(logits, *arguments, **named):
    return matched_temperature(logits, 0.5, *arguments, **named)


@pytest.mark.parametrize("measure", [prediction_entropy, top1_probability, matched])
@pytest.mark.parametrize(
    ("argument", "logits", "arguments"),
    [
        ("logits", torch.tensor([[1.0, torch.nan]]), {}),
        ("logits", torch.tensor([[1.0, torch.inf]]), {}),
        ("logits", torch.tensor([[-torch.inf, -torch.inf]]), {}),
        ("logits", torch.tensor([[1, 2]]), {}),
        ("logits", torch.tensor(1.0), {}),
        ("logits", torch.zeros(3, 0), {}),
        ("logits", torch.zeros(0, 3), {}),
        ("logits", [[1.0, 2.0]], {}),
        ("mask", torch.zeros(2, 3), {"mask": torch.ones(3, dtype=torch.bool)}),
        ("mask", torch.zeros(2, 3), {"mask": torch.ones(2)}),
        ("logits", torch.zeros(2, 3), {"mask": torch.zeros(2, dtype=torch.bool)}),
        ("lengths", torch.zeros(2, 3), {"lengths": torch.ones(2, dtype=torch.int64)}),
        ("lengths", torch.zeros(2, 4, 3), {"lengths": torch.tensor([4, 5])}),
        ("lengths", torch.zeros(1, 1, 3), {"lengths": torch.tensor([1]), "mask": torch.ones(1, 1, dtype=torch.bool)}),
    ],
)
def test_bad_predictions_are_named(measure, argument, logits, arguments):
    with pytest.raises(ArgumentError, match="HINT") as caught:
        measure(logits, **arguments)
    assert caught.value.argument == argument


def test_a_metric_without_predictions_says_so():
    metric = PredictionEntropy()
    metric.update(torch.zeros(0, 3))
    with pytest.raises(ArgumentError, match=r"PredictionEntropy.*no prediction counts"):
        metric.compute()
