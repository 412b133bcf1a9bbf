"""Every finite raw output and target has a finite loss and gradient, exact inside the domain."""

import functools
import itertools

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# One of each way in which the core computes: see test_mixtures_gradients.py.
GRID = [
    *(("isotropic", *shape) for shape in ((1, 1), (3, 2), (9, 2), (129, 1), (1, 17))),
    *(("diagonal", *shape) for shape in ((1, 1), (9, 2), (2, 17))),
    *(("full", *shape) for shape in ((3, 3), (9, 2), (2, 4), (2, 17))),
]
# Of these, with D = 2, single rows are looked at.
HEADS = [("isotropic", 3), ("isotropic", 40), ("diagonal", 3), ("diagonal", 9), ("full", 3)]
EXTREMES = {
    np.float32: [0, np.finfo(np.float32).tiny, 1e-20, 1, 30, 90, 1e4, 1e19, 3e38],
    np.float64: [0, np.finfo(np.float64).tiny, 1e-160, 1, 30, 700, 1e4, 1e154, 1.7e308],
}


def make_head(kind, k, dim):
    return mdn.GaussianHead(num_components=k, dim=dim, covariance=kind)


def blocks_of(head):
    """Where the logits, log-scales, centres and upper entries stand in a raw vector."""
    k, dim = head.num_components, head.dim
    scales = 1 if head.covariance == "isotropic" else dim
    return np.split(np.arange(head.num_outputs), np.array([1, 1 + scales, 1 + scales + dim]) * k)


def make_rows(head, dtype):
    """More than 4,200 rows of raw outputs and targets."""
    rng = np.random.default_rng([head.num_outputs, head.dim])
    extremes = np.array([s * x for x in EXTREMES[dtype] for s in (1, -1)], np.float64)
    num_outputs, dim = head.num_outputs, head.dim
    width = num_outputs + dim
    blocks = [b for b in (*blocks_of(head), np.arange(num_outputs, width)) if b.size]
    largest = np.log10(np.finfo(dtype).max)

    def normals(count, low, high):
        """Each block of each row at a scale of its own."""
        rows = rng.normal(size=(count, width))
        for block in blocks:
            rows[:, block] *= 10 ** rng.uniform(low, high, size=(count, 1))
        return rows

    everywhere = rng.choice(extremes, size=(1400, width))
    by_block = np.empty((1000, width))
    for block in blocks:
        by_block[:, block] = rng.choice(extremes, size=(1000, 1))
    among_normals = normals(400, -2, 1)
    struck = rng.random(among_normals.shape) < max(0.05, 2 / width)
    among_normals[struck] = rng.choice(extremes, size=struck.sum())
    parts = [
        everywhere,
        by_block,
        among_normals,
        normals(500, -largest, largest - 1),
        normals(700, -3, 1.5),
        # Where normals are narrow or wide, and still in the domain.
        normals(300, 1, 3) * np.where(np.isin(np.arange(width), blocks[1]), 0.05, 1e6),
    ]
    if width == 4:  # K = D = 1: every combination of log-scale, centre and target
        triples = np.array(list(itertools.product(extremes, repeat=3)))
        parts.append(np.insert(triples, 0, rng.choice(extremes, size=len(triples)), axis=1))
    rows = np.concatenate(parts)
    limit = np.finfo(dtype).max
    # The hardware may flush subnormal numbers to zero: what is asked is what is seen.
    rows = np.where(np.abs(rows) < np.finfo(dtype).tiny, 0, np.clip(rows, -limit, limit))
    raw, y = rows[:, :num_outputs].astype(dtype), rows[:, num_outputs:].astype(dtype)
    logits = blocks[0]
    empty = (rng.random((len(rows), logits.size)) < 0.3) & (rng.random((len(rows), 1)) < 0.3)
    raw[:, logits] = np.where(empty, -np.inf, raw[:, logits])
    raw[::40, logits] = -np.inf
    assert len(rows) >= 4200
    return raw, y


@functools.cache
def loss_and_gradients(head):
    @jax.jit
    def compiled(raw, y):
        nats, pull_back = jax.vjp(functools.partial(mdn.nll, head), raw, y)
        return nats, *pull_back(jnp.ones_like(nats))

    return compiled


def by_eights(head, raw, y):
    """Loss and gradients of any number of rows, by one program."""
    count = len(raw)
    raw, y = (np.resize(x, (-(-count // 8) * 8, x.shape[1])) for x in (raw, y))
    results = [loss_and_gradients(head)(raw[n : n + 8], y[n : n + 8]) for n in range(0, count, 8)]
    return tuple(np.concatenate(x)[:count] for x in zip(*results, strict=True))


def reference(head, raw, y):
    """Float64 value and gradient with bounds on what rounding in `raw.dtype` may do to them.

    Returns, for the rows inside the documented domain, their indices, the least and the greatest
    value of log p, and for those where the responsibilities are well determined the gradient of
    the loss and a bound on its error.
    """
    info, k, dim = np.finfo(raw.dtype), head.num_components, head.dim
    full, isotropic = head.covariance == "full", head.covariance == "isotropic"
    z_limit, s_limit = (1e18, 87) if raw.dtype == np.float32 else (8e152, 708)
    rows = raw.reshape(len(raw), -1, k).astype(np.float64)
    y = y.astype(np.float64)
    scales = 1 if isotropic else dim
    inside = np.all(np.abs(rows[:, 1 : 1 + scales]) <= s_limit, axis=(1, 2))
    inside = np.flatnonzero(inside)[-800:]
    rows, y = rows[inside].swapaxes(1, 2), y[inside]  # [N, K, rows]

    def representable(x):
        return (x == 0) | ((np.abs(x) >= info.tiny) & (np.abs(x) <= float(info.max) / (8 * dim)))

    logits, s, loc, upper = np.split(rows, [1, 1 + scales, 1 + scales + dim], axis=2)
    s = np.broadcast_to(s, loc.shape)
    row, column = np.triu_indices(dim, 1)
    unit = np.broadcast_to(np.eye(dim), (*loc.shape, dim)).copy()
    if full:
        unit[..., row, column] = upper
    # Far outside the domain this overflows too, and is then left out.
    with np.errstate(over="ignore", invalid="ignore"):
        delta = y[:, None, :] - loc
        products = unit * delta[..., None, :]
        inverse = np.exp(-s)
        z = inverse * products.sum(-1)
        z_size = inverse * np.abs(products).sum(-1)
        v, v_size = z * inverse, z_size * inverse
        terms = unit * v[..., :, None]
        outer = v[..., row] * delta[..., column]
        ok = representable(products).all(axis=(1, 2, 3)) & (np.abs(z) <= z_limit).all(axis=(1, 2))
        ok &= representable(terms).all(axis=(1, 2, 3)) & representable(outer).all(axis=(1, 2))
    inside = inside[ok]
    logits, s, unit, delta, inverse, z, z_size, v, v_size, outer = (
        x[ok] for x in (logits[..., 0], s, unit, delta, inverse, z, z_size, v, v_size, outer)
    )

    top = logits.max(axis=-1, keepdims=True)
    shifted = np.where(np.isneginf(top), 0, logits - np.where(np.isneginf(top), 0, top))
    log_pi = scipy.special.log_softmax(shifted, axis=-1)
    normal = -0.5 * (z**2).sum(-1) - s.sum(-1) - 0.5 * dim * np.log(2 * np.pi)
    joint = log_pi + normal
    roundings = (4 + dim) * info.eps
    finite_shift = np.where(np.isneginf(shifted), 0, np.abs(shifted))
    error = (np.abs(z) * z_size).sum(-1) + np.abs(s).sum(-1) + dim + finite_shift + 1
    error = roundings * error
    low, high = (scipy.special.logsumexp(joint + sign * error, axis=-1) for sign in (-1, 1))

    settled = np.flatnonzero(np.max(error, axis=-1) < 1e-2)
    error = error[settled].max(axis=-1, keepdims=True)
    gamma = scipy.special.softmax(joint[settled], axis=-1)
    pi, tiny = np.exp(log_pi[settled]), float(info.tiny)
    # Responsibilities may flush to zero, and are known up to the log-joint's error.
    slack = (gamma * (8 * error + roundings) + 2 * tiny)[..., None]
    unit, delta, inverse, z, z_size, v, v_size, outer = (
        x[settled] for x in (unit, delta, inverse, z, z_size, v, v_size, outer)
    )
    gamma_ = gamma[..., None]
    v_error = roundings * v_size + tiny * (1 + inverse)
    d_s, d_s_size = gamma_ * (1 - z**2), 1 + 4 * np.abs(z) * z_size
    if isotropic:
        d_s, d_s_size = d_s.sum(-1, keepdims=True), d_s_size.sum(-1, keepdims=True)
    d_loc = -gamma_ * np.einsum("nkij,nki->nkj", unit, v)
    size = np.einsum("nkij,nki->nkj", np.abs(unit), np.abs(v))
    error_loc = np.einsum("nkij,nki->nkj", np.abs(unit), v_error)
    outer_error = v_error[..., row] * np.abs(delta[..., column])
    gradient = [(pi - gamma)[..., None], d_s, d_loc, gamma_ * outer]
    bound = [
        slack + (roundings * pi * (1 + finite_shift[settled]) + 2 * tiny)[..., None],
        d_s_size * (slack + roundings * gamma_),
        size * slack + gamma_ * error_loc + tiny,
        # w, smaller than the smallest normal number, may have flushed to zero.
        np.abs(outer) * slack + gamma_ * outer_error + tiny * (1 + np.abs(delta[..., column])),
    ]
    if not full:
        gradient, bound = gradient[:3], bound[:3]
    gradient, bound = (
        np.concatenate(x, axis=2).swapaxes(1, 2).reshape(len(settled), -1)
        for x in (gradient, bound)
    )
    return inside, low, high, settled, gradient, bound


def check(head, raw, y, *, least):
    """Finite everywhere; inside the domain equal to the reference."""
    nats, in_raw, in_y = map(np.asarray, loss_and_gradients(head)(raw, y))
    assert nats.dtype == in_raw.dtype == in_y.dtype == raw.dtype
    for name, values in (("nll", nats), ("d/d raw", in_raw), ("d/d y", in_y)):
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(raw), -1)).all(axis=1))
        assert not bad.size, f"{name}: {bad.size} rows, first raw={raw[bad[0]]}, y={y[bad[0]]}"

    inside, low, high, settled, gradient, bound = reference(head, raw, y)
    assert len(inside) >= least
    assert len(settled) >= least // 2
    value = -nats[inside].astype(np.float64)
    wrong = np.flatnonzero((value < low) | (value > high))
    assert not wrong.size, [(raw[inside[i]], y[inside[i]], value[i], low[i]) for i in wrong[:1]]
    off = np.abs(in_raw[inside[settled]] - gradient) - bound
    assert np.all(off <= 0), np.unravel_index(np.argmax(off), off.shape)
    return nats, inside


def mp_nll(head, raw, y):
    """One row at 60 digits."""
    with mpmath.workdps(60):
        logits, s, loc, upper = (
            [[mpmath.mpf(float(x)) for x in row] for row in raw[b].reshape(-1, head.num_components)]
            for b in blocks_of(head)
        )
        logits = logits[0]
        if all(x == -mpmath.inf for x in logits):
            logits = [mpmath.mpf(0)] * len(logits)
        top, total = max(logits), mpmath.mpf(0)
        pairs = list(itertools.combinations(range(head.dim), 2))
        for c, logit in enumerate(logits):
            z = [mpmath.mpf(float(t)) - m[c] for t, m in zip(y, loc, strict=True)]
            delta = list(z)
            for (i, j), r in zip(pairs, upper, strict=False):
                z[i] += r[c] * delta[j]
            s_c = [row[c] for row in (s if len(s) > 1 else s * head.dim)]
            log_normal = -mpmath.fsum(
                (zi * mpmath.exp(-si)) ** 2 / 2 + si + mpmath.log(2 * mpmath.pi) / 2
                for zi, si in zip(z, s_c, strict=True)
            )
            total += mpmath.exp(logit - top + log_normal)
        weights = mpmath.fsum(mpmath.exp(x - top) for x in logits)
        return float(mpmath.log(weights) - mpmath.log(total))


@pytest.mark.parametrize(("kind", "k", "dim"), GRID)
def test_finite_everywhere_and_exact_inside_the_domain(kind, k, dim):
    head = make_head(kind, k, dim)
    raw, y = make_rows(head, np.float32)
    nats, inside = check(head, raw, y, least=100)
    if dim > 3:
        return
    # Again at 60 digits, where no reference can cancel or overflow. Of z^2 each factor carries
    # some roundings: 1e-5 is a hundred of them, for cancellation in R delta.
    some = inside[np.linspace(0, len(inside) - 1, 40).astype(int)]
    expected = [mp_nll(head, raw[i], y[i]) for i in some]
    rtol = 1e-5 if kind == "full" else 2e-6
    np.testing.assert_allclose(nats[some], expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize(("kind", "k", "dim"), [("isotropic", 1, 1), ("full", 2, 3)])
def test_the_same_in_double_precision(kind, k, dim):
    head = make_head(kind, k, dim)
    raw, y = make_rows(head, np.float64)
    with jax.enable_x64(True):
        check(head, raw, y, least=100)


@pytest.mark.parametrize(("kind", "k", "dim"), [("isotropic", 9, 2), ("full", 2, 2)])
def test_log_prob_of_the_mixture_is_finite_too(kind, k, dim):
    head = make_head(kind, k, dim)
    raw, y = make_rows(head, np.float32)

    @jax.jit
    def compiled(raw, y):
        def loss(raw, y):
            mix = head.mixture(raw)
            return mdn.log_prob(mix, y), (mdn.responsibilities(mix, y), mix.weights)

        value, pull_back, (gamma, pi) = jax.vjp(loss, raw, y, has_aux=True)
        return value, pull_back(jnp.ones_like(value)), gamma, pi

    value, gradients, gamma, pi = compiled(raw, y)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, gradients, gamma, pi)))
    np.testing.assert_allclose(gamma.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(pi.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(gamma[::40], np.where(gamma[::40] >= 0, gamma[::40], np.nan))


def test_outside_the_domain_the_derivative_goes_straight_through():
    head = make_head("isotropic", 1, 1)
    gradient = jax.jit(lambda raw, y: (mdn.nll(head, raw, y), mdn.nll_gradient(head, raw, y)))

    # z beyond its limit: the centre is still drawn to the target, the scale still to grow.
    for y, sign in ((1e30, 1), (-1e30, -1)):
        nats, (_, d_s, d_loc) = gradient(np.zeros(3, np.float32), np.float32([y]))
        assert nats > 1e35
        assert d_s < -1e35
        assert sign * d_loc < -1e17
    # s beyond its limit: the log-determinant is s itself, and its derivative 1.
    nats, (_, d_s, _) = gradient(np.float32([0, 300, 0]), np.float32([1]))
    assert float(nats) == pytest.approx(300 + 0.5 * np.log(2 * np.pi), rel=1e-6)
    assert float(d_s) == 1
    nats, (_, d_s, _) = gradient(np.float32([0, -300, 0]), np.float32([0]))
    assert float(nats) == pytest.approx(-300 + 0.5 * np.log(2 * np.pi), rel=1e-6)
    assert float(d_s) == 1


def test_the_scale_is_divided_out_before_squaring():
    """d^2 exp(-2 s) is inf * 0 here; (d exp(-s))^2 is not."""
    head = make_head("isotropic", 1, 1)
    raw, y = np.array([0, -46, 0], np.float32), np.array([1e-20], np.float32)
    z = np.float64(y[0]) * np.exp(46.0)
    expected = z**2 / 2 - 46 + 0.5 * np.log(2 * np.pi)
    assert float(loss_and_gradients(head)(raw, y)[0]) == pytest.approx(expected, rel=1e-6)


def formulas(head, raw, y):
    """The documented formulas in float64: value and gradient, of saturated exp(-s) and w."""
    k, dim = head.num_components, head.dim
    rows = raw.astype(np.float64).reshape(len(raw), -1, k).swapaxes(1, 2)
    scales = 1 if head.covariance == "isotropic" else dim
    logits, s, loc, upper = np.split(rows, [1, 1 + scales, 1 + scales + dim], axis=2)
    none = np.isneginf(logits).all(axis=1, keepdims=True)
    log_pi = scipy.special.log_softmax(np.where(none, 0, logits), axis=1)[..., 0]
    s = np.broadcast_to(s, loc.shape)
    row, column = np.triu_indices(dim, 1)
    unit = np.broadcast_to(np.eye(dim), (*loc.shape, dim)).copy()
    if head.covariance == "full":
        unit[..., row, column] = upper
    delta = y.astype(np.float64)[:, None] - loc
    inverse = np.exp(-np.clip(s, -87, 87))
    z = inverse * np.einsum("nkij,nkj->nki", unit, delta)
    joint = log_pi - s.sum(-1) - 0.5 * (z**2).sum(-1) - 0.5 * dim * np.log(2 * np.pi)
    gamma = scipy.special.softmax(joint, axis=1)[..., None]
    largest = float(np.finfo(np.float32).max) / (8 * dim * k)
    w = np.clip(gamma * inverse * z, -largest, largest)
    d_s = gamma * (1 - z**2)
    gradient = [
        np.exp(log_pi)[..., None] - gamma,
        d_s.sum(-1, keepdims=True) if head.covariance == "isotropic" else d_s,
        -np.einsum("nkij,nki->nkj", unit, w),
        w[..., row] * delta[..., column] if head.covariance == "full" else w[..., :0],
    ]
    in_y = -gradient[2].sum(1)
    gradient = np.concatenate(gradient, axis=2).swapaxes(1, 2).reshape(raw.shape)
    return -scipy.special.logsumexp(joint, axis=1), gradient, in_y


def assert_formulas(head, raw, y):
    for got, expected in zip(by_eights(head, raw, y), formulas(head, raw, y), strict=True):
        blocks = [Ellipsis] if got.shape != raw.shape else [(..., b) for b in blocks_of(head)]
        for block in filter(lambda b: expected[b].size, blocks):
            size = np.max(np.abs(expected[block]))
            np.testing.assert_allclose(got[block], expected[block], rtol=1e-3, atol=1e-5 * size)


def log_scales_at_the_edge(kind, k):
    """Each component alike in z, and in weight, at a log-scale of its own."""
    head = make_head(kind, k, 2)
    rng = np.random.default_rng(k)
    edges = [-300, -88, -87, -80, -1, 0, 80]
    if kind != "full":  # of which gamma exp(-s), multiplied by delta, would leave the domain
        edges += [87, 88, 300]
    if kind == "full":  # whose products R delta saturate before, and w delta flushes to zero
        edges = [-60, -30, -1, 0, 30, 60]
    s = rng.choice(edges, size=(6, 1, k))
    rows = rng.normal(size=(6, head.num_outputs // k, k))
    scales = 1 if kind == "isotropic" else 2
    rows[:, :1] += 2 * s
    rows[:, 1 : 1 + scales] = s
    away = np.sign(rows[:, 1 + scales : 3 + scales]) * rng.uniform(1, 2, size=(6, 2, k))
    rows[:, 1 + scales : 3 + scales] = away * np.exp(np.clip(s, -87, 87))
    rows[:, 3 + scales :] *= s >= -80  # and of which products of R with delta would
    return head, rows.reshape(6, -1).astype(np.float32), np.zeros((6, 2), np.float32)


def logits_without_measure(kind, k):
    """Of huge logits only the largest count; those of -inf do not, unless all are."""
    head = make_head(kind, k, 2)
    rng = np.random.default_rng(k)
    raw = rng.normal(size=(8, head.num_outputs)).astype(np.float32)
    raw[0, :k], raw[1, :k] = -np.inf, 1e30
    raw[2, 1], raw[3, k - 1] = 1e30, 1e30
    raw[4, [0, k - 1]] = 1e30
    raw[5, 1:k], raw[6, : k - 1] = -np.inf, -1e30
    raw[7, :k] = np.where(np.arange(k) % 2, -np.inf, -1e30)
    return head, raw, rng.normal(size=(8, 2)).astype(np.float32)


@pytest.mark.parametrize(("kind", "k"), HEADS)
def test_log_scales_and_logits_at_the_edge_of_the_domain_and_beyond(kind, k):
    assert_formulas(*log_scales_at_the_edge(kind, k))
    assert_formulas(*logits_without_measure(kind, k))


@pytest.mark.parametrize(("kind", "k"), [("isotropic", 40), ("diagonal", 9), ("full", 3)])
def test_all_logits_minus_infinity_are_equal_weights(kind, k):
    head = make_head(kind, k, 2)
    rng = np.random.default_rng(0)
    raw, y = rng.normal(size=(5, head.num_outputs)).astype(np.float32), np.zeros((5, 2), np.float32)
    even, none = raw.copy(), raw.copy()
    even[:, :k], none[:, :k] = 0, -np.inf
    for a, b in zip(by_eights(head, none, y), by_eights(head, even, y), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "k"), HEADS)
def test_nan_in_nan_out(kind, k):
    head = make_head(kind, k, 2)
    width = head.num_outputs + 2
    rows = np.full((width, width), 0.5, np.float32)
    np.fill_diagonal(rows, np.nan)
    raw, y = np.split(rows, [head.num_outputs], axis=1)
    empty = raw.copy()  # a component without weight hides nothing either
    empty[1:, 0] = -np.inf
    for case in (raw, empty):
        nats, in_raw, _ = by_eights(head, case, y)
        assert np.isnan(nats).all()
        assert np.isnan(in_raw).any(axis=1).all()


def test_weights_of_nan_are_not_hidden():
    head = make_head("full", 2, 2)
    raw = np.zeros((2, head.num_outputs), np.float32)
    raw[0, 1] = np.nan

    rng = np.random.default_rng(0)
    u, epsilon = rng.random((2, 7)), rng.normal(size=(2, 7, 2))

    @jax.jit
    def drawn_and_picked(raw, u, epsilon):
        mix = head.mixture(raw)
        return mdn.mixtures.sample_from_noise(mix, u, epsilon), mdn.most_probable(mix)[:, None]

    for values in map(np.asarray, drawn_and_picked(raw, u, epsilon)):
        assert np.isnan(values[0]).all()
        assert np.isfinite(values[1]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_extremes_are_finite(dtype):
    """Widened before any arithmetic: bfloat16 reaches 3e38, float16 holds no sigma^2 at all."""
    head = make_head("isotropic", 2, 2)
    raw, y = make_rows(head, np.float32)
    largest = float(jnp.finfo(dtype).max)
    raw = np.clip(raw, -largest, largest).astype(dtype)

    @jax.jit
    def compiled(raw, y):
        nats, pull_back = jax.vjp(functools.partial(mdn.nll, head), raw, y)
        # The gradient's own dtype is raw's; before it is narrowed it is finite.
        return nats, pull_back(jnp.ones_like(nats))[0], mdn.nll_gradient(head, raw, y)

    nats, in_raw, wide = compiled(raw, y)
    assert nats.dtype == jnp.float32
    assert in_raw.dtype == dtype
    assert np.isfinite(nats).all()
    assert wide.dtype == jnp.float32
    assert np.isfinite(wide).all()


def test_bernoulli_and_product_are_finite():
    parts = {"offset": make_head("isotropic", 2, 2), "pen_up": mdn.BernoulliHead()}
    head = mdn.ProductHead(**parts, again=mdn.ProductHead(**parts))
    offset_raw, offset_y = make_rows(parts["offset"], np.float32)
    rng = np.random.default_rng(0)
    extremes = np.array([s * x for x in EXTREMES[np.float32] for s in (1, -1)], np.float32)
    n = len(offset_raw)
    pen_raw, pen_y = rng.choice(extremes, (n, 1)), rng.choice(np.float32([0, 0.5, 1]), n)
    once = np.concatenate([offset_raw, pen_raw], axis=1)
    raw = np.concatenate([once, once], axis=1)
    # The largest of both at once: more than float32 can hold, and still finite and signed.
    worst = np.full((1, head.num_outputs), np.float32(3e38))
    offset_y = np.concatenate([offset_y, np.full((1, 2), np.float32(-3e38))])
    y = {"offset": offset_y, "pen_up": np.append(pen_y, np.float32(0))}
    results = loss_and_gradients(head)(np.concatenate([raw, worst]), {**y, "again": y})
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))
    nats, in_raw = (np.asarray(x)[-1] for x in results[:2])
    assert 1e38 < nats < np.inf
    assert in_raw[-1] == 1
    assert in_raw[8] == 1


HYPOTHESIS_ROWS = 16


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(data=st.data())
def test_hypothesis_finds_no_values_that_are_not_finite(kind, data):
    head = make_head(kind, 3, 2)
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    shape = (HYPOTHESIS_ROWS, head.num_outputs + 2)
    rows = data.draw(hypothesis.extra.numpy.arrays(np.float32, shape, elements=floats))
    results = by_eights(head, rows[:, : head.num_outputs], rows[:, head.num_outputs :])
    assert all(np.isfinite(x).all() for x in results)
