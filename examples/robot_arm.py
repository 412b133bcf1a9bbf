"""The robot arm: one position of the hand, two sets of joint angles that reach it.

Two links in a plane, a shoulder and an elbow. Where the angles put the hand is
a formula; which angles put the hand *there* is the question a robot asks, and
most positions have two answers, elbow up and elbow down (Bishop 1994).

Two networks of the same size learn to answer from examples. One is trained by
least squares and learns the mean of the right answers, which is wrong: the arm
stretched out, past its goal. The other is a mixture density network and learns
both. This program measures how far the hand ends from where it should be, and
draws it.

With no arguments it takes about a minute on two CPU cores. Training positions
come fresh from the formula at every step; --points 1000 is Bishop's setting.
"""

import time

STARTED = time.monotonic()

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import dataclasses
import functools
import math
import pathlib
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import robot_arm_pictures as pictures
from command_line import count, named_errors, positive, write_metrics
from flax import nnx

import mdnjax as mdn
from mdnjax import datasets, nets, plotting, training
from mdnjax.mixtures import Modes

TEST_SEED = 1  # training seeds begin at 2^32
RADIUS = 0.05  # radians within which a solution counts as found ...
WEIGHT = 0.05  # ... by a mode, or by a component of at least this weight


class Answers(NamedTuple):
    """What both networks say of how to reach positions `[N, 2]`, as NumPy arrays.

    Attributes:
        average: Least squares: angles `[N, 2]`, radians.
        likely: The mean of the mixture's most probable component.
        mix: The mixture density network: mixtures over the angles, of batch shape `[N]`.
        peaks: Their modes.
    """

    average: np.ndarray | jax.Array
    likely: np.ndarray | jax.Array
    mix: mdn.GaussianMixture
    peaks: Modes


class Scores(NamedTuple):
    """What the test says of the solvers.

    Attributes:
        errors: For each way to choose one answer, the distances `[N]` from hand to goal.
        both: `[N]`, where both solutions are within the joints' ranges.
        found: `[N]`, where both were found.
        nats: -log p of the angles, mean.
        floor: That of the exact solutions, as wide as the narrowest component may be.
    """

    errors: dict[str, np.ndarray]
    both: np.ndarray
    found: np.ndarray
    nats: float
    floor: float


def main() -> None:
    """Learns, measures, draws."""
    arguments = parse_arguments()
    with named_errors("robot_arm.py"):
        run(arguments)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = functools.partial(parser.add_argument, metavar="N", type=count)
    option("--components", metavar="K", default=2, help="Gaussians in the mixture (2)")
    option("--layers", default=3, help="hidden layers of each network (3)")
    option("--width", default=64, help="tanh units a layer (64)")
    option("--steps", default=5000, help="training steps of each network (5000)")
    option("--batch", default=1024, help="positions a step (1024)")
    option("--points", help="learn from N positions only, not from fresh ones at each step")
    option("--lr", metavar="RATE", type=positive, default=0.01, help="peak learning rate (0.01)")
    option(
        "--floor",
        metavar="RAD",
        type=positive,
        default=0.02,
        help="standard deviation that no component goes below, in radians (0.02): without noise "
        "the likelihood has no upper bound",
    )
    option("--test", default=100_000, help="positions to be judged on (100000)")
    option("--seed", type=natural, default=0, help="of all randomness but the test's (0)")
    option(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        default=pathlib.Path("runs/robot_arm"),
        help="for pictures and metrics (runs/robot_arm)",
    )
    arguments = parser.parse_args(argv)
    least = max(2, arguments.components)
    if arguments.points is not None and arguments.points < least:
        parser.error(
            f"argument --points: must be at least {least} for {arguments.components} components, "
            f"got {arguments.points}"
        )
    return arguments


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    """The whole story, in order."""
    # What would fail at the end fails now: a missing Matplotlib, a folder that is read-only.
    with plotting.house_style():
        pass
    training.check_folder(arguments.out)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )
    solve = learn(arguments)
    learned = time.monotonic() - STARTED
    test = datasets.robot_arm(arguments.test, seed=TEST_SEED)
    scores = judge(solve(test.inputs), test, arguments.floor)
    print_scores(scores)
    plotting.save(pictures.arms(solve), arguments.out / "robot_arm.png")
    plotting.save(pictures.error_maps(solve), arguments.out / "robot_arm_errors.png", dpi=140)
    pictures.write_path_gif(arguments.out / "robot_arm.gif", solve)
    figures = {
        "scores": summary(scores),
        "units": {"position_error": "arm lengths", "angles": "radians"},
        "test_seed": TEST_SEED,
        "learning_seconds": learned,
    }
    write_metrics(arguments, figures, STARTED)
    print(
        f"in {arguments.out}: robot_arm.png, robot_arm_errors.png, robot_arm.gif, metrics.json\n"
        f"learned in {learned:.0f} s, done in {time.monotonic() - STARTED:.0f} s"
    )


def learn(arguments: argparse.Namespace) -> Callable[[np.ndarray], Answers]:
    """Trains a network by least squares, and one of the same size by maximum likelihood."""
    batches = training_batches(arguments)
    sample = datasets.robot_arm(min(arguments.points or 10_000, 10_000), seed=first_seed(arguments))
    # Positions are standardised. Angles stay in radians, as does all that is said of them.
    mean, std = sample.inputs.mean(0, keepdims=True), sample.inputs.std(0, keepdims=True)
    hidden = (arguments.width,) * arguments.layers

    def train(
        output: int | nnx.Module, nats: Callable[[jax.Array, jax.Array], jax.Array]
    ) -> Callable[[Any], jax.Array]:
        module = nets.MLP(2, hidden, output, rngs=nnx.Rngs(arguments.seed))
        network = nets.functional(module)

        def predict(params: Any, position: Any) -> jax.Array:
            return network.apply(params, {}, (position - mean) / std)[0]

        def loss(
            params: Any, state: Any, batch: datasets.Pairs, key: jax.Array
        ) -> tuple[jax.Array, jax.Array, Any]:
            del key
            values = nats(predict(params, batch.inputs), jnp.asarray(batch.targets))
            return values, jnp.ones_like(values), state

        result = training.fit(
            loss,
            network.params,
            network.state,
            batches,
            optimizer=training.muon(lambda name: name.startswith("layers/")),
            schedule=training.Schedule(peak=arguments.lr, warmup=100),
            seed=arguments.seed,
            steps=arguments.steps,
            validations=4,
        )
        if result.signal is not None:
            sys.exit(128 + result.signal)
        return functools.partial(predict, result.params)

    print("least squares")
    # -log N(y | f(x), I), but for its constant.
    average = train(2, lambda raw, angles: 0.5 * jnp.sum((angles - raw) ** 2, axis=-1))

    print("mixture density network")
    head = mdn.GaussianHead(num_components=arguments.components, dim=2)

    def mixture(raw: jax.Array) -> mdn.GaussianMixture:
        # Angles known exactly have no density: -log p would fall without end as the scales shrink,
        # and ever larger gradients would drown what is still to be learned elsewhere. So variances
        # are sigma^2 + floor^2; where the floor rules, -log p is least squares on each branch.
        mix = head.mixture(raw)
        floor = jnp.full_like(mix.log_scale, math.log(arguments.floor))
        return dataclasses.replace(mix, log_scale=0.5 * jnp.logaddexp(2 * mix.log_scale, 2 * floor))

    fit_bias = jax.jit(nets.bias_from_targets, static_argnums=1)
    bias = fit_bias(jax.random.key(arguments.seed), head, sample.targets)
    output = nets.MixtureDense(
        arguments.width, head, bias=bias, rngs=nnx.Rngs(params=arguments.seed + 1)
    )
    raw = train(output, lambda raw, angles: -mdn.log_prob(mixture(raw), angles))

    @jax.jit
    def solve(position: jax.Array) -> Answers:
        mix = mixture(raw(position))
        return Answers(average(position), mdn.most_probable(mix), mix, mdn.modes(mix))

    return functools.partial(in_blocks, solve)


def in_blocks(function: Callable[[Any], Any], x: np.ndarray, *, size: int = 4096) -> Any:
    """Applies a compiled function to so many rows at a time: one shape, compiled once."""
    rows = np.arange(-(-len(x) // size) * size).clip(max=len(x) - 1)  # the last fills up
    blocks = [function(x[rows[i : i + size]]) for i in range(0, len(rows), size)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(x)], *blocks)


def training_batches(arguments: argparse.Namespace) -> Callable[[int], datasets.Pairs]:
    """The batch of each step: fresh pairs, or some (at most all) of as many as there are."""
    first, size, points = first_seed(arguments), arguments.batch, arguments.points
    if points is None:
        return lambda step: datasets.robot_arm(size, seed=first + step)
    data = datasets.robot_arm(points, seed=first)
    if points <= size:
        return lambda _: data

    def batch(step: int) -> datasets.Pairs:
        chosen = np.random.default_rng((first, step)).choice(points, size, replace=False)
        return datasets.Pairs(data.inputs[chosen], data.targets[chosen])

    return batch


def first_seed(arguments: argparse.Namespace) -> int:
    """The seed of the first training data; those that follow belong to this run, too."""
    return (arguments.seed + 1) << 32


def judge(answers: Answers, test: datasets.Pairs, floor: float) -> Scores:
    """Sends the hand to every test position, and asks the density for both solutions."""
    exact = datasets.arm_solutions(test.inputs)
    both = np.all(exact.allowed, axis=-1)
    ideal = mdn.GaussianMixture.isotropic(
        jnp.asarray(exact.angles, jnp.float32),
        jnp.full(exact.allowed.shape, floor),
        weights=exact.allowed,
    )
    nll = jax.jit(lambda mix: -mdn.log_prob(mix, test.targets).mean())
    return Scores(
        {n: pictures.distance(a, test.inputs) for n, a in pictures.choices(answers).items()},
        both,
        both & found(answers.mix, answers.peaks, exact.angles).all(axis=-1),
        float(nll(answers.mix)),
        float(nll(ideal)),
    )


def found(mix: mdn.GaussianMixture, peaks: Modes, angles: np.ndarray) -> np.ndarray:
    """Whether each of the angles `[N, S, 2]` is near a mode, or a component of some weight."""

    def near(points: jax.Array, counts: jax.Array) -> np.ndarray:
        apart = np.linalg.norm(angles[:, :, None] - np.asarray(points)[:, None], axis=-1)
        return ((apart < RADIUS) & np.asarray(counts)[:, None]).any(axis=-1)

    return near(peaks.points, peaks.is_mode) | near(mix.loc, mix.weights >= WEIGHT)


def summary(scores: Scores) -> dict[str, Any]:
    """The scores in figures."""
    return {
        "position_error": {
            name: {
                "rms": float(np.sqrt(np.mean(error**2))),
                "median": float(np.median(error)),
                "99 %": float(np.quantile(error, 0.99)),
                "worst": float(error.max()),
            }
            for name, error in scores.errors.items()
        },
        "least_squares_limit": 0.05839,
        "positions": len(scores.both),
        "positions_with_two_solutions": int(scores.both.sum()),
        "both_found": float(scores.found.sum() / max(scores.both.sum(), 1)),
        "nats": scores.nats,
        "nats_of_the_exact_solutions": scores.floor,
    }


def print_scores(scores: Scores) -> None:
    """Prints the scores as a table, and what they mean."""
    figures = summary(scores)
    print(f"\nfrom hand to goal, on {len(scores.both):,} test positions, in arm lengths:")
    print(f"  {'':24} {'RMS':>8} {'median':>8} {'99 %':>8} {'worst':>8}")
    for name, error in figures["position_error"].items():
        print(f"  {name:24}", *(f"{value:8.5f}" for value in error.values()))
    print(
        f"  (the mean of the right answers, exactly: {figures['least_squares_limit']})\n"
        f"both solutions, where both are within the joints' ranges ({scores.both.mean():.2%}):\n"
        f"  {figures['both_found']:.2%} found: each within {RADIUS} rad of a mode, or of a "
        f"component of weight {WEIGHT} or more\n"
        f"-log p of the angles: {scores.nats:.3f} nats, of the exact solutions "
        f"{scores.floor:.3f}\n"
    )


if __name__ == "__main__":
    main()
