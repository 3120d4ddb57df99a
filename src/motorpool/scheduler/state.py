"""What the scheduler keeps of a function, of a job, and of a worker and its chunks."""

import heapq
import math
from bisect import insort
from collections import deque

from motorpool.messages import JobSubmitted
from motorpool.scheduler.chunking import FIRST_WINDOW, Timing, grown_window

# Large arguments take time to copy, and room in shared memory. So much of them
# counts for a second of work when it is decided how many items travel together.
BYTES_PER_SECOND = 1 << 30
# A task is slow when it has run so many times as long as the median of its function.
SLOW_FACTOR = 10
# So many long tasks of a function are remembered; then every second one is.
MOST_LENGTHS = 512

_NONE: frozenset[int] = frozenset()
_NO_ATTEMPTS: dict[int, int] = {}


class Lengths:
    """How long the tasks of a function take, so that one that takes far longer is noticed.

    Where the median is below a tenth of `least_seconds` it does not matter what
    it is, so short tasks are merely counted.
    """

    __slots__ = ("_items", "_long")

    least_seconds = 60.0  # No task is slow before that.

    def __init__(self) -> None:
        self._items = 0
        self._long: list[float] = []

    def add(self, items: int, mean: float) -> None:
        """Learn from `items` that took `mean` seconds each."""
        self._items += items
        if mean * SLOW_FACTOR >= self.least_seconds:
            for _ in range(min(items, MOST_LENGTHS)):
                insort(self._long, mean)
            if len(self._long) > MOST_LENGTHS:
                self._long = self._long[::2]
                self._items //= 2

    def patience(self) -> float:
        """Return the seconds after which a task is worth a word."""
        long = len(self._long)
        at = self._items // 2 - (self._items - long)
        median = self._long[at] if 0 <= at < long else 0.0
        return max(self.least_seconds, SLOW_FACTOR * median)


class Cost:
    """The measured cost of an item of one function, in seconds; 0.0 while unknown."""

    __slots__ = ("lengths", "seconds", "size", "transfer")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.transfer = 0.0  # beside that: what an item's data counts for, see `weigh`
        self.size = 0.0  # of an item's data, in bytes; 0.0 if it is not much
        self.lengths = Lengths()

    def add(self, items: int, seconds: float) -> None:
        """Learn from `items` that took `seconds` together; later ones count for more."""
        mean = max(seconds / items, 1e-9)
        self.seconds = mean if not self.seconds else 0.5 * self.seconds + 0.5 * mean
        self.lengths.add(items, mean)

    def weigh(self, items: int, size: int) -> None:
        """Learn from `items` that were sent with `size` bytes of data."""
        self.size = size / items
        self.transfer = self.size / BYTES_PER_SECOND


class Job:
    """What is left of a job."""

    __slots__ = (
        "attempts",
        "chunksize",
        "control",
        "cost",
        "dropped",
        "id",
        "is_apart",
        "is_open",
        "is_prompt",
        "is_queued",
        "left",
        "limit",
        "next",
        "returned",
        "singles",
        "size",
        "taken",
        "taken_since",
        "window",
    )

    def __init__(self, event: JobSubmitted, workers: int, *, keeps_apart: bool = True) -> None:
        self.id = event.job
        self.size = event.size  # items that have arrived
        self.left = event.size  # of them, not delivered
        self.next = 0  # the first that was never sent
        self.returned: list[tuple[int, int]] = []  # ranges that came back, a heap
        self.singles: set[int] = set()  # of them, to be sent one by one
        # Items that were to be sent one by one may travel together if nobody can see it.
        self.is_apart = event.chunksize == 1 and keeps_apart
        self.chunksize = event.chunksize if not self.is_apart else None
        self.control = event.control
        self.dropped: frozenset[int] = _NONE  # cancelled while a worker held them
        self.attempts = {} if event.control is not None else _NO_ATTEMPTS  # failed so far, by item
        self.cost: Cost = event.cost
        self.is_open = event.is_open
        self.is_queued = False
        self.is_prompt = event.is_prompt
        self.window = event.window
        self.taken = 0  # by the consumer, since `taken_since`
        self.taken_since = 0.0
        self.limit = 0  # of what may have been read: what was taken, and the window
        if self.window is not None:
            self.window = max(self.window, FIRST_WINDOW * workers, 2 * (self.chunksize or 1))
            self.limit = self.window

    def has_pending(self) -> bool:
        """Tell whether any item may be sent."""
        upto = self.size if self.window is None else self.upto()
        return self.next < upto or bool(self.returned)

    def upto(self) -> int:
        """Return the end of what may be sent: of the input, or of the window, in whole chunks."""
        return min(self.size, self.room())

    def room(self) -> int:
        """Return how many items may have been read in all."""
        if self.window is None:
            return self.size
        chunksize = self.chunksize or 1
        return -(-self.limit // chunksize) * chunksize

    def consume(
        self, items: int, workers: int, timing: Timing, now: float, *, starved: bool
    ) -> None:
        """Move the window on by what its consumer took; widen it if the consumer had to wait."""
        if self.window is None:
            return
        self.limit += items
        self.taken += items
        if starved and self.taken >= self.window:
            took = now - self.taken_since
            cost = self.cost
            seconds = cost.seconds + cost.transfer
            grown = grown_window(self.window, workers, seconds, took, timing, cost.size)
            self.limit += grown - self.window
            self.window = grown
            self.taken = 0
            self.taken_since = now

    def pending(self) -> int:
        """Return how many items may be sent."""
        return max(self.upto() - self.next, 0) + sum(stop - start for start, stop in self.returned)

    def remaining(self) -> int:
        """Return how many items are left to be shared out among the workers.

        Those of a stream come little by little, as results are taken: then that
        is a window's worth, however few have come.
        """
        pending = self.pending()
        if self.window is None or not (self.is_open or self.limit < self.size):
            return pending
        return max(pending, self.window)

    def take(self, most: int) -> tuple[int, int]:
        """Take up to `most` pending items, those that came back first."""
        if not self.returned:
            start = self.next
            self.next = stop = min(start + most, self.upto())
            return start, stop
        start, stop = heapq.heappop(self.returned)
        cut = start + 1 if start in self.singles else min(start + most, stop)
        if cut < stop:
            heapq.heappush(self.returned, (cut, stop))
        return start, cut

    def give_back(self, start: int, stop: int) -> None:
        """Take back items that were sent and not begun."""
        for item in sorted(self.dropped) if self.dropped else ():
            if start <= item < stop:
                self.dropped -= {item}
                self.left -= 1
                if start < item:
                    heapq.heappush(self.returned, (start, item))
                start = item + 1
        if start < stop:
            heapq.heappush(self.returned, (start, stop))

    def drop(self, item: int) -> bool:
        """Take a cancelled item out of the pending ones; False if a worker holds it."""
        if item >= self.next:
            begin, self.next = self.next, item + 1
            self.give_back(begin, item)
        elif part := next((part for part in self.returned if part[0] <= item < part[1]), None):
            self.returned.remove(part)
            heapq.heapify(self.returned)
            self.give_back(part[0], item)
            self.give_back(item + 1, part[1])
        else:
            self.dropped |= {item}
            return False
        self.left -= 1
        return True


class HeldChunk:
    """The part of a chunk that a worker has yet to answer."""

    __slots__ = ("is_users", "job", "number", "start", "stop")

    def __init__(self, number: int, job: int, start: int, stop: int, is_users: bool) -> None:
        self.number = number
        self.job = job
        self.start = start  # moves up as results come
        self.stop = stop  # moves down if the rest is handed back
        self.is_users = is_users  # made by the user's `chunksize`, and counted as one task


class Worker:
    """A worker: the chunks that it holds, the one that it runs first, and what is known of it."""

    __slots__ = (
        "chunks",
        "id",
        "is_killed",
        "is_leaving",
        "is_ready",
        "late",
        "look_again",
        "look_at",
        "named",
        "news",
        "recalled",
        "since",
        "tasks_left",
        "unwanted",
    )

    def __init__(self, worker: int, tasks: int | None) -> None:
        self.id = worker
        self.chunks: deque[HeldChunk] = deque()
        self.is_ready = False
        self.is_leaving = False  # was told to
        self.is_killed = False  # by us
        self.tasks_left: float = tasks if tasks is not None else math.inf
        self.news = 0.0  # when it got ready, ended a chunk, or was sent one while idle
        self.since = 0.0  # when what it runs began, or a little earlier
        self.named = -1.0  # the `since` of a slow task that was named
        self.recalled = False  # asked for what it has not begun, since the last news
        self.look_at = math.inf  # when to see what it is at
        self.look_again = 0.0  # seconds until the next look for what is unwanted
        # Chunks with items that were cancelled; None for all of them.
        self.unwanted: dict[int, set[int] | None] = {}
        self.late: tuple[int, int, float] | None = None  # chunk, item, timeout it is killed for

    def has_unbegun(self) -> bool:
        """Tell whether it may hold items that it has not begun."""
        chunks = self.chunks
        return len(chunks) > 1 or (len(chunks) == 1 and chunks[0].stop - chunks[0].start > 1)

    def find(self, number: int) -> HeldChunk | None:
        """Return a chunk that it holds."""
        for chunk in self.chunks:
            if chunk.number == number:
                return chunk
        return None

    def uncount(self, chunk: HeldChunk, items: int) -> None:
        """Count items that come back unrun as tasks no more, unless the whole chunk is one."""
        if not chunk.is_users:
            self.tasks_left += items

    def is_whole(self) -> bool:
        """Tell whether the chunk that it runs counts as one task, and so is never cut."""
        return self.tasks_left != math.inf and self.chunks[0].is_users
