"""What `imap` and `imap_unordered` return.

The record of such a job is a `Stream` of its own, and not the iterator, so that
dropping the iterator can cancel the job.
"""

import math
import multiprocessing.pool
import threading
import weakref
from time import monotonic

from motorpool.errors import TimeoutError  # noqa: A004 - the stdlib's name
from motorpool.results import Waiting, cancelled, deadline_of
from motorpool.typed import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from typing import NoReturn

R = TypeVar("R")

# What is taken makes room for new inputs, so a consumer takes what it gives out in so long.
BATCH_SECONDS = 0.005


class _Raise:
    """An exception in a stream, to be raised when its turn comes; None for nothing at all."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _as_raised(error: BaseException) -> BaseException:
    if not isinstance(error, StopIteration):
        return error
    # As itself it would end the caller's loop in silence.
    raised = RuntimeError("a task raised StopIteration")
    raised.__cause__ = error
    return raised


class Stream:
    """The record of an `imap`: results in the order in which they are to be given out."""

    stops = False  # but at an error that is given out

    def __init__(
        self, driver: Waiting, pool: object, *, ordered: bool, on_error: str = "raise"
    ) -> None:
        self._driver = driver
        # Until it is read, this keeps the pool from being collected; then the iterator does.
        self._pool: object = pool
        self.job = -1
        self._on_error = on_error
        self.is_complete = False
        self._ordered = ordered
        self._ready: list[Any] = []
        self._early: dict[int, list[Any]] = {}
        self._next = 0
        self._end_error: BaseException | None = None
        self.is_read = False  # by anybody, ever
        self.arrived = 0  # results
        self._is_kept = True
        # The thread that drives adds, the one that iterates takes. Reentrant: a
        # signal handler may drive while this thread takes.
        self._lock = threading.RLock()

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
        if not self._is_kept:
            return
        with self._lock:
            self.arrived += len(values)
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
        self._let_go()

    def end_with(self, error: BaseException) -> None:
        """Give out `error`, which the input raised, after the results of what came before."""
        self._end_error = error

    def give_up(self, error: BaseException) -> None:
        """End with `error` after what is ready."""
        self.fail_all(error)

    def fail_all(self, error: BaseException) -> None:
        """End with `error` after what is ready."""
        if self.is_complete:
            return
        self._end_error = error
        self.is_complete = True
        self._let_go()

    def drop(self) -> None:
        """Give out nothing more."""
        self.is_complete = True
        self.discard()
        self._let_go()

    def discard(self) -> None:
        """Keep no results: there is nobody to give them to."""
        self._is_kept = False
        with self._lock:
            self._ready.clear()
            self._early.clear()
            self._end_error = None

    def begin_reading(self) -> None:
        """Take note that somebody wants the results."""
        self.is_read = True
        self._let_go()

    def _let_go(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            self._driver.let_go(pool)

    def has_news(self) -> bool:
        """Tell whether there is anything to give out, be it the end."""
        return bool(self._ready) or self.is_complete

    def take(self, most: int) -> list[Any]:
        """Take up to `most` of what is ready, the next one last."""
        with self._lock:
            ready = self._ready
            if len(ready) > most:
                self._ready = ready[most:]
                del ready[most:]
            else:
                self._ready = []
            if not ready and self.is_complete and self._end_error is not None:
                ready, self._end_error = [_Raise(self._end_error)], None
        ready.reverse()
        return ready


class IMapIterator(multiprocessing.pool.IMapIterator, Generic[R]):  # type: ignore[type-arg]
    """The iterator of `imap`, in the order of the input.

    Dropping it before its end cancels what has not begun. If it was never read,
    everything is run, and the results are dropped.

    Examples
    --------
    >>> with Pool(2) as pool:
    ...     for result in pool.imap(abs, [-1, 2]):
    ...         print(result)
    1
    2
    """

    _ordered = True

    def __init__(self, driver: Waiting, pool: object, on_error: str = "raise") -> None:
        self._driver = driver
        self._pool = pool
        self._stream = Stream(driver, pool, ordered=self._ordered, on_error=on_error)
        self._stops = on_error == "stop"
        # Given out from its end; shared by threads that iterate together.
        self._batch: list[Any] = []
        self._taken = 0
        self._taken_at = 0.0

    def __reduce__(self) -> "NoReturn":
        """Refuse: only the pool's own process can take from it."""
        msg = "a pool's iterator cannot be pickled or passed to a process; pass what it gives"
        raise NotImplementedError(msg)

    def start(self, job: int) -> None:
        """Belong to `job` from now on."""
        weakref.finalize(self, self._driver.abandon, job).atexit = False

    @property
    def stream(self) -> Stream:
        """The record of this iterator's job."""
        return self._stream

    @property
    def _index(self) -> int:
        """Number of results that have come; progress bars for the stdlib read it.

        As they take no results meanwhile, none are waited for from now on.
        """
        self._driver.run_ahead(self._stream.job)
        return self._stream.arrived

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
            A `StopIteration` of a task comes as a `RuntimeError`.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     results = pool.imap(abs, [-1, 2])
        ...     results.next(timeout=60), next(results)
        (1, 2)
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
                error, value = value.error, None
                if self._stops:
                    self._stop(error)
                try:
                    raise _as_raised(error)
                finally:
                    # Its traceback refers to this frame, and so to the iterator.
                    del error
            result: R = value
            return result

    def __next__(self, timeout: float | None = None) -> R:
        """Return the next result."""
        return self.next(timeout)

    def cancel(self) -> bool:
        """Cancel the rest, and return whether there was any; see `AsyncResult.cancel`.

        Results that are ready are still given out. Then comes a
        `TaskCancelledError`, then the end.

        Examples
        --------
        >>> import time
        >>> from motorpool import TaskCancelledError
        >>> with Pool(1) as pool:
        ...     results = pool.imap(time.sleep, [0, 60])
        ...     print(next(results), results.cancel())
        ...     try:
        ...         next(results)
        ...     except TaskCancelledError:
        ...         print("cancelled")
        None True
        cancelled
        """
        return self._driver.stop(self._stream, cancelled())

    def _stop(self, error: BaseException) -> None:
        self._driver.stop(self._stream, error)
        self._stream.drop()
        self._batch.clear()

    def _refill(self, timeout: float | None, deadline: float | None) -> None:
        stream = self._stream
        if not stream.is_read:
            stream.begin_reading()
        starved = self._taken > 0 and not stream.has_news()
        most = self._most()
        if not self._driver.wait_until(stream.has_news, deadline):
            msg = f"no result within {timeout} s"
            raise TimeoutError(msg)
        batch = stream.take(most)
        if not batch:
            if not stream.is_complete:
                return
            self._pool = None
            raise StopIteration
        self._taken, self._taken_at = len(batch), monotonic()
        if not stream.is_complete:
            # What is taken makes room for as many new inputs.
            self._driver.consumed(stream.job, len(batch), starved=starved)
        self._batch[:0] = batch

    def _most(self) -> int:
        """Return how many results to take: what was given out in a moment, the last time."""
        seconds = monotonic() - self._taken_at
        return max(int(self._taken * BATCH_SECONDS / (seconds or math.inf)), 1)


class IMapUnorderedIterator(
    IMapIterator[R],
    multiprocessing.pool.IMapUnorderedIterator,  # type: ignore[type-arg]
):
    """The iterator of `imap_unordered`, in the order in which results come.

    Examples
    --------
    >>> with Pool(2) as pool:
    ...     sorted(pool.imap_unordered(abs, [-3, 1]))
    [1, 3]
    """

    _ordered = False


__all__ = ["IMapIterator", "IMapUnorderedIterator", "Stream"]
