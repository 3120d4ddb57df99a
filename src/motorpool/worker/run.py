"""Run a chunk: the only place that calls user code, the same for every engine.

Guarantees
----------
- Items are called in order, each at most once.
- An exception of an item, `SystemExit` and `KeyboardInterrupt` included, ends that item only.
- A chunk that has run past its budget, or whose end was moved, gives back what it has not begun.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from time import perf_counter

from motorpool.messages import CALL_ARGUMENTS, CALL_STAR
from motorpool.typed import Any, Protocol

# Items run in bulk, without a look at the clock and a note of each result in
# between, if several make up no more than so much work, or so many. A crash in
# C code in the midst of a bulk run takes along what that run has finished.
BULK_RUN_SECONDS = 0.2e-3
BULK_ITEMS = 1024
# A bulk run starts only after this many items of the function ran one by one.
BULK_AFTER = 1000

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


class Journal(Protocol):
    """Where a worker notes what it is at, so that its death loses one item only."""

    full: bool

    def at(self, index: int, upto: int, now: float) -> None:
        """Items `index` to `upto` are about to be called."""

    def finished(self, index: int, value: object) -> object:
        """Item `index` returned `value`; `full` may turn true: send what there is.

        Returns what is to be sent for it.
        """

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

    def finished(self, _index: int, value: object) -> object:
        """Note nothing."""
        return value

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
        upto, stop = self.index + size, self.stop
        if upto > stop:  # noqa: PLR1730 - `min` takes longer
            upto = stop
        self.upto = upto
        if self.stop < upto:
            upto = self.upto = self.stop
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

    __slots__ = ("_bulk_after", "items", "seconds")

    def __init__(self, bulk_after: int = BULK_AFTER) -> None:
        self._bulk_after = bulk_after
        self.items = 0
        self.seconds = 0.0

    def bulk_size(self) -> int:
        """Return how many items to run without looking up, 1 while little is known."""
        if self.items < self._bulk_after:
            return 1
        if self.items * BULK_RUN_SECONDS > BULK_ITEMS * self.seconds:
            return min(BULK_ITEMS, self.items)
        return min(int(BULK_RUN_SECONDS * self.items / self.seconds), self.items) or 1

    def singles(self) -> int:
        """Return how many items are run one by one before `bulk_size` may say otherwise."""
        return max(self._bulk_after - self.items, 1)

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

    def singles(self) -> int:
        """Return a number that no chunk has."""
        return sys.maxsize

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
    now = perf_counter()
    until = now + budget
    while (begin := running.index) < running.stop:
        began, size = now, pace.bulk_size()
        if size > 1:
            now = _run_bulk(call, items, running, size, now, journal)
        else:
            now = _run_singly(call, items, running, pace.singles(), now, until, journal)
        if running.index == begin:
            break
        pace.add(running.index - begin, now - began)
        if now > until or journal.full:
            break


def _run_singly(
    call: Callable[[Any], Any],
    items: Iterator[Any],
    running: Running,
    most: int,
    now: float,
    until: float,
    journal: Journal,
) -> float:
    """Run up to `most` items, and note each; return the time."""
    values = running.values
    claim, at, finished = running.claim, journal.at, journal.finished
    index = running.index
    last = index + most
    while index < last and (upto := claim(1)) > index:
        at(index, upto, now)
        try:
            values.append(finished(index, call(next(items))))
        except BaseException as error:
            _note_error(error, running, journal)
        running.index = index = upto
        now = perf_counter()
        if now > until or journal.full:
            break
    return now


def _run_bulk(
    call: Callable[[Any], Any],
    items: Iterator[Any],
    running: Running,
    size: int,
    now: float,
    journal: Journal,
) -> float:
    """Run up to `size` items, and note them together; return the time."""
    values, index = running.values, running.index
    upto = running.claim(size)
    if upto == index:
        return now
    journal.at(index, upto, now)
    try:
        journal.bulk(values)
        values.extend(map(call, islice(items, upto - index)))
        if len(values) < upto - running.start:
            # `extend` takes a StopIteration out of the task for the end of the items.
            raise StopIteration  # noqa: TRY301 - as if the call had raised it
        journal.bulk_finished()
    except BaseException as error:
        _note_error(error, running, journal)
    running.index = running.start + len(values)
    return perf_counter()


def _note_error(error: BaseException, running: Running, journal: Journal) -> None:
    journal.failed()
    running.errors[len(running.values)] = _without_our_frames(error)
    running.values.append(None)


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
