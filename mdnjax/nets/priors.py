"""Priors p(z) and p(z | y) of autoencoders that are learnt."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from mdnjax import mixtures, variational
from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Shape, as_float
from mdnjax.mixtures import GaussianHead, GaussianMixture
from mdnjax.nets.output import spread_bias


class Normal(NamedTuple):
    """A diagonal Gaussian, as the functions of `mdnjax.variational` take it: `f(..., *normal)`.

    Attributes:
        loc: `[..., D]`.
        log_scale: `[..., D]`.
    """

    loc: Array
    log_scale: Array


def as_normal(function: str, argument: str, raw: Array) -> Normal:
    """The Gaussian of a network's outputs: centres, then log-scales."""
    width = raw.shape[-1]
    require(width % 2 == 0, function, argument, f"one with {width}", "an even number of outputs")
    return Normal(*jnp.split(raw, 2, axis=-1))


@runtime_checkable
class Prior(Protocol):
    """What a module has to have to serve as p(z), or as p(z | y)."""

    @property
    def log_prob(self) -> Callable[..., Array]:
        """`log_prob(z, *given)`: log p(z) `[...]`, nats, of z `[..., D]`.

        Or the log of an unbiased estimate of p(z), as that of an autoencoder is.
        """
        ...

    @property
    def sample(self) -> Callable[..., Array]:
        """`sample(shape, *given)`: `[*shape, D]`; what is given has the same shape in front."""
        ...


class NormalPrior(nnx.Module):
    """A learnt prior p(z | y) = N(mu(y), diag(sigma(y)^2)).

    Args:
        network: From y to mu and log sigma, `[..., 2 D]`.
        rngs: Source of the samples' stream.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> rngs = nnx.Rngs(0)
        >>> prior = nets.NormalPrior(nets.MLP(10, (32,), 2 * 5, rngs=rngs), rngs=rngs)
        >>> prior.normal(jnp.zeros((4, 10))).loc.shape
        (4, 5)
    """

    def __init__(self, network: nnx.Module, *, rngs: nnx.Rngs) -> None:
        self.network: nnx.Module = network
        self.noise: nnx.RngStream = rngs.noise.fork()

    def normal(self, y: Float[ArrayLike, "*batch _"]) -> Normal:
        """p(z | y).

        Args:
            y: `[..., F]`.

        Returns:
            Its centre and log-scale, `[..., D]` each.
        """
        return as_normal("NormalPrior", "network", self.network(as_float(y)))

    def log_prob(
        self, z: Float[ArrayLike, "*batch D"], y: Float[ArrayLike, "*batch _"]
    ) -> Float[Array, "*batch"]:
        """Log p(z | y).

        Args:
            z: `[..., D]`.
            y: `[..., F]`.

        Returns:
            `[...]`, nats.
        """
        return variational.log_normal(as_float(z), *self.normal(y))

    def sample(self, shape: Shape, y: Float[ArrayLike, "*shape _"]) -> Float[Array, "*shape D"]:
        """Samples of p(z | y).

        Args:
            shape: That of y without its last axis.
            y: `[*shape, F]`.

        Returns:
            `[*shape, D]`.
        """
        y = as_float(y)
        require(shape == y.shape[:-1], "NormalPrior.sample", "shape", shape, f"{y.shape[:-1]}")
        return variational.reparameterize(self.noise(), *self.normal(y))


class _Mixed(nnx.Module):
    """A prior that is a mixture."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.noise: nnx.RngStream = rngs.noise.fork()

    def mixture(self) -> GaussianMixture:
        """p(z)."""
        raise NotImplementedError

    def log_prob(self, z: Float[ArrayLike, "*batch D"]) -> Float[Array, "*batch"]:
        """Log p(z).

        Args:
            z: `[..., D]`.

        Returns:
            `[...]`, nats.
        """
        return mixtures.log_prob(self.mixture(), as_float(z))

    def sample(self, shape: Shape) -> Float[Array, "*shape D"]:
        """Samples of p(z).

        Args:
            shape: Of the samples.

        Returns:
            `[*shape, D]`.
        """
        return mixtures.sample(self.noise(), self.mixture(), shape)


class MixturePrior(_Mixed):
    """A learnt prior that is a Gaussian mixture: several places where codes may lie.

    Its components start spread over the standard normal.

    Args:
        head: What kind of mixture, of dimension D.
        rngs: Source of the samples' stream.

    Example:
        >>> from flax import nnx
        >>> import mdnjax as mdn
        >>> from mdnjax import nets
        >>> head = mdn.GaussianHead(num_components=10, dim=2, covariance="diagonal")
        >>> nets.MixturePrior(head, rngs=nnx.Rngs(0)).mixture().weights.shape
        (10,)
    """

    def __init__(self, head: GaussianHead, *, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.head = head
        self.raw: nnx.Param[Array] = nnx.Param(spread_bias(head))

    def mixture(self) -> GaussianMixture:
        """p(z)."""
        return self.head.mixture(self.raw[...])


class VampPrior(_Mixed):
    r"""The encoder's own opinion of C learnt inputs: p(z) = (1/C) sum_c q(z | u_c).

    Args:
        encoder: The very module that the autoencoder has as its encoder.
        pseudo_inputs: Where the u_c start, `[C, *pixels]`, such as some training images.
        rngs: Source of the samples' stream.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> rngs = nnx.Rngs(0)
        >>> encoder = nets.MLP(784, (200,), 2 * 5, rngs=rngs)
        >>> nets.VampPrior(encoder, jnp.zeros((20, 784)), rngs=rngs).mixture().weights.shape
        (20,)

    References:
        J. M. Tomczak and M. Welling. "VAE with a VampPrior." 2018.
    """

    def __init__(
        self, encoder: nnx.Module, pseudo_inputs: Float[ArrayLike, "C ..."], *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(rngs)
        self.encoder: nnx.Module = encoder
        self.pseudo_inputs: nnx.Param[Array] = nnx.Param(jnp.asarray(pseudo_inputs))

    def mixture(self) -> GaussianMixture:
        """p(z)."""
        normal = as_normal("VampPrior", "encoder", self.encoder(self.pseudo_inputs[...]))
        return variational.aggregated_posterior(*normal)
