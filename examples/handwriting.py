"""A network that learns to write: an LSTM with a mixture density output.

At every point of a line of handwriting the network predicts the next movement
of the pen: a mixture of Gaussians over the offset, times the probability that
the pen is then lifted (Graves 2013). Sampling from that density, point by
point, is writing.

With no arguments it learns from a built-in corpus of generated handwriting, in
about five minutes on two CPU cores. --data takes the handwriting and the
drawings that people have: the IAM-OnDB folder as downloaded, sketch-rnn's
archives, Quick, Draw!, UNIPEN text, SVG, or an .npz archive of lines.
"""

import time

STARTED = time.monotonic()  # the promised minutes count from here: imports are part of them

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import platform
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import named_errors, write_metrics
from flax import nnx
from handwriting_data import Lines, read_lines, read_prime
from handwriting_options import parse_arguments

import mdnjax
from mdnjax import nets, plotting, strokes, training


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
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells leave it
            signal.signal(number, leave)
    arguments = parse_arguments(__doc__)
    warnings.formatwarning = lambda message, *_, **__: f"handwriting.py: {message}\n"
    with named_errors("handwriting.py"):
        try:
            run(arguments)
        except KeyboardInterrupt:  # a second Ctrl-C, while training ends
            leave(signal.SIGINT, None)


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the program at a signal while it reads, judges or draws: none of that is lost for good.

    At once, for an exception may be raised anywhere, in compiled code's callbacks too.
    """
    del frame
    name = signal.Signals(number).name
    os.write(2, f"\nhandwriting.py: {name}; --resume goes on from what is saved\n".encode())
    os._exit(128 + number)  # as a shell reports a process that the signal ended


@contextlib.contextmanager
def signals_to_training() -> Iterator[None]:
    """Leaves signals to `fit`, which finishes its step and saves, but replaces nobody's handler."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [number for number in defaults if signal.getsignal(number) == leave]
    for number in ours:
        signal.signal(number, defaults[number])
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, leave)


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
    training.check_folder(arguments.out)
    given = None if arguments.prime is None else read_prime(arguments)
    if given is not None and arguments.resume and is_finished(arguments.out):
        model = training.load_model(arguments.out, method="step")
        carry = model.module.initial_carry((arguments.sample,))
        go_on(arguments, model.network, carry, model.head, model.normalizer, given)
        return
    mesh = devices_for(arguments.batch)

    lines = read_lines(arguments)
    normalizer = strokes.Normalizer.fit(lines.train)
    print_facts(lines, normalizer, mesh)

    writer, architecture = build(arguments, lines.train, normalizer)
    with signals_to_training():
        result = learn(arguments, writer, architecture, lines, mesh)
    if result.signal is not None:
        saved = "nothing to save yet"
        if result.checkpoint is not None:
            saved = f"{result.checkpoint} is saved, --resume goes on"
        print(f"{result.signal.name}: stopped after step {int(result.last.step):,}; {saved}")
        sys.exit(128 + result.signal)
    writer = writer._replace(params=result.params)

    scores = judge(writer, lines, arguments.seed, mesh)
    print_scores(scores)
    draw(arguments, writer, lines, scores)
    write_metrics(arguments, figures(scores, result, lines), STARTED)
    training.write_safetensors(
        arguments.out / "model.safetensors", training.load_model(arguments.out)
    )
    print(
        f"\nlearned from {result.points:,.0f} points in {int(result.last.step):,} steps, "
        f"{result.points / result.seconds:,.0f} points a second\n"
        f"in {arguments.out}: handwriting.svg (it moves in a browser), handwriting.gif,\n"
        "handwriting.png, density.png, learning_curve.png, metrics.json, model.safetensors\n"
        f"done in {(time.monotonic() - STARTED) / 60:.1f} minutes"
    )
    if given is not None:
        carry = writer.stack.initial_carry((arguments.sample,))
        go_on(arguments, sampler(writer), carry, writer.head, normalizer, given)


def devices_for(batch: int) -> jax.sharding.Mesh:
    """A mesh of all devices over which a batch can be divided: one CPU, or some accelerators."""
    devices = jax.devices()
    count = math.gcd(batch, len(devices))
    automatic = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((count,), ("batch",), automatic, devices=devices[:count])


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
    some_targets = {name: y[mask] for name, y in targets.items()}
    fit_bias = jax.jit(nets.bias_from_targets, static_argnums=1)
    bias = fit_bias(jax.random.key(arguments.seed), head, some_targets)
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
    return 10 + cells / 17 + len(lines.test.strokes.pen_up) * (2e-6 + 2e-11 * cells**2)


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
    written = strokes.generate(
        sampler(writer),
        writer.stack.initial_carry((arguments.sample,)),
        writer.head,
        jax.random.key(arguments.seed),
        num_lines=arguments.sample,
        max_points=int(np.median(lines.train.lengths)),
        normalizer=writer.normalizer,
        bias=arguments.bias,
    )
    show(out / "handwriting", written, title="What a network made up")

    # A line short enough to see its points, from those the network has not learned from.
    line = lines.test[int(np.argsort(lines.test.lengths)[len(lines.test) // 10])]
    inputs, _, _ = strokes.next_step_pairs(writer.normalizer.apply(line))
    (_, raw), _ = writer.unroll(writer.params, {}, jnp.asarray(inputs))
    offset_head, _ = strokes.stroke_parts(writer.head)
    mix = offset_head.mixture(writer.head.split(raw)["offset"])
    mix = writer.normalizer.invert_mixture(mix)
    figure = plotting.density_map(
        line,
        mix.log_weights,
        mix.loc,
        mix.component_covariances,
        unit=unit_name(writer.normalizer.unit),
    )
    plotting.save(figure, out / "density.png")

    baselines = {name: score.nats_per_point for name, score in scores.items() if name != "network"}
    records = training.read_metrics(out / "metrics.jsonl")
    plotting.save(plotting.learning_curve(records, baselines=baselines), out / "learning_curve.png")


def sampler(writer: Writer) -> jax.tree_util.Partial:
    """The network's step as `generate` takes it."""

    def step(params: Any, carry: nets.LSTMCarry, point: jax.Array) -> tuple[Any, jax.Array]:
        return writer.step(params, {}, carry, point)[0]

    return jax.tree_util.Partial(step, writer.params)


def show(path: pathlib.Path, lines: strokes.Strokes, *, title: str, given: Any = None) -> None:
    """Draws lines three times: as SVG that draws itself once, as PNG, and as GIF."""
    # What was given has the colour that the pen's tip has otherwise.
    pens = strokes.Animation(together=True, tip="#d55e00" if given is None else "#1b2a49")
    once = dataclasses.replace(pens, loop=False)
    strokes.write_svg(
        path.with_suffix(".svg"), lines, columns=None, given=given, animation=once, title=title
    )
    plotting.save(plotting.page(lines, columns=None, given=given), path.with_suffix(".png"))
    plotting.write_gif(path.with_suffix(".gif"), lines, columns=None, given=given, animation=pens)


def is_finished(out: pathlib.Path) -> bool:
    """Whether the run in a folder came to its end: its last checkpoint is the one judged."""
    path = out / "metrics.json"
    if not path.exists():
        return False
    try:
        judged = json.loads(path.read_text(encoding="utf-8"))["training"]["steps"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the metrics of a run ({error}); delete it") from error
    last = training.read_config(training.find_checkpoint(out, prefer="last"))
    return bool(last["progress"]["step"] == judged)


def go_on(
    arguments: argparse.Namespace,
    step: jax.tree_util.Partial,
    carry: nets.LSTMCarry,
    head: mdnjax.ProductHead,
    normalizer: strokes.Normalizer,
    given: strokes.Strokes,
) -> None:
    """Continues a line that somebody wrote by as much again, several times, and draws that."""
    scaled, factor = strokes.match_scale(given, normalizer)
    if not 1 / 2 < factor < 2:  # more than people differ: another unit, or another device
        print(f"its movements are scaled by {factor:.3g}, to the size of those learned from")
        given = scaled
    result = strokes.continue_lines(
        step,
        carry,
        head,
        jax.random.key(arguments.seed),
        given,
        num_points=len(given.pen_up),
        normalizer=normalizer,
        bias=arguments.bias,
        num_lines=arguments.sample,
    )
    title = "What was given, and how a network goes on"
    show(arguments.out / "primed", result.lines, title=title, given=result.given)
    print(f"{arguments.out}: primed.svg (it moves in a browser), primed.gif, primed.png")


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
        f"std ({std_x:.1f}, {std_y:.1f}) {unit_name(normalizer.unit)}"
    )


def unit_name(unit: str) -> str:
    """A corpus' unit in words."""
    return {"device": "device units", "user unit": "user units"}.get(unit, unit)


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
        "  nats: -log p of the next point, offsets in standard deviations of the\n"
        "  training lines, dequantised by one step of the device's lattice; less is\n"
        "  better. On that lattice itself:\n"
        f"  {'as it is':22} {network.raw_nats_per_point:11.3f} "
        f"{network.raw_nats_per_sequence:10.1f}   "
        f"{verdict}: narrowest {network.min_scale:.2g} steps\n"
        f"  {'0.4 steps wider':22} {network.smoothed_nats_per_point:11.3f} "
        f"{network.smoothed_nats_per_sequence:10.1f}"
    )


def figures(
    scores: dict[str, strokes.StrokeScores], result: training.FitResult, lines: Lines
) -> dict[str, Any]:
    """What `metrics.json` holds."""
    return {
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
    }


if __name__ == "__main__":
    main()
