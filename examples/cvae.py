"""Conditional autoencoders: a digit of a class, the missing half, a picture as described.

Three lessons. A class y: the code z is left to say how the digit is written,
and not which one it is. A known half y: there are many right completions, each
drawn with another z; a network without z can give only their average. Attributes
y of a rendered picture (shape, colour, background, size, place, angle), with a
decoder in two layers, foreground and background, in the spirit of Attribute2Image
(Yan et al. 2016): whether a picture is what was asked for is judged by a
classifier that has learnt from other, real pictures.

With no arguments: scikit-learn's 8 x 8 digits, some minutes on two CPU cores.
"""

import time

STARTED = time.monotonic()

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import pathlib
import platform
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from autoencoders import (
    Learned,
    check_folder,
    importance,
    is_held_out,
    log_odds,
    mean_and_error,
    train,
)
from command_line import count, named_errors, whole, write_metrics
from cvae_pictures import draw
from flax import nnx

import mdnjax as mdn
from mdnjax import datasets, nets, plotting, training, variational

TEST_SEED = 10_000  # of the test images' pixels and of rendered test pictures, added to --seed
SIDE = 24  # of a rendered picture
FRONT, BEHIND = 2, 6  # latent coordinates of its layers
NUMBERS = ("size", "right", "down")


class Digits(NamedTuple):
    """Binarised in part: grey for training; `[N, H, W]`; labels one-hot `[N, 10]`."""

    train: np.ndarray
    train_labels: np.ndarray
    valid: np.ndarray
    valid_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Halves(NamedTuple):
    """The network that completes a digit, and what it is compared with."""

    learned: Learned
    known: np.ndarray
    scores: dict[str, tuple[float, float]]


class Pictures(NamedTuple):
    """The network that draws what it is asked, and whether it does."""

    learned: Learned
    real: datasets.ShapeImages
    scores: dict[str, dict[str, float]]


def main() -> None:
    """Three lessons, and their pictures."""
    arguments = parse_arguments()
    with named_errors("cvae.py"):
        run(arguments)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def option(name: str, default: Any, what: str, kind: Any = count, metavar: str = "N") -> None:
        shown = f"{what} ({default})"
        parser.add_argument(name, metavar=metavar, type=kind, default=default, help=shown)

    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=pathlib.Path,
        help="with MNIST's four IDX files; by default scikit-learn's digits",
    )
    option("--latent", 8, "latent coordinates D of the digits' networks", metavar="D")
    option("--hidden", 200, "units of each of two hidden layers, both ways")
    option("--steps", 5000, "training steps of each of the digits' networks")
    option("--pictures", 20_000, "rendered pictures to learn from, and as many for the judge")
    option("--picture-steps", 10_000, "training steps on them")
    option("--batch", 100, "images a step")
    option("--importance", 1000, "samples of -log p(x | y), for each test image")
    option("--seed", 0, "of everything", kind=whole)
    option("--out", pathlib.Path("runs/cvae"), "for pictures and metrics", pathlib.Path, "DIR")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """The whole story, in order."""
    check_folder(arguments.out)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )
    digits = load(arguments)
    print(f"\na digit of a class: {arguments.steps:,} steps on {len(digits.train):,} digits")
    classes, scores = learn_classes(arguments, digits)
    print_nats(scores)
    print(f"\nthe right half of a digit whose left half is known: {arguments.steps:,} steps")
    halves = learn_halves(arguments, digits)
    print_nats(halves.scores)
    print(
        f"\na picture as described: {arguments.picture_steps:,} steps on "
        f"{arguments.pictures:,} rendered pictures"
    )
    pictures = learn_pictures(arguments)
    print_fidelity(pictures.scores)
    figure = draw(arguments.seed, digits, classes, halves, pictures)
    plotting.save(figure, arguments.out / "cvae.png", dpi=120.0)
    learned = {"classes": classes, "halves": halves.learned, "pictures": pictures.learned}
    write_metrics(
        arguments,
        {
            "nats": {"classes": scores, "halves": halves.scores},
            "fidelity": pictures.scores,
            "training": {n: {"steps": v.steps, "seconds": v.seconds} for n, v in learned.items()},
        },
        STARTED,
    )
    print(f"\nin {arguments.out}: cvae.png, metrics.json")
    print(f"done in {time.monotonic() - STARTED:.0f} seconds")


def load(arguments: argparse.Namespace) -> Digits:
    """Reads the digits, holds some out, and binarises the test digits once."""
    if arguments.data is None:
        sets, full = [datasets.digits(split) for split in ("train", "test")], 16
    else:
        sets, full = [datasets.mnist(arguments.data, split) for split in ("train", "test")], 255
    (grey, labels), (test, test_labels) = (
        (x.images.astype(np.float32) / full, np.eye(10, dtype=np.float32)[x.labels]) for x in sets
    )
    is_valid = is_held_out(len(grey))
    rng = np.random.default_rng(TEST_SEED + arguments.seed)
    return Digits(
        grey[~is_valid],
        labels[~is_valid],
        grey[is_valid],
        labels[is_valid],
        datasets.binarize(rng, test),
        test_labels,
    )


def flat(images: np.ndarray) -> np.ndarray:
    """`[N, pixels]`."""
    return images.reshape(len(images), -1)


def learn_classes(
    arguments: argparse.Namespace, digits: Digits
) -> tuple[Learned, dict[str, tuple[float, float]]]:
    """P(x | class), a standard normal prior."""

    def binarize(rng: np.random.Generator, batch: Any) -> Any:
        return datasets.binarize(rng, batch[0]), batch[1]

    learned = learn(
        arguments,
        (flat(digits.train), digits.train_labels),
        (flat(digits.valid), digits.valid_labels),
        binarize,
        prior=None,
    )
    marginal = importance(
        learned, flat(digits.test), digits.test_labels, num_samples=arguments.importance
    )
    return learned, {"-log p(digit | class)": mean_and_error(-marginal.value)}


def learn_halves(arguments: argparse.Namespace, digits: Digits) -> Halves:
    """P(right half | left half) with a learnt prior p(z | left), and the same without z."""
    middle = digits.train.shape[2] // 2

    def halves(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat(images[..., middle:]), flat(images[..., :middle])

    def binarize(rng: np.random.Generator, batch: Any) -> Any:
        return tuple(datasets.binarize(rng, half).astype(np.float32) for half in batch)

    grey, valid = halves(digits.train), halves(digits.valid)
    learned = learn(arguments, grey, valid, binarize, prior=(arguments.hidden,))
    missing, known = (half.astype(np.float32) for half in halves(digits.test))
    marginal = importance(learned, missing, known, num_samples=arguments.importance)
    scores = {"-log p(right | left)": mean_and_error(-marginal.value)}

    # Without z: the best that independent pixels can do.
    head = mdn.BernoulliHead()
    widths = (arguments.hidden,) * 2
    network = nets.MLP(known.shape[1], widths, (missing.shape[1], 1), rngs=nnx.Rngs(arguments.seed))
    net = nets.functional(network)

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        del key
        nats = head.nll(net.apply(params, {}, batch[1])[0], batch[0]).sum(-1)
        return nats, jnp.ones_like(nats), state

    rng = np.random.default_rng(arguments.seed)
    result = training.fit(
        loss,
        net.params,
        {},
        datasets.Batches(grey, arguments.batch, seed=arguments.seed, transform=binarize),
        optimizer=training.adam(clip=None),
        schedule=training.Schedule(peak=1e-3, warmup=200),
        average=0.999,
        steps=arguments.steps,
        validate=training.make_validation(
            jax.random.key(0), loss, [binarize(rng, valid) for _ in range(4)]
        ),
    )
    alone, _, _ = jax.jit(loss)(result.params, {}, (missing, known), jax.random.key(0))
    scores["... each pixel alone"] = mean_and_error(alone)
    return Halves(learned, known, scores)


def learn(
    arguments: argparse.Namespace,
    grey: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    binarize: Any,
    *,
    prior: tuple[int, ...] | None,
) -> Learned:
    """Trains a dense network of x given y; `prior`: the hidden layers of p(z | y)."""
    pixels, given = (part.shape[1] for part in grey)
    latent, hidden = arguments.latent, (arguments.hidden,) * 2
    rngs = nnx.Rngs(arguments.seed)
    decoder = nets.MLP(latent + given, hidden, (pixels, 1), rngs=rngs)
    last: Any = decoder.output
    last.bias[...] = log_odds(grey[0])
    learnt_prior = None
    if prior is not None:
        learnt_prior = nets.NormalPrior(nets.MLP(given, prior, 2 * latent, rngs=rngs), rngs=rngs)
    network = nets.ConditionalVAE(
        nets.MLP(pixels + given, hidden, 2 * latent, rngs=rngs),
        decoder,
        mdn.BernoulliHead(),
        latent_dim=latent,
        prior=learnt_prior,
        rngs=rngs,
    )
    rng = np.random.default_rng(arguments.seed)
    return train(
        network,
        datasets.Batches(grey, arguments.batch, seed=arguments.seed, transform=binarize),
        [binarize(rng, valid) for _ in range(4)],
        steps=arguments.steps,
    )


def learn_pictures(arguments: argparse.Namespace) -> Pictures:
    """P(picture | attributes), in two layers; and a classifier that judges it."""
    number, seed = arguments.pictures, arguments.seed
    real, others, test = (
        rendered(n, s) for n, s in ((number, seed), (number, seed + 1), (1000, seed + TEST_SEED))
    )
    rngs = nnx.Rngs(seed)
    given = real.attributes.vector().shape[1]
    of_background = len(datasets.BACKGROUNDS)  # the last of them; the others are the foreground's
    shape, channels, hidden = (SIDE, SIDE), (32, 16), 128

    def layer(width: int, outputs: int) -> nets.ConvDecoder:
        return nets.ConvDecoder(width, hidden, channels, (*shape, outputs), rngs=rngs)

    network = nets.ConditionalVAE(
        nets.ConvEncoder(
            (*shape, 3),
            channels[::-1],
            hidden,
            2 * (FRONT + BEHIND),
            given_features=given,
            rngs=rngs,
        ),
        nets.LayeredDecoder(
            layer(FRONT + given - of_background, 4),
            layer(BEHIND + of_background, 3),
            foreground_dim=FRONT,
            foreground_given=given - of_background,
        ),
        variational.NormalHead(),
        latent_dim=FRONT + BEHIND,
        rngs=rngs,
    )
    is_valid = is_held_out(number)
    examples = real.images, real.attributes.vector()
    learned = train(
        network,
        datasets.Batches(tuple(part[~is_valid] for part in examples), arguments.batch, seed=seed),
        [tuple(part[is_valid] for part in examples)],
        steps=arguments.picture_steps,
        rate=2e-3,
    )
    judge = learn_to_judge(arguments, others)
    asked = test.attributes.vector()
    made = learned.method("generate")(asked, key=jax.random.key(seed))[..., 0]
    scores = {
        "real pictures": judged(judge(test.images), test.attributes),
        "made as asked": judged(judge(np.asarray(made)), test.attributes),
    }
    return Pictures(learned, real, scores)


def rendered(number: int, seed: int) -> datasets.ShapeImages:
    """So many pictures with random attributes."""
    attributes = datasets.random_attributes(number, seed=seed)
    return datasets.render_shapes(attributes, side=SIDE, seed=seed)


def learn_to_judge(arguments: argparse.Namespace, real: datasets.ShapeImages) -> Any:
    """A network that reads the attributes off a picture."""
    names = {
        "shape": datasets.SHAPES,
        "color": datasets.COLORS,
        "background": datasets.BACKGROUNDS,
    }
    head = mdn.ProductHead(
        **{n: variational.CategoricalHead(num_classes=len(of)) for n, of in names.items()},
        **{name: variational.NormalHead(scale=0.1) for name in NUMBERS},
        **{name: variational.NormalHead(scale=0.3) for name in ("sine", "cosine")},  # of the angle
    )
    encoder = nets.ConvEncoder(
        (SIDE, SIDE, 3), (16, 32), 128, head.num_outputs, rngs=nnx.Rngs(arguments.seed)
    )
    net = nets.functional(encoder)

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        del key
        nats = head.nll(net.apply(params, {}, batch[0])[0], batch[1])
        return nats, jnp.ones_like(nats), state

    answers = {name: getattr(real.attributes, name).astype(np.int32) for name in names}
    answers |= numbers_of(real.attributes)
    answers |= dict(zip(("sine", "cosine"), real.attributes.seen_angle().T, strict=True))
    result = training.fit(
        loss,
        net.params,
        {},
        datasets.Batches((real.images, answers), arguments.batch, seed=arguments.seed),
        optimizer=training.adam(clip=10.0),
        schedule=training.Schedule(peak=2e-3, warmup=100),
        average=0.99,
        steps=arguments.picture_steps,
    )

    @jax.jit
    def read(images: jax.Array) -> dict[str, jax.Array]:
        parts = head.split(net.apply(result.params, {}, images)[0])
        classes = {name: jnp.argmax(parts[name], axis=-1) for name in names}
        return classes | {name: parts[name][..., 0] for name in parts if name not in names}

    return read


def numbers_of(attributes: datasets.ShapeAttributes) -> dict[str, np.ndarray]:
    """The attributes that are numbers, by name."""
    return dict(zip(NUMBERS, (attributes.size, *attributes.place.T), strict=True))


def judged(read: dict[str, jax.Array], asked: datasets.ShapeAttributes) -> dict[str, float]:
    """Shares of classes that agree, and root mean square errors of numbers."""
    classes = {
        name: float(np.mean(np.asarray(read[name]) == getattr(asked, name)))
        for name in ("shape", "color", "background")
    }
    errors = {
        name: float(np.sqrt(np.mean((np.asarray(read[name]) - of) ** 2)))
        for name, of in numbers_of(asked).items()
    }
    return classes | errors | {"angle": turned(read, asked)}


def turned(read: dict[str, jax.Array], asked: datasets.ShapeAttributes) -> float:
    """The root mean square error of the angle, degrees: of what can be seen of it."""
    sine, cosine = asked.seen_angle().T
    its_sine, its_cosine = np.asarray(read["sine"]), np.asarray(read["cosine"])
    apart = np.arctan2(its_sine * cosine - its_cosine * sine, its_cosine * cosine + its_sine * sine)
    is_seen = asked.symmetry() > 0
    return float(np.rad2deg(np.sqrt(np.mean((apart[is_seen] / asked.symmetry()[is_seen]) ** 2))))


def print_nats(scores: dict[str, tuple[float, float]]) -> None:
    """Prints means with their standard errors."""
    for name, (mean, error) in scores.items():
        print(f"  {name:24} {mean:7.2f} +- {error:.2f} nats a test image")


def print_fidelity(scores: dict[str, dict[str, float]]) -> None:
    """Prints what a classifier reads in pictures, against what was asked for."""
    names = list(next(iter(scores.values())))
    print("read by a classifier that learnt from other real pictures:")
    print(f"  {'':14} " + " ".join(f"{name:>10}" for name in names))
    for kind, score in scores.items():
        formats = dict.fromkeys(NUMBERS, "10.3f") | {"angle": "10.1f"}
        values = [f"{v:{formats.get(name, '10.1%')}}" for name, v in score.items()]
        print(f"  {kind:14} " + " ".join(values))
    print("  right answers; size, right, down: RMS error, in half sides of a picture; angle: in")
    print("  degrees, up to turns that cannot be seen (by chance 29)")


if __name__ == "__main__":
    main()
