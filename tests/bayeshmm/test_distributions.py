"""`HiddenMarkov`: its density, its draws, and its life inside Pyro."""

import doctest
import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLaplaceApproximation, AutoNormal
from pyro.infer.inspect import get_model_relations
from pyro.infer.mcmc.util import initialize_model
from scipy.stats import chisquare, norm

import bayeshmm.distributions
from bayeshmm import HiddenMarkov, messages

from .messages.enumeration import Law

FALSE_ALARM = 1e-4  # of every statistical check, over seeds; here they are fixed


pytestmark = pytest.mark.usefixtures("pyro_scope")


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


class Example:
    """A law with unit Gaussian rows, a value, and the density of that value by enumeration."""

    def __init__(
        self,
        *,
        K=3,
        T=5,
        event=(),
        initial=(),
        transition=(),
        mean=(),
        value=(),
        lengths=None,
        observed=None,
        steps=False,
        rows=False,
        dwell=1,
    ):
        self.K, self.T, self.dwell = K, T, dwell
        self.initial = normal(*initial, K)
        self.transition = normal(*transition, *([T - 1] if steps else []), K, K)
        self.mean = normal(*mean, *([T] if rows else []), K, *event)
        self.value = normal(*value, T, *event)
        self.lengths = None if lengths is None else torch.randint(1, T + 1, lengths)
        self.observed = None if observed is None else torch.rand(*observed, T) < 0.7
        self.steps, self.rows, self.event = steps, rows, len(event)
        self.law = HiddenMarkov(
            self.initial,
            self.transition,
            dist.Normal(self.mean, 1.0).to_event(self.event),
            duration=T,
            lengths=self.lengths,
            observed=self.observed,
            minimum_dwell=dwell,
            time_varying_transition=steps,
            time_varying_observation=rows,
        )
        batches = [initial, transition, mean, lengths or (), observed or ()]
        self.batch = np.broadcast_shapes(*batches)
        self.whole = np.broadcast_shapes(self.batch, value)

    def runs(self):
        """Laws of the runs by enumeration, in the order of the batch of law and value."""
        T, K, dwell = self.T, self.K, self.dwell
        transition = self.transition if self.steps else self.transition.unsqueeze(-3)
        mean = self.mean if self.rows else self.mean.unsqueeze(-2 - self.event)
        rows = norm.logpdf(self.value.unsqueeze(-1 - self.event), mean)
        rows = rows.reshape(*rows.shape[: rows.ndim - self.event], -1).sum(-1)
        if self.observed is not None:
            rows = np.where(self.observed[..., None], rows, 0.0)
        lengths = torch.tensor(T) if self.lengths is None else self.lengths
        log_initial, log_transition = self.initial.log_softmax(-1), transition.log_softmax(-1)
        for i in np.ndindex(self.whole):
            n = np.broadcast_to(lengths, self.whole)[i]
            yield Law(
                np.broadcast_to(log_initial, (*self.whole, K))[i],
                np.broadcast_to(log_transition, (*self.whole, T - 1, K, K))[i][: n - 1],
                np.broadcast_to(rows, (*self.whole, T, K))[i][:n],
                (dwell,) * K if isinstance(dwell, int) else dwell,
            )

    def expected(self, name):
        """An attribute of the laws, 0 beyond a run's length."""
        found = [np.asarray(getattr(run, name), float) for run in self.runs()]
        if found[0].ndim:
            found = [np.pad(x, ((0, self.T - len(x)), (0, 0))) for x in found]
        return np.reshape(found, (*self.whole, *found[0].shape))


BATCHES = {
    "one run": {},
    "several values": {"value": (2, 3)},
    "a law for every run": {"initial": (2,), "transition": (2,), "mean": (2,), "value": (2,)},
    "laws across values": {"initial": (3, 1), "transition": (3, 1), "mean": (3, 1), "value": (2,)},
    "only means": {"mean": (2,)},
    "only transitions": {"transition": (2, 1), "value": (3,)},
    "only initial laws": {"initial": (2,), "value": (3, 1)},
    "everything else than means": {"initial": (1, 2), "transition": (3, 1), "value": (3, 2)},
    "lengths": {"lengths": (4,), "value": (4,)},
    "lengths of one value": {"lengths": (4,)},
    "missing rows": {"observed": (4,), "value": (4,)},
    "missing rows of one value": {"observed": (4,)},
    "missing rows and lengths": {"observed": (3, 1), "lengths": (2,), "value": (3, 2)},
}


class TestDensity:
    @pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
    @pytest.mark.parametrize("steps", [False, True], ids=["", "transitions"])
    @pytest.mark.parametrize("rows", [False, True], ids=["", "observations"])
    @pytest.mark.parametrize("dwell", [1, (1, 2, 3)])
    def test_is_the_sum_over_paths(self, batch, steps, rows, dwell):
        example = Example(**batch, steps=steps, rows=rows, dwell=dwell)
        log_prob = example.law.log_prob(example.value)
        assert log_prob.shape == example.whole
        np.testing.assert_allclose(log_prob, example.expected("log_marginal"), rtol=1e-13)

    @pytest.mark.parametrize("event", [(), (2,), (2, 3)])
    @pytest.mark.parametrize("rows", [False, True], ids=["", "observations"])
    def test_any_event(self, event, rows):
        options = {"mean": (2, 1), "observed": (2, 3), "lengths": (3,), "rows": rows}
        example = Example(event=event, value=(3,), dwell=2, **options)
        assert example.law.event_shape == (5, *event)
        np.testing.assert_allclose(
            example.law.log_prob(example.value),
            example.expected("log_marginal"),
            rtol=1e-13,
            atol=1e-13,
        )

    @pytest.mark.parametrize("varying", [False, True])
    def test_is_that_of_pyro_with_a_transition_before_the_first_row(self, varying):
        K, T = 3, 8
        leaves = {
            "initial": normal(K),
            "transition": normal(*([T] if varying else []), K, K),
            "mean": normal(*([T] if varying else []), K, 2),
        }
        value = normal(4, T, 2)

        def rows(mean):
            return dist.Normal(mean, 0.7).to_event(1)

        def pyros(initial, transition, mean):
            return dist.DiscreteHMM(initial, transition, rows(mean), duration=T)

        def ours(initial, transition, mean):
            A = transition.log_softmax(-1)
            first = A[0] if varying else A
            return HiddenMarkov(
                (initial.log_softmax(-1)[:, None] + first).logsumexp(-2),
                A[1:] if varying else A,
                rows(mean),
                time_varying_transition=varying,
                time_varying_observation=varying,
            )

        results = []
        for law in (ours, pyros):
            inputs = {name: x.clone().requires_grad_() for name, x in leaves.items()}
            log_prob = law(**inputs).log_prob(value)
            gradient = torch.autograd.grad(
                log_prob @ torch.arange(1.0, 5).double(), inputs.values()
            )
            results.append([log_prob, *gradient])
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)

    def test_is_in_double_precision(self):
        initial, transition, mean, value = normal(2), normal(2, 2), normal(2), normal(3, 200)
        half = HiddenMarkov(initial.float(), transition.float(), dist.Normal(mean.float(), 1.0))
        log_prob = half.log_prob(value.float())
        assert log_prob.dtype == torch.float64
        full = HiddenMarkov(initial, transition, dist.Normal(mean, 1.0)).log_prob(value)
        torch.testing.assert_close(log_prob, full, rtol=1e-6, atol=0)

    def test_a_chain_that_never_goes_back(self):
        """-inf among the logits gives finite derivatives, and a value out of reach -inf."""
        logits = torch.tensor([[0.0, 1.0], [-torch.inf, 0.5]], requires_grad=True)
        means = torch.tensor([-20.0, 20.0])
        law = HiddenMarkov(
            torch.tensor([0.0, -torch.inf]), logits, dist.Uniform(means - 10, means + 10, False)
        )
        value = torch.tensor([[-20.0, -20, 20], [-20, 20, -20]])
        log_prob = law.log_prob(value)
        stay, go = logits.detach()[0].double().log_softmax(-1)
        assert log_prob[0].item() == pytest.approx((stay + go - 3 * np.log(20)).item(), rel=1e-6)
        assert log_prob[1] == -torch.inf
        (gradient,) = torch.autograd.grad(log_prob[0], logits)
        expected = torch.tensor([[2 - 2 * stay.exp(), -2 * go.exp()], [0.0, 0.0]]) - torch.tensor(
            [[1.0, -1.0], [0.0, 0.0]]
        )
        torch.testing.assert_close(gradient, expected.float())

    @pytest.mark.parametrize("varying", [False, True])
    def test_one_row_and_one_state(self, varying):
        one = Example(T=1, value=(2,), steps=varying, rows=varying, dwell=2)
        expected = (
            one.initial.log_softmax(-1)
            + one.law.observation_dist.log_prob(one.value[..., None])[:, 0]
        ).logsumexp(-1)
        torch.testing.assert_close(one.law.log_prob(one.value), expected, rtol=1e-13, atol=0)
        same = Example(K=1, value=(2,), steps=varying, rows=varying)
        expected = same.law.observation_dist.log_prob(same.value[..., None])[..., 0].sum(-1)
        torch.testing.assert_close(same.law.log_prob(same.value), expected, rtol=1e-13, atol=0)
        assert one.law.sample((3,)).shape == (3, 1)

    def test_any_number_of_rows_where_nothing_tells_it(self):
        law = HiddenMarkov(normal(2), normal(2, 2), dist.Normal(normal(2), 1.0))
        assert law.duration is None
        assert law.event_shape == (1,)
        value = normal(7)
        by_prefix = torch.stack([law.log_prob(value[:n]) for n in (3, 7)])
        padded = HiddenMarkov(
            law.initial_logits, law.transition_logits, law.observation_dist, lengths=[3, 7]
        )
        torch.testing.assert_close(padded.log_prob(value), by_prefix)


class TestRowsThatAreNotRead:
    @pytest.mark.parametrize("varying", [False, True])
    def test_they_may_hold_anything(self, varying):
        """LogNormal: a zero in place of what is missing would be outside the support."""
        N, T, K = 3, 6, 2
        observed = torch.ones(N, T, dtype=torch.bool)
        observed[0, 0] = observed[1, 2:4] = observed[2, :] = False
        lengths = torch.tensor([4, 6, 5])
        read = observed & (torch.arange(T) < lengths[:, None])
        leaves = [normal(K), normal(K, K), normal(*([N, T] if varying else []), K)]
        value = normal(N, T).exp()

        def evaluate(value):
            initial, transition, mean, value = (
                x.clone().requires_grad_() for x in (*leaves, value)
            )
            log_prob = HiddenMarkov(
                initial,
                transition,
                dist.LogNormal(mean, 1.0),
                lengths=lengths,
                observed=observed,
                minimum_dwell=2,
                time_varying_observation=varying,
            ).log_prob(value)
            inputs = (initial, transition, mean, value)
            return log_prob.detach(), *torch.autograd.grad(log_prob.sum(), inputs)

        expected = evaluate(value)
        assert expected[0][2].item() == pytest.approx(0.0, abs=1e-12)
        assert torch.equal(expected[-1] != 0, read)
        for junk in (torch.nan, torch.inf, -1.0):
            for mine, its in zip(evaluate(torch.where(read, value, junk)), expected, strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-13, atol=1e-13)

    def test_a_nan_that_is_read_is_an_error(self):
        value = normal(3, 6)
        value[1, 4] = torch.nan
        law = HiddenMarkov(normal(2), normal(2, 2), dist.Normal(normal(2), 1.0), lengths=[6, 5, 6])
        with pytest.raises(ValueError, match="support"):
            law.log_prob(value)

    def test_observed_throughout(self):
        """The batch is that of the law, whatever the mask says."""
        observed = torch.ones(4, 5, dtype=torch.bool)
        law = HiddenMarkov(normal(2), normal(2, 2), dist.Normal(normal(2), 1.0), observed=observed)
        assert law.log_prob(normal(5)).shape == law.batch_shape == (4,)

    def test_nothing_read_at_all(self):
        observed = torch.zeros(2, 1, 5, dtype=torch.bool)
        law = HiddenMarkov(
            normal(2), normal(2, 2), dist.LogNormal(normal(2), 1.0), observed=observed
        )
        log_prob = law.log_prob(torch.full((3, 5), torch.nan))
        torch.testing.assert_close(log_prob, torch.zeros(2, 3).double(), rtol=0, atol=1e-12)


class TestPosterior:
    @pytest.fixture(params=[False, True], ids=["", "varying"])
    def example(self, request):
        options = {"lengths": (2,), "observed": (2,), "value": (2,), "dwell": (1, 2, 2)}
        return Example(mean=(2, 1), steps=request.param, rows=request.param, **options)

    def test_probabilities(self, example):
        law, value = example.law, example.value
        near = {"rtol": 0, "atol": 1e-12}
        np.testing.assert_allclose(law.smooth(value), example.expected("state"), **near)
        np.testing.assert_allclose(law.filter(value), example.expected("filtered"), **near)
        counts = law.expected_counts(value)
        np.testing.assert_allclose(counts.initial, example.expected("entry")[..., 0, :], **near)
        np.testing.assert_allclose(counts.log_marginal, law.log_prob(value), rtol=1e-14)

    def test_paths(self, example):
        law, value = example.law, example.value
        best = [list(run.best) + [-1] * (example.T - run.n) for run in example.runs()]
        assert law.viterbi(value).path.reshape(-1, example.T).tolist() == best
        generator = torch.Generator().manual_seed(7)
        before = torch.get_rng_state()
        paths = law.sample_paths(value, (20_000,), generator=generator)
        assert torch.equal(torch.get_rng_state(), before)
        assert paths.shape == (20_000, *example.whole, example.T)
        for run, drawn in zip(example.runs(), paths.flatten(1, -2).unbind(1), strict=True):
            check_frequencies(drawn[:, : run.n], run.paths.states, run.probability)
            assert (drawn[:, run.n :] == -1).all()


def check_frequencies(drawn, outcomes, probability):
    """Chi-square of drawn sequences of whole numbers; what has no probability does not occur."""
    number = {tuple(outcome): i for i, outcome in enumerate(np.asarray(outcomes).tolist())}
    counts = np.bincount(
        [number[tuple(sequence)] for sequence in drawn.tolist()], minlength=len(number)
    )
    expected = np.asarray(probability, float) * len(drawn)
    assert counts.sum() == pytest.approx(expected.sum(), rel=1e-9)
    rare = expected < 10
    assert counts[expected == 0].sum() == 0
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    if expected[-1] < 10:
        observed, expected = observed[:-1], expected[:-1]
        expected *= observed.sum() / expected.sum()
    assert len(expected) == 1 or chisquare(observed, expected).pvalue > FALSE_ALARM


def all_sequences(symbols, T):
    return torch.tensor(list(itertools.product(range(symbols), repeat=T)))


class TestDraws:
    @pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
    @pytest.mark.parametrize("varying", [False, True], ids=["", "varying"])
    @pytest.mark.parametrize("event", [(), (2, 3)])
    def test_shapes(self, batch, varying, event):
        example = Example(**batch, event=event, steps=varying, rows=varying)
        law = example.law
        assert law.batch_shape == example.batch
        assert law.event_shape == (5, *event)
        assert law.support.event_dim == law.event_dim == 1 + len(event)
        assert not law.has_rsample
        for sample_shape in ((), (4,), (2, 1)):
            value = law.sample(sample_shape)
            assert value.shape == law.shape(torch.Size(sample_shape))
            assert law.log_prob(value).shape == (*sample_shape, *example.batch)
            assert law.support.check(value.nan_to_num(0.0)).shape == (*sample_shape, *example.batch)
        independent = law.to_event(len(law.batch_shape))
        assert independent.log_prob(value).shape == (2, 1)

    @pytest.mark.parametrize("dwell", [(1, 1, 1), (3, 3, 3), (2, 1, 4)])
    @pytest.mark.parametrize("varying", [False, True], ids=["", "varying"])
    def test_the_path_is_that_of_the_chain(self, dwell, varying):
        """Every state shows itself, so that rows are paths; impossible ones never occur."""
        K, T = 3, 6
        initial, transition = normal(K), normal(*([T - 1] if varying else []), K, K)
        transition[..., 0, 2] = -torch.inf
        law = HiddenMarkov(
            initial,
            transition,
            dist.Categorical(torch.eye(K)),
            duration=T,
            minimum_dwell=dwell,
            time_varying_transition=varying,
        )
        steps = transition.log_softmax(-1).expand(T - 1, K, K)
        exact = Law(initial.log_softmax(-1).numpy(), steps.numpy(), np.zeros((T, K)), dwell)
        check_frequencies(law.sample((50_000,)), exact.paths.states, exact.probability)

    @pytest.mark.parametrize("dwell", [1, 2])
    @pytest.mark.parametrize("varying", [False, True], ids=["", "varying"])
    def test_rows_have_the_density_that_is_computed(self, dwell, varying):
        K, T, symbols = 2, 4, 3
        law = HiddenMarkov(
            normal(K),
            normal(*([T - 1] if varying else []), K, K),
            dist.Categorical(logits=normal(*([T] if varying else []), K, symbols)),
            duration=T,
            minimum_dwell=dwell,
            time_varying_transition=varying,
            time_varying_observation=varying,
        )
        outcomes = all_sequences(symbols, T)
        probability = law.log_prob(outcomes).exp()
        assert probability.sum().item() == pytest.approx(1, abs=1e-12)
        check_frequencies(law.sample((50_000,)), outcomes, probability)

    def test_moments(self):
        """Means, squares and products of the rows: 14 comparisons at 5 standard errors."""
        T = 4
        mean, scale = torch.tensor([0.0, 3.0]).double(), torch.tensor([1.0, 0.5]).double()
        transition = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).double()
        law = HiddenMarkov(torch.zeros(2), transition.log(), dist.Normal(mean, scale), duration=T)
        state = [torch.tensor([0.5, 0.5]).double()]
        for _ in range(T - 1):
            state.append(state[-1] @ transition)
        value = law.sample((100_000,))
        for s in range(T):
            near(value[:, s], mean @ state[s])
            near(value[:, s] ** 2, state[s] @ (mean**2 + scale**2))
            for t in range(s + 1, T):
                product = (mean * state[s]) @ transition.matrix_power(t - s) @ mean
                near(value[:, s] * value[:, t], product)

    def test_runs_of_a_batch_are_independent(self):
        """Laws that differ in nothing give different runs, and so do expanded ones."""
        law = HiddenMarkov(
            torch.zeros(2), torch.eye(2) * 2, dist.Categorical(torch.eye(2)), duration=2
        )
        one = law.log_prob(outcomes := all_sequences(2, 2)).exp()
        pairs = torch.cat([outcomes.repeat_interleave(4, 0), outcomes.repeat(4, 1)], -1)
        probability = one.repeat_interleave(4) * one.repeat(4)
        drawn = law.expand([3, 2]).sample((5_000,)).flatten(0, 1).flatten(1)
        check_frequencies(drawn, pairs, probability)

    def test_padding_is_nan_or_zero(self):
        lengths, inside = torch.tensor([2, 5]), torch.arange(5) < torch.tensor([[2], [5]])
        rows = HiddenMarkov(
            normal(2),
            normal(2, 2),
            dist.Normal(normal(2, 3), 1).to_event(1),
            duration=5,
            lengths=lengths,
        ).sample((7,))
        assert torch.equal(rows.isnan().any(-1), ~inside.expand(7, 2, 5))
        assert torch.equal(rows.isnan().all(-1), ~inside.expand(7, 2, 5))
        whole = HiddenMarkov(
            normal(2),
            normal(2, 2),
            dist.Categorical(torch.tensor([[0.0, 1], [0.0, 1]])),
            duration=5,
            lengths=lengths,
        ).sample((7,))
        assert torch.equal(whole == 1, inside.expand(7, 2, 5))

    def test_they_take_the_global_random_numbers(self):
        law = Example(mean=(3,)).law
        first, second = (torch.manual_seed(seed) and law.sample() for seed in (1, 1))
        assert torch.equal(first, second)
        assert not torch.equal(first, law.sample())


def near(values, expected):
    """A mean, within 5 standard errors (a false alarm in two million)."""
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < 5 * error


class TestExpand:
    def test_density(self):
        example = Example(mean=(3,), lengths=(1,), observed=(3,), steps=True, dwell=2)
        expanded = example.law.expand((4, 2, 3))
        assert isinstance(expanded, HiddenMarkov)
        assert expanded.batch_shape == (4, 2, 3)
        assert expanded.event_shape == example.law.event_shape
        log_prob = expanded.log_prob(example.value)
        assert log_prob.shape == (4, 2, 3)
        expected = example.law.log_prob(example.value).expand(4, 2, 3)
        torch.testing.assert_close(log_prob, expected, rtol=1e-14, atol=0)
        assert expanded.sample((5,)).shape == (5, 4, 2, 3, 5)
        assert example.law.batch_shape == (3,)
        assert example.law.expand_by((2,)).batch_shape == (2, 3)

    def test_nothing_is_copied(self):
        law = Example(transition=(3,)).law
        assert law.expand((1000, 3)).initial_logits.data_ptr() == law.initial_logits.data_ptr()

    @pytest.mark.parametrize("shape", [(2,), (), (3, 2)])
    def test_what_does_not_fit(self, shape):
        with pytest.raises(RuntimeError):
            Example(transition=(3,)).law.expand(shape)


N, T = 6, 30


def model(values, subsample=None, subsample_size=None, lengths=None):
    """Two states: everything learned but the scale of the rows."""
    initial = pyro.sample("initial", dist.Dirichlet(torch.ones(2).double()))
    stay = torch.tensor([[8.0, 2], [2, 8]]).double()
    transition = pyro.sample("transition", dist.Dirichlet(stay).to_event(1))
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1]).double(), 2.0).to_event(1))
    law = dist.Normal(mean, 0.6)
    with pyro.plate("runs", N, subsample=subsample, subsample_size=subsample_size) as run:
        rows = HiddenMarkov(
            initial.log(),
            transition.log(),
            law,
            duration=T,
            lengths=None if lengths is None else lengths[run],
            minimum_dwell=2,
        )
        return pyro.sample("rows", rows, obs=None if values is None else values[run])


TRUTH = {
    "initial": torch.tensor([0.9, 0.1]).double(),
    "transition": torch.tensor([[0.8, 0.2], [0.3, 0.7]]).double(),
    "mean": torch.tensor([-1.0, 2.0]).double(),
}


@pytest.fixture
def values():
    """Rows of six runs."""
    return poutine.condition(model, TRUTH)(None)


def log_joint(model, *args, **options):
    trace = poutine.trace(model).get_trace(*args, **options)
    trace.compute_log_prob()
    return trace


class TestInPyro:
    def test_subsamples_of_the_runs_are_unbiased(self, values):
        """The scaled density, averaged over all subsamples, is that of all runs."""
        fixed = poutine.condition(model, TRUTH)
        lengths = torch.tensor([30, 20, 5, 30, 1, 29])
        whole = log_joint(fixed, values, lengths=lengths).nodes["rows"]["log_prob_sum"]
        parts = [
            log_joint(fixed, values, torch.tensor(runs), lengths=lengths).nodes["rows"]
            for runs in itertools.combinations(range(N), 2)
        ]
        assert all(part["log_prob"].shape == (2,) for part in parts)
        average = torch.stack([part["log_prob_sum"] for part in parts]).mean()
        torch.testing.assert_close(average, whole, rtol=1e-12, atol=0)

    def test_masks_and_scales(self, values):
        fixed = poutine.condition(model, TRUTH)
        each = log_joint(fixed, values).nodes["rows"]["log_prob"]
        keep = torch.tensor([True, False, True, True, False, True])
        masked = log_joint(poutine.mask(fixed, keep), values).nodes["rows"]["log_prob_sum"]
        torch.testing.assert_close(masked, each[keep].sum(), rtol=1e-13, atol=0)
        scaled = log_joint(poutine.scale(fixed, 0.25), values).nodes["rows"]["log_prob_sum"]
        torch.testing.assert_close(scaled, each.sum() / 4, rtol=1e-13, atol=0)
        hidden = poutine.block(fixed, hide=["rows"])
        assert "rows" not in log_joint(hidden, values).nodes

    @pytest.mark.parametrize("runs", [None, [4, 1, 2]])
    def test_particles_may_come_as_one_batch(self, values, runs):
        """The loss is that of a loop over the particles with the same draws."""
        drawn = {}

        def guide(values, subsample):
            laws = {
                "initial": dist.Dirichlet(torch.tensor([3.0, 2]).double()),
                "transition": dist.Dirichlet(torch.tensor([[6.0, 2], [3, 4]]).double()).to_event(1),
                "mean": dist.Normal(TRUTH["mean"], 0.5).to_event(1),
            }
            drawn.update({name: pyro.sample(name, law) for name, law in laws.items()})

        subsample = None if runs is None else torch.tensor(runs)
        P = N if runs is None else len(runs)  # as many as runs: a mistaken axis would go unnoticed
        elbo = Trace_ELBO(num_particles=P, vectorize_particles=True, max_plate_nesting=1)
        loss = elbo.loss(model, guide, values, subsample)
        assert drawn["mean"].shape == (P, 1, 2)
        particles = [{name: x[i, 0] for name, x in drawn.items()} for i in range(P)]
        ratios = [
            log_joint(poutine.condition(model, own), values, subsample).log_prob_sum()
            - log_joint(poutine.condition(guide, own), values, subsample).log_prob_sum()
            for own in particles
        ]
        assert loss == pytest.approx(-sum(ratios).item() / P, rel=1e-12)

    def test_predictive(self, values):
        posterior = {name: value.expand(7, 1, *value.shape) for name, value in TRUTH.items()}
        drawn = [
            Predictive(model, posterior, parallel=parallel)(None)["rows"]
            for parallel in (False, True)
        ]
        assert all(rows.shape == (7, N, T) for rows in drawn)
        prior = Predictive(model, num_samples=9, parallel=True)(None)
        assert prior["rows"].shape == (9, N, T)
        assert len(prior["rows"].unique()) == 9 * N * T

    def test_relations_of_the_sites(self, values):
        """What `pyro.render_model` draws."""
        for rows in (values, None):
            relations = get_model_relations(model, (rows,))
            assert relations["observed"] == ([] if rows is None else ["rows"])
            assert relations["plate_sample"] == {"runs": ["rows"]}
            assert relations["sample_dist"]["rows"] == "HiddenMarkov"
            assert set(relations["sample_sample"]["rows"]) == set(TRUTH)

    def test_rows_may_be_latent(self):
        """A run that was not observed has a density on the whole line, and guides for it."""
        guide = AutoDiagonalNormal(poutine.condition(model, TRUTH))
        svi = SVI(
            poutine.condition(model, TRUTH), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()
        )
        assert np.isfinite([svi.step(None) for _ in range(3)]).all()
        assert guide.get_posterior().mean.shape == (N * T,)


class TestInference:
    @pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal])
    def test_the_truth_is_found(self, values, guide):
        guide = guide(model)
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.995}), elbo)
        for _ in range(300):
            svi.step(values)
        median = guide.median()
        torch.testing.assert_close(median["mean"], TRUTH["mean"], rtol=0, atol=0.25)
        torch.testing.assert_close(median["transition"], TRUTH["transition"], rtol=0, atol=0.15)

    def test_laplace_has_the_curvature_of_the_log_joint(self, values):
        guide = AutoLaplaceApproximation(model)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(200):
            svi.step(values)
        posterior = guide.laplace_approximation(values).get_posterior()
        _, potential, transforms, _ = initialize_model(model, (values,))
        shapes = {name: transforms[name](value).shape for name, value in TRUTH.items()}

        def energy(z):
            parts = z.split([shape.numel() for shape in shapes.values()])
            unconstrained = zip(shapes.items(), parts, strict=True)
            return potential({name: part.reshape(shape) for (name, shape), part in unconstrained})

        hessian = second_differences(energy, guide.loc.detach())
        deviation = torch.linalg.inv(hessian).diagonal().sqrt()
        assert len(deviation) == 5
        torch.testing.assert_close(posterior.stddev, deviation, rtol=1e-4, atol=0)

    def test_nuts_finds_the_posterior(self):
        """One unknown: against the posterior on a grid, at 5 standard errors of 100 good draws."""
        transition = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double()

        def rows(mean):
            means = torch.stack([mean, mean + 2], -1)
            return HiddenMarkov(torch.zeros(2), transition.log(), dist.Normal(means, 1.0))

        def one_unknown(value):
            mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0).double(), 2.0))
            pyro.sample("rows", rows(mean), obs=value)

        value = normal(20) + 2 * (torch.arange(20) > 12)
        grid = torch.linspace(-3, 3, 601).double()
        weight = (rows(grid).log_prob(value) - grid**2 / 8).softmax(0)
        mean = weight @ grid
        deviation = (weight @ (grid - mean) ** 2).sqrt()
        mcmc = MCMC(NUTS(one_unknown), 250, 100, disable_progbar=True)
        mcmc.run(value)
        drawn = mcmc.get_samples()["mean"]
        assert abs(drawn.mean() - mean) < 0.5 * deviation
        assert abs(drawn.std() / deviation - 1) < 0.36


def second_differences(function, at, h=1e-3):
    """Hessian from values alone."""
    shift = h * torch.eye(len(at), dtype=at.dtype)
    return torch.stack(
        [
            torch.stack(
                [
                    function(at + a + b)
                    - function(at + a - b)
                    - function(at - a + b)
                    + function(at - a - b)
                    for b in shift
                ]
            )
            for a in shift
        ]
    ) / (4 * h * h)


LAW = {
    "initial_logits": torch.zeros(2),
    "transition_logits": torch.zeros(2, 2),
    "observation_dist": dist.Normal(torch.zeros(2), 1.0),
}


class TestErrors:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"initial_logits": torch.tensor(0.0)}, r"initial_logits must be \(..., K\)"),
            ({"initial_logits": torch.zeros(3)}, r"transition_logits must be \(..., 3, 3\) for"),
            ({"transition_logits": torch.zeros(2)}, r"\(..., 2, 2\) .* not \(2,\)"),
            ({"time_varying_transition": True}, r"\(..., T-1, 2, 2\) .* not \(2, 2\)"),
            (
                {"observation_dist": dist.Normal(torch.zeros(4), 1.0)},
                r"batch shape \(..., 2\), a law for each of the 2 states .* not \(4,\)",
            ),
            ({"observation_dist": dist.Normal(0.0, 1.0)}, r"observation_dist .* not \(\)"),
            ({"time_varying_observation": True}, r"\(..., T, 2\), .* not \(2,\)"),
            ({"initial_logits": torch.tensor([0.0, torch.nan])}, "initial_logits has a law with"),
            (
                {"transition_logits": torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])},
                "transition_logits has a law .* without any finite entry",
            ),
            ({"duration": 0}, "at least 1; got {'duration': 0}"),
            (
                {"duration": 4, "observed": torch.ones(3, dtype=torch.bool)},
                "one number of rows.* {'duration': 4, 'observed': 3}",
            ),
            ({"observed": torch.ones(3)}, r"observed must be \(..., T\) bool.*float32"),
            (
                {"lengths": [3, 4], "transition_logits": torch.zeros(3, 2, 2)},
                r"\(3,\) of transition_logits.*\(2,\) of lengths.*time_varying_transition=True",
            ),
        ],
    )
    def test_laws(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            HiddenMarkov(**{**LAW, **wrong})

    @pytest.mark.parametrize(
        ("options", "shape", "message"),
        [
            ({}, (), "value must be"),
            ({"duration": 5}, (4,), "value has 4 rows and the law 5"),
            ({"lengths": [3, 4]}, (3, 5), r"\(3,\) of value, \(2,\) of the law"),
            ({"lengths": [3, 6]}, (2, 5), r"lengths must lie in 1..5.*run 1 has 6"),
            ({"lengths": [0, 5]}, (2, 5), r"lengths must lie in 1..5.*run 0 has 0"),
            ({"lengths": [2.0, 5.0]}, (2, 5), "lengths must be integers"),
            ({"minimum_dwell": 0}, (5,), "minimum_dwell must be"),
            ({"minimum_dwell": [1, 2, 3]}, (5,), "one for each of the 2 states"),
        ],
    )
    def test_values(self, options, shape, message):
        law = HiddenMarkov(**LAW, **options)
        with pytest.raises(ValueError, match=message):
            law.log_prob(torch.zeros(shape))

    def test_an_event_of_another_shape(self):
        law = HiddenMarkov(
            **{**LAW, "observation_dist": dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)}
        )
        with pytest.raises(
            ValueError, match=r"by the event shape of observation_dist, not \(9, 4\)"
        ):
            law.log_prob(torch.zeros(9, 4))

    def test_draws_of_unknown_duration(self):
        with pytest.raises(ValueError, match="give duration="):
            HiddenMarkov(**LAW).sample()

    def test_an_impossible_run_has_no_path(self):
        law = HiddenMarkov(**{**LAW, "observation_dist": dist.Uniform(torch.zeros(2), 1.0, False)})
        value = torch.full((2, 4), 0.5)
        value[1, 2] = 3.0
        assert law.log_prob(value)[1] == -torch.inf
        with pytest.raises(ValueError, match=r"run 1 .* row 2"):
            law.smooth(value)


def test_the_example_of_the_docstring():
    assert doctest.testmod(bayeshmm.distributions) == (0, 4)


def test_values_of_functions_are_those_of_messages():
    """The arguments as `messages` takes them: nothing is done to them but normalisation."""
    example = Example(value=(3,), dwell=2)
    rows = dist.Normal(example.mean, 1.0).log_prob(example.value[..., None])
    expected = messages.log_marginal(
        example.initial.log_softmax(-1), example.transition.log_softmax(-1), rows, minimum_dwell=2
    )
    torch.testing.assert_close(example.law.log_prob(example.value), expected, rtol=1e-15, atol=0)
