"""Worked examples: from other libraries, from hand calculation, from enumeration in 30 digits."""

import math

import pytest
import torch
from torch import Tensor

DIGITS = {"rtol": 0, "atol": 6e-9}  # as many as the answers have


def log(rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def near(got: Tensor, answer, **tolerance) -> None:
    expected = torch.tensor(answer, dtype=torch.float64).reshape(got.shape)
    torch.testing.assert_close(got, expected, **(tolerance or DIGITS))


# Rain and umbrellas (Russell and Norvig), the case of hmmlearn's test-suite; d = 1 is their answer.
UMBRELLA = (
    log([0.5, 0.5]),
    log([[0.7, 0.3], [0.3, 0.7]]),
    log([[0.9, 0.2], [0.9, 0.2], [0.1, 0.8], [0.9, 0.2], [0.9, 0.2]]),
)


@pytest.mark.parametrize(
    ("dwell", "log_p", "rain", "counts", "path", "value"),
    [
        (
            1,
            -3.3725020443,
            [0.86733889, 0.82041905, 0.30748358, 0.82041905, 0.86733889],
            [2.08018619, 0.73547438, 0.73547438, 0.44886504],
            [0, 0, 1, 0, 0],
            -4.45902829,
        ),
        (
            2,
            -3.7143439395,
            [0.84666141, 0.84666141, 0.53491107, 0.63262386, 0.82006181],
            [1.50093829, 0.38629789, 0.35969829, 0.28510766],
            [0] * 5,
            -4.48719917,
        ),
        (
            3,
            -3.7767166265,
            [0.79009291, 0.79009291, 0.79009291, 0.93866646, 0.89822144],
            [1.47087814, 0.08808289, 0.19621142, 0.05380441],
            [0] * 5,
            -4.13052422,
        ),
        (
            [1, 3],
            -4.0595512413,
            [0.77404799, 0.67140996, 0.51369786, 0.67263035, 0.71677878],
            [2.29914663, 0.33263953, 0.27537032, 0.10643944],
            [0] * 5,
            -4.84387411,
        ),
        (
            [3, 1],
            -3.7734058050,
            [0.80969375, 0.88267725, 0.89748550, 0.93704467, 0.90551956],
            [1.53265349, 0.11635051, 0.21217631, 0.26092252],
            [0] * 5,
            -4.13052422,
        ),
        (7, -3.3978529804, [0.98086411] * 5, [0.0] * 4, [0] * 5, -3.41717434),
    ],
)
def test_umbrella(messages, dwell, log_p, rain, counts, path, value):
    got = messages.expected_counts(*UMBRELLA, minimum_dwell=dwell)
    near(got.log_marginal, log_p, rtol=0, atol=6e-11)
    near(messages.log_marginal(*UMBRELLA, minimum_dwell=dwell), log_p, rtol=0, atol=6e-11)
    near(got.state[:, 0], rain)
    near(messages.smooth(*UMBRELLA, minimum_dwell=dwell)[:, 0], rain)
    near(got.transition, counts)
    best = messages.viterbi(*UMBRELLA, minimum_dwell=dwell)
    assert best.path.tolist() == path
    near(best.log_probability, value)


@pytest.mark.parametrize(
    ("dwell", "rain"),
    [
        (2, [0.81818182, 0.95294118, 0.21077539, 0.48544756, 0.82006181]),
        (3, [0.81818182, 0.95294118, 0.71681416, 0.86465730, 0.89822144]),
    ],
)
def test_umbrella_filter(messages, dwell, rain):
    near(messages.filter(*UMBRELLA, minimum_dwell=dwell)[:, 0], rain)


def test_umbrella_entries(messages):
    entry = messages.entries(*UMBRELLA, minimum_dwell=2)
    near(entry[:, 1], [0.15333859, 0, 0.32703873, 0.01395897, 0.04530018])


@pytest.mark.parametrize(
    ("uniforms", "paths"),
    [
        ((0.5, 0.5, 0.8, 0.1, 0.3), ("00100", "00110", "00000")),
        ((0.9, 0.5, 0.2, 0.7, 0.99), ("10001", "11100", "11100")),
        ((0.5, 0.1, 0.7, 0.99, 0.2), ("00110", "00110", "00011")),
    ],
)
def test_umbrella_draws(messages, uniforms, paths):
    u = torch.tensor(uniforms, dtype=torch.float64)
    for dwell, path in zip((1, 2, 3), paths, strict=True):
        got = messages.sample_paths(*UMBRELLA, uniforms=u, minimum_dwell=dwell)
        assert "".join(map(str, got.tolist())) == path


# Three states with dwells of their own, a matrix per step, zeros in every input.
EVERYTHING = (
    log([0.5, 0.3, 0.2]),
    log(
        [
            [[0.8, 0.2, 0], [0.1, 0.6, 0.3], [0, 0.5, 0.5]],
            [[0.5, 0.25, 0.25], [0, 1, 0], [0.2, 0.2, 0.6]],
            [[0.9, 0.05, 0.05], [0.3, 0.3, 0.4], [0.5, 0.5, 0]],
            [[0.6, 0.4, 0], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]],
            [[0.7, 0.1, 0.2], [0.25, 0.5, 0.25], [0.3, 0.3, 0.4]],
        ]
    ),
    log(
        [
            [0.6, 0.3, 0.1],
            [0.2, 0.5, 0.3],
            [0, 0.7, 0.3],
            [0.4, 0.4, 0.2],
            [0.1, 0.2, 0.7],
            [0.8, 0.1, 0.1],
        ]
    ),
)


def test_everything_at_once(messages):
    dwell = {"minimum_dwell": [1, 2, 3]}
    got = messages.expected_counts(*EVERYTHING, **dwell)
    near(got.log_marginal, -6.6139057644, rtol=0, atol=6e-11)
    near(
        messages.smooth(*EVERYTHING, **dwell),
        [
            [0.54992688, 0.42366847, 0.02640465],
            [0.26748123, 0.70611412, 0.02640465],
            [0, 0.85713583, 0.14286417],
            [0.21545012, 0.44894609, 0.33560379],
            [0.26070117, 0.25248550, 0.48681333],
            [0.49235008, 0.09408892, 0.41356100],
        ],
    )
    near(
        messages.filter(*EVERYTHING, **dwell),
        [
            [0.73170732, 0.21951220, 0.04878049],
            [0.37209302, 0.58139535, 0.04651163],
            [0, 0.91855204, 0.08144796],
            [0.30833333, 0.46388889, 0.22777778],
            [0.07763023, 0.20570441, 0.71666536],
            [0.49235008, 0.09408892, 0.41356100],
        ],
    )
    near(
        got.transition.sum(0),
        [
            [0.69066222, 0.47760033, 0.12529685],
            [0.44351221, 0.94353234, 0.38969664],
            [0.10180816, 0.02602897, 0.01502704],
        ],
    )
    near(
        got.transition[2],
        [[0, 0, 0], [0.20380417, 0.28316570, 0.21914426], [0.01164595, 0.01475870, 0]],
    )
    entered = messages.entries(*EVERYTHING, **dwell)
    near(entered[:, 2], [0.02640465, 0, 0.11645952, 0.21914426, 0.15120954, 0.02818016])
    best = messages.viterbi(*EVERYTHING, **dwell)
    assert best.path.tolist() == [1, 1, 1, 2, 2, 2]
    near(best.log_probability, -8.64275641)
    u = torch.tensor([0.45, 0.7, 0.5, 0.35, 0.8, 0.65], dtype=torch.float64)
    path = messages.sample_paths(*EVERYTHING, uniforms=u, **dwell)
    assert path.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("inputs", "dwell", "answer"),
    [
        (UMBRELLA, 2, [-0.59783700, -0.25782911, -1.12955676, -1.13531328, -0.59380779]),
        (
            EVERYTHING,
            [1, 2, 3],
            [-0.89159812, -1.15634476, -0.66562251, -1.12149658, -1.03979322, -1.73905058],
        ),
    ],
    ids=["umbrella", "everything"],
)
def test_predictive_densities(messages, inputs, dwell, answer):
    near(messages.predict(*inputs, minimum_dwell=dwell).log_density, answer)


def test_no_evidence(messages):
    """Rows without data leave the law of the chain itself, and what was never seen stays so."""
    rows = torch.zeros(8, 2, dtype=torch.float64)
    inputs = (log([1.0, 0.0]), log([[0.75, 0.25], [0.1, 0.9]]), rows)
    dwell = {"minimum_dwell": [3, 2]}
    got = messages.expected_counts(*inputs, **dwell)
    near(got.log_marginal, 0.0, rtol=0, atol=1e-15)
    state = [1, 1, 1, 0.75, 0.5625, 0.446875, 0.38265625, 0.35474219]
    near(got.state[:, 0], state)
    near(messages.filter(*inputs, **dwell)[:, 0], state)
    entered = messages.entries(*inputs, **dwell)
    near(entered[:, 0], [1, 0, 0, 0, 0, 0.025, 0.04125, 0.0511875])
    near(entered[:, 1], [0, 0, 0, 0.25, 0.1875, 0.140625, 0.10546875, 0.07910156])
    near(got.transition, [2.28808594, 0.76269531, 0.1174375, 1.0569375])

    rows[0, 0] = -torch.inf
    nothing = messages.expected_counts(*inputs, **dwell)
    assert nothing.log_marginal == -torch.inf
    assert not any(count.any() for count in nothing[1:])


@pytest.mark.parametrize(
    ("dwell", "stays"), [(2, [2, 0, 3]), (1, [3, 1, 4]), ([3, 2, 4], [1, 0, 1])]
)
def test_counts_on_a_certain_path(messages, dwell, stays):
    states = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    rows = torch.full((11, 3), -torch.inf, dtype=torch.float64)
    rows[range(11), states] = 0.0
    flat = log([1 / 3] * 3)
    got = messages.expected_counts(flat, flat.expand(3, 3), rows, minimum_dwell=dwell)
    expected = torch.diag(torch.tensor(stays, dtype=torch.float64))
    expected[0, 1] = expected[1, 2] = 1.0
    near(got.transition, expected.tolist(), rtol=0, atol=1e-14)


def test_categorical_case_of_hmmlearn(messages):
    """Their probabilities are given to six digits."""
    emission = torch.tensor([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    inputs = (log([0.6, 0.4]), log([[0.7, 0.3], [0.4, 0.6]]), emission[:, [0, 1, 2]].T)
    best = messages.viterbi(*inputs)
    assert best.path.tolist() == [1, 0, 0]
    near(best.log_probability.exp(), 0.01344, rtol=0, atol=1e-15)
    near(messages.smooth(*inputs)[:, 0], [0.23170296, 0.62406283, 0.86397715])


def test_known_density_of_pymc_extras(messages):
    emission = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64).log()
    inputs = (log([0.375, 0.625]), log([[0.5, 0.5], [0.3, 0.7]]), emission[:, [0, 0, 1]].T)
    near(messages.log_marginal(*inputs), math.log(0.1344), rtol=0, atol=1e-14)
