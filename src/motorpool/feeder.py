"""Reads an iterator ahead, on a thread of its own, by no more than it is allowed.

An iterator may block, raise, or use the pool itself; none of it holds up the
results that are there already.
"""

import threading
from collections.abc import Callable, Iterator
from itertools import count
from sys import getrefcount

from motorpool.serialization import dumps, loads
from motorpool.typed import Any

_NAMES = count(1)
_FROZEN = frozenset({int, float, complex, bool, str, bytes, type(None)})


def _has_kept_part(item: Any) -> bool:
    """Tell whether somebody else refers to a part of a tuple or list that can be changed."""
    if type(item) not in (tuple, list):
        return False
    # Known to the item, to the loop and to the call.
    return any(type(part) not in _FROZEN and getrefcount(part) > 3 for part in item)  # noqa: PLR2004


def _copied(item: Any) -> Any:
    """Return an item as a worker would get it; one that cannot be sent is refused later."""
    try:
        return loads(dumps(item))
    except BaseException:
        return item


class Buffer:
    """Items by their position in the input; those that were sent are let go."""

    def __init__(self) -> None:
        self._items: dict[int, Any] = {}
        self.length = 0

    def append(self, item: Any) -> None:
        """Add the next item."""
        self._items[self.length] = item
        self.length += 1

    def __getitem__(self, part: slice) -> list[Any]:
        """Return the items of a range."""
        items = self._items
        return [items[index] for index in range(part.start, part.stop)]

    def discard(self, start: int, stop: int) -> None:
        """Let go of items that are delivered."""
        for index in range(start, stop):
            self._items.pop(index, None)


class Feeder:
    """Fills a buffer from an iterator."""

    def __init__(
        self,
        source: Iterator[Any],
        feed: Callable[[int], None],
        fed: Callable[[int], None],
        is_hungry: Callable[[], bool],
        chunksize: int | None,
        *,
        is_pickled: bool,
    ) -> None:
        self.job = -1
        self.buffer = Buffer()
        self.error: BaseException | None = None
        self._chunksize = chunksize or 1
        self._is_pickled = is_pickled
        self._source = source
        self._feed = feed
        self._fed = fed
        self._is_hungry = is_hungry
        self._allowed = 0
        self._told = 0
        self._is_open = True
        self._is_stopped = False
        self._room = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        name = f"motorpool-feeder-{next(_NAMES)}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def allow(self, total: int) -> None:
        """Allow so many items in all."""
        if total > self._allowed:
            self._allowed = total
            self._room.set()

    def stop(self) -> None:
        """Read no more."""
        self._is_stopped = True
        self._room.set()

    def news(self) -> tuple[bool, int]:
        """Return whether more may come, and how many items came since the last call."""
        is_open, length = self._is_open, self.buffer.length
        if is_open or self.error is not None:
            # Whole chunks; one that an error of the input cut short is dropped, as in the stdlib.
            length -= length % self._chunksize
        arrived, self._told = length - self._told, length
        return is_open, arrived

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            # The consumer's to see. Told before the end is: whoever sees that looks for an error.
            self.error = error
        self._source = iter(())
        self._is_open = False
        if not self._is_stopped:
            self._fed(self.job)

    def _read(self) -> None:
        buffer, feed, is_hungry = self.buffer, self._feed, self._is_hungry
        source = iter(self._source)
        while not self._is_stopped:
            if buffer.length >= self._allowed:
                self._room.clear()
                if buffer.length >= self._allowed and not self._is_stopped:
                    self._room.wait()
                continue
            try:
                item = next(source)
            except StopIteration:
                return
            if self._is_pickled and type(item) not in _FROZEN:
                # The standard library pickles items as they come. Here they wait
                # for a worker, and an iterator that has kept one may change it.
                is_kept = getrefcount(item) > 2  # noqa: PLR2004 - `item`, and the call
                if is_kept or _has_kept_part(item):
                    item = _copied(item)
            # First the item, then the look: a worker that falls idle in between
            # makes the driver look into the buffer itself.
            buffer.append(item)
            if is_hungry():
                feed(self.job)
