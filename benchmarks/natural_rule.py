r"""Natural-gradient EM for mixture heads: the direction, a loss that has it, and its check.

The responsibilities gamma_k are held fixed, and what each component gets is multiplied by the
inverse of its own Fisher information. For this package's components, U = diag(exp(-s)) (I + R), put
delta = y - mu, w = (I + R) delta and z = U delta. The information has a block for mu, a number for
each s_i and a block for each row R_i of R, and nothing between them, for row i's score is z_i times
what depends on later z only:

    parameter   information                  gradient of the nll       direction
    mu          U^T U                        -gamma U^T z              -gamma delta
    s_i         2                            gamma (1 - z_i^2)         gamma (1 - z_i^2) / 2
    s           2 D  (isotropic)             gamma (D - |z|^2)         gamma (1 - |z|^2 / D) / 2
    R_i         exp(-2 s_i) (V^T V)^-1       gamma exp(-s_i) z_i d     gamma w_i V^T V d

V is U without the first i rows and columns, and d the entries of delta after i. No system is
solved. The logits keep pi - gamma. This is the rule "component". In the rule "complete" the
information is that of a component and its label, pi_k times the above, damped: gamma_k /
(pi_k + 0.05) takes gamma_k's place, and the logits get (pi_k - gamma_k) / (pi_k + 0.05).

Neither direction is the gradient of a loss: of a single component, that of s depends on mu, but
that of mu does not depend on s.

References:
    Y. Chen, J. Bayrooti and S. Morad. "Learning mixture density via natural gradient expectation
    maximization." arXiv 2602.10602, 2026. The blocks of full covariances are derived here.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import mdnjax as mdn

DAMPING = 0.05


def natural_direction(
    head: mdn.GaussianHead, raw: jax.Array, y: jax.Array, *, complete: bool = False
) -> jax.Array:
    """The direction of the module's docstring, `[..., num_outputs]`, shaped as `raw`."""
    k, dim = head.num_components, head.dim
    scales = 1 if head.covariance == "isotropic" else dim
    rows = raw.reshape(*raw.shape[:-1], -1, k)
    logits, s, mu, upper = jnp.split(rows, np.cumsum([1, scales, dim]), axis=-2)
    pairs = itertools.combinations(range(dim), 2) if head.covariance == "full" else ()
    entries = {pair: upper[..., n, :] for n, pair in enumerate(pairs)}
    delta = y[..., :, None] - mu
    w = [delta[..., i, :] for i in range(dim)]
    for (i, j), entry in entries.items():
        w[i] = w[i] + entry * delta[..., j, :]
    z = (jnp.stack(w, axis=-2) if entries else delta) * jnp.exp(-s)
    log_joint = jax.nn.log_softmax(logits)[..., 0, :] - 0.5 * jnp.sum(z * z, axis=-2)
    log_joint = log_joint - (dim // scales) * jnp.sum(s, axis=-2)
    pi, gamma = jax.nn.softmax(logits), jax.nn.softmax(log_joint)[..., None, :]
    share = 1 / (pi + DAMPING) if complete else jnp.ones_like(pi)
    squares = jnp.mean(z * z, axis=-2, keepdims=True) if scales == 1 else z * z
    out = [(pi - gamma) * share, gamma * share * (1 - squares) / 2, -gamma * share * delta]
    v = z * jnp.exp(-s)
    for i, j in entries:
        below = v[..., j, :]  # (V^T V d)_j = (V^T z)_j, with the entries of z after i
        for m in range(i + 1, j):
            below = below + entries[m, j] * v[..., m, :]
        out.append(gamma * share * (w[i] * below)[..., None, :])
    return jnp.concatenate(out, axis=-2).reshape(raw.shape)


def objective(rule: str, head: mdn.Head, raw: jax.Array, y: Any) -> jax.Array:
    """The nll `[...]`, whose derivative with respect to `raw` is made the rule's direction."""
    if isinstance(head, mdn.ProductHead):
        parts = head.split(raw)
        return sum(
            (objective(rule, part, parts[name], y[name]) for name, part in head.parts),
            start=jnp.zeros(raw.shape[:-1]),
        )
    nats = head.nll(raw, y)
    if rule == "plain" or not isinstance(head, mdn.GaussianHead):
        return nats
    direction = natural_direction(head, raw, y, complete=rule == "complete")
    zero = raw - lax.stop_gradient(raw)
    return lax.stop_gradient(nats) + jnp.sum(lax.stop_gradient(direction) * zero, axis=-1)


def require_inverse_fisher(dim: int, covariance: Any) -> None:
    """Ends the benchmark unless Fisher information times direction is the plain gradient.

    The information is E[score score^T] by Gauss-Hermite quadrature, exact here: the score is a
    polynomial of second degree.
    """
    head = mdn.GaussianHead(num_components=3, dim=dim, covariance=covariance)
    one = mdn.GaussianHead(num_components=1, dim=dim, covariance=covariance)
    rng = np.random.default_rng(dim)
    raw = jnp.asarray(0.5 * rng.normal(size=head.num_outputs), jnp.float32)
    y = jnp.asarray(rng.normal(size=dim), jnp.float32)
    gradient = mdn.nll_gradient(head, raw, y).reshape(-1, 3)
    direction = natural_direction(head, raw, y).reshape(-1, 3)
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.array(list(itertools.product(points, repeat=dim)))
    mass = np.prod(list(itertools.product(weights / weights.sum(), repeat=dim)), axis=-1)
    scores = jax.vmap(jax.grad(lambda raw, y: -one.nll(raw, y)), (None, 0))
    for k in range(3):
        alone = raw.reshape(-1, 3)[:, k]
        mix = one.mixture(alone)
        root = np.linalg.cholesky(np.asarray(mix.component_covariances[0], float))
        at = np.asarray(mix.loc[0]) + grid @ root.T
        score = np.asarray(scores(alone, jnp.asarray(at, jnp.float32)), float)[:, 1:]
        fisher = np.einsum("n,ni,nj->ij", mass, score, score)
        np.testing.assert_allclose(
            fisher @ np.asarray(direction[1:, k], float), gradient[1:, k], rtol=1e-3, atol=1e-4
        )
    np.testing.assert_allclose(direction[0], gradient[0], rtol=1e-4, atol=1e-6)
