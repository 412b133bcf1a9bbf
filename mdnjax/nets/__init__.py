"""Flax NNX modules and the seam that makes them pure functions."""
