"""The demo's data: the split, and the wrong labels in it."""

from __future__ import annotations

import sys

import pytest
import torch

from thunderstone.demo.digits import noisy_digits
from thunderstone.errors import RequestError


def test_every_image_is_in_one_of_the_two_parts():
    digits = noisy_digits(0, examples=600)
    assert digits.images.shape == (600, 1, 8, 8)
    assert digits.test_images.shape == (1197, 1, 8, 8)
    everything = torch.cat([digits.images, digits.test_images])
    assert len(everything.flatten(1).unique(dim=0)) == len(noisy_digits(1).images) + len(noisy_digits(1).test_images)
    torch.testing.assert_close(everything.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(everything.std(), torch.tensor(1.0))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_stated_share_of_labels_is_wrong_and_the_others_are_true(share):
    digits = noisy_digits(3, examples=200, wrong=share)
    truth = noisy_digits(3, examples=200, wrong=0.0)
    assert torch.equal(digits.images, truth.images)
    assert int(digits.wrong.sum()) == round(200 * share)
    assert torch.equal(digits.labels != truth.labels, digits.wrong)
    assert torch.equal(digits.test_labels, truth.test_labels)


def test_wrong_labels_spread_over_all_other_classes():
    digits = noisy_digits(0, examples=1000, wrong=1.0)
    shift = (digits.labels - noisy_digits(0, examples=1000, wrong=0.0).labels) % 10
    counts = shift.bincount(minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 70  # 111 expected, standard deviation 10


def test_a_seed_decides_all_and_global_randomness_nothing():
    before = torch.get_rng_state()
    first = noisy_digits(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = noisy_digits(5), noisy_digits(6)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RequestError, match=r"HINT: pip install 'thunderstone\[demo\]'"):
        noisy_digits(0)
