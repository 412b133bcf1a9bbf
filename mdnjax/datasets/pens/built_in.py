"""The built-in corpus: seeded writers write lines of English with single-stroke pens."""

from collections.abc import Sequence

import numpy as np

from mdnjax._checks import require
from mdnjax.datasets.pens.glyphs import FaceName, load_face
from mdnjax.datasets.pens.motion import shake, trace
from mdnjax.datasets.pens.page import lay_out
from mdnjax.datasets.pens.text import cut_lines, load_words
from mdnjax.datasets.pens.writers import Hand, Writer
from mdnjax.strokes.corpus import Corpus

_LINES_A_PAGE = 8
_PERIOD = 0.24  # of the sensor, in the time a pen takes for an x-height of gentle curve
_SENSOR_NOISE = 0.7  # device units, RMS, before rounding
_WRITERS, _HANDS, _PAGES, _LINES = range(4)  # one family of random streams each


def built_in_pens(
    num_lines: int = 6000,
    *,
    seed: int = 0,
    num_writers: int = 40,
    faces: Sequence[FaceName] = ("upright", "script"),
    x_height: float = 170.0,
    speed: float = 1.0,
) -> Corpus:
    """Generates lines of English handwriting: the default corpus.

    Writers drawn from the seed write pages of eight lines each. A line is laid out letter by
    letter in the writer's own shapes (`page`), traced by overlapping minimum-jerk strokes sampled
    at a constant rate (`motion`), shaken by tremor and sensor noise, and rounded to the integer
    lattice of a digitiser. It is a pure function of its arguments, and a prefix of a larger
    corpus is the smaller one: line i depends on `seed` and i only, not on `num_lines`.

    Args:
        num_lines: How many lines, L.
        seed: Of everything.
        num_writers: How many people write. They take turns page by page, and writers of the
            faces alternate.
        faces: The faces the writers were taught.
        x_height: Median height of an upright x, in device units.
        speed: Of every pen, relative to the default: at twice the speed a character has half the
            points.

    Returns:
        A corpus with integer positions in device units, y down. Ids read
        `p<writer>-<page>-<line>`, so `forms` are pages; texts and writers are filled.

    Raises:
        ImportError: The package `hershey-fonts` is not installed.
        ValueError: An argument is out of range, or a face is unknown.

    Example:
        >>> from mdnjax.datasets import built_in_pens
        >>> corpus = built_in_pens(9, num_writers=2)
        >>> corpus.ids[[0, 8]].tolist()
        ['p000-000-01', 'p001-000-01']
        >>> len(corpus), corpus.unit
        (9, 'device')
    """
    name = "built_in_pens"
    require(num_lines >= 1, name, "num_lines", num_lines, "at least 1")
    require(1 <= num_writers <= 999, name, "num_writers", num_writers, "from 1 to 999")
    require(seed >= 0, name, "seed", seed, "at least 0")
    known = all(face in ("upright", "script") for face in faces) and len(faces) > 0
    require(known, name, "faces", faces, 'a sequence of "upright" and "script"')
    require(0 < x_height < np.inf, name, "x_height", x_height, "positive and finite")
    require(0 < speed < np.inf, name, "speed", speed, "positive and finite")

    words = load_words()
    hands: dict[int, Hand] = {}
    alphabets = {}
    lines, texts, ids, writers = [], [], [], []
    for i in range(num_lines):
        page, row = divmod(i, _LINES_A_PAGE)
        turn, who = divmod(page, num_writers)
        if row == 0:
            page_rng = np.random.default_rng((seed, _PAGES, page))
            texts += cut_lines(page_rng, words, _LINES_A_PAGE)
        if who not in hands:
            face = faces[who % len(faces)]
            writer = Writer.draw(np.random.default_rng((seed, _WRITERS, who)), face)
            alphabet = (face, writer.plain_capitals)
            if alphabet not in alphabets:
                alphabets[alphabet] = load_face(face, plain_capitals=writer.plain_capitals)
            hand_rng = np.random.default_rng((seed, _HANDS, who))
            hands[who] = Hand.draw(hand_rng, writer, alphabets[alphabet])
        rng = np.random.default_rng((seed, _LINES, i))
        lines.append(_write(rng, texts[i], hands[who], row, x_height, speed))
        writers.append(f"p{who:03d}")
        ids.append(f"p{who:03d}-{turn:03d}-{row + 1:02d}")
    return Corpus.from_positions(
        np.concatenate([xy for xy, _ in lines]),
        np.concatenate([pen_up for _, pen_up in lines]),
        lengths=np.array([len(xy) for xy, _ in lines]),
        ids=ids,
        texts=texts[:num_lines],
        writers=writers,
    )


def _write(
    rng: np.random.Generator, text: str, hand: Hand, row: int, x_height: float, speed: float
) -> tuple[np.ndarray, np.ndarray]:
    """Writes one line: integer positions `[T, 2]` and pen-up flags `[T]`."""
    writer = hand.writer
    points, ends = lay_out(rng, text, hand)
    xy, pen_up = trace(
        rng,
        points,
        ends,
        overlap=writer.roundness,
        speed=writer.speed * speed,
        period=_PERIOD,
    )
    margin = np.array([6.0, 4.0 * (row + 1)]) + rng.normal(0, 0.2, 2)
    xy = (xy * writer.size + margin) * x_height
    xy += writer.tremor * shake(rng, len(xy))
    xy += _SENSOR_NOISE * rng.standard_normal(xy.shape)
    return np.rint(xy).astype(np.int32), pen_up
