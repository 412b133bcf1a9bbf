"""Values of the density against SciPy, mpmath, quadrature and exact numbers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
nll = jax.jit(mdn.nll, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def at_points(kind, loc, width, y, weights=None):
    """Of the mixture that a constructor makes: log p(y) and its derivative in y."""
    mix = getattr(mdn.GaussianMixture, kind)(loc, width, weights=weights)
    value, pull_back = jax.vjp(lambda y: mdn.log_prob(mix, y), y)
    return value, pull_back(jnp.ones_like(value))[0]


# Few components and many, and dimensions by themselves, by blocks and by products of matrices.
CASES = [
    *(("isotropic", 32, 9), ("diagonal", 3, 5), ("diagonal", 2, 17)),
    *(("full", 1, 1), ("full", 3, 3), ("full", 2, 4), ("full", 2, 17)),
]


def random_case(kind, k, dim, batch=3, seed=0):
    """A head, moderate raw outputs and targets near the components."""
    head = mdn.GaussianHead(num_components=k, dim=dim, covariance=kind)
    rng = np.random.default_rng([seed, k, dim, len(kind)])
    rows = rng.normal(size=(batch, head.num_outputs // k, k))
    scales = 1 if kind == "isotropic" else dim
    rows[:, 1 : 1 + scales] *= 0.5
    rows[:, 1 + scales + dim :] /= np.sqrt(dim)
    return head, rows.reshape(batch, -1), rng.normal(size=(batch, dim))


def decode(head, raw):
    """Raw outputs as documented, in plain NumPy: weights, centres, dense precision factors."""
    k, dim = head.num_components, head.dim
    rows = np.asarray(raw, np.float64).reshape(*np.shape(raw)[:-1], -1, k).swapaxes(-1, -2)
    scales = 1 if head.covariance == "isotropic" else dim
    logits, s, loc, upper = np.split(rows, [1, 1 + scales, 1 + scales + dim], axis=-1)
    factor = np.zeros((*loc.shape, dim))
    factor[...] = np.eye(dim)
    entries = iter(range(upper.shape[-1]))
    for i, j in itertools.combinations(range(dim), 2):
        if head.covariance == "full":
            factor[..., i, j] = upper[..., next(entries)]
    factor = np.exp(-np.broadcast_to(s, loc.shape))[..., :, None] * factor
    return scipy.special.softmax(logits[..., 0], axis=-1), loc, factor


def scipy_log_joint(head, raw, y):
    weights, loc, factor = decode(head, raw)
    joint = np.empty(weights.shape)
    for b, k in np.ndindex(*weights.shape):
        covariance = scipy.stats.Covariance.from_precision(factor[b, k].T @ factor[b, k])
        normal = scipy.stats.multivariate_normal(loc[b, k], covariance)
        joint[b, k] = np.log(weights[b, k]) + normal.logpdf(y[b])
    return joint


def mp_log_prob(head, raw, y):
    """One row at 60 digits, from the exact values of its floating-point inputs."""
    k, dim = head.num_components, head.dim
    with mpmath.workdps(60):
        rows = [[mpmath.mpf(float(x)) for x in row] for row in np.reshape(raw, (-1, k))]
        scales = 1 if head.covariance == "isotropic" else dim
        total = normaliser = mpmath.mpf(0)
        for c in range(k):
            s = [rows[1 + (i if scales > 1 else 0)][c] for i in range(dim)]
            delta = [mpmath.mpf(float(y[i])) - rows[1 + scales + i][c] for i in range(dim)]
            z = list(delta)
            if head.covariance == "full":
                for n, (i, j) in enumerate(itertools.combinations(range(dim), 2)):
                    z[i] += rows[1 + scales + dim + n][c] * delta[j]
            square = mpmath.fsum((zi * mpmath.exp(-si)) ** 2 for zi, si in zip(z, s, strict=True))
            log_normal = -square / 2 - mpmath.fsum(s) - dim * mpmath.log(2 * mpmath.pi) / 2
            total += mpmath.exp(rows[0][c] + log_normal)
            normaliser += mpmath.exp(rows[0][c])
        return float(mpmath.log(total) - mpmath.log(normaliser))


@functools.partial(jax.jit, static_argnums=0)
def everything(head, raw, y):
    """log p(y) of the head and of its mixture, and the responsibilities."""
    mix = head.mixture(raw)
    return -mdn.nll(head, raw, y), mdn.log_prob(mix, y), mdn.responsibilities(mix, y)


@pytest.mark.parametrize(("kind", "k", "dim"), CASES)
def test_values_are_scipys(kind, k, dim, x64):
    head, raw, y = random_case(kind, k, dim)
    joint = scipy_log_joint(head, raw, y)
    expected = scipy.special.logsumexp(joint, axis=-1)
    of_head, of_mixture, gamma = everything(head, raw, y)
    assert of_head.dtype == of_mixture.dtype == gamma.dtype == jnp.float64
    np.testing.assert_allclose(of_head, expected, rtol=1e-11)
    np.testing.assert_allclose(of_mixture, expected, rtol=1e-11)
    np.testing.assert_allclose(gamma, scipy.special.softmax(joint, axis=-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "k", "dim"), [("isotropic", 3, 2), ("full", 3, 3)])
def test_values_in_single_precision_are_scipys(kind, k, dim, x64):
    """Each of the D terms carries a few roundings of its own size."""
    head, raw, y = random_case(kind, k, dim)
    raw, y = raw.astype(np.float32), y.astype(np.float32)
    expected = scipy.special.logsumexp(scipy_log_joint(head, raw, y), axis=-1)
    of_head, of_mixture, gamma = everything(head, raw, y)
    assert of_head.dtype == of_mixture.dtype == gamma.dtype == jnp.float32
    np.testing.assert_allclose(of_head, expected, rtol=1e-6, atol=1e-6 * dim)
    np.testing.assert_allclose(of_mixture, expected, rtol=1e-6, atol=1e-6 * dim)
    np.testing.assert_allclose(np.sum(gamma, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize(("kind", "dim"), [("isotropic", 1), ("diagonal", 2), ("full", 3)])
def test_values_are_mpmaths_far_into_the_tails(kind, dim, x64):
    head = mdn.GaussianHead(num_components=3, dim=dim, covariance=kind)
    rng = np.random.default_rng(dim)
    reach = 10.0 ** np.arange(-3, 8)
    raw = rng.normal(size=(len(reach), head.num_outputs)) * 3
    y = rng.normal(size=(len(reach), dim)) * reach[:, None]
    for dtype, rtol in ((np.float64, 1e-13), (np.float32, 2e-6)):
        raw_, y_ = raw.astype(dtype), y.astype(dtype)
        expected = [mp_log_prob(head, *row) for row in zip(raw_, y_, strict=True)]
        got = -nll(head, raw_, y_)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


def test_the_scipy_mixture_of_two(x64):
    loc, scale, weights = np.array([[-1.0], [1.0]]), np.array([0.1, 0.5]), np.array([0.3, 0.7])
    y = np.linspace(-3, 3, 1001)
    log_density, _ = at_points("isotropic", loc, scale, y[:, None], weights)
    assert y[500] == 0
    assert float(log_density[500]) == pytest.approx(-2.5824662965834597, rel=1e-14)
    parts = [scipy.stats.Normal(mu=m, sigma=s) for m, s in ((-1, 0.1), (1, 0.5))]
    oracle = scipy.stats.Mixture(parts, weights=[0.3, 0.7])
    np.testing.assert_allclose(log_density, oracle.logpdf(y), rtol=1e-12)


def test_ray_and_lindsays_two_components_with_three_modes(x64):
    loc, scale = np.array([[0.0, 0.0], [1.0, 1.0]]), np.sqrt([[1, 0.05], [0.05, 1]])
    points = np.array(
        [
            [0.000556582942, 0.000001392230],
            [20 / 21, 1 / 21],
            [0.999998607770, 0.999443417058],
            [0.481553698774, 0.002316720518],
            [1 - 0.002316720518, 1 - 0.481553698774],
        ]
    )
    log_density = [-1.033130420847, -0.816201405823, -1.033130420847]
    log_density += [-1.103762922654] * 2
    for kind, width in (("diagonal", scale), ("full", np.eye(2) * scale[:, None, :] ** 2)):
        values, slopes = at_points(kind, loc, width, points)
        np.testing.assert_allclose(values, log_density, atol=1e-11)
        np.testing.assert_allclose(slopes, 0, atol=1e-9)


def test_three_spheres_with_four_modes(x64):
    angle = np.pi / 2 + 2 * np.pi * np.arange(3) / 3
    vertices = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = np.concatenate([np.zeros((1, 2)), 0.647641954 * vertices])
    log_density = [-2.145375105305] + [-2.131474889656] * 3
    values, slopes = at_points("isotropic", vertices, np.full(3, 0.72), points)
    np.testing.assert_allclose(values, log_density, atol=1e-11)
    np.testing.assert_allclose(slopes, 0, atol=1e-8)


def test_a_weight_of_zero_is_no_component_and_no_nan(x64):
    """The example of numpyro's pull request 2224."""

    def density(weights, scale):
        loc = jnp.array([[0.0], [1.0], [2.0]])
        mix = mdn.GaussianMixture.isotropic(loc, scale, weights=weights)
        return mdn.log_prob(mix, jnp.array([0.3]))

    weights, scale = np.array([0.0, 0.5, 0.5]), np.ones(3)
    value, slopes = jax.jit(jax.value_and_grad(density, argnums=(0, 1)))(weights, scale)
    expected = np.log(scipy.stats.norm.pdf(0.3, [1, 2]).mean())
    assert float(value) == pytest.approx(expected, rel=1e-14)
    assert all(np.isfinite(s).all() for s in slopes)
    assert float(slopes[1][0]) == 0.0
    # Scaling all the weights changes nothing.
    assert float(np.asarray(slopes[0]) @ weights) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_one_dimension_integrates_to_one_at_every_scale(kind, x64):
    """A regularisation of the precision but not of its determinant would show here (sbi)."""
    loc, width = np.array([[0.0], [3.0]]), np.array([1.0, 0.5])
    width = {"isotropic": width, "diagonal": width[:, None], "full": width[:, None, None] ** 2}[
        kind
    ]
    for scale in (1e-3, 10.0, 100.0, 1e4):
        by = scale**2 if kind == "full" else scale
        # The trapezoid's error on Gaussians is far below rounding at this spacing.
        y = scale * np.linspace(-12, 15, 1001)
        values, _ = at_points(kind, scale * loc, by * width, y[:, None], np.array([0.2, 0.8]))
        assert scipy.integrate.trapezoid(np.exp(values), y) == pytest.approx(1, abs=1e-12), scale


@pytest.mark.parametrize("kind", KINDS)
def test_two_dimensions_integrate_to_one(kind, x64):
    head, raw, _ = random_case(kind, 3, 2, batch=1, seed=5)
    _, loc, factor = decode(head, raw[0])
    widest = np.sqrt(np.linalg.eigvalsh(np.linalg.inv(factor.swapaxes(1, 2) @ factor)).max())
    half = np.max(np.abs(loc)) + 12 * widest
    side = np.linspace(-half, half, 1200)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    total = np.exp(-np.asarray(nll(head, raw[0], grid))).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=1e-9)


def test_components_have_no_order():
    head, raw, y = random_case("full", 3, 2)
    permuted = raw.reshape(3, -1, 3)[..., [2, 0, 1]].reshape(raw.shape)
    before, _, gamma = everything(head, raw, y)
    after, _, swapped = everything(head, permuted, y)
    np.testing.assert_allclose(after, before, rtol=2e-6)
    np.testing.assert_allclose(np.asarray(gamma)[..., [2, 0, 1]], swapped, rtol=1e-5, atol=1e-7)


def test_logits_are_unnormalised():
    head, raw, y = random_case("full", 3, 2)
    shifted = raw.copy()
    shifted[:, :3] += 7.0
    np.testing.assert_allclose(
        everything(head, shifted, y)[0], everything(head, raw, y)[0], rtol=2e-6
    )


def test_full_contains_diagonal_contains_isotropic(x64):
    head, raw, y = random_case("isotropic", 3, 3)

    @jax.jit
    def each(raw, y):
        mix, kinds = head.mixture(raw), mdn.GaussianMixture
        scale = jnp.exp(mix.log_scale)
        wide = jnp.broadcast_to(scale[..., None], mix.loc.shape)
        same = (
            kinds.isotropic(mix.loc, scale, weights=mix.weights),
            kinds.diagonal(mix.loc, wide, weights=mix.weights),
            kinds.full(mix.loc, mix.component_covariances, weights=mix.weights),
        )
        return -mdn.nll(head, raw, y), [mdn.log_prob(one, y) for one in same]

    expected, same = each(raw, y)
    for kind, got in zip(KINDS, same, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13, err_msg=kind)


def test_batches_broadcast(x64):
    head, raw, y = random_case("full", 2, 2, batch=4)
    expected = -scipy.special.logsumexp(
        scipy_log_joint(head, np.tile(raw, (4, 1)), np.repeat(y, 4, axis=0)), axis=-1
    ).reshape(4, 4)

    @jax.jit
    def each(raw, y):
        mix, column = head.mixture(raw), y[:, None, :]
        tables = (
            mdn.nll(head, raw, column),
            mdn.nll(head, raw[None], column),
            -mdn.log_prob(mix, column),
            -mdn.log_prob(mix[None], column),
        )
        parts = mdn.nll(head, raw[0], y), mdn.nll(head, raw, y[0]), mdn.nll(head, raw[0], y[0])
        repeated = jnp.broadcast_to(raw[0], raw.shape)
        gradients = mdn.nll_gradient(head, raw[0], y), mdn.nll_gradient(head, repeated, y)
        return tables, parts, gradients, mdn.responsibilities(mix, column)

    tables, (one_raw, one_y, one), (gradient, of_repeated), gamma = each(raw, y)
    for table in tables:
        assert table.shape == (4, 4)
        np.testing.assert_allclose(table, expected, rtol=1e-11)
    np.testing.assert_allclose(one_raw, expected[:, 0], rtol=1e-11)
    np.testing.assert_allclose(one_y, expected[0], rtol=1e-11)
    assert one.shape == ()
    np.testing.assert_allclose(one, expected[0, 0], rtol=1e-11)
    np.testing.assert_allclose(gradient, of_repeated, rtol=1e-12)
    assert gamma.shape == (4, 4, 2)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_an_empty_batch_is_a_batch(kind):
    head = mdn.GaussianHead(num_components=2, dim=2, covariance=kind)
    raw, y = np.zeros((0, head.num_outputs), np.float32), np.zeros((0, 2), np.float32)

    @jax.jit
    def each(raw, y):
        log_prob = mdn.log_prob(head.mixture(raw), y)
        return mdn.nll(head, raw, y), mdn.nll_gradient(head, raw, y), log_prob

    nats, gradient, values = each(raw, y)
    assert nats.shape == values.shape == (0,)
    assert gradient.shape == raw.shape


def test_narrow_raw_outputs_are_widened():
    head, raw, y = random_case("isotropic", 2, 2)
    narrow = raw.astype(jnp.bfloat16)

    @jax.jit
    def each(raw):
        widened = mdn.nll(head, raw, y), mdn.nll_gradient(head, raw, y), head.mixture(raw).loc
        return widened, jax.grad(lambda raw: mdn.nll(head, raw, y).sum())(raw)

    widened, gradient = each(narrow)
    expected, _ = each(narrow.astype(np.float32))
    for got, wide in zip(widened, expected, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, wide)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient, np.asarray(expected[1]).astype(jnp.bfloat16))


def test_y_takes_the_dtype_of_the_density(x64):
    head = mdn.GaussianHead(num_components=2, dim=1)
    raw, dtypes = (
        np.arange(6, dtype=np.float32) / 6,
        (np.float32, np.int64, np.float64, jnp.bfloat16),
    )
    each = jax.jit(lambda raw, targets: [mdn.nll(head, raw, y) for y in targets])
    values = each(raw, [np.array([2], dtype) for dtype in dtypes])
    assert {value.dtype for value in values} == {np.dtype(np.float32)}
    assert len(set(map(float, values))) == 1


def test_errors_name_function_argument_got_and_expected(without_jaxtyping):
    head = mdn.GaussianHead(num_components=2, dim=1)
    raw, mix = np.zeros((4, 6)), jax.eval_shape(head.mixture, np.zeros((4, 6)))

    def refused(function, *args, match):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(function, *args)  # as when it is called, but compiles nothing

    nll, nll_gradient = functools.partial(mdn.nll, head), functools.partial(mdn.nll_gradient, head)
    missing = r"y must be \[\.\.\., 1\].*got shape \(4,\)"
    refused(nll, raw[0], np.zeros(4), match=rf"GaussianHead\.nll: {missing}")
    refused(mdn.log_prob, mix, np.zeros(4), match=rf"log_prob: {missing}")
    refused(mdn.responsibilities, mix, np.zeros(4), match=rf"responsibilities: {missing}")
    refused(mdn.log_prob, mix, 0.0, match=r"log_prob: y must be .* got shape \(\)")
    batches = r"batch shapes of raw and y .*\(4,\) and \(3,\)"
    refused(nll, raw, np.zeros((3, 1)), match=batches)
    batches = r"log_prob: the batch shapes of mix and y .*\(4,\)"
    refused(mdn.log_prob, mix, np.zeros((3, 1)), match=batches)
    few = r"nll: raw must be \[\.\.\., 6\].*got shape \(5,\)"
    refused(nll, np.zeros(5), np.zeros((4, 1)), match=few)
    many = r"raw must be \[\.\.\., 6\].*got shape \(4, 7\)"
    refused(nll_gradient, np.zeros((4, 7)), np.zeros((4, 1)), match=many)
    wide = r"y must be \[\.\.\., 1\].*got shape \(4, 2\)"
    refused(nll_gradient, raw, np.zeros((4, 2)), match=wide)
