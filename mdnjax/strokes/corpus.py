"""Many written lines in one place: ragged, on the host, in NumPy.

A `Corpus` holds the points of all its lines one after another in one flat `Strokes`, beside the
number of points, the name and the text of every line. As everywhere in `mdnjax.strokes`,

- a point is kept as the step (dx, dy) that led to it; the first step of each line is zero, so
  where on the board a line stood is forgotten;
- y points down;
- `pen_up` is 1 at the last point of each stroke, after which the pen travels through the air to
  the next point, and 0 elsewhere;
- lengths are in the unit the corpus names, by default the device's own (counts of its sensor);
  `resolution` says how far apart the values lie that a coordinate can take.

Steps are float32, in which integers are exact up to 2^24 = 16,777,216: the integer coordinates of
a digitiser (some ten thousand counts) and every sum of their steps survive without rounding.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, Shaped

from mdnjax._checks import require
from mdnjax.strokes.structure import Strokes

_PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A ragged collection of L written lines, N points in all, on the host.

    Build one with `from_positions` or `from_offsets`, which check what they are given; their
    arrays are read-only views, so that no line can be changed behind another's back.

    Attributes:
        strokes: `Strokes` over all N points, line after line, the mask True throughout.
        lengths: `[L]` int64, the number of points of each line, at least one.
        ids: `[L]` str, the name of each line; `form-number` where lines belong to forms.
        texts: `[L]` str, what each line says, empty where that is unknown.
        writers: `[L]` str, who wrote each line, empty where that is unknown; None where no
            writer is known at all.
        unit: The unit of the offsets: "device" for the counts of the sensor that wrote them.
        parts: `[L]` str, the part of its publisher's split to which each line belongs, "train",
            "valid" or "test"; None where there is no such split.
        times: `[N]` float32, seconds since the first point of the same line, never falling within
            a line; None where they are unknown.
        resolution: The spacing of the lattice on which the coordinates lie, in `unit`: 1 for a
            device's whole numbers, 0.01 for a file that keeps two decimals.

    Example:
        >>> xy = np.array([[10, 20], [13, 24], [13, 30], [0, 0], [5, 0]])
        >>> corpus = Corpus.from_positions(
        ...     xy,
        ...     np.array([0, 1, 1, 0, 1]),
        ...     lengths=[3, 2],
        ...     ids=["a01-000u-01", "a01-000u-02"],
        ...     texts=["hi", "-"],
        ... )
        >>> len(corpus), corpus.forms.tolist()
        (2, ['a01-000u', 'a01-000u'])
        >>> corpus[0].offsets.tolist()
        [[0.0, 0.0], [3.0, 4.0], [0.0, 6.0]]
        >>> corpus.positions(0).tolist()
        [[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]]
    """

    strokes: Strokes
    lengths: Integer[np.ndarray, " L"]
    ids: Shaped[np.ndarray, " L"]
    texts: Shaped[np.ndarray, " L"]
    writers: Shaped[np.ndarray, " L"] | None = None
    unit: str = "device"
    parts: Shaped[np.ndarray, " L"] | None = None
    times: Float[np.ndarray, " N"] | None = None
    resolution: float = 1.0

    @classmethod
    def from_positions(
        cls,
        xy: Num[np.ndarray, "N 2"],
        pen_up: Shaped[np.ndarray, " N"],
        lengths: Integer[np.ndarray, " L"] | Sequence[int],
        ids: Shaped[np.ndarray, " L"] | Sequence[str],
        texts: Shaped[np.ndarray, " L"] | Sequence[str],
        *,
        writers: Shaped[np.ndarray, " L"] | Sequence[str] | None = None,
        unit: str = "device",
        parts: Shaped[np.ndarray, " L"] | Sequence[str] | None = None,
        times: Num[np.ndarray, " N"] | None = None,
        resolution: float = 1.0,
    ) -> "Corpus":
        """Builds a corpus from the absolute positions of all points, y down.

        The step to point t is xy_t - xy_{t-1}, taken in float64 and then rounded to float32: exact
        for integers with steps below 2^24. The first step of each line is zero.

        Args:
            xy: `[N, 2]`, positions, line after line.
            pen_up: `[N]`, 1 (or True) where the point ends a stroke, else 0.
            lengths: `[L]`, points of each line; their sum is N.
            ids: `[L]`, the name of each line.
            texts: `[L]`, what each line says.
            writers: `[L]`, who wrote each line, or None where nobody knows.
            unit: The unit of `xy`.
            parts: `[L]`, "train", "valid" or "test" for each line, or None.
            times: `[N]`, seconds since the first point of the same line, or None.
            resolution: The spacing of the lattice on which `xy` lies, in `unit`.

        Returns:
            The corpus; its offsets have the unit of `xy`.

        Raises:
            ValueError: An array has the wrong size or kind, a line is empty, a position is not
                finite, `pen_up` is neither 0 nor 1, a part has another name, times do not begin
                at 0 or fall within a line, or `resolution` is not positive and finite.
        """
        name = "Corpus.from_positions"
        xy = np.asarray(xy)
        _require_shape(name, "xy", xy, (xy.shape[0] if xy.ndim else 0, 2))
        lengths = _checked_lengths(name, lengths, len(xy))
        finite = bool(np.isfinite(xy).all())
        require(finite, name, "xy", "NaN or infinity", "finite")
        offsets = np.zeros(xy.shape, np.float32)
        # float64 holds every int32 exactly; unsigned integers would wrap around at 0 - 1.
        with np.errstate(over="ignore"):
            offsets[1:] = np.subtract(xy[1:], xy[:-1], dtype=np.float64, casting="same_kind")
        offsets[_starts(lengths)] = 0.0
        return cls._checked(
            name,
            offsets,
            pen_up,
            lengths,
            ids,
            texts,
            writers=writers,
            unit=unit,
            parts=parts,
            times=times,
            resolution=resolution,
        )

    @classmethod
    def from_offsets(
        cls,
        offsets: Float[np.ndarray, "N 2"],
        pen_up: Shaped[np.ndarray, " N"],
        lengths: Integer[np.ndarray, " L"] | Sequence[int],
        ids: Shaped[np.ndarray, " L"] | Sequence[str],
        texts: Shaped[np.ndarray, " L"] | Sequence[str],
        *,
        writers: Shaped[np.ndarray, " L"] | Sequence[str] | None = None,
        unit: str = "device",
        parts: Shaped[np.ndarray, " L"] | Sequence[str] | None = None,
        times: Num[np.ndarray, " N"] | None = None,
        resolution: float = 1.0,
    ) -> "Corpus":
        """Builds a corpus from the steps (dx, dy) of all points, y down, in their own dtype.

        Args:
            offsets: `[N, 2]`, steps, line after line; the first of each line is zero.
            pen_up: `[N]`, 1 (or True) where the point ends a stroke, else 0.
            lengths: `[L]`, points of each line; their sum is N.
            ids: `[L]`, the name of each line.
            texts: `[L]`, what each line says.
            writers: `[L]`, who wrote each line, or None where nobody knows.
            unit: The unit of `offsets`.
            parts: `[L]`, "train", "valid" or "test" for each line, or None.
            times: `[N]`, seconds since the first point of the same line, or None.
            resolution: The spacing of the lattice on which the positions lie, in `unit`.

        Returns:
            The corpus, which shares the memory of `offsets`.

        Raises:
            ValueError: An array has the wrong size or kind, a line is empty or does not start
                with a zero step, a step is not finite, `pen_up` is neither 0 nor 1, a part has
                another name, times do not begin at 0 or fall within a line, or `resolution` is
                not positive and finite.
        """
        name = "Corpus.from_offsets"
        offsets = np.asarray(offsets)
        _require_shape(name, "offsets", offsets, (offsets.shape[0] if offsets.ndim else 0, 2))
        lengths = _checked_lengths(name, lengths, len(offsets))
        return cls._checked(
            name,
            offsets,
            pen_up,
            lengths,
            ids,
            texts,
            writers=writers,
            unit=unit,
            parts=parts,
            times=times,
            resolution=resolution,
        )

    @classmethod
    def _checked(
        cls,
        name: str,
        offsets: np.ndarray,
        pen_up: np.ndarray,
        lengths: np.ndarray,
        ids: np.ndarray | Sequence[str],
        texts: np.ndarray | Sequence[str],
        *,
        writers: np.ndarray | Sequence[str] | None,
        unit: str,
        parts: np.ndarray | Sequence[str] | None,
        times: np.ndarray | None,
        resolution: float,
    ) -> "Corpus":
        """What both constructors share; `lengths` has been checked."""
        is_float = np.issubdtype(offsets.dtype, np.floating)
        require(is_float, name, "offsets", offsets.dtype, "floating")
        finite = bool(np.isfinite(offsets).all())
        require(finite, name, "offsets", "NaN or infinity", f"finite in {offsets.dtype}")
        first_zero = not offsets[_starts(lengths)].any()
        require(first_zero, name, "offsets", "another first step", "zero where a line starts")
        pen_up = np.asarray(pen_up)
        _require_shape(name, "pen_up", pen_up, (len(offsets),))
        binary = pen_up.dtype.kind in "biuf" and bool(((pen_up == 0) | (pen_up == 1)).all())
        require(binary, name, "pen_up", f"other values ({pen_up.dtype})", "0 or 1 everywhere")
        positive = bool(np.isfinite(resolution) and resolution > 0)
        require(positive, name, "resolution", resolution, "positive and finite")
        strokes = Strokes(
            offsets=_read_only(offsets),
            pen_up=_read_only(pen_up.astype(offsets.dtype, copy=False)),
            mask=_read_only(np.ones(len(offsets), bool)),
        )
        return cls(
            strokes=strokes,
            lengths=_read_only(lengths),
            ids=_checked_strings(name, "ids", ids, len(lengths)),
            texts=_checked_strings(name, "texts", texts, len(lengths)),
            writers=(
                None
                if writers is None
                else _checked_strings(name, "writers", writers, len(lengths))
            ),
            unit=unit,
            parts=None if parts is None else _checked_parts(name, parts, len(lengths)),
            times=None if times is None else _checked_times(name, times, lengths, len(offsets)),
            resolution=float(resolution),
        )

    @functools.cached_property
    def starts(self) -> Integer[np.ndarray, " L"]:
        """`[L]`, where in the flat arrays each line begins."""
        return _starts(self.lengths)

    @functools.cached_property
    def forms(self) -> Shaped[np.ndarray, " L"]:
        """`[L]` str, the sheet each line stands on: its id up to the last "-", or all of it."""
        return np.array([line.rpartition("-")[0] or line for line in self.ids.tolist()], dtype=str)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: SupportsIndex) -> Strokes:
        """One line, as views of the flat arrays: offsets `[T, 2]`, pen_up `[T]`, mask `[T]`."""
        number = index.__index__()
        if not -len(self) <= number < len(self):
            raise IndexError(f"Corpus: index {number} is out of range for {len(self)} lines.")
        start = int(self.starts[number])
        points = slice(start, start + int(self.lengths[number]))
        strokes = self.strokes
        return Strokes(strokes.offsets[points], strokes.pen_up[points], strokes.mask[points])

    def positions(self, index: SupportsIndex) -> Float[np.ndarray, "T 2"]:
        """The positions of one line relative to its first point, summed in float64.

        Args:
            index: The number of the line.

        Returns:
            `[T, 2]`, in the unit of the corpus and the dtype of its offsets, y down; exact where
            the positions are integers.
        """
        offsets = np.asarray(self[index].offsets)
        return np.cumsum(offsets, axis=0, dtype=np.float64).astype(offsets.dtype)

    def subset(
        self, indices: Integer[np.ndarray, " n"] | Bool[np.ndarray, " L"] | Iterable[int]
    ) -> "Corpus":
        """The lines chosen, in the order chosen.

        Args:
            indices: Numbers of lines (a line may occur more than once), or a boolean array `[L]`.

        Returns:
            A corpus of copies.

        Raises:
            IndexError: There is no such line.
        """
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if not chosen.size:
            chosen = chosen.astype(np.int64)
        chosen = np.arange(len(self))[chosen]
        lengths = self.lengths[chosen]
        # Where each chosen line begins here, less where it will begin there, is the distance all
        # its points move.
        moves = np.repeat(self.starts[chosen] - _starts(lengths), lengths)
        points = np.arange(len(moves)) + moves
        return dataclasses.replace(
            self,
            strokes=Strokes(
                _read_only(np.asarray(self.strokes.offsets)[points]),
                _read_only(np.asarray(self.strokes.pen_up)[points]),
                _read_only(np.asarray(self.strokes.mask)[points]),
            ),
            lengths=_read_only(lengths),
            ids=_read_only(self.ids[chosen]),
            texts=_read_only(self.texts[chosen]),
            writers=None if self.writers is None else _read_only(self.writers[chosen]),
            parts=None if self.parts is None else _read_only(self.parts[chosen]),
            times=None if self.times is None else _read_only(self.times[points]),
        )


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through; the caller's own array stays as it was."""
    view = array.view()
    view.flags.writeable = False
    return view


def _require_shape(name: str, argument: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    require(array.shape == shape, name, argument, f"shape {array.shape}", f"of shape {shape}")


def _checked_lengths(name: str, lengths: np.ndarray | Sequence[int], points: int) -> np.ndarray:
    lengths = np.asarray(lengths if len(lengths) else np.zeros(0, np.int64))
    is_list = lengths.ndim == 1 and np.issubdtype(lengths.dtype, np.integer)
    require(is_list, name, "lengths", f"{lengths.dtype} {lengths.shape}", "integers of shape (L,)")
    # Bounded one by one before they are summed: the sum cannot overflow.
    positive = not len(lengths) or 1 <= int(lengths.min()) <= int(lengths.max()) <= points
    require(positive, name, "lengths", lengths, f"between 1 and {points} points each")
    total = int(lengths.sum(dtype=np.int64))
    require(total == points, name, "lengths", f"a sum of {total}", f"{points} points in all")
    return lengths.astype(np.int64)


def _checked_strings(
    name: str, argument: str, strings: np.ndarray | Sequence[str], count: int
) -> np.ndarray:
    array = np.asarray(strings) if len(strings) else np.zeros(0, str)
    is_text = array.dtype.kind == "U" and array.shape == (count,)
    require(is_text, name, argument, f"{array.dtype} {array.shape}", f"{count} strings")
    return _read_only(array)


def _checked_parts(name: str, parts: np.ndarray | Sequence[str], count: int) -> np.ndarray:
    array = _checked_strings(name, "parts", parts, count)
    other = sorted(set(array.tolist()) - set(_PARTS))
    require(not other, name, "parts", f"also {other[:5]}", f"each one of {', '.join(_PARTS)}")
    return array


def _checked_times(name: str, times: np.ndarray, lengths: np.ndarray, points: int) -> np.ndarray:
    times = np.asarray(times)
    _require_shape(name, "times", times, (points,))
    numbers = times.dtype.kind in "iuf" and bool(np.isfinite(times).all())
    require(numbers, name, "times", f"other values ({times.dtype})", "finite numbers")
    starts = _starts(lengths)
    require(not times[starts].any(), name, "times", "another first one", "zero where a line starts")
    falls = times[1:] < times[:-1]
    falls[starts[1:] - 1] = False
    at = int(np.argmax(falls)) + 1 if falls.any() else 0
    require(not at, name, "times", f"less at point {at} than before it", "rising within a line")
    with np.errstate(over="ignore"):
        rounded = times.astype(np.float32, copy=False)  # keeps the order
    require(bool(np.isfinite(rounded).all()), name, "times", "more", "finite in float32")
    return _read_only(rounded)
