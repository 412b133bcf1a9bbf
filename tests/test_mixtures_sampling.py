"""Samples: one component, one Gaussian, the right distribution.

Keys are fixed. Every family of tests together has a false-alarm rate of 1e-4.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from made_mixtures import make

import mdnjax as mdn
from mdnjax.mixtures import sampling

KINDS = ("isotropic", "diagonal", "full")
LEVEL = 1e-4
# Compiled: an eager call would compile each operation by itself.
sample = jax.jit(mdn.sample, static_argnums=2)


BUILD = {kind: jax.jit(getattr(mdn.GaussianMixture, kind)) for kind in KINDS}


def far_apart(kind, weights, dim=2, seed=0):
    """Components that no sample can be mistaken between: 200 apart, scales about 1."""
    k = len(weights)
    rng = np.random.default_rng(seed)
    loc = np.zeros((k, dim))
    loc[:, 0] = 200 * np.arange(k)
    root = rng.normal(size=(k, dim, dim))
    scale = {
        "isotropic": np.exp(rng.uniform(-1, 1, k)),
        "diagonal": np.exp(rng.uniform(-1, 1, (k, dim))),
        "full": root @ root.swapaxes(-1, -2) + 0.2 * np.eye(dim),
    }[kind]
    return BUILD[kind](loc, scale, weights=weights)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    mix = make(kind, (2, 5))
    for one, shape, expected in (
        (mix, (), (2, 5, 2)),
        (mix, (7, 3), (7, 3, 2, 5, 2)),
        (mix, (0,), (0, 2, 5, 2)),
        (make(kind), (4,), (4, 2)),
    ):
        got = jax.eval_shape(
            lambda key, mix, shape=shape: mdn.sample(key, mix, shape), jax.random.key(0), one
        )
        assert got.shape == expected
        assert got.dtype == jnp.float32


def test_keys():
    mix, key = make("full", (2, 5)), jax.random.key(0)
    one, other = (jax.tree.map(lambda x, n=n: np.asarray(x)[n], mix) for n in (0, 1))
    a, b = sample(key, one, (3,)), sample(jax.random.key(1), one, (3,))
    np.testing.assert_array_equal(a, sample(key, one, (3,)))
    assert not np.any(np.asarray(a) == np.asarray(b))
    assert len(np.unique(a)) == a.size
    keys = jax.random.split(key, 2)
    mapped = jax.jit(jax.vmap(lambda key, mix: mdn.sample(key, mix, (3,))))(keys, mix)
    assert mapped.shape == (2, 3, 5, 2)
    np.testing.assert_allclose(mapped[1], sample(keys[1], other, (3,)), rtol=1e-5, atol=1e-6)


def test_double_precision_samples_have_it():
    with jax.enable_x64(True):
        y = np.asarray(sample(jax.random.key(0), make("full"), (100,)))
        assert y.dtype == np.float64
        assert np.any(y.astype(np.float32) != y)


@pytest.mark.parametrize("kind", KINDS)
def test_components_and_the_gaussians_within(kind):
    weights, n = np.array([0.5, 0.0, 0.03, 0.27, 0.2]), 60_000
    mix = far_apart(kind, weights)
    y = np.asarray(sample(jax.random.key(3), mix, (n,)), np.float64)
    component = np.rint(y[:, 0] / 200).astype(int)
    counts = np.bincount(component, minlength=5)
    assert counts.sum() == n
    assert counts[1] == 0
    used = weights > 0
    assert scipy.stats.chisquare(counts[used], n * weights[used]).pvalue > LEVEL / 3

    covariances = np.asarray(jax.jit(lambda mix: mix.component_covariances)(mix), np.float64)
    for c in np.flatnonzero(used):
        # Whitened by the component's own covariance, each coordinate is a standard normal and
        # so is every mixture of the two; that is where a wrong correlation shows.
        covariance = covariances[c]
        delta = y[component == c] - np.asarray(mix.loc[c])
        white = np.linalg.solve(np.linalg.cholesky(covariance), delta.T)
        tests = [*white, (white[0] + white[1]) / np.sqrt(2), (white[0] - white[1]) / np.sqrt(2)]
        # Positions near 800 are kept in float32, to 6e-5: far finer than the test can see.
        for t in tests:
            assert scipy.stats.kstest(t, "norm").pvalue > LEVEL / 3 / 4 / len(tests)
        square = (white**2).sum(0)
        assert scipy.stats.kstest(square, scipy.stats.chi2(2).cdf).pvalue > LEVEL / 3 / 4


def test_a_line_against_the_cumulative_distribution():
    loc, scale, weights = np.array([[-1.0], [1.0]]), np.array([0.1, 0.5]), np.array([0.3, 0.7])
    mix = BUILD["isotropic"](loc, scale, weights=weights)
    y = np.asarray(sample(jax.random.key(5), mix, (50_000,)))[:, 0]
    parts = [scipy.stats.Normal(mu=m, sigma=s) for m, s in ((-1.0, 0.1), (1.0, 0.5))]
    oracle = scipy.stats.Mixture(parts, weights=[0.3, 0.7])
    assert scipy.stats.kstest(y, oracle.cdf).pvalue > LEVEL


def test_the_component_and_the_noise_within_are_independent():
    mix = far_apart("diagonal", np.array([0.3, 0.3, 0.4]))
    y = np.asarray(sample(jax.random.key(7), mix, (30_000,)), np.float64)
    component = np.rint(y[:, 0] / 200).astype(int)
    within = (y - np.asarray(mix.loc)[component]) / np.exp(np.asarray(mix.log_scale)[component])
    p = scipy.stats.kruskal(*(within[component == c, 0] for c in range(3))).pvalue
    assert p > LEVEL / 2
    # Nor does one sample tell the next one's component.
    table = np.zeros((3, 3))
    np.add.at(table, (component[:-1:2], component[1::2]), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > LEVEL / 2


def test_every_mixture_of_a_batch_has_its_own_samples():
    weights = np.array([[0.9, 0.1], [0.2, 0.8], [0.0, 1.0]])
    mix = BUILD["isotropic"](
        np.array([[0.0], [200.0]]) + np.array([0.0, 1000.0, 2000.0])[:, None, None],
        np.ones(2),
        weights=weights,
    )
    n = 20_000
    y = np.asarray(sample(jax.random.key(11), mix, (n,)))[..., 0]
    second = y - 1000 * np.arange(3) > 100
    for b in range(3):
        p = scipy.stats.binomtest(int(second[:, b].sum()), n, weights[b, 1]).pvalue
        assert p > LEVEL / 4
    noise = y - 1000 * np.arange(3) - 200 * second
    assert abs(scipy.stats.spearmanr(noise[:, 0], noise[:, 1]).pvalue) > LEVEL / 4


@jax.jit
def sums_in_other_orders(weights):
    return jnp.cumsum(weights, axis=-1), jax.lax.associative_scan(jnp.add, weights, axis=1)


@pytest.mark.parametrize("k", [1, 5, 1000])
def test_a_weight_of_zero_is_never_drawn(k):
    """Not at the edges, and not where sums formed in parallel round a step into being."""
    rng = np.random.default_rng(k)
    count = max(8, 400 // k)
    weights = rng.dirichlet(np.ones(k), size=count).astype(np.float32)
    weights = np.where(rng.random((count, k)) < 0.5, 0, weights)
    weights[0] = np.eye(k, dtype=np.float32)[0]
    weights[1] = np.eye(k, dtype=np.float32)[-1]
    weights[:, -1] += np.float32(weights.sum(-1) == 0)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    # The sums, by several orders of adding, are the dangerous numbers: try each, and beside it.
    sums = np.cumsum(weights, axis=-1, dtype=np.float32)
    others, tree = map(np.asarray, sums_in_other_orders(weights))
    edges = np.concatenate([s / s[:, -1:] for s in (sums, others, tree)], axis=1)
    around = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(2))]
    u = np.concatenate([*around, np.zeros((count, 1)), np.full((count, 1), below_one)], axis=1)
    u = np.clip(u, 0, below_one).astype(np.float32)
    drawn = np.asarray(jax.jit(sampling._component_at)(weights, u))
    assert drawn.min() >= 0
    assert drawn.max() < k
    assert (np.take_along_axis(weights, drawn, axis=1) > 0).all()
    # And it is inversion: within rounding, the sums before and after enclose u.
    exact = np.cumsum(weights, axis=-1, dtype=np.float64)
    after = np.take_along_axis(exact, drawn, axis=1) / exact[:, -1:]
    width = np.take_along_axis(weights, drawn, axis=1) / exact[:, -1:]
    assert np.all(u <= after + 1e-5)
    assert np.all(u >= after - width - 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_component_is_drawn_from(kind):
    """No array of samples x components x dimensions, and one random number more a sample than D."""
    k, dim, n = 7, 5, 1000
    mix = make(kind, k=k, dim=dim)
    jaxpr = jax.make_jaxpr(lambda key, mix: mdn.sample(key, mix, (n,)))(jax.random.key(0), mix)
    sizes, drawn = [], 0
    pending = [jaxpr.jaxpr]
    while pending:
        for equation in pending.pop().eqns:
            sizes += [v.aval.size for v in equation.outvars]
            if equation.primitive.name == "random_bits":
                drawn += equation.outvars[0].aval.size
            pending += [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
    assert drawn == n * (dim + 1)
    largest = dim * dim if kind == "full" else max(k, dim)
    assert max(sizes) <= n * (largest + 1)
    assert n * (largest + 1) < n * k * dim


@pytest.mark.parametrize("kind", KINDS)
def test_samples_move_with_location_and_scale(kind):
    """y = mu_k + U_k^-1 epsilon is differentiable given the choice."""
    mix = make(kind, k=1, dim=3)

    def draw(mix):
        return mdn.sample(jax.random.key(0), mix)

    y, jacobian = jax.jit(lambda mix: (draw(mix), jax.jacrev(draw)(mix)))(mix)
    np.testing.assert_allclose(jacobian.loc[:, 0, :], np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(jacobian.log_weights, 0)
    # Moving every log-scale by the same amount stretches the step.
    step = np.asarray(y) - np.asarray(mix.loc)[0]
    stretch = np.asarray(jacobian.log_scale).reshape(3, -1).sum(-1)
    np.testing.assert_allclose(stretch, step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dim"), [("isotropic", 2), ("diagonal", 3), ("full", 1), ("full", 3), ("full", 17)]
)
def test_given_noise_makes_the_sample_that_the_equation_says(kind, dim):
    """y = mu_k + U_k^-1 epsilon in NumPy, k the first at which the weights' sum passes u."""
    mix = make(kind, (2,), k=4, dim=dim)
    if kind == "full":  # well conditioned
        mix = dataclasses.replace(mix, upper=np.asarray(mix.upper) / np.float32(dim))
    rng = np.random.default_rng(dim)
    u = rng.uniform(size=(2, 6)).astype(np.float32)
    epsilon = rng.normal(size=(2, 6, dim)).astype(np.float32)

    @jax.jit
    def drawn_and_known(mix, u, epsilon):
        drawn = mdn.mixtures.sample_from_noise(mix, u, epsilon)
        return drawn, mix.precision_factors, mix.weights

    drawn, factors, weights = map(np.asarray, drawn_and_known(mix, u, epsilon))
    factors = factors.astype(np.float64)
    for b, n in np.ndindex(2, 6):
        sums = np.cumsum(weights[b], dtype=np.float64)
        k = int(np.searchsorted(sums, u[b, n], side="right"))
        want = np.asarray(mix.loc)[b, k] + np.linalg.solve(factors[b, k], epsilon[b, n])
        np.testing.assert_allclose(drawn[b, n], want, rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_a_weight_of_nan_gives_nan():
    mix = BUILD["isotropic"](np.zeros((3, 1)), np.ones(3), logits=np.array([0, np.nan, 1]))
    u, epsilon = np.full(1, np.float32(0.1)), np.zeros((1, 1), np.float32)
    assert np.isnan(jax.jit(mdn.mixtures.sample_from_noise)(mix, u, epsilon)).all()


def test_errors_name_function_argument_got_and_expected():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for bad in (5, (-1,), (1.5,), [3]):
            with pytest.raises(ValueError, match="sample: shape must be a tuple of integers >= 0"):
                mdn.sample(jax.random.key(0), make("full"), bad)
        for u, epsilon in (((3,), (3, 2)), ((2, 3), (2, 3, 1)), ((2, 3), (2, 4, 2))):
            with pytest.raises(ValueError, match="sample_from_noise: u, epsilon must be"):
                mdn.mixtures.sample_from_noise(make("full", (2,)), jnp.zeros(u), jnp.zeros(epsilon))
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
