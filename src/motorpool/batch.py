"""Calls of one function, asked for one by one and sent together.

A call that finds the pool busy would wait in a queue anyway. Instead of a job
of its own it becomes an item of a job that is still open, so that many small
calls travel in one chunk. Each keeps a result and callbacks of its own.
"""

from collections.abc import Callable

from motorpool.errors import anew
from motorpool.feeder import Buffer
from motorpool.results import AsyncResult
from motorpool.typed import Any


class CallBatch:
    """The input of such a job, and the record of it."""

    stops = False

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.job = -1
        self.buffer = Buffer()
        self.error: BaseException | None = None
        self._results: dict[int, AsyncResult[Any]] = {}
        self._told = 0
        self.is_open = True
        self._places: dict[int, int] = {}  # of results, as far as the first `_placed`
        self._placed = 0

    def append(self, result: AsyncResult[Any], call: Any) -> None:
        """Add a call."""
        self._results[self.buffer.length] = result
        self.buffer.append(call)

    def results(self) -> list[AsyncResult[Any]]:
        """Return the results that are not there yet."""
        return list(self._results.values())

    def is_dry(self) -> bool:
        """Tell whether every call has its result."""
        return not self._results

    def abandoned(self) -> list[AsyncResult[Any]]:
        """Return the results that are not there yet and that nobody waits for any more."""
        return [result for result in self.results() if result.is_abandoned]

    def drop(self, index: int) -> None:
        """Forget a result that was cancelled."""
        self._results.pop(index, None)

    def place_of(self, result: AsyncResult[Any]) -> int | None:
        """Return the position of a result, None if it is not here."""
        if self._placed != self.buffer.length:
            self._placed = self.buffer.length
            self._places = {id(result): index for index, result in self._results.items()}
        index = self._places.get(id(result))
        if index is None or self._results.get(index) is not result:
            return None
        return index

    # The input: as a `Feeder`.

    def news(self) -> tuple[bool, int]:
        """Return whether more may come, and how many calls came since the last time."""
        length = self.buffer.length
        arrived, self._told = length - self._told, length
        return self.is_open, arrived

    def stop(self) -> None:
        """Take no more calls."""
        self.is_open = False

    # The record: called by the driver.

    def store(self, start: int, values: Any, errors: dict[int, BaseException] | None) -> None:
        """Take values from position `start` on."""
        for offset, value in enumerate(values):
            if errors and offset in errors:
                self.fail(start + offset, errors[offset])
            elif result := self._results.get(start + offset):  # else it was cancelled
                result.resolve(value)
                del self._results[start + offset]

    def fail(self, index: int, error: BaseException) -> None:
        """Take a call's exception."""
        result = self._results.get(index)
        if result is not None:
            result.fail(0, error)
            result.finish()
            del self._results[index]

    def finish(self) -> None:
        """All is there."""

    def give_up(self, error: BaseException) -> None:
        """End with `error`."""
        self.fail_all(error)

    def fail_all(self, error: BaseException) -> None:
        """End with `error`."""
        for result in self.results():
            result.fail_all(anew(error))
        self._results.clear()
