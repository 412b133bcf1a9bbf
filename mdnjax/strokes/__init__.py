"""Pen trajectories: structure, readers, transforms, the stroke head, drawing."""
