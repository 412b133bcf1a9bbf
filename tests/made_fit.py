"""A least-squares problem for tests of `fit`, and what they compare."""

import jax
import numpy as np

from mdnjax import training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.3 * RNG.normal(size=64)).astype(np.float32)
PARAMS = {"w": np.zeros(4, np.float32)}
WHOLE = {"x": X, "y": Y, "weight": np.ones(64, np.float32)}


def loss(params, state, batch, key):
    residual = batch["x"] @ params["w"] - batch["y"]
    return residual**2, batch["weight"], {"steps": state["steps"] + 1.0}


def noisy_loss(params, state, batch, key):
    nats, weight, state = loss(params, state, batch, key)
    return nats * jax.random.uniform(key, nats.shape), weight, state


def batches(n):
    chosen = np.random.default_rng((5, n)).integers(0, 64, 16)
    return {name: value[chosen] for name, value in WHOLE.items()}


def validate(params, state):
    return float(np.mean((X @ np.asarray(params["w"]) - Y) ** 2))


def fit(**options):
    settings = {
        "optimizer": training.adam(),
        "schedule": training.Schedule(peak=0.1, warmup=3),
        "average": 0.8,
        "seed": 3,
        "steps": 40,
        "validate": validate,
        "validations": 5,
        "log_every": 3,
        "progress": "off",
    }
    settings |= options
    loss_, batches_ = settings.pop("loss", loss), settings.pop("batches", batches)
    return training.fit(loss_, PARAMS, {"steps": 0.0}, batches_, **settings)


def same_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def steady(folder):
    """The file of metrics, into which the wall clock puts nothing."""
    return (folder / "metrics.jsonl").read_bytes()


def check_equal_runs(whole, resumed, folder):
    result, whole_folder = whole
    same_trees(result.last, resumed.last)
    same_trees((result.params, result.state), (resumed.params, resumed.state))
    for name in ("step", "valid", "points", "stopped"):
        assert getattr(result, name) == getattr(resumed, name)
    assert steady(whole_folder) == steady(folder)
    for kind in ("best", "last"):
        names = [sorted(p.name for p in (f / kind).iterdir()) for f in (whole_folder, folder)]
        assert names[0] == names[1]
