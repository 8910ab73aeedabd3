"""Whether a metric is better when it is larger or when it is smaller, as far as its name says."""

from __future__ import annotations

import re
from itertools import pairwise

# fmt: off
_SMALLER = frozenset((
    "loss", "error", "err", "nll", "ce", "bce", "xent", "crossentropy", "ppl", "perplexity", "bpb", "bpc", "bpd",
    "mse", "rmse", "rmsle", "mae", "mape", "smape", "wer", "cer", "ter", "mer", "eer", "ece", "brier", "crps", "fid",
    "kid", "lpips", "fpr", "fnr", "regret", "divergence", "kl", "kld", "distance", "hinge", "deviance", "aic", "bic",
))
_LARGER = frozenset((
    "acc", "accuracy", "auc", "auroc", "auprc", "f1", "fbeta", "dice", "iou", "miou", "jaccard", "precision", "recall",
    "sensitivity", "specificity", "bleu", "rouge", "meteor", "chrf", "reward", "return", "score", "likelihood", "elbo",
    "r2", "psnr", "ssim", "map", "mrr", "ndcg", "mcc", "kappa", "correlation", "pearson", "spearman", "correct",
))
# fmt: on
_ENDINGS = ("loss", "error", "perplexity")  # `valloss`, `testerror`
_TURNED = frozenset({"neg", "negative"})  # scikit-learn's `neg_mean_squared_error` is better when larger
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")


def direction(metric: str) -> str | None:
    """``"max"`` or ``"min"``: what is better by the words of a metric's name; None where they do not say, or disagree.

    `val_loss`, `test/WER` and `valNLL` are better when smaller, `val_acc` and `F1Score` when larger.
    """
    words = [word.lower() for word in _WORD.findall(metric)]
    # `acc1` and `bleu4` are of the kind of `acc` and `bleu`, and `mIoU` is one word.
    known = {*words, *(word.rstrip("0123456789") for word in words), *re.split(r"[\W_]+", metric.lower())}
    smaller = bool(known & _SMALLER) or any(word.endswith(_ENDINGS) for word in known)
    smaller = smaller or ("cross", "entropy") in pairwise(words)
    larger = bool(known & _LARGER)
    if smaller == larger:
        return None
    return "min" if smaller != bool(_TURNED.intersection(words)) else "max"
