"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

DRAWN = {"Software": "Krypton"}
"""Metadata of every picture that we draw, by which `krypton tune` knows that it is none to tune on."""


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` into a file, in one step: until then, and where that fails, what was there stays.

    A link stays a link, and a file keeps its permissions. What is no file, such as ``/dev/stdout``, is
    written to as it is.

    Raises:
        OSError: There is no such folder, no permission or no room.
    """
    given = Path(path)
    if given.exists() and not given.is_file():
        given.write_bytes(content)
        return
    real = given.resolve()
    beside = real.with_name(f".krypton-{secrets.token_hex(8)}")
    try:
        if real.exists() and not os.access(real, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            shutil.copymode(real, beside)
        os.replace(beside, real)
    except OSError as error:  # of the user's file, not of the one beside it
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
