"""The jobs that are outstanding, and the scheduler that decides about them.

An event goes in, the scheduler answers with commands, and these are carried
out. All of it with the driver's lock held.

A job is taken off the books after its record has come to its end. So an
interrupt in between leaves it here, and `reset` fails it: else nobody would.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count

from motorpool.batch import CallBatch
from motorpool.callbacks import CallbackThread
from motorpool.engines.base import Engine, Function
from motorpool.errors import MotorpoolError, anew
from motorpool.failures import without_frames
from motorpool.feeder import Buffer, Feeder
from motorpool.iterators import Stream
from motorpool.jobs import Job, Record, failed_error, start_error
from motorpool.messages import (
    BreakPool,
    CapacityChanged,
    ChunkRefused,
    Command,
    Deliver,
    Event,
    FailItem,
    FinishJob,
    InputArrived,
    KillWorker,
    LookAtWorker,
    NameSlow,
    RecallChunks,
    SendChunk,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerNotStarted,
    WorkerStarted,
)
from motorpool.results import AsyncResult
from motorpool.scheduler import Cost, Scheduler
from motorpool.scheduler.staff import MOST_KILLED_SECONDS
from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motorpool.looking import LateStacks


class Books:
    """Jobs, their inputs and their scheduler.

    Parameters
    ----------
    engine
        Where the workers live.
    scheduler
        What decides.
    callbacks
        A thread that may call what must not be called under a lock.
    wake
        Called when results have come that another thread may be waiting for.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        callbacks: CallbackThread,
        wake: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.jobs: dict[int, Job] = {}
        # Makes the error that tells why no job will ever end.
        self.end: Callable[[], BaseException] | None = None
        # Jobs to be ended as soon as the lock is free, and with which error;
        # None: nobody wants them any more.
        self.dropped: deque[tuple[int, BaseException | None]] = deque()
        self._callbacks = callbacks
        self._wake = wake
        self._inputs: dict[int, Feeder | CallBatch] = {}
        self._costs: weakref.WeakKeyDictionary[Any, Cost] = weakref.WeakKeyDictionary()
        self._numbers = count()
        self._late_stacks: LateStacks | None = None  # made when a task is late

    # Jobs.

    def add(self, record: Record, function: Function, items: Any) -> int:
        """Put a job on the books and return its number; its `JobSubmitted` is to follow."""
        job = self.number(record)
        self.jobs[job] = Job(record, function, items)
        return job

    def number(self, record: Record) -> int:
        """Return the number of a job, which it may be given before it is on the books."""
        if record.job < 0:
            record.job = next(self._numbers)
        return record.job

    def cost_of(self, func: Any) -> Cost:
        """Return what is known of the time that `func` takes."""
        try:
            cost = self._costs.get(func)
            if cost is None:
                cost = self._costs[func] = Cost()
        except Exception:  # no hash, or no weak reference
            cost = Cost()
        return cost

    def remove(self, number: int) -> None:
        """Take a job off the books, and end its input."""
        source = self._inputs.pop(number, None)
        if source is not None:
            source.stop()
        job = self.jobs.pop(number, None)
        if job is not None and self.end is None:
            self.engine.forget(job.function)

    def fail_all(self, error: BaseException) -> None:
        """Take all jobs off the books; they end with `error`."""
        for number, job in list(self.jobs.items()):
            job.record.fail_all(anew(error))
            self.remove(number)

    def outstanding(self) -> tuple[list[object], int]:
        """Return the results that are not there yet, and how many items wait for a worker."""
        results: list[object] = []
        for job in self.jobs.values():
            record = job.record
            results += record.results() if isinstance(record, CallBatch) else [record]
        return results, sum(job.pending() for job in self.scheduler.jobs.values())

    def unwanted(self) -> list[int]:
        """Return the jobs that nobody waits for any more."""
        return [
            number
            for number, job in self.jobs.items()
            if isinstance(job.record, Stream) or getattr(job.record, "is_abandoned", False)
        ]

    def unwanted_calls(self) -> list[AsyncResult[Any]]:
        """Return the calls that travel with others and that nobody waits for any more."""
        batches = [job.record for job in self.jobs.values() if isinstance(job.record, CallBatch)]
        return [result for batch in batches for result in batch.abandoned()]

    def break_down(self, make_error: Callable[[], BaseException]) -> None:
        """Fail all jobs: none will ever end."""
        self.end = self.end or make_error
        if self.jobs:
            self.fail_all(make_error())
        self._wake()

    def break_down_for(self, error: BaseException) -> None:
        """Fail all jobs because of `error`."""
        self.break_down(lambda: anew(error))

    def reset(self, error: BaseException) -> None:
        """Fail all jobs, because they may be half on the books, and begin with new workers."""
        # Also those of which the scheduler was not told in the step that came to nothing.
        living = self.engine.numbers()
        # The end of others was told already, perhaps in that very step.
        gone = [worker for worker in self.scheduler.workers if worker not in living]
        for worker in living:
            self.engine.kill_worker(worker)
        self.fail_all(error)
        self.scheduler = self.scheduler.succeed()
        for worker in gone:
            self.handle(WorkerLost(worker, 0, None))
        self.handle(CapacityChanged(self.scheduler.size))  # One may be missing by now.
        self._wake()

    # Inputs that are still growing.

    def add_input(self, job: int, source: Feeder | CallBatch) -> None:
        """Take note that items of a job come from `source` as they arrive."""
        self._inputs[job] = source

    def input_of(self, job: int) -> Feeder | CallBatch | None:
        """Return what a job's items come from, None if they are all there."""
        return self._inputs.get(job)

    def sync_inputs(self) -> None:
        """Tell the scheduler of all items that have arrived."""
        for job in list(self._inputs):
            self.sync_input(job)

    def sync_input(self, job: int) -> None:
        """Tell the scheduler of the items of a job that have arrived, and of their end."""
        source = self._inputs.get(job)
        if source is None:
            return
        is_open, arrived = source.news()
        if arrived or not is_open:
            if not is_open:
                del self._inputs[job]
                record = self.jobs[job].record
                if source.error is not None and isinstance(record, Stream):
                    record.end_with(source.error)
            self.handle(InputArrived(job, arrived, is_open))

    # Events and commands.

    def handle(self, event: Event) -> None:
        """Carry out what the scheduler answers to an event."""
        self.execute(self.scheduler.handle(event, time.monotonic()))

    def execute(self, commands: list[Command]) -> None:
        """Carry out commands."""
        for command in commands:
            self._carry_out[type(command)](self, command)

    def _send_chunk(self, command: SendChunk) -> None:
        chunk = command.chunk
        job = self.jobs.get(chunk.job)
        if job is None:  # The pool broke down meanwhile.
            return
        items = job.items[chunk.start : chunk.stop]
        refusal = size = None
        try:
            size = self.engine.send_chunk(
                command.worker, chunk, job.function, items, command.budget
            )
        except MotorpoolError as error:
            refusal = error
        # Not while the exception is handled: it would be the context of the next one.
        if refusal is not None:
            if refusal.__cause__ is not None:
                without_frames(refusal.__cause__)
            refusal.__traceback__ = refusal.__context__ = None
            self.handle(ChunkRefused(command.worker, chunk.number, refusal))
        elif size is not None:
            self.scheduler.weigh(chunk.job, chunk.stop - chunk.start, size)

    def _start_worker(self, _command: StartWorker) -> None:
        try:
            worker = self.engine.start_worker()
        except OSError as error:
            self.handle(WorkerNotStarted(error))
        else:
            self.handle(WorkerStarted(worker))

    def _stop_worker(self, command: StopWorker) -> None:
        self.engine.stop_worker(command.worker)

    def _look_at_worker(self, command: LookAtWorker) -> None:
        seen = self.engine.look(command.worker)
        if seen is not None:
            self.handle(seen)

    def _kill_worker(self, command: KillWorker) -> None:
        if command.item is not None:
            if self._late_stacks is None:
                from motorpool.looking import LateStacks

                self._late_stacks = LateStacks()
            self._late_stacks.take(command.worker, self.engine)
        spared = self.engine.kill_worker(*command)
        if spared is not None:
            self.handle(spared)

    def _name_slow(self, command: NameSlow) -> None:
        from motorpool.looking import stack_of, task_of, tell_slow

        task = task_of(command.worker, self.engine, self.scheduler, self.jobs)
        if task.function is not None:
            stack = stack_of(command.worker, self.engine)
            # On a thread that holds no lock.
            self._callbacks.put(tell_slow, task._replace(stack=stack), _nothing)

    def _recall(self, command: RecallChunks) -> None:
        self.engine.recall(command.worker)

    def _deliver(self, command: Deliver) -> None:
        job = self.jobs.get(command.job)
        if job is not None:
            job.record.store(command.start, command.values, command.errors)
            self._delivered(command.job, job, command.start, len(command.values))
            if command.errors and job.record.stops:
                self._stop_later(command.job, command.errors[min(command.errors)])

    def _fail_item(self, command: FailItem) -> None:
        job = self.jobs.get(command.job)
        if job is not None:
            error = failed_error(command, job, self._late_stack)
            job.record.fail(command.item, error)
            self._delivered(command.job, job, command.item, 1)
            if job.record.stops:
                self._stop_later(command.job, error)

    def _late_stack(self, worker: int) -> str | None:
        return self._late_stacks.of(worker) if self._late_stacks is not None else None

    def _stop_later(self, job: int, error: BaseException) -> None:
        """Have a job stopped when the commands at hand are carried out."""
        self.dropped.append((job, error))

    def _delivered(self, number: int, job: Job, start: int, length: int) -> None:
        if type(job.items) is Buffer:
            job.items.discard(start, start + length)
        if isinstance(job.record, Stream):
            self._wake()
        elif type(job.record) is CallBatch:
            self._wake()
            self.close_if_dry(number, job.record)

    def close_if_dry(self, number: int, batch: CallBatch) -> None:
        """Let a batch end if every call in it has its result."""
        if batch.is_dry():
            batch.stop()
            self.sync_input(number)

    def _finish_job(self, command: FinishJob) -> None:
        job = self.jobs.get(command.job)
        if job is not None:
            job.record.finish()
            self.remove(command.job)
            self._wake()

    def _break_pool(self, command: BreakPool) -> None:
        lost = command.lost
        if lost is not None and lost.cause is not None:
            msg = f"no worker can be started: {lost.cause}"
        elif lost is not None and not lost.is_own_doing:
            msg = (
                f"workers are killed before they have started: the last one, {lost.pid}, by "
                f"signal {-(lost.exitcode or 0)}. None was ready for {MOST_KILLED_SECONDS:.0f} s. "
                f"Memory that runs out is the usual cause."
            )
        elif lost is not None:
            msg = (
                f"workers end before they have started: the last one, {lost.pid}, with exit code "
                f"{lost.exitcode}. The initializer, or what it imports, ends the process."
            )
        else:
            msg = f"no worker can be started: {command.error}"
        cause = command.error
        if cause is None and lost is not None:
            cause = lost.cause
        self.break_down_for(start_error(cause, msg))

    _carry_out: dict[type[Any], Callable[["Books", Any], None]] = {  # noqa: RUF012 - a table
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


def _nothing() -> None:
    """Do nothing."""


class Step:
    """A step under the driver's lock; an exception in it closes the books (see `Driver`).

    It is for ``with lock, step``. The lock is taken and released in C: an interrupt
    between two bytecodes of ours would leave it taken for ever.
    """

    def __init__(
        self, reset: Callable[[BaseException], None], complete: Callable[[], None]
    ) -> None:
        self._reset = reset
        self._complete = complete
        self.fault: BaseException | None = None  # for which the books are still to be closed

    def __enter__(self) -> None:
        """Put the direct call, if there is one, on the books."""
        try:
            if self.fault is not None:
                self.mend()
            self._complete()
        except BaseException as error:
            self.close(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: object,
    ) -> None:
        """Close the books if there was an exception."""
        if error is not None:
            self.close(error)

    def close(self, error: BaseException) -> None:
        """Close the books because of `error`, if it is not one that is raised on purpose."""
        if not isinstance(error, (MotorpoolError, TypeError)):
            self.spoil(error)

    def spoil(self, error: BaseException) -> None:
        """Close the books because of `error`.

        That may fail as well, where the stack is full or at another Ctrl-C: who takes
        the lock next begins with it.
        """
        self.fault = error
        self.mend()

    def mend(self) -> None:
        """Close the books if that is still to be done."""
        if self.fault is not None:
            self._reset(self.fault)
            self.fault = None
