"""The kernel's files about processes and cgroups.

A pool reads some of them as it starts, so it is done without `pathlib` and
regular expressions, whose preparation alone takes longer than all that.
"""

from collections.abc import Callable
from io import FileIO
from itertools import starmap

from motorpool.typed import Any


def opened(make: Callable[..., int], *arguments: Any) -> FileIO:
    """Return the descriptor that `make` gives, which closes when nobody refers to it.

    In one go of C: an interrupt right after `make` leaves nothing open.
    """
    return next(map(FileIO, starmap(make, (arguments,))))


def read(path: str) -> bytes:
    """Return what is in a file."""
    # Not by its number, which an interrupt right after the opening would leave open.
    with FileIO(path) as file:
        return file.readall()


def number(text: bytes, name: bytes) -> int | None:
    """Return the number behind `name` at the beginning of a line; None if there is none."""
    _, found, rest = (b"\n" + text).partition(b"\n" + name + b" ")
    if not found:
        _, found, rest = (b"\n" + text).partition(b"\n" + name + b":")
    return int(rest.split(None, 1)[0]) if found else None


def upwards(root: str, path: str) -> list[str]:
    """Return the directory of a cgroup below `root`, and those above it as far as `root`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join((root, *parts[:length])) for length in range(len(parts), -1, -1)]
