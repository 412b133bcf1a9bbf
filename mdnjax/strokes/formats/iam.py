"""Reads IAM-OnDB, the IAM On-Line Handwriting Database, from the folders its archives unpack to.

    lineStrokes/a01/a01-001/a01-001w-03.xml     the pen on one line: strokes of points, y down
    ascii/a01/a01-001/a01-001w.txt              the words of a form, after "CSR:", a line a line
    original/a01/a01-001/strokesw.xml           optional: whole forms; their headers name writers
    forms.txt                                   optional: which writer filled in which form

A line is called form-number, and its words are that line of the form's transcription which has
its number, blank lines not counted. Positions are integers, counts of the whiteboard's sensor,
about a hundred a second; a point's `time` is in seconds, to a hundredth. Nothing is cleaned here:
what the sensor reported is what comes back.

References:
    M. Liwicki and H. Bunke, "IAM-OnDB: an on-line English sentence database acquired from
    handwritten text on a whiteboard", ICDAR 2005.
"""

import os
import pathlib
import re
from typing import NamedTuple, NoReturn

import numpy as np

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _shared, _xml
from mdnjax.strokes.formats.errors import StrokeFormatError

_STROKES = "lineStrokes"
_LINE_ID = re.compile(r"(.+)-([0-9]+)")
_FORM_ID = re.compile(r"[a-z][0-9]+-[0-9]+[a-z]?")
_WRITER_ID = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?").fullmatch

_SIZE_LIMIT = 1 << 28
_TIME_LIMIT = 2.0**33  # float64 keeps microseconds below; as seconds, some 270 years

_ROOT = "WhiteboardCaptureSession"
# The only element that may stand inside each of these; damage to one letter of a tag must not
# drop a point in silence.
_ONLY_CHILD: dict[str | None, str] = {
    None: _ROOT,
    "StrokeSet": "Stroke",
    "Stroke": "Point",
    "Point": "nothing",
}

_CHUNK = 1 << 14


def recognises(path: pathlib.Path) -> bool:
    """Whether `lineStrokes` is the folder, stands in it, or one level below."""
    return bool(_stroke_folders(path))


def read_iam(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    split: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Reads the lines of IAM-OnDB, in the order of their ids.

    Args:
        path: The folder that holds `lineStrokes` and `ascii`, or the one above it. The archives'
            own outer folders (`lineStrokes-all/lineStrokes`) may be there or not.
        strict: Raise at the first broken file. Otherwise lines that cannot be read are skipped,
            and one warning counts them and lists the first few broken files.
        split: A list of the forms to read, one id on each line, such as the official `task1`
            lists `trainset.txt`, `testset_v.txt`, `testset_t.txt` and `testset_f.txt`.

    Returns:
        The corpus in device units. A writer is "" where the files do not name one, and `writers`
        is None where they name none at all. There are `times` if every line has them.

    Raises:
        StrokeFormatError: A folder is missing or ambiguous, the split list is no such list, no
            line can be read at all, or, if `strict`, a file is broken.
        OSError: The split list cannot be opened.

    Warns:
        UserWarning: Files were broken, forms of the split list are not there, or only some lines
            have times, so that none are kept.
    """
    path = pathlib.Path(path)
    strokes = _only(path, _stroke_folders(path))
    home = strokes.parent.parent if strokes.parent.name == f"{_STROKES}-all" else strokes.parent
    ascii_folder = _unpacked(home, "ascii")
    if ascii_folder is None:
        raise StrokeFormatError(home, "ascii", "no such folder; it holds the transcriptions")
    broken = _shared.Broken("read_iam", strict)
    forms = _find_lines(strokes, broken)
    if split is not None:
        forms = _select(forms, pathlib.Path(split), broken)

    lines: list[_Line] = []
    for form in forms:
        try:
            words = _read_words(ascii_folder, form)
        except StrokeFormatError as error:
            broken.add(error, skipped=len(form.files))
            continue
        for number, file in form.files.items():
            try:
                with _shared.opening(file, strokes):
                    xy, pen_up, times = _read_strokes(file)
            except StrokeFormatError as error:
                broken.add(error, skipped=1)
            else:
                lines.append(_Line(form.name, file, words[number - 1], xy, pen_up, times))
    if not lines:
        raise broken.nothing(strokes)

    writer_of = _read_writers(home, forms, broken)
    writers = [writer_of.get(line.form, "") for line in lines]
    times = _gathered_times(lines, broken)
    broken.warn(path, len(lines))
    return Corpus.from_positions(
        np.concatenate([line.xy for line in lines]),
        np.concatenate([line.pen_up for line in lines]),
        [len(line.xy) for line in lines],
        [line.file.stem for line in lines],
        [line.text for line in lines],
        writers=writers if any(writers) else None,
        times=times,
    )


class _Form(NamedTuple):
    """One form: its name, its folder within each tree, and its stroke files by line number."""

    name: str
    folder: pathlib.Path
    files: dict[int, pathlib.Path]


class _Line(NamedTuple):
    form: str
    file: pathlib.Path
    text: str
    xy: np.ndarray
    pen_up: np.ndarray
    times: np.ndarray


def _stroke_folders(path: pathlib.Path) -> list[pathlib.Path]:
    """Every `lineStrokes` that `path` can mean, from the nearest place that has one."""
    if not path.is_dir():
        return []
    if path.name == _STROKES:
        return [path]
    if (here := _unpacked(path, _STROKES)) is not None:
        return [here]
    # Folders that cannot be looked into, such as a disk's lost+found, are none of the database's.
    children = sorted(child for child in path.iterdir() if _is_open_folder(child))
    below = [_unpacked(child, _STROKES) for child in children]
    return [folder for folder in below if folder is not None]


def _is_open_folder(path: pathlib.Path) -> bool:
    return path.is_dir() and os.access(path, os.X_OK)


def _unpacked(home: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder `name` in `home`, perhaps within the outer folder of its archive."""
    candidates = (home / name, home / f"{name}-all" / name)
    return next((folder for folder in candidates if folder.is_dir()), None)


def _only(path: pathlib.Path, folders: list[pathlib.Path]) -> pathlib.Path:
    if len(folders) == 1:
        return folders[0]
    if not path.exists():
        raise FileNotFoundError(f"read_iam: there is no {path}")
    got = f"{len(folders)} of them: {', '.join(map(str, folders))}" if folders else "none"
    raise StrokeFormatError(path, _STROKES, f"expected one such folder, found {got}")


def _find_lines(strokes: pathlib.Path, broken: _shared.Broken) -> list[_Form]:
    """The forms in the order of their names, and their stroke files in the order of theirs."""
    forms: dict[str, _Form] = {}
    for file in _stroke_files(strokes, broken):
        match = _LINE_ID.fullmatch(file.stem)
        if match is None:
            broken.add(StrokeFormatError(file, "name", "expected form-number.xml"), skipped=1)
            continue
        name, number, folder = match[1], int(match[2]), file.parent.relative_to(strokes)
        files = forms.setdefault(name, _Form(name, folder, {})).files
        if files.setdefault(number, file) != file:
            reason = f"line {number} of the form again, after {files[number]}"
            broken.add(StrokeFormatError(file, "name", reason), skipped=1)
    return list(forms.values())


def _stroke_files(strokes: pathlib.Path, broken: _shared.Broken) -> list[pathlib.Path]:
    """All `*/*/*.xml`, sorted; a folder that may not be looked into is broken.

    What is hidden is not the database's: some file managers leave it behind.
    """

    def refuse(error: OSError) -> None:
        broken.add(_shared.closed(pathlib.Path(error.filename), "folder", error), skipped=0)

    found: list[pathlib.Path] = []
    for place, folders, names in os.walk(strokes, onerror=refuse, followlinks=True):
        folder = pathlib.Path(place)
        if len(folder.relative_to(strokes).parts) == 2:
            files = (name for name in [*folders, *names] if name.endswith(".xml"))
            found += [folder / name for name in files if not name.startswith(".")]
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def _select(forms: list[_Form], split: pathlib.Path, broken: _shared.Broken) -> list[_Form]:
    """The forms that the split list names."""
    wanted: set[str] = set()
    text = _shared.decoded(split, split.read_bytes())
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if _FORM_ID.fullmatch(line.strip()) is None:
            reason = f"got {line.strip()[:40]!r}, expected the id of a form, such as 'a01-001w'"
            raise StrokeFormatError(split, f"line {number}", reason)
        wanted.add(line.strip())
    chosen = [form for form in forms if form.name in wanted]
    absent = sorted(wanted - {form.name for form in chosen})
    if absent:
        listed = _shared.listed(absent)
        reason = f"{len(absent)} of {len(wanted)} forms are not in the database here: {listed}"
        broken.add(StrokeFormatError(split, "forms", reason), skipped=0)
    return chosen


def _read_words(folder: pathlib.Path, form: _Form) -> list[str]:
    """The transcription's lines: what stands after "CSR:", without the blank ones."""
    path = folder / form.folder / f"{form.name}.txt"
    with _shared.opening(path, folder):
        text = _shared.read_text(path, _SIZE_LIMIT)
    heading = re.search(r"^[ \t]*CSR:", text, re.MULTILINE)
    if heading is None:
        raise StrokeFormatError(path, "CSR:", "no such heading")
    # Some files have this row of signs where a line ends.
    body = text[heading.end() :].replace("%%%%%%%%%%%", "\n")
    words = [line.strip() for line in body.split("\n") if line.strip()]
    # With fewer texts than lines nothing says which line lacks one: none can be trusted.
    if len(words) < max(form.files):
        reason = f"{len(words)} lines of text, but the strokes of line {max(form.files)}"
        raise StrokeFormatError(path, "CSR:", reason)
    if min(form.files) < 1:
        raise StrokeFormatError(form.files[min(form.files)], "name", "lines are counted from 1")
    return words


def _read_strokes(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One line's positions `[T, 2]`, pen-up flags `[T]`, and times `[T]`, NaN where there is none.

    A stroke without points leaves no trace.
    """
    line = _LineParser(path)
    line.parse(_shared.content(path, _SIZE_LIMIT))
    xy = np.array(line.coordinates).reshape(-1, 2)
    return xy, _shared.pen_up([size for size in line.sizes if size]), np.array(line.times)


class _LineParser:
    """The points of one line's file, as expat reports its elements.

    Every element between the root and a point is checked for what it stands in, and no other text
    is let pass between them.
    """

    def __init__(self, path: pathlib.Path):
        self.coordinates: list[float] = []
        self.times: list[float] = []
        self.sizes: list[int] = []  # of the strokes, in points
        self._inside: list[str | None] = [None]
        self._xml = _xml.Parser(path, self._start, self._end, self._text)

    def parse(self, content: bytes) -> None:
        """The whole document."""
        self._xml.feed(content)
        if not self.coordinates:
            self._xml.fail("no points: expected at least one Stroke")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._inside[-1]
        if name != _ONLY_CHILD.get(parent, name):
            self._fail(f"<{name}> in {parent or 'the file'}, expected {_ONLY_CHILD[parent]}")
        self._inside.append(name)
        if name == "Stroke":
            self.sizes.append(0)
        elif parent == "Stroke":
            self.coordinates.append(self._number(attributes, "x", _shared.COORDINATE_LIMIT))
            self.coordinates.append(self._number(attributes, "y", _shared.COORDINATE_LIMIT))
            timed = "time" in attributes
            self.times.append(self._number(attributes, "time", _TIME_LIMIT) if timed else np.nan)
            self.sizes[-1] += 1

    def _end(self, _name: str) -> None:
        self._inside.pop()

    def _text(self, data: str) -> None:
        within = self._inside[-1]
        if not data.isspace() and within in _ONLY_CHILD:
            self._fail(f"text in {within}: {data.strip()[:40]!r}, expected {_ONLY_CHILD[within]}")

    def _number(self, attributes: dict[str, str], name: str, limit: float) -> float:
        text = attributes.get(name)
        if text is None:
            self._fail(f"the point has no {name}; it has {', '.join(attributes) or 'nothing'}")
        if _NUMBER(text) is None:
            self._fail(f"{name} is {text[:40]!r}, expected a decimal number")
        value = float(text)
        if not -limit < value < limit:
            self._fail(f"{name} is {text[:40]}, expected less than {limit:.0f} in size")
        return value

    def _fail(self, reason: str) -> NoReturn:
        """Names the stroke and the point, once there are any."""
        sizes = self.sizes
        stroke = f" (stroke {len(sizes)}, point {sizes[-1] + 1})" if sizes else ""
        raise StrokeFormatError(self._xml.path, self._xml.place + stroke, reason)


def _gathered_times(lines: list[_Line], broken: _shared.Broken) -> np.ndarray | None:
    """Seconds since each line's first point, or None where one line does not have them."""
    if all(np.isnan(line.times).all() for line in lines):
        return None
    without = [
        line for line in lines if np.isnan(line.times).any() or (np.diff(line.times) < 0).any()
    ]
    if without:
        reason = f"missing or falling in {len(without)} of {len(lines)} lines: no times are kept"
        broken.add(StrokeFormatError(without[0].file, "time", reason), skipped=0)
        return None
    return np.concatenate([line.times - line.times[0] for line in lines])


def _read_writers(home: pathlib.Path, forms: list[_Form], broken: _shared.Broken) -> dict[str, str]:
    """Who wrote each form: from `forms.txt` if there is one, else from the whole forms' headers."""
    for listing in (home / "forms.txt", home / "data" / "forms.txt"):
        try:
            with _shared.opening(listing, home):
                if listing.is_file():
                    return _read_forms_txt(listing)
        except StrokeFormatError as error:
            broken.add(error, skipped=0)
    writers: dict[str, str] = {}
    for archive in ("", "original-xml-all", "original-xml-part"):
        for form in forms:
            letter = form.name.removeprefix(form.folder.name)
            file = home / archive / "original" / form.folder / f"strokes{letter}.xml"
            if form.name in writers:
                continue
            try:
                with _shared.opening(file, home):
                    writer = _read_header(file) if file.is_file() else None
            except StrokeFormatError as error:
                broken.add(error, skipped=0)
            else:
                if writer:
                    writers[form.name] = writer
    return writers


def _read_forms_txt(path: pathlib.Path) -> dict[str, str]:
    """On every line that names a form, the number beside it is its writer."""
    writers = {}
    for line in _shared.read_text(path, _SIZE_LIMIT).split("\n"):
        words = re.split(r"[\s,;:]+", line.strip())
        form = next(filter(_FORM_ID.fullmatch, words), None)
        writer = next(filter(_WRITER_ID.fullmatch, words), None)
        if form is not None and writer is not None:
            writers[form] = writer
    if not writers:
        raise StrokeFormatError(path, "file", "no line names a form and its writer")
    return writers


def _read_header(path: pathlib.Path) -> str | None:
    """The `writerID` that stands before the strokes of a whole form, if one does."""
    elements: list[str] = []
    writers: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        elements.append(name)
        if "writerID" in attributes and "StrokeSet" not in elements:
            writers.append(attributes["writerID"].strip())

    parser = _xml.Parser(path, start)
    with path.open("rb") as file:
        # The header is a few lines; the strokes after it are many.
        while not writers and "StrokeSet" not in elements:
            chunk = file.read(_CHUNK)
            parser.feed(chunk, last=not chunk)
            if not chunk:
                break
    return writers[0] if writers else None
