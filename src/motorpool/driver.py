"""Carries out: owns a scheduler and an engine, and moves events and commands between them.

::

    Pool ──submit──▶ Driver ──event──▶ Books: scheduler ──commands──▶ engine ──▶ workers
    get ◀── record ◀── Books ◀──event── Driver.turn ◀──signs── engine ◀──────────╯

What is outstanding, `Books` knows (`books.py`); which thread drives, `Turns`
says (`turns.py`); what is special about single calls is in `calls.py`.

Guarantees
----------
- `_lock` guards all state and is held for moments. The thread that drives may
  sleep in `engine.wait`, with the lock of `Turns`.
- Lock order: that of `Turns` before `_lock`.
- Tasks, callbacks and iterables run under neither; pickling and unpickling run
  under `_lock`.
- A step is never entered by another. What a signal handler, a finalizer or a
  `__reduce__` asks for in the midst of one is done after it.
- An exception inside, an interrupt included, may leave the books half written.
  They are then closed: every outstanding result fails with that exception as
  its cause, and the pool goes on with new workers and new books.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from motorpool.books import Books, Step
from motorpool.callbacks import CallbackThread
from motorpool.calls import Calls
from motorpool.engines.base import Engine, StartFailed
from motorpool.errors import (
    ForkedPoolError,
    InternalError,
    MotorpoolError,
    PoolClosedError,
    is_loading,
)
from motorpool.feeder import Feeder
from motorpool.iterators import Stream
from motorpool.jobs import Record, start_error
from motorpool.lookout import FIRST_SECONDS, LOOK_SECONDS, Lookout
from motorpool.messages import (
    CALL_ARGUMENTS,
    Closed,
    Consumed,
    Control,
    JobCancelled,
    JobSubmitted,
    Tick,
)
from motorpool.results import AsyncResult, terminated, unwanted
from motorpool.scheduler import Scheduler
from motorpool.spin import Spin
from motorpool.this_process import PROCESS
from motorpool.turns import Turns
from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motorpool.stacks import Stacks

# More results than any stream has.
_ALL = 1 << 62


class Driver:
    """Drives one pool.

    Parameters
    ----------
    engine
        Where the workers live; owned by the driver from now on.
    size
        Number of workers.
    tasks_per_worker
        Items after which a worker is replaced, None for never.
    """

    def __init__(self, engine: Engine, size: int, tasks_per_worker: int | None) -> None:
        self.engine = engine
        self._pid = PROCESS.number
        self._callbacks = CallbackThread()
        self._turns = Turns(self, engine)
        self.let_go = self._turns.let_go
        scheduler = Scheduler(
            size,
            tasks_per_worker,
            engine.message_seconds,
            eager=engine.starts_at_once,
            keeps_apart=engine.keeps_apart,
        )
        self._books = Books(engine, scheduler, self._callbacks, self._turns.wake_sleepers)
        self._calls = Calls(self._books, self._turns.wake_sleepers)
        # Reentrant: a signal handler may call the pool in the midst of a step.
        self._lock: Any = threading.RLock()
        # The direct call's own steps go without, which leaves it where it is.
        self._step = Step(self._reset, self._calls.enter_direct)
        self._has_lock: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined] # noqa: SLF001 - as Condition does
        # Memory is the machine's: what runs elsewhere has its own.
        self._lookout = None if engine.abilities.machines else Lookout()
        self._look_at = time.monotonic() + FIRST_SECONDS
        self._closed = False
        self._spin = Spin()
        # What is to be done when this thread is not in the midst of a step any more.
        self._later: deque[tuple[Record | None, Callable[[], object]]] = deque()
        try:
            self._books.execute(scheduler.start())
        except BaseException:
            engine.close(0.0)
            raise

    # Submitting.

    def call(
        self,
        result: AsyncResult[Any],
        func: Callable[..., Any],
        items: list[Any],
        *,
        is_awaited: bool,
    ) -> None:
        """Begin a job of one call; `is_awaited`: the caller waits for it right away."""
        if self._has_lock():
            self._put_off(lambda: self.call(result, func, items, is_awaited=False), result)
            return
        with self._lock:
            try:
                if self._step.fault is not None:
                    self._step.mend()
                if self._closed or self._books.end is not None or self._pid != PROCESS.number:
                    self.check_open()
                is_begun = self._calls.begin(result, func, items)
            except BaseException as error:
                self._step.close(error)
                raise
        if not is_begun:
            self.submit(result, func, CALL_ARGUMENTS, items, is_awaited=is_awaited)
        elif not is_awaited and not self._turns.is_driven():
            self._turns.attend(now=False)

    def submit(
        self,
        record: Record,
        func: Callable[..., Any],
        style: int,
        items: Any,
        chunksize: int | None = None,
        control: Control | None = None,
        *,
        is_awaited: bool = False,
    ) -> int:
        """Begin a job over a sequence; `is_awaited`: the caller waits for it right away."""
        if self._is_locked_here():
            return self._put_off_job(
                lambda: self.submit(record, func, style, items, chunksize, control), record
            )
        with self._lock, self._step:
            self.check_open()
            self._calls.close_batch()
            job = self._books.add(record, self.engine.prepare(func, style), items)
            window = 0 if isinstance(record, Stream) else None
            cost = self._books.cost_of(func)
            is_prompt = window is not None
            event = JobSubmitted(
                job, len(items), chunksize, cost, False, window, is_prompt, control
            )
            self._books.handle(event)
        self._settle()
        if control is not None and self._turns.is_driven():
            self.engine.wake()  # Whoever drives may have to look earlier now.
        if not is_awaited:
            self._turns.attend_if_needed()
        return job

    def submit_stream(
        self,
        record: Stream,
        func: Callable[..., Any],
        style: int,
        source: Iterator[Any],
        chunksize: int | None,
        control: Control | None = None,
    ) -> int:
        """Begin a job over an iterator, which is read ahead by a bounded number of items."""
        if self._is_locked_here():
            return self._put_off_job(
                lambda: self.submit_stream(record, func, style, source, chunksize, control), record
            )
        with self._lock, self._step:
            self.check_open()
            self._calls.close_batch()
            function = self.engine.prepare(func, style)
            is_pickled = not self.engine.abilities.unpicklable
            hooks = self._feed, self._fed, self._is_hungry
            feeder = Feeder(
                source,
                *hooks,
                chunksize,
                is_pickled=is_pickled,
                as_pickles=self.engine.keeps_apart,
            )
            job = feeder.job = self._books.add(record, function, feeder.buffer)
            self._books.add_input(job, feeder)
            cost = self._books.cost_of(func)
            event = JobSubmitted(job, 0, chunksize, cost, True, 0, True, control)
            self._books.handle(event)
            feeder.allow(self._books.scheduler.room(job))
        try:
            feeder.start()
        except RuntimeError as error:  # There is no room for its thread.
            self.cancel(job, error, kill=True)
            raise
        self._turns.attend_if_needed()
        return job

    def _put_off_job(self, begin: Callable[[], object], record: Record) -> int:
        self._put_off(begin, record)
        return self._books.number(record)

    def _put_off(self, act: Callable[[], object], record: Record | None = None) -> None:
        """Do something after the step that this thread is in the midst of."""
        if record is not None:
            self.check_open()
        self._later.append((record, act))
        self._turns.attend(now=True)
        self._turns.wake_driving()

    def check_open(self) -> None:
        """Raise what a pool that takes no more work raises."""
        self._check_mine()
        if self._closed:
            msg = "Pool not running: it was closed and takes no more work; make a new one"
            raise PoolClosedError(msg)
        if self._books.end is not None:
            raise self._books.end()

    def _is_locked_here(self) -> bool:
        """Tell whether this thread is in the midst of a step, which must come to its end first."""
        return self._has_lock() or self._turns.is_switching() or is_loading()

    def is_mine(self) -> bool:
        """Tell whether this is the process that made the pool."""
        return self._pid == PROCESS.number

    def _check_mine(self) -> None:
        if self._pid != PROCESS.number:
            msg = (
                f"this pool was made by process {self._pid}; a forked child cannot use it. "
                f"Make a pool of its own here."
            )
            raise ForkedPoolError(msg)

    # A feeder's thread.

    def _is_hungry(self) -> bool:
        return self._books.scheduler.has_idle

    def _feed(self, job: int) -> None:
        """Items wait in a feeder's buffer, and a worker for them."""
        with self._lock, self._step:
            if not self.is_ended:
                self._books.sync_input(job)
        self._settle()
        self._turns.attend_if_needed()

    def _fed(self, job: int) -> None:
        """Take note that a feeder has come to the end of its input, or to an exception of it."""
        with self._lock, self._step:
            if not self.is_ended:
                self._books.sync_input(job)
        self._settle()
        self._turns.wake()

    # Waiting.

    def wait_until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, or sleep while another thread does, until `is_done()` or the deadline."""
        if self._pid != PROCESS.number:
            self._check_mine()
        if self._is_locked_here() and not is_done():
            # Nobody could bring the step to its end.
            msg = (
                "no result can be waited for here, in the midst of a step of the pool: this is a "
                "signal handler that interrupted it, or a __reduce__ or __setstate__ that it "
                "calls. Submit here if need be, and wait for the result elsewhere."
            )
            raise MotorpoolError(msg)
        return self._turns.wait_until(is_done, deadline)

    def await_call(self, result: AsyncResult[Any]) -> bool:
        """Wait for `result` if it is the direct call; return whether it is ready.

        What `wait_until` does for anything, in a quarter of the steps.
        """
        call = self._calls.direct
        if call is None or call.result is not result or self._pid != PROCESS.number:
            return False
        if self._has_lock():
            return False
        self._turns.take_turns(lambda: self._calls.direct is call)
        return result.ready()

    # What `Turns` drives.

    def turn(self, timeout: float) -> None:
        """Wait for events and handle them."""
        if self._books.end is not None:
            # Only callbacks are outstanding; no event will tell of their end.
            time.sleep(min(timeout, 0.005))
            if self._callbacks.is_stranded:
                self._callbacks.run_here()
            return
        try:
            signs = self._calls.direct is not None and self._spin.look(self.engine.wait)
            signs = signs or self.engine.wait(timeout)
        except (OSError, ValueError):
            if self.is_ended:  # closed meanwhile
                return
            raise
        with self._lock:
            try:
                if self._books.end is None:
                    self._take(signs)
            except BaseException as error:
                # Whatever it is: the events are read, and nobody will tell of them again.
                self._step.spoil(error)
                # A signal handler may have terminated the pool in the midst of the step.
                if not (self.is_ended and isinstance(error, Exception)):
                    raise
        if self._books.dropped or self._later:
            self._settle()
        if self._callbacks.is_stranded:
            self._callbacks.run_here()

    def has_work(self) -> bool:
        """Tell whether anything is outstanding."""
        books = self._books
        return (self._calls.direct is not None or books.scheduler.has_work) and books.end is None

    def wake_at(self) -> float | None:
        """Return when to look again even without an event."""
        return self._books.scheduler.wake_at

    def _take(self, signs: list[Any]) -> None:
        if self._step.fault is not None:
            self._step.mend()
        events = self._calls.finish_direct(signs)
        if events is None:
            return
        books = self._books
        books.sync_inputs()
        for event in events:
            if type(event) is StartFailed:
                books.break_down_for(start_error(event.error))
                return
            books.handle(event)
        wake_at = books.scheduler.wake_at
        now = time.monotonic()
        if now >= self._look_at:
            self._look_around(now)
        elif wake_at is not None and now >= wake_at:
            books.handle(Tick())
        if books.scheduler.has_idle:
            books.sync_inputs()

    def _look_around(self, now: float) -> None:
        self._look_at = now + LOOK_SECONDS
        news = self._lookout.look() if self._lookout is not None else None
        if news is not None:
            self._books.handle(news)
        self._books.handle(Tick())

    # Looking on.

    def stacks(self) -> "Stacks":
        """Return what each worker is running, and its stack."""
        from motorpool.looking import look

        self._check_mine()
        return look(self._lock, self._step, self.engine, self._books.scheduler, self._books.jobs)

    def outstanding(self) -> tuple[list[object], int]:
        """Return the results that are not there yet, and how many items wait for a worker."""
        self._check_mine()
        is_free = not self._is_locked_here()
        with self._lock, self._step:
            if self.is_ended:
                return [], 0
            if is_free:
                self._books.sync_inputs()
            return self._books.outstanding()

    # What iterators and results ask.

    def consumed(self, job: int, count: int, *, starved: bool) -> None:
        """Take note that an iterator took `count` results."""
        self._consumed(job, count, starved=starved)
        self._settle()

    def _consumed(self, job: int, count: int, *, starved: bool) -> None:
        with self._lock, self._step:
            if job in self._books.jobs and not self.is_ended:
                self._books.sync_input(job)
                self._books.handle(Consumed(job, count, starved))
                feeder = self._books.input_of(job)
                if type(feeder) is Feeder:
                    feeder.allow(self._books.scheduler.room(job))

    def abandon(self, job: int) -> None:
        """Take note, from a garbage collection perhaps, that nobody wants a job's results."""
        self._books.dropped.append((job, None))
        if job in self._books.jobs and self.is_mine():
            self._turns.attend(now=True)

    def call_back(
        self, callback: Callable[[Any], object], value: object, done: Callable[[], None]
    ) -> None:
        """Have the callback thread call `callback(value)`, then `done()`."""

        def finished() -> None:
            done()
            self._turns.wake()
            self._turns.drop_released()

        self._callbacks.put(callback, value, finished)

    def in_callback(self) -> bool:
        """Tell whether this is the callback thread."""
        return self._callbacks.is_current()

    def cancel(self, number: int, error: BaseException, *, kill: bool) -> None:
        """End a job with `error`; `kill`: also what is being run of it."""
        with self._lock, self._step:
            job = self._books.jobs.get(number)
            if job is not None and not self.is_ended:
                self._books.handle(JobCancelled(number, kill))
                job.record.fail_all(error)
                self._books.remove(number)
        self._turns.wake()

    def cancel_record(self, record: Record, error: BaseException) -> None:
        """Cancel the job of `record`, what is being run of it included."""
        with self._lock, self._step:
            number = record.job
        self.cancel(number, error, kill=True)

    def stop(self, record: Record, error: BaseException) -> bool:
        """End the job of `record` with `error` at once; return whether it was outstanding."""
        self._check_mine()
        if self._is_locked_here():
            self._put_off(lambda: self.stop(record, error))
            return record.job in self._books.jobs or record.job < 0
        with self._lock, self._step:
            number = record.job
            if number < 0 and isinstance(record, AsyncResult):
                is_stopped = self._calls.cancel(record, error)
                self._turns.wake()
                return is_stopped
        return self._stop(number, error)

    def _stop(self, number: int, error: BaseException) -> bool:
        with self._lock, self._step:
            job = self._books.jobs.get(number)
            if job is None or self.is_ended:
                return False
            self._books.handle(JobCancelled(number, kill=True))
            job.record.give_up(error)
            self._books.remove(number)
        self._turns.wake()
        return True

    def _settle(self) -> None:
        """Do what was put off, and cancel jobs that were abandoned, or are to stop."""
        if self._is_locked_here():
            return
        while self._later:
            try:
                record, act = self._later.popleft()
            except IndexError:
                break
            try:
                act()
            except Exception as refusal:
                if record is None:
                    raise
                record.fail_all(refusal)
        while self._books.dropped:
            try:
                entry = number, error = self._books.dropped[0]
            except IndexError:
                return
            if error is not None:
                self._stop(number, error)
            else:
                self._let_go_of(number)
            # Only now: an interrupt may have come before. Another thread may have done the same.
            with suppress(ValueError):
                self._books.dropped.remove(entry)

    def _let_go_of(self, number: int) -> None:
        """Cancel a stream whose iterator is gone, unless it was meant to be run and not read."""
        job = self._books.jobs.get(number)
        if job is not None and isinstance(job.record, Stream) and not job.record.is_read:
            job.record.discard()
            self._consumed(number, _ALL, starved=False)
        else:
            self.cancel(number, unwanted(), kill=False)

    def run_ahead(self, number: int) -> None:
        """Run a stream to its end, whether anybody reads it or not."""
        self._check_mine()
        if self._is_locked_here():
            self._put_off(lambda: self.run_ahead(number))
            return
        self.consumed(number, _ALL, starved=False)

    # The end.

    @property
    def is_ended(self) -> bool:
        """Whether the workers are gone for good."""
        return self._books.end is not None

    def close(self) -> None:
        """Take no more jobs; workers leave when the last is done."""
        self._check_mine()
        if self._is_locked_here():
            self._put_off(self.close)
            return
        with self._lock, self._step:
            if not self._closed:
                self._closed = True
                if not self.is_ended:
                    self._calls.close_batch()
                    self._books.handle(Closed())

    def finish(self) -> None:
        """Wait for jobs and their callbacks, except for jobs that nobody wants: cancel those."""
        while True:
            for number in self._unwanted():
                self.cancel(number, unwanted(), kill=True)
            self._cancel_unwanted_calls()
            if not self._books.jobs and not self._callbacks.is_busy():
                return
            # Calls may be many: they are looked through now and then, not at each event.
            again = time.monotonic() + LOOK_SECONDS
            self.wait_until(lambda: not self._books.jobs or bool(self._unwanted()), again)
            self._callbacks.flush()

    def _cancel_unwanted_calls(self) -> None:
        with self._lock, self._step:
            for result in self._books.unwanted_calls() if not self.is_ended else ():
                self._calls.cancel(result, unwanted(), is_told=False)

    def _unwanted(self) -> list[int]:
        with self._lock, self._step:
            return self._books.unwanted()

    def join(self) -> None:
        """Wait for jobs and callbacks, then for the workers to leave."""
        # As in the stdlib; and who waits here may be who would have read them.
        for number, job in list(self._books.jobs.items()):
            if isinstance(job.record, Stream):
                self.run_ahead(number)
        self.wait_until(lambda: not self._books.jobs, None)
        self._callbacks.close(None)
        self._shut_down(patience=5.0)

    def terminate(self) -> None:
        """End workers and outstanding jobs now."""
        if not self.is_mine():
            return
        self._closed = True
        if self._is_locked_here():
            self._put_off(self.terminate)
            return
        self._shut_down(patience=0.0)
        self._callbacks.close(1.0)

    def _shut_down(self, patience: float) -> None:
        with self._lock, self._step:
            self._books.break_down(terminated)
        self._turns.end(lambda: self._close_engine(patience))

    def _close_engine(self, patience: float) -> None:
        with self._lock, self._step:
            self.engine.close(patience)

    def _reset(self, error: BaseException) -> None:
        """Close books that may be half written, and open new ones."""
        if self._books.end is not None:
            self._books.break_down(self._books.end)
            return
        broken = InternalError(f"work was interrupted in the middle of a step: {error!r}")
        broken.__cause__ = error
        self._calls.fail_direct(broken)
        self._books.reset(broken)
