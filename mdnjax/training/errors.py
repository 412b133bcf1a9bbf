"""What can go wrong with the files of a run, by name."""

import errno
import os
import pathlib
import re

# Among much else TensorStore writes "os_error_code='28'", or once wrote "OS error 28".
_OS_ERROR = re.compile(r"\bos[ _]error(?:_code)?[ =']+(\d+)", re.IGNORECASE)


class CheckpointError(Exception):
    """A checkpoint that is missing, broken, or of an unknown format; the message says which."""


class SaveError(OSError):
    """A file or folder of a run that could not be written; what was there before is kept.

    Args:
        path: The file or folder.
        cause: What the attempt raised. Where it comes from the operating system, so does the
            reason given ("No space left on device"), whichever library it went through.
        standing: The newest checkpoint that stands; None where there is none, and nothing is said
            of it.

    Attributes:
        errno: The operating system's number of what happened, or None.
        path: The file or folder.
        reason: What happened, in words.
        standing: The newest checkpoint that stands, or None.
    """

    def __init__(
        self, path: pathlib.Path, cause: BaseException, *, standing: pathlib.Path | None = None
    ):
        number, reason = _reason(cause)
        stands = "" if standing is None else f" The last checkpoint stands: {standing}."
        super().__init__(f"{path} could not be written: {reason}.{stands}")
        self.errno = number
        self.path = path
        self.reason: str = reason
        self.standing = standing


def _reason(cause: BaseException) -> tuple[int | None, str]:
    """The operating system's number and words for what was raised, or what was raised itself."""
    if isinstance(cause, SaveError):
        return cause.errno, cause.reason
    number = cause.errno if isinstance(cause, OSError) else None
    if number is None and (found := _OS_ERROR.search(str(cause))):
        number = int(found.group(1))
    if number is not None and number in errno.errorcode:
        words = cause.strerror if isinstance(cause, OSError) else None
        return number, f"{words or os.strerror(number)} ({errno.errorcode[number]})"
    lines = str(cause).strip().splitlines()
    return None, f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
