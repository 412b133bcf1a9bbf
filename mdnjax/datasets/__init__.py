"""Corpora: generators and readers, in NumPy."""

from mdnjax.datasets.pens import built_in_pens

__all__ = ["built_in_pens"]
