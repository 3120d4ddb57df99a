"""Sizes of memory as people write them."""

import math
import re

_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_size(size: object, name: str) -> int:
    """Return a number of bytes, given as such or as ``"500MB"`` or ``"2GiB"``.

    Raises
    ------
    TypeError
        If it is neither a whole number nor a string.
    ValueError
        If it is less than one byte, or no size.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        msg = f"{name} must be a number of bytes or a string like '2GiB', not {size!r}"
        raise TypeError(msg)
    if isinstance(size, str):
        found = _SIZE.fullmatch(size)
        if found is None:
            msg = f"{name}={size!r} is no size; write bytes as 2_000_000_000, '500MB' or '2GiB'"
            raise ValueError(msg)
        size = math.floor(float(found[1]) * _UNITS[(found[2] or "").lower()])
    if size < 1:
        msg = f"{name} must be at least one byte, not {size!r}"
        raise ValueError(msg)
    return size


def format_size(size: int) -> str:
    """Return a number of bytes as text, such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - what the units are made of
            return f"{size} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.1f} TiB"
