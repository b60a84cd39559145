"""The fast row densities and moments against loops, and against the laws that they mean."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, multivariate_t
from small_designs import (
    by_equation,
    design_of,
    name,
    random_law,
    random_values,
    row,
    values_only,
    variants,
)

from bayeshmm.emissions import Autoregressive, Gaussian, quadratic
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.likelihood import log_likelihood, moments, weight_moments
from bayeshmm.emissions.tails import StudentT
from bayeshmm.nested import take

LENGTHS = [9, 7, 4]
N, T, D, K = 3, 9, 3, 2
DEGREES = 3.5
GAPS = [0.0, 0.3]


def small(family, missing, resolution=0.2):
    """Three short runs, one row of the second without any response."""
    values = random_values(N, T, D, seed=3, missing=missing)
    values[1, 4] = np.nan
    return design_of(values, family, LENGTHS, resolution)


def law_of(design, family, seed=0, **settings):
    degrees = DEGREES if family.noise == "student-t" else None
    return random_law(design.layout, K, seed=seed, degrees=degrees, **settings)


def each_row(design):
    """Places of the rows with a response."""
    return design.observed.any(-1).nonzero().tolist()


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("missing", GAPS)
@pytest.mark.parametrize("known", [False, True])
def test_rows_are_what_their_definition_says(family, missing, known):
    design = small(family, missing)
    assert (len(design.patterns) > 2) == (missing > 0)
    law = law_of(design, family, batch=(2, 1), runs=N)
    law = values_only(law) if known else law
    compare(design, law, 1)


@pytest.mark.parametrize("family", variants(run_effects=(False,)), ids=name)
@pytest.mark.parametrize("missing", GAPS)
@pytest.mark.parametrize("known", [False, True])
def test_every_run_may_have_its_own_law(family, missing, known):
    design = small(family, missing)
    law = law_of(design, family, batch=(2, N))
    law = values_only(law) if known else law
    compare(design, law, 1)


def compare(design, law, which):
    """Row for row, one of a batch of laws; also what is hidden of each row."""
    rows, hidden = log_likelihood(design, law)
    assert rows.shape == (2, N, T, K)
    completions, scale, log_scale = take(hidden, which)
    one, law = rows[which], take(law, which)
    assert (one[~design.observed.any(-1)] == 0).all()
    filled = {
        (n, t): (completion, i)
        for pattern, completion in zip(design.patterns, completions, strict=True)
        for i, (n, t) in enumerate(zip(pattern.run.tolist(), pattern.row.tolist(), strict=True))
    }
    for n, t in each_row(design):
        for k in range(K):
            expected = row(design, law, n, t, k)
            assert one[n, t, k].item() == pytest.approx(expected.log_likelihood, rel=1e-9)
            if (n, t) in filled:
                completion, i = filled[n, t]
                torch.testing.assert_close(completion.response[i, k], expected.response)
                part = n if law.coefficients.shape[-4] > 1 else 0
                torch.testing.assert_close(completion.covariance[part, k], expected.covariance)
            if law.tail is not None:
                shape = 0.5 * (DEGREES + int(design.observed[n, t].sum()))
                rate = 0.5 * (DEGREES + expected.distance)
                assert scale[n, t, k].item() == pytest.approx(shape / rate, rel=1e-9)
                logarithm = math.log(rate)
                digamma = torch.digamma(torch.tensor(shape, dtype=torch.float64)).item()
                assert log_scale[n, t, k].item() == pytest.approx(digamma - logarithm, rel=1e-9)


def reduced_form(design, law, n, t, k):
    """Location and scale matrix of a row: T^-1 (C x + effect) and T^-1 S T^-T."""
    past = design.layout.past
    place = (n if law.coefficients.shape[-4] > 1 else 0, k)
    coefficients = law.coefficients[place].numpy()
    matrix = np.eye(D)
    if design.layout.full:
        for j in range(D):
            matrix[j, :j] -= coefficients[j, past : past + j]
    drift = (coefficients[:, :past] * design.past[n, t].numpy()).sum(-1)
    if law.effects is not None:
        drift = drift + law.effects.mean[n, k].numpy()
    inverse = np.linalg.inv(matrix)
    return inverse @ drift, inverse @ np.diag(1 / law.precision[place].numpy()) @ inverse.T


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("missing", GAPS)
@pytest.mark.parametrize("by_run", [False, True])
def test_rows_have_the_marginals_of_one_multivariate_law(family, missing, by_run):
    """Normal or t, whatever is missing: its location and scale are those of the reduced form."""
    design = small(family, missing, resolution=0.0)
    law = values_only(law_of(design, family, runs=N))
    rows, hidden = log_likelihood(design, law.by_run() if by_run else law)
    for n, t in each_row(design):
        seen = design.observed[n, t].numpy()
        for k in range(K):
            location, scale = reduced_form(design, law, n, t, k)
            z, location, scale = design.response[n, t].numpy(), location[seen], scale[seen][:, seen]
            if law.tail is None:
                expected = multivariate_normal(location, scale).logpdf(z[seen])
            else:
                expected = multivariate_t(location, scale, DEGREES).logpdf(z[seen])
            assert rows[n, t, k].item() == pytest.approx(expected, rel=1e-10)
    for pattern, completion in zip(design.patterns, hidden.completions, strict=True):
        seen, gaps = pattern.observed.numpy(), pattern.missing.numpy()
        for i, (n, t) in enumerate(zip(pattern.run.tolist(), pattern.row.tolist(), strict=True)):
            location, scale = reduced_form(design, law, n, t, 0)
            gain = scale[:, seen] @ np.linalg.inv(scale[seen][:, seen])
            guess = location + gain @ (design.response[n, t].numpy() - location)[seen]
            left = scale - gain @ scale[seen]
            np.testing.assert_allclose(completion.response[i, 0, gaps], guess[gaps], rtol=1e-9)
            covariance = completion.covariance[n if by_run and law.effects else 0, 0]
            np.testing.assert_allclose(
                covariance[gaps][:, gaps], left[gaps][:, gaps], rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("family", [Gaussian(), Autoregressive(coupling="full")], ids=name)
def test_rows_without_any_response_are_skipped(family):
    design = small(family, 0.0)
    law = law_of(design, family, runs=N)
    rows, hidden = log_likelihood(design, law)
    assert (rows[1, 4] == 0).all()
    assert (rows[1, 3] != 0).all()
    states = torch.ones(N, T, K, dtype=torch.float64)
    altered = states.clone()
    altered[1, 4] = 7.0
    for one, other in zip(
        moments(design, states, hidden), moments(design, altered, hidden), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("missing", GAPS)
@pytest.mark.parametrize("by_run", [False, True])
def test_moments_equal_loops(family, missing, by_run):
    design = small(family, missing)
    layout = design.layout
    law = law_of(design, family, batch=(1,) if layout.run_effects or not by_run else (N,), runs=N)
    _, hidden = log_likelihood(design, law)
    generator = torch.Generator().manual_seed(1)
    states = torch.rand(N, T, K, generator=generator, dtype=torch.float64)
    total, counts, rounding, first = by_equation(
        moments(design, states, hidden, by_run=by_run), layout
    )
    expected, expected_counts = torch.zeros_like(total), torch.zeros_like(counts)
    expected_rounding = torch.zeros_like(counts)
    expected_first = torch.zeros(N, K, D, layout.regressors + 1, dtype=torch.float64)
    for n, t in each_row(design):
        for k in range(K):
            what = row(design, law, n, t, k)
            w = states[n, t, k]
            wu = w if hidden.scale is None else w * hidden.scale[n, t, k]
            for j in range(D):
                if not (design.observed[n, t, j] or (layout.full and what.response[j] != 0)):
                    continue
                pick = torch.zeros(layout.regressors + 1, D, dtype=torch.float64)
                if layout.full:
                    pick[layout.past : layout.past + j, :j] = torch.eye(j, dtype=torch.float64)
                pick[-1, j] = 1.0
                u = pick @ what.response
                u[: layout.past] = design.past[n, t, j]
                place = (n if by_run else 0, k, j)
                expected[place] += wu * torch.outer(u, u) + w * pick @ what.covariance @ pick.T
                expected_counts[place] += w
                expected_rounding[place] += wu * design.rounding[j] * design.observed[n, t, j]
                expected_first[n, k, j] += wu * u
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(counts, expected_counts)
    torch.testing.assert_close(rounding, expected_rounding)
    assert (first is not None) == layout.run_effects
    if first is not None:
        torch.testing.assert_close(first, expected_first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("missing", GAPS)
@pytest.mark.parametrize("many", [False, True])
def test_moments_along_paths_are_those_of_certain_states(family, missing, many, monkeypatch):
    """However they are summed; weights are then a row's own."""
    design = small(family, missing)
    monkeypatch.setattr(design.columns, "many", many)
    law = law_of(design, family, batch=(4, 1), runs=N)
    _, hidden = log_likelihood(design, law)
    if hidden.scale is not None:
        hidden = hidden._replace(scale=hidden.scale[..., :1])
    generator = torch.Generator().manual_seed(1)
    paths = torch.randint(K, (4, N, T), generator=generator)
    paths[:, torch.arange(T) >= torch.tensor(LENGTHS)[:, None]] = -1
    states = torch.nn.functional.one_hot(paths.clamp_min(0), K) * (paths >= 0)[..., None]
    along = moments(design, states.double(), hidden, paths=paths)
    monkeypatch.undo()
    expected = moments(design, states.double(), hidden)
    for one, other in zip(along, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_weights_count_the_rows_that_have_one():
    family = Gaussian()
    design = small(family, 0.3)
    _, hidden = log_likelihood(design, law_of(design, family, runs=N))
    states = torch.rand(N, T, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows, total = weight_moments(design, states, hidden)
    places = each_row(design)
    assert int(rows) == len(places) < sum(LENGTHS)
    expected = sum(
        states[n, t, k] * (hidden.log_scale[n, t, k] - hidden.scale[n, t, k])
        for n, t in places
        for k in range(K)
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    "family",
    [
        *variants(("diagonal",), ("student-t",)),
        Gaussian(noise="normal", run_effects=False),
        Autoregressive(lags=2),
    ],
    ids=name,
)
@pytest.mark.parametrize("rounding", [0.0, math.inf], ids=["residuals", "products"])
def test_gradients_of_both_orders(family, rounding, monkeypatch):
    """Of the densities that a user's own inference differentiates: parameters are values."""
    monkeypatch.setattr(quadratic, "ROUNDING", rounding)
    values = random_values(2, 4, 2, seed=4)
    values[0, 2, 0] = values[1, 1, 1] = np.nan
    design = design_of(values, family, [4, 3], 0.2)
    law = values_only(law_of(design, family, batch=(2, 1), runs=2)).by_run()
    inputs = [law.coefficients, law.precision, law.log_variance]
    if law.tail is not None:
        inputs.append(law.tail.degrees)

    def rows(coefficients, precision, log_variance, *degrees):
        tail = StudentT.value(*degrees) if degrees else None
        return log_likelihood(design, Law(coefficients, precision, log_variance, tail=tail))[0]

    inputs = [part.clone().requires_grad_() for part in inputs]
    assert torch.autograd.gradcheck(rows, inputs, fast_mode=True)
    weights = torch.randn(rows(*inputs).shape, generator=torch.Generator().manual_seed(0))
    weights = weights.double().requires_grad_()
    assert torch.autograd.gradgradcheck(rows, inputs, [weights], fast_mode=True)


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("known", [False, True])
def test_residuals_and_products_say_the_same(family, known, monkeypatch):
    """Also where residuals are formed in many small blocks."""
    design = design_of(random_values(rows=90), family, [90, 90, 70], 0.2)
    laws = [law_of(design, family, batch=(5, 1), runs=3)]
    if not family.run_effects:
        laws.append(law_of(design, family, batch=(3,)))
    for law in [values_only(law) if known else law for law in laws]:
        monkeypatch.setattr(quadratic, "ROUNDING", math.inf)
        products, _ = log_likelihood(design, law)
        monkeypatch.setattr(quadratic, "ROUNDING", 0.0)
        monkeypatch.setattr(quadratic, "BLOCK", 1)
        residuals, _ = log_likelihood(design, law)
        torch.testing.assert_close(products, residuals, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", variants(run_effects=(True,)), ids=name)
@pytest.mark.parametrize("missing", GAPS)
class TestRunEffects:
    """`Law.by_run` and `Law.of_runs`: the same law for the same rows."""

    def laws(self, family, missing):
        design = small(family, missing)
        return design, values_only(law_of(design, family, batch=(4, 1), runs=N))

    def test_as_part_of_each_runs_own_constant(self, family, missing):
        design, law = self.laws(family, missing)
        own = law.by_run()
        assert own.effects is None
        assert own.coefficients.shape == (4, N, K, D, design.layout.regressors)
        torch.testing.assert_close(
            log_likelihood(design, own)[0], log_likelihood(design, law)[0], rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(
            own.coefficients[..., 1:],
            law.coefficients[..., 1:].expand(own.coefficients[..., 1:].shape),
        )

    def test_of_some_runs(self, family, missing):
        design, law = self.laws(family, missing)
        some = torch.tensor([2, 0])
        whole, _ = log_likelihood(design, law)
        part, _ = log_likelihood(design.take(some), law.of_runs(some))
        torch.testing.assert_close(part, whole[:, some], rtol=1e-9, atol=1e-9)

    def test_nothing_to_do_without_effects(self, family, missing):
        _, law = self.laws(family, missing)
        alike = law._replace(effects=None)
        assert alike.by_run() is alike
        assert alike.of_runs(torch.tensor([1])) is alike

    def test_an_effect_of_zero_is_none(self, family, missing):
        design, law = self.laws(family, missing)
        nothing = law._replace(effects=Effects(torch.zeros_like(law.effects.mean)))
        alike, _ = log_likelihood(design, law._replace(effects=None))
        torch.testing.assert_close(
            log_likelihood(design, nothing)[0], alike, rtol=1e-10, atol=1e-10
        )
