"""Mixtures of random numbers, for tests."""

import jax.numpy as jnp
import numpy as np
import scipy.special

import mdnjax as mdn


def make(kind, batch=(), k=3, dim=2, seed=0):
    """Those of a head at normal raw outputs, without compiling one; in the dtype of the day."""
    head = mdn.GaussianHead(num_components=k, dim=dim, covariance=kind)
    raw = np.random.default_rng(seed).normal(size=(*batch, head.num_outputs))
    rows = raw.reshape(*batch, -1, k).swapaxes(-1, -2)
    scales = 1 if kind == "isotropic" else dim
    logits, log_scale, loc, upper = np.split(rows, np.cumsum([1, scales, dim]), axis=-1)
    return mdn.GaussianMixture(
        jnp.asarray(scipy.special.log_softmax(logits[..., 0], axis=-1)),
        jnp.asarray(loc),
        jnp.asarray(log_scale[..., 0] if kind == "isotropic" else log_scale),
        jnp.asarray(upper) if kind == "full" else None,
        kind,
    )


def covariances(mix):
    """Of each component in float64, from the factors U = diag(exp(-s)) (I + R)."""
    dim = mix.dim
    s = np.asarray(mix.log_scale, np.float64)
    s = np.broadcast_to(s[:, None], mix.loc.shape) if mix.covariance_kind == "isotropic" else s
    unit = np.broadcast_to(np.eye(dim), (len(s), dim, dim)).copy()
    if mix.upper is not None:
        unit[:, *np.triu_indices(dim, 1)] = np.asarray(mix.upper)
    root = np.linalg.inv(unit) * np.exp(s)[:, None]
    return root @ root.swapaxes(-1, -2)
