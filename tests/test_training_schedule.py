"""Schedules against their formula in plain Python; the optimiser against Adam by hand."""

import math

import jax
import numpy as np
import optax
import pytest

from mdnjax import training


def formula(n, N, peak, W, decay, f):
    climb = min(1.0, (n + 1) / W) if W else 1.0
    p = min(max((n - W) / max(N - W, 1), 0.0), 1.0)
    left = {"linear": 1 - p, "cosine": (1 + math.cos(math.pi * p)) / 2, "constant": 1.0}[decay]
    return peak * climb * (f + (1 - f) * left)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (7, 0.1), (100, 0.0)])
def test_values(decay, warmup, final):
    schedule = training.Schedule(peak=3e-3, warmup=warmup, decay=decay, final=final)
    budget = 50
    got = jax.jit(schedule)(np.arange(60), np.int32(budget))
    expected = [formula(n, budget, 3e-3, warmup, decay, final) for n in range(60)]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-10)


def test_errors():
    for options, name in [
        ({"peak": 0.0}, "peak"),
        ({"peak": 1.0, "warmup": -1}, "warmup"),
        ({"peak": 1.0, "final": 1.5}, "final"),
    ]:
        with pytest.raises(ValueError, match=f"Schedule: {name} must be"):
            training.Schedule(**options)
    with pytest.raises(ValueError, match="adam: clip must be positive"):
        training.adam(clip=0.0)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_adam_clips_and_decays_matrices_only(clip):
    decay, rng = 0.1, np.random.default_rng(0)
    params = {"w": rng.normal(size=(2, 3)).astype(np.float32), "b": np.ones(3, np.float32)}
    optimizer = training.adam(clip=clip, weight_decay=decay)
    opt_state = optimizer.init(params)
    moments = dict.fromkeys(params, (0.0, 0.0))
    for n in range(1, 4):
        grads = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in params.items()}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))
        scale = 1.0 if clip is None else min(1.0, clip / norm)
        for name, g in grads.items():
            g = g.astype(np.float64) * scale
            m = 0.9 * moments[name][0] + 0.1 * g
            v = 0.999 * moments[name][1] + 0.001 * g**2
            moments[name] = (m, v)
            expected = -(m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
            if name == "w":
                expected = expected - decay * params["w"]
            np.testing.assert_allclose(updates[name], expected, rtol=1e-4)
        params = optax.apply_updates(params, updates)
