"""Sampling handwriting beside the same network sampled in PyTorch.

Both hold the same weights: three LSTM layers of 400 with skip connections, a mixture of 20
full-covariance Gaussians and a pen-up probability (Graves 2013). Each point is drawn from what the
network says of it and read in turn. Ours is `strokes.generate`, whole, after compilation; PyTorch's
is a loop under `torch.inference_mode`, written in three ways. Before anything is timed, all must
agree on the raw outputs for given inputs.

With one line a step is little more than reading the weights once: the floor says how fast this
machine reads that many bytes. And 2T points must not take much more than twice T's time.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from measure import Spread, interleaved, machine

from mdnjax import nets, strokes

HIDDEN, COMPONENTS = (400, 400, 400), 20
QUICK_HIDDEN, QUICK_COMPONENTS = (16, 16, 16), 3

NORMALIZER = strokes.Normalizer(mean=(8.0, 0.0), std=(40.0, 30.0), unit="device")

Sampler = Callable[[], object]


def main() -> None:
    arguments = parse_arguments()
    device = jax.devices(arguments.device)[0]
    jax.config.update("jax_default_device", device)
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "flax", "torch"))
    hidden = QUICK_HIDDEN if arguments.quick else HIDDEN
    head = strokes.stroke_head(QUICK_COMPONENTS if arguments.quick else COMPONENTS)
    stack = nets.LSTMStack(3, hidden, head.num_outputs, rngs=nnx.Rngs(0))
    results: dict[str, Any] = {"points a second": {}, "seconds": {}}
    for batch, points in ((1, arguments.points), (64, max(20, arguments.points // 5))):
        contestants = ours(stack, head, batch, points)
        theirs, note = peers(stack, head, batch, points, arguments)
        seconds = interleaved(contestants | theirs, rounds=arguments.rounds, warmup=1)
        print(f"\nbatch {batch}, {points} points a line{note}")
        for name, times in seconds.items():
            ratio = "" if name in contestants else ratio_of(times, seconds["mdnjax"])
            speed = Spread.of(batch * points / times)
            print(f"  {name:40} {speed:,.0f} points a second{ratio}")
            results["points a second"][f"{batch}: {name}"] = speed.median
            results["seconds"][f"{batch}: {name}"] = times.tolist()
        if batch == 1 and device.platform == "cpu":
            results["floor"] = report_floor(stack, seconds["mdnjax"] / points, arguments)
        results[f"2T to T, batch {batch}"] = report_growth(stack, head, batch, points, arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def ours(
    stack: nets.LSTMStack, head: Any, batch: int, points: int, *, plain: bool = True
) -> dict[str, Sampler]:
    """`generate` with the stack's stepper, and with its `step` as trained."""
    net = nets.functional(stack, method="step")

    def plain_step(params: Any, carry: nets.LSTMCarry, inputs: jax.Array) -> tuple[Any, jax.Array]:
        return net.apply(params, net.state, carry, inputs)[0]

    start = stack.initial_carry((batch,))
    steps = {"mdnjax": stack.stepper(start)}
    if plain:
        as_trained = jax.tree_util.Partial(plain_step, net.params)
        steps["mdnjax, LSTMStack.step"] = as_trained, start

    def sample(step: Any, init: Any) -> strokes.Strokes:
        lines = strokes.generate(
            step,
            init,
            head,
            jax.random.key(0),
            num_lines=batch,
            max_points=points,
            normalizer=NORMALIZER,
        )
        return jax.block_until_ready(lines)

    return {name: functools.partial(sample, *pair) for name, pair in steps.items()}


def peers(
    stack: nets.LSTMStack, head: Any, batch: int, points: int, arguments: argparse.Namespace
) -> tuple[dict[str, Sampler], str]:
    """The loops in PyTorch, checked; or a note that there are none."""
    try:
        # With the extra `bench`; without it types are not checked against it.
        import torch  # pyright: ignore[reportMissingImports]
        import torch_sampler
        from torch_writer import Writer
    except ImportError:
        return {}, '; no PyTorch: pip install "mdnjax[bench]"'
    torch.set_num_threads(arguments.threads)
    where = "cpu" if arguments.device == "cpu" else "cuda"
    k = strokes.stroke_parts(head)[0].num_components
    writer = Writer(nets.functional(stack).params, k).to(where)
    modules, cells = torch_sampler.modules_step(writer), torch_sampler.cells_step(writer)
    for step in (modules, cells):
        require_agreement(stack, lambda x, step=step: torch_sampler.outputs(step, x.to(where)))
    first = torch.zeros(batch, 3, device=where)
    objects, by_hand = torch_sampler.distributions_draw(k), torch_sampler.by_hand_draw(k)

    def sampler(step: Any, draw: Any) -> Sampler:
        return lambda: torch_sampler.loop(step, draw, first, points)

    return {
        "torch, nn.LSTM, distributions": sampler(modules, objects),
        "torch, nn.LSTMCell, distributions": sampler(cells, objects),
        "torch, nn.LSTMCell, by hand": sampler(cells, by_hand),
    }, ""


def require_agreement(stack: nets.LSTMStack, theirs: Callable[[Any], Any]) -> None:
    """Ends the benchmark where raw outputs differ by more than float32 rounds over the points."""
    import torch  # pyright: ignore[reportMissingImports]

    inputs = np.random.default_rng(0).normal(size=(4, 20, 3)).astype(np.float32)
    expected = np.asarray(theirs(torch.tensor(inputs)))
    step, carry = stack.stepper(stack.initial_carry((4,)))
    _, stepped = jax.lax.scan(step, carry, jnp.moveaxis(jnp.asarray(inputs), 1, 0))
    for raw in (stack(inputs), jnp.moveaxis(stepped, 0, 1)):
        np.testing.assert_allclose(raw, expected, rtol=1e-3, atol=1e-4)


def report_floor(
    stack: nets.LSTMStack, step_seconds: np.ndarray, arguments: argparse.Namespace
) -> dict[str, float]:
    """How long this machine takes to read the weights once, by its fastest reader here."""
    num_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(nets.functional(stack).params))
    matrix = np.ones((max(1, num_bytes // 4 // 1600), 1600), np.float32)
    vector = np.ones(1600, np.float32)
    readers: dict[str, Sampler] = {"NumPy's matrix-vector product": lambda: matrix @ vector}
    try:
        import torch_sampler

        readers["PyTorch's sum"] = torch_sampler.seconds_of_sum(num_bytes)
    except ImportError:
        pass
    repeats = 300

    def many(read: Sampler) -> Sampler:
        return lambda: [read() for _ in range(repeats)]

    seconds = interleaved(
        {name: many(read) for name, read in readers.items()}, rounds=arguments.rounds, warmup=1
    )
    # A floor is the fastest that was seen, of any reader in any round.
    name, floor = min(
        ((name, float(np.min(times)) / repeats) for name, times in seconds.items()),
        key=lambda pair: pair[1],
    )
    step = float(np.median(step_seconds))
    print(
        f"  the weights are {num_bytes / 1e6:.1f} MB, read by {name} in {1e6 * floor:.0f} us "
        f"({num_bytes / floor / 1e9:.0f} GB/s); a step takes {1e6 * step:.0f} us: "
        f"{floor / step:.0%} of the floor's speed"
    )
    return {"bytes": num_bytes, "seconds": floor, "share": floor / step}


def report_growth(
    stack: nets.LSTMStack, head: Any, batch: int, points: int, arguments: argparse.Namespace
) -> float:
    """The time of 2T points over that of T."""
    lengths = {str(n): ours(stack, head, batch, n, plain=False) for n in (points, 2 * points)}
    seconds = interleaved(
        {name: contestants["mdnjax"] for name, contestants in lengths.items()},
        rounds=arguments.rounds,
        warmup=1,
    )
    growth = Spread.of(seconds[str(2 * points)] / seconds[str(points)])
    print(f"  {2 * points} points take {growth:.2f} times as long as {points}")
    return growth.median


def ratio_of(theirs: np.ndarray, our: np.ndarray) -> str:
    return f"; mdnjax is {Spread.of(theirs / our):.1f} times as fast"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11, help="interleaved rounds (11)")
    parser.add_argument("--points", type=int, default=500, help="points of one line (500)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (2)")
    parser.add_argument("--device", default="cpu", help="cpu or gpu (cpu)")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--json", type=pathlib.Path, help="write all times here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.points = min(arguments.rounds, 3), min(arguments.points, 40)
    return arguments


if __name__ == "__main__":
    main()
