"""The mixture as a pytree: constructors, indexing, temper and bias."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
BUILD = {kind: jax.jit(getattr(mdn.GaussianMixture, kind)) for kind in KINDS}
temper, bias, log_prob = jax.jit(mdn.temper), jax.jit(mdn.bias), jax.jit(mdn.log_prob)
# Weights and covariances in NumPy, by one program.
properties = jax.jit(lambda mix: (mix.weights, mix.component_covariances))


def weights_and_covariances(mix):
    return map(np.asarray, properties(mix))


def covariances_of(mix):
    return np.asarray(properties(mix)[1])


def weights_of(mix):
    return np.asarray(properties(mix)[0])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def parameters(kind, batch=(), k=3, dim=2, seed=0):
    """Means, standard deviations or covariances, and weights."""
    rng = np.random.default_rng(seed)
    loc = rng.normal(size=(*batch, k, dim))
    if kind == "isotropic":
        scale = np.exp(rng.normal(size=(*batch, k)))
    elif kind == "diagonal":
        scale = np.exp(rng.normal(size=(*batch, k, dim)))
    else:
        root = rng.normal(size=(*batch, k, dim, dim))
        scale = root @ root.swapaxes(-1, -2) + 0.1 * np.eye(dim)
    return loc, scale, rng.dirichlet(np.ones(k), size=batch)


def make(kind, batch=(), k=3, dim=2, seed=0):
    loc, scale, weights = parameters(kind, batch, k, dim, seed)
    return BUILD[kind](loc, scale, weights=weights)


def covariances(kind, scale, dim):
    if kind == "full":
        return scale
    scale = np.broadcast_to(scale[..., None], (*scale.shape, dim)) if kind == "isotropic" else scale
    return scale[..., None] ** 2 * np.eye(dim)


@pytest.mark.parametrize(
    ("kind", "dim"), [("isotropic", 2), ("diagonal", 5), ("full", 1), ("full", 2), ("full", 12)]
)
def test_what_goes_in_comes_out(kind, dim, x64):
    loc, scale, weights = parameters(kind, (2,), 3, dim)

    @jax.jit
    def build(loc, scale, weights):
        mix = getattr(mdn.GaussianMixture, kind)(loc, scale, weights=weights)
        factors = mix.precision_factors
        return mix, (mix.weights, mix.component_covariances, factors, mix.scale)

    mix, seen = build(loc, scale, 7 * weights)
    seen_weights, seen_covariances, factor, seen_scale = map(np.asarray, seen)
    assert (mix.batch_shape, mix.num_components, mix.dim) == ((2,), 3, dim)
    assert mix.covariance_kind == kind
    assert mix.loc.dtype == jnp.float64
    expected = covariances(kind, scale, dim)
    np.testing.assert_array_equal(mix.loc, loc)
    np.testing.assert_allclose(seen_weights, weights, rtol=1e-13)
    np.testing.assert_allclose(mix.log_weights, np.log(weights), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(seen_covariances, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(factor, np.triu(factor))
    diagonal = np.diagonal(factor, axis1=-2, axis2=-1)
    assert (diagonal > 0).all()
    scales = seen_scale[..., None] if kind == "isotropic" else seen_scale
    np.testing.assert_allclose(np.broadcast_to(scales, diagonal.shape), 1 / diagonal, rtol=1e-13)
    precision = factor.swapaxes(-1, -2) @ factor
    np.testing.assert_allclose(precision @ expected, np.eye(dim) + 0 * expected, atol=1e-8)


def test_weights_logits_and_neither(x64):
    loc, scale = np.zeros((4, 1)), np.ones(4)
    weights = np.array([0.5, 0.0, 0.25, 0.25])
    logits = np.array([3.0, -np.inf, 3.0 - np.log(2), 3.0 - np.log(2)])

    @jax.jit
    def log_and_plain(**by):
        mix = mdn.GaussianMixture.isotropic(loc, scale, **by)
        return mix.log_weights, mix.weights

    def from_weights(*weights):
        return log_and_plain(weights=np.array(weights, float))[1]

    by_weights, by_logits = log_and_plain(weights=weights), log_and_plain(logits=logits)
    np.testing.assert_allclose(by_weights[1], weights, rtol=1e-14)
    np.testing.assert_allclose(by_logits[1], weights, rtol=1e-14)
    assert by_weights[0][1] == -np.inf
    np.testing.assert_array_equal(log_and_plain()[1], 0.25)
    np.testing.assert_array_equal(from_weights(0, 0, 0, 0), 0.25)
    np.testing.assert_array_equal(from_weights(1, 0, 0, 0), [1, 0, 0, 0])
    huge = log_and_plain(logits=np.array([1e308, 1e308, -1e308, 0.0]))[1]
    np.testing.assert_allclose(huge, [0.5, 0.5, 0, 0])
    assert np.isnan(from_weights(1, np.nan, 0, 0)).all()


def test_arguments_broadcast_and_promote(x64):
    def made(kind, *args, **kwargs):
        return jax.eval_shape(lambda: getattr(mdn.GaussianMixture, kind)(*args, **kwargs))

    mix = made("isotropic", np.zeros((5, 1, 3, 2)), np.ones((4, 3)), weights=np.ones(3))
    assert mix.batch_shape == (5, 4)
    assert mix.log_weights.shape == mix.log_scale.shape == (5, 4, 3)
    wide = np.broadcast_to(np.eye(2), (6, 3, 2, 2))
    assert made("full", np.zeros((3, 2)), wide).batch_shape == (6,)
    assert made("isotropic", [[0], [1]], [1, 2]).loc.dtype == jnp.float32
    loc = np.zeros((2, 1), np.float32)
    half = np.ones(2, np.float16)
    assert made("isotropic", loc.astype(jnp.bfloat16), half).loc.dtype == jnp.float32
    assert made("isotropic", loc, np.ones(2)).log_scale.dtype == jnp.float64


def test_the_fields_are_what_the_docstring_says_of_graves(x64):
    """sigma_1, sigma_2 and rho of D = 2, both ways."""
    sigma, rho = np.array([0.7, 2.5]), -0.6
    covariance = np.outer(sigma, sigma) * np.array([[1, rho], [rho, 1]])
    mix = BUILD["full"](np.zeros((1, 2)), covariance[None])
    (s1, s2), r12 = np.asarray(mix.log_scale[0]), float(mix.upper[0, 0])
    assert np.exp(s2) == pytest.approx(sigma[1], rel=1e-13)
    assert np.exp(2 * s1) + r12**2 * np.exp(2 * s2) == pytest.approx(sigma[0] ** 2, rel=1e-13)
    assert -r12 * np.exp(s2) / sigma[0] == pytest.approx(rho, rel=1e-13)
    assert np.exp(s1) == pytest.approx(sigma[0] * np.sqrt(1 - rho**2), rel=1e-13)
    # Graves' density itself, his equations 24 and 25.
    y = np.array([0.3, -1.1])
    z = (y / sigma) @ (y / sigma) - 2 * rho * y[0] * y[1] / sigma.prod()
    graves = np.exp(-z / (2 * (1 - rho**2))) / (2 * np.pi * sigma.prod() * np.sqrt(1 - rho**2))
    assert float(log_prob(mix, y)) == pytest.approx(np.log(graves), rel=1e-12)


def test_isotropic_scales_stay_with_their_components(x64):
    """K = 3, D = 2: another package dealt [1 2 3] out as [1 2], [3 1], [2 3] (tonyduan)."""
    loc, scale = np.zeros((3, 2)), np.array([1.0, 2.0, 3.0])
    mix = BUILD["isotropic"](loc, scale)
    np.testing.assert_allclose(covariances_of(mix), scale[:, None, None] ** 2 * np.eye(2))
    head = mdn.GaussianHead(num_components=3, dim=2)
    raw = np.concatenate([np.zeros(3), np.log(scale), np.zeros(6)])
    np.testing.assert_allclose(
        covariances_of(jax.jit(head.mixture)(raw)), scale[:, None, None] ** 2 * np.eye(2)
    )


def test_a_covariance_that_is_not_positive_definite_is_nan():
    mix = BUILD["full"](np.zeros((1, 2)), np.array([[[1.0, 2.0], [2.0, 1.0]]]))
    assert np.isnan(log_prob(mix, np.zeros(2)))


INDICES = {
    "int": (2, (3, 4)),
    "last": (-1, (3, 4)),
    "slice": (slice(1, 4), (3, 3, 4)),
    "ellipsis": (..., (5, 3, 4)),
    "ellipsis first": ((..., 0), (5, 3)),
    "ellipsis middle": ((0, ..., 1), (3,)),
    "none": (None, (1, 5, 3, 4)),
    "none last": ((..., None), (5, 3, 4, 1)),
    "nothing": ((), (5, 3, 4)),
    "all": ((1, 2, 3), ()),
    "array": (np.array([[0, 4], [2, 2]]), (2, 2, 3, 4)),
    "mask": (np.array([True, False, True, True, False]), (3, 3, 4)),
    "step": ((slice(None, None, 2), slice(None), 1), (3, 3)),
    "mixed": ((slice(None), None, 1, slice(0, 2)), (5, 1, 2)),
}


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_indexing_is_of_the_batch_alone(kind):
    mix = make(kind, (5, 3, 4))
    numbers = np.arange(60).reshape(5, 3, 4)
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(60, *x.shape[3:]), mix)

    @jax.jit
    def indexed(mix, i):
        return {name: mix[index] for name, (index, _) in INDICES.items()}, mix[i]

    at, traced = indexed(mix, 3)
    for name, (index, shape) in INDICES.items():
        got = at[name]
        assert got.batch_shape == shape, name
        assert (got.num_components, got.dim, got.covariance_kind) == (3, 2, kind)
        picked = jax.tree.map(lambda x: x[numbers[index]], flat)  # noqa: B023
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(picked), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
    np.testing.assert_array_equal(traced.loc, np.asarray(mix.loc)[3])


def test_iteration_ends():
    mix = make("full", (4,))
    parts = jax.jit(lambda mix: list(mix))(mix)
    assert len(parts) == 4
    assert all(part.batch_shape == () for part in parts)
    np.testing.assert_array_equal(np.stack([part.upper for part in parts]), mix.upper)
    with pytest.raises(TypeError, match="iteration needs a batch axis"):
        iter(make("full"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_passes_through_every_transformation(kind):
    mix, y = make(kind, (4,)), np.zeros((4, 2), np.float32)
    expected = np.asarray(log_prob(mix, y))
    through = jax.jit(lambda mix: mix)(mix)
    assert jax.tree.structure(through) == jax.tree.structure(mix)

    @jax.jit
    def each(mix, y):
        carried, _ = jax.lax.scan(lambda mix, _: (mdn.temper(mix, 1.0), None), mix, length=3)
        values = (
            jax.vmap(mdn.log_prob)(mix, y),
            jax.vmap(mdn.log_prob, in_axes=(0, None))(mix, y[0]),
            jax.lax.scan(lambda c, mix: (c, mdn.log_prob(mix, y[0])), None, mix)[1],
        )
        gradient = jax.grad(lambda mix: mdn.log_prob(mix, y).sum())(mix)
        build = getattr(mdn.GaussianMixture, kind)
        batched = jax.vmap(lambda m: build(m, jnp.ones(shape_of(kind))))(jnp.zeros((6, 3, 2)))
        return values, (mix.weights, carried.weights), gradient, batched

    values, (weights, carried), gradient, batched = each(mix, y)
    for value in values:
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(carried, weights, rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(mix)
    assert batched.batch_shape == (6,)


def shape_of(kind):
    return {"isotropic": (3,), "diagonal": (3, 2), "full": (3, 2, 2)}[kind]


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_a_mixture_may_hold_what_is_no_array(kind):
    """Shapes, axes, specifications: nothing is checked or converted when one is rebuilt."""
    mix = make(kind, (4,))
    abstract = jax.eval_shape(lambda mix: bias(mix, 1.0), mix)
    assert isinstance(abstract, mdn.GaussianMixture)
    assert abstract.batch_shape == (4,)
    assert abstract.covariance_kind == kind
    axes = jax.tree.map(lambda _: 0, mix)
    mapped = jax.vmap(lambda mix: mix, in_axes=(axes,), out_axes=axes)(mix)
    np.testing.assert_array_equal(mapped.loc, mix.loc)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    sharded = jax.shard_map(mdn.log_prob, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    y = np.zeros((4, 2), np.float32)
    np.testing.assert_allclose(jax.jit(sharded)(mix, y), log_prob(mix, y), rtol=1e-6)


def test_a_mixture_is_frozen_and_its_kind_static():
    mix = make("diagonal")
    with pytest.raises(dataclasses.FrozenInstanceError):
        mix.loc = mix.loc
    assert len(jax.tree.leaves(mix)) == 3
    assert len(jax.tree.leaves(make("full"))) == 4
    assert jax.tree.structure(mix) != jax.tree.structure(make("isotropic"))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mix)]
    assert paths == [".log_weights", ".loc", ".log_scale"]


@pytest.mark.parametrize("kind", KINDS)
def test_temper_raises_every_component_to_a_power(kind, x64):
    """pi_k^(1/tau) N_k^(1/tau) up to a factor a component: the definition, by densities."""
    mix, tau = make(kind, (2,)), 0.3
    sharp = temper(mix, tau)
    weights, wide = weights_and_covariances(mix)
    sharp_weights, narrow = weights_and_covariances(sharp)
    weights = weights ** (1 / tau)
    np.testing.assert_allclose(sharp_weights, weights / weights.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(sharp.loc, mix.loc)
    np.testing.assert_allclose(narrow, tau * wide, rtol=1e-12)
    # N(y | mu, tau Sigma) is proportional to N(y | mu, Sigma)^(1/tau).
    y = np.random.default_rng(0).normal(size=(50, 2))
    for m, s, soft in zip(np.asarray(mix.loc)[0], narrow[0], wide[0], strict=True):
        log_ratio = scipy.stats.multivariate_normal.logpdf(y, m, s) - (
            scipy.stats.multivariate_normal.logpdf(y, m, soft) / tau
        )
        np.testing.assert_allclose(log_ratio, log_ratio[0], rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bias_is_graves(kind, x64):
    mix, b = make(kind, (2,)), 1.7
    neat = bias(mix, b)
    weights, wide = weights_and_covariances(mix)
    neat_weights, narrow = weights_and_covariances(neat)
    sharp = weights ** (1 + b)
    np.testing.assert_allclose(neat_weights, sharp / sharp.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(narrow, np.exp(-2 * b) * wide, rtol=1e-12)
    np.testing.assert_array_equal(neat.loc, mix.loc)
    np.testing.assert_allclose(covariances_of(bias(mix, 0.0)), wide)
    np.testing.assert_allclose(weights_of(temper(mix, 1)), weights, rtol=1e-12)


def test_graves_bias_keeps_correlations(x64):
    mix = make("full", (2,))

    def correlation(mix):
        c = np.asarray(covariances_of(mix))
        return c[..., 0, 1] / np.sqrt(c[..., 0, 0] * c[..., 1, 1])

    for other in (bias(mix, 2.0), temper(mix, 0.1)):
        np.testing.assert_allclose(correlation(other), correlation(mix), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_one_temperature_for_each_mixture(kind, x64):
    mix, taus = make(kind, (3, 4)), np.linspace(0.2, 2, 12).reshape(3, 4)
    mix = jax.tree.map(np.asarray, mix)

    @jax.jit
    def each(mix, taus):
        # A row broadcasts over the first axis.
        return [[f(mix, by) for by in (taus, taus[0], taus[:, :1])] for f in (mdn.temper, mdn.bias)]

    for f, batches in zip((temper, bias), each(mix, taus), strict=True):
        together, row, column = (jax.tree.map(np.asarray, batch) for batch in batches)
        for i, j in np.ndindex(3, 4):
            one = jax.tree.map(lambda x, at=(i, j): x[at], mix)
            for got, value in ((together, taus[i, j]), (row, taus[0, j]), (column, taus[i, 0])):
                alone = f(one, float(value))
                np.testing.assert_allclose(got.log_weights[i, j], alone.log_weights, rtol=1e-12)
                np.testing.assert_allclose(got.log_scale[i, j], alone.log_scale, rtol=1e-12)


def test_sharpening_keeps_weights_of_zero_and_their_gradients_finite():
    def sharpened(f, weights, by):
        mix = mdn.GaussianMixture.isotropic(jnp.zeros((3, 1)), jnp.ones(3), weights=weights)
        mix = f(mix, by)
        return mdn.log_prob(mix, jnp.ones(1)) + mix.weights[1], mix.weights

    weights = np.float32([0.0, 0.6, 0.4])
    for f in (mdn.temper, mdn.bias):
        sharpen = functools.partial(sharpened, f)
        grad = jax.jit(jax.value_and_grad(sharpen, argnums=(0, 1), has_aux=True))
        for by in (0.5, 1e-3):
            (value, after), slopes = grad(weights, by)
            assert np.isfinite(value)
            assert all(np.isfinite(s).all() for s in slopes)
            assert after[0] == 0
        if f is mdn.temper:
            np.testing.assert_array_equal(grad(weights, 1e-30)[0][1], [0, 1, 0])


def test_errors_name_function_argument_got_and_expected(without_jaxtyping):
    kinds = mdn.GaussianMixture
    loc, scale = np.zeros((3, 2)), np.ones(3)
    with pytest.raises(
        ValueError, match=r"isotropic: loc must be \[\.\.\., K, D\], got shape \(3,\)"
    ):
        kinds.isotropic(np.zeros(3), scale)
    with pytest.raises(
        ValueError, match=r"isotropic: scale must be \[\.\.\., 3\].*got shape \(2,\)"
    ):
        kinds.isotropic(loc, np.ones(2))
    with pytest.raises(ValueError, match=r"diagonal: scale must be \[\.\.\., 3, 2\].*\(3,\)"):
        kinds.diagonal(loc, scale)
    with pytest.raises(ValueError, match=r"full: covariance must be \[\.\.\., 3, 2, 2\].*\(3, 2\)"):
        kinds.full(loc, np.ones((3, 2)))
    with pytest.raises(ValueError, match="isotropic: weights must be one of them, got both"):
        kinds.isotropic(loc, scale, weights=scale, logits=scale)
    with pytest.raises(ValueError, match=r"isotropic: weights must be \[\.\.\., 3\].*\(4,\)"):
        kinds.isotropic(loc, scale, weights=np.ones(4))
    with pytest.raises(ValueError, match=r"isotropic: logits must be \[\.\.\., 3\].*\(\)"):
        kinds.isotropic(loc, scale, logits=np.float32(0))
    with pytest.raises(ValueError, match=r"isotropic: the batch shapes .*\(2,\), \(5,\) and \(\)"):
        kinds.isotropic(np.zeros((2, 3, 2)), np.ones((5, 3)))
    mix = make("isotropic", (4,))
    for f, name in ((mdn.temper, "temper: tau"), (mdn.bias, "bias: b")):
        for bad in (np.ones(3), np.ones((1, 4)), np.ones((4, 2))):
            with pytest.raises(ValueError, match=rf"{name} must be .*\(4,\), got shape \("):
                f(mix, bad)
    for bad in (0, -1.0):
        with pytest.raises(ValueError, match=f"temper: tau must be positive, got {bad}"):
            mdn.temper(mix, bad)
    with pytest.raises(ValueError, match=r"GaussianMixture\[...\]: index must be at most 1"):
        mix[0, 0]
