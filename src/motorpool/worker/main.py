"""A worker process: read frames, run chunks, send results, until told to stop."""

import errno
import os
import select
from _signal import signal as set_handler  # type: ignore[import-not-found]
from collections import deque
from contextlib import suppress
from time import perf_counter

from motorpool.buffers import MARK, Receiver, Sender
from motorpool.messages import (
    ANSWER,
    CALL,
    CALL_ARGUMENTS,
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
)
from motorpool.mirror import Mirrors, load_definitions
from motorpool.serialization import describe_failure, dump_result, dump_results, dumps, loads
from motorpool.spin import Spin
from motorpool.transport import Frame, FrameReader, pack, write_all
from motorpool.typed import TYPE_CHECKING, Any, NamedTuple
from motorpool.worker.last_words import before_the_end
from motorpool.worker.page import Page
from motorpool.worker.run import EXACT, Pace, Running, caller, run_call, run_chunk
from motorpool.worker.signals import RECALL_SIGNAL, become_worker, die_with_parent, listen
from motorpool.worker.threads import limit_threads

if TYPE_CHECKING:
    from motorpool.worker.identity import Identity

# A worker without work gives back after this long what its arena does not need,
# and then looks as often whether the parent still sees the rest.
IDLE_SECONDS = 1


class Setup(NamedTuple):
    """What a worker is told before its first chunk."""

    identity: "Identity | None"
    definitions: bytes | None
    initializer: bytes | None
    region: int = 0  # of the worker's arena; 0 without one
    is_bare: bool = False  # under fork: no numerical library was inherited


class Function(NamedTuple):
    """A function as called with an item, the function itself, and its measured length."""

    call: Any
    func: Any
    pace: Pace
    style: int


_RUNS = (RUN, RUN_EXACTLY, RUN_APART)
# The chunk of a call, of which nothing can be given back.
_ONE_CALL = Running(0, 0)


class Worker:
    """The loop of a worker process and what it holds."""

    def __init__(
        self, fd: int, page: Page, arena: int, lifeline: int, tracker: int, initializer: Any
    ) -> None:
        self._fd = fd
        self._arena = arena
        self._receiver = Receiver(arena)
        self._sender = Sender(-1, 0)
        self._dumps = self._sender.dumps
        self._initializer = initializer
        self._lifeline = lifeline
        self._tracker = tracker
        self._page = page
        self._reader = FrameReader(fd)
        self._inbox: deque[Frame] = deque()
        self._functions: dict[int, tuple[int, bytes] | Function] = {}
        self._running: Running | None = None
        self._chunk = 0
        self._function_run: Function
        self._items: Any = None
        self._first = 0
        self._sending = True
        self._recalled = False
        self._is_loading = False
        self._was_called = False
        self._spin = Spin()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._definition_error: BaseException | None = None
        self.mirrors = Mirrors(self._ask)

    def serve(self, setup: Setup | None = None) -> None:
        """Work until STOP, or until the parent is gone; without a `setup`, it is sent."""
        set_handler(RECALL_SIGNAL, self._on_recall)
        before_the_end(self._page.last_words, self._page.go_on)
        os.register_at_fork(after_in_child=self._forget_parent)
        self.mirrors.install()
        if setup is not None and not self._set_up(setup):
            return
        while (frame := self._next()) is not None and frame[0] != STOP:
            if frame[0] == CALL:
                self._call(frame)
                continue
            kind, number, start, _stop, _extra, _seconds, payload = frame
            if kind in _RUNS:
                self._run(frame)
            elif kind == FUNCTION:
                self._functions[number] = (start, payload)
            elif kind == DEFINE:
                self._define(payload)
            elif kind == FORGET:
                self._forget(number)
            elif kind == SETUP and not self._set_up(loads(payload)):
                return

    def _forget_parent(self) -> None:
        """In a child that a task forked: have nothing to do with the parent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._page.part()
            with suppress(OSError):
                os.close(fd)

    def _next(self) -> Frame | None:
        while not self._inbox:
            if self._sender.arena is not None:
                self._await_frame()
            if self._was_called:
                self._was_called = False
                self._spin.look(self._poll)
            frames = self._reader.read()
            if len(frames) == 1:
                return frames[0]
            self._inbox.extend(frames)
            if self._reader.closed:
                return None
        return self._inbox.popleft()

    def _await_frame(self) -> None:
        """Wait for something to read; give memory back if it takes long."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while self._sender.is_in_use and not poll.poll(IDLE_SECONDS * 1000):
            self._sender.tidy(0)

    def _send(
        self,
        kind: int,
        number: int = 0,
        start: int = 0,
        stop: int = 0,
        extra: int = 0,
        seconds: float = 0.0,
        payload: bytes = b"",
    ) -> None:
        write_all(self._fd, pack(kind, number, start, stop, extra, seconds, payload))

    def _set_up(self, setup: Setup) -> bool:
        try:
            if setup.region:
                self._sender = Sender(self._arena, setup.region)
                self._dumps = self._sender.dumps
            if setup.identity is not None:
                from motorpool.worker.identity import assume

                assume(setup.identity, self._lifeline, self._tracker)
            if setup.definitions is not None:
                self._define(setup.definitions)
            if setup.initializer is not None:
                self._initializer = self._load(setup.initializer)
            raised = self._initialize()
        except BaseException as error:
            raised = error
        if raised is not None:
            failure = describe_failure(raised, os.getpid(), "", "the initializer", "start")
            self._send(START_FAILED, payload=dumps(failure))
            return False
        self._send(READY)
        return True

    def _initialize(self) -> BaseException | None:
        if self._initializer is None:
            return None
        initializer, arguments = self._initializer
        self._initializer = None
        return run_call(initializer, arguments, {})[1]

    # Chunks.

    def _run(self, frame: Frame) -> None:
        kind, chunk, start, stop, number, budget, payload = frame
        began = perf_counter()
        self._chunk = chunk
        running = self._running = Running(start, stop)
        self._page.load(chunk, stop)
        self._is_loading = True
        self._sending = False
        try:
            function = self._functions[number]
            if type(function) is not Function:
                function = self._load_function(number, payload)
            if kind != RUN:
                function = function._replace(pace=EXACT)
                self._page.load_items(perf_counter(), is_apart=kind == RUN_APART)
            self._items = self._load(payload)
        except BaseException as error:
            self._sending = True
            self._is_loading = False
            self._refuse(running, error)
        else:
            self._is_loading = False
            # Who has loaded a chunk runs half of it, if others want the rest. Were it
            # less, items that are slow to load would be loaded again for each of them.
            # Calls may have been cancelled: all go home but one, for the same reason.
            self._notice_recall(running, 1 if kind == RUN_APART else (stop - start + 1) // 2)
            self._run_items(function, running, budget, began)
        self._running = None
        self._page.clear()
        if self._recalled:
            self._recalled = False
            self._hand_back_inbox()

    def _call(self, frame: Frame) -> None:
        """Run a chunk of one call: as `_run`, with as little else as can be."""
        began = perf_counter()
        _, chunk, _, _, number, _, payload = frame
        self._chunk = chunk
        self._running = _ONE_CALL
        page = self._page
        page.load(chunk, 1)
        self._sending = False
        try:
            function = self._functions[number]
            if type(function) is not Function:
                function = self._load_function(number, payload)
            args, kwds = self._load(payload)[0]
        except BaseException as error:
            self._sending = True
            self._refuse(Running(0, 1), error)
        else:
            page.at(0, 1, began)
            value, raised = run_call(function.func, args, kwds)
            self._sending = True
            mixed, payload = dump_result(value, raised, function.func, (args, kwds), self._dumps)
            del args, kwds, value, raised  # see _run_items
            kind = MIXED_RESULTS if mixed else RESULTS
            seconds = perf_counter() - began
            data = HEADER.pack(len(payload), kind, chunk, 0, 1, 0, seconds) + payload
            try:
                if (written := os.write(self._fd, data)) < len(data):
                    write_all(self._fd, [memoryview(data)[written:]])
            except OSError:
                page.keep(kind, 0, 1, payload)
                raise
        self._running = None
        self._was_called = True
        page.clear()
        if self._recalled:
            self._recalled = False
            self._hand_back_inbox()

    def _run_items(self, function: Function, running: Running, budget: float, began: float) -> None:
        left = iter(self._items)  # of a range too, which is never written out
        self._function_run, self._first = function, running.start
        started, rest = began, abs(budget)
        while True:
            run_chunk(function.call, left, running, rest, function.pace, self._page)
            self._sending = True
            start, stop, kind, payload = self._dump_finished(running)
            if self._page.expects_large and kind != NOTED_RESULTS:
                self._page.expect(payload, stop - start)
            now = perf_counter()
            seconds = now - began
            if budget >= 0:
                rest = budget - (now - started)
            if running.index >= running.stop or rest <= 0:
                # Shared memory among them is free for use when the parent reads the results.
                left = self._items = None
                running.values, running.errors = [], {}
                self._send_results(kind, kind, start, stop, 0, seconds, payload)
                return
            self._send_results(PROGRESS, kind, start, stop, kind, seconds, payload)
            began = now
            running.restart(running.index)
            self._page.restart()
            self._sending = False
            self._notice_recall(running, 0)

    def _send_results(self, kind: int, form: int, start: int, stop: int, *others: Any) -> None:
        try:
            self._send(kind, self._chunk, start, stop, *others)
        except OSError:  # A task has closed our descriptor.
            self._page.keep(form, start, stop, others[-1])
            raise

    def _dump_finished(self, running: Running) -> tuple[int, int, int, Any]:
        """Pickle what is not sent yet; return the range, the kind of frame and its payload."""
        start, stop = running.unsent()
        if (noted := self._page.noted(start, stop)) is not None:
            running.sent = stop - running.start
            return start, stop, NOTED_RESULTS, noted
        start, values, errors = running.take()
        stop = start + len(values)
        items = self._items[start - self._first : stop - self._first]
        function = self._function_run
        mixed, payload = dump_results(
            values,
            errors,
            function.func,
            os.getpid(),
            items,
            self._dumps,
            are_calls=function.style == CALL_ARGUMENTS,
        )
        return start, stop, MIXED_RESULTS if mixed else RESULTS, payload

    def _refuse(self, running: Running, error: BaseException) -> None:
        if self._definition_error is not None:
            error, self._definition_error = self._definition_error, None
        failure = describe_failure(error, os.getpid(), "", "", "load")
        self._send(NOT_LOADED, self._chunk, running.start, running.end, payload=dumps(failure))

    def _load_function(self, number: int, payload: bytes) -> Function:
        """Return the function for a chunk; if that fails, nobody will look at its `payload`."""
        try:
            return self._function(number)
        except BaseException:
            self._receiver.discard(payload)
            raise

    def _function(self, number: int) -> Function:
        function = self._functions[number]
        if not isinstance(function, Function):
            style, payload = function
            func = self._load(payload)
            function = self._functions[number] = Function(caller(func, style), func, Pace(), style)
        return function

    def _forget(self, number: int) -> None:
        function = self._functions.pop(number, None)
        if function is not None and not isinstance(function, Function):
            self._receiver.discard(function[1])

    # Names of modules that only the parent has.

    def _load(self, payload: bytes) -> Any:
        self.mirrors.loading = True
        try:
            return loads(payload) if payload[0] != MARK else self._receiver.loads(payload)
        finally:
            self.mirrors.loading = False

    def _define(self, payload: bytes) -> None:
        self.mirrors.loading = True
        try:
            load_definitions(payload)
        except BaseException as error:
            self._definition_error = error
        finally:
            self.mirrors.loading = False

    def _ask(self, module: str, name: str | None) -> bool:
        """Ask the parent for a name or a module; return whether it had it."""
        guard, self._sending = self._sending, True
        self._send(NEED, payload=dumps((module, name)))
        waiting: list[Frame] = []
        while (frame := self._next()) is not None and frame[0] != ANSWER:
            waiting.append(frame)
        self._inbox.extendleft(reversed(waiting))
        self._sending = guard
        if frame is None:
            os._exit(1)
        found, definitions = loads(frame[6])
        if definitions:
            self._define(definitions)
        return bool(found)

    # Giving back what has not begun, and results that wait for a long item.

    def _on_recall(self, _signal: int, _frame: object) -> None:
        # Runs between two bytecodes of the main thread, in the middle of a task.
        # While a frame is being read or written it only leaves a note.
        if self._sending or self._running is None:
            self._recalled = True
            return
        self._sending = True
        running, sent = self._running, self._running.sent
        try:
            self._hand_back_inbox()
            if self._is_loading:
                # Not the chunk itself: items that are slow to load would go round
                # the workers, each of which begins anew. It is shared once it is there.
                self._recalled = True
            else:
                self._give_back(running)
        except OSError:  # A task has closed our descriptor: the end of its chunk will tell.
            running.sent = sent
        self._sending = False

    def _give_back(self, running: Running) -> None:
        """Give back what has not begun, and send what is finished."""
        begin, end = running.recall()
        if begin < end:
            self._send(HANDED_BACK, self._chunk, begin, end)
        if running.has_unsent():
            start, stop, kind, payload = self._dump_finished(running)
            self._send(PROGRESS, self._chunk, start, stop, kind, 0.0, payload)

    def _notice_recall(self, running: Running, kept: int) -> None:
        if self._recalled:
            self._recalled = False
            running.claim(kept)
            self._on_recall(RECALL_SIGNAL, None)

    def _hand_back_inbox(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while poll.poll(0) and not self._reader.closed:
            self._inbox.extend(self._reader.read())
        kept: list[Frame] = []
        for frame in self._inbox:
            if frame[0] in _RUNS:
                self._receiver.discard(frame[6])
                self._send(RESULTS, frame[1], frame[2], frame[2], payload=dumps([]))
            else:
                kept.append(frame)
        self._inbox.clear()
        self._inbox.extend(kept)


def work(
    fd: int,
    page: int,
    arena: int,
    lifeline: int,
    tracker: int = -1,
    initializer: Any = None,
    setup: Setup | None = None,
) -> None:
    """Be a worker on channel `fd`: the whole life of one, in a process of its own.

    Under fork, `initializer` is inherited, with its arguments, and so is
    `setup`; else they are sent.
    """
    become_worker()
    die_with_parent(lifeline)
    shared = Page(page)
    with suppress(OSError):  # Without a descriptor to spare, there are no stacks.
        shared.listening(listen())
    limit_threads(abs(shared.threads), is_bare=setup is not None and setup.is_bare)
    if shared.memory_limit:
        from motorpool.worker.limited import LimitedPage, LimitedWorker

        limited = LimitedPage(page)
        worker: Worker = LimitedWorker(fd, limited, arena, lifeline, tracker, initializer)
    else:
        worker = Worker(fd, shared, arena, lifeline, tracker, initializer)
    pid = os.getpid()
    try:
        worker.serve(setup)
    except OSError as error:
        if os.getpid() == pid:
            if error.errno != errno.EBADF:
                raise
            says = f"motorpool: worker {pid} ends, for a task has closed its channel to the pool. "
            with suppress(OSError):
                os.write(2, f"{says}Its results are kept, and another takes over.\n".encode())
            raise SystemExit(1) from None
        # A child that a task forked has come back from the task: it ends like any program.
