"""The pictures of `cvae.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdnjax import datasets, plotting
from mdnjax.plotting import style

STYLES = 10  # codes that all classes share
COMPLETED = 10  # digits whose half is hidden
GUESSES = 7  # completions of each


def draw(seed: int, digits: Any, classes: Any, halves: Any, pictures: Any) -> Any:
    """The page: classes, completions, attributes, layers."""
    figure = style.new_figure(7.5, 8.4)
    with plotting.house_style():
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, hspace=0.04)
        rows = figure.add_gridspec(3, 2, height_ratios=[3.4, 2.1, 2.6])

        ax = plotting.plot_images(
            of_classes(seed, digits, classes), ax=figure.add_subplot(rows[0, 0])
        )
        ax.set_title("A class a row, a code a column")

        sheet = completions(seed, digits, halves)
        ax = plotting.plot_images(sheet, ax=figure.add_subplot(rows[0, 1]))
        width = sheet.shape[-1] + 1
        ax.set_title("Left half, truth, completions")
        ax.axvline(2 * width - 0.5, color=style.ORANGE, linewidth=1.2)

        sheet, groups = described(pictures)
        ax = plotting.plot_images(sheet, ax=figure.add_subplot(rows[1, :]), inked=False)
        width = sheet.shape[3] + 1
        for begin, name in groups:
            ax.text(begin * width, -2, name, va="bottom", fontsize=8)
        ax.set_title("One attribute at a time, all else the same", pad=16)

        real, layers = in_layers(pictures)
        ax = plotting.plot_images(real, ax=figure.add_subplot(rows[2, 0]), inked=False)
        ax.set_title("Real pictures")
        ax = plotting.plot_images(layers, ax=figure.add_subplot(rows[2, 1]), inked=False)
        ax.set_title("Made: picture, foreground, gate, background")
    return figure


def chances(raw: Any, *size: int) -> np.ndarray:
    """The pixels' probabilities, `[..., *size]`."""
    values = np.asarray(jax.nn.sigmoid(raw[..., 0]))
    return values.reshape(*values.shape[:-1], *size)


def of_classes(seed: int, digits: Any, classes: Any) -> np.ndarray:
    """`[10, STYLES, H, W]`."""
    z = jax.random.normal(jax.random.key(seed), (STYLES, classes.network.latent_dim))
    z = jnp.broadcast_to(z, (10, *z.shape))
    y = jnp.broadcast_to(jnp.eye(10)[:, None], (10, STYLES, 10))
    return chances(classes.method("decode")(z, y), *digits.test.shape[1:])


def completions(seed: int, digits: Any, halves: Any) -> np.ndarray:
    """`[COMPLETED, 2 + GUESSES, H, W]`: what is known, the truth, and completions drawn."""
    height, width = digits.test.shape[1:]
    y = jnp.repeat(halves.known[:COMPLETED, None], GUESSES, axis=1)
    raw = halves.learned.method("generate")(y, key=jax.random.key(seed))
    made = chances(raw, height, width - width // 2)
    known = halves.known[:COMPLETED].reshape(-1, 1, height, width // 2)
    whole = np.concatenate([np.repeat(known, GUESSES, axis=1), made], axis=-1)
    truth = np.float32(digits.test[:COMPLETED, None])
    hidden = np.concatenate([known, np.zeros((*known.shape[:3], width - width // 2))], axis=-1)
    return np.concatenate([hidden, truth, whole], axis=1)


def described(pictures: Any) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """`[4, columns, H, W, 3]`, and where each attribute begins to be varied."""
    columns: list[dict[str, Any]] = []
    groups: list[tuple[int, str]] = []
    ranges: dict[str, Any] = {
        "color": range(4),
        "background": range(4),
        "size": (0.35, 0.5, 0.65),
        "place": ((-0.3, 0.0), (0.0, 0.0), (0.3, 0.0)),
        "angle": np.arange(4) * np.pi / 8,
    }
    for name, values in ranges.items():
        groups.append((len(columns), name))
        columns += [{name: value} for value in values]
    base = {"color": 2, "background": 1, "size": 0.55, "place": (0.0, 0.0), "angle": 0.3}
    cells = [{"shape": row, **base, **column} for row in range(4) for column in columns]
    asked = datasets.ShapeAttributes(
        **{name: np.array([cell[name] for cell in cells]) for name in cells[0]}
    )
    # A code a row: what no attribute says stays the same.
    size = len(columns), pictures.learned.network.latent_dim
    z = 0.5 * jax.random.normal(jax.random.key(4), (4, size[1]))
    z = jnp.repeat(z, size[0], axis=0)
    made = np.asarray(pictures.learned.method("decode")(z, asked.vector())[..., 0])
    return made.reshape(4, len(columns), *made.shape[1:]), groups


def in_layers(pictures: Any) -> tuple[np.ndarray, np.ndarray]:
    """Real pictures `[4, 6, ...]`; pictures made and their layers, a column each, `[4, 6, ...]`."""
    real = pictures.real.images[:24].reshape(4, 6, *pictures.real.images.shape[1:])
    asked = pictures.real.attributes.vector()[:6]
    learned = pictures.learned
    z = jax.random.normal(jax.random.key(1), (6, learned.network.latent_dim))

    def layers(params: Any, z: Any, y: Any) -> Any:
        from mdnjax import nets

        net = nets.functional(learned.network.decoder, "layers")
        return net.apply(params["decoder"], {}, z, y)[0]

    found = jax.jit(layers)(learned.params, z, asked)
    gate = jnp.broadcast_to(found.gate, found.foreground.shape)
    whole = found.gate * found.foreground + (1 - found.gate) * found.background
    return real, np.stack([whole, found.foreground, gate, found.background])
