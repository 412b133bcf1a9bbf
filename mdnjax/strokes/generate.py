"""Writing: many lines at once, sampled point by point from a recurrent model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from mdnjax import mixtures
from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.mixtures import ProductHead
from mdnjax.strokes.likelihood import as_partial, stroke_parts
from mdnjax.strokes.normalize import Normalizer
from mdnjax.strokes.structure import Strokes

Carry = TypeVar("Carry")


def generate(
    step: Callable[[Carry, Float[Array, "B 3"]], tuple[Carry, Float[Array, "B P"]]],
    init: Carry,
    head: ProductHead,
    key: Key,
    *,
    num_lines: int,
    max_points: int,
    normalizer: Normalizer,
    bias: float = 0.0,
    first: Float[Array, "B 3"] | None = None,
) -> Strokes:
    """Samples lines from a model that predicts the next point.

    The model reads the point before, (dx, dy, pen_up) normalised, and gives the density of the
    next, from which the next is drawn and read in turn: one compiled scan for all lines. The model
    has no end-of-line symbol, so every line runs for `max_points`. The noise of point t depends on
    `key`, B and t alone: a longer run with the same key begins with the shorter one.

    Args:
        step: `(carry, inputs [B, 3]) -> (carry, raw [B, P])`. As in `evaluate`, pass a
            `jax.tree_util.Partial(function, params)` to compile once for all parameters;
            `nets.LSTMStack.stepper` gives such a one, laid out for speed.
        init: The model's carry before its first point, a pytree for B = `num_lines` lines.
        head: `stroke_head(...)`.
        key: A random key.
        num_lines: B.
        max_points: T, the first point included.
        normalizer: Of the training corpus.
        bias: Graves' probability bias b >= 0 on the offset's mixture, weights ~ pi^(1+b) and
            scales exp(-b): larger is neater. The pen-ups are not biased.
        first: `[B, 3]`, the first input, normalised; by default an offset of zero device units,
            pen down, as lines begin. To continue given lines, run `step` over all their points but
            the last for `init`, and give the last here.

    Returns:
        `Strokes` `[B, T]` in device units; the first point is `first`.

    Raises:
        ValueError: The head is no stroke head, or a size or `bias` is out of range.

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, sections 4.3 and
        5.4.
    """
    require(num_lines >= 1, "generate", "num_lines", num_lines, "at least 1")
    require(max_points >= 2, "generate", "max_points", max_points, "at least 2")
    require(bias >= 0, "generate", "bias", bias, "at least 0")
    stroke_parts(head, function="generate")
    at_rest = first is None
    if first is None:
        rest = [-mean / std for mean, std in zip(normalizer.mean, normalizer.std, strict=True)]
        first = jnp.broadcast_to(jnp.array([[*rest, 0.0]]), (num_lines, 3))
    require(first.shape == (num_lines, 3), "generate", "first", first.shape, f"({num_lines}, 3)")
    points = _scan(as_partial(step), init, first, key, bias, head=head, num_steps=max_points - 1)
    strokes = normalizer.invert(
        Strokes(
            offsets=points[..., :2],
            pen_up=points[..., 2],
            mask=jnp.ones(points.shape[:-1], bool),
        )
    )
    if not at_rest:
        return strokes
    # To the last bit, which normalising and back would not give.
    return dataclasses.replace(strokes, offsets=jnp.asarray(strokes.offsets).at[:, 0].set(0))


@functools.partial(jax.jit, static_argnames=("head", "num_steps"))
def _scan(
    step: Callable[[Any, Array], tuple[Any, Array]],
    init: Any,
    first: Float[Array, "B 3"],
    key: Key,
    bias: float | Float[Array, ""],
    *,
    head: ProductHead,
    num_steps: int,
) -> Float[Array, "B T 3"]:
    """The first point and those sampled after it, normalised."""
    offset_head, pen_head = stroke_parts(head)
    # What is drawn has the precision of the model, which under x64 need not be JAX's default.
    _, raw = jax.eval_shape(step, init, first.astype(jnp.float32))
    first = first.astype(jnp.promote_types(raw.dtype, jnp.float32))

    def draw(state: tuple[Any, Array], noise: _Noise) -> tuple[tuple[Any, Array], Array]:
        carry, point = state
        carry, raw = step(carry, point)
        raw = head.split(raw)
        mix = mixtures.bias(offset_head.mixture(raw["offset"]), bias)
        offset = mixtures.sample_from_noise(mix, noise.component, noise.within)[:, 0]
        pen_up = noise.pen < pen_head.probability(raw["pen_up"])
        point = jnp.concatenate([offset, pen_up[:, None].astype(offset.dtype)], axis=-1)
        return (carry, point), point

    # Drawn at once, 16 bytes a point: inside the loop, random bits took longer than the sampling.
    noise = jax.vmap(functools.partial(_Noise.draw, key, size=len(first), dtype=first.dtype))
    _, points = jax.lax.scan(draw, (init, first), noise(jnp.arange(num_steps)))
    return jnp.swapaxes(jnp.concatenate([first[None], points]), 0, 1)


class _Noise(NamedTuple):
    """What makes the next point of each line out of its density.

    `component` `[B, 1]` and `pen` `[B]` are uniform in [0, 1), `within` `[B, 1, 2]` standard
    normal.
    """

    component: Array
    pen: Array
    within: Array

    @classmethod
    def draw(cls, key: Key, t: Array, *, size: int, dtype: jnp.dtype) -> "_Noise":
        """The noise of point t of B = `size` lines."""
        key_uniform, key_normal = jax.random.split(jax.random.fold_in(key, t))
        component, pen = jax.random.uniform(key_uniform, (2, size), dtype)
        return cls(component[:, None], pen, jax.random.normal(key_normal, (size, 1, 2), dtype))
