"""Networks: Flax NNX modules, and the seam that makes them pure functions."""

from mdnjax.nets._autoencoder import Terms
from mdnjax.nets.conditional_vae import ConditionalVAE
from mdnjax.nets.conv import ConvDecoder, ConvEncoder
from mdnjax.nets.functional import Apply, Functional, functional
from mdnjax.nets.layered import LayeredDecoder, Layers
from mdnjax.nets.lstm import LSTMCarry, LSTMStack
from mdnjax.nets.mlp import MLP
from mdnjax.nets.output import MixtureDense, bias_from_targets, spread_bias
from mdnjax.nets.priors import MixturePrior, Normal, NormalPrior, Prior, VampPrior
from mdnjax.nets.vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "Apply",
    "ConditionalVAE",
    "ConvDecoder",
    "ConvEncoder",
    "Functional",
    "LSTMCarry",
    "LSTMStack",
    "LayeredDecoder",
    "Layers",
    "MixtureDense",
    "MixturePrior",
    "Normal",
    "NormalPrior",
    "Prior",
    "Terms",
    "VampPrior",
    "bias_from_targets",
    "functional",
    "spread_bias",
]
