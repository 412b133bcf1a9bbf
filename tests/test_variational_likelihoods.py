"""Likelihood heads against SciPy, sums over all levels, and mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn
from mdnjax.variational import CategoricalHead, DiscretizedLogisticHead, NormalHead

GREY = DiscretizedLogisticHead(num_components=3)
COLOUR = DiscretizedLogisticHead(num_components=2, num_channels=3, num_levels=4)
jitted_nll = jax.jit(mdn.nll, static_argnums=0)
HEADS = [NormalHead(scale=0.3), NormalHead(), CategoricalHead(num_classes=5), GREY, COLOUR]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_a_head_is_a_head(head):
    assert isinstance(head, mdn.Head)
    assert hash(head) == hash(type(head)(**head.__dict__))


def test_a_normal_keeps_the_half_and_the_scale():
    raw = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    expected = -scipy.stats.norm(raw[..., 0], np.exp(raw[..., 1])).logpdf(y)
    np.testing.assert_allclose(mdn.nll(NormalHead(), raw, y), expected, rtol=2e-6)
    expected = -scipy.stats.norm(raw[..., 0], 0.3).logpdf(y)
    np.testing.assert_allclose(mdn.nll(NormalHead(scale=0.3), raw[..., :1], y), expected, rtol=2e-6)


def test_squared_error_is_the_normal_of_one_scale():
    """The lecture's loss, and what it hides: sigma^2 = 1/2 and a constant."""
    raw, y = np.linspace(-3, 3, 7, dtype=np.float32)[:, None], np.ones(7, np.float32)
    nats = NormalHead(scale=2**-0.5).nll(raw, y)
    np.testing.assert_allclose(nats - 0.5 * np.log(np.pi), (raw[:, 0] - 1) ** 2, rtol=1e-5)


def test_a_normal_is_finite_and_its_samples_are_its_own():
    extreme = np.array([3e38, -3e38, 0.0, 1.0, 100.0, -100.0], np.float32)
    raw = np.stack(np.meshgrid(extreme, extreme), axis=-1).reshape(-1, 2)

    def nats(raw):
        return NormalHead().nll(raw, np.float32(-3e38))

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(nats)))(raw)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    raw = np.broadcast_to(np.array([2.0, -1.0], np.float32), (100_000, 2))
    drawn = jax.jit(NormalHead().sample)(jax.random.key(0), raw)
    assert scipy.stats.kstest(drawn, scipy.stats.norm(2, np.exp(-1)).cdf).pvalue > 1e-4
    np.testing.assert_array_equal(NormalHead().loc(raw), 2)
    np.testing.assert_allclose(NormalHead(scale=0.5).log_scale(raw[:, :1]), np.log(0.5))


def test_classes():
    head = CategoricalHead(num_classes=5)
    raw = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32) * 3
    y = np.array([0, 4, 2, 1, 3, 3])
    log_p = scipy.special.log_softmax(raw.astype(float), axis=-1)
    np.testing.assert_allclose(head.log_probabilities(raw), log_p, rtol=1e-5)
    np.testing.assert_allclose(head.nll(raw, y), -log_p[np.arange(6), y], rtol=1e-5)
    np.testing.assert_allclose(head.nll(raw[:1], y), -log_p[0, y], rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(head.nll(raw[:3], np.array([-1, 5, 4]))), [1, 1, 0])
    impossible = jnp.array([0.0, -jnp.inf, 0.0, 0.0, 0.0])
    slope = jax.jit(jax.grad(lambda raw: head.nll(raw, 0)))(impossible)
    np.testing.assert_allclose(slope, [-0.75, 0, 0.25, 0.25, 0.25], rtol=1e-6)
    drawn = jax.jit(head.sample)(jax.random.key(0), np.broadcast_to(raw[0], (100_000, 5)))
    counts = np.bincount(drawn, minlength=5)
    assert scipy.stats.chisquare(counts, 100_000 * np.exp(log_p[0])).pvalue > 1e-4


def test_all_levels_of_a_pixel_sum_to_one():
    raw = np.random.default_rng(3).normal(size=(7, 9)).astype(np.float32) * 3
    total = np.exp(-jitted_nll(GREY, raw[:, None], np.arange(256)[:, None])).sum(-1)
    np.testing.assert_allclose(total, 1, rtol=2e-5)
    raw = np.random.default_rng(4).normal(size=(5, COLOUR.num_outputs)).astype(np.float32)
    colours = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    total = np.exp(-jitted_nll(COLOUR, raw[:, None], colours)).sum(-1)
    np.testing.assert_allclose(total, 1, rtol=2e-5)


def exact_grey(raw, y):
    """-log p of one pixel with 60 digits."""
    with mpmath.workdps(60):
        logits, loc, log_scale = ([mpmath.mpf(float(x)) for x in row] for row in raw.reshape(3, 3))
        half, x = mpmath.mpf(1) / 255, 2 * mpmath.mpf(int(y)) / 255 - 1
        total = mpmath.fsum(mpmath.exp(a) for a in logits)

        def difference(a, b):
            """S(a) - S(b), of the tails where both are near 1."""
            a, b = (-b, -a) if a + b > 0 else (a, b)
            return 1 / (1 + mpmath.exp(-a)) - 1 / (1 + mpmath.exp(-b))

        p = mpmath.mpf(0)
        for a, m, s in zip(logits, loc, log_scale, strict=True):
            above = mpmath.inf if y == 255 else (x + half - m) / mpmath.exp(s)
            below = -mpmath.inf if y == 0 else (x - half - m) / mpmath.exp(s)
            p += mpmath.exp(a) / total * difference(above, below)
        return float(-mpmath.log(p))


@pytest.mark.parametrize("spread", [1.0, 6.0, 15.0])
def test_log_probabilities_are_exact_however_small(spread):
    """From widths of 1e-7 of a level's to 1e7: p down to exp(-1e6), where 1 - p rounds to 1."""
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(60, 9)).astype(np.float32)
    raw[:, 6:] = rng.uniform(-spread, min(spread, 8), (60, 3))
    y = rng.choice([0, 1, 100, 254, 255], 60)
    expected = [exact_grey(*pixel) for pixel in zip(raw, y, strict=True)]
    np.testing.assert_allclose(jitted_nll(GREY, raw, y[:, None]), expected, rtol=2e-4, atol=2e-6)


def test_every_finite_pixel_is_finite_with_its_gradient():
    extreme = np.array([3e38, -3e38, 90.0, -90.0, 0.0, 1e-30], np.float32)
    rng = np.random.default_rng(6)
    raw = rng.choice(extreme, (400, COLOUR.num_outputs))
    y = rng.integers(0, 4, (400, 3))
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(COLOUR.nll)))(raw, y)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()


def test_the_channels_before_are_seen(x64):
    """K = 1: p(y) = p(y_1) p(y_2 | y_1) p(y_3 | y_1, y_2), by SciPy's logistic."""
    head = DiscretizedLogisticHead(num_components=1, num_channels=3)
    raw = np.array([0.0, 0.1, -0.2, 0.3, -2.0, -1.5, -2.5, 0.7, -0.4, 1.1])
    y = np.array([30, 140, 200])
    x, link = 2 * y / 255 - 1, np.tanh(raw[7:])
    m = raw[1:4] + np.array([0, link[0] * x[0], link[1] * x[0] + link[2] * x[1]])
    s = scipy.stats.logistic(m, np.exp(raw[4:7]))
    expected = -np.log(s.cdf(x + 1 / 255) - s.cdf(x - 1 / 255)).sum()
    np.testing.assert_allclose(jitted_nll(head, raw, y), expected, rtol=1e-10)


def test_pixels_drawn_are_as_likely_as_they_say():
    raw = np.random.default_rng(7).normal(size=COLOUR.num_outputs).astype(np.float32)
    drawn = jax.jit(COLOUR.sample)(jax.random.key(0), np.broadcast_to(raw, (200_000, raw.size)))
    colours = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    counts = np.bincount(np.ravel_multi_index(np.asarray(drawn).T, (4, 4, 4)), minlength=64)
    p = np.exp(-np.asarray(jitted_nll(COLOUR, raw[None], colours), float))
    assert scipy.stats.chisquare(counts, 200_000 * p / p.sum()).pvalue > 1e-4


def test_a_bernoulli_is_finite_at_any_logit():
    """Where log(sigmoid) is taken in two steps, a logit of 90 makes NaN."""
    raw = np.array([[90.0], [-90.0], [1e30], [-3e38]], np.float32)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(mdn.BernoulliHead().nll)))(raw, np.zeros(4))
    np.testing.assert_allclose(value, [90, 0, 1e30, 0], atol=1e-30)
    np.testing.assert_allclose(slope[:, 0], [1, 0, 1, 0], atol=1e-30)


def test_what_is_no_level_is_not_a_number():
    levels = np.array([[0.0], [255.0], [-1.0], [256.0], [0.5]])
    np.testing.assert_array_equal(
        np.isnan(jitted_nll(GREY, np.zeros(9, np.float32), levels)), [0, 0, 1, 1, 1]
    )


def test_what_does_not_fit_is_named(without_jaxtyping):
    for make, message in (
        (lambda: NormalHead(scale=0.0), "NormalHead: scale must be a positive number, or None"),
        (
            lambda: CategoricalHead(num_classes=0),
            "CategoricalHead: num_classes must be an int",
        ),
        (
            lambda: DiscretizedLogisticHead(num_components=1, num_levels=1),
            "DiscretizedLogisticHead: num_levels must be an int >= 2, got 1",
        ),
        (
            lambda: NormalHead().nll(jnp.zeros((3, 1)), jnp.zeros(3)),
            r"NormalHead.nll: raw must be \[..., 2\] .*got shape \(3, 1\)",
        ),
        (
            lambda: CategoricalHead(num_classes=3).nll(jnp.zeros((4, 3)), jnp.zeros(5, int)),
            "CategoricalHead.nll: the batch shapes of raw and y must broadcast",
        ),
        (
            lambda: COLOUR.nll(jnp.zeros((4, COLOUR.num_outputs)), jnp.zeros((4, 1))),
            r"DiscretizedLogisticHead.nll: y must be \[..., 3\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
