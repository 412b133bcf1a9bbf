"""Corpora: generators and readers, in NumPy."""
