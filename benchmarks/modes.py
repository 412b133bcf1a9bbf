"""How many modes `modes` misses or makes up, beside a brute-force search in NumPy; and its speed.

python benchmarks/modes.py [--mixtures 10000] [--float64] [--out FILE]

Random mixtures of every covariance kind, K = 2, 3, 5, 8 and D = 1, 2, 3. The other search climbs
from 150 points and more, samples and mixtures of the means, by 400 mean-shift steps and 30 of
Newton's, in float64, and shares no code with ours. A mode counts as missed if its density is at
least a thousandth of the highest and none of ours is within a twentieth of a local standard
deviation; one of ours counts as made up if, in float64, it is no stationary point or the Hessian
there is not negative definite. 10,000 mixtures take about ten minutes, nearly all of it the other
search.
"""

import argparse
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import Spread, interleaved, machine

import mdnjax as mdn

KINDS, COMPONENTS, DIMENSIONS = ("isotropic", "diagonal", "full"), (2, 3, 5, 8), (1, 2, 3)
SPEED = (10_000, 5, 2)  # mixtures, K, D
RELEVANT, NEAR = 1e-3, 0.05


class Mixtures(NamedTuple):
    """N of them, in NumPy."""

    weights: np.ndarray  # [N, K]
    loc: np.ndarray  # [N, K, D]
    spread: np.ndarray  # what the constructor takes
    covariance: np.ndarray  # [N, K, D, D]


class Surface(NamedTuple):
    """Log density (but for a constant) and its shape at points `[N, S, D]`; see `mdnjax.modes`."""

    height: np.ndarray  # [N, S]
    gradient: np.ndarray  # [N, S, D]
    metric: np.ndarray  # [N, S, D, D], M
    curvature: np.ndarray  # [N, S, D, D], M - C


def main() -> None:
    parser = argparse.ArgumentParser(description="Modes missed and made up, and how fast.")
    parser.add_argument("--mixtures", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--float64", action="store_true", help="ours in double precision")
    parser.add_argument("--seed", type=int, default=0, help="of the mixtures (0)")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file with all figures")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", arguments.float64)
    device = jax.devices()[0]
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "numpy"))
    figures = {"search": compare(arguments.mixtures, arguments.seed), "speed": speed()}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(num_mixtures: int, seed: int) -> dict[str, int]:
    """Counts, over all kinds and sizes."""
    rng = np.random.default_rng(seed)
    sizes = list(itertools.product(KINDS, DIMENSIONS, COMPONENTS))
    each = -(-num_mixtures // len(sizes))
    names = ["mixtures", "modes", "missed", "made up", "found by us alone"]
    count: dict[str, int] = dict.fromkeys(names, 0)
    for kind, dim, k in sizes:
        mixtures = random_mixtures(rng, kind, each, k, dim)
        found = jax.jit(mdn.modes)(ours(kind, mixtures))
        points, is_mode = np.asarray(found.points, np.float64), np.asarray(found.is_mode)
        made_up = is_mode & ~is_peak(survey(mixtures, points), slope=1e-2)
        theirs = climbed(rng, mixtures)
        surface = survey(mixtures, theirs)
        peaks = is_peak(surface, slope=1e-8)
        highest = np.where(peaks, surface.height, -np.inf).max(axis=1, keepdims=True)
        relevant = peaks & (surface.height > highest + np.log(RELEVANT))
        apart = theirs[:, :, None] - points[:, None]
        near = np.einsum("nsmi,nsij,nsmj->nsm", apart, surface.metric, apart) < NEAR**2
        missed = relevant & ~np.any(near & is_mode[:, None], axis=2)
        alone = is_mode & ~np.any(near & peaks[..., None], axis=1)
        count["mixtures"] += each
        count["modes"] += int(is_mode.sum())
        count["missed"] += int(missed.any(axis=1).sum())
        count["made up"] += int(made_up.any(axis=1).sum())
        count["found by us alone"] += int(alone.any(axis=1).sum())
        shown = ", ".join(f"{name} {number:,}" for name, number in count.items())
        print(f"\r{kind:9} K {k} D {dim}: {shown}", end="", flush=True)
    total = count["mixtures"]
    print(
        f"\nmixtures with a mode missed: {count['missed']} of {total:,} "
        f"({count['missed'] / total:.3%}); with one made up: {count['made up']}"
    )
    return count


def speed() -> dict[str, list[float]]:
    """Seconds for many small mixtures, compilation apart."""
    num, k, dim = SPEED
    rng = np.random.default_rng(1)
    search = jax.jit(mdn.modes)
    figures = {}
    for kind in KINDS:
        mix = ours(kind, random_mixtures(rng, kind, num, k, dim))
        times = interleaved({kind: lambda mix=mix: jax.block_until_ready(search(mix))}, rounds=7)
        figures[kind] = times[kind].tolist()
        print(f"{num:,} {kind} mixtures, K = {k}, D = {dim}: {Spread.of(times[kind]):.3f} s")
    return figures


def random_mixtures(rng: np.random.Generator, kind: str, n: int, k: int, dim: int) -> Mixtures:
    """Means from close together to far apart, Dirichlet weights, log-normal scales."""
    loc = rng.normal(size=(n, k, dim)) * np.exp(rng.uniform(-0.5, 1.2, size=(n, 1, 1)))
    weights = rng.dirichlet(np.full(k, 2.0), size=n)
    if kind == "full":
        axes, _ = np.linalg.qr(rng.normal(size=(n, k, dim, dim)))
        variance = np.exp(1.4 * rng.normal(size=(n, k, dim)))
        covariance = np.einsum("nkij,nkj,nklj->nkil", axes, variance, axes)
        covariance = (covariance + covariance.swapaxes(-1, -2)) / 2
        return Mixtures(weights, loc, covariance, covariance)
    shape = (n, k, 1 if kind == "isotropic" else dim)
    scale = np.exp((0.5 if kind == "isotropic" else 0.7) * rng.normal(size=shape))
    covariance = np.broadcast_to(scale, loc.shape)[..., None] ** 2 * np.eye(dim)
    return Mixtures(weights, loc, scale[..., 0] if kind == "isotropic" else scale, covariance)


def ours(kind: str, mixtures: Mixtures) -> mdn.GaussianMixture:
    """The mixtures as the library has them."""
    loc, spread, weights = map(jnp.asarray, (mixtures.loc, mixtures.spread, mixtures.weights))
    return getattr(mdn.GaussianMixture, kind)(loc, spread, weights=weights)


def survey(mixtures: Mixtures, points: np.ndarray) -> Surface:
    """The density's shape at points `[N, S, D]`."""
    precision = np.linalg.inv(mixtures.covariance)
    apart = mixtures.loc[:, None] - points[:, :, None]
    pull = np.einsum("nkij,nskj->nski", precision, apart)
    log_joint = np.log(mixtures.weights) + 0.5 * np.linalg.slogdet(precision)[1]
    log_joint = log_joint[:, None] - 0.5 * np.sum(apart * pull, axis=-1)
    peak = log_joint.max(axis=-1, keepdims=True)
    gamma = np.exp(log_joint - peak)
    total = gamma.sum(axis=-1, keepdims=True)
    gamma /= total
    gradient = np.einsum("nsk,nski->nsi", gamma, pull)
    metric = np.einsum("nsk,nkij->nsij", gamma, precision)
    beside = pull - gradient[:, :, None]
    spread = np.einsum("nsk,nski,nskj->nsij", gamma, beside, beside)
    return Surface((peak + np.log(total))[..., 0], gradient, metric, metric - spread)


def whitened(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and curvature in local standard deviations."""
    inverse = np.linalg.inv(np.linalg.cholesky(surface.metric))
    gradient = np.einsum("nsij,nsj->nsi", inverse, surface.gradient)
    return gradient, inverse @ surface.curvature @ inverse.swapaxes(-1, -2)


def is_peak(surface: Surface, slope: float) -> np.ndarray:
    """Where the gradient is no more than `slope` and the curvature positive, `[N, S]`."""
    gradient, curvature = whitened(surface)
    least = np.linalg.eigvalsh(curvature)[..., 0]
    return (np.linalg.norm(gradient, axis=-1) <= slope) & (least > 1e-6)


def climbed(rng: np.random.Generator, mixtures: Mixtures) -> np.ndarray:
    """Where climbs from many points end, `[N, S, D]`."""
    points = starts(rng, mixtures)
    for _ in range(400):
        surface = survey(mixtures, points)
        points = points + solved(surface.metric, surface.gradient)
    for _ in range(30):
        surface = survey(mixtures, points)
        gradient, curvature = whitened(surface)
        values, vectors = np.linalg.eigh(curvature)
        along = np.einsum("nsji,nsj->nsi", vectors, gradient) / np.maximum(np.abs(values), 1e-4)
        step = np.einsum("nsij,nsj->nsi", vectors, along)
        step *= (0.5 / np.maximum(np.linalg.norm(step, axis=-1), 0.5))[..., None]
        step = solved(np.linalg.cholesky(surface.metric).swapaxes(-1, -2), step)
        higher = survey(mixtures, points + step).height >= surface.height - 1e-12
        shift = solved(surface.metric, surface.gradient)
        points = points + np.where(higher[..., None], step, shift)
    return points


def starts(rng: np.random.Generator, mixtures: Mixtures, num: int = 100) -> np.ndarray:
    """Samples, the means, and points between them."""
    n, k, dim = mixtures.loc.shape
    component = rng.integers(k, size=(n, num, 1))
    noise = rng.normal(size=(n, num, dim))
    lower = np.linalg.cholesky(mixtures.covariance)
    lower = np.take_along_axis(lower, component[..., None], axis=1)
    samples = np.take_along_axis(mixtures.loc, component, axis=1)
    samples = samples + np.einsum("nsij,nsj->nsi", lower, noise)
    between = np.einsum("nsk,nkd->nsd", rng.dirichlet(np.ones(k), size=(n, num // 2)), mixtures.loc)
    return np.concatenate([samples, mixtures.loc, between], axis=1)


def solved(matrix: np.ndarray, x: np.ndarray) -> Any:
    """matrix^-1 x."""
    return np.linalg.solve(matrix, x[..., None])[..., 0]


if __name__ == "__main__":
    main()
