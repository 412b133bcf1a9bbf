"""What a variational autoencoder and a conditional one have in common.

`given` is what all is conditioned on: nothing, or y. Arrays are per example, nats with every
constant; sums over pixels are taken here, averages over examples are the caller's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mdnjax import variational
from mdnjax._checks import require
from mdnjax._sums import sum_last
from mdnjax._types import Array, Shape
from mdnjax.mixtures import Head
from mdnjax.nets.priors import Normal, NormalPrior, Prior, as_normal


class Terms(NamedTuple):
    """The two sides of the evidence lower bound, of one sample z an example.

    Attributes:
        log_likelihood: log p(x | z), summed over pixels, `[...]`, nats.
        kl: KL(q(z | x) || p(z)) of each latent coordinate, `[..., D]`, nats: exact where the prior
            is normal; else `[..., 1]`, the sample log q(z | x) - log p(z) of all together.
    """

    log_likelihood: Array
    kl: Array


class Autoencoder(nnx.Module):
    """What both kinds do, with whatever is given besides x."""

    def __init__(
        self,
        encoder: nnx.Module,
        decoder: nnx.Module,
        head: Head,
        *,
        latent_dim: int,
        prior: Prior | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        name = type(self).__name__
        require(latent_dim >= 1, name, "latent_dim", latent_dim, "at least 1")
        is_prior = prior is None or (hasattr(prior, "log_prob") and hasattr(prior, "sample"))
        require(is_prior, name, "prior", repr(prior), "a module with log_prob and sample, or None")
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.head = head
        self.latent_dim = latent_dim
        self.noise: nnx.RngStream = rngs.noise.fork()

    def _encode(self, x: Array, given: tuple[Array, ...]) -> Normal:
        name = type(self).__name__
        found = as_normal(name, "encoder", self.encoder(x, *given))
        wanted = f"a module with {2 * self.latent_dim} outputs, for latent_dim {self.latent_dim}"
        got = f"one with {2 * found.loc.shape[-1]}"
        require(found.loc.shape[-1] == self.latent_dim, name, "encoder", got, wanted)
        return found

    def _decode(self, z: Array, given: tuple[Array, ...]) -> Array:
        name = type(self).__name__
        require(
            z.shape[-1] == self.latent_dim,
            name,
            "z",
            f"shape {z.shape}",
            f"[..., {self.latent_dim}]",
        )
        raw = self.decoder(z, *given)
        require(
            raw.ndim >= z.ndim and raw.shape[-1] == self.head.num_outputs,
            name,
            "decoder",
            f"one with outputs of shape {raw.shape}",
            f"a module with outputs [..., pixels, {self.head.num_outputs}], for {self.head}",
        )
        return raw

    def _log_likelihood(self, x: Array, z: Array, given: tuple[Array, ...]) -> Array:
        """Log p(x | z) `[*shape, ...]`, of z `[*shape, ..., D]`."""
        raw = self._decode(z, given)
        nats = self.head.nll(raw, x)
        return -sum_last(nats.reshape(*z.shape[:-1], -1))

    def _log_prior(self, z: Array, given: tuple[Array, ...]) -> Array:
        if self.prior is None:
            return variational.log_standard_normal(z)
        return self.prior.log_prob(z, *given)

    def _terms(self, x: Array, given: tuple[Array, ...]) -> Terms:
        q = self._encode(x, given)
        z = variational.reparameterize(self.noise(), *q)
        if self.prior is None:
            kl = variational.kl_standard_normal(*q)
        elif isinstance(self.prior, NormalPrior):
            kl = variational.kl_normal(*q, *self.prior.normal(*given))
        else:
            kl = (variational.log_normal(z, *q) - self._log_prior(z, given))[..., None]
        return Terms(self._log_likelihood(x, z, given), kl)

    def _weights(
        self, x: Array, given: tuple[Array, ...], num_samples: int, *, path_only: bool
    ) -> tuple[Callable[[Array], Array], Array]:
        """Log w as a function of z `[k, ..., D]`, and z."""
        name = type(self).__name__
        require(num_samples >= 1, name, "num_samples", num_samples, "at least 1")
        q = self._encode(x, given)
        z = variational.reparameterize(self.noise(), *q, (num_samples,))
        given = tuple(jnp.broadcast_to(y, (num_samples, *y.shape)) for y in given)

        def weights(z: Array) -> Array:
            return variational.log_weights(
                z,
                *q,
                lambda z: self._log_likelihood(x, z, given),
                log_prior=lambda z: self._log_prior(z, given),
                path_only=path_only,
            )

        return weights, z

    def _log_weights(self, x: Array, given: tuple[Array, ...], num_samples: int) -> Array:
        weights, z = self._weights(x, given, num_samples, path_only=False)
        return weights(z)

    def _dreg_bound(self, x: Array, given: tuple[Array, ...], num_samples: int) -> Array:
        require(
            not isinstance(self.prior, Autoencoder),
            f"{type(self).__name__}.dreg_bound",
            "prior",
            "another autoencoder",
            "one whose density is known: the samples inside another are not reparameterised twice",
        )
        return variational.dreg_bound(*self._weights(x, given, num_samples, path_only=True))

    def _prior_sample(self, shape: Shape, given: tuple[Array, ...]) -> Array:
        if self.prior is None:
            return jax.random.normal(self.noise(), (*shape, self.latent_dim))
        return self.prior.sample(shape, *given)

    def _sample(self, shape: Shape, given: tuple[Array, ...]) -> Array:
        sample = getattr(self.head, "sample", None)
        name = f"{type(self).__name__}.sample"
        require(callable(sample), name, "head", self.head, "one that has a method sample")
        assert sample is not None
        return sample(self.noise(), self._decode(self._prior_sample(shape, given), given))
