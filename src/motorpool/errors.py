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
import signal
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import TimeoutError as _MultiprocessingTimeoutError
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from motorpool.sizes import format_size

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


class PoolClosedError(MotorpoolError, ValueError):
    """The pool takes no more work: it was closed or terminated."""


class PoolTerminatedError(PoolClosedError, CancelledError):
    """The result will never come: the pool was terminated while it was outstanding."""


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


class TaskCancelledError(MotorpoolError, CancelledError):
    """The result was cancelled by its `cancel` before it was there."""


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
    """

    def __init__(self, exc: str, value: str, function: str, pid: int) -> None:
        MaybeEncodingError.__init__(self, exc, value)
        self.exc = exc
        self.value = value
        self.args = (exc, value, function, pid)

    def __str__(self) -> str:
        """Say what cannot be sent, and what to do."""
        exc, value, function, pid = self.args
        return (
            f"The result of {function}, {value}, cannot be sent back from worker {pid}: {exc}. "
            f"Return plain data, or give its class a `__getstate__`."
        )

    def __repr__(self) -> str:
        """Name the class and what happened."""
        return f"{type(self).__name__}({str(self)!r})"


class ResultNotLoadedError(MotorpoolError, pickle.UnpicklingError):
    """An item or a result arrived, but its unpickling raised; the cause says what."""


class WorkerLostError(MotorpoolError, BrokenProcessPool):
    """A worker process ended while it ran an item; only that item is lost.

    Attributes
    ----------
    pid, exitcode
        Of the worker; the exit code as in `multiprocessing.Process.exitcode`,
        negative for a signal.
    index
        The item's position in the submitted iterable.
    item, function
        The item's short repr, and the function's name.
    memory
        Bytes that the worker had in memory at the most, shared ones included;
        None if that is unknown.
    is_out_of_memory
        Whether the kernel's counters, or those of the cgroup, say that it
        killed a process for want of memory at that time; None if unknown.
    """

    memory: int | None = None
    is_out_of_memory: bool | None = None

    def __init__(
        self, pid: int, exitcode: int | None, index: int, item: str, function: str, doing: str
    ) -> None:
        self.pid = pid
        self.exitcode = exitcode
        self.index = index
        self.item = item
        self.function = function
        self.doing = doing
        super().__init__(pid, exitcode, index, item, function, doing)

    @property
    def signal_name(self) -> str | None:
        """The signal that killed the worker, such as ``SIGKILL``; None if it exited."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return f"signal {-self.exitcode}"

    def __str__(self) -> str:
        """Say who died of what, at which item, and what to do."""
        if self.signal_name is not None:
            ended = f"was killed by {self.signal_name}"
        elif self.exitcode is None:
            ended = "ended"
        else:
            ended = f"exited with code {self.exitcode}"
        who = f"Worker {self.pid}" if self.pid else "A remote worker"
        how = " with a new worker" if self.pid else ""
        if self.__cause__ is not None:
            ended += f" ({type(self.__cause__).__name__}: {self.__cause__})"
        return (
            f"{who} {ended} while {self.doing} item {self.index}, {self.item}, "
            f"for {self.function}.{self._hint()} The pool goes on{how}."
        )

    def _hint(self) -> str:
        if self.signal_name != "SIGKILL":
            return ""
        peak = f" It had up to {format_size(self.memory)} in memory." if self.memory else ""
        if self.is_out_of_memory:
            return (
                f" Likely out of memory: the kernel killed a process for that just now.{peak} "
                f"Use fewer workers, or set memory_limit."
            )
        if self.is_out_of_memory is None:
            return (
                f" If nobody sent that signal, look for the kernel's out-of-memory killer "
                f"(dmesg).{peak}"
            )
        return " It was not for want of memory: somebody sent that signal."


class MemoryLimitError(WorkerLostError, MemoryError):
    """A task used more memory than `memory_limit` allows, and was killed with its worker.

    Attributes
    ----------
    size, limit
        In bytes: what the worker alone used when it was killed, and what it
        might use. The others as in `WorkerLostError`.
    """

    size = 0
    limit = 0

    def __str__(self) -> str:
        """Say which item of what used how much, and what to do."""
        return (
            f"Worker {self.pid} used {format_size(self.size)}, more than memory_limit="
            f"{format_size(self.limit)}, while {self.doing} item {self.index}, {self.item}, for "
            f"{self.function}, and was killed. Make the item smaller, or raise the limit. The "
            f"pool goes on with a new worker."
        )


class WorkerStartError(MotorpoolError, BrokenProcessPool):
    """Workers cannot be started, or the initializer raised; its error is the cause."""


class EngineNotInstalledError(MotorpoolError, ImportError):
    """The engine asked for needs a package that is not installed."""


class EngineBrokenError(MotorpoolError, BrokenProcessPool):
    """The executor or cluster that the pool runs on takes no more work; its error is the cause."""


class ForkedPoolError(MotorpoolError, RuntimeError):
    """The pool was made by the parent of this forked process; make one here."""


class InternalError(MotorpoolError, RuntimeError):
    """A mistake of motorpool's own; please report it with this text."""
