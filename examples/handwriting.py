"""A network that learns to write, after Graves (2013): an LSTM with a mixture density output.

At every point of a line of handwriting the network predicts the next movement of the pen: a
mixture of Gaussians over the offset, times the probability that the pen is then lifted. Sampling
from that density, point by point, is writing.

With no arguments it learns from a built-in corpus of generated handwriting, in about five minutes
on two CPU cores. --data takes real handwriting: the IAM-OnDB folder as downloaded, or an .npz
archive of lines.
"""

import time

STARTED = time.monotonic()  # the promised minutes count from here: imports are part of them

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import dataclasses
import json
import math
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import mdnjax
from mdnjax import datasets, nets, plotting, strokes, training


class Lines(NamedTuple):
    """The lines to learn from, to stop by, and to be judged on; no form stands in two."""

    train: strokes.Corpus
    valid: strokes.Corpus
    test: strokes.Corpus
    name: str


class Writer(NamedTuple):
    """A network and what its numbers mean."""

    stack: nets.LSTMStack
    unroll: nets.Apply
    step: nets.Apply
    params: Any
    head: mdnjax.ProductHead
    normalizer: strokes.Normalizer


def main() -> None:
    """Learns, writes, and says how well."""
    arguments = parse_arguments()
    try:
        run(arguments)
    except (ValueError, OSError, ImportError, training.CheckpointError) as error:
        sys.exit(f"handwriting.py: {error}")
    except training.NonFiniteError as error:
        sys.exit(f"handwriting.py: {error}\nTry a smaller --lr.")


def run(arguments: argparse.Namespace) -> None:
    """The whole story, in order."""
    # What would fail at the end fails now: a run that is there already, a missing Matplotlib.
    if not (arguments.resume or arguments.overwrite) and (arguments.out / "last").exists():
        sys.exit(
            f"handwriting.py: {arguments.out} holds a run; --resume goes on with it, --overwrite "
            "deletes it, --out FOLDER leaves it alone"
        )
    with plotting.house_style():
        pass
    arguments.out.mkdir(parents=True, exist_ok=True)
    mesh = devices_for(arguments.batch)

    lines = read_lines(arguments)
    normalizer = strokes.Normalizer.fit(lines.train)
    print_facts(lines, normalizer, mesh)

    writer, architecture = build(arguments, lines.train, normalizer)
    result = learn(arguments, writer, architecture, lines, mesh)
    if result.stopped == "interrupted":
        print(f"interrupted at step {int(result.last.step):,}, which is saved; --resume goes on")
        sys.exit(130)
    writer = writer._replace(params=result.params)

    scores = judge(writer, lines, arguments.seed, mesh)
    print_scores(scores)
    draw(arguments, writer, lines, scores)
    write_metrics(arguments, scores, result, lines)
    print(
        f"\nlearned from {result.points:,.0f} points in {int(result.last.step):,} steps, "
        f"{result.points / result.seconds:,.0f} points a second\n"
        f"{arguments.out}: handwriting.svg, handwriting.png, density.png, learning_curve.png, "
        f"metrics.json\ndone in {(time.monotonic() - STARTED) / 60:.1f} minutes"
    )


def devices_for(batch: int) -> jax.sharding.Mesh:
    """A mesh of all devices over which a batch can be divided: one CPU, or some accelerators."""
    devices = jax.devices()
    count = math.gcd(batch, len(devices))
    automatic = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((count,), ("batch",), automatic, devices=devices[:count])


def read_lines(arguments: argparse.Namespace) -> Lines:
    """Reads or generates the corpus, cleans real data, and splits it by form."""
    if arguments.data is None:
        corpus = datasets.built_in_pens(arguments.lines, seed=arguments.seed)
        name = "the built-in pens"
    else:
        corpus = strokes.read(arguments.data, strict=arguments.strict)
        name = arguments.data.name
    # A twentieth to stop by, a tenth to be judged on; of a handful of forms, at least one each.
    forms = len(set(corpus.forms))
    if forms < 5:
        raise ValueError(
            f"{name}: lines of at least 5 forms are needed to hold some out, got {forms}"
        )
    least = 1.5 / forms
    stop, judge = max(0.05, least), max(0.10, least)
    if arguments.test is not None:
        train, valid = strokes.split_by(corpus.forms, (1 - stop, stop), seed=arguments.seed)
        test = strokes.read(arguments.test, strict=arguments.strict)
    else:
        shares = (1 - stop - judge, stop, judge)
        train, valid, held = strokes.split_by(corpus.forms, shares, seed=arguments.seed)
        test = corpus.subset(held)
    learned = corpus.subset(train)
    if arguments.clean:
        # The lines to be judged on stay as they are: cleaning changes what is to be predicted.
        learned, report = strokes.clean(learned)
        print(report)
    return Lines(learned, corpus.subset(valid), test, name)


def build(
    arguments: argparse.Namespace, corpus: strokes.Corpus, normalizer: strokes.Normalizer
) -> tuple[Writer, dict[str, Any]]:
    """The network of Graves' figure 1, starting from what offsets look like without context."""
    head = strokes.stroke_head(arguments.components)
    hidden = (arguments.hidden,) * arguments.layers
    options: dict[str, Any] = {
        "in_features": 3,
        "hidden": hidden,
        "output": head.num_outputs,
        # Graves' 10, for a loss summed over points, is this for their mean.
        "clip_gradient": 10 / (arguments.batch * arguments.window),
    }
    some = normalizer.apply(strokes.Windows(corpus, 64, 256, arguments.seed)(0))
    _, targets, mask = strokes.next_step_pairs(some)
    bias = nets.bias_from_targets(
        jax.random.key(arguments.seed), head, {name: y[mask] for name, y in targets.items()}
    )
    rngs = nnx.Rngs(arguments.seed)
    output = nets.MixtureDense(sum(hidden), head, bias=bias, rngs=rngs)
    stack = nets.LSTMStack(**{**options, "output": output}, rngs=rngs)
    unroll = nets.functional(stack, method="unroll")
    step = nets.functional(stack, method="step")
    writer = Writer(stack, unroll.apply, step.apply, unroll.params, head, normalizer)
    return writer, training.describe(nets.LSTMStack, **options)


def learn(
    arguments: argparse.Namespace,
    writer: Writer,
    architecture: dict[str, Any],
    lines: Lines,
    mesh: jax.sharding.Mesh,
) -> training.FitResult:
    """Trains the writer on streams of lines, and keeps what did best on the validation lines."""
    stack, head, normalizer = writer.stack, writer.head, writer.normalizer

    def nats(
        params: Any, batch: strokes.StreamBatch, carry: nets.LSTMCarry, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, nets.LSTMCarry]:
        inputs, targets, mask = strokes.next_step_pairs(normalizer.apply(batch.strokes))
        # The targets, not the inputs, get fresh noise of one device unit each time they are seen.
        targets = strokes.dequantize(key, targets, normalizer.device_unit)
        starts = jnp.asarray(batch.starts)
        (carry, raw), _ = writer.unroll(params, {}, inputs, carry, starts[:, :-1])
        return head.nll(raw, targets), jnp.asarray(mask) & ~starts[:, 1:], carry

    def loss(
        params: Any, state: Any, batch: strokes.StreamBatch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        values, counts, carry = nats(params, batch, state["carry"], key)
        return values, counts.astype(values.dtype), {"carry": carry}

    def whole_lines(
        params: Any, state: Any, batch: strokes.StreamBatch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        carry = stack.initial_carry(batch.starts.shape[:1])
        values, counts, _ = nats(params, batch, carry, key)
        return values, counts.astype(values.dtype), state

    validate = training.make_validation(
        jax.random.key(arguments.seed),
        whole_lines,
        validation_batches(lines.valid, arguments.batch),
        mesh=mesh,
    )
    timed = arguments.steps is None
    return training.fit(
        loss,
        writer.params,
        {"carry": training.split_batch(stack.initial_carry((arguments.batch,)), mesh)},
        strokes.Streams(lines.train, arguments.batch, arguments.window, arguments.seed),
        optimizer=training.muon(lambda name: name.startswith("layers/")),
        schedule=training.Schedule(peak=arguments.lr, warmup=100, decay="linear"),
        seed=arguments.seed,
        steps=arguments.steps,
        minutes=arguments.minutes if timed else None,
        started=STARTED if timed else None,
        reserve=reserve(lines, arguments),
        validate=validate,
        validations=10,
        out=arguments.out,
        config={
            "architecture": architecture,
            "head": training.describe(head),
            "normalizer": training.describe(normalizer),
            "unit": normalizer.unit,
            "data": lines.name,
            "batch": arguments.batch,
            "window": arguments.window,
            "train_points": len(lines.train.strokes.pen_up),
        },
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        mesh=mesh,
    )


def validation_batches(corpus: strokes.Corpus, batch_size: int) -> list[strokes.StreamBatch]:
    """Some two hundred whole lines of all forms; a row that is empty counts for nothing."""
    chosen = np.linspace(0, len(corpus) - 1, min(len(corpus), 192)).astype(int)
    some = corpus.subset(chosen)
    batches = []
    for _, batch in strokes.line_batches(some, batch_size=batch_size, num_buckets=3):
        batches.append(strokes.StreamBatch(batch, np.zeros(batch.mask.shape, bool)))
    return batches


def reserve(lines: Lines, arguments: argparse.Namespace) -> float:
    """Seconds that judging, writing and drawing take after training, generously."""
    cells = arguments.layers * arguments.hidden
    return 25 + len(lines.test.strokes.pen_up) * (2e-6 + 2e-11 * cells**2)


def judge(
    writer: Writer, lines: Lines, seed: int, mesh: jax.sharding.Mesh
) -> dict[str, strokes.StrokeScores]:
    """Scores the network and two baselines on the test lines."""
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def predict(params: Any, inputs: jax.Array) -> jax.Array:
        inputs = jax.lax.with_sharding_constraint(inputs, by_row)
        return writer.unroll(params, {}, inputs)[0][1]

    key = jax.random.key(seed)
    network = strokes.evaluate(
        jax.tree_util.Partial(predict, writer.params),
        lines.test,
        writer.normalizer,
        writer.head,
        key=key,
        batch_size=32 * mesh.size,
    )
    autoregression = strokes.fit_autoregression(lines.train, writer.normalizer)
    static = strokes.fit_static(lines.train, writer.normalizer)
    return {
        "network": network,
        "linear autoregression": autoregression.evaluate(lines.test, writer.normalizer, key=key),
        "static Gaussian": static.evaluate(lines.test, writer.normalizer, key=key),
    }


def draw(
    arguments: argparse.Namespace,
    writer: Writer,
    lines: Lines,
    scores: dict[str, strokes.StrokeScores],
) -> None:
    """Writes the pictures: lines it made up, what it expects, how it learned."""
    out = arguments.out

    def step(params: Any, carry: nets.LSTMCarry, point: jax.Array) -> tuple[Any, jax.Array]:
        return writer.step(params, {}, carry, point)[0]

    written = strokes.generate(
        jax.tree_util.Partial(step, writer.params),
        writer.stack.initial_carry((arguments.sample,)),
        writer.head,
        jax.random.key(arguments.seed),
        num_lines=arguments.sample,
        max_points=int(np.median(lines.train.lengths)),
        normalizer=writer.normalizer,
        bias=arguments.bias,
    )
    strokes.write_svg(out / "handwriting.svg", written, title="Handwriting a network made up")
    plotting.save(plotting.page(written), out / "handwriting.png")

    # A line short enough to see its points, from those the network has not learned from.
    line = lines.test[int(np.argsort(lines.test.lengths)[len(lines.test) // 10])]
    inputs, _, _ = strokes.next_step_pairs(writer.normalizer.apply(line))
    (_, raw), _ = writer.unroll(writer.params, {}, jnp.asarray(inputs))
    offset_head, _ = strokes.stroke_parts(writer.head)
    mix = offset_head.mixture(writer.head.split(raw)["offset"])
    mix = writer.normalizer.invert_mixture(mix)
    figure = plotting.density_map(line, mix.log_weights, mix.loc, mix.component_covariances)
    plotting.save(figure, out / "density.png")

    baselines = {name: score.nats_per_point for name, score in scores.items() if name != "network"}
    records = training.read_metrics(out / "metrics.jsonl")
    plotting.save(plotting.learning_curve(records, baselines=baselines), out / "learning_curve.png")


def print_facts(lines: Lines, normalizer: strokes.Normalizer, mesh: jax.sharding.Mesh) -> None:
    """Says what it runs on and what it learns from."""
    device = mesh.devices.flat[0]
    print(
        f"{mesh.size} x {device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )
    for part in ("train", "valid", "test"):
        corpus = getattr(lines, part)
        print(f"  {part:5}  {len(corpus):6,} lines  {len(corpus.strokes.pen_up):10,} points")
    (mean_x, mean_y), (std_x, std_y) = normalizer.mean, normalizer.std
    print(
        f"{lines.name}; offsets: mean ({mean_x:.2f}, {mean_y:.2f}), "
        f"std ({std_x:.1f}, {std_y:.1f}) {normalizer.unit} units"
    )


def print_scores(scores: dict[str, strokes.StrokeScores]) -> None:
    """Prints a table of the scores, and what they mean."""
    network = scores["network"]
    print(f"\non {network.num_lines:,} test lines, {network.num_points:,} points:")
    print(f"  {'':22} {'nats/point':>11} {'nats/line':>10} {'SSE/point':>10}")
    for name, score in scores.items():
        print(
            f"  {name:22} {score.nats_per_point:11.3f} {score.nats_per_sequence:10.1f} "
            f"{score.sse_per_point:10.3f}"
        )
    verdict = "counts" if network.raw_counts else "does not count"
    print(
        "  nats: -log p of the next point, offsets in standard deviations of the training lines,\n"
        "  dequantised by one device unit; less is better. At the device's whole numbers:\n"
        f"  {'as it is':22} {network.raw_nats_per_point:11.3f} "
        f"{network.raw_nats_per_sequence:10.1f}   "
        f"{verdict}: narrowest component {network.min_scale:.2g} units\n"
        f"  {'0.4 units wider':22} {network.smoothed_nats_per_point:11.3f} "
        f"{network.smoothed_nats_per_sequence:10.1f}"
    )


def write_metrics(
    arguments: argparse.Namespace,
    scores: dict[str, strokes.StrokeScores],
    result: training.FitResult,
    lines: Lines,
) -> None:
    """Writes `metrics.json`."""
    document = {
        "data": lines.name,
        "scores": {
            name: {**dataclasses.asdict(score), "raw_counts": score.raw_counts}
            for name, score in scores.items()
        },
        "training": {
            "steps": int(result.last.step),
            "points": result.points,
            "seconds": result.seconds,
            "points_per_second": result.points / max(result.seconds, 1e-9),
            "stopped": result.stopped,
            "best_step": result.step,
            "valid_nats_per_point": result.valid,
        },
        "seconds": time.monotonic() - STARTED,
        "arguments": {name: plain(value) for name, value in vars(arguments).items()},
        "versions": training.package_versions(),
    }
    text = json.dumps(document, indent=2) + "\n"
    (arguments.out / "metrics.json").write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """A command-line value as JSON has it."""
    return str(value) if isinstance(value, pathlib.Path) else value


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="PATH",
        type=pathlib.Path,
        help="real handwriting: an IAM-OnDB folder or an .npz archive (default: the built-in pens)",
    )
    data.add_argument(
        "--test",
        metavar="PATH",
        type=pathlib.Path,
        help="lines to be judged on (default: a tenth of the data, whole forms held out)",
    )
    data.add_argument("--strict", action="store_true", help="stop at a broken file, do not skip it")
    data.add_argument(
        "--clean",
        action="store_true",
        help="fill in missing readings and drop over-long jumps of the training lines (Graves)",
    )
    data.add_argument(
        "--lines", metavar="N", type=count, default=6000, help="size of the built-in corpus (6000)"
    )

    network = parser.add_argument_group("network")
    network.add_argument(
        "--hidden", metavar="N", type=count, default=256, help="cells a layer (256)"
    )
    network.add_argument("--layers", metavar="N", type=count, default=1, help="LSTM layers (1)")
    network.add_argument(
        "--components", metavar="K", type=count, default=20, help="Gaussians in the mixture (20)"
    )

    learning = parser.add_argument_group("learning")
    budget = learning.add_mutually_exclusive_group()
    budget.add_argument("--steps", metavar="N", type=count, help="train for N steps; or")
    budget.add_argument(
        "--minutes",
        metavar="M",
        type=positive,
        default=4.8,
        help="train for so many steps that the whole run takes M minutes (4.8)",
    )
    learning.add_argument("--batch", metavar="B", type=count, default=32, help="lines a batch (32)")
    learning.add_argument(
        "--window", metavar="T", type=count, default=64, help="points of each line in a batch (64)"
    )
    learning.add_argument(
        "--lr", metavar="RATE", type=positive, default=1e-2, help="peak learning rate (0.01)"
    )
    learning.add_argument("--seed", metavar="N", type=int, default=0, help="of all randomness (0)")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        default=pathlib.Path("runs/handwriting"),
        help="for pictures, metrics and checkpoints (runs/handwriting)",
    )
    there = output.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    there.add_argument("--overwrite", action="store_true", help="delete the run in that folder")
    output.add_argument("--sample", metavar="N", type=count, default=8, help="lines to write (8)")
    output.add_argument(
        "--bias",
        metavar="B",
        type=not_negative,
        default=0.5,
        help="neatness: 0 as it was learned, 1 or more tidier, after Graves (0.5)",
    )
    return parser.parse_args(argv)


def count(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def positive(text: str) -> float:
    """A finite number above 0."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be above 0, got 0")
    return number


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and at least 0, got {number}")
    return number


if __name__ == "__main__":
    main()
