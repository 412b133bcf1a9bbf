"""What tests of pictures draw, and what they look at."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image


def mixtures(steps: int, components: int, scale: float, seed: int = 0):
    """Log-weights, means and full covariances of standard deviations about `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(steps, components))
    log_weights = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    deviations = scale * np.exp(0.3 * rng.normal(size=(steps, components, 2)))
    rho = rng.uniform(-0.9, 0.9, size=(steps, components))
    covariances = deviations[..., :, None] * deviations[..., None, :]
    covariances[..., 0, 1] *= rho
    covariances[..., 1, 0] *= rho
    return log_weights, 3 * rng.normal(size=(steps, components, 2)), covariances


def pixels(figure, dpi: float = 100.0) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("L"), dtype=float) / 255


def assert_text_is_inside(figure):
    """Every text lies in the figure, and no two overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # ticks get their text when drawn
    renderer = canvas.get_renderer()
    texts = list(figure.texts)
    for ax in figure.axes:
        texts += [t for t in ax.get_children() if isinstance(t, Text)]  # titles among them
        for axis in (ax.xaxis, ax.yaxis):
            texts.append(axis.label)
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    assert len(boxes) >= 2
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        inside = inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text!r} leaves the figure"
    for i, (text, box) in enumerate(boxes):
        for other, there in boxes[:i]:
            assert not box.overlaps(there), f"{text!r} overlaps {other!r}"
