"""Batches are pure functions of seed and step; every epoch has every example once."""

import numpy as np
import pytest

from mdnjax import datasets


def test_every_example_comes_once_an_epoch_and_batches_run_across_its_end():
    batches = datasets.Batches(np.arange(7), batch_size=3, seed=0)
    seen = np.concatenate([batches(n) for n in range(14)]).reshape(6, 7)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(7), (6, 1)))
    assert len({tuple(epoch) for epoch in seen}) > 1
    assert len(batches) == 7


def test_a_batch_is_a_function_of_seed_and_step():
    grey = np.random.default_rng(0).random((50, 30)).astype(np.float32)

    def make(seed):
        return datasets.Batches(grey, batch_size=20, seed=seed, transform=datasets.binarize)

    one, same, other = make(0), make(0), make(1)
    later = one(9)
    for n in range(3):
        np.testing.assert_array_equal(one(n), same(n))
        assert not np.array_equal(one(n), other(n))
    np.testing.assert_array_equal(same(9), later)


def test_rows_of_a_tree_stay_together():
    examples = {"x": np.arange(10)[:, None] * np.ones(3, int), "y": np.arange(10)}
    batch = datasets.Batches(examples, batch_size=25, seed=3)(0)
    np.testing.assert_array_equal(batch["x"], batch["y"][:, None] * np.ones(3, int))


def test_pixels_are_on_as_often_as_their_grey_says_and_drawn_anew():
    grey = np.float32([0.0, 0.1, 0.5, 0.9, 1.0])
    batches = datasets.Batches(
        np.tile(grey, (4, 1)), batch_size=4, seed=0, transform=datasets.binarize
    )
    on = np.stack([batches(n) for n in range(5000)]).reshape(-1, 5)
    assert on.dtype == bool
    assert not on[:, 0].any()
    assert on[:, -1].all()
    share, error = on.mean(0), np.sqrt(grey * (1 - grey) / len(on))
    assert np.all(np.abs(share - grey) <= 4.5 * error)
    # Independent from step to step: two in a row agree as often as by chance.
    both = (on[:-4, 2] == on[4:, 2]).mean()
    assert abs(both - 0.5) < 4.5 * 0.5 / np.sqrt(len(on))


def test_errors():
    with pytest.raises(ValueError, match="Batches: batch_size must be at least 1, got 0"):
        datasets.Batches(np.zeros(3), batch_size=0, seed=0)
    with pytest.raises(ValueError, match=r"Batches: examples must be of one length.*\[2, 3\]"):
        datasets.Batches((np.zeros(3), np.zeros(2)), batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"Batches: examples must be of one length, not 0.*\[0\]"):
        datasets.Batches(np.zeros(0), batch_size=1, seed=0)
    with pytest.raises(ValueError, match="Batches: step must be at least 0, got -1"):
        datasets.Batches(np.zeros(3), batch_size=1, seed=0)(-1)
