"""Distribution functions and quantiles against SciPy, mpmath and finite differences, both tails."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats

import mdnjax as mdn
from mdnjax.mixtures._normal import standard_normal

KINDS = ("isotropic", "diagonal", "full")
mpmath.mp.dps = 40

cdf, log_cdf = (jax.jit(f, static_argnames="upper_tail") for f in (mdn.cdf, mdn.log_cdf))
quantile = jax.jit(mdn.quantile, static_argnames=("upper_tail", "with_flat"))
interval = jax.jit(mdn.interval)


def line(loc, scale, weights=None, kind="isotropic"):
    """A mixture with D = 1 from rows of numbers."""
    loc, scale = np.asarray(loc, float), np.asarray(scale, float)
    given = {"isotropic": scale, "diagonal": scale[..., None], "full": scale[..., None, None] ** 2}
    return getattr(mdn.GaussianMixture, kind)(loc[..., None], given[kind], weights=weights)


def example(kind="isotropic"):
    return line([-1.0, 1.0], [0.1, 0.5], [0.3, 0.7], kind)


def padded(mix):
    """With components of no weight, four in all: so that few shapes need compiling."""
    pad = ((0, 4 - mix.num_components),)
    return mdn.GaussianMixture(
        jnp.asarray(np.pad(mix.log_weights, pad, constant_values=-np.inf)),
        jnp.asarray(np.pad(mix.loc, (*pad, (0, 0)))),
        jnp.asarray(np.pad(mix.log_scale, pad)),
        None,
        "isotropic",
    )


def solve(mix, q, upper=False):
    """Quantiles of one mixture and whether F is flat there, by a batch that is compiled once."""
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (8, *x.shape)), padded(mix))
    n = len(q)
    q = jnp.asarray(np.pad(np.asarray(q, mix.loc.dtype), (0, 8 - n), mode="edge"))
    y, flat = quantile(batch, q, upper_tail=upper, with_flat=True)
    return np.asarray(y)[:n, 0], np.asarray(flat)[:n]


def exact_tail(mix, y, upper=False):
    """P(Y <= y) or P(Y > y) of one mixture, with 40 digits, from the numbers it holds."""
    weights = [mpmath.exp(mpmath.mpf(float(w))) for w in mix.log_weights]
    scales = [mpmath.exp(mpmath.mpf(float(s))) for s in np.ravel(mix.log_scale)]
    sign = -1 if upper else 1
    terms = [
        w * mpmath.erfc(-sign * (mpmath.mpf(float(y)) - mpmath.mpf(float(mu))) / s / mpmath.sqrt(2))
        for w, mu, s in zip(weights, np.ravel(mix.loc), scales, strict=True)
    ]
    return mpmath.fsum(terms) / 2 / mpmath.fsum(weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_normal_and_its_derivatives_however_far_out(dtype, x64):
    far = [1e3, 1e5, 1e10, 1e18] if dtype == np.float32 else [1e3, 1e8, 1e100]
    z = np.array([0.0, 0.3, 1.0, 3.0, 4.9, 5.1, 8.0, 12.0, *far], dtype)
    z = np.concatenate([z, -z[1:]])
    eps = np.finfo(dtype).eps

    def log_lower(x):
        return standard_normal(x).log_lower

    got = jax.jit(jax.vmap(standard_normal))(z)
    by_rule = jax.jit(jax.vmap(jax.grad(lambda x: standard_normal(x).hazard)))(z)
    slope = jax.jit(jax.vmap(jax.grad(log_lower)))(z)
    for i, point in enumerate(z):
        x = mpmath.mpf(float(point))
        with mpmath.workdps(300 if abs(x) < 1e19 else 900):
            if x < -100:  # Laplace's continued fraction of the hazard
                rest = mpmath.mpf(0)
                for n in range(60, 0, -1):
                    rest = n / (-x + rest)
                hazard = -x + rest
                log_phi = -x * x / 2 - mpmath.log(2 * mpmath.pi) / 2
                log_tail = log_phi - mpmath.log(hazard)
            else:
                tail = mpmath.ncdf(x)
                log_tail, hazard = mpmath.log(tail), mpmath.npdf(x) / tail
            derivative = -hazard * (x + hazard)
        tiny = float(np.finfo(dtype).tiny)
        # Where phi stands, rounding x^2 / 2 counts: an error of eps x^2.
        conditioning = 8 * eps * (1 + (float(x * x) if x > 0 else 0))
        # XLA's log1p by itself is wrong by 14 eps at -0.38.
        log_error = conditioning + 16 * eps
        np.testing.assert_allclose(got.log_lower[i], float(log_tail), rtol=log_error, atol=tiny)
        np.testing.assert_allclose(got.hazard[i], float(hazard), rtol=conditioning, atol=tiny)
        np.testing.assert_allclose(slope[i], float(hazard), rtol=2 * conditioning, atol=tiny)
        conditioning = 32 * eps * (1 + (float(x * x) if x > 0 else 0))
        np.testing.assert_allclose(by_rule[i], float(derivative), rtol=conditioning, atol=tiny)


def test_scipys_mixture(x64):
    for kind in KINDS:
        np.testing.assert_allclose(mdn.cdf(example(kind), [0.0]), 0.3159250923637254, rtol=1e-14)
        out = jax.eval_shape(mdn.quantile, example(kind), 0.5)
        assert out.shape == (1,)
    expected = [-1.0967549830332484, 0.7170255890335686, 1.732616896342761]
    np.testing.assert_allclose(solve(example(), [0.05, 0.5, 0.95])[0], expected, rtol=1e-13)
    loc, scale = np.array([-2.0, 0.1, 0.4, 3.0]), np.array([0.3, 1.0, 0.05, 0.7])
    weights = np.array([0.2, 0.4, 0.1, 0.3])
    parts = [scipy.stats.Normal(mu=m, sigma=s) for m, s in zip(loc, scale, strict=True)]
    peer = scipy.stats.Mixture(parts, weights=weights)
    mix = line(loc, scale, weights)
    y = np.linspace(-6, 8, 12)
    q = np.array([0.001, 0.01, 0.2, 0.5, 0.61, 0.9, 0.99, 0.999])
    for upper, (tail, log_tail, inverse) in (
        (False, (peer.cdf, peer.logcdf, peer.icdf)),
        (True, (peer.ccdf, peer.logccdf, peer.iccdf)),
    ):
        got = cdf(mix, y[:, None], upper_tail=upper)
        np.testing.assert_allclose(got, tail(y), rtol=1e-12)
        got = log_cdf(mix, y[:, None], upper_tail=upper)
        np.testing.assert_allclose(got, log_tail(y), rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(solve(mix, q, upper)[0], inverse(q), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_tails_far_out_with_small_weights_and_all_scales(dtype, x64):
    eps = np.finfo(dtype).eps
    mixes = [
        line([-1.0, 1.0], [0.1, 0.5], [0.3, 0.7]),
        line([0.0, 0.0, 5.0], [1e-6, 1.0, 1e6], [0.5, 0.5 - 1e-20, 1e-20]),
        line([-1e3, 2.0], [1e-3, 10.0], [1e-20, 1.0]),
        line([3.0], [2.0]),
    ]
    points = np.array([-1e7, -60.0, -20.0, -3.0, -1.0, 0.0, 0.5, 1.7, 6.0, 15.0, 90.0, 3e7], dtype)
    for mix in mixes:
        mix = jax.tree.map(lambda x: x.astype(dtype), mix)
        for upper in (False, True):
            small = cdf(padded(mix), points[:, None], upper_tail=upper)
            logs = log_cdf(padded(mix), points[:, None], upper_tail=upper)
            assert small.dtype == logs.dtype == dtype
            for y, value, log in zip(points, small, logs, strict=True):
                exact = exact_tail(mix, y, upper)
                # Rounding z by 3 eps, and a log-weight or log-scale l by eps l, is allowed.
                z = np.abs(y - np.ravel(mix.loc)) / np.exp(np.ravel(mix.log_scale).astype(float))
                relevant = float(np.min(z[np.asarray(mix.weights) > 1e-30]))
                relative = float(eps) * (50 + 4 * relevant**2 * (4 + 15))
                # Near 1 the logarithm of one tail is minus the other.
                other = exact_tail(mix, y, not upper)
                exact_log = mpmath.log(exact) if other > 1e-9 else mpmath.log1p(-other)
                error = abs(float(log - float(exact_log)))
                assert error <= min(relative, relative * abs(exact_log) + 4 * eps * abs(exact_log))
                if exact > np.finfo(dtype).tiny:
                    assert abs(float(value) / float(exact) - 1) <= min(relative, 1e-2)
                else:
                    assert value <= np.finfo(dtype).tiny


def z_values(mix, y):
    scale = np.exp(np.asarray(mix.log_scale, float))
    return (np.asarray(y, float) - np.asarray(mix.loc, float)[..., 0]) / scale, scale


def assert_solves(mix, q, y, upper):
    """|F(y) - q| <= 8 eps min(q, 1-q), F with each z and y rounded by 4 eps; by SciPy."""
    eps = float(jnp.finfo(y.dtype).eps)
    weights = np.exp(np.asarray(mix.log_weights, float))
    weights = weights / weights.sum(-1, keepdims=True)
    z, scale = z_values(mix, y)
    y, q = np.asarray(y, float)[..., 0], np.asarray(q, float)
    room = 4 * eps * (np.abs(z) + np.abs(y)[..., None] / scale)
    for sign, level in ((1, 1 - q if upper else q), (-1, q if upper else 1 - q)):
        low, high = ((weights * scipy.special.ndtr(sign * z + r)).sum(-1) for r in (-room, room))
        slack = 8 * eps * np.minimum(q, 1 - q)
        # 1 - q in float64 is itself rounded.
        slack = slack + (2**-52 if upper == (sign == 1) else 0)
        assert np.all(low - slack <= level), (low - level, slack)
        assert np.all(level <= high + slack), (level - high, slack)


SHAPE = (8, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    logits=hnp.arrays(float, SHAPE, elements=st.floats(-5, 0) | st.just(-np.inf)),
    loc=hnp.arrays(float, SHAPE, elements=st.floats(-1e3, 1e3)),
    decades=hnp.arrays(float, SHAPE, elements=st.floats(-6, 6)),
    digits=hnp.arrays(float, SHAPE[:1], elements=st.floats(-30, -0.001)),
    upper=st.booleans(),
)
def test_the_quantile_solves_its_equation(dtype, logits, loc, decades, digits, upper):
    with jax.enable_x64(True):
        mix = mdn.GaussianMixture.isotropic(
            loc.astype(dtype)[..., None], (10**decades).astype(dtype), logits=logits.astype(dtype)
        )
        q = (10**digits).astype(dtype)
        y, flat = quantile(mix, q, upper_tail=upper, with_flat=True)
        assert y.dtype == dtype
        assert np.all(np.isfinite(y))
        assert_solves(mix, q, y, upper)
        # And back: F of the quantile, or the quantile at which F is steep, is the same again.
        value = cdf(mix, y, upper_tail=upper)
        again, _ = quantile(mix, value, upper_tail=upper, with_flat=True)
        assert_solves(mix, value, again, upper)
        larger = np.minimum(q * dtype(1.01), dtype(1))
        beyond, flat_beyond = quantile(mix, larger, upper_tail=upper, with_flat=True)
        in_order = (beyond <= y) if upper else (y <= beyond)
        assert np.all(in_order[:, 0] | flat | flat_beyond)


def test_one_component_is_exact(x64):
    mix = line([3.0], [2.0])
    q = np.array([1e-300, 1e-30, 0.01, 0.4, 0.5, 0.6, 0.99, 1 - 1e-12])
    expected = 3 + 2 * scipy.special.ndtri(q)
    np.testing.assert_allclose(solve(mix, q)[0], expected, rtol=1e-14)
    np.testing.assert_allclose(solve(mix, q, True)[0], 6 - expected, rtol=1e-14, atol=1e-14)


def test_a_tail_of_1e_30_in_float32():
    mix = example()
    y = float(solve(mix, [1e-30], True)[0][0])
    # One unit in the last place of y changes the tail by about a part in 1e5.
    assert abs(float(exact_tail(mix, y, upper=True) / mpmath.mpf("1e-30")) - 1) < 3e-5
    small = line([0.0, 1e3], [1.0, 1.0], [1.0, 1e-20])
    y, _ = solve(small, [0.25e-20], True)
    np.testing.assert_allclose(y, [1e3 + 0.6744898], rtol=1e-6)


def test_weights_of_1e_20_and_scales_of_1e_6_to_1e6(x64):
    mix = line([0.0, 0.5, 2.0], [1e-6, 1.0, 1e6], [0.5, 0.5, 1e-20])
    levels = (1e-25, 1e-10, 0.1, 0.2499, 0.31, 0.75, 0.999)
    for upper in (False, True):
        for q, y in zip(levels, solve(mix, levels, upper)[0], strict=True):
            tails = [exact_tail(mix, y * (1 + s * 1e-14), upper) for s in (-1, 1)]
            low, high = min(tails), max(tails)
            assert low * (1 - 1e-13) <= q <= high * (1 + 1e-13)


@pytest.mark.parametrize("far", [50.0, 1e3, 1e6])
def test_flat_stretches(far):
    mix = line([-far, far], [1.0, 1.0], [0.3, 0.7])
    y, flat = solve(mix, [0.3, 0.1, 0.299, 0.301, 0.9])
    np.testing.assert_array_equal(flat, [True, False, False, False, False])
    # It ends where the tails of the components do, 4.5 to 6 of their scales away.
    assert abs(y[0]) <= 1
    assert np.all(np.abs(np.abs(y[1:]) - far) < 4)
    y, flat = solve(mix, [0.7], True)
    assert flat
    assert abs(y[0]) <= 1
    # Three stretches, one of them not in the middle; and a valley that is none.
    mix = line([0.0, 100.0, 160.0, 1000.0], [1.0, 2.0, 1.0, 10.0], [0.25, 0.25, 0.25, 0.25])
    y, flat = solve(mix, [0.25, 0.5, 0.75, 0.6])
    np.testing.assert_array_equal(flat, [True, True, True, False])
    np.testing.assert_allclose(y[:3], [47.5, 132.5, 557.5], atol=3)
    valley = line([-3.0, 3.0], [1.0, 1.0])
    y, flat = solve(valley, [0.5])
    assert not flat
    np.testing.assert_allclose(y, [0.0], atol=1e-4)


def test_flat_in_float64(x64):
    mix = line([-1e3, 1e3], [1.0, 1.0], [0.3, 0.7])
    y, flat = solve(mix, [0.3, 0.3 + 1e-12])
    np.testing.assert_array_equal(flat, [True, False])
    assert abs(y[0]) <= 1
    expected = 1e3 + float(scipy.special.ndtri(1e-12 / 0.7))
    np.testing.assert_allclose(y[1], expected, rtol=1e-6)


def test_the_ends_and_beyond():
    mix = example()
    q = jnp.array([0.0, 1.0, -0.1, 1.5, jnp.nan])
    expected = np.array([-np.inf, np.inf, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(solve(mix, q)[0], expected)
    np.testing.assert_array_equal(solve(mix, q, True)[0], -expected)
    gradients = jax.jit(
        jax.vmap(jax.grad(lambda mix, q: mdn.quantile(mix, q)[0], (0, 1)), (None, 0))
    )(mix, q[:2])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    for bad in (
        line([np.nan, 1.0], [1.0, 1.0]),
        line([0.0, 1.0], [1.0, np.nan]),
        line([0.0, 1.0], [1.0, 1.0], [np.nan, 1.0]),
    ):
        assert np.all(np.isnan(solve(bad, [0.4])[0]))
        assert np.all(np.isnan(cdf(bad, [0.3])))
        assert np.all(np.isnan(log_cdf(bad, [0.3])))
    assert np.isnan(cdf(mix, [np.nan]))
    np.testing.assert_array_equal(cdf(mix, np.array([[-np.inf], [np.inf]])), [0, 1])
    np.testing.assert_array_equal(cdf(mix, [[-3e38], [3e38]]), [0, 1])


def test_a_component_without_weight_does_not_count():
    with_it = line([-1.0, 1.0, -1e6], [0.1, 0.5, 1e6], [0.3, 0.7, 0.0])
    without = example()
    q = [1e-20, 0.2, 0.9]
    np.testing.assert_allclose(solve(with_it, q)[0], solve(without, q)[0], rtol=1e-6)
    y = np.array([[-1.3], [0.5]], np.float32)
    np.testing.assert_allclose(log_cdf(with_it, y), log_cdf(without, y), rtol=1e-5)


FUNCTIONS = {
    "cdf": lambda mix, y: mdn.cdf(mix, y[None]),
    "upper cdf": lambda mix, y: mdn.cdf(mix, y[None], upper_tail=True),
    "log_cdf": lambda mix, y: mdn.log_cdf(mix, y[None]),
    "upper log_cdf": lambda mix, y: mdn.log_cdf(mix, y[None], upper_tail=True),
    "quantile": lambda mix, q: mdn.quantile(mix, q)[0],
    "upper quantile": lambda mix, q: mdn.quantile(mix, q, upper_tail=True)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_by_finite_differences(name, x64):
    arguments = [0.02, 0.4, 0.5, 0.93] if "quantile" in name else [-4.0, 0.1, 0.2, 2.5]
    base = np.array([0.3, -0.4, 0.2, -1.0, 0.2, 1.5, -0.5, 0.1, -0.2])
    points = np.stack([np.append(base, a) for a in arguments])

    def of_vector(v):
        mix = mdn.GaussianMixture.isotropic(v[3:6, None], jnp.exp(v[6:9]), logits=v[:3])
        return FUNCTIONS[name](mix, v[9])

    gradient = jax.jit(jax.vmap(jax.grad(of_vector)))
    values = jax.jit(jax.vmap(of_vector))
    h = 1e-5
    steps = h * np.eye(points.shape[1])
    first = (
        np.stack([values(points + s) for s in steps], -1)
        - np.stack([values(points - s) for s in steps], -1)
    ) / (2 * h)
    got = gradient(points)
    size = np.abs(first).max(axis=1, keepdims=True)
    np.testing.assert_allclose(got / size, first / size, atol=2e-8)
    if "upper" in name:  # the mixture reflected
        return
    hessian = jax.jit(jax.vmap(jax.jacfwd(jax.grad(of_vector))))(points)
    second = (
        np.stack([gradient(points + s) for s in steps], -1)
        - np.stack([gradient(points - s) for s in steps], -1)
    ) / (2 * h)
    size = np.abs(second).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(hessian / size, second / size, atol=2e-7)


def test_derivatives_of_the_quantile_far_out_by_high_precision():
    """dy = (dq - dF) / p with 40 digits at q = 1e-30, float32."""
    mix, q = example(), np.float32(1e-30)
    y = float(solve(mix, [q])[0][0])
    got = jax.jit(jax.grad(lambda mix, q: mdn.quantile(mix, q)[0], (0, 1)))(mix, q)
    weights, loc = np.exp(np.asarray(mix.log_weights, float)), np.ravel(mix.loc).astype(float)
    scale = np.exp(np.asarray(mix.log_scale, float))
    z = [mpmath.mpf(v) for v in (y - loc) / scale]
    density = [w * mpmath.npdf(v) / s for w, v, s in zip(weights, z, scale, strict=True)]
    below = [w * mpmath.ncdf(v) for w, v in zip(weights, z, strict=True)]
    p, total = mpmath.fsum(density), mpmath.fsum(below)
    np.testing.assert_allclose(got[1], float(1 / p), rtol=1e-4)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-37)
    logits = [float((w * total - b) / p) for w, b in zip(weights, below, strict=True)]
    near(got[0].log_weights, logits)
    near(got[0].loc[:, 0], [float(d / p) for d in density])
    near(got[0].log_scale, [float(d / p * (y - m)) for d, m in zip(density, loc, strict=True)])


@pytest.mark.parametrize("upper", [False, True])
def test_the_derivative_of_log_cdf_saturates_and_is_never_nan(upper):
    """d log F / dy = p / F, which is -z / sigma of the widest far down; 0/0 in the naive form."""
    mix = line([-1.0, 1.0], [0.1, 0.5], [0.3, 0.7])
    y = np.array([0, 1, 1e2, 1e5, 1e10, 1e17, 1e30, 3e38], np.float32)
    y = np.concatenate([-y, y])
    first = jax.grad(lambda mix, y: mdn.log_cdf(mix, y[None], upper_tail=upper), (0, 1))
    got = jax.jit(jax.vmap(first, (None, 0)))(mix, y)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    assert np.all(np.isfinite(log_cdf(mix, y[:, None], upper_tail=upper)))
    sign = -1 if upper else 1
    for far in (1e5, 1e10, 1e17):
        at = np.flatnonzero(y == np.float32(-sign * far))[0]
        np.testing.assert_allclose(got[1][at], sign * far / 0.25, rtol=1e-3)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    logits=hnp.arrays(float, 3, elements=st.floats(-300, 300) | st.just(-np.inf)),
    loc=hnp.arrays(float, 3, elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    log_scale=hnp.arrays(float, 3, elements=st.floats(-87, 87)),
    y=st.floats(-(2.0**127), 2.0**127, width=32),
    q=st.floats(0, 1, width=32),
)
def test_everything_is_finite_for_finite_input(logits, loc, log_scale, y, q):
    logits, loc, log_scale = (np.asarray(x, np.float32) for x in (logits, loc, log_scale))
    for leaf in jax.tree.leaves(everything()(logits, loc, log_scale, np.float32(y), np.float32(q))):
        assert np.all(np.isfinite(leaf)), leaf


@functools.cache
def everything():
    def of(function):
        def of_parameters(logits, loc, log_scale, x):
            mix = mdn.GaussianMixture.isotropic(loc[:, None], 1.0 + 0 * loc, logits=logits)
            mix = mdn.GaussianMixture(mix.log_weights, mix.loc, log_scale, None, "isotropic")
            return function(mix, x)

        return jax.grad(of_parameters, (0, 1, 2, 3))

    def run(logits, loc, log_scale, y, q):
        of_y = [of(f)(logits, loc, log_scale, y) for n, f in FUNCTIONS.items() if "cdf" in n]
        of_q = [of(f)(logits, loc, log_scale, q) for n, f in FUNCTIONS.items() if "quan" in n]
        return of_y, of_q

    return jax.jit(run)


def test_batches_broadcast():
    loc = np.linspace(-2, 2, 8).reshape(2, 4)
    mix = line(loc, np.ones((2, 4)))
    q = np.array([0.1, 0.5, 0.9], np.float32)[:, None]
    y, flat = jax.eval_shape(lambda: mdn.quantile(mix, q, with_flat=True))
    assert y.shape == (3, 2, 1)
    assert flat.shape == (3, 2)
    assert jax.eval_shape(lambda: mdn.quantile(mix, 0.5)).shape == (2, 1)
    low, high = interval(mix, q)
    assert low.shape == high.shape == (3, 2, 1)
    for i, j in np.ndindex(3, 2):
        tail = (1 - q[i]) / 2
        np.testing.assert_allclose(low[i, j], solve(mix[j], tail)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(high[i, j], solve(mix[j], tail, True)[0], rtol=1e-5, atol=1e-6)
    assert cdf(mix, low).shape == log_cdf(mix, low).shape == (3, 2)
    # As much is left on either side.
    tails = np.broadcast_to((1 - q) / 2, (3, 2))
    np.testing.assert_allclose(cdf(mix, low), tails, rtol=1e-5)
    np.testing.assert_allclose(cdf(mix, high, upper_tail=True), tails, rtol=1e-5)
    # Moving all components moves the quantile as much.
    gradient = jax.vmap(jax.grad(lambda mix, q: mdn.quantile(mix, q)[0]), (0, None))
    gradient = jax.jit(gradient)(mix, 0.3)
    assert gradient.loc.shape == (2, 4, 1)
    np.testing.assert_allclose(gradient.loc.sum((1, 2)), 1, rtol=1e-6)


def test_what_does_not_fit_is_named():
    plane = mdn.GaussianMixture.isotropic(np.zeros((2, 2)), [1.0, 1.0])
    mix = line(np.zeros((4, 2)), np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"cdf: mix must be of dimension D = 1, got D = 2"):
        mdn.cdf(plane, [0.0, 0.0])
    with pytest.raises(ValueError, match="quantile: mix must be of dimension"):
        mdn.quantile(plane, 0.5)
    with pytest.raises(ValueError, match="interval: mix must be of dimension"):
        mdn.interval(plane, 0.5)
    with pytest.raises(ValueError, match=r"log_cdf: y must be \[..., 1\]"):
        mdn.log_cdf(mix, [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="quantile: the batch shapes of mix and q must broadcast"):
        mdn.quantile(mix, [0.1, 0.2, 0.3])
