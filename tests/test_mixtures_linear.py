"""The layer and the loss by blocks against the plain composition, SciPy and finite differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from made_devices import on_eight_devices

import mdnjax as mdn
from mdnjax import strokes

WIDTH = 4


@dataclasses.dataclass(frozen=True)
class CategoricalHead:
    """A head from outside, with integer targets."""

    num_outputs: int

    def nll(self, raw, y):
        y = jnp.broadcast_to(y, jnp.broadcast_shapes(raw.shape[:-1], y.shape))
        picked = jax.nn.one_hot(y, self.num_outputs) * jax.nn.log_softmax(raw)
        return -jnp.sum(picked, -1)


@dataclasses.dataclass(frozen=True)
class LogisticHead:
    """Another, of float targets: for what is the loop's and no head's, since it compiles soon."""

    num_outputs: int

    def nll(self, raw, y):
        shape = jnp.broadcast_shapes(raw.shape, y.shape)
        raw, y = jnp.broadcast_to(raw, shape), jnp.broadcast_to(y, shape)
        return jnp.sum(jax.nn.softplus(raw) - y * raw, -1)


def gaussian(covariance, dim=2):
    return mdn.GaussianHead(num_components=3, dim=dim, covariance=covariance)


HEADS = {
    "isotropic": gaussian("isotropic"),
    "product": mdn.ProductHead(a=gaussian("isotropic", 1), b=mdn.BernoulliHead()),
    "strokes": mdn.ProductHead(a=gaussian("diagonal"), b=strokes.stroke_head(3)),
    "integers": CategoricalHead(5),
    "logistic": LogisticHead(3),
    "mixed": mdn.ProductHead(a=LogisticHead(2), b=CategoricalHead(3)),
}


def targets(rng, head, batch):
    """Targets of a head, in its structure."""
    if isinstance(head, mdn.ProductHead):
        return {name: targets(rng, part, batch) for name, part in head.parts}
    if isinstance(head, mdn.GaussianHead):
        return rng.normal(size=(*batch, head.dim))
    if isinstance(head, LogisticHead):
        return rng.uniform(size=(*batch, head.num_outputs))
    return (
        rng.integers(0, head.num_outputs, size=batch)
        if head.num_outputs > 1
        else (rng.uniform(size=batch))
    )


def made(head, batch=(11,), seed=0):
    """Hidden, kernel, bias, y, weight in float64, and cotangents."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, size=batch)
    weight[..., :1] = 0
    inputs = (
        rng.normal(size=(*batch, WIDTH)),
        rng.normal(size=(WIDTH, head.num_outputs)) / 2,
        rng.normal(size=head.num_outputs) / 2,
        targets(rng, head, batch),
        weight,
    )
    return jax.tree.map(jnp.asarray, inputs), jnp.asarray(rng.normal(size=batch))


def plain(head, hidden, kernel, bias, y, weight):
    raw = hidden @ kernel
    return weight * mdn.nll(head, raw + jnp.broadcast_to(bias, raw.shape), y)


def blocks(head, hidden, kernel, bias, y, weight, size=4):
    return mdn.linear_nll(head, hidden, kernel, bias, y, weight=weight, block_size=size)


def pulled_back(function, inputs):
    """Of a cotangent: the nats, and its product with their derivatives by all floats; compiled."""
    floats, merge = floating(inputs)

    @jax.jit
    def pull_back(floats, cotangent):
        nats, pull = jax.vjp(lambda floats: function(*merge(floats)), floats)
        return nats, pull(cotangent.astype(nats.dtype))[0]

    return functools.partial(pull_back, floats)


def unlike_and_alike(cotangent):
    """Of each row, and of a mean: in one shape, for one program."""
    return cotangent, np.full(np.shape(cotangent), 1 / 11)


def floating(inputs):
    """The floating leaves, and how to put others in their places."""
    leaves, structure = jax.tree.flatten(inputs)
    where = [n for n, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def merge(floats):
        merged = dict(enumerate(leaves)) | dict(zip(where, floats, strict=True))
        return jax.tree.unflatten(structure, list(merged.values()))

    return [leaves[n] for n in where], merge


def same(a, b, rtol=1e-10, atol=1e-12):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def reduced(nats, ct, sine):
    """A number of the nats: their cotangents are given, or vary with the inputs too."""
    return jnp.sum(ct * nats + sine * jnp.sin(nats))


# Diagonal, full and Bernoulli are parts of one. LogisticHead is every other test's; isotropic is
# compared with SciPy and with differences.
@pytest.mark.parametrize("name", ["strokes", "integers"])
def test_every_head_has_the_value_and_gradients_of_the_composition(name, x64):
    head = HEADS[name]
    inputs, cotangent = made(head)
    found = pulled_back(functools.partial(blocks, head), inputs)
    expected = pulled_back(functools.partial(plain, head), inputs)
    for ct in unlike_and_alike(cotangent):
        same(found(ct), expected(ct))
        assert all(np.any(np.asarray(g) != 0) for g in found(ct)[1])


def test_value_against_scipy(x64):
    head = mdn.GaussianHead(num_components=2, dim=3)
    (hidden, kernel, bias, y, weight), _ = made(head)
    raw = np.asarray(hidden) @ np.asarray(kernel) + np.asarray(bias)
    logits, log_scale, loc = np.split(raw, [2, 4], axis=1)
    joint = scipy.special.log_softmax(logits, 1)
    for k in range(2):
        normal = scipy.stats.norm(loc.reshape(-1, 3, 2)[..., k], np.exp(log_scale[:, k : k + 1]))
        joint[:, k] += normal.logpdf(np.asarray(y)).sum(1)
    expected = -weight * scipy.special.logsumexp(joint, 1)
    np.testing.assert_allclose(blocks(head, hidden, kernel, bias, y, weight), expected, rtol=1e-12)


def test_derivatives_against_finite_differences(x64):
    head = HEADS["product"]
    inputs, cotangent = made(head, (5,))
    rng = np.random.default_rng(3)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), inputs)

    @jax.jit
    def derivatives(inputs, ct, sine):
        """Value and gradient, and how both change along a line."""

        def loss(inputs):
            return reduced(blocks(head, *inputs, size=2), ct, sine)

        return jax.jvp(jax.value_and_grad(loss), (inputs,), (along,))

    h = 1e-5
    for ct, sine in ((cotangent, 0.0), (np.full(5, 1 / 5), 0.0), (np.zeros(5), 1.0)):
        (_, gradient), (slope, second) = derivatives(inputs, ct, sine)
        dots = jax.tree.map(np.vdot, along, gradient)
        np.testing.assert_allclose(sum(jax.tree.leaves(dots)), slope, rtol=1e-12)
        ahead, behind = (
            derivatives(jax.tree.map(lambda x, a, t=t: x + t * a, inputs, along), ct, sine)[0]
            for t in (h, -h)
        )
        differences = jax.tree.map(
            lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * h), ahead, behind
        )
        np.testing.assert_allclose(slope, differences[0], rtol=1e-7)
        same(second, differences[1], 1e-5, 1e-6)


def test_any_block_size_does(x64):
    head = HEADS["logistic"]
    inputs, cotangent = made(head)
    expected = pulled_back(functools.partial(plain, head), inputs)
    for size in (1, 10, 1000):
        found = pulled_back(functools.partial(blocks, head, size=size), inputs)
        for ct in unlike_and_alike(cotangent):
            same(found(ct), expected(ct))


def second_derivatives(function, head, inputs):
    """J and J^T of the gradient, and the derivative of a number made of value and gradient."""
    floats, merge = floating(inputs)
    rng = np.random.default_rng(3)
    along = [rng.normal(size=x.shape) for x in floats]

    def loss(floats, cotangent, sine):
        return reduced(function(head, *merge(floats)), cotangent, sine)

    def score(floats, cotangent, sine):
        value, grads = jax.value_and_grad(loss)(floats, cotangent, sine)
        dots = [jnp.vdot(a, g) for a, g in zip(along, grads, strict=True)]
        return jnp.sin(value) * functools.reduce(jnp.add, dots)

    @jax.jit
    def derivatives(floats, cotangent, sine):
        gradient = functools.partial(jax.grad(loss), cotangent=cotangent, sine=sine)
        forward_over_reverse = jax.jvp(gradient, (floats,), (along,))
        reverse_over_reverse = jax.vjp(gradient, floats)[1](along)
        return (
            forward_over_reverse,
            reverse_over_reverse,
            jax.grad(score, (0, 1))(floats, cotangent, sine),
        )

    return functools.partial(derivatives, floats)


def test_second_derivatives_in_every_order(x64):
    head = HEADS["mixed"]
    inputs, cotangent = made(head)
    found, expected = (second_derivatives(function, head, inputs) for function in (blocks, plain))
    # Equal cotangents: the sums are rescaled, and yet they vary with each cotangent on its own.
    for ct, sine in ((cotangent, 0.0), (np.full(11, 0.7), 0.0), (np.zeros(11), 1.0)):
        same(found(ct, sine), expected(ct, sine), 1e-9, 1e-10)


def test_third_derivatives(x64):
    head = HEADS["logistic"]
    (hidden, kernel, bias, y, weight), cotangent = made(head)

    def third(function):
        def along(t):
            nats = function(head, hidden, kernel + t * jnp.cos(kernel), bias, y, weight)
            return jnp.sum(jnp.full_like(cotangent, 0.3) * nats)

        return jax.jit(jax.grad(jax.grad(jax.grad(along))))(0.1)

    np.testing.assert_allclose(third(blocks), third(plain), rtol=1e-9)


def test_forward_mode_is_refused_by_blocks_and_right_for_the_whole(x64):
    head = HEADS["logistic"]
    inputs, _ = made(head)
    tangents = jax.tree.map(jnp.cos, inputs)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(functools.partial(blocks, head), inputs, tangents)
    whole, expected = functools.partial(blocks, head, size=11), functools.partial(plain, head)
    same(*(jax.jit(jax.jvp, static_argnums=0)(f, inputs, tangents) for f in (whole, expected)))


def test_only_what_is_asked_for_is_computed():
    head = HEADS["isotropic"]
    (hidden, kernel, bias, y, weight), _ = made(head)

    def products(function, *args):
        return str(jax.make_jaxpr(function)(*args)).count("= dot_general[")

    def loss(hidden, kernel, bias, y):
        return jnp.sum(blocks(head, hidden, kernel, bias, y, weight))

    args = (hidden, kernel, bias, y)
    # The products over no rows, with which sums begin, are counted too: raw outputs, and dW.
    begin = 1
    assert products(loss, *args) == 1 + begin
    assert products(jax.grad(loss, 0), *args) == 2 + begin
    assert products(jax.grad(loss, 3), *args) == 1 + begin
    # The layer's: raw outputs and dW, and both again in the branch of unlike cotangents.
    assert products(jax.grad(loss, (1, 2)), *args) == 2 * (2 + begin + 1)
    assert products(jax.grad(loss, (0, 1, 2)), *args) == 3 + begin + 1 + (2 + begin + 1)


def test_the_derivative_by_one_argument_alone(x64):
    head = HEADS["logistic"]
    inputs, cotangent = made(head)

    def loss(function, *inputs):
        return jnp.sum(cotangent * function(head, *inputs))

    @jax.jit
    def one_by_one(*inputs):
        return tuple(jax.grad(functools.partial(loss, blocks), n)(*inputs) for n in range(5))

    together = jax.jit(jax.grad(functools.partial(loss, plain), range(5)))
    same(one_by_one(*inputs), together(*inputs))


@dataclasses.dataclass(frozen=True)
class CountingHead:
    """A head that says when it is evaluated."""

    inner: mdn.GaussianHead
    calls: list = dataclasses.field(compare=False)

    @property
    def num_outputs(self):
        return self.inner.num_outputs

    def nll(self, raw, y):
        if raw.size:
            jax.debug.callback(lambda _: self.calls.append(1), raw.sum())
        return self.inner.nll(raw, y)


def test_sums_are_formed_anew_only_for_unlike_cotangents():
    calls = []
    head = CountingHead(HEADS["isotropic"], calls)
    (hidden, kernel, bias, y, weight), ct = jax.tree.map(np.float32, made(head.inner))
    mask = np.sign(weight)
    ones = np.ones_like(ct)
    cases = {
        "one": (ones, 3),
        "mask": (mask / mask.sum(), 3),  # of a step that weights with the mask once more
        "count": (ones / 3, 3),
        "rows": (ct, 6),
        # at a row of weight 0: NaN is due
        "infinite": (np.where(np.arange(11) == 0, np.float32(np.inf), ones), 6),
    }

    @jax.jit
    def gradient(kernel, ct):
        def loss(kernel):
            nats = mdn.linear_nll(head, hidden, kernel, bias, y, weight=mask, block_size=4)
            return jnp.sum(ct * nats)

        return jax.grad(loss)(kernel)

    @jax.jit
    def reference(kernel, ct):
        def loss(kernel):
            return jnp.sum(ct * plain(head.inner, hidden, kernel, bias, y, mask))

        return jax.grad(loss)(kernel)

    for name, (ct, blocks_seen) in cases.items():
        calls.clear()
        found = jax.block_until_ready(gradient(kernel, ct))
        jax.effects_barrier()
        assert len(calls) == blocks_seen, name
        np.testing.assert_allclose(found, reference(kernel, ct), rtol=1e-5, atol=1e-6, err_msg=name)


def test_vmap(x64):
    head = HEADS["logistic"]
    inputs, cotangent = made(head, (3, 7))
    kernels = jnp.stack([inputs[1], inputs[1] + 1, -inputs[1]])
    inputs = (inputs[0], kernels, *inputs[2:])

    def each(function):
        def loss(ct, *args):
            return jnp.sum(ct * function(head, *args))

        grads = jax.vmap(jax.grad(loss, (1, 2, 3, 4, 5)), in_axes=(0, 0, 0, None, 0, 0))
        # One lane with equal cotangents, two without.
        return jax.jit(grads)(cotangent.at[1].set(0.4), *inputs)

    same(each(blocks), each(plain))


@pytest.mark.parametrize(
    ("hidden_batch", "y_batch", "weight_batch"),
    [
        ((), (), ()),
        ((7,), (), (1,)),
        ((2, 1), (5, 1, 3), ()),
        ((5, 1, 3), (2, 1), (2, 3)),
        ((3, 0, 2), (2,), (2,)),
    ],
)
def test_batches_broadcast(hidden_batch, y_batch, weight_batch, x64):
    head = mdn.ProductHead(offset=LogisticHead(2), pen_up=mdn.BernoulliHead())
    rng = np.random.default_rng(1)
    (_, kernel, bias, _, _), _ = made(head)
    # The pen may have a batch shape of its own.
    pen_batch = y_batch if len(y_batch) > len(hidden_batch) else y_batch[-1:]
    y = targets(rng, head, y_batch) | {"pen_up": rng.uniform(size=pen_batch)}
    inputs = (
        rng.normal(size=(*hidden_batch, WIDTH)),
        kernel,
        bias,
        y,
        rng.uniform(size=weight_batch),
    )
    inputs = jax.tree.map(jnp.asarray, inputs)
    batch = np.broadcast_shapes(hidden_batch, y_batch, weight_batch)

    def expected(*args):
        return plain(head, *args[:4], jnp.broadcast_to(args[4], batch))

    found, expected = (
        pulled_back(functools.partial(blocks, head), inputs),
        pulled_back(expected, inputs),
    )
    for ct in unlike_and_alike(rng.normal(size=batch)):
        assert found(ct)[0].shape == batch
        same(found(ct), expected(ct))


def test_an_event_is_not_taken_for_a_batch(x64):
    # Two rows and a target of two dimensions: [2] is one target, and every row's.
    head = HEADS["isotropic"]
    (hidden, kernel, bias, y, _), _ = made(head, (2,))

    @jax.jit
    def both(*args):
        return mdn.linear_nll(head, *args, block_size=1), plain(head, *args, 1.0)

    np.testing.assert_allclose(*both(hidden, kernel, bias, y[0]), rtol=1e-12)


def test_without_weight(x64):
    head = HEADS["logistic"]
    (hidden, kernel, bias, y, _), cotangent = made(head)

    def without(*args):
        return mdn.linear_nll(head, *args, block_size=4)

    def ones(*args):
        return plain(head, *args, 1.0)

    found, expected = (pulled_back(f, (hidden, kernel, bias, y)) for f in (without, ones))
    for ct in unlike_and_alike(cotangent):
        same(found(ct), expected(ct))


def test_narrow_dtypes():
    head = HEADS["logistic"]
    # Rows alike: sums of 8 bits would stop growing at some hundred of them.
    made_inputs, cotangent = jax.tree.map(
        lambda x: np.tile(x, (32,) + (1,) * (x.ndim - 1)) if len(x) == 64 else np.asarray(x),
        made(head, (64,)),
    )
    cotangents = (np.abs(cotangent), np.full(len(cotangent), np.float32(1 / 2048)))

    @jax.jit
    def exact(inputs, ct):
        nats, pull = jax.vjp(functools.partial(plain, head), *inputs)
        return nats, pull(ct)

    for hidden_dtype, kernel_dtype, tolerance in (
        (jnp.bfloat16, jnp.bfloat16, 2e-2),  # 8 bits: G enters its products rounded
        (jnp.float16, jnp.float16, 1e-3),  # 11 bits: only the results are rounded
        (jnp.bfloat16, jnp.float32, 1e-2),
    ):
        dtypes = (hidden_dtype, kernel_dtype, kernel_dtype, jnp.float32, jnp.float32)
        inputs = tuple(x.astype(dtype) for x, dtype in zip(made_inputs, dtypes, strict=True))
        pull_back = pulled_back(functools.partial(blocks, head, size=100), inputs)
        for ct in cotangents:
            nats, grads = pull_back(ct)
            with jax.enable_x64(True):
                wide = tuple(x.astype(np.float64) for x in inputs)
                exact_nats, exact_grads = exact(wide, ct.astype(np.float64))
            assert nats.dtype == jnp.float32
            np.testing.assert_allclose(nats, exact_nats, rtol=1e-4, atol=1e-4)
            for g, e, x in zip(grads, exact_grads, inputs, strict=True):
                assert g.dtype == x.dtype
                error = np.linalg.norm(np.asarray(g, np.float64) - np.asarray(e))
                assert error < tolerance * np.linalg.norm(e), (hidden_dtype, kernel_dtype)


@pytest.mark.parametrize("covariance", ["isotropic", "full"])
def test_finite_for_finite_raw_outputs(covariance):
    head = gaussian(covariance)
    rng = np.random.default_rng(0)
    bias, y = rng.uniform(-1, 1, head.num_outputs), rng.uniform(-1, 1, (4096, 2))
    hidden, kernel = rng.normal(size=(4096, WIDTH)) / 8, np.ones((WIDTH, head.num_outputs))

    @jax.jit
    def value_and_gradients(*args):
        nats, pull = jax.vjp(functools.partial(mdn.linear_nll, head, block_size=100), *args)
        return nats, pull(jnp.full_like(nats, 1 / len(nats)))

    for scale in (1e3, 1e18, 1e37):
        args = map(np.float32, (hidden, kernel, bias * scale, y * scale))
        for x in jax.tree.leaves(value_and_gradients(*args)):
            assert np.all(np.isfinite(x)), scale


gradient_of_one = jax.jit(mdn.nll_gradient, static_argnums=0)


def test_a_mean_is_finite_where_the_sum_is_not():
    # Two needles at opposite sides of y, for 2^10 rows: each row's gradient is near the largest.
    head = mdn.GaussianHead(num_components=1, dim=1)
    hidden, kernel = np.ones((1024, 1), np.float32), np.zeros((1, 3), np.float32)
    bias, y = np.float32([0, -80, 0]), np.full((1024, 1), np.float32(30))

    def mean(bias):
        return jnp.mean(mdn.linear_nll(head, hidden, kernel, bias, y, block_size=100))

    each = gradient_of_one(head, bias, y[0])
    assert 1e36 < abs(each[2]) < 3.4e38 < 1024 * float(abs(each[2]))
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(bias), each, rtol=1e-5)


def test_a_gradient_of_float16_may_come_from_larger_ones():
    # dE/dmu = -e^12 for every row, more than the largest float16; the mean's share of it is less.
    head = mdn.GaussianHead(num_components=1, dim=1)
    hidden, kernel = jnp.asarray(np.ones((64, 1), np.float16)), np.ones((1, 3), np.float16)
    bias, y = np.float32([0, -7, 0]), np.full((64, 1), np.float32(2))
    pull_back = pulled_back(
        lambda hidden: mdn.linear_nll(head, hidden, kernel, bias, y, block_size=10), (hidden,)
    )
    found = pull_back(np.full(64, np.float32(1 / 64)))[1][0]
    expected = np.sum(gradient_of_one(head, bias + 1, y[0])) / 64
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(np.float32(found), np.full((64, 1), expected), rtol=1e-3)


def test_nan_stays_in_its_row_and_in_what_all_rows_share():
    head = HEADS["isotropic"]
    inputs, _ = made(head)
    hidden, *others, _ = jax.tree.map(np.float32, inputs)

    def loss(*args):
        nats = mdn.linear_nll(head, *args, block_size=4)
        return jnp.sum(nats), nats

    gradients = jax.jit(jax.grad(loss, range(4), has_aux=True))
    for row in (0, 4, 10):
        is_row = np.arange(11) == row
        grads, nats = gradients(np.where(is_row[:, None], np.float32(np.nan), hidden), *others)
        for x in (nats, grads[0], grads[3]):
            np.testing.assert_array_equal(np.isnan(x).reshape(11, -1).any(1), is_row)
        assert np.all(np.isnan(grads[1]))
        assert np.all(np.isnan(grads[2]))


def test_rows_of_weight_zero_leave_exactly_nothing():
    head = HEADS["isotropic"]
    inputs, ct = made(head)
    hidden, kernel, bias, y, weight = jax.tree.map(np.float32, inputs)
    weight = np.where(np.isin(np.arange(11), [0, 5, 8, 10]), np.float32(0), weight)
    away = (weight == 0)[:, None]

    @jax.jit
    def compiled(ct, *args):
        def loss(hidden, y, kernel, bias):
            return jnp.sum(ct * blocks(head, hidden, kernel, bias, y, weight))

        return jax.value_and_grad(loss, range(4))(*args)

    for outside in np.float32(ct), np.full(11, np.float32(0.3)):
        value, grads = compiled(outside, hidden, y, kernel, bias)
        moved = np.where(away, np.float32(1e5), hidden), np.where(away, np.float32(-1e4), y)
        other = compiled(outside, *moved, kernel, bias)
        for a, b in zip(jax.tree.leaves((value, grads)), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
        for g in grads[:2]:
            np.testing.assert_array_equal(np.asarray(g)[weight == 0], 0)


def test_raw_outputs_never_exist_whole():
    head = LogisticHead(1056)
    shapes = ((8192, 32), (32, head.num_outputs), (head.num_outputs,), (8192, 1), (8192,))
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    raw = 4 * 8192 * head.num_outputs

    def temporary(function, *args):
        return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes

    def loss(*args):
        return jnp.mean(blocks(head, *args, size=256))

    def layer(*args):
        return jax.grad(loss, (0, 1, 2))(*args)

    def weighted_after(*args):
        return jnp.mean(args[4] * mdn.linear_nll(head, *args[:4], block_size=256))

    def curvature(*args):
        return jax.jvp(layer, args, args)[1]

    def reversed_twice(*args):
        return jax.vjp(layer, *args)[1](args[:3])

    everything = (0, 1, 2, 3, 4)
    assert temporary(jax.grad(lambda *a: jnp.mean(plain(head, *a)), everything), *args) > 2 * raw
    assert temporary(loss, *args) < raw / 8
    assert temporary(jax.grad(loss, everything), *args) < raw / 4
    assert temporary(jax.grad(weighted_after, (0, 1, 2)), *args) < raw / 2
    assert temporary(curvature, *args) < raw
    assert temporary(reversed_twice, *args) < raw


def test_the_default_is_whole_where_blocks_do_not_pay():
    def in_loop(rows, width, dim):
        head = mdn.GaussianHead(num_components=20, dim=dim)
        shapes = ((rows, width), (width, head.num_outputs), (head.num_outputs,), (rows, dim))
        args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        jaxpr = str(jax.make_jaxpr(functools.partial(mdn.linear_nll, head))(*args))
        found = jaxpr.split(f",{head.num_outputs}] = dot_general[")[1:]
        return "scan[" in jaxpr, [line for line in found if line]

    assert not in_loop(2**16, 512, 2)[0]  # narrow
    assert not in_loop(2**12, 512, 98)[0]  # small: 2000 outputs, 32.8 MB
    assert in_loop(2**14, 512, 98)[0]


def test_what_does_not_fit_is_named():
    head = HEADS["isotropic"]
    (hidden, kernel, bias, y, weight), _ = made(head)
    call = functools.partial(mdn.linear_nll, head)
    with pytest.raises(ValueError, match=r"linear_nll: kernel .* \(4, 12\).* got shape \(12, 4\)"):
        call(hidden, kernel.T, bias, y)
    with pytest.raises(ValueError, match=r"linear_nll: bias .* \(12,\) .* got shape \(11,\)"):
        call(hidden, kernel, bias[1:], y)
    with pytest.raises(ValueError, match=r"linear_nll: weight .* \(11,\), got shape \(2, 11\)"):
        call(hidden, kernel, bias, y, weight=jnp.stack([weight, weight]))
    with pytest.raises(ValueError, match=r"linear_nll: weight .* \(11,\), got shape \(3,\)"):
        call(hidden, kernel, bias, y, weight=weight[:3])
    with pytest.raises(ValueError, match=r"linear_nll: block_size .* int >= 1, got 0"):
        call(hidden, kernel, bias, y, block_size=0)
    with pytest.raises(ValueError, match=r"GaussianHead.nll: y must be .* got shape \(11, 3\)"):
        call(hidden, kernel, bias, jnp.zeros((11, 3)), block_size=4)


# Few steps, each waited for: simulated devices on two cores may wait for each other for ever.
SCRIPT = """
    jax.config.update("jax_enable_x64", True)
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    import mdnjax as mdn

    HEAD = mdn.GaussianHead(num_components=2, dim=1)
    ROWS = P("batch")
    SPECS = (ROWS, P(), P(), ROWS, ROWS)

    def made(rows):
        rng = np.random.default_rng(0)
        shapes = ((rows, 6), (6, HEAD.num_outputs), (HEAD.num_outputs,), (rows, 1))
        arrays = [rng.normal(size=shape) / 2 for shape in shapes]
        return (*arrays, rng.uniform(0.5, 1, size=rows))

    def shared(*args):
        nats = mdn.linear_nll(HEAD, *args[:4], weight=args[4], block_size=5)
        return nats.sum(), args[4].sum()

    def by_row(*args):
        return (args[4] * mdn.linear_nll(HEAD, *args[:4], block_size=5)).sum(), args[4].sum()

    def reference(hidden, kernel, bias, y, weight):
        return (weight * mdn.nll(HEAD, hidden @ kernel + bias, y)).sum() / weight.sum()

    def in_loops(text):
        # The computations that a while runs, and what those call.
        pattern = r"\\n(?:ENTRY )?%?([\\w.-]+) \\([^\\n]*\\{\\n(.*?)\\n\\}"
        bodies = dict(re.findall(pattern, text, re.S))
        names = set(re.findall(r"(?:body|condition)=%?([\\w.-]+)", text))
        found, left = "", list(names)
        while left:
            body = bodies[left.pop()]
            found += body
            new = set(re.findall(r"(?:calls|to_apply|body)=%?([\\w.-]+)", body)) - names
            names |= new
            left += new
        assert names and "dot" in found
        return found

    COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")

    def count(text):
        return {name: len(re.findall(rf" {name}(?:-start)?\\(", text)) for name in COLLECTIVES}

    found = {}
    rows = 13 * 8  # 13 a device, in blocks of 5: the last begins early
    args = made(rows)
    expected = jax.jit(jax.value_and_grad(reference, range(5)))(*args)
    for kind in ("Auto", "Explicit", "checked", "unchecked"):
        types = (AxisType.Explicit if kind == "Explicit" else AxisType.Auto,)
        mesh = jax.make_mesh((8,), ("batch",), axis_types=types)
        for loss in (shared, by_row):
            if kind in ("Auto", "Explicit"):
                def mean(*args, loss=loss):
                    total, count = loss(*args)
                    return total / count
                given = [
                    jax.device_put(a, NamedSharding(mesh, s))
                    for a, s in zip(args, SPECS, strict=True)
                ]
            else:
                def mean(*args, loss=loss):
                    total, count = jax.lax.psum(loss(*args), "batch")
                    return total / count
                mean = jax.shard_map(
                    mean, mesh=mesh, in_specs=SPECS, out_specs=P(), check_vma=kind == "checked"
                )
                given = args
            with jax.set_mesh(mesh):
                step = jax.jit(jax.value_and_grad(mean, range(5))).lower(*given).compile()
                text = step.as_text()
                result = jax.block_until_ready(step(*given))
            worst = max(
                float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
                for a, b in zip(*map(jax.tree.leaves, (expected, result)), strict=True)
            )
            found[f"{kind} {loss.__name__}"] = {
                "worst": worst, "all": count(text), "loops": count(in_loops(text)),
            }
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight_devices():
    return on_eight_devices(SCRIPT)


def test_eight_devices_compute_as_one(eight_devices):
    assert len(eight_devices) == 8
    for name, found in eight_devices.items():
        assert found["worst"] < 1e-12, name


def test_no_row_travels_and_sums_are_added_over_devices_once(eight_devices):
    for name, found in eight_devices.items():
        assert not any(found["loops"].values()), name
        assert found["all"].pop("all-reduce") > 0, name
        assert not any(found["all"].values()), name
