r"""Natural-gradient EM for mixture heads beside the plain gradient, both with Adam.

The rules are those of `natural_rule`, which is checked first; "plain" is the gradient of the nll.

On each problem each rule has its learning rate, and whether the gradient is clipped, chosen from
one grid by a few seeds of their own; five others count. The rate is constant, and falls to zero in
the last third. Networks, initial weights and batches are the same for all. It ends with one more
run: from the plain rule's final weights on, by each rule, which shows whether they agree where to
stop.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from measure import Spread, interleaved, machine
from natural_rule import objective, require_inverse_fisher

import mdnjax as mdn
from mdnjax import datasets, nets, strokes

RULES = ("plain", "component", "complete")
CLIPS = (1.0, math.inf)
SEEDS = tuple(range(5))
TUNING_SEEDS = (100, 101, 102)
SIZES = ((10_000, 0), (4096, 1))  # of Bishop's problems: (examples, seed) to train on, held out
CHECKS = 60  # how often the held-out nll is looked at in a run


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Something to learn, the same for every rule.

    Attributes:
        name: As printed.
        head: Of the network.
        init: Initial weights from a seed.
        predict: Raw outputs from weights and inputs.
        train: (inputs, targets), N examples each on the first axis.
        held_out: The same, for the nll that counts.
        shift: Added to it: from standardised targets back to their own unit.
        goals: NLLs to reach.
        rates: Learning rates of the grid.
        tuning_seeds: The seeds that choose.
        steps: Of a run.
        batch: Examples a step.
        together: Whether the runs of a grid go side by side (vmap) or in turn.
    """

    name: str
    head: mdn.Head
    init: Callable[[int], Any]
    predict: Callable[[Any, Any], jax.Array]
    train: tuple[Any, Any]
    held_out: tuple[Any, Any]
    shift: float
    goals: tuple[float, float]
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 5e-3, 1.5e-2)
    tuning_seeds: tuple[int, ...] = TUNING_SEEDS
    steps: int = 3000
    batch: int = 256
    together: bool = True


def regression(
    name: str,
    train: datasets.Pairs,
    held_out: datasets.Pairs,
    head: mdn.GaussianHead,
    goals: tuple[float, float],
    steps: int,
) -> Problem:
    """Pairs and a perceptron of two layers; all standardised."""
    mean, std = (
        datasets.Pairs(*(getattr(a, which)(axis=0) for a in train)) for which in ("mean", "std")
    )

    def standardise(pairs: datasets.Pairs) -> tuple[jax.Array, jax.Array]:
        x, y = ((a - m) / s for a, m, s in zip(pairs, mean, std, strict=True))
        return jnp.asarray(x), jnp.asarray(y)

    def network(seed: int) -> nets.Functional:
        rngs = nnx.Rngs(seed)
        output = nets.MixtureDense(64, head, rngs=rngs)
        return nets.functional(nets.MLP(train.inputs.shape[1], (64, 64), output, rngs=rngs))

    return Problem(
        name=name,
        head=head,
        init=lambda seed: network(seed).params,
        predict=_predict(network(0)),
        train=standardise(train),
        held_out=standardise(held_out),
        shift=float(np.log(std.targets).sum()),
        goals=goals,
        steps=steps,
    )


def handwriting(steps: int) -> Problem:
    """The next point of the built-in pens: one LSTM layer, windows of 64 points."""
    corpus = datasets.built_in_pens(480)
    normalizer = strokes.Normalizer.fit(corpus.subset(range(400)))
    head = strokes.stroke_head(10)

    def windows(lines: range, num: int) -> tuple[Any, Any]:
        batch = strokes.Windows(corpus.subset(lines), num, 64, seed=0)(0)
        inputs, targets, mask = strokes.next_step_pairs(normalizer.apply(batch))
        if not np.all(mask):
            raise ValueError("natural_gradient: a line is shorter than a window")
        targets = strokes.dequantize(jax.random.key(len(lines)), targets, normalizer.device_unit)
        return jax.tree.map(jnp.asarray, (inputs, targets))

    train, held_out = windows(range(400), 3000), windows(range(400, 480), 128)
    bias = nets.bias_from_targets(
        jax.random.key(0), head, jax.tree.map(lambda y: y[:64].reshape(-1, *y.shape[2:]), train[1])
    )

    def network(seed: int) -> nets.Functional:
        rngs = nnx.Rngs(seed)
        output = nets.MixtureDense(96, head, bias=bias, rngs=rngs)
        return nets.functional(nets.LSTMStack(3, (96,), output, rngs=rngs))

    return Problem(
        name="handwriting",
        head=head,
        init=lambda seed: network(seed).params,
        predict=_predict(network(0)),
        train=train,
        held_out=held_out,
        shift=0.0,
        goals=(-0.5, -1.0),
        tuning_seeds=TUNING_SEEDS[:1],
        steps=steps,
        batch=16,
        together=False,
    )


def _predict(network: nets.Functional) -> Callable[[Any, Any], jax.Array]:
    return lambda params, inputs: network.apply(params, {}, inputs)[0]


def sine(steps: int) -> Problem:
    """Bishop's first problem, with his isotropic components."""
    train, held_out = (datasets.inverse_sine(n, seed=seed) for n, seed in SIZES)
    head = mdn.GaussianHead(num_components=5, dim=1)
    return regression("inverse sine", train, held_out, head, (-1.0, -1.08), steps)


def arm(steps: int) -> Problem:
    """Bishop's second: without noise, so that the nll has no floor."""
    train, held_out = (datasets.robot_arm(n, seed=seed) for n, seed in SIZES)
    head = mdn.GaussianHead(num_components=5, dim=2)
    return regression("robot arm", train, held_out, head, (-2.0, -4.0), steps)


def noisy_arm(steps: int) -> Problem:
    """The arm with a floor, and full covariances: near its solutions the angles trade off."""
    train, held_out = (datasets.robot_arm(n, seed=seed, noise=0.01) for n, seed in SIZES)
    head = mdn.GaussianHead(num_components=5, dim=2, covariance="full")
    return regression("robot arm, noise, full", train, held_out, head, (-2.0, -3.0), steps)


def digits(steps: int) -> Problem:
    """From a digit's name to its 64 pixels, dequantised: many dimensions, few examples."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    noise = np.random.default_rng(0).random(images.shape)
    everything = np.eye(10)[labels], (images + noise) / 16
    train = datasets.Pairs(*(a[:1400].astype(np.float32) for a in everything))
    held_out = datasets.Pairs(*(a[1400:].astype(np.float32) for a in everything))
    head = mdn.GaussianHead(num_components=10, dim=64, covariance="diagonal")
    return regression("digits' pixels, diagonal", train, held_out, head, (-54.0, -56.0), steps)


PROBLEMS: dict[str, tuple[Callable[[int], Problem], int]] = {
    "sine": (sine, 1500),
    "arm": (arm, 3000),
    "noisy-arm": (noisy_arm, 3000),
    "handwriting": (handwriting, 600),
    "digits": (digits, 600),
}
QUICK = ("sine", "noisy-arm")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    rate: float
    clip: float


def make_step(problem: Problem, rule: str) -> tuple[Any, Callable[..., Any]]:
    """Adam, and one step of it: (params, state), examples, rate, clip -> (params, state)."""
    adam = optax.scale_by_adam()

    def step(carry: Any, chosen: jax.Array, rate: Any, clip: Any) -> Any:
        params, state = carry
        inputs, y = jax.tree.map(lambda a: a[chosen], problem.train)

        def loss(params: Any) -> jax.Array:
            return jnp.mean(objective(rule, problem.head, problem.predict(params, inputs), y))

        gradient = jax.grad(loss)(params)
        scale = jnp.minimum(1, clip / (optax.global_norm(gradient) + 1e-30))
        updates, state = adam.update(jax.tree.map(lambda g: scale * g, gradient), state)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), state

    return adam, step


def make_runs(problem: Problem, rule: str, *, decay_from: float = 2 / 3) -> Callable[..., Any]:
    """Compiles (params, seeds, rates, clips), n of each -> (nll `[n, CHECKS + 1]`, params)."""
    adam, step = make_step(problem, rule)
    size = jax.tree.leaves(problem.train)[0].shape[0]
    every = problem.steps // CHECKS

    def held_out(params: Any) -> jax.Array:
        inputs, y = problem.held_out
        return jnp.mean(problem.head.nll(problem.predict(params, inputs), y)) + problem.shift

    def one(start: tuple[Any, jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        params, seed, rate, clip = start

        def advance(carry: Any, n: jax.Array) -> tuple[Any, None]:
            key = jax.random.fold_in(jax.random.key(seed), n)
            chosen = jax.random.randint(key, (problem.batch,), 0, size)
            left = (1 - n / problem.steps) / (1 - decay_from)
            return step(carry, chosen, rate * jnp.minimum(1, left), clip), None

        def block(carry: Any, first: jax.Array) -> tuple[Any, jax.Array]:
            carry, _ = lax.scan(advance, carry, first + jnp.arange(every))
            return carry, held_out(carry[0])

        carry = params, adam.init(params)
        carry, nll = lax.scan(block, carry, every * jnp.arange(CHECKS))
        return jnp.concatenate([held_out(params)[None], nll]), carry[0]

    return jax.jit(jax.vmap(one) if problem.together else functools.partial(lax.map, one))


def run(
    runs: Callable[..., Any], params: list[Any], seeds: tuple[int, ...], settings: list[Setting]
) -> tuple[np.ndarray, Any]:
    """All settings by all seeds: nll `[settings, seeds, CHECKS + 1]`, and the final weights."""
    pairs = list(itertools.product(settings, zip(params, seeds, strict=True)))
    nll, final = runs(
        (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for _, (p, _) in pairs)),
            jnp.asarray([seed for _, (_, seed) in pairs]),
            jnp.asarray([setting.rate for setting, _ in pairs], jnp.float32),
            jnp.asarray([setting.clip for setting, _ in pairs], jnp.float32),
        )
    )
    return np.asarray(nll).reshape(len(settings), len(seeds), -1), final


def steps_to(goal: float, nll: np.ndarray, steps: int) -> np.ndarray:
    """The step at which each curve `[..., CHECKS + 1]` first is at the goal; inf where never."""
    reached = nll <= goal
    return np.where(reached.any(-1), reached.argmax(-1) * (steps // CHECKS), np.inf)


def compare(problem: Problem) -> dict[str, Any]:
    """Tunes and runs every rule on a problem; prints its table."""
    print(f"\n{problem.name}: {problem.steps:,} steps of {problem.batch}", flush=True)
    heads = (*(f"steps to {goal:g}" for goal in problem.goals), "final nll", "after plain")
    line = "  {:11}" + "{:>28}" * 4
    print(line.format("", *heads))
    grid = [Setting(*pair) for pair in itertools.product(problem.rates, CLIPS)]
    starts = [problem.init(seed) for seed in SEEDS]
    tuning = [problem.init(seed) for seed in problem.tuning_seeds]
    plain_end: list[Any] = []
    rows = []
    for rule in RULES:
        runs = make_runs(problem, rule)
        nll, _ = run(runs, tuning, problem.tuning_seeds, grid)
        last = np.nan_to_num(np.median(nll[..., -1], axis=1), nan=np.inf)
        keys: list[np.ndarray] = [last]
        for goal in problem.goals:
            # The fewest steps; where nobody arrives, or two arrive together, the lower end.
            median = np.median(steps_to(goal, nll, problem.steps), axis=1)
            keys.append(np.where(np.isinf(median), 1e9, median) + 1e-3 * np.clip(last, -99, 99))
        chosen = [int(np.argmin(key)) for key in keys]
        settings = [grid[n] for n in dict.fromkeys(chosen)]
        curves, final = run(runs, starts, SEEDS, settings)
        of = {grid.index(setting): curve for setting, curve in zip(settings, curves, strict=True)}
        if rule == "plain":
            # Settings come in order, the one with the best end first.
            plain_end = [jax.tree.map(lambda a, n=n: a[n], final) for n in range(len(SEEDS))]
        onward = make_runs(problem, rule, decay_from=0.0)
        continued, _ = run(onward, plain_end, SEEDS, [grid[chosen[0]]])
        row = {
            "problem": problem.name,
            "rule": rule,
            "settings": [dataclasses.asdict(grid[n]) for n in chosen],
            "nll": of[chosen[0]].tolist(),
            "after_plain": continued[0].tolist(),
        }
        cells = []
        for n, goal in zip(chosen[1:], problem.goals, strict=True):
            steps = steps_to(goal, of[n], problem.steps)
            row[f"steps to {goal:g}"] = steps.tolist()
            cells.append(span(steps, ".0f"))
        cells += [span(of[chosen[0]][:, -1], ".3f"), span(continued[0][:, -1], ".3f")]
        print(line.format(rule, *cells), flush=True)
        rows.append(row)
    rounds = 3 if problem.steps == CHECKS else 15
    seconds = step_seconds(problem, starts[0], rounds)
    for row in rows:
        row["step_seconds"] = seconds[row["rule"]].tolist()
    print("  a step's ms: " + ", ".join(f"{r} {Spread.of(1e3 * seconds[r]):.2f}" for r in RULES))
    return {"name": problem.name, "steps": problem.steps, "rows": rows}


def span(values: np.ndarray, spec: str) -> str:
    """The median of five seeds, the least and the most; a dash for what never happened."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return " ".join(
        part.format("-" if np.isinf(x) else format(x, spec))
        for part, x in (("{}", middle), ("({}", low), ("to {})", high))
    )


def step_seconds(problem: Problem, params: Any, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a step by each rule, in turn: 20 steps in one compiled loop, divided by 20."""
    size = jax.tree.leaves(problem.train)[0].shape[0]
    chosen = np.random.default_rng(0).integers(size, size=(20, problem.batch))

    def contestant(rule: str) -> Callable[[], object]:
        adam, step = make_step(problem, rule)

        @jax.jit
        def several(carry: Any) -> Any:
            return lax.scan(lambda c, n: (step(c, n, 1e-3, 1.0), None), carry, chosen)[0]

        carry = params, adam.init(params)
        return lambda: jax.block_until_ready(several(carry))

    times = interleaved({rule: contestant(rule) for rule in RULES}, rounds=rounds)
    return {rule: seconds / 20 for rule, seconds in times.items()}


def draw_curves(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Held-out nll against steps, a panel a problem: five seeds of each rule, and their median."""
    from matplotlib.figure import Figure

    from mdnjax.plotting import style

    colors = dict(zip(RULES, (style.BLUE, style.ORANGE, style.FAINT), strict=True))
    with style.house_style():
        figure = Figure(figsize=(2.3 * len(results) + 0.6, 2.6), layout="constrained")
        for ax, result in zip(
            figure.subplots(1, len(results), squeeze=False)[0], results, strict=True
        ):
            steps = np.linspace(0, result["steps"], CHECKS + 1)
            for row in result["rows"]:
                nll = np.array(row["nll"])
                ax.plot(steps, nll.T, color=colors[row["rule"]], linewidth=0.5, alpha=0.4)
                ax.plot(steps, np.median(nll, axis=0), color=colors[row["rule"]], label=row["rule"])
            plain = np.array(result["rows"][0]["nll"])
            room = plain[:, 2].max() - plain.min()
            ax.set_ylim(plain.min() - 0.05 * room, plain[:, 2].max() + 0.2 * room)
            ax.set(title=result["name"], xlabel="steps")
        figure.axes[0].set_ylabel("held-out nll, nats")
        figure.axes[0].legend(frameon=False)
        style.save(figure, path, dpi=120.0)


def main() -> None:
    arguments = parse_arguments()
    device = jax.devices(arguments.device)[0]
    jax.config.update("jax_default_device", device)
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "flax", "optax"))
    for dim, covariance in itertools.product((1, 2, 3), ("isotropic", "diagonal", "full")):
        require_inverse_fisher(dim, covariance)
    print(f"held-out nats; medians of {len(SEEDS)} seeds (least to most)")
    results = []
    for name in arguments.problems or (QUICK if arguments.quick else PROBLEMS):
        make, steps = PROBLEMS[name]
        try:
            problem = make(CHECKS if arguments.quick else steps)
        except ImportError as error:
            print(f'\n{name}: {error}; pip install "mdnjax[examples]"')
            continue
        results.append(compare(problem))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.figure is not None:
        draw_curves(results, arguments.figure)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument(
        "--problems", nargs="+", choices=list(PROBLEMS), help="which (all; with --quick two)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or gpu (cpu)")
    parser.add_argument("--quick", action="store_true", help="60 steps, to see that it runs")
    parser.add_argument("--json", type=pathlib.Path, help="write every curve here")
    parser.add_argument("--figure", type=pathlib.Path, help="draw the curves here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
