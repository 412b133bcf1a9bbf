r"""Variational autoencoders: an encoder, a decoder and a prior, and the bounds they make together.

    p(x) = integral p(x | z) p(z) dz,      q(z | x) = N(mu(x), diag(sigma(x)^2))

The encoder is any module that emits mu and log sigma, the decoder any that emits the raw outputs of
a head for every pixel. Everything here is per example, in nats, with every constant; sums over
pixels are taken here, averages over examples are the caller's.
"""

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from mdnjax._types import Array, ArrayLike, Shape, as_float
from mdnjax.nets._autoencoder import Autoencoder, Terms
from mdnjax.nets.priors import Normal


class VAE(Autoencoder):
    r"""A variational autoencoder, whose bounds and samples are its methods.

    Each draws its own noise, from the `key` that a call of `functional` is given. In training,

        net = nets.functional(vae, "terms")

        def loss(params, state, x, key):
            terms, state = net.apply(params, state, x, key=key, train=True)
            nats = -variational.elbo(terms.log_likelihood, terms.kl.sum(-1))
            return nats, jnp.ones_like(nats), state

    and of what was learnt, `nets.functional(vae, "generate")` needs the decoder alone.

    A VAE can be the prior of another: two stochastic layers, of which each is encoded from the one
    below and decoded from the one above. Its `log_prob` is then a sample, unbiased for p(z).

    Args:
        encoder: From x `[..., *pixels]` to mu and log sigma of q, `[..., 2 D]`.
        decoder: From z `[..., D]` to raw outputs `[..., *pixels, head.num_outputs]`; of a head
            whose target has an axis of its own, the channels of x are that.
        head: The likelihood p(x | z) of a pixel.
        latent_dim: D.
        prior: p(z): a module with `log_prob` and `sample`, or None for N(0, I).
        rngs: Source of the noise' stream.

    Raises:
        ValueError: `latent_dim` is less than 1, or `prior` has not the two methods; when called:
            encoder or decoder have another number of outputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> import mdnjax as mdn
        >>> from mdnjax import nets, variational
        >>> rngs = nnx.Rngs(0)
        >>> vae = nets.VAE(
        ...     nets.MLP(784, (200, 200), 2 * 50, rngs=rngs),
        ...     nets.MLP(50, (200, 200), (784, 1), rngs=rngs),
        ...     mdn.BernoulliHead(),
        ...     latent_dim=50,
        ...     rngs=rngs,
        ... )
        >>> x = jnp.zeros((8, 784))
        >>> vae.encode(x).loc.shape, vae.terms(x).kl.shape
        ((8, 50), (8, 50))
        >>> variational.iwae_bound(vae.log_weights(x, 5)).shape
        (8,)
        >>> vae.generate((3,)).shape  # log-odds of three images' pixels
        (3, 784, 1)

    References:
        D. P. Kingma and M. Welling. "Auto-Encoding Variational Bayes." 2014.
        Y. Burda, R. Grosse and R. Salakhutdinov. "Importance Weighted Autoencoders." 2016.
    """

    def encode(self, x: Shaped[ArrayLike, "..."]) -> Normal:
        """Q(z | x).

        Args:
            x: `[..., *pixels]`.

        Returns:
            Its centre and log-scale, `[..., D]` each.
        """
        return self._encode(jnp.asarray(x), ())

    def decode(self, z: Float[ArrayLike, "*batch D"]) -> Array:
        """The raw outputs of p(x | z).

        Args:
            z: `[..., D]`.

        Returns:
            `[..., *pixels, head.num_outputs]`.
        """
        return self._decode(as_float(z), ())

    def terms(self, x: Shaped[ArrayLike, "..."]) -> Terms:
        """Both sides of the evidence lower bound, from one sample of q for each example.

        Args:
            x: `[..., *pixels]`.

        Returns:
            The `Terms`.
        """
        return self._terms(jnp.asarray(x), ())

    def log_weights(
        self, x: Shaped[ArrayLike, "..."], num_samples: int
    ) -> Float[Array, "k *batch"]:
        """Log p(x | z) + log p(z) - log q(z | x) of samples z of q: for `iwae_bound`.

        Args:
            x: `[..., *pixels]`.
            num_samples: k.

        Returns:
            `[k, ...]`, nats.
        """
        return self._log_weights(jnp.asarray(x), (), num_samples)

    def dreg_bound(self, x: Shaped[ArrayLike, "..."], num_samples: int) -> Float[Array, "*batch"]:
        """`variational.dreg_bound`: the bound of k samples, with a better gradient for the encoder.

        The decoder is called twice, and must not be random itself: no dropout.

        Args:
            x: `[..., *pixels]`.
            num_samples: k.

        Returns:
            `[...]`, nats.

        Raises:
            ValueError: The prior is an autoencoder.
        """
        return self._dreg_bound(jnp.asarray(x), (), num_samples)

    def log_prob(self, x: Shaped[ArrayLike, "..."]) -> Float[Array, "*batch"]:
        """Log w of one sample: w estimates p(x) without bias, its log is the sampled ELBO.

        Args:
            x: `[..., *pixels]`.

        Returns:
            `[...]`, nats.
        """
        return self._log_weights(jnp.asarray(x), (), 1)[0]

    def generate(self, shape: Shape) -> Array:
        """Raw outputs of p(x | z) for z drawn from the prior: new images, as densities.

        Args:
            shape: How many.

        Returns:
            `[*shape, *pixels, head.num_outputs]`.
        """
        return self._decode(self._prior_sample(shape, ()), ())

    def sample(self, shape: Shape) -> Array:
        """New images: z drawn from the prior, x from p(x | z).

        Args:
            shape: How many.

        Returns:
            `[*shape, *pixels]`.

        Raises:
            ValueError: The head has no method `sample`.
        """
        return self._sample(shape, ())
