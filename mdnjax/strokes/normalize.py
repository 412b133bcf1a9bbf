"""Normalisation of offsets by the training corpus' statistics."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.mixtures import GaussianMixture
from mdnjax.mixtures.gaussian import affine
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """The affine map that gives a corpus' offsets mean 0 and standard deviation 1.

    normalised = (offset - mean) / std, each coordinate by itself (Graves 2013, section 4). A
    static, hashable description: it goes into `jit` as a constant and, by `training.describe`,
    into a model's `config.json`.

    A *device unit* is one spacing of the lattice on which the coordinates lie, `resolution` of the
    corpus' units: for a device's whole numbers the two are the same.

    Attributes:
        mean: Mean of (dx, dy), in the corpus' unit.
        std: Standard deviation of (dx, dy), in the corpus' unit, positive.
        unit: The corpus' unit.
        resolution: One device unit, in the corpus' unit.

    Raises:
        ValueError: A standard deviation, or the resolution, is not positive and finite.
    """

    mean: tuple[float, float]
    std: tuple[float, float]
    unit: str
    resolution: float = 1.0

    def __post_init__(self) -> None:
        positive = all(0 < std < np.inf for std in self.std)
        require(positive, "Normalizer", "std", self.std, "positive and finite")
        positive = 0 < self.resolution < np.inf
        require(positive, "Normalizer", "resolution", self.resolution, "positive and finite")

    @classmethod
    def fit(cls, corpus: Corpus) -> "Normalizer":
        """The normaliser of a corpus, usually the training set.

        The first offset of each line is zero by convention, not by measurement, and is left out;
        all others count once, steps in the air included. Sums run in float64, the second moment
        about the mean.

        Args:
            corpus: Lines in any unit.

        Returns:
            Mean and standard deviation (1/n) of the offsets.

        Raises:
            ValueError: There is no offset, or a coordinate never varies.
        """
        moving = np.ones(len(corpus.strokes.offsets), dtype=bool)
        moving[corpus.starts] = False
        offsets = np.asarray(corpus.strokes.offsets)[moving]
        require(len(offsets) > 0, "Normalizer.fit", "corpus", "no offsets", "of longer lines")
        mean = offsets.mean(axis=0, dtype=np.float64)
        std = offsets.std(axis=0, dtype=np.float64)
        require(
            bool(np.all(np.isfinite(std) & (std > 0))),
            "Normalizer.fit",
            "corpus",
            f"offsets of standard deviation {std.tolist()}",
            "finite and moving in both coordinates",
        )
        return cls(
            mean=(float(mean[0]), float(mean[1])),
            std=(float(std[0]), float(std[1])),
            unit=corpus.unit,
            resolution=corpus.resolution,
        )

    def apply(self, strokes: Strokes) -> Strokes:
        """The corpus' unit to normalised units; padding stays zero, flags and mask as they are."""
        mean, std = self._like(strokes.offsets)
        return self._masked(strokes, (strokes.offsets - mean) / std)

    def invert(self, strokes: Strokes) -> Strokes:
        """Normalised units back to the corpus' unit; padding stays zero."""
        mean, std = self._like(strokes.offsets)
        return self._masked(strokes, strokes.offsets * std + mean)

    def invert_mixture(self, mix: GaussianMixture) -> GaussianMixture:
        r"""The density of an offset in the corpus' unit, from that of a normalised one.

        Args:
            mix: Mixtures over normalised offsets, two dimensions and full covariances.

        Returns:
            Mixtures over offsets in the corpus' unit; log densities are less by log(std_x std_y).

        Raises:
            ValueError: The mixture is not of that kind.
        """
        require(
            mix.upper is not None and mix.dim == 2,
            "Normalizer.invert_mixture",
            "mix",
            f"{mix.covariance_kind} in {mix.dim} dimensions",
            "full in 2 dimensions",
        )
        return affine(mix, *map(jnp.asarray, self._like(mix.loc[..., 0, :])))

    @property
    def device_unit(self) -> tuple[float, float]:
        """One device unit in normalised units: resolution/std of each coordinate."""
        return self.resolution / self.std[0], self.resolution / self.std[1]

    @property
    def log_device_area(self) -> float:
        """log(std_x std_y / resolution^2): takes normalised nats to nats per device unit squared.

        It is added: the density per device unit squared is the normalised one over that area.
        """
        return -float(np.sum(np.log(self.device_unit)))

    def _like(
        self, offsets: Float[Array | np.ndarray, "... 2"]
    ) -> tuple[Array | np.ndarray, Array | np.ndarray]:
        """Mean and std in the namespace, dtype and rank of `offsets`."""
        xp = np if isinstance(offsets, np.ndarray) else jnp
        shape = (1,) * (offsets.ndim - 1) + (2,)
        return (
            xp.asarray(self.mean, dtype=offsets.dtype).reshape(shape),
            xp.asarray(self.std, dtype=offsets.dtype).reshape(shape),
        )

    @staticmethod
    def _masked(strokes: Strokes, offsets: Any) -> Strokes:
        xp = offsets.__array_namespace__()
        return dataclasses.replace(
            strokes, offsets=xp.where(strokes.mask[..., None], offsets, xp.zeros_like(offsets))
        )
