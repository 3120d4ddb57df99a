"""A worker with a limit on its memory.

A worker that has outgrown its memory between two tasks leaves, and another one
starts; so does one that is likely to outgrow it with the next task. One that
outgrows it in the midst of a task is the parent's business
(`engines/overrun.py`), for the task may not return to Python. A second net is
the kernel's limit on data, far above: it refuses what would outrun the parent.
"""

from collections.abc import Callable  # noqa: TC003 - an annotation
from pathlib import Path
from time import perf_counter, thread_time

from motorpool.memory import Gauge, reset_peak, resident_memory
from motorpool.sizes import format_size
from motorpool.transport import Frame
from motorpool.typed import Any
from motorpool.worker.main import Worker
from motorpool.worker.page import Page

# How often a worker may look at its memory. A look takes 0.02 ms.
LOOK_SECONDS = 0.01
# A look that takes long, because much memory is shared, is taken seldom.
REST = 2
# No task is quite like another.
MARGIN = 1.25
# What a process may map beyond its limit. Libraries map more than they use: the
# stack of a thread alone is 8 MiB. Memory shared with the parent counts too.
SLACK = 1 << 30


class Scale:
    """Weighs this process, not too often, and foresees when the next task will be too much.

    The next task is expected to need what the hungriest one so far needed on
    top of what was there before. The first does not count: it loads modules and
    models that stay.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._next = 0.0
        self._resident: int | None = None  # at the last look
        self._looks = 0
        self._need = 0
        self._gauge = Gauge("self")

    def excess(self) -> int:
        """Return the bytes that this process uses if a task more is too much, else 0."""
        if perf_counter() < self._next:
            return 0
        # In time of this thread: on a busy machine a look seems long, and the next came too late.
        begun = thread_time()
        size = self.weigh()
        self._next = perf_counter() + max(LOOK_SECONDS, REST * (thread_time() - begun))
        return size if size + MARGIN * self._need > self.limit else 0

    def weigh(self) -> int:
        """Return how many bytes this process uses; exactly only if that matters."""
        resident, peak = resident_memory()
        if self._resident is not None and self._looks > 1:
            self._need = max(self._need, peak - self._resident)
        self._looks += 1
        self._resident = resident if reset_peak() else None
        return self._gauge.read(self.limit - int(MARGIN * self._need)) or 0


class LimitedPage(Page):
    """A page that has the chunk end after the item at which its worker outgrew the limit."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.scale = Scale(self.memory_limit)
        self.leave: Callable[[], object] = bool  # until the worker is there

    def at(self, index: int, upto: int, now: float) -> None:
        """Items `index` to `upto` are about to be called."""
        super().at(index, upto, now)
        if upto - index > 1:  # Items in bulk are noted here only.
            self._look()

    def finished(self, index: int, value: Any) -> Any:
        """Note a result; `full` turns true when it is time to send what there is."""
        value = super().finished(index, value)
        self._look()
        return value

    def failed(self) -> None:
        """Have the results so far sent."""
        super().failed()
        self._look()

    def _look(self) -> None:
        size = self.scale.excess()
        if size:
            self.outgrown(size)
            self.full = True
            self.leave()


class LimitedWorker(Worker):
    """A worker that leaves when it has outgrown its limit between two tasks."""

    def __init__(self, fd: int, page: LimitedPage, *others: Any) -> None:
        super().__init__(fd, page, *others)
        self._scale = page.scale
        self._is_leaving = False
        page.leave = self._leave
        limit_data(page.memory_limit)

    def _initialize(self) -> BaseException | None:
        raised = super()._initialize()
        size = self._scale.weigh()
        if raised is None and size > self._scale.limit:
            limit = format_size(self._scale.limit)
            msg = (
                f"the worker uses {format_size(size)} before its first task, and memory_limit is "
                f"{limit}. Raise it, or have the initializer load less."
            )
            raised = MemoryError(msg)
        return raised

    def _leave(self) -> None:
        self._is_leaving = True
        self._recalled = True  # What has not begun goes back.

    def _next(self) -> Frame | None:
        return None if self._is_leaving else super()._next()

    def _run(self, frame: Frame) -> None:
        super()._run(frame)
        self._look()

    def _call(self, frame: Frame) -> None:
        super()._call(frame)
        self._look()

    def _look(self) -> None:
        size = self._scale.excess()
        if size:
            self._page.outgrown(size)
            self._is_leaving = True


def limit_data(limit: int) -> None:
    """Have the kernel refuse memory far beyond `limit`, with a MemoryError in the task."""
    import resource

    mapped = int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = mapped + 2 * limit + SLACK
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
