"""One compiled step of gradient descent that never leaves a state worse than it found it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.training._finite import Before, BoundedTransformation, examine
from mdnjax.training.sharding import PaddedBatch
from mdnjax.training.state import TrainState

# What training minimises: `loss(params, state, batch, key) -> (nats [B], weight [B], state)`, one
# number an example, never averaged; nats are per unit of weight, and padding has weight 0.
Loss: TypeAlias = Callable[[Any, Any, Any, Key], tuple[Array, Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StepMetrics:
    """What a step reports, on the device until it is read.

    Attributes:
        nats: `[]`, sum(weight * nats) / sum(weight) before the update.
        weight: `[]`, sum(weight): the points of the batch.
        grad_norm: `[]`, global norm of the gradient before clipping.
        learning_rate: `[]`, the schedule's value; 1 without a schedule.
        finite: `[F]` bool, one flag for each name of `checked_names`.
        applied: `[]` bool, whether the state was advanced.
    """

    nats: Any
    weight: Any
    grad_norm: Any
    learning_rate: Any
    finite: Any
    applied: Any


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or an updated value that is not finite; training stopped before it.

    Attributes:
        step: The step (and batch) that failed, counted from 0.
        leaves: What was not finite, as named by `checked_names`.
        nats: The loss of that step.
        state: The last good state, that before the step.
    """

    def __init__(
        self, message: str, *, step: int, leaves: tuple[str, ...], nats: float, state: TrainState
    ):
        super().__init__(message)
        self.step = step
        self.leaves = leaves
        self.nats = nats
        self.state = state


@runtime_checkable
class Step(Protocol):
    """The compiled step `make_step` returns."""

    def __call__(
        self, state: TrainState, batch: Any, key: Key, index: Any = None
    ) -> tuple[TrainState, StepMetrics]:
        """Advances the state by one batch; see `make_step`."""
        ...


def leaf_names(tree: Any, prefix: str = "") -> tuple[str, ...]:
    """Names every leaf of a pytree by its path, in the order of `jax.tree.leaves`.

    >>> leaf_names({"layer": {"bias": 0.0, "kernel": 1.0}}, "params/")
    ('params/layer/bias', 'params/layer/kernel')
    """
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return tuple(
        (prefix + jax.tree_util.keystr(path, simple=True, separator="/")).rstrip("/")
        for path in paths
    )


def checked_names(state: TrainState) -> tuple[str, ...]:
    """Names the flags of `StepMetrics.finite`.

    Args:
        state: Any state of the run.

    Returns:
        `"loss"`, then the gradient and the updated value of every parameter, then every leaf of
        the network's state.
    """
    return (
        "loss",
        *(f"gradient of {name}" for name in leaf_names(state.params, "params/")),
        *(f"update of {name}" for name in leaf_names(state.params, "params/")),
        *leaf_names(state.state, "state/"),
    )


def real_loss(loss: Loss, params: Any, state: Any, batch: Any, key: Key) -> Any:
    """A loss, of which the rows that only fill a batch up are left out.

    Args:
        loss: As for `make_step`.
        params: The parameters.
        state: The network's other variables.
        batch: A batch, or a `PaddedBatch`, whose rows the loss sees as if they were all real.
        key: The step's key.

    Returns:
        `(nats, weight, state)`; nats and weights of rows that are not real are 0.

    Raises:
        ValueError: Nats and weight differ in shape, or have not a row for each row of a padded
            batch.
    """
    padded = isinstance(batch, PaddedBatch)
    nats, weight, state = loss(params, state, batch.batch if padded else batch, key)
    require(
        nats.shape == weight.shape,
        "make_step",
        "loss",
        f"nats {nats.shape} and weight {weight.shape}",
        "a function whose nats and weight have the same shape",
    )
    if padded:
        rows = batch.real.shape
        require(
            nats.shape[:1] == rows,
            "make_step",
            "loss",
            f"nats {nats.shape} for a padded batch of {rows[0]} rows",
            "a function whose nats have a row for each row of the batch",
        )
        # Selected, not multiplied: 0 times a number that is not finite would not be 0.
        real = jnp.reshape(batch.real, (*rows, *[1] * (nats.ndim - 1)))
        real = jnp.broadcast_to(real, nats.shape)
        nats, weight = jnp.where(real, nats, 0), jnp.where(real, weight, 0)
    return nats, weight, state


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    schedule: Callable[[Array, Array], Array] | None = None,
    average: float | None = None,
) -> Step:
    r"""Compiles one step of gradient descent on the weighted mean of a loss.

    .. math::
        L = \frac{\sum_b w_b \ell_b}{\sum_b w_b}, \qquad
        \theta \leftarrow \theta + \eta_n \, u(\nabla L), \qquad
        \bar\theta \leftarrow \bar\theta
            + \frac{1 - \beta}{1 - \beta^{n+1}} (\theta - \bar\theta),

    with u the optimiser's update at learning rate 1; the last is the exponential moving average
    divided by its bias correction. Where the loss, a gradient, an updated parameter or the
    network's new state is not finite, the whole state is kept as it was. (The optimiser's own state
    is taken to be what its updates have made it.)

    The step's random key is `fold_in(key, state.step)`: a pure function of the run's key and the
    step number.

    Args:
        loss: `loss(params, state, batch, key) -> (nats [B], weight [B], state)`; pure.
        optimizer: An Optax transformation; built at learning rate 1 where there is a schedule.
        schedule: `schedule(step, budget) -> learning rate` multiplies the update; None is 1.
        average: Decay beta of the moving average of the parameters, in [0, 1); None keeps none.

    Returns:
        `step(state, batch, key, index=None) -> (state, metrics)`, compiled once a batch shape.
        The batch may be a `PaddedBatch` (see `split_batch`): its rows that are not real count for
        nothing, if the loss treats each row by itself (it does not where a row's nats or the new
        state depend on other rows, as in batch normalisation).
        It donates the buffers of `state` (start from `init_state`, which copies the caller's
        arrays). With `index`, nothing happens unless `state.step == index`: a step already
        dispatched after one that failed leaves the last good state alone.

    Raises:
        ValueError: `average` is not in [0, 1); or, when the step is traced, nats and weight
            differ in shape, or the state was made with an average and the step without, or the
            reverse.

    >>> import optax
    >>> from mdnjax import training
    >>> def loss(params, state, batch, key):
    ...     return (batch - params["mean"]) ** 2, jnp.ones_like(batch), state
    >>> optimizer = optax.sgd(0.25)
    >>> state = training.init_state({"mean": 0.0}, {}, optimizer, budget=1)
    >>> step = training.make_step(loss, optimizer)
    >>> state, metrics = step(state, jnp.array([1.0, 3.0]), jax.random.key(0))
    >>> float(metrics.nats), float(state.params["mean"])
    (5.0, 1.0)
    """
    in_range = average is None or 0 <= average < 1
    require(in_range, "make_step", "average", average, "in [0, 1), or None")

    largest = optimizer.largest if isinstance(optimizer, BoundedTransformation) else math.inf

    @jax.jit  # traced once for all who call it
    def advance(state: TrainState, gradient: Any, network_state: Any, rate: Any) -> TrainState:
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        return TrainState(
            params=params,
            state=network_state,
            opt_state=opt_state,
            step=state.step + 1,
            budget=state.budget,
            average=_averaged(state, params, average),
        )

    def step(
        state: TrainState, batch: Any, key: Key, index: Any = None
    ) -> tuple[TrainState, StepMetrics]:
        require(
            (state.average is None) == (average is None),
            "make_step",
            "average",
            average,
            "given exactly where init_state was told to keep an average",
        )
        step_key = jax.random.fold_in(key, state.step)

        def objective(params: Any) -> tuple[Array, tuple[Array, Any]]:
            nats, weight, new_state = real_loss(loss, params, state.state, batch, step_key)
            weight = jax.lax.stop_gradient(weight)
            total = jnp.sum(weight)
            return jnp.sum(weight * nats) / total, (total, new_state)

        (value, (weight, network_state)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        rate = jnp.ones((), jnp.float32) if schedule is None else schedule(state.step, state.budget)

        def advanced() -> TrainState:
            return advance(state, gradient, network_state, rate)

        before = None
        if math.isfinite(largest):
            before = Before(state.params, jnp.max(jnp.abs(rate)) * largest)
        finite, grad_norm = examine(
            value, gradient, lambda: advanced().params, network_state, before=before
        )
        applied = jnp.all(finite)
        if index is not None:
            applied &= state.step == index
        metrics = StepMetrics(
            nats=value,
            weight=weight,
            grad_norm=grad_norm,
            learning_rate=rate,
            finite=finite,
            applied=applied,
        )
        # On CPU the state is advanced where it lies, once it is known that it may be; to compute
        # the update a second time is cheaper there than to write it twice. An accelerator would
        # wait for the branch.
        new = jax.lax.platform_dependent(
            cpu=lambda: jax.lax.cond(applied, advanced, lambda: state),
            default=lambda: jax.tree.map(lambda a, b: jnp.where(applied, a, b), advanced(), state),
        )
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def _averaged(state: TrainState, params: Any, decay: float | None) -> Any:
    """Moves the bias-corrected average towards the new parameters."""
    if decay is None:
        return None
    n = (state.step + 1).astype(jnp.float32)
    # 1 - decay**n by expm1: for decay near 1 the plain form loses most digits in early steps.
    log_decay = math.log(decay) if decay > 0 else -math.inf
    gain = (1.0 - decay) / -jnp.expm1(n * log_decay)
    return jax.tree.map(lambda a, p: (a + gain * (p - a)).astype(a.dtype), state.average, params)
