"""Makes the figure of docs/strokes.md: the same word, transformed.

python docs/transforms_figure.py
"""

import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from mdnjax import datasets, plotting, strokes
from mdnjax.plotting import style
from mdnjax.strokes.curves import split_strokes

if TYPE_CHECKING:
    import matplotlib.figure

PICTURE = pathlib.Path(__file__).resolve().parent / "images" / "transforms.png"


def transforms_figure() -> "matplotlib.figure.Figure":
    """One word of the built-in pens: as it was written, resampled, simplified, augmented."""
    from matplotlib.figure import Figure

    word = first_word(datasets.built_in_pens(9, seed=0).subset([8]))
    first, second = jax.random.split(jax.random.key(4))
    panels = {
        "as written": word,
        "resample_arc_length(word, 40)": strokes.resample_arc_length(word, 40.0),
        "simplify(word, 4)": strokes.simplify(word, 4.0),
        "simplify(word, 16)": strokes.simplify(word, 16.0),
        "augment(key, word, shear=0.5, rotation=0.1)": strokes.augment(
            first, word, shear=0.5, rotation=0.1
        ),
        "augment(key, word, stretch=0.2, drop=0.3)": strokes.augment(
            second, word, stretch=0.2, drop=0.3
        ),
    }
    drawn = {title: split_strokes(corpus[0])[0] for title, corpus in panels.items()}
    everything = np.concatenate([xy for pieces in drawn.values() for xy in pieces])
    (left, top), (right, bottom) = everything.min(axis=0) - 20, everything.max(axis=0) + 20
    with style.house_style():
        figure = Figure(figsize=(8.0, 5.6), layout="constrained")
        axes = figure.subplots(3, 2).ravel()
        for ax, (title, pieces) in zip(axes, drawn.items(), strict=True):
            for xy in pieces:
                ax.plot(*xy.T, color=style.FAINT, linewidth=0.8)
                ax.plot(*xy.T, ".", color=style.INK, markersize=2.6)
            ax.set_title(f"{title}: {sum(map(len, pieces))} points", fontsize=8.5)
            ax.set_aspect("equal")
            ax.axis("off")
            ax.set(xlim=(left, right), ylim=(bottom, top))
    return figure


def first_word(corpus: strokes.Corpus) -> strokes.Corpus:
    """A line's points up to its first wide step in the air."""
    line = corpus[0]
    offsets, pen_up = np.asarray(line.offsets), np.asarray(line.pen_up)
    gaps = np.flatnonzero((pen_up[:-1] > 0.5) & (offsets[1:, 0] > 100)) + 1
    end = int(gaps[0])
    return strokes.Corpus.from_offsets(
        offsets[:end], pen_up[:end], [end], corpus.ids, [""], unit=corpus.unit
    )


if __name__ == "__main__":
    plotting.save(transforms_figure(), PICTURE, dpi=120.0)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
