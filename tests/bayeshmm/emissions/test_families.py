"""What a family says of its regressions, and the designs that it makes of values."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from small_designs import design_of, random_values

from bayeshmm.emissions import Autoregressive, Gaussian, families
from bayeshmm.emissions.hyperpriors import WEAKLY_INFORMATIVE, Hyperpriors


class TestSettings:
    @pytest.mark.parametrize("family", [Gaussian, Autoregressive])
    def test_defaults_allow_for_outliers_and_for_runs_that_differ(self, family):
        assert (family().noise, family().run_effects) == ("student-t", True)
        assert family().hyperpriors == WEAKLY_INFORMATIVE

    @pytest.mark.parametrize("family", [Gaussian, Autoregressive])
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"noise": "t"}, "noise must be 'normal' or 'student-t', not 't'"),
            ({"covariance": True}, "covariance must be 'full' or 'diagonal'"),
            ({"run_effects": "yes"}, "run_effects must be True or False"),
            ({"run_effects": 1}, "run_effects must be True or False"),
            ({"hyperpriors": 3}, "hyperpriors must be Hyperpriors"),
        ],
    )
    def test_what_is_neither_is_an_error_that_says_what_is(self, family, setting, message):
        with pytest.raises(ValueError, match=message):
            family(**setting)

    def test_coupling_is_checked(self):
        with pytest.raises(ValueError, match="coupling must be 'diagonal' or 'full', not 'both'"):
            Autoregressive(coupling="both")

    def test_settings_of_the_noise_are_named(self):
        with pytest.raises(TypeError):
            Gaussian("diagonal")

    def test_they_read_as_they_are_written(self):
        family = Autoregressive(lags=2, coupling="full", hyperpriors={"degrees": (3, 0.2)})
        assert family.hyperpriors == Hyperpriors(degrees=(3.0, 0.2))
        again = eval(repr(family), {"Autoregressive": Autoregressive, "Hyperpriors": Hyperpriors})
        assert again == family
        assert "hyperpriors" not in repr(Gaussian())


class TestHyperpriors:
    @pytest.mark.parametrize("name", [part.name for part in fields(Hyperpriors)])
    @pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
    def test_must_be_positive(self, name, bad):
        value = bad if name == "noise_shape" else (1.0, bad)
        with pytest.raises(ValueError, match=f"Hyperpriors.{name} must be .*positive"):
            Hyperpriors(**{name: value})

    def test_a_gamma_law_has_two_numbers(self):
        with pytest.raises(ValueError, match=r"Hyperpriors.scale must be \(shape, rate\)"):
            Hyperpriors(scale=(1.0, 2.0, 3.0))


class TestLayout:
    def test_groups(self):
        family = Autoregressive(lags=2, half_lives=(3,), coupling="full")
        layout = families.layout(family, 3)
        own = ("intercept", "level", "difference 1", "average 3")
        cross = ("cross level", "cross difference 1", "cross average 3")
        assert layout.group_names == (*own, *cross, "run")
        assert layout.past == 1 + 3 * 3
        assert layout.regressors == layout.past + 2
        assert layout.group_index.tolist() == [
            [0, 1, 2, 3, 4, 5, 6, 4, 5, 6],
            [0, 4, 5, 6, 1, 2, 3, 4, 5, 6],
            [0, 4, 5, 6, 4, 5, 6, 1, 2, 3],
        ]
        assert layout.members.sum(0).tolist() == [3, 3, 3, 3, 6, 6, 6, 0]

    def test_a_single_metric_has_nothing_to_be_coupled_with(self):
        layout = families.layout(Autoregressive(lags=1, coupling="full", run_effects=False), 1)
        assert layout.group_names == ("intercept", "level")

    def test_first_values_have_no_effects_of_runs(self):
        layout = families.entry_layout(Autoregressive(lags=3, coupling="full"), 4)
        assert layout.group_names == ("entry",)
        assert (layout.past, layout.full) == (1, True)


class TestDesign:
    def test_coupled_equations_share_the_past_of_all_metrics(self):
        values = random_values(missing=0.2)
        own = design_of(values, Autoregressive(lags=2))
        coupled = design_of(values, Autoregressive(lags=2, coupling="full"))
        for j in range(3):
            columns = coupled.past[:, :, j]
            torch.testing.assert_close(columns[..., :1], own.past[:, :, j, :1], rtol=0, atol=0)
            for i in range(3):
                part = columns[..., 1 + 2 * i : 3 + 2 * i]
                torch.testing.assert_close(part, own.past[:, :, i, 1:], rtol=0, atol=0)
        torch.testing.assert_close(coupled.response, own.response, rtol=0, atol=0)

    @pytest.mark.parametrize("family", [Gaussian(), Autoregressive(lags=3, half_lives=(2.0, 9.0))])
    def test_regressors_are_in_units_of_their_root_mean_square(self, family):
        values = random_values(runs=4, rows=30, missing=0.1)
        design = design_of(values, family)
        for j in range(3):
            rows = design.past[:, :, j][design.observed[:, :, j]]
            torch.testing.assert_close(
                rows.square().mean(0), torch.ones(rows.shape[1], dtype=torch.float64)
            )

    def test_taking_runs_takes_their_rows(self):
        design = design_of(random_values(missing=0.2), Autoregressive(lags=1), [12, 9, 5])
        some = torch.tensor([2, 0])
        part = design.take(some)
        assert part.lengths.tolist() == [5, 12]
        torch.testing.assert_close(part.response, design.response[some], rtol=0, atol=0)
        torch.testing.assert_close(part.past, design.past[some], rtol=0, atol=0)
        assert torch.equal(part.observed, design.observed[some])

    def test_first_observed_values_have_a_law_of_their_own(self):
        values = random_values()
        values[0, :2, 1] = np.nan
        values[1, :, 2] = np.nan
        design = families.entry_design(Autoregressive(), values, np.full(3, 0.1))
        first = values[:, 0].copy()
        first[0, 1] = values[0, 2, 1]
        seen = ~np.isnan(first)
        assert torch.equal(design.observed[:, 0], torch.from_numpy(seen))
        np.testing.assert_array_equal(design.response[:, 0].numpy()[seen], first[seen])
        assert families.entry_design(Gaussian(), values, np.full(3, 0.1)) is None
