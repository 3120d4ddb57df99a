"""Look at the workers of a pool: which task each is running, and where it is in it."""

import time
from collections.abc import Mapping

from motorpool.describe import function_name, short_repr
from motorpool.engines.base import Engine
from motorpool.jobs import Job
from motorpool.log import log
from motorpool.messages import LOADING
from motorpool.scheduler import Scheduler
from motorpool.stacks import Stacks, WorkerStack
from motorpool.typed import Any

# How often to look, while workers change what they run in the meantime.
LOOKS = 3
# After a worker that took longer than this to show its stack, others are not
# asked for so long.
PROMPT_SECONDS = 0.1
PAUSE_SECONDS = 5.0
# Of workers that were spared in the end.
MOST_STACKS = 1000


def look(
    lock: Any, step: Any, engine: Engine, scheduler: Scheduler, jobs: Mapping[int, Job]
) -> Stacks:
    """Return what each worker is running, and its stack; the driver's `lock` is not held."""
    for _ in range(LOOKS - 1):
        stacks, is_steady = _look_once(lock, step, engine, scheduler, jobs)
        if is_steady:
            return stacks
    return _look_once(lock, step, engine, scheduler, jobs)[0]


def _look_once(
    lock: Any, step: Any, engine: Engine, scheduler: Scheduler, jobs: Mapping[int, Job]
) -> tuple[Stacks, bool]:
    """Return the stacks; tell also whether all went on with the same tasks meanwhile."""
    with lock, step:
        workers = list(scheduler.workers)
        tasks = [task_of(worker, engine, scheduler, jobs) for worker in workers]
        receive = engine.ask_stacks(workers)
    # A worker that does not answer holds up nobody but the caller.
    found = receive()
    with lock, step:
        after = [task_of(worker, engine, scheduler, jobs) for worker in workers]
    stacks = Stacks(
        task._replace(stack=texts[0]) for task, texts in zip(tasks, found, strict=True) if task.pid
    )
    return stacks, [task[:5] for task in tasks] == [task[:5] for task in after]


def task_of(
    worker: int, engine: Engine, scheduler: Scheduler, jobs: Mapping[int, Job]
) -> WorkerStack:
    """Return what a worker is running, without its stack; without a pid if it has ended."""
    now = engine.describe(worker)
    if now is None:
        return WorkerStack(0, "", None, None, None, None, "")
    task = WorkerStack(now.pid, now.name, None, None, None, None, "")
    running = scheduler.running(worker, now.number)
    job = jobs.get(running[0]) if running is not None else None
    if running is None or job is None or now.item == LOADING:
        return task
    return task._replace(
        function=function_name(job.function.func),
        index=job.function.position(now.item),
        item=short_repr(job.items[now.item : now.item + 1][0]),
        seconds=time.monotonic() - running[1],
    )


def stack_of(worker: int, engine: Engine) -> str:
    """Return the stack of what a worker runs, or in parentheses why there is none.

    The lock may be held: this takes a millisecond, or half a second if the
    worker does not answer.
    """
    return engine.ask_stacks([worker])()[0][0]


class LateStacks:
    """The stacks of workers that are about to be killed because a task of theirs is late."""

    def __init__(self) -> None:
        self._stacks: dict[int, str] = {}
        self._next = 0.0

    def take(self, worker: int, engine: Engine) -> None:
        """Take the stack of what a worker runs; not if others did not answer just now.

        Else many workers that are stopped would hold up each other's end.
        """
        began = time.monotonic()
        if began < self._next:
            self._stacks.pop(worker, None)
            return
        self._stacks[worker] = stack_of(worker, engine)
        if time.monotonic() - began > PROMPT_SECONDS:
            self._next = time.monotonic() + PAUSE_SECONDS
        while len(self._stacks) > MOST_STACKS:
            del self._stacks[next(iter(self._stacks))]

    def of(self, worker: int) -> str | None:
        """Return the stack that was taken of a worker that is lost now, None if there is none."""
        return self._stacks.pop(worker, None)


def tell_slow(task: WorkerStack) -> None:
    """Name a task in the log that runs far longer than others of its function."""
    log().warning("a task runs far longer than others of %s: %s", task.function, task)
