"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from krypton_engine.errors import InputError

DRAWN = {"Software": "Krypton"}
"""Metadata of every picture that we draw, by which `krypton tune` knows that it is none to tune on."""


def destination(path: str | os.PathLike[str], endings: Mapping[str, str]) -> tuple[Path, str]:
    """The path of a file to be written, and its ending in small letters.

    Args:
        path: The path that a user gives.
        endings: Accepted endings, each with the content of such a file in words.

    Raises:
        InputError: No path, another ending, or a folder that does not exist.

    Examples:
        >>> destination("map.PNG", {".png": "a picture"})
        (...Path('map.PNG'), '.png')
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError("path", repr(path), "strings and paths")
    given = Path(path)
    ending = ending_of(given, endings)
    if not ending:
        accepted = " or ".join(f"{ending} ({what})" for ending, what in endings.items())
        raise InputError("path", repr(str(path)), f"names that end in {accepted}")
    folder = given.resolve().parent
    if not folder.is_dir():
        raise InputError("path", repr(str(path)), problem=f"but the folder {str(folder)!r} does not exist")
    return given, ending


def ending_of(path: Path, endings: Iterable[str]) -> str:
    """The longest of some endings that a name has, in capitals too; empty where there is none.

    Examples:
        >>> ending_of(Path("map.NII.gz"), [".gz", ".nii.gz"]), ending_of(Path(".png"), [".png"])
        ('.nii.gz', '')
    """
    name = path.name.lower()
    return max((each for each in endings if name.endswith(each) and name != each), key=len, default="")


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` into a file, in one step: until then, and where that fails, what was there stays.

    A link stays a link, and a file keeps its permissions. A path that is no file, such as ``/dev/stdout``,
    is written to directly.

    Raises:
        OSError: There is no such folder, no permission or no room.

    Examples:
        >>> write("note.txt", b"kept whole")
        >>> Path("note.txt").read_bytes()
        b'kept whole'
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
