"""Augmentation: an affine map a line, and points that go without moving the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax import strokes as st

KEY = jax.random.key(3)


def _corpus(num_lines=6, length=16, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length, num_lines)
    lengths[0] = length
    n = lengths.sum()
    return st.Corpus.from_positions(
        rng.normal(0, 50, (n, 2)),
        rng.random(n) < 0.15,
        lengths,
        [f"f-{i}" for i in range(num_lines)],
        ["t"] * num_lines,
        times=np.concatenate([np.arange(k) / 100 for k in lengths]),
        resolution=0.5,
    )


def _batch(corpus, rows=8):
    length = int(corpus.lengths.max())
    return st.gather_lines(corpus, np.arange(len(corpus)), length, rows=rows)


def _compiled(lines, **options):
    augment = functools.partial(st.augment, KEY, **options)
    return jax.tree.map(np.asarray, jax.jit(augment)(lines))


def _fit(old, new):
    """The matrix that takes the old positions to the new ones, and how badly it does."""
    matrix, *_ = np.linalg.lstsq(old, new, rcond=None)
    return matrix.T, np.abs(old @ matrix - new).max()


def _pairs(old, new):
    """Positions of each line before and after, for a corpus or a batch."""
    if isinstance(old, st.Corpus):
        return [(old.positions(i), new.positions(i)) for i in range(len(old))]
    a, b = st.to_positions(old), np.asarray(st.to_positions(new))
    return [(p[m], q[m]) for p, q, m in zip(a, b, old.mask, strict=True) if m.sum() > 2]


OPTIONS = {
    "scale": {"scale": 0.3},
    "stretch": {"stretch": 0.3},
    "shear": {"shear": 0.3},
    "rotation": {"rotation": 0.3},
    "together": {"scale": 0.2, "stretch": 0.1, "shear": 0.5, "rotation": 0.4},
    "drop": {"drop": 0.3},
}


@pytest.fixture(scope="module", params=["host", "device"])
def augmented(request):
    """400 lines, and what each of the `OPTIONS` makes of them: on a device one program."""

    def augment(lines):
        return {name: st.augment(KEY, lines, **options) for name, options in OPTIONS.items()}

    corpus = _corpus(400, 12)
    if request.param == "host":
        return corpus, augment(corpus)
    batch = _batch(corpus, rows=401)
    return batch, jax.tree.map(np.asarray, jax.jit(augment)(batch))


@pytest.mark.parametrize(
    ("option", "entries"),
    [
        ("scale", lambda a: [a[0, 0] - 1, a[1, 1] - a[0, 0], a[0, 1], a[1, 0]]),
        ("stretch", lambda a: [a[0, 0] - 1, a[1, 1] - 1, a[0, 1], a[1, 0]]),
        ("shear", lambda a: [a[0, 1], a[0, 0] - 1, a[1, 1] - 1, a[1, 0]]),
        (
            "rotation",
            lambda a: [np.arctan2(a[1, 0], a[0, 0]), *(a.T @ a - np.eye(2))[[0, 1, 0], [0, 1, 1]]],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_range_is_its_own(augmented, option, entries):
    """One number varies evenly in its range, all others of the matrix stay where they were."""
    lines, new = augmented
    matrices = []
    for old, moved in _pairs(lines, new[option]):
        if np.linalg.matrix_rank(old) == 2:
            matrix, error = _fit(old.astype(np.float64), moved)
            assert error < 2e-3
            matrices.append(entries(matrix))
    free, *fixed = np.array(matrices).T
    if option == "stretch":
        other, *fixed = fixed
        assert abs(np.corrcoef(free, other)[0, 1]) < 0.25
        assert other.std() > 0.15
    np.testing.assert_allclose(fixed, 0, atol=2e-4)
    # Uniform in [-0.3, 0.3]: the extremes are near, the standard deviation is 0.3 / sqrt 3.
    assert np.abs(free).max() <= 0.3 + 1e-4
    assert free.max() > 0.28
    assert free.min() < -0.28
    assert abs(free.mean()) < 0.04
    assert abs(free.std() - 0.3 / np.sqrt(3)) < 0.02


def test_all_together_are_rotation_times_shear_times_scales(augmented):
    """A = R(theta) [[1, k], [0, 1]] diag: its QR decomposition finds the parts in their ranges."""
    lines, new = augmented[0], augmented[1]["together"]
    if isinstance(lines, st.Corpus):
        np.testing.assert_array_equal(new.times, lines.times)
    found = []
    for old, after in _pairs(lines, new):
        if np.linalg.matrix_rank(old) == 2:
            matrix, error = _fit(old.astype(np.float64), after)
            assert error < 5e-3
            q, r = np.linalg.qr(matrix)
            sign = np.sign(np.diag(r))
            q, r = q * sign, r * sign[:, None]
            found.append([np.arctan2(q[1, 0], q[0, 0]), r[0, 1] / r[1, 1], r[0, 0], r[1, 1]])
    angle, slant, s_x, s_y = np.array(found).T
    for values, middle, most in ((angle, 0, 0.4), (slant, 0, 0.5), (s_x, 1, 0.32), (s_y, 1, 0.32)):
        assert np.abs(values - middle).max() <= most + 1e-3
        assert np.abs(values - middle).max() > 0.8 * most  # all extremes at once are rare
    corners = np.corrcoef(found, rowvar=False) - np.eye(4)
    assert np.abs(corners[:2]).max() < 0.25  # drawn apart
    assert corners[2, 3] > 0.5  # a common scale


def test_drop_takes_inner_points_only_and_moves_no_other(augmented):
    lines, new = augmented[0], augmented[1]["drop"]
    if isinstance(lines, st.Corpus):
        flags = [(lines[i].pen_up, new[i].pen_up) for i in range(len(lines))]
        pairs = _pairs(lines, new)
        begin = new.starts
        times = [new.times[b : b + k] for b, k in zip(begin, new.lengths, strict=True)]
        assert new.resolution == 0.5
    else:
        old, after = st.to_positions(lines), np.asarray(st.to_positions(new))
        there = np.asarray(new.mask)
        assert not np.asarray(new.offsets)[~there].any()
        assert not np.asarray(new.pen_up)[~there].any()
        rows = range(400)
        pairs = [(old[i][lines.mask[i]], after[i][there[i]]) for i in rows]
        flags = [
            (lines.pen_up[i][lines.mask[i]], np.asarray(new.pen_up)[i][there[i]]) for i in rows
        ]
        times = [None] * 400
    inner = dropped = 0
    for (old, after), (up, up_after), t in zip(pairs, flags, times, strict=True):
        ends = up > 0.5
        ends[-1] = True
        firsts = np.r_[True, ends[:-1]]
        kept, at = [], 0
        for p in after:
            at += int(np.flatnonzero(np.abs(old[at:] - p).max(axis=1) < 1e-3)[0])
            kept.append(at)
            at += 1
        assert set(np.flatnonzero(ends | firsts)) <= set(kept)
        np.testing.assert_array_equal(up[kept], up_after)
        if t is not None:
            np.testing.assert_allclose(t, np.array(kept) / 100, rtol=1e-6)
        inner += len(old) - (ends | firsts).sum()
        dropped += len(old) - len(kept)
    # Binomial: five standard deviations.
    assert abs(dropped - 0.3 * inner) < 5 * np.sqrt(0.21 * inner)


def test_a_certain_drop_leaves_the_ends_and_an_impossible_one_all():
    corpus = _corpus()
    first_last = st.augment(KEY, corpus, drop=1.0)
    simple = st.simplify(corpus, 1e9)  # keeps ends alone, too
    np.testing.assert_allclose(first_last.strokes.offsets, simple.strokes.offsets, rtol=1e-6)
    batch = _batch(corpus)
    device = _compiled(batch, drop=1.0)
    expected = st.gather_lines(simple, np.arange(6), batch.mask.shape[1], rows=8)
    np.testing.assert_array_equal(device.mask, expected.mask)
    np.testing.assert_allclose(device.offsets, expected.offsets, atol=1e-3)
    same = st.augment(KEY, batch)
    np.testing.assert_array_equal(same.offsets, batch.offsets)
    assert st.augment(KEY, corpus) is corpus


def test_under_jit_and_vmap_and_a_function_of_the_key():
    batch, corpus = _batch(_corpus()), _corpus()
    options = {"scale": 0.2, "shear": 0.2, "rotation": 0.2, "drop": 0.2}
    augment = functools.partial(st.augment, **options)
    mapped = jax.jit(jax.vmap(augment))
    keys = jax.random.split(KEY, 8)
    rows = mapped(keys, batch)
    other = mapped(keys[::-1], batch)
    assert not np.array_equal(rows.mask, other.mask)
    moved = (rows.offsets - other.offsets).sum(axis=-2)  # of the last point, which none drops
    assert np.abs(moved[:6]).max(axis=-1).min() > 0.1
    # Lines of NumPy as they come, and (above) traced.
    line = jax.tree.map(lambda a: a[2], batch)
    one = jax.jit(lambda key: augment(key, line))(keys[2])
    np.testing.assert_allclose(rows.offsets[2], one.offsets, atol=1e-4)
    np.testing.assert_array_equal(rows.mask[2], one.mask)
    first, again = (augment(KEY, corpus) for _ in range(2))
    np.testing.assert_array_equal(first.strokes.offsets, again.strokes.offsets)


def test_the_loss_of_precision_is_that_of_one_product():
    batch = _batch(_corpus())
    moved = _compiled(batch, rotation=3.0, stretch=0.5)
    assert moved.offsets.dtype == jnp.float32
    assert not np.asarray(moved.offsets)[~batch.mask].any()
    assert not np.asarray(moved.offsets[:, 0]).any()


def test_a_tape_has_one_map_for_each_line():
    corpus = _corpus(60, 9)
    batch = st.Streams(corpus, 4, 30, seed=0)(1)
    new = _compiled(batch.strokes, starts=batch.starts, scale=0.3, rotation=0.5)
    np.testing.assert_array_equal(new.pen_up, batch.strokes.pen_up)
    np.testing.assert_array_equal(new.mask, batch.strokes.mask)
    seen = []
    for row in range(4):
        cuts = np.flatnonzero(batch.starts[row])
        old = np.split(np.asarray(batch.strokes.offsets[row], np.float64), cuts)
        after = np.split(np.asarray(new.offsets[row], np.float64), cuts)
        for a, b in zip(old, after, strict=True):
            if np.linalg.matrix_rank(a) == 2:
                matrix, error = _fit(a, b)
                assert error < 1e-3
                seen.append(matrix[0, 0])
    assert len(seen) > 15
    assert len(set(np.round(seen, 4))) == len(seen)


def test_what_is_out_of_range_is_named():
    corpus, batch = _corpus(), _batch(_corpus())
    for name, values in {
        "scale": (-0.1, 1.0, np.nan),
        "stretch": (-0.1, 1.0),
        "shear": (-1.0, np.inf),
        "rotation": (-1.0, np.nan),
        "drop": (-0.1, 1.1, np.nan),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=f"augment: {name} must be .*got {value}"):
                st.augment(KEY, batch, **{name: value})
    starts = np.zeros(batch.mask.shape, bool)
    with pytest.raises(ValueError, match="augment: drop must be 0 where starts are given"):
        st.augment(KEY, batch, starts=starts, drop=0.1)
    with pytest.raises(ValueError, match="augment: starts must be of shape"):
        st.augment(KEY, batch, starts=starts[:, 1:], scale=0.1)
    with pytest.raises(ValueError, match="augment: starts must be None for a corpus"):
        st.augment(KEY, corpus, starts=starts, scale=0.1)
    empty = st.Strokes(np.zeros((3, 0, 2), np.float32), np.zeros((3, 0)), np.zeros((3, 0), bool))
    with pytest.raises(ValueError, match=r"augment: strokes must be .*got shape \(3, 0\)"):
        st.augment(KEY, empty, drop=0.1)
