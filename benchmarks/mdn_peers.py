"""The same loss in the packages one would pick instead, each as its users write it.

The families of mixtures (`MixtureSameFamily`) of NumPyro, PyTorch, Distrax and TensorFlow
Probability on JAX, from one array of raw outputs, without validation of arguments. Their
multivariate normal wants the lower Cholesky factor L of the covariance; ours is the upper one U of
the precision. With the coordinates in reverse order, L is the inverse of U: so each raw vector has
as many numbers as ours, and describes the same density.

A package that is missing, or fails at import, says so in its row of the table.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mdn_formulas import Array, Formula, Mixtures, Shape

Family = Callable[[Any, Shape], Callable[["Reversed", Array], Array]]


class Peer(NamedTuple):
    """A package, and how its loss is written.

    Attributes:
        module: What is imported.
        formula: From its modules, a shape and the packing, to the loss; JAX's peers only.
    """

    module: str
    formula: Family | None


class Reversed(NamedTuple):
    """Raw outputs, taken apart: coordinates in reverse order, covariance by its factor.

    Attributes:
        logits: `[B, K]`.
        loc: `[B, K, D]`.
        scale: `[B, K, 1]` or `[B, K, D]`, positive; the diagonal of the factor (full).
        lower: `[B, K, D(D-1)/2]`, the entries below it, row by row.
    """

    logits: Array
    loc: Array
    scale: Array
    lower: Array


# --- Packages on JAX ----------------------------------------------------------------------------


def _tril(shape: Shape, parts: Reversed) -> Array:
    """L, dense."""
    i, j = np.tril_indices(shape.dim, -1)
    diagonal = np.arange(shape.dim)
    zeros = jnp.zeros((*parts.loc.shape, shape.dim), parts.loc.dtype)
    return zeros.at[..., i, j].set(parts.lower).at[..., diagonal, diagonal].set(parts.scale)


def _numpyro(dist: Any, shape: Shape) -> Callable[[Reversed, Array], Array]:
    def nll(parts: Reversed, y: Array) -> Array:
        if shape.covariance == "full":
            normal = dist.MultivariateNormal(parts.loc, scale_tril=_tril(shape, parts))
        else:
            normal = dist.Normal(parts.loc, parts.scale).to_event(1)
        weights = dist.Categorical(logits=parts.logits)
        return -dist.MixtureSameFamily(weights, normal).log_prob(y)

    return nll


def _with_triangular(full: str) -> Family:
    """Of packages whose diagonal normal wants whole scales, and whose full one has this name."""

    def formula(dist: Any, shape: Shape) -> Callable[[Reversed, Array], Array]:
        def nll(parts: Reversed, y: Array) -> Array:
            if shape.covariance == "full":
                normal = getattr(dist, full)(parts.loc, _tril(shape, parts))
            else:
                scale = jnp.broadcast_to(parts.scale, parts.loc.shape)
                normal = dist.MultivariateNormalDiag(parts.loc, scale)
            weights = dist.Categorical(logits=parts.logits)
            return -dist.MixtureSameFamily(weights, normal).log_prob(y)

        return nll

    return formula


PEERS = {
    "numpyro": Peer("numpyro.distributions", _numpyro),
    "torch": Peer("torch", None),
    "distrax": Peer("distrax", _with_triangular("MultivariateNormalTri")),
    "tfp": Peer(
        "tensorflow_probability.substrates.jax.distributions",
        _with_triangular("MultivariateNormalTriL"),
    ),
}


def jax_formula(name: str, shape: Shape) -> Formula:
    """The formula of a package on JAX.

    Raises:
        ImportError: Or whatever else the package fails with.
    """
    peer = PEERS[name]
    assert peer.formula is not None
    nll = peer.formula(importlib.import_module(peer.module), shape)

    def from_raw(raw: Array, y: Array) -> Array:
        logits, loc, scale, lower = _split(shape, raw, jax.lax.split)
        return nll(Reversed(logits, loc, jnp.exp(scale), lower), y[:, ::-1])

    return Formula(name, pack(shape), unpack(shape), from_raw)


# --- PyTorch ------------------------------------------------------------------------------------


@dataclasses.dataclass
class TorchLoss:
    """The loss in PyTorch, its raw outputs where they stay from run to run.

    Args:
        shape: The mixtures.
        mixtures: Their parameters.
        y: Targets `[B, D]`.
        device: "cpu" or "cuda".
        threads: On CPU.
        compiled: Whether by `torch.compile`.
    """

    shape: Shape
    mixtures: Mixtures
    y: np.ndarray
    device: str = "cpu"
    threads: int = 2
    compiled: bool = False

    def __post_init__(self) -> None:
        # With the extra `bench`; without it types are not checked against it.
        import torch  # pyright: ignore[reportMissingImports]

        self._torch = torch
        if self.device == "cpu":
            torch.set_num_threads(self.threads)
        raw = np.array(pack(self.shape)(self.mixtures))
        self._raw = torch.tensor(raw, device=self.device, requires_grad=True)
        self._y = torch.tensor(np.array(self.y[:, ::-1]), device=self.device)
        self._loss = torch.compile(self._sum) if self.compiled else self._sum

    def forward(self) -> Any:
        """The loss alone."""
        with self._torch.no_grad():
            return self._finish(self._loss(self._raw, self._y))

    def gradient(self) -> tuple[Any, Any]:
        """The loss and its gradient with respect to the raw outputs."""
        self._raw.grad = None
        loss = self._loss(self._raw, self._y)
        loss.backward()
        return self._finish((loss.detach(), self._raw.grad))

    def _sum(self, raw: Any, y: Any) -> Any:
        torch, shape = self._torch, self.shape
        dist = torch.distributions
        logits, loc, log_scale, lower = _split(
            shape, raw, lambda x, sizes, axis: torch.split(x, list(sizes), dim=axis)
        )
        scale = log_scale.exp()
        if shape.covariance == "full":
            i, j = torch.tril_indices(shape.dim, shape.dim, -1, device=raw.device)
            factor = torch.diag_embed(scale)
            factor[..., i, j] = lower
            normal = dist.MultivariateNormal(loc, scale_tril=factor, validate_args=False)
        else:
            normal = dist.Normal(loc, scale, validate_args=False)
            normal = dist.Independent(normal, 1, validate_args=False)
        weights = dist.Categorical(logits=logits, validate_args=False)
        mixture = dist.MixtureSameFamily(weights, normal, validate_args=False)
        return -mixture.log_prob(y).sum()

    def _finish(self, result: Any) -> Any:
        if self.device != "cpu":
            self._torch.cuda.synchronize()
        return result


# --- Their raw outputs: logits, centres, log-scales, entries of L below the diagonal ------------


def _split(shape: Shape, raw: Any, split: Callable[..., Any]) -> tuple[Any, Any, Any, Any]:
    k = shape.components
    sizes = (k, k * shape.dim, k * shape.scales, k * shape.entries)
    logits, loc, log_scale, lower = split(raw, sizes, 1)
    return (
        logits,
        loc.reshape(-1, k, shape.dim),
        log_scale.reshape(-1, k, shape.scales),
        lower.reshape(len(raw), k, shape.entries),
    )


def pack(shape: Shape) -> Callable[[Mixtures], Array]:
    """The raw outputs that describe the same densities to a peer, from NumPy arrays."""

    def pack(mixtures: Mixtures) -> Array:
        logits, loc, log_scale, upper = mixtures
        lower = np.zeros_like(upper)
        if shape.entries:
            log_scale, lower = _inverse(log_scale, upper)
        elif shape.scales > 1:
            log_scale = log_scale[..., ::-1]
        parts = [x.reshape(len(logits), -1) for x in (logits, loc[..., ::-1], log_scale, lower)]
        return np.concatenate(parts, axis=-1)

    return pack


def unpack(shape: Shape) -> Callable[[Array], Mixtures]:
    """The parts of a gradient that compare: not of a factor, which is the inverse of ours."""

    def unpack(raw: Array) -> Mixtures:
        logits, loc, log_scale, lower = _split(
            shape, np.asarray(raw), lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis)
        )
        if shape.scales > 1:
            log_scale = log_scale[..., ::-1]
        if shape.entries:
            return Mixtures(logits, loc[..., ::-1], None, None)
        return Mixtures(logits, loc[..., ::-1], log_scale, lower)

    return unpack


def _inverse(log_scale: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J U^-1 J, for J that reverses the coordinates: log of its diagonal, entries below it."""
    dim = log_scale.shape[-1]
    factor = np.zeros((*log_scale.shape, dim), np.float64)
    factor[..., *np.triu_indices(dim, 1)] = upper
    factor[..., np.arange(dim), np.arange(dim)] = 1
    inverse = np.linalg.inv(factor) * np.exp(log_scale, dtype=np.float64)[..., None, :]
    lower = inverse[..., ::-1, ::-1][..., *np.tril_indices(dim, -1)]
    return log_scale[..., ::-1], lower.astype(upper.dtype)
