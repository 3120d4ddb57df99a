"""The scheduler: events in, commands out.

::

    event ──▶ Scheduler.handle ──▶ commands
                ├── Backlog   the jobs in line, and what becomes of their items
                ├── Staff     the workers: who starts, and who leaves
                ├── Recalls   who is asked for what it has not begun
                └── Watch     which tasks are late, and when one is tried again

The parts share the jobs and the workers. What they want done they put into one
list, or return it.

Guarantees
----------
- Every item of a job is in exactly one state: pending, in one chunk, or
  delivered. Only a chunk that is still on the books delivers, once.
- An item that was begun is never sent again, unless it failed and its job grants
  more attempts; one that was not begun always is.
- A worker is killed only for an item that it is at, late or unwanted.
- Jobs are served first come, first served, as far as their input and their
  consumers allow.
- An item is sent ahead to a busy worker only while no worker is idle; if one
  falls idle later, the items come back for it.
- No result of a prompt job waits long for a later item of its chunk.

It knows ranges and costs, never items or functions; values pass unread. Of an
error it asks only whether its job tries again after such.
"""

import math
from collections.abc import Callable  # noqa: TC003 - an annotation

from motorpool.messages import (
    CapacityChanged,
    Chunk,
    ChunkDone,
    ChunkLost,
    ChunkProgressed,
    ChunkRefused,
    Closed,
    Command,
    Consumed,
    Event,
    InputArrived,
    ItemsHandedBack,
    JobCancelled,
    JobSubmitted,
    KillWorker,
    MemoryNews,
    NameSlow,
    SendChunk,
    Tick,
    WorkerLost,
    WorkerNotStarted,
    WorkerReady,
    WorkerSeen,
    WorkerStarted,
)
from motorpool.scheduler.backlog import Backlog
from motorpool.scheduler.chunking import (
    AHEAD_CHUNKS,
    HEAVY_CHUNKS,
    MESSAGE_SECONDS,
    ONE_AHEAD_SECONDS,
    chunk_size,
    timing,
)
from motorpool.scheduler.recall import Recalls
from motorpool.scheduler.staff import Staff
from motorpool.scheduler.state import HeldChunk, Job, Lengths, Worker
from motorpool.scheduler.watch import Watch, seconds_late
from motorpool.typed import Any


class Scheduler:
    """Decides for one pool of `size` workers.

    Parameters
    ----------
    size
        Number of workers to keep.
    tasks_per_worker
        Items after which a worker is replaced, None for never.
    message_seconds
        What it costs to send a chunk; chunks are longer where it is much.
    eager
        Whether a worker is sent chunks from when it is started. If not, from
        when it is ready, which it may never be.
    keeps_apart
        Whether workers keep the items of a chunk apart, on request, as if each
        had been sent by itself.
    """

    def __init__(
        self,
        size: int,
        tasks_per_worker: int | None = None,
        message_seconds: float = MESSAGE_SECONDS,
        *,
        eager: bool = True,
        keeps_apart: bool = True,
    ) -> None:
        self._message_seconds = message_seconds
        self._eager = eager
        self._keeps_apart = keeps_apart
        self._tasks_per_worker = tasks_per_worker
        self._timing = timing(size, message_seconds)
        self._commands: list[Command] = []  # what follows from the event at hand
        self.jobs: dict[int, Job] = {}
        self._staff = Staff(size, tasks_per_worker, self.jobs, self._commands)
        self.workers = self._staff.workers
        self._watch = Watch(self.jobs, self.workers)
        self._backlog = Backlog(self.jobs, self._watch, self._commands)
        self._recalls = Recalls(self.jobs, self.workers, self._timing.recall, self._commands)
        # The parts' own, at hand because each event has them looked at.
        self._idle = self._staff.idle
        self._queue = self._backlog.queue
        self._agenda = self._watch.agenda
        self.wake_at: float | None = None
        self._number = 0  # of the last chunk
        self._now = 0.0
        self._memory_is_short = False
        self._review_at = 0.0
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            JobSubmitted: self._on_submitted,
            InputArrived: self._on_input,
            Consumed: self._on_consumed,
            JobCancelled: self._on_cancelled,
            WorkerStarted: self._on_started,
            WorkerReady: self._on_ready,
            WorkerNotStarted: self._on_not_started,
            ChunkDone: self._on_done,
            ChunkProgressed: self._on_progressed,
            ItemsHandedBack: self._on_handed_back,
            ChunkRefused: self._on_refused,
            WorkerLost: self._on_lost,
            ChunkLost: self._on_chunk_lost,
            CapacityChanged: self._on_capacity,
            MemoryNews: self._on_memory,
            WorkerSeen: self._on_seen,
            Closed: self._on_closed,
            Tick: self._on_tick,
        }

    def start(self) -> list[Command]:
        """Return the commands that start the workers."""
        self._staff.start_all()
        commands = self._commands.copy()
        self._commands.clear()
        return commands

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of `event` at time `now`, in seconds of any clock; return what to do."""
        self._now = now
        self._handlers[type(event)](event)
        if self._queue:
            self._dispatch()
        if self._staff.is_closed and not self.jobs:
            self._staff.let_idle_go()
        self._plan_wake()
        commands = self._commands.copy()
        self._commands.clear()  # They hold values that are not ours to keep.
        return commands

    @property
    def size(self) -> int:
        """Number of workers to keep."""
        return self._staff.size

    @property
    def has_work(self) -> bool:
        """Whether a job is not finished, or a worker to be started after a pause."""
        return bool(self.jobs or self._staff.restart_at)

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for something to do."""
        return bool(self._idle)

    def running(self, worker: int, number: int) -> tuple[int, float] | None:
        """Return the job of a chunk that a worker runs, and about when the task began."""
        entry = self.workers.get(worker)
        chunk = entry.find(number) if entry is not None else None
        return (chunk.job, entry.since) if entry is not None and chunk is not None else None

    def weigh(self, job: int, items: int, size: int) -> None:
        """Take note that the `items` of a chunk that was sent carry `size` bytes."""
        entry = self.jobs.get(job)
        if entry is not None:
            entry.cost.weigh(items, size)

    def room(self, job: int) -> int:
        """Return how many items of an open job may have been read in all."""
        entry = self.jobs.get(job)
        return entry.room() if entry is not None else 0

    def succeed(self) -> "Scheduler":
        """Return a scheduler without jobs, for workers that have all been killed."""
        heir = Scheduler(
            self.size,
            self._tasks_per_worker,
            self._message_seconds,
            eager=self._eager,
            keeps_apart=self._keeps_apart,
        )
        heir._number = self._number
        heir._memory_is_short = self._memory_is_short
        heir._staff.succeed(self._staff)
        heir._plan_wake()
        return heir

    # Calls that go past the books.

    def lend(self) -> tuple[int, int] | None:
        """Take an idle worker off the books if nothing is queued; return it and a chunk number."""
        if self.jobs or not self._idle or self._tasks_per_worker is not None:
            return None
        if self._staff.is_closed:
            return None
        self._number += 1
        return self._idle.popitem()[0], self._number

    def give_back(self, worker: int) -> None:
        """Put a worker that was lent back on the books, idle."""
        self._idle[worker] = self.workers[worker]

    def enter(self, event: JobSubmitted, worker: int, number: int, now: float) -> None:
        """Put on the books a job of one item that was sent to a worker that was lent."""
        job = self.jobs[event.job] = Job(event, self.size)
        job.next = 1
        holder = self.workers[worker]
        holder.chunks.append(HeldChunk(number, job.id, 0, 1, is_users=False))
        self._recalls.sent(holder, job, 1, now)

    # Jobs.

    def _on_submitted(self, event: JobSubmitted) -> None:
        job = self.jobs[event.job] = Job(event, self._staff.size, keeps_apart=self._keeps_apart)
        self._backlog.changed(job)

    def _on_input(self, event: InputArrived) -> None:
        job = self.jobs.get(event.job)
        if job is not None:
            job.size += event.items
            job.left += event.items
            job.is_open = event.is_open
            self._backlog.changed(job)

    def _on_consumed(self, event: Consumed) -> None:
        job = self.jobs.get(event.job)
        if job is not None:
            job.consume(event.items, self.size, self._timing, self._now, starved=event.starved)
            self._backlog.enqueue(job)

    def _on_cancelled(self, event: JobCancelled) -> None:
        if event.item is not None:
            self._cancel_item(event.job, event.item)
        elif self.jobs.pop(event.job, None) is not None and event.kill:
            self._commands += self._watch.cancelled(event.job, None)

    def _cancel_item(self, number: int, item: int) -> None:
        job = self.jobs.get(number)
        if job is None:
            return
        if job.drop(item):
            self._backlog.changed(job)
        else:
            self._commands += self._watch.cancelled(number, item)

    # Sending.

    def _dispatch(self) -> None:
        begun: list[Worker] = []
        while self._idle and (job := self._backlog.first()) is not None and self._has_memory():
            _, worker = self._idle.popitem()
            self._send(worker, job)
            begun.append(worker)
        if not self._eager:  # The second chunk is to be there before the first is over.
            for worker in begun:
                self._send_ahead(worker)

    def _has_memory(self) -> bool:
        """Tell whether a chunk may be sent to an idle worker: one always runs."""
        return not self._memory_is_short or not any(w.chunks for w in self.workers.values())

    def _offer(self, worker: Worker) -> None:
        """Find something to do for a worker that may have run dry."""
        if worker.is_leaving:
            return
        if worker.tasks_left <= 0 or self._staff.is_one_too_many():
            if not worker.chunks:
                self._staff.replace(worker)
            return
        if worker.is_ready:
            self._send_ahead(worker)
        if not worker.chunks:
            self._idle[worker.id] = worker
            if not worker.is_ready:  # One that began to start earlier is there earlier.
                self._idle.move_to_end(worker.id, last=False)

    def _send_ahead(self, worker: Worker) -> None:
        """Keep `worker` busy beyond what it runs, while nobody is idle."""
        while (
            not self._idle
            and not self._memory_is_short
            and len(worker.chunks) < AHEAD_CHUNKS
            and worker.tasks_left > 0
            and (job := self._backlog.first()) is not None
        ):
            if worker.chunks and (
                worker.recalled or worker.is_whole() or not self._is_short(worker, job)
            ):
                return
            self._send(worker, job)

    def _is_short(self, worker: Worker, job: Job) -> bool:
        """Tell whether what `worker` holds may be done before more could reach it."""
        seconds = job.cost.seconds
        held = sum(chunk.stop - chunk.start for chunk in worker.chunks)
        transfer = job.cost.transfer
        if transfer and len(worker.chunks) >= HEAVY_CHUNKS:
            return False
        ahead = self._timing.ahead
        if self._eager:
            if len(worker.chunks) == 1 and job.remaining() > self._staff.size:
                ahead = max(ahead, ONE_AHEAD_SECONDS)
        else:
            # The next chunk is on its way before the one that runs is over, also
            # if items turn out a little longer. What was sent does not come back
            # for another worker, so at the end nobody gets more than a share.
            share = job.pending() * seconds / self.size
            ahead = min(1.5 * ahead, max(share, 2 * self._timing.least))
        # The worker is not to wait while the next item's data is copied.
        return bool(seconds) and held * seconds < max(ahead, 2 * transfer)

    def _send(self, worker: Worker, job: Job) -> None:
        most = self._length(job)
        job.cost.transfer *= 0.5  # unless `weigh` says it anew
        is_users = bool(job.chunksize)
        if not is_users:
            most = int(min(most, worker.tasks_left))
        start, stop = job.take(most)
        worker.tasks_left -= 1 if is_users else stop - start
        self._number = number = self._number + 1
        worker.chunks.append(HeldChunk(number, job.id, start, stop, is_users))
        self._recalls.sent(worker, job, stop - start, self._now)
        budget = -self._timing.budget if is_users else self._timing.budget
        is_exact = job.control is not None
        chunk = Chunk(number, job.id, start, stop, is_exact, job.is_apart)
        self._commands.append(SendChunk(worker.id, chunk, budget))
        if is_exact:
            self._watch.chunk_sent(worker, job, self._now)

    def _length(self, job: Job) -> int:
        """Return how many items to send: what is worth a message, in chunks of the user's."""
        users = job.chunksize or 1
        cost = job.cost
        # Tasks of a worker are counted by chunks of the user's, so those travel one by one then.
        if not cost.seconds or job.left <= users or (job.chunksize and self._tasks_per_worker):
            return users
        seconds = cost.seconds + cost.transfer
        lengths = self._timing
        most = chunk_size(job.remaining(), self._staff.size, seconds, lengths.target, lengths.least)
        return max(users, most - most % users)

    # What comes back.

    def _on_done(self, event: ChunkDone) -> None:
        worker = self.workers.get(event.worker)
        chunk = worker.find(event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        start, upto, stop = event.start, event.stop, chunk.stop
        worker.chunks.remove(chunk)
        if upto > start:
            self._recalls.heard(worker, self._now)
        if upto < stop:
            worker.uncount(chunk, stop - upto)
        job = self.jobs.get(chunk.job)
        if job is not None:
            if upto > start:
                job.cost.add(upto - start, event.seconds)
                self._backlog.deliver(job, start, event, self._now)
            if upto < stop:
                self._backlog.take_back(job, upto, stop)
            self._backlog.finish_if_done(job)
        self._offer(worker)

    def _on_progressed(self, event: ChunkProgressed) -> None:
        worker = self.workers.get(event.worker)
        chunk = worker.find(event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        job = self.jobs.get(chunk.job)
        if job is not None:
            if event.seconds:
                job.cost.add(event.stop - event.start, event.seconds)
            self._backlog.deliver(job, event.start, event, self._now)
        chunk.start = event.stop
        worker.since = self._now

    def _on_handed_back(self, event: ItemsHandedBack) -> None:
        worker = self.workers.get(event.worker)
        chunk = worker.find(event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        worker.uncount(chunk, chunk.stop - event.start)
        job = self.jobs.get(chunk.job)
        if job is not None:
            self._backlog.take_back(job, event.start, chunk.stop)
        chunk.stop = event.start
        if worker.has_unbegun():  # It keeps a part; others may still want that.
            self._recalls.heard(worker, self._now)

    def _on_refused(self, event: ChunkRefused) -> None:
        worker = self.workers.get(event.worker)
        chunk = worker.find(event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        worker.chunks.remove(chunk)
        worker.tasks_left += 1 if chunk.is_users else chunk.stop - chunk.start
        self._backlog.refuse(chunk, event.error, self._now)
        self._offer(worker)

    def _on_lost(self, event: WorkerLost) -> None:
        if event.worker not in self.workers:
            return  # After a fault, an end may be told twice.
        worker = self._staff.remove(event.worker)
        self._recalls.lost(worker)
        for chunk in worker.chunks:
            if chunk.number == event.number:
                self._backlog.recover(chunk, event, seconds_late(worker, event), self._now)
            elif (job := self.jobs.get(chunk.job)) is not None:
                self._backlog.take_back(job, chunk.start, chunk.stop)
        self._staff.replace_lost(worker, event, self._now)

    def _on_chunk_lost(self, event: ChunkLost) -> None:
        worker = self.workers.get(event.worker)
        chunk = worker.find(event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        worker.chunks.remove(chunk)
        self._backlog.recover(chunk, event.lost, seconds_late(worker, event.lost), self._now)
        self._offer(worker)

    # Workers.

    def _on_started(self, event: WorkerStarted) -> None:
        worker = self._staff.started(event.worker)
        if self._eager:
            self._offer(worker)

    def _on_ready(self, event: WorkerReady) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            # An interrupt came between its start and the note of it: another took its place.
            self._commands.append(KillWorker(event.worker))
            return
        self._staff.ready(worker)
        self._recalls.heard(worker, self._now)
        if not self._eager:
            self._offer(worker)

    def _on_not_started(self, event: WorkerNotStarted) -> None:
        self._staff.not_started(event.error, self._now)

    def _on_capacity(self, event: CapacityChanged) -> None:
        self._timing = timing(event.workers, self._message_seconds)
        self._recalls.patience = self._timing.recall
        self._staff.resize(event.workers)

    def _on_memory(self, event: MemoryNews) -> None:
        self._memory_is_short = event.is_short

    def _on_closed(self, _event: Closed) -> None:
        self._staff.is_closed = True

    # Time.

    def _on_seen(self, event: WorkerSeen) -> None:
        self._commands += self._watch.seen(event, self._now)

    def _on_tick(self, _event: Tick) -> None:
        if self._agenda:
            looks, again = self._watch.due(self._now)
            self._commands += looks
            for job, item in again:
                self._backlog.take_back(job, item, item + 1)
        self._staff.restart_due(self._now)
        is_dry = bool(self._idle) and not self._memory_is_short and self._backlog.first() is None
        self._recalls.ask_due(self._now, is_dry=is_dry)
        if self._now >= self._review_at:
            self._review_at = self._now + Lengths.least_seconds / 8
            self._name_slow()

    def _name_slow(self) -> None:
        """Name each task once that runs far longer than others of its function."""
        for worker in self.workers.values():
            if not worker.chunks or worker.named == worker.since:
                continue
            job = self.jobs.get(worker.chunks[0].job)
            if job is not None and self._now - worker.since >= job.cost.lengths.patience():
                worker.named = worker.since
                self._commands.append(NameSlow(worker.id))

    def _plan_wake(self) -> None:
        """Say when to be called again even if nothing happens."""
        recalls = self._recalls
        wake = recalls.for_results_at
        is_dry = self._idle and self.jobs and not self._queue and not self._memory_is_short
        if is_dry and recalls.unbegun:
            wake = min(wake, recalls.for_idle_at(self._now))
        if self._staff.restart_at:
            wake = min(wake, *self._staff.restart_at)
        if self._agenda:
            wake = min(wake, self._agenda[0][0])
        self.wake_at = wake if wake != math.inf else None
