"""Standardised targets for the network, original units for everyone else."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Real

from mdnjax._checks import require
from mdnjax._types import Array, as_float
from mdnjax.mixtures.gaussian import GaussianMixture, affine


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Standardizer:
    r"""The affine map z = (y - loc) / scale that networks like their targets through.

    A density changes with the units, p(y) = p(z) / prod_d scale_d, so that

        nll of y = nll of z + log_det,        log_det = sum_d log scale_d,

    and figures in standardised units compare with nobody's. An affine map takes a Gaussian mixture
    to a Gaussian mixture: `invert_mixture` gives the exact density of y, and every function of this
    library then speaks the original units, log-determinant and all.

    A pytree: it goes through `jit` and into a checkpoint beside the parameters. (For pen offsets,
    see `mdnjax.strokes.Normalizer`.)

    Attributes:
        loc: `[D]`, in the units of y.
        scale: `[D]`, or `[1]` where all coordinates share one; positive, in the units of y.

    Example:
        >>> import mdnjax as mdn
        >>> standardizer = mdn.Standardizer.fit([[10.0], [14.0]])
        >>> standardizer.loc, standardizer.scale
        (array([12.]), array([2.]))
        >>> print(standardizer.apply([[10.0], [12.0]])[:, 0])
        [-1.  0.]
        >>> mix = mdn.GaussianMixture.isotropic([[0.0]], [1.0])  # of z
        >>> print(standardizer.invert_mixture(mix).loc, standardizer.invert_mixture(mix).scale)
        [[12.]] [2.]
    """

    loc: Float[Array | np.ndarray, " D"]
    scale: Float[Array | np.ndarray, " D_or_1"]

    # JAX rebuilds pytrees around shapes, axes and placeholders; checkers at run time must let it.
    __no_type_check__ = True

    @classmethod
    def fit(
        cls,
        targets: Real[Array | np.ndarray, "*batch D"] | list[Any],
        *,
        mask: Bool[Array | np.ndarray, "*batch"] | None = None,
        shared_scale: bool = False,
    ) -> "Standardizer":
        """The standardiser that gives the targets mean 0 and standard deviation 1.

        Sums run in float64, the second moment about the mean (1/n). A coordinate that never varies
        gets scale 1.

        Args:
            targets: `[..., D]`, the training set's; not traced.
            mask: `[...]`, True where there is a target and not padding; all by default.
            shared_scale: Whether all coordinates share one scale, the root of their mean variance:
                distances keep their proportions and spheres stay spheres.

        Returns:
            The standardiser, in NumPy's float64: on NumPy targets it works in full precision.

        Raises:
            ValueError: There is no target, one is not finite, or the shapes do not fit.
        """
        name = "Standardizer.fit"
        values = np.asarray(targets, dtype=np.float64)
        require(values.ndim >= 2, name, "targets", f"shape {values.shape}", "[..., D]")
        kept = np.ones(values.shape[:-1], dtype=bool) if mask is None else np.asarray(mask)
        batch = values.shape[:-1]
        require(kept.shape == batch, name, "mask", f"shape {kept.shape}", f"of shape {batch}")
        values = values[kept]
        require(len(values) > 0, name, "targets", "none", "one or more")
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=-1))
        require(
            len(wrong) == 0,
            name,
            "targets",
            f"{len(wrong)} of {len(values)} that are not",
            "finite",
        )
        loc = values.mean(axis=0)
        # The mean of equal numbers may differ from them by a rounding.
        moves = values.min(axis=0) < values.max(axis=0)
        loc = np.where(moves, loc, values[0])
        variance = np.mean((values - loc) ** 2, axis=0)
        if shared_scale:
            variance, moves = variance.mean(keepdims=True), moves.any(keepdims=True)
        return cls(loc, np.sqrt(np.where(moves, variance, 1)))

    @property
    def log_det(self) -> Float[Array | np.ndarray, ""]:
        """Sum of log scale over the D coordinates: nats to add to an nll in standardised units."""
        xp = np if isinstance(self.scale, np.ndarray) else jnp
        return xp.asarray(xp.sum(xp.log(xp.broadcast_to(self.scale, self.loc.shape))))

    def apply(self, y: Real[Array | np.ndarray, "*batch D"] | list[Any]) -> Any:
        """Original units to standardised ones.

        Args:
            y: `[..., D]`. A NumPy array is standardised in NumPy and in float64, before it is
                rounded to its own dtype: offsets large against the spread lose nothing.

        Returns:
            `[..., D]`, without units.

        Raises:
            ValueError: The last axis is not D.
        """
        y, loc, scale = self._beside("apply", y)
        return ((y - loc) / scale).astype(_floating(y))

    def invert(self, z: Real[Array | np.ndarray, "*batch D"] | list[Any]) -> Any:
        """Standardised units back to the original ones.

        Args:
            z: `[..., D]`, without units; such as samples or modes.

        Returns:
            `[..., D]`, in the units of y.

        Raises:
            ValueError: The last axis is not D.
        """
        z, loc, scale = self._beside("invert", z)
        return (z * scale + loc).astype(_floating(z))

    def invert_mixture(self, mix: GaussianMixture) -> GaussianMixture:
        r"""The density of y, from that of the standardised z: exact.

        *Full* and *diagonal* stay what they are; *isotropic* stays so with one scale
        (`shared_scale`, or D = 1), and with one a coordinate becomes *diagonal*.

        Args:
            mix: Mixtures over z, of batch shape `...`.

        Returns:
            The mixtures over y; log densities are less by `log_det`.

        Raises:
            ValueError: The mixtures' D is not that of the standardiser.
        """
        dim = self.loc.shape[-1]
        require(
            mix.dim == dim, "Standardizer.invert_mixture", "mix", f"D = {mix.dim}", f"D = {dim}"
        )
        rank = len(mix.batch_shape) + 1
        loc, scale = (_like(jnp.asarray(x, mix.loc.dtype), rank) for x in (self.loc, self.scale))
        return affine(mix, loc, scale)

    def _beside(self, method: str, y: Any) -> tuple[Any, Any, Any]:
        """`y`, and loc and scale with as many axes: in NumPy's float64 if y is NumPy's."""
        in_numpy = not isinstance(y, jax.Array) and not isinstance(self.loc, jax.Array)
        y = np.asarray(y) if in_numpy else as_float(y)
        dim = self.loc.shape[-1]
        fits = y.ndim >= 1 and y.shape[-1] == dim
        require(fits, f"Standardizer.{method}", "y", f"shape {y.shape}", f"[..., {dim}]")
        dtype = np.float64 if in_numpy else y.dtype
        xp = np if in_numpy else jnp
        return y, *(_like(xp.asarray(x, dtype), y.ndim) for x in (self.loc, self.scale))


def _floating(y: Any) -> Any:
    """The dtype of y, or NumPy's float64 for integers."""
    return y.dtype if np.issubdtype(y.dtype, np.floating) else np.float64


def _like(x: Any, rank: int) -> Any:
    """A vector `[D]` with leading axes up to a rank."""
    return x.reshape((1,) * (rank - 1) + x.shape)
