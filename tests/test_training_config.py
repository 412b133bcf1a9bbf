"""Descriptions: everything that goes in comes back equal, and nothing foreign gets in."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdnjax as mdn
from mdnjax import training

HEADS = [
    mdn.GaussianHead(num_components=3, dim=1),
    mdn.BernoulliHead(),
    mdn.ProductHead(
        offset=mdn.GaussianHead(num_components=20, dim=2, covariance="full"),
        pen_up=mdn.BernoulliHead(),
    ),
    training.Schedule(peak=0.1, warmup=3, decay="linear"),
]


@pytest.mark.parametrize("value", [*HEADS, None, True, 3, 0.1, "s", (1, (2.5, "x")), {"a": (1,)}])
def test_round_trip_through_json(value):
    text = json.dumps(training.describe(value), allow_nan=False)
    built = training.build(json.loads(text))
    assert built == value
    assert type(built) is type(value)


def test_a_rebuilt_head_computes_the_same():
    head = HEADS[2]
    built = training.build(json.loads(json.dumps(training.describe(head))))
    raw = jax.random.normal(jax.random.key(0), (4, head.num_outputs))
    y = {"offset": jnp.ones((4, 2)), "pen_up": jnp.zeros(4)}
    np.testing.assert_array_equal(mdn.nll(built, raw, y), mdn.nll(head, raw, y))
    assert hash(built) == hash(head)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_arrays_keep_every_bit(dtype):
    array = (np.random.default_rng(0).normal(size=(2, 3)) * 10).astype(dtype)
    built = training.build(json.loads(json.dumps(training.describe(array))))
    assert built.dtype == array.dtype
    np.testing.assert_array_equal(built, array)


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.silu, jnp.sin])
def test_activations(activation):
    assert training.build(training.describe({"f": activation}))["f"] is activation


def test_a_class_with_options_is_called():
    described = training.describe(training.Schedule, peak=0.5)
    assert described == {"class": "mdnjax.training.Schedule", "options": {"peak": 0.5}}
    with pytest.raises(training.ConfigError, match="nothing in the description takes rngs"):
        training.build(described, rngs=None)
    assert training.build(described, warmup=7) == training.Schedule(peak=0.5, warmup=7)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "mdnjax.training.config.importlib",
        "mdnjax.training.fit.os.system",
        "mdnjax.training.config.re",
        "mdnjax.training._metrics.Window",
        "mdnjax.mixtures.heads.jax",
        "mdnjax.training.NoSuchClass",
        "mdnjax.no_such_room.Thing",
        "mdnjaxevil.Thing",
        "mdnjax",
        "mdnjax.training.fit",
        "mdnjax.mixtures.heads.Protocol",
        "",
        3,
    ],
)
def test_foreign_and_private_names_are_refused(path):
    with pytest.raises(training.ConfigError, match="build: "):
        training.build({"class": path, "options": {}})


def test_foreign_functions_are_refused():
    for path in ("jax.numpy.load", "os.system", "builtins.eval"):
        with pytest.raises(training.ConfigError, match="build: "):
            training.build({"function": path})


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), lambda x: x, {1: 2}, {"class": "x"}, 1j, np.sum],
)
def test_what_has_no_description(value):
    with pytest.raises(training.ConfigError, match="describe: "):
        training.describe(value)


def test_a_broken_array_is_named():
    for broken in (
        {"array": [1.0]},
        {"array": [1.0], "dtype": "no"},
        {"array": "x", "dtype": "f4"},
    ):
        with pytest.raises(training.ConfigError, match="is not an array"):
            training.build(broken)


def test_what_a_class_does_not_accept_is_named():
    described = {"class": "mdnjax.training.Schedule", "options": {"peek": 1.0}}
    with pytest.raises(training.ConfigError, match=r"Schedule does not accept \{'peek': 1.0\}"):
        training.build(described)
    product = {"class": "mdnjax.mixtures.ProductHead", "fields": {"pieces": []}}
    with pytest.raises(training.ConfigError, match=r"expected the fields \['parts'\]"):
        training.build(product)
