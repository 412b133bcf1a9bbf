"""From a line of text to control points: where a writer puts each letter, and what is joined."""

import numpy as np
from jaxtyping import Bool, Float

from mdnjax.datasets.pens.writers import Hand, Warp


def lay_out(
    rng: np.random.Generator, text: str, hand: Hand
) -> tuple[Float[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Writes a line as polylines.

    Args:
        rng: Draws what differs from one instance of a letter to the next.
        text: Printable ASCII.
        hand: Of the writer.

    Returns:
        Control points `[P, 2]` of all pen-down movements, in x-heights of the writer (y down,
        0 on the baseline), and `[P]` flags, True where the pen is lifted after the point.
    """
    writer = hand.writer
    points, ends, owners = [], [], []
    marks: list[tuple[np.ndarray, int]] = []
    joined = False  # the pen is still down at the end of the letter before
    edge = np.zeros(len(text) + 1)
    stays = rng.random(len(text)) >= writer.lifts
    spaces = rng.normal(writer.letter_space, 0.03, len(text))
    stretch = np.exp(rng.normal(0, 0.1, len(text)))

    def put(movement: np.ndarray, owner: int) -> None:
        points.append(movement)
        owners.append(np.full(len(movement), owner))
        ends.append(np.concatenate([np.zeros(len(movement) - 1, bool), [True]]))

    for i, character in enumerate(text):
        glyph = hand.glyphs[character]
        edge[i + 1] = edge[i] + glyph.advance + spaces[i]
        if not glyph.movements:
            edge[i + 1] = edge[i] + writer.word_space * stretch[i]
            joined = False
            continue
        body, *own_marks = glyph.movements
        if joined and glyph.joins:
            if glyph.low_entry:
                points[-1], owners[-1], ends[-1] = points[-1][:-1], owners[-1][:-1], ends[-1][:-1]
            elif glyph.retrace:
                body = np.concatenate([body[glyph.retrace - 1 : 0 : -1], body])
            else:
                body = body[1:]
            ends[-1][-1] = False
        put(body, i)
        follows = i + 1 < len(text) and hand.glyphs[text[i + 1]].joins
        joined = glyph.joins and follows and bool(stays[i])
        marks += [(mark, i) for mark in own_marks]
        if marks and not (joined and writer.late_marks):
            for mark, owner in marks:
                put(mark, owner)
            marks, joined = [], False

    owner = np.concatenate(owners)
    xy = _vary(rng, np.concatenate(points), owner, len(text), writer.jitter)
    xy[:, 0] += edge[owner] - writer.slant * xy[:, 1]
    xy[:, 1] += _baseline(rng, xy[:, 0], hand)
    return xy, np.concatenate(ends)


def _vary(
    rng: np.random.Generator, points: np.ndarray, owner: np.ndarray, count: int, jitter: float
) -> np.ndarray:
    """Makes every instance of a letter a little different: shifted, scaled, turned, bent."""
    shift, scale = rng.normal(0, jitter, (2, count, 2))
    turn = rng.normal(0, jitter, count)
    cross = points[:, ::-1] * [-1.0, 1.0] * turn[owner, None]
    points = points * (1 + scale[owner]) + cross + shift[owner]
    # One field of long waves, which every letter meets at a phase of its own.
    phase = rng.uniform(0, 2 * np.pi, count)[owner]
    field = Warp.draw(rng, jitter)
    bent = np.sin(points @ field.frequency.T + field.phase + phase[:, None])
    return points + bent @ field.amplitude


def _baseline(rng: np.random.Generator, x: np.ndarray, hand: Hand) -> np.ndarray:
    """The height of the baseline at x: a slope and two slow waves."""
    writer = hand.writer
    slope = writer.slope + rng.normal(0, 0.006)
    wave = rng.normal(0, writer.wander, 2) @ np.sin(
        2 * np.pi * x / rng.uniform(8, 25, (2, 1)) + rng.uniform(0, 2 * np.pi, (2, 1))
    )
    return slope * x + wave
