"""Normalisation of offsets by the training corpus' statistics."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.mixtures import GaussianMixture
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """The affine map that gives a corpus' offsets mean 0 and standard deviation 1.

    normalised = (offset - mean) / std, each coordinate by itself (Graves 2013, section 4). A
    static, hashable description: it goes into `jit` as a constant and, by `training.describe`,
    into a model's `config.json`.

    Attributes:
        mean: Mean of (dx, dy), device units.
        std: Standard deviation of (dx, dy), device units, positive.
        unit: What a device unit is, as the corpus says.

    Raises:
        ValueError: A standard deviation is not positive and finite.
    """

    mean: tuple[float, float]
    std: tuple[float, float]
    unit: str

    def __post_init__(self) -> None:
        positive = all(0 < std < np.inf for std in self.std)
        require(positive, "Normalizer", "std", self.std, "positive and finite")

    @classmethod
    def fit(cls, corpus: Corpus) -> "Normalizer":
        """The normaliser of a corpus, usually the training set.

        The first offset of each line is zero by convention, not by measurement, and is left out;
        all others count once, steps in the air included. Sums run in float64, the second moment
        about the mean.

        Args:
            corpus: Lines in device units.

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
        )

    def apply(self, strokes: Strokes) -> Strokes:
        """Device units to normalised units; padding stays zero, flags and mask as they are."""
        mean, std = self._like(strokes.offsets)
        return self._masked(strokes, (strokes.offsets - mean) / std)

    def invert(self, strokes: Strokes) -> Strokes:
        """Normalised units back to device units; padding stays zero."""
        mean, std = self._like(strokes.offsets)
        return self._masked(strokes, strokes.offsets * std + mean)

    def invert_mixture(self, mix: GaussianMixture) -> GaussianMixture:
        r"""The density of an offset in device units, from that of a normalised one.

        With S = diag(std) and a component's precision factor diag(exp(-s)) (I + R), the factor in
        device units is that times S^-1: s moves by log std, R_12 by std_x / std_y.

        Args:
            mix: Mixtures over normalised offsets, two dimensions and full covariances.

        Returns:
            Mixtures over offsets in device units; log densities differ by `log_device_area`.

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
        assert mix.upper is not None
        mean, std = self._like(mix.loc)
        return dataclasses.replace(
            mix,
            loc=mix.loc * std + mean,
            log_scale=mix.log_scale + jnp.log(std),
            upper=mix.upper * (self.std[0] / self.std[1]),
        )

    @property
    def device_unit(self) -> tuple[float, float]:
        """One device unit in normalised units: 1/std of each coordinate."""
        return 1.0 / self.std[0], 1.0 / self.std[1]

    @property
    def log_device_area(self) -> float:
        """log(std_x std_y): added to normalised nats it gives nats per device unit squared."""
        return float(np.log(self.std[0]) + np.log(self.std[1]))

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
