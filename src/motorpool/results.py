"""What a caller waits on: results of jobs, and iterators over results.

A job's *record* is the driver's side of it: where values go, and what happens
when all are there. `AsyncResult` and `MapResult` are their own records; an
iterator has a `Stream`, so that dropping the iterator can cancel the job.
"""

import multiprocessing.pool
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from motorpool.errors import (
    MotorpoolError,
    PoolTerminatedError,
    TaskCancelledError,
    TimeoutError,  # noqa: A004 - the stdlib's name
)
from motorpool.unseen import Unseen

if TYPE_CHECKING:
    from types import GenericAlias

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

    def let_go(self, pool: object, /) -> None:
        """Drop a reference to the pool, perhaps the last, at a moment when no lock is held."""

    def abandon(self, job: int) -> None:
        """Take note, from a garbage collection perhaps, that nobody wants a job's results."""

    def stop(self, record: Any, error: BaseException) -> bool:
        """End the job of `record` with `error` at once; return whether it was outstanding."""


def deadline_of(timeout: float | None) -> float | None:
    """Return when `timeout` seconds from now will be, None for never."""
    return None if timeout is None else time.monotonic() + max(timeout, 0.0)


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

    def ready(self) -> bool:
        """Return whether the call is finished, callback included."""
        return self._is_ready

    def successful(self) -> bool:
        """Return whether the call finished without an exception.

        Raises
        ------
        ValueError
            If it is not finished yet.
        """
        if not self._is_ready:
            msg = f"{self!r} not ready"
            raise ValueError(msg)
        self._see()
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or for `timeout` seconds."""
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
        if not self._is_complete and self._driver.stop(self, _cancelled()):
            self._is_cancelled = True
            self._see()  # Whoever cancels knows.
        return self._is_cancelled

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
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
        and not isinstance(error, PoolTerminatedError)
        # Ctrl-C in the midst of a step: it is raised by itself, too.
        and isinstance(error.__cause__, (Exception, type(None)))
    )


_SKIPPED = object()


class MapResult(AsyncResult[list[R]], multiprocessing.pool.MapResult):  # type: ignore[type-arg]
    """The result of `map_async` and `starmap_async`, as `multiprocessing.pool.MapResult`."""

    def __init__(
        self,
        driver: Waiting,
        pool: object,
        callback: Callback | None,
        error_callback: Callback | None,
        length: int,
        on_error: str = "raise",
    ) -> None:
        super().__init__(driver, pool, callback, error_callback)
        self.stops = on_error == "stop"
        self._on_error = on_error
        self._value = [None] * length
        self._error_at = length
        self._left = length

    @property
    def _number_left(self) -> int:
        """Number of items outstanding; progress bars written for stdlib read it."""
        return self._left

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


class _Raise:
    """An exception in a stream, to be raised when its turn comes; None for nothing at all."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Stream:
    """The record of an `imap`: results in the order in which they are to be given out."""

    stops = False  # but at an error that is given out

    def __init__(self, *, ordered: bool, on_error: str = "raise") -> None:
        self.job = -1
        self._on_error = on_error
        self.is_complete = False
        self.is_cancelled = False
        self._ordered = ordered
        self._ready: list[Any] = []
        self._early: dict[int, list[Any]] = {}
        self._next = 0
        self._end_error: BaseException | None = None
        # The thread that drives adds, the one that iterates takes.
        self._lock = threading.Lock()

    def store(self, start: int, values: Any, errors: dict[int, BaseException] | None) -> None:
        """Take values from position `start` on."""
        for offset, error in (errors or {}).items():
            values[offset] = self._in_place(error)
        self._add(start, values)

    def fail(self, index: int, error: BaseException) -> None:
        """Take an item's exception."""
        self._add(index, [self._in_place(error)])

    def _in_place(self, error: BaseException) -> Any:
        """Return what is given out for an item that failed."""
        if self._on_error == "return":
            return error
        return _Raise(None if self._on_error == "skip" else error)

    def _add(self, start: int, values: list[Any]) -> None:
        with self._lock:
            if not self._ordered:
                self._ready.extend(values)
                return
            self._early[start] = values
            while self._next in self._early:
                values = self._early.pop(self._next)
                self._next += len(values)
                self._ready.extend(values)

    def finish(self) -> None:
        """All is there."""
        self.is_complete = True

    def end_with(self, error: BaseException) -> None:
        """Give out `error`, which the input raised, after the results of what came before."""
        self._end_error = error

    def give_up(self, error: BaseException) -> None:
        """End with `error` after what is ready."""
        self.fail_all(error)

    def fail_all(self, error: BaseException) -> None:
        """End with `error` after what is ready."""
        self.is_cancelled = True
        self._end_error = error
        self.is_complete = True

    def drop(self) -> None:
        """Give out nothing more."""
        self.is_complete = True
        with self._lock:
            self._ready.clear()
            self._early.clear()
            self._end_error = None

    def has_news(self) -> bool:
        """Tell whether there is anything to give out, be it the end."""
        return bool(self._ready) or self.is_complete

    def take(self) -> list[Any]:
        """Take what is ready, the next one last."""
        with self._lock:
            ready, self._ready = self._ready, []
            if not ready and self.is_complete and self._end_error is not None:
                ready, self._end_error = [_Raise(self._end_error)], None
        ready.reverse()
        return ready


class IMapIterator(multiprocessing.pool.IMapIterator, Generic[R]):  # type: ignore[type-arg]
    """The iterator of `imap`, in the order of the input.

    Dropping it before its end cancels what has not begun.
    """

    _ordered = True

    def __init__(self, driver: Waiting, pool: object, on_error: str = "raise") -> None:
        self._driver = driver
        self._pool = pool
        self._stream = Stream(ordered=self._ordered, on_error=on_error)
        self._stops = on_error == "stop"
        # Given out from its end; shared by threads that iterate together.
        self._batch: list[Any] = []
        self._has_begun = False

    def start(self, job: int) -> None:
        """Belong to `job` from now on."""
        weakref.finalize(self, self._driver.abandon, job).atexit = False

    @property
    def stream(self) -> Stream:
        """The record of this iterator's job."""
        return self._stream

    def __iter__(self) -> "IMapIterator[R]":
        """Return itself."""
        return self

    def next(self, timeout: float | None = None) -> R:
        """Return the next result.

        Parameters
        ----------
        timeout
            Seconds to wait at the most; None for as long as it takes.

        Raises
        ------
        StopIteration
            After the last.
        motorpool.TimeoutError
            If the result is not there in time; a later call may still get it.
        Exception
            What the task raised; the next call goes on with the next item.
        """
        deadline = deadline_of(timeout)
        while True:
            if not self._batch:
                self._refill(timeout, deadline)
                continue
            try:
                value = self._batch.pop()
            except IndexError:  # Another thread took the last one.
                continue
            if type(value) is _Raise:
                if value.error is None:  # skipped
                    continue
                if self._stops:
                    self._stop(value.error)
                raise value.error
            result: R = value
            return result

    def __next__(self, timeout: float | None = None) -> R:
        """Return the next result."""
        return self.next(timeout)

    def cancel(self) -> bool:
        """Cancel the rest, and return whether there was any; see `AsyncResult.cancel`.

        Results that are ready are still given out. Then comes a
        `TaskCancelledError`, then the end.
        """
        return self._driver.stop(self._stream, _cancelled())

    def _stop(self, error: BaseException) -> None:
        self._driver.stop(self._stream, error)
        self._stream.drop()
        self._batch.clear()

    def _refill(self, timeout: float | None, deadline: float | None) -> None:
        stream = self._stream
        starved = self._has_begun and not stream.has_news()
        if not self._driver.wait_until(stream.has_news, deadline):
            msg = f"no result within {timeout} s"
            raise TimeoutError(msg)
        batch = stream.take()
        if not batch:
            if not stream.is_complete:
                return
            self._pool = None
            raise StopIteration
        self._has_begun = True
        if not stream.is_complete:
            # What is taken makes room for as many new inputs.
            self._driver.consumed(stream.job, len(batch), starved=starved)
        self._batch[:0] = batch


class IMapUnorderedIterator(
    IMapIterator[R],
    multiprocessing.pool.IMapUnorderedIterator,  # type: ignore[type-arg]
):
    """The iterator of `imap_unordered`, in the order in which results come."""

    _ordered = False


def _cancelled() -> TaskCancelledError:
    return TaskCancelledError("the call was cancelled before its result was there")


def terminated() -> PoolTerminatedError:
    """Return the error of what was outstanding when its pool was terminated."""
    return PoolTerminatedError("the pool was terminated before this result was there")


def unwanted() -> PoolTerminatedError:
    """Return the error of what was cancelled because nobody seemed to want it any more."""
    return PoolTerminatedError(
        "cancelled: when the pool was left, nobody was waiting for this result any more"
    )


__all__ = [
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Stream",
    "terminated",
    "unwanted",
]
