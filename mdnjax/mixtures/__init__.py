"""Mixtures p(t | x): pure functions on arrays and pytrees."""

from mdnjax.mixtures.calibration import Coverage as Coverage
from mdnjax.mixtures.calibration import Uniformity as Uniformity
from mdnjax.mixtures.calibration import coverage as coverage
from mdnjax.mixtures.calibration import density_coverage as density_coverage
from mdnjax.mixtures.calibration import density_pit as density_pit
from mdnjax.mixtures.calibration import pit as pit
from mdnjax.mixtures.calibration import uniformity as uniformity
from mdnjax.mixtures.conditionals import condition as condition
from mdnjax.mixtures.conditionals import marginal as marginal
from mdnjax.mixtures.gaussian import CovarianceKind as CovarianceKind
from mdnjax.mixtures.gaussian import GaussianMixture as GaussianMixture
from mdnjax.mixtures.gaussian import bias as bias
from mdnjax.mixtures.gaussian import temper as temper
from mdnjax.mixtures.heads import BernoulliHead as BernoulliHead
from mdnjax.mixtures.heads import ColumnsHead as ColumnsHead
from mdnjax.mixtures.heads import GaussianHead as GaussianHead
from mdnjax.mixtures.heads import Head as Head
from mdnjax.mixtures.heads import ProductHead as ProductHead
from mdnjax.mixtures.information import Bounds as Bounds
from mdnjax.mixtures.information import Estimate as Estimate
from mdnjax.mixtures.information import entropy as entropy
from mdnjax.mixtures.information import entropy_bounds as entropy_bounds
from mdnjax.mixtures.information import kl_divergence as kl_divergence
from mdnjax.mixtures.information import kl_divergence_approximation as kl_divergence_approximation
from mdnjax.mixtures.information import kl_divergence_bounds as kl_divergence_bounds
from mdnjax.mixtures.likelihood import log_prob as log_prob
from mdnjax.mixtures.likelihood import nll as nll
from mdnjax.mixtures.likelihood import nll_gradient as nll_gradient
from mdnjax.mixtures.likelihood import responsibilities as responsibilities
from mdnjax.mixtures.linear import linear_nll as linear_nll
from mdnjax.mixtures.mode_seeking import Modes as Modes
from mdnjax.mixtures.mode_seeking import mode as mode
from mdnjax.mixtures.mode_seeking import modes as modes
from mdnjax.mixtures.moments import covariance as covariance
from mdnjax.mixtures.moments import mean as mean
from mdnjax.mixtures.moments import most_probable as most_probable
from mdnjax.mixtures.moments import variance as variance
from mdnjax.mixtures.priors import dirichlet_log_prior as dirichlet_log_prior
from mdnjax.mixtures.priors import weight_entropy as weight_entropy
from mdnjax.mixtures.quantiles import Interval as Interval
from mdnjax.mixtures.quantiles import cdf as cdf
from mdnjax.mixtures.quantiles import interval as interval
from mdnjax.mixtures.quantiles import log_cdf as log_cdf
from mdnjax.mixtures.quantiles import quantile as quantile
from mdnjax.mixtures.regions import Level as Level
from mdnjax.mixtures.regions import Region as Region
from mdnjax.mixtures.regions import highest_density_level as highest_density_level
from mdnjax.mixtures.regions import highest_density_region as highest_density_region
from mdnjax.mixtures.sampling import sample as sample
from mdnjax.mixtures.sampling import sample_from_noise as sample_from_noise
from mdnjax.mixtures.scores import crps as crps
from mdnjax.mixtures.scores import energy_score as energy_score
from mdnjax.mixtures.standardizer import Standardizer as Standardizer

__all__ = [
    "BernoulliHead",
    "Bounds",
    "ColumnsHead",
    "CovarianceKind",
    "Coverage",
    "Estimate",
    "GaussianHead",
    "GaussianMixture",
    "Head",
    "Interval",
    "Level",
    "Modes",
    "ProductHead",
    "Region",
    "Standardizer",
    "Uniformity",
    "bias",
    "cdf",
    "condition",
    "covariance",
    "coverage",
    "crps",
    "density_coverage",
    "density_pit",
    "dirichlet_log_prior",
    "energy_score",
    "entropy",
    "entropy_bounds",
    "highest_density_level",
    "highest_density_region",
    "interval",
    "kl_divergence",
    "kl_divergence_approximation",
    "kl_divergence_bounds",
    "linear_nll",
    "log_cdf",
    "log_prob",
    "marginal",
    "mean",
    "mode",
    "modes",
    "most_probable",
    "nll",
    "nll_gradient",
    "pit",
    "quantile",
    "responsibilities",
    "sample",
    "sample_from_noise",
    "temper",
    "uniformity",
    "variance",
    "weight_entropy",
]
