"""The pictures of `vae.py`: what the network makes of images, and what its codes mean."""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdnjax import plotting
from mdnjax.plotting import style

SHOWN = 10  # images in a row
ON_MAP = 15  # images along each side of the map
REACH = 2.5  # how far a traversal goes, in standard deviations of the prior


def draw(seed: int, images: Any, learned: Any, flat: Any | None) -> dict[str, Any]:
    """The page `vae`: reconstructions, samples, interpolations, traversals, and the map."""
    decode = learned.method("decode")

    def seen(z: Any, of: Any = decode) -> np.ndarray:
        """The pixels' probabilities, `[..., H, W]`, of codes `[..., D]`."""
        return np.asarray(jax.nn.sigmoid(of(jnp.asarray(z))[..., 0])).reshape(
            *np.shape(z)[:-1], *images.size
        )

    codes = np.asarray(learned.method("encode")(images.test).loc)
    height = 11.0 if flat is not None else 7.2
    figure = style.new_figure(7.5, height)
    with plotting.house_style():
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, hspace=0.03)
        rows = figure.add_gridspec(3 if flat is not None else 2, 2, height_ratios=None)

        chosen = few_of_each(images.test_labels, SHOWN)
        pairs = np.stack([images.test_grey[chosen].reshape(-1, *images.size), seen(codes[chosen])])
        ax = plotting.plot_images(
            pairs.reshape(2, SHOWN, *images.size), ax=figure.add_subplot(rows[0, 0])
        )
        ax.set_title("Test images, and what comes back")

        z = jax.random.normal(jax.random.key(seed), (5, SHOWN, codes.shape[1]))
        ax = plotting.plot_images(seen(z), ax=figure.add_subplot(rows[0, 1]))
        ax.set_title("Codes from the prior, decoded")

        starts, ends = codes[chosen[:5]], codes[chosen[5:10]]
        share = np.linspace(0, 1, SHOWN)[None, :, None]
        ax = plotting.plot_images(
            seen((1 - share) * starts[:, None] + share * ends[:, None]),
            ax=figure.add_subplot(rows[1, 0]),
        )
        ax.set_title("From one image's code to another's")

        spread = np.argsort(-codes.var(axis=0))[:SHOWN]
        base = np.repeat(codes[chosen[3]][None, None], len(spread), 0).repeat(SHOWN, 1)
        for row, coordinate in enumerate(spread):
            base[row, :, coordinate] = np.linspace(-REACH, REACH, SHOWN)
        ax = plotting.plot_images(seen(base), ax=figure.add_subplot(rows[1, 1]))
        for row, coordinate in enumerate(spread):
            middle = (row + 0.5) * (images.size[0] + 1)
            ax.text(-1, middle, f"z{coordinate + 1}", ha="right", va="center", fontsize=7)
        ax.set_title(f"Each coordinate from {-REACH:g} to {REACH:g}")

        if flat is not None:
            quantiles = [statistics.NormalDist().inv_cdf((n + 0.5) / ON_MAP) for n in range(ON_MAP)]
            z = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1)
            ax = plotting.plot_images(
                seen(z, flat.method("decode")), ax=figure.add_subplot(rows[2, 0]), gap=0
            )
            ax.set_title("A plane of codes, by the prior's quantiles")
            places = np.asarray(flat.method("encode")(images.test).loc)
            few = slice(0, 1000)
            ax = plotting.plot_codes(
                places[few], images.test_labels[few], ax=figure.add_subplot(rows[2, 1])
            )
            ax.set_title("Where the test images lie in it")
    return {"vae": figure}


def few_of_each(labels: np.ndarray, number: int) -> np.ndarray:
    """The first image of each class in turn."""
    classes = np.unique(labels)
    return np.array([np.flatnonzero(labels == classes[n % len(classes)])[0] for n in range(number)])
