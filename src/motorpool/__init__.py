"""motorpool: the drop-in `multiprocessing.Pool` that keeps its promises.

>>> from motorpool import Pool
>>> with Pool(2) as pool:
...     pool.map(abs, [-1, -2])
[1, 2]
"""

import importlib as _importlib

from motorpool import typed as _typing

if _typing.TYPE_CHECKING:
    from motorpool.cpus import cpu_count
    from motorpool.errors import (
        EngineBrokenError,
        EngineNotInstalledError,
        ForkedPoolError,
        InternalError,
        MemoryLimitError,
        MotorpoolError,
        NotPicklableError,
        PoolClosedError,
        PoolTerminatedError,
        ResultNotLoadedError,
        ResultNotPicklableError,
        TaskCancelledError,
        TaskTimeoutError,
        TimeoutError,  # noqa: A004 - the stdlib's name for it
        WorkerLostError,
        WorkerStartError,
    )
    from motorpool.iterators import IMapIterator, IMapUnorderedIterator
    from motorpool.keywords import MapOptions, TaskOptions
    from motorpool.pool import Pool, ThreadPool
    from motorpool.results import AsyncResult, MapResult

__version__ = "0.1.0"

_HOMES = {
    "cpus": ("cpu_count",),
    "errors": (
        "EngineBrokenError",
        "EngineNotInstalledError",
        "ForkedPoolError",
        "InternalError",
        "MemoryLimitError",
        "MotorpoolError",
        "NotPicklableError",
        "PoolClosedError",
        "PoolTerminatedError",
        "ResultNotLoadedError",
        "ResultNotPicklableError",
        "TaskCancelledError",
        "TaskTimeoutError",
        "TimeoutError",
        "WorkerLostError",
        "WorkerStartError",
    ),
    "iterators": ("IMapIterator", "IMapUnorderedIterator"),
    "keywords": ("MapOptions", "TaskOptions"),
    "pool": ("Pool", "ThreadPool"),
    "results": ("AsyncResult", "MapResult"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncResult",
    "EngineBrokenError",
    "EngineNotInstalledError",
    "ForkedPoolError",
    "IMapIterator",
    "IMapUnorderedIterator",
    "InternalError",
    "MapOptions",
    "MapResult",
    "MemoryLimitError",
    "MotorpoolError",
    "NotPicklableError",
    "Pool",
    "PoolClosedError",
    "PoolTerminatedError",
    "ResultNotLoadedError",
    "ResultNotPicklableError",
    "TaskCancelledError",
    "TaskOptions",
    "TaskTimeoutError",
    "ThreadPool",
    "TimeoutError",
    "WorkerLostError",
    "WorkerStartError",
    "cpu_count",
]


def __getattr__(name: str) -> _typing.Any:
    # Workers import this package too, and few of its parts.
    home = _HOME_OF.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(_importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
