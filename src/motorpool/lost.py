"""The errors of `errors.py` that code for executors catches too.

They are imported when one is raised or asked for: `concurrent.futures` takes
as long to import as motorpool.
"""

import signal
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from motorpool.describe import error_text
from motorpool.errors import MotorpoolError, PoolClosedError, RemoteTraceback
from motorpool.sizes import format_size

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:
        # It refuses to be imported as the program ends. So nobody can name that
        # class, but perhaps its base.
        from concurrent.futures import BrokenExecutor as BrokenProcessPool


class PoolTerminatedError(PoolClosedError, CancelledError):
    """The result will never come: the pool was terminated while it was outstanding."""


class TaskCancelledError(MotorpoolError, CancelledError):
    """The result was cancelled by its `cancel` before it was there."""


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
    is_loading
        Whether the item was being unpickled, and the function not called yet.
    bulk
        The positions of the items that were lost together, if they ran in bulk
        and nobody can tell which of them the worker was at; else None.
    memory
        Bytes that the worker had in memory at the most, shared ones included;
        None if that is unknown.
    is_out_of_memory
        Whether the kernel's counters, or those of the cgroup, say that it
        killed a process for want of memory at that time; None if unknown.
    """

    bulk: range | None = None
    memory: int | None = None
    is_out_of_memory: bool | None = None

    def __init__(
        self,
        pid: int,
        exitcode: int | None,
        index: int,
        item: str,
        function: str,
        *,
        is_loading: bool = False,
    ) -> None:
        self.pid = pid
        self.exitcode = exitcode
        self.index = index
        self.item = item
        self.function = function
        self.is_loading = is_loading
        super().__init__(pid, exitcode, index, item, function)

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
        # What a cluster told of its process; not a traceback, if a task passes this error on.
        if self.__cause__ is not None and not isinstance(self.__cause__, RemoteTraceback):
            ended += f" ({error_text(self.__cause__)})"
        return f"{who} {ended} while it {self._work()}.{self._hint()} The pool goes on{how}."

    def _work(self) -> str:
        if self.is_loading:
            return f"unpickled item {self.index} ({self.item}) for {self.function}"
        if self.bulk is not None:
            return (
                f"ran {self.function} in bulk on items {self.bulk[0]} to {self.bulk[-1]}, which "
                f"are lost together, item {self.index} ({self.item}) among them"
            )
        return f"ran {self.function} on item {self.index} ({self.item})"

    def _hint(self) -> str:
        hint = self._hint_of_memory() if self.signal_name == "SIGKILL" else ""
        return hint if self.bulk is None else f"{hint} With chunksize=1 only one would be."

    def _hint_of_memory(self) -> str:
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
            f"{format_size(self.limit)}, while it {self._work()}, and was killed. Make the item "
            f"smaller, or raise the limit. The pool goes on with a new worker."
        )


class WorkerStartError(MotorpoolError, BrokenProcessPool):
    """Workers cannot be started, or the initializer raised; its error is the cause."""


class EngineBrokenError(MotorpoolError, BrokenProcessPool):
    """The executor or cluster that the pool runs on takes no more work; its error is the cause."""


for _kind in (
    PoolTerminatedError,
    TaskCancelledError,
    WorkerLostError,
    MemoryLimitError,
    WorkerStartError,
    EngineBrokenError,
):
    _kind.__module__ = "motorpool.errors"  # where users find it
