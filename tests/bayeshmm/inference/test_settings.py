"""Settings of the engines."""

import pytest

import bayeshmm as bh
from bayeshmm.inference.settings import chosen


def test_names_and_what_they_stand_for():
    assert chosen("gibbs", conjugate=True) == bh.Gibbs()
    assert chosen("vi", conjugate=True) == bh.VI()
    assert chosen("nuts", conjugate=False) == bh.NUTS()
    assert chosen("auto", conjugate=True) == bh.Gibbs()
    assert chosen("auto", conjugate=False) == bh.VI()
    assert chosen(bh.VI(steps=7), conjugate=True) == bh.VI(steps=7)


@pytest.mark.parametrize("inference", ["mcmc", None, 3, bh.VI, ["vi"]])
def test_what_is_no_engine_is_refused(inference):
    with pytest.raises(
        ValueError, match=r"inference=.*'auto', 'gibbs', 'vi', 'nuts'.*NUTS\(\.\.\.\)"
    ):
        chosen(inference, conjugate=True)


def test_gibbs_sampling_needs_a_conjugate_model():
    with pytest.raises(ValueError, match=r"conjugate.*'vi'|\"vi\""):
        chosen("gibbs", conjugate=False)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (bh.VI, {"guide": "full"}, "VI.guide"),
        (bh.VI, {"batch_size": 0}, "VI.batch_size"),
        (bh.VI, {"particles": 0}, "VI.particles"),
        (bh.VI, {"steps": 2.5}, "VI.steps"),
        (bh.VI, {"learning_rate": 0.0}, "VI.learning_rate"),
        (bh.NUTS, {"chains": True}, "NUTS.chains"),
        (bh.NUTS, {"warmup": 0}, "NUTS.warmup"),
        (bh.NUTS, {"target_accept": 1.0}, "NUTS.target_accept"),
        (bh.Gibbs, {"thin": 0}, "Gibbs.thin"),
        (bh.Gibbs, {"chains": -1}, "Gibbs.chains"),
    ],
)
def test_bad_settings_are_named(kind, settings, named):
    (value,) = settings.values()
    with pytest.raises(ValueError, match=named) as caught:
        kind(**settings)
    assert repr(value) in str(caught.value)
