"""The scheduler: events in, commands out.

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

import heapq
from collections import OrderedDict
from collections.abc import Callable  # noqa: TC003 - an annotation

from motorpool.messages import (
    LOADING,
    BreakPool,
    CapacityChanged,
    Chunk,
    ChunkDone,
    ChunkLost,
    ChunkProgressed,
    ChunkRefused,
    Closed,
    Command,
    Consumed,
    Deliver,
    Event,
    FailItem,
    FinishJob,
    InputArrived,
    ItemsHandedBack,
    JobCancelled,
    JobSubmitted,
    MemoryNews,
    NameSlow,
    RecallChunks,
    SendChunk,
    StartWorker,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerNotStarted,
    WorkerReady,
    WorkerSeen,
    WorkerStarted,
)
from motorpool.scheduler import slow
from motorpool.scheduler.chunking import (
    AHEAD_CHUNKS,
    HEAVY_CHUNKS,
    MESSAGE_SECONDS,
    chunk_size,
    grown_window,
    timing,
)
from motorpool.scheduler.state import Job, Worker
from motorpool.scheduler.watch import Watch, seconds_late
from motorpool.typed import Any

# So many workers in a row that end by themselves before they are ready, and the
# pool gives up. It does so too if none is ready for so long, because the system
# has no room for them, or others kill them: that may pass.
MOST_FAILED_STARTS = 3
MOST_FAILING_SECONDS = 10.0
MOST_KILLED_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.05
MOST_RESTART_SECONDS = 1.0
# After others killed one: the more there are, the less often it is each one's turn.
KILLED_RESTART_SECONDS = 0.1


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
        self.size = size
        self._message_seconds = message_seconds
        self._eager = eager
        self._keeps_apart = keeps_apart
        self._timing = timing(size, message_seconds)
        self.jobs: dict[int, Job] = {}
        self.workers: dict[int, Worker] = {}
        self.wake_at: float | None = None
        self._watch = Watch(self.jobs, self.workers)
        self._agenda = self._watch.agenda
        self._tasks_per_worker = tasks_per_worker
        self._queue: list[int] = []  # heap of jobs with pending items
        self._idle: OrderedDict[int, Worker] = OrderedDict()  # the last goes first
        self._starting = 0
        self._restart_at: list[float] = []
        self._look_at: float | None = None  # when to look for results that are held up
        # Starts that failed since one succeeded: all, those by the workers' own
        # doing, and since when.
        self._failed_starts = self._own_failures = 0
        self._failing_since = 0.0
        self._is_closed = False
        self._number = 0
        self._commands: list[Command] = []
        self._now = 0.0
        self._memory_is_short = False
        self._review_at = 0.0
        self._unbegun: set[Worker] = set()  # all that are stuck, and others
        self._recall_at: float | None = None
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
        self._starting = self.size
        return [StartWorker()] * self.size

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take note of `event` at time `now`, in seconds of any clock; return what to do."""
        self._now = now
        commands: list[Command] = []
        self._commands = commands
        self._handlers[type(event)](event)
        if self._queue:
            self._dispatch()
        if self._is_closed and not self.jobs:
            self._stop_idle()
        self._plan_wake()
        self._commands = []  # They hold values that are not ours to keep.
        return commands

    @property
    def has_work(self) -> bool:
        """Whether any job is not finished."""
        return bool(self.jobs)

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for something to do."""
        return bool(self._idle)

    def running(self, worker: int, number: int) -> tuple[int, float] | None:
        """Return the job of a chunk that a worker runs, and about when the task began."""
        entry = self.workers.get(worker)
        chunk = self._find(entry, number) if entry is not None else None
        return (chunk[1], entry.since) if entry is not None and chunk is not None else None

    def weigh(self, job: int, items: int, size: int) -> None:
        """Take note that the `items` of a chunk that was sent carry `size` bytes."""
        entry = self.jobs.get(job)
        if entry is not None:
            entry.cost.weigh(items, size)

    def room(self, job: int) -> int:
        """Return how many items of an open job may have been read in all."""
        entry = self.jobs.get(job)
        return entry.room() if entry is not None else 0

    # Calls that go past the books.

    def lend(self) -> tuple[int, int] | None:
        """Take an idle worker off the books if nothing is queued; return it and a chunk number."""
        if self.jobs or not self._idle or self._tasks_per_worker is not None or self._is_closed:
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
        holder.news = holder.since = now
        holder.recalled = False
        holder.chunks.append([number, job.id, 0, 1, False])

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
        heir._is_closed = self._is_closed
        heir._memory_is_short = self._memory_is_short
        heir._restart_at = self._restart_at
        for number, killed in self.workers.items():
            worker = heir.workers[number] = Worker(number, self._tasks_per_worker)
            worker.is_killed = True
            worker.is_leaving = killed.is_leaving
        heir._plan_wake()
        return heir

    # Jobs.

    def _on_submitted(self, event: JobSubmitted) -> None:
        job = self.jobs[event.job] = Job(event, self.size, keeps_apart=self._keeps_apart)
        self._enqueue(job)
        self._finish_if_done(job)

    def _on_input(self, event: InputArrived) -> None:
        job = self.jobs.get(event.job)
        if job is not None:
            job.size += event.items
            job.left += event.items
            job.is_open = event.is_open
            self._enqueue(job)
            self._finish_if_done(job)

    def _on_consumed(self, event: Consumed) -> None:
        job = self.jobs.get(event.job)
        if job is None or job.window is None:
            return
        job.limit += event.items
        job.taken += event.items
        if event.starved and job.taken >= job.window:
            took = self._now - job.taken_since
            seconds = job.cost.seconds + job.cost.transfer
            grown = grown_window(job.window, self.size, seconds, took, self._timing)
            job.limit += grown - job.window
            job.window = grown
            job.taken = 0
            job.taken_since = self._now
        self._enqueue(job)

    def _on_cancelled(self, event: JobCancelled) -> None:
        if event.item is not None:
            self._cancel_item(event.job, event.item)
            return
        job = self.jobs.pop(event.job, None)
        if job is not None and event.kill:
            self._commands += self._watch.cancelled(event.job, None)

    def _cancel_item(self, number: int, item: int) -> None:
        job = self.jobs.get(number)
        if job is None:
            return
        if job.drop(item):
            self._enqueue(job)
            self._finish_if_done(job)
        else:
            self._commands += self._watch.cancelled(number, item)

    def _enqueue(self, job: Job) -> None:
        if not job.is_queued and job.has_pending():
            job.is_queued = True
            heapq.heappush(self._queue, job.id)

    def _take_back(self, job: Job, start: int, stop: int) -> None:
        """Have items that were sent and not begun be pending again."""
        job.give_back(start, stop)
        self._enqueue(job)
        if not job.left:  # The last ones were cancelled meanwhile.
            self._finish_if_done(job)

    def _finish_if_done(self, job: Job) -> None:
        if not job.left and not job.is_open and self.jobs.pop(job.id, None) is not None:
            self._commands.append(FinishJob(job.id))

    # Sending.

    def _first_job(self) -> Job | None:
        while self._queue:
            job = self.jobs.get(self._queue[0])
            if job is not None and job.has_pending():
                return job
            heapq.heappop(self._queue)
            if job is not None:
                job.is_queued = False
        return None

    def _dispatch(self) -> None:
        while self._idle and (job := self._first_job()) is not None and self._has_memory():
            _, worker = self._idle.popitem()
            self._send(worker, job)

    def _has_memory(self) -> bool:
        """Tell whether a chunk may be sent to an idle worker: one always runs."""
        return not self._memory_is_short or not any(w.chunks for w in self.workers.values())

    def _send_ahead(self, worker: Worker) -> None:
        """Keep `worker` busy beyond what it runs, while nobody is idle."""
        while (
            not self._idle
            and not self._memory_is_short
            and len(worker.chunks) < AHEAD_CHUNKS
            and worker.tasks_left > 0
            and (job := self._first_job()) is not None
        ):
            if worker.chunks and (
                worker.recalled or self._is_whole(worker) or not self._is_short(worker, job)
            ):
                return
            self._send(worker, job)

    def _is_whole(self, worker: Worker) -> bool:
        """Tell whether what a worker runs counts as one task, and so is never cut."""
        return self._tasks_per_worker is not None and bool(worker.chunks[0][4])

    def _is_short(self, worker: Worker, job: Job) -> bool:
        seconds = job.cost.seconds
        held = sum(chunk[3] - chunk[2] for chunk in worker.chunks)
        transfer = job.cost.transfer
        if transfer and len(worker.chunks) >= HEAVY_CHUNKS:
            return False
        # The worker is not to wait while the next item's data is copied.
        return bool(seconds) and held * seconds < max(self._timing.ahead, 2 * transfer)

    def _send(self, worker: Worker, job: Job) -> None:
        most = self._length(job)
        job.cost.transfer *= 0.5  # unless `weigh` says it anew
        if not job.chunksize:
            most = int(min(most, worker.tasks_left))
        start, stop = job.take(most)
        worker.tasks_left -= 1 if job.chunksize else stop - start
        self._number = number = self._number + 1
        if not worker.chunks:
            worker.news = worker.since = self._now
            worker.recalled = False
        worker.chunks.append([number, job.id, start, stop, bool(job.chunksize)])
        if len(worker.chunks) > 1 or stop - start > 1:
            self._unbegun.add(worker)
        if job.is_prompt and stop - start > 1 and self._look_at is None:
            self._look_at = self._now + self._timing.recall
        budget = -self._timing.budget if job.chunksize else self._timing.budget
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
        if not cost.seconds or job.left <= users or (users > 1 and self._tasks_per_worker):
            return users
        seconds = cost.seconds + cost.transfer
        lengths = self._timing
        most = chunk_size(job.pending(), self.size, seconds, lengths.target, lengths.least)
        return max(users, most - most % users)

    @staticmethod
    def _return_tasks(worker: Worker, chunk: list[int], start: int, stop: int) -> None:
        """Uncount items that come back unrun; a chunk that the user made counts as one task."""
        if not chunk[4]:
            worker.tasks_left += stop - start

    # What comes back.

    def _find(self, worker: Worker, number: int) -> list[int] | None:
        for chunk in worker.chunks:
            if chunk[0] == number:
                return chunk
        return None

    def _on_done(self, event: ChunkDone) -> None:
        worker = self.workers[event.worker]
        chunk = self._find(worker, event.number)
        if chunk is None:
            return
        _, job_id, _, stop, _ = chunk
        start = event.start
        worker.chunks.remove(chunk)
        if event.stop > start:
            worker.news = worker.since = self._now
            worker.recalled = False
            if worker.has_unbegun():
                self._unbegun.add(worker)
        job = self.jobs.get(job_id)
        self._return_tasks(worker, chunk, event.stop, stop)
        if job is not None:
            done = event.stop - start
            if done:
                job.cost.add(done, event.seconds)
                self._deliver(job, start, event)
            self._take_back(job, event.stop, stop)
            self._finish_if_done(job)
        self._offer(worker)

    def _on_progressed(self, event: ChunkProgressed) -> None:
        worker = self.workers[event.worker]
        chunk = self._find(worker, event.number)
        if chunk is None:
            return
        job = self.jobs.get(chunk[1])
        if job is not None:
            done = event.stop - event.start
            if event.seconds:
                job.cost.add(done, event.seconds)
            self._deliver(job, event.start, event)
        chunk[2] = event.stop
        worker.since = self._now

    def _deliver(self, job: Job, begin: int, event: ChunkDone | ChunkProgressed) -> None:
        values, errors = event.values, event.errors
        if not errors or job.control is None:
            self._commands.append(Deliver(job.id, begin, values, errors))
            job.left -= event.stop - begin
            return
        # Errors apart, each as the last of its item's attempts or not at all.
        first = 0
        for offset in [*sorted(errors), len(values)]:
            if first < offset:
                self._commands.append(Deliver(job.id, begin + first, values[first:offset], None))
                job.left -= offset - first
            if offset < len(values):
                self._fail(job, FailItem(job.id, begin + offset, errors[offset], None))
            first = offset + 1

    def _on_handed_back(self, event: ItemsHandedBack) -> None:
        worker = self.workers[event.worker]
        chunk = self._find(worker, event.number)
        if chunk is None:
            return
        job = self.jobs.get(chunk[1])
        self._return_tasks(worker, chunk, event.start, chunk[3])
        if job is not None:
            self._take_back(job, event.start, chunk[3])
        chunk[3] = event.start

    def _on_refused(self, event: ChunkRefused) -> None:
        worker = self.workers[event.worker]
        chunk = self._find(worker, event.number)
        if chunk is None:
            return
        worker.chunks.remove(chunk)
        worker.tasks_left += 1 if chunk[4] else chunk[3] - chunk[2]
        # It never ran: that is no attempt, and another would be no better.
        self._isolate(chunk, FailItem(chunk[1], chunk[2], event.error, None))
        self._offer(worker)

    def _isolate(self, chunk: list[int], failure: FailItem) -> None:
        """Send the items of `chunk`, none of which was run, one by one; a single one fails."""
        _, job_id, start, stop, _ = chunk
        job = self.jobs.get(job_id)
        if job is None:
            return
        if stop - start == 1:
            if failure.lost is not None:
                self._fail(job, failure)
            else:
                self._give_up(job, failure)
            self._finish_if_done(job)
            return
        job.singles.update(range(start, stop))
        self._take_back(job, start, stop)

    def _fail(self, job: Job, failure: FailItem) -> None:
        if not self._watch.tries_again(job, failure, self._now):
            attempts = job.attempts.get(failure.item, 1)
            self._give_up(job, failure._replace(attempts=attempts) if attempts > 1 else failure)

    def _give_up(self, job: Job, failure: FailItem) -> None:
        self._commands.append(failure)
        job.left -= 1

    def _offer(self, worker: Worker) -> None:
        """Find something to do for a worker that may have run dry."""
        if worker.tasks_left <= 0 or worker.is_leaving:
            if not worker.chunks and not worker.is_leaving:
                self._let_go(worker)
                self._start_one()
            return
        if self._is_one_too_many():
            if not worker.chunks:
                self._let_go(worker)
            return
        if worker.is_ready:
            self._send_ahead(worker)
        if not worker.chunks:
            self._idle[worker.id] = worker
            if not worker.is_ready:  # One that began to start earlier is there earlier.
                self._idle.move_to_end(worker.id, last=False)

    # Workers.

    def _start_one(self) -> None:
        if self._is_closed and not self.jobs:
            return
        if self._starting >= self.size - self._staying():
            return
        self._starting += 1
        self._commands.append(StartWorker())

    def _on_started(self, event: WorkerStarted) -> None:
        self._starting -= 1
        worker = self.workers[event.worker] = Worker(event.worker, self._tasks_per_worker)
        if self._eager:
            self._offer(worker)

    def _on_ready(self, event: WorkerReady) -> None:
        self._failed_starts = self._own_failures = 0
        worker = self.workers[event.worker]
        worker.is_ready = True
        worker.news = worker.since = self._now
        if worker.has_unbegun():
            self._unbegun.add(worker)
        if not self._eager:
            self._offer(worker)

    def _on_not_started(self, event: WorkerNotStarted) -> None:
        self._starting -= 1
        self._retry_start(event.error, None)

    def _retry_start(self, error: BaseException | None, lost: WorkerLost | None) -> None:
        """Start another worker after a pause, or give up."""
        if not self._failed_starts:
            self._failing_since = self._now
        self._failed_starts += 1
        self._own_failures += lost is not None and lost.is_own_doing
        is_killed = lost is not None and not lost.is_own_doing
        patience = MOST_KILLED_SECONDS if is_killed else MOST_FAILING_SECONDS
        has_failed = (
            self._own_failures >= MOST_FAILED_STARTS or self._now - self._failing_since >= patience
        )
        # One that works is better than none, whatever becomes of the others.
        if has_failed and not any(worker.is_ready for worker in self.workers.values()):
            self._commands.append(BreakPool(error, lost))
            return
        backoff = FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failed_starts, 10)
        most = KILLED_RESTART_SECONDS if is_killed else MOST_RESTART_SECONDS
        self._restart_at.append(self._now + min(backoff, most))

    def _on_lost(self, event: WorkerLost) -> None:
        worker = self.workers.pop(event.worker)
        self._idle.pop(event.worker, None)
        self._unbegun.discard(worker)
        for chunk in worker.chunks:
            if chunk[0] == event.number:
                self._recover(chunk, event, seconds_late(worker, event))
            elif (job := self.jobs.get(chunk[1])) is not None:
                self._take_back(job, chunk[2], chunk[3])
        if worker.is_leaving:
            return
        if not (worker.is_ready or worker.is_killed):
            self._retry_start(None, event)
        elif self._missing() > 0:
            self._start_one()

    def _recover(self, chunk: list[int], event: WorkerLost, seconds: float | None) -> None:
        """Settle the chunk that a lost worker was at."""
        _, job_id, start, stop, _ = chunk
        job = self.jobs.get(job_id)
        if job is None:
            return
        if event.at == LOADING:
            self._isolate(chunk, FailItem(job_id, start, None, event, seconds))
            return
        begun = max(min(max(event.upto, event.at + 1), stop), start)
        self._take_back(job, begun, stop)
        for index in range(start, begun):
            if index in event.finished:
                self._commands.append(Deliver(job_id, index, [event.finished[index]], None))
                job.left -= 1
            else:
                self._fail(job, FailItem(job_id, index, None, event, seconds))
        self._finish_if_done(job)

    def _on_chunk_lost(self, event: ChunkLost) -> None:
        worker = self.workers.get(event.worker)
        chunk = self._find(worker, event.number) if worker is not None else None
        if worker is None or chunk is None:
            return
        worker.chunks.remove(chunk)
        self._recover(chunk, event.lost, seconds_late(worker, event.lost))
        self._offer(worker)

    def _on_capacity(self, event: CapacityChanged) -> None:
        # Workers that are too many leave when they are idle (`_offer`).
        self.size = event.workers
        self._timing = timing(self.size, self._message_seconds)
        for _ in range(self._missing()):
            self._start_one()
        for worker in self._dispensable()[: max(self._staying() - self.size, 0)]:
            self._idle.pop(worker.id, None)
            self._let_go(worker)

    def _missing(self) -> int:
        return self.size - self._staying() - self._starting - len(self._restart_at)

    def _dispensable(self) -> list[Worker]:
        """Return the workers without work, first those that are not ready."""
        workers = [
            worker
            for worker in self.workers.values()
            if not worker.chunks and not worker.is_leaving
        ]
        return sorted(workers, key=lambda worker: worker.is_ready)

    def _is_one_too_many(self) -> bool:
        # The first look is all it costs as long as nothing changes.
        return len(self.workers) > self.size and self._staying() > self.size

    def _staying(self) -> int:
        return sum(not worker.is_leaving for worker in self.workers.values())

    def _let_go(self, worker: Worker) -> None:
        worker.is_leaving = True
        self._commands.append(StopWorker(worker.id))

    def _on_memory(self, event: MemoryNews) -> None:
        self._memory_is_short = event.is_short

    def _on_closed(self, _event: Closed) -> None:
        self._is_closed = True

    def _stop_idle(self) -> None:
        for worker in self._idle.values():
            self._let_go(worker)
        self._idle.clear()

    # Time.

    def _on_seen(self, event: WorkerSeen) -> None:
        self._commands += self._watch.seen(event, self._now)

    def _on_tick(self, _event: Tick) -> None:
        if self._agenda:
            looks, again = self._watch.due(self._now)
            self._commands += looks
            for job, item in again:
                self._take_back(job, item, item + 1)
        due = [at for at in self._restart_at if at <= self._now]
        self._restart_at = [at for at in self._restart_at if at > self._now]
        for _ in due:
            self._start_one()
        self._seek_stuck()
        if self._now >= self._review_at:
            self._review_at = self._now + slow.LEAST_SECONDS / 8
            self._name_slow()

    def _seek_stuck(self) -> None:
        """Recall chunks that others could run, and chunks whose results are awaited."""
        if self._look_at is not None and self._look_at <= self._now:
            self._look_at = None
        is_dry = bool(self._idle) and not self._memory_is_short and self._first_job() is None
        for worker in self.workers.values() if is_dry or self._look_at is None else ():
            if not self._is_stuck(worker):
                continue
            is_due = self._now >= worker.news + self._timing.recall
            if is_due and (is_dry or self._is_awaited(worker.chunks[0])):
                worker.recalled = True
                self._commands.append(RecallChunks(worker.id))
            elif any(self._is_awaited(chunk) for chunk in worker.chunks):
                self._look_at = self._now + self._timing.recall

    def _name_slow(self) -> None:
        """Name each task once that runs far longer than others of its function."""
        for worker in self.workers.values():
            if not worker.chunks or worker.named == worker.since:
                continue
            job = self.jobs.get(worker.chunks[0][1])
            if job is not None and self._now - worker.since >= job.cost.lengths.patience():
                worker.named = worker.since
                self._commands.append(NameSlow(worker.id))

    def _is_stuck(self, worker: Worker) -> bool:
        return (
            worker.is_ready
            and not worker.recalled
            and worker.has_unbegun()
            and not self._is_whole(worker)
        )

    def _is_awaited(self, chunk: list[int]) -> bool:
        """Tell whether results of a chunk are awaited before its end."""
        _, job_id, start, stop, is_users = chunk
        job = self.jobs.get(job_id)
        return job is not None and job.is_prompt and not is_users and stop - start > 1

    def _plan_wake(self) -> None:
        wake = min(self._restart_at) if self._restart_at else None
        if self._look_at is not None:
            wake = self._look_at if wake is None else min(wake, self._look_at)
        if (
            self._idle
            and self.jobs
            and not self._queue
            and not self._memory_is_short
            and self._unbegun
        ):
            if self._recall_at is None or self._recall_at <= self._now:
                self._recall_at = self._next_recall()
            at = self._recall_at
            if at is not None:
                wake = at if wake is None else min(wake, at)
        else:
            self._recall_at = None
        if self._agenda:
            wake = self._agenda[0][0] if wake is None else min(wake, self._agenda[0][0])
        self.wake_at = wake

    def _next_recall(self) -> float | None:
        # Looked for once in a while, not at each event: news only put it off.
        self._unbegun = {worker for worker in self._unbegun if self._is_stuck(worker)}
        news = [worker.news for worker in self._unbegun]
        return min(news) + self._timing.recall if news else None
