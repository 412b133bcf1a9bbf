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

# Compiled once each, for batches of one shape, since compiling is what takes the time.
SHAPE = (8, 4)
isotropic = jax.jit(mdn.GaussianMixture.isotropic)
quantile = jax.jit(mdn.quantile, static_argnames=("upper_tail", "with_flat"))


@jax.jit
def tails(mix, y):
    """By name: both functions, in both tails."""
    return {name: FUNCTIONS[name](mix, y) for name in FUNCTIONS if "cdf" in name}


def gradients(*arguments):
    """Of all functions, by name, in logits, loc, log_scale and y or q; float32, by eights."""
    return _gradients(*(jnp.asarray(x, jnp.float32) for x in arguments))


@jax.jit
@jax.vmap
def _gradients(logits, loc, log_scale, y, q):
    def of(function, x):
        def of_parameters(logits, loc, log_scale, x):
            return function(
                mdn.GaussianMixture(logits, loc[:, None], log_scale, None, "isotropic"), x
            )

        return jax.grad(of_parameters, (0, 1, 2, 3))(logits, loc, log_scale, x)

    return {name: of(f, y if "cdf" in name else q) for name, f in FUNCTIONS.items()}


FUNCTIONS = {
    "cdf": lambda mix, y: mdn.cdf(mix, y[..., None]),
    "upper cdf": lambda mix, y: mdn.cdf(mix, y[..., None], upper_tail=True),
    "log_cdf": lambda mix, y: mdn.log_cdf(mix, y[..., None]),
    "upper log_cdf": lambda mix, y: mdn.log_cdf(mix, y[..., None], upper_tail=True),
    "quantile": lambda mix, q: mdn.quantile(mix, q)[..., 0],
    "upper quantile": lambda mix, q: mdn.quantile(mix, q, upper_tail=True)[..., 0],
}


def line(loc, scale, weights=None, kind="isotropic"):
    """A mixture with D = 1 from rows of numbers, made without compiling anything."""
    loc, scale = np.asarray(loc, float), np.asarray(scale, float)
    weights = np.ones(loc.shape) if weights is None else np.asarray(weights, float)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum(-1, keepdims=True))
    log_scale = np.log(scale) if kind == "isotropic" else np.log(scale)[..., None]
    upper = jnp.zeros((*loc.shape, 0)) if kind == "full" else None
    parts = log_weights, loc[..., None], log_scale
    return mdn.GaussianMixture(*map(jnp.asarray, parts), upper, kind)


def example(kind="isotropic"):
    return line([-1.0, 1.0], [0.1, 0.5], [0.3, 0.7], kind)


def padded(mix):
    """One mixture with components of no weight, four in all, eight times."""
    pad = ((0, SHAPE[1] - mix.num_components),)
    fields = (
        np.pad(mix.log_weights, pad, constant_values=-np.inf),
        np.pad(mix.loc, (*pad, (0, 0))),
        np.pad(mix.log_scale, pad),
    )
    batch = (np.broadcast_to(x, (SHAPE[0], *x.shape)) for x in fields)
    return mdn.GaussianMixture(*map(jnp.asarray, batch), None, "isotropic")


def filled(x, dtype):
    """Up to eight numbers, the last one repeated."""
    return jnp.asarray(np.pad(np.asarray(x, dtype), (0, SHAPE[0] - len(x)), mode="edge"))


def solve(mix, q, upper=False):
    """Quantiles of one mixture, and whether F is flat there."""
    found = quantile(padded(mix), filled(q, mix.loc.dtype), upper_tail=upper, with_flat=True)
    y, flat = (np.asarray(x)[: len(q)] for x in found)
    return y[:, 0], flat


def gradients_of(mix, y, q):
    """`gradients` of one mixture at up to eight y and q."""
    mix = padded(mix)
    numbers = (mix.log_weights, mix.loc[..., 0], mix.log_scale)
    return gradients(*numbers, filled(y, np.float32), filled(q, np.float32))


def tails_of(mix, y):
    """`tails` of one mixture at up to eight y."""
    found = tails(padded(mix), filled(y, mix.loc.dtype))
    return {name: np.asarray(x)[: len(y)] for name, x in found.items()}


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

    @jax.jit
    @jax.vmap
    def of(x):
        slope, by_rule = jax.grad(log_lower)(x), jax.grad(lambda x: standard_normal(x).hazard)(x)
        return standard_normal(x), slope, by_rule

    got, slope, by_rule = of(z)
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
    mixes = [example(kind) for kind in KINDS]
    for value in jax.jit(lambda mixes: [mdn.cdf(mix, [0.0]) for mix in mixes])(mixes):
        np.testing.assert_allclose(value, 0.3159250923637254, rtol=1e-14)
    expected = [-1.0967549830332484, 0.7170255890335686, 1.732616896342761]
    np.testing.assert_allclose(solve(example(), [0.05, 0.5, 0.95])[0], expected, rtol=1e-13)
    loc, scale = np.array([-2.0, 0.1, 0.4, 3.0]), np.array([0.3, 1.0, 0.05, 0.7])
    weights = np.array([0.2, 0.4, 0.1, 0.3])
    parts = [scipy.stats.Normal(mu=m, sigma=s) for m, s in zip(loc, scale, strict=True)]
    peer = scipy.stats.Mixture(parts, weights=weights)
    mix = line(loc, scale, weights)
    y = np.linspace(-6, 8, 8)
    got = tails_of(mix, y)
    q = np.array([0.001, 0.01, 0.2, 0.5, 0.61, 0.9, 0.99, 0.999])
    for upper, (tail, log_tail, inverse) in (
        ("", (peer.cdf, peer.logcdf, peer.icdf)),
        ("upper ", (peer.ccdf, peer.logccdf, peer.iccdf)),
    ):
        np.testing.assert_allclose(got[upper + "cdf"], tail(y), rtol=1e-12)
        np.testing.assert_allclose(got[upper + "log_cdf"], log_tail(y), rtol=1e-11, atol=1e-15)
        found, _ = solve(mix, q, bool(upper))
        np.testing.assert_allclose(found, inverse(q), rtol=1e-9, atol=1e-9)


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
        some, others = tails_of(mix, points[:6]), tails_of(mix, points[6:])
        got = {name: np.concatenate([some[name], others[name]]) for name in some}
        for upper in (False, True):
            prefix = "upper " if upper else ""
            small, logs = got[prefix + "cdf"], got[prefix + "log_cdf"]
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
                size = abs(exact_log)
                # Subnormal numbers may be taken for zero.
                allowed = min(relative, relative * size + 4 * eps * size)
                assert error <= max(allowed, np.finfo(dtype).tiny)
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
        # Level, weights and sum are rounded here too, in float64.
        slack = 8 * eps * np.minimum(q, 1 - q) + 8 * 2**-52 * level
        assert np.all(low - slack <= level), (low - level, slack)
        assert np.all(level <= high + slack), (level - high, slack)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    logits=hnp.arrays(float, SHAPE, elements=st.floats(-5, 0) | st.just(-np.inf)),
    loc=hnp.arrays(float, SHAPE, elements=st.floats(-1e3, 1e3)),
    decades=hnp.arrays(float, SHAPE, elements=st.floats(-6, 6)),
    digits=hnp.arrays(float, SHAPE[:1], elements=st.floats(-30, -0.001)),
    upper=st.booleans(),
)
def test_the_quantile_solves_its_equation(dtype, logits, loc, decades, digits, upper):
    with jax.enable_x64(True):
        mix = isotropic(
            loc.astype(dtype)[..., None], (10**decades).astype(dtype), logits=logits.astype(dtype)
        )
        q = (10**digits).astype(dtype)
        y, flat = quantile(mix, q, upper_tail=upper, with_flat=True)
        assert y.dtype == dtype
        assert np.all(np.isfinite(y))
        assert_solves(mix, q, y, upper)
        # And back: F of the quantile, or the quantile at which F is steep, is the same again.
        value = tails(mix, y[:, 0])["upper cdf" if upper else "cdf"]
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
    got = gradients_of(mix, [0.0], q[:2])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    for bad in (
        line([np.nan, 1.0], [1.0, 1.0]),
        line([0.0, 1.0], [1.0, np.nan]),
        line([0.0, 1.0], [1.0, 1.0], [np.nan, 1.0]),
    ):
        assert np.all(np.isnan(solve(bad, [0.4])[0]))
        assert all(np.all(np.isnan(x)) for x in tails_of(bad, [0.3]).values())
    got = tails_of(mix, [-np.inf, -3e38, 3e38, np.inf, np.nan])
    np.testing.assert_array_equal(got["cdf"], [0, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(got["upper cdf"], [1, 1, 0, 0, np.nan])


def test_a_component_without_weight_does_not_count():
    with_it = line([-1.0, 1.0, -1e6], [0.1, 0.5, 1e6], [0.3, 0.7, 0.0])
    without = example()
    q = [1e-20, 0.2, 0.9]
    np.testing.assert_allclose(solve(with_it, q)[0], solve(without, q)[0], rtol=1e-6)
    got, expected = (tails_of(x, [-1.3, 0.5])["log_cdf"] for x in (with_it, without))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_derivatives_by_finite_differences(x64):
    """Of the lower tail; second ones of the two functions that have rules of their own."""
    base = np.array([0.3, -0.4, 0.2, -1.0, 0.2, 1.5, -0.5, 0.1, -0.2])
    places = [(-4.0, 0.02), (0.1, 0.4), (0.2, 0.5), (2.5, 0.93)]  # y and q
    points = np.stack([np.append(base, place) for place in places])
    names = ("cdf", "log_cdf", "quantile")

    def value(v):
        mix = mdn.GaussianMixture.isotropic(v[3:6, None], jnp.exp(v[6:9]), logits=v[:3])
        return jnp.stack([FUNCTIONS[name](mix, v[9 + (name == "quantile")]) for name in names])

    def first(v):
        slope = jax.jacfwd(value)(v)
        return slope[1:], (value(v), slope)

    @jax.jit
    @jax.vmap
    def all_of(v):
        second, (values, slope) = jax.jacfwd(first, has_aux=True)(v)
        return values, slope, second

    h = 1e-5
    steps = h * np.eye(points.shape[1])
    around = np.concatenate([points[:, None] + steps, points[:, None] - steps, points[:, None]], 1)
    got = [np.asarray(x) for x in all_of(around.reshape(-1, points.shape[1]))]
    got = [x.reshape(*around.shape[:2], *x.shape[1:]) for x in got]
    values, slope, second = got
    n = len(steps)
    for exact, of in ((slope[:, -1], values), (second[:, -1], slope[:, :, 1:])):
        expected = np.moveaxis((of[:, :n] - of[:, n:-1]) / (2 * h), 1, -1)
        size = np.abs(expected).max(axis=tuple(range(2, expected.ndim)), keepdims=True)
        np.testing.assert_allclose(exact / size, expected / size, atol=2e-7)


def test_derivatives_of_the_quantile_far_out_by_high_precision():
    """dy = (dq - dF) / p with 40 digits at q = 1e-30, float32."""
    mix, q = example(), np.float32(1e-30)
    y = float(solve(mix, [q])[0][0])
    logits, of_loc, of_scale, of_q = (x[0] for x in gradients_of(mix, [0.0], [q])["quantile"])
    weights, loc = np.exp(np.asarray(mix.log_weights, float)), np.ravel(mix.loc).astype(float)
    scale = np.exp(np.asarray(mix.log_scale, float))
    z = [mpmath.mpf(v) for v in (y - loc) / scale]
    density = [w * mpmath.npdf(v) / s for w, v, s in zip(weights, z, scale, strict=True)]
    below = [w * mpmath.ncdf(v) for w, v in zip(weights, z, strict=True)]
    p, total = mpmath.fsum(density), mpmath.fsum(below)
    np.testing.assert_allclose(of_q, float(1 / p), rtol=1e-4)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-37)
    near(logits[:2], [float((w * total - b) / p) for w, b in zip(weights, below, strict=True)])
    near(of_loc[:2], [float(d / p) for d in density])
    near(of_scale[:2], [float(d / p * (y - m)) for d, m in zip(density, loc, strict=True)])


def test_the_derivative_of_log_cdf_saturates_and_is_never_nan():
    """d log F / dy = p / F, which is -z / sigma of the widest far down; 0/0 in the naive form."""
    far = np.array([1e5, 1e10, 1e17, 3e38], np.float32)
    got = gradients_of(example(), [*-far, *far], [0.5])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(got["log_cdf"][3][:3], far[:3] / 0.25, rtol=1e-3)
    np.testing.assert_allclose(got["upper log_cdf"][3][4:7], -far[:3] / 0.25, rtol=1e-3)


def test_derivatives_of_the_upper_tail_are_those_of_the_lower():
    """1 - F falls as F rises, and its q is 1 - q."""
    y, q = np.array([-1.2, -0.9, 0.4, 1.7]), np.array([0.1, 0.25, 0.75, 0.9])
    mix = line([-1.0, 1.0, 0.3], [0.1, 0.5, 2.0], [0.3, 0.5, 0.2])
    got, mirrored = gradients_of(mix, y, q), gradients_of(mix, y, 1 - q)
    upper = scipy.special.ndtr((np.ravel(mix.loc) - y[:, None]) / np.exp(mix.log_scale))
    upper = np.pad(upper @ np.exp(mix.log_weights), (0, 4), mode="edge")
    for i, sign in enumerate((1, 1, 1, -1)):
        expected = {
            "upper cdf": -np.asarray(got["cdf"][i]),
            "upper log_cdf": -(np.asarray(got["cdf"][i]).T / upper).T,
            "upper quantile": sign * np.asarray(mirrored["quantile"][i]),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(got[name][i], value, rtol=1e-3, atol=1e-5)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    logits=hnp.arrays(float, SHAPE, elements=st.floats(-300, 300) | st.just(-np.inf)),
    loc=hnp.arrays(float, SHAPE, elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    log_scale=hnp.arrays(float, SHAPE, elements=st.floats(-87, 87)),
    y=hnp.arrays(float, 8, elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    q=hnp.arrays(float, 8, elements=st.floats(0, 1, width=32)),
)
@hypothesis.example(  # halves of huge numbers, as XLA adds them up
    np.resize([0.0, 88, 0, 0], SHAPE),
    np.resize([1.7e38, 0, 0, 0], SHAPE),
    np.zeros(SHAPE),
    *np.full((2, 8), 0.5),
)
def test_everything_is_finite_for_finite_input(logits, loc, log_scale, y, q):
    for leaf in jax.tree.leaves(gradients(logits, loc, log_scale, y, q)):
        assert np.all(np.isfinite(leaf)), leaf


def test_batches_broadcast():
    loc = np.linspace(-2, 2, 8).reshape(2, 4)
    mix = line(loc, np.ones((2, 4)))
    q = np.array([0.1, 0.5, 0.9], np.float32)[:, None]
    y, flat = jax.eval_shape(lambda: mdn.quantile(mix, q, with_flat=True))
    assert y.shape == (3, 2, 1)
    assert flat.shape == (3, 2)
    assert jax.eval_shape(lambda: mdn.quantile(mix, 0.5)).shape == (2, 1)
    low, high = jax.jit(mdn.interval)(mix, q)
    assert low.shape == high.shape == (3, 2, 1)
    assert jax.eval_shape(mdn.cdf, mix, low).shape == (3, 2)
    assert jax.eval_shape(mdn.log_cdf, mix, low).shape == (3, 2)
    # As much is left on either side.
    tails = np.broadcast_to((1 - q) / 2, (3, 2))
    low, high = np.asarray(low, float), np.asarray(high, float)
    np.testing.assert_allclose(scipy.special.ndtr(low - loc).mean(-1), tails, rtol=1e-5)
    np.testing.assert_allclose(scipy.special.ndtr(loc - high).mean(-1), tails, rtol=1e-5)
    # Moving all components moves the quantile as much.
    _, of_loc, *_ = gradients_of(mix[0], [0.0], [0.3])["quantile"]
    np.testing.assert_allclose(of_loc.sum(-1), 1, rtol=1e-6)


def test_what_does_not_fit_is_named():
    plane = isotropic(np.zeros((2, 2)), np.ones(2))
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
