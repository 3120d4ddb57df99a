"""Workers as actors of Ray: one per slot, with the resources of one worker.

A call of an actor costs about half as much as a task of Ray's
(`benchmarks/clusters.py`), and an actor has a place, a state and an end of its
own: a function crosses once, an initializer runs once, a task can be killed.

An actor that is asked for and does not fit the cluster waits in Ray's queue,
where an autoscaler sees it. It gets chunks from when it is there.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from queue import SimpleQueue
from weakref import WeakSet

from motorpool.cpus import cpu_count
from motorpool.describe import function_name
from motorpool.engines.base import Abilities, Initializer, StartFailed
from motorpool.engines.cluster import ClusterEngine, PlacedSlot
from motorpool.engines.remote import Task
from motorpool.messages import IDLE, LOADING, Event, Order, WorkerLost, WorkerSeen
from motorpool.typed import Any, ClassVar
from motorpool.worker.logbook import (
    Record,
    drop_logbook,
    kill_at,
    look_in_logbook,
    read_logbook,
    run_logged_chunk,
)

# The text of a program up to this length travels with a chunk, a longer one
# through the object store, as Ray does it with arguments from 100 KiB on.
_INLINE_BYTES = 64 * 1024
# How often to look what the cluster has.
_WATCH_SECONDS = 1.0
# How long to look for the logbook of a dead actor; its machine may be gone too.
_READ_SECONDS = 5.0
# How long an actor may take to start that has the resources it asks for.
_START_SECONDS = 5.0
# How long the cluster's address may take to answer.
_CONNECT_SECONDS = 10.0


class MotorpoolWorker:
    """What an actor is. Ray's dashboard shows the name."""

    def hello(self) -> tuple[int, str]:
        """Return the process and the node."""
        import os

        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def run(
        self, logbook: str, number: int, order: Order, program: Any, setup: Any, items: bytes
    ) -> Any:
        """Run a chunk."""
        return run_logged_chunk(logbook, number, order, program, setup, items)

    def leave(self, logbook: str) -> None:
        """Remove the logbook, and end the actor."""
        import ray

        drop_logbook(logbook)
        ray.actor.exit_actor()


class _Slot(PlacedSlot):
    """An actor, from when it is asked for."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.actor: Any = None
        self.asked_at = 0.0
        self.is_beside = False  # asks for no CPU
        self.node: str | None = None
        self.give_up_at = 0.0  # while its logbook is looked for

    def is_hopeless(self, dead: set[str]) -> bool:
        """Tell whether there is nothing to wait for any more, and nobody was told yet."""
        if self.give_up_at and time.monotonic() >= self.give_up_at:
            return True
        return self.node in dead and (bool(self.give_up_at) or not self.is_gone)


class RayEngine(ClusterEngine):
    """Workers on a Ray cluster.

    Parameters
    ----------
    where
        An address. None for the Ray that is initialised already, that the
        environment names or that runs on this machine, or else for one that is
        started here, and shut down with the last pool that uses it.
    initializer, processes
        As in `Pool`.
    options
        What each worker asks for, as in ``ray.remote``: `num_cpus` (1 if not
        given), `num_gpus`, `resources`, `runtime_env` and so on; and `init`, a
        mapping of arguments for ``ray.init``. `num_cpus` among these starts a Ray.
    """

    name = "ray"
    abilities = Abilities(kill=True, timeout=True, maxtasksperchild=True, blame=True, machines=True)
    # Longer chunks lose 2 % less of the cores' time, but more items when a node goes down.
    message_seconds = 0.003

    # The engines that use the Ray which one of them has started; and one begins or ends at a time.
    _users: ClassVar[set[int]] = set()
    _engines: ClassVar[WeakSet["RayEngine"]] = WeakSet()
    _over: ClassVar[threading.Event | None] = None  # ends the thread that has started it
    _lock: ClassVar[Any] = threading.RLock()  # a pool may be dropped in the midst of that

    def __init__(
        self,
        where: str | None,
        initializer: Initializer | None,
        processes: int | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(initializer, processes, options)
        init = dict(self.options.pop("init", None) or {})
        self._asks = {"num_cpus": 1, **self.options, "max_restarts": 0, "max_task_retries": 0}
        with self._lock:
            self._connect(where, init)
            self._engines.add(self)
        self._capacity = self._count_places()
        self._ended = threading.Event()
        watcher = threading.Thread(target=self._watch, name="motorpool-ray", daemon=True)
        watcher.start()

    def _connect(self, where: str | None, init: dict[str, Any]) -> None:
        import ray

        self._ray = ray
        if ray.is_initialized() and not self._users:
            return  # It is somebody else's.
        if not ray.is_initialized():
            # Else it writes on the script's standard error that it has started.
            init.setdefault("logging_level", "ERROR")
            if where is not None:
                init["address"] = where
                _check_reachable(where)
            if "address" in init:
                ray.init(**init)
            elif not self._find(init):
                here = {"num_cpus": max(self.processes or 0, cpu_count())}
                self._start_ray({**here, "address": "local", "include_dashboard": False, **init})
        self._users.add(id(self))

    def _start_ray(self, init: dict[str, Any]) -> None:
        """Start a Ray, by a thread that lasts: when that one ends, the kernel kills Ray."""
        if threading.current_thread() is threading.main_thread():
            self._ray.init(**init)
            return
        over = threading.Event()
        outcome: SimpleQueue[BaseException | None] = SimpleQueue()

        def keep() -> None:
            try:
                self._ray.init(**init)
            except BaseException as error:
                outcome.put(error)
            else:
                RayEngine._over = over
                outcome.put(None)
                over.wait()

        threading.Thread(target=keep, name="motorpool-ray-start", daemon=True).start()
        error = outcome.get()
        if error is not None:
            raise error

    def _find(self, init: dict[str, Any]) -> bool:
        """Connect to the Ray that the environment names or that runs here, if there is one."""
        named = os.environ.get("RAY_ADDRESS")
        if "num_cpus" in init or named == "local":
            return False
        if named:
            _check_reachable(named)
        try:
            self._ray.init(**{**init, "address": "auto"})
        except ConnectionError:
            if named not in (None, "", "auto"):
                raise  # One here would not do for the one that is meant.
            return False
        return True

    # The cluster's size.

    @property
    def capacity(self) -> int:
        """How many workers the cluster has the resources for, at least 1."""
        return max(self._capacity, 1)

    def _needs(self) -> dict[str, float]:
        """Return what one worker takes of the cluster."""
        asks = self._asks
        needs = {"CPU": asks["num_cpus"], "GPU": asks.get("num_gpus"), **asks.get("resources", {})}
        return {name: amount for name, amount in needs.items() if amount} or {"CPU": 1}

    def _count_places(self) -> int:
        has = self._ray.cluster_resources()
        return int(min(has.get(name, 0) // amount for name, amount in self._needs().items()))

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            if not self._ray.is_initialized():
                self._post(None, StartFailed(0, self._broken(_shut_down())))
                return
            try:
                places = self._count_places()
                dead = {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}
                self._get_on()
            except Exception:  # noqa: S112 - failing tasks will tell of a cluster that is gone
                continue
            for slot in self._all():
                if slot.is_hopeless(dead):
                    slot.is_gone = True
                    slot.give_up_at = 0.0
                    self.later(partial(self.bury, slot, None, _gone(slot, "its node is gone")))
            self.tell_if_without_places()
            if places != self._capacity:
                self._capacity = places
                self.resize(places)

    # Actors.

    def _all(self) -> list[_Slot]:
        return [slot for slot in self.workers if isinstance(slot, _Slot)]

    def start_worker(self) -> int:
        """Ask for an actor and return its number."""
        import ray

        if not ray.is_initialized():
            raise _shut_down()
        slot = _Slot(next(self._numbers))
        # All CPUs may be taken by tasks that wait for this very pool. One worker runs
        # beside them, so that the pool gets on.
        slot.is_beside = not self._slots and not self._has_free_cpus()
        self._slots[slot.number] = slot
        self._start_actor(slot)
        return slot.number

    def _start_actor(self, slot: _Slot) -> None:
        asks = {**self._asks, "num_cpus": 0} if slot.is_beside else self._asks
        actor = slot.actor = self._ray.remote(MotorpoolWorker).options(**asks).remote()
        slot.asked_at = time.monotonic()
        self._when_done(actor.hello.remote(), partial(self._met, slot, actor))

    def _get_on(self) -> None:
        """Have a worker run beside those that took, meanwhile, the CPU that it was to have."""
        slots = self._all()
        if not slots or any(slot.is_open or slot.is_beside for slot in slots):
            return
        first = slots[0]
        if time.monotonic() > first.asked_at + _START_SECONDS and not self._has_free_cpus():
            self.later(partial(self._start_beside, first))

    def _start_beside(self, slot: _Slot) -> list[Event | StartFailed]:
        if self._slots.get(slot.number) is slot and not (slot.is_open or slot.is_gone):
            replaced = slot.actor
            slot.is_beside = True
            self._start_actor(slot)
            self._kill_actor(replaced)
        return []

    def _has_free_cpus(self) -> bool:
        free = self._ray.available_resources().get("CPU", 0.0)
        # What was asked for just now is not counted there yet.
        with self._lock:
            asked = sum(engine._cpus() for engine in self._engines)  # noqa: SLF001 - our own
        free = min(free, self._ray.cluster_resources().get("CPU", 0.0) - asked)
        return bool(free >= self._asks["num_cpus"])

    def _cpus(self) -> float:
        """Return how many CPUs the actors of this pool have or wait for."""
        slots = [slot for slot in self._all() if not (slot.is_beside or slot.is_gone)]
        return float(len(slots) * self._asks["num_cpus"])

    def _when_done(self, ref: Any, then: Callable[[Any, BaseException | None], None]) -> None:
        """Call `then` with the value or the exception of `ref`, in a thread of Ray's.

        It must not call Ray, which would wait for that very thread.
        """

        def done(future: Any) -> None:
            error = future.exception()
            then(future.result() if error is None else None, error)

        ref.future().add_done_callback(done)

    def _met(
        self, slot: _Slot, actor: Any, who: tuple[int, str] | None, error: BaseException | None
    ) -> None:
        if actor is not slot.actor:
            return  # Another was asked for in its place.
        if who is None:
            self.later(partial(self.bury, slot, None, error))
            return
        slot.pid, slot.node = who
        self.later(partial(self.opened, slot))

    def _send(self, task: Task, slot: PlacedSlot) -> None:
        assert isinstance(slot, _Slot)  # noqa: S101 - for the type checker
        if not self._ray.is_initialized():
            raise _shut_down()
        run = slot.actor.run.options(name=function_name(task.function.func))
        task.future = run.remote(*self.logged_arguments(task, slot))
        self._when_done(task.future, partial(self._returned, task))

    def _returned(self, task: Task, reply: Any, error: BaseException | None) -> None:
        if error is not None:
            self.failed(task, error)
        else:
            self.finished(task, reply)

    def _put(self, text: bytes) -> Any:
        return self._ray.put(text) if len(text) > _INLINE_BYTES else text

    def stop_worker(self, worker: int) -> None:
        """End an actor that is idle."""
        slot = self._slots.pop(worker, None)
        if isinstance(slot, _Slot):
            if slot.is_open:
                slot.actor.leave.remote(slot.logbook)
                self.left.append(slot.logbook)  # in case that it does not come to that
            else:
                self._kill_actor(slot.actor)
            self._post(None, WorkerLost(worker, slot.pid, 0))

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """End an actor, unless it is at something else than what it is to be ended for."""
        slot = self._slots.get(worker)
        if not isinstance(slot, _Slot) or slot.is_gone:
            return None
        task = slot.tasks.get(number) if number is not None else None
        if number is not None and task is None:
            return WorkerSeen(worker, IDLE, LOADING, inf, is_spared=True)
        job = task.chunk.job if task is not None and item is None else None
        if task is None or all(other.chunk.job == job for other in slot.tasks.values()):
            self._mourn(slot, _gone(slot, "it was killed with a task that was cancelled"))
        else:
            # Its death comes as that of any actor; or it is spared, as is told then.
            told = partial(self._seen, slot, is_spared=True)
            self._ask_node(slot, told, kill_at, slot.logbook, slot.pid, number, item)
        return None

    def look(self, worker: int) -> WorkerSeen | None:
        """Have told what an actor is at; at once if it does not matter since when."""
        slot = self._slots.get(worker)
        first = next(iter(slot.tasks.values()), None) if slot is not None else None
        if not isinstance(slot, _Slot) or first is None or not first.chunk.is_exact:
            return super().look(worker)
        if not slot.is_gone:
            self._ask_node(slot, partial(self._seen, slot), look_in_logbook, slot.logbook)
        return None

    def _seen(
        self,
        slot: _Slot,
        place: tuple[int, int, float] | None,
        error: BaseException | None,
        *,
        is_spared: bool = False,
    ) -> None:
        if place is None and error is None:
            return  # It was killed.
        number, item, seconds = place or (IDLE, LOADING, 0.0)
        since = time.monotonic() - seconds
        self._post(None, WorkerSeen(slot.number, number, item, since, is_spared=is_spared))

    def _ask_node(
        self,
        slot: _Slot,
        then: Callable[[Any, BaseException | None], None],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> None:
        """Call `function` on the node of an actor, in another process, then `then`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not self._ray.is_initialized():
            return  # `_watch` tells.
        there = NodeAffinitySchedulingStrategy(slot.node, soft=False)
        asked = self._ray.remote(function).options(
            num_cpus=0, max_retries=0, scheduling_strategy=there
        )
        self._when_done(asked.remote(*arguments), then)

    def _kill_actor(self, actor: Any) -> None:
        # Else Ray would start anew for it, at the end of the program say.
        if self._ray.is_initialized():
            with suppress(Exception):
                self._ray.kill(actor)

    # The end of an actor.

    def _on_failure(self, task: Task, error: BaseException) -> Any:
        import ray

        slot = task.slot
        if isinstance(slot, _Slot) and not isinstance(error, ray.exceptions.RayTaskError):
            self._mourn(slot, error)
            return None  # What it means is told when the logbook has been read.
        return super()._on_failure(task, error)

    def _mourn(self, slot: _Slot, cause: BaseException) -> None:
        """Have the logbook of a lost actor read on its node, then bury it."""
        if slot.is_gone:
            return
        slot.is_gone = True
        self._kill_actor(slot.actor)
        if slot.node is None or not slot.tasks:
            self.later(partial(self.bury, slot, None, cause))
            return
        slot.give_up_at = time.monotonic() + _READ_SECONDS

        def found(record: Record | None, _error: BaseException | None) -> None:
            self.later(partial(self.bury, slot, record, cause))

        self._ask_node(slot, found, read_logbook, slot.logbook)

    def _close(self, _patience: float) -> None:
        self._ended.set()
        for slot in self._all():
            self._kill_actor(slot.actor)
            self.left.append(slot.logbook)
        self.drop_left()
        with self._lock:
            if id(self) in self._users:
                self._users.discard(id(self))
                if not self._users:
                    with suppress(Exception):
                        self._ray.shutdown()
                    if RayEngine._over is not None:
                        RayEngine._over.set()


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if nobody listens there: Ray itself would try for a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        msg = f"no Ray can be reached at {address}: {error}"
        raise ConnectionError(msg) from error


def _shut_down() -> ConnectionError:
    return ConnectionError("Ray was shut down in this process, or has lost its connection")


def _gone(slot: _Slot, why: str) -> RuntimeError:
    return RuntimeError(f"the Ray actor in process {slot.pid} on node {slot.node} ended: {why}")
