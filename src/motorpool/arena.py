"""Shared memory in which large buffers travel: written by its owner, read in place elsewhere.

One anonymous memory file per pool, sparse, holds an arena for the parent and
one for each worker, each in a *region* of its own. To a region
belong a table of *slots* and *segments*, which are mapped whole, and in them *blocks*. Lending a
block takes a slot. Whoever lets its last view die marks the slot, and the owner
finds the mark when it next needs room: no message, no lock.

Guarantees
----------
- A block that is lent is neither written nor given back to the system.
- A block that came back is used again before fresh memory is: copying into
  memory that is mapped already is several times faster.
- What the system refuses raises OSError before anything is lent.
"""

import bisect
import mmap
import os
from contextlib import suppress

from motorpool.messages import ARENA_REGION, ARENA_SLOTS
from motorpool.typed import NamedTuple

PAGE = mmap.PAGESIZE
# The least size of a segment; each is as large as all before it, up to a limit.
SEGMENT = 64 << 20
MOST_SEGMENT = 4 << 30

# States of a slot.
LENT = 1
RETURNED = 2

_POPULATE_READ = 22  # madvise, from Linux 5.14 on


def release(fd: int, begin: int, end: int, held: list[tuple[int, int]]) -> None:
    """Give back the memory from `begin` to `end`, but for `held`, (offset, size) pairs."""
    for offset, size in [*sorted(held), (end, 0)]:
        _release(fd, begin, offset)
        begin = offset + size


def _release(fd: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            begin = os.lseek(fd, begin, os.SEEK_DATA)
            stop = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        except OSError:  # no data beyond
            return
        if begin < end:
            with mmap.mmap(fd, stop - begin, offset=begin) as mapped:
                mapped.madvise(mmap.MADV_REMOVE)
        begin = stop


class Extents:
    """Free ranges of a line; neighbours are merged, the lowest that fits is taken."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._sizes: list[int] = []
        self.total = 0

    def __iter__(self) -> "zip[tuple[int, int]]":
        """Iterate over (start, size), lowest first."""
        return zip(self._starts, self._sizes, strict=True)

    def take(self, size: int) -> int | None:
        """Take a range of `size` and return its start, None if none is free."""
        if size > self.total:
            return None
        sizes = self._sizes
        for at, free in enumerate(sizes):
            if free >= size:
                start = self._starts[at]
                if free == size:
                    del self._starts[at], sizes[at]
                else:
                    self._starts[at] += size
                    sizes[at] -= size
                self.total -= size
                return start
        return None

    def add(self, start: int, size: int) -> None:
        """Make a range free."""
        starts, sizes = self._starts, self._sizes
        self.total += size
        at = bisect.bisect(starts, start)
        if at < len(starts) and starts[at] == start + size:
            size += sizes[at]
            del starts[at], sizes[at]
        if at and starts[at - 1] + sizes[at - 1] == start:
            sizes[at - 1] += size
        else:
            starts.insert(at, start)
            sizes.insert(at, size)

    def cut(self, keep: int) -> list[tuple[int, int]]:
        """Take ranges, highest first, until no more than about `keep` is free; return them."""
        taken: list[tuple[int, int]] = []
        while self.total > keep and self._starts:
            start, size = self._starts.pop(), self._sizes.pop()
            taken.append((start, size))
            self.total -= size
        return taken


class Segment(NamedTuple):
    """A part of the file that is mapped whole."""

    base: int
    size: int
    map: mmap.mmap
    view: memoryview


class Block:
    """A range of the file, and how many holders it has: slots, and whoever put it there."""

    __slots__ = ("base", "holders", "is_mapped", "length", "offset", "segment_size", "size")

    def __init__(
        self, segment: Segment, offset: int, size: int, length: int, *, is_mapped: bool
    ) -> None:
        self.base = segment.base
        self.segment_size = segment.size
        self.offset = offset  # in the file
        self.size = size  # in whole pages
        self.length = length
        self.is_mapped = is_mapped
        self.holders = 0


class Arena:
    """The owner's side: finds room, copies in, and takes back what came back.

    Parameters
    ----------
    fd
        The file; it stays the caller's.
    region
        Number of this arena's part of the file.
    """

    def __init__(self, fd: int, region: int) -> None:
        self._fd = fd
        self._slots = mmap.mmap(fd, ARENA_SLOTS, offset=region * ARENA_SLOTS)
        self._begin = self._end = (region + 1) * ARENA_REGION
        self._bases: list[int] = []
        self._segments: list[Segment] = []
        self._warm = Extents()  # memory that is there, and mapped
        self._unmapped = Extents()  # memory that is there
        self._cold = Extents()
        self._lent: dict[int, tuple[Block, int]] = {}
        self._spare: list[int] = []
        self._top = 0  # the end of the slots that were ever used

    @property
    def is_in_use(self) -> bool:
        """Whether any block is lent, or memory held that no block uses."""
        return bool(self._lent or self._warm.total or self._unmapped.total)

    # Blocks.

    def put(self, data: memoryview) -> Block:
        """Return a block with a copy of `data`, to be dropped; raises OSError without memory."""
        self.collect()
        size = -(-data.nbytes // PAGE) * PAGE
        offset = self._warm.take(size)
        if offset is None and (offset := self._unmapped.take(size)) is not None:
            self._map(offset, size)
        is_mapped = offset is not None
        if offset is None:
            offset = self._take_cold(size)
            self._fill_cold(offset, size, data)
        segment = self._segment_of(offset)
        if is_mapped:
            begin = offset - segment.base
            segment.view[begin : begin + data.nbytes] = data
        block = Block(segment, offset, size, data.nbytes, is_mapped=is_mapped)
        block.holders = 1
        return block

    def _map(self, offset: int, size: int) -> None:
        segment = self._segment_of(offset)
        with suppress(OSError):  # Many times faster than a fault a page.
            segment.map.madvise(_POPULATE_READ, offset - segment.base, size)

    def _take_cold(self, size: int) -> int:
        offset = self._cold.take(size)
        if offset is None and self._warm.total + self._unmapped.total + self._cold.total >= size:
            # There may be room that is warm in part only.
            self.trim(0)
            offset = self._cold.take(size)
        if offset is None:
            self._add_segment(size)
            offset = self._cold.take(size)
        assert offset is not None  # noqa: S101 - for the type checker
        return offset

    def _fill_cold(self, offset: int, size: int, data: memoryview) -> None:
        """Write where there is no memory yet.

        The system call spares the zeros that a fault would write first, and it
        raises where a fault that finds no memory would end the process. What is
        used once is never mapped here: that takes a third as long again.
        """
        written = 0
        try:
            while written < data.nbytes:
                written += os.pwrite(self._fd, data[written:], offset + written)
        except OSError:
            self._remove(offset, size)
            raise

    def _remove(self, offset: int, size: int) -> None:
        segment = self._segment_of(offset)
        segment.map.madvise(mmap.MADV_REMOVE, offset - segment.base, size)
        self._cold.add(offset, size)

    def _segment_of(self, offset: int) -> Segment:
        return self._segments[bisect.bisect(self._bases, offset) - 1]

    def _add_segment(self, size: int) -> None:
        base = self._end
        size = max(size, SEGMENT, min(base - self._begin, MOST_SEGMENT) // PAGE * PAGE)
        if base + size > self._begin + ARENA_REGION:
            raise OSError(28, "the arena is full")
        mapped = mmap.mmap(self._fd, size, offset=base)
        self._segments.append(Segment(base, size, mapped, memoryview(mapped)))
        self._bases.append(base)
        self._cold.add(base, size)
        # The page between keeps free ranges of two segments from being merged.
        self._end = base + size + PAGE

    # Lending.

    def lend(self, block: Block, holder: int) -> int:
        """Lend a block to `holder`; return the slot's place in the file."""
        if self._spare:
            slot = self._spare.pop()
        elif self._top < ARENA_SLOTS:
            slot = self._top
            self._top += 1
        else:
            raise OSError(28, "all slots are taken")
        self._slots[slot] = LENT
        self._lent[slot] = block, holder
        block.holders += 1
        return slot

    def drop(self, block: Block) -> None:
        """Take note that a block has a holder fewer; it is free after the last."""
        block.holders -= 1
        if not block.holders:
            free = self._warm if block.is_mapped else self._unmapped
            free.add(block.offset, block.size)

    def collect(self) -> None:
        """Take back what holders have returned."""
        slots = self._slots
        at = -1
        while (at := slots.find(_RETURNED, at + 1, self._top)) >= 0:
            self._take_back(at)

    def reclaim(self, holder: int) -> None:
        """Take back all that was lent to a holder that is dead."""
        for slot, (_, lent_to) in list(self._lent.items()):
            if lent_to == holder:
                self._take_back(slot)

    def _take_back(self, slot: int) -> None:
        self._slots[slot] = 0
        block, _ = self._lent.pop(slot)
        self._spare.append(slot)
        self.drop(block)

    # Giving memory back to the system.

    def trim(self, keep: int) -> None:
        """Give free memory back, except for about `keep` bytes."""
        for free in (self._warm, self._unmapped):
            for offset, size in free.cut(keep):
                self._remove(offset, size)
            keep = max(0, keep - free.total)

    def close(self) -> None:
        """Give all memory back: nobody looks at it any more."""
        for segment in self._segments:
            segment.map.madvise(mmap.MADV_REMOVE)
            segment.view.release()
            segment.map.close()
        self._segments.clear()
        self._bases.clear()
        self._slots.close()


_RETURNED = bytes([RETURNED])
