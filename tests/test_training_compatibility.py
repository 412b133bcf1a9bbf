"""The checkpoints of earlier versions: each must load, compute what it did, and go on.

What is kept in `fixtures` was written by the version its `config.json` names; see
`make_checkpoint_fixture.py`.
"""

import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax import training

HERE = pathlib.Path(__file__).parent
FIXTURES = sorted((HERE / "fixtures").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("maker", HERE / "make_checkpoint_fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_one():
    assert [folder.name for folder in FIXTURES] == ["checkpoint-1"]


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_a_model_computes_what_it_did(folder, maker):
    expected = json.loads((folder / "expected.json").read_text())
    model = training.load_model(folder)
    assert model.head == maker.HEAD
    assert model.normalizer == maker.NORMALIZER
    raw, _ = model.apply(model.params, model.state, maker.INPUTS)
    np.testing.assert_allclose(raw, expected["raw"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_a_run_goes_on(folder, maker, tmp_path):
    expected = json.loads((folder / "expected.json").read_text())
    run = shutil.copytree(folder, tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    seen = []

    def batches(n):
        seen.append(n)
        return maker.batches(n)

    result = maker.fit(run, batches, resume=True)
    assert seen == list(range(maker.STOP, maker.STEPS))
    assert int(result.last.step) == maker.STEPS
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    means = [float(jnp.mean(leaf)) for leaf in jax.tree.leaves(result.last.params)]
    np.testing.assert_allclose(means, expected["means_at_the_end"], rtol=1e-4, atol=1e-6)
