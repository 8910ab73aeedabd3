"""Every score-function estimator: exact anchors, no bias, own parameters left to themselves, and what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

from thunderstone import ArgumentError, strategies
from thunderstone_estimators import ARM, NVIL, REBAR, RELAX, DisARM, LeaveOneOut, MuProp, Reinforce, VarGrad

REPETITIONS = 100_000


class Control(nn.Module):
    """A smooth function of z, the same every time."""

    def __init__(self, vector=True):
        super().__init__()
        self.vector = vector
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, z):
        value = self.scale * torch.tanh(z / 2)
        return value.sum(-1) if self.vector else value


def estimators(vector):
    """All, those with parameters in a state that is not their best."""
    nvil = NVIL()
    nvil.mean.fill_(0.2)
    return {
        "reinforce": Reinforce(),
        "reinforce_3": Reinforce(3),
        "leave_one_out": LeaveOneOut(2),
        "leave_one_out_5": LeaveOneOut(5),
        "vargrad": VarGrad(3),
        "nvil": nvil,
        "muprop": MuProp(),
        "rebar": REBAR(temperature=0.7, eta=0.8),
        "relax": RELAX(Control(vector)),
        "relax_both": RELAX(Control(vector), relaxed=True, num_samples=2),
        "arm": ARM(),
        "disarm": DisARM(2),
    }


NAMES = list(estimators(True))
ANY_DISTRIBUTION = ["reinforce", "leave_one_out", "vargrad", "nvil", "muprop"]


def independent_gradients(estimator, phi, function):
    """The estimator's gradient with respect to the logits, REPETITIONS times, (REPETITIONS, *phi.shape)."""
    logits = torch.as_tensor(phi, dtype=torch.float64).expand(REPETITIONS, *torch.as_tensor(phi).shape)
    logits = logits.clone().requires_grad_()
    distribution = Bernoulli(logits=logits)
    if logits.dim() > 1:
        distribution = Independent(distribution, logits.dim() - 1)
    return torch.autograd.grad(estimator(distribution, function).surrogate.sum(), logits)[0]


# -- exact anchors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "phi", "t", "mean", "variance"),
    [
        ("reinforce", 0.0, 0.499, 5e-4, 0.015625),
        ("leave_one_out", 0.0, 0.499, 5e-4, 2.5e-7),
        ("vargrad_2", 0.0, 0.499, 5e-4, 2.5e-7),
        ("arm", 0.0, 0.499, 5e-4, 8.333e-8),
        ("disarm_1", 0.0, 0.499, 5e-4, 0.0),
        ("reinforce", 1.0, 0.45, 0.0196612, 0.01035),
        ("leave_one_out", 1.0, 0.45, 0.0196612, 5.965e-4),
        ("vargrad_2", 1.0, 0.45, 0.0196612, 5.965e-4),
        ("arm", 1.0, 0.45, 0.0196612, 3.645e-4),
        ("disarm_1", 1.0, 0.45, 0.0196612, 3.321e-4),
    ],
)
def test_mean_and_variance_for_one_bernoulli(name, phi, t, mean, variance):
    """f(b) = (b - t)^2: what the papers' formulas give in closed form."""
    estimator = {**estimators(False), "vargrad_2": VarGrad(2), "disarm_1": DisARM()}[name]
    gradients = independent_gradients(estimator, phi, lambda b: (b - t).square())
    error = math.sqrt(max(variance, 1e-30) / REPETITIONS)
    assert gradients.mean().item() == pytest.approx(mean, abs=5 * error + 5e-8)
    assert gradients.var().item() == pytest.approx(variance, rel=0.03, abs=1e-20)


# -- without bias ------------------------------------------------------------------------------------------------------

PHI = torch.tensor([-1.0, 0.3, 1.2], dtype=torch.float64)


def coupled(b):
    """Not a sum over the variables, and not quadratic."""
    return (b[..., 0] * 2 - b[..., 1] + 0.5 * b[..., 2] * b[..., 0]).tanh() + (b.sum(-1) - 0.4).square() / 3


def exact_gradient(function):
    phi = PHI.clone().requires_grad_()
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    probabilities = Independent(Bernoulli(logits=phi), 1).log_prob(states).exp()
    return torch.autograd.grad((probabilities * function(states)).sum(), phi)[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_unbiased_for_several_coupled_variables(name):
    gradients = independent_gradients(estimators(True)[name], PHI, coupled)
    error = gradients.std(0) / math.sqrt(REPETITIONS)
    assert ((gradients.mean(0) - exact_gradient(coupled)).abs() < 5 * error).all()
    assert (error < 0.01).all()


@pytest.mark.parametrize("name", ANY_DISTRIBUTION)
def test_the_gradient_is_unbiased_for_a_normal(name):
    """E z^2 = mu^2 + sigma^2."""
    mu = torch.full((REPETITIONS,), 0.7, dtype=torch.float64, requires_grad=True)
    sigma = torch.full((REPETITIONS,), 1.3, dtype=torch.float64, requires_grad=True)
    surrogate = estimators(False)[name](Normal(mu, sigma), torch.square).surrogate
    for gradients, expected in zip(torch.autograd.grad(surrogate.sum(), (mu, sigma)), (1.4, 2.6), strict=True):
        assert abs(gradients.mean().item() - expected) < 5 * gradients.std().item() / math.sqrt(REPETITIONS)


@pytest.mark.parametrize("name", ["reinforce", "leave_one_out", "vargrad", "nvil", "muprop"])
def test_categorical_draws_are_taken_too(name):
    logits = torch.tensor([0.1, 0.5, -0.4], dtype=torch.float64)
    cost = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    exact = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad((exact.softmax(-1) * cost).sum(), exact)
    many = logits.expand(REPETITIONS, 3).clone().requires_grad_()
    surrogate = estimators(True)[name](OneHotCategorical(logits=many), lambda z: (z * cost).sum(-1)).surrogate
    (gradients,) = torch.autograd.grad(surrogate.sum(), many)
    # MuProp's expansion of a linear f is f itself: no variance, and the spread is rounding.
    error = gradients.std(0) / math.sqrt(REPETITIONS) + 1e-12
    assert ((gradients.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("name", NAMES)
def test_values_and_the_gradient_of_f_itself_are_right(name):
    """A parameter of f alone: its gradient is the plain mean of f's, whatever is done about the draws."""
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    logits = PHI.expand(REPETITIONS, 3).clone().requires_grad_()
    estimate = estimators(True)[name](Independent(Bernoulli(logits=logits), 1), lambda b: weight * coupled(b))
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    expected = (Independent(Bernoulli(logits=PHI), 1).log_prob(states).exp() * coupled(states)).sum().item()
    error = 5 * coupled(states).std().item() / math.sqrt(REPETITIONS)
    assert estimate.values.mean().item() == pytest.approx(1.5 * expected, abs=1.5 * error)
    torch.testing.assert_close(estimate.terms.detach(), estimate.values)
    (gradient,) = torch.autograd.grad(estimate.surrogate.mean(), weight)
    assert gradient.item() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_draws_average_to_that_of_the_surrogate(name):
    estimator = estimators(True)[name]
    estimator.num_samples = 4
    logits = PHI.expand(2, 3).clone().requires_grad_()
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    estimate = estimator(Independent(Bernoulli(logits=logits), 1), coupled)
    whole, nothing = estimate.per_sample_gradients([logits, unused])
    assert whole.shape == (4, 2, 3)
    assert whole.std(0).max() > 0
    assert not nothing.any()
    torch.testing.assert_close(whole.mean(0), torch.autograd.grad(estimate.surrogate.sum(), logits)[0])


@pytest.mark.parametrize(("name", "variance"), [("reinforce", 0.01035), ("arm", 3.645e-4), ("disarm", 3.321e-4)])
def test_gradients_of_draws_have_the_estimators_variance(name, variance):
    """The anchors again, measured the way a user measures: by the draws of one call."""
    estimator = estimators(False)[name]
    estimator.num_samples = 1000
    logit = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (gradients,) = estimator(Bernoulli(logits=logit), lambda b: (b - 0.45).square()).per_sample_gradients([logit])
    assert gradients.shape == (1000,)
    assert gradients.mean().item() == pytest.approx(0.0196612, abs=5 * math.sqrt(variance / 1000))
    assert gradients.var().item() == pytest.approx(variance, rel=0.25)


@pytest.mark.parametrize("name", ["arm", "disarm", "rebar", "leave_one_out"])
def test_probabilities_serve_as_well_as_logits(name):
    """The gradient goes on to whatever the logits were made of."""
    probabilities = torch.full((REPETITIONS,), 0.3, dtype=torch.float64, requires_grad=True)
    surrogate = estimators(False)[name](Bernoulli(probs=probabilities), lambda b: 2 * b + 1).surrogate
    (gradients,) = torch.autograd.grad(surrogate.sum(), probabilities)
    error = gradients.std().item() / math.sqrt(REPETITIONS)
    assert gradients.mean().item() == pytest.approx(2, abs=5 * error + 1e-9)


# -- each one's own ----------------------------------------------------------------------------------------------------


def test_vargrad_has_no_variance_at_the_posterior():
    """f + log q is constant where q is the normalised exp(-f)."""
    logits = PHI.clone().requires_grad_()
    target = Independent(Bernoulli(logits=PHI), 1)
    distribution = Independent(Bernoulli(logits=logits), 1)
    estimate = VarGrad(4, entropy=1)(distribution, lambda b: -target.log_prob(b) + 3)
    (gradient,) = torch.autograd.grad(estimate.surrogate, logits)
    assert gradient.abs().max().item() < 1e-14
    torch.testing.assert_close(estimate.values, torch.full((4,), 3.0, dtype=torch.float64))
    (noisy,) = torch.autograd.grad(
        LeaveOneOut(4)(distribution, lambda b: distribution.log_prob(b) - target.log_prob(b) + 3).surrogate, logits
    )
    assert noisy.abs().max().item() > 1e-3


def test_vargrad_estimates_the_gradient_of_the_evidence_bound():
    logits = PHI.expand(REPETITIONS, 3).clone().requires_grad_()
    surrogate = VarGrad(2, entropy=1)(Independent(Bernoulli(logits=logits), 1), coupled).surrogate
    (gradients,) = torch.autograd.grad(surrogate.sum(), logits)
    probability = PHI.sigmoid()
    expected = exact_gradient(coupled) + PHI * probability * (1 - probability)  # of the negative entropy
    error = gradients.std(0) / math.sqrt(REPETITIONS)
    assert ((gradients.mean(0) - expected).abs() < 5 * error).all()


def test_vargrad_without_entropy_is_leave_one_out():
    logits = PHI.clone().requires_grad_()
    found = []
    for estimator in (VarGrad(5), LeaveOneOut(5)):
        torch.manual_seed(0)
        surrogate = estimator(Independent(Bernoulli(logits=logits), 1), coupled).surrogate
        found.append(torch.autograd.grad(surrogate, logits)[0])
    torch.testing.assert_close(found[0], found[1])


def test_nvil_uses_the_moments_of_earlier_calls_only():
    logits = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    estimator = NVIL(decay=0.5, normalize=True)
    first = estimator(Bernoulli(logits=logits), lambda b: 10 * b)
    assert first.scale == 1
    (gradient,) = torch.autograd.grad(first.surrogate.sum(), logits)
    torch.testing.assert_close(gradient, first.values[0] * (first.draws[0] - 0.5))
    mean, variance = first.values.mean().item() / 2, first.values.var(correction=0).item() / 2
    assert estimator.mean.item() == pytest.approx(mean)
    assert estimator.variance.item() == pytest.approx(variance)
    second = estimator(Bernoulli(logits=logits), lambda b: 10 * b)
    assert second.scale == pytest.approx(math.sqrt(variance))
    (gradient,) = torch.autograd.grad(second.surrogate.sum(), logits)
    torch.testing.assert_close(gradient, (second.values[0] - mean) / second.scale * (second.draws[0] - 0.5))
    estimator.eval()
    kept = estimator.mean.clone()
    estimator(Bernoulli(logits=logits), lambda b: 10 * b)
    assert torch.equal(estimator.mean, kept)
    assert set(estimator.state_dict()) == {"mean", "variance"}


def test_nvil_learns_its_baseline():
    """f depends on the context; a baseline that knows it takes that part of the variance away."""
    context = torch.linspace(-3, 3, 64, dtype=torch.float64).unsqueeze(-1)
    baseline = nn.Sequential(nn.Linear(1, 1, dtype=torch.float64), nn.Flatten(0))
    estimator = NVIL(baseline=baseline)
    logits = torch.zeros(64, dtype=torch.float64, requires_grad=True)

    def estimate():
        return estimator(Bernoulli(logits=logits), lambda b: b + 5 * context.squeeze(-1), context)

    def variance():
        return torch.autograd.grad(estimate().surrogate.sum(), logits)[0].var().item()

    before = variance()
    optimizer = torch.optim.SGD(estimator.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        estimate().auxiliary.backward()
        optimizer.step()
    assert logits.grad is None
    assert variance() < before / 20


@pytest.mark.parametrize("name", ["rebar", "relax", "relax_both"])
def test_the_control_variate_learns_to_reduce_variance(name):
    torch.manual_seed(1)
    estimator = {
        "rebar": REBAR(eta=-1.0),
        "relax": RELAX(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(-2)).double()),
        "relax_both": RELAX(Control(), relaxed=True, eta=-1.0),
    }[name]
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    logits = PHI.expand(500, 3).clone().requires_grad_()

    def estimate():
        return estimator(Independent(Bernoulli(logits=logits), 1), lambda b: weight * coupled(b))

    def variance():
        gradients = [torch.autograd.grad(estimate().surrogate.sum(), logits)[0] for _ in range(10)]
        return torch.cat(gradients).var(0).sum().item()

    before = variance()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        estimate().auxiliary.backward()
        optimizer.step()
    assert variance() < 0.7 * before
    # Neither the distribution nor f is to learn from the estimator's own loss.
    assert logits.grad is None
    assert weight.grad is None


def test_the_auxiliary_loss_is_the_squared_norm_and_its_gradient():
    estimator = REBAR(temperature=0.7, eta=0.8).double()
    logits = PHI.expand(4, 3).clone().requires_grad_()

    def auxiliary():
        torch.manual_seed(0)
        return estimator(Independent(Bernoulli(logits=logits), 1), coupled)

    estimate = auxiliary()
    (gradients,) = torch.autograd.grad(estimate.surrogate.sum(), logits)
    assert estimate.auxiliary.item() == pytest.approx(gradients.square().sum(-1).mean().item())
    (slope,) = torch.autograd.grad(auxiliary().auxiliary, estimator.eta)
    with torch.no_grad():
        estimator.eta += 1e-5
        above = auxiliary().auxiliary.item()
        estimator.eta -= 2e-5
        below = auxiliary().auxiliary.item()
    assert slope.item() == pytest.approx((above - below) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", ["arm", "disarm", "rebar", "relax"])
@pytest.mark.parametrize("phi", [-200.0, 200.0])
def test_certain_draws_give_finite_gradients(name, phi):
    logits = torch.full((8,), phi, requires_grad=True)
    estimate = estimators(False)[name](Bernoulli(logits=logits), lambda b: b.square())
    estimate.loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_the_loss_trains_distribution_and_estimator_together():
    estimator = REBAR()
    logits = torch.zeros(16, 3, requires_grad=True)
    optimizer = torch.optim.Adam([logits, *estimator.parameters()], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        estimator(Independent(Bernoulli(logits=logits), 1), lambda b: b.square().sum(-1)).loss.backward()
        optimizer.step()
    assert (logits.sigmoid() < 0.3).float().mean() > 0.9
    assert estimator.eta.item() != 1.0


# -- declarations and refusals -----------------------------------------------------------------------------------------


def test_all_are_declared():
    declared = strategies("estimators.score_function")
    assert {spec.load() for spec in declared.values()} == {
        *(Reinforce, LeaveOneOut, VarGrad, NVIL, MuProp, REBAR, RELAX, ARM, DisARM)
    }


@pytest.mark.parametrize("name", ["arm", "disarm", "rebar", "relax"])
def test_other_distributions_are_refused_where_bernoulli_is_needed(name):
    with pytest.raises(ArgumentError, match="Bernoulli variables only"):
        estimators(False)[name](Normal(torch.zeros(3), torch.ones(3)), lambda z: z)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "function",
    [lambda b: b, lambda b: b.sum(), lambda b: b.sum(-1) / 0, lambda b: 1.0],
    ids=["shape", "scalar", "infinite", "number"],
)
def test_functions_that_return_something_else_are_named(name, function):
    with pytest.raises(ArgumentError, match="HINT") as caught:
        estimators(True)[name](Independent(Bernoulli(logits=torch.zeros(2, 3)), 1), function)
    assert caught.value.argument == "function"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_distribution_is_named(name):
    with pytest.raises(ArgumentError) as caught:
        estimators(True)[name](torch.zeros(3), coupled)
    assert caught.value.argument == "distribution"


@pytest.mark.parametrize(
    ("argument", "build"),
    [
        ("num_samples", lambda: Reinforce(0)),
        ("num_samples", lambda: LeaveOneOut(1)),
        ("num_samples", lambda: VarGrad(1)),
        ("entropy", lambda: VarGrad(2, entropy=math.nan)),
        ("num_samples", lambda: ARM(0)),
        ("num_samples", lambda: DisARM(1.5)),
        ("decay", lambda: NVIL(decay=1)),
        ("normalize", lambda: NVIL(normalize="yes")),
        ("num_samples", lambda: MuProp(0)),
        ("temperature", lambda: REBAR(temperature=0)),
        ("eta", lambda: REBAR(eta=math.inf)),
        ("control", lambda: RELAX(None)),
    ],
)
def test_bad_arguments_are_named(argument, build):
    with pytest.raises(ArgumentError, match="HINT") as caught:
        build()
    assert caught.value.argument == argument


def test_baselines_and_controls_of_the_wrong_shape_are_named():
    distribution = Bernoulli(logits=torch.zeros(4))
    with pytest.raises(ArgumentError, match="baseline"):
        NVIL(baseline=nn.Linear(2, 1))(distribution, lambda b: b, torch.zeros(4, 2))
    with pytest.raises(ArgumentError, match="context"):
        NVIL(baseline=nn.Linear(2, 1))(distribution, lambda b: b)
    with pytest.raises(ArgumentError, match="control"):
        RELAX(nn.Unflatten(-1, (4, 1)))(distribution, lambda b: b)


def test_muprop_needs_a_gradient_at_the_mean():
    with pytest.raises(ArgumentError, match="not differentiable"):
        MuProp()(Bernoulli(logits=torch.zeros(4)), lambda b: (b > 0.5).float())
