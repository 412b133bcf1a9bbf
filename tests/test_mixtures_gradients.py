"""The closed forms against autodiff of the naive formula, finite differences and the equations."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.special
from jax.extend.core import jaxprs_in_params

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# The core has a way of its own of each number of components, up to 8, 31, 128 and beyond, and of
# dimensions: blocks of rows after 3 (full) or 16, sums by reduction after 8, dense products after
# 16 (full).
CASES = [
    *(("isotropic", *shape) for shape in ((1, 1), (5, 3), (12, 2), (40, 9), (200, 1))),
    *(("diagonal", *shape) for shape in ((5, 3), (12, 2), (40, 2), (12, 17))),
    *(("full", *shape) for shape in ((1, 1), (5, 3), (12, 2), (40, 2), (200, 2))),
    *(("full", *shape) for shape in ((12, 4), (1, 16), (2, 17))),
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


def naive_log_prob(logits, s, loc, upper, y):
    """One example, as one would write it down: dense factors, determinants, autodiff throughout.

    `logits` [K], `s` [1 or D, K], `loc` [D, K], `upper` [D(D-1)/2, K] or None.
    """
    dim, k = loc.shape
    unit = jnp.broadcast_to(jnp.eye(dim), (k, dim, dim))
    if upper is not None:
        row, column = np.triu_indices(dim, 1)
        unit = unit.at[:, row, column].set(upper.T)
    factor = jnp.exp(-jnp.broadcast_to(s, loc.shape)).T[:, :, None] * unit
    z = jnp.einsum("kij,jk->ik", factor, y[:, None] - loc)
    log_normal = -0.5 * dim * jnp.log(2 * jnp.pi) - 0.5 * jnp.sum(z**2, axis=0)
    log_normal += jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), axis=1)
    return jax.scipy.special.logsumexp(jax.nn.log_softmax(logits) + log_normal)


def naive_nll(head, raw, y):
    """One example; raw is read as the head's documentation says."""
    rows = raw.reshape(-1, head.num_components)
    scales = 1 if head.covariance == "isotropic" else head.dim
    logits, s, loc, upper = jnp.split(rows, [1, 1 + scales, 1 + scales + head.dim])
    return -naive_log_prob(logits[0], s, loc, upper if head.covariance == "full" else None, y)


def closed_form(head, raw, y):
    """The equations of PRML 5.155 to 5.157 and their kin in loops of NumPy, one example."""
    k, dim, kind = head.num_components, head.dim, head.covariance
    rows = raw.reshape(-1, k)
    scales = 1 if kind == "isotropic" else dim
    logits, s, loc, upper = np.split(rows, [1, 1 + scales, 1 + scales + dim])
    pi = scipy.special.softmax(logits[0])
    unit, z, log_joint = [], [], []
    for c in range(k):
        r = np.eye(dim)
        if kind == "full":
            r[np.triu_indices(dim, 1)] = upper[:, c]
        sigma = np.exp(np.broadcast_to(s[:, c], dim))
        unit.append(r)
        z.append(r @ (y - loc[:, c]) / sigma)
        log_joint.append(np.log(pi[c]) - np.log(sigma).sum() - z[c] @ z[c] / 2)
    gamma = scipy.special.softmax(log_joint)
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
    return gradient.ravel()


def assert_close(got, expected, rtol=1e-9):
    """Equal relative to the largest number: entries that cancel have no digits of their own."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1e-300 + np.max(np.abs(b))))


@pytest.mark.parametrize(("kind", "k", "dim"), CASES)
def test_first_and_second_order_agree_with_the_naive_formula_and_differences(kind, k, dim):
    head, raw, y = random_case(kind, k, dim)
    rng = np.random.default_rng(1)
    v = (rng.normal(size=raw.shape), rng.normal(size=y.shape))
    v = tuple(x / np.linalg.norm(x) for x in v)

    def derivatives(loss):
        """Value, gradient, and the Hessian times v forward over reverse."""

        def of(raw, y):
            value_and_grad = jax.value_and_grad(loss, argnums=(0, 1))
            return jax.jvp(value_and_grad, (raw, y), v)

        return of

    @jax.jit
    def ours(raw, y):
        both = derivatives(lambda raw, y: jnp.sum(mdn.nll(head, raw, y)))(raw, y)
        return *both, mdn.nll_gradient(head, raw, y)

    naive = derivatives(
        lambda raw, y: jnp.sum(jax.vmap(lambda r, t: naive_nll(head, r, t))(raw, y))
    )
    (value, gradient), (slope, hvp), in_raw = ours(raw, y)
    assert_close(((value, gradient), (slope, hvp)), jax.jit(naive)(raw, y))

    # Central differences of the value and of the gradient; truncation and rounding are at 1e-9.
    h = 1e-5
    ahead, behind = (ours(raw + sign * h * v[0], y + sign * h * v[1])[0] for sign in (1, -1))
    assert_close(slope, (ahead[0] - behind[0]) / (2 * h), rtol=1e-7)
    assert_close(slope, sum(np.vdot(a, b) for a, b in zip(gradient, v, strict=True)))
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead[1], behind[1])
    assert_close(hvp, difference, rtol=1e-6)

    assert_close(in_raw, gradient[0], 1e-14)
    equations = np.stack([closed_form(head, r, t) for r, t in zip(raw, y, strict=True)])
    assert_close(gradient[0], equations)


@pytest.mark.parametrize(
    ("kind", "k", "dim"), [("isotropic", 3, 2), ("diagonal", 12, 2), ("full", 3, 2)]
)
def test_every_order_of_differentiation_gives_the_same_hessian(kind, k, dim):
    head, raw, y = random_case(kind, k, dim, batch=1)
    raw, y = raw[0], y[0]
    size = raw.size

    def flat(x):
        return mdn.nll(head, x[:size], x[size:])

    def naive(x):
        return naive_nll(head, x[:size], x[size:])

    def everything(f):
        return jax.jit(
            lambda x: (
                jax.jacfwd(f)(x),
                jax.jacrev(f)(x),
                jax.hessian(f)(x),
                jax.jacrev(jax.jacrev(f))(x),
                jax.jacrev(jax.jacfwd(f))(x),
                jax.jacfwd(jax.jacfwd(f))(x),
            )
        )

    x = np.concatenate([raw, y])
    forward, reverse, *hessians = everything(flat)(x)
    expected = jax.jit(lambda x: (jax.grad(naive)(x), jax.hessian(naive)(x)))(x)
    assert_close(forward, expected[0])
    assert_close(reverse, expected[0])
    for hessian in hessians:
        assert_close(hessian, expected[1])
    # Entry by entry against differences of the gradient.
    gradient = jax.jit(jax.vmap(jax.grad(flat)))
    h = 1e-5 * np.eye(x.size)
    assert_close(hessians[0], (gradient(x + h) - gradient(x - h)) / 2e-5, rtol=1e-7)


def test_third_order():
    head, raw, y = random_case("full", 2, 2, batch=1)
    loss = jax.jit(lambda raw, y: mdn.nll(head, raw, y)[0])
    jax.test_util.check_grads(loss, (raw, y), order=3, modes=["fwd"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "k"), [("isotropic", 3), ("diagonal", 12), ("full", 40)])
def test_derivatives_in_one_argument_alone(kind, k):
    """The rule leaves out what is not asked for, and must not leave out more."""
    head, raw, y = random_case(kind, k, 2)

    def loss(raw, y):
        return jnp.sum(mdn.nll(head, raw, y) * jnp.array([1.0, -2.0]))

    @jax.jit
    def each(raw, y):
        both = jax.grad(loss, argnums=(0, 1))(raw, y)
        alone = jax.grad(loss, argnums=0)(raw, y), jax.grad(loss, argnums=1)(raw, y)
        forward = (
            jax.jvp(lambda raw: loss(raw, y), (raw,), (raw,))[1],
            jax.jvp(lambda y: loss(raw, y), (y,), (y,))[1],
            jax.jvp(loss, (raw, y), (raw, y))[1],
        )
        # Part of the raw vector only: some leaves of the rule's tangents are symbolic zeros.
        middle = jax.grad(
            lambda part: loss(jnp.concatenate([raw[:, :k], part, raw[:, 2 * k :]], axis=1), y)
        )(raw[:, k : 2 * k])
        return both, alone, forward, middle

    both, alone, forward, middle = each(raw, y)
    assert_close(alone, both, 1e-14)
    dots = np.vdot(both[0], raw), np.vdot(both[1], y)
    assert_close(forward, (*map(np.asarray, dots), np.asarray(sum(dots))), 1e-12)
    assert_close(middle, both[0][:, k : 2 * k], 1e-14)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_transformations_commute(kind):
    """vmap (also of one argument, and nested), scan, remat, linearize: all the plain gradient."""
    head, raw, y = random_case(kind, 3, 2, batch=4)

    def loss(raw, y):
        return mdn.nll(head, raw, y)

    @jax.jit
    def each(raw, y):
        grad = jax.grad(loss, argnums=(0, 1))
        plain = jax.grad(lambda *a: jnp.sum(loss(*a)), argnums=(0, 1))(raw, y)
        mapped = jax.vmap(grad)(raw, y)
        nested = jax.vmap(jax.vmap(grad))(raw.reshape(2, 2, -1), y.reshape(2, 2, -1))
        nested = tuple(x.reshape(4, -1) for x in nested)
        remat = jax.vmap(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(raw, y)

        def scanned(raw, y):
            return jax.lax.scan(lambda total, row: (total + loss(*row), None), 0.0, (raw, y))[0]

        by_scan = jax.grad(scanned, argnums=(0, 1))(raw, y)
        _, linear = jax.linearize(lambda *a: jnp.sum(loss(*a)), raw, y)
        by_linearize = jax.linear_transpose(linear, raw, y)(1.0)
        one_y = jax.vmap(jax.grad(loss), in_axes=(0, None))(raw, y[0])
        one_raw = jax.vmap(jax.grad(loss), in_axes=(None, 0))(raw[0], y)
        # Broadcasting one side sums its gradient.
        shared = jax.grad(lambda r: jnp.sum(loss(r, y)))(raw[0]), jnp.sum(one_raw, axis=0)
        hessian_by_scan = jax.jvp(jax.grad(scanned), (raw, y), (raw, y))[1]
        hessian = jax.jvp(jax.grad(lambda *a: jnp.sum(loss(*a))), (raw, y), (raw, y))[1]
        return (
            plain,
            (mapped, nested, remat, by_scan, by_linearize),
            one_y,
            shared,
            (
                hessian_by_scan,
                hessian,
            ),
        )

    plain, same, one_y, shared, hessians = each(raw, y)
    for other in same:
        assert_close(other, plain, 1e-13)
    assert_close(one_y[0], plain[0][0], 1e-13)
    assert_close(*shared, 1e-13)
    assert_close(*hessians, 1e-12)


@pytest.mark.parametrize(
    ("kind", "k", "dim"),
    [
        ("isotropic", 3, 2),
        ("diagonal", 12, 2),
        ("diagonal", 40, 17),
        ("full", 12, 3),
        ("full", 12, 4),
    ],
)
def test_derivatives_in_the_mixture_itself(kind, k, dim):
    """log_prob of a pytree: first and second order in every field; log-weights act as logits."""
    head, raw, y = random_case(kind, k, dim)
    mix = head.mixture(raw)

    def naive(mix, y):
        def one(log_weights, loc, s, upper, y):
            s = s[None, :] if kind == "isotropic" else s.T
            return naive_log_prob(log_weights, s, loc.T, None if upper is None else upper.T, y)

        upper_axis = None if mix.upper is None else 0
        each = jax.vmap(one, in_axes=(0, 0, 0, upper_axis, 0))
        return jnp.sum(each(mix.log_weights, mix.loc, mix.log_scale, mix.upper, y))

    @jax.jit
    def derivatives(mix, y):
        def of(f):
            grad = jax.grad(f, argnums=(0, 1))
            return jax.jvp(grad, (mix, y), (mix, y))

        return of(lambda mix, y: jnp.sum(mdn.log_prob(mix, y))), of(naive)

    ours, expected = derivatives(mix, y)
    assert isinstance(ours[0][0], mdn.GaussianMixture)
    assert ours[0][0].covariance_kind == kind
    assert_close(ours, expected)
    gamma = mdn.responsibilities(mix, y)
    assert_close(ours[0][0].log_weights, gamma - mix.weights, 1e-12)


def test_derivatives_through_the_constructors():
    rng = np.random.default_rng(3)
    loc, y, weights = rng.normal(size=(3, 2)), rng.normal(size=2), np.array([0.2, 0.5, 0.3])
    scale = np.exp(rng.normal(size=(3, 2)))
    root = rng.normal(size=(3, 2, 2))
    covariance = root @ root.swapaxes(-1, -2) + 0.5 * np.eye(2)

    def dense(loc, covariance, weights):
        delta = y[None, :] - loc
        square = jnp.sum(delta * jnp.linalg.solve(covariance, delta[..., None])[..., 0], axis=-1)
        density = jnp.exp(-square / 2) / (2 * jnp.pi * jnp.sqrt(jnp.linalg.det(covariance)))
        return jnp.log(jnp.sum(weights * density) / jnp.sum(weights))

    def compare(ours, naive, *args):
        argnums = tuple(range(len(args)))
        both = jax.jit(lambda *a: tuple(jax.grad(f, argnums)(*a) for f in (ours, naive)))
        assert_close(*both(*args))

    kinds = mdn.GaussianMixture
    compare(
        lambda m, s, w: mdn.log_prob(kinds.isotropic(m, s, weights=w), y),
        lambda m, s, w: dense(m, s[:, None, None] ** 2 * jnp.eye(2)[None], w),
        loc,
        scale[:, 0],
        weights,
    )
    compare(
        lambda m, s, w: mdn.log_prob(kinds.diagonal(m, s, weights=w), y),
        lambda m, s, w: dense(m, s[:, :, None] ** 2 * jnp.eye(2)[None], w),
        loc,
        scale,
        weights,
    )
    symmetric = lambda c: (c + c.swapaxes(-1, -2)) / 2  # noqa: E731
    compare(
        lambda m, c, w: mdn.log_prob(kinds.full(m, symmetric(c), weights=w), y),
        lambda m, c, w: dense(m, symmetric(c), w),
        loc,
        covariance,
        weights,
    )


@pytest.mark.parametrize(("kind", "k"), [("isotropic", 40), ("diagonal", 4), ("full", 12)])
def test_a_weight_of_zero_has_finite_derivatives_of_both_orders(kind, k):
    """Those of the mixture without that component."""
    head, raw, y = random_case(kind, k, 2)
    tangent = np.random.default_rng(2).normal(size=raw.shape)
    chosen = np.array([0, 2])
    others = np.setdiff1d(np.arange(k), chosen)
    empty = raw.copy()
    empty[:, others] = -np.inf
    small = mdn.GaussianHead(num_components=2, dim=2, covariance=kind)

    def derivatives(loss, raw, tangent):
        value_and_grad = jax.value_and_grad(lambda raw: jnp.sum(loss(raw, y)))
        return jax.jit(lambda raw, v: jax.jvp(value_and_grad, (raw,), (v,)))(raw, tangent)

    def kept(x):
        return x.reshape(2, -1, k)[..., chosen].reshape(2, -1)

    got = derivatives(functools.partial(mdn.nll, head), empty, tangent)
    naive = jax.vmap(functools.partial(naive_nll, small))
    expected = derivatives(naive, kept(raw), kept(tangent))
    for (value, gradient), (small_value, small_gradient) in zip(got, expected, strict=True):
        assert float(value) == pytest.approx(float(small_value), rel=1e-12)
        gradient = np.asarray(gradient)
        np.testing.assert_array_equal(gradient.reshape(2, -1, k)[..., others], 0)
        assert_close(kept(gradient), small_gradient, 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_gradients_have_single_precision(kind):
    head, raw, y = random_case(kind, 5, 4, batch=64)
    raw, y = raw.astype(np.float32), y.astype(np.float32)
    gradient = jax.jit(jax.grad(lambda r, t: jnp.sum(mdn.nll(head, r, t)), argnums=(0, 1)))
    got, expected = gradient(raw, y), gradient(raw.astype(np.float64), y.astype(np.float64))
    assert all(g.dtype == jnp.float32 for g in got)
    # gamma carries the error of log N, some eps times |z|^2, here up to 1e3.
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * np.max(np.abs(b)))


def test_bernoulli_gradient_is_p_minus_y():
    head, raw = mdn.BernoulliHead(), np.linspace(-30, 30, 61)[:, None]
    for y in (0.0, 0.3, 1.0):
        gradient = jax.jit(lambda r, y=y: mdn.nll_gradient(head, r, y))(raw)
        np.testing.assert_allclose(gradient, scipy.special.expit(raw) - y, rtol=1e-12, atol=1e-14)
    second = jax.jit(jax.vmap(jax.hessian(lambda r: head.nll(r, 1.0))))(raw)
    p = scipy.special.expit(raw[:, 0])
    np.testing.assert_allclose(second[:, 0, 0], p * scipy.special.expit(-raw[:, 0]), atol=1e-14)


def test_the_gradient_of_a_product_is_its_parts_side_by_side():
    offset = mdn.GaussianHead(num_components=3, dim=2, covariance="full")
    pen_up = mdn.BernoulliHead()
    head = mdn.ProductHead(offset=offset, pen_up=pen_up)
    raw = np.random.default_rng(4).normal(size=(5, head.num_outputs))
    y = {"offset": np.zeros((5, 2)), "pen_up": np.array([0.0, 1, 0, 1, 1])}

    @jax.jit
    def each(raw, y):
        parts = (
            mdn.nll_gradient(offset, raw[:, :18], y["offset"]),
            mdn.nll_gradient(pen_up, raw[:, 18:], y["pen_up"]),
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
    for kind, dim in itertools.product(KINDS, (1, 3)):
        head, raw, y = random_case(kind, 1, dim)
        in_raw, in_y = jax.jit(
            jax.grad(lambda r, t, head=head: jnp.sum(mdn.nll(head, r, t)), argnums=(0, 1))
        )(raw, y)
        scales = 1 if kind == "isotropic" else dim
        np.testing.assert_array_equal(in_raw[:, 1 + scales : 1 + scales + dim], -in_y)
