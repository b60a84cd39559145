"""The benchmark of repeated analyses compares, counts and keeps what seeds find."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import change_rows, moving_runs

from benchmarks import repeatability
from benchmarks.repeatability import Found


@pytest.fixture(scope="module")
def runs():
    return moving_runs(change_rows(4, 1, [(10, 20), (25, 35)]), [40] * 4, seed=1)


def found(runs, changes=(15, 30), labels=(0, 1, 2), best=3, width=10.0):
    """A seed whose phases begin at these rows in every run, and which finds `best` of them."""
    path = np.array(labels)[(np.arange(40)[:, None] >= changes).sum(1)]
    elpd = -np.abs(np.arange(1, 6) - best, dtype=float)
    index = pd.MultiIndex.from_product([["ar"], range(1, 6)], names=["emission", "states"])
    entries = pd.DataFrame(
        [
            (run, labels[k], 1.0, 10.0 * row, 10.0 * row - width, 10.0 * row + width)
            for run in runs.names
            for k, row in enumerate((0, *changes))
        ],
        columns=["run", "state", "probability", "median", "lower", "upper"],
    )
    table = pd.DataFrame({"elpd": elpd, "diff_se": 0.0}, index=index)
    return Found(table, np.eye(3)[np.tile(path, (4, 1))], entries, 60.0)


def test_a_seed_with_other_labels_is_the_same(runs):
    figures = repeatability.compared(found(runs), found(runs, labels=(2, 0, 1)))
    assert figures == {"agreement": 1.0, "order": 1.0, "within": 1.0, "apart": 0.0}


def test_times_count_within_the_intervals_of_both(runs):
    one, later = found(runs), found(runs, changes=(15, 32))
    figures = repeatability.compared(one, later)
    assert figures["agreement"] == pytest.approx(38 / 40)
    assert figures["within"] == pytest.approx(2 / 3)
    assert figures["apart"] == 20.0
    wide = found(runs, changes=(15, 32), width=30.0)
    assert repeatability.compared(wide, one)["within"] == pytest.approx(2 / 3)


def test_another_order_is_seen(runs):
    swapped = found(runs)
    first = swapped.entries["run"] == runs.names[0]
    swapped.entries.loc[first, "median"] = [0.0, 300.0, 150.0]
    assert repeatability.compared(found(runs), swapped)["order"] == 3 / 4


def test_the_page_counts_the_seeds_that_agree(runs, tmp_path):
    seeds = [found(runs, best=4), *(found(runs) for _ in range(9))]
    status, page = repeatability.page(runs, seeds)
    assert status == 0
    assert "9 of 10 seeds find the same as seed 1" in page
    assert "| 0 | 4, ar | 1.0000 | 1.00 | 1.000 | 0 | no |" in page
    assert "| 1 | 3, ar | 1.0000 | 1.00 | 1.000 | 0 | yes |" in page
    assert repeatability.page(runs, [found(runs, best=2), *seeds[:9]])[0] == 1


def test_what_a_seed_found_is_read_again(runs, tmp_path):
    one = found(runs, changes=(12, 33), labels=(1, 2, 0))
    one.save(tmp_path, 7)
    again = Found.load(tmp_path, 7)
    assert repeatability.compared(one, again)["within"] == 1.0
    pd.testing.assert_frame_equal(again.table, one.table)
    assert again.seconds == 60.0


def test_without_runs_nothing_is_run(capsys):
    assert repeatability.main([]) == 2
    assert "no runs were named" in capsys.readouterr().err
