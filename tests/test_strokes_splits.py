"""Splits: nothing lost, no group on two sides, the same every time."""

import numpy as np
import pytest

from mdnjax import strokes as st


def _groups(seed=0, lines=2000, forms=150):
    return np.array([f"f{n:03d}" for n in np.random.default_rng(seed).integers(0, forms, lines)])


def test_split_is_a_partition_that_keeps_groups_whole():
    groups = _groups()
    parts = st.split_by(groups, [0.8, 0.1, 0.1], seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(groups)))
    names = [set(groups[part]) for part in parts]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    # No cut can be further from its place than half the largest group.
    largest = np.unique(groups, return_counts=True)[1].max()
    sizes = np.cumsum([len(part) for part in parts])[:2]
    assert np.abs(sizes - [1600, 1800]).max() <= largest / 2


def test_split_depends_on_the_seed_and_not_on_the_order_of_lines():
    groups = _groups()
    first, second = st.split_by(groups, [0.5, 0.5], seed=1)
    again = st.split_by(groups, [0.5, 0.5], seed=1)
    np.testing.assert_array_equal(first, again[0])
    other = st.split_by(groups, [0.5, 0.5], seed=2)
    assert set(groups[first]) != set(groups[other[0]])
    shuffled = np.random.default_rng(5).permutation(len(groups))
    moved = st.split_by(groups[shuffled], [0.5, 0.5], seed=1)
    assert set(groups[shuffled][moved[1]]) == set(groups[second])


@pytest.mark.parametrize("fractions", [[], [0.5, 0.4], [1.2, -0.2], [1.0, 0.0]])
def test_fractions_must_be_a_distribution(fractions):
    with pytest.raises(ValueError, match="split_by: fractions"):
        st.split_by(["a", "b"], fractions, seed=0)


def test_a_corpus_without_writers_cannot_be_split_by_them():
    with pytest.raises(ValueError, match=r"split_by: groups must be a group for each item.*None"):
        st.split_by(np.array(None), [0.5, 0.5], seed=0)


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="split_by: groups"):
        st.split_by(["a", "a", "b"], [0.4, 0.3, 0.3], seed=0)
