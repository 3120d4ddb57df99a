"""Workers as processes of this machine: the default engine and the reference.

::

    driver ──send_chunk──▶ pickle ──▶ FrameWriter ══ socket ══▶ worker/main.py
       ▲                                                            │ run_chunk
       └──collect── events ◀── unpickle ◀── FrameReader ◀═ socket ══╯
                      ▲
                      ╰── pidfd: the worker ended; page: what it was at

Each worker has a channel, a page of shared memory and a pidfd of its own. The
end of a worker is known by its pidfd, after its channel was read empty.
"""

import math
import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import process
from multiprocessing.context import BaseContext

from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motorpool.engines.overrun import MemoryWatch

from motorpool.bell import Bell
from motorpool.buffers import LARGE_PICKLE, MARK, Exchange, keep_apart, size_of
from motorpool.cpus import cpu_count
from motorpool.definitions import Definitions, Known
from motorpool.engines.base import NO_LIMITS, Abilities, Function, Limits, StartFailed, WorkerNow
from motorpool.engines.functions import Functions, not_picklable
from motorpool.engines.launching import Launcher, WorkerProcess
from motorpool.errors import InternalError, NotPicklableError
from motorpool.failures import load_noted, load_results, rebuild, refuse_results
from motorpool.interrupts import pass_on_interrupt
from motorpool.memory import OOM_KILLS
from motorpool.messages import (
    ANSWER,
    CALL,
    DEFINE,
    FORGET,
    FUNCTION,
    HANDED_BACK,
    HEADER,
    MIXED_RESULTS,
    NEED,
    NOT_LOADED,
    NOTED_RESULTS,
    PROGRESS,
    READY,
    RESULTS,
    RUN,
    RUN_APART,
    RUN_EXACTLY,
    SETUP,
    START_FAILED,
    STOP,
    Chunk,
    ChunkDone,
    ChunkProgressed,
    ChunkRefused,
    Event,
    ItemsHandedBack,
    Memory,
    WorkerLost,
    WorkerReady,
    WorkerSeen,
)
from motorpool.scheduler.chunking import MESSAGE_SECONDS
from motorpool.serialization import dumps, dumps_call, loads
from motorpool.transport import Frame, pack
from motorpool.worker.signals import RECALL_SIGNAL

# What a worker that was told to leave may take before SIGKILL.
TERM_SECONDS = 0.5

# By these, others end a process. Who segfaults did it by himself.
_FROM_OUTSIDE = frozenset(
    -number
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
)

# Shared memory for arguments that is kept for the next job at the end of one.
KEPT_BYTES = 128 << 20

_ENGINES: "weakref.WeakSet[ProcessEngine]" = weakref.WeakSet()


def _forget_all() -> None:
    for engine in list(_ENGINES):
        engine.forget_in_child()


os.register_at_fork(after_in_child=_forget_all)


class ProcessEngine:
    """Worker processes of the given `multiprocessing` context."""

    abilities = Abilities(
        timeout=True, kill=True, maxtasksperchild=True, shared_state=True, blame=True, limits=True
    )
    message_seconds = MESSAGE_SECONDS
    starts_at_once = True
    keeps_apart = True

    def __init__(
        self,
        context: BaseContext,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._limits = limits
        OOM_KILLS.refresh()
        self._watch: MemoryWatch | None = None
        if limits.memory:
            from motorpool.engines import overrun

            self._watch = overrun.MemoryWatch(limits.memory, lambda: list(self._workers.values()))
        self._is_forking = context.get_start_method() == "fork"
        self._definitions = Definitions(guess=not self._is_forking)
        self._workers: dict[int, WorkerProcess] = {}
        self._by_fd: dict[int, WorkerProcess] = {}
        self._by_sentinel: dict[int, WorkerProcess] = {}
        self._count = 0
        self._exchange = Exchange()
        functions = Functions(
            self._definitions,
            self._exchange,
            self._known_at_first,
            is_import_repeated=not self._is_forking,
        )
        self.prepare = functions.prepare
        self._launcher = Launcher(
            context,
            (initializer, initargs) if initializer is not None else None,
            limits,
            self._exchange,
            self._definitions,
            functions,
        )
        self._epoll = select.epoll()
        # Waits for signs of life, and returns them for `collect`.
        self.wait = self._epoll.poll
        self._bell = Bell()
        self._epoll.register(self._bell.fd, select.EPOLLIN)
        self._is_closed = False
        self._pid = os.getpid()
        _ENGINES.add(self)

    @property
    def workers(self) -> list[process.BaseProcess]:
        """The worker processes, as `multiprocessing.Process` objects."""
        return [worker.process for worker in list(self._workers.values())]

    def numbers(self) -> list[int]:
        """Return the numbers of the workers."""
        return list(self._workers)

    @property
    def capacity(self) -> int:
        """The CPUs that this process may use."""
        return cpu_count()

    # Functions.

    def _known_at_first(self) -> Known:
        """Return what a worker knows of `__main__` without being told."""
        if not self._is_forking:
            return Known()
        return next((worker.known for worker in self._workers.values()), Known())

    def forget(self, function: Function) -> None:
        """Take note that no job will call `function` again."""
        sender = self._exchange.sender
        if sender.is_in_use:
            sender.tidy(KEPT_BYTES)
        if function.is_shared:
            return
        if function.packed is not None:
            sender.drop(function.packed)
        for worker in self._workers.values():
            if function.number in worker.functions:
                worker.functions.discard(function.number)
                self._send(worker, FORGET, function.number)

    # Starting.

    def start_worker(self) -> int:
        """Start a worker and return its number; raises OSError if there can be none."""
        worker, setup = self._launcher.launch(self._count + 1)
        self._count = number = worker.number
        self._workers[number] = worker
        self._by_fd[worker.fd] = worker
        self._by_sentinel[worker.popen.sentinel] = worker
        try:
            self._epoll.register(worker.fd, select.EPOLLIN)
            self._epoll.register(worker.popen.sentinel, select.EPOLLIN)
            if setup is not None:
                self._send(worker, SETUP, payload=setup)
        except BaseException:  # Nobody would be told of its end.
            worker.popen.kill()
            worker.popen.wait()
            self._drop(worker)
            raise
        return number

    # Sending.

    def send_chunk(
        self, worker: int, chunk: Chunk, function: Function, items: Any, budget: float
    ) -> int | None:
        """Send items to a worker; raises NotPicklableError if they cannot be.

        Returns the bytes of data that went with them if they are many.
        """
        target = self._workers.get(worker)
        if target is None:
            return None  # Its WorkerLost is on the way to the scheduler.
        try:
            listed = keep_apart(items) if chunk.is_apart and len(items) > 1 else items
            payload = self._exchange.sender.dumps(listed, worker) if listed is not None else None
        except Exception as error:
            # If there are several, they will be sent one by one.
            what = f"item {function.position(chunk.start)}"
            refused = not_picklable(what, items[0], error)
            raise refused from error
        if payload is None:
            what = "several items"
            raise NotPicklableError(what, "", "", "their data travels one by one")
        if chunk.job != target.job:
            target.job = -1  # If what follows fails, the next chunk may bring it.
            if function.number not in target.functions or function.roots or _names_main(payload):
                self._update_for(target, function, payload)
            target.job = chunk.job
        if self._watch is not None:
            self._watch.begin()
        kind = RUN_APART if chunk.is_apart else RUN_EXACTLY if chunk.is_exact else RUN
        pieces = pack(kind, chunk.number, chunk.start, chunk.stop, function.number, budget, payload)
        for piece in pieces:
            self._write(target, piece)
        return size_of(payload) if payload[0] == MARK else None

    def send_call(self, worker: int, number: int, function: Function, items: list[Any]) -> None:
        """Send a chunk of one call to a worker that has nothing else to do."""
        target = self._workers[worker]
        try:
            payload = dumps_call(items) or self._exchange.sender.dumps(items, worker)
        except Exception as error:
            refused = not_picklable("item 0", items[0], error)
            raise refused from error
        target.job = -1
        is_known = function.number in target.functions and not function.roots
        if not is_known or b"__main__" in payload or payload[0] == MARK:
            self._update_for(target, function, payload)
        if self._watch is not None:
            self._watch.begin()
        head = HEADER.pack(len(payload), CALL, number, 0, 1, function.number, math.inf)
        self._write(target, head + payload)

    def _update_for(self, worker: WorkerProcess, function: Function, payload: bytes) -> None:
        """Do as `_update`; if that fails, nobody will look at `payload`."""
        try:
            self._update(worker, function)
        except Exception:
            self._exchange.receiver.discard(payload)
            raise

    def _update(self, worker: WorkerProcess, function: Function) -> None:
        """Tell a worker what it does not know for a job: names bound anew, the function."""
        try:
            definitions = self._definitions.pack_for(worker.known, function.roots)
        except Exception as error:
            refused = not_picklable("the function", function.func, error)
            raise refused from error
        if definitions is not None:
            self._send(worker, DEFINE, payload=definitions)
            if function.is_shared:
                # The worker may have looked the name up already, and found an older one.
                worker.functions.discard(function.number)
        if function.number not in worker.functions:
            worker.functions.add(function.number)
            payload = function.payload
            if function.packed is not None:
                payload = self._exchange.sender.lend(function.packed, worker.number)
            self._send(worker, FUNCTION, function.number, function.style, payload=payload)

    def _send(
        self,
        worker: WorkerProcess,
        kind: int,
        number: int = 0,
        start: int = 0,
        payload: bytes = b"",
    ) -> None:
        for piece in pack(kind, number, start, 0, 0, 0.0, payload):
            self._write(worker, piece)

    def _write(self, worker: WorkerProcess, data: bytes) -> None:
        try:
            is_out = worker.writer.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # Its pidfd tells.
        if not is_out and not worker.is_writing:
            worker.is_writing = True
            self._epoll.modify(worker.fd, select.EPOLLIN | select.EPOLLOUT)

    def stop_worker(self, worker: int) -> None:
        """Tell a worker to leave when it has done what it was sent."""
        if worker in self._workers:
            self._stop(self._workers[worker])

    def _stop(self, worker: WorkerProcess) -> None:
        if not worker.is_leaving:
            worker.is_leaving = True
            self._send(worker, STOP)

    def look(self, worker: int) -> WorkerSeen | None:
        """Return what a worker is at; None if it is gone."""
        target = self._workers.get(worker)
        if target is None:
            return None
        is_stopped = target.popen.is_stopped()
        return WorkerSeen(worker, *target.page.look(), is_stopped=is_stopped)

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """End a worker now if it is at that chunk and item; else return what it is at."""
        target = self._workers.get(worker)
        if target is None:
            return None
        if number is None:
            target.popen.kill()
            return None
        # Else it might go on to the next item between the look and the signal.
        with target.popen.frozen():
            at, index, since = target.page.look()
            if at == number and item in (None, index):
                target.popen.kill()
                return None
        return WorkerSeen(worker, at, index, since, is_spared=True)

    def recall(self, worker: int) -> None:
        """Ask a worker for what it has not begun; it may be in the midst of a task."""
        if worker in self._workers:
            self._workers[worker].popen.send_signal(RECALL_SIGNAL)

    # Looking on.

    def describe(self, worker: int) -> WorkerNow | None:
        """Return what a worker is at; None if it has ended."""
        target = self._workers.get(worker)
        if target is None:
            return None
        return WorkerNow(target.popen.pid, target.process.name, *target.page.now())

    def ask_stacks(self, workers: Sequence[int]) -> Callable[[], list[tuple[str, ...]]]:
        """Ask workers for their stacks; return a function that waits for them, not for long."""
        from motorpool.engines.stacks import ask_stacks

        found = [self._workers.get(worker) for worker in workers]
        return ask_stacks([worker.stack_target() if worker else None for worker in found])

    # Receiving.

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait` would return at once."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make the `wait` of another thread return."""
        self._bell.ring()

    def collect(self, signs: list[tuple[int, int]]) -> list[Event | StartFailed]:
        """Return the events that the signs stand for."""
        events: list[Event | StartFailed] = []
        ended: list[WorkerProcess] = []
        for fd, mask in signs:
            worker = self._by_fd.get(fd)
            if worker is not None:
                if mask & select.EPOLLOUT:
                    self._flush(worker)
                if mask & ~select.EPOLLOUT:
                    self._read(worker, events)
            elif fd == self._bell.fd:
                self._bell.silence()
            elif (worker := self._by_sentinel.get(fd)) is not None:
                ended.append(worker)
        for worker in ended:
            # A signal handler that used the pool may have been here meanwhile,
            # and the descriptor be a new worker's.
            if worker.popen.poll() is not None:
                self._bury(worker, events)
        return events

    def collect_call(
        self, signs: list[tuple[int, int]], worker: int, number: int
    ) -> list[Any] | None:
        """Return the list of the one value of a call if that is all the signs stand for."""
        target = self._workers[worker]
        if len(signs) != 1 or signs[0] != (target.fd, select.EPOLLIN):
            return None
        payload = target.reader.read_one(RESULTS, number)
        if payload is None:
            return None
        try:
            values: list[Any] = loads(payload)
        except BaseException as error:
            pass_on_interrupt(error)
            target.reader.unread()  # For `collect`: a failure, or a payload in shared memory.
            return None
        return values

    def _flush(self, worker: WorkerProcess) -> None:
        try:
            is_out = worker.writer.flush()
        except (BrokenPipeError, ConnectionResetError):
            is_out = True
        if is_out:
            worker.is_writing = False
            self._epoll.modify(worker.fd, select.EPOLLIN)

    def _read(self, worker: WorkerProcess, events: list[Event | StartFailed]) -> bool:
        """Read once; return whether there may be more."""
        try:
            frames = worker.reader.read()
        except BlockingIOError:
            return False
        for frame in frames:
            event = self._event(worker, frame)
            if event is not None:
                events.append(event)
        if worker.reader.closed:
            # Nothing more to read; the pidfd will tell of the end.
            self._unwatch(self._by_fd, worker.fd)
            return False
        return True

    def _event(self, worker: WorkerProcess, frame: Frame) -> Event | StartFailed | None:
        kind, number, start, stop, _extra, _seconds, payload = frame
        if kind in (RESULTS, MIXED_RESULTS, NOTED_RESULTS, PROGRESS):
            return self._results(worker, frame)
        if kind == HANDED_BACK:
            return ItemsHandedBack(worker.number, number, start, stop)
        if kind == NOT_LOADED:
            return ChunkRefused(worker.number, number, rebuild(loads(payload), start))
        if kind == READY:
            return WorkerReady(worker.number)
        if kind == START_FAILED:
            return StartFailed(worker.number, rebuild(loads(payload)))
        if kind != NEED:
            msg = f"a worker sent a frame of kind {kind}"
            raise InternalError(msg)
        self._answer(worker, *loads(payload))
        return None

    def _results(self, worker: WorkerProcess, frame: Frame) -> Event:
        kind, number, start, stop, extra, seconds, payload = frame
        form = extra if kind == PROGRESS else kind
        try:
            values, errors = self._load_results(form, payload, start)
        except BaseException as error:  # Shared memory that cannot be mapped, for instance.
            pass_on_interrupt(error)
            values, errors = refuse_results(error, start, stop)
        if errors and self._limits.memory:
            from motorpool.engines.overrun import explain_refusals

            explain_refusals(errors, self._limits.memory)
        if kind == PROGRESS:
            return ChunkProgressed(worker.number, number, start, stop, seconds, values, errors)
        return ChunkDone(worker.number, number, start, stop, seconds, values, errors)

    def _load_results(
        self, form: int, payload: bytes, start: int
    ) -> tuple[list[Any], dict[int, BaseException] | None]:
        if form == NOTED_RESULTS:
            return load_noted(payload, start)
        buffers: list[memoryview] = []
        if payload[0] == MARK:
            payload, buffers = self._exchange.receiver.open(payload)
        elif len(payload) >= LARGE_PICKLE:
            self._exchange.refused("a worker was given none")
        return load_results(payload, start, buffers, mixed=form == MIXED_RESULTS)

    def _answer(self, worker: WorkerProcess, module: str, name: str | None) -> None:
        from motorpool import wanted

        answer = wanted.answer(self._definitions, worker.known, module, name)
        self._send(worker, ANSWER, payload=dumps(answer))

    # The end of a worker.

    def _bury(self, worker: WorkerProcess, events: list[Event | StartFailed]) -> None:
        while worker.fd in self._by_fd and self._read(worker, events):
            pass
        exitcode = worker.popen.poll()
        number, index, upto, finished = worker.page.read(loads)
        pid, cause = worker.popen.pid, worker.popen.fault
        if cause is not None:
            exitcode = None
        lost = WorkerLost(worker.number, pid, exitcode, number, index, upto, finished, cause)
        is_own_doing = exitcode not in _FROM_OUTSIDE or worker.page.is_ending
        memory = self._memory_of(worker, exitcode)
        events.append(lost._replace(memory=memory, is_own_doing=is_own_doing))
        self._drop(worker)

    def _memory_of(self, worker: WorkerProcess, exitcode: int | None) -> Memory:
        if worker.page.outgrown_at:
            from motorpool.engines.overrun import log_outgrown

            log_outgrown(worker.popen.pid, worker.page.outgrown_at, self._limits.memory)
        if exitcode != -signal.SIGKILL:
            return Memory(worker.popen.peak)
        killed_by_kernel = None if worker.overrun else OOM_KILLS.rose()
        return Memory(worker.popen.peak, worker.overrun, self._limits.memory, killed_by_kernel)

    def _drop(self, worker: WorkerProcess) -> None:
        try:
            self._let_go_of(worker)
        except BaseException:  # An interrupt. What is done already is not done again.
            self._let_go_of(worker)
            raise

    def _let_go_of(self, worker: WorkerProcess) -> None:
        self._unwatch(self._by_sentinel, worker.popen.sentinel)
        self._unwatch(self._by_fd, worker.fd)
        worker.close()
        worker.process.join()
        worker.popen.close()
        worker.page.close()
        self._exchange.lost(worker.number)
        self._workers.pop(worker.number, None)

    def _unwatch(self, watched: dict[int, WorkerProcess], fd: int) -> None:
        if fd in watched:
            with suppress(FileNotFoundError):  # An interrupt has cut this short before.
                self._epoll.unregister(fd)
            del watched[fd]

    def close(self, patience: float) -> None:
        """End all workers: wait so many seconds for them to leave, then kill. Idempotent."""
        if self._is_closed:
            return
        if self._watch is not None and self._pid == os.getpid():
            self._watch.close()
        try:
            if self._pid == os.getpid():
                self._ask_to_leave(patience)
        finally:  # At another Ctrl-C there is no more patience.
            for worker in list(self._workers.values()) if self._pid == os.getpid() else ():
                worker.popen.kill()
                worker.popen.wait()
                self._drop(worker)
            self._is_closed = True
            self._exchange.close()
            self._epoll.close()
            self._bell.close()

    def _ask_to_leave(self, patience: float) -> None:
        for worker in list(self._workers.values()):
            if patience:
                self._stop(worker)
            else:
                worker.popen.terminate()
        self._await_end(time.monotonic() + max(patience, TERM_SECONDS))

    def _await_end(self, deadline: float) -> None:
        """Serve the workers, which may still ask for names, until all have left."""
        while self._workers and (seconds := deadline - time.monotonic()) > 0:
            self.collect(self._epoll.poll(seconds))

    def forget_in_child(self) -> None:
        """In a forked child: close what is the parent's, and touch nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        for worker in self._workers.values():
            # Else multiprocessing would wait for it when the child exits.
            process._children.discard(worker.process)  # type: ignore[attr-defined] # noqa: SLF001
            worker.close()
            worker.popen.forget()
        self._workers.clear()
        self._exchange.forget()
        self._epoll.close()
        self._bell.close()


def _names_main(payload: bytes) -> bool:
    """Tell whether a pickle may refer to something in `__main__`."""
    return b"__main__" in payload or payload[0] == MARK
