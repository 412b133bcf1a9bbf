"""Random batches of examples, fresh noise included, as pure functions of (seed, step)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from mdnjax._checks import require
from mdnjax._epochs import shuffled


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Random batches of a set of examples: `batches(step)` is that of a step.

    An epoch is a random order of all examples, and batches run across the ends of epochs. Batch n
    needs none of the batches before it, which is what resuming a run relies on.

    Attributes:
        examples: NumPy arrays `[N, ...]`, a pytree of them, a row an example.
        batch_size: B.
        seed: Fixes order and noise.
        transform: `transform(rng, batch)` makes of a batch what training sees, such as `binarize`;
            its generator is another one at every step. None leaves it as it is.

    Raises:
        ValueError: B is less than 1, there is no example, or the arrays differ in length.

    Example:
        >>> import numpy as np
        >>> from mdnjax import datasets
        >>> grey = np.full((1000, 784), 0.5, np.float32)
        >>> batches = datasets.Batches(grey, batch_size=100, seed=0, transform=datasets.binarize)
        >>> batches(7).shape, batches(7).mean().round(1)
        ((100, 784), np.float64(0.5))
    """

    examples: Any
    batch_size: int
    seed: int
    transform: Callable[[np.random.Generator, Any], Any] | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "Batches", "batch_size", self.batch_size, "at least 1")
        lengths = {len(leaf) for leaf in jax.tree.leaves(self.examples)}
        is_set = len(lengths) == 1 and 0 not in lengths
        require(is_set, "Batches", "examples", f"lengths {sorted(lengths)}", "of one length, not 0")

    def __len__(self) -> int:
        """How many examples there are, N."""
        return len(jax.tree.leaves(self.examples)[0])

    def __call__(self, step: int) -> Any:
        """The batch of a step: NumPy, `[B, ...]`."""
        require(step >= 0, "Batches", "step", step, "at least 0")
        rows = shuffled(self.seed, step, self.batch_size, len(self))
        batch = jax.tree.map(lambda leaf: leaf[rows], self.examples)
        if self.transform is None:
            return batch
        return self.transform(np.random.default_rng([self.seed, step, 1]), batch)


def binarize(
    rng: np.random.Generator, probability: Float[np.ndarray, "..."]
) -> Bool[np.ndarray, "..."]:
    """Every pixel on with its grey value as probability: dynamic binarisation.

    A network that sees an image's pixels drawn anew each time cannot learn them by heart; numbers
    for images binarised once and for all are not comparable with those.

    Args:
        rng: A NumPy generator.
        probability: `[...]` from 0 to 1; 0 is never on and 1 always.

    Returns:
        `[...]`, whether a pixel is on.

    References:
        R. Salakhutdinov and I. Murray. "On the Quantitative Analysis of Deep Belief Networks."
        2008.
    """
    return rng.random(probability.shape, dtype=np.float32) < probability
