"""What the rows of the loss's benchmarks have to show, and whether they do."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import mdn_limits
from mdn_race import BEST, COLUMNS, OURS, PLAIN, ROWS

Rows = Iterable[dict[str, Any]]

PLAIN_GATES = {
    ("isotropic", 65536, 20, 2): 4.0,
    ("isotropic", 262144, 5, 1): 3.5,
    ("isotropic", 8192, 5, 48): 3.0,
    ("full", 65536, 20, 2): 3.0,
}


class Gate(NamedTuple):
    """A number that has to be reached, or that we aim for.

    Attributes:
        what: In words.
        value: What was measured.
        bound: What it is held against.
        most: Whether the bound is from above.
        aim: Whether it is an aim, not a condition.
    """

    what: str
    value: float
    bound: float
    most: bool = False
    aim: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is reached."""
        return self.value <= self.bound if self.most else self.value >= self.bound

    def __str__(self) -> str:
        sign = "at most" if self.most else "at least"
        kind = "aim " if self.aim else "gate"
        word = "holds " if self.holds else "MISSED"
        return f"{kind} {word} {self.what}: {self.value:.2f}, {sign} {self.bound:g}"


def gates(rows: Rows) -> list[Gate]:
    """Those of issue and docs that the measured rows decide."""
    rows, judges = list(rows), (_of_alone, _of_step, _of_hessian, _of_wide)
    return [gate for judge in judges for row in rows for gate in judge(row)]


def _where(row: dict[str, Any]) -> str:
    return f"{row['covariance']} ({row['batch']}, {row['components']}, {row['dim']})"


def _of_alone(row: dict[str, Any]) -> Iterator[Gate]:
    if row["section"] != "alone" or row["reference"] != OURS:
        return
    ratio, size = row["ratio"]["gradient"], (row["batch"], row["components"], row["dim"])
    to_columns = row["ratio"]["gradient, to columns"]
    bound = PLAIN_GATES.get((row["covariance"], *size))
    if bound is not None:
        yield Gate(f"{_where(row)}: {PLAIN} / ours", ratio[PLAIN], bound)
        yield Gate(f"{_where(row)}: {PLAIN} / ours on columns", to_columns[PLAIN], bound)
    if ROWS in ratio:  # the best of all is on columns: each beside ours in its layout
        yield Gate(f"{_where(row)}: {BEST} / ours, on columns", to_columns[BEST], 0.95)
    on_rows = ratio.get(ROWS, ratio.get(BEST))
    if on_rows is not None:
        yield Gate(f"{_where(row)}: {BEST} / ours, on rows", on_rows, 0.95)
    if size != (65536, 20, 2):
        return
    for peer in ("numpyro", "torch"):
        if peer in ratio:
            yield Gate(f"{_where(row)}: {peer} / ours", ratio[peer], 6.0)
            yield Gate(f"{_where(row)}: {peer} / ours on columns", to_columns[peer], 6.0)
            yield Gate(f"{_where(row)}: {peer} / ours", ratio[peer], 8.0, aim=True)
    if row["covariance"] == "isotropic":
        floor = floor_ratio(row)
        yield Gate(f"{_where(row)}: ours / exponentials", 1 / floor, 2.0, most=True, aim=True)


def floor_ratio(row: dict[str, Any]) -> float:
    """The time of the exponentials, the faster way, over the reference's."""
    ratio = row["ratio"]["gradient"]
    return min(ratio[mdn_limits.SUMMED], ratio[mdn_limits.WRITTEN])


def _of_step(row: dict[str, Any]) -> Iterator[Gate]:
    ratio = row["ratio"]
    if row["section"] == "step" and PLAIN in ratio:
        what = f"step, {_where(row)}: {PLAIN} / ours"
        yield Gate(what, ratio[PLAIN], 1.0)
        yield Gate(what, ratio[PLAIN], 1.25, aim=True)
        yield Gate(f"{what}, on columns", ratio[PLAIN] / ratio[COLUMNS], 1.25, aim=True)


def _of_hessian(row: dict[str, Any]) -> Iterator[Gate]:
    if row["section"] == "hessian" and PLAIN in row["ratio"]:
        yield Gate(f"Hessian, {_where(row)}: equal", float(row["equal"]), 1.0)


def _of_wide(row: dict[str, Any]) -> Iterator[Gate]:
    """Of the widest head only: the others show where blocks begin to pay."""
    if row["section"] != "widest" or row["contestant"] != "default":
        return
    where = f"wide, ({row['rows']}, {row['hidden']}, {row['components']}, {row['dim']})"
    times = sorted(row["ratio"])
    yield Gate(f"{where}: time / plain", times[len(times) // 2], 1.2, most=True)
    if row["temporary_bytes"] is not None and row["plain_temporary_bytes"]:
        share = row["temporary_bytes"] / row["plain_temporary_bytes"]
        yield Gate(f"{where}: temporary memory / plain", share, 0.1, most=True)
