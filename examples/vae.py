"""A variational autoencoder of handwritten digits, and how good it is in nats.

An encoder guesses which code z an image may have come from, q(z | x); a decoder
makes an image of a code, p(x | z); both learn together by the evidence lower
bound of log p(x) (Kingma and Welling 2014), or by the tighter bound of --k
samples (Burda et al. 2016). Every pixel is drawn anew, on with its grey value
as probability, each time an image is seen.

With no arguments: the 8 x 8 digits that come with scikit-learn, in less than two
minutes on two CPU cores. MNIST, as in the papers:

    python examples/vae.py --data FOLDER --latent 50 --minutes 60

It prints the bound on the test images, its two terms, and -log p(x) by
importance sampling, and draws what was learnt.
"""

import time

STARTED = time.monotonic()

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import pathlib
import platform
from typing import Any, NamedTuple

import jax
import numpy as np
from autoencoders import (
    Learned,
    bound_terms,
    check_folder,
    importance,
    is_held_out,
    log_odds,
    mean_and_error,
    train,
)
from command_line import count, named_errors, positive, whole, write_metrics
from flax import nnx
from vae_pictures import draw

import mdnjax as mdn
from mdnjax import datasets, nets, plotting, training

TEST_SEED = 10_000  # of the binarised test images, added to --seed


class Images(NamedTuple):
    """Grey values from 0 to 1, `[N, pixels]`; the size of an image; test images binarised."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    test_grey: np.ndarray
    test_labels: np.ndarray
    size: tuple[int, int]


def main() -> None:
    """Learns, judges and draws."""
    arguments = parse_arguments()
    with named_errors("vae.py"):
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
    option("--latent", 8, "latent coordinates D", metavar="D")
    option("--hidden", 200, "units of each of two hidden layers, both ways")
    option("--k", 1, "samples in the bound; 1 is the ELBO", metavar="K")
    option("--steps", 8000, "training steps")
    parser.add_argument("--minutes", metavar="M", type=positive, help="to train, in place of steps")
    option("--batch", 100, "images a step")
    option("--lr", 1e-3, "peak learning rate", kind=positive, metavar="RATE")
    option("--importance", 5000, "samples of -log p(x), for each test image; 0 takes none", whole)
    option("--map-steps", 4000, "steps of the two-dimensional map of all images; 0: none", whole)
    option("--seed", 0, "of weights, order and pixels", kind=whole)
    option("--out", pathlib.Path("runs/vae"), "for pictures and checkpoints", pathlib.Path, "DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """The whole story, in order."""
    check_folder(arguments.out)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )
    images = load(arguments)
    names = ("training", "validation", "test")
    sizes = [f"{len(x):,} {n}" for n, x in zip(names, images[:3], strict=True)]
    print(f"images of {images.size[0]} x {images.size[1]} pixels: {', '.join(sizes)}")

    learned = learn(
        arguments,
        images,
        arguments.latent,
        steps=None if arguments.minutes else arguments.steps,
        minutes=arguments.minutes,
        started=STARTED,
        out=arguments.out / "network",
        resume=arguments.resume,
        overwrite=not arguments.resume,
    )
    scores = judge(arguments, learned, images)
    flat = learned if arguments.latent == 2 else None
    if flat is None and arguments.map_steps:
        print(f"the map: two latent coordinates, {arguments.map_steps:,} steps")
        flat = learn(arguments, images, 2, steps=arguments.map_steps)
    for name, figure in draw(arguments.seed, images, learned, flat).items():
        plotting.save(figure, arguments.out / f"{name}.png", dpi=130.0)
    write_metrics(arguments, scores, STARTED)
    print(f"\nin {arguments.out}: vae.png, metrics.json; in {arguments.out}/network: the network")
    print(f"done in {time.monotonic() - STARTED:.0f} seconds")


def load(arguments: argparse.Namespace) -> Images:
    """Reads the images, holds some out, and binarises the test images once."""
    if arguments.data is None:
        train, test, full = datasets.digits("train"), datasets.digits("test"), 16
    else:
        train, test = (datasets.mnist(arguments.data, split) for split in ("train", "test"))
        full = 255
    grey, test_grey = (
        x.images.reshape(len(x.images), -1).astype(np.float32) / full for x in (train, test)
    )
    is_valid = is_held_out(len(grey))
    rng = np.random.default_rng(TEST_SEED + arguments.seed)
    return Images(
        train=grey[~is_valid],
        valid=grey[is_valid],
        test=datasets.binarize(rng, test_grey),
        test_grey=test_grey,
        test_labels=test.labels,
        size=train.images.shape[1:],
    )


def learn(arguments: argparse.Namespace, images: Images, latent: int, **options: Any) -> Learned:
    """Trains one network by the bound of --k samples."""
    pixels, hidden = images.train.shape[1], (arguments.hidden,) * 2
    architecture = training.describe(
        nets.VAE,
        encoder=training.describe(nets.MLP, in_features=pixels, hidden=hidden, output=2 * latent),
        decoder=training.describe(nets.MLP, in_features=latent, hidden=hidden, output=(pixels, 1)),
        head=mdn.BernoulliHead(),
        latent_dim=latent,
    )
    vae = training.build(architecture, rngs=nnx.Rngs(arguments.seed))
    vae.decoder.output.bias[...] = log_odds(images.train)
    rng = np.random.default_rng(arguments.seed)
    return train(
        vae,
        datasets.Batches((images.train,), arguments.batch, seed=arguments.seed, transform=binarize),
        [binarize(rng, (images.valid,)) for _ in range(4)],
        num_samples=arguments.k,
        rate=arguments.lr,
        config={"architecture": architecture, "units": "nats an image"},
        **options,
    )


def binarize(rng: np.random.Generator, batch: tuple[np.ndarray]) -> tuple[np.ndarray]:
    """Every pixel of a batch of images drawn anew."""
    return (datasets.binarize(rng, batch[0]),)


def judge(arguments: argparse.Namespace, learned: Learned, images: Images) -> dict[str, Any]:
    """The bound and its terms on the test images, and -log p(x) by importance sampling."""
    reconstruction, kl = bound_terms(learned, images.test)
    scores: dict[str, Any] = {
        "steps": learned.steps,
        "training_seconds": learned.seconds,
        "nats": {
            "-elbo": mean_and_error(reconstruction + kl.sum(-1)),
            "-log p(x | z)": mean_and_error(reconstruction),
            "KL(q || p)": mean_and_error(kl.sum(-1)),
        },
        "kl_of_coordinate": sorted(kl.mean(0).tolist(), reverse=True),
    }
    if arguments.importance:
        marginal = importance(learned, images.test, num_samples=arguments.importance)
        scores["nats"]["-log p(x)"] = mean_and_error(-marginal.value)
        scores["importance_samples"] = arguments.importance
        scores["standard_error_of_sampling"] = float(
            np.sqrt(np.mean(np.square(marginal.standard_error)) / len(images.test))
        )
        scores["effective_sample_size"] = float(np.median(marginal.effective_sample_size))
    print(
        f"\non {len(images.test):,} test images, nats an image (binarised with seed "
        f"{TEST_SEED + arguments.seed}):"
    )
    for name, (mean, error) in scores["nats"].items():
        print(f"  {name:14} {mean:8.2f} +- {error:.2f}")
    print("  +-: the standard error of a mean over images")
    if arguments.importance:
        print(
            f"  -log p(x): {arguments.importance:,} importance samples an image, whose own "
            f"error\n  is {scores['standard_error_of_sampling']:.3f}; effective sample size "
            f"{scores['effective_sample_size']:.0f} (median)"
        )
    active = int(np.sum(kl.mean(0) > 0.01))
    print(f"  {active} of {kl.shape[1]} latent coordinates carry more than 0.01 nats")
    return scores


if __name__ == "__main__":
    main()
