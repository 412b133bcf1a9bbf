"""The learning rate as a function of step and budget."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    r"""Linear warm-up to a peak, then a decay that ends with the budget.

    With W warm-up steps and a budget of N, step n (counted from 0) has the learning rate

    .. math::
        \eta_n = \eta \min(1, \tfrac{n+1}{W}) \, (f + (1 - f) d(p)),
        \qquad p = \mathrm{clip}(\tfrac{n - W}{N - W}, 0, 1),

    where d(p) is 1 - p (linear), (1 + cos(pi p)) / 2 (cosine) or 1 (constant). N is a traced
    value: a budget found late, from minutes, costs no compilation.

    Attributes:
        peak: The learning rate after warm-up, eta.
        warmup: Steps of warm-up W, 0 for none. Where it exceeds the budget, the rate only climbs.
        decay: `"linear"`, `"cosine"` or `"constant"`.
        final: The fraction f of the peak that is left at the end, from 0 to 1.

    >>> schedule = Schedule(peak=1e-2, warmup=2, decay="linear")
    >>> [round(float(schedule(n, 6)), 6) for n in range(6)]
    [0.005, 0.01, 0.01, 0.0075, 0.005, 0.0025]
    """

    peak: float
    warmup: int = 0
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    final: float = 0.0

    def __post_init__(self) -> None:
        positive = math.isfinite(self.peak) and self.peak > 0
        require(positive, "Schedule", "peak", self.peak, "positive and finite")
        require(self.warmup >= 0, "Schedule", "warmup", self.warmup, "at least 0")
        kinds = ("linear", "cosine", "constant")
        require(self.decay in kinds, "Schedule", "decay", self.decay, f"one of {kinds}")
        require(0 <= self.final <= 1, "Schedule", "final", self.final, "from 0 to 1")

    def __call__(self, step: ArrayLike, budget: ArrayLike) -> Array:
        """Returns the learning rate of a step.

        Args:
            step: Steps done before this one, n.
            budget: Steps of the whole run, N.

        Returns:
            The learning rate, float32, of the broadcast shape of both.
        """
        n = jnp.asarray(step, jnp.float32)
        N = jnp.asarray(budget, jnp.float32)
        climb = jnp.minimum(1.0, (n + 1.0) / max(self.warmup, 1))
        p = jnp.clip((n - self.warmup) / jnp.maximum(N - self.warmup, 1.0), 0.0, 1.0)
        if self.decay == "linear":
            left = 1.0 - p
        elif self.decay == "cosine":
            left = 0.5 * (1.0 + jnp.cos(jnp.pi * p))
        else:
            left = jnp.ones_like(p)
        return self.peak * climb * (self.final + (1.0 - self.final) * left)
