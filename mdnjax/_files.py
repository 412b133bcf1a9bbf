"""Files that are whole or not there."""

import os
import pathlib
import secrets


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that no reader, crash or full disk ever leaves half of it.

    The content is written beside the file under a hidden name, flushed to the disk, and renamed.

    Args:
        path: The file; its folder must exist. An older one is replaced.
        content: All of it.

    Raises:
        OSError: The file cannot be written; one already there is left as it was. It names the
            file that was asked for.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # none of the system's
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
