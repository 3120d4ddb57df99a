"""A worker's page of shared memory: what it is at, and the results it has not sent yet.

The parent reads it after the worker's death, and so knows which item to blame
and which results are safe. Nothing is ever freed by a dead worker: the memory
is anonymous and goes with its last user.
"""

import math
import mmap
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from motorpool.buffers import MARK
from motorpool.messages import IDLE, LOADING

SIZE = 64 * 1024
# Chunk, index, upto, end of the journal, descriptor that stacks are written to;
# limit of memory, number of threads; size at which the worker outgrew the limit;
# when the item began.
_WORDS = 9
_ORDERS = struct.Struct("<qq")
_BEGIN = 8 * _WORDS
_ENTRY = struct.Struct("<qq")
# A result this large is sent at once rather than noted and then sent.
_LARGE = 4096


def make(memory_limit: int = 0, threads: int = 0) -> int:
    """Return the descriptor of a new page, with orders for its worker."""
    fd = os.memfd_create("motorpool-page")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, _ORDERS.pack(memory_limit, threads), 8 * 5)
    return fd


def _refuse_large(buffer: pickle.PickleBuffer) -> bool:
    """Stop the pickling of a result that is too large to be noted; else go on as ever."""
    if memoryview(buffer).nbytes > _LARGE:
        raise BufferError
    return True


class Page:
    """One worker's page, seen from either side."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self._words = memoryview(self._map)[:_BEGIN].cast("q")
        self._since = memoryview(self._map)[_BEGIN - 8 : _BEGIN].cast("d")
        self.full = False
        self._stop = 0
        self.expects_large = False  # as the last result was
        self.clear()

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._since.release()
        self._map.close()

    # The worker's side.

    @property
    def memory_limit(self) -> int:
        """How many bytes the worker may use; 0 for any number."""
        return self._words[5]

    @property
    def threads(self) -> int:
        """How many threads libraries may use; less than 0 if by default, 0 for any number."""
        return self._words[6]

    def outgrown(self, size: int) -> None:
        """Note that the worker leaves because it uses so many bytes."""
        self._words[7] = size

    def listening(self, fd: int) -> None:
        """Note the descriptor to which stacks are written on request."""
        self._words[4] = fd

    def clear(self) -> None:
        """Nothing is being run."""
        self._words[0] = IDLE

    def load(self, chunk: int, stop: int) -> None:
        """Note that a chunk is about to be unpickled."""
        words = self._words
        words[1] = LOADING
        words[3] = _BEGIN
        # Until its items are: what their function imports is not their time.
        self._since[0] = math.inf
        words[0] = chunk
        self._stop = stop
        self.full = False

    def call(self, chunk: int) -> None:
        """Note that a chunk of one item is about to be called."""
        words = self._words
        words[2] = 1
        words[1] = 0
        words[3] = _BEGIN
        words[0] = chunk

    def load_items(self, now: float) -> None:
        """Note that the items are about to be unpickled."""
        self._since[0] = now

    def at(self, index: int, upto: int, now: float) -> None:
        """Items `index` to `upto` are about to be called."""
        words = self._words
        words[2] = upto
        # Before the index: who reads an index finds its time, or a later one.
        self._since[0] = now
        words[1] = index

    def restart(self) -> None:
        """Forget the results noted so far: they were sent."""
        self._words[3] = _BEGIN
        self.full = False

    def failed(self) -> None:
        """Have the results so far sent: an exception is not noted here."""
        self.full = True

    def finished(self, index: int, value: object) -> None:
        """Note a result; `full` turns true when it is time to send what there is."""
        if index + 1 >= self._stop:
            return
        if self.expects_large:
            self.full = True
            return
        try:
            pickled = pickle.dumps(value, 5, buffer_callback=_refuse_large)
        except BufferError:
            self.full = self.expects_large = True
            return
        except Exception:
            self.full = True
            return
        begin = self._words[3]
        end = begin + _ENTRY.size + len(pickled)
        if len(pickled) > _LARGE or end > SIZE:
            self.full = True
            self.expects_large = len(pickled) > _LARGE
            return
        self._map[begin:end] = _ENTRY.pack(index, len(pickled)) + pickled
        self._words[3] = end

    def expect(self, payload: bytes, items: int) -> None:
        """Learn from the results of `items` that are being sent how large the next may be."""
        self.expects_large = payload[0] == MARK or len(payload) > _LARGE * items

    # The parent's side.

    def look(self) -> tuple[int, int, float]:
        """Return the chunk and index that a living worker is at, and since when."""
        words = self._words
        for _ in range(100):
            number, index, since = words[0], words[1], self._since[0]
            if number == words[0] and index == words[1]:
                return number, index, since
        return IDLE, LOADING, 0.0  # It is so fast that nothing can be late.

    @property
    def stack_fd(self) -> int:
        """The worker's descriptor to which stacks are written on request; 0 if it has none yet."""
        return self._words[4]

    @property
    def outgrown_at(self) -> int:
        """The bytes that the worker used when it left because of them, 0 if it did not."""
        return self._words[7]

    def now(self) -> tuple[int, int]:
        """Return the chunk that is being run, or `IDLE`, and the item, or `LOADING`."""
        return self._words[0], self._words[1]

    def read(self, loads: Callable[[bytes], Any]) -> tuple[int, int, int, dict[int, Any]]:
        """Return number, index and upto of a dead worker's chunk, and the results noted."""
        number, index, upto, end = self._words[:4].tolist()
        finished: dict[int, Any] = {}
        at = _BEGIN
        while at < min(end, SIZE) and number != IDLE:
            item, length = _ENTRY.unpack_from(self._map, at)
            at += _ENTRY.size
            with suppress(Exception):  # What is not rebuilt counts as lost.
                finished[item] = loads(self._map[at : at + length])
            at += length
        return number, index, upto, finished
