"""What a metric's name says of what is better."""

from __future__ import annotations

import pytest

from thunderstone.comparison.direction import direction

SMALLER = """
loss Val/Loss valloss val_nll testNLL ppl perplexity rmse val/RMSE mae MAE wer test_CER word_error_rate cross_entropy
bpd FID ece MeanSquaredError val_loss/dataloader_idx_0 neg_log_likelihood loss1
"""
LARGER = """
val_acc accuracy valAcc F1Score f1 AUROC top5_acc acc5 bleu4 rougeL reward/mean R2 MulticlassAccuracy mIoU
neg_mean_squared_error log_likelihood
"""


@pytest.mark.parametrize(("mode", "names"), [("min", SMALLER), ("max", LARGER)])
def test_words_of_the_name_say_what_is_better(mode, names):
    assert {name: direction(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


@pytest.mark.parametrize("name", ["norm", "glossary", "mercy", "metric", "acc_loss", "", "lr-SGD", "42", "x/y"])
def test_a_name_that_says_nothing_or_both_is_left_open(name):
    assert direction(name) is None
