"""Reads an iterator ahead, on a thread of its own, by no more than it is allowed.

An iterator may block, raise, or use the pool itself; none of it holds up the
results that are there already.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from queue import SimpleQueue
from sys import getrefcount

from motorpool.buffers import taker
from motorpool.serialization import Pickled, dumps, loads
from motorpool.typed import Any

_NAMES = count(1)
_FROZEN = frozenset({int, float, complex, bool, str, bytes, type(None)})
# Of an item with more parts it takes as long to look at them as to pickle it.
_MOST_PARTS = 50


def _is_fresh(item: Any) -> bool:
    """Tell whether nobody else refers to a part of an item, itself aside, that can be changed."""
    parts = [item]
    for part in parts:
        # Known to its container, to `parts`, to the loop and to the call.
        if getrefcount(part) > 4 and part is not item:  # noqa: PLR2004
            return False
        kind = type(part)
        if kind not in (tuple, list, dict):
            if not _has_own_data(part):
                return False
            continue
        inner = part.values() if kind is dict else part
        if not _FROZEN.issuperset(map(type, inner)):
            parts += [one for one in inner if type(one) not in _FROZEN]
            if len(parts) > _MOST_PARTS:
                return False
    return True


def _has_own_data(part: Any) -> bool:
    """Tell whether this is an array of numbers and not a view of another."""
    # None while another thread is importing it.
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    if type(part) is not array:
        return False
    return part.base is None and not part.dtype.hasobject


class _Changeable:
    """Stands in messages for an item that may look different by then."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __repr__(self) -> str:
        """Say what it is, and no more."""
        return f"<{self._kind} that the iterator may have changed since>"


def _snapshot(item: Any, shown: object, *, as_pickle: bool) -> Any:
    """Return an item as it is now; one that cannot be sent is refused later."""
    found: list[memoryview] = []
    try:
        pickled = dumps(item, found, taker(found))
        if found:  # What is large is not copied once more for the pickle.
            return loads(pickled, buffers=[bytearray(part) for part in found])
        return Pickled(pickled, shown) if as_pickle else loads(pickled)
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
        as_pickles: bool,
    ) -> None:
        self.job = -1
        self.buffer = Buffer()
        self.error: BaseException | None = None
        self._chunksize = chunksize or 1
        self._is_pickled = is_pickled
        self._as_pickles = as_pickles
        self._source = source
        self._feed = feed
        self._fed = fed
        self._is_hungry = is_hungry
        self._allowed = 0
        self._told = 0
        self._is_open = True
        self._is_stopped = False
        # Has something in it if there may be room. An Event would keep its lock for
        # ever if an interrupt came as it is set.
        self._room: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """Begin to read."""
        name = f"motorpool-feeder-{next(_NAMES)}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def allow(self, total: int) -> None:
        """Allow so many items in all."""
        if total > self._allowed:
            self._allowed = total
            self._tell()

    def stop(self) -> None:
        """Read no more."""
        self._is_stopped = True
        self._tell()

    def _tell(self) -> None:
        if self._room.empty():
            self._room.put(None)

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
                self._room.get()
                continue
            try:
                item = next(source)
            except StopIteration:
                return
            if self._is_pickled and type(item) not in _FROZEN:
                # The standard library pickles items as they come. Here they wait
                # for a worker, and an iterator that has kept one may change it.
                is_kept = getrefcount(item) > 2  # noqa: PLR2004 - `item`, and the call
                if is_kept or not _is_fresh(item):
                    shown = _Changeable(type(item).__qualname__) if is_kept else item
                    item = _snapshot(item, shown, as_pickle=self._as_pickles)
            # First the item, then the look: a worker that falls idle in between
            # makes the driver look into the buffer itself.
            buffer.append(item)
            if is_hungry():
                feed(self.job)
