"""The closed forms against the equations, and complex steps through the naive formula."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.extend.core import jaxprs_in_params

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# The core has a way of its own of each number of components, up to 8, 31, 128 and beyond, and of
# dimensions: blocks of rows after 3 (full) or 16, sums by reduction after 8, dense products after
# 16 (full). Of both orders those are looked at that are not made of others' parts.
FIRST_ORDER = [
    *(("isotropic", 3, 3), ("isotropic", 129, 1), ("diagonal", 3, 3)),
    *(("full", 1, 1), ("full", 2, 3), ("full", 2, 4)),
]
BOTH_ORDERS = [
    *(("isotropic", 9, 2), ("isotropic", 32, 9), ("diagonal", 2, 17)),
    *(("full", 9, 2), ("full", 2, 17)),
]
# On columns its sums change as on rows, but blocks are of one row where at most 8 arrays are.
ON_COLUMNS = [
    *(("isotropic", 2, 3), ("isotropic", 32, 9), ("diagonal", 9, 3), ("diagonal", 2, 4)),
    *(("full", 1, 1), ("full", 3, 2), ("full", 2, 3), ("full", 2, 17)),
]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_case(kind, k, dim, batch=2, seed=0):
    head = mdn.GaussianHead(num_components=k, dim=dim, covariance=kind)
    rng = np.random.default_rng([seed, k, dim, len(kind)])
    rows = rng.normal(size=(batch, head.num_outputs // k, k))
    scales = 1 if kind == "isotropic" else dim
    rows[:, 1 : 1 + scales] *= 0.5
    rows[:, 1 + scales + dim :] /= np.sqrt(dim)
    return head, rows.reshape(batch, -1), rng.normal(size=(batch, dim))


def closed_form(head, raw, y):
    """The equations of PRML 5.155 to 5.157 and their kin in loops of NumPy, one example.

    The nats, and their derivatives by raw and by y; of complex numbers too, for `complex_step`.
    """
    k, dim, kind = head.num_components, head.dim, head.covariance
    rows = raw.reshape(-1, k)
    scales = 1 if kind == "isotropic" else dim
    logits, s, loc, upper = np.split(rows, [1, 1 + scales, 1 + scales + dim])
    pi = softmax(logits[0])
    unit, z, log_joint = [], [], []
    for c in range(k):
        r = np.eye(dim, dtype=rows.dtype)
        if kind == "full":
            r[np.triu_indices(dim, 1)] = upper[:, c]
        log_sigma = np.broadcast_to(s[:, c], dim)
        unit.append(r)
        z.append(r @ (y - loc[:, c]) / np.exp(log_sigma))
        log_normal = -log_sigma.sum() - z[c] @ z[c] / 2 - dim / 2 * np.log(2 * np.pi)
        log_joint.append(np.log(pi[c]) + log_normal)
    log_joint = np.array(log_joint)
    largest = np.max(log_joint.real)
    nats = -largest - np.log(np.sum(np.exp(log_joint - largest)))
    gamma = softmax(log_joint)
    gradient = np.zeros_like(rows)
    gradient[0] = pi - gamma
    for c in range(k):
        sigma = np.exp(np.broadcast_to(s[:, c], dim))
        v = z[c] / sigma
        if kind == "isotropic":
            gradient[1, c] = gamma[c] * (dim - z[c] @ z[c])
            gradient[2:, c] = gamma[c] * (loc[:, c] - y) / sigma**2
        else:
            gradient[1 : 1 + dim, c] = gamma[c] * (1 - z[c] ** 2)
            gradient[1 + dim : 1 + 2 * dim, c] = -gamma[c] * unit[c].T @ v
        if kind == "full":
            outer = np.outer(v, y - loc[:, c])
            gradient[1 + 2 * dim :, c] = gamma[c] * outer[np.triu_indices(dim, 1)]
    in_y = -gradient[1 + scales : 1 + scales + dim].sum(axis=1)
    return nats, gradient.ravel(), in_y


def softmax(logits):
    shares = np.exp(logits - np.max(logits.real))
    return shares / shares.sum()


def closed_forms(head, raw, y):
    """Of a batch: the sum of the nats, and the derivatives."""
    each = [closed_form(head, r, t) for r, t in zip(raw, y, strict=True)]
    nats, *gradients = zip(*each, strict=True)
    return np.sum(nats), tuple(map(np.stack, gradients))


def complex_step(f, x, v):
    """f at x, and its exact derivative along v: f(x + i h v) is f(x) + i h f'(x) v, to h^2."""
    h = 1e-30
    both = f(*(a + 1j * h * b for a, b in zip(x, v, strict=True)))
    return jax.tree.map(np.real, both), jax.tree.map(lambda z: np.imag(z) / h, both)


def assert_close(got, expected, rtol=1e-9):
    """Equal relative to the largest number: entries that cancel have no digits of their own."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1e-300 + np.max(np.abs(b))))


@pytest.mark.parametrize(("kind", "k", "dim"), FIRST_ORDER)
def test_value_and_gradient_agree_with_the_equations(kind, k, dim):
    head, raw, y = random_case(kind, k, dim)
    loss = jax.value_and_grad(lambda raw, y: jnp.sum(mdn.nll(head, raw, y)), argnums=(0, 1))
    assert_close(jax.jit(loss)(raw, y), closed_forms(head, raw, y))


@pytest.mark.parametrize(("kind", "k", "dim"), BOTH_ORDERS)
def test_first_and_second_order_agree_with_the_equations(kind, k, dim):
    head, raw, y = random_case(kind, k, dim)
    rng = np.random.default_rng(1)
    v = (rng.normal(size=raw.shape), rng.normal(size=y.shape))
    v = tuple(x / np.linalg.norm(x) for x in v)

    @jax.jit
    def ours(raw, y):
        """Value, gradient, and the Hessian times v forward over reverse."""
        loss = jax.value_and_grad(lambda raw, y: jnp.sum(mdn.nll(head, raw, y)), argnums=(0, 1))
        return jax.jvp(loss, (raw, y), v)

    (value, gradient), (slope, hvp) = ours(raw, y)
    at, along = complex_step(functools.partial(closed_forms, head), (raw, y), v)
    assert_close((value, gradient), at)
    assert_close((slope, hvp), along)
    assert_close(slope, sum(np.vdot(a, b) for a, b in zip(gradient, v, strict=True)))


@pytest.mark.parametrize(("kind", "k", "dim"), ON_COLUMNS)
def test_first_and_second_order_of_columns_agree_with_the_equations(kind, k, dim):
    head, raw, y = random_case(kind, k, dim)
    weights = np.array([1.0, -2.0])
    rng = np.random.default_rng(1)
    v = rng.normal(size=raw.shape), rng.normal(size=y.shape)

    @jax.jit
    def ours(raw, y):
        def nats(raw, y):
            return head.nll_columns(raw.T, y.T)

        def loss(raw, y):
            return jnp.sum(weights * nats(raw, y))

        return nats(raw, y), jax.jvp(jax.grad(loss, argnums=(0, 1)), (raw, y), v)

    def expected(raw, y):
        each = [closed_form(head, *example) for example in zip(raw, y, strict=True)]
        nats, *gradients = zip(*each, strict=True)
        return np.stack(nats), tuple(weights[:, None] * np.stack(g) for g in gradients)

    nats, (gradient, hvp) = ours(raw, y)
    at, (_, along) = complex_step(expected, (raw, y), v)
    assert_close((nats, gradient), at)
    assert_close(hvp, along)


def test_every_order_of_differentiation_gives_the_same_hessian():
    """That of the equations, times a vector."""
    head, raw, y = random_case("full", 2, 2, batch=1)
    x, size = np.concatenate([raw, y], axis=1)[0], raw.shape[1]
    v = np.random.default_rng(1).normal(size=x.shape)

    def loss(x):
        return mdn.nll(head, x[:size], x[size:])

    def slope(x):
        return jax.jvp(loss, (x,), (v,))[1]

    @jax.jit
    def everything(x):
        reverse, forward_over_reverse = jax.jvp(jax.grad(loss), (x,), (v,))
        hessians = (
            forward_over_reverse,
            jax.grad(lambda x: jax.grad(loss)(x) @ v)(x),
            jax.grad(slope)(x),
            jax.jacfwd(slope)(x),
        )
        return (jax.jacfwd(loss)(x), reverse), hessians

    at = complex_step(
        functools.partial(closed_forms, head), (raw, y), (v[None, :size], v[None, size:])
    )
    for got, (_, parts) in zip(everything(x), at, strict=True):
        expected = np.concatenate(parts, axis=1)[0]
        for derivative in got:
            assert_close(derivative, expected)


def test_third_order():
    head, raw, y = random_case("full", 2, 2, batch=1)
    v = np.random.default_rng(1).normal(size=raw.shape), np.ones_like(y)

    @jax.jit
    def thrice(t):
        def loss(t):
            return mdn.nll(head, raw + t * v[0], y + t * v[1])[0]

        def derivative(f):
            return lambda t: jax.jvp(f, (t,), (1.0,))[1]

        return derivative(derivative(derivative(loss)))(t)

    def curvature(t):
        """The second derivative along the line, exact."""
        x = (raw + t * v[0], y + t * v[1])
        gradient = complex_step(functools.partial(closed_forms, head), x, v)[1][1]
        return sum(np.vdot(a, b) for a, b in zip(gradient, v, strict=True))

    for t in (0.0, 0.3, -0.5):
        h = 1e-5
        difference = (curvature(t + h) - curvature(t - h)) / (2 * h)
        np.testing.assert_allclose(thrice(t), difference, rtol=1e-7)


@pytest.mark.parametrize(("kind", "k"), [("isotropic", 9), ("full", 2)])
def test_derivatives_in_one_argument_alone(kind, k):
    """The rule leaves out what is not asked for, and must not leave out more."""
    head, raw, y = random_case(kind, k, 2)
    per_example = np.array([1.0, -2.0])

    def loss(raw, y):
        return jnp.sum(mdn.nll(head, raw, y) * per_example)

    @jax.jit
    def each(raw, y):
        in_raw, in_y = mdn.nll_gradient(head, raw, y), jax.grad(loss, argnums=1)(raw, y)
        along_raw = jax.jvp(lambda raw: loss(raw, y), (raw,), (raw,))[1]
        along_y = jax.jvp(lambda y: loss(raw, y), (y,), (y,))[1]
        # Part of the raw vector only: some leaves of the rule's tangents are symbolic zeros.
        middle = jax.grad(
            lambda part: loss(jnp.concatenate([raw[:, :k], part, raw[:, 2 * k :]], axis=1), y)
        )(raw[:, k : 2 * k])
        return (in_raw, in_y), (along_raw, along_y), middle

    (in_raw, in_y), forward, middle = each(raw, y)
    _, expected = closed_forms(head, raw, y)
    both = tuple(per_example[:, None] * x for x in expected)
    assert_close((in_raw, in_y), (expected[0], both[1]), 1e-12)
    assert_close(forward, (np.vdot(both[0], raw), np.vdot(both[1], y)), 1e-12)
    assert_close(middle, per_example[:, None] * in_raw[:, k : 2 * k], 1e-14)


def test_transformations_commute():
    """vmap (also of one argument, and nested), scan, remat, linearize: all the plain gradient."""
    head, raw, y = random_case("full", 2, 2, batch=4)

    def loss(raw, y):
        return mdn.nll(head, raw, y)

    def total(raw, y):
        return jnp.sum(loss(raw, y))

    def scanned(raw, y):
        return jax.lax.scan(lambda total, row: (total + loss(*row), None), 0.0, (raw, y))[0]

    @jax.jit
    def each(raw, y):
        nested = jax.vmap(jax.vmap(jax.grad(loss, argnums=(0, 1))))
        nested = nested(raw.reshape(2, 2, -1), y.reshape(2, 2, -1))
        nested = tuple(x.reshape(4, -1) for x in nested)
        remat = jax.vmap(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(raw, y)
        _, linear = jax.linearize(total, raw, y)
        by_linearize = jax.linear_transpose(linear, raw, y)(1.0)
        one_y = jax.vmap(jax.grad(loss), in_axes=(0, None))(raw, y[0])
        one_raw = jax.vmap(jax.grad(loss), in_axes=(None, 0))(raw[0], y)
        shared = jax.grad(total)(raw[0], y)
        by_scan = jax.jvp(jax.grad(scanned, argnums=(0, 1)), (raw, y), (raw, y))
        return (nested, remat, by_linearize), by_scan, one_y, one_raw, shared

    at = functools.partial(closed_forms, head)
    (_, plain), (_, hessian) = complex_step(at, (raw, y), (raw, y))
    same, (by_scan, hessian_by_scan), one_y, one_raw, shared = each(raw, y)
    for other in (*same, by_scan):
        assert_close(other, plain, 1e-12)
    assert_close(hessian_by_scan, hessian, 1e-12)
    assert_close(one_y, at(raw, np.tile(y[:1], (4, 1)))[1][0], 1e-12)
    assert_close(one_raw, at(np.tile(raw[:1], (4, 1)), y)[1][0], 1e-12)
    # Broadcasting one side sums its gradient.
    assert_close(shared, np.sum(one_raw, axis=0), 1e-13)


@pytest.mark.parametrize(
    ("kind", "k", "dim"),
    [
        ("isotropic", 3, 2),
        ("diagonal", 2, 17),
        ("full", 3, 2),
        ("full", 2, 4),
    ],
)
def test_derivatives_in_the_mixture_itself(kind, k, dim):
    """log_prob of a pytree: its slope in every field; log-weights act as logits."""
    head, raw, y = random_case(kind, k, dim)
    raw[:, :k] = scipy.special.log_softmax(raw[:, :k], axis=1)

    @jax.jit
    def derivatives(raw, y):
        mix = head.mixture(raw)
        grad = jax.grad(lambda mix, y: jnp.sum(mdn.log_prob(mix, y)), argnums=(0, 1))
        return mix, *grad(mix, y)

    def as_raw(mix):
        fields = (mix.log_weights, mix.log_scale, mix.loc, mix.upper)
        fields = [x for x in fields if x is not None]
        rows = [x[..., None] if x.ndim == 2 else x for x in fields]
        return np.concatenate(rows, axis=2).swapaxes(1, 2).reshape(2, -1)

    mix, in_mix, in_y = derivatives(raw, y)
    assert isinstance(in_mix, mdn.GaussianMixture)
    assert in_mix.covariance_kind == kind
    assert_close(as_raw(mix), raw, 1e-14)
    _, expected = closed_forms(head, raw, y)
    assert_close((as_raw(in_mix), in_y), jax.tree.map(np.negative, expected))


def test_derivatives_through_the_constructors():
    rng = np.random.default_rng(3)
    loc, y, weights = rng.normal(size=(3, 2)), rng.normal(size=2), np.array([0.2, 0.5, 0.3])
    scale = np.exp(rng.normal(size=(3, 2)))
    root = rng.normal(size=(3, 2, 2))
    covariance = root @ root.swapaxes(-1, -2) + 0.5 * np.eye(2)

    def symmetric(c):
        return (c + c.swapaxes(-1, -2)) / 2

    def dense(loc, covariance, weights):
        delta = y - loc
        square = np.sum(delta * np.linalg.solve(covariance, delta[..., None])[..., 0], axis=-1)
        density = np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
        return np.log(np.sum(weights * density) / np.sum(weights))

    kinds = mdn.GaussianMixture
    cases = (
        (kinds.isotropic, scale[:, 0], lambda s: s[:, None, None] ** 2 * np.eye(2)),
        (kinds.diagonal, scale, lambda s: s[:, :, None] ** 2 * np.eye(2)),
        (lambda m, c, weights: kinds.full(m, symmetric(c), weights=weights), covariance, symmetric),
    )
    makers, widths, covariances_of = zip(*cases, strict=True)

    @jax.jit
    def ours(loc, widths, weights):
        def gradient(make, width):
            return jax.grad(lambda m, s, w: mdn.log_prob(make(m, s, weights=w), y), (0, 1, 2))(
                loc, width, weights
            )

        return [gradient(*case) for case in zip(makers, widths, strict=True)]

    gradients = ours(loc, widths, weights)
    for gradient, width, covariance_of in zip(gradients, widths, covariances_of, strict=True):
        x = (loc, width, weights)

        def naive(m, s, w, covariance_of=covariance_of):
            return dense(m, covariance_of(s), w)

        expected = [np.empty(a.shape) for a in x]
        for n, of_one in enumerate(expected):
            for index in np.ndindex(of_one.shape):
                v = [np.zeros(a.shape) for a in x]
                v[n][index] = 1
                of_one[index] = complex_step(naive, x, v)[1]
        assert_close(gradient, tuple(expected))


@pytest.mark.parametrize(("kind", "k"), [("isotropic", 3), ("full", 9)])
def test_a_weight_of_zero_has_finite_derivatives_of_both_orders(kind, k):
    """Those of the mixture without that component."""
    head, raw, y = random_case(kind, k, 2)
    tangent = np.random.default_rng(2).normal(size=raw.shape)
    chosen = np.array([0, 2])
    others = np.setdiff1d(np.arange(k), chosen)
    empty = raw.copy()
    empty[:, others] = -np.inf
    small = mdn.GaussianHead(num_components=2, dim=2, covariance=kind)

    @jax.jit
    def derivatives(raw, tangent):
        return jax.jvp(
            jax.value_and_grad(lambda raw: jnp.sum(mdn.nll(head, raw, y))), (raw,), (tangent,)
        )

    def kept(x):
        return x.reshape(2, -1, k)[..., chosen].reshape(2, -1)

    got = derivatives(empty, tangent)
    expected = complex_step(
        functools.partial(closed_forms, small), (kept(raw), y), (kept(tangent), np.zeros(y.shape))
    )
    for (value, gradient), (small_value, (small_gradient, _)) in zip(got, expected, strict=True):
        assert float(value) == pytest.approx(float(small_value), rel=1e-12)
        gradient = np.asarray(gradient)
        np.testing.assert_array_equal(gradient.reshape(2, -1, k)[..., others], 0)
        assert_close(kept(gradient), small_gradient, 1e-11)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_single_precision_gradients_have_single_precision(kind):
    head, raw, y = random_case(kind, 2, 4, batch=64)
    raw, y = raw.astype(np.float32), y.astype(np.float32)
    gradient = jax.jit(jax.grad(lambda r, t: jnp.sum(mdn.nll(head, r, t)), argnums=(0, 1)))
    got = gradient(raw, y)
    _, expected = closed_forms(head, raw.astype(np.float64), y.astype(np.float64))
    assert all(g.dtype == jnp.float32 for g in got)
    # gamma carries the error of log N, some eps times |z|^2, here up to 1e3.
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * np.max(np.abs(b)))


def test_bernoulli_gradient_is_p_minus_y():
    head, raw = mdn.BernoulliHead(), np.linspace(-30, 30, 61)[:, None]
    p, y = scipy.special.expit(raw), np.array([0.0, 0.3, 1.0])

    @jax.jit
    def derivatives(raw):
        in_raw = mdn.nll_gradient(head, raw, y[:, None])
        slope = jax.vmap(jax.grad(lambda r: head.nll(r, 1.0)))
        return in_raw, jax.jvp(slope, (raw,), (jnp.ones_like(raw),))[1]

    first, second = derivatives(raw)
    np.testing.assert_allclose(first, p - y[:, None, None], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(second, p * scipy.special.expit(-raw), atol=1e-14)


def test_the_gradient_of_a_product_is_its_parts_side_by_side():
    offset = mdn.GaussianHead(num_components=2, dim=2)
    pen_up = mdn.BernoulliHead()
    head = mdn.ProductHead(offset=offset, pen_up=pen_up)
    raw = np.random.default_rng(4).normal(size=(5, head.num_outputs))
    y = {"offset": np.zeros((5, 2)), "pen_up": np.array([0.0, 1, 0, 1, 1])}

    @jax.jit
    def each(raw, y):
        parts = (
            mdn.nll_gradient(offset, raw[:, :8], y["offset"]),
            mdn.nll_gradient(pen_up, raw[:, 8:], y["pen_up"]),
        )
        return mdn.nll_gradient(head, raw, y), jnp.concatenate(parts, axis=1)

    assert_close(*each(raw, y), 1e-14)


@pytest.mark.parametrize("k", [3, 12, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_take_each_exponential_once(kind, k):
    """Of the logits, of minus the log-scales, of the log-joint; two logarithms."""
    head, raw, y = random_case(kind, k, 2)
    loss = jax.value_and_grad(lambda raw: jnp.sum(mdn.nll(head, raw, y)))
    taken = collections.Counter()
    for equation in equations(jax.make_jaxpr(loss)(raw).jaxpr):
        taken[equation.primitive.name] += equation.outvars[0].aval.size
    scales = 1 if kind == "isotropic" else 2
    assert taken["exp"] == len(raw) * (2 + scales) * k
    assert taken["log"] == len(raw) * 2


def equations(jaxpr):
    """All of them, with those of inner jaxprs."""
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        yield from itertools.chain.from_iterable(map(equations, inner)) if inner else (equation,)


def test_the_shared_gradient_is_exactly_antisymmetric_in_y_and_loc():
    head, raw, y = random_case("full", 1, 2)
    gradient = jax.jit(jax.grad(lambda r, t: jnp.sum(mdn.nll(head, r, t)), argnums=(0, 1)))
    in_raw, in_y = gradient(raw, y)
    np.testing.assert_array_equal(in_raw[:, 3:5], -in_y)
