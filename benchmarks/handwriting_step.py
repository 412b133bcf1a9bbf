"""A training step of the handwriting network beside the same step in PyTorch.

Both hold the same weights and see the same batch: a stack of LSTM layers with skip connections, a
mixture of full-covariance Gaussians with a pen-up probability (Graves 2013), -log p, its gradient,
and Adam behind a clip of the gradient's norm. PyTorch's is what its users write: `nn.LSTM`,
`nn.Linear`, `torch.distributions.MixtureSameFamily`, `torch.optim.Adam`. Before anything is timed,
both must agree on the loss and on every gradient.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from measure import Spread, interleaved, machine

import mdnjax as mdn
from mdnjax import nets, strokes, training

LEARNING_RATE = 1e-3
CLIP = 1.0


class Shape(NamedTuple):
    """Lines a batch, points of each, cells of each layer."""

    batch: int
    points: int
    hidden: tuple[int, ...]

    def __str__(self) -> str:
        return f"B {self.batch}, T {self.points}, {len(self.hidden)} x {self.hidden[0]}"


SHAPES = (Shape(64, 256, (256,)), Shape(32, 400, (400,) * 3), Shape(16, 200, (128,)))
QUICK = (Shape(4, 20, (16,)), Shape(4, 20, (16,) * 2))


class Batch(NamedTuple):
    """Inputs `[B, T, 3]`; the next point: offset `[B, T, 2]`, pen-up `[B, T]`."""

    inputs: np.ndarray
    offset: np.ndarray
    pen_up: np.ndarray


def main() -> None:
    arguments = parse_arguments()
    device = jax.devices(arguments.device)[0]
    jax.config.update("jax_default_device", device)
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "flax", "torch"))
    head = strokes.stroke_head(arguments.components)
    line = "{:32}{:>26}{:>26}{:>22}"
    print(line.format("a step's ms, median (quartiles)", "mdnjax", "torch", "torch / mdnjax"))
    results = []
    for shape in QUICK if arguments.quick else SHAPES:
        seconds = race(shape, head, arguments)
        result: dict[str, Any] = {"shape": shape._asdict(), "seconds": {}}
        for name, times in seconds.items():
            result["seconds"][name] = times.tolist()
        row = [f"{Spread.of(1e3 * times):.1f}" for times in seconds.values()]
        if "torch" in seconds:
            ratio = Spread.of(seconds["torch"] / seconds["mdnjax"])
            row.append(f"{ratio:.2f}")
            result["ratio"] = ratio.median
        print(line.format(str(shape), *row, *["-"] * (3 - len(row))), flush=True)
        results.append(result)
    ratios = [result["ratio"] for result in results if "ratio" in result]
    if ratios:
        mean = math.exp(np.mean(np.log(ratios)))
        print(f"geometric mean {mean:.2f} times PyTorch's speed, least {min(ratios):.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def race(
    shape: Shape, head: mdn.ProductHead, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Times the steps of one shape in turn, after they have agreed."""
    batch = random_batch(shape)
    output = nets.MixtureDense(sum(shape.hidden), head, rngs=nnx.Rngs(0))
    stack = nets.LSTMStack(3, shape.hidden, output, rngs=nnx.Rngs(0))
    network = nets.functional(stack)

    def loss(
        params: Any, state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        del key  # nothing here is random
        raw, state = network.apply(params, state, batch.inputs)
        nats = head.nll(raw, {"offset": batch.offset, "pen_up": batch.pen_up})
        return nats, jnp.ones_like(nats), state

    contestants: dict[str, Callable[[], Any]] = {"mdnjax": our_step(loss, network.params, batch)}
    try:
        # With the extra `bench`; without it types are not checked against it.
        import torch  # pyright: ignore[reportMissingImports]
        import torch_writer
    except ImportError:
        print('torch is not installed: pip install "mdnjax[bench]"', file=sys.stderr)
        return interleaved(contestants, rounds=arguments.rounds)
    torch.set_num_threads(arguments.threads)
    peer = torch_writer.Writer(network.params, arguments.components)
    peer.to("cuda" if arguments.device in ("gpu", "cuda") else "cpu")
    mean = jax.jit(jax.value_and_grad(lambda p: loss(p, {}, batch, jax.random.key(0))[0].mean()))
    require_agreement(mean(network.params), torch_writer.gradients(peer, batch))
    contestants["torch"] = torch_writer.training_step(
        peer, batch, learning_rate=LEARNING_RATE, clip=CLIP
    )
    return interleaved(contestants, rounds=arguments.rounds)


def our_step(loss: training.Loss, params: Any, batch: Batch) -> Callable[[], float]:
    """A step of the package; each call takes one."""
    optimizer = training.adam(clip=CLIP)
    schedule = training.Schedule(peak=LEARNING_RATE, decay="constant")
    step = training.make_step(loss, optimizer, schedule=schedule)
    state = training.init_state(params, {}, optimizer, budget=1)
    key = jax.random.key(0)
    on_device = jax.device_put(batch)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, on_device, key)
        return float(jax.block_until_ready((state, metrics))[1].nats)

    return run


def random_batch(shape: Shape) -> Batch:
    """Offsets of about unit variance and a pen lifted now and then."""
    rng = np.random.default_rng(0)
    size = shape.batch, shape.points + 1
    offset = rng.normal(size=(*size, 2)).astype(np.float32)
    pen_up = (rng.random(size) < 0.05).astype(np.float32)
    points = np.concatenate([offset, pen_up[..., None]], axis=-1)
    return Batch(points[:, :-1], offset[:, 1:], pen_up[:, 1:])


def require_agreement(ours: tuple[Any, Any], theirs: tuple[float, Any]) -> None:
    """Ends the benchmark where the two do not compute the same: float32, sums over many points."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, err_msg="loss")
    jax.tree.map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=1e-3 * float(np.abs(b).max()), err_msg=jax.tree_util.keystr(path)
        ),
        jax.tree.map(np.asarray, ours[1]),
        theirs[1],
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (20)")
    parser.add_argument("--components", type=int, default=20, help="Gaussians in the mixture (20)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (2)")
    parser.add_argument("--device", default="cpu", help="cpu or gpu (cpu)")
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--json", type=pathlib.Path, help="write all times here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
