"""Calls of `apply` and `apply_async`, which are cheaper than a job of their own.

On an idle pool a call goes straight to a worker, past the books. Putting a job
on them and taking it off again would be most of its cost. There is one such
call at most. As soon as anything else is to be done, whatever it is, the call is
*entered*: put on the books as if it had gone by them from the beginning. So
nothing else in the pool knows of direct calls.

On a busy pool a call joins others of the same function (`batch.py`).
"""

import time
from collections.abc import Callable

from motorpool.batch import CallBatch
from motorpool.books import Books
from motorpool.errors import MotorpoolError
from motorpool.messages import CALL_ARGUMENTS, ChunkDone, JobCancelled, JobSubmitted, WorkerReady
from motorpool.results import AsyncResult
from motorpool.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from motorpool.engines.base import Function

# A named tuple made like this takes half the time.
_new = tuple.__new__


class DirectCall(NamedTuple):
    """A call that a worker was sent and that is not on the books."""

    result: AsyncResult[Any]
    function: "Function"
    items: list[Any]
    worker: int
    number: int
    began: float

    def values_in(self, events: list[Any]) -> list[Any] | None:
        """Return the list of the one value of this call if that is all that `events` tell."""
        if len(events) != 1:
            return None
        event = events[0]
        if type(event) is not ChunkDone or event.number != self.number or event.errors:
            return None
        values: list[Any] = event.values
        return values


class Calls:
    """The direct call, if there is one, and the batch that takes more calls.

    All is called with the driver's lock held.
    """

    def __init__(self, books: Books, wake: Callable[[], None]) -> None:
        self._books = books
        self._wake = wake
        self._batch: CallBatch | None = None
        self.direct: DirectCall | None = None

    def begin(self, result: AsyncResult[Any], func: Callable[..., Any], items: list[Any]) -> bool:
        """Begin a call; False if it needs a job of its own."""
        if self.direct is None and not self._books.jobs:
            return self._send(result, func, items)
        return self._batch_call(result, func, items[0])

    def cancel(
        self, result: AsyncResult[Any], error: BaseException, *, is_told: bool = True
    ) -> bool:
        """End one call of those that travel together; return whether it was outstanding.

        `is_told`: its error callback is called.
        """
        for number, job in self._books.jobs.items():
            batch = job.record
            if not isinstance(batch, CallBatch):
                continue
            item = batch.place_of(result)
            if item is not None:
                self._books.sync_input(number)
                self._books.handle(JobCancelled(number, kill=True, item=item))
                if is_told:
                    result.give_up(error)
                else:
                    result.fail_all(error)
                batch.drop(item)
                self._books.close_if_dry(number, batch)
                return True
        return False

    # The direct call.

    def _send(self, result: AsyncResult[Any], func: Callable[..., Any], items: list[Any]) -> bool:
        """Send a call to an idle worker, past the books; tell whether there was one."""
        books = self._books
        lent = books.scheduler.lend()
        if lent is None:
            return False
        worker, number = lent
        try:
            function = books.engine.prepare(func, CALL_ARGUMENTS)
            books.engine.send_call(worker, number, function, items)
        except MotorpoolError:  # `submit` tells it in its own way.
            books.scheduler.give_back(worker)
            return False
        began = time.monotonic()
        self.direct = _new(DirectCall, (result, function, items, worker, number, began))
        return True

    def finish_direct(self, signs: list[Any]) -> list[Any] | None:
        """Finish the direct call and return None, if `signs` are of its result and nothing else.

        Otherwise it is on the books from now on. Returns the events that are
        to be handled.
        """
        call = self.direct
        engine = self._books.engine
        if call is None:
            return engine.collect(signs)
        values = engine.collect_call(signs, call.worker, call.number)
        if values is None:
            events = self._without_starts(engine.collect(signs))
            if events is None:
                return None
            values = call.values_in(events)
            if values is None:
                self.enter_direct()
                return events
        self._books.scheduler.give_back(call.worker)
        if not call.function.is_shared:
            engine.forget(call.function)
        call.result.resolve(values[0])
        self.direct = None
        self._wake()
        return None

    def _without_starts(self, events: list[Any]) -> list[Any] | None:
        """Handle the news that workers are ready, and return the rest; None if that was all."""
        others = [event for event in events if type(event) is not WorkerReady]
        if len(others) == len(events):
            return events
        for event in events:
            if type(event) is WorkerReady:
                self._books.handle(event)
        return others or None

    def enter_direct(self) -> None:
        """Put the direct call, if there is one, on the books."""
        call = self.direct
        if call is None:
            return
        job = self._books.add(call.result, call.function, call.items)
        event = JobSubmitted(job, 1, None, self._books.cost_of(call.function.func))
        self._books.scheduler.enter(event, call.worker, call.number, call.began)
        self.direct = None

    def fail_direct(self, error: BaseException) -> None:
        """End the direct call, if there is one, with `error`."""
        if self.direct is not None:
            self.direct.result.fail_all(error)
            self.direct = None

    # The batch.

    def _batch_call(self, result: AsyncResult[Any], func: Callable[..., Any], call: Any) -> bool:
        """Have a call of a busy pool travel with others; tell whether that can be."""
        books, batch = self._books, self._batch
        if batch is None or batch.func is not func or not batch.is_open:
            function = books.engine.prepare(func, CALL_ARGUMENTS)
            # Others are pickled call by call, because they may change in between.
            if not function.is_shared:
                return False
            self.enter_direct()
            self.close_batch()
            batch = self._batch = CallBatch(func)
            job = books.add(batch, function, batch.buffer)
            books.add_input(job, batch)
            cost = books.cost_of(func)
            # They stay separate calls, as far as the engine can keep them so.
            chunksize = 1 if books.engine.keeps_apart else None
            books.handle(JobSubmitted(job, 0, chunksize, cost, is_open=True, is_prompt=True))
        batch.append(result, call)
        if books.scheduler.has_idle:
            books.sync_input(batch.job)
        return True

    def close_batch(self) -> None:
        """Let what is asked for from now on come after the calls of the batch."""
        batch, self._batch = self._batch, None
        if batch is not None and batch.is_open:
            batch.stop()
            self._books.sync_input(batch.job)
