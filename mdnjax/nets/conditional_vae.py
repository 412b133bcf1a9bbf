r"""Conditional autoencoders: everything given y.

p(x | y) = integral p(x | z, y) p(z | y) dz,      q(z | x, y) = N(mu(x, y), diag(sigma(x, y)^2))
"""

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from mdnjax._types import Array, ArrayLike, as_float
from mdnjax.nets._autoencoder import Autoencoder, Terms
from mdnjax.nets.priors import Normal


class ConditionalVAE(Autoencoder):
    r"""A variational autoencoder of x given y: a class, attributes, the half that is known.

    As `VAE`, with y `[..., F]` an argument of every method, and of encoder, decoder and prior.

    Args:
        encoder: From x `[..., *pixels]` and y to mu and log sigma of q, `[..., 2 D]`.
        decoder: From z `[..., D]` and y to raw outputs `[..., *pixels, head.num_outputs]`.
        head: The likelihood p(x | z, y) of a pixel.
        latent_dim: D.
        prior: p(z | y): `NormalPrior`, or None for N(0, I) whatever y.
        rngs: Source of the noise' stream.

    Raises:
        ValueError: `latent_dim` is less than 1, or `prior` has not the two methods; when called:
            encoder or decoder have another number of outputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> import mdnjax as mdn
        >>> from mdnjax import nets
        >>> rngs = nnx.Rngs(0)
        >>> vae = nets.ConditionalVAE(
        ...     nets.MLP(784 + 10, (200,), 2 * 5, rngs=rngs),
        ...     nets.MLP(5 + 10, (200,), (784, 1), rngs=rngs),
        ...     mdn.BernoulliHead(),
        ...     latent_dim=5,
        ...     prior=nets.NormalPrior(nets.MLP(10, (20,), 2 * 5, rngs=rngs), rngs=rngs),
        ...     rngs=rngs,
        ... )
        >>> vae.generate(jax.nn.one_hot(jnp.arange(10), 10)).shape  # log-odds, a digit each
        (10, 784, 1)

    References:
        K. Sohn, H. Lee and X. Yan. "Learning Structured Output Representation using Deep
        Conditional Generative Models." 2015.
    """

    def encode(self, x: Shaped[ArrayLike, "..."], y: Float[ArrayLike, "*batch F"]) -> Normal:
        """Q(z | x, y).

        Args:
            x: `[..., *pixels]`.
            y: `[..., F]`.

        Returns:
            Its centre and log-scale, `[..., D]` each.
        """
        return self._encode(jnp.asarray(x), (as_float(y),))

    def decode(self, z: Float[ArrayLike, "*batch D"], y: Float[ArrayLike, "*batch F"]) -> Array:
        """The raw outputs of p(x | z, y).

        Args:
            z: `[..., D]`.
            y: `[..., F]`.

        Returns:
            `[..., *pixels, head.num_outputs]`.
        """
        return self._decode(as_float(z), (as_float(y),))

    def terms(self, x: Shaped[ArrayLike, "..."], y: Float[ArrayLike, "*batch F"]) -> Terms:
        """Both sides of the evidence lower bound of log p(x | y), from one sample of q each.

        Args:
            x: `[..., *pixels]`.
            y: `[..., F]`.

        Returns:
            The `Terms`.
        """
        return self._terms(jnp.asarray(x), (as_float(y),))

    def log_weights(
        self, x: Shaped[ArrayLike, "..."], y: Float[ArrayLike, "*batch F"], num_samples: int
    ) -> Float[Array, "k *batch"]:
        """Log p(x | z, y) + log p(z | y) - log q(z | x, y) of samples z of q: for `iwae_bound`.

        Args:
            x: `[..., *pixels]`.
            y: `[..., F]`.
            num_samples: k.

        Returns:
            `[k, ...]`, nats.
        """
        return self._log_weights(jnp.asarray(x), (as_float(y),), num_samples)

    def dreg_bound(
        self, x: Shaped[ArrayLike, "..."], y: Float[ArrayLike, "*batch F"], num_samples: int
    ) -> Float[Array, "*batch"]:
        """`variational.dreg_bound`: the bound of k samples, with a better gradient for the encoder.

        The decoder is called twice, and must not be random itself: no dropout.

        Args:
            x: `[..., *pixels]`.
            y: `[..., F]`.
            num_samples: k.

        Returns:
            `[...]`, nats.
        """
        return self._dreg_bound(jnp.asarray(x), (as_float(y),), num_samples)

    def generate(self, y: Float[ArrayLike, "*batch F"]) -> Array:
        """Raw outputs of p(x | z, y) for z drawn from the prior, one for every y.

        Args:
            y: `[..., F]`.

        Returns:
            `[..., *pixels, head.num_outputs]`.
        """
        y = as_float(y)
        return self._decode(self._prior_sample(y.shape[:-1], (y,)), (y,))

    def sample(self, y: Float[ArrayLike, "*batch F"]) -> Array:
        """New images for every y: z drawn from the prior, x from p(x | z, y).

        Args:
            y: `[..., F]`.

        Returns:
            `[..., *pixels]`.

        Raises:
            ValueError: The head has no method `sample`.
        """
        y = as_float(y)
        return self._sample(y.shape[:-1], (y,))
