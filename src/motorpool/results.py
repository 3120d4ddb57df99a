"""What a caller waits on: the results of calls and of maps; `iterators.py` has those of `imap`.

A job's *record* is the driver's side of it: where values go, and what happens
when all are there. `AsyncResult` and `MapResult` are their own records.
"""

import multiprocessing.pool
import time
from collections.abc import Callable

from motorpool import errors
from motorpool.describe import short_repr
from motorpool.errors import (
    MotorpoolError,
    TimeoutError,  # noqa: A004 - the stdlib's name
)
from motorpool.typed import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from motorpool.unseen import Unseen

if TYPE_CHECKING:
    from types import GenericAlias
    from typing import NoReturn

R = TypeVar("R")
Callback = Callable[[Any], object]


class Waiting(Protocol):
    """What results need of the driver."""

    def wait_until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, or sleep while another thread does, until `is_done()` or the deadline."""

    def await_call(self, result: "AsyncResult[Any]") -> bool:
        """Wait for `result` if it is the direct call; return whether it is ready."""

    def call_back(self, callback: Callback, value: object, done: Callable[[], None]) -> None:
        """Have the callback thread call `callback(value)`, then `done()`."""

    def in_callback(self) -> bool:
        """Tell whether this is the callback thread."""

    def consumed(self, job: int, count: int, *, starved: bool) -> None:
        """Take note that an iterator took `count` results."""

    def run_ahead(self, number: int) -> None:
        """Run a stream to its end, whether anybody reads it or not."""

    def let_go(self, pool: object, /) -> None:
        """Drop a reference to the pool, perhaps the last, at a moment when no lock is held."""

    def abandon(self, job: int) -> None:
        """Take note, from a garbage collection perhaps, that nobody wants a job's results."""

    def stop(self, record: Any, error: BaseException) -> bool:
        """End the job of `record` with `error` at once; return whether it was outstanding."""


def deadline_of(timeout: float | None) -> float | None:
    """Return when `timeout` seconds from now will be, None for never."""
    if timeout is None:
        return None
    try:
        return time.monotonic() + max(0.0, timeout)  # in this order, NaN is no time at all
    except TypeError:
        msg = f"timeout must be a number of seconds or None, not {short_repr(timeout)}"
        raise TypeError(msg) from None


class AsyncResult(multiprocessing.pool.AsyncResult, Generic[R]):  # type: ignore[type-arg]
    """The result of `apply_async`, as `multiprocessing.pool.AsyncResult`.

    Examples
    --------
    >>> from motorpool import Pool
    >>> with Pool(2) as pool:
    ...     pool.apply_async(pow, (2, 10)).get()
    1024
    """

    if TYPE_CHECKING:
        __class_getitem__: Callable[[Any], GenericAlias]

    job = -1  # on the pool's books
    stops = False
    _is_cancelled = False
    # An error that nobody has asked for yet.
    _unseen: Unseen | None = None
    # Here and not in `__init__`, where they would cost a call a tenth of its time.
    _has_callback = False
    _callback: Callback | None = None
    _error_callback: Callback | None = None
    _is_complete = False
    _is_ready = False
    _error: BaseException | None = None
    _value: Any = None
    is_abandoned = False

    def __init__(
        self,
        driver: Waiting,
        pool: object,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._driver = driver
        # Keeps the pool from being collected as long as this is outstanding.
        self._pool = pool
        if callback is not None or error_callback is not None:
            self._has_callback = True
            self._callback = callback
            self._error_callback = error_callback

    def __reduce__(self) -> "NoReturn":
        """Refuse: only the pool's own process can wait for it."""
        msg = "a pool's result cannot be pickled or passed to a process; pass what get() returns"
        raise NotImplementedError(msg)

    def ready(self) -> bool:
        """Return whether the call is finished, callback included.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(abs, (-1,))
        ...     result.wait()
        ...     result.ready()
        True
        """
        return self._is_ready

    def successful(self) -> bool:
        """Return whether the call finished without an exception.

        Raises
        ------
        ValueError
            If it is not finished yet.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(int, ("one",))
        ...     result.wait()
        ...     result.successful()
        False
        """
        if not self._is_ready:
            msg = f"{self!r} not ready"
            raise ValueError(msg)
        self._see()
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or for `timeout` seconds; raise nothing of the task's.

        Examples
        --------
        >>> import time
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(time.sleep, (60,))
        ...     result.wait(0.01)
        ...     result.ready()
        False
        """
        if self._is_ready:
            return
        if timeout is None and self._driver.await_call(self):
            return
        is_done = self._seems_ready
        if self._has_callback and self._driver.in_callback():
            is_done = self._seems_done
        deadline = None if timeout is None else deadline_of(timeout)
        if not self._driver.wait_until(is_done, deadline):
            self.is_abandoned = True

    def get(self, timeout: float | None = None) -> R:
        """Return the result once it is there.

        Parameters
        ----------
        timeout
            Seconds to wait at the most; None for as long as it takes.

        Raises
        ------
        motorpool.TimeoutError
            If the result is not there in time. The task goes on; leaving the
            pool's `with` block will cancel it.
        Exception
            What the task raised, with the worker's traceback as its cause.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     pool.apply_async(int, ("ff", 16)).get(timeout=60)
        255
        """
        if not self._is_ready:
            self.wait(timeout)
        if not self._is_complete:
            msg = f"no result within {timeout} s; the task is still queued or running"
            raise TimeoutError(msg)
        self.is_abandoned = False
        if self._error is not None:
            self._see()
            try:
                raise self._error
            finally:
                del self  # breaks the cycle of error, traceback, frame and result
        value: R = self._value
        return value

    def _see(self) -> None:
        if self._unseen is not None:
            self._unseen.is_asked_for()

    def cancel(self) -> bool:
        """Cancel the call, and return whether that succeeded: False if it was finished already.

        What waits is never run. What is running is ended with its worker, which
        is replaced; only its own item is lost. A thread cannot be ended: it is
        left alone with its task and replaced. `get` then raises
        `TaskCancelledError`, and the error callback is called with it.

        Examples
        --------
        >>> import time
        >>> from motorpool import Pool, TaskCancelledError
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(time.sleep, (60,))
        ...     result.cancel()
        ...     try:
        ...         result.get()
        ...     except TaskCancelledError:
        ...         print("cancelled")
        True
        cancelled
        """
        if not self._is_complete and self._driver.stop(self, cancelled()):
            self._is_cancelled = True
            self._see()  # Whoever cancels knows.
        return self._is_cancelled

    def cancelled(self) -> bool:
        """Return whether `cancel` has succeeded.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(abs, (-1,))
        ...     result.wait()
        ...     result.cancel(), result.cancelled()
        (False, False)
        """
        return self._is_cancelled

    def _seems_done(self) -> bool:
        return self._is_complete

    def _seems_ready(self) -> bool:
        return self._is_ready

    # The record: called by the driver.

    def store(self, start: int, values: Any, errors: dict[int, BaseException] | None) -> None:
        """Take values from position `start` on."""
        del start
        if errors:
            self._error = errors[0]
        else:
            self._value = values[0]

    def resolve(self, value: object) -> None:
        """Take the one value, and finish."""
        self._value = value
        if self._has_callback:
            self.finish()
        else:
            self._is_complete = self._is_ready = True
            pool, self._pool = self._pool, None
            self._driver.let_go(pool)

    def fail(self, index: int, error: BaseException) -> None:
        """Take an item's exception."""
        del index
        self._error = error

    def finish(self) -> None:
        """All is there: call back, then be ready."""
        self._is_complete = True
        callback = self._callback if self._error is None else self._error_callback
        self._callback = self._error_callback = None
        if callback is None:
            if self._error is not None:
                self._unseen = Unseen(self._error)
            self._be_ready()
        else:
            value = self._value if self._error is None else self._error
            self._driver.call_back(callback, value, self._be_ready)

    def _be_ready(self) -> None:
        self._is_ready = True
        pool, self._pool = self._pool, None
        self._driver.let_go(pool)

    def give_up(self, error: BaseException) -> None:
        """End with `error`, whatever is there already."""
        self._error = error
        self.finish()

    def fail_all(self, error: BaseException) -> None:
        """End with `error`, whatever is there already, and call nobody back."""
        if self._is_ready:  # An interrupt came before it was off the books.
            return
        self._error = error
        if _is_news(error):
            self._unseen = Unseen(error)
        self._is_complete = True
        self._callback = self._error_callback = None
        self._be_ready()


def _is_news(error: BaseException) -> bool:
    """Tell whether an error that ends a job comes from neither `terminate` nor an interrupt."""
    return (
        isinstance(error, MotorpoolError)
        and not isinstance(error, errors.PoolTerminatedError)
        # Ctrl-C in the midst of a step: it is raised by itself, too.
        and isinstance(error.__cause__, (Exception, type(None)))
    )


_SKIPPED = object()


class MapResult(AsyncResult[list[R]], multiprocessing.pool.MapResult):  # type: ignore[type-arg]
    """The result of `map_async` and `starmap_async`, as `multiprocessing.pool.MapResult`.

    Examples
    --------
    >>> with Pool(2) as pool:
    ...     result = pool.map_async(str, [1, 2])
    ...     result.get()
    ['1', '2']
    """

    def __init__(
        self,
        driver: Waiting,
        pool: object,
        callback: Callback | None,
        error_callback: Callback | None,
        length: int,
        on_error: str = "raise",
        chunksize: int | None = None,
    ) -> None:
        super().__init__(driver, pool, callback, error_callback)
        self._chunksize = chunksize or 1
        self.stops = on_error == "stop"
        self._on_error = on_error
        self._value = [None] * length
        self._error_at = length
        self._left = length

    @property
    def _number_left(self) -> int:
        """Number of chunks outstanding, of items by default; progress bars for the stdlib read it.

        They multiply it by the chunk size that they gave, or by `_chunksize`.
        """
        return -(-self._left // self._chunksize)

    def store(self, start: int, values: Any, errors: dict[int, BaseException] | None) -> None:
        """Take values from position `start` on."""
        self._value[start : start + len(values)] = values
        self._left -= len(values)
        for offset, error in (errors or {}).items():
            self._note_error(start + offset, error)

    def fail(self, index: int, error: BaseException) -> None:
        """Take an item's exception."""
        self._left -= 1
        self._note_error(index, error)

    def _note_error(self, index: int, error: BaseException) -> None:
        if self._on_error == "return":
            self._value[index] = error
        elif self._on_error == "skip":
            self._value[index] = _SKIPPED
        elif index < self._error_at:
            # The first by position, whatever the order in which they came.
            self._error_at = index
            self._error = error

    def finish(self) -> None:
        """All is there: call back, then be ready."""
        if self._error is not None:
            self._value = None
        elif self._on_error == "skip":
            self._value = [value for value in self._value if value is not _SKIPPED]
        super().finish()


def cancelled() -> "errors.TaskCancelledError":
    """Return the error of what its caller cancelled."""
    return errors.TaskCancelledError("the call was cancelled before its result was there")


def terminated() -> "errors.PoolTerminatedError":
    """Return the error of what was outstanding when its pool was terminated."""
    return errors.PoolTerminatedError("the pool was terminated before this result was there")


def unwanted() -> "errors.PoolTerminatedError":
    """Return the error of what was cancelled because nobody seemed to want it any more."""
    return errors.PoolTerminatedError(
        "cancelled: when the pool was left, nobody was waiting for this result any more"
    )


__all__ = [
    "AsyncResult",
    "MapResult",
    "Waiting",
    "cancelled",
    "deadline_of",
    "terminated",
    "unwanted",
]
