"""Argument checks: wrong values raise in the caller's thread, before anything starts."""

import operator
import os

from motorpool.cpus import cpu_count
from motorpool.engines.base import Limits
from motorpool.worker.threads import THREAD_VARIABLES


def check_processes(processes: int | None) -> int | None:
    """Return the number of workers that `processes` asks for, None for as many as there may be."""
    if processes is None:
        return None
    processes = operator.index(processes)
    if processes < 1:
        msg = f"Number of processes must be at least 1, not {processes!r}"
        raise ValueError(msg)
    return processes


def check_limits(
    memory_limit: int | str | None, threads_per_worker: int | None, processes: int | None
) -> Limits:
    """Return what each worker may use."""
    memory = 0
    if memory_limit is not None:
        from motorpool.sizes import parse_size

        memory = parse_size(memory_limit, "memory_limit")
    if threads_per_worker is not None:
        threads = operator.index(threads_per_worker)
        if threads < 1:
            msg = f"threads_per_worker must be at least 1, not {threads_per_worker!r}"
            raise ValueError(msg)
        return Limits(memory, threads)
    # Together, the workers' threads are as many as the CPUs.
    if any(name in os.environ for name in THREAD_VARIABLES):
        return Limits(memory)
    cpus = cpu_count()
    return Limits(memory, -max(1, cpus // (processes or cpus)))


def check_initializer(initializer: object) -> None:
    """Refuse what cannot be called."""
    if initializer is not None and not callable(initializer):
        msg = f"initializer must be a callable, not {type(initializer).__name__}"
        raise TypeError(msg)


def check_tasks(tasks: object) -> None:
    """Refuse a `maxtasksperchild` that is no count."""
    if tasks is not None and (not isinstance(tasks, int) or tasks < 1):
        msg = f"maxtasksperchild must be a positive int or None, not {tasks!r}"
        raise ValueError(msg)


def check_chunksize(chunksize: int | None) -> None:
    """Refuse a chunk size that is no count."""
    if chunksize is not None and chunksize < 1:
        msg = (
            f"Chunksize must be 1+, not {chunksize!r}: it counts items. "
            f"Leave it out, and it follows the measured cost of an item."
        )
        raise ValueError(msg)


def check_callable(func: object) -> None:
    """Refuse a function that cannot be called."""
    if not callable(func):
        msg = f"{func!r} is not callable; pass a function and, apart, its arguments"
        raise TypeError(msg)
