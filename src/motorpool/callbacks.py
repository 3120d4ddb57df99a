"""The thread that runs callbacks, so that a slow or broken one holds up nobody else."""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from motorpool.describe import short_repr
from motorpool.log import log

_THREAD = 0  # the one key of `_running`
_Entry = tuple[Callable[..., object], object, Callable[[], None]]


class CallbackThread:
    """Runs callbacks one after the other, on a thread that starts with the first."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        # The thread, entered by whoever is first: itself, or its starter, to whom an
        # interrupt may come meanwhile. One that finds another here leaves.
        self._running: dict[int, threading.Thread | None] = {}
        # Reentrant: a signal handler may come in between.
        self._lock = threading.RLock()
        # There was no room for the thread: somebody else has to call what waits.
        self.is_stranded = False

    def put(self, callback: Callable[..., object], value: object, done: Callable[[], None]) -> None:
        """Have `callback(value)` called, then `done()`."""
        with self._lock:
            self._queue.put((callback, value, done))
            self._start()

    def run_here(self) -> None:
        """Call on this thread what waits, because there was no room for another."""
        self.is_stranded = False
        while self.is_busy():
            with suppress(Empty):
                _run_one(self._queue.get_nowait())

    def _start(self) -> None:
        running = self._running
        if not running:
            thread = threading.Thread(
                target=_run, args=(self._queue, running), name="motorpool-callbacks", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                self.is_stranded = True
            else:
                running.setdefault(_THREAD, thread)

    def is_busy(self) -> bool:
        """Tell whether callbacks wait to be called."""
        return not self._queue.empty()

    def flush(self) -> None:
        """Wait until the callbacks that were put so far have run."""
        if not self._running or self.is_current():
            return
        done = threading.Event()
        self.put(lambda _: None, None, done.set)
        done.wait()

    def is_current(self) -> bool:
        """Tell whether this is the callback thread."""
        return self._running.get(_THREAD) is threading.current_thread()

    def close(self, timeout: float | None) -> None:
        """Wait until all callbacks that were put have run, and end the thread."""
        with self._lock:
            thread = self._running.setdefault(_THREAD, None)
            if thread is not None:
                self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self._running = {}


def _run(queue: SimpleQueue[_Entry | None], running: dict[int, threading.Thread | None]) -> None:
    me = threading.current_thread()
    if running.setdefault(_THREAD, me) is not me:
        return
    while (entry := queue.get()) is not None:
        _run_one(entry)
        del entry


def _run_one(entry: _Entry | None) -> None:
    if entry is None:
        return
    callback, value, done = entry
    try:
        callback(value)
    except BaseException:
        log().exception("the callback %s raised", short_repr(callback))
    finally:
        done()
