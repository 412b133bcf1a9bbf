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
    figure = style.new_figure(7.5, 11.4 if flat is not None else 7.6)
    with plotting.house_style():
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, hspace=0.03)
        rows = figure.add_gridspec(3 if flat is not None else 2, 2)

        def sheet(row: int, column: int, pictures: np.ndarray, title: str, gap: int = 1) -> Any:
            ax = figure.add_subplot(rows[row, column])
            plotting.plot_images(pictures, ax=ax, gap=gap).set_title(title)
            return ax

        chosen = few_of_each(images.test_labels, SHOWN * SHOWN // 2)
        originals = images.test_grey[chosen].reshape(-1, SHOWN, *images.size)
        again = seen(codes[chosen]).reshape(originals.shape)
        both = np.stack([originals, again], axis=1).reshape(SHOWN, SHOWN, *images.size)
        sheet(0, 0, both, "Test images, and below each what comes back")

        z = jax.random.normal(jax.random.key(seed), (SHOWN, SHOWN, codes.shape[1]))
        sheet(0, 1, seen(z), "Codes from the prior, decoded")

        starts, ends = codes[chosen[:SHOWN]], codes[chosen[SHOWN + 1 : 2 * SHOWN + 1]]
        share = np.linspace(0, 1, SHOWN)[None, :, None]
        between = (1 - share) * starts[:, None] + share * ends[:, None]
        sheet(1, 0, seen(between), "From one image's code to another's")

        # The coordinates that say most about an image, each over the prior's range.
        spread = np.argsort(-codes.var(axis=0))[:SHOWN]
        along = np.broadcast_to(codes[chosen[3]], (len(spread), SHOWN, codes.shape[1])).copy()
        for row, coordinate in enumerate(spread):
            along[row, :, coordinate] = np.linspace(-REACH, REACH, SHOWN)
        ax = sheet(1, 1, seen(along), f"One coordinate at a time, from {-REACH:g} to {REACH:g}")
        for row, coordinate in enumerate(spread):
            middle = row * (images.size[0] + 1) + images.size[0] / 2
            ax.text(-1, middle, f"z{coordinate + 1}", ha="right", va="center", fontsize=7)

        if flat is not None:
            quantiles = [statistics.NormalDist().inv_cdf((n + 0.5) / ON_MAP) for n in range(ON_MAP)]
            z = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1)
            plane = seen(z, flat.method("decode"))
            sheet(2, 0, plane, "A plane of codes, by the prior's quantiles")
            places = np.asarray(flat.method("encode")(images.test).loc)
            few = slice(0, 1000)
            ax = plotting.plot_codes(
                places[few], images.test_labels[few], ax=figure.add_subplot(rows[2, 1])
            )
            ax.set_title("Where the test images lie in it")
    return {"vae": figure}


def few_of_each(labels: np.ndarray, number: int) -> np.ndarray:
    """The first images of all classes in turn, `[number]`."""
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.array([places[n % len(places)][n // len(places)] for n in range(number)])
