"""Marginals and conditionals: NumPy's block formulas in every order, mpmath, far tails, units."""

import dataclasses
import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from made_mixtures import covariances, make

import mdnjax as mdn
from mdnjax.mixtures import _reordering

# Compiled: an eager call would compile each operation by itself.
condition = jax.jit(mdn.condition, static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def both(mix, choices, values):
    """For each choice of coordinates: given their values, from the first on, and their marginal."""
    return [
        (mdn.condition(mix, dims, values[: len(dims)]), mdn.marginal(mix, dims)) for dims in choices
    ]


def some_choices(dim):
    """Every choice of up to `dim` - 1 coordinates in every order."""
    return tuple(dims for n in range(1, dim) for dims in itertools.permutations(range(dim), n))


def by_blocks(log_weights, loc, sigma, dims, values):
    """The textbook's conditional (PRML 2.96, 2.97) in NumPy, through covariances."""
    b, k = list(dims), range(len(loc))
    a = [i for i in range(loc.shape[-1]) if i not in b]
    gain = [np.linalg.solve(sigma[j][np.ix_(b, b)], sigma[j][np.ix_(b, a)]).T for j in k]
    delta = values - loc[:, b]
    mean = np.stack([loc[j, a] + gain[j] @ delta[j] for j in k])
    rest = np.stack([sigma[j][np.ix_(a, a)] - gain[j] @ sigma[j][np.ix_(b, a)] for j in k])
    square = [delta[j] @ np.linalg.solve(sigma[j][np.ix_(b, b)], delta[j]) for j in k]
    log_det = [np.linalg.slogdet(sigma[j][np.ix_(b, b)])[1] for j in k]
    joint = log_weights - 0.5 * (np.array(square) + np.array(log_det))
    return joint - np.logaddexp.reduce(joint), mean, rest


def check_against_blocks(mix, choices, values):
    log_weights, loc, sigma = np.asarray(mix.log_weights), np.asarray(mix.loc), covariances(mix)
    for dims, (given, kept) in zip(choices, both(mix, choices, values), strict=True):
        assert given.covariance_kind == kept.covariance_kind == mix.covariance_kind
        np.testing.assert_array_equal(kept.loc, loc[:, list(dims)])
        np.testing.assert_array_equal(kept.log_weights, log_weights)
        expected = sigma[:, list(dims)][:, :, list(dims)]
        np.testing.assert_allclose(covariances(kept), expected, rtol=1e-11, atol=1e-12)
        weights, mean, rest = by_blocks(log_weights, loc, sigma, dims, values[: len(dims)])
        np.testing.assert_allclose(given.log_weights, weights, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(given.loc, mean, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(covariances(given), rest, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("isotropic", ((1,), (2, 0))),
        ("diagonal", ((1,), (2, 0))),
        ("full", some_choices(3)),
    ],
)
def test_choices_in_every_order_against_blocks_of_the_covariance(kind, choices, x64):
    check_against_blocks(make(kind, dim=3), choices, np.array([0.3, -1.2]))


def test_a_loop_reorders_many_coordinates_as_the_blocks_say(x64):
    values = np.random.default_rng(0).normal(size=7)
    check_against_blocks(make("full", k=2, dim=14, seed=1), ((6, 5, 4, 3, 2, 1, 0),), values)


def test_free_coordinates_that_do_not_come_first(x64):
    """Worked by hand; sbi's MoG.condition slices a factor of the precision, which is wrong here."""
    full = jax.jit(mdn.GaussianMixture.full)
    mix = full(np.zeros((1, 2)), np.array([[[1.0, 0.8], [0.8, 1.0]]]))
    for given, _ in both(mix, ((0,), (1,)), np.array([2.0])):
        np.testing.assert_allclose(given.loc, [[1.6]], rtol=1e-14)
        np.testing.assert_allclose(np.exp(given.log_scale), [[0.6]], rtol=1e-14)


def test_joint_is_marginal_times_conditional(x64):
    """In batches that broadcast."""
    mixes = [make(kind, (3, 1), dim=3, seed=3) for kind in ("diagonal", "full")]
    y = np.random.default_rng(5).normal(size=(4, 3))

    @jax.jit
    def densities(mix):
        given = mdn.condition(mix, (-1, -3), y[:, [2, 0]])
        assert given.batch_shape == (3, 4)
        assert given.dim == 1
        alone = mdn.log_prob(mdn.marginal(mix, (2, 0)), y[:, [2, 0]])
        return alone + mdn.log_prob(given, y[:, [1]]), mdn.log_prob(mix, y)

    for mix in mixes:
        product, joint = densities(mix)
        np.testing.assert_allclose(product, joint, rtol=1e-10, atol=1e-10)


def test_a_permutation_is_a_marginal_of_everything(x64):
    orders = (0, 1, 2), (2, 1, 0), (1, 2, 0)
    for kind in ("isotropic", "diagonal", "full"):
        mix = make(kind, dim=3)
        marginals = jax.jit(lambda mix: [mdn.marginal(mix, order) for order in orders])(mix)
        jax.tree.map(np.testing.assert_array_equal, marginals[0], mix)
        for order, got in zip(orders, marginals, strict=True):
            np.testing.assert_array_equal(got.loc, mix.loc[..., list(order)])
            expected = covariances(mix)[:, list(order)][:, :, list(order)]
            np.testing.assert_allclose(covariances(got), expected, rtol=1e-12, atol=1e-13)


def test_what_counts_as_dims():
    mix, values = make("full", (2,), dim=3), jnp.zeros((2, 1))
    for dims in (1, -2, [1], (1,), np.int64(1), [np.int64(-2)]):
        got = jax.eval_shape(lambda mix, dims=dims: mdn.marginal(mix, dims), mix)
        assert got.loc.shape == (2, 3, 1)
        given = jax.eval_shape(lambda mix, v, dims=dims: mdn.condition(mix, dims, v), mix, values)
        assert given.loc.shape == (2, 3, 2)


def ill_conditioned(dim, decades, dtype, seed):
    """A component whose covariance has condition number 10^decades and no short axis aligned."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    root = 10 ** (np.linspace(0, decades, dim) / 2)[:, None] * rotation.T
    u = np.linalg.qr(root)[1]
    log_scale = -np.log(np.abs(np.diag(u))).astype(dtype)
    upper = (u / np.diag(u)[:, None])[np.triu_indices(dim, 1)].astype(dtype)
    loc = rng.normal(size=(1, dim)).astype(dtype)
    return mdn.GaussianMixture(
        jnp.zeros(1, dtype),
        jnp.asarray(loc),
        jnp.asarray(log_scale[None]),
        jnp.asarray(upper[None]),
        "full",
    )


def exactly(mix, dims, values):
    """Conditional mean, conditional and marginal standard deviations, with 60 digits."""
    dim = mix.dim
    with mpmath.workdps(60):
        u = mpmath.eye(dim)
        entries = iter(np.asarray(mix.upper[0], np.float64).tolist())
        for i, j in itertools.combinations(range(dim), 2):
            u[i, j] = next(entries)
        for i in range(dim):
            for j in range(dim):
                u[i, j] *= mpmath.exp(-float(mix.log_scale[0, i]))
        inverse = mpmath.inverse(u)
        sigma = inverse * inverse.T
        a = [i for i in range(dim) if i not in dims]

        def block(rows, columns):
            return mpmath.matrix([[sigma[i, j] for j in columns] for i in rows])

        pairs = zip(values, dims, strict=True)
        delta = mpmath.matrix([float(v) - float(mix.loc[0, i]) for v, i in pairs])
        gain = block(a, dims) * mpmath.inverse(block(dims, dims))
        step = gain * delta
        mean = [float(float(mix.loc[0, i]) + step[n]) for n, i in enumerate(a)]
        rest = block(a, a) - gain * block(dims, a)
        return (
            np.array(mean),
            np.array([float(mpmath.sqrt(rest[n, n])) for n in range(len(a))]),
            np.array([float(mpmath.sqrt(sigma[i, i])) for i in dims]),
        )


@pytest.mark.parametrize(
    ("dtype", "decades", "rtol"), [(np.float64, 10, 1e-10), (np.float32, 4, 3e-5)]
)
def test_ill_conditioned_covariances(dtype, decades, rtol):
    """Within 10 sqrt(condition) eps; through a covariance it would be condition times eps."""
    choices = (0,), (1, 3), (3, 0)
    with jax.enable_x64(dtype == np.float64):
        for seed, dims in enumerate(choices):
            mix = ill_conditioned(4, decades, dtype, seed)
            values = np.asarray(mix.loc)[0, list(dims)] + np.float32(0.25)
            mean, rest, alone = exactly(mix, dims, values)
            given, kept = both(mix, choices, np.resize(values, 2))[seed]
            assert given.loc.dtype == dtype
            scale = np.abs(mean).max()
            np.testing.assert_allclose(given.loc[0], mean, rtol=rtol, atol=rtol * scale)
            std = np.sqrt(np.diagonal(covariances(given)[0]))
            np.testing.assert_allclose(std, rest, rtol=rtol)
            std = np.sqrt(np.diagonal(covariances(kept)[0]))
            np.testing.assert_allclose(std, alone, rtol=rtol)


def test_units_of_each_coordinate_do_not_matter():
    """Coordinates in units from e^-40 to e^40, so that ratios of two pass float32's range."""
    plain, shift = make("full", dim=3), np.array([-40, 40, 20], np.float32)
    row, column = np.triu_indices(3, 1)
    # Beyond e^87 times its old value an entry of R would itself leave float32.
    mix = mdn.GaussianMixture(
        plain.log_weights,
        jnp.asarray(np.asarray(plain.loc) * np.exp(shift)),
        jnp.asarray(np.asarray(plain.log_scale) + shift),
        jnp.asarray(np.asarray(plain.upper) * np.exp(shift[row] - shift[column])),
        "full",
    )
    values = np.array([0.5, -1.0], np.float32)
    choices = (1, 0), (2, 0)

    @jax.jit
    def conditionals(mix, values):
        return [mdn.condition(mix, dims, v) for dims, v in zip(choices, values, strict=True)]

    scaled = np.stack([values * np.exp(shift[list(dims)]) for dims in choices])
    got, plain = conditionals(mix, scaled), conditionals(plain, np.stack([values] * 2))
    for dims, given, expected in zip(choices, got, plain, strict=True):
        free = [i for i in range(3) if i not in dims]
        # Log-scales of size 40 are rounded to 4e-6, and z with them.
        np.testing.assert_allclose(given.log_weights, expected.log_weights, atol=3e-4)
        np.testing.assert_allclose(
            np.asarray(given.loc) / np.exp(shift[free]), expected.loc, rtol=1e-4, atol=1e-4
        )
        shifted = np.asarray(given.log_scale) - shift[free]
        np.testing.assert_allclose(shifted, expected.log_scale, atol=3e-5)


@pytest.mark.parametrize("log_scale", [-80.0, 80.0])
def test_scales_at_the_edge_of_the_range(log_scale):
    parts = np.zeros(1), np.zeros((1, 2)), np.full((1, 2), log_scale), np.full((1, 1), 0.5)
    mix = mdn.GaussianMixture(*(x.astype(np.float32) for x in parts), "full")
    value = 2 * np.exp(np.float32(log_scale))
    ((given, kept),) = both(mix, ((0,),), value[None])
    # Sigma = e^2s [[5/4, -1/2], [-1/2, 1]].
    np.testing.assert_allclose(kept.log_scale, [[log_scale + 0.5 * np.log(1.25)]], rtol=1e-6)
    np.testing.assert_allclose(given.loc / value, [[-0.4]], rtol=1e-5)
    np.testing.assert_allclose(given.log_scale, [[log_scale - 0.5 * np.log(1.25)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_far_in_the_tails(dtype):
    """Densities of e^-5000 and less underflow; the weights are still those of mpmath."""
    with jax.enable_x64(dtype == np.float64):
        loc = np.array([[0.0, 1.0], [1.0, 2.0], [-2.0, 3.0]], dtype)
        scale = np.array([[1.0, 0.5], [1.0, 1.0], [1.0, 2.0]], dtype)
        mix = mdn.GaussianMixture.diagonal(loc, scale, weights=np.array([0.2, 0.3, 0.5], dtype))
        for value in (100.0, 1e4, -1e4):
            given = condition(mix, 0, np.array([value], dtype))
            with mpmath.workdps(40):
                joint = [
                    mpmath.log(w) - mpmath.mpf(value - m) ** 2 / 2
                    for w, m in zip((0.2, 0.3, 0.5), (0.0, 1.0, -2.0), strict=True)
                ]
                total = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in joint))
                expected = [float(x - total) for x in joint]
            # z^2 / 2 is rounded before it is subtracted.
            atol = np.finfo(dtype).eps * value**2
            np.testing.assert_allclose(given.log_weights, expected, rtol=1e-6, atol=atol)
            np.testing.assert_allclose(np.logaddexp.reduce(given.log_weights), 0, atol=1e-6)


def test_a_weight_of_zero_stays_zero_and_has_finite_derivatives():
    mix = make("full", k=3, dim=3)
    log_weights = np.array([np.log(0.25), -np.inf, np.log(0.75)], np.float32)

    def outputs(log_weights, loc, values):
        given = mdn.condition(
            mdn.GaussianMixture(log_weights, loc, mix.log_scale, mix.upper, "full"), (2, 0), values
        )
        return given.weights[0] + mdn.mean(given)[0], given

    slopes = jax.jit(jax.grad(outputs, argnums=(0, 1, 2), has_aux=True))
    for values in np.float32([[0.3, 1.0], [1e6, -1e6]]):
        gradient, given = slopes(log_weights, mix.loc, values)
        assert given.log_weights[1] == -np.inf
        assert all(np.isfinite(g).all() for g in gradient)
        np.testing.assert_array_equal(gradient[1][1], 0)
        assert np.isfinite(np.asarray(given.log_weights)[[0, 2]]).all()


def check_slopes(of, *points, rtol=1e-5):
    """First and second derivatives of a random combination of all outputs, by differences."""
    flat, unravel = ravel_pytree(points[0])
    rng = np.random.default_rng(len(flat))
    direction = rng.normal(size=flat.shape)
    combination = rng.normal(size=sum(x.size for x in jax.eval_shape(of, points[0])))

    @jax.jit
    @jax.vmap
    def at(flat):
        def value(flat):
            return combination @ jnp.concatenate([jnp.ravel(x) for x in of(unravel(flat))])

        gradient, product = jax.jvp(jax.value_and_grad(value), (flat,), (direction,))
        return gradient[0], gradient[1] @ direction, product[0], product[1] @ direction

    h = 2e-5
    flat = np.stack([ravel_pytree(point)[0] for point in points])
    around = np.concatenate([flat, flat - h * direction, flat + h * direction])
    here, before, after = zip(*(np.split(np.asarray(x), 3) for x in at(around)), strict=True)
    first = (after[0] - before[0]) / (2 * h)
    np.testing.assert_allclose(here[1], first, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(here[2], first, rtol=rtol, atol=rtol)
    second = (after[1] - before[1]) / (2 * h)
    np.testing.assert_allclose(here[3], second, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_derivatives_against_finite_differences(kind, x64):
    """Where coordinates are independent, too: there a logarithm of |R| would have none."""

    def of(point):
        mix, values = point
        return jax.tree.leaves(mdn.condition(mix, 1, values))

    mix = make(kind, k=2, dim=3, seed=4)
    points = [(mix, np.array([0.4]))]
    if kind == "full":
        independent = dataclasses.replace(mix, upper=np.zeros_like(mix.upper))
        points.append((independent, np.array([0.5])))
    check_slopes(of, *points)


def test_derivatives_through_the_loop(x64, monkeypatch):
    """Of few reversals too, so that it compiles soon."""
    monkeypatch.setattr(_reordering, "_MOST_UNROLLED", 2)
    mix, dim = make("full", k=1, dim=4), 4
    places = np.triu_indices(dim, 1)

    def of(point):
        upper, log_scale = point
        return _reordering.reorder(jnp.eye(dim).at[places].set(upper), log_scale, range(dim)[::-1])

    check_slopes(of, (0.3 * np.asarray(mix.upper[0]), mix.log_scale[0]), rtol=1e-4)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@hypothesis.given(st.lists(finite, min_size=20, max_size=20), st.sampled_from([(0,), (2, 1)]))
@hypothesis.example(
    [0.0] * 3 + [3.4028234663852886e38] + [0.0] * 12 + [3e16, 0.0, -3e14, 0.0], (2, 1)
)
@hypothesis.example(
    [0.0] * 8 + [2e9] + [0.0] * 3 + [-4e16, 3.4028234663852886e38, 2.5e14] + [0.0] * 5, (0,)
)
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
def test_every_finite_mixture_has_finite_marginals_and_conditionals(numbers, dims):
    x = np.asarray(numbers, np.float32)
    parts = x[:6].reshape(2, 3), x[6:12].reshape(2, 3), x[12:18].reshape(2, 3)
    log_weights = np.log(np.array([0.5, 0.5], np.float32))
    mix = mdn.GaussianMixture(log_weights, *parts, "full")
    for leaf in jax.tree.leaves(both(mix, (dims,), x[18:20])):
        assert np.isfinite(leaf).all()


def test_vmap_and_batches_agree_and_nan_stays_in_its_mixture():
    mix, values = make("full", (5,), dim=3), np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    values[3] = np.nan
    mapped = jax.jit(jax.vmap(lambda mix, v: mdn.condition(mix, 1, v)))(mix, values)
    whole = condition(mix, 1, values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mapped, whole)
    lost = np.arange(5) == 3
    for x in (whole.log_weights, whole.loc):
        x = np.asarray(x).reshape(5, -1)
        np.testing.assert_array_equal(np.isnan(x), np.broadcast_to(lost[:, None], x.shape))


def test_errors_name_function_argument_got_and_expected():
    mix = make("full", dim=3)
    for dims in ((), (0, 0), (0, -3), 3, (-4,), (1, 7)):
        with pytest.raises(ValueError, match="marginal: dims must be one or more different"):
            mdn.marginal(mix, dims)
        with pytest.raises(ValueError, match="condition: dims must be one or more different"):
            mdn.condition(mix, dims, [0.0])
    with pytest.raises(ValueError, match="condition: dims must be fewer than all 3 coordinates"):
        mdn.condition(mix, (0, 1, 2), [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"condition: values must be \[..., 2\]"):
        mdn.condition(mix, (0, 1), [0.0])
    with pytest.raises(ValueError, match="batch shapes of mix and values must broadcast"):
        mdn.condition(make("full", (2,), dim=3), 0, np.zeros((3, 1)))
