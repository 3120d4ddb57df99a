"""The thread that runs callbacks, so that a slow or broken one holds up nobody else."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from motorpool.log import log

_Entry = tuple[Callable[..., object], object, Callable[[], None]]


class CallbackThread:
    """Runs callbacks one after the other, on a thread that starts with the first."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, callback: Callable[..., object], value: object, done: Callable[[], None]) -> None:
        """Have `callback(value)` called, then `done()`."""
        with self._lock:
            self._queue.put((callback, value, done))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_run, args=(self._queue,), name="motorpool-callbacks", daemon=True
                )
                self._thread.start()

    def is_busy(self) -> bool:
        """Tell whether callbacks wait to be called."""
        return not self._queue.empty()

    def flush(self) -> None:
        """Wait until the callbacks that were put so far have run."""
        if self._thread is None or self.is_current():
            return
        done = threading.Event()
        self.put(lambda _: None, None, done.set)
        done.wait()

    def is_current(self) -> bool:
        """Tell whether this is the callback thread."""
        return self._thread is not None and threading.current_thread() is self._thread

    def close(self, timeout: float | None) -> None:
        """Wait until all callbacks that were put have run, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout)


def _run(queue: SimpleQueue[_Entry | None]) -> None:
    while (entry := queue.get()) is not None:
        callback, value, done = entry
        try:
            callback(value)
        except BaseException:
            log().exception("the callback %r raised", callback)
        finally:
            done()
        del entry, callback, value, done
