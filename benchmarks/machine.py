"""Which machine and which versions a run was made on, and how busy others kept it."""

import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, Any]:
    """Return facts about the machine, the interpreter and the contenders."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "versions": {
            kind.module or name: kind.version()
            for name, kind in CONTENDERS.items()
            if kind.module and name != "motorpool-executor"
        },
    }


def _field(file: str, name: str) -> str:
    for row in Path(file).read_text(encoding="utf-8").splitlines():
        if row.startswith(name):
            return row.partition(":")[2].strip()
    return "0"


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used."""
    numbers = [int(word) for word in Path("/proc/stat").read_text("ascii").split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = numbers
    return (user + nice + system + irq + softirq + steal) / _TICKS
