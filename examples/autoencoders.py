"""What `vae.py` and `cvae.py` have in common: a network's training, and its judgement in nats."""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdnjax import datasets, nets, training, variational

HELD_OUT = 6  # one training image of so many validates, or fewer:
JUDGED = 500  # images are enough, and as many as are judged at a time
PIXELS = 0.001  # the least share of images in which a pixel is taken to be on, or off


class Learned(NamedTuple):
    """A network, its parameters, and what they took."""

    network: Any
    params: Any
    steps: int
    seconds: float

    def method(self, name: str) -> Callable[..., Any]:
        """A method of the network as a compiled function of its arguments (and a key)."""
        apply = nets.functional(self.network, name).apply

        @jax.jit
        def call(params: Any, key: jax.Array, *arguments: Any) -> Any:
            return apply(params, {}, *arguments, key=key)[0]

        def with_params(*arguments: Any, key: jax.Array | None = None) -> Any:
            return call(self.params, jax.random.key(0) if key is None else key, *arguments)

        return with_params


def is_held_out(number: int) -> np.ndarray:
    """Which of so many training images are for validation, `[N]`."""
    every = max(HELD_OUT, number // JUDGED)
    return np.arange(number) % every == every - 1


def log_odds(images: np.ndarray) -> jax.Array:
    """How often each pixel is on, as log-odds: where a decoder's bias may begin."""
    often = np.clip(images.mean(axis=0), PIXELS, 1 - PIXELS)
    return jnp.asarray(np.log(often) - np.log1p(-often))


def train(
    network: nets.VAE | nets.ConditionalVAE,
    batches: datasets.Batches,
    valid: list[Any],
    *,
    num_samples: int = 1,
    rate: float = 1e-3,
    **options: Any,
) -> Learned:
    """Trains a network by the bound of `num_samples`.

    Args:
        network: With its initial parameters.
        batches: Of tuples: what the bound's method takes, (x,) or (x, y).
        valid: Batches to validate on.
        num_samples: K; 1 is the ELBO, with the exact divergence where there is one.
        rate: Peak learning rate.
        options: For `training.fit`.
    """
    began = time.monotonic()
    net = nets.functional(network, "terms" if num_samples == 1 else "dreg_bound")

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        if num_samples == 1:
            terms, state = net.apply(params, state, *batch, key=key, train=True)
            bound = variational.elbo(terms.log_likelihood, terms.kl.sum(-1))
        else:
            bound, state = net.apply(params, state, *batch, num_samples, key=key, train=True)
        return -bound, jnp.ones_like(bound), state

    result = training.fit(
        loss,
        net.params,
        net.state,
        batches,
        optimizer=training.adam(clip=None),
        schedule=training.Schedule(peak=rate, warmup=200),
        average=0.999,
        seed=batches.seed,
        validate=training.make_validation(jax.random.key(batches.seed), loss, valid),
        **options,
    )
    if result.signal is not None:
        print(f"{result.signal.name}: stopped after step {int(result.last.step):,}")
        sys.exit(128 + result.signal)
    return Learned(network, result.params, int(result.last.step), time.monotonic() - began)


def bound_terms(learned: Learned, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-log p(x | z) `[N]` and the divergence of each coordinate `[N, D]`, of one sample each."""
    terms = learned.method("terms")
    parts = [terms(*part, key=jax.random.key(n)) for n, part in enumerate(pieces(inputs, JUDGED))]
    reconstruction = -np.concatenate([part.log_likelihood for part in parts])
    return reconstruction, np.concatenate([part.kl for part in parts])


def importance(learned: Learned, *inputs: np.ndarray, num_samples: int) -> variational.LogMarginal:
    """Log p(x) (given y), by importance sampling, a block of images at a time."""
    apply = nets.functional(learned.network, "log_weights").apply

    @jax.jit
    def estimate(params: Any, inputs: Any, key: jax.Array) -> variational.LogMarginal:
        def weights(key: jax.Array, n: int) -> jax.Array:
            return apply(params, {}, *inputs, n, key=key)[0]

        return variational.log_marginal(
            key, weights, num_samples=num_samples, block_size=min(50, num_samples)
        )

    parts = [
        estimate(learned.params, part, jax.random.key(n))
        for n, part in enumerate(pieces(inputs, 100))
    ]
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def pieces(arrays: tuple[np.ndarray, ...], size: int) -> list[tuple[np.ndarray, ...]]:
    """Arrays cut along their first axis into pieces of about one size."""
    number = -(-len(arrays[0]) // size)
    return list(zip(*(np.array_split(array, number) for array in arrays), strict=True))


def mean_and_error(values: Any) -> tuple[float, float]:
    """A mean and its standard error."""
    values = np.asarray(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def check_folder(out: pathlib.Path) -> None:
    """Finds out now whether `out` can be written, and Matplotlib be used."""
    from mdnjax import plotting

    with plotting.house_style():
        pass
    training.check_folder(out)
