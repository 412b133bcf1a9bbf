"""Pictures of mixtures show SciPy's densities, NumPy's ellipses, and the modes given."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from made_pictures import assert_text_is_inside, pixels

import mdnjax as mdn
from mdnjax import plotting
from mdnjax.mixtures.mode_seeking import Modes
from mdnjax.plotting import style

WEIGHTS = np.array([0.3, 0.7])


def one() -> mdn.GaussianMixture:
    return mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.3, 0.5], weights=WEIGHTS)


def one_density(t):
    components = [scipy.stats.norm(-1, 0.3), scipy.stats.norm(1, 0.5)]
    return sum(w * c.pdf(t) for w, c in zip(WEIGHTS, components, strict=True))


COVARIANCES = np.array([[[1.0, 0.6], [0.6, 0.5]], [[0.05, 0.0], [0.0, 0.3]]])
CENTRES = np.array([[0.0, 0.0], [3.0, -1.0]])


def plane() -> mdn.GaussianMixture:
    return mdn.GaussianMixture.full(CENTRES, COVARIANCES, weights=WEIGHTS)


def over_inputs(n: int = 41) -> tuple[mdn.GaussianMixture, np.ndarray]:
    """Two branches that cross over from one to the other; x is no even grid."""
    x = np.linspace(0, 1, n) ** 1.5
    weights = np.stack([1 - x, x], axis=-1)
    loc = np.stack([x, 2 - x], axis=-1)[..., None]
    scale = np.stack([0.1 + 0.1 * x, 0.2 + 0 * x], axis=-1)
    return mdn.GaussianMixture.isotropic(loc, scale, weights=weights), x


def made_modes(points, log_density, is_mode) -> Modes:
    points, is_mode = jnp.asarray(points, jnp.float32), jnp.asarray(is_mode)
    flag = jnp.ones(is_mode.shape[:-1], bool)
    return Modes(points, jnp.asarray(log_density, jnp.float32), is_mode, flag, ~flag)


def test_the_curve_is_the_density():
    ax = plotting.plot_density(one())
    t, density = ax.lines[0].get_data()
    np.testing.assert_allclose(density, one_density(t), rtol=1e-4)
    # All but the tails is in the picture.
    assert np.trapezoid(density, t) == pytest.approx(1, abs=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t", "density")
    assert_text_is_inside(ax.get_figure())


def test_contours_lie_where_the_density_has_their_level():
    ax = plotting.plot_density(plane(), levels=[0.01, 0.05, 0.2], labels=("a (rad)", "b (rad)"))
    components = [
        scipy.stats.multivariate_normal(m, c) for m, c in zip(CENTRES, COVARIANCES, strict=True)
    ]
    for level, shown in zip([0.01, 0.05, 0.2], ax.collections, strict=True):
        (path,) = shown.get_paths()
        outline = path.vertices[path.codes != path.CLOSEPOLY]
        density = sum(w * c.pdf(outline) for w, c in zip(WEIGHTS, components, strict=True))
        assert len(density) > 20
        np.testing.assert_allclose(density, level, rtol=0.05)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a (rad)", "b (rad)")
    assert_text_is_inside(ax.get_figure())


def test_over_inputs_columns_are_the_mixtures_at_x():
    mix, x = over_inputs()
    ax = plotting.plot_density(mix, x[:, None], levels=[0.5], color_bar=False)
    (shown,) = ax.collections
    outline = shown.get_paths()[0].vertices
    column = outline[np.isclose(outline[:, 0], x[20])]
    assert len(column) >= 4
    weights = [1 - x[20], x[20]]
    components = [scipy.stats.norm(x[20], 0.1 + 0.1 * x[20]), scipy.stats.norm(2 - x[20], 0.2)]
    density = sum(w * c.pdf(column[:, 1]) for w, c in zip(weights, components, strict=True))
    np.testing.assert_allclose(density, 0.5, atol=0.02)
    assert ax.get_xlim() == (0, 1)
    assert len(ax.get_figure().axes) == 1


def test_levels_are_powers_of_two_and_the_scale_says_so():
    mix, x = over_inputs()
    ax = plotting.plot_density(mix, x, density_label="density, per cm")
    scale = ax.get_figure().axes[1]
    assert scale.get_ylabel() == "density, per cm"
    ticks = [float(label.get_text()) for label in scale.get_yticklabels()]
    np.testing.assert_allclose(np.diff(np.log2(ticks)), -2, atol=0.01)
    highest = np.exp(mdn.log_prob(mix, mix.loc[:, 0])).max()
    assert highest / 2.5 < ticks[0] < highest
    assert_text_is_inside(ax.get_figure())


def test_a_scale_goes_where_it_is_told():
    mix, x = over_inputs()
    figure = style.new_figure(4.0, 3.0)
    ax = figure.add_axes((0.15, 0.15, 0.8, 0.8))
    place = ax.inset_axes((0.6, 0.2, 0.3, 0.04))
    assert plotting.plot_density(mix, x, ax=ax, color_bar=place) is ax
    assert place.get_xlabel() == "density"
    assert figure.axes == [ax]


def test_means_and_weights_of_the_components():
    mix, x = over_inputs()
    ax = plotting.plot_components(mix, x, show="weights")
    for line, expected in zip(ax.lines, [1 - x, x], strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-6)
    assert ax.get_ylabel() == "mixing coefficient"

    ax = plotting.plot_components(mix, x, least=0.5)
    threads, strong = ax.lines[::2], ax.lines[1::2]
    for line, expected in zip(threads, [x, 2 - x], strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-6)
    for line, weight in zip(strong, [1 - x, x], strict=True):
        clear = np.abs(weight - 0.5) > 1e-6
        np.testing.assert_array_equal(np.isfinite(line.get_ydata())[clear], (weight > 0.5)[clear])
    band = ax.collections[0].get_paths()[0].vertices  # of the first component, one deviation
    at = np.isclose(band[:, 0], x[5])
    np.testing.assert_allclose(
        sorted(band[at, 1]), [x[5] - 0.1 - 0.1 * x[5], x[5] + 0.1 + 0.1 * x[5]], atol=1e-6
    )
    assert_text_is_inside(ax.get_figure())


def test_weighted_curves_add_up_to_the_density():
    ax = plotting.plot_components(one())
    t = ax.lines[0].get_xdata()
    np.testing.assert_allclose(
        sum(line.get_ydata() for line in ax.lines), one_density(t), rtol=1e-4
    )


def test_ellipses_are_one_standard_deviation_away():
    ax = plotting.plot_components(plane())
    rings = [line for line in ax.lines if len(line.get_xdata()) > 2]
    for line, centre, covariance in zip(rings, CENTRES, COVARIANCES, strict=True):
        delta = np.stack(line.get_data(), axis=-1) - centre
        mahalanobis = np.einsum("ni,ij,nj->n", delta, np.linalg.inv(covariance), delta)
        np.testing.assert_allclose(mahalanobis, 1, rtol=1e-4)
    assert rings[0].get_linewidth() < rings[1].get_linewidth()


def test_more_components_than_colours_differ_in_their_dashes():
    count = len(style.COLORS) + 1
    mix = mdn.GaussianMixture.isotropic(np.arange(count)[:, None], np.ones(count))
    looks = {
        (line.get_color(), line.get_linestyle()) for line in plotting.plot_components(mix).lines
    }
    assert len(looks) == count


def test_modes_are_dots_and_rings_and_padding_is_nothing():
    points = np.array([[[1.0], [0.0]], [[0.5], [2.0]], [[0.7], [0.7]]])
    is_mode = np.array([[True, True], [True, True], [True, False]])
    modes = made_modes(points, np.where(is_mode, -1.0, -np.inf), is_mode)
    others, best = plotting.plot_modes(modes, [0.0, 1.0, 2.0]).lines
    np.testing.assert_allclose(best.get_xydata(), [[0, 1], [1, 0.5], [2, 0.7]], atol=1e-6)
    np.testing.assert_allclose(others.get_xydata(), [[0, 0], [1, 2]], atol=1e-6)
    assert best.get_markerfacecolor() != others.get_markerfacecolor()

    modes = made_modes([[1.0], [-1.0]], np.log([0.5, 0.4]), [True, True])
    assert len(plotting.plot_modes(modes, least=0.81).lines[0].get_xdata()) == 0
    assert len(plotting.plot_modes(modes, least=0.79).lines[0].get_xdata()) == 1
    others, best = plotting.plot_modes(modes).lines
    np.testing.assert_allclose(best.get_xydata(), [[1, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(others.get_xydata(), [[-1, 0.4]], rtol=1e-6)

    modes = made_modes([[1.0, 2.0], [1.0, 2.0]], [0.0, -np.inf], [True, False])
    others, best = plotting.plot_modes(modes).lines
    np.testing.assert_allclose(best.get_xydata(), [[1, 2]])
    assert len(others.get_xdata()) == 0


def test_all_three_share_axes_and_leave_ink():
    mix, x = over_inputs()
    ax = plotting.plot_density(mix, x)
    limits = ax.get_xlim(), ax.get_ylim()
    points = jnp.asarray(mix.loc)
    modes = made_modes(points, np.zeros(points.shape[:-1]), np.ones(points.shape[:-1], bool))
    assert plotting.plot_modes(modes, x, ax=ax) is ax
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    image = pixels(ax.get_figure())
    assert 0.02 < (image < 0.7).mean() < 0.5


def test_light_components_far_away_do_not_widen_the_picture():
    mix = mdn.GaussianMixture.isotropic([[0.0], [1e3]], [1.0, 1.0], weights=[1 - 1e-6, 1e-6])
    low, high = plotting.plot_density(mix).get_xlim()
    assert -5 < low < -2
    assert 2 < high < 5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.plot_density(over_inputs()[0]), "plot_density: mix must be one mixture"),
        (lambda: plotting.plot_density(plane(), [0.0]), "plot_density: mix must be of D = 1"),
        (lambda: plotting.plot_density(over_inputs()[0], [0.0, 1.0]), "inputs must be .* batch"),
        (lambda: plotting.plot_density(over_inputs(2)[0], [1.0, 0.0]), "finite and rising"),
        (lambda: plotting.plot_density(one(), span=(1.0, 1.0)), "span must be"),
        (
            lambda: plotting.plot_density(mdn.GaussianMixture.isotropic([[np.nan]], [1.0])),
            "mix must be of finite parameters",
        ),
        (lambda: plotting.plot_components(one(), show="weights"), "plot_components: show must be"),
        (lambda: plotting.plot_components(one(), least=2.0), "plot_components: least must be"),
        (
            lambda: plotting.plot_modes(made_modes(np.zeros((2, 3)), np.zeros(2), [True, True])),
            "plot_modes: mix must be one mixture",
        ),
    ],
)
def test_what_is_wrong_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_plot_learning_curve_is_the_figure_of_learning_curve():
    records = [{"step": n, "nats": 1 / n, "valid": 1.1 / n} for n in range(1, 30)]
    figure = plotting.learning_curve(records, baselines={"mean": 0.5}, against="steps")
    ax = plotting.plot_learning_curve(records, baselines={"mean": 0.5}, against="steps")
    np.testing.assert_array_equal(pixels(ax.get_figure()), pixels(figure))


def test_plot_learning_curve_draws_into_given_axes():
    records = [{"points": n, "nats": 1 / n} for n in range(1, 30)]
    figure = style.new_figure(6.0, 3.0)
    ax = figure.add_axes((0.1, 0.2, 0.5, 0.7))
    assert plotting.plot_learning_curve(records, ax=ax, unit="nats") is ax
    assert ax.get_ylabel() == "nats"
    assert [text.get_text() for text in ax.texts] == ["training: 0.04"]
    assert_text_is_inside(figure)
    with pytest.raises(ValueError, match="plot_learning_curve: records must be"):
        plotting.plot_learning_curve([{"points": 1.0}], ax=ax)


def test_dots_in_an_svg_look_as_before(tmp_path):
    figure = style.new_figure(3.0, 2.0)
    with style.house_style():
        ax = figure.add_subplot()
        ax.plot([0, 1, 2], [1, 0, 2], "o", color="#112233")
        ax.plot([0, 1, 2], [2, 0, 2], ".", color="#445566")
        ax.scatter([0, 1], [0, 1], c=["#778899", "#aabbcc"])
    plotting.save(figure, tmp_path / "dots.svg")
    content = (tmp_path / "dots.svg").read_text()
    groups = re.findall(r"<g clip-path[^>]*>(?:\s*<use [^>]*/>)+\s*</g>", content)
    looks = [re.findall(r"fill: (#\w+)", group) for group in groups]
    assert sorted(looks) == [["#112233"], ["#445566"], ["#778899"], ["#aabbcc"]]
    assert sorted(group.count("<use") for group in groups) == [1, 1, 3, 3]
    assert content.count("<g") == content.count("</g>")


def test_an_svg_has_hundredths_of_a_point(tmp_path):
    ax = plotting.plot_density(plane())
    plotting.save(ax.get_figure(), tmp_path / "density.svg")
    content = (tmp_path / "density.svg").read_text()
    curves = "".join(re.findall(r' d="([^"]*)"', content))
    assert re.search(r"\d\.\d\d[ L]", curves)
    assert not re.search(r"\d\.\d{3}", curves)
