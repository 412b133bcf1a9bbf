"""Training a variational autoencoder beside the same one in PyTorch.

Both hold the same weights and do the same work: images drawn from a set, their pixels binarised
anew, the evidence lower bound of one sample (Bernoulli pixels, N(0, I) prior), its gradient, Adam.
The dense network is that of Burda et al. (2016): 784 - 200 - 200 - 50, tanh; the convolutional one
two convolutions of 32 and 64 channels and a dense layer of 256, both ways. Before anything is
timed, both must agree on the loss and on the size of every gradient.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from measure import Spread, interleaved, machine, ratio

import mdnjax as mdn
from mdnjax import datasets, nets, training, variational

LEARNING_RATE = 1e-3
LATENT = 50


class Case(NamedTuple):
    """A network, and the images of a step."""

    kind: str
    batch: int

    def __str__(self) -> str:
        return f"{self.kind}, B {self.batch}"


CASES = (
    *(Case("dense", batch) for batch in (20, 100, 256)),
    *(Case("convolutional", batch) for batch in (20, 100)),
)


def main() -> None:
    arguments = parse_arguments()
    device = jax.devices(arguments.device)[0]
    jax.config.update("jax_default_device", device)
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "flax", "torch"))
    line = "{:24}{:>28}{:>28}{:>22}"
    print(line.format("thousand images a second", "mdnjax", "torch", "mdnjax / torch"))
    results = []
    for case in CASES[:1] if arguments.quick else CASES:
        seconds = race(case, arguments)
        images = 1e-3 * case.batch * arguments.steps
        row = [f"{Spread.of(images / times):.1f}" for times in seconds.values()]
        if "torch" in seconds:
            row.append(f"{ratio(seconds['torch'], seconds['mdnjax']):.2f}")
        print(line.format(str(case), *row, *["-"] * (3 - len(row))), flush=True)
        times = {name: values.tolist() for name, values in seconds.items()}
        results.append({"case": case._asdict(), "steps": arguments.steps, "seconds": times})
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def race(case: Case, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Times the two in turn, after they have agreed."""
    rng = np.random.default_rng(0)
    shape = (784,) if case.kind == "dense" else (28, 28)
    grey = np.clip(rng.normal(0.1, 0.3, size=(5000, *shape)), 0, 1).astype(np.float32)
    vae = dense() if case.kind == "dense" else convolutional()
    contestants: dict[str, Callable[[], Any]] = {
        "mdnjax": our_steps(vae, grey, case.batch, arguments.steps)
    }
    try:
        # With the extra `bench`; without it types are not checked against it.
        import torch  # pyright: ignore[reportMissingImports]
        import torch_vae
    except ImportError:
        print('torch is not installed: pip install "mdnjax[bench]"', file=sys.stderr)
        return interleaved(contestants, rounds=arguments.rounds)
    torch.set_num_threads(arguments.threads)
    params = nets.functional(vae, "terms").params
    channels = () if case.kind == "dense" else (1,)
    peer = (
        torch_vae.dense(params)
        if case.kind == "dense"
        else torch_vae.convolutional(params, (7, 7, 64))
    )
    x = datasets.binarize(rng, grey[: case.batch]).astype(np.float32)
    epsilon = rng.normal(size=(case.batch, LATENT)).astype(np.float32)
    theirs = torch_vae.value_and_slopes(peer, x.reshape(case.batch, *channels, *shape), epsilon)
    require_agreement(value_and_slopes(vae, x, epsilon), theirs)
    peer.to("cuda" if arguments.device in ("gpu", "cuda") else "cpu")
    run = torch_vae.training_steps(
        peer,
        grey.reshape(-1, *channels, *shape),
        batch_size=case.batch,
        latent=LATENT,
        learning_rate=LEARNING_RATE,
    )
    contestants["torch"] = lambda: run(arguments.steps)
    return interleaved(contestants, rounds=arguments.rounds)


def dense() -> nets.VAE:
    """The network of Burda et al., one stochastic layer."""
    rngs = nnx.Rngs(0)
    return nets.VAE(
        nets.MLP(784, (200, 200), 2 * LATENT, rngs=rngs),
        nets.MLP(LATENT, (200, 200), (784, 1), rngs=rngs),
        mdn.BernoulliHead(),
        latent_dim=LATENT,
        rngs=rngs,
    )


def convolutional() -> nets.VAE:
    """Two convolutions each way."""
    rngs = nnx.Rngs(0)
    return nets.VAE(
        nets.ConvEncoder((28, 28), (32, 64), 256, 2 * LATENT, rngs=rngs),
        nets.ConvDecoder(LATENT, 256, (64, 32), (28, 28, 1), rngs=rngs),
        mdn.BernoulliHead(),
        latent_dim=LATENT,
        rngs=rngs,
    )


def our_steps(vae: nets.VAE, grey: np.ndarray, batch: int, steps: int) -> Callable[[], float]:
    """Steps of the package; each call takes `steps` of them."""
    net = nets.functional(vae, "terms")

    def loss(params: Any, state: Any, x: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        terms, state = net.apply(params, state, x, key=key, train=True)
        nats = -variational.elbo(terms.log_likelihood, terms.kl.sum(-1))
        return nats, jnp.ones_like(nats), state

    optimizer = training.adam(clip=None)
    schedule = training.Schedule(peak=LEARNING_RATE, decay="constant")
    step = training.make_step(loss, optimizer, schedule=schedule)
    state = training.init_state(net.params, net.state, optimizer, budget=1)
    key = jax.random.key(0)
    batches = datasets.Batches(grey, batch, seed=0, transform=datasets.binarize)
    done = 0

    def run() -> float:
        nonlocal state, done
        metrics = None
        for n in range(done, done + steps):
            state, metrics = step(state, batches(n), key)
        done += steps
        assert metrics is not None
        return float(jax.block_until_ready((state, metrics))[1].nats)

    return run


def value_and_slopes(
    vae: nets.VAE, x: np.ndarray, epsilon: np.ndarray
) -> tuple[float, list[float]]:
    """The mean loss for this noise, and the norm of its gradient in each parameter, sorted."""
    encode, decode = (nets.functional(vae, method) for method in ("encode", "decode"))
    head = mdn.BernoulliHead()

    def mean(params: Any) -> jax.Array:
        q = encode.apply(params, {}, x)[0]
        raw = decode.apply(params, {}, q.loc + jnp.exp(q.log_scale) * epsilon)[0]
        lost = head.nll(raw, x).reshape(len(x), -1).sum(-1)
        return jnp.mean(lost + variational.kl_standard_normal(*q).sum(-1))

    value, slopes = jax.jit(jax.value_and_grad(mean))(encode.params)
    return float(value), sorted(float(jnp.linalg.norm(s.ravel())) for s in jax.tree.leaves(slopes))


def require_agreement(ours: tuple[float, list[float]], theirs: tuple[float, list[float]]) -> None:
    """Ends the benchmark where the two do not compute the same."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, err_msg="loss")
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-3, err_msg="gradients")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (20)")
    parser.add_argument("--steps", type=int, default=50, help="training steps a round (50)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (2)")
    parser.add_argument("--device", default="cpu", help="cpu or gpu (cpu)")
    parser.add_argument("--quick", action="store_true", help="one network, to see that it runs")
    parser.add_argument("--json", type=pathlib.Path, help="write all times here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
