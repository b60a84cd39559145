"""Draws are exact: as a function of their uniforms, and in distribution."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bayeshmm import messages
from bayeshmm.messages import reference

from .enumeration import Law

DWELLS = [(1, 1, 1), (2, 2, 2), (1, 2, 3)]
STEPS = pytest.mark.parametrize("per_step", [False, True], ids=["constant", "per step"])
DRAWS = 200_000
LEVEL = 1e-4 / 6  # 1e-4 for the six settings of the test together


def problem(seed: int, T: int, K: int, *, per_step: bool = False):
    g = torch.Generator().manual_seed(seed)
    shapes = ((K,), (T - 1, K, K) if per_step else (K, K), (T, K))
    return [torch.randn(shape, dtype=torch.float64, generator=g) for shape in shapes]


def law_of(inputs, dwell) -> Law:
    log_initial, log_transition, rows = (x.numpy() for x in inputs)
    T, K = rows.shape
    return Law(log_initial, np.broadcast_to(log_transition, (T - 1, K, K)), rows, dwell)


@STEPS
@pytest.mark.parametrize("dwell", DWELLS)
def test_every_path_owns_a_box_of_uniforms_of_its_probability(messages, dwell, per_step):
    """Both corners of the box give the path, and its volume is the posterior probability."""
    inputs = problem(seed=1, T=5, K=3, per_step=per_step)
    law = law_of(inputs, dwell)
    inside = 1e-12
    uniforms = []
    for path, probability in zip(law.paths.states, law.probability, strict=True):
        corners = []
        for k, shares in zip(path, law.conditionals(path), strict=True):
            ends = np.concatenate([[0], shares.cumsum()])
            corners.append((ends[k] + inside, ends[k + 1] - inside))
        volume = math.prod(high - low + 2 * inside for low, high in corners)
        assert volume == pytest.approx(probability, rel=1e-9, abs=1e-14)
        uniforms += list(zip(*corners, strict=True))
    drawn = messages.sample_paths(*inputs, uniforms=torch.tensor(uniforms), minimum_dwell=dwell)
    np.testing.assert_array_equal(drawn, law.paths.states.repeat(2, 0))


@STEPS
@pytest.mark.parametrize("dwell", DWELLS)
def test_frequencies(dwell, per_step):
    """Paths that share few draws are taken together; those of probability 0 are never drawn."""
    inputs = problem(seed=2, T=5, K=3, per_step=per_step)
    inputs[1][..., 0, 2] = -torch.inf
    inputs[2][3, 1] = -torch.inf
    law = law_of(inputs, dwell)
    generator = torch.Generator().manual_seed(3)
    uniforms = torch.rand(DRAWS, 5, dtype=torch.float64, generator=generator)
    drawn = messages.sample_paths(*inputs, uniforms=uniforms, minimum_dwell=dwell).numpy()

    place = 3 ** np.arange(4, -1, -1)
    number = np.searchsorted(law.paths.states @ place, drawn @ place)
    np.testing.assert_array_equal(law.paths.states[number], drawn)
    observed = np.bincount(number, minlength=len(law.probability))
    assert not observed[law.probability == 0].any()
    assert (law.probability == 0).any()

    # In rising order of their probabilities, the first few paths are one cell.
    order = np.argsort(law.probability)
    observed, expected = observed[order], DRAWS * law.probability[order]
    pooled = max(1, int(np.argmax((expected >= 5) & (expected.cumsum() - expected >= 5))))
    observed, expected = (
        np.concatenate([[x[:pooled].sum()], x[pooled:]]) for x in (observed, expected)
    )
    assert len(expected) > 5
    assert expected.min() >= 5
    assert chisquare(observed, expected).pvalue > LEVEL


def test_several_draws_share_the_runs(messages):
    """Extra dimensions in front, and dimensions along which the runs were not repeated."""
    log_initial, log_transition, rows = problem(seed=4, T=7, K=3)
    g = torch.Generator().manual_seed(5)
    rows = rows + torch.randn(2, 1, 7, 3, dtype=torch.float64, generator=g)
    uniforms = torch.rand(3, 2, 4, 7, dtype=torch.float64, generator=g)
    options = {"lengths": torch.tensor([[7], [5]]), "minimum_dwell": 2}
    got = messages.sample_paths(log_initial, log_transition, rows, uniforms=uniforms, **options)
    assert got.shape == (3, 2, 4, 7)
    for draw in range(3):
        for column in range(4):
            alone = messages.sample_paths(
                log_initial,
                log_transition,
                rows,
                uniforms=uniforms[draw, :, column, None],
                **options,
            )
            assert torch.equal(got[draw, :, column, None], alone)


def test_a_uniform_on_a_boundary_belongs_to_the_state_above(messages):
    zeros = torch.zeros(4, dtype=torch.float64)
    uniforms = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.25, 0.0], dtype=torch.float64)
    path = messages.sample_paths(zeros, zeros.expand(4, 4), zeros.expand(6, 4), uniforms=uniforms)
    assert path.tolist() == [0, 1, 2, 3, 1, 0]


def test_states_without_probability_are_never_drawn(messages):
    """Not even where rounding leaves a cumulative sum below the uniform."""
    g = torch.Generator().manual_seed(8)
    possible = torch.tensor([False, True, True, True, False])
    inputs = [
        torch.randn(shape, dtype=torch.float64, generator=g).masked_fill(~possible, -torch.inf)
        for shape in ((5,), (5, 5))
    ]
    rows = torch.randn(100, 50, 5, dtype=torch.float64, generator=g)
    for uniform, state in ((0.0, 1), (math.nextafter(1.0, 0.0), 3)):
        uniforms = torch.full((50,), uniform, dtype=torch.float64)
        path = messages.sample_paths(*inputs, rows, uniforms=uniforms)
        assert (path == state).all()


def test_backends_draw_the_same_paths(monkeypatch):
    g = torch.Generator().manual_seed(6)
    log_initial, log_transition, rows = problem(seed=7, T=60, K=4)
    rows = 3 * rows + torch.randn(5, 60, 4, dtype=torch.float64, generator=g)
    arguments = (log_initial, log_transition, rows)
    uniforms = torch.rand(20, 5, 60, dtype=torch.float64, generator=g)
    options = {"uniforms": uniforms, "minimum_dwell": [1, 5, 2, 9]}
    compiled = messages.sample_paths(*arguments, **options)
    monkeypatch.setattr(messages, "_backend", lambda chain: reference)
    assert torch.equal(compiled, messages.sample_paths(*arguments, **options))
