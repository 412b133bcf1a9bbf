"""Bishop's inverse problem: one x, several right answers t.

x = t + 0.3 sin(2 pi t) + noise is easy to learn from t to x. Read from x to t,
as here, most of the middle has three right answers. A network trained by least
squares learns their mean, which is none of them. The same network with a
mixture density output (Bishop 1994) learns p(t | x): which answers there are,
how probable each one is, and how precisely it is known.

With no arguments: a hidden layer of 5 tanh units and 3 Gaussians, as in the
book (PRML, section 5.6), and 1,000 points to learn from. Less than a minute on
two CPU cores, most of it judging and drawing. --restarts 20 trains from twenty
initialisations at once, and says how many find a good optimum.
"""

import time

STARTED = time.monotonic()

# ruff: noqa: E402 - the clock starts before the imports
import argparse
import functools
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import count, named_errors, positive, whole, write_metrics
from flax import nnx

import mdnjax as mdn
from mdnjax import datasets, nets, plotting, training
from mdnjax.plotting import style

TEST_POINTS = 100_000
TEST_SEED = 10_000  # added to --seed: no training set comes near it
SHOWN = 300  # points in a scatter plot
JUDGED = 10_000  # test points in the pictures of calibration
NOISE = 0.1  # half the width of the noise in x
# The exact density's, by quadrature: its entropy, its mean's error, its score.
FLOOR = {"nll": -1.28235, "crps": 0.09629, "rmse_mean": 0.19572}
GOOD = 0.05  # nats above the best initialisation that are as good


class Scores(NamedTuple):
    """Means over the test points.

    Attributes:
        nll: -log p(t | x), nats.
        crps: Continuous ranked probability score, in the units of t; like all that follow.
        rmse_mean: Root mean square error of the conditional mean.
        rmse_most_probable: ... of the mean of the most probable component.
        rmse_mode: ... of the global mode.
        rmse_best_mode: ... of the mode nearest to the truth, which only an oracle can choose.
        possible_mean: Share of conditional means that could have caused their x: put into the
            forward problem, they end within the noise.
        possible_most_probable: ... of the means of the most probable component.
        possible_mode: ... of the global modes.
    """

    nll: float
    crps: float
    rmse_mean: float
    rmse_most_probable: float
    rmse_mode: float
    rmse_best_mode: float
    possible_mean: float
    possible_most_probable: float
    possible_mode: float


class Units(NamedTuple):
    """The units in which the networks think: those of the training points' deviations."""

    x: mdn.Standardizer
    t: mdn.Standardizer


class Learned(NamedTuple):
    """What training gives.

    Attributes:
        params: Of every initialisation, stacked.
        predict: x `[N, 1]` and the parameters of one to raw outputs, standardised.
        seconds: Of training, all initialisations together, compilation included.
        steps: Done.
    """

    params: Any
    predict: Callable[[Any, Any], jax.Array]
    seconds: float
    steps: int


def main() -> None:
    """Learns, judges and draws."""
    arguments = parse_arguments()
    with named_errors("inverse_sine.py"):
        run(arguments)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = functools.partial(parser.add_argument, metavar="N", type=count)
    option("--points", default=1000, help="training points (1000)")
    option("--hidden", default=5, help="tanh units of the hidden layer (5)")
    option("--components", metavar="K", default=3, help="Gaussians in the mixture (3)")
    option("--steps", default=2000, help="training steps, each on all points (2000)")
    option("--restarts", default=1, help="initialisations to train and compare (1)")
    parser.add_argument(
        "--lr", metavar="RATE", type=positive, default=0.05, help="peak learning rate (0.05)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole, default=0, help="of points and initial weights (0)"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        default=pathlib.Path("runs/inverse_sine"),
        help="for the picture and the metrics (runs/inverse_sine)",
    )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """The whole story, in order."""
    with plotting.house_style():  # a missing Matplotlib is found now
        pass
    training.check_folder(arguments.out)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )

    points = datasets.inverse_sine(arguments.points, seed=arguments.seed)
    test = datasets.inverse_sine(TEST_POINTS, seed=TEST_SEED + arguments.seed)
    units = Units(*map(mdn.Standardizer.fit, points))

    print(f"least squares, {arguments.steps:,} steps on {arguments.points:,} points")
    square = learn(arguments, points, units, output=1, restarts=1)
    head = mdn.GaussianHead(num_components=arguments.components, dim=1)
    times = "" if arguments.restarts == 1 else f" from {arguments.restarts} initialisations"
    print(f"mixture density, {arguments.steps:,} steps on {arguments.points:,} points{times}")
    density = learn(arguments, points, units, output=head, restarts=arguments.restarts)

    @jax.jit
    def average(x: Any) -> jax.Array:
        """What least squares says: the estimated mean of t given x, `[N, 1]`."""
        params = jax.tree.map(lambda leaf: leaf[0], square.params)
        return units.t.invert(square.predict(params, x))

    # The least-squares network as a density: its own normal, as wide as its training error.
    residual = points.targets - np.asarray(average(points.inputs))
    spread = float(np.sqrt(np.mean(residual**2)))

    def normal(x: Any) -> mdn.GaussianMixture:
        centre = average(x)
        return mdn.GaussianMixture.isotropic(
            centre[..., None, :], jnp.full((*centre.shape[:-1], 1), spread)
        )

    @jax.jit
    def mixture(x: Any, restart: int | jax.Array = 0) -> mdn.GaussianMixture:
        params = jax.tree.map(lambda leaf: leaf[restart], density.params)
        return units.t.invert_mixture(head.mixture(density.predict(params, x)))

    scores = {"least squares": judge(normal, test), "mixture density": judge(mixture, test)}
    print_scores(scores)
    restarts = compare(mixture, density, test) if arguments.restarts > 1 else None
    figure = draw(arguments, points, test, average, mixture)
    for ending in ("png", "svg"):
        plotting.save(figure, arguments.out / f"inverse_sine.{ending}", dpi=130.0)
    learned = {"least squares": square, "mixture": density}
    write_metrics(arguments, figures(scores, restarts, learned), STARTED)
    print(
        f"\nin {arguments.out}: inverse_sine.png, inverse_sine.svg, metrics.json\n"
        f"done in {time.monotonic() - STARTED:.0f} seconds"
    )


def learn(
    arguments: argparse.Namespace,
    points: datasets.Pairs,
    units: Units,
    *,
    output: int | mdn.GaussianHead,
    restarts: int,
) -> Learned:
    """Trains all initialisations at once, each as if it were alone.

    The loss is the mean over all of them, so no gradient of one depends on another; that it is
    divided by their number is nothing to Adam, whose steps do not depend on the gradient's scale.
    """

    def network(seed: int) -> nets.Functional:
        rngs = nnx.Rngs(seed)
        last: Any = output
        if isinstance(output, mdn.GaussianHead):
            # Components begin apart, spread over the range of t: the cure for bad local optima.
            last = nets.MixtureDense(arguments.hidden, output, rngs=rngs)
        return nets.functional(nets.MLP(1, (arguments.hidden,), last, rngs=rngs))

    began = time.monotonic()
    networks = [network(arguments.seed + n) for n in range(restarts)]
    apply = networks[0].apply
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(n.params for n in networks))
    x, t = units.x.apply(points.inputs), units.t.apply(points.targets)

    def nats(raw: jax.Array) -> jax.Array:
        if isinstance(output, mdn.GaussianHead):
            return output.nll(raw, t)
        return 0.5 * jnp.sum((t - raw) ** 2, axis=-1)

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        del batch, key  # every step sees all points
        values = jax.vmap(lambda p: nats(apply(p, {}, x)[0]))(params).reshape(-1)
        return values, jnp.ones_like(values), state

    result = training.fit(
        loss,
        params,
        {},
        lambda _: (),
        # The decay is for components where they weigh nothing and data say nothing: else some
        # become needles there, which the nll does not mind, but a search for the mode does.
        optimizer=training.adam(clip=None, weight_decay=0.02),
        schedule=training.Schedule(peak=arguments.lr, warmup=20),
        seed=arguments.seed,
        steps=arguments.steps,
    )
    if result.signal is not None:
        print(f"{result.signal.name}: stopped after step {int(result.last.step):,}")
        sys.exit(128 + result.signal)
    predict = jax.jit(lambda p, inputs: apply(p, {}, units.x.apply(inputs))[0])
    return Learned(result.params, predict, time.monotonic() - began, int(result.last.step))


def judge(density: Callable[[Any], mdn.GaussianMixture], test: datasets.Pairs) -> Scores:
    """Scores a density on the test points, 10,000 at a time."""

    @jax.jit
    def losses(x: jax.Array, t: jax.Array) -> jax.Array:
        mix = density(x)
        modes = mdn.modes(mix)
        # Where there is no further mode stands the first one again: it changes no minimum.
        nearest = jnp.min(jnp.sum((modes.points - t[:, None]) ** 2, axis=-1), axis=-1)
        answers = (mdn.mean(mix), mdn.most_probable(mix), modes.points[:, 0])
        squares = [jnp.sum((answer - t) ** 2, axis=-1) for answer in answers]
        possible = [jnp.abs(forward(answer) - x) <= NOISE for answer in answers]
        each = (-mdn.log_prob(mix, t), mdn.crps(mix, t), *squares, nearest, *possible)
        return jnp.stack([jnp.mean(value) for value in each])

    parts = zip(*(np.split(a, len(a) // 10_000) for a in test), strict=True)
    means = np.mean([losses(x, t) for x, t in parts], axis=0)
    return Scores(*map(float, (*means[:2], *np.sqrt(means[2:6]), *means[6:])))


def forward(t: jax.Array) -> jax.Array:
    """The forward problem without its noise: x of t."""
    return t + 0.3 * jnp.sin(2 * jnp.pi * t)


def compare(
    mixture: Callable[..., mdn.GaussianMixture], density: Learned, test: datasets.Pairs
) -> dict[str, Any]:
    """How the initialisations differ, on the test points."""

    @jax.jit
    def nll(restart: jax.Array) -> jax.Array:
        return -jnp.mean(mdn.log_prob(mixture(test.inputs, restart), test.targets))

    number = len(jax.tree.leaves(density.params)[0])
    values = np.array([float(nll(n)) for n in jnp.arange(number)])
    within = int((values <= values.min() + GOOD).sum())
    print(
        f"\n{number} initialisations: nll best {values.min():.4f}, median "
        f"{np.median(values):.4f}, worst {values.max():.4f} nats\n"
        f"{within} of {number} within {GOOD} nats of the best; all of them trained in "
        f"{density.seconds:.1f} s"
    )
    return {"nll": values.tolist(), "within": within, "of": number, "nats": GOOD}


def draw(
    arguments: argparse.Namespace,
    points: datasets.Pairs,
    test: datasets.Pairs,
    average: Callable[[Any], jax.Array],
    mixture: Callable[[Any], mdn.GaussianMixture],
) -> Any:
    """The page: the problem, what the network says of it, and whether that is true."""
    few = datasets.Pairs(*(a[:SHOWN] for a in points))
    x = np.linspace(few.inputs.min(), few.inputs.max(), 81, dtype=np.float32)[:, None]
    mix = mixture(x)
    judged = datasets.Pairs(*(a[:JUDGED] for a in test))
    horizontal = {"xlim": (-0.12, 1.12), "xticks": (0, 0.5, 1), "xlabel": "x"}
    window = {**horizontal, "ylim": (-0.12, 1.12), "yticks": (0, 0.5, 1), "ylabel": "t"}
    figure = style.new_figure(7.5, 10.2)
    with plotting.house_style():
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, hspace=0.04)
        axes = figure.subplots(4, 2).ravel()

        ax = axes[0]
        ax.plot(*few, ".", color=style.FAINT, markersize=2.5, markeredgewidth=0)
        ax.plot(x, average(x), color=style.ORANGE, linewidth=1.8)
        ax.set(title="The data, and what least squares makes of it", **window)

        ax = plotting.plot_components(mix, x, ax=axes[1], show="weights")
        ax.set(title="Mixing coefficients", yticks=(0, 0.5, 1), **horizontal)
        legend = {"frameon": False, "fontsize": 8, "handlelength": 1.2}
        if arguments.components <= 4:  # more would hide the curves
            ax.legend(title="component", title_fontsize=8, loc="best", **legend)

        ax = plotting.plot_components(mix, x, ax=axes[2])
        ax.set(title="Means of the components, and one deviation", **window)

        place = axes[3].inset_axes((0.62, 0.22, 0.34, 0.035))
        ax = plotting.plot_density(mix, x, ax=axes[3], span=(-0.12, 1.12), color_bar=place)
        ax.plot(x, mdn.mean(mix), color=style.ORANGE, linewidth=1.2, linestyle="--")
        ax.set(title="Density, and its mean", **window)

        ax = axes[4]
        guess, best = np.asarray(mdn.most_probable(mix)), np.argmax(mix.log_weights, axis=-1)
        for k in range(arguments.components):  # no line where the component changes
            ax.plot(
                x,
                np.where(best[:, None] == k, guess, np.nan),
                color=style.BLUE,
                alpha=0.35,
                linewidth=6,
                label="most probable component" if k == 0 else None,
            )
        sparse = np.linspace(x[0], x[-1], 51)
        modes = jax.jit(mdn.modes)(mixture(sparse))
        plotting.plot_modes(modes, sparse, ax=ax, color=style.INK, size=2.6, least=0.01)
        ax.legend(loc="upper left", **legend)
        ax.set(title="One answer: the modes, and a quick guess", **window)

        ax = axes[5]
        drawn = jax.jit(mdn.sample)(jax.random.key(arguments.seed), mixture(few.inputs))
        ax.plot(few.inputs, drawn, ".", color=style.BLUE, markersize=2.5, markeredgewidth=0)
        ax.set(title="Samples from the density, at the data's x", **window)

        u = jax.jit(mdn.pit)(mixture(judged.inputs), judged.targets)
        plotting.plot_calibration(u, ax=axes[6]).set_title(f"Calibration: {len(u):,} test points")
        plotting.plot_calibration(u, show="coverage", ax=axes[7]).set_title("Coverage")
    return figure


def print_scores(scores: dict[str, Scores]) -> None:
    """Prints a table of the scores, and what they mean."""
    heads = (*("nats", "CRPS"), *("mean", "comp.", "mode", "best"), *("mean", "comp.", "mode"))
    groups = f"{'':35}{'RMSE in t of the':^32} {'possible answers':^23}"
    print(f"\non {TEST_POINTS:,} test points:\n{groups}")
    print(f"  {'':16} " + " ".join(f"{head:>7}" for head in heads))
    for name, score in scores.items():
        numbers = [f"{value:7.4f}" for value in score[:6]] + [f"{v:7.1%}" for v in score[6:]]
        print(f"  {name:16} " + " ".join(numbers))
    print(f"  {'exact density':16} " + " ".join(f"{value:7.4f}" for value in FLOOR.values()))
    gap = scores["mixture density"].nll - FLOOR["nll"]
    print(
        f"  nats: -log p(t | x); the mixture is {gap:.3f} above the exact density's entropy.\n"
        "  comp.: the mean of the most probable component. best: the mode nearest to the truth,\n"
        "  which only an oracle can choose: whether the right answer is on offer. The mean wins\n"
        "  in RMSE, which it minimises, and yet is often no answer: a possible one, put into the\n"
        "  forward problem, gives x within the noise."
    )


def figures(
    scores: dict[str, Scores], restarts: dict[str, Any] | None, learned: dict[str, Learned]
) -> dict[str, Any]:
    """What `metrics.json` holds."""
    return {
        "test_points": TEST_POINTS,
        "scores": {name: score._asdict() for name, score in scores.items()},
        "exact": FLOOR,
        "restarts": restarts,
        "training": {n: {"steps": v.steps, "seconds": v.seconds} for n, v in learned.items()},
    }


if __name__ == "__main__":
    main()
