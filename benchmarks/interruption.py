"""Kills a training run, again and again, and asks whether resuming it changes a single bit.

The run is a real one: an LSTM stroke network with Muon on the built-in pens, with fresh noise in
every step, validation, a moving average, and the recurrent carry in its state. It is killed with
SIGKILL at random moments of start-up and training, and in the middle of writing a checkpoint; some
runs are killed several times. Each is then resumed to its end, and must hold what the run that
nobody disturbed holds: all arrays of its last and its best checkpoint, and the file of metrics, bit
for bit; and every process must have seen the same batch at the same step.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the run is."""

    lines: int
    hidden: int
    steps: int
    validations: int
    batch: int = 8
    window: int = 32


class Kill(NamedTuple):
    """When to kill: `at` is a share of start-up, of training, or of the checkpoints written."""

    kind: str
    at: float


class Setup(NamedTuple):
    """What `training.fit` is given."""

    loss: Any
    params: Any
    state: Any
    batches: Any
    options: dict[str, Any]


@functools.cache
def set_up(size: Size) -> Setup:
    """The run, as in examples/handwriting.py."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mdnjax import datasets, nets, strokes, training

    corpus = datasets.built_in_pens(size.lines, seed=0)
    held = size.lines // 8
    train, valid = corpus.subset(np.arange(held, size.lines)), corpus.subset(np.arange(held))
    normalizer = strokes.Normalizer.fit(train)
    head = strokes.stroke_head(5)
    rngs = nnx.Rngs(0)
    output = nets.MixtureDense(size.hidden, head, rngs=rngs)
    clip = 10 / (size.batch * size.window)
    stack = nets.LSTMStack(3, (size.hidden,), output, clip_gradient=clip, rngs=rngs)
    network = nets.functional(stack, method="unroll")

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        inputs, targets, mask = strokes.next_step_pairs(normalizer.apply(batch.strokes))
        targets = strokes.dequantize(key, targets, normalizer.device_unit)
        starts = jnp.asarray(batch.starts)
        (carry, raw), _ = network.apply(params, {}, inputs, state["carry"], starts[:, :-1])
        weight = (jnp.asarray(mask) & ~starts[:, 1:]).astype(raw.dtype)
        return head.nll(raw, targets), weight, {"carry": carry}

    def whole_lines(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        carry = stack.initial_carry(batch.starts.shape[:1])
        nats, weight, _ = loss(params, {"carry": carry}, batch, key)
        return nats, weight, state

    held_out = [
        strokes.StreamBatch(batch, np.zeros(batch.mask.shape, bool))
        for _, batch in strokes.line_batches(valid, batch_size=size.batch, num_buckets=1)
    ]
    options = {
        "optimizer": training.muon(lambda name: name.startswith("layers/")),
        "schedule": training.Schedule(peak=1e-2, warmup=10),
        "average": 0.9,
        "steps": size.steps,
        "validate": training.make_validation(jax.random.key(1), whole_lines, held_out),
        "validations": size.validations,
        "log_every": 2,
        "progress": "off",
    }
    batches = strokes.Streams(train, size.batch, size.window, 0)
    return Setup(
        loss, network.params, {"carry": stack.initial_carry((size.batch,))}, batches, options
    )


def run(folder: pathlib.Path, size: Size) -> None:
    """One process: starts the run in a folder or goes on with it, and logs each batch it sees."""
    from mdnjax import training

    setup = set_up(size)
    with (folder / f"batches-{time.time_ns()}").open("w") as log:

        def logged(step: int) -> Any:
            import jax

            batch = setup.batches(step)
            content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batch))
            print(step, hashlib.sha256(content).hexdigest(), file=log, flush=True)
            return batch

        training.fit(
            setup.loss,
            setup.params,
            setup.state,
            logged,
            out=folder / "run",
            resume=True,
            **setup.options,
        )


def cached(folder: pathlib.Path | None) -> dict[str, str]:
    """The environment in which what one process compiled the next one reads, or each compiles."""
    if folder is None:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA logs an error for every program that it reads
    }


def start(folder: pathlib.Path, size: Size) -> subprocess.Popen[bytes]:
    """Starts a process of the run."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--run", str(folder)]
    command += [json.dumps(dataclasses.asdict(size))]
    with (folder / "stderr").open("ab") as errors:
        return subprocess.Popen(command, stderr=errors)


def finish(folder: pathlib.Path, size: Size) -> None:
    """Runs a process of the run to its end."""
    if start(folder, size).wait(timeout=300) != 0:
        sys.exit(f"the run failed:\n{(folder / 'stderr').read_text()}")


def logs(folder: pathlib.Path) -> list[dict[int, str]]:
    """What each process of a run saw: the batch of each step."""
    read = []
    for log in sorted(folder.glob("batches-*")):
        lines = [line.split() for line in log.read_text().split("\n")[:-1]]
        read.append({int(step): digest for step, digest in lines})
    return read


def unfinished(folder: pathlib.Path) -> list[str]:
    """The checkpoints that are being written, or were when the process died."""
    found = (folder / "run").glob("*/.*.unfinished-*")
    return [f"{path.parent.name}/{int(path.name.split('.')[1])}" for path in found]


def kill(
    process: subprocess.Popen[bytes], folder: pathlib.Path, size: Size, when: Kill, pace: "Pace"
) -> bool:
    """Kills a process at the time given; False where it ended before."""
    known = len(list(folder.glob("batches-*")))

    def wait(until: float) -> None:
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.001)

    if when.kind == "start":
        wait(time.monotonic() + when.at * pace.start)
    else:
        while not trains(folder, size, known) and process.poll() is None:
            time.sleep(0.01)
        if when.kind == "step":
            wait(time.monotonic() + when.at * pace.training)
        else:
            # The writing of a checkpoint: a random one, at a random moment of it.
            nth, moment = divmod(when.at * pace.saves, 1)
            seen: set[str] = set()
            while len(seen) <= nth and process.poll() is None:
                time.sleep(0.001)
                seen.update(unfinished(folder))
            wait(time.monotonic() + moment * pace.save)
    process.kill()
    return process.wait() < 0


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds the undisturbed run takes to start and to train; how many saves, and how long one."""

    start: float
    training: float
    saves: int
    save: float


def undisturbed(folder: pathlib.Path, size: Size) -> Pace:
    """Runs to the end without a kill, and measures what the moments are chosen by."""
    began = since = time.monotonic()
    process = start(folder, size)
    first, writing, seen = None, 0.0, set()
    while process.poll() is None:
        names = unfinished(folder)
        seen.update(names)
        now = time.monotonic()
        writing += now - since if names else 0.0
        since = now
        if first is None and trains(folder, size, 0):
            first = now
        time.sleep(0.004)
    if process.returncode != 0 or first is None or not seen:
        sys.exit(f"the run failed:\n{(folder / 'stderr').read_text()}")
    return Pace(first - began, time.monotonic() - first, len(seen), writing / len(seen))


def trains(folder: pathlib.Path, size: Size, known: int) -> bool:
    """Whether a process later than those known is past its first validation: all is compiled."""
    found = sorted(folder.glob("batches-*"))
    past = math.ceil(size.steps / size.validations) + 1
    return len(found) > known and found[-1].read_bytes().count(b"\n") > past


def differences(folder: pathlib.Path, other: pathlib.Path, size: Size) -> list[str]:
    """What is not the same in two runs."""
    import jax

    from mdnjax import training

    setup = set_up(size)
    like = training.init_state(
        setup.params, setup.state, setup.options["optimizer"], budget=size.steps, average=True
    )
    found = []
    for kind in ("last", "best"):
        names = [sorted(p.name for p in (f / "run" / kind).iterdir()) for f in (folder, other)]
        if names[0] != names[1]:
            found.append(f"{kind}: checkpoints {names[0]} and {names[1]}")
            continue
        both = [training.restore_checkpoint(f / "run" / kind, like)[0] for f in (folder, other)]
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                found.append(f"{kind}: an array {a.dtype}{list(a.shape)}")
    if len({(f / "run" / "metrics.jsonl").read_bytes() for f in (folder, other)}) != 1:
        found.append("metrics.jsonl")
    expected = logs(folder)[0]
    for log in logs(other):
        wrong = [step for step, digest in log.items() if expected.get(step) != digest]
        if wrong or sorted(log) != list(range(min(log, default=0), max(log, default=-1) + 1)):
            found.append(f"the order of the data, at {wrong or sorted(log)}")
    if set().union(*logs(other)) != set(range(size.steps)):
        found.append("not every step was done")
    if leftovers := [str(p) for p in (other / "run").rglob(".*")]:
        found.append(f"left over: {leftovers}")
    return found


def judge(whole: pathlib.Path, folder: pathlib.Path, size: Size) -> bool:
    """Says whether a finished run differs from the undisturbed one, and deletes it."""
    found = differences(whole, folder, size)
    print(f"{'':8} resumed: {', '.join(found) or 'equal, bit for bit'}", flush=True)
    shutil.rmtree(folder)
    return bool(found)


def plan(kills: int, seed: int) -> Iterator[list[Kill]]:
    """Runs of one kill each, and a last one of several; three kills or fewer are all of one run."""
    rng = random.Random(seed)
    kinds = ("save", "step", "save", "start", "save", "step", "step")
    drawn = [Kill(kinds[i % len(kinds)], rng.random()) for i in range(kills)]
    several = kills if kills <= 3 else max(2, kills // 5)
    for one in drawn[: kills - several]:
        yield [one]
    # Each but a part of the way, so that there is something left for the next.
    yield [Kill(one.kind, one.at / several) for one in drawn[kills - several :]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--lines", type=int, default=200, help="size of the corpus (200)")
    parser.add_argument("--hidden", type=int, default=64, help="cells of the LSTM (64)")
    parser.add_argument("--steps", type=int, default=60, help="steps of the run (60)")
    parser.add_argument("--validations", type=int, default=20, help="each with a save (20)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile in every process, not once: slower, and the same bits",
    )
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        folder, size = arguments.run
        run(pathlib.Path(folder), Size(**json.loads(size)))
        return

    size = Size(arguments.lines, arguments.hidden, arguments.steps, arguments.validations)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        # Before JAX is imported, here and in the processes of the run.
        os.environ.update(cached(None if arguments.compile else work / "cache"))
        pace = undisturbed(work / "whole", size)
        print(
            f"{size.steps} steps in {pace.training:.1f} s after {pace.start:.1f} s of start-up; "
            f"{pace.saves} checkpoints of {pace.save:.2f} s each\n\n"
            f"{'kill in':8} {'moment':>9} {'at step':>7}  on disk",
            flush=True,
        )
        for number, kills in enumerate(plan(arguments.kills, arguments.seed)):
            folder = work / str(number)
            for when in kills:
                while True:
                    before = len(logs(folder))
                    begun = time.monotonic()
                    if kill(start(folder, size), folder, size, when, pace):
                        break
                    # It was faster than the one measured: judged as it is, and anew, killed sooner.
                    failed += judge(work / "whole", folder, size)
                    when = when._replace(at=0.8 * when.at)
                moment = time.monotonic() - begun
                seen = logs(folder)[before:]
                at = f"{max(seen[-1])}" if seen and seen[-1] else "-"
                whole = [
                    f"{p.parent.name}/{int(p.name)}"
                    for p in sorted((folder / "run").glob("[lb]*/[0-9]*"))
                ]
                half = [f"half of {part}" for part in unfinished(folder)]
                print(
                    f"{when.kind:8} {moment:7.2f} s {at:>7}  "
                    f"{', '.join([*whole, *half]) or 'nothing'}",
                    flush=True,
                )
            finish(folder, size)
            failed += judge(work / "whole", folder, size)
    print(f"\n{arguments.kills} kills, {failed} runs that differ")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
