"""What the driver keeps of a job, and the errors of items that no worker can answer for."""

from collections.abc import Callable

from motorpool import errors
from motorpool.describe import function_name, short_repr
from motorpool.engines.base import Function
from motorpool.failures import note
from motorpool.messages import LOADING, FailItem, WorkerLost
from motorpool.typed import Any, NamedTuple, Protocol


class Record(Protocol):
    """Where a job's results go."""

    job: int
    stops: bool  # at its first error

    def store(self, start: int, values: Any, errors: dict[int, BaseException] | None) -> None:
        """Take values from position `start` on."""

    def fail(self, index: int, error: BaseException) -> None:
        """Take an item's exception."""

    def finish(self) -> None:
        """All is there."""

    def fail_all(self, error: BaseException) -> None:
        """End with `error`, as the pool does."""

    def give_up(self, error: BaseException) -> None:
        """End with `error`, as a job that failed or was cancelled: callbacks are called."""


class Job(NamedTuple):
    """What the driver keeps of a job."""

    record: Record
    function: Function
    items: Any  # a sequence, or a feeder's buffer


def start_error(error: BaseException | None, message: str = "") -> errors.MotorpoolError:
    """Return the error of a pool whose workers cannot be started."""
    if isinstance(error, errors.EngineBrokenError):
        return error
    started = errors.WorkerStartError(message or f"the initializer raised {error!r}")
    started.__cause__ = error
    return started


def failed_error(
    command: FailItem, job: Job, stack_of: Callable[[int], str | None]
) -> BaseException:
    """Return the error of an item that failed for good; `stack_of` a worker that was late."""
    # Not by its truth: an exception may be an empty container, or refuse to say.
    error = command.error if command.error is not None else _lost_error(command, job)
    if isinstance(error, errors.TaskTimeoutError) and command.lost is not None:
        error.stack = stack_of(command.lost.worker)
    if command.attempts > 1:
        note(error, f"the last of {command.attempts} attempts")
    return error


def _lost_error(command: FailItem, job: Job) -> BaseException:
    lost: WorkerLost = command.lost  # type: ignore[assignment]
    item = short_repr(job.items[command.item : command.item + 1][0])
    index, name = job.function.position(command.item), function_name(job.function.func)
    if command.seconds is not None:
        # A thread just goes; of the process of a cluster, the cluster tells why.
        is_killed = lost.exitcode is not None or lost.cause is not None
        return errors.TaskTimeoutError(
            lost.pid, command.seconds, index, item, name, is_killed=is_killed
        )
    kind = errors.MemoryLimitError if lost.memory.overrun else errors.WorkerLostError
    error = kind(lost.pid, lost.exitcode, index, item, name, is_loading=lost.at == LOADING)
    begun = range(lost.at, lost.upto)
    if len(begun) > 1 and command.item in begun and not error.is_loading:
        error.bulk = begun
    error.memory = lost.memory.peak
    error.is_out_of_memory = lost.memory.killed_by_kernel
    if isinstance(error, errors.MemoryLimitError):
        error.size, error.limit = lost.memory.overrun, lost.memory.limit
    error.__cause__ = lost.cause
    return error
