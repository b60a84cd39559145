"""Log ratios of Dirichlet cells against the Dirichlet law itself."""

import torch
from pyro.distributions import Dirichlet
from scipy import stats

from bayeshmm.transitions.log_ratios import DirichletLogRatios, log_cells

CONCENTRATION = torch.tensor([[0.4, 2.0, 1.5], [3.0, 0.2, 0.7]], dtype=torch.float64)


def test_density_is_that_of_the_cells_times_their_jacobian():
    ratios = torch.tensor([[0.3, -1.2], [2.0, 0.5]], dtype=torch.float64)
    law = DirichletLogRatios(CONCENTRATION)
    assert (law.batch_shape, law.event_shape) == ((2,), (2,))
    for row, concentration, found in zip(ratios, CONCENTRATION, law.log_prob(ratios), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: log_cells(x).exp()[:-1], row)
        expected = Dirichlet(concentration).log_prob(log_cells(row).exp()) + jacobian.logdet()
        torch.testing.assert_close(found, expected)


def test_cells_of_draws_are_dirichlet():
    """Kolmogorov and Smirnov's tests of the marginals, with a false-alarm rate of 1e-3 in all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = log_cells(DirichletLogRatios(CONCENTRATION).sample((4000,))).exp()
    others = CONCENTRATION.sum(-1, keepdim=True) - CONCENTRATION
    for k in range(2):
        for c in range(3):
            law = stats.beta(CONCENTRATION[k, c].item(), others[k, c].item())
            assert stats.kstest(draws[:, k, c].numpy(), law.cdf).pvalue > 1e-3 / 6


def test_gradients_stay_finite_where_cells_are_next_to_nothing():
    ratios = torch.tensor([-5000.0, 900.0, 3.0], dtype=torch.float64, requires_grad=True)
    law = DirichletLogRatios(torch.tensor([1e-3, 0.02, 1e-6, 2.0], dtype=torch.float64))
    law.log_prob(ratios).backward()
    assert ratios.grad.isfinite().all()
