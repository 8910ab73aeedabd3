"""The gradient of any LightningModule with less variance, and how much variance it has."""

from thunderstone_estimators.gradients.gradient_variance import GradientVariance as GradientVariance
from thunderstone_estimators.gradients.svrg import SVRG as SVRG
