"""Splits that keep a form, or a writer, on one side."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mdnjax._checks import require


def split_by(
    groups: Sequence[str] | np.ndarray, fractions: Sequence[float], *, seed: int
) -> list[Int[np.ndarray, " part"]]:
    """Splits items into parts such that no group stands in two of them.

    Lines of one form share their text and their writer, so a split by line would test on what
    was trained on. The groups are put in a random order fixed by `seed` and dealt out in that
    order; each part ends with the group that brings its share of the *items* closest to what was
    asked. The answer depends only on the set of groups and their sizes, not on the order of the
    items.

    Args:
        groups: The group of each item, e.g. `corpus.forms` or `corpus.writers`.
        fractions: The share of the items each part should have; positive, adding to 1.
        seed: Fixes the split.

    Returns:
        The sorted indices of each part's items, in the order of `fractions`.

    Raises:
        ValueError: `fractions` is no distribution, `groups` is no list, or a part would be empty.

    Example:
        >>> train, test = split_by(["a", "a", "b", "c"], [0.75, 0.25], seed=0)
        >>> sorted([*train.tolist(), *test.tolist()])
        [0, 1, 2, 3]
    """
    require(
        len(fractions) > 0
        and all(f > 0 for f in fractions)
        and math.isclose(sum(fractions), 1.0, abs_tol=1e-6),
        "split_by",
        "fractions",
        list(fractions),
        "positive and add to 1",
    )
    groups = np.asarray(groups)
    require(groups.ndim == 1, "split_by", "groups", groups, "a group for each item, in one axis")
    names, group_of_item, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    # dealt[g]: how many items the first g groups hold; part p ends at the g whose dealt is nearest
    # to the share asked for.
    dealt = np.concatenate([[0], np.cumsum(sizes[order])])
    wanted = np.cumsum(fractions)[:-1] * dealt[-1]
    cuts = [0, *(int(np.argmin(np.abs(dealt - share))) for share in wanted), len(names)]
    part_of_group = np.empty(len(names), dtype=np.int64)
    for part, (begin, end) in enumerate(itertools.pairwise(cuts)):
        require(
            end > begin,
            "split_by",
            "groups",
            f"{len(names)} groups of {dealt[-1]} items",
            f"enough to give every part of {list(fractions)} a group",
        )
        part_of_group[order[begin:end]] = part
    part_of_item = part_of_group[group_of_item]
    return [np.flatnonzero(part_of_item == part) for part in range(len(fractions))]
