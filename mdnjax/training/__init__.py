"""Training: state, step, fit, checkpoints; knows no network by name."""
