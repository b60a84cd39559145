from itertools import permutations

import numpy as np
import pytest

from bayeshmm.alignment import (
    agreement,
    display_order,
    match_states,
    most_probable,
    overlap,
    phase_numbers,
)


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


def numbers(*paths, reference=0):
    """Phases of fits given by their paths, strings of digits."""
    fits = [one_hot([int(state) for state in path], 1 + int(max(path))) for path in paths]
    states = [fit.shape[-1] for fit in fits]
    found = phase_numbers(states, lambda i, j: overlap(fits[i], fits[j]), reference)
    return [number.tolist() for number in found]


class TestPhaseNumbers:
    def test_a_relabelling_is_undone(self):
        assert numbers("0011122", "2200011") == [[0, 1, 2], [1, 2, 0]]
        assert numbers("0011122", "2200011", reference=1) == [[2, 0, 1], [0, 1, 2]]

    def test_the_larger_part_of_a_split_keeps_the_number(self):
        assert numbers("0000011111", "0011122222") == [[0, 1], [2, 0, 1]]

    def test_of_a_merger_the_larger_part_lives_on(self):
        assert numbers("0001111222", "0000000111") == [[0, 1, 2], [1, 2]]

    def test_what_shares_less_than_half_its_rows_with_anything_is_new(self):
        assert numbers("000111222", "012012012") == [[0, 1, 2], [3, 4, 5]]
        assert numbers("00000001111111", "00001111112222") == [[0, 1], [0, 2, 1]]

    def test_numbers_go_from_fit_to_fit(self):
        """What comes off at three states is, in the end, the largest part of the first phase."""
        two, three, four = "00000000001111", "00000011112222", "00011122223333"
        assert numbers(two, three, four) == [[0, 1], [0, 2, 1], [0, 3, 2, 1]]
        assert numbers(two, four) == [[0, 1], [2, 3, 0, 1]]

    def test_a_phase_that_was_gone_comes_back(self):
        three, two, four = "000111222", "000000111", "000112333"
        found = numbers(three, two, three, four, reference=1)
        assert found == [[0, 2, 1], [0, 1], [0, 2, 1], [0, 2, 3, 1]]

    def test_states_without_rows_are_no_match(self):
        nothing = one_hot([0, 0, 1, 1], 3)
        found = phase_numbers([3, 3], lambda i, j: overlap(nothing, nothing))
        assert [number.tolist() for number in found] == [[0, 1, 2], [0, 1, 3]]


def test_most_probable_state_of_each_row():
    probabilities = [[0.4, 0.6], [0.5, 0.5], [np.nan, np.nan], [0.0, 0.0]]
    assert most_probable(probabilities).tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
