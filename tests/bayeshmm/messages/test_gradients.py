"""First derivatives are the posterior; second derivatives are right or nothing."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_value
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from bayeshmm import messages
from bayeshmm.messages import kernel, reference
from bayeshmm.messages.chain import check

SETTINGS = [
    pytest.param(1, False, id="plain"),
    pytest.param([1, 3, 2], False, id="dwell per state"),
    pytest.param(2, True, id="matrix per step"),
    pytest.param(9, False, id="dwell longer than the runs"),
]


def inputs(per_step: bool, seed: int = 0) -> list[Tensor]:
    """Two sets of parameters for three runs."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 1, 3), (2, 1, 5, 3, 3) if per_step else (2, 1, 3, 3), (2, 3, 6, 3)]
    return [
        torch.randn(shape, dtype=torch.float64, generator=g).requires_grad_() for shape in shapes
    ]


def log_marginal(dwell):
    return lambda *x: messages.log_marginal(*x, lengths=[6, 4, 1], minimum_dwell=dwell)


@pytest.mark.parametrize(("dwell", "per_step"), SETTINGS)
def test_gradient_and_its_gradient_against_differences(dwell, per_step):
    assert gradcheck(log_marginal(dwell), inputs(per_step), atol=1e-8)
    assert gradgradcheck(log_marginal(dwell), inputs(per_step), atol=1e-7)


@pytest.mark.parametrize("zeros", [False, True], ids=["positive", "exact zeros"])
@pytest.mark.parametrize(("dwell", "per_step"), SETTINGS)
def test_hessian_against_differences_of_the_compiled_gradient(dwell, per_step, zeros):
    """Of all finite inputs; with zeros, one run is impossible, and has no share in it."""
    x = inputs(per_step)
    sizes = [v.numel() for v in x]
    template = torch.cat([v.detach().reshape(-1) for v in x])
    if zeros:
        log_initial, log_transition, rows = (v.detach().clone() for v in x)
        log_initial[0, 0, 0] = log_transition[..., 0, 2] = rows[:, 0, 2, 1] = -torch.inf
        rows[1, 1, 0] = -torch.inf
        template = torch.cat([v.reshape(-1) for v in (log_initial, log_transition, rows)])
    finite = template.isfinite()

    def total(values: Tensor) -> Tensor:
        flat = template.masked_scatter(finite, values)
        parts = [p.reshape(v.shape) for p, v in zip(flat.split(sizes), x, strict=True)]
        return log_marginal(dwell)(*parts).sum()

    def gradient(values: Tensor) -> Tensor:
        values = values.clone().requires_grad_()
        return torch.autograd.grad(total(values), values)[0]

    point = template[finite]
    hessian = torch.autograd.functional.hessian(total, point)
    shifts = 1e-5 * torch.eye(len(point), dtype=torch.float64)
    columns = [(gradient(point + s) - gradient(point - s)) / 2e-5 for s in shifts]
    torch.testing.assert_close(hessian, torch.stack(columns, 1), rtol=0, atol=1e-8)
    assert hessian.abs().max() > 0.1 or dwell == 9
    assert bool(total(point).isneginf()) == zeros


def test_laplace_approximation_has_the_curvature_of_the_posterior():
    """Pyro takes a Hessian by a graph of gradients: second differences of values agree."""
    g = torch.Generator().manual_seed(4)
    data = torch.randn(6, 12, 1, dtype=torch.float64, generator=g)
    data[:, 6:] += 2.0

    def log_density(location: Tensor, logit: Tensor) -> Tensor:
        """Two levels with unit noise; a probability of staying, the same for both."""
        rows = -0.5 * (data - location) ** 2
        move = torch.stack([logit, -logit]) / 2
        log_transition = torch.stack([move, move.flip(0)]).log_softmax(-1)
        log_initial = torch.full((2,), 0.5, dtype=torch.float64).log()
        return messages.log_marginal(log_initial, log_transition, rows, minimum_dwell=2).sum()

    scale = torch.tensor(3.0, dtype=torch.float64)

    def model() -> None:
        location = pyro.sample("location", dist.Normal(0 * scale, scale).expand([2]).to_event(1))
        logit = pyro.sample("logit", dist.Normal(0 * scale, scale))
        pyro.factor("runs", log_density(location, logit))

    start = {"location": torch.tensor([0.0, 2.0]).double(), "logit": torch.tensor(1.0).double()}
    with pyro.get_param_store().scope():
        guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_value(values=start))
        guide()
        optimiser = torch.optim.LBFGS(
            guide.parameters(), max_iter=50, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = Trace_ELBO().differentiable_loss(model, guide)
            value.backward()
            return value

        optimiser.step(loss)
        mode = guide.loc.detach().clone()
        got = guide.laplace_approximation().get_posterior().stddev.detach()

    def log_posterior(z: Tensor) -> Tensor:
        return log_density(z[:2], z[2]) - 0.5 * (z / scale).square().sum()

    h = 1e-3 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():  # values of the marginal-only pass
        hessian = torch.stack(
            [
                torch.stack(
                    [
                        log_posterior(mode + a + b)
                        - log_posterior(mode + a - b)
                        - log_posterior(mode - a + b)
                        + log_posterior(mode - a - b)
                        for b in h
                    ]
                )
                for a in h
            ]
        ) / (4 * 1e-3**2)
    expected = torch.linalg.inv(-hessian).diagonal().sqrt()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=0)
    assert expected.max() < 1  # the data have spoken


def test_gradient_is_the_expected_counts():
    x = inputs(per_step=False)
    weight = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]], dtype=torch.float64)
    (log_marginal(2)(*x) * weight).sum().backward()
    counts = messages.expected_counts(*x, lengths=[6, 4, 1], minimum_dwell=2)
    expected = (
        (counts.initial * weight[..., None]).sum(1, keepdim=True),
        (counts.transition * weight[..., None, None]).sum(1, keepdim=True),
        counts.state * weight[..., None, None],
    )
    for v, count in zip(x, expected, strict=True):
        torch.testing.assert_close(v.grad, count, rtol=0, atol=1e-14)
    assert not any(count.requires_grad for count in counts)


def test_graph_of_a_gradient_is_the_same_gradient():
    x = inputs(per_step=False)
    plain = torch.autograd.grad(log_marginal(2)(*x).sum(), x)
    graph = torch.autograd.grad(log_marginal(2)(*x).sum(), x, create_graph=True)
    for a, b in zip(plain, graph, strict=True):
        assert not a.requires_grad
        assert b.requires_grad
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_derivatives_where_one_input_is_computed_from_another():
    def value(scalar: Tensor) -> Tensor:
        log_initial = (scalar * torch.arange(2.0).double()).log_softmax(-1)
        log_transition = torch.stack([log_initial, 2 * log_initial])
        rows = log_initial * torch.tensor([[1.0], [-2.0], [0.5]]).double()
        return messages.log_marginal(log_initial, log_transition, rows)

    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(value, x)
    assert gradgradcheck(value, x)
    (plain,) = torch.autograd.grad(value(x), x)
    (graph,) = torch.autograd.grad(value(x), x, create_graph=True)
    torch.testing.assert_close(plain, graph.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", [kernel, reference], ids=["compiled", "torch"])
def test_zeros_have_zero_gradients_and_impossible_runs_have_none(backend):
    """A left-to-right chain; the second run visits what it cannot reach."""
    log_initial = torch.tensor([1.0, 0.0], dtype=torch.float64).log().requires_grad_()
    log_transition = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64).log()
    log_transition.requires_grad_()
    rows = torch.zeros(2, 4, 2, dtype=torch.float64)
    rows[0, 2, 0] = -torch.inf
    rows[1, 0, 0] = -torch.inf
    rows.requires_grad_()
    value = backend.log_marginal(check(log_initial, log_transition, rows))
    assert value[0].isfinite()
    assert value[1] == -torch.inf
    grads = torch.autograd.grad(value.sum(), (log_initial, log_transition, rows), create_graph=True)
    for gradient in grads:
        assert gradient.isfinite().all()
    assert grads[0][1] == 0
    assert grads[1][1, 0] == 0
    assert grads[2][0, 2, 0] == 0
    assert not grads[2][1].any()
    again = torch.autograd.grad(sum((g**2).sum() for g in grads), rows)[0]
    assert again.isfinite().all()
    assert again.any()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_only_what_is_asked_for_has_a_gradient(wanted):
    """The other inputs are constants, also where a graph of the gradient is asked for."""

    def derivatives(x: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients, and those of their squares, with respect to the inputs that are wanted."""
        some = [x[i] for i in wanted]
        first = torch.autograd.grad(log_marginal(2)(*x).sum(), some, create_graph=True)
        return *first, *torch.autograd.grad(sum((v**2).sum() for v in first), some)

    every = inputs(per_step=False)
    x = [v.detach().requires_grad_(i in wanted) for i, v in enumerate(inputs(per_step=False))]
    for got, expected in zip(derivatives(x), derivatives(every), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    log_marginal(2)(*x).sum().backward()
    assert [v.grad is not None for v in x] == [i in wanted for i in range(3)]
    with torch.no_grad():
        assert not log_marginal(1)(*x).requires_grad


def test_gradients_return_to_single_precision():
    x = [v.detach().float().requires_grad_() for v in inputs(per_step=False)]
    value = log_marginal(1)(*x)
    assert value.dtype == torch.float64
    value.sum().backward()
    assert all(v.grad.dtype == torch.float32 for v in x)
