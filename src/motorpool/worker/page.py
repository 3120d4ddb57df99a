"""A worker's page of shared memory: what it is at, and the results it has not sent yet.

The parent reads it after the worker's death, and so knows which item to blame
and which results are safe. Nothing is ever freed by a dead worker: the memory
is anonymous and goes with its last user.
"""

import marshal
import math
import mmap
import os
import pickle
import struct
from collections.abc import Callable
from io import FileIO

from motorpool.buffers import MARK
from motorpool.interrupts import pass_on_interrupt
from motorpool.kernel import opened
from motorpool.messages import IDLE, LOADING, RESULTS
from motorpool.serialization import PLAIN, Pickled, dumps
from motorpool.typed import Any

# Memory that nobody has written to takes no room.
SIZE = 1024 * 1024
# Where files may not be so large, it does with less, down to this.
LEAST_SIZE = 4096
# The words that it begins with. What the worker is at: the chunk, or `IDLE`; the item, or
# `LOADING`; the end of what was begun; the end of the journal.
_CHUNK, _INDEX, _UPTO, _END = range(4)
_STACK_FD = 4  # the descriptor that stacks are written to
_LIMIT, _THREADS = 5, 6  # orders: bytes of memory, threads of libraries
_OUTGROWN = 7  # the size at which the worker leaves because it is over the limit
_ENDING = 8  # whether it has called what may end it
_SINCE_WHEN = 9  # when the item began, as a double
_WORDS = 10
_ORDERS = struct.Struct("<qq")
_BEGIN = 8 * _WORDS  # of the journal
_SINCE = struct.Struct("<d")
# Of an entry in the journal: the first item, how many there are, and the length of the pickle of
# a list of results. Instead of the number: `_ALONE` for the pickle of one result, `_PLAIN` for
# one result as of `marshal`, which is quicker.
_ENTRY = struct.Struct("<qqq")
_ENTRY_SIZE = _ENTRY.size
_pack_entry = _ENTRY.pack_into
_ALONE = -1
_PLAIN = -2
# A result this large is sent at once rather than noted and then sent.
_LARGE = 4096


def make(memory_limit: int = 0, threads: int = 0) -> FileIO:
    """Return the descriptor of a new page, with orders for its worker."""
    page = _open()
    try:
        _extend(page.fileno())
        os.pwrite(page.fileno(), _ORDERS.pack(memory_limit, threads), 8 * _LIMIT)
    except BaseException:
        page.close()
        raise
    return page


def _open() -> FileIO:
    try:
        return opened(os.memfd_create, "motorpool-page")
    except OSError:
        from tempfile import TemporaryFile

        with TemporaryFile() as file:
            return opened(os.dup, file.fileno())


def _extend(fd: int) -> None:
    size = SIZE
    while True:
        try:
            return os.ftruncate(fd, size)
        except OSError:
            if size <= LEAST_SIZE:
                raise
        size //= 2


def refuse_above(limit: int) -> Callable[[pickle.PickleBuffer], bool]:
    """Return what stops the pickling of a result with buffers too large to be noted."""

    def refuse(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes > limit:
            raise BufferError
        return True

    return refuse


class Page:
    """One worker's page, seen from either side."""

    # What is larger is sent rather than noted.
    large = _LARGE
    refuse = staticmethod(refuse_above(_LARGE))

    def __init__(self, fd: int, size: int = SIZE) -> None:
        self._size = size if fd < 0 else os.fstat(fd).st_size
        self._map = mmap.mmap(fd, self._size)
        self._words = memoryview(self._map)[:_BEGIN].cast("q")
        self._since = memoryview(self._map)[8 * _SINCE_WHEN : _BEGIN].cast("d")
        self.full = False
        self._stop = 0
        self._is_apart = False  # whether no two results may share an object
        self.expects_large = False  # as the last result was
        # Of a bulk run: where its results go, how many were there before, and its first item.
        self._values: list[Any] | None = None
        self._before = self._index = self._upto = 0
        self._bulk = (0, 0)  # the last range of results noted in bulk, and where it begins
        self._bulk_at = _BEGIN
        self.clear()

    @classmethod
    def of(cls, content: bytes) -> "Page":
        """Return a page as it was read from elsewhere."""
        page = cls(-1, len(content))
        page._map[:] = content
        return page

    def part(self) -> None:
        """In a child that a task forked: write to memory of its own, and run no other item."""
        Page.__init__(self, -1)
        self.full = True

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._since.release()
        self._map.close()

    # The worker's side.

    @property
    def memory_limit(self) -> int:
        """How many bytes the worker may use; 0 for any number."""
        return self._words[_LIMIT]

    @property
    def threads(self) -> int:
        """How many threads libraries may use; less than 0 if by default, 0 for any number."""
        return self._words[_THREADS]

    def outgrown(self, size: int) -> None:
        """Note that the worker leaves because it uses so many bytes."""
        self._words[_OUTGROWN] = size

    def listening(self, fd: int) -> None:
        """Note the descriptor to which stacks are written on request."""
        self._words[_STACK_FD] = fd

    def clear(self) -> None:
        """Nothing is being run."""
        self._words[_CHUNK] = IDLE

    def load(self, chunk: int, stop: int) -> None:
        """Note that a chunk is about to be unpickled."""
        words = self._words
        words[_INDEX] = LOADING
        words[_END] = _BEGIN
        # Until its items are: what their function imports is not their time.
        self._since[0] = math.inf
        words[_CHUNK] = chunk
        self._stop = stop
        self._is_apart = False
        self._bulk = (0, 0)
        self.full = False

    def load_items(self, now: float, *, is_apart: bool) -> None:
        """Note that the items of an exact chunk are about to be unpickled."""
        self._since[0] = now
        self._is_apart = is_apart

    def at(self, index: int, upto: int, now: float) -> None:
        """Items `index` to `upto` are about to be called."""
        words = self._words
        words[_UPTO] = upto
        # Before the index: who reads an index finds its time, or a later one.
        self._since[0] = now
        words[_INDEX] = index

    def restart(self) -> None:
        """Forget the results noted so far: they were sent."""
        self._words[_END] = _BEGIN
        self._bulk = (0, 0)
        self.full = False

    def failed(self) -> None:
        """Have the results so far sent: an exception is not noted here."""
        self.bulk_finished()
        self.full = True

    def finished(self, index: int, value: Any) -> Any:
        """Note a result; `full` turns true when it is time to send what there is.

        Returns what to send for it: as it is now, if it must not be seen to change.
        """
        if index + 1 >= self._stop or self.expects_large:
            self.full = True
            return value
        is_plain = type(value) in PLAIN
        try:
            if is_plain:
                form, dumped = _PLAIN, marshal.dumps(value)
            else:
                form, dumped = _ALONE, pickle.dumps(value, 5, buffer_callback=self.refuse)
        except BufferError:
            self.full = self.expects_large = True
            return value
        except Exception:
            self.full = True
            return value
        if len(dumped) > self.large or not self._append(index, form, dumped):
            self.full = True
            self.expects_large = len(dumped) > self.large
        return Pickled(dumped) if self._is_apart and not is_plain else value

    def bulk(self, values: list[Any]) -> None:
        """Take note that `values` is about to grow by the results of all that is begun."""
        self._before = len(values)
        self._index = self._words[_INDEX]
        self._values = values

    def bulk_finished(self) -> None:
        """Note the results of a bulk run together, if there is one."""
        if self._values is not None:
            self._note_bulk()
            self._values = None

    def last_words(self) -> None:
        """Note what a bulk run has finished so far: the item that it is at may be its last."""
        self._words[_ENDING] = 1
        if self._values is not None:
            self._note_bulk()
            self._upto = self._words[_UPTO]
            self._words[_UPTO] = self._index + 1
            self._words[_INDEX] = self._index

    def go_on(self) -> None:
        """Take note that it was not: the bulk run goes on."""
        self._words[_ENDING] = 0
        if self._values is not None:
            self._words[_UPTO] = self._upto

    def keep(self, kind: int, start: int, stop: int, payload: bytes) -> None:
        """Note the payload of a frame that could not be sent."""
        if kind == RESULTS and payload[0] != MARK:
            self.restart()
            self._append(start, stop - start, payload)

    def _note_bulk(self) -> None:
        values = self._values
        assert values is not None  # noqa: S101 - for the type checker
        new = values[self._before :]
        first, at = self._index, self._words[_END]
        self._before += len(new)
        self._index += len(new)
        if self.expects_large:
            self.full = True
            return
        try:
            pickled = dumps(new)
        except Exception:
            self.full = True
            return
        if not self._append(first, len(new), pickled):
            self.full = True
            self.expects_large = len(pickled) > self.large * len(new)
            return
        start, stop = self._bulk
        if not start < stop == first:
            start, self._bulk_at = first, at
        self._bulk = start, self._index

    def _append(self, index: int, count: int, pickled: bytes) -> bool:
        words, length = self._words, len(pickled)
        begin = words[_END]
        middle = begin + _ENTRY_SIZE
        end = middle + length
        if end > self._size:
            return False
        _pack_entry(self._map, begin, index, count, length)
        self._map[middle:end] = pickled
        words[_END] = end
        return True

    def noted(self, start: int, stop: int) -> memoryview | None:
        """Return the entries of these items, which need not be pickled again; None if it cannot."""
        if self._bulk != (start, stop):
            return None
        return memoryview(self._map)[self._bulk_at : self._words[_END]]

    def expect(self, payload: bytes, items: int) -> None:
        """Learn from the results of `items` that are being sent how large the next may be."""
        self.expects_large = payload[0] == MARK or len(payload) > self.large * items

    # The parent's side.

    def look(self) -> tuple[int, int, float]:
        """Return the chunk and index that a living worker is at, and since when."""
        words = self._words
        for _ in range(100):
            number, index, since = words[_CHUNK], words[_INDEX], self._since[0]
            if number == words[_CHUNK] and index == words[_INDEX]:
                return number, index, since
        return IDLE, LOADING, 0.0  # It is so fast that nothing can be late.

    @property
    def stack_fd(self) -> int:
        """The worker's descriptor to which stacks are written on request; 0 if it has none yet."""
        return self._words[_STACK_FD]

    @property
    def outgrown_at(self) -> int:
        """The bytes that the worker used when it left because of them, 0 if it did not."""
        return self._words[_OUTGROWN]

    @property
    def is_ending(self) -> bool:
        """Whether the worker has called what ends it, as far as is known."""
        return bool(self._words[_ENDING])

    def now(self) -> tuple[int, int]:
        """Return the chunk that is being run, or `IDLE`, and the item, or `LOADING`."""
        return self._words[_CHUNK], self._words[_INDEX]

    def read(self, loads: Callable[[Any], Any]) -> tuple[int, int, int, dict[int, Any]]:
        """Return number, index and upto of a dead worker's chunk, and the results noted."""
        number, index, upto, end = self._words[:4].tolist()
        finished: dict[int, Any] = {}
        if number == IDLE:
            return number, index, upto, finished
        for item, count, pickled in entries(self._map[_BEGIN : min(end, self._size)]):
            try:
                if count == _PLAIN:
                    finished[item] = marshal.loads(pickled)  # noqa: S302 - of our own
                elif count == _ALONE:
                    finished[item] = loads(pickled)
                else:
                    finished.update(enumerate(loads(pickled), item))
            except BaseException as error:  # What is not rebuilt counts as lost.
                pass_on_interrupt(error)
        return number, index, upto, finished


def peek(content: bytes) -> tuple[int, int, float]:
    """Return the chunk and index of a page that was read from elsewhere, and since when."""
    number, index = _ORDERS.unpack_from(content)
    return number, index, _SINCE.unpack_from(content, _BEGIN - _SINCE.size)[0]


def used_part(content: bytes) -> bytes:
    """Return as much of a page that was read from elsewhere as has been written."""
    words = memoryview(content)[:_BEGIN].cast("q")
    return content[: max(_BEGIN, words[_END])]


def entries(journal: bytes) -> list[tuple[int, int, memoryview]]:
    """Return the entries of a journal: first item, number of items, pickle."""
    view = memoryview(journal)
    found = []
    at, end = 0, len(view)
    while at + _ENTRY_SIZE <= end:
        item, count, length = _ENTRY.unpack_from(view, at)
        at += _ENTRY_SIZE
        if not 0 <= length <= end - at:  # A task that crashed wrote here before.
            break
        found.append((item, count, view[at : at + length]))
        at += length
    return found
