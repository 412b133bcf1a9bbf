"""Matplotlib pictures of mixtures, handwriting, predicted densities, images, and of training.

Matplotlib is imported when a picture is made, never before, and its global state is left alone:
figures come from no `pyplot`, and settings change only while we draw. `save` writes a figure.
"""

from mdnjax.plotting.animation import write_gif
from mdnjax.plotting.calibration import CalibrationReport, calibration_report, plot_calibration
from mdnjax.plotting.density import density_map, offset_density
from mdnjax.plotting.images import plot_codes, plot_images
from mdnjax.plotting.mixtures import plot_components, plot_density, plot_modes
from mdnjax.plotting.strokes import page, plot_strokes
from mdnjax.plotting.style import house_style, save
from mdnjax.plotting.training import learning_curve, plot_learning_curve

__all__ = [
    "CalibrationReport",
    "calibration_report",
    "density_map",
    "house_style",
    "learning_curve",
    "offset_density",
    "page",
    "plot_calibration",
    "plot_codes",
    "plot_components",
    "plot_density",
    "plot_images",
    "plot_learning_curve",
    "plot_modes",
    "plot_strokes",
    "save",
    "write_gif",
]
