"""Measures of generated texts and of a model's predictions: a function and a torchmetrics class each.

Texts are ids (N, L) with lengths or an end token, or lists of ids; what follows a text's end never counts.
"""

from __future__ import annotations

from thunderstone_hyperfitting.measures.bleu import self_bleu
from thunderstone_hyperfitting.measures.overlap import longest_overlap
from thunderstone_hyperfitting.measures.prediction_metrics import PredictionEntropy, Top1Probability
from thunderstone_hyperfitting.measures.predictions import prediction_entropy, top1_probability
from thunderstone_hyperfitting.measures.ratios import distinct_n, repetition_n, type_token_ratio
from thunderstone_hyperfitting.measures.temperature import matched_temperature
from thunderstone_hyperfitting.measures.text_metrics import (
    DistinctN,
    RepetitionN,
    SelfBLEU,
    TrainingOverlap,
    TypeTokenRatio,
)

__all__ = [
    "DistinctN",
    "PredictionEntropy",
    "RepetitionN",
    "SelfBLEU",
    "Top1Probability",
    "TrainingOverlap",
    "TypeTokenRatio",
    "distinct_n",
    "longest_overlap",
    "matched_temperature",
    "prediction_entropy",
    "repetition_n",
    "self_bleu",
    "top1_probability",
    "type_token_ratio",
]
