import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdnjax.strokes import Animation, Corpus, write_svg
from mdnjax.strokes.curves import bezier, set_page, thin
from mdnjax.strokes.formats import StrokeFormatError, read, read_svg, recognise

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="5 5 10 10" width="3cm">{}</svg>'


def put(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.fixture
def strokes(tmp_path):
    """Reads the strokes of one SVG, made of the given elements, from the first point on."""

    def strokes(elements, **options):
        corpus = read_svg(put(tmp_path / "a.svg", SVG.format(elements)), **options)
        assert len(corpus) == 1
        points = np.cumsum(np.asarray(corpus.strokes.offsets, np.float64), axis=0)
        return np.split(points, np.flatnonzero(corpus.strokes.pen_up)[:-1] + 1)

    return strokes


def lists(strokes):
    return [np.round(stroke, 4).tolist() for stroke in strokes]


def distance(points, polyline):
    """The greatest distance of points from a polyline."""
    begin, step = polyline[:-1], np.diff(polyline, axis=0)
    begin, step = begin[step.any(axis=1)], step[step.any(axis=1)]
    along = ((points[:, None] - begin) * step).sum(-1) / (step**2).sum(-1)
    nearest = begin + along.clip(0, 1)[..., None] * step
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1).max()


# Lines


SHAPES = [
    ('<polyline points="1,2 3,4.5 5,6"/>', [[[0, 0], [2, 2.5], [4, 4]]]),
    ('<polyline points="1 2-3+4.5.5,6e0\n"/>', [[[0, 0], [-4, 2.5], [-0.5, 4]]]),
    ('<polygon points="0 0 3 0 3 4"/>', [[[0, 0], [3, 0], [3, 4], [0, 0]]]),
    ('<line x1="1" y1="2px" x2="4" y2="-5"/>', [[[0, 0], [3, -7]]]),
    ('<line x2="4"/><line y2="4"/>', [[[0, 0], [4, 0]], [[0, 0], [0, 4]]]),
    ('<path d="M1 1L2 3 4,5l1 0"/>', [[[0, 0], [1, 2], [3, 4], [4, 4]]]),
    ('<path d="m1 1 1 2 3 0M0 0h0"/>', [[[0, 0], [1, 2], [4, 2]], [[-1, -1]]]),
    ('<path d="M1 1H3V5h-2v-1 1"/>', [[[0, 0], [2, 0], [2, 4], [0, 4], [0, 3], [0, 4]]]),
    ('<path d="M1 1h2v2zh-1"/>', [[[0, 0], [2, 0], [2, 2], [0, 0]], [[0, 0], [-1, 0]]]),
    ('<path d="M1 1h2v2zzm1 1h1"/>', [[[0, 0], [2, 0], [2, 2], [0, 0]], [[1, 1], [2, 1]]]),
    ('<path d="M1 1h0 0v1v0h1"/>', [[[0, 0], [0, 1], [1, 1]]]),
    ('<path d="M0 0h2M9 9M5 5m1 1h1"/>', [[[0, 0], [2, 0]], [[6, 6], [7, 6]]]),
    ('<path d=""/><path d="M5 5"/><polyline points=""/><line x2="1"/>', [[[0, 0], [1, 0]]]),
    ('<path d="M1e1-.5L.5.25"/>', [[[0, 0], [-9.5, 0.75]]]),
    ('<polyline points="1 2"/>', [[[0, 0]]]),
]


@pytest.mark.parametrize(("elements", "expected"), SHAPES)
def test_straight_strokes(strokes, elements, expected):
    assert lists(strokes(elements, strict=True)) == expected


TURNS = [
    ("translate(7)", [2, 0]),
    ("translate(3,-4)", [2, 0]),
    ("scale(3)", [6, 0]),
    ("scale(3 4)", [6, 0]),
    ("rotate(90)", [0, 2]),
    ("rotate(90 5 6)", [0, 2]),
    ("skewX(45)", [2, 0]),
    ("skewY(45)", [2, 2]),
    ("matrix(1 2 3 4 5 6)", [2, 4]),
    ("scale(2), rotate(90)\n translate(9 9)", [0, 4]),
    ("rotate(90) scale(2 1)", [0, 4]),
    ("", [2, 0]),
]


@pytest.mark.parametrize(("transform", "step"), TURNS)
@pytest.mark.parametrize("where", ["<g {}><a><path {}/></a></g>", "<g><path {1} {0}/></g>"])
def test_transforms(strokes, transform, step, where):
    path = where.format(f'transform="{transform}"', 'd="M1 1h2"')
    assert lists(strokes(path, strict=True)) == [[[0, 0], step]]


def test_transforms_nest_and_place_strokes(strokes):
    elements = '<line x2="1"/><g transform="translate(10 20)"><g transform="scale(2)">'
    elements += '<line x1="1" y1="1" x2="2" y2="1" transform="rotate(90 1 1)"/></g></g>'
    assert lists(strokes(elements, strict=True)) == [[[0, 0], [1, 0]], [[12, 22], [12, 24]]]


def test_what_is_not_drawn_is_skipped(strokes):
    elements = """<title>A <b>title</b></title><style>path { fill: none }</style>
        <rect width="100%" height="100%" fill="white"/><g stroke="none"><ellipse r="1"/></g>
        <g stroke="red"><circle r="2" style="stroke:none"/><rect stroke="none"/></g>
        <metadata><x xmlns="other"/></metadata>
        <defs><path d="M0 0h9"/><g><path d="nonsense"/></g></defs>
        <clipPath id="c"><path d="M0 0h9"/></clipPath><mask><line x2="9"/></mask>
        <symbol><line x2="9"/></symbol><marker><line x2="9"/></marker>
        <g display="none"><line x2="9"/></g><g style="fill:red; display: none"><line x2="9"/></g>
        <line x2="9" display="none"/><layers xmlns="other"><line x2="9"/></layers>
        <path d="M1 2h3"><title>this one</title><animate/></path><!-- <line x2="9"/> -->"""
    assert lists(strokes(elements, strict=True)) == [[[0, 0], [3, 0]]]


def test_ink_that_is_not_read_is_told(tmp_path):
    elements = '<line x2="3"/><circle r="1"/><text>hm</text><g stroke="red"><rect width="1"/></g>'
    file = put(tmp_path / "a.svg", SVG.format(elements + "<circle/>"))
    with pytest.warns(UserWarning, match=r"file: not read: 2 <circle>, 1 <rect>, 1 <text>"):
        assert len(read(file)) == 1
    with pytest.raises(StrokeFormatError, match="not read: 2 <circle>"):
        read(file, strict=True)
    put(file, SVG.format("<use/><svg/>"))
    with pytest.raises(StrokeFormatError, match=r"no strokes; what .* not read: 1 <svg>, 1 <use>"):
        read(file)


# Curves


def cubic(a, b, c, d):
    t = np.linspace(0, 1, 2001)[:, None]
    a, b, c, d = np.array([a, b, c, d], float)
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def quadratic(a, b, c):
    t = np.linspace(0, 1, 2001)[:, None]
    a, b, c = np.array([a, b, c], float)
    return (1 - t) ** 2 * a + 2 * (1 - t) * t * b + t**2 * c


def ellipse(center, rx, ry, degrees, begin, end):
    angle = np.linspace(np.radians(begin), np.radians(end), 2001)
    turn = np.radians(degrees)
    x, y = rx * np.cos(angle), ry * np.sin(angle)
    points = [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)]
    return np.stack(points, axis=1) + center


SMOOTH = np.concatenate(
    [cubic([0, 0], [0, 9], [5, 9], [9, 0]), cubic([9, 0], [13, -9], [20, -5], [20, 0])]
)
WAVE = np.concatenate(
    [
        quadratic([0, 0], [5, 9], [9, 0]),
        quadratic([9, 0], [13, -9], [20, 0]),
        quadratic([20, 0], [27, 9], [30, 3]),
    ]
)
CURVES = [
    ("M0 0C0 9 5 9 9 0", SMOOTH[:2001]),
    ("M0 0C0 9 5 9 9 0S20-5 20 0", SMOOTH),
    ("M0 0c0 9 5 9 9 0 4-9 11-5 11 0", SMOOTH),
    ("m0 0c0 9 5 9 9 0s11-5 11 0", SMOOTH),
    ("M0 0S5 9 9 0", cubic([0, 0], [0, 0], [5, 9], [9, 0])),
    ("M0 0Q5 9 9 0", WAVE[:2001]),
    ("M0 0Q5 9 9 0T20 0 30 3", WAVE),
    ("M0 0q5 9 9 0t11 0 10 3", WAVE),
    ("M0 0T9 0", np.array([[0, 0], [9, 0.0]])),
    ("M0 0A5 5 0 0 1 5 5", ellipse([0, 5], 5, 5, 0, -90, 0)),
    ("M0 0a5 5 0 015 5", ellipse([0, 5], 5, 5, 0, -90, 0)),
    ("M0 0A5 5 0 0 0 5 5", ellipse([5, 0], 5, 5, 0, 180, 90)),
    ("M0 0A5 5 0 1 0 5 5", ellipse([0, 5], 5, 5, 0, -90, -360)),
    ("M0 0A5 5 0 1 1 5 5", ellipse([5, 0], 5, 5, 0, 180, 450)),
    ("M0 0A1 2 0 0 1 10 0", ellipse([5, 0], 5, 10, 0, 180, 360)),  # too small: it grows
    ("M0 0A7 0 0 0 1 10 0", np.array([[0, 0], [10, 0.0]])),
    ("M0 0A7 3 30 0 1 0 0h1", np.array([[0, 0], [1, 0.0]])),
]


@pytest.mark.parametrize(("data", "curve"), CURVES, ids=[data for data, _ in CURVES])
@pytest.mark.parametrize("tolerance", [0.1, 0.001])
def test_curves_are_followed_to_the_tolerance(strokes, data, curve, tolerance):
    (stroke,) = strokes(f'<path d="{data}"/>', tolerance=tolerance)
    np.testing.assert_allclose(stroke[-1], curve[-1], atol=1e-5)
    assert distance(curve, stroke) <= tolerance
    # Every point is on the curve, to rounding and to the spacing of what we compare with.
    assert distance(stroke, curve) <= 2e-5
    # And not many more points than needed: the number grows with the root of the precision.
    assert len(stroke) <= 10 + 4 * np.sqrt(1 / tolerance) * max(1, len(curve) // 2001)


def test_a_turned_ellipse(strokes):
    angle = np.radians([20, 110])
    ends = ellipse([3, 4], 7, 2, 30, 20, 110)
    (ax, ay), (bx, by) = ends[0].tolist(), ends[-1].tolist()
    (stroke,) = strokes(f'<path d="M{ax} {ay}A7 2 30 0 1 {bx} {by}"/>', tolerance=1e-3)
    assert distance(ends - ends[0], stroke) <= 1.01e-3
    assert len(angle) == 2


def test_the_default_tolerance_follows_the_size_of_the_picture(strokes):
    def path(scale):
        return f'<path transform="scale({scale})" d="M0 0C0 9 5 9 9 0"/>'

    small, large = strokes(path(0.01))[0], strokes(path(1000))[0]
    assert len(small) == len(large) > 20
    np.testing.assert_allclose(large, small * 1e5, rtol=1e-4, atol=1)
    box = np.ptp(SMOOTH[:2001, 0])
    assert distance(SMOOTH[:2001], large / 1000) <= box / 4000


def test_an_svg_that_draws_itself_is_read_as_it_stands(tmp_path):
    lines = list(handwriting(3, 2))
    write_svg(tmp_path / "still.svg", lines)
    write_svg(tmp_path / "moving.svg", lines, animation=Animation())
    still, moving = (read(tmp_path / f"{name}.svg", strict=True) for name in ("still", "moving"))
    np.testing.assert_array_equal(still.strokes.offsets, moving.strokes.offsets)
    np.testing.assert_array_equal(still.strokes.pen_up, moving.strokes.pen_up)


def test_curves_of_too_many_points_are_refused(strokes):
    with pytest.raises(StrokeFormatError, match="curves of more than 2000000 points at toler"):
        strokes('<path d="M0 0C0 999999 5 9 9 0"/>', tolerance=1e-9)
    for tolerance in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="read_svg: tolerance must be positive and finite"):
            strokes("", tolerance=tolerance)


# Lines of a corpus, ids and resolution


LINE = '<line x2="{}"/>'
PAGES = [
    (LINE.format(1), [1]),
    (LINE.format(1) + LINE.format(2), [2]),
    (f"<g>{LINE.format(1)}</g>", [1]),
    (f"<g>{LINE.format(1)}</g><g>{LINE.format(1) * 2}</g>", [1, 2]),
    (f"<g><g>{LINE.format(1)}</g><g/><g>{LINE.format(1)}</g></g><defs/>", [1, 1]),
    (f"<g>{LINE.format(1)}</g><g>{LINE.format(1)}</g>{LINE.format(1)}", [3]),
    (f"<g><g><g>{LINE.format(1)}</g>{LINE.format(1)}</g></g>", [2]),
    (
        f"<g><g>{LINE.format(1)}</g></g><g><g>{LINE.format(1)}</g><g>{LINE.format(1)}</g></g>",
        [1, 2],
    ),
]


@pytest.mark.parametrize(("elements", "counts"), PAGES)
def test_what_is_a_line(tmp_path, elements, counts):
    file = put(tmp_path / "my-page.svg", SVG.format(elements))
    assert recognise(file) == "svg"
    corpus = read(file, strict=True)
    assert [int(line.pen_up.sum()) for line in corpus] == counts
    if len(counts) == 1:
        assert corpus.ids.tolist() == corpus.forms.tolist() == ["my_page"]
    else:
        assert corpus.ids.tolist() == [f"my_page-{i + 1:02}" for i in range(len(counts))]
        assert set(corpus.forms.tolist()) == {"my_page"}
    assert corpus.unit == "user unit"
    assert set(corpus.texts.tolist()) == {""}
    assert len(read_svg(file, groups=False)) == 1


@pytest.mark.parametrize(
    ("elements", "resolution"),
    [
        ('<line x2="3"/>', 1),
        ('<line x2="3.5"/><line x2="3.25"/>', 0.01),
        ('<polyline points="1 2e-3 3 4"/>', 0.001),
        ('<path d="M1 2l1.5e1 1"/>', 1),
        ('<path d="M1 2a1 1 0 0 1 .125 1"/>', 0.001),
        ('<path d="M1.00000000001 2h1"/>', 1e-6),
        ('<g transform="scale(.1 -.1)"><line x2="3.5"/></g><line x2="3"/>', 0.01),
        ('<g transform="rotate(30) scale(20)"><line x2="3.5"/></g>', 1),
    ],
)
def test_the_resolution_is_that_of_the_last_decimal(tmp_path, elements, resolution):
    corpus = read_svg(put(tmp_path / "a", SVG.format(elements)))
    assert corpus.resolution == pytest.approx(resolution, rel=1e-6)


def test_a_folder(tmp_path):
    put(tmp_path / "b.svg", SVG.format(LINE.format(2)))
    put(tmp_path / "a.svg", SVG.format(LINE.format(1.5)))
    put(tmp_path / "notes.txt", "these are drawings")
    corpus = read(tmp_path, strict=True)
    assert corpus.ids.tolist() == ["a", "b"]
    assert corpus.resolution == 0.1

    put(tmp_path / "c.svg", SVG.format(LINE.format(2))[:-9])
    put(tmp_path / "d.svg", SVG.format(""))
    put(tmp_path / "e.svg", "nothing")
    with pytest.warns(UserWarning, match=r"pictures skipped: 2, read: 2\)") as caught:
        assert read(tmp_path).ids.tolist() == ["a", "b"]
    message = str(caught[0].message)
    assert re.search(r"c\.svg: line 1, column .*: not well-formed", message)
    assert re.search(r"d\.svg: file: no strokes", message)
    assert re.search(r"e\.svg: file: not of the format", message)
    with pytest.raises(StrokeFormatError, match=r"e\.svg"):
        read(tmp_path, strict=True)


def test_namespaces_and_encodings(tmp_path):
    plain = SVG.format('<polyline points="1 2 3 4"/>').replace(' xmlns="http://www.w3.org', ' q="')
    prefixed = '<?xml version="1.0" encoding="UTF-16"?><s:svg xmlns:s="http://www.w3.org/2000/svg">'
    prefixed += '<s:polyline points="1 2 3 4"/><polyline/></s:svg>'
    doctype = (
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">' + plain
    )
    contents = [plain, prefixed.encode("utf-16"), doctype, b"\xef\xbb\xbf  \n" + plain.encode()]
    for content in contents:
        corpus = read(put(tmp_path / "a", content), strict=True)
        np.testing.assert_array_equal(corpus.strokes.offsets, [[0, 0], [2, 2]])


# Broken and hostile


BROKEN = [
    ('<path d="L1 2"/>', "the path data does not begin with M"),
    ('<path d="1 2"/>', "path data begins with '1 2', expected M"),
    ('<path d="M1"/>', "'M1' at character 1 of the path data: 1 numbers, expected a multiple of 2"),
    ('<path d="M1 2L3"/>', "'L3' at character 5 .*: 1 numbers, expected a multiple of 2"),
    ('<path d="M1 2C1 2 3 4 5"/>', "5 numbers, expected a multiple of 6"),
    ('<path d="M1 2L"/>', "0 numbers, expected a multiple of 2"),
    ('<path d="M1 2Z3"/>', "numbers after it"),
    ('<path d="M1 2X3"/>', "'X' among numbers"),
    ('<path d="M1,,2"/>', "',,' among numbers"),
    ('<path d="M1,2,"/>', "',' among numbers"),
    ('<path d="M1 2A1 1 0 2 0 3 4"/>', "'2 0 3 4' among numbers"),
    ('<path d="M1 2A1 1 0 0 1 3 4,"/>', "'' among numbers"),
    ('<path d="M1 2h1e400"/>', "a number is not below 8388608 in size"),
    ('<path d="M1 2hNaN"/>', "'N' among numbers|'NaN' among numbers"),
    ("<path/>", "<path>: no d"),
    ("<polyline/>", "<polyline>: no points"),
    ('<polyline points="1 2 3"/>', "3 numbers in its points, expected pairs"),
    ('<polyline points="1 2 3 x"/>', "'x' among numbers"),
    ('<line x1="5%"/>', "'%' among numbers"),
    ('<line x1=""/>', "expected a number each"),
    ('<line x1="1 2" x2=""/>', "ends at '1 2, 0, , 0', expected a number each"),
    ('<g transform="shake(3)"><line x2="1"/></g>', r"'shake\(3\)' in its transform"),
    ('<g transform="scale(1 2 3)"><line x2="1"/></g>', "3 numbers in its transform's scale"),
    ('<g transform="rotate(1 2)"><line x2="1"/></g>', "2 numbers in its transform's rotate"),
    ('<g style="transform: scale(2)"><line x2="1"/></g>', "a transform in a style"),
    ('<g transform="scale(1e6)"><line x2="9"/></g>', "coordinates are not all below 8388608"),
    ('<g transform="scale(1e6)">' * 60 + '<line x2="9"/>' + "</g>" * 60, "not all below 8388608"),
    ("<pblyline points='1 2'/>", "<pblyline>: no element of SVG"),
    ('path d="M0 0h1"/>', "text between elements: 'path d="),
    ("<g>", "not well-formed XML .mismatched tag"),
    ("", "no strokes"),
    ('<path d="M5 5"/>', "no strokes"),
    ("<g>" * 300 + '<line x2="9"/>' + "</g>" * 300, "groups nested more than 256 deep"),
    ("&nbsp;", "not well-formed XML .undefined entity"),
]


@pytest.mark.parametrize(("elements", "words"), BROKEN)
def test_what_is_broken_is_named(tmp_path, elements, words):
    file = put(tmp_path / "a.svg", SVG.format(elements))
    with pytest.raises(StrokeFormatError, match=re.escape(str(file)) + f": .*(?:{words})"):
        read_svg(file)


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(10))
HOSTILE = [
    f"<!DOCTYPE svg [{LAUGHS}]><svg><path d='&l9;'/></svg>",
    '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><path d="M0 0h1"/>&x;</svg>',
    '<!DOCTYPE svg [<!ENTITY % x SYSTEM "http://localhost/x"> %x;]><svg><line x2="1"/></svg>',
    '<!DOCTYPE svg [<!ATTLIST path d CDATA "M0 0h1">]><svg><path/></svg>',
]


@pytest.mark.parametrize("content", HOSTILE)
def test_declarations_are_refused(tmp_path, content):
    file = put(tmp_path / "a.svg", content)
    with pytest.raises(StrokeFormatError, match="declarations of its own, such as of entities: re"):
        read(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_outer_declaration_is_fetched_and_no_entity_dropped(tmp_path, encoding):
    content = '<!DOCTYPE svg SYSTEM "x.dtd"><svg><polyline points="1 2 &x; 3 4"/></svg>'
    put(tmp_path / "x.dtd", '<!ENTITY x "9 9">')
    file = put(tmp_path / "a.svg", content.encode(encoding))
    with pytest.raises(StrokeFormatError, match=r"the entity b'&x;', which is not declared here"):
        read(file)


def test_other_files(tmp_path):
    for content, words in [
        ("<html><svg></svg></html>", "line 1, column 1: <html>, expected <svg>"),
        ('<svg xmlns="other"/>', "<svg>, expected <svg>|line 1, column 1"),
        ("<svg", "line 1, column 1: not well-formed XML"),
        ("", "not well-formed XML .no element found"),
        (b"\x1f\x8b\x08", "not well-formed XML"),
        ('<?xml version="1.0" encoding="no-such"?><svg/>', "not well-formed XML .*no-such"),
        ('<svg display="none"><line x2="1"/></svg>', "no strokes"),
    ]:
        with pytest.raises(StrokeFormatError, match=words):
            read_svg(put(tmp_path / "a", content))
    with pytest.raises(FileNotFoundError):
        read_svg(tmp_path / "absent")
    with pytest.raises(StrokeFormatError, match="no picture could be read"):
        read_svg(tmp_path.joinpath("a").unlink() or tmp_path)


# There and back


steps = st.tuples(*[st.integers(-300, 300)] * 2)
ink = st.lists(
    st.lists(st.lists(steps, min_size=1, max_size=9), min_size=1, max_size=3), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ink, min_size=1, max_size=3), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, lines, relative):
    """Polylines and paths of straight lines come back exactly, each line a group."""
    body, expected = "", []
    for line in lines:
        strokes = [np.cumsum(np.array(s), axis=0) / 4 for words in line for s in words]
        body += "<g>"
        for i, stroke in enumerate(strokes):
            if i % 2:
                body += f'<polyline points="{" ".join(f"{x},{y}" for x, y in stroke)}"/>'
            elif relative:
                moves = np.diff(stroke, axis=0, prepend=0).tolist()
                rest = "".join(f"l{x} {y}" for x, y in moves[1:]) or "h0"
                body += f'<path d="M{moves[0][0]} {moves[0][1]}{rest}"/>'
            else:
                rest = "".join(f"L{x} {y}" for x, y in stroke[1:].tolist()) or "h0"
                body += f'<path d="M{stroke[0, 0]} {stroke[0, 1]}{rest}"/>'
        body += "</g>"
        moved = [np.r_[True, (np.diff(s, axis=0) != 0).any(axis=1)] for s in strokes]
        expected.append([stroke[m] for stroke, m in zip(strokes, moved, strict=True)])
    corpus = read_svg(put(tmp_path_factory.mktemp("s") / "a", SVG.format(body)), strict=True)
    assert len(corpus) == len(lines)
    for number, strokes in enumerate(expected):
        points = np.concatenate(strokes)
        np.testing.assert_array_equal(corpus.positions(number), points - points[0])
        ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
        np.testing.assert_array_equal(np.flatnonzero(corpus[number].pen_up), ends)


def handwriting(key, lines):
    rng = np.random.default_rng(key)
    lengths = rng.integers(30, 60, lines)
    xy = np.cumsum(rng.normal([6, 0], [12, 14], (lengths.sum(), 2)), axis=0).round()
    pen_up = rng.random(len(xy)) < 0.1
    pen_up[np.cumsum(lengths) - 1] = True
    pen_up[-2] = True  # the last stroke is a dot
    names = [f"line {i}" for i in range(lines)]
    return Corpus.from_positions(xy, pen_up, lengths, names, [""] * lines)


@pytest.mark.parametrize("count", [1, 4])
def test_our_own_svg_comes_back_to_the_tolerance(tmp_path, count):
    corpus = handwriting(count, count)
    lines = list(corpus)
    write_svg(tmp_path / "page.svg", lines, decimals=2)
    tolerance = 0.05
    back = read_svg(tmp_path / "page.svg", strict=True, tolerance=tolerance)
    assert len(back) == count
    assert back.resolution == 0.01
    page = set_page(lines)
    for number, strokes in enumerate(page.lines):
        points = back.positions(number) + strokes[0][0]
        parts = np.split(points, np.flatnonzero(back[number].pen_up)[:-1] + 1)
        assert len(parts) == len(strokes)
        for part, stroke in zip(parts, strokes, strict=True):
            kept = stroke[thin(stroke, page.pen_width / 8)]
            if len(kept) == 1:
                np.testing.assert_allclose(part, kept, atol=0.02)
                continue
            curve = np.concatenate([cubic(*controls)[::20] for controls in bezier(kept)])
            assert distance(curve, part) <= tolerance + 0.02  # and rounding to 0.01
            assert distance(part, curve) <= 0.02
