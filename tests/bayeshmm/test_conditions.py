"""Which run belongs to which condition."""

import numpy as np
import pandas as pd
import pytest

from bayeshmm.conditions import condition_index
from bayeshmm.runs import Runs


def runs_with(**attributes):
    count = len(next(iter(attributes.values())))
    frame = pd.DataFrame(
        {
            "run": np.repeat([f"run-{n}" for n in range(count)], 3),
            "step": np.tile([0, 10, 20], count),
            "loss": np.arange(3.0 * count),
            **{name: np.repeat(np.array(values), 3) for name, values in attributes.items()},
        }
    )
    return Runs.from_dataframe(frame, metrics=["loss"], attributes=[*attributes])


@pytest.mark.parametrize(
    ("values", "names", "index"),
    [
        (["sgd", "adam", "sgd"], ("adam", "sgd"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([10, 9, 100], ("9", "10", "100"), [1, 0, 2]),
        ([1.0, 0.5, 1.0], ("0.5", "1"), [1, 0, 1]),
    ],
)
def test_conditions_are_named_in_increasing_order(values, names, index):
    found, place = condition_index(runs_with(kind=values), "kind")
    assert found == names
    assert place.tolist() == index


def test_values_of_kinds_that_have_no_order_are_ordered_by_name():
    runs = runs_with(kind=np.array(["b", 1, "a"], dtype=object))
    assert condition_index(runs, "kind")[0] == ("1", "a", "b")


def test_new_runs_keep_the_known_order_and_may_be_of_one_condition():
    known, _ = condition_index(runs_with(lr=[0.1, 1, 10]), "lr")
    names, index = condition_index(runs_with(lr=[10, 10]), "lr", known)
    assert names == known
    assert index.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("attributes", "by", "message"),
    [
        (
            {"kind": ["a", "b"]},
            "king",
            "unknown attribute 'king': .*differ.* 'kind', .*'truncated'",
        ),
        ({"kind": ["a", "b"]}, "loss", r"'loss' is a numeric column.*attributes=\['loss'\]"),
        ({"kind": ["a", "a"], "lr": [1, 2]}, "kind", r"'kind' is 'a' in every run.*\('lr'\)"),
        ({"kind": ["a", "a"]}, "kind", r"is 'a' in every run.*\(there is none\).*Dirichlet\(\)"),
        ({"kind": ["a", None]}, "kind", r"run 'run-1' has no 'kind'.*subset"),
    ],
)
def test_mistakes_are_named_with_the_mend(attributes, by, message):
    with pytest.raises(ValueError, match=message):
        condition_index(runs_with(**attributes), by)


def test_an_unknown_condition_names_the_run_and_the_known_ones():
    with pytest.raises(ValueError, match=r"run 'run-1'.*kind='c', only 'a', 'b': fit it"):
        condition_index(runs_with(kind=["a", "c"]), "kind", ("a", "b"))
