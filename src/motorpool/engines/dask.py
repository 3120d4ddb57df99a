"""Workers as threads of Dask workers: one slot for each thread.

Everything that talks to Dask runs on the event loop of a client of the
engine's own; the driver posts to it, and it posts back.

Guarantees
----------
- A chunk is bound to one worker of Dask's (`workers=`), and refused by one that
  has begun it before. So it never runs twice, although Dask would run the tasks
  of a dead worker again, elsewhere.
"""

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from math import inf

from motorpool.cpus import cpu_count
from motorpool.describe import function_name
from motorpool.engines.base import Abilities, Initializer, StartFailed
from motorpool.engines.cluster import ClusterEngine, PlacedSlot, new_logbook
from motorpool.engines.dask_local import LocalDask
from motorpool.engines.remote import Task
from motorpool.messages import IDLE, LOADING, Event, WorkerLost, WorkerSeen
from motorpool.typed import Any
from motorpool.worker.logbook import Record, drop_logbook, read_logbook, run_logged_chunk
from motorpool.worker.space import home

# Texts and items up to this length travel with the chunk, through the
# scheduler; longer ones from worker to worker.
_INLINE_BYTES = 1 << 20
# How often to look which workers there are.
_WATCH_SECONDS = 0.5
# How long to look for a process that can read the logbook of a dead worker,
# while there are others. As long as there is none, nothing could go on anyway.
_READ_SECONDS = 5.0
# How long such a process may take, which may be dead itself and not known to be.
_CALL_SECONDS = 2.0
_CLOSE_SECONDS = 2.0
# Of `engine_options`, what goes along with each task; with "dask", the rest is
# for the `LocalCluster`, else for the `Client`.
_TASK_OPTIONS = ("resources", "priority")


class _Place:
    """A worker of Dask's."""

    def __init__(self, address: str, threads: int) -> None:
        self.address = address
        self.free = threads
        self.known: set[Any] = set()
        # Not one for all pools: they number their chunks alike.
        self.logbook = new_logbook()
        self.is_gone = False

    @property
    def host(self) -> str:
        """The machine, as far as the address tells."""
        return self.address.rpartition(":")[0]


class _Slot(PlacedSlot):
    """A thread of a place; none as long as it waits for one."""

    place: _Place | None = None


class _Scattered:
    """Bytes that are brought to the workers once, when the first of them asks."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.future: asyncio.Future[Any] | None = None


def _leave_thread() -> Any:
    """Have the Dask worker run other tasks beside this one, if this is one, and return it.

    Else the tasks of this pool might wait for the very thread that waits for them.
    """
    from distributed import get_worker, secede

    try:
        worker = get_worker()
        worker.get_current_task()
    except (ValueError, KeyError):
        return None  # no task
    with suppress(KeyError):  # It did for another pool.
        secede()
    return worker


class DaskEngine(ClusterEngine):
    """Workers on a Dask cluster.

    Parameters
    ----------
    where
        An address, a `Client` or a `Cluster`, which is left alone; None for the
        cluster that this is a task of, or else for a `LocalCluster` that ends
        with the pool.
    initializer, processes
        As in `Pool`.
    options
        `resources` and `priority` of the tasks, as in ``Client.submit``. The
        others are arguments of the `LocalCluster`, or else of a `Client`.
    """

    name = "dask"
    abilities = Abilities(blame=True, machines=True)
    message_seconds = 0.008

    def __init__(
        self,
        where: Any,
        initializer: Initializer | None,
        processes: int | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(initializer, processes, options)
        self._task_options = {
            name: self.options.pop(name) for name in _TASK_OPTIONS if name in self.options
        }
        self._places: dict[str, _Place] = {}
        self._waiting: list[_Slot] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._futures: dict[Any, _Place] = {}  # of Dask, that were submitted and have not ended
        self._local: LocalDask | None = None
        try:
            self._client = self._connect(where)
        except BaseException:
            if self._local is not None:
                self._local.close()
            raise
        for address, threads in self._client.nthreads().items():
            self._places[address] = _Place(address, threads)
        self._capacity = sum(place.free for place in self._places.values())
        self._on_loop(self._watch())

    def _connect(self, where: Any) -> Any:
        from distributed import Client

        options = {"set_as_default": False, **self.options}
        around = _leave_thread()
        if where is None and around is not None and not self.options:
            return Client(around.scheduler.address, security=around.security, **options)
        if where is None:
            wanted = {
                "n_workers": self.processes or cpu_count(),
                "threads_per_worker": 1,
                "dashboard_address": ":0",  # any port
                **self.options,
            }
            self._local = LocalDask(wanted)
            return Client(self._local.address, set_as_default=False)
        if isinstance(where, str):
            return Client(where, **options)
        # Not the client of the user's: its futures and its end are not ours.
        security = getattr(where, "security", None)
        if security is not None:
            options.setdefault("security", security)
        scheduler = getattr(where, "scheduler", None)
        address = getattr(where, "scheduler_address", None) or scheduler.address  # type: ignore[union-attr]
        return Client(address, **options)

    # The cluster's size; on the loop.

    async def _watch(self) -> None:
        # Not by the events of topic "all": among them are such that cannot be
        # sent to a client, which loses its connection then (a broadcast, say).
        seen = set(self._places)
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            with suppress(Exception):  # Tasks tell of a scheduler that is gone.
                threads = await self._client.nthreads(asynchronous=True)
                for address in seen - threads.keys():
                    self._mark(address)
                    self.later(partial(self._went, address))
                for address in threads.keys() - seen:
                    self.later(partial(self._came, address, threads[address]))
                seen = set(threads)
            self.tell_if_without_places()

    def _mark(self, address: str) -> None:
        """Have nothing more sent to a worker that is gone."""
        for slot in self._slots_at(address):
            slot.is_gone = True

    def _slots_at(self, address: str) -> list[_Slot]:
        slots = [slot for slot in self.workers if isinstance(slot, _Slot)]
        return [slot for slot in slots if slot.place and slot.place.address == address]

    # The cluster's size; with the driver's lock held.

    def _came(self, address: str, threads: int) -> list[Event | StartFailed]:
        if address in self._places:
            return []
        self._places[address] = _Place(address, threads)
        self._recount()
        return self._give_places()

    def _went(self, address: str) -> list[Event | StartFailed]:
        place = self._places.pop(address, None)
        if place is not None:
            place.is_gone = True
            self._on_loop(self._read_and_bury(place, self._slots_at(address)))
            self._recount()
        return []

    def _recount(self) -> None:
        self._capacity = sum(
            place.free + len(self._slots_at(address)) for address, place in self._places.items()
        )
        self.resize(self._capacity)

    def _give_places(self) -> list[Event | StartFailed]:
        events: list[Event | StartFailed] = []
        places = sorted(self._places.values(), key=lambda place: -place.free)
        for place in places:
            while place.free > 0 and self._waiting:
                slot = self._waiting.pop(0)
                place.free -= 1
                slot.place = place
                slot.known = place.known
                slot.logbook = place.logbook
                events += self.opened(slot)
        return events

    @property
    def capacity(self) -> int:
        """How many threads the cluster has, at least 1."""
        return max(self._capacity, 1)

    # Slots.

    def start_worker(self) -> int:
        """Ask for a thread and return the slot's number."""
        slot = _Slot(next(self._numbers))
        self._slots[slot.number] = slot
        self._waiting.append(slot)
        self.later(self._give_places)
        return slot.number

    def stop_worker(self, worker: int) -> None:
        """Give a thread back, which is idle."""
        slot = self._slots.pop(worker, None)
        if isinstance(slot, _Slot):
            self._free(slot)
            self._post(None, WorkerLost(worker, 0, 0))

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """Give a thread up that may be in a task; Dask cannot end it, and lets it run."""
        del item
        slot = self._slots.get(worker)
        if isinstance(slot, _Slot):
            if number is not None and number not in slot.tasks:
                return WorkerSeen(worker, IDLE, LOADING, inf, is_spared=True)
            self._free(slot)
            self.later(partial(self.bury, slot, None, RuntimeError("the task was cancelled")))
        return None

    def _free(self, slot: _Slot) -> None:
        if slot in self._waiting:
            self._waiting.remove(slot)
        if slot.place is not None:
            slot.place.free += 1
            self.later(self._give_places)

    # Tasks.

    def _put(self, text: bytes) -> Any:
        return _Scattered(text) if len(text) > _INLINE_BYTES else text

    def _send(self, task: Task, slot: PlacedSlot) -> None:
        if self._client.status != "running":
            msg = f"the connection to the Dask scheduler is {self._client.status}"
            raise ConnectionError(msg)
        assert isinstance(slot, _Slot)  # noqa: S101 - for the type checker
        assert slot.place is not None  # noqa: S101 - for the type checker
        self._on_loop(self._run(task, slot.place, self.logged_arguments(task, slot)))

    def _on_loop(self, work: Any) -> None:
        def start() -> None:
            running = asyncio.ensure_future(work)
            self._running.add(running)
            running.add_done_callback(self._running.discard)

        self._client.loop.add_callback(start)

    async def _run(self, task: Task, place: _Place, arguments: tuple[Any, ...]) -> None:
        future = None
        try:
            logbook, number, order, program, setup, items = arguments
            there = [place.address]
            handed = (
                await self._hand_over(program),
                await self._hand_over(setup),
                await self._client.scatter(items, workers=there, hash=False, asynchronous=True)
                if len(items) > _INLINE_BYTES
                else items,
            )
            future = self._client.submit(
                run_logged_chunk,
                logbook,
                number,
                order,
                *handed,
                # What stands before the number is the name on the dashboard.
                key=f"{function_name(task.function.func)}-{number}-{home()}-{id(self):x}-{task.needs}",
                workers=there,
                allow_other_workers=False,
                retries=0,
                pure=False,
                **self._task_options,
            )
            self._futures[future] = place
            reply = await self._reply(future, place)
        except (Exception, asyncio.CancelledError) as error:
            if not place.is_gone:  # Else the logbook will tell.
                self.failed(task, error)
        else:
            self.finished(task, reply)
        finally:
            if future is not None:
                del self._futures[future]
                future.release()

    async def _reply(self, future: Any, place: _Place) -> Any:
        """Return what a task of Dask's returned.

        Not by `Client.gather`, which asks for those of several workers at once, so
        that they wait for each other, and warns that what is lost is rescheduled.
        """
        error = await future.exception()
        if error is not None:
            raise error
        while future.status != "cancelled" and not place.is_gone:
            response = await self._client.scheduler.gather(keys=[future.key])
            if response["status"] == "OK":
                return response["data"][future.key]
            await asyncio.sleep(_WATCH_SECONDS)  # Its worker is gone, as will be seen soon.
        raise CancelledError

    def _on_failure(self, task: Task, error: BaseException) -> Any:
        if isinstance(error, ModuleNotFoundError) and "motorpool" in str(error.name):
            return StartFailed(task.slot.number, self._broken(error))
        if not isinstance(error, (CancelledError, asyncio.CancelledError)):
            return super()._on_failure(task, error)
        if self._client.status != "running":
            return StartFailed(task.slot.number, self._broken(error))
        # What it was to be given is gone with the workers that had it.
        task.program.handle = None
        task.is_whole = True
        refused = self._count_need(task, "the function")
        if refused is not None:
            return super()._on_failure(task, refused)
        self._start(task)
        return None

    async def _hand_over(self, text: Any) -> Any:
        """Return what stands for a text in the arguments of a task."""
        if not isinstance(text, _Scattered):
            return text
        if text.future is None:
            # One copy for each machine; workers there take it from each other.
            first = {place.host: place.address for place in list(self._places.values())}
            scattered = self._client.scatter(
                text.text,
                workers=list(first.values()),
                broadcast=True,
                hash=False,
                asynchronous=True,
            )
            text.future = asyncio.ensure_future(scattered)
        return await asyncio.shield(text.future)

    # The end of a worker.

    async def _read_and_bury(self, place: _Place, slots: list[_Slot]) -> None:
        record = None
        if any(slot.tasks for slot in slots):
            with suppress(asyncio.CancelledError):
                record = await self._read(place)
        cause = RuntimeError(f"the Dask worker {place.address} left the cluster")
        for slot in slots:
            self.later(partial(self.bury, slot, record, cause))
        # Bound to a worker that is gone, they would wait for ever.
        await self._drop(future for future, where in self._futures.items() if where is place)

    async def _drop(self, futures: Iterable[Any]) -> None:
        """Have Dask forget tasks; those that run go on, and nobody takes their results."""
        futures = list(futures)
        if futures:
            with suppress(Exception):
                await self._client.cancel(futures, asynchronous=True)

    async def _read(self, place: _Place) -> Record | None:
        """Read the logbook here, or have a worker on its machine do so, which may yet come."""
        found = read_logbook(place.logbook)
        if found is not None:
            return found
        now = asyncio.get_running_loop().time
        end = now() + _READ_SECONDS
        while now() < end:
            if not self._places:
                end = now() + _READ_SECONDS
            others = [other for other in list(self._places.values()) if other.host == place.host]
            for other in others:
                with suppress(Exception):
                    record: Record | None = await asyncio.wait_for(
                        self._call(read_logbook, place.logbook, [other.address]), _CALL_SECONDS
                    )
                    return record
            await asyncio.sleep(0.1)
        return None

    async def _call(self, function: Any, argument: Any, workers: list[str]) -> Any:
        answers = await self._client.run(function, argument, workers=workers, asynchronous=True)
        return next(iter(answers.values()), None)

    # The end.

    def _close(self, _patience: float) -> None:
        done = threading.Event()

        async def leave() -> None:
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(self._tidy(), _CLOSE_SECONDS)
            for running in list(self._running):
                running.cancel()
            done.set()

        if self._client.status == "running":
            self._client.loop.add_callback(leave)
            done.wait(_CLOSE_SECONDS + 1)
        with suppress(Exception):
            self._client.close(timeout=_CLOSE_SECONDS)
        if self._local is not None:
            self._local.close()
        self.drop_left()

    async def _tidy(self) -> None:
        await self._drop(self._futures)
        work: list[Awaitable[Any]] = [
            self._call(drop_logbook, place.logbook, [place.address])
            for place in self._places.values()
        ]
        await asyncio.gather(*work, return_exceptions=True)
