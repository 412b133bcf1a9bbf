"""Entropy and divergence: quadrature, exact Gaussians, NumPy's loops; bounds hold, bars are honest.

Keys are fixed. Every family of statistical tests together has a false-alarm rate of 1e-4.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import strategies as st
from made_mixtures import make
from scipy.special import logsumexp

import mdnjax as mdn
from mdnjax.mixtures import kl_divergence_approximation

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
entropy = jax.jit(mdn.entropy, static_argnames="num_samples")
entropy_bounds = jax.jit(mdn.entropy_bounds)
kl_divergence = jax.jit(mdn.kl_divergence, static_argnames="num_samples")
kl_divergence_bounds = jax.jit(mdn.kl_divergence_bounds)
approximation = jax.jit(kl_divergence_approximation)
log_prob = jax.jit(mdn.log_prob)
FAR = scipy.stats.norm.isf(1e-4 / 20 / 2)


def numbers(mix):
    """Weights, means and covariances in float64."""
    parts = mix.weights, mix.loc, jax.jit(lambda mix: mix.component_covariances)(mix)
    return [np.asarray(x, np.float64) for x in parts]


def log_density(parts, y):
    weights, loc, sigma = parts
    terms = [
        scipy.stats.multivariate_normal(m, c).logpdf(y) for m, c in zip(loc, sigma, strict=True)
    ]
    return logsumexp(np.log(weights)[:, None] + np.stack(terms), axis=0)


def by_quadrature(p, q, n=1201):
    """H[p] and KL(p || q) on a grid that reaches 9 standard deviations out."""
    p, q = numbers(p), numbers(q)
    dim = p[1].shape[-1]
    reach = 9 * np.sqrt(np.diagonal(p[2], axis1=1, axis2=2))
    low, high = (p[1] - reach).min(0), (p[1] + reach).max(0)
    axes = [np.linspace(a, b, n if dim == 2 else 40_001) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
    cell = np.prod([a[1] - a[0] for a in axes])
    log_p, log_q = log_density(p, grid), log_density(q, grid)
    mass = np.exp(log_p) * cell
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-9)
    return -(mass * log_p).sum(), (mass * (log_p - log_q)).sum()


def test_scipys_mixture():
    mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
    exact = 0.851960190996693
    value, error = entropy(jax.random.key(0), mix, num_samples=20_000)
    assert abs(value - exact) <= FAR * error
    assert 0 < error < 1e-3
    lower, upper = entropy_bounds(mix)
    assert 0.83 < lower <= exact <= upper < 0.86


@pytest.mark.parametrize(("kind", "dim"), [("isotropic", 1), ("diagonal", 2), ("full", 2)])
def test_against_quadrature(kind, dim, x64):
    """p of every kind against a full q of another number of components."""
    p, q = make(kind, dim=dim, seed=1), make("full", k=2, dim=dim, seed=2)
    exact_entropy, exact_divergence = by_quadrature(p, q)
    key = jax.random.key(dim)
    value, error = entropy(key, p, num_samples=4000)
    assert abs(value - exact_entropy) <= FAR * error
    value, error = kl_divergence(key, p, q, num_samples=4000)
    assert abs(value - exact_divergence) <= FAR * error
    lower, upper = entropy_bounds(p)
    assert lower <= exact_entropy <= upper
    lower, upper = kl_divergence_bounds(p, q)
    assert lower <= exact_divergence <= upper


def gaussian_divergence(m0, c0, m1, c1):
    inverse, delta = np.linalg.inv(c1), m1 - m0
    log_dets = np.linalg.slogdet(c1)[1] - np.linalg.slogdet(c0)[1]
    return 0.5 * (np.trace(inverse @ c0) + delta @ inverse @ delta - len(m0) + log_dets)


def by_loops(p, q):
    """Every bound and the approximation, straight from the papers, through covariances."""
    (pi, m, c), (omega, n, d) = numbers(p), numbers(q)
    i_range, j_range, dim = range(len(pi)), range(len(omega)), m.shape[-1]
    normal = scipy.stats.multivariate_normal
    own_kl = np.array(
        [[gaussian_divergence(m[i], c[i], m[j], c[j]) for j in i_range] for i in i_range]
    )
    kl = np.array([[gaussian_divergence(m[i], c[i], n[j], d[j]) for j in j_range] for i in i_range])
    own_z = np.array([[normal(m[j], c[i] + c[j]).logpdf(m[i]) for j in i_range] for i in i_range])
    z = np.array([[normal(n[j], c[i] + d[j]).logpdf(m[i]) for j in j_range] for i in i_range])
    h = np.array([normal(m[i], c[i]).entropy() for i in i_range])
    bhattacharyya = np.empty_like(own_z)
    for i in i_range:
        for j in i_range:
            middle, delta = (c[i] + c[j]) / 2, m[i] - m[j]
            dets = [np.linalg.slogdet(x)[1] for x in (middle, c[i], c[j])]
            square = delta @ np.linalg.solve(middle, delta)
            bhattacharyya[i, j] = -square / 8 - 0.5 * (dets[0] - 0.5 * (dets[1] + dets[2]))

    def log_mean(weights, x):
        return logsumexp(np.log(weights) + x, axis=1)

    mean = pi @ m
    moments = np.einsum("k,kij->ij", pi, c) + np.einsum("k,ki,kj->ij", pi, m - mean, m - mean)
    upper = min(pi @ (h - log_mean(pi, -own_kl)), normal(np.zeros(dim), moments).entropy())
    lower = max(-pi @ log_mean(pi, own_z), pi @ (h - log_mean(pi, bhattacharyya)))
    assert upper <= pi @ (h - np.log(pi)) + 1e-12  # Huber et al. (2008), eq. 8
    most, least = pi @ log_mean(omega, z), pi @ (log_mean(omega, -kl) - h)
    # In logarithms, since what is not matched shrinks with every turn.
    log_psi = np.log(np.outer(pi, omega))
    for _ in range(31):
        log_phi = np.log(pi)[:, None] + scipy.special.log_softmax(log_psi - kl, axis=1)
        phi, before = np.exp(log_phi), log_psi
        log_psi = np.log(omega) + scipy.special.log_softmax(log_phi, axis=0)
    np.testing.assert_allclose(phi.sum(1), pi)
    np.testing.assert_allclose(np.exp(before).sum(0), omega)
    matched = (phi * (log_phi - before + kl)).sum()
    return {
        "entropy": (lower, upper),
        "divergence": (max(-upper - most, 0), min(-lower - least, matched)),
        "approximation": pi @ (log_mean(pi, -own_kl) - log_mean(omega, -kl)),
    }


@pytest.mark.parametrize(
    ("of_p", "of_q", "dim"),
    [
        ("isotropic", "diagonal", 3),
        ("diagonal", "full", 1),
        ("full", "full", 2),
    ],
)
def test_bounds_and_approximation_are_those_of_the_papers(of_p, of_q, dim, x64):
    p, q = make(of_p, (4,), k=3, dim=dim, seed=3), make(of_q, (4,), k=2, dim=dim, seed=4)
    got = entropy_bounds(p), kl_divergence_bounds(p, q), approximation(p, q)
    for b in range(4):
        want = by_loops(p[b], q[b])
        np.testing.assert_allclose([x[b] for x in got[0]], want["entropy"], rtol=1e-9)
        np.testing.assert_allclose([x[b] for x in got[1]], want["divergence"], rtol=1e-9)
        np.testing.assert_allclose(got[2][b], want["approximation"], rtol=1e-9)


def test_the_papers_formulas_where_a_loop_reorders(x64):
    p, q = make("full", k=2, dim=9, seed=3), make("full", k=2, dim=9, seed=4)
    np.testing.assert_allclose(entropy_bounds(p), by_loops(p, q)["entropy"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_one_gaussian_is_exact(kind, x64):
    p, q = make(kind, k=1, dim=3, seed=5), make(kind, k=1, dim=3, seed=6)
    (_, m, c), (_, n, d) = numbers(p), numbers(q)
    exact = scipy.stats.multivariate_normal(m[0], c[0]).entropy()
    value, error = entropy(jax.random.key(0), p, num_samples=4)
    np.testing.assert_allclose(value, exact, rtol=1e-13)
    assert error == 0
    np.testing.assert_allclose(entropy_bounds(p), [exact, exact], rtol=1e-12)
    exact = gaussian_divergence(m[0], c[0], n[0], d[0])
    np.testing.assert_allclose(kl_divergence_bounds(p, q).upper, exact, rtol=1e-12)
    np.testing.assert_allclose(approximation(p, q), exact, rtol=1e-12)


def test_the_divergence_of_two_gaussians_worked_out(x64):
    p = mdn.GaussianMixture.diagonal([[1.0, -2.0]], [[0.5, 2.0]])
    q = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
    np.testing.assert_allclose(approximation(p, q), 3.625, rtol=1e-14)
    np.testing.assert_allclose(kl_divergence_bounds(p, q).upper, 3.625, rtol=1e-14)
    value, error = kl_divergence(jax.random.key(1), p, q, num_samples=4000)
    assert abs(value - 3.625) <= FAR * error


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_does_not_diverge_from_itself(kind):
    p = make(kind, (3,), dim=2)
    estimate = kl_divergence(jax.random.key(0), p, p, num_samples=100)
    np.testing.assert_array_equal(estimate.value, 0)
    np.testing.assert_array_equal(estimate.standard_error, 0)
    np.testing.assert_allclose(approximation(p, p), 0, atol=1e-6)
    lower, upper = kl_divergence_bounds(p, p)
    np.testing.assert_array_equal(lower, 0)
    assert np.all((upper >= 0) & (upper < 0.7))


def test_components_far_apart_are_known_exactly():
    """H = log 2 + H of a component; the bounds agree, and the error is what one sample could do."""
    mix = mdn.GaussianMixture.isotropic([[0.0, 0.0], [1e6, 0.0]], [1.0, 1.0])
    exact = np.log(2) + 1 + np.log(2 * np.pi)
    np.testing.assert_allclose(entropy_bounds(mix), [exact, exact], rtol=1e-6)
    value, error = entropy(jax.random.key(0), mix, num_samples=100)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    np.testing.assert_allclose(error, np.log(2) / 100, rtol=1e-6)


@pytest.mark.parametrize("quantity", ["entropy", "divergence"])
def test_error_bars_are_honest(quantity, x64):
    """Over 400 keys: no bias, and the mean square of the errors is at most that of the bars."""
    p, q = make("full", dim=2, seed=7), make("diagonal", k=2, dim=2, seed=8)
    exact = by_quadrature(p, q)[quantity == "divergence"]
    keys = jax.random.split(jax.random.key(0), 400)
    of = {
        "entropy": lambda key: mdn.entropy(key, p, num_samples=64),
        "divergence": lambda key: mdn.kl_divergence(key, p, q, num_samples=64),
    }[quantity]
    values, errors = (np.asarray(x) for x in jax.jit(jax.vmap(of))(keys))
    off = values - exact
    assert abs(off.mean()) <= FAR * off.std(ddof=1) / np.sqrt(400)
    excess = off**2 - errors**2
    assert excess.mean() <= scipy.stats.norm.isf(1e-4 / 2) * excess.std(ddof=1) / np.sqrt(400)
    # Nor are they much too long.
    assert np.sqrt((errors**2).mean()) < 1.5 * off.std()


def test_the_gradient_of_the_estimate_is_that_of_the_entropy(x64):
    mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.7, 0.5], weights=[0.3, 0.7])

    def moved(t):
        return mdn.GaussianMixture(
            mix.log_weights + t * jnp.array([1.0, -0.5]),
            mix.loc + t * jnp.array([[0.5], [1.0]]),
            mix.log_scale + t * jnp.array([1.0, -1.0]),
            None,
            "isotropic",
        )

    def normalised(t):
        m = moved(t)
        return mdn.GaussianMixture(
            jax.nn.log_softmax(m.log_weights), m.loc, m.log_scale, None, "isotropic"
        )

    step = 1e-4
    ends = [by_quadrature(normalised(t), mix) for t in (-step, step)]
    keys = jax.random.split(jax.random.key(2), 100)
    for which, of in enumerate(
        (
            lambda t, key: mdn.entropy(key, normalised(t), num_samples=200).value,
            lambda t, key: mdn.kl_divergence(key, normalised(t), mix, num_samples=200).value,
        )
    ):
        slopes = jax.jit(jax.vmap(jax.grad(of), in_axes=(None, 0)))(0.0, keys)
        exact = (ends[1][which] - ends[0][which]) / (2 * step)
        assert abs(slopes.mean() - exact) <= FAR * slopes.std(ddof=1) / 10


uniform = st.floats(-3, 3, width=32)


@hypothesis.given(st.lists(uniform, min_size=15, max_size=15))
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
def test_bounds_hold(raw):
    """Of mixtures on a line, against sums over a grid; narrow ones, wide ones, any weights."""
    raw = np.asarray(raw, np.float32)
    p = mdn.GaussianMixture(
        jnp.asarray(jax.nn.log_softmax(raw[:3])),
        jnp.asarray(raw[3:6, None]),
        jnp.asarray(raw[6:9] / 2),
        None,
        "isotropic",
    )
    q = mdn.GaussianMixture(
        jnp.asarray(jax.nn.log_softmax(raw[9:11])),
        jnp.asarray(raw[11:13, None]),
        jnp.asarray(raw[13:15] / 2),
        None,
        "isotropic",
    )
    grid = np.linspace(-48, 48, 20_001)[:, None]
    log_p, log_q = (np.asarray(log_prob(mix, grid), np.float64) for mix in (p, q))
    mass = np.exp(log_p) * (grid[1] - grid[0])
    exact = -(mass * log_p).sum(), (mass * (log_p - log_q)).sum()
    for value, (lower, upper) in zip(
        exact, (entropy_bounds(p), kl_divergence_bounds(p, q)), strict=True
    ):
        rounding = 1e-5 * (1 + abs(value))
        assert lower - rounding <= value <= upper + rounding


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_weights_of_zero_and_scales_at_the_edge_are_finite_with_their_derivatives(kind):
    k, dim = 3, 2
    shape = (k,) if kind == "isotropic" else (k, dim)
    upper = jnp.full((k, 1), 0.5) if kind == "full" else None
    weights = jnp.log(jnp.array([0.5, 0.0, 0.5]))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def slopes(p, q):
        key = jax.random.key(0)
        results = (
            mdn.entropy(key, p, num_samples=8).value,
            mdn.kl_divergence(key, p, q, num_samples=8).value,
            *mdn.entropy_bounds(p),
            *mdn.kl_divergence_bounds(p, q),
            kl_divergence_approximation(p, q),
        )
        return sum(results), results

    for s in (-80.0, 0.0, 80.0):
        p = mdn.GaussianMixture(
            weights, jnp.ones((k, dim)), jnp.full(shape, s).at[0].add(1), upper, kind
        )
        q = mdn.GaussianMixture(
            weights[::-1], 2 * jnp.ones((k, dim)), jnp.full(shape, s), upper, kind
        )
        gradients, results = slopes(p, q)
        assert np.isfinite(results).all()
        if s >= 0:  # of -80 the divergences' derivatives are beyond float32
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@hypothesis.given(st.lists(finite, min_size=24, max_size=24))
@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
def test_every_finite_mixture_has_finite_bounds(raw):
    x = jnp.asarray(raw, jnp.float32)
    log_weights = jnp.log(jnp.array([0.5, 0.5]))
    p, q = (
        mdn.GaussianMixture(
            log_weights, x[:4].reshape(2, 2), x[4:8].reshape(2, 2), x[8:10, None], "full"
        )
        for x in (x[:12], x[12:])
    )
    for bounds in (entropy_bounds(p), kl_divergence_bounds(p, q)):
        assert np.isfinite(bounds).all()


def test_batches_broadcast_and_single_precision_agrees():
    p, q = make("full", (3, 1)), make("diagonal", (4,), k=2)
    bounds = kl_divergence_bounds(p, q)
    assert bounds.lower.shape == bounds.upper.shape == (3, 4)
    estimate = kl_divergence(jax.random.key(0), p, q, num_samples=10)
    assert estimate.value.shape == estimate.standard_error.shape == (3, 4)
    one = kl_divergence_bounds(p[2, 0], q[1])
    np.testing.assert_allclose([x[2, 1] for x in bounds], one, rtol=1e-5, atol=1e-5)
    assert bounds.upper.dtype == np.float32
    nan = mdn.GaussianMixture.isotropic([[np.nan, 0.0]], [1.0])
    assert np.isnan(entropy_bounds(nan)).all()


def test_errors_name_function_argument_got_and_expected():
    key, p = jax.random.key(0), make("full")
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for bad in (0, -4, 2.5):
            with pytest.raises(ValueError, match="entropy: num_samples must be a positive integer"):
                mdn.entropy(key, p, num_samples=bad)
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
    for function in (
        functools.partial(mdn.kl_divergence, key),
        mdn.kl_divergence_bounds,
        kl_divergence_approximation,
    ):
        with pytest.raises(ValueError, match="q must be of p's dimension 2, got dimension 3"):
            function(p, make("full", dim=3))
        with pytest.raises(ValueError, match="batch shapes of p and q must broadcast"):
            function(make("full", (2,)), make("full", (3,)))
