"""A pool in virtual time: the real scheduler, and workers that exist as numbers only.

::

    Simulation ── event ──▶ Scheduler ── commands ──▶ Ledger ──▶ SimulatedWorker
        ▲                                           (checks)          │
        └───────────────── heap of (time, action) ◀── events, later ──╯

`SimulatedWorker` takes the steps of `worker/main.py` and `worker/run.py`, one
call each, so that anything can happen between two of them. `Ledger` keeps its
own account of every item and objects to a command that contradicts it.
`Simulation` puts the two on a virtual clock.
"""

import heapq
import math
from collections import Counter, deque
from itertools import count
from typing import NamedTuple

from motorpool.messages import (
    IDLE,
    LOADING,
    BreakPool,
    ChunkDone,
    ChunkProgressed,
    ChunkRefused,
    Closed,
    Consumed,
    Control,
    Deliver,
    FailItem,
    FinishJob,
    InputArrived,
    ItemsHandedBack,
    JobCancelled,
    JobSubmitted,
    KillWorker,
    LookAtWorker,
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
from motorpool.scheduler import Cost, Scheduler
from motorpool.scheduler.chunking import FIRST_WINDOW
from motorpool.scheduler.staff import MOST_FAILED_STARTS
from motorpool.scheduler.watch import LEAST_LOOK_SECONDS, MOST_BACKOFF_SECONDS, MOST_LOOK_SECONDS
from motorpool.worker.run import Pace, Running

PENDING, HELD, SETTLED, WAITING = 0, 1, 2, 3

# Lengths of tasks, in seconds.
LONG, SHORT = 1.0, 1e-5


def control(
    timeout=math.inf, retries=0, backoff=0.1, retry_on=(ValueError,), *, lost=True, late=True
):
    """Return what a job grants its items."""
    return Control(timeout, retries, backoff, retry_on, lost, late)


class SimulatedWorker:
    """A worker's half of the work, step by step; the value of item `i` is `i`.

    The steps of a chunk are `read`, then `claim` and `ran` in turn, then
    `answer` and `clear`. `recall` may come between any two, and so may death:
    `lost` tells what the page of shared memory would tell then, and `look` what
    it tells of a living worker.
    """

    def __init__(self, number):
        self.number = number
        self.since = 0.0
        self.inbox = deque()  # (chunk, budget)
        self.outbox = deque()  # events on their way
        self.running = None
        self.chunk = None
        self.is_answered = False
        self.is_dead = False
        self._budget = 0.0
        self._seconds = 0.0
        self._paces = {}
        self._recall_noted = False
        self._page = (IDLE, LOADING, 0, {})

    def read(self, now=0.0):
        """Take the next chunk and begin to unpickle it."""
        self.since = now
        self.chunk, self._budget = self.inbox.popleft()
        self.running = Running(self.chunk.start, self.chunk.stop, self.chunk.number)
        self.is_answered = False
        self._seconds = 0.0
        self._page = (self.chunk.number, LOADING, 0, {})

    def refuse(self, error):
        """Fail to unpickle the chunk."""
        self.outbox.append(ChunkRefused(self.number, self.chunk.number, error))
        self.is_answered = True

    def claim(self, most=None, now=0.0):
        """Begin the next items and return how many, 0 if there are none left."""
        running = self.running
        if self._page[1] == LOADING and self._recall_noted:
            self._recall_noted = False
            running.claim(1)
            self._give_back_unbegun()
        if running.index >= running.stop:
            return 0
        is_exact = self.chunk.is_exact or self.chunk.is_apart
        upto = running.claim(1 if is_exact else most or self._pace().bulk_size())
        if upto > running.index:
            self.since = now
            self._page = (self.chunk.number, running.index, upto, self._page[3])
        return upto - running.index

    def ran(self, seconds, is_full=False, error=None):
        """End the claimed items after `seconds`, the last one with an error perhaps.

        Return whether the chunk goes on.
        """
        running = self.running
        index, upto = running.index, running.upto
        if error is not None:
            is_full = True
            running.errors[upto - 1 - running.start] = error
        if not is_full and (upto > index + 1 or upto < self.chunk.stop):
            self._page[3].update((at, at) for at in range(index, upto))
        running.values.extend(range(index, upto))
        self._pace().add(upto - index, seconds)
        self._seconds += seconds
        running.index = upto
        return running.index < running.stop and not (self._seconds > abs(self._budget) or is_full)

    def answer(self):
        """Send the results; return whether the chunk is over, and not only its budget spent."""
        running, seconds = self.running, self._seconds
        start, values, errors = running.take()
        errors = errors or None
        worker, number, stop = self.number, running.number, start + len(values)
        if self._budget >= 0 or running.index >= running.stop:
            self.outbox.append(ChunkDone(worker, number, start, stop, seconds, values, errors))
            self.is_answered = True
            return True
        self.outbox.append(ChunkProgressed(worker, number, start, stop, seconds, values, errors))
        running.restart(stop)
        self._seconds = 0.0
        self._page = (*self._page[:3], {})
        return False

    def clear(self):
        """Be done with the chunk."""
        self.running = self.chunk = None
        self._page = (IDLE, LOADING, 0, {})
        if self._recall_noted:
            self._recall_noted = False
            self._hand_back_inbox()

    def recall(self):
        """Give back what has not begun, now or after the next chunk, as the signal handler does."""
        if self.running is None or self.is_answered:
            self._recall_noted = True
            return
        self._hand_back_inbox()
        if self._page[1] == LOADING:
            self._recall_noted = True
            return
        self._give_back_unbegun()

    def look(self, is_spared=False):
        """Return the event that tells what this worker is at."""
        number, index, _, _ = self._page
        return WorkerSeen(self.number, number, index, self.since, is_spared)

    def is_at(self, number, item):
        """Return whether this worker is at a chunk and an item, None for any."""
        return number in (None, self._page[0]) and item in (None, self._page[1])

    def lost(self):
        """Return the event of this worker's death."""
        number, index, upto, finished = self._page
        return WorkerLost(self.number, 0, -9, number, index, upto, finished)

    def _pace(self):
        return self._paces.setdefault(self.chunk.job, Pace())

    def _give_back_unbegun(self):
        begin, end = self.running.recall()
        if begin < end:
            self.outbox.append(ItemsHandedBack(self.number, self.chunk.number, begin, end))
        if self.running.has_unsent():
            start, values, errors = self.running.take()
            stop, number = start + len(values), self.chunk.number
            self.outbox.append(
                ChunkProgressed(self.number, number, start, stop, 0.0, values, errors or None)
            )

    def _hand_back_inbox(self):
        for chunk, _budget in self.inbox:
            number, _job, start, *_ = chunk
            self.outbox.append(ChunkDone(self.number, number, start, start, 0.0, [], None))
        self.inbox.clear()


class _Account:
    """What the ledger knows of a job."""

    def __init__(self, event, workers, keeps_apart):
        self.size = event.size
        self.is_open = event.is_open
        self.chunksize = event.chunksize if event.chunksize != 1 else None
        self.is_apart = event.chunksize == 1 and keeps_apart
        self.control = event.control
        self.is_windowed = event.window is not None
        self.limit = float("inf")
        if self.is_windowed:
            self.limit = max(event.window, FIRST_WINDOW * workers, 2 * (event.chunksize or 1))
        self.consumed = 0
        self.state = bytearray(event.size)
        self.begun = bytearray(event.size)
        self.pending = event.size
        self.settled = 0
        self.runs = Counter()  # by item
        self.failures = Counter()  # by item
        self.dropped = set()  # items that were cancelled while a worker held them
        self.due = {}  # item that waits for its next attempt: when

    def room(self, limit=None):
        """Return how many items may be sent in all: up to the limit, in whole chunks."""
        if not self.is_windowed:
            return self.limit
        chunksize = self.chunksize or 1
        return -(-(limit or self.limit) // chunksize) * chunksize

    def sendable(self):
        """Return how many pending items may be sent; those beyond the room never were."""
        return self.pending - max(0, self.size - self.room())

    def move(self, start, stop, old, new):
        """Move items from one state to another; all must be in the first."""
        size = stop - start
        assert self.state.count(old, start, stop) == size, (
            f"items {start} to {stop} are in states {list(self.state[start:stop])}, not {old}"
        )
        self.state[start:stop] = bytes([new]) * size
        self.pending += size * ((new == PENDING) - (old == PENDING))
        self.settled += size * (new == SETTLED)


class Ledger:
    """An account of every item, kept from events and commands alone.

    `note` is told an event before the scheduler handles it, `check` the commands
    afterwards. What must hold:

    - an item is pending, in one chunk, or settled; and settled once;
    - an item that was begun is never sent again, unless it failed and may be
      tried again; then it is, but not before its backoff is over;
    - a worker is killed only for an item that has run for its job's timeout, or
      for a chunk of a job that was cancelled;
    - jobs are served first come, first served;
    - a windowed job does not run beyond its limit, and the limit grows by what
      was consumed, and by no more than doubling while the consumer starves;
    - nothing goes to a worker that is gone or was told to leave;
    - a worker runs no more tasks than it may;
    - no worker is idle while an item could be sent;
    - after the last job of a closed pool every worker is told to leave;
    - a pool breaks only if workers fail to start.
    """

    def __init__(self, scheduler, tasks_per_worker=None, *, keeps_apart=True):
        self.scheduler = scheduler
        self._keeps_apart = keeps_apart
        self.jobs = {}
        self.finished = []
        self.cancelled = set()
        self.killable = set()  # of them, those whose tasks are to be ended
        self.chunks = {}  # number: [worker, job, start, stop]
        self.holding = {}  # worker: numbers of its chunks
        self.stopped = set()
        self.ready = set()
        self.killed = set()
        self.recalled = {}  # worker: the last chunk it was sent before it was asked
        self.now = 0.0
        self.sentenced = {}  # worker: the chunk and item it was last to be killed for
        self.at = {}  # worker: job, item, when it was begun
        self.is_closed = False
        self.memory_is_short = False
        self.is_broken = False
        self.starting = scheduler.size
        self.values = []  # (job, start, values) in the order of delivery
        self.failed = Counter()  # (job, index)
        self._tasks = Counter()
        self._tasks_per_worker = tasks_per_worker
        self.whole = set()  # jobs in chunks of the user's
        self._begun_chunks = set()
        self._owed = {}  # (job, index): how it has to be settled
        self._failed_starts = 0
        self._last_number = 0
        self._may_grow = None

    # Before the scheduler handles an event.

    def note(self, event, now=0.0):
        """Take note of what happened."""
        self.now = now
        self._may_grow = None
        handler = self._notes.get(type(event))
        if handler is not None:
            handler(self, event)

    def begin(self, worker, job, start, stop, now=None):
        """Take note that a worker calls the function with items `start` to `stop`."""
        account = self.jobs.get(job)
        number = next(
            (n for n in self.holding[worker] if self._covers(self.chunks[n], job, start, stop)),
            None,
        )
        assert number is not None, f"{worker} runs items it does not hold"
        self.at[worker] = (job, start, self.now if now is None else now)
        if account is None:
            return
        assert not any(account.begun[start:stop]), f"item of {start} to {stop} begun twice"
        account.runs.update(range(start, stop))
        most = 1 + account.control.retries if account.control is not None else 1
        assert max(account.runs[index] for index in range(start, stop)) <= most, "run too often"
        account.begun[start:stop] = b"\1" * (stop - start)
        if account.chunksize is None:
            self._tasks[worker] += stop - start
        elif number not in self._begun_chunks:
            self._begun_chunks.add(number)
            self._tasks[worker] += 1
        if self._tasks_per_worker is not None:
            assert self._tasks[worker] <= self._tasks_per_worker, f"{worker} runs too many tasks"

    @staticmethod
    def _covers(chunk, job, start, stop):
        return chunk[1] == job and chunk[2] <= start and stop <= chunk[3]

    def _note_input(self, event):
        account = self.jobs.get(event.job)
        if account is not None:
            account.size += event.items
            account.pending += event.items
            account.state.extend(bytes(event.items))
            account.begun.extend(bytes(event.items))
            account.is_open = event.is_open

    def _note_consumed(self, event):
        account = self.jobs.get(event.job)
        if account is not None and account.is_windowed:
            window = account.limit - account.consumed
            account.consumed += event.items
            account.limit += event.items
            if event.starved:
                self._may_grow = (event.job, account.limit + window)

    def _note_cancelled(self, event):
        if event.item is not None:
            self._note_dropped(event)
            return
        if self.jobs.pop(event.job, None) is not None:
            self.cancelled.add(event.job)
            if event.kill:
                self.killable.add(event.job)

    def _note_dropped(self, event):
        account = self.jobs.get(event.job)
        if account is not None and account.state[event.item] == PENDING:
            account.move(event.item, event.item + 1, PENDING, SETTLED)
        elif account is not None and account.state[event.item] == HELD:
            account.dropped.add(event.item)

    def _note_started(self, event):
        self.starting -= 1
        self.holding[event.worker] = []

    def _note_ready(self, event):
        self.ready.add(event.worker)
        self._failed_starts = 0

    def _note_not_started(self, _event):
        self.starting -= 1
        self._failed_starts += 1

    def _note_done(self, event):
        chunk = self._take(event)
        if chunk is not None:
            _, job, start, stop = chunk
            self._settle_results(job, start, event)
            self._give_back(job, event.stop, stop)
            self.at.pop(event.worker, None)
            if event.stop > start:
                self.recalled.pop(event.worker, None)

    def _note_progressed(self, event):
        chunk = self.chunks.get(event.number)
        if chunk is not None and chunk[0] == event.worker:
            self._settle_results(chunk[1], event.start, event)
            self.at.pop(event.worker, None)
            chunk[2] = event.stop

    def _note_handed_back(self, event):
        chunk = self.chunks.get(event.number)
        if chunk is not None and chunk[0] == event.worker:
            self._give_back(chunk[1], event.start, chunk[3])
            chunk[3] = event.start

    def _note_refused(self, event):
        chunk = self._take(event)
        if chunk is not None:
            self._none_ran(*chunk[1:], "fail")

    def _note_lost(self, event):
        self.at.pop(event.worker, None)
        is_late = self.sentenced.pop(event.worker, None) == (event.number, event.at)
        cause = "late" if is_late else "lost"
        for number in self.holding.pop(event.worker):
            _, job, start, stop = self.chunks.pop(number)
            if number != event.number:
                self._give_back(job, start, stop)
            elif event.at == LOADING:
                self._none_ran(job, start, stop, cause)
            else:
                begun = min(max(event.upto, event.at + 1), stop)
                for index in range(start, begun):
                    if index in event.finished:
                        self._settle_later(job, index, index + 1, "deliver")
                    else:
                        self._attempt_failed(job, index, cause)
                self._give_back(job, begun, stop)
        is_own_fault = event.worker not in self.killed | self.ready | self.stopped
        self._failed_starts += is_own_fault
        self.ready.discard(event.worker)
        self.recalled.pop(event.worker, None)

    def _note_closed(self, _event):
        self.is_closed = True

    def _note_memory(self, event):
        self.memory_is_short = event.is_short

    def _note_tick(self, _event):
        for account in self.jobs.values():
            for index, due in list(account.due.items()):
                if due <= self.now:
                    del account.due[index]
                    account.move(index, index + 1, WAITING, PENDING)

    _notes = {
        InputArrived: _note_input,
        Consumed: _note_consumed,
        JobCancelled: _note_cancelled,
        WorkerStarted: _note_started,
        WorkerReady: _note_ready,
        WorkerNotStarted: _note_not_started,
        ChunkDone: _note_done,
        ChunkProgressed: _note_progressed,
        ItemsHandedBack: _note_handed_back,
        ChunkRefused: _note_refused,
        WorkerLost: _note_lost,
        Closed: _note_closed,
        MemoryNews: _note_memory,
        Tick: _note_tick,
    }

    def _take(self, event):
        chunk = self.chunks.get(event.number)
        if chunk is None or chunk[0] != event.worker:
            return None
        self.holding[event.worker].remove(event.number)
        return self.chunks.pop(event.number)

    def _none_ran(self, job, start, stop, cause):
        if stop - start > 1:
            self._give_back(job, start, stop)
        elif cause == "fail":
            self._settle_later(job, start, stop, cause)
        else:
            self._attempt_failed(job, start, cause)

    def _settle_results(self, job, start, event):
        errors = event.errors or {}
        account = self.jobs.get(job)
        for index in range(start, event.stop):
            error = errors.get(index - start)
            if error is None or account is None or account.control is None:
                self._settle_later(job, index, index + 1, "deliver")
            else:
                self._attempt_failed(job, index, error)

    def _attempt_failed(self, job, index, cause):
        """Take note of a failed attempt: by an error, or because the worker was lost or late."""
        account = self.jobs.get(job)
        if account is None:
            return
        account.failures[index] += 1
        control, attempts = account.control, account.failures[index]
        if control is not None and attempts <= control.retries:
            granted = {"lost": control.retries_lost, "late": control.retries_late}
            if granted[cause] if cause in granted else isinstance(cause, control.retry_on):
                backoff = min(control.backoff * 2 ** (attempts - 1), MOST_BACKOFF_SECONDS)
                account.due[index] = self.now + backoff
                account.begun[index] = 0
                account.move(index, index + 1, HELD, WAITING)
                return
        self._settle_later(job, index, index + 1, cause if cause in ("lost", "late") else "fail")

    def _give_back(self, job, start, stop):
        account = self.jobs.get(job)
        if account is not None and start < stop:
            assert not any(account.begun[start:stop]), "a begun item came back"
            for index in range(start, stop):
                is_dropped = index in account.dropped
                account.move(index, index + 1, HELD, SETTLED if is_dropped else PENDING)

    def _settle_later(self, job, start, stop, how):
        if job in self.jobs:
            for index in range(start, stop):
                self._owed[job, index] = how

    # After the scheduler has handled it.

    def check(self, event, commands):
        """Object to commands that must not follow `event`."""
        if type(event) is JobSubmitted:
            self.jobs[event.job] = _Account(event, self.scheduler.size, self._keeps_apart)
        self._check_limits()
        for command in commands:
            self._checks[type(command)](self, command)
        assert not self._owed, f"not settled: {sorted(self._owed)[:5]}"
        if not self.is_broken:
            self._check_idle()
            self._check_count()

    def _check_limits(self):
        for job, account in self.jobs.items():
            if account.is_windowed and job in self.scheduler.jobs:
                room = self.scheduler.room(job)
                if self._may_grow is not None and self._may_grow[0] == job:
                    grown = self._may_grow[1]
                    account.limit = grown if room == account.room(grown) else account.limit
                assert room == account.room(), f"room for {room} items, not {account.room()}"

    def _check_send(self, command):
        worker, (number, job, start, stop, *how) = command.worker, command.chunk
        assert worker in self.holding, f"sent to {worker}, which is gone"
        assert worker not in self.stopped, f"sent to {worker}, which is leaving"
        assert number > self._last_number, "a number used twice"
        if self.memory_is_short:
            assert not any(self.holding.values()), "two at a time while memory is short"
        account = self.jobs[job]
        if account.chunksize is not None:
            self.whole.add(job)
        assert how == [account.control is not None, account.is_apart]
        assert start < stop, "an empty chunk"
        assert stop <= account.room(), f"item {stop - 1} is beyond the limit {account.room()}"
        assert not any(account.begun[start:stop]), f"begun item of {start} to {stop} sent again"
        older = [n for n, other in self.jobs.items() if n < job and other.sendable() > 0]
        assert not older, f"job {job} served before {older}"
        account.move(start, stop, PENDING, HELD)
        self.chunks[number] = [worker, job, start, stop]
        self.holding[worker].append(number)
        self._last_number = number

    def _check_deliver(self, command):
        job, start, values, _errors = command
        for index in range(start, start + len(values)):
            how = self._owed.pop((job, index), None)
            assert how == "deliver", f"item {index} of job {job} delivered, not due"
        assert list(values) == list(range(start, start + len(values))), "values out of place"
        self.jobs[job].move(start, start + len(values), HELD, SETTLED)
        self.values.append((job, start, values))

    def _check_fail(self, command):
        how = self._owed.pop((command.job, command.item), None)
        assert how in ("fail", "lost", "late"), f"item {command.item} failed, not due"
        assert (how == "fail") == (command.error is not None) == (command.lost is None)
        assert (how == "late") == (command.seconds is not None)
        assert command.attempts == max(1, self.jobs[command.job].failures[command.item])
        self.jobs[command.job].move(command.item, command.item + 1, HELD, SETTLED)
        self.failed[command.job, command.item] += 1

    def _check_finish(self, command):
        account = self.jobs.pop(command.job)
        assert not account.is_open, "an open job finished"
        assert account.settled == account.size, "a job finished too early"
        self.finished.append(command.job)

    def _check_stop(self, command):
        assert command.worker in self.holding, "a worker that is gone told to leave"
        assert command.worker not in self.stopped, "told to leave twice"
        assert not self.holding[command.worker], "told to leave with work"
        self.stopped.add(command.worker)

    def _check_kill(self, command):
        worker, number, item = command
        assert worker in self.holding, "a worker that is gone killed"
        self.killed.add(worker)
        if number is None:
            assert self._holds_unwanted(worker), "killed for nothing"
            return
        job = self.chunks[number][1]
        assert number in self.holding[worker], "killed for a chunk it does not hold"
        if item is None:
            assert job in self.cancelled, "killed for a job that is wanted"
            return
        if item in self.jobs[job].dropped:
            return
        self.sentenced[worker] = (number, item)
        at = self.at.get(worker)
        if item != LOADING and at is not None and at[:2] == (job, item):
            seconds = self.jobs[job].control.timeout
            assert self.now >= at[2] + seconds, "killed before its time"

    def _check_look(self, command):
        assert command.worker in self.holding, "a worker that is gone looked at"

    def _check_recall(self, command):
        assert command.worker in self.ready, "a worker that is not ready was recalled"
        worker = command.worker
        is_wanted = self.free() or self._holds_unwanted(worker) or self._is_awaited(worker)
        assert is_wanted, "recalled for nobody"
        self.recalled[command.worker] = self._last_number

    def _holds_unwanted(self, worker):
        """Tell whether something that a worker holds was cancelled."""
        for number in self.holding[worker]:
            _, job, start, stop = self.chunks[number]
            if job in self.cancelled or self.jobs[job].dropped & set(range(start, stop)):
                return True
        return False

    def _is_awaited(self, worker):
        """Tell whether somebody may wait for results of what `worker` runs."""
        held = self.holding[worker]
        account = self.jobs.get(self.chunks[held[0]][1]) if held else None
        return account is not None and account.is_windowed and not account.chunksize

    def _check_start(self, _command):
        self.starting += 1

    def _check_break(self, _command):
        assert self._failed_starts >= MOST_FAILED_STARTS, "broken without a reason"
        self.is_broken = True

    def _check_name(self, command):
        assert self.holding[command.worker], "an idle worker was called slow"

    _checks = {
        NameSlow: _check_name,
        SendChunk: _check_send,
        Deliver: _check_deliver,
        FailItem: _check_fail,
        FinishJob: _check_finish,
        StopWorker: _check_stop,
        KillWorker: _check_kill,
        LookAtWorker: _check_look,
        RecallChunks: _check_recall,
        StartWorker: _check_start,
        BreakPool: _check_break,
    }

    def free(self):
        """Return a worker that has nothing to do, None if there is none."""
        return next(
            (w for w, held in self.holding.items() if not held and w not in self.stopped), None
        )

    def _check_idle(self):
        free = self.free()
        if free is None:
            return
        if self.memory_is_short and any(self.holding.values()):
            return  # One at a time is enough.
        waiting = [job for job, account in self.jobs.items() if account.sendable() > 0]
        assert not waiting, f"worker {free} is idle while jobs {waiting} have items to send"
        is_over = self.is_closed and not self.jobs
        assert not is_over, f"worker {free} was not told to leave after the last job"

    def _check_count(self):
        if self.is_closed and not self.jobs:
            return
        staying = len(self.holding.keys() - self.stopped) + self.starting
        assert staying <= self.scheduler.size, "more workers than asked for"
        if staying < self.scheduler.size:
            assert self.scheduler.wake_at is not None, "a worker is missing for good"

    def check_looks(self, now, workers):
        """Object if nobody will look at a worker when its task is late, or at one to be killed."""
        accounts = self.jobs.values()
        if not self.killable and not any(a.control is not None or a.dropped for a in accounts):
            return
        wake = self.scheduler.wake_at
        wake = float("inf") if wake is None else wake
        for worker in workers:
            seen = worker.look()
            chunk = self.chunks.get(seen.number)
            if chunk is None or worker.is_dead or self.is_broken:
                continue
            account = self.jobs.get(chunk[1])
            if account is not None and account.control is not None:
                deadline = max(seen.since + account.control.timeout, now + LEAST_LOOK_SECONDS)
                assert wake <= deadline, f"nobody will see that worker {seen.worker} is late"
            elif chunk[1] in self.killable or (account and seen.at in account.dropped):
                assert wake <= now + MOST_LOOK_SECONDS, f"nobody will end it in {seen.worker}"

    def _counts_as_one_task(self, job):
        """Return whether each chunk of a job is one of the tasks that a worker is good for."""
        return self._tasks_per_worker is not None and job in self.whole

    def check_recalls(self, now, soon):
        """Object if a worker is idle, and nobody will ask for what a busy one has not begun."""
        if self.free() is None or self.is_broken or self.memory_is_short:
            return
        wake = self.scheduler.wake_at
        if wake is not None and wake <= now + soon:
            return
        for worker in self.ready:
            held = [(number, *self.chunks[number][1:]) for number in self.holding[worker]]
            if len(held) == 1 and held[0][3] - held[0][2] <= 1:
                continue
            if held and self._counts_as_one_task(held[0][1]):
                continue
            for number, job, start, stop in held:
                if job in self.jobs and number > self.recalled.get(worker, 0):
                    unbegun = self.jobs[job].begun.count(0, start, stop)
                    assert not unbegun, f"nobody will ask worker {worker} for chunk {number}"


class Fate(NamedTuple):
    """How a worker's life ends at a chunk; `after`: of so many items, for "running"."""

    moment: str  # "reading", "loading", "running", "sending"
    after: int = 0


class Simulation:
    """A pool of `workers` simulated workers.

    Parameters
    ----------
    workers
        Number of workers.
    seconds
        Length of a task, by job and index.
    error
        The error of a task, by job, index and attempt, counted from 1 on; None
        for a result.
    fate
        How a worker ends at a chunk, by worker and chunk; None to live on.
    start
        What becomes of the n-th start, from 0 on: "ready", "dies" before it is
        ready, or "fails" to exist.
    latency
        Seconds that a message takes, each way.
    handling
        Seconds that the one driver takes for an event.
    take_seconds
        Seconds that the consumer of a stream takes for each of its results.
    """

    def __init__(
        self,
        workers,
        seconds,
        *,
        tasks_per_worker=None,
        fate=lambda worker, chunk: None,
        start=lambda n: "ready",
        start_seconds=0.001,
        latency=50e-6,
        handling=0.0,
        take_seconds=0.0,
        error=lambda job, index, attempt: None,
    ):
        self.scheduler = Scheduler(workers, tasks_per_worker)
        self.ledger = Ledger(self.scheduler, tasks_per_worker)
        self.now = 0.0
        self.finished_at = {}
        self.counts = Counter()
        self.busy = 0.0
        self._seconds = seconds
        self._error = error
        self._fate = fate
        self._start = start
        self._start_seconds = start_seconds
        self._latency = latency
        self._handling = handling
        self._take_seconds = take_seconds
        self._driver_free_at = 0.0
        self._workers = {}
        self._heap = []
        self._order = count()
        self._numbers = count(1)
        self._jobs = count()
        self._starts = count()
        self._sources = {}  # open job: items still to come
        self._streams = {}  # windowed job: [arrived out of order, next to be taken, busy]
        self._tick_at = None
        self._execute(self.scheduler.start())

    # What a caller does.

    def submit(self, size, chunksize=None, cost=None, control=None):
        """Begin a job over a sequence and return its number."""
        job = next(self._jobs)
        self._feed(JobSubmitted(job, size, chunksize, cost or Cost(), control=control))
        return job

    def submit_stream(self, size, chunksize=None, control=None):
        """Begin a job over an iterator of `size` items, taken by a consumer."""
        job = next(self._jobs)
        self._sources[job] = size
        self._streams[job] = [set(), 0, False]
        self._feed(JobSubmitted(job, 0, chunksize, Cost(), True, 0, True, control))
        return job

    def cancel(self, job, *, kill):
        """Cancel a job."""
        self._sources.pop(job, None)
        self._feed(JobCancelled(job, kill))

    def close(self):
        """Take no more jobs."""
        self._feed(Closed())

    def at(self, time, action, *arguments):
        """Call `action` at a time to come."""
        heapq.heappush(self._heap, (time, next(self._order), action, arguments))

    def run(self, until=float("inf")):
        """Go on until nothing is left to happen, or till then; return the last FinishJob's time."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        if until < float("inf"):
            self.now = until
        return max(self.finished_at.values(), default=0.0)

    # The driver.

    def _feed(self, event):
        self.counts[type(event)] += 1
        self.ledger.note(event, self.now)
        commands = self.scheduler.handle(event, self.now)
        self.ledger.check(event, commands)
        self._execute(commands)
        self.ledger.check_looks(self.now, self._workers.values())
        wake = self.scheduler.wake_at
        if wake is not None and (self._tick_at is None or wake < self._tick_at):
            self._tick_at = max(wake, self.now)
            self.at(self._tick_at, self._tick)
        for job in list(self._sources):
            self._read_input(job)

    def _tick(self):
        self._tick_at = None
        wake = self.scheduler.wake_at
        if wake is None:
            return
        if wake <= self.now:
            self._feed(Tick())
            assert self.scheduler.wake_at is None or self.scheduler.wake_at > self.now
        else:
            self._tick_at = wake
            self.at(wake, self._tick)

    def _read_input(self, job):
        left = self._sources.get(job)
        account = self.ledger.jobs.get(job)
        if left is None or account is None:
            return
        news = int(min(left, self.scheduler.room(job) - account.size))
        if news > 0:
            self._sources[job] = left - news
            if left == news:
                del self._sources[job]
            self._feed(InputArrived(job, news, left > news))

    def _execute(self, commands):  # noqa: C901 - one branch a command
        for command in commands:
            kind = type(command)
            self.counts[kind] += 1
            if kind is SendChunk:
                self._later(command.worker, self._arrive, command.chunk, command.budget)
            elif kind is StartWorker:
                self._start_worker()
            elif kind is RecallChunks:
                self._later(command.worker, self._recall)
            elif kind is StopWorker:
                self._later(command.worker, self._leave)
            elif kind is LookAtWorker:
                if command.worker in self._workers:
                    self._feed(self._workers[command.worker].look())
            elif kind is KillWorker:
                self._kill(*command)
            elif kind is FinishJob:
                self.finished_at[command.job] = self.now
            elif kind is Deliver:
                self._arrived(command.job, command.start, len(command.values))
            elif kind is FailItem:
                self._arrived(command.job, command.item, 1)
            elif kind is BreakPool:
                self._heap.clear()

    def _kill(self, number, chunk, item):
        worker = self._workers.get(number)
        if worker is None:
            return
        if worker.is_at(chunk, item):
            self._die(worker)
        else:
            self._feed(worker.look(is_spared=True))

    def _later(self, worker, action, *arguments):
        if worker in self._workers:
            self.at(self.now + self._latency, action, self._workers[worker], *arguments)

    def _receive(self, worker):
        """Let the events of a worker reach the driver, which handles one at a time."""
        while worker.outbox:
            event = worker.outbox.popleft()
            arrival = self.now + self._latency
            begin = self._driver_free_at = max(arrival, self._driver_free_at) + self._handling
            self.at(begin, self._feed, event)

    def _start_worker(self):
        outcome = self._start(next(self._starts))
        if outcome == "fails":
            self.at(self.now, self._feed, WorkerNotStarted(OSError("no more processes")))
            return
        worker = SimulatedWorker(next(self._numbers))
        worker.is_ready = False
        self._workers[worker.number] = worker
        self._feed(WorkerStarted(worker.number))
        action = self._get_ready if outcome == "ready" else self._die
        self.at(self.now + self._start_seconds, action, worker)

    # The consumer of a stream takes results in their order.

    def _arrived(self, job, start, length):
        stream = self._streams.get(job)
        if stream is not None:
            stream[0].update(range(start, start + length))
            if not stream[2]:
                stream[2] = True
                self.at(self.now, self._consume, job, True)

    def _consume(self, job, starved):
        there, position, _ = self._streams[job]
        taken = 0
        while position + taken in there:
            there.remove(position + taken)
            taken += 1
        self._streams[job][1:] = position + taken, bool(taken)
        if taken:
            self._feed(Consumed(job, taken, starved))
            self.at(self.now + taken * self._take_seconds, self._took, job)

    def _took(self, job):
        self._consume(job, False)

    # A worker.

    def _get_ready(self, worker):
        if not worker.is_dead:
            worker.is_ready = True
            worker.outbox.append(WorkerReady(worker.number))
            self._receive(worker)
            self._next_chunk(worker)

    def _arrive(self, worker, chunk, budget):
        if worker.is_dead:
            return
        worker.inbox.append((chunk, budget))
        if worker.is_ready and worker.running is None:
            self._next_chunk(worker)

    def _next_chunk(self, worker):
        if not worker.inbox:
            return
        fate = worker.fate = self._fate(worker.number, worker.inbox[0][0])
        if fate is not None and fate.moment == "reading":
            self._die(worker)
            return
        worker.read(self.now)
        if fate is not None and fate.moment == "loading":
            self._die(worker)
        else:
            self._next_items(worker)

    def _next_items(self, worker):
        fate, chunk = worker.fate, worker.chunk
        is_doomed = fate is not None and fate.moment == "running"
        size = worker.claim(1 if is_doomed else None, self.now)
        if not size:
            self._end_chunk(worker)
            return
        start = worker.running.index
        self.ledger.begin(worker.number, chunk.job, start, start + size, self.now)
        if is_doomed and start - chunk.start >= fate.after:
            self._die(worker)
            return
        seconds = sum(self._seconds(chunk.job, index) for index in range(start, start + size))
        self.busy += seconds
        self.at(self.now + seconds, self._ran, worker, seconds)

    def _ran(self, worker, seconds):
        if worker.is_dead:
            return
        job, index = worker.chunk.job, worker.running.upto - 1
        account = self.ledger.jobs.get(job)
        attempt = account.runs[index] if account is not None else 1
        if worker.ran(seconds, error=self._error(job, index, attempt)):
            self._next_items(worker)
        else:
            self._end_chunk(worker)

    def _end_chunk(self, worker):
        if worker.fate is not None and worker.fate.moment == "sending":
            self._die(worker)
            return
        is_over = worker.answer()
        if is_over:
            worker.clear()
        self._receive(worker)
        if is_over:
            self._next_chunk(worker)
        else:
            self._next_items(worker)

    def _recall(self, worker):
        if not worker.is_dead and worker.is_ready:
            worker.recall()
            self._receive(worker)

    def _leave(self, worker):
        assert not worker.inbox
        self._die(worker)

    def _die(self, worker):
        if worker.is_dead:
            return
        worker.is_dead = True
        worker.outbox.append(worker.lost())
        self._receive(worker)
        del self._workers[worker.number]


def makespan(workers, lengths, **options):
    """Return the seconds that one job of tasks of these lengths takes, workers being ready."""
    simulation = Simulation(workers, lambda _job, index: lengths[index], **options)
    simulation.run()
    begin = simulation.now
    job = simulation.submit(len(lengths))
    simulation.run()
    return simulation.finished_at[job] - begin, simulation


def ideal(workers, lengths):
    """Return a time that no schedule can beat."""
    return max(sum(lengths) / workers, *lengths)


def in_order(workers, lengths):
    """Return the time of workers that take one task at a time, in order, at no cost at all."""
    free = [0.0] * min(workers, len(lengths))
    for seconds in lengths:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
