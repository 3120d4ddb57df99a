"""What engines have in common whose workers are not ours: executors, Ray, Dask.

::

    driver ──send_chunk──▶ Task ──_submit──▶ executor or cluster ──▶ worker/remote.py
       ▲                                                                 │ run_chunk
       └──collect── events ◀── outbox, bell ◀── finished / failed ◀──────╯

A *slot* stands for a worker: room for one chunk to run, and for short ones to
wait behind it. Which process runs a chunk is the executor's or cluster's
business. A chunk that goes down with its process is told by `ChunkLost`; its
slot lives on.

A subclass says how to submit a task and how to cancel it (`_submit`, `_cancel`),
for how many there is room (`capacity`), and what to do at the end (`_close`).
When a task has ended it calls `finished` or `failed`, from any thread.
"""

import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from itertools import count
from math import inf
from queue import SimpleQueue

from motorpool.bell import Bell
from motorpool.engines import programs
from motorpool.engines.base import Abilities, Function, Initializer, StartFailed
from motorpool.engines.programs import Program, Programs
from motorpool.engines.sources import can_be_sent
from motorpool.errors import EngineBrokenError, ResultNotLoadedError
from motorpool.explain import not_picklable
from motorpool.failures import load_results, rebuild, without_frames
from motorpool.messages import (
    CALL_ITEM,
    IDLE,
    LOADING,
    MIXED_RESULTS,
    NEED,
    NOT_LOADED,
    NOT_STARTED,
    UNKNOWN,
    CapacityChanged,
    Chunk,
    ChunkDone,
    ChunkLost,
    ChunkRefused,
    Event,
    Order,
    Reply,
    WorkerLost,
    WorkerReady,
    WorkerSeen,
)
from motorpool.serialization import dumps, is_main_function, loads
from motorpool.typed import Any, ClassVar

# How often a chunk is sent again because of a name it lacks.
MOST_NEEDS = 100
# The first item of a job is looked at for the classes it needs, if the chunk is not larger.
SAMPLE_BYTES = 1 << 16
# The job of a call that is not on the books.
_DIRECT = -2


class Slot:
    """What stands for a worker, and the tasks that it has been given, in their order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tasks: dict[int, Task] = {}


class Task:
    """A chunk on its way through an executor or cluster."""

    __slots__ = (
        "budget",
        "chunk",
        "function",
        "future",
        "is_whole",
        "items",
        "needs",
        "program",
        "slot",
    )

    def __init__(
        self, slot: Slot, chunk: Chunk, function: Function, program: Program, items: bytes
    ) -> None:
        self.slot = slot
        self.chunk = chunk
        self.function = function
        self.program = program
        self.items = items
        self.budget = 0.0
        self.needs = 0
        self.is_whole = False  # its program has to go with it
        # The subclass's, for `_cancel`.
        self.future: Any = None


class RemoteEngine(ABC):
    """The part of an engine that does not know where tasks go.

    Parameters
    ----------
    initializer
        A function and its arguments, called once in each process that runs a
        chunk of this pool, before the first.
    processes
        The number of workers that the user named, if any.
    options
        What the user passed as `engine_options`.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities] = Abilities()
    # What it costs to send a chunk and take its results. Chunks are longer
    # where it is much, see `scheduler.chunking.timing`.
    message_seconds: float = 0.001
    keeps_apart = False
    starts_at_once: bool = True

    def __init__(
        self, initializer: Initializer | None, processes: int | None, options: Mapping[str, Any]
    ) -> None:
        self.processes = processes
        self.options = dict(options)
        self.is_closed = False
        self._slots: dict[int, Slot] = {}
        self._numbers = count(1)
        self._functions = count(1)
        self._named: dict[tuple[int, int], Function] = {}
        self._programs = Programs(self._check_program)
        self._job = -1  # of the last chunk sent
        # A task and how it ended; or no task, and an event or a function that
        # returns events.
        self._outbox: SimpleQueue[tuple[Task | None, Any]] = SimpleQueue()
        self.setup = self._make_setup(initializer) if initializer is not None else None
        self._bell = Bell()
        self._epoll = select.epoll()
        self._epoll.register(self._bell.fd, select.EPOLLIN)

    # What a subclass says.

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many workers there is room for."""

    @abstractmethod
    def _submit(self, task: Task) -> None:
        """Have `run_remote_chunk(*self.arguments(task))` called somewhere, and do not block.

        Sets `task.future`. Any exception means that nothing can be submitted any more.
        """

    @abstractmethod
    def _cancel(self, task: Task) -> bool:
        """Return True if the task has not begun and never will."""

    def _put(self, text: bytes) -> Any:
        """Bring a program to where tasks are run; `arguments` has what this returns."""
        return text

    # Not abstract: most engines have nothing to do here.

    def _check(self, payload: bytes) -> None:  # noqa: B027
        """Raise TypeError for a pickle that would not arrive."""

    def _check_program(self, payload: bytes) -> None:
        """Raise TypeError for a pickle that would not arrive in each of several processes."""
        self._check(payload)

    def _open(self, slot: Slot) -> None:  # noqa: B027
        """Take note of a new slot; raises OSError if there can be none."""

    def _leave(self, slot: Slot) -> None:  # noqa: B027
        """Take note that a slot is not used any more; all its tasks have ended."""

    def _kill(self, slot: Slot) -> None:  # noqa: B027
        """End what a slot is running, if that is possible."""

    def _close(self, patience: float) -> None:  # noqa: B027
        """End what this engine has started, and leave alone what was there before."""

    def _on_failure(self, task: Task, error: BaseException) -> Event:
        """Return what it means that a task failed other than by its function."""
        chunk = task.chunk
        if isinstance(error, CancelledError):
            return _not_run(task)
        lost = WorkerLost(
            task.slot.number, 0, None, chunk.number, chunk.start, chunk.stop, cause=error
        )
        return ChunkLost(task.slot.number, chunk.number, lost)

    # What a subclass calls.

    def arguments(self, task: Task) -> tuple[Order, Any, Any, bytes]:
        """Return the arguments for `run_remote_chunk`."""
        return self.order(task), self._handle(task.program), self._handle(self.setup), task.items

    def order(self, task: Task) -> Order:
        """Return what is to be run."""
        setup = self.setup
        return Order(
            task.program.key,
            setup.key if setup is not None else None,
            task.chunk.start,
            task.chunk.stop,
            task.budget,
            task.chunk.is_exact,
        )

    def _handle(self, program: Program | None) -> Any:
        if program is None:
            return None
        if program.handle is None:
            program.handle = self._put(program.text)
        return program.handle

    def finished(self, task: Task, reply: Reply) -> None:
        """Take note, in any thread, of what `run_remote_chunk` returned."""
        self._post(task, reply)

    def failed(self, task: Task, error: BaseException) -> None:
        """Take note, in any thread, that a task ended with its process, or was cancelled."""
        self._post(task, error)

    def resize(self, capacity: int) -> None:
        """Take note, in any thread, that there is room for so many workers from now on."""
        if self.processes is not None:
            capacity = min(self.processes, capacity)
        self._post(None, CapacityChanged(max(capacity, 1)))

    def _post(self, task: Task | None, news: Any) -> None:
        self._outbox.put((task, news))
        self._bell.ring()

    # Functions.

    def prepare(self, func: Callable[..., Any], style: int) -> Function:
        """Return `func` ready to be sent; raises NotPicklableError if it cannot be."""
        known = self._named.get((id(func), style))
        if known is not None and known.func is func:
            return known
        payload, roots = programs.pickle_function(func, "the function", self._check_program)
        is_shared = bool(roots) and is_main_function(func)
        function = Function(next(self._functions), func, style, payload, roots, is_shared)
        if is_shared:
            self._named[id(func), style] = function
        self._programs.make(function)
        return function

    def _make_setup(self, initializer: Initializer) -> Program:
        payload, roots = programs.pickle_function(
            initializer, "the initializer", self._check_program
        )
        setup = Program(initializer, CALL_ITEM, payload, roots, check=self._check_program)
        self._programs.set_up = setup.needed.assigned
        return setup

    def forget(self, function: Function) -> None:
        """Take note that no job will call `function` again."""
        if not function.is_shared:
            self._programs.forget(function)

    # Slots.

    @property
    def workers(self) -> list[Slot]:
        """The slots."""
        return list(self._slots.values())

    def numbers(self) -> list[int]:
        """Return the numbers of the slots."""
        return list(self._slots)

    def start_worker(self) -> int:
        """Open a slot and return its number."""
        slot = Slot(next(self._numbers))
        self._open(slot)
        self._slots[slot.number] = slot
        self._post(None, WorkerReady(slot.number))
        return slot.number

    def stop_worker(self, worker: int) -> None:
        """Close a slot."""
        slot = self._slots.pop(worker, None)
        if slot is not None:
            self._leave(slot)
            self._post(None, WorkerLost(worker, 0, 0))

    def look(self, worker: int) -> WorkerSeen | None:
        """Return the chunk that was sent first; since when it runs is not known here."""
        slot = self._slots.get(worker)
        if slot is None:
            return None
        return WorkerSeen(worker, next(iter(slot.tasks), IDLE), LOADING, inf)

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """Give up what a slot runs; tasks that have not begun will run in another.

        If it holds others that count as begun, they come in their turn, and so
        the slot is spared. It is given up otherwise.
        """
        del item
        slot = self._slots.get(worker)
        if slot is None:
            return None
        if number is not None:
            self.recall(worker)
            if number in slot.tasks and len(slot.tasks) > 1:
                self._post(None, self._on_failure(slot.tasks.pop(number), _killed()))
            if number not in slot.tasks:
                at = next(iter(slot.tasks), IDLE)
                return WorkerSeen(worker, at, LOADING, inf, is_spared=True)
        del self._slots[worker]
        tasks = list(slot.tasks.values())
        slot.tasks = {}
        begun = [task for task in tasks if not self._cancel(task)]
        self._kill(slot)
        for task in begun:
            self._post(None, self._on_failure(task, _killed()))
        self._post(None, WorkerLost(worker, 0, None))
        return None

    def recall(self, worker: int) -> None:
        """Take back the tasks of a slot that have not begun."""
        slot = self._slots.get(worker)
        for task in list(slot.tasks.values()) if slot is not None else ():
            if self._cancel(task):
                del task.slot.tasks[task.chunk.number]
                self._post(None, _not_run(task))

    def describe(self, worker: int) -> None:
        """Return None: what runs a task, and where, is not known here."""
        del worker

    def ask_stacks(self, workers: Sequence[int]) -> Callable[[], list[tuple[str, ...]]]:
        """Return a function that gives no stacks."""
        return lambda: [("  (no stack: the worker is not ours)\n",) for _ in workers]

    # Sending.

    def send_chunk(
        self, worker: int, chunk: Chunk, function: Function, items: Any, budget: float
    ) -> None:
        """Submit items; raises NotPicklableError if they cannot be sent."""
        slot = self._slots.get(worker)
        if slot is None:
            return  # Its WorkerLost is on the way to the scheduler.
        try:
            payload = dumps(items)
            self._check(payload)
        except Exception as error:
            # If there are several, they will be sent one by one.
            what = f"item {function.position(chunk.start)}"
            refused = not_picklable(what, items[0], error)
            raise refused from error
        program = self._program_for(chunk, function, items, payload)
        task = Task(slot, chunk, function, program, payload)
        task.budget = budget
        slot.tasks[chunk.number] = task
        self._start(task)

    def send_call(self, worker: int, number: int, function: Function, items: list[Any]) -> None:
        """Submit a chunk of one call."""
        self._job = -1
        self.send_chunk(worker, Chunk(number, _DIRECT, 0, 1), function, items, inf)

    def collect_call(self, signs: list[Any], worker: int, number: int) -> list[Any] | None:
        """Leave it to `collect`."""
        del signs, worker, number
        return None

    def _program_for(self, chunk: Chunk, function: Function, items: Any, payload: bytes) -> Program:
        is_new = chunk.job != self._job
        self._job = chunk.job
        program = self._programs.latest(function) if not is_new else None
        if program is None:
            program = self._programs.current(function) or self._programs.make(function)
        if is_new and len(payload) < SAMPLE_BYTES and programs.refers_to_main(payload):
            # Further ones are likely of the same classes; if not, the reply says so.
            needed = programs.names_needed_by(items[0]) - program.roots
            if needed:
                program = self._programs.make(function, needed)
        return program

    def _start(self, task: Task) -> None:
        try:
            self._submit(task)
        except Exception as error:
            del task.slot.tasks[task.chunk.number]
            self._post(None, StartFailed(task.slot.number, self._broken(error)))

    def _broken(self, error: BaseException) -> EngineBrokenError:
        broken = EngineBrokenError(
            f"the {self.name} engine takes no more work: {type(error).__name__}: {error}. "
            f"What was submitted and not finished is lost; make a new pool."
        )
        broken.__cause__ = without_frames(error)
        return broken

    # Receiving.

    def wait(self, timeout: float | None) -> list[Any]:
        """Wait for signs of life, and return them for `collect`."""
        return self._epoll.poll(timeout)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait` would return at once."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make the `wait` of another thread return."""
        self._bell.ring()

    def collect(self, signs: list[Any]) -> list[Event | StartFailed]:
        """Return the events that have been posted."""
        del signs
        self._bell.silence()
        events: list[Event | StartFailed] = []
        while not self._outbox.empty():
            task, news = self._outbox.get()
            if task is None:
                events.extend(news() if callable(news) else (news,))
            elif task.slot.tasks.get(task.chunk.number) is task:
                event = self._event(task, news)
                if event is not None:
                    del task.slot.tasks[task.chunk.number]
                    events.append(event)
        return events

    def _event(self, task: Task, news: Reply | BaseException) -> Event | StartFailed | None:
        if isinstance(news, BaseException):
            return self._on_failure(task, news)
        kind, _pid, stop, seconds, payload = news
        number, _, start, *_ = task.chunk
        worker = task.slot.number
        if kind in (NEED, UNKNOWN):
            return self._send_again(task, kind, loads(payload))
        if kind == NOT_LOADED:
            return ChunkRefused(worker, number, rebuild(loads(payload), start))
        if kind == NOT_STARTED:
            return StartFailed(worker, rebuild(loads(payload)))
        values, errors = load_results(payload, start, mixed=kind == MIXED_RESULTS)
        return ChunkDone(worker, number, start, stop, seconds, values, errors)

    def _send_again(self, task: Task, kind: int, what: Any) -> Event | StartFailed | None:
        """Submit a task again, none of which was run, with what it lacked."""
        refused = self._supply(task, *what) if kind == NEED else self._supply_text(task, what)
        if refused is not None:
            return ChunkRefused(task.slot.number, task.chunk.number, refused)
        self._start(task)
        return None

    def _supply_text(self, task: Task, key: object) -> BaseException | None:
        """Take note that a process does not know a program that went without its text."""
        del key
        task.is_whole = True
        return self._count_need(task, "the function")

    def _supply(
        self, task: Task, key: object, module: str, name: str | None
    ) -> BaseException | None:
        """Add to a program what a process does not know; return an error if that is impossible."""
        setup = self.setup
        program = setup if setup is not None and key == setup.key else task.program
        top = module.partition(".")[0]
        what = module if name is None else f"{module}.{name}"
        names = [(module, name)] if name is not None else []
        if program.roots.issuperset(names) and (name is not None or top in program.tops):
            return _lacking(what)
        if name is None:
            if not can_be_sent(top):
                return _lacking(what)
            self._programs.tops |= {top}
        try:
            if program is setup:
                self.setup = setup.extended(names, self._programs.tops)
            else:
                task.program = self._programs.make(task.function, names)
        except Exception as error:
            return error
        return self._count_need(task, what)

    @staticmethod
    def _count_need(task: Task, what: str) -> BaseException | None:
        task.needs += 1
        return _lacking(what) if task.needs > MOST_NEEDS else None

    # The end.

    def close(self, patience: float) -> None:
        """Cancel what is outstanding, and end what this engine has started. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        for slot in self._slots.values():
            for task in slot.tasks.values():
                self._cancel(task)
            slot.tasks = {}
        self._close(patience)
        self._slots.clear()
        self._epoll.close()
        self._bell.close()


def _not_run(task: Task) -> ChunkDone:
    number, _, start, *_ = task.chunk
    return ChunkDone(task.slot.number, number, start, start, 0.0, [], None)


def _killed() -> BaseException:
    return RuntimeError("the task was cancelled while it ran")


def _lacking(what: str) -> ResultNotLoadedError:
    return ResultNotLoadedError(
        f"a worker of the cluster or executor cannot import {what}, which the function or an item "
        f"needs, and it cannot be sent there. Install it where the workers are."
    )
