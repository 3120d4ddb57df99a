"""Argument checks: wrong values raise in the caller's thread, before anything starts."""

import operator
import os
from collections.abc import Iterable, Mapping

from motorpool.cpus import cpu_count
from motorpool.describe import short_repr
from motorpool.engines.base import Limits
from motorpool.results import Callback
from motorpool.typed import Any
from motorpool.worker.threads import THREAD_VARIABLES


def check_processes(processes: int | None) -> int | None:
    """Return the number of workers that `processes` asks for, None for as many as there may be."""
    if processes is None:
        return None
    processes = _check_int(processes, "processes")
    if processes < 1:
        msg = f"Number of processes must be at least 1, not {processes!r}"
        raise ValueError(msg)
    return processes


def _check_int(number: Any, name: str) -> int:
    try:
        return operator.index(number)
    except TypeError:
        msg = f"{name} must be an int, not {short_repr(number)}"
        raise TypeError(msg) from None


def check_limits(
    memory_limit: int | str | None, threads_per_worker: int | None, processes: int | None
) -> Limits:
    """Return what each worker may use."""
    memory = 0
    if memory_limit is not None:
        from motorpool.sizes import parse_size

        memory = parse_size(memory_limit, "memory_limit")
    if threads_per_worker is not None:
        threads = _check_int(threads_per_worker, "threads_per_worker")
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


def check_context(context: object) -> None:
    """Refuse what cannot say how workers start."""
    if not hasattr(context, "get_start_method"):
        name = context if isinstance(context, str) else "spawn"
        msg = (
            f"context must be a context of multiprocessing, such as "
            f"multiprocessing.get_context({name!r}), not {context!r}"
        )
        raise TypeError(msg)


def check_initargs(initargs: Iterable[Any]) -> tuple[Any, ...]:
    """Return the initializer's arguments."""
    if not _is_iterable(initargs):
        msg = f"initargs must be a tuple of arguments, not {short_repr(initargs)}"
        raise TypeError(msg)
    return tuple(initargs)


def check_chunksize(chunksize: int | None) -> int | None:
    """Return the chunk size as an int; refuse one that is no count."""
    if chunksize is None:
        return None
    try:
        size = operator.index(chunksize)
    except TypeError:
        msg = f"chunksize must be an int, a number of items, not {short_repr(chunksize)}"
        raise TypeError(msg) from None
    if size < 1:
        msg = (
            f"Chunksize must be 1+, not {size}: it counts items. "
            f"Leave it out, and it follows the measured cost of an item."
        )
        raise ValueError(msg)
    return size


def check_callable(func: object) -> None:
    """Refuse a function that cannot be called."""
    if not callable(func):
        msg = (
            f"{short_repr(func)} is not callable: pass the function itself, not what it returns, "
            f"and its arguments apart"
        )
        raise TypeError(msg)


def check_callback(callback: Callback | None) -> Callback | None:
    """Return the callback, None for what is false, as in the stdlib; refuse what is no callable.

    A callable is called, though it be false: an empty container, for instance.
    """
    if callable(callback):
        return callback
    if callback:
        msg = f"a callback must be a callable or None, not {short_repr(callback)}"
        raise TypeError(msg)
    return None


def check_arguments(args: object, kwds: object) -> None:
    """Refuse what is no arguments of a call."""
    if not _is_iterable(args):
        shown = short_repr(args)
        msg = f"args must be a tuple of the function's arguments, as in ({shown},), not {shown}"
        raise TypeError(msg) from None
    if kwds is not None and not isinstance(kwds, Mapping):
        msg = f"kwds must be a dict of the function's keyword arguments, not {short_repr(kwds)}"
        raise TypeError(msg) from None


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True
