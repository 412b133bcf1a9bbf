"""The built-in pens: a generated corpus of handwriting, for where real data cannot go.

A line passes through five files: `text` (what is written), `glyphs` (letters as pen movements),
`writers` (whose letters they are), `page` (where they stand and what is joined) and `motion` (how
the pen moves along them and when the sensor looks). `built_in` puts them together.
"""

from mdnjax.datasets.pens.built_in import built_in_pens
from mdnjax.datasets.pens.glyphs import FaceName

__all__ = ["FaceName", "built_in_pens"]
