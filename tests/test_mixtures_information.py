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
from made_mixtures import covariances, make
from scipy.special import logsumexp

import mdnjax as mdn
from mdnjax.mixtures import kl_divergence_approximation

# Compiled: an eager call would compile each operation by itself.
entropy = jax.jit(mdn.entropy, static_argnames="num_samples")
entropy_bounds = jax.jit(mdn.entropy_bounds)
kl_divergence = jax.jit(mdn.kl_divergence, static_argnames="num_samples")
FAR = scipy.stats.norm.isf(1e-4 / 20 / 2)


@jax.jit
def closed_forms(p, q):
    """Everything without samples, as one program: half of it is the same in all three."""
    approximation = kl_divergence_approximation(p, q)
    return mdn.entropy_bounds(p), mdn.kl_divergence_bounds(p, q), approximation


def numbers(mix):
    """Weights, means and covariances, in float64."""
    weights = np.exp(np.asarray(mix.log_weights, np.float64))
    return weights, np.asarray(mix.loc, np.float64), covariances(mix)


def line(log_weights, loc, log_scale):
    """A mixture with D = 1 of numbers that are stored as they are."""
    parts = log_weights, loc[:, None], log_scale
    return mdn.GaussianMixture(*map(jnp.asarray, parts), None, "isotropic")


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
    mix = line(*np.float32([np.log([0.3, 0.7]), [-1.0, 1.0], np.log([0.1, 0.5])]))
    exact = 0.851960190996693
    value, error = entropy(jax.random.key(0), mix, num_samples=20_000)
    assert abs(value - exact) <= FAR * error
    assert 0 < error < 1e-3
    lower, upper = entropy_bounds(mix)
    assert 0.83 < lower <= exact <= upper < 0.86


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
        ("isotropic", "diagonal", 2),
        ("diagonal", "full", 1),
        ("full", "full", 2),
    ],
)
def test_bounds_and_approximation_are_those_of_the_papers(of_p, of_q, dim, x64):
    """And entropy and divergence lie within, by quadrature."""
    k = 2 if of_p == "full" else 3
    p, q = make(of_p, (4,), k=k, dim=dim, seed=3), make(of_q, (4,), k=2, dim=dim, seed=4)
    got = jax.tree.map(np.asarray, closed_forms(p, q))
    for b in range(4):
        one, other = (jax.tree.map(lambda x, b=b: np.asarray(x)[b], mix) for mix in (p, q))
        want = by_loops(one, other)
        np.testing.assert_allclose([x[b] for x in got[0]], want["entropy"], rtol=1e-9)
        np.testing.assert_allclose([x[b] for x in got[1]], want["divergence"], rtol=1e-9)
        np.testing.assert_allclose(got[2][b], want["approximation"], rtol=1e-9)
        if b == 0:
            for value, (lower, upper) in zip(by_quadrature(one, other), got[:2], strict=True):
                assert lower[b] <= value <= upper[b]


def test_the_papers_formulas_where_a_loop_reorders(x64):
    p, q = make("full", k=2, dim=9, seed=3), make("full", k=2, dim=9, seed=4)
    np.testing.assert_allclose(entropy_bounds(p), by_loops(p, q)["entropy"], rtol=1e-9)


def test_one_gaussian_is_exact(x64):
    p, q = make("full", k=1, dim=2, seed=5), make("full", k=1, dim=2, seed=6)
    bounds, divergence, approximation = closed_forms(p, q)
    sphere = make("isotropic", k=1, dim=3, seed=5)
    for mix, bounds_of_mix in ((p, bounds), (sphere, entropy_bounds(sphere))):
        (_, m, c) = numbers(mix)
        exact = scipy.stats.multivariate_normal(m[0], c[0]).entropy()
        np.testing.assert_allclose(bounds_of_mix, [exact, exact], rtol=1e-12)
        value, error = entropy(jax.random.key(0), mix, num_samples=4)
        np.testing.assert_allclose(value, exact, rtol=1e-13)
        assert error == 0
    (_, m, c), (_, n, d) = numbers(p), numbers(q)
    exact = gaussian_divergence(m[0], c[0], n[0], d[0])
    np.testing.assert_allclose(divergence.upper, exact, rtol=1e-12)
    np.testing.assert_allclose(approximation, exact, rtol=1e-12)


def test_the_divergence_of_two_gaussians_worked_out(x64):
    one, log_scale = np.zeros(1), np.log([[0.5, 2.0]])
    p = mdn.GaussianMixture(one, np.array([[1.0, -2.0]]), log_scale, None, "diagonal")
    q = mdn.GaussianMixture(one, np.zeros((1, 2)), np.zeros(1), None, "isotropic")
    _, divergence, approximation = closed_forms(p, q)
    np.testing.assert_allclose(approximation, 3.625, rtol=1e-14)
    np.testing.assert_allclose(divergence.upper, 3.625, rtol=1e-14)
    value, error = kl_divergence(jax.random.key(1), p, q, num_samples=4000)
    assert abs(value - 3.625) <= FAR * error


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_a_mixture_does_not_diverge_from_itself(kind):
    """And of another it does as in the papers, by float64: all pairs of two."""
    p = jax.tree.map(np.asarray, make(kind, (2,), k=2, dim=2))
    one, other = (jax.tree.map(lambda x, n=n: x[n], p) for n in (0, 1))
    for pair in ((one, one), (one, other), (other, one), (other, other)):
        _, (lower, upper), approximation = closed_forms(*pair)
        assert upper.dtype == np.float32
        if pair[0] is pair[1]:
            np.testing.assert_allclose(approximation, 0, atol=1e-6)
            np.testing.assert_array_equal(lower, 0)
            assert 0 <= upper < 0.7
        else:
            want = by_loops(*pair)
            np.testing.assert_allclose([lower, upper], want["divergence"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(approximation, want["approximation"], rtol=1e-5, atol=1e-5)


def test_an_estimate_of_a_divergence_from_itself_is_zero():
    p = make("diagonal", dim=2)
    estimate = kl_divergence(jax.random.key(0), p, p, num_samples=100)
    np.testing.assert_array_equal(estimate.value, 0)
    np.testing.assert_array_equal(estimate.standard_error, 0)


def test_components_far_apart_are_known_exactly():
    """H = log 2 + H of a component; the bounds agree, and the error is what one sample could do."""
    mix = line(*np.float32([np.log([0.5, 0.5]), [0.0, 1e6], [0.0, 0.0]]))
    exact = np.log(2) + (1 + np.log(2 * np.pi)) / 2
    np.testing.assert_allclose(entropy_bounds(mix), [exact, exact], rtol=1e-6)
    value, error = entropy(jax.random.key(0), mix, num_samples=20_000)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    np.testing.assert_allclose(error, np.log(2) / 20_000, rtol=1e-6)


def test_estimates_are_unbiased_and_error_bars_are_honest(x64):
    """Over 400 keys: no bias, and the mean square of the errors is at most that of the bars."""
    p, q = make("full", dim=2, seed=7), make("diagonal", k=2, dim=2, seed=8)

    @jax.jit
    @jax.vmap
    def estimates(key):
        divergence = mdn.kl_divergence(key, p, q, num_samples=64)
        return mdn.entropy(key, p, num_samples=64), divergence

    got = estimates(jax.random.split(jax.random.key(0), 400))
    for exact, (values, errors) in zip(by_quadrature(p, q), got, strict=True):
        off, errors = np.asarray(values) - exact, np.asarray(errors)
        assert abs(off.mean()) <= FAR * off.std(ddof=1) / np.sqrt(400)
        excess = off**2 - errors**2
        assert excess.mean() <= scipy.stats.norm.isf(1e-4 / 2) * excess.std(ddof=1) / np.sqrt(400)
        # Nor are they much too long.
        assert np.sqrt((errors**2).mean()) < 1.5 * off.std()


def test_the_gradient_of_the_estimate_is_that_of_the_entropy(x64):
    """Along a direction in all parameters; `q` is where it starts from."""
    start = np.log([0.3, 0.7]), np.array([-1.0, 1.0]), np.log([0.7, 0.5])
    direction = np.array([1.0, -0.5]), np.array([0.5, 1.0]), np.array([1.0, -1.0])
    q = line(*start)

    def moved(t, log_softmax):
        logits, loc, log_scale = (a + t * b for a, b in zip(start, direction, strict=True))
        return line(log_softmax(logits), loc, log_scale)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @jax.jacfwd
    def slopes(t, key):
        p = moved(t, jax.nn.log_softmax)
        divergence = mdn.kl_divergence(key, p, q, num_samples=200)
        return jnp.stack([mdn.entropy(key, p, num_samples=200).value, divergence.value])

    step = 1e-4
    ends = [by_quadrature(moved(t, scipy.special.log_softmax), q) for t in (-step, step)]
    expected = np.subtract(ends[1], ends[0]) / (2 * step)
    got = np.asarray(slopes(0.0, jax.random.split(jax.random.key(2), 100)))
    assert np.all(np.abs(got.mean(0) - expected) <= FAR * got.std(0, ddof=1) / 10)


uniform = st.floats(-3, 3, width=32)


@hypothesis.given(st.lists(uniform, min_size=15, max_size=15))
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
def test_bounds_hold(raw):
    """Of mixtures on a line, against sums over a grid; narrow ones, wide ones, any weights."""
    raw = np.asarray(raw, np.float32)
    log_softmax = scipy.special.log_softmax
    p = line(log_softmax(raw[:3]), raw[3:6], raw[6:9] / 2)
    q = line(log_softmax(raw[9:11]), raw[11:13], raw[13:15] / 2)
    grid = np.linspace(-48, 48, 20_001)[:, None]
    log_p, log_q = (log_density(numbers(mix), grid) for mix in (p, q))
    mass = np.exp(log_p) * (grid[1] - grid[0])
    exact = -(mass * log_p).sum(), (mass * (log_p - log_q)).sum()
    for value, (lower, upper) in zip(exact, closed_forms(p, q)[:2], strict=True):
        rounding = 1e-5 * (1 + abs(value))
        assert lower - rounding <= value <= upper + rounding


def everything(p, q):
    """With samples, for which a component's zero weight and its scale matter too."""
    key = jax.random.key(0)
    return (
        mdn.entropy(key, p, num_samples=8).value,
        mdn.kl_divergence(key, p, q, num_samples=8).value,
        *mdn.entropy_bounds(p),
        *mdn.kl_divergence_bounds(p, q),
        kl_divergence_approximation(p, q),
    )


def ingredients(p, q):
    """What all bounds are made of: with derivatives, all of full covariances compile for long."""
    return *mdn.entropy_bounds(p), kl_divergence_approximation(p, q)


@pytest.mark.parametrize(("kind", "of"), [("isotropic", everything), ("full", ingredients)])
def test_weights_of_zero_and_scales_at_the_edge_are_finite_with_their_derivatives(kind, of):
    """Either component without weight, or none, in p and in q, on three scales: one batch."""
    half = np.log(0.5)
    choices = np.array([[half, half], [0.0, -np.inf], [-np.inf, 0.0]], np.float32)
    s, of_p, of_q = (x.ravel() for x in np.meshgrid([-80.0, 0.0, 80.0], range(3), range(3)))
    batch, k, dim = len(s), 2, 2
    scales = (batch, k) if kind == "isotropic" else (batch, k, dim)
    log_scale = np.broadcast_to(s.reshape(-1, *(1,) * (len(scales) - 1)), scales)
    upper = np.full((batch, k, 1), 0.5, np.float32) if kind == "full" else None
    centres = np.broadcast_to(np.float32([[1, 1], [2, 2]]), (batch, k, dim))
    rest = log_scale.astype(np.float32), upper, kind
    q = mdn.GaussianMixture(choices[of_q.astype(int)], 2 * centres, *rest)
    log_scale = log_scale + (np.arange(k) == 0).reshape(-1, *(1,) * (len(scales) - 2))
    rest = log_scale.astype(np.float32), upper, kind
    p = mdn.GaussianMixture(choices[of_p.astype(int)], centres, *rest)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def slopes(p, q):
        results = of(p, q)
        return sum(x.sum() for x in results), results

    gradients, results = slopes(p, q)
    assert np.isfinite(results).all()
    for x in jax.tree.leaves(gradients):
        assert np.isfinite(x[s >= 0]).all()  # of -80 the divergences' are beyond float32
    for n in range(batch) if kind == "full" else ():
        one = closed_forms(*(jax.tree.map(lambda x, n=n: x[n], mix) for mix in (p, q)))
        assert all(np.isfinite(x) for x in jax.tree.leaves(one))


finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@hypothesis.given(st.lists(finite, min_size=24, max_size=24))
@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
def test_every_finite_mixture_has_finite_bounds(raw):
    x = np.asarray(raw, np.float32)
    log_weights = np.log(np.array([0.5, 0.5], np.float32))
    p, q = (
        mdn.GaussianMixture(
            log_weights, x[:4].reshape(2, 2), x[4:8].reshape(2, 2), x[8:10, None], "full"
        )
        for x in (x[:12], x[12:])
    )
    for bounds in closed_forms(p, q)[:2]:
        assert np.isfinite(bounds).all()


def test_batches_broadcast():
    p, q, key = make("full", (3, 1)), make("diagonal", (4,), k=2), jax.random.key(0)
    estimate = jax.eval_shape(functools.partial(mdn.kl_divergence, num_samples=10), key, p, q)
    bounds = jax.eval_shape(mdn.kl_divergence_bounds, p, q)
    for x in (*estimate, *bounds):
        assert (x.shape, x.dtype) == ((3, 4), np.float32)
    p, q = (jax.tree.map(np.asarray, make("diagonal", (n,), dim=1)) for n in (3, 4))
    got = jax.jit(kl_divergence_approximation)(jax.tree.map(lambda x: x[:, None], p), q)
    assert got.shape == (3, 4)
    want = by_loops(*(jax.tree.map(lambda x, n=n: x[n], mix) for mix, n in ((p, 2), (q, 1))))
    np.testing.assert_allclose(got[2, 1], want["approximation"], rtol=1e-5, atol=1e-5)


def test_nan_is_not_hidden():
    nan = line(*np.float32([np.log([0.5, 0.5]), [np.nan, 0.0], [0.0, 0.0]]))
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
