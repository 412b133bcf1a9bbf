"""Mixture density networks and variational autoencoders in JAX.

`mdnjax` answers one question well: what is p(t | x) when one x has many right answers? The names
below are the face of the library; each lives in one place beneath and is loaded when first used,
so that `import mdnjax` costs what `import jax` costs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdnjax import datasets as datasets
    from mdnjax import mixtures as mixtures
    from mdnjax import nets as nets
    from mdnjax import plotting as plotting
    from mdnjax import strokes as strokes
    from mdnjax import training as training
    from mdnjax import variational as variational
    from mdnjax.mixtures import BernoulliHead as BernoulliHead
    from mdnjax.mixtures import ColumnsHead as ColumnsHead
    from mdnjax.mixtures import GaussianHead as GaussianHead
    from mdnjax.mixtures import GaussianMixture as GaussianMixture
    from mdnjax.mixtures import Head as Head
    from mdnjax.mixtures import ProductHead as ProductHead
    from mdnjax.mixtures import Standardizer as Standardizer
    from mdnjax.mixtures import bias as bias
    from mdnjax.mixtures import cdf as cdf
    from mdnjax.mixtures import condition as condition
    from mdnjax.mixtures import covariance as covariance
    from mdnjax.mixtures import coverage as coverage
    from mdnjax.mixtures import crps as crps
    from mdnjax.mixtures import dirichlet_log_prior as dirichlet_log_prior
    from mdnjax.mixtures import energy_score as energy_score
    from mdnjax.mixtures import entropy as entropy
    from mdnjax.mixtures import entropy_bounds as entropy_bounds
    from mdnjax.mixtures import highest_density_level as highest_density_level
    from mdnjax.mixtures import highest_density_region as highest_density_region
    from mdnjax.mixtures import interval as interval
    from mdnjax.mixtures import kl_divergence as kl_divergence
    from mdnjax.mixtures import kl_divergence_bounds as kl_divergence_bounds
    from mdnjax.mixtures import linear_nll as linear_nll
    from mdnjax.mixtures import log_cdf as log_cdf
    from mdnjax.mixtures import log_prob as log_prob
    from mdnjax.mixtures import marginal as marginal
    from mdnjax.mixtures import mean as mean
    from mdnjax.mixtures import mode as mode
    from mdnjax.mixtures import modes as modes
    from mdnjax.mixtures import most_probable as most_probable
    from mdnjax.mixtures import nll as nll
    from mdnjax.mixtures import nll_gradient as nll_gradient
    from mdnjax.mixtures import pit as pit
    from mdnjax.mixtures import quantile as quantile
    from mdnjax.mixtures import responsibilities as responsibilities
    from mdnjax.mixtures import sample as sample
    from mdnjax.mixtures import temper as temper
    from mdnjax.mixtures import variance as variance
    from mdnjax.mixtures import weight_entropy as weight_entropy

__version__ = "0.1.0"

__all__ = [
    "BernoulliHead",
    "ColumnsHead",
    "GaussianHead",
    "GaussianMixture",
    "Head",
    "ProductHead",
    "Standardizer",
    "bias",
    "cdf",
    "condition",
    "covariance",
    "coverage",
    "crps",
    "datasets",
    "dirichlet_log_prior",
    "energy_score",
    "entropy",
    "entropy_bounds",
    "highest_density_level",
    "highest_density_region",
    "interval",
    "kl_divergence",
    "kl_divergence_bounds",
    "linear_nll",
    "log_cdf",
    "log_prob",
    "marginal",
    "mean",
    "mixtures",
    "mode",
    "modes",
    "most_probable",
    "nets",
    "nll",
    "nll_gradient",
    "pit",
    "plotting",
    "quantile",
    "responsibilities",
    "sample",
    "strokes",
    "temper",
    "training",
    "variance",
    "variational",
    "weight_entropy",
]

_ROOMS = frozenset(
    {"datasets", "mixtures", "nets", "plotting", "strokes", "training", "variational"}
)


def __getattr__(name: str) -> Any:
    """Loads a room, or a name from `mixtures`, when it is first asked for (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"mdnjax.{name}")
    if name in __all__:
        value = getattr(importlib.import_module("mdnjax.mixtures"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mdnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
