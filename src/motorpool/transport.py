"""Frames over one private duplex channel per worker: a header, then a payload.

No channel and no lock is shared between workers, so one that dies in the
middle of a frame spoils nobody's but its own. The parent's end never blocks on
a write: what the socket does not take is kept and finished when it is writable.
Otherwise parent and worker could each wait for the other to read.
"""

import os
from collections import deque

from motorpool.messages import HEADER
from motorpool.typed import Any

Frame = tuple[int, int, int, int, int, float, bytes]

_READ = 1 << 16
_SMALL = 1 << 14
_HEAD = HEADER.size
_unpack = HEADER.unpack_from


class FrameReader:
    """Cuts what comes out of a descriptor into frames; a large payload is read in place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._head: tuple[int, ...] = ()
        self._body = bytearray()
        self._filled = 0
        self._last = b""
        self._unread: bytes | None = None
        self.closed = False

    def read(self) -> list[Frame]:
        """Read once, and return the frames that it completed.

        Raises BlockingIOError if the descriptor does not block and has nothing.
        """
        if self._unread is not None:
            data, self._unread = self._unread, None
        elif self._head:
            return self._read_body()
        else:
            try:
                data = os.read(self._fd, _READ)
            except ConnectionResetError:
                data = b""
        if not data:
            self.closed = True
            return []
        if self._buffer:
            data = self._buffer + data
        elif len(data) >= _HEAD:
            head = _unpack(data)
            if len(data) == _HEAD + head[0]:
                return [(*head[1:], data[_HEAD:])]
        return self._cut(data)

    def read_one(self, kind: int, number: int) -> bytes | None:
        """Read once; return the payload if that was just a frame of `kind` and `number`.

        If it was anything else, or is not taken, `unread` has it read again.
        """
        if self._head or self._buffer:
            return None
        try:
            data = self._last = os.read(self._fd, _READ)
        except OSError:
            return None
        if len(data) >= _HEAD:
            size, its_kind, its_number, *_ = _unpack(data)
            if len(data) == _HEAD + size and its_kind == kind and its_number == number:
                return data[_HEAD:]
        self.unread()
        return None

    def unread(self) -> None:
        """Have the next `read` give what `read_one` read."""
        self._unread = self._last

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        at = 0
        while len(data) - at >= HEADER.size:
            head = HEADER.unpack_from(data, at)
            begin = at + HEADER.size
            end = begin + head[0]
            if end > len(data):
                if head[0] > _READ:
                    self._begin_body(head, data[begin:])
                    at = len(data)
                break
            frames.append((*head[1:], data[begin:end]))
            at = end
        self._buffer = data[at:]
        return frames

    def _begin_body(self, head: tuple[int, ...], data: bytes) -> None:
        self._head = head
        self._body = bytearray(head[0])
        self._body[: len(data)] = data
        self._filled = len(data)

    def _read_body(self) -> list[Frame]:
        with memoryview(self._body) as view, view[self._filled :] as rest:
            try:
                count = os.readv(self._fd, [rest])
            except ConnectionResetError:
                count = 0
        if count == 0:
            self.closed = True
            return []
        self._filled += count
        if self._filled < self._head[0]:
            return []
        frame = (*self._head[1:], self._body)
        self._head = ()
        self._body = bytearray()
        return [frame]  # type: ignore[list-item]


def pack(
    kind: int, job: int, start: int, stop: int, extra: int, seconds: float, payload: bytes
) -> list[bytes]:
    """Return a frame as the pieces to write: one if it is small, to spare a copy if it is not."""
    head = HEADER.pack(len(payload), kind, job, start, stop, extra, seconds)
    return [head + payload] if len(payload) < _SMALL else [head, payload]


def write_all(fd: int, pieces: list[Any]) -> None:
    """Write to a blocking descriptor, all of it."""
    for piece in pieces:
        written = os.write(fd, piece)
        if written < len(piece):
            with memoryview(piece) as view:
                while written < len(piece):
                    written += os.write(fd, view[written:])


class FrameWriter:
    """Writes to a descriptor that does not block; keeps what it did not take."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: deque[memoryview] = deque()

    def send(self, data: bytes) -> bool:
        """Write, and return whether all is out; if not, call `flush` when writable."""
        if self._pending:
            self._pending.append(memoryview(data))
            return self.flush()
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        if written == len(data):
            return True
        self._pending.append(memoryview(data)[written:])
        return False

    def flush(self) -> bool:
        """Write what is pending as far as it goes, and return whether all is out."""
        pending = self._pending
        while pending:
            try:
                written = os.write(self._fd, pending[0])
            except BlockingIOError:
                return False
            if written == len(pending[0]):
                pending.popleft()
            else:
                pending[0] = pending[0][written:]
        return True
