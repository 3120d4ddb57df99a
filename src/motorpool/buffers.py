"""Pickles whose large buffers travel in shared memory (PEP 574).

A payload that begins with MARK, which no pickle does, is a table of blocks and
then the pickle. If the pickle itself is large, it is the first of the blocks.
Every other payload is a plain pickle: that is what objects without large
buffers pay.
"""

import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import FileIO

from motorpool.kernel import opened
from motorpool.messages import ARENA_FILE, ARENA_MOST_REGIONS, ARENA_REGION
from motorpool.serialization import LARGE_PICKLE, PLAIN, Pickled, dumps, loads
from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motorpool.arena import Arena, Block
    from motorpool.views import Views

# A buffer of at least this size is worth a block. Below it, a copy through the
# socket costs less than the bookkeeping.
LARGE = 1 << 16

MARK = 0
# The blocks are seen by several receivers: what one writes stays with it.
_PRIVATE = 1
# The first block is the pickle.
_WHOLE = 2
# mark, flags, number of blocks
_HEAD = struct.Struct("<BBxxI")
# segment's base and size, offset in the file, length, slot
_ENTRY = struct.Struct("<QQQQQ")
_PLAIN = (bytes, bytearray)


def _take_large(found: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Keep a small buffer in the pickle, and take a large one out."""
    data = memoryview(buffer)
    # What is pickled as bytes or a bytearray has to arrive as such.
    if data.nbytes < LARGE or type(data.obj) in _PLAIN:
        return True
    found.append(buffer.raw())
    return False


def taker(found: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a pickler's `buffer_callback` that takes large buffers out, into `found`."""
    return partial(_take_large, found)


def keep_apart(items: Sequence[Any]) -> Sequence[Any] | None:
    """Return items in a form in which they share nothing though they are pickled in one list.

    None if they cannot, because one has large buffers.
    """
    if PLAIN.issuperset(map(type, items)):
        return items
    found: list[memoryview] = []
    take = taker(found)
    apart: list[Any] = []
    for item in items:
        is_apart = type(item) is Pickled or _is_plain_call(item)
        apart.append(item if is_apart else Pickled(dumps(item, found, take)))
        if found:
            return None
    return apart


def _is_plain_call(item: Any) -> bool:
    """Tell whether an item is a call of nothing but numbers and the like."""
    return (
        type(item) is tuple
        and len(item) == 2  # noqa: PLR2004 - positional and keyword arguments
        and type(item[0]) is tuple
        and not item[1]
        and type(item[1]) is dict
        and PLAIN.issuperset(map(type, item[0]))
    )


def _entries(payload: bytes) -> Iterator[tuple[int, ...]]:
    _, _, count = _HEAD.unpack_from(payload)
    return _ENTRY.iter_unpack(payload[_HEAD.size : _HEAD.size + count * _ENTRY.size])


def size_of(payload: bytes) -> int:
    """Return how many bytes are in the blocks of a payload that begins with MARK."""
    return sum(entry[3] for entry in _entries(payload))


def create_file() -> int:
    """Return a descriptor of a new file for arenas; raises OSError if there can be none."""
    if sys.maxsize < ARENA_FILE:
        msg = "this is no 64-bit system"
        raise OSError(msg)
    fd = os.memfd_create("motorpool-arena")
    try:
        os.ftruncate(fd, ARENA_FILE)
    except OSError:  # A limit on the size of files, perhaps.
        os.close(fd)
        raise
    return fd


def begin_of(region: int) -> int:
    """Return where a region begins in the file."""
    return (region + 1) * ARENA_REGION


def _release_region(fd: int, region: int, held: list[tuple[int, int]]) -> None:
    try:
        first = os.lseek(fd, begin_of(region), os.SEEK_DATA)
    except OSError:  # Nothing there or beyond.
        return
    if first < begin_of(region + 1):
        from motorpool.arena import release

        release(fd, begin_of(region), begin_of(region + 1), held)


class Packed:
    """A pickle for several receivers, and the blocks it is in."""

    __slots__ = ("blocks", "is_whole", "payload")

    def __init__(self, payload: bytes, blocks: "tuple[Block, ...]", *, is_whole: bool) -> None:
        self.payload = payload  # empty if it is the first of the blocks
        self.blocks = blocks
        self.is_whole = is_whole


class Sender:
    """Pickles for others, large buffers into an arena of its own.

    Parameters
    ----------
    fd
        The file of all arenas; it stays the caller's. Without one, -1,
        everything travels in the pickle.
    region
        Which part of the file is this sender's.
    refused
        Called with the reason each time that something large finds no memory.
    """

    def __init__(
        self, fd: int, region: int, refused: Callable[[object], None] = lambda _reason: None
    ) -> None:
        self._fd = fd
        self._region = region
        self._refused = refused
        self.arena: Arena | None = None

    def dumps(self, obj: object, holder: int = 0) -> bytes:
        """Return `obj` pickled for `holder`, as `serialization.dumps` does."""
        found: list[memoryview] = []
        payload = dumps(obj, found, partial(_take_large, found))
        if not found and len(payload) < LARGE_PICKLE:
            return payload
        packed = self.pack(payload, found)
        if packed is None:
            return dumps(obj) if found else payload
        try:
            return self.lend(packed, holder, is_private=False)
        except OSError as error:
            self._refused(error)
            return dumps(obj)
        finally:
            self.drop(packed)

    def pack(self, payload: bytes, found: list[memoryview]) -> Packed | None:
        """Copy buffers, and the pickle if it is large, into blocks; None if there is no room."""
        is_whole = len(payload) >= LARGE_PICKLE
        blocks: list[Block] = []
        try:
            arena = self._open()
            data = [memoryview(payload), *found] if is_whole else found
            blocks.extend(map(arena.put, data))
        except (OSError, ValueError) as error:
            self._refused(error)
            self.drop(Packed(b"", tuple(blocks), is_whole=is_whole))
            return None
        return Packed(b"" if is_whole else payload, tuple(blocks), is_whole=is_whole)

    def lend(self, packed: Packed, holder: int, *, is_private: bool = True) -> bytes:
        """Return what `holder` has to be sent; `is_private`: others see the blocks too."""
        arena = self._open()
        flags = (_PRIVATE if is_private else 0) | (_WHOLE if packed.is_whole else 0)
        parts = [_HEAD.pack(MARK, flags, len(packed.blocks))]
        for block in packed.blocks:
            slot = arena.lend(block, holder)
            parts.append(
                _ENTRY.pack(block.base, block.segment_size, block.offset, block.length, slot)
            )
        parts.append(packed.payload)
        return b"".join(parts)

    def drop(self, packed: Packed) -> None:
        """Lend this no more; its blocks are free once all have come back."""
        if self.arena is not None:
            for block in packed.blocks:
                self.arena.drop(block)

    def reclaim(self, holder: int) -> None:
        """Take back all that was lent to a holder that is dead."""
        if self.arena is not None:
            self.arena.reclaim(holder)

    @property
    def is_in_use(self) -> bool:
        """Whether there is an arena that lends or holds memory."""
        return self.arena is not None and self.arena.is_in_use

    def tidy(self, keep: int) -> bool:
        """Give memory back that came back, but for `keep` bytes; return whether to come again."""
        if self.arena is None:
            return False
        self.arena.collect()
        self.arena.trim(keep)
        return self.arena.is_in_use

    def close(self) -> None:
        """Give all memory back."""
        arena, self.arena = self.arena, None
        if arena is not None:
            arena.close()

    def _open(self) -> "Arena":
        if self.arena is None:
            if self._fd < 0:
                raise OSError
            from motorpool.arena import Arena

            self.arena = Arena(self._fd, self._region)
        return self.arena


class Receiver:
    """Unpickles what senders sent, large buffers in place.

    Parameters
    ----------
    fd
        The file of all arenas; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._views: Views | None = None

    def loads(self, payload: bytes) -> Any:
        """Return the object that `Sender.dumps` pickled."""
        if payload[0] != MARK:
            return loads(payload)
        pickled, buffers = self.open(payload)
        return loads(pickled, buffers=buffers)

    def open(self, payload: bytes) -> tuple[Any, list[memoryview]]:
        """Return the pickle and the buffers of a payload that begins with MARK."""
        views = self._views or self._look()
        _, flags, count = _HEAD.unpack_from(payload)
        end = _HEAD.size + count * _ENTRY.size
        buffers = [
            views.private_view(offset, length, slot)
            if flags & _PRIVATE
            else views.view(base, size, offset, length, slot)
            for base, size, offset, length, slot in _entries(payload)
        ]
        if flags & _WHOLE:
            return buffers[0], buffers[1:]
        return payload[end:], buffers

    def discard(self, payload: bytes) -> None:
        """Return the blocks of a payload that nobody will look at."""
        if payload[0] == MARK:
            views = self._views or self._look()
            for _, _, offset, _, slot in _entries(payload):
                views.discard(offset, slot)

    def retire(self, region: int) -> None:
        """Take note that a region's owner is gone: give back what nobody here sees of it."""
        held = self._views.retire(region) if self._views is not None else []
        if self._fd >= 0:
            _release_region(self._fd, region, held)

    def _look(self) -> "Views":
        from motorpool.views import Views

        self._views = Views(self._fd)
        return self._views


class Exchange:
    """The parent's end: a file, and what goes through it to workers and from them."""

    def __init__(self) -> None:
        self._fd = -1
        self._reason: str | None = None
        try:
            self._fd = create_file()
        except OSError as error:
            self._reason = str(error)
        self._has_told = False
        self.sender = Sender(self._fd, 0, self.refused)
        self.receiver = Receiver(self._fd)

    def pass_on(self, stand_in: int) -> FileIO:
        """Return a descriptor for a worker to inherit and the caller to close."""
        return opened(os.dup, self._fd if self._fd >= 0 else stand_in)

    def region_of(self, worker: int) -> int:
        """Return the number of the worker's region, 0 if there is no file."""
        return worker if self._fd >= 0 and worker < ARENA_MOST_REGIONS else 0

    def refused(self, reason: object) -> None:
        """Tell once that something large finds no shared memory, here or in a worker."""
        if not self._has_told:
            from motorpool.log import log

            self._has_told = True
            log().warning(
                "large objects take the channels of the workers, which is slower: there is no "
                "shared memory for them: %s",
                self._reason or reason,
            )

    def lost(self, worker: int) -> None:
        """Take back what a worker held, and give back what was its own."""
        self.sender.reclaim(worker)
        self.receiver.retire(worker)

    def close(self) -> None:
        """Give back all that nobody here sees, after the end of all workers."""
        self.sender.close()
        self.forget()

    def forget(self) -> None:
        """Close the file; views of it stay."""
        fd, self._fd = self._fd, -1
        self.sender, self.receiver = Sender(-1, 0), Receiver(-1)
        if fd >= 0:
            os.close(fd)


__all__ = [
    "LARGE",
    "LARGE_PICKLE",
    "MARK",
    "Exchange",
    "Packed",
    "Receiver",
    "Sender",
    "size_of",
    "taker",
]
