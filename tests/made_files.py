"""Files of strokes, as the formats have them, for tests of their readers."""

import io
import json

import numpy as np


def handwriting(count):
    """Lines of strokes of positions, among them strokes of one point."""
    rng = np.random.default_rng(7)
    lines = []
    for _ in range(count):
        sizes = [*rng.integers(2, 7, 2).tolist(), 1]
        steps = rng.integers(-40, 40, (sum(sizes), 2)).astype(float)
        lines.append(np.split(300 + np.cumsum(steps, axis=0), np.cumsum(sizes)[:-1]))
    return lines


def flat(lines):
    xy = np.concatenate([stroke for line in lines for stroke in line])
    pen_up = np.concatenate([np.arange(len(s)) == len(s) - 1 for line in lines for s in line])
    lengths = np.array([sum(map(len, line)) for line in lines])
    ids = np.array([f"f{i}-{i:02}" for i in range(len(lines))])
    return {
        "xy": xy,
        "pen_up": pen_up.astype(np.uint8),
        "lengths": lengths,
        "ids": ids,
        "texts": np.array([f"words {i}" for i in range(len(lines))]),
    }


def npz(arrays, save=np.savez_compressed):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def own(lines):
    arrays = flat(lines)
    arrays["offsets"] = np.diff(arrays.pop("xy"), axis=0, prepend=0).astype(np.float32)
    arrays["offsets"][np.cumsum(arrays["lengths"]) - arrays["lengths"]] = 0
    points = len(arrays["offsets"])
    more = {"format": "mdnjax-strokes", "version": 2, "unit": "mm", "resolution": 0.25}
    more |= {"has_writers": True, "has_parts": True, "has_times": True}
    more |= {"writers": np.array(["w"] * len(lines)), "parts": np.array(["test"] * len(lines))}
    starts = np.repeat(np.cumsum(arrays["lengths"]) - arrays["lengths"], arrays["lengths"])
    return (
        arrays
        | {k: np.array(v) for k, v in more.items()}
        | {"times": ((np.arange(points) - starts) / 64).astype(np.float32)}
    )


def stroke3(line):
    xy = np.concatenate(line)
    lifted = np.concatenate([np.arange(len(s)) == len(s) - 1 for s in line])
    return np.concatenate([np.diff(xy, axis=0, prepend=0), lifted[:, None]], 1).astype(np.int16)


def iam(line):
    strokes = "".join(
        '    <Stroke colour="black">\n'
        + "".join(f'      <Point x="{x:.12g}" y="{y:.12g}" time="{i}.5"/>\n' for x, y in stroke)
        + "    </Stroke>\n"
        for i, stroke in enumerate(line)
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<WhiteboardCaptureSession>\n'
        f"  <StrokeSet>\n{strokes}  </StrokeSet>\n</WhiteboardCaptureSession>\n"
    )


def quickdraw(line, number, *, raw):
    strokes = [
        s.T.tolist() + [(10 * np.arange(len(s)) + 1000 * i).tolist()] * raw
        for i, s in enumerate(line)
    ]
    strokes = strokes if raw else [np.asarray(s).astype(int).tolist() for s in strokes]
    fields = {"word": "cat", "key_id": f"{number}", "recognized": True, "drawing": strokes}
    return json.dumps(fields, separators=(",", ":")) + "\n"


def unipen(lines, level):
    text, count = f'.LEXICON "a"\n.HIERARCHY {level}\n\n', 0
    for line in lines:
        last = count + len(line) - 1
        text += f'.SEGMENT {level} {count}-{last} ? "a"\n.COMMENT a 3 1\n'
        for stroke in line:
            rows = "".join(f" {x:.12g} {y:.12g}\n" for x, y in stroke)
            text += f".PEN_DOWN\n{rows}.PEN_UP\n.DT 100\n"
        text, count = text + "\n", last + 1
    return text


def svg(lines):
    groups = ""
    for line in lines:
        shapes = ""
        for i, stroke in enumerate(line):
            words = [f"{x:.12g},{y:.12g}" for x, y in stroke]
            if i == 0:
                shapes += f'<polyline points="{" ".join(words)}"/>\n'
            elif i == 1:
                shapes += f'<path d="M{words[0]}Q{words[0]} {words[1]}L{" ".join(words)}"/>\n'
            else:
                shapes += f'<path transform="translate(3 4)" d="M{words[0]}h0"/>\n'
        groups += f"<g>\n{shapes}</g>\n"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">\n{groups}</svg>\n'
