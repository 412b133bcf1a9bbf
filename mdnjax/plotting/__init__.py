"""Figures (Matplotlib, imported only when used)."""
