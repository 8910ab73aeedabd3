"""Sliced Wasserstein distances: functions, a loss, a metric, and the control variates that make them precise."""

from thunderstone_estimators.sliced_wasserstein.choice import ControlVariate as ControlVariate
from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair as CloudPair
from thunderstone_estimators.sliced_wasserstein.directions import draw_directions as draw_directions
from thunderstone_estimators.sliced_wasserstein.distance import (
    sliced_wasserstein_distance as sliced_wasserstein_distance,
)
from thunderstone_estimators.sliced_wasserstein.harmonics import even_harmonics as even_harmonics
from thunderstone_estimators.sliced_wasserstein.loss import SlicedWassersteinLoss as SlicedWassersteinLoss
from thunderstone_estimators.sliced_wasserstein.max_sliced import (
    max_sliced_wasserstein_distance as max_sliced_wasserstein_distance,
)
from thunderstone_estimators.sliced_wasserstein.metric import SlicedWassersteinDistance as SlicedWassersteinDistance
from thunderstone_estimators.sliced_wasserstein.variates import Variate as Variate
