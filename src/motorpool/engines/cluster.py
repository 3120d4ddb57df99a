"""What the engines of clusters have in common, Ray and Dask: slots that have a place.

A slot is bound to one place of the cluster: an actor, or a thread of a Dask
worker. It is *open* as soon as there is a place for it; as long as it waits for
one, the scheduler sends it nothing. A place that dies takes its slot along.
What it was at, its logbook tells (`worker/logbook.py`), which another process
on that machine reads. Where nobody can, all that the place held counts as begun.

Chunks are bound to their place because a cluster that moved them by itself,
as Dask does with the tasks of a dead worker, would run items twice.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import count

from motorpool.engines.base import Initializer, StartFailed
from motorpool.engines.remote import RemoteEngine, Slot, Task
from motorpool.log import log
from motorpool.messages import CapacityChanged, ChunkLost, Event, Order, WorkerLost, WorkerReady
from motorpool.reducers import DESCRIPTOR
from motorpool.serialization import loads
from motorpool.typed import Any
from motorpool.worker.logbook import Record, drop_logbook
from motorpool.worker.remote import Key  # noqa: TC001 - an annotation
from motorpool.worker.space import home

# A pool that has been without a place for so long says so.
PATIENCE_SECONDS = 15.0

_logbooks = count(1)


def new_logbook() -> str:
    """Return a name that no logbook has had."""
    return f"{home()}-{next(_logbooks)}"


class PlacedSlot(Slot):
    """A slot, its place, and what the process there knows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.logbook = new_logbook()
        self.pid = 0
        self.known: set[Key] = set()
        self.is_open = False
        self.is_gone = False  # What it is sent from now on is not begun.
        self.unsent: set[int] = set()


class ClusterEngine(RemoteEngine):
    """A remote engine whose slots have places."""

    starts_at_once = False

    def __init__(
        self, initializer: Initializer | None, processes: int | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(initializer, processes, options)
        self.left: list[str] = []  # logbooks of processes that are gone
        self._without_since: float | None = None
        self._has_told = False

    def _check(self, payload: bytes) -> None:
        if DESCRIPTOR in payload:
            msg = "sockets and connections cannot be sent to a cluster, only to child processes"
            raise TypeError(msg)

    def drop_left(self) -> None:
        """Remove the logbooks on this machine that nobody will read; see `logbook._sweep`."""
        for logbook in self.left:
            drop_logbook(logbook)

    def logged_arguments(
        self, task: Task, slot: PlacedSlot
    ) -> tuple[str, int, Order, Any, Any, bytes]:
        """Return the arguments for `run_logged_chunk`, without texts that are known there."""
        order, program, setup, items = self.arguments(task)
        if not task.is_whole:
            program = program if order.program not in slot.known else None
            setup = setup if order.setup not in slot.known else None
        slot.known.update(key for key in (order.program, order.setup) if key is not None)
        return slot.logbook, task.chunk.number, order, program, setup, items

    @abstractmethod
    def _send(self, task: Task, slot: PlacedSlot) -> None:
        """Have `run_logged_chunk(*self.logged_arguments(task, slot))` called at the slot's place.

        It must not block. Any exception means that nothing can be submitted any more.
        """

    def _submit(self, task: Task) -> None:
        slot = task.slot
        assert isinstance(slot, PlacedSlot)  # noqa: S101 - for the type checker
        if slot.is_gone:
            slot.unsent.add(task.chunk.number)
        else:
            self._send(task, slot)

    def _cancel(self, _task: Task) -> bool:
        # Neither Ray nor Dask can tell at once whether a task has begun.
        return False

    def later(self, function: Callable[[], Iterable[Event | StartFailed]]) -> None:
        """Have the driver, with its lock held, call `function` and handle the events."""
        self._post(None, function)

    def resize(self, capacity: int) -> None:
        """Take note, in any thread, that there is room for so many workers from now on."""
        if self.processes is None:
            # With none, jobs wait until there is one.
            self._post(None, CapacityChanged(max(capacity, 1)))

    def tell_if_without_places(self) -> None:
        """Say once that no slot has had a place for long; called now and then, by one thread."""
        slots = [slot for slot in self.workers if isinstance(slot, PlacedSlot)]
        if not slots or any(slot.is_open and not slot.is_gone for slot in slots):
            self._without_since, self._has_told = None, False
            return
        now = time.monotonic()
        if self._without_since is None:
            self._without_since = now
        if now >= self._without_since + PATIENCE_SECONDS and not self._has_told:
            self._has_told = True
            log().warning(
                "the %s cluster has had no worker for this pool for %.0f s, and the tasks wait for "
                "one: add workers to the cluster, or end the pool with terminate()",
                self.name,
                now - self._without_since,
            )

    def opened(self, slot: PlacedSlot) -> list[Event | StartFailed]:
        """Take note, with the lock held, that a slot has got its place."""
        if slot.is_open or self._slots.get(slot.number) is not slot:
            return []
        slot.is_open = True
        return [WorkerReady(slot.number)]

    def bury(
        self, slot: PlacedSlot, record: Record | None, cause: BaseException | None
    ) -> list[Event | StartFailed]:
        """Settle, with the lock held, what a lost slot held: by its logbook, if that was found."""
        if self._slots.pop(slot.number, None) is None:
            return []
        self.left.append(slot.logbook)
        tasks, slot.tasks = list(slot.tasks.values()), {}
        events: list[Event | StartFailed] = []
        for task in tasks:
            number = task.chunk.number
            if number in slot.unsent or (record is not None and number not in record.begun):
                continue  # It comes back with the `WorkerLost`.
            reply = record.replies.get(number) if record is not None else None
            event = self._event(task, reply) if reply is not None else None
            if event is None:
                at = record.at(number, loads) if record is not None else None
                event = ChunkLost(slot.number, number, _lost(slot, task, at, cause))
            events.append(event)
        events.append(WorkerLost(slot.number, slot.pid, None, cause=cause))
        return events


def _lost(
    slot: PlacedSlot,
    task: Task,
    at: tuple[int, int, dict[int, Any]] | None,
    cause: BaseException | None,
) -> WorkerLost:
    """Return the loss of a chunk: at an item if that is known, else all of it."""
    chunk = task.chunk
    item, upto, finished = at if at is not None else (chunk.start, chunk.stop, {})
    return WorkerLost(slot.number, slot.pid, None, chunk.number, item, upto, finished, cause=cause)
