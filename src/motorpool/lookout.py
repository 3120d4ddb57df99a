"""Looks at the machine's memory twice a second, while work is outstanding.

What the driver does with it: chunks wait while memory is short and a task runs
(`scheduler/machine.py`). One task at a time always runs.
"""

from motorpool.log import log
from motorpool.memory import OOM_KILLS, Room, Space
from motorpool.messages import MemoryNews

LOOK_SECONDS = 0.5
# A pool for a moment needs no look.
FIRST_SECONDS = 0.05
# Memory is short when less than this part of it is left, or less than that
# many bytes if they are fewer; it is no longer when there is half as much more.
LEAST_PART = 0.05
LEAST_BYTES = 1 << 30
MORE = 1.5


class Lookout:
    """Tells when memory runs short, and when it no longer does."""

    def __init__(self) -> None:
        self._room: Room | None = None  # made when it is first needed
        self._is_short = False

    def look(self) -> MemoryNews | None:
        """Return the news, if there are any."""
        try:
            return self._look()
        except KeyboardInterrupt as interrupt:
            # Ctrl-C may come while a missing file's error is handled; that is nobody's business.
            raise interrupt from None

    def _look(self) -> MemoryNews | None:
        OOM_KILLS.refresh()
        if self._room is None:
            self._room = Room()
        spaces = self._room.read()
        if not spaces:
            return None
        tightest = min(spaces, key=lambda space: space.available / _floor(space))
        floor = _floor(tightest) * (MORE if self._is_short else 1.0)
        is_short = tightest.available < floor
        if is_short == self._is_short:
            return None
        self._is_short = is_short
        _tell(tightest, is_short=is_short)
        return MemoryNews(is_short)


def _floor(space: Space) -> float:
    return min(LEAST_PART * space.total, LEAST_BYTES)


def _tell(space: Space, *, is_short: bool) -> None:
    from motorpool.sizes import format_size

    logger = log()
    left = f"{format_size(space.available)} of {format_size(space.total)}"
    if is_short:
        logger.warning(
            "memory runs short: %s left for %s. Tasks wait, and run one at a time, until there is "
            "more. Use fewer workers, or set memory_limit.",
            left,
            space.of,
        )
    else:
        logger.warning("memory no longer runs short: %s left for %s", left, space.of)
