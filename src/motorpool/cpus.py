"""How many CPUs this process may use."""

import math
import os

from motorpool.kernel import read, upwards

_CGROUP = "/sys/fs/cgroup"


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


def _own_groups() -> list[str]:
    """Return this process's version 2 cgroup and those above it, and version 1's root."""
    groups = [f"{_CGROUP}/cpu"]
    try:
        lines = read("/proc/self/cgroup").decode().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("0::/"):
            groups += upwards(_CGROUP, line[3:])
    return list(dict.fromkeys([*groups, _CGROUP]))


def _quota_of(group: str) -> float | None:
    try:
        fields = read(group + "/cpu.max").split()
        return None if fields[0] == b"max" else int(fields[0]) / int(fields[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        quota = int(read(group + "/cpu.cfs_quota_us"))
        period = int(read(group + "/cpu.cfs_period_us"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
