"""Workers as threads of this process: the same scheduler and chunks, nothing pickled.

A thread cannot be killed. A worker that is to be killed is written off: another
takes its place, and what its thread still does and returns is dropped. A task
that never ends keeps its thread until the program ends.
"""

import errno
import math
import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from queue import Empty, SimpleQueue
from time import perf_counter
from types import FrameType

from motorpool.bell import Bell
from motorpool.cpus import cpu_count
from motorpool.describe import function_name, short_repr
from motorpool.engines.base import Abilities, Function, StartFailed, WorkerNow
from motorpool.failures import note
from motorpool.messages import (
    IDLE,
    LOADING,
    Chunk,
    ChunkDone,
    ChunkProgressed,
    Event,
    ItemsHandedBack,
    WorkerLost,
    WorkerReady,
    WorkerSeen,
)
from motorpool.scheduler.chunking import MESSAGE_SECONDS
from motorpool.stacks import Frame, format_frames, task_frames
from motorpool.typed import Any
from motorpool.worker.run import (
    EXACT,
    NoJournal,
    Pace,
    SharedRunning,
    caller,
    run_call,
    run_chunk,
)

_NAMES = count(1)
# A bulk run starts after so many items and is as long as all before it: no results
# have to be saved from the death of one thread, as for processes.
_BULK_AFTER = 32
_BLOCKING = (True,)  # the first argument of `get`

# What a worker is sent: a chunk, its function, its items and its budget; or a call as
# its chunk's number, its function and the one item; or None, to leave.
_Entry = tuple[Chunk, Function, Any, float] | tuple[int, Function, list[Any]] | None


class _Journal(NoJournal):
    """Where a thread notes what it is at, and since when."""

    def __init__(self) -> None:
        self.place = (LOADING, math.inf)

    def at(self, index: int, _upto: int, now: float) -> None:
        """Take note of an item that is about to be called."""
        self.place = (index, now)

    def failed(self) -> None:
        """Have the error posted: it may be tried again, or end its job."""
        self.full = True


_NOTHING = NoJournal()


class _Worker:
    """One thread, and its box of chunks."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inbox: SimpleQueue[_Entry] = SimpleQueue()
        self.running: SharedRunning | None = None
        # The chunk of a call, of which nothing can be given back.
        self.one_call = SharedRunning(0, 1, 0)
        self.one_call.upto = 1
        self.chunk: tuple[Chunk, Function, Any]
        self.journal: NoJournal = _NOTHING
        self.is_written_off = False
        self.lock = threading.RLock()
        self.paces: dict[int, Pace] = {}
        self.thread: threading.Thread

    def take_results(
        self, running: SharedRunning
    ) -> tuple[int, list[Any], dict[int, BaseException]]:
        """Take the results that are not posted yet, with a note in each exception."""
        chunk, function, items = self.chunk
        start, values, errors = running.take()
        for offset, error in errors.items():
            item = short_repr(items[start + offset - chunk.start])
            index, name = function.position(start + offset), function_name(function.func)
            note(error, f"item {index}, {item}, of {name} in thread {self.thread.name}")
        return start, values, errors

    def look(self) -> WorkerSeen:
        """Return what the thread is at."""
        with self.lock:
            running, journal = self.running, self.journal
            if running is None:
                return WorkerSeen(self.number, IDLE, LOADING, 0.0)
            place = (running.index, math.inf)
            index, since = journal.place if isinstance(journal, _Journal) else place
            return WorkerSeen(self.number, running.number, index, since)

    def progress(self, running: SharedRunning) -> list[Event]:
        """Return the event of the results that are not posted yet, if there are any."""
        if not running.has_unsent():
            return []
        start, values, errors = self.take_results(running)
        number, stop = running.number, start + len(values)
        return [ChunkProgressed(self.number, number, start, stop, 0.0, values, errors or None)]

    def write_off(self, number: int | None, item: int | None) -> list[Event]:
        """Have the thread begin nothing more, if it is at that; return what has become of it."""
        with self.lock:
            running = self.running
            if number is not None:
                is_at = running is not None and running.number == number and running.halt(item)
                if not is_at:
                    return []
            self.is_written_off = True
            self.inbox.put(None)
            lost = WorkerLost(self.number, self.thread.native_id or 0, None)
            if running is None:
                return [lost]
            running.halt(None)
            at = running.index if item is None else item
            lost = lost._replace(number=running.number, at=at, upto=max(running.upto, at))
            return [*self.progress(running), lost]


class ThreadEngine:
    """Worker threads."""

    abilities = Abilities(timeout=True, maxtasksperchild=True, shared_state=True, unpicklable=True)
    message_seconds = MESSAGE_SECONDS
    starts_at_once = True
    keeps_apart = True  # Nothing is pickled.

    def __init__(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._workers: dict[int, _Worker] = {}
        self._count = 0
        self._functions = 0
        # What has happened; None if somebody is merely to wake up.
        self._outbox: SimpleQueue[Event | StartFailed | None] = SimpleQueue()
        # What `wait` has taken out of it and `collect` has not.
        self._taken: list[Event | StartFailed | None] = []
        # Rung for who does not wait at the outbox, but for `fileno`.
        self._bell = Bell()
        self._is_awaited = False
        self._is_rung = False
        self._epoll = select.epoll()
        self._epoll.register(self._bell.fd, select.EPOLLIN)
        self._leaving: list[_Worker] = []

    @property
    def workers(self) -> list[threading.Thread]:
        """The worker threads."""
        return [worker.thread for worker in list(self._workers.values())]

    def numbers(self) -> list[int]:
        """Return the numbers of the workers."""
        return list(self._workers)

    @property
    def capacity(self) -> int:
        """The CPUs that this process may use."""
        return cpu_count()

    def prepare(self, func: Callable[..., Any], style: int) -> Function:
        """Return `func` ready to be called."""
        self._functions += 1
        return Function(self._functions, func, style, b"", (), is_shared=True)

    def forget(self, function: Function) -> None:
        """Take note that no job will call `function` again."""
        for worker in self._workers.values():
            worker.paces.pop(function.number, None)

    def start_worker(self) -> int:
        """Start a thread and return its number."""
        self._count = number = self._count + 1
        worker = _Worker(number)
        worker.thread = threading.Thread(
            target=self._work, args=(worker,), name=f"ThreadPoolWorker-{next(_NAMES)}", daemon=True
        )
        self._workers[number] = worker
        try:
            worker.thread.start()
        except BaseException as error:
            # At an interrupt it may have started.
            del self._workers[number]
            worker.is_written_off = True
            worker.inbox.put(None)
            if isinstance(error, RuntimeError):  # as for processes
                raise BlockingIOError(errno.EAGAIN, str(error)) from error
            raise
        return number

    def send_chunk(
        self, worker: int, chunk: Chunk, function: Function, items: Any, budget: float
    ) -> None:
        """Hand items to a worker."""
        if worker in self._workers:  # Else its WorkerLost is on the way to the scheduler.
            self._workers[worker].inbox.put((chunk, function, items, budget))

    def send_call(self, worker: int, number: int, function: Function, items: list[Any]) -> None:
        """Hand a call to a worker."""
        self._workers[worker].inbox.put((number, function, items))

    def collect_call(self, signs: list[Any], worker: int, number: int) -> list[Any] | None:
        """Return the list of the one value of a call if that is all the signs stand for."""
        del worker
        if len(signs) != 1 or not self._outbox.empty():
            return None
        event = signs[0]
        if type(event) is not ChunkDone or event.number != number or event.errors:
            return None
        self._taken = []
        values: list[Any] = event.values
        return values

    def stop_worker(self, worker: int) -> None:
        """Tell a worker to leave when it has done what it was sent."""
        target = self._workers.pop(worker, None)
        if target is not None:
            target.inbox.put(None)
            self._leaving = [w for w in self._leaving if w.thread.is_alive()]
            self._leaving.append(target)

    def look(self, worker: int) -> WorkerSeen | None:
        """Return what a worker is at; None if it is gone."""
        target = self._workers.get(worker)
        return None if target is None else target.look()

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """Write a worker off if it is at that chunk and item; else return what it is at."""
        target = self._workers.get(worker)
        if target is None:
            return None
        events = target.write_off(number, item)
        if not events:
            return target.look()._replace(is_spared=True)
        del self._workers[worker]
        for event in events:
            self._post(event)
        return None

    def recall(self, worker: int) -> None:
        """Take back what a worker has not begun."""
        target = self._workers.get(worker)
        if target is None:
            return
        kept: list[None] = []
        while not target.inbox.empty():
            entry = target.inbox.get()
            if entry is None:
                kept.append(entry)
                continue
            head = entry[0]
            chunk = Chunk(head, -1, 0, 1) if isinstance(head, int) else head
            self._post(ChunkDone(worker, chunk.number, chunk.start, chunk.start, 0.0, [], None))
        for entry in kept:
            target.inbox.put(entry)
        with target.lock:
            running = target.running
            if running is not None:
                number, (begin, end) = running.number, running.recall()
                if begin < end:
                    self._post(ItemsHandedBack(worker, number, begin, end))
                for event in target.progress(running):
                    self._post(event)

    def describe(self, worker: int) -> WorkerNow | None:
        """Return what a worker is at; None if it has ended."""
        target = self._workers.get(worker)
        if target is None:
            return None
        with target.lock:
            running = target.running
            number, index = (running.number, running.index) if running else (IDLE, LOADING)
        return WorkerNow(os.getpid(), target.thread.name, number, index)

    def ask_stacks(self, workers: Sequence[int]) -> Callable[[], list[tuple[str, ...]]]:
        """Return a function that gives the stacks of workers, one each."""
        frames = sys._current_frames()  # noqa: SLF001 - what there is for this
        found: list[tuple[str, ...]] = []
        for number in workers:
            worker = self._workers.get(number)
            frame = frames.get(worker.thread.ident or 0) if worker is not None else None
            found.append((_stack_of(frame),))
        return lambda: found

    def wait(self, timeout: float | None) -> list[Any]:
        """Wait for signs of life, and return them for `collect`."""
        # From here on the bell is silent. Whatever is put into the outbox until
        # the end of this is found there: by this, or by `collect`.
        self._is_awaited = True
        try:
            if not self._taken:
                # In one go of C: what has left the outbox is here, also if an interrupt
                # comes right then. Who polls next has it.
                self._taken.extend(map(self._outbox.get, _BLOCKING, (timeout,)))
        except Empty:
            pass
        finally:
            self._is_awaited = False
        return self._taken

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait` would return at once."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make the `wait` of another thread return."""
        self._post(None)

    def collect(self, signs: list[Any]) -> list[Event | StartFailed]:
        """Return what the workers have posted."""
        # It may have been rung for what was taken before, and then there are no signs.
        if self._is_rung or not signs:
            # In this order: a bell that rings while it is taken for silent is heard
            # in vain once; the other way round it would stay silent for good.
            self._bell.silence()
            self._is_rung = False
        # Not `signs`: a signal handler that drove itself may have been here meanwhile.
        taken, self._taken = self._taken, []
        while not self._outbox.empty():
            taken.append(self._outbox.get())
        return [event for event in taken if event is not None]

    def close(self, patience: float) -> None:
        """Tell all threads to leave, and wait for them; for one in a task, not long."""
        for worker in self._workers.values():
            while not worker.inbox.empty():
                worker.inbox.get()
            worker.inbox.put(None)
            self._leaving.append(worker)
        self._workers.clear()
        for worker in self._leaving if patience else ():
            # What still runs now was cancelled, and may run for ever.
            worker.thread.join(patience if worker.running is None else 0.5)
        self._epoll.close()
        self._bell.close()

    def _post(self, event: Event | StartFailed | None) -> None:
        self._outbox.put(event)
        if not (self._is_awaited or self._is_rung):
            self._is_rung = True
            self._bell.ring()

    # The worker's side.

    def _work(self, worker: _Worker) -> None:
        if self._initializer is not None:
            _, raised = run_call(self._initializer, self._initargs, {})
            if raised is not None:
                self._report(worker, StartFailed(worker.number, raised))
                return
            del raised
        self._report(worker, WorkerReady(worker.number))
        while (entry := worker.inbox.get()) is not None:
            if len(entry) == 3:  # noqa: PLR2004 - the form of a call
                self._call(worker, *entry)
            else:
                self._run(worker, *entry)
            del entry
        self._report(worker, WorkerLost(worker.number, threading.get_native_id(), 0))

    def _call(self, worker: _Worker, number: int, function: Function, items: list[Any]) -> None:
        """Run a chunk of one call: as `_run`, with as little else as can be."""
        began = perf_counter()
        running = worker.one_call
        running.number = number
        with worker.lock:
            if worker.is_written_off:  # Another does it.
                return
            worker.running = running
            worker.chunk = Chunk(number, -1, 0, 1), function, items
            worker.journal = _NOTHING
        args, kwds = items[0]
        value, raised = run_call(function.func, args, kwds)
        seconds = perf_counter() - began
        with worker.lock:
            worker.running = None
            errors: dict[int, BaseException] | None = None
            if raised is not None:
                running.errors[0] = raised
                running.values.append(None)
                errors = worker.take_results(running)[2]
                running.restart(0)
                running.upto = 1
            del worker.chunk  # and with it the arguments
            done = ChunkDone(worker.number, number, 0, 1, seconds, [value], errors)
            self._report(worker, done)

    def _run(
        self, worker: _Worker, chunk: Chunk, function: Function, items: Any, budget: float
    ) -> None:
        began = perf_counter()
        if chunk.is_exact:
            pace: Pace = EXACT
        else:
            pace = worker.paces.setdefault(function.number, Pace(_BULK_AFTER))
        running = SharedRunning(chunk.start, chunk.stop, chunk.number)
        with worker.lock:
            if worker.is_written_off:  # Another does it.
                return
            worker.running = running
            worker.chunk = chunk, function, items
            worker.journal = _Journal() if chunk.is_exact else _NOTHING
        call = caller(function.func, function.style)
        run_chunk(
            call,
            iter(items),
            running,
            budget if budget >= 0 else math.inf,
            pace,
            worker.journal,
        )
        seconds = perf_counter() - began
        with worker.lock:
            worker.running = None
            start, values, errors = worker.take_results(running)
            del worker.chunk  # and with it the items
            done = ChunkDone(
                worker.number,
                chunk.number,
                start,
                start + len(values),
                seconds,
                values,
                errors or None,
            )
            self._report(worker, done)

    def _report(self, worker: _Worker, event: Event | StartFailed) -> None:
        with worker.lock:
            if not worker.is_written_off:
                self._post(event)


def _stack_of(frame: FrameType | None) -> str:
    """Return the stack of a thread's task as text, the most recent call last."""
    calls = []
    while frame is not None:
        code = frame.f_code
        calls.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return format_frames(task_frames(calls[::-1]) or [])
