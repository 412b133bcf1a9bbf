r"""The standard normal: density, both tails, hazard, accurate however far out.

Everything comes from Mills' ratio M(x) = (1 - Phi(x)) / phi(x), x >= 0, which neither underflows
nor cancels. With u = 1 / (x + 4) and t = 1 - 8 u, which runs from -1 at x = 0 to 1 at infinity,

    M(x) = u P(t),

P smooth: its Chebyshev series (after Shepherd and Laframboise 1981) gives M and dM/dx to a few
units in the last place at every x. JAX's `log_ndtr` is right in value far out, but its first
derivative at -1e10 is 1 instead of 1e10, and its second at -1e3 (float32) is 1502 instead of -1.

References:
    M. M. Shepherd and J. G. Laframboise. "Chebyshev Approximation of (1 + 2x) exp(x^2) erfc x in
    0 <= x < infinity." Mathematics of Computation 36, 1981.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from mdnjax._types import Array

# Computed with 40 digits by interpolation in 41 Chebyshev nodes.
_CHEBYSHEV = (
    2.4325604285150405662,
    -1.8842545745794834571,
    0.55695664909638164919,
    -0.121615972144204572,
    0.017360708143727771424,
    -0.00080362120072996560518,
    -0.00025203493480543532543,
    4.7383719270581173533e-5,
    2.5325891365988258147e-6,
    -1.5404069839912999192e-6,
    -8.4749606300616958915e-9,
    5.1853386010946722597e-8,
    -2.8281293276602497588e-10,
    -1.9486566378891076062e-9,
    -2.4919454968275707523e-11,
    7.9572487194488419591e-11,
    4.618414179155581915e-12,
    -3.2908561242226318882e-12,
    -4.3653840438070797253e-13,
    1.2300711836788882871e-13,
    3.2414173504457346913e-14,
    -3.0532394275759519389e-15,
    -2.0183724735957532134e-15,
    -7.1699468751126469214e-17,
    1.0167842412123730975e-16,
    1.7475396734374537761e-17,
)


def mills_ratio(x: Array) -> Array:
    """M(x) = (1 - Phi(x)) / phi(x) of x >= 0, to three units in the last place."""
    terms = 12 if x.dtype == jnp.float32 else len(_CHEBYSHEV)
    *rest, total = np.polynomial.chebyshev.cheb2poly(_CHEBYSHEV[:terms]).tolist()
    u = 1 / (x + 4)
    t = 1 - 8 * u
    for coefficient in reversed(rest):
        total = total * t + coefficient
    return u * total


class StandardNormal(NamedTuple):
    """At z: what mixtures of normals need of one, finite for |z| <= sqrt(largest / 2)."""

    density: Array  # phi
    lower: Array  # Phi
    upper: Array  # 1 - Phi, not by subtraction where it is small
    log_lower: Array
    hazard: Array  # phi / Phi = d log Phi / dz


def standard_normal(z: Array) -> StandardNormal:
    """phi, Phi, 1 - Phi, log Phi and phi / Phi at z, differentiable in every order."""
    is_left = z < 0
    x = jnp.where(is_left, -z, z)  # |z|, with a derivative at 0
    mills = mills_ratio(x)
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    near = density * mills
    log_near = jnp.log(mills) - (0.5 * x * x + 0.5 * math.log(2 * math.pi))
    return StandardNormal(
        density,
        jnp.where(is_left, near, 1 - near),
        jnp.where(is_left, 1 - near, near),
        jnp.where(is_left, log_near, jnp.log1p(-near)),
        jnp.where(is_left, 1 / mills, density / (1 - near)),
    )


def log_hypotenuse(log_a: Array, log_b: Array) -> Array:
    """Log sqrt(a^2 + b^2): the log-scale of a sum of two normals.

    JAX's `logaddexp` would do, but where a = b its second derivatives may be wrong.
    """
    peak = lax.stop_gradient(jnp.maximum(log_a, log_b))
    return peak + 0.5 * jnp.log(jnp.exp(2 * (log_a - peak)) + jnp.exp(2 * (log_b - peak)))
