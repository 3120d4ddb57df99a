"""What the kernel says of memory: a process's own, the machine's, and who was killed for it.

Everything is read from `/proc` and the cgroups' files. What cannot be read
counts as unknown, and unknown memory limits nothing.
"""

import math
import mmap
import os
import time
from contextlib import suppress

from motorpool.kernel import number, read, upwards
from motorpool.typed import NamedTuple

# How long a count of pages is trusted.
RECOUNT_SECONDS = 1.0
# A reading of kills is renewed after the one, and says nothing after the other.
FRESH_SECONDS = 2.0
STALE_SECONDS = 10.0
_V1 = "/sys/fs/cgroup/memory"
_V2 = "/sys/fs/cgroup"


class Gauge:
    """Tells how many bytes a process uses that no other one does.

    Counted are its private pages, in memory or swapped out. Not counted is what
    it shares: pages that it has had since the fork and that nobody has written
    to, blocks of shared memory, mapped files. A forked process with many of
    them is counted page by page, which takes about 5 ms a gigabyte; so that is
    done only if it has taken enough new ones since to matter.
    """

    def __init__(self, pid: int | str) -> None:
        self._status = f"/proc/{pid}/status"
        self._stat = f"/proc/{pid}/stat"
        self._rollup = f"/proc/{pid}/smaps_rollup"
        self._own = 0  # at the last count
        self._anonymous = 0
        self._faults = 0
        self._counted_at = -RECOUNT_SECONDS

    def read(self, limit: int) -> int | None:
        """Return the bytes; too many perhaps, but not above `limit`. None if it has ended."""
        try:
            status = read(self._status)
            anonymous = _bytes(status, b"RssAnon") + _bytes(status, b"VmSwap")
            if anonymous <= limit:
                return anonymous
            faults = int(read(self._stat).rpartition(b")")[2].split()[7])
            now = time.monotonic()
            # A page of its own comes with a fault, or with many if it is a huge one.
            growth = max(anonymous - self._anonymous, 0) + (faults - self._faults) * mmap.PAGESIZE
            if self._own + growth <= limit and now < self._counted_at + RECOUNT_SECONDS:
                return self._own + growth
            self._own = self._count()
        except (OSError, ValueError, IndexError):
            return None
        self._anonymous, self._faults, self._counted_at = anonymous, faults, now
        return self._own

    def _count(self) -> int:
        rollup = read(self._rollup)
        private = _bytes(rollup, b"Private_Clean") + _bytes(rollup, b"Private_Dirty")
        return min(private, _bytes(rollup, b"Anonymous")) + _bytes(rollup, b"SwapPss")


def _bytes(text: bytes, name: bytes) -> int:
    """Return a size that is given in kilobytes, 0 if it is not given."""
    return (number(text, name) or 0) << 10


def resident_memory() -> tuple[int, int]:
    """Return the bytes that this process has in memory, and had at the most."""
    status = read("/proc/self/status")
    return _bytes(status, b"VmRSS"), _bytes(status, b"VmHWM")


def reset_peak() -> bool:
    """Have the kernel count the most anew; tell whether it does."""
    try:
        with open("/proc/self/clear_refs", "wb") as file:  # noqa: PTH123 - see kernel.py
            file.write(b"5")
    except OSError:
        return False
    return True


class Space(NamedTuple):
    """Bytes of memory that are left, and in all, and whose they are."""

    available: int
    total: int
    of: str


class Room:
    """How much memory is left, for the machine and for the cgroups of this process."""

    def __init__(self) -> None:
        self._groups = memory_groups()

    def read(self) -> list[Space]:
        """Return what is left, and of what."""
        return [space for space in (_machine(), *map(_group, self._groups)) if space is not None]


def _machine() -> Space | None:
    with suppress(OSError):
        text = read("/proc/meminfo")
        total = _bytes(text, b"MemTotal")
        if total:
            return Space(_bytes(text, b"MemAvailable"), total, "the machine")
    return None


def _group(group: str) -> Space | None:
    """Return the same of a cgroup; None if it has no limit."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    # Not `Path.exists`: Ctrl-C in the midst of the exception that it handles shows both.
    if not os.access(f"{group}/{names[0]}", os.R_OK):
        names = ("memory.max", "memory.current")
    try:
        limit, used = (int(read(f"{group}/{name}")) for name in names)
        if limit >= 1 << 60:  # how version 1 says that there is none
            return None
        # Files that were read once are given up before anybody is killed.
        stat = read(f"{group}/memory.stat")
        cached = number(stat, b"total_inactive_file") or number(stat, b"inactive_file") or 0
    except (OSError, ValueError):
        return None
    return Space(limit - max(used - cached, 0), limit, f"the cgroup {group}")


def memory_groups() -> list[str]:
    """Return the directories of the cgroups that count this process's memory."""
    try:
        lines = read("/proc/self/cgroup").decode().splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found += upwards(_V1, path)
        elif not controllers:
            found += upwards(_V2, path)
    # In a container the path may be the host's, and its group mounted as the root.
    found += [_V1, _V2]
    return [group for group in dict.fromkeys(found) if _counts_memory(group)]


def _counts_memory(group: str) -> bool:
    names = "memory.current", "memory.usage_in_bytes"
    return any(os.access(f"{group}/{name}", os.R_OK) for name in names)


class OomKills:
    """The kernel's counts of processes that it killed for want of memory.

    Compared are readings a few seconds apart, so that a kill of long ago says
    nothing of a worker that died just now.
    """

    def __init__(self) -> None:
        self._files: list[str] = []
        self._before: dict[str, int] = {}
        self._latest: dict[str, int] = {}
        self._read_at = -math.inf

    def refresh(self) -> None:
        """Take a reading, if the last one is not fresh: `rose` compares with the one before it."""
        now = time.monotonic()
        age = now - self._read_at
        if age < FRESH_SECONDS:
            return
        if not self._files:
            groups = memory_groups()
            self._files = [
                "/proc/vmstat",
                *(f"{group}/memory.oom_control" for group in groups),  # version 1
                *(f"{group}/memory.events" for group in groups),
            ]
        latest = self._read()
        self._before = self._latest if age < STALE_SECONDS else latest
        self._latest = latest
        self._read_at = now

    def rose(self) -> bool | None:
        """Tell whether a process was killed in the last seconds; None if that is unknown."""
        now = self._read()
        risen = [name for name, count in now.items() if count > self._before.get(name, count)]
        if not now or (risen and time.monotonic() > self._read_at + STALE_SECONDS):
            return None
        for name in risen:  # One kill explains one death.
            self._before[name] += 1
            self._latest[name] = max(self._latest[name], self._before[name])
        return bool(risen)

    def _read(self) -> dict[str, int]:
        found = {}
        for file in self._files:
            with suppress(OSError):
                count = number(read(file), b"oom_kill")
                if count is not None:
                    found[file] = count
        return found


OOM_KILLS = OomKills()
