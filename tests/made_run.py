"""A small training run as a process of its own, for tests of what ends one from outside."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdnjax import training

# A small run: `python -c PROGRAM FOLDER WHAT`, where WHAT happens at step 13.
PROGRAM = """
    import os, resource, signal, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from mdnjax import training

    folder, what = sys.argv[1:3]
    SIZE = 20_000
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=SIZE).astype(np.float32)}

    def loss(params, state, batch, key):
        target = jax.random.normal(key, (4, SIZE))
        return jnp.mean((params["w"] - target) ** 2, -1) + batch, jnp.ones(4), state

    def batches(n):
        if n == 13 and what == "files":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        if n == 13 and what == "metrics":
            size = os.path.getsize(folder + "/metrics.jsonl") + 50
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        if n == 13 and what == "nan":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
            return np.full(4, np.nan, np.float32)
        if what == "slow":
            time.sleep(0.02)
        return np.full(4, n, np.float32)

    def validate(params, state):
        if what == "hang":
            print("validating", flush=True)
            time.sleep(60)
        return float(jnp.mean(params["w"] ** 2))

    try:
        result = training.fit(
            loss, params, {}, batches, optimizer=training.adam(), average=0.9, steps=40,
            schedule=training.Schedule(peak=0.1), validate=validate, validations=10, log_every=1,
            out=folder, resume=True, progress="lines",
        )
    except (OSError, training.NonFiniteError, training.CheckpointError) as error:
        # Not through sys.stderr: what Orbax's threads report meanwhile may overwrite what is in it
        # (CPython's issue 119506, mended in 3.12.4).
        os.write(2, f"{type(error).__name__}: {error}\\n".encode())
        sys.exit(1)
    print(result.stopped, int(result.last.step), result.checkpoint)
    sys.exit(0 if result.signal is None else 128 + result.signal)
"""


def start(folder, what="nothing", **options):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def like():
    params = {"w": jnp.zeros(20_000)}
    return training.init_state(params, {}, training.adam(), budget=40, average=True)


def check_equal(whole, folder):
    for kind in ("last", "best"):
        names = [sorted(p.name for p in (f / kind).iterdir()) for f in (whole, folder)]
        assert names[0] == names[1]
        both = [training.restore_checkpoint(f / kind, like())[0] for f in (whole, folder)]
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    assert not list(folder.rglob(".*"))


def quick(**options):
    """A run of 12 steps in this process."""

    def loss(params, state, batch, key):
        if on_trace is not None:
            on_trace()
        return (params["w"] - batch) ** 2, jnp.ones(2), state

    on_trace = options.pop("on_trace", None)
    settings = {"optimizer": optax.sgd(0.1), "steps": 12, "progress": "off"} | options
    batches = settings.pop("batches", lambda n: np.float32([n, 0]))
    return training.fit(loss, {"w": 0.0}, {}, batches, **settings)
