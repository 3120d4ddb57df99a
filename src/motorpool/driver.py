"""Carries out: owns a scheduler and an engine, and moves events and commands between them.

Whoever waits, drives. A thread that waits for a result polls the engine itself
and returns the moment its result is there. When nobody waits and work is
outstanding, the attendant thread does it.

Guarantees
----------
- Two locks. `_lock` guards all state and is held for moments. `_driving` is
  held by the thread that polls; it may sleep with it, in `engine.wait`.
- Lock order: `_driving` before `_lock`. Nobody waits for `_driving`.
- Tasks, callbacks and iterables run under neither; pickling and unpickling run
  under `_lock`.
- An exception inside, an interrupt included, may leave the books half written.
  They are then closed: every outstanding result fails with that exception as
  its cause, and the pool goes on with new workers and new books.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

from motorpool.attendant import Attendant
from motorpool.batch import CallBatch
from motorpool.books import Books
from motorpool.callbacks import CallbackThread
from motorpool.direct import DirectCall
from motorpool.engines.base import Engine, Function, StartFailed
from motorpool.errors import (
    ForkedPoolError,
    InternalError,
    MotorpoolError,
    PoolClosedError,
)
from motorpool.feeder import Buffer, Feeder
from motorpool.jobs import Job, Record, failed_error, start_error
from motorpool.looking import LateStacks, look, stack_of, task_of, tell_slow
from motorpool.lookout import LOOK_SECONDS, Lookout
from motorpool.messages import (
    CALL_ARGUMENTS,
    BreakPool,
    ChunkRefused,
    Closed,
    Command,
    Consumed,
    Control,
    Deliver,
    Event,
    FailItem,
    FinishJob,
    InputArrived,
    JobCancelled,
    JobSubmitted,
    KillWorker,
    LookAtWorker,
    NameSlow,
    RecallChunks,
    SendChunk,
    StartWorker,
    StopWorker,
    Tick,
    WorkerNotStarted,
    WorkerStarted,
)
from motorpool.results import AsyncResult, Stream, terminated, unwanted
from motorpool.scheduler import Cost, Scheduler
from motorpool.stacks import Stacks
from motorpool.this_process import PROCESS

# The longest sleep of a thread that waits: a net under a wake-up that was missed.
MOST_SECONDS = 0.5
# A named tuple made like this takes half the time.
_new = tuple.__new__


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
        self._scheduler = Scheduler(
            size, tasks_per_worker, engine.message_seconds, eager=engine.starts_at_once
        )
        self._jobs: dict[int, Job] = {}
        self._feeders: dict[int, Feeder | CallBatch] = {}
        self._costs: weakref.WeakKeyDictionary[Any, Cost] = weakref.WeakKeyDictionary()
        self._numbers = count()
        # Reentrant: a signal handler may call the pool in the midst of a step.
        lock = threading.RLock()
        self._lock = Books(lock, self._reset, self._enter_call)
        # For the direct call's own steps, which leave it where it is.
        self._acquire, self._release = lock.acquire, lock.release
        self._call: DirectCall | None = None
        self._batch: CallBatch | None = None
        self._driving = threading.Lock()
        self._sleepers: deque[Any] = deque()
        self._late_stacks = LateStacks()
        self._abandoned: deque[tuple[int, BaseException | None]] = deque()
        self._released: deque[object] = deque()
        # Drops a reference to the pool, perhaps the last, at a moment when no lock is held.
        self.let_go = self._released.append
        self._callbacks = CallbackThread()
        self._attendant = Attendant(engine.fileno(), self._attend, self._attend_if_needed)
        # Memory is the machine's: what runs elsewhere has its own.
        self._lookout = None if engine.abilities.machines else Lookout()
        self._look_at = 0.0
        self._closed = False
        self._end: BaseException | None = None  # why no job will ever end
        try:
            self._execute(self._scheduler.start())
        except BaseException:
            engine.close(0.0)
            raise

    # Calling directly.

    def call(
        self,
        result: AsyncResult[Any],
        func: Callable[..., Any],
        items: list[Any],
        *,
        is_awaited: bool,
    ) -> None:
        """Begin a job of one call; `is_awaited`: the caller waits for it right away."""
        self._acquire()
        try:
            if self._closed or self._end is not None or self._pid != PROCESS.number:
                self.check_open()
            if self._call is None and not self._jobs:
                is_sent = self._send_call(result, func, items)
            else:
                is_sent = self._batch_call(result, func, items[0])
        except BaseException as error:
            self._lock.close(error)
            raise
        finally:
            self._release()
        if not is_sent:
            self.submit(result, func, CALL_ARGUMENTS, items, is_awaited=is_awaited)
        elif not is_awaited and not self._driving.locked():
            self._attendant.attend(now=False)

    def _send_call(
        self, result: AsyncResult[Any], func: Callable[..., Any], items: list[Any]
    ) -> bool:
        """Send a call to an idle worker, past the books; tell whether there was one."""
        lent = self._scheduler.lend()
        if lent is None:
            return False
        worker, number = lent
        try:
            function = self.engine.prepare(func, CALL_ARGUMENTS)
            self.engine.send_call(worker, number, function, items)
        except MotorpoolError:  # `submit` tells it in its own way.
            self._scheduler.give_back(worker)
            return False
        began = time.monotonic()
        self._call = _new(DirectCall, (result, function, items, worker, number, began))
        return True

    def _batch_call(self, result: AsyncResult[Any], func: Callable[..., Any], call: Any) -> bool:
        """Have a call of a busy pool travel with others; tell whether that can be."""
        batch = self._batch
        if batch is None or batch.func is not func:
            function = self.engine.prepare(func, CALL_ARGUMENTS)
            # Others are pickled call by call, because they may change in between.
            if not function.is_shared:
                return False
            self._enter_call()
            self._close_batch()
            batch = self._batch = CallBatch(func)
            job = batch.job = self._add(batch, function, batch.buffer)
            self._feeders[job] = batch
            cost = self._cost_of(func)
            self._handle(JobSubmitted(job, 0, None, cost, is_open=True, is_prompt=True))
        batch.append(result, call)
        if self._scheduler.has_idle:
            self._sync_input(batch.job)
        return True

    def _close_batch(self) -> None:
        """Let what is asked for from now on come after the calls of the batch."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.stop()
            self._sync_input(batch.job)

    def await_call(self, result: AsyncResult[Any]) -> bool:
        """Wait for `result` if it is the direct call; return whether it is ready.

        What `wait_until` does for anything, in a quarter of the steps.
        """
        call = self._call
        if call is None or call.result is not result or self._pid != PROCESS.number:
            return False
        if not self._driving.acquire(False):
            return False
        try:
            if self._attendant.is_attending:
                self._attendant.rest()
            if self._call is call:
                self._turn(MOST_SECONDS)
        finally:
            self._driving.release()
            self._hand_over()
        return result.ready()

    def _enter_call(self) -> None:
        """Put the direct call, if there is one, on the books; the lock is held."""
        call, self._call = self._call, None
        if call is None:
            return
        job = self._add(call.result, call.function, call.items)
        event = JobSubmitted(job, 1, None, self._cost_of(call.function.func))
        self._scheduler.enter(event, call.worker, call.number, call.began)

    def _finish_call(self, call: DirectCall, values: list[Any]) -> None:
        self._call = None
        self._scheduler.give_back(call.worker)
        if not call.function.is_shared:
            self.engine.forget(call.function)
        call.result.resolve(values[0])
        if self._sleepers:
            self._wake_sleepers()

    # Submitting.

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
        with self._lock:
            self.check_open()
            self._close_batch()
            job = self._add(record, self.engine.prepare(func, style), items)
            window = 0 if isinstance(record, Stream) else None
            cost = self._cost_of(func)
            is_prompt = window is not None
            event = JobSubmitted(
                job, len(items), chunksize, cost, False, window, is_prompt, control
            )
            self._handle(event)
        self._settle()
        if control is not None and self._driving.locked():
            self.engine.wake()  # Whoever drives may have to look earlier now.
        if not is_awaited:
            self._attend_if_needed()
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
        with self._lock:
            self.check_open()
            self._close_batch()
            function = self.engine.prepare(func, style)
            feeder = Feeder(source, self._feed, self._fed, self._is_hungry, chunksize)
            job = feeder.job = self._add(record, function, feeder.buffer)
            self._feeders[job] = feeder
            cost = self._cost_of(func)
            event = JobSubmitted(job, 0, chunksize, cost, True, 0, True, control)
            self._handle(event)
            feeder.allow(self._scheduler.room(job))
        feeder.start()
        self._attend_if_needed()
        return job

    def _add(self, record: Record, function: Function, items: Any) -> int:
        job = next(self._numbers)
        self._jobs[job] = Job(record, function, items)
        record.job = job
        return job

    def _cost_of(self, func: Any) -> Cost:
        try:
            cost = self._costs.get(func)
            if cost is None:
                cost = self._costs[func] = Cost()
        except TypeError:  # no hash, or no weak reference
            cost = Cost()
        return cost

    def check_open(self) -> None:
        """Raise what a pool that takes no more work raises."""
        self._check_mine()
        if self._closed:
            msg = "Pool not running: it was closed and takes no more work; make a new one"
            raise PoolClosedError(msg)
        if self._end is not None:
            raise self._end

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
        return self._scheduler.has_idle

    def _feed(self, job: int) -> None:
        """Items wait in a feeder's buffer, and a worker for them."""
        with self._lock:
            if not self.is_ended:
                self._sync_input(job)
        self._settle()
        self._attend_if_needed()

    def _fed(self, job: int) -> None:
        """Take note that a feeder has come to the end of its input, or to an exception of it."""
        with self._lock:
            if not self.is_ended:
                self._sync_input(job)
        self._settle()
        self._wake()

    def _sync_inputs(self) -> None:
        for job in list(self._feeders):
            self._sync_input(job)

    def _sync_input(self, job: int) -> None:
        feeder = self._feeders.get(job)
        if feeder is None:
            return
        is_open, arrived = feeder.news()
        if arrived or not is_open:
            if not is_open:
                del self._feeders[job]
                record = self._jobs[job].record
                if feeder.error is not None and isinstance(record, Stream):
                    record.end_with(feeder.error)
            self._handle(InputArrived(job, arrived, is_open))

    # Waiting.

    def wait_until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, or sleep while another thread does, until `is_done()` or the deadline."""
        if self._pid != PROCESS.number:
            self._check_mine()
        while True:
            if self._driving.acquire(False):
                try:
                    self._attendant.rest()
                    return self._drive(is_done, deadline)
                finally:
                    self._driving.release()
                    self._hand_over()
            if is_done():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._sleep(is_done, deadline)

    def _drive(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        while not is_done():
            if deadline is None and self._scheduler.wake_at is None:
                self._turn(MOST_SECONDS)
                continue
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            self._turn(self._patience(now, deadline))
        return True

    def _turn(self, timeout: float) -> None:
        """Wait for events and handle them."""
        if self._end is not None:
            # Only callbacks are outstanding; no event will tell of their end.
            time.sleep(min(timeout, 0.005))
            return
        try:
            signs = self.engine.wait(timeout)
        except (OSError, ValueError):
            if self.is_ended:  # closed meanwhile
                return
            raise
        self._acquire()
        try:
            if self._end is None:
                self._take(signs)
        except BaseException as error:
            # Whatever it is: the events are read, and nobody will tell of them again.
            self._reset(error)
            raise
        finally:
            self._release()
        if self._abandoned:
            self._settle()

    def _patience(self, now: float, deadline: float | None) -> float:
        until = now + MOST_SECONDS
        if deadline is not None:
            until = min(until, deadline)
        if self._scheduler.wake_at is not None:
            until = min(until, self._scheduler.wake_at)
        return max(until - now, 0.0)

    def _sleep(self, is_done: Callable[[], bool], deadline: float | None) -> None:
        sleeper = threading.Lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        # The driving thread may have finished between the caller's look and this
        # one; it would not have seen the sleeper.
        if not is_done() and self._driving.locked():
            sleeper.acquire(timeout=max(self._patience(time.monotonic(), deadline), 0.001))
        with suppress(ValueError):
            self._sleepers.remove(sleeper)

    def _hand_over(self) -> None:
        if self._sleepers:
            self._wake_sleepers()
        elif self._jobs or self._call is not None:
            self._attend_if_needed()
        self._released.clear()

    def _wake_sleepers(self) -> None:
        while self._sleepers:
            try:
                sleeper = self._sleepers.popleft()
            except IndexError:
                return
            sleeper.release()

    def _wake(self) -> None:
        """Have every waiting thread look again."""
        self._wake_sleepers()
        if self._driving.locked():
            self.engine.wake()

    # The attendant.

    def _attend_if_needed(self) -> None:
        if self._has_work() and not self._driving.locked():
            self._attendant.attend(now=self._scheduler.wake_at is not None)

    def _attend(self) -> float | None:
        """Handle what there is without waiting; return when to come again, None for never."""
        if not self._driving.acquire(blocking=False):
            return None
        try:
            self._turn(0.0)
            return self._patience(time.monotonic(), None) if self._has_work() else None
        finally:
            self._driving.release()
            self._wake_sleepers()
            self._released.clear()

    def _has_work(self) -> bool:
        return (self._call is not None or self._scheduler.has_work) and self._end is None

    # Events and commands; the lock is held.

    def _take(self, signs: list[Any]) -> None:
        if self._call is not None:
            call = self._call
            values = self.engine.collect_call(signs, call.worker, call.number)
            if values is not None:
                self._finish_call(call, values)
                return
        events = self.engine.collect(signs)
        if self._call is not None:
            values = self._call.values_in(events)
            if values is not None:
                self._finish_call(self._call, values)
                return
            self._enter_call()
        self._sync_inputs()
        for event in events:
            if type(event) is StartFailed:
                self._break(start_error(event.error))
                return
            self._handle(event)  # type: ignore[arg-type]
        wake_at = self._scheduler.wake_at
        now = time.monotonic()
        if now >= self._look_at:
            self._look_around(now)
        elif wake_at is not None and now >= wake_at:
            self._handle(Tick())
        if self._scheduler.has_idle:
            self._sync_inputs()

    def _look_around(self, now: float) -> None:
        self._look_at = now + LOOK_SECONDS
        news = self._lookout.look() if self._lookout is not None else None
        if news is not None:
            self._handle(news)
        self._handle(Tick())

    def _handle(self, event: Event) -> None:
        self._execute(self._scheduler.handle(event, time.monotonic()))

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            self._carry_out[type(command)](self, command)

    def _send_chunk(self, command: SendChunk) -> None:
        chunk = command.chunk
        job = self._jobs.get(chunk.job)
        if job is None:  # The pool broke down meanwhile.
            return
        items = job.items[chunk.start : chunk.stop]
        try:
            size = self.engine.send_chunk(
                command.worker, chunk, job.function, items, command.budget
            )
        except MotorpoolError as error:
            self._handle(ChunkRefused(command.worker, chunk.number, error))
        else:
            if size is not None:
                self._scheduler.weigh(chunk.job, chunk.stop - chunk.start, size)

    def _start_worker(self, _command: StartWorker) -> None:
        try:
            worker = self.engine.start_worker()
        except OSError as error:
            self._handle(WorkerNotStarted(error))
        else:
            self._handle(WorkerStarted(worker))

    def _stop_worker(self, command: StopWorker) -> None:
        self.engine.stop_worker(command.worker)

    def _look_at_worker(self, command: LookAtWorker) -> None:
        seen = self.engine.look(command.worker)
        if seen is not None:
            self._handle(seen)

    def _kill_worker(self, command: KillWorker) -> None:
        if command.item is not None:
            self._late_stacks.take(command.worker, self.engine)
        spared = self.engine.kill_worker(*command)
        if spared is not None:
            self._handle(spared)

    def _name_slow(self, command: NameSlow) -> None:
        task = task_of(command.worker, self.engine, self._scheduler, self._jobs)
        if task.function is not None:
            stack = stack_of(command.worker, self.engine)
            # On a thread that holds no lock.
            self._callbacks.put(tell_slow, task._replace(stack=stack), _nothing)

    def _recall(self, command: RecallChunks) -> None:
        self.engine.recall(command.worker)

    def _deliver(self, command: Deliver) -> None:
        job = self._jobs.get(command.job)
        if job is not None:
            job.record.store(command.start, command.values, command.errors)
            self._delivered(job, command.start, len(command.values))
            if command.errors and job.record.stops:
                self._stop_later(command.job, command.errors[min(command.errors)])

    def _fail_item(self, command: FailItem) -> None:
        job = self._jobs.get(command.job)
        if job is not None:
            error = failed_error(command, job, self._late_stacks.of)
            job.record.fail(command.item, error)
            self._delivered(job, command.item, 1)
            if job.record.stops:
                self._stop_later(command.job, error)

    def _stop_later(self, job: int, error: BaseException) -> None:
        """Have a job stopped when the commands at hand are carried out."""
        self._abandoned.append((job, error))

    def _delivered(self, job: Job, start: int, length: int) -> None:
        if type(job.items) is Buffer:
            job.items.discard(start, start + length)
        if isinstance(job.record, Stream):
            self._wake_sleepers()
        elif type(job.record) is CallBatch:
            self._wake_sleepers()
            if job.record is self._batch and job.record.is_dry():
                self._close_batch()

    def _finish_job(self, command: FinishJob) -> None:
        job = self._remove(command.job)
        if job is not None:
            job.record.finish()
            self._wake_sleepers()

    def _remove(self, number: int) -> Job | None:
        job = self._jobs.pop(number, None)
        feeder = self._feeders.pop(number, None)
        if feeder is not None:
            feeder.stop()
        if feeder is self._batch:
            self._batch = None
        if job is not None and not self.is_ended:
            self.engine.forget(job.function)
        return job

    def _break_pool(self, command: BreakPool) -> None:
        lost = command.lost
        if lost is not None and lost.cause is not None:
            msg = f"no worker can be started: {lost.cause}"
        elif lost is not None:
            msg = (
                f"workers end before they have started: the last one, {lost.pid}, with exit code "
                f"{lost.exitcode}. The initializer, or what it imports, ends the process."
            )
        else:
            msg = f"no worker can be started: {command.error}"
        cause = command.error or (lost.cause if lost is not None else None)
        self._break(start_error(cause, msg))

    _carry_out: dict[type[Any], Callable[["Driver", Any], None]] = {  # noqa: RUF012 - a table
        SendChunk: _send_chunk,
        StartWorker: _start_worker,
        StopWorker: _stop_worker,
        LookAtWorker: _look_at_worker,
        KillWorker: _kill_worker,
        NameSlow: _name_slow,
        RecallChunks: _recall,
        Deliver: _deliver,
        FailItem: _fail_item,
        FinishJob: _finish_job,
        BreakPool: _break_pool,
    }

    # Looking on.

    def stacks(self) -> Stacks:
        """Return what each worker is running, and its stack."""
        self._check_mine()
        return look(self._lock, self.engine, self._scheduler, self._jobs)

    # What iterators and results ask.

    def consumed(self, job: int, count: int, *, starved: bool) -> None:
        """Take note that an iterator took `count` results."""
        with self._lock:
            if job in self._jobs and not self.is_ended:
                self._sync_input(job)
                self._handle(Consumed(job, count, starved))
                feeder = self._feeders.get(job)
                if type(feeder) is Feeder:
                    feeder.allow(self._scheduler.room(job))
        self._settle()

    def abandon(self, job: int) -> None:
        """Take note, from a garbage collection perhaps, that nobody wants a job's results."""
        self._abandoned.append((job, None))
        if job in self._jobs and self.is_mine():
            self._attendant.attend(now=True)

    def call_back(
        self, callback: Callable[[Any], object], value: object, done: Callable[[], None]
    ) -> None:
        """Have the callback thread call `callback(value)`, then `done()`."""

        def finished() -> None:
            done()
            self._wake()
            self._released.clear()

        self._callbacks.put(callback, value, finished)

    def in_callback(self) -> bool:
        """Tell whether this is the callback thread."""
        return self._callbacks.is_current()

    def cancel(self, number: int, error: BaseException, *, kill: bool) -> None:
        """End a job with `error`; `kill`: also what is being run of it."""
        with self._lock:
            job = self._remove(number)
            if job is not None and not self.is_ended:
                self._handle(JobCancelled(number, kill))
                job.record.fail_all(error)
        self._wake()

    def cancel_record(self, record: Record, error: BaseException) -> None:
        """Cancel the job of `record`, what is being run of it included."""
        with self._lock:
            number = record.job
        self.cancel(number, error, kill=True)

    def stop(self, record: Record, error: BaseException) -> bool:
        """End the job of `record` with `error` at once; return whether it was outstanding."""
        self._check_mine()
        with self._lock:
            number = record.job
            if number < 0 and isinstance(record, AsyncResult):
                return self._stop_call(record, error)
        return self._stop(number, error)

    def _stop_call(self, result: AsyncResult[Any], error: BaseException) -> bool:
        """End one call of those that travel together."""
        for number, job in self._jobs.items():
            item = job.record.drop(result) if type(job.record) is CallBatch else None
            if item is not None:
                self._sync_input(number)
                self._handle(JobCancelled(number, kill=True, item=item))
                result.give_up(error)
                if job.record is self._batch and self._batch.is_dry():
                    self._close_batch()
                self._wake()
                return True
        return False

    def _stop(self, number: int, error: BaseException) -> bool:
        with self._lock:
            job = self._remove(number)
            if job is None or self.is_ended:
                return False
            self._handle(JobCancelled(number, kill=True))
            job.record.give_up(error)
        self._wake()
        return True

    def _settle(self) -> None:
        """Cancel jobs that were abandoned, or are to stop, since the lock was last held."""
        while self._abandoned:
            try:
                number, error = self._abandoned.popleft()
            except IndexError:
                return
            if error is not None:
                self._stop(number, error)
            else:
                self.cancel(number, unwanted(), kill=False)

    # The end.

    @property
    def is_ended(self) -> bool:
        """Whether the workers are gone for good."""
        return self._end is not None

    def close(self) -> None:
        """Take no more jobs; workers leave when the last is done."""
        self._check_mine()
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self.is_ended:
                    self._close_batch()
                    self._handle(Closed())

    def finish(self) -> None:
        """Wait for jobs and their callbacks, except for jobs that nobody wants: cancel those."""
        while True:
            for number in self._unwanted():
                self.cancel(number, unwanted(), kill=True)
            if not self._jobs and not self._callbacks.is_busy():
                return
            self.wait_until(lambda: not self._jobs or bool(self._unwanted()), None)
            self._callbacks.flush()

    def _unwanted(self) -> list[int]:
        """Return the jobs that nobody waits for any more."""
        with self._lock:
            return [
                number
                for number, job in self._jobs.items()
                if isinstance(job.record, Stream) or getattr(job.record, "is_abandoned", False)
            ]

    def join(self) -> None:
        """Wait for jobs and callbacks, then for the workers to leave."""
        self.wait_until(lambda: not self._jobs, None)
        self._callbacks.close(None)
        self._shut_down(terminated(), patience=5.0)

    def terminate(self) -> None:
        """End workers and outstanding jobs now."""
        if not self.is_mine():
            return
        self._closed = True
        self._shut_down(terminated(), patience=0.0)
        self._callbacks.close(1.0)

    def _break(self, error: BaseException) -> None:
        """No job will ever end: fail them all, and those to come."""
        self._end = self._end or error
        for number in list(self._jobs):
            job = self._remove(number)
            if job is not None:
                job.record.fail_all(error)
        self._wake_sleepers()

    def _shut_down(self, error: BaseException, patience: float) -> None:
        with self._lock:
            self._break(error)
        self._wake()
        self._attendant.close()
        # Whoever drives leaves now; it must not poll what is being closed.
        is_driving = self._driving.acquire(timeout=1.0)
        try:
            with self._lock:
                self.engine.close(patience)
        finally:
            if is_driving:
                self._driving.release()

    def _reset(self, error: BaseException) -> None:
        """Close books that may be half written, and open new ones."""
        if self.is_ended:
            return
        broken = InternalError(f"work was interrupted in the middle of a step: {error!r}")
        broken.__cause__ = error
        for worker in list(self._scheduler.workers):
            self.engine.kill_worker(worker)
        for number in list(self._jobs):
            job = self._remove(number)
            if job is not None:
                job.record.fail_all(broken)
        self._scheduler = self._scheduler.succeed()
        self._wake_sleepers()


def _nothing() -> None:
    """Do nothing."""
