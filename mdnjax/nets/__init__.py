"""Networks: Flax NNX modules, and the seam that makes them pure functions."""

from mdnjax.nets.functional import Apply, Functional, functional
from mdnjax.nets.lstm import LSTMCarry, LSTMStack
from mdnjax.nets.mlp import MLP
from mdnjax.nets.output import MixtureDense, bias_from_targets, spread_bias

__all__ = [
    "MLP",
    "Apply",
    "Functional",
    "LSTMCarry",
    "LSTMStack",
    "MixtureDense",
    "bias_from_targets",
    "functional",
    "spread_bias",
]
