"""A limit on the time that something may take."""

import contextlib
import time


@contextlib.contextmanager
def within(seconds):
    """Of this thread's own: a busy machine lengthens the wall's, XLA's threads the process's."""
    began = time.thread_time()
    yield
    took = time.thread_time() - began
    assert took < seconds, f"{took:.1f} s"
