"""Checkpoints: whole or not there, what is wrong with a broken one, and the model rebuilt."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mdnjax as mdn
from mdnjax import nets, strokes, training

OPTIMIZER = training.adam()
NORMALIZER = strokes.Normalizer(mean=(0.1, 0.2), std=(1.5, 2.5), unit="mm")


def make_state(fill=0.0, average=True, width=3):
    params = {
        "layer": {"kernel": jnp.full((2, width), fill), "bias": jnp.zeros(width)},
        "empty": jnp.zeros((0, 4)),
        "half": jnp.full(3, fill, jnp.bfloat16),
    }
    state = {"mean": jnp.full(width, fill)}
    return training.init_state(params, state, OPTIMIZER, budget=7, average=average)


def test_every_leaf_comes_back_bit_for_bit(tmp_path):
    state = make_state()
    leaves, structure = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(size=x.shape) * 9, x.dtype) for x in leaves]
    state = jax.tree.unflatten(structure, leaves)
    training.save_checkpoint(tmp_path / "a" / "1", state, {"note": "x"})
    restored, config = training.restore_checkpoint(tmp_path / "a" / "1", make_state())
    assert jax.tree.structure(restored) == structure
    for a, b in zip(leaves, jax.tree.leaves(restored), strict=True):
        assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
        np.testing.assert_array_equal(a, b)
    assert config["note"] == "x"
    assert config["format_version"] == 1
    assert config["versions"]["jax"] == jax.__version__


def test_a_checkpoint_never_changes(tmp_path):
    path = training.save_checkpoint(tmp_path / "1", make_state(1.0), {})
    with pytest.raises(training.CheckpointError, match="exists already"):
        training.save_checkpoint(path, make_state(2.0), {})
    restored, _ = training.restore_checkpoint(path, make_state())
    np.testing.assert_array_equal(restored.state["mean"], np.ones(3))


def test_a_save_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        training.save_checkpoint(tmp_path / "1", make_state(), {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    for step in (9, 10):
        training.save_checkpoint(tmp_path / "last" / f"{step}", make_state(float(step)), {})
    (tmp_path / "last" / ".11.unfinished-1" / "model").mkdir(parents=True)
    (tmp_path / "last" / "12" / "model").mkdir(parents=True)  # no config.json: not whole
    assert training.find_checkpoint(tmp_path).name == "10"
    assert training.find_checkpoint(tmp_path / "last").name == "10"
    assert training.find_checkpoint(tmp_path / "last" / "9").name == "9"
    training.save_checkpoint(tmp_path / "best" / "5", make_state(), {})
    assert training.find_checkpoint(tmp_path).name == "5"
    assert training.find_checkpoint(tmp_path, prefer="last").name == "10"


HEAD = mdn.GaussianHead(num_components=2, dim=1)
ARCHITECTURE = training.describe(
    nets.MLP,
    in_features=1,
    hidden=(4,),
    output=training.describe(nets.MixtureDense, in_features=4, head=HEAD),
    activation=jax.nn.relu,
)


@pytest.mark.parametrize("average", [None, 0.5])
def test_a_model_is_rebuilt_from_its_path_alone(tmp_path, average):
    network = nets.functional(training.build(ARCHITECTURE, rngs=nnx.Rngs(7)))
    x = jnp.linspace(-1, 1, 8)[:, None]

    def loss(params, state, batch, key):
        raw, state = network.apply(params, state, x)
        return HEAD.nll(raw, x**2), jnp.ones(8), state

    result = training.fit(
        loss,
        network.params,
        network.state,
        lambda n: None,
        optimizer=OPTIMIZER,
        schedule=training.Schedule(peak=0.01),
        average=average,
        steps=3,
        out=tmp_path,
        config={
            "architecture": ARCHITECTURE,
            "head": training.describe(HEAD),
            "normalizer": training.describe(NORMALIZER),
            "units": "m",
        },
        progress="off",
    )
    for path in (tmp_path, tmp_path / "last", tmp_path / "last" / "00000003"):
        model = training.load_model(path)
        assert model.head == HEAD
        assert model.normalizer == NORMALIZER
        assert model.config["units"] == "m"
        assert model.config["seed"] == 0
        raw, _ = model.apply(model.params, model.state, x)
        expected, _ = network.apply(result.params, result.state, x)
        np.testing.assert_array_equal(raw, expected)
        compiled = jax.jit(lambda network: network(x))(model.network)
        np.testing.assert_allclose(compiled, expected, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(raw, network.apply(network.params, network.state, x)[0])

    path = tmp_path / "last" / "00000003"
    wider = {**ARCHITECTURE, "options": {**ARCHITECTURE["options"], "in_features": 2}}
    rewrite(path, lambda c: c.update(architecture=wider))
    with pytest.raises(training.CheckpointError, match=r"kernel: got float32\[1, 4\], expected"):
        training.load_model(path)
    rewrite(path, lambda c: c.update(architecture={"class": "os.system", "options": {}}))
    with pytest.raises(training.CheckpointError, match=r"public one of mdnjax, got 'os.system'"):
        training.load_model(path)


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from mdnjax import training

optimizer = training.adam()
state = training.init_state({"w": jnp.ones(3)}, {}, optimizer, budget=1)
training.save_checkpoint(sys.argv[1] + "/last/1", state, {})

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

# Die at the last moment: all is written, nothing has its name.
type(__import__("pathlib").Path()).rename = die
training.save_checkpoint(sys.argv[1] + "/last/2", state, {})
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_kill_during_a_save_leaves_the_one_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    names = sorted(p.name for p in (tmp_path / "last").iterdir())
    assert names[0].startswith(".2.unfinished-")
    assert names[1:] == ["1"]
    like = training.init_state({"w": jnp.zeros(3)}, {}, OPTIMIZER, budget=1)
    restored, _ = training.restore_checkpoint(tmp_path, like)
    np.testing.assert_array_equal(restored.params["w"], np.ones(3))


def rewrite(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def test_errors_name_the_path_and_what_is_wrong(tmp_path):
    like = make_state()
    with pytest.raises(training.CheckpointError, match="nothing there"):
        training.restore_checkpoint(tmp_path / "absent", like)
    with pytest.raises(training.CheckpointError, match="got a folder without"):
        training.restore_checkpoint(tmp_path, like)
    path = training.save_checkpoint(tmp_path / "1", make_state(), {})

    rewrite(path, lambda c: c.update(format_version=99))
    with pytest.raises(training.CheckpointError, match=r"version 99 .*, expected 1") as caught:
        training.restore_checkpoint(path, like)
    assert str(path) in str(caught.value)
    with pytest.raises(training.CheckpointError, match="version 99"):
        training.load_model(path)
    rewrite(path, lambda c: c.update(format_version=1))

    with pytest.raises(
        training.CheckpointError,
        match=r"layer/kernel: got float32\[2, 3\], expected float32\[2, 4\]",
    ):
        training.restore_checkpoint(path, make_state(width=4))
    with pytest.raises(
        training.CheckpointError, match=r"average/layer/bias: got float32\[3\], expected None"
    ):
        training.restore_checkpoint(path, make_state(average=False))
    stateless = training.init_state(like.params, {}, OPTIMIZER, budget=7, average=True)
    with pytest.raises(training.CheckpointError, match="state, training, expected model, training"):
        training.restore_checkpoint(path, stateless)
    with pytest.raises(training.CheckpointError, match="expected an architecture"):
        training.load_model(path)

    (path / "config.json").write_text("{")
    with pytest.raises(training.CheckpointError, match="expected JSON"):
        training.restore_checkpoint(path, like)


@pytest.mark.parametrize("broken", ["empty", "missing"])
def test_broken_arrays_are_named(tmp_path, broken):
    path = training.save_checkpoint(tmp_path / "1", make_state(), {})
    files = [p for p in (path / "model").rglob("*") if p.is_file()]
    for file in files:
        file.unlink() if broken == "missing" else file.write_bytes(b"")
    with pytest.raises(training.CheckpointError) as caught:
        training.restore_checkpoint(path, make_state())
    assert str(path / "model") in str(caught.value)


def test_a_missing_extra_names_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r'pip install "mdnjax\[train\]"'):
        training.save_checkpoint(tmp_path / "1", make_state(), {})


def test_the_room_imports_neither_orbax_nor_a_network():
    others = ["orbax.checkpoint", "tqdm", "flax", "mdnjax.nets"]
    code = f"import sys, mdnjax.training; print([m for m in sys.modules if m in {others}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
