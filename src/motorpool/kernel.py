"""The kernel's files about processes and cgroups.

A pool reads some of them as it starts, so it is done without `pathlib` and
regular expressions, whose preparation alone takes longer than all that.
"""

import os


def read(path: str) -> bytes:
    """Return what is in a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


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
