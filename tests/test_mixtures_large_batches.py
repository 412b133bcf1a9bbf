"""A batch of tens of thousands is as many mixtures one by one.

It takes other paths in XLA: threads, library kernels, partitions. jaxlib 0.10.2 is excluded for
sums that are wrong from some thousand rows on, and right below.
"""

import jax
import numpy as np
import pytest
from made_mixtures import make

import mdnjax as mdn

BATCH, PIECE = 40_000, 1_000


def on_the_line(mix, y):
    return {
        "cdf": mdn.cdf(mix, y),
        "quantile": mdn.quantile(mix, 0.3),
        "crps": mdn.crps(mix, y),
    }


def in_the_plane(mix, y):
    return {
        "log_prob": mdn.log_prob(mix, y),
        "slope": jax.grad(lambda y: mdn.log_prob(mix, y).sum())(y),
        "covariance": mdn.covariance(mix),
        "entropy_bounds": mdn.entropy_bounds(mix),
        "modes": mdn.modes(mix, max_modes=3),
    }


@pytest.mark.parametrize(("ask", "dim"), [(on_the_line, 1), (in_the_plane, 2)])
def test_a_large_batch_is_its_pieces(ask, dim):
    mix = make("diagonal", (BATCH,), k=3, dim=dim)
    y = np.random.default_rng(1).normal(size=(BATCH, dim)).astype(np.float32)
    answer = jax.jit(ask)
    together = answer(mix, y)
    for start in (0, 17_000, BATCH - PIECE):
        piece = slice(start, start + PIECE)
        alone = answer(mix[piece], y[piece])
        for name, whole in together.items():
            jax.tree.map(
                lambda one, other, name=name, piece=piece: np.testing.assert_allclose(
                    one[piece], other, rtol=1e-3, atol=1e-4, err_msg=name
                ),
                whole,
                alone[name],
            )
