"""The receiver's side of an arena: blocks seen in place, and returned when their last view dies.

An array made on a block holds, through its buffer, an exporter of that block.
The end of the exporter is the end of the last view, whoever held it: it is
watched by a weak reference, which marks the block's slot.

Memory is mapped by the C library's own `mmap`, because Python's keeps a
descriptor open for each map, and there may be thousands of arrays.
"""

import ctypes
import mmap
import os
import weakref
from typing import Any

from motorpool.arena import PAGE, RETURNED
from motorpool.messages import ARENA_REGION, ARENA_SLOTS

# So many tables of slots are mapped together.
_TABLES = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Mapping:
    """A part of the file in this process's memory; unmapped when retired and unseen."""

    def __init__(self, fd: int, offset: int, size: int, flags: int) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, access, flags, fd, offset)
        if address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.address: int = address
        self.offset = offset
        self.size = size
        self.type = ctypes.c_char * size
        self.holds: set[int] = set()
        self.is_retired = False

    def unmap_if_unseen(self) -> None:
        """Unmap unless something is seen, or may be in future."""
        # Emptied by one thread only, whichever comes first.
        if self.is_retired and not self.holds and self.__dict__.pop("size", None):
            _libc.munmap(self.address, ctypes.sizeof(self.type))


class _Hold(weakref.ref[Any]):
    """A block that is seen here: a reference to its exporter."""

    __slots__ = ("length", "mapping", "offset", "slot", "slots")

    mapping: _Mapping
    offset: int  # in the file
    length: int
    slot: int  # in the tables
    slots: mmap.mmap | None  # None once the owner is gone


# By identity, because an exporter has no hash. Of the process and not of a
# pool, because arrays outlive the pool that they came through.
_HELD: dict[int, _Hold] = {}
_INHERITED: list[_Hold] = []


def _disown() -> None:
    """In a forked child: what is held is the parent's to return, and stays mapped."""
    _INHERITED.extend(_HELD.values())
    _HELD.clear()


os.register_at_fork(after_in_child=_disown)


def _returned(hold: Any) -> None:
    """Return a block: nobody here sees it any more. Called from a garbage collection, perhaps."""
    if _HELD.pop(id(hold), None) is None:
        return
    mapping, slots = hold.mapping, hold.slots
    if slots is not None:
        slots[hold.slot] = RETURNED
    else:
        address = mapping.address + hold.offset - mapping.offset
        _libc.madvise(address, hold.length, mmap.MADV_REMOVE)
    mapping.holds.discard(id(hold))
    mapping.unmap_if_unseen()


class Views:
    """The blocks of a file that this process sees, whoever lent them.

    Parameters
    ----------
    fd
        The file; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._segments: dict[int, _Mapping] = {}
        self._tables: dict[int, mmap.mmap] = {}

    def view(self, base: int, segment_size: int, offset: int, length: int, slot: int) -> memoryview:
        """Return the writable contents of a block."""
        mapping = self._segments.get(base)
        if mapping is None:
            mapping = _Mapping(self._fd, base, segment_size, mmap.MAP_SHARED)
            self._segments[base] = mapping
        return self._view(mapping, offset, length, slot)

    def private_view(self, offset: int, length: int, slot: int) -> memoryview:
        """Return the contents of a block that others see too; what is written stays here."""
        mapping = _Mapping(self._fd, offset, length, mmap.MAP_PRIVATE)
        mapping.is_retired = True
        return self._view(mapping, offset, length, slot)

    def _view(self, mapping: _Mapping, offset: int, length: int, slot: int) -> memoryview:
        exporter = mapping.type.from_address(mapping.address)
        hold = _Hold(exporter, _returned)
        region = offset // ARENA_REGION - 1
        hold.mapping, hold.offset = mapping, offset
        hold.length = -(-length // PAGE) * PAGE
        hold.slots = self._table(region)
        hold.slot = region % _TABLES * ARENA_SLOTS + slot
        mapping.holds.add(id(hold))
        _HELD[id(hold)] = hold
        start = offset - mapping.offset
        return memoryview(exporter).cast("B")[start : start + length]

    def _table(self, region: int) -> mmap.mmap:
        number = region // _TABLES
        table = self._tables.get(number)
        if table is None:
            size = _TABLES * ARENA_SLOTS
            table = self._tables[number] = mmap.mmap(self._fd, size, offset=number * size)
        return table

    def retire(self, region: int) -> list[tuple[int, int]]:
        """Take note that a region's owner is gone; return what is still seen of it."""
        held: list[tuple[int, int]] = []
        for base in [base for base in self._segments if base // ARENA_REGION == region + 1]:
            mapping = self._segments.pop(base)
            for hold in [_HELD.get(number) for number in list(mapping.holds)]:
                if hold is not None:
                    hold.slots = None
                    held.append((hold.offset, hold.length))
            mapping.is_retired = True
            mapping.unmap_if_unseen()
        return held
