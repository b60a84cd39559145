from itertools import permutations

import numpy as np
import pytest

from bayeshmm.alignment import agreement, display_order, match_states, overlap


def one_hot(path, K):
    path = np.asarray(path)
    return np.where(path[..., None] >= 0, np.eye(K)[np.maximum(path, 0)], 0.0)


def probabilities(seed, shape=(3, 20), K=4):
    return np.random.default_rng(seed).dirichlet(np.full(K, 0.3), shape)


def test_overlap_counts_shared_rows_and_ignores_padding():
    reference = one_hot([[0, 0, 1, -1]], 2)
    other = one_hot([[2, 2, 0, -1]], 3)
    other[0, 3] = np.nan
    np.testing.assert_array_equal(overlap(reference, other), [[0, 0, 2], [1, 0, 0]])


def test_overlap_weighs_by_probability():
    reference, other = np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])
    np.testing.assert_allclose(overlap(reference, other), [[0.125, 0.125], [0.375, 0.375]])


def test_overlap_of_different_rows_is_an_error():
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(5, 2\)"):
        overlap(np.ones((2, 5, 3)), np.ones((5, 2, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_match_inverts_a_relabelling(seed):
    reference = probabilities(seed)
    relabelled = np.random.default_rng(seed).permutation(4)
    other = reference[..., relabelled]
    np.testing.assert_array_equal(match_states(reference, other), relabelled)
    np.testing.assert_array_equal(other[..., np.argsort(relabelled)], reference)


@pytest.mark.parametrize("seed", range(5))
def test_match_is_the_best_of_all_matchings(seed):
    reference, other = probabilities(seed), probabilities(seed + 100)
    shared = overlap(reference, other)
    best = max(permutations(range(4)), key=lambda p: sum(shared[p[j], j] for j in range(4)))
    np.testing.assert_array_equal(match_states(reference, other), best)


def test_match_marks_surplus_states():
    reference = one_hot([0, 0, 0, 1, 1, 1], 2)
    split = one_hot([2, 2, 1, 0, 0, 0], 3)
    np.testing.assert_array_equal(match_states(reference, split), [1, -1, 0])
    np.testing.assert_array_equal(match_states(split, reference), [2, 0])


def test_agreement_counts_rows_after_matching():
    reference = one_hot([0, 0, 0, 0, 1, 1, 1, 1, -1], 2)
    other = one_hot([1, 1, 1, 0, 0, 0, 0, 0, 0], 2)
    assert agreement(reference, other) == pytest.approx(7 / 8)


def test_agreement_with_itself_is_whole_however_unsure():
    fit = probabilities(0)
    assert agreement(fit, fit[..., [2, 0, 3, 1]]) == 1.0


def test_agreement_is_symmetric_across_state_counts():
    three, five = probabilities(1, K=3), probabilities(2, K=5)
    assert agreement(three, five) == agreement(five, three)
    assert 1 / 5 <= agreement(three, five) < 1


def test_surplus_states_disagree():
    assert agreement(one_hot([0, 0, 0, 0], 1), one_hot([0, 0, 0, 1], 2)) == 0.75


def test_agreement_without_common_rows_is_an_error():
    with pytest.raises(ValueError, match="no row"):
        agreement(np.full((4, 2), np.nan), np.ones((4, 2)))


def test_display_order_follows_relative_first_visits():
    # State 2 opens both runs; state 0 comes at 1/2 of each; state 1 at 3/4 of the long run only.
    paths = np.array([[[2, 2, 2, 2, 0, 0, 1, 1], [2, 2, 0, 0, -1, -1, -1, -1]]])
    np.testing.assert_array_equal(display_order(paths), [2, 0, 1])


def test_display_order_compares_relative_not_absolute_times():
    # State 1: row 5 of 10. State 2: row 3 of 4, earlier in rows but later in its run.
    paths = np.full((1, 2, 10), -1)
    paths[0, 0] = np.repeat([0, 1], 5)
    paths[0, 1, :4] = [0, 0, 0, 2]
    np.testing.assert_array_equal(display_order(paths), [0, 1, 2])


def test_display_order_leaves_out_paths_without_a_visit():
    # Were "never" averaged in as a late time, state 2 would come after state 1.
    paths = np.array([[[0, 2, 2, 1]], [[0, 0, 0, 1]], [[0, 0, 0, 1]]])
    np.testing.assert_array_equal(display_order(paths), [0, 2, 1])


def test_unvisited_states_come_last_in_the_order_of_their_labels():
    paths = np.array([[[4, 4, 2]]])
    np.testing.assert_array_equal(display_order(paths), [4, 2, 0, 1, 3])
    np.testing.assert_array_equal(display_order(paths, states=6), [4, 2, 0, 1, 3, 5])
