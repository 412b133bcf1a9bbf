"""Autoencoders whose answers are known: of linear maps and Gaussians log p(x) is a Gaussian's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

import mdnjax as mdn
from mdnjax import nets, training, variational

SCALE = 0.5  # of p(x | z)
B, C, A = 1.5, -0.8, 0.7  # x = B z + C y + noise; z = A times what is above, + noise
X = np.float32([[-1.0], [0.3], [2.5]])
Y = np.float32([[0.5], [-2.0], [1.0]])


def linear(weights, outputs, biases=0.0):
    """A linear network with these weights `[F, P]`; `outputs` as for `MLP`."""
    weights = np.float32(weights)
    network = nets.MLP(weights.shape[0], (), outputs, rngs=nnx.Rngs(0))
    network.output.kernel[...] = jnp.asarray(weights)
    network.output.bias[...] = jnp.broadcast_to(jnp.float32(biases), weights.shape[1:])
    return network


def posterior(slope, scale, prior_scale=1.0):
    """(gain, deviation) of q(z | x): x = slope z + noise, z = 0 + noise."""
    precision = prior_scale**-2 + (slope / scale) ** 2
    return slope / scale**2 / precision, precision**-0.5


def exact():
    """One latent number and its exact encoder: p(x) = N(0, B^2 + SCALE^2)."""
    gain, deviation = posterior(B, SCALE)
    return nets.VAE(
        linear([[gain, 0]], 2, [0, np.log(deviation)]),
        linear([[B]], (1, 1)),
        variational.NormalHead(scale=SCALE),
        latent_dim=1,
        rngs=nnx.Rngs(0),
    )


def deep():
    """z2 ~ N(0, 1), z1 ~ N(A z2, 0.6^2), x ~ N(B z1, SCALE^2), each with its exact encoder."""
    within = 0.6
    gain, deviation = posterior(A, within)
    upper = nets.VAE(
        linear([[gain, 0]], 2, [0, np.log(deviation)]),
        linear([[A, 0]], (1, 2), [0, np.log(within)]),
        variational.NormalHead(),
        latent_dim=1,
        rngs=nnx.Rngs(1),
    )
    spread = np.hypot(A, within)
    gain, deviation = posterior(B, SCALE, spread)
    lower = nets.VAE(
        linear([[gain, 0]], 2, [0, np.log(deviation)]),
        linear([[B]], (1, 1)),
        variational.NormalHead(scale=SCALE),
        latent_dim=1,
        prior=upper,
        rngs=nnx.Rngs(0),
    )
    return lower, np.hypot(B * spread, SCALE)


def conditional():
    """z ~ N(A y, 0.6^2), x ~ N(B z + C y, SCALE^2), with the exact encoder."""
    within = 0.6
    gain, deviation = posterior(B, SCALE, within)
    # E[z | x, y] = A y + gain (x - (B A + C) y)
    rngs = nnx.Rngs(0)
    prior = nets.NormalPrior(linear([[A, 0]], 2, [0, np.log(within)]), rngs=rngs)
    return nets.ConditionalVAE(
        linear([[gain, 0], [A - gain * (B * A + C), 0]], 2, [0, np.log(deviation)]),
        linear([[B], [C]], (1, 1)),
        variational.NormalHead(scale=SCALE),
        latent_dim=1,
        prior=prior,
        rngs=rngs,
    ), (B * A + C, np.hypot(B * within, SCALE))


def call(module, method, *inputs, key=0):
    net = nets.functional(module, method)
    compiled = jax.jit(lambda params, key: net.apply(params, net.state, *inputs, key=key)[0])
    return compiled(net.params, jax.random.key(key))


def test_with_the_exact_encoder_every_weight_is_log_p():
    weights = call(exact(), "log_weights", X, 7)
    expected = scipy.stats.norm.logpdf(X[:, 0], 0, np.hypot(B, SCALE))
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (7, 3)), rtol=2e-5)


def test_two_stochastic_layers_with_exact_encoders_give_log_p_too():
    vae, scale = deep()
    expected = scipy.stats.norm.logpdf(X[:, 0], 0, scale)
    weights = call(vae, "log_weights", X, 5)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (5, 3)), rtol=2e-5)
    terms = call(vae, "terms", X)
    assert terms.kl.shape == (3, 1)
    np.testing.assert_allclose(terms.log_likelihood - terms.kl[:, 0], expected, rtol=2e-5)
    samples = call(vae, "sample", (20_000,))
    assert samples.shape == (20_000, 1)
    assert abs(samples.std() / scale - 1) < 4 / np.sqrt(2 * 20_000)


def test_a_conditional_one_with_the_exact_encoder_gives_log_p_of_x_given_y():
    vae, (slope, scale) = conditional()
    expected = scipy.stats.norm.logpdf(X[:, 0], slope * Y[:, 0], scale)
    weights = call(vae, "log_weights", X, Y, 5)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (5, 3)), rtol=2e-5)


@pytest.mark.parametrize("kind", ["plain", "conditional"])
def test_terms_are_the_exact_divergence_and_on_average_the_bound(kind):
    if kind == "plain":
        vae, given, prior = exact(), (), (0.0, 1.0)
    else:
        vae, _ = conditional()
        given, prior = (Y,), (A * Y[:, 0], 0.6)
    net = nets.functional(vae, "terms")
    terms = jax.jit(jax.vmap(lambda key: net.apply(net.params, {}, X, *given, key=key)[0]))(
        jax.random.split(jax.random.key(0), 4000)
    )
    q = call(vae, "encode", X, *given)
    mean, deviation = np.float64(q.loc[:, 0]), np.exp(np.float64(q.log_scale[:, 0]))
    kl = np.log(prior[1] / deviation) - 0.5
    kl = kl + (deviation**2 + (mean - prior[0]) ** 2) / (2 * prior[1] ** 2)
    np.testing.assert_allclose(terms.kl[0, :, 0], kl, rtol=1e-5)
    log_p = call(vae, "log_weights", X, *given, 1)[0]  # that of every sample
    error = terms.log_likelihood.std(0) / np.sqrt(4000)
    difference = terms.log_likelihood.mean(0) - terms.kl[0, :, 0] - log_p
    assert np.all(np.abs(difference) < 4.5 * error)


def small(prior=None, **options):
    rngs = nnx.Rngs(0)
    return nets.VAE(
        nets.MLP(6, (5,), 4, rngs=rngs),
        nets.MLP(2, (5,), (6, 1), rngs=rngs),
        mdn.BernoulliHead(),
        **{"latent_dim": 2, "prior": prior, "rngs": rngs, **options},
    )


BITS = np.random.default_rng(0).random((4, 6)) < 0.4


def test_the_doubly_reparameterised_bound_has_the_importance_weighted_value():
    vae = small()
    plain = variational.iwae_bound(call(vae, "log_weights", BITS, 8))
    np.testing.assert_allclose(call(vae, "dreg_bound", BITS, 8), plain, rtol=1e-6)


def test_the_doubly_reparameterised_gradient_of_the_decoder_is_the_plain_one():
    vae = small()
    key = jax.random.key(3)

    def slopes(method):
        net = nets.functional(vae, method)

        def bound(params):
            found = net.apply(params, {}, BITS, 8, key=key)[0]
            return jnp.sum(found if method == "dreg_bound" else variational.iwae_bound(found))

        return jax.jit(jax.grad(bound))(net.params)

    plain, doubly = slopes("log_weights"), slopes("dreg_bound")
    for name in ("layers", "output"):
        for a, b in zip(
            *(jax.tree.leaves(g["decoder"][name]) for g in (plain, doubly)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    kernel = [g["encoder"]["output"]["kernel"] for g in (plain, doubly)]
    assert not np.allclose(*kernel, rtol=1e-2)


def test_generation_needs_the_decoder_alone():
    vae = small()
    vae.encoder.output.kernel[...] = jnp.full((5, 4), jnp.nan)
    raw = call(vae, "generate", (3, 2))
    assert raw.shape == (3, 2, 6, 1)
    assert np.isfinite(raw).all()
    images = call(vae, "sample", (3, 2))
    assert images.shape == (3, 2, 6)
    assert set(np.unique(images)) <= {0.0, 1.0}


def test_samples_have_the_mean_that_the_decoder_says():
    vae = small(latent_dim=2)
    vae.decoder.output.bias[...] = jnp.float32([-3, -2, -1, 0, 1, 2])
    images = call(vae, "sample", (5000,))
    raw = call(vae, "generate", (5000,), key=1)
    chance = 1 / (1 + np.exp(-np.float64(raw[..., 0])))
    error = np.sqrt((chance * (1 - chance)).mean(0) * 2 / 5000)
    assert np.all(np.abs(images.mean(0) - chance.mean(0)) < 5 * error)


def test_learnt_priors_are_mixtures():
    rngs = nnx.Rngs(0)
    head = mdn.GaussianHead(num_components=3, dim=2, covariance="diagonal")
    z = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    encoder = nets.MLP(6, (5,), 4, rngs=rngs)
    pseudo = np.random.default_rng(2).random((4, 6)).astype(np.float32)
    for prior in (
        nets.MixturePrior(head, rngs=rngs),
        nets.VampPrior(encoder, jnp.asarray(pseudo), rngs=rngs),
    ):
        mix = jax.jit(lambda prior=prior: prior.mixture())()
        weights, loc = np.float64(mix.weights), np.float64(mix.loc)
        deviation = np.sqrt(np.diagonal(mix.component_covariances, axis1=-2, axis2=-1))
        each = scipy.stats.norm.pdf(z[:, None], loc, deviation).prod(-1)
        np.testing.assert_allclose(call(prior, "log_prob", z), np.log(each @ weights), rtol=1e-5)
        samples = np.asarray(call(prior, "sample", (4000,)))
        mean = weights @ loc
        spread = np.sqrt(weights @ (deviation**2 + loc**2) - mean**2)
        assert np.all(np.abs(samples.mean(0) - mean) < 5 * spread / np.sqrt(4000))
        weights = call(small(prior), "log_weights", BITS, 3)
        assert weights.shape == (3, 4)
        assert np.isfinite(weights).all()


def test_a_vamp_prior_shares_the_encoder():
    rngs = nnx.Rngs(0)
    encoder = nets.MLP(6, (5,), 4, rngs=rngs)
    prior = nets.VampPrior(encoder, jnp.zeros((4, 6)), rngs=rngs)
    vae = nets.VAE(
        encoder,
        nets.MLP(2, (5,), (6, 1), rngs=rngs),
        mdn.BernoulliHead(),
        latent_dim=2,
        prior=prior,
        rngs=rngs,
    )
    net = nets.functional(vae, "terms")
    assert sorted(net.params) == ["decoder", "encoder", "prior"]
    assert list(net.params["prior"]) == ["pseudo_inputs"]


def test_noise_is_a_function_of_the_key_and_not_to_be_had_without():
    vae = small()
    one, same, other = (call(vae, "log_weights", BITS, 2, key=k) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    net = nets.functional(vae, "terms")
    with pytest.raises(ValueError, match="key must be given"):
        net.apply(net.params, net.state, BITS)


def test_a_description_builds_an_equal_network():
    parts = {
        "encoder": training.describe(nets.MLP, in_features=6, hidden=(5,), output=4),
        "decoder": training.describe(nets.MLP, in_features=2, hidden=(5,), output=(6, 1)),
        "head": mdn.BernoulliHead(),
        "latent_dim": 2,
    }
    one, same = (
        training.build(training.describe(nets.VAE, **parts), rngs=nnx.Rngs(0)) for _ in range(2)
    )
    np.testing.assert_array_equal(call(one, "terms", BITS).kl, call(same, "terms", BITS).kl)


def test_images_with_channels_and_heads_with_several_outputs():
    rngs = nnx.Rngs(0)
    head = variational.DiscretizedLogisticHead(num_components=2, num_channels=3, num_levels=16)
    vae = nets.VAE(
        nets.ConvEncoder((6, 5, 3), (4,), 8, 4, num_levels=16, rngs=rngs),
        nets.ConvDecoder(2, 8, (4,), (6, 5, head.num_outputs), rngs=rngs),
        head,
        latent_dim=2,
        rngs=rngs,
    )
    x = np.random.default_rng(0).integers(0, 16, size=(2, 6, 5, 3))
    weights = call(vae, "log_weights", x, 3)
    z = call(vae, "encode", x).loc
    nats = jax.jit(head.nll)(call(vae, "decode", z), x)
    assert weights.shape == (3, 2)
    assert nats.shape == (2, 6, 5)
    pixels = call(vae, "sample", (7,))
    assert pixels.shape == (7, 6, 5, 3)
    assert pixels.min() >= 0
    assert pixels.max() <= 15


def test_errors(without_jaxtyping):
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"VAE: latent_dim must be at least 1, got 0"):
        small(latent_dim=0)
    with pytest.raises(ValueError, match=r"VAE: prior must be a module with log_prob and sample"):
        small(prior=nets.MLP(2, (), 1, rngs=rngs))
    with pytest.raises(ValueError, match=r"VAE: encoder must be a module with 6 outputs.*got one"):
        small(latent_dim=3).encode(BITS)
    with pytest.raises(ValueError, match=r"VAE: z must be \[\.\.\., 2\], got shape \(3, 5\)"):
        small().decode(jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"VAE: num_samples must be at least 1, got 0"):
        small().log_weights(BITS, 0)
    with pytest.raises(ValueError, match=r"VAE: decoder must be .*\[\.\.\., pixels, 1\].*\(3, 6\)"):
        nets.VAE(
            nets.MLP(6, (), 4, rngs=rngs),
            nets.MLP(2, (), 6, rngs=rngs),
            mdn.BernoulliHead(),
            latent_dim=2,
            rngs=rngs,
        ).decode(jnp.zeros((3, 2)))
    lower, _ = deep()
    with pytest.raises(ValueError, match=r"VAE\.dreg_bound: prior must be one whose density is kn"):
        lower.dreg_bound(X, 3)
    with pytest.raises(ValueError, match=r"NormalPrior: network must be an even number of outputs"):
        nets.NormalPrior(nets.MLP(1, (), 3, rngs=rngs), rngs=rngs).normal(Y)
    with pytest.raises(ValueError, match=r"MLP: inputs must be 6 wide, got widths \[5\]"):
        small().encode(BITS[:, :5])
