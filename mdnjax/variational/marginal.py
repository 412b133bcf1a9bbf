"""The marginal likelihood log p(x), estimated in blocks: what a VAE is to be compared by."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._checks import require
from mdnjax._types import Array, Key


class LogMarginal(NamedTuple):
    """An estimate of log p(x).

    Attributes:
        value: `[...]`, nats; a lower bound on average, the tighter the more samples.
        standard_error: `[...]`, nats, of `value`; too small where no sample showed what matters.
        effective_sample_size: `[...]`, from 1 to the number of samples: how many equal weights
            would be as good. Near 1, one sample decides, and neither number above is to be trusted.
    """

    value: Array
    standard_error: Array
    effective_sample_size: Array


def log_marginal(
    key: Key,
    log_weights: Callable[[Key, int], Array],
    *,
    num_samples: int = 5000,
    block_size: int = 100,
) -> LogMarginal:
    r"""Log p(x) = log E[w] from samples, in constant memory.

        w = p(x | z) p(z) / q(z | x),  z ~ q(z | x):   importance sampling, the bound of k samples
        w = p(x | z),                  z ~ p(z):       naive; of a sharp p(x | z) it sees nothing

    The largest weight, sum w and sum w^2 are kept from block to block in log space, so that nothing
    overflows and a block is all that is in memory. The standard error is that of log mean w to
    first order, sd(w) / (sqrt(n) mean w). Call it under `jit`: otherwise its loop is compiled anew
    every time.

    Args:
        key: A random key.
        log_weights: Takes a key and a number n, draws n samples z for each example and returns
            their log-weights `[n, ...]`.
        num_samples: How many in all: a multiple of `block_size`, or fewer.
        block_size: How many at a time.

    Returns:
        The `LogMarginal`.

    Raises:
        ValueError: `num_samples` is below 2, or no multiple of the block.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mdnjax import variational
        >>> def naive(key, n):  # p(z) = N(0, 1), p(x | z) = N(z, 1), x = 2
        ...     return variational.log_standard_normal(jax.random.normal(key, (n, 1)) - 2)
        >>> estimate = variational.log_marginal(jax.random.key(0), naive)
        >>> print(estimate.value.round(1))  # -1 - log(4 pi) / 2 = -2.27
        -2.3

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov. "Importance Weighted Autoencoders." 2016, eq. 8.
    """
    require(num_samples >= 2, "log_marginal", "num_samples", num_samples, "at least 2")
    require(block_size >= 1, "log_marginal", "block_size", block_size, "at least 1")
    size = min(block_size, num_samples)
    num_blocks, rest = divmod(num_samples, size)
    require(
        rest == 0,
        "log_marginal",
        "num_samples",
        num_samples,
        f"a multiple of block_size {block_size}",
    )

    def add(sums: _Sums, key: Key) -> tuple[_Sums, None]:
        log_w = log_weights(key, size)
        peak = jnp.maximum(sums.peak, lax.stop_gradient(jnp.max(log_w, axis=0)))
        # Where all weights so far are zero, any unit will do.
        unit = jnp.where(jnp.isneginf(peak), 0, peak)
        w, earlier = jnp.exp(log_w - unit[None]), jnp.exp(sums.peak - unit)
        return _Sums(
            peak,
            earlier * sums.of_w + jnp.sum(w, axis=0),
            earlier**2 * sums.of_squares + jnp.sum(w * w, axis=0),
        ), None

    some = jax.eval_shape(lambda: log_weights(key, size))
    require(
        some.ndim >= 1 and some.shape[0] == size,
        "log_marginal",
        "log_weights",
        f"a function that returns shape {some.shape}",
        f"one that returns [{size}, ...]",
    )
    zero = jnp.zeros(some.shape[1:], some.dtype)
    start = _Sums(jnp.full_like(zero, -jnp.inf), zero, zero)
    sums, _ = lax.scan(add, start, jax.random.split(key, num_blocks))
    n, unit = num_samples, jnp.where(jnp.isneginf(sums.peak), 0, sums.peak)
    value = unit + jnp.log(sums.of_w) - jnp.log(jnp.asarray(n, zero.dtype))
    effective = sums.of_w**2 / sums.of_squares
    # Of mean w and sd(w): sd^2 / (n mean^2) = (n / effective - 1) / (n - 1).
    error = jnp.sqrt(jnp.maximum(n / effective - 1, 0) / (n - 1))
    return LogMarginal(value, error, effective)


class _Sums(NamedTuple):
    peak: Array
    of_w: Array
    of_squares: Array
    """In units of exp(peak)."""
