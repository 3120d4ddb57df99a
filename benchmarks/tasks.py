"""What workers are asked to do. Importable, because most peers send functions by name."""

import time
from itertools import repeat
from time import perf_counter, thread_time


def same(item: object) -> object:
    """Return the item."""
    return item


def increment(number: int) -> int:
    """Return the next number."""
    return number + 1


def spin(loops: int) -> tuple[int, float]:
    """Keep a core busy; return `loops` and the seconds of CPU that they took.

    Cores of one machine differ in speed from second to second, so that the same
    loops may take half as long again: what they took is measured where they ran.
    """
    begun = thread_time()
    for _ in repeat(None, loops):
        pass
    return loops, thread_time() - begun


def nap(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds


def loops_per_second() -> float:
    """Return how fast `spin` is on this machine when it has a core to itself."""
    loops = 200_000
    best = min(_timed(loops) for _ in range(30))
    return loops / best


def _timed(loops: int) -> float:
    begun = perf_counter()
    spin(loops)
    return perf_counter() - begun
