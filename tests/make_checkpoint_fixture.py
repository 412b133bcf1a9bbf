"""Makes `tests/fixtures/checkpoint-1`, which every later version must still load and go on from.

Run it (`python tests/make_checkpoint_fixture.py tests/fixtures/checkpoint-2`) only to put the
checkpoint of a new format beside the old one: those that are there are never made anew.
"""

import contextlib
import json
import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import mdnjax as mdn
from mdnjax import nets, strokes, training

STEPS, STOP = 6, 3
HEAD = mdn.ProductHead(
    offset=mdn.GaussianHead(num_components=2, dim=2, covariance="full"), pen_up=mdn.BernoulliHead()
)
OPTIONS = {"in_features": 3, "hidden": (6, 4), "output": HEAD.num_outputs, "clip_gradient": 0.5}
NORMALIZER = strokes.Normalizer(mean=(1.5, -0.25), std=(8.0, 4.0), unit="mm")
INPUTS = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)


def batches(n):
    rng = np.random.default_rng((2, n))
    points = rng.normal(size=(4, 7, 3)).astype(np.float32)
    points[..., 2] = points[..., 2] > 1
    return points


def fit(folder, batches=batches, **options):
    """The run, of which the fixture is the first half."""
    stack = nets.LSTMStack(**OPTIONS, rngs=nnx.Rngs(0))
    network = nets.functional(stack, method="unroll")

    def loss(params, state, batch, key):
        (carry, raw), _ = network.apply(params, {}, batch[:, :-1], state["carry"])
        nats = HEAD.nll(raw, {"offset": batch[:, 1:, :2], "pen_up": batch[:, 1:, 2]})
        return nats, jnp.ones_like(nats), {"carry": carry}

    return training.fit(
        loss,
        network.params,
        {"carry": stack.initial_carry((4,))},
        batches,
        optimizer=training.muon(lambda name: name.startswith("layers/")),
        schedule=training.Schedule(peak=0.01, warmup=2),
        average=0.9,
        steps=STEPS,
        validations=STEPS // STOP,
        log_every=1,
        out=folder,
        config={
            "architecture": training.describe(nets.LSTMStack, **OPTIONS),
            "head": training.describe(HEAD),
            "normalizer": training.describe(NORMALIZER),
            "unit": "mm",
        },
        progress="off",
        **options,
    )


def stopping(n):
    if n == STOP:
        raise KeyboardInterrupt
    return batches(n)


def make(folder):
    with contextlib.suppress(KeyboardInterrupt):
        fit(folder, stopping)
    model = training.load_model(folder)
    raw, _ = model.apply(model.params, model.state, INPUTS)
    whole = fit(None)
    means = [float(jnp.mean(leaf)) for leaf in jax.tree.leaves(whole.last.params)]
    expected = {"raw": np.asarray(raw).tolist(), "means_at_the_end": means}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    (folder / "timings.jsonl").unlink()


def main():
    # Orbax notes where it wrote: not in this checkout.
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "run"
        make(folder)
        shutil.copytree(folder, sys.argv[1])


if __name__ == "__main__":
    main()
