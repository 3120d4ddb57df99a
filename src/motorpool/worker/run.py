"""Run a chunk: the only place that calls user code, the same for every engine.

Guarantees
----------
- Items are called in order, each at most once.
- An exception of an item, `SystemExit` and `KeyboardInterrupt` included, ends that item only.
- A chunk that has run past its budget, or whose end was moved, gives back what it has not begun.
"""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from time import perf_counter

from motorpool.messages import CALL_ARGUMENTS, CALL_STAR
from motorpool.typed import Any, Protocol

# Items below this mean length run in bulk, without a look at the clock and a
# note of each result in between.
BULK_SECONDS = 10e-6
# A bulk run starts only after this many items of the function ran one by one.
BULK_AFTER = 1000
# So many items, or so much work, make one bulk run. A crash in C code in the midst
# of one takes along what that run has finished.
BULK_ITEMS = 1024
BULK_RUN_SECONDS = 0.2e-3

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


class Journal(Protocol):
    """Where a worker notes what it is at, so that its death loses one item only."""

    full: bool

    def at(self, index: int, upto: int, now: float) -> None:
        """Items `index` to `upto` are about to be called."""

    def finished(self, index: int, value: object) -> None:
        """Item `index` returned `value`; `full` may turn true: send what there is."""

    def failed(self) -> None:
        """Note that an item raised; `full` may turn true."""

    def bulk(self, values: list[Any]) -> None:
        """Take note that `values` is about to grow by the results of all that is begun."""

    def bulk_finished(self) -> None:
        """Note these results; `full` may turn true."""


class NoJournal:
    """For workers whose death is everybody's."""

    full = False

    def at(self, index: int, upto: int, now: float) -> None:
        """Note nothing."""

    def finished(self, index: int, value: object) -> None:
        """Note nothing."""

    def failed(self) -> None:
        """Note nothing."""

    def bulk(self, values: list[Any]) -> None:
        """Note nothing."""

    def bulk_finished(self) -> None:
        """Note nothing."""


class Running:
    """The chunk being run, and its results since `start`, of which `sent` are sent.

    `upto` is the end of what has begun. A signal handler may call `recall` at
    any moment: `claim` moves `upto` first and looks at `stop` afterwards, so
    that an item is either run here or given back.
    """

    __slots__ = ("end", "errors", "index", "number", "sent", "start", "stop", "upto", "values")

    def __init__(self, start: int, stop: int, number: int = 0) -> None:
        self.number = number
        self.stop = self.end = stop
        self.restart(start)

    def restart(self, index: int) -> None:
        """Go on at `index`, with no results yet."""
        self.start = self.index = self.upto = index
        self.sent = 0
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}

    def has_unsent(self) -> bool:
        """Tell whether there are results that `take` would give."""
        return len(self.values) > self.sent

    def unsent(self) -> tuple[int, int]:
        """Return the range of the results that `take` would give."""
        return self.start + self.sent, self.start + len(self.values)

    def take(self) -> tuple[int, list[Any], dict[int, BaseException]]:
        """Take the results that are not sent yet: the first's index, values, errors by offset."""
        begin = self.sent
        values = self.values[begin:]
        end = self.sent = begin + len(values)
        errors = {at - begin: error for at, error in self.errors.items() if begin <= at < end}
        return self.start + begin, values, errors

    def claim(self, size: int) -> int:
        """Begin up to `size` items; return the end of them, `index` if there are none left."""
        upto = self.upto = min(self.index + size, self.stop)
        if self.stop < upto:
            upto = self.upto = self.index
        return upto

    def recall(self) -> tuple[int, int]:
        """Give back what has not begun, as a range of indices."""
        self.stop = begin = min(self.stop, self.upto)
        end, self.end = self.end, begin
        return begin, end


class SharedRunning(Running):
    """A chunk that another thread may recall."""

    __slots__ = ("_lock",)

    def __init__(self, start: int, stop: int, number: int) -> None:
        self._lock = threading.Lock()
        super().__init__(start, stop, number)

    def claim(self, size: int) -> int:
        """Begin up to `size` items, as `Running.claim`."""
        with self._lock:
            return super().claim(size)

    def recall(self) -> tuple[int, int]:
        """Give back what has not begun, as `Running.recall`."""
        with self._lock:
            return super().recall()

    def take(self) -> tuple[int, list[Any], dict[int, BaseException]]:
        """Take the results that are not sent yet, as `Running.take`."""
        with self._lock:
            return super().take()

    def halt(self, index: int | None) -> bool:
        """Begin nothing more, if it is at item `index` alone, None for any; return whether so."""
        with self._lock:
            if index is not None and (self.index, self.upto) != (index, index + 1):
                return False
            super().recall()
            return True


class Pace:
    """The measured length of a function's items, in one worker."""

    __slots__ = ("items", "seconds")

    def __init__(self) -> None:
        self.items = 0
        self.seconds = 0.0

    def bulk_size(self) -> int:
        """Return how many items to run without looking up, 1 while little is known."""
        if self.items < BULK_AFTER or self.seconds >= BULK_SECONDS * self.items:
            return 1
        if self.items * BULK_RUN_SECONDS > BULK_ITEMS * self.seconds:
            return BULK_ITEMS
        return int(BULK_RUN_SECONDS * self.items / self.seconds)

    def add(self, items: int, seconds: float) -> None:
        """Learn from `items` that took `seconds`; the far past counts for less."""
        if self.items > 8 * BULK_AFTER:
            self.items >>= 1
            self.seconds *= 0.5
        self.items += items
        self.seconds += seconds


class _ExactPace(Pace):
    """The pace of chunks whose items are never run in bulk."""

    __slots__ = ()

    def bulk_size(self) -> int:
        """Return 1."""
        return 1

    def add(self, items: int, seconds: float) -> None:
        """Learn nothing."""


EXACT = _ExactPace()


def caller(func: Callable[..., Any], style: int) -> Callable[[Any], Any]:
    """Return a function of one item that calls `func` in the given style."""
    if style == CALL_STAR:
        return lambda item: func(*tuple(item))
    if style == CALL_ARGUMENTS:
        return lambda item: func(*item[0], **item[1])
    return func


def run_chunk(
    call: Callable[[Any], Any],
    items: Iterator[Any],
    running: Running,
    budget: float,
    pace: Pace,
    journal: Journal,
) -> None:
    """Run items until the end or the budget; `running` has the values, and errors by offset."""
    values, errors = running.values, running.errors
    began = now = perf_counter()
    start = running.start
    while running.index < running.stop:
        upto = running.claim(pace.bulk_size())
        if upto == running.index:
            break
        size = upto - running.index
        journal.at(running.index, upto, now)
        try:
            if size == 1:
                value = call(next(items))
                journal.finished(running.index, value)
                values.append(value)
            else:
                journal.bulk(values)
                values.extend(map(call, islice(items, size)))
                if len(values) < upto - start:
                    # `extend` takes a StopIteration out of the task for the end of the items.
                    raise StopIteration  # noqa: TRY301 - as if the call had raised it
                journal.bulk_finished()
        except BaseException as error:
            journal.failed()
            errors[len(values)] = _without_our_frames(error)
            values.append(None)
        before, now = now, perf_counter()
        done = start + len(values)
        pace.add(done - running.index, now - before)
        running.index = done
        if now - began > budget or journal.full:
            break


def run_call(
    func: Callable[..., Any], args: tuple[Any, ...], kwds: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Return the value of one call, and None; or None, and what it raised."""
    try:
        return func(*args, **kwds), None
    except BaseException as error:
        return None, _without_our_frames(error)


def _without_our_frames(error: BaseException) -> BaseException:
    # By way of the base class: the error's own may refuse any look at it.
    traceback = _TRACEBACK.__get__(error)
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return BaseException.with_traceback(error, traceback)
