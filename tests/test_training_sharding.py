"""A batch divided among devices trains as one on one device, and moves no more than gradients.

The devices are simulated, in a process of their own: their number is fixed when JAX starts.
"""

import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from mdnjax import training

SCRIPT = """
    import json, re
    import jax
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp, numpy as np, optax
    from flax import nnx
    from mdnjax import nets, training

    stack = nets.LSTMStack(3, (8,), 2, rngs=nnx.Rngs(0))
    net = nets.functional(stack, method="unroll")
    params = jax.tree.map(lambda p: p.astype(jnp.float64), net.params)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(6, 8, 5, 5))
    weights = rng.integers(0, 2, (6, 8, 5)).astype(float)

    def batches(n):
        return {"x": data[n, ..., :3], "y": data[n, ..., 3:], "weight": weights[n]}

    def loss(params, state, batch, key):
        (carry, raw), _ = net.apply(params, {}, batch["x"], state["carry"])
        return jnp.sum((raw - batch["y"]) ** 2, -1), batch["weight"], {"carry": carry}

    def run(mesh):
        carry = jax.tree.map(lambda c: c.astype(jnp.float64), stack.initial_carry((8,)))
        if mesh is not None:
            carry = training.split_batch(carry, mesh)
        options = dict(optimizer=optax.adam(1e-2), steps=6, progress="off", mesh=mesh)
        return training.fit(loss, params, {"carry": carry}, batches, **options)

    mesh = jax.make_mesh((4,), ("batch",))
    one, four = run(None), run(mesh)
    difference = max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
        for a, b in zip(
            jax.tree.leaves((one.params, one.state)), jax.tree.leaves((four.params, four.state))
        )
    )
    step = training.make_step(loss, optax.adam(1e-2))
    text = step.lower(
        four.last, training.split_batch(batches(0), mesh), jax.random.key(0), np.int32(0)
    ).compile().as_text()
    reduced = re.findall(r"= (.*?) all-reduce(?:-start)?\\(", text)
    sizes = [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for line in reduced for shape in re.findall(r"f64\\[([0-9,]*)\\]", line)
    ]
    print(json.dumps({
        "difference": difference,
        "carry": list(jax.tree.leaves(four.state)[0].sharding.spec),
        "params": list(jax.tree.leaves(four.params)[0].sharding.spec),
        "gathers": text.count(" all-gather"),
        "reduced": sum(sizes),
        "learned": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }))
"""


@pytest.fixture(scope="module")
def four_devices():
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_four_devices_train_as_one(four_devices):
    assert four_devices["difference"] < 1e-12


def test_the_carry_stays_divided_and_parameters_replicated(four_devices):
    assert four_devices["carry"] == ["batch"]
    assert four_devices["params"] == []


def test_a_step_sums_gradients_and_moves_nothing_else(four_devices):
    assert four_devices["gathers"] == 0
    learned = four_devices["learned"]
    assert learned <= four_devices["reduced"] <= learned + 8


def test_what_cannot_be_divided_is_named():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    with pytest.raises(ValueError, match=r"split_batch: batch .* got arrays of shapes \[\(\)\]"):
        training.split_batch({"x": np.float32(1.0)}, mesh)
    with pytest.raises(ValueError, match=r"pad_batch: batch .* \[\(0, 2\)\]"):
        training.pad_batch(np.zeros((0, 2)), 4)
    with pytest.raises(ValueError, match=r"pad_batch: batch .* \[\(2,\), \(3,\)\]"):
        training.pad_batch([np.zeros(2), np.zeros(3)], 4)
    two = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    with pytest.raises(ValueError, match=r"split_batch: mesh must be of one axis"):
        training.split_batch(np.zeros((2, 2)), two)
