"""Mixtures p(t | x): pure functions on arrays and pytrees."""
