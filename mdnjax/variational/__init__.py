"""Variational autoencoders: divergences, likelihoods and bounds as pure functions, in nats."""

from mdnjax.variational.bounds import dreg_bound as dreg_bound
from mdnjax.variational.bounds import elbo as elbo
from mdnjax.variational.bounds import free_bits as free_bits
from mdnjax.variational.bounds import iwae_bound as iwae_bound
from mdnjax.variational.bounds import log_weights as log_weights
from mdnjax.variational.bounds import warm_up as warm_up
from mdnjax.variational.divergences import aggregated_posterior as aggregated_posterior
from mdnjax.variational.divergences import kl_gaussian as kl_gaussian
from mdnjax.variational.divergences import kl_monte_carlo as kl_monte_carlo
from mdnjax.variational.divergences import kl_normal as kl_normal
from mdnjax.variational.divergences import kl_standard_normal as kl_standard_normal
from mdnjax.variational.likelihoods import CategoricalHead as CategoricalHead
from mdnjax.variational.likelihoods import DiscretizedLogisticHead as DiscretizedLogisticHead
from mdnjax.variational.likelihoods import NormalHead as NormalHead
from mdnjax.variational.marginal import LogMarginal as LogMarginal
from mdnjax.variational.marginal import log_marginal as log_marginal
from mdnjax.variational.normal import log_normal as log_normal
from mdnjax.variational.normal import log_standard_normal as log_standard_normal
from mdnjax.variational.normal import reparameterize as reparameterize

__all__ = [
    "CategoricalHead",
    "DiscretizedLogisticHead",
    "LogMarginal",
    "NormalHead",
    "aggregated_posterior",
    "dreg_bound",
    "elbo",
    "free_bits",
    "iwae_bound",
    "kl_gaussian",
    "kl_monte_carlo",
    "kl_normal",
    "kl_standard_normal",
    "log_marginal",
    "log_normal",
    "log_standard_normal",
    "log_weights",
    "reparameterize",
    "warm_up",
]
