"""The first Ctrl-C, SIGTERM or hang-up asks a run to end well; the second ends it at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# The handlers a process has before anybody installs one, which are the only ones replaced: whoever
# installed another, or ignores a signal (as nohup does), has decided already.
_DEFAULTS: dict[str, Any] = {
    "SIGINT": signal.default_int_handler,
    "SIGTERM": signal.SIG_DFL,
    "SIGHUP": signal.SIG_DFL,  # the terminal was closed
}


class Interruption:
    """Whether the process was asked to end.

    Attributes:
        received: The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._tell: Callable[[signal.Signals], None] | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    def receive(self, number: int) -> None:
        """Takes in a signal, and tells of it."""
        self.received = signal.Signals(number)
        if self._tell is not None:
            # Python forbids to write to a stream that the signal found in the middle of a write.
            with contextlib.suppress(RuntimeError):
                self._tell(self.received)

    @contextlib.contextmanager
    def told_to(self, tell: Callable[[signal.Signals], None]) -> Iterator[None]:
        """Calls `tell` with a signal that comes within the block, when it comes."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None


@contextlib.contextmanager
def deferred_signals() -> Iterator[Interruption]:
    """Turns the first signal into a flag, so that it cannot fall between a step and its state.

    From then on, and after the block, the handlers are those of before: a second Ctrl-C raises
    KeyboardInterrupt, a second SIGTERM ends the process. Outside the main thread, where Python
    allows no handlers, nothing is installed.
    """
    interruption = Interruption()
    ours: dict[signal.Signals, Callable[..., Any]] = {}

    def restore() -> None:
        for number, default in ours.items():
            # Somebody else's, installed meanwhile, stays.
            if signal.getsignal(number) is handle:
                signal.signal(number, default)

    def handle(number: int, frame: Any) -> None:
        del frame
        restore()
        interruption.receive(number)

    if threading.current_thread() is threading.main_thread():
        for name, default in _DEFAULTS.items():
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == default:
                ours[number] = default
                signal.signal(number, handle)
    try:
        yield interruption
    finally:
        restore()
