"""Raw outputs with the batch behind: what rows give, with any batch, any head, any number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn

EXTREMES = np.float32([0, 1e-38, 1e-20, 1, 30, 90, 1e4, 1e19, 3e38])


@functools.partial(jax.jit, static_argnums=0)
def on_columns(head, raw, y):
    """Nats of rows, which go in as columns, and their derivatives, as rows."""
    nats, pull_back = jax.vjp(lambda raw, y: head.nll_columns(raw.T, y.T), raw, y)
    return nats, *pull_back(jnp.ones_like(nats))


@functools.partial(jax.jit, static_argnums=0)
def on_rows(head, raw, y):
    nats, pull_back = jax.vjp(head.nll, raw, y)
    return nats, *pull_back(jnp.ones_like(nats))


@pytest.mark.parametrize(
    ("kind", "k", "dim"), [("isotropic", 9, 2), ("diagonal", 3, 4), ("full", 3, 2), ("full", 2, 17)]
)
def test_numbers_of_any_size_are_what_they_are_on_rows(kind, k, dim):
    """Finite and saturated alike; rows are held to float64 in test_mixtures_finite.py."""
    head = mdn.GaussianHead(num_components=k, dim=dim, covariance=kind)
    rng = np.random.default_rng(k)
    rows = rng.choice(np.concatenate([EXTREMES, -EXTREMES]), (2000, head.num_outputs + dim))
    ordinary = rng.normal(size=rows.shape).astype(np.float32)
    rows = np.where(rng.random(rows.shape) < rng.random((2000, 1)), rows, ordinary)
    raw, y = rows[:, : head.num_outputs], rows[:, head.num_outputs :]
    raw[::7, 0] = -np.inf
    raw[::40, :k] = -np.inf
    found, expected = on_columns(head, raw, y), on_rows(head, raw, y)
    for its, theirs in zip(found, expected, strict=True):
        assert np.isfinite(its).all()
        np.testing.assert_allclose(its, theirs, rtol=1e-4, atol=1e-6)


def test_nan_in_nan_out():
    head = mdn.GaussianHead(num_components=3, dim=2, covariance="full")
    raw = np.random.default_rng(0).normal(size=(head.num_outputs + 1, head.num_outputs))
    raw[np.arange(head.num_outputs), np.arange(head.num_outputs)] = np.nan
    nats, *_ = on_columns(head, raw.astype(np.float32), np.zeros((len(raw), 2), np.float32))
    np.testing.assert_array_equal(np.isnan(nats), [True] * head.num_outputs + [False])


def test_batches_broadcast_and_have_any_rank():
    """Against SciPy."""
    head = mdn.GaussianHead(num_components=1, dim=2)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(4, 2, 1, 3)).astype(np.float32)
    y = rng.normal(size=(2, 5, 1)).astype(np.float32)
    nats = jax.jit(head.nll_columns)(raw, y)
    assert nats.shape == (2, 5, 3)
    _, log_scale, *loc = raw
    expected = -sum(scipy.stats.norm.logpdf(y[d], loc[d], np.exp(log_scale)) for d in range(2))
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    one = jax.jit(head.nll_columns)(raw[:, 0, 0, 0], y[:, 0, 0])
    assert one.shape == ()
    np.testing.assert_allclose(one, expected[0, 0, 0], rtol=1e-5)
    none = jax.jit(head.nll_columns)(np.zeros((4, 0), np.float32), np.zeros((2, 0)))
    assert none.shape == (0,)
    assert jax.eval_shape(head.nll_columns, raw.astype(jnp.bfloat16), y).dtype == jnp.float32


def test_a_product_of_heads():
    head = mdn.ProductHead(
        offset=mdn.GaussianHead(num_components=3, dim=2, covariance="full"),
        pen_up=mdn.BernoulliHead(),
    )
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(2, 7, 19)).astype(np.float32)
    offset = rng.normal(size=(2, 7, 2)).astype(np.float32)
    pen_up = (rng.random((2, 7)) < 0.5).astype(np.float32)
    assert isinstance(head, mdn.ColumnsHead)

    @jax.jit
    def both(raw, offset, pen_up):
        y = {"offset": jnp.moveaxis(offset, -1, 0), "pen_up": pen_up}
        columns = head.nll_columns(jnp.moveaxis(raw, -1, 0), y)
        return columns, head.nll(raw, {"offset": offset, "pen_up": pen_up})

    np.testing.assert_allclose(*both(raw, offset, pen_up), rtol=1e-6)


def test_errors_name_function_argument_got_and_expected(without_jaxtyping):
    head = mdn.GaussianHead(num_components=2, dim=1)
    for raw in (jnp.zeros((4, 6)), jnp.zeros(())):
        with pytest.raises(ValueError, match=r"GaussianHead\.nll_columns: raw .*\[6, \.\.\.\]"):
            head.nll_columns(raw, jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"nll_columns: y .*\[1, \.\.\.\].*got shape \(4, 1\)"):
        head.nll_columns(jnp.zeros((6, 4)), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"nll_columns: the batch .* \(4,\) and \(3,\)"):
        head.nll_columns(jnp.zeros((6, 4)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"BernoulliHead\.nll_columns: raw .*\[1, \.\.\.\]"):
        mdn.BernoulliHead().nll_columns(jnp.zeros((4, 1)), jnp.zeros(4))

    class Laplace:
        num_outputs = 1

        def nll(self, raw, y):
            return jnp.abs(y - raw[..., 0]) + jnp.log(2.0)

    product = mdn.ProductHead(a=Laplace(), b=head)
    y = {"a": jnp.zeros(4), "b": jnp.zeros((1, 4))}
    with pytest.raises(ValueError, match=r"ProductHead\.nll_columns: a must be a head with"):
        product.nll_columns(jnp.zeros((7, 4)), y)
    with pytest.raises(ValueError, match=r"ProductHead\.nll_columns: raw .*\[7, \.\.\.\]"):
        product.nll_columns(jnp.zeros((4, 7)), y)
    with pytest.raises(ValueError, match=r"ProductHead\.nll_columns: y must be a mapping"):
        product.nll_columns(jnp.zeros((7, 4)), ())
