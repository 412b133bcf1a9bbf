"""Heads: layout, round trips, hashing, the protocol, Bernoulli and products."""

import copy
import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
nll = jax.jit(mdn.nll, static_argnums=0)


def test_the_number_of_outputs():
    for k, d in itertools.product((1, 2, 20), (1, 2, 3, 10)):
        expected = {
            "isotropic": (d + 2) * k,
            "diagonal": (2 * d + 1) * k,
            "full": k * (1 + 2 * d + d * (d - 1) // 2),
        }
        for kind, count in expected.items():
            head = mdn.GaussianHead(num_components=k, dim=d, covariance=kind)
            assert head.num_outputs == count
    full = mdn.GaussianHead(num_components=20, dim=2, covariance="full")
    assert full.num_outputs == 120  # Graves' 6 K
    assert mdn.BernoulliHead().num_outputs == 1


def test_the_layout_is_rows_of_components():
    """Every entry of the raw vector, by its number, is where the table says."""
    k, d = 2, 3
    head = mdn.GaussianHead(num_components=k, dim=d, covariance="full")
    raw = jnp.linspace(-1, 1, head.num_outputs)
    rows = np.asarray(raw).reshape(-1, k)
    mix = jax.jit(head.mixture)(raw)
    np.testing.assert_allclose(mix.weights, np.exp(rows[0]) / np.exp(rows[0]).sum(), rtol=1e-6)
    np.testing.assert_array_equal(mix.log_scale, rows[1:4].T)
    np.testing.assert_array_equal(mix.loc, rows[4:7].T)
    np.testing.assert_array_equal(mix.upper, rows[7:10].T)
    unit = np.exp(mix.log_scale)[..., None] * mix.precision_factors
    for c in range(k):  # R_12, R_13, R_23
        expected = [[1, rows[7, c], rows[8, c]], [0, 1, rows[9, c]], [0, 0, 1]]
        np.testing.assert_allclose(unit[c], expected, rtol=1e-5, atol=1e-7)

    diagonal = mdn.GaussianHead(num_components=k, dim=d, covariance="diagonal").mixture(raw[:14])
    np.testing.assert_array_equal(diagonal.log_scale, mix.log_scale)
    np.testing.assert_array_equal(diagonal.loc, mix.loc)
    assert diagonal.upper is None
    isotropic = mdn.GaussianHead(num_components=k, dim=d).mixture(raw[:10])
    np.testing.assert_array_equal(isotropic.log_scale, rows[1])
    np.testing.assert_array_equal(isotropic.loc, rows[2:5].T)
    assert isotropic.upper is None


@pytest.mark.parametrize("kind", KINDS)
def test_raw_is_the_inverse_of_mixture(kind):
    head = mdn.GaussianHead(num_components=4, dim=3, covariance=kind)
    raw = np.random.default_rng(0).normal(size=(2, 5, head.num_outputs)).astype(np.float32)
    meaning = jax.jit(head.mixture)
    mix = meaning(raw)
    assert mix.batch_shape == (2, 5)
    back = jax.jit(head.raw)(mix)
    assert back.shape == raw.shape
    np.testing.assert_array_equal(back[..., 4:], raw[..., 4:])
    np.testing.assert_allclose(back[..., :4], mix.log_weights, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(meaning(back)), jax.tree.leaves(mix), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    # A density of the user's own, through a head.
    covariance = np.broadcast_to(np.diag([1.0, 4.0, 9.0]) + 0.5, (4, 3, 3))
    scale = {"isotropic": np.ones(4), "diagonal": np.ones((4, 3)), "full": covariance}[kind]

    @jax.jit
    def both(loc, scale, weights, y):
        own = getattr(mdn.GaussianMixture, kind)(loc, scale, weights=weights)
        return head.nll(head.raw(own), y), -mdn.log_prob(own, y)

    own = np.eye(4, 3), scale, np.array([1, 2, 3, 4])
    np.testing.assert_allclose(*both(*own, np.ones(3, np.float32)), rtol=1e-6)


def test_heads_are_constants():
    """Hashable, equal by value, one trace for equal heads; they pickle and copy."""

    def stroke(k):
        offset = mdn.GaussianHead(num_components=k, dim=2, covariance="full")
        return mdn.ProductHead(offset=offset, pen_up=mdn.BernoulliHead())

    assert stroke(3) == stroke(3)
    assert hash(stroke(3)) == hash(stroke(3))
    assert stroke(3) != stroke(4)
    assert len({stroke(3), stroke(3), mdn.BernoulliHead(), mdn.BernoulliHead()}) == 2
    one, other = mdn.BernoulliHead(), mdn.GaussianHead(num_components=1, dim=1)
    assert mdn.ProductHead(a=one, b=other) != mdn.ProductHead(b=other, a=one)
    for head in (stroke(3), one, other):
        assert isinstance(head, mdn.Head)
        assert pickle.loads(pickle.dumps(head)) == head
        assert copy.deepcopy(head) == head
        with pytest.raises(AttributeError):
            head.new = 1

    traced = jax.jit(chex.assert_max_traces(mdn.nll, n=1), static_argnums=0)
    y = {"offset": jnp.zeros((5, 2)), "pen_up": jnp.zeros(5)}
    for _ in range(3):
        assert traced(stroke(3), jnp.zeros((5, 19)), y).shape == (5,)


def test_bernoulli_is_scipys():
    head, raw = mdn.BernoulliHead(), np.linspace(-80, 80, 33)[:, None]
    p = head.probability(raw)
    assert p.shape == (33,)
    np.testing.assert_allclose(p, scipy.special.expit(raw[:, 0]), rtol=1e-5)
    for y in (0, 1):
        # SciPy through log-sigmoids, since p itself is 0 or 1 at the ends.
        expected = np.logaddexp(0, (1 - 2 * y) * raw[:, 0])
        np.testing.assert_allclose(nll(head, raw, np.full(33, y)), expected, rtol=1e-6, atol=1e-37)
    moderate = np.linspace(-3, 3, 7)[:, None]
    q = scipy.special.expit(moderate[:, 0])
    for y in (0.0, 1.0):
        expected = -scipy.stats.bernoulli.logpmf(y, q)
        np.testing.assert_allclose(nll(head, moderate, y), expected, rtol=1e-5)
    soft = 0.25 * np.logaddexp(0, -moderate[:, 0]) + 0.75 * np.logaddexp(0, moderate[:, 0])
    np.testing.assert_allclose(nll(head, moderate, 0.25), soft, rtol=1e-6)
    # Flax's example VAE gave NaN here.
    assert float(nll(head, jnp.array([90.0]), 1.0)) == pytest.approx(
        np.exp(-90), rel=1e-5, abs=1e-38
    )
    assert float(nll(head, jnp.array([104.0]), 1.0)) == 0
    assert nll(head, jnp.zeros((3, 1, 1)), np.array([True, False])).shape == (3, 2)
    assert nll(head, jnp.zeros(1, jnp.bfloat16), 1).dtype == jnp.float32


def test_a_product_is_a_sum_of_nats():
    offset = mdn.GaussianHead(num_components=3, dim=2, covariance="full")
    head = mdn.ProductHead(offset=offset, pen_up=mdn.BernoulliHead())
    assert head.num_outputs == 19
    assert head["offset"] is offset
    raw = np.random.default_rng(0).normal(size=(7, 19)).astype(np.float32)
    pieces = head.split(raw)
    assert list(pieces) == ["offset", "pen_up"]
    np.testing.assert_array_equal(pieces["offset"], raw[:, :18])
    np.testing.assert_array_equal(pieces["pen_up"], raw[:, 18:])
    y = {"pen_up": np.arange(7) % 2, "offset": np.ones((7, 2), np.float32)}  # any order
    expected = nll(offset, raw[:, :18], y["offset"]) + nll(
        mdn.BernoulliHead(), raw[:, 18:], y["pen_up"]
    )
    np.testing.assert_allclose(nll(head, raw, y), expected, rtol=1e-6)
    np.testing.assert_allclose(nll(head, raw, y), expected, rtol=1e-6)
    nested = mdn.ProductHead(point=head, again=head)
    both = nll(nested, np.concatenate([raw, raw], axis=1), {"point": y, "again": y})
    np.testing.assert_allclose(both, 2 * expected, rtol=1e-6)


def test_targets_of_a_product_may_have_batches_of_different_rank():
    head = mdn.ProductHead(a=mdn.BernoulliHead(), b=mdn.BernoulliHead())
    raw = np.random.default_rng(0).normal(size=(4, 2))
    a, b = np.array([0.0, 1.0, 1.0, 0.0]), np.array([[0.0], [1.0], [1.0]])
    parts = np.logaddexp(0, raw) - raw * np.stack([a, np.ones(4)], axis=1)
    expected = parts[:, 0] + np.where(b == 1, parts[:, 1], np.logaddexp(0, raw[:, 1]))
    np.testing.assert_allclose(head.nll(raw, {"a": a, "b": b}), expected, rtol=1e-5)


def test_any_head_will_do():
    """The protocol is all that `nll` and `nll_gradient` ask for."""

    class Laplace:
        num_outputs = 1

        def nll(self, raw, y):
            return jnp.abs(y - raw[..., 0]) + jnp.log(2.0)

    assert isinstance(Laplace(), mdn.Head)
    raw, y = jnp.zeros((4, 1)), jnp.array([1.0, -1.0, 2.0, -2.0])
    np.testing.assert_allclose(mdn.nll(Laplace(), raw, y), np.abs(y) + np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(mdn.nll_gradient(Laplace(), raw, y)[:, 0], [-1, 1, -1, 1])
    product = mdn.ProductHead(a=Laplace(), b=mdn.BernoulliHead())
    assert product.nll(jnp.zeros((4, 2)), {"a": y, "b": jnp.zeros(4)}).shape == (4,)

    class Broken(Laplace):
        def nll(self, raw, y):
            return jnp.where(y > 0, jnp.inf, jnp.nan) + raw[..., 0]

    # What a part of one's own returns is not hidden.
    product = mdn.ProductHead(a=Broken(), b=mdn.BernoulliHead())
    values = product.nll(jnp.zeros((4, 2)), {"a": y, "b": jnp.zeros(4)})
    np.testing.assert_array_equal(values, [np.inf, np.nan, np.inf, np.nan])


def test_errors_name_function_argument_got_and_expected(without_jaxtyping):
    for bad in (0, -1, 1.5, None):
        with pytest.raises(
            ValueError, match=f"GaussianHead: num_components .* int >= 1, got {bad}"
        ):
            mdn.GaussianHead(num_components=bad, dim=1)
        with pytest.raises(ValueError, match=f"GaussianHead: dim must be an int >= 1, got {bad}"):
            mdn.GaussianHead(num_components=1, dim=bad)
    with pytest.raises(ValueError, match=r"GaussianHead: covariance must be one of .*, got 'tied'"):
        mdn.GaussianHead(num_components=1, dim=1, covariance="tied")
    with pytest.raises(TypeError):
        mdn.GaussianHead(3, 1)

    head, raw = mdn.GaussianHead(num_components=2, dim=1), jnp.zeros((4, 7))
    for f in (head.mixture, lambda raw: head.nll(raw, jnp.zeros((4, 1)))):
        with pytest.raises(ValueError, match=r"GaussianHead\.\w+: raw .*\[\.\.\., 6\].*\(4, 7\)"):
            f(raw)
        with pytest.raises(ValueError, match=r"raw must be \[\.\.\., 6\].*got shape \(\)"):
            f(jnp.zeros(()))
    wrong = mdn.GaussianMixture.isotropic(jnp.zeros((3, 1)), jnp.ones(3))
    with pytest.raises(ValueError, match=r"GaussianHead\.raw: mix must be .*2, 1.*got .*3, 1"):
        head.raw(wrong)

    bernoulli = mdn.BernoulliHead()
    for f in (bernoulli.probability, lambda raw: bernoulli.nll(raw, jnp.zeros(4))):
        with pytest.raises(ValueError, match=r"BernoulliHead\.\w+: raw .*\[\.\.\., 1\].*\(4, 7\)"):
            f(raw)
    with pytest.raises(
        ValueError, match=r"BernoulliHead\.nll: the batch shapes .*\(4,\) and \(3,\)"
    ):
        bernoulli.nll(jnp.zeros((4, 1)), jnp.zeros(3))

    with pytest.raises(ValueError, match="ProductHead: parts must be at least one head"):
        mdn.ProductHead()
    with pytest.raises(ValueError, match="ProductHead: a must be a head, got 3"):
        mdn.ProductHead(a=3)
    product = mdn.ProductHead(a=head, b=bernoulli)
    y = {"a": jnp.zeros((4, 1)), "b": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"ProductHead\.split: raw .*\[\.\.\., 7\].*\(4, 6\)"):
        product.nll(jnp.zeros((4, 6)), y)
    with pytest.raises(
        ValueError, match=r"ProductHead\.nll: y must be .*'a', 'b'.* got keys \['a'\]"
    ):
        product.nll(raw, {"a": y["a"]})
    with pytest.raises(ValueError, match=r"ProductHead\.nll: y must be a mapping .* got tuple"):
        product.nll(raw, (y["a"], y["b"]))
