"""The jobs that are not finished: whose turn it is, and what becomes of their items.

Every item is in exactly one state: pending, in one chunk that a worker holds, or
settled. `take_back` makes it pending again; `deliver`, `isolate` and `recover`
settle it, or have it sent once more.
"""

import heapq

from motorpool.messages import (
    LOADING,
    ChunkDone,
    ChunkProgressed,
    Command,
    Deliver,
    FailItem,
    FinishJob,
    WorkerLost,
)
from motorpool.scheduler.state import HeldChunk, Job
from motorpool.scheduler.watch import Watch


class Backlog:
    """Keeps the jobs in line, and settles their items.

    Parameters
    ----------
    jobs
        Those that are not finished, by number.
    watch
        Knows whether an item that failed is tried again.
    commands
        Where to put what is to be done.
    """

    def __init__(self, jobs: dict[int, Job], watch: Watch, commands: list[Command]) -> None:
        self._jobs = jobs
        self._watch = watch
        self._commands = commands
        self.queue: list[int] = []  # heap of jobs, all with pending items among them

    # Whose turn it is.

    def enqueue(self, job: Job) -> None:
        """Put a job in line if it has pending items."""
        if not job.is_queued and job.has_pending():
            job.is_queued = True
            heapq.heappush(self.queue, job.id)

    def first(self) -> Job | None:
        """Return the first job in line that has pending items."""
        while self.queue:
            job = self._jobs.get(self.queue[0])
            if job is not None and job.has_pending():
                return job
            heapq.heappop(self.queue)
            if job is not None:
                job.is_queued = False
        return None

    def changed(self, job: Job) -> None:
        """Put a job in line, or finish it: it has more items, or fewer."""
        self.enqueue(job)
        self.finish_if_done(job)

    def finish_if_done(self, job: Job) -> None:
        """Take a job off the books if all of it is settled."""
        if not job.left and not job.is_open and self._jobs.pop(job.id, None) is not None:
            self._commands.append(FinishJob(job.id))

    # What becomes of items.

    def take_back(self, job: Job, start: int, stop: int) -> None:
        """Have items that were sent and not begun be pending again."""
        job.give_back(start, stop)
        self.enqueue(job)
        if not job.left:  # The last ones were cancelled meanwhile.
            self.finish_if_done(job)

    def deliver(self, job: Job, start: int, event: ChunkDone | ChunkProgressed, now: float) -> None:
        """Deliver the results of a chunk from `start` on."""
        values, errors = event.values, event.errors
        if not errors or job.control is None:
            self._commands.append(Deliver(job.id, start, values, errors))
            job.left -= event.stop - start
            return
        # Errors apart, each as the last of its item's attempts or not at all.
        first = 0
        for offset in [*sorted(errors), len(values)]:
            if first < offset:
                self._commands.append(Deliver(job.id, start + first, values[first:offset], None))
                job.left -= offset - first
            if offset < len(values):
                self._fail(job, FailItem(job.id, start + offset, errors[offset], None), now)
            first = offset + 1

    def refuse(self, chunk: HeldChunk, error: BaseException, now: float) -> None:
        """Settle a chunk that could not be sent or unpickled."""
        self._isolate(chunk, FailItem(chunk.job, chunk.start, error, None), now)

    def recover(
        self, chunk: HeldChunk, lost: WorkerLost, seconds: float | None, now: float
    ) -> None:
        """Settle the chunk that a lost worker was at; `seconds`: the timeout it was killed for."""
        job = self._jobs.get(chunk.job)
        if job is None:
            return
        start, stop = chunk.start, chunk.stop
        if lost.at == LOADING:
            self._isolate(chunk, FailItem(job.id, start, None, lost, seconds), now)
            return
        begun = max(min(max(lost.upto, lost.at + 1), stop), start)
        self.take_back(job, begun, stop)
        for item in range(start, begun):
            if item in lost.finished:
                self._commands.append(Deliver(job.id, item, [lost.finished[item]], None))
                job.left -= 1
            else:
                self._fail(job, FailItem(job.id, item, None, lost, seconds), now)
        self.finish_if_done(job)

    def _isolate(self, chunk: HeldChunk, failure: FailItem, now: float) -> None:
        """Have the items of a chunk, none of which was run, sent one by one; a single one fails."""
        job = self._jobs.get(chunk.job)
        if job is None:
            return
        if chunk.stop - chunk.start > 1:
            job.singles.update(range(chunk.start, chunk.stop))
            self.take_back(job, chunk.start, chunk.stop)
            return
        if failure.lost is not None:
            self._fail(job, failure, now)
        else:
            # It never ran: that is no attempt, and another would be no better.
            self._give_up(job, failure)
        self.finish_if_done(job)

    def _fail(self, job: Job, failure: FailItem, now: float) -> None:
        if not self._watch.tries_again(job, failure, now):
            attempts = job.attempts.get(failure.item, 1)
            self._give_up(job, failure._replace(attempts=attempts) if attempts > 1 else failure)

    def _give_up(self, job: Job, failure: FailItem) -> None:
        self._commands.append(failure)
        job.left -= 1
