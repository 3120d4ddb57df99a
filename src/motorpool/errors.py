"""Every exception of motorpool.

::

    MotorpoolError
    ├── PoolClosedError          (ValueError)       the pool takes no more work
    │   └── PoolTerminatedError  (CancelledError)   the work was thrown away by terminate
    ├── TimeoutError             (multiprocessing.TimeoutError, TimeoutError)
    │   └── TaskTimeoutError                        the task ran for longer than its timeout
    ├── TaskCancelledError       (CancelledError)   the task was cancelled
    ├── NotPicklableError        (PicklingError)    a function or item cannot be sent
    ├── ResultNotPicklableError  (MaybeEncodingError)  a result cannot be sent back
    ├── ResultNotLoadedError     (UnpicklingError)  a result or item arrived and cannot be rebuilt
    ├── WorkerLostError          (BrokenProcessPool)  the worker died at this item
    │   └── MemoryLimitError     (MemoryError)      it used more than memory_limit
    ├── WorkerStartError         (BrokenProcessPool)  no worker starts, or the initializer failed
    ├── EngineNotInstalledError  (ImportError)      the engine needs a package that is missing
    ├── EngineBrokenError        (BrokenProcessPool)  the engine takes no more work
    ├── ForkedPoolError          (RuntimeError)     the pool belongs to the parent process
    └── InternalError                               our bug

`RemoteTraceback`, the worker's traceback as the cause of a task's exception, is
that of `multiprocessing.pool`.
"""

import builtins
import pickle
from _thread import get_ident
from multiprocessing import TimeoutError as _MultiprocessingTimeoutError
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]

from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motorpool.lost import (
        EngineBrokenError,
        MemoryLimitError,
        PoolTerminatedError,
        TaskCancelledError,
        WorkerLostError,
        WorkerStartError,
    )

__all__ = [
    "EngineBrokenError",
    "EngineNotInstalledError",
    "ForkedPoolError",
    "InternalError",
    "MemoryLimitError",
    "MotorpoolError",
    "NotPicklableError",
    "PoolClosedError",
    "PoolTerminatedError",
    "RemoteTraceback",
    "ResultNotLoadedError",
    "ResultNotPicklableError",
    "TaskCancelledError",
    "TaskTimeoutError",
    "TimeoutError",
    "WorkerLostError",
    "WorkerStartError",
]


def __getattr__(name: str) -> Any:
    # They derive from errors of `concurrent.futures`, whose import takes as long as ours.
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    _loading.append(get_ident())
    try:
        from motorpool import lost
    finally:
        _loading.remove(get_ident())
    here = globals()
    here.update({later: getattr(lost, later) for later in __all__ if later not in here})
    return here[name]


# Threads that are in the midst of that import.
_loading: list[int] = []


def is_loading() -> bool:
    """Tell whether this is a signal handler that interrupted the import of some errors."""
    return get_ident() in _loading


class MotorpoolError(Exception):
    """The root of all errors that motorpool raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state: `__init__` is not called again."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MotorpoolError], args: tuple[Any, ...], state: dict[str, Any]) -> object:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def anew(error: BaseException) -> BaseException:
    """Return a copy of an error of ours that is told to several: each raise adds to its own."""
    if not isinstance(error, MotorpoolError):
        return error
    import copy

    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


class PoolClosedError(MotorpoolError, ValueError):
    """The pool takes no more work: it was closed or terminated."""


class TimeoutError(MotorpoolError, _MultiprocessingTimeoutError, builtins.TimeoutError):  # noqa: A001
    """No result within the time given to `get` or `next`; the task goes on."""


class TaskTimeoutError(TimeoutError):
    """A task ran for longer than its `timeout`, and its worker was killed.

    Attributes
    ----------
    pid
        Of the worker; in a `ThreadPool`, the thread's number in the system.
    seconds
        The timeout.
    index
        The item's position in the submitted iterable.
    item, function
        The item's short repr, and the function's name.
    stack
        Where the task was, if that is known.
    """

    def __init__(
        self, pid: int, seconds: float, index: int, item: str, function: str, *, is_killed: bool
    ) -> None:
        self.pid = pid
        self.seconds = seconds
        self.index = index
        self.item = item
        self.function = function
        self.stack: str | None = None
        if is_killed:
            where = f"worker {pid}, which was killed; the pool goes on with a new one"
        else:
            where = f"thread {pid}, which cannot be killed: it was left alone and replaced"
        # One argument: the first two of several would be taken for an `errno` and its text.
        super().__init__(
            f"item {index}, {item}, of {function} ran for longer than its timeout of "
            f"{seconds:g} s, in {where}"
        )

    def __str__(self) -> str:
        """Say what took too long, where, and what became of it."""
        text: str = self.args[0]
        return f"{text}; it was at:\n{self.stack}" if self.stack else text


class NotPicklableError(MotorpoolError, pickle.PicklingError):
    """A function, an argument or an item cannot be sent to a worker.

    Attributes
    ----------
    path
        The way from the object to the part that fails, such as ``.conn.sock``.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as this class, without the pickler's error that it may derive from as well."""
        return _rebuild, (NotPicklableError, self.args, self.__dict__)

    def __init__(self, what: str, path: str, part: str, reason: str) -> None:
        self.path = path
        at = f" because of {path.strip()} ({part})" if path else ""
        super().__init__(
            f"{what} cannot be sent to a worker{at}: {reason}. Leave that part out "
            f"(`__getstate__`), or make it in the worker, for instance in an initializer."
        )


class ResultNotPicklableError(MotorpoolError, MaybeEncodingError):  # type: ignore[misc]
    """A task finished, but its result cannot be sent back.

    Attributes
    ----------
    exc, value
        The pickler's error and the result, as text, as in
        `multiprocessing.pool.MaybeEncodingError`.
    index
        The item's position in the submitted iterable.
    """

    def __init__(
        self, exc: str, value: str, function: str, pid: int, index: int | None = None
    ) -> None:
        MaybeEncodingError.__init__(self, exc, value)
        self.exc = exc
        self.value = value
        self.index = index
        self.args = (exc, value, function, pid)

    def __str__(self) -> str:
        """Say what cannot be sent, and what to do."""
        exc, value, function, pid = self.args
        item = "" if self.index is None else f" on item {self.index}"
        return (
            f"The result of {function}{item}, {value}, cannot be sent back from worker {pid}: "
            f"{exc}. Return plain data, or give its class a `__getstate__`."
        )

    def __repr__(self) -> str:
        """Name the class and what happened."""
        return f"{type(self).__name__}({str(self)!r})"


class ResultNotLoadedError(MotorpoolError, pickle.UnpicklingError):
    """An item or a result arrived, but its unpickling raised; the cause says what."""


class EngineNotInstalledError(MotorpoolError, ImportError):
    """The engine asked for needs a package that is not installed."""


class ForkedPoolError(MotorpoolError, RuntimeError):
    """The pool was made by the parent of this forked process; make one here."""


class InternalError(MotorpoolError, RuntimeError):
    """A mistake of motorpool's own; please report it with this text."""
