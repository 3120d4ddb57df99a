"""The receiver's side of an arena: blocks seen in place, and returned when their last view dies.

An array made on a block holds, through its buffer, an exporter of that block.
The end of the exporter is the end of the last view, whoever held it: it is
watched by a weak reference, which marks the block's slot.

Before this process forks, what it sees becomes memory of its own: else parent
and child would write into each other's arrays, and the child would read what
the owner puts into a block that the parent has returned.

Memory is mapped by the C library's own `mmap`, because Python's keeps a
descriptor open for each map, and there may be thousands of arrays.
"""

import ctypes
import errno
import mmap
import os
import weakref

from motorpool.arena import PAGE, RETURNED
from motorpool.log import log
from motorpool.messages import ARENA_REGION, ARENA_SLOTS
from motorpool.typed import Any

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

_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)

_MAP_FIXED = 0x10
_PUNCH_HOLE = 3  # fallocate; the file keeps its size
_POPULATE_WRITE = 23  # madvise, from Linux 5.14 on


class _File:
    """A descriptor of our own, closed with the last who needs it."""

    def __init__(self, fd: int) -> None:
        self.fd = os.dup(fd)
        self._close = os.close

    def __del__(self) -> None:
        self._close(self.fd)


class _Mapping:
    """A part of the file in this process's memory; unmapped when retired and unseen."""

    def __init__(self, file: _File, offset: int, size: int, flags: int) -> None:
        self.address = _map(None, size, flags, file, offset)
        self.file = file
        self.is_private = flags == mmap.MAP_PRIVATE
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

    def own(self, offset: int, length: int) -> None:
        """Make a block private memory of this process, in place; other threads may write to it."""
        address = self.address + offset - self.offset
        self.is_retired = True  # What comes next into these blocks is seen elsewhere.
        if not self.is_private:
            _map(address, length, mmap.MAP_PRIVATE | _MAP_FIXED, self.file, offset)
        # A page is copied when it is written to; from now on nobody may change it for us.
        if _libc.madvise(address, length, _POPULATE_WRITE):
            code = ctypes.get_errno()
            if code != errno.EINVAL:
                raise OSError(code, os.strerror(code))
            for page in range(address, address + length, PAGE):
                byte = ctypes.c_ubyte.from_address(page)
                byte.value = byte.value


def _map(address: int | None, size: int, flags: int, file: _File, offset: int) -> int:
    access = mmap.PROT_READ | mmap.PROT_WRITE
    found = _libc.mmap(address, size, access, flags, file.fd, offset)
    if found == ctypes.c_void_p(-1).value and flags == mmap.MAP_PRIVATE:
        # It takes no memory before it is written to, but counts as data.
        _raise_data_limit(size)
        found = _libc.mmap(address, size, access, flags, file.fd, offset)
    if found == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)


def _raise_data_limit(size: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft + size <= hard):
        resource.setrlimit(resource.RLIMIT_DATA, (soft + size, hard))


class _Hold(weakref.ref[Any]):
    """A block that is seen here: a reference to its exporter."""

    __slots__ = ("is_own", "length", "mapping", "offset", "slot", "slots")

    mapping: _Mapping
    offset: int  # in the file
    length: int
    slot: int  # in the tables
    slots: mmap.mmap | None  # None once the owner is gone
    is_own: bool  # private memory, and already returned


# By identity, because an exporter has no hash. Of the process and not of a
# pool, because arrays outlive the pool that they came through.
_HELD: dict[int, _Hold] = {}


def _own_all() -> None:
    """Before a fork: make what is seen here this process's own."""
    for hold in list(_HELD.values()):
        exporter = hold()  # It must not come to its end meanwhile.
        if exporter is None or hold.is_own:
            continue
        try:
            hold.mapping.own(hold.offset, hold.length)
        except OSError as error:
            _log_shared(hold, error)
        else:
            hold.is_own = True
            _give_back(hold)


def _log_shared(hold: _Hold, error: OSError) -> None:
    log().warning(
        "An array of %d bytes that came from another process is shared with a forked child, "
        "because there is no memory for a copy: %s. The child may see it change.",
        hold.length,
        error,
    )


def _own_inherited() -> None:
    """In a forked child: what is held still is the parent's to return."""
    for hold in _HELD.values():
        hold.is_own = True


os.register_at_fork(before=_own_all, after_in_child=_own_inherited)


def _returned(hold: Any) -> None:
    """Return a block: nobody here sees it any more. Called from a garbage collection, perhaps."""
    if _HELD.pop(id(hold), None) is None:
        return
    mapping = hold.mapping
    if hold.is_own:
        address = mapping.address + hold.offset - mapping.offset
        _libc.madvise(address, hold.length, mmap.MADV_DONTNEED)
    else:
        _give_back(hold)
    mapping.holds.discard(id(hold))
    mapping.unmap_if_unseen()


def _give_back(hold: _Hold) -> None:
    """Let the owner use a block again, or the system if the owner is gone."""
    if hold.slots is not None:
        hold.slots[hold.slot] = RETURNED
    else:
        _libc.fallocate(hold.mapping.file.fd, _PUNCH_HOLE, hold.offset, hold.length)


class Views:
    """The blocks of a file that this process sees, whoever lent them.

    Parameters
    ----------
    fd
        The file; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._file = _File(fd)
        self._segments: dict[int, _Mapping] = {}
        self._tables: dict[int, mmap.mmap] = {}

    def view(self, base: int, segment_size: int, offset: int, length: int, slot: int) -> memoryview:
        """Return the writable contents of a block."""
        mapping = self._segments.get(base)
        if mapping is None or mapping.is_retired:
            mapping = _Mapping(self._file, base, segment_size, mmap.MAP_SHARED)
            self._segments[base] = mapping
        return self._view(mapping, offset, length, slot)

    def private_view(self, offset: int, length: int, slot: int) -> memoryview:
        """Return the contents of a block that others see too; what is written stays here."""
        mapping = _Mapping(self._file, offset, length, mmap.MAP_PRIVATE)
        mapping.is_retired = True
        return self._view(mapping, offset, length, slot)

    def discard(self, offset: int, slot: int) -> None:
        """Return a block without looking at it."""
        region = offset // ARENA_REGION - 1
        self._table(region)[region % _TABLES * ARENA_SLOTS + slot] = RETURNED

    def _view(self, mapping: _Mapping, offset: int, length: int, slot: int) -> memoryview:
        exporter = mapping.type.from_address(mapping.address)
        hold = _Hold(exporter, _returned)
        region = offset // ARENA_REGION - 1
        hold.mapping, hold.offset, hold.is_own = mapping, offset, False
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
            table = self._tables[number] = mmap.mmap(self._file.fd, size, offset=number * size)
        return table

    def retire(self, region: int) -> list[tuple[int, int]]:
        """Take note that a region's owner is gone; return what is still seen of it."""
        held: list[tuple[int, int]] = []
        for hold in list(_HELD.values()):
            is_of_region = hold.offset // ARENA_REGION == region + 1
            if is_of_region and hold.mapping.file is self._file and not hold.is_own:
                hold.slots = None
                held.append((hold.offset, hold.length))
        for base in [base for base in self._segments if base // ARENA_REGION == region + 1]:
            mapping = self._segments.pop(base)
            mapping.is_retired = True
            mapping.unmap_if_unseen()
        return held
