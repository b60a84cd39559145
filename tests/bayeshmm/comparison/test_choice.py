"""Which number of states is chosen from a table of scores, and what is said about it."""

import numpy as np
import pandas as pd
import pytest

from bayeshmm.comparison.choice import choose, reason, remarks, usual_tolerance
from bayeshmm.defaults import TIE_PER_METRIC


def scores(**families):
    """A table of scores, a list per family from one state on, with their errors."""
    records = {
        (family, K + 1): {"elpd": score, "diff_se": error, "step_ahead": score - 10 * (K == 2)}
        for family, models in families.items()
        for K, (score, error) in enumerate(models)
    }
    table = pd.DataFrame(records).T
    table.index.names = ["emission", "states"]
    return table


class TestChoose:
    @pytest.mark.parametrize(
        ("models", "tolerance", "states"),
        [
            ([(-1.0, 0.1), (-0.3, 0.1), (0.0, 0.0)], 0.5, 2),  # within the tolerance
            ([(-1.0, 0.1), (-0.3, 0.1), (0.0, 0.0)], 0.2, 3),  # neither
            ([(-1.0, 0.1), (-0.3, 0.4), (0.0, 0.0)], 0.2, 2),  # within one standard error
            ([(-1.0, 1.1), (-0.3, 0.1), (0.0, 0.0)], 0.2, 1),  # the fewest of those good enough
            ([(-1.0, 0.1), (0.0, 0.0), (-0.1, 0.0)], 0.0, 2),
            ([(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)], 0.0, 1),  # ties
            ([(-1.0, np.nan), (-0.3, np.nan), (0.0, np.nan)], 0.5, 2),
        ],
    )
    def test_the_fewest_states_that_are_good_enough(self, models, tolerance, states):
        assert choose(scores(a=models), 1, tolerance) == ("a", states)

    def test_the_order_of_the_table_is_no_matter(self):
        table = scores(b=[(-1.0, 0.1), (-0.3, 0.1), (0.0, 0.0)]).iloc[::-1]
        assert choose(table, 1, 0.5) == ("b", 2)
        assert choose(table, 1) == ("b", 3)

    def test_one_step_ahead_scores_decide_where_no_run_is_held_out(self):
        table = scores(a=[(-1.0, 0.1), (-0.3, 0.1), (0.0, 0.0)]).assign(elpd=np.nan)
        assert choose(table, 1, 0.5) == ("a", 2)
        table["step_ahead"] = [-5.0, -0.3, 0.0]
        assert choose(table, 1, 0.2) == ("a", 3)


class TestFamilies:
    TRENDS = ((-0.5, 0.01), (-0.2, 0.01), (0.0, 0.0))
    TIE = TIE_PER_METRIC

    def test_the_best_score_decides(self):
        table = scores(a=[(-0.2, 0.5)], b=[(-3.0, 0.1), (0.0, 0.0)])
        assert choose(table, 1) == ("b", 2)

    def test_fewer_states_win_where_families_predict_alike(self):
        """Three levels that slice a trend, and one law of motion."""
        levels, motion = self.TRENDS, [(-0.9 * self.TIE, 0.01), (-0.9 * self.TIE, 0.01)]
        assert choose(scores(levels=levels, motion=motion), 1) == ("motion", 1)
        further = [(-1.1 * self.TIE, 0.01), (-1.1 * self.TIE, 0.01)]
        assert choose(scores(levels=levels, motion=further), 1) == ("levels", 3)
        assert choose(scores(levels=levels, motion=further), 2) == ("motion", 1)

    def test_a_tie_of_as_many_states_goes_to_the_better_score(self):
        table = scores(a=self.TRENDS, b=[(-0.5, 0.0), (-0.2, 0.0), (-0.5 * self.TIE, 0.0)])
        assert choose(table, 1) == ("a", 3)

    def test_a_tolerance_of_nothing_ties_nothing(self):
        motion = [(-0.5 * self.TIE, 0.01)]
        assert choose(scores(levels=self.TRENDS, motion=motion), 1, 0.0) == ("levels", 3)


class TestUsualTolerance:
    @pytest.mark.parametrize(
        ("models", "metrics", "tolerance"),
        [
            ((-10.0, -1.0, -0.6, -0.3, 0.0), 1, 1.0),  # none of the last is worth a twentieth of 10
            ((-10.0, -1.0, -0.4, -0.3, 0.0), 1, 0.4),
            ((-10.0, -1.5, -1.4, -0.2, 0.0), 1, 0.2),  # two are worth it together
            ((-0.1, -0.05, 0.0), 4, 0.0),
            ((-0.1, -0.05, 0.0), 6, 0.1),  # less than a hundredth of a nat for each metric
            ((-1.0, 0.0, -0.5), 1, 0.0),
            ((0.0,), 1, 0.0),
        ],
    )
    def test_what_states_are_worth_that_are_not_worth_their_price(self, models, metrics, tolerance):
        family = pd.Series(models, index=range(1, len(models) + 1))
        assert usual_tolerance(family, metrics) == pytest.approx(tolerance)

    def test_a_range_that_begins_later(self):
        family = pd.Series([-1.0, -0.96, 0.0], index=[3, 4, 5])
        assert usual_tolerance(family, 1) == 0.0


def told(autocorrelation=0.0, agreement=1.0, share=0.2, **families):
    """What is remarked of a table whose rows differ in their scores alone."""
    table = scores(**families).assign(
        autocorrelation=autocorrelation, agreement=agreement, smallest_share=share
    )
    return "\n".join(remarks(table, choose(table, 1), 0.1))


class TestRemarks:
    PLAIN = ((-1.0, 0.0), (0.0, 0.0), (0.0, 0.0))

    def test_nothing_is_said_of_what_is_in_order(self):
        assert told(a=self.PLAIN) == ""
        assert told(a=self.PLAIN, b=[(-1.0, 0.0), (-0.05, 0.0)]) == ""  # hardly worse

    def test_a_family_that_asks_for_ever_more_states(self):
        text = told(a=self.PLAIN, b=[(-9.0, 0.0), (-7.0, 0.0), (-6.0, 0.0)])
        assert "b predicts 6.00 nats a row worse, even with 3 states, and still gains" in text
        assert "the family, not the number of states, is the problem there" in text

    def test_a_family_that_is_worse_and_has_had_enough(self):
        text = told(a=self.PLAIN, b=[(-9.0, 0.0), (-6.0, 0.0), (-6.0, 0.0)])
        assert text == "b predicts 6.00 nats a row worse, even with 2 states."

    def test_states_that_slice_a_trend(self):
        text = told(autocorrelation=0.93, a=self.PLAIN)
        assert "residuals of a with 2 states are autocorrelated (0.93" in text
        assert "slice a trend" in text

    def test_the_end_of_the_range(self):
        assert "compare more" in told(a=[(-1.0, 0.0), (0.0, 0.0)])
        assert told(a=[(0.0, 0.0)]) == ""

    def test_restarts_that_disagree_and_phases_that_are_hardly_there(self):
        assert "disagree (they share 62% of the rows)" in told(agreement=0.62, a=self.PLAIN)
        assert "rarest phase has 0.4% of the rows" in told(share=0.004, a=self.PLAIN)

    @pytest.mark.parametrize(
        ("states", "metrics", "tolerance", "said"),
        [
            (3, 1, None, "the best held-out log density, 7.00 nats a row"),
            (2, 8, None, "0.075 nats a row higher, less than the 0.08 that each further state"),
            (2, 1, 0.1, "0.075 nats a row higher, within the tolerance of 0.1"),
            (
                2,
                1,
                None,
                "3 states have the best held-out log density, 0.075 nats a row higher, wi",
            ),
            (2, 1, 0.01, "within one standard error"),
        ],
    )
    def test_reasons(self, states, metrics, tolerance, said):
        table = scores(a=[(6.0, 0.1), (6.925, 0.1), (7.0, 0.0)])
        assert said in reason(table, ("a", states), metrics, tolerance)
