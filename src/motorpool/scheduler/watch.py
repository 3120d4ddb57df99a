"""Keeps tasks within their time and tries failed ones again: what the scheduler does by the clock.

Nothing here is heard of unless a job has a timeout or retries, or is cancelled
while it runs.
"""

import heapq
import math

from motorpool.messages import (
    Command,
    Control,
    FailItem,
    KillWorker,
    LookAtWorker,
    RecallChunks,
    WorkerLost,
    WorkerSeen,
)
from motorpool.scheduler.chunking import RECALL_SECONDS
from motorpool.scheduler.state import Job, Worker

# The longest wait before an item is tried again.
MOST_BACKOFF_SECONDS = 60.0
# Between two looks at a worker whose task was, or may be, over just in time.
LEAST_LOOK_SECONDS = 0.001
# Between two looks at a worker that holds, behind a long task, what nobody wants.
MOST_LOOK_SECONDS = 1.0

_LOOK = -1
_NONE: set[int] = set()


class Watch:
    """Looks at workers when a task of theirs may be late; holds items until their next attempt.

    A worker is looked at once per timeout, not once per item: an item that runs
    that long is seen at least once, and from then on its deadline is known.
    """

    def __init__(self, jobs: dict[int, Job], workers: dict[int, Worker]) -> None:
        self._jobs = jobs
        self._workers = workers
        # A heap of (when, job, item to be tried again) and (when, _LOOK, worker).
        self.agenda: list[tuple[float, int, int]] = []

    # Attempts.

    def tries_again(self, job: Job, failure: FailItem, now: float) -> bool:
        """Count a failed attempt; return whether there will be another."""
        control = job.control
        if control is None:
            return False
        attempts = job.attempts[failure.item] = job.attempts.get(failure.item, 0) + 1
        if attempts > control.retries or not _is_granted(control, failure):
            return False
        backoff = min(control.backoff * 2.0 ** min(attempts - 1, 60), MOST_BACKOFF_SECONDS)
        heapq.heappush(self.agenda, (now + backoff, job.id, failure.item))
        return True

    # Looks.

    def chunk_sent(self, worker: Worker, job: Job, now: float) -> None:
        """Plan to look at a worker that was sent a chunk of a job with a timeout."""
        if job.control is not None:
            self._look(worker, now + job.control.timeout)

    def cancelled(self, job: int, item: int | None) -> list[Command]:
        """Return what finds out where a job, or one item of it, is at a worker."""
        commands: list[Command] = []
        for worker in self._workers.values():
            numbers = [
                chunk.number
                for chunk in worker.chunks
                if chunk.job == job and (item is None or chunk.start <= item < chunk.stop)
            ]
            if numbers and worker.is_ready:
                for number in numbers:
                    items = worker.unwanted.setdefault(number, set())
                    if item is None:
                        worker.unwanted[number] = None
                    elif items is not None:
                        items.add(item)
                worker.look_again = 0.0
                commands.append(LookAtWorker(worker.id))
            elif numbers:
                # It would run them before it could be asked for them.
                worker.is_killed = True
                commands.append(KillWorker(worker.id))
        return commands

    def due(self, now: float) -> tuple[list[Command], list[tuple[Job, int]]]:
        """Return the looks that are due, and the items that are to be tried again."""
        commands: list[Command] = []
        items: list[tuple[Job, int]] = []
        while self.agenda and self.agenda[0][0] <= now:
            at, job, number = heapq.heappop(self.agenda)
            if job != _LOOK:
                if job in self._jobs:
                    items.append((self._jobs[job], number))
            elif (worker := self._workers.get(number)) is not None and worker.look_at == at:
                worker.look_at = math.inf
                commands.append(LookAtWorker(number))
        return commands, items

    def seen(self, event: WorkerSeen, now: float) -> list[Command]:
        """Decide what follows from what a worker is at: leave it, recall its chunks, or kill it."""
        worker = self._workers.get(event.worker)
        if worker is None:
            return []
        held = {chunk.number: chunk.job for chunk in worker.chunks}
        if worker.unwanted:
            _forget_settled(worker)
        timeout = self._timeout(held.get(event.number))
        if not event.is_spared:
            items = worker.unwanted.get(event.number, _NONE)
            if items is None:
                return [KillWorker(worker.id, event.number)]
            if event.at in items:
                return [KillWorker(worker.id, event.number, event.at)]
            if event.since + timeout <= now:
                worker.late = (event.number, event.at, timeout)
                return [KillWorker(worker.id, event.number, event.at)]
            is_waiting = event.is_stopped and event.number not in held
            if is_waiting and self._is_held_up(worker, now):
                # What it holds was not begun, and goes to others.
                return [KillWorker(worker.id)]
        # What it is at may be late then; what it comes to meanwhile, no sooner than that.
        ats = [
            (min(event.since, now) if number == event.number else now) + self._timeout(job)
            for number, job in held.items()
        ]
        self._look(worker, max(min(ats, default=math.inf), now + LEAST_LOOK_SECONDS))
        return self._recall_unwanted(worker, now)

    def _recall_unwanted(self, worker: Worker, now: float) -> list[Command]:
        if not worker.unwanted:
            return []
        is_first = not worker.look_again
        worker.look_again = min(2 * worker.look_again or RECALL_SECONDS, MOST_LOOK_SECONDS)
        self._look(worker, now + worker.look_again)
        if not is_first:
            return []
        worker.recalled = True
        return [RecallChunks(worker.id)]

    def _is_held_up(self, worker: Worker, now: float) -> bool:
        """Tell whether a worker was sent a chunk so long ago that its first item could be late."""
        first = worker.chunks[0] if worker.chunks else None
        return first is not None and worker.since + self._timeout(first.job) <= now

    def _timeout(self, job: int | None) -> float:
        entry = self._jobs.get(job) if job is not None else None
        control = entry.control if entry is not None else None
        return control.timeout if control is not None else math.inf

    def _look(self, worker: Worker, at: float) -> None:
        if at < worker.look_at:
            worker.look_at = at
            heapq.heappush(self.agenda, (at, _LOOK, worker.id))


def _forget_settled(worker: Worker) -> None:
    """Forget of what is unwanted what a worker has done with, or handed back."""
    unwanted, worker.unwanted = worker.unwanted, {}
    for chunk in worker.chunks:
        items = unwanted.get(chunk.number, _NONE)
        left = items and {item for item in items if chunk.start <= item < chunk.stop}
        if left or items is None:
            worker.unwanted[chunk.number] = left


def _is_granted(control: Control, failure: FailItem) -> bool:
    """Tell whether another attempt is worth it after such a failure."""
    if failure.error is not None:
        return isinstance(failure.error, control.retry_on)
    if failure.seconds is not None:
        return control.retries_late
    if failure.lost is not None and failure.lost.memory.overrun:
        return control.retries_overrun
    return control.retries_lost


def seconds_late(worker: Worker, lost: WorkerLost) -> float | None:
    """Return the timeout for which a worker was killed, None if it died of something else."""
    if worker.late is None or worker.late[:2] != (lost.number, lost.at):
        return None
    return worker.late[2]
