"""Kills workers whose task has outgrown the memory limit, before the kernel kills somebody else.

One thread, which lives only while there is a limit and a worker is busy. The
nearer a worker is to its limit, the sooner it looks again.

Guarantees
----------
- A worker is killed only while it runs the task that outgrew the limit: it is
  stopped first and looked at once more. One that came to the end of its task
  meanwhile leaves by itself (`worker/limited.py`), with its results delivered.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from motorpool.failures import note
from motorpool.log import log
from motorpool.memory import Gauge
from motorpool.messages import IDLE
from motorpool.sizes import format_size
from motorpool.typed import Any, Protocol

# No process fills memory faster than this, in bytes a second: the kernel has to
# clear every page.
FASTEST = 8e9
LEAST_SECONDS = 0.005
MOST_SECONDS = 0.25
# A look that takes long, because much memory is shared, is taken seldom.
REST = 4
# The thread ends when nobody has been busy for so long.
IDLE_SECONDS = 1.0


def log_outgrown(pid: int, size: int, limit: int) -> None:
    """Tell of a worker that left between two tasks."""
    log().info(
        "worker %d leaves with %s in use: another task may be too much for memory_limit=%s",
        pid,
        format_size(size),
        format_size(limit),
    )


def explain_refusals(errors: dict[int, BaseException], limit: int) -> None:
    """Say in each MemoryError why the kernel refused: it has no text of its own."""
    for error in errors.values():
        if isinstance(error, MemoryError):
            note(
                error,
                f"the worker asked for more than twice memory_limit={format_size(limit)} and 1 GiB",
            )


class Watched(Protocol):
    """A worker: its gauge, the task over the limit at the last look, the size it was killed for."""

    popen: Any
    page: Any
    gauge: Gauge | None  # made at the first look
    suspect: tuple[int, int] | None
    overrun: int


class MemoryWatch:
    """Watches the workers that `workers` returns."""

    def __init__(self, limit: int, workers: Callable[[], list[Watched]]) -> None:
        self.limit = limit
        self._workers = workers
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._wanted = 0.0

    def begin(self) -> None:
        """Watch, until no worker has been busy for a while."""
        with self._lock:
            self._wanted = time.monotonic()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="motorpool-memory", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError as error:  # There is no room for it; perhaps for the next.
                    self._thread = None
                    log().warning("memory_limit is not watched: %s", error)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        pause = LEAST_SECONDS
        while not self._closed.wait(pause):
            begun = time.thread_time()  # On a busy machine a look seems long.
            is_busy, room = self._look()
            cost = time.thread_time() - begun
            now = time.monotonic()
            if is_busy:
                self._wanted = now
            elif self._rests(now):
                return
            pause = min(max(room / FASTEST, LEAST_SECONDS, REST * cost), MOST_SECONDS)
        self._thread = None

    def _rests(self, now: float) -> bool:
        with self._lock:
            if now - self._wanted < IDLE_SECONDS:
                return False
            self._thread = None
            return True

    def _look(self) -> tuple[bool, float]:
        """Look at all workers; tell whether one is busy, and how far the largest may grow."""
        room = float(self.limit)
        is_busy = False
        for worker in self._workers():
            with suppress(ValueError, OSError):  # It was buried meanwhile.
                task = worker.page.now()
                if task[0] == IDLE:
                    continue
                is_busy = True
                size = self._weigh(worker)
                if size is not None:
                    room = min(room, self.limit - size)
                    if size > self.limit:
                        self._judge(worker, task)
                    else:
                        worker.suspect = None
        return is_busy, room

    def _weigh(self, worker: Watched) -> int | None:
        if worker.gauge is None:
            worker.gauge = Gauge(worker.popen.pid)
        return worker.gauge.read(self.limit)

    def _judge(self, worker: Watched, task: tuple[int, int]) -> None:
        """Kill a worker that was over the limit in the same task before."""
        if worker.suspect != task:
            worker.suspect = task
            return
        with worker.popen.frozen():
            size = self._weigh(worker)
            if worker.page.now() == task and size is not None and size > self.limit:
                worker.overrun = size
                worker.popen.kill()
