"""The order in which training sees what it learns from: a pure function of seed and step."""

import functools

import numpy as np
from jaxtyping import Int


def shuffled(seed: int, step: int, batch_size: int, total: int) -> Int[np.ndarray, " B"]:
    """Which of `total` items are the batch of a step.

    An epoch is a random order of all items, and batches run across the ends of epochs: every item
    has been seen n or n + 1 times at any step.

    Args:
        seed: Fixes the order.
        step: 0, 1, ...
        batch_size: B.
        total: How many items there are.

    Returns:
        `[B]` indices.
    """
    wanted = step * batch_size + np.arange(batch_size)
    chosen = np.empty(batch_size, dtype=np.int64)
    for epoch in range(wanted[0] // total, wanted[-1] // total + 1):
        inside = wanted // total == epoch
        chosen[inside] = order(seed, epoch, total)[wanted[inside] % total]
    return chosen


@functools.lru_cache(maxsize=4)  # a large one takes as long as a small network's step
def order(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """The random order of an epoch; shared, so read only."""
    found = np.random.default_rng([seed, epoch, 0]).permutation(size)
    found.flags.writeable = False
    return found
