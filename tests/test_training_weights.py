"""Safetensors: read by its own library and by PyTorch, and back, and what is wrong with others."""

import dataclasses
import json
import os
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mdnjax as mdn
from mdnjax import nets, strokes, training

safetensors = pytest.importorskip("safetensors")
HEAD = mdn.GaussianHead(num_components=2, dim=1)
NORMALIZER = strokes.Normalizer(mean=(0.1, 0.2), std=(1.5, 2.5), unit="mm")
OPTIONS = {"in_features": 3, "hidden": (5, 4), "output": HEAD.num_outputs}


def make_model(folder, cls=nets.LSTMStack, **options):
    """A model from a checkpoint, as a user has it, but for its weights: all are random."""
    architecture = training.describe(cls, **options)
    network = nets.functional(training.build(architecture, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def randomly(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    params = jax.tree.map(randomly, network.params)
    network_state = jax.tree.map(randomly, network.state)
    state = training.init_state(params, network_state, training.adam(), budget=1)
    config = {
        "architecture": architecture,
        "head": training.describe(HEAD),
        "normalizer": training.describe(NORMALIZER),
        "unit": "mm",
        "average": None,
        "progress": {"step": 0},
    }
    training.save_checkpoint(folder / "1", state, config)
    return training.load_model(folder)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "run", **OPTIONS)


def test_the_library_reads_what_was_written(model, tmp_path):
    path = training.write_safetensors(tmp_path / "m.safetensors", model)
    with safetensors.safe_open(path, framework="np") as file:
        names = sorted(file.keys())
        arrays = {name: file.get_tensor(name) for name in names}
        metadata = file.metadata()
    assert list(metadata) == ["mdnjax"]
    config = json.loads(metadata["mdnjax"])
    assert names == sorted(
        [f"params/layers/{n}/{part}" for n in (0, 1) for part in ("kernel", "bias")]
        + ["params/output/kernel", "params/output/bias"]
    )
    np.testing.assert_array_equal(
        arrays["params/layers/1/kernel"], model.params["layers"]["1"]["kernel"]
    )
    assert config["head"] == training.describe(HEAD)
    assert config["architecture"]["class"] == "mdnjax.nets.LSTMStack"
    assert config["unit"] == "mm"
    assert not {"progress", "arrays"} & config.keys()


def test_a_model_comes_back_bit_for_bit(model, tmp_path):
    path = training.write_safetensors(tmp_path / "m.safetensors", model)
    again = training.read_safetensors(path)
    x = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.network(x), model.network(x))
    assert (again.head, again.normalizer) == (HEAD, NORMALIZER)
    step = training.read_safetensors(path, method="step")
    carry = step.module.initial_carry((2,))
    (_, raw), _ = step.apply(step.params, step.state, carry, x[:, 0])
    np.testing.assert_allclose(raw, model.network(x)[:, 0], rtol=1e-5, atol=1e-6)
    # Written over an older file, which is then the newer one and nothing else.
    training.write_safetensors(path, again)
    assert [p.name for p in tmp_path.glob("*m.safetensors*")] == ["m.safetensors"]


def test_equal_models_make_equal_bytes(model, tmp_path):
    """In a process that hashes differently, from configurations given in another order."""
    path = training.write_safetensors(tmp_path / "m.safetensors", model)
    program = """
import dataclasses, sys
from mdnjax import training
run, *files = sys.argv[1:]
model = training.load_model(run)
for file in files:
    training.write_safetensors(file, model)
    model = dataclasses.replace(model, config=dict(reversed(model.config.items())))
"""
    whole = path.read_bytes()
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # by default, here it is random
    files = [tmp_path / f"{n}" for n in range(4)]
    arguments = [sys.executable, "-c", program, tmp_path / "run", *files]
    subprocess.run(arguments, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    assert all(file.read_bytes() == whole for file in files)


def test_the_order_of_a_heads_parts_survives(model, tmp_path):
    """Parts given as options stand in a mapping whose order is that of the raw outputs."""
    parts = {"offset": training.describe(HEAD), "at": training.describe(mdn.BernoulliHead())}
    head = {"class": "mdnjax.mixtures.ProductHead", "options": parts}
    model = dataclasses.replace(model, config={**model.config, "head": head})
    path = training.write_safetensors(tmp_path / "m.safetensors", model)
    assert [name for name, _ in training.read_safetensors(path).head.parts] == ["offset", "at"]


def test_state_and_narrow_dtypes_come_back(tmp_path):
    model = make_model(tmp_path / "run", nets.MLP, in_features=2, hidden=(3,), output=2)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    state = {"mean": jnp.arange(3, dtype=jnp.float16), "none": jnp.zeros((0, 2))}
    path = tmp_path / "m.safetensors"
    odd = training.Model(
        model.apply, half, state, model.head, model.normalizer, model.config, model.module
    )
    training.write_safetensors(path, odd)
    with safetensors.safe_open(path, framework="flax") as file:
        for keys, leaf in jax.tree_util.tree_leaves_with_path(half):
            name = "params/" + jax.tree_util.keystr(keys, simple=True, separator="/")
            np.testing.assert_array_equal(file.get_tensor(name), leaf)
        np.testing.assert_array_equal(file.get_tensor("state/mean"), state["mean"])
        assert file.get_tensor("state/none").shape == (0, 2)
    with pytest.raises(training.CheckpointError, match=r"bias: got bfloat16\[3\], expected"):
        training.read_safetensors(path)


def test_torch_computes_the_same(tmp_path):
    """As docs/training.md tells a PyTorch user to."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    hidden = 5
    options = {**OPTIONS, "hidden": (hidden,)}
    path = tmp_path / "m.safetensors"
    model = make_model(tmp_path / "run", **options)
    training.write_safetensors(path, model)
    weights = load_file(path)
    lstm = torch.nn.LSTM(3, hidden, batch_first=True)
    kernel = weights["params/layers/0/kernel"].T  # [4H, F + H]; gates i, f, g, o, as PyTorch's
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(kernel[:, :-hidden])
        lstm.weight_hh_l0.copy_(kernel[:, -hidden:])
        lstm.bias_ih_l0.copy_(weights["params/layers/0/bias"])
        lstm.bias_hh_l0.zero_()
        x = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
        h, _ = lstm(torch.from_numpy(x))
        raw = h @ weights["params/output/kernel"] + weights["params/output/bias"]
    np.testing.assert_allclose(model.network(x), raw.numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_wrong_is_named(model, tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(training.CheckpointError, match=r"absent: expected a file .*No such file"):
        training.read_safetensors(tmp_path / "absent")
    training.write_safetensors(path, model)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-1], b"\xff" * 64, b"{}" + whole):
        path.write_bytes(broken)
        with pytest.raises(training.CheckpointError, match="expected a file of write_safetensors"):
            training.read_safetensors(path)

    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(training.CheckpointError, match="format version None, expected 1"):
        training.read_safetensors(path)
    for text in ('{"format_version": 2}', "[]"):
        save_file({"w": np.zeros(3, np.float32)}, path, {"mdnjax": text})
        with pytest.raises(training.CheckpointError, match=r"format version .*, expected 1"):
            training.read_safetensors(path)
    config = {"format_version": 1, "architecture": {"class": "os.system"}}
    save_file({"w": np.zeros(3, np.float32)}, path, {"mdnjax": json.dumps(config)})
    with pytest.raises(training.CheckpointError, match=r"public one of mdnjax, got 'os.system'"):
        training.read_safetensors(path)
    config["architecture"] = training.describe(nets.LSTMStack, **OPTIONS)
    save_file({"w": np.zeros(3, np.float32)}, path, {"mdnjax": json.dumps(config)})
    with pytest.raises(
        training.CheckpointError, match=r"bias: got None, expected float32\[20\].*and 2 more"
    ):
        training.read_safetensors(path)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_file_that_cannot_be_written_leaves_the_old_one(model, tmp_path):
    path = training.write_safetensors(tmp_path / "m.safetensors", model)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(training.SaveError, match=r"m\.safetensors could not .*EFBIG"):
            training.write_safetensors(path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_extra_names_the_pip_line(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'pip install "mdnjax\[train\]"'):
        training.write_safetensors(tmp_path / "m", model)
    with pytest.raises(ImportError, match=r'pip install "mdnjax\[train\]"'):
        training.read_safetensors(tmp_path / "m")
