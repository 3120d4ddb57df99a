"""How many CPUs this process may use."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """Return the number of CPUs this process may use: its affinity, and its cgroup's quota.

    `multiprocessing.cpu_count` counts those of the machine.

    Examples
    --------
    >>> import motorpool
    >>> motorpool.cpu_count() >= 1
    True
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, min(count, math.ceil(quota)) if quota else count)


def _cgroup_quota() -> float | None:
    """Return the cgroup's CPU quota in CPUs, None if there is none."""
    quotas = [quota for group in _own_groups() if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _own_groups() -> list[Path]:
    """Return this process's version 2 cgroup and those above it, and version 1's root."""
    groups = [_CGROUP, _CGROUP / "cpu"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        if line.startswith("0::/"):
            path = Path(line[4:])
            groups += [_CGROUP / part for part in (path, *path.parents)]
    return groups


def _quota_of(group: Path) -> float | None:
    try:
        fields = (group / "cpu.max").read_text().split()
        return None if fields[0] == "max" else int(fields[0]) / int(fields[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
