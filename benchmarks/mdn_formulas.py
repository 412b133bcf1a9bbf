"""The loss of a Gaussian mixture as its users write it, for automatic differentiation.

`plain` is the straightforward formula: it is frozen, so that ratios to it mean the same from one
version of the package to the next. The others are what one can do for automatic differentiation by
choosing another layout and another order of the same operations; the fastest of them in a row of
the table is its "best autodiff". All compute

    -log p(y) = -logsumexp_k (log pi_k - sum_d s_kd - |z_k|^2 / 2 - D/2 log 2 pi),
    z_k = diag(exp(-s_k)) (I + R_k) (y - mu_k),       pi = softmax(logits),

for one array of raw outputs, whose order is theirs to choose. None imports mdnjax.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # of JAX or NumPy
Covariance = Literal["isotropic", "diagonal", "full"]
COVARIANCES: tuple[Covariance, ...] = ("isotropic", "diagonal", "full")


class Shape(NamedTuple):
    """A batch of mixtures: B of K components in D dimensions."""

    batch: int
    components: int
    dim: int
    covariance: Covariance = "isotropic"

    @property
    def scales(self) -> int:
        """Log-scales of a component."""
        return 1 if self.covariance == "isotropic" else self.dim

    @property
    def entries(self) -> int:
        """Entries above the diagonal of a component's factor."""
        return self.dim * (self.dim - 1) // 2 if self.covariance == "full" else 0

    @property
    def outputs(self) -> int:
        """P, raw outputs of a mixture."""
        return self.components * (1 + self.scales + self.dim + self.entries)

    @property
    def exponentials(self) -> int:
        """Exponentials and logarithms that a mixture's loss and gradient cannot avoid."""
        return (2 + self.scales) * self.components + 2

    def __str__(self) -> str:
        return f"{self.covariance}, B {self.batch}, K {self.components}, D {self.dim}"


class Mixtures(NamedTuple):
    """Parameters of mixtures, or derivatives with respect to them; None where these do not compare.

    Attributes:
        logits: `[B, K]`.
        loc: `[B, K, D]`.
        log_scale: `[B, K, 1]` (isotropic) or `[B, K, D]`.
        upper: `[B, K, D(D-1)/2]`, R_01, R_02, ..., R_12, ... (full), or `[B, K, 0]`.
    """

    logits: Array
    loc: Array
    log_scale: Array
    upper: Array


def random_problem(shape: Shape, *, seed: int = 0, dtype: Any = np.float32) -> tuple[Any, Any]:
    """Mixtures of about unit size and targets `[B, D]` among them."""
    rng = np.random.default_rng(seed)
    b, k, d = shape.batch, shape.components, shape.dim

    def normal(scale: float, *size: int) -> np.ndarray:
        return (scale * rng.standard_normal(size, dtype=np.float32)).astype(dtype)

    mixtures = Mixtures(
        normal(1.0, b, k),
        normal(1.0, b, k, d),
        normal(0.3, b, k, shape.scales),
        normal(0.3 / math.sqrt(d), b, k, shape.entries),
    )
    return mixtures, normal(1.0, b, d)


@dataclasses.dataclass(frozen=True)
class Formula:
    """A way to write the loss.

    Attributes:
        name: What the table calls it.
        pack: From `Mixtures` to its raw outputs; linear, and applied to tangents too.
        unpack: Back, for comparing gradients.
        nll: From raw outputs and targets to -log p(y), `[B]`.
        columns: Whether raw outputs are `[P, B]` and targets `[D, B]`, not `[B, P]` and `[B, D]`.
        block: How many examples are differentiated at a time, one block after the other; None for
            all at once.
    """

    name: str
    pack: Callable[[Mixtures], Array]
    unpack: Callable[[Array], Mixtures]
    nll: Callable[[Array, Array], Array]
    columns: bool = False
    block: int | None = None

    def targets(self, y: Array) -> Array:
        """Targets `[B, D]` as the formula wants them."""
        return jnp.asarray(y).T if self.columns else jnp.asarray(y)

    def loss(self, raw: Array, y: Array) -> Array:
        """The sum of -log p(y) over the batch."""
        return jnp.sum(self.nll(raw, y))

    def loss_and_gradient(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """The sum and its derivative with respect to the raw outputs."""
        gradient = jax.value_and_grad(self.loss)
        if self.block is None or raw.shape[0] % self.block:
            return gradient(raw, y)
        blocks = [x.reshape(-1, self.block, x.shape[-1]) for x in (raw, y)]
        losses, gradients = jax.lax.map(lambda block: gradient(*block), tuple(blocks))
        return jnp.sum(losses), gradients.reshape(raw.shape)


def plain(shape: Shape) -> Formula:
    """What a competent user writes: slices, log-softmax, scaled residuals, logsumexp. FROZEN."""
    return _straightforward(shape, "plain autodiff", _slice_rows)


def _straightforward(shape: Shape, name: str, split: Callable[[Shape, Array], Mixtures]) -> Formula:
    k, d = shape.components, shape.dim

    def nll(raw: Array, y: Array) -> Array:
        logits, loc, log_scale, upper = split(shape, raw)
        log_weights = jax.nn.log_softmax(logits, axis=-1)
        z = y[:, None, :] - loc
        if shape.covariance == "full":
            i, j = np.triu_indices(d, 1)
            factor = jnp.zeros((len(raw), k, d, d), raw.dtype).at[..., i, j].set(upper)
            z = z + jnp.einsum("bkij,bkj->bki", factor, z)
        z = z * jnp.exp(-log_scale)
        log_det = (d // shape.scales) * jnp.sum(log_scale, axis=-1)
        log_normal = -0.5 * jnp.sum(z**2, axis=-1) - log_det - 0.5 * d * math.log(2 * math.pi)
        return -jax.nn.logsumexp(log_weights + log_normal, axis=-1)

    return Formula(name, _pack_rows, functools.partial(_split_rows, shape), nll)


def candidates(shape: Shape) -> list[Formula]:
    """Formulas for automatic differentiation that win somewhere: on a shape, or on a device."""
    one_split = _straightforward(shape, "plain, with one split", _split_rows)
    found = [one_split, _rows(shape), _components_last(shape)]
    if shape.dim <= 16:
        by_dimension = _by_dimension(shape)
        blocks = {"name": f"{by_dimension.name}, blocks of 256", "block": 256}
        found += [
            by_dimension,
            dataclasses.replace(by_dimension, **blocks),
            _by_dimension(shape, columns=True),
        ]
    if shape.components * shape.dim <= 64:  # beyond, it is the compiler that takes the time
        found.append(_scalars(shape))
    return found


# --- What the candidates have in common ---------------------------------------------------------


def _pack_rows(mixtures: Mixtures) -> Array:
    """`[B, P]`, the parameters of a component side by side."""
    batch = len(mixtures.logits)
    return jnp.concatenate([jnp.reshape(x, (batch, -1)) for x in mixtures], axis=-1)


def _slice_rows(shape: Shape, raw: Array) -> Mixtures:
    """As most write it; each slice is differentiated into a padded array, and these are added."""
    k, d = shape.components, shape.dim
    first, second = k + k * d, k + k * d + k * shape.scales
    return Mixtures(
        raw[:, :k],
        raw[:, k:first].reshape(-1, k, d),
        raw[:, first:second].reshape(-1, k, shape.scales),
        raw[:, second:].reshape(len(raw), k, shape.entries),
    )


def _split_rows(shape: Shape, raw: Array) -> Mixtures:
    k = shape.components
    sizes = (k, k * shape.dim, k * shape.scales, k * shape.entries)
    logits, loc, log_scale, upper = jax.lax.split(raw, sizes, axis=1)
    return Mixtures(
        logits,
        loc.reshape(-1, k, shape.dim),
        log_scale.reshape(-1, k, shape.scales),
        upper.reshape(len(raw), k, shape.entries),
    )


def _pack_components_last(mixtures: Mixtures) -> Array:
    """`[B, P]`, rows of K: logits, log-scales, centres, upper entries, as in `GaussianHead`."""
    logits, loc, log_scale, upper = (jnp.asarray(x) for x in mixtures)
    rows = [jnp.swapaxes(x, 1, 2) for x in (logits[..., None], log_scale, loc, upper)]
    return jnp.concatenate(rows, axis=1).reshape(len(logits), -1)


def _unpack_components_last(shape: Shape, raw: Array) -> Mixtures:
    """The inverse of `_pack_components_last`."""
    rows = raw.reshape(len(raw), -1, shape.components)
    sizes = (1, shape.scales, shape.dim, shape.entries)
    parts = [jnp.swapaxes(x, 1, 2) for x in jax.lax.split(rows, sizes, axis=1)]
    logits, log_scale, loc, upper = parts
    return Mixtures(logits[..., 0], loc, log_scale, upper)


def _constant(dim: int) -> float:
    return 0.5 * dim * math.log(2 * math.pi)


def _logsumexp(x: Array, axis: int) -> Array:
    largest = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    return jnp.squeeze(largest, axis) + jnp.log(jnp.sum(jnp.exp(x - largest), axis=axis))


def _add(terms: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


# --- The candidates: none normalises the weights before it has to -------------------------------


def _rows(shape: Shape) -> Formula:
    """The plain layout, without a dense factor, and z computed once for both passes."""

    def nll(raw: Array, y: Array) -> Array:
        logits, loc, log_scale, upper = _split_rows(shape, raw)
        z = y[:, None, :] - loc
        if shape.entries:
            z = jnp.stack(_times_factor(shape, upper, z), axis=-1)
        z = jax.lax.optimization_barrier(z * jnp.exp(-log_scale))
        log_det = (shape.dim // shape.scales) * jnp.sum(log_scale, axis=-1)
        log_normal = -0.5 * jnp.sum(z * z, axis=-1) - log_det - _constant(shape.dim)
        return _logsumexp(logits, -1) - _logsumexp(logits + log_normal, -1)

    return Formula("rows", _pack_rows, functools.partial(_split_rows, shape), nll)


def _times_factor(shape: Shape, upper: Array, x: Array) -> list[Array]:
    """(I + R) x by rows, each from the entries it has."""
    rows, start = [], 0
    for i in range(shape.dim):
        stop = start + shape.dim - 1 - i
        rows.append(x[..., i] + jnp.sum(upper[..., start:stop] * x[..., i + 1 :], axis=-1))
        start = stop
    return rows


def _components_last(shape: Shape) -> Formula:
    """Arrays `[B, D, K]`: sums over the event are sums of vectors of components."""

    def nll(raw: Array, y: Array) -> Array:
        rows = raw.reshape(len(raw), -1, shape.components)
        sizes = (1, shape.scales, shape.dim, shape.entries)
        logits, log_scale, loc, upper = jax.lax.split(rows, sizes, axis=1)
        logits, z = logits[:, 0], y[:, :, None] - loc
        if shape.entries:
            turned = jnp.swapaxes(upper, 1, 2), jnp.swapaxes(z, 1, 2)
            z = jnp.stack(_times_factor(shape, *turned), axis=1)
        z = z * jnp.exp(-log_scale)
        log_det = (shape.dim // shape.scales) * jnp.sum(log_scale, axis=1)
        log_normal = -0.5 * jnp.sum(z * z, axis=1) - log_det - _constant(shape.dim)
        return _logsumexp(logits, -1) - _logsumexp(logits + log_normal, -1)

    return Formula("components last", *packing(shape, False), nll)


def _by_dimension(shape: Shape, *, columns: bool = False) -> Formula:
    """An array `[B, K]` or `[K, B]` for each log-scale, centre and entry: no sum over the event."""
    axis = 0 if columns else 1

    def nll(raw: Array, y: Array) -> Array:
        k = shape.components
        logits, *rest = jax.lax.split(raw, (k,) * (raw.shape[axis] // k), axis=axis)
        targets = jax.lax.split(y, (1,) * shape.dim, axis=axis)
        log_normal = _log_normal(shape, rest, targets)
        return _logsumexp(logits, axis) - _logsumexp(logits + log_normal, axis)

    name = "dimension by dimension" + (", columns" if columns else "")
    return Formula(name, *packing(shape, columns), nll, columns)


def _scalars(shape: Shape) -> Formula:
    """Columns `[P, B]`, and every component by itself: nothing but elementwise work on `[B]`."""

    def nll(raw: Array, y: Array) -> Array:
        k = shape.components
        outputs = [row[0] for row in jax.lax.split(raw, (1,) * len(raw), axis=0)]
        targets = [row[0] for row in jax.lax.split(y, (1,) * shape.dim, axis=0)]
        logits = outputs[:k]
        joint = [logits[c] + _log_normal(shape, outputs[k + c :: k], targets) for c in range(k)]
        return _logsumexp_of(logits) - _logsumexp_of(joint)

    return Formula("components one by one", *packing(shape, True), nll, columns=True)


def _log_normal(shape: Shape, parameters: Sequence[Array], y: Sequence[Array]) -> Array:
    """Log N(y) from one array for each log-scale, centre and upper entry, in this order."""
    s, d = shape.scales, shape.dim
    log_scale, loc, upper = parameters[:s], parameters[s : s + d], iter(parameters[s + d :])
    delta = [target - centre for target, centre in zip(y, loc, strict=True)]
    inverse_scale = [jnp.exp(-x) for x in log_scale]
    squares = []
    for i in range(d):
        z = delta[i]
        if shape.entries:
            z = _add([z, *(next(upper) * delta[j] for j in range(i + 1, d))])
        z = z * inverse_scale[i % s]
        squares.append(z * z)
    return -0.5 * _add(squares) - (d // s) * _add(log_scale) - _constant(d)


def _logsumexp_of(terms: Sequence[Array]) -> Array:
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    return largest + jnp.log(_add([jnp.exp(x - largest) for x in terms]))


def packing(
    shape: Shape, columns: bool
) -> tuple[Callable[[Mixtures], Array], Callable[[Array], Mixtures]]:
    """How raw outputs are packed and unpacked: rows of K as in `GaussianHead`, or those turned."""

    def pack(mixtures: Mixtures) -> Array:
        raw = _pack_components_last(mixtures)
        return raw.T if columns else raw

    def unpack(raw: Array) -> Mixtures:
        return _unpack_components_last(shape, raw.T if columns else raw)

    return pack, unpack
