"""The scheduler: events in, commands out.

What follows each event. `test_scheduler_any_order.py` tries every order of events,
`test_scheduler_simulated.py` measures how much of the workers' time is used.
"""

import math
from collections import Counter

import pytest

from motorpool.messages import (
    IDLE,
    LOADING,
    BreakPool,
    CapacityChanged,
    Chunk,
    ChunkDone,
    ChunkLost,
    ChunkProgressed,
    ChunkRefused,
    Closed,
    Consumed,
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
from motorpool.scheduler.chunking import (
    AHEAD_CHUNKS,
    BUDGET_SECONDS,
    FIRST_WINDOW,
    RECALL_SECONDS,
    TARGET_SECONDS,
)
from motorpool.scheduler.staff import (
    FIRST_BACKOFF_SECONDS,
    MOST_FAILED_STARTS,
    MOST_FAILING_SECONDS,
    MOST_KILLED_SECONDS,
    MOST_RESTART_SECONDS,
)
from motorpool.scheduler.watch import MOST_BACKOFF_SECONDS
from simulator import (
    LONG,
    SHORT,
    Ledger,
    control,
)


class Bench:
    """A scheduler with a clock, its ready workers numbered from 1 on, and a ledger that watches."""

    def __init__(
        self, workers=2, tasks_per_worker=None, is_ready=True, *, eager=True, keeps_apart=True
    ):
        self.scheduler = Scheduler(workers, tasks_per_worker, eager=eager, keeps_apart=keeps_apart)
        self.ledger = Ledger(self.scheduler, tasks_per_worker, keeps_apart=keeps_apart)
        self.now = 0.0
        assert self.scheduler.start() == [StartWorker()] * workers
        for number in range(1, workers + 1):
            self(WorkerStarted(number))
            if is_ready:
                self(WorkerReady(number))

    def __call__(self, event, after=0.0):
        """Return the commands that follow an event."""
        self.now += after
        self.ledger.note(event, self.now)
        commands = self.scheduler.handle(event, self.now)
        self.ledger.check(event, commands)
        return commands

    def submit(self, size, chunksize=None, seconds=0.0, job=0, **options):
        """Submit a job whose items are known to take so long; return what follows."""
        cost = Cost()
        cost.seconds = seconds
        return self(JobSubmitted(job, size, chunksize, cost, **options))

    def done(self, sent, stop=None, seconds=LONG, after=0.0):
        """Have a worker answer a chunk, having run it up to `stop`; return what follows."""
        number, _job, start, end, *_ = sent.chunk
        stop = end if stop is None else stop
        values = list(range(start, stop))
        return self(ChunkDone(sent.worker, number, start, stop, seconds, values, None), after)


def sends(commands):
    """Return the commands that send a chunk."""
    return [command for command in commands if type(command) is SendChunk]


def ranges(commands):
    """Return what is sent, as (start, stop)."""
    return [(command.chunk.start, command.chunk.stop) for command in sends(commands)]


def kinds(commands):
    """Return the kinds of commands."""
    return [type(command) for command in commands]


def lost(sent, index=LOADING, upto=0, finished=(), at=True):
    """Return the loss of a worker that was at the chunk sent, or at none."""
    number = sent.chunk.number if at else IDLE
    return WorkerLost(sent.worker, 0, -9, number, index, upto, {i: i for i in finished})


# Jobs


@pytest.mark.quick
def test_job_begins_on_every_idle_worker():
    """The first items go out one by one, since nothing is known of them."""
    commands = Bench(3).submit(10)

    assert ranges(commands) == [(0, 1), (1, 2), (2, 3)]
    assert {command.budget for command in commands} == {BUDGET_SECONDS}
    assert len({command.worker for command in commands}) == 3


def test_job_without_items_finishes_at_once():
    """A map over nothing is done."""
    assert Bench().submit(0) == [FinishJob(0)]


@pytest.mark.parametrize(
    ("size", "chunksize", "expected"),
    [
        pytest.param(10, 4, [(0, 4), (4, 8)], id="more than the workers take"),
        pytest.param(5, 4, [(0, 4), (4, 5)], id="a short last chunk"),
        pytest.param(3, 4, [(0, 3)], id="less than a chunk"),
    ],
)
def test_chunksize_of_the_user_is_kept(size, chunksize, expected):
    """A chunk size that was asked for is kept; its results come as they are there."""
    commands = Bench().submit(size, chunksize)

    assert ranges(commands) == expected
    assert {command.budget for command in commands} == {-BUDGET_SECONDS}


@pytest.mark.parametrize(
    ("chunksize", "expected"),
    [
        pytest.param(1, 100, id="single items"),
        pytest.param(7, 98, id="whole chunks"),
        pytest.param(300, 300, id="longer than a chunk needs to be"),
    ],
)
def test_short_chunks_of_the_user_travel_together(chunksize, expected):
    """A chunk size bounds what is run as one, not what a message holds."""
    sent, *_ = sends(Bench().submit(10**5, chunksize, seconds=TARGET_SECONDS / 100.5))

    assert sent.chunk.stop - sent.chunk.start == expected
    assert sent.chunk.is_apart == (chunksize == 1)
    assert sent.budget == (BUDGET_SECONDS if chunksize == 1 else -BUDGET_SECONDS)


@pytest.mark.parametrize("chunksize", [1, 7])
def test_chunks_of_the_user_are_counted_as_tasks(chunksize):
    """Where a worker is replaced after so many chunks, they are sent one by one."""
    bench = Bench(1, tasks_per_worker=3, keeps_apart=False)

    assert ranges(bench.submit(100, chunksize, seconds=SHORT))[0] == (0, chunksize)


def test_cluster_has_second_chunks_before_the_first_are_over():
    """Where messages take long, no worker waits for its second chunk."""
    sent = sends(Bench(2, eager=False).submit(10**5, seconds=TARGET_SECONDS / 100.5))

    assert Counter(command.worker for command in sent) == {1: 2, 2: 2}


def test_cluster_shares_out_the_last_items():
    """What a cluster was sent does not come back, so nobody is sent more than a share."""
    sent = sends(Bench(2, eager=False).submit(120, seconds=TARGET_SECONDS / 100.5))
    held = Counter()
    for command in sent:
        held[command.worker] += command.chunk.stop - command.chunk.start

    assert max(held.values()) <= 60


def test_job_waits_behind_an_earlier_one():
    """Jobs are served first come, first served."""
    bench = Bench(1)
    (first,) = bench.submit(2, job=0)
    assert bench.submit(1, job=1) == []

    commands = bench.done(first)

    assert [command.chunk.job for command in sends(commands)] == [0]


@pytest.mark.quick
def test_results_are_delivered_and_the_job_finishes():
    """What a worker returns goes to its place; the last item finishes the job."""
    bench = Bench(1)
    (sent,) = bench.submit(1)

    assert bench.done(sent) == [Deliver(0, 0, [0], None), FinishJob(0)]
    assert not bench.scheduler.has_work
    assert bench.scheduler.has_idle


def test_short_items_are_sent_ahead():
    """A worker has its next chunks before it asks, but not without end."""
    bench = Bench(1)
    (sent,) = bench.submit(10**6, seconds=1.1e-5)
    commands = sends(bench.done(sent, seconds=1.1e-5 * sent.chunk.stop))

    assert 1 < len(commands) <= AHEAD_CHUNKS


@pytest.mark.parametrize(
    ("size", "most", "ahead"), [(0, round(TARGET_SECONDS / SHORT), 16), (1 << 20, 8, 2)]
)
def test_items_with_much_data_travel_a_few_at_a_time(size, most, ahead):
    """Their data counts as work; one chunk is copied while another runs."""
    bench = Bench(1)
    (sent,) = bench.submit(10**5, seconds=SHORT)
    for _ in range(3):
        items = sent.chunk.stop - sent.chunk.start
        bench.scheduler.weigh(0, items, items * size)
        commands = sends(bench.done(sent, seconds=SHORT * items))
        sent = commands[0]
    lengths = [command.chunk.stop - command.chunk.start for command in commands]

    assert most // 2 < max(lengths) <= most
    assert 1 <= len(commands) <= ahead


def test_long_items_are_not_sent_ahead():
    """A worker that runs a long item holds no other."""
    bench = Bench(1)
    (sent,) = bench.submit(10)

    assert len(sends(bench.done(sent, seconds=LONG))) == 1


# Streams


def test_open_job_waits_for_input():
    """A job over an iterator runs what has arrived, and ends when the iterator does."""
    bench = Bench(1)
    assert bench.submit(0, is_open=True) == []
    (sent,) = bench(InputArrived(0, 1, is_open=True))
    assert kinds(bench.done(sent)) == [Deliver]

    assert bench(InputArrived(0, 0, is_open=False)) == [FinishJob(0)]


def test_input_of_a_job_that_is_gone_is_ignored():
    """An iterator that is still read after its job was cancelled harms nobody."""
    bench = Bench()
    bench.submit(0, is_open=True)
    bench(JobCancelled(0, kill=False))

    assert bench(InputArrived(0, 5, is_open=False)) == []
    assert bench(Consumed(0, 5, starved=True)) == []


@pytest.mark.parametrize(
    ("chunksize", "window", "room"),
    [
        pytest.param(None, 0, 2 * FIRST_WINDOW, id="by workers"),
        pytest.param(100, 0, 200, id="two chunks at least"),
        pytest.param(None, 50, 50, id="as asked for"),
    ],
)
def test_windowed_job_starts_with_a_small_window(chunksize, window, room):
    """Few items are read ahead before anybody has taken one."""
    bench = Bench()
    bench.submit(0, chunksize, is_open=True, window=window)

    assert bench.scheduler.room(0) == room
    assert bench.scheduler.room(99) == 0


@pytest.mark.quick
def test_windowed_job_stops_at_its_limit():
    """Workers rest rather than run ahead of a consumer that takes nothing."""
    bench = Bench(1)
    commands = bench.submit(100, window=0)
    while outstanding := sends(commands):
        commands = bench.done(outstanding[0])
    assert bench.scheduler.has_idle

    assert ranges(bench(Consumed(0, 1, starved=False))) == [(FIRST_WINDOW, FIRST_WINDOW + 1)]


@pytest.mark.parametrize(
    ("starved", "room"),
    [
        pytest.param(True, 3 * FIRST_WINDOW, id="starved"),
        pytest.param(False, 2 * FIRST_WINDOW, id="busy"),
    ],
)
def test_window_doubles_for_a_consumer_that_waits(starved, room):
    """A fast consumer gets more ahead of it, a slow one does not."""
    bench = Bench(1)
    bench.submit(100, window=0)

    bench(Consumed(0, FIRST_WINDOW, starved))

    assert bench.scheduler.room(0) == room


def test_window_does_not_hold_up_the_job_behind():
    """A stream nobody reads leaves the workers to other jobs."""
    bench = Bench(1)
    commands = bench.submit(100, window=0)
    while outstanding := sends(commands):
        commands = bench.done(outstanding[0])

    assert ranges(bench.submit(1, job=1)) == [(0, 1)]


# Cancelling


@pytest.mark.parametrize(
    ("kill", "expected"), [pytest.param(True, [LookAtWorker]), pytest.param(False, [])]
)
def test_cancelled_job_is_dropped(kill, expected):
    """Nothing of a cancelled job is delivered; its running tasks are looked for on request."""
    bench = Bench(2)
    (sent,) = bench.submit(1)
    bench.submit(2, job=1)

    assert kinds(bench(JobCancelled(0, kill))) == expected
    assert kinds(bench.done(sent)) == [SendChunk]


@pytest.mark.quick
def test_worker_at_a_cancelled_job_is_killed():
    """A running task that is cancelled costs its worker, and what was sent ahead moves on."""
    bench = Bench(1)
    (first,) = bench.submit(1, seconds=SHORT)
    (second,) = bench.submit(9, job=1, seconds=SHORT) or [None]
    assert second is None
    bench(JobCancelled(0, kill=True))

    seen = WorkerSeen(1, first.chunk.number, 0, 0.0)
    assert bench(seen) == [KillWorker(1, first.chunk.number)]
    assert bench(lost(first, 0, 1)) == [StartWorker()]
    assert ranges(bench(WorkerStarted(2)))[0][0] == 0


def test_worker_past_a_cancelled_job_is_left_alone():
    """A task that ended while it was being cancelled costs nobody else's task."""
    bench = Bench(1)
    (first,) = bench.submit(1)
    bench(JobCancelled(0, kill=True))
    (second,) = bench.submit(1, job=1) + bench.done(first)

    assert bench(WorkerSeen(1, second.chunk.number, 0, 0.0)) == []
    assert bench.scheduler.wake_at is None


@pytest.mark.parametrize("item", [0, 5, 9])
def test_item_that_is_cancelled_is_never_sent(item):
    """One item can be cancelled before its turn comes; the others are run."""
    bench = Bench(1)
    bench.submit(1)
    bench.submit(10, job=1)
    assert bench(JobCancelled(1, kill=True, item=item)) == []
    commands, sent = bench.done(SendChunk(1, Chunk(1, 0, 0, 1), 0.0)), []
    while outstanding := sends(commands):
        sent += [index for s in outstanding for index in range(s.chunk.start, s.chunk.stop)]
        commands = [c for s in outstanding for c in bench.done(s)]

    assert sent == [index for index in range(10) if index != item]
    assert FinishJob(1) in commands


def test_last_item_that_is_cancelled_finishes_its_job():
    """A job of which nothing is left is done."""
    bench = Bench(1)
    bench.submit(1)
    bench.submit(1, job=1)

    assert bench(JobCancelled(1, kill=True, item=0)) == [FinishJob(1)]


def test_running_item_that_is_cancelled_costs_its_worker():
    """The worker is killed for that item only, and the rest of its chunk moves on."""
    bench = Bench(1)
    (sent,) = bench.submit(4, 4)
    number = sent.chunk.number
    assert bench(JobCancelled(0, kill=True, item=1)) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, number, 0, 0.0)) == [RecallChunks(1)]
    assert bench(Tick(), after=RECALL_SECONDS) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, number, 1, 0.0)) == [KillWorker(1, number, 1)]

    commands = bench(lost(sent, 1, 2, [0])) + bench(WorkerStarted(2))

    assert ranges(commands) == [(2, 4)]


def test_item_that_comes_back_cancelled_is_dropped():
    """An item that was recalled because it was cancelled is not sent again."""
    bench = Bench(1)
    (sent,) = bench.submit(4, 4)
    bench(JobCancelled(0, kill=True, item=2))
    bench(WorkerSeen(1, sent.chunk.number, 0, 0.0))
    bench(ItemsHandedBack(1, sent.chunk.number, 1, 4))
    bench.ledger.begin(1, 0, 0, 1)

    commands = bench.done(sent, stop=1)

    assert ranges(commands) == [(1, 2)]
    assert [(c.chunk.start, c.chunk.stop) for c in sends(bench.done(sends(commands)[0]))] == [
        (3, 4)
    ]


def test_job_of_which_all_is_cancelled_ends_with_its_worker():
    """Cancelled items that come back from a lost worker are the last of their job."""
    bench = Bench(1)
    (sent,) = bench.submit(2, 2)
    bench(JobCancelled(0, kill=True, item=0))
    bench(JobCancelled(0, kill=True, item=1))

    assert FinishJob(0) in bench(lost(sent, at=False))


def test_cancelled_chunk_behind_another_is_recalled():
    """What was sent ahead of a cancelled job comes back before it is run."""
    bench = Bench(1)
    (sent,) = bench.submit(3, seconds=10 * SHORT)
    held = [sent, *bench.submit(3, job=1, seconds=10 * SHORT)]
    held += sends(bench.done(held.pop(0), seconds=20 * SHORT))
    first = next(sent for sent in held if sent.chunk.job == 0)
    assert any(sent.chunk.job == 1 for sent in held)
    assert bench(JobCancelled(1, kill=True)) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, first.chunk.number, 1, 0.0)) == [RecallChunks(1)]
    assert bench.scheduler.wake_at == pytest.approx(RECALL_SECONDS)

    assert bench(Tick(), after=RECALL_SECONDS) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, first.chunk.number, 1, 0.0)) == []
    assert bench.scheduler.wake_at > bench.now + RECALL_SECONDS


def test_cancelling_what_is_gone_does_nothing():
    """A job may finish while somebody cancels it."""
    assert Bench()(JobCancelled(7, kill=True)) == []


def test_killing_on_request_is_no_failed_start():
    """Cancelling a job whose workers are still starting leaves the pool usable."""
    bench = Bench(MOST_FAILED_STARTS, is_ready=False)
    outstanding = bench.submit(MOST_FAILED_STARTS)
    assert kinds(bench(JobCancelled(0, kill=True))) == [KillWorker] * MOST_FAILED_STARTS

    commands = [command for sent in outstanding for command in bench(lost(sent, at=False))]

    assert BreakPool not in kinds(commands)


# Timeouts


@pytest.mark.quick
def test_worker_with_a_late_item_is_killed():
    """An item that has run for its timeout is ended, and its neighbours are run."""
    bench = Bench(1)
    (sent,) = bench.submit(4, 4, control=control(timeout=2.0))
    number = sent.chunk.number
    assert sent.chunk.is_exact
    assert bench.scheduler.wake_at == 2.0
    assert bench(Tick(), after=2.0) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, number, 1, 0.5)) == []
    assert bench.scheduler.wake_at == 2.5
    assert bench(Tick(), after=0.5) == [LookAtWorker(1)]
    assert bench(WorkerSeen(1, number, 1, 0.5)) == [KillWorker(1, number, 1)]

    event = lost(sent, 1, 2, [0])
    commands = bench(event) + bench(WorkerStarted(2))

    assert commands[:2] == [Deliver(0, 0, [0], None), FailItem(0, 1, None, event, 2.0)]
    assert ranges(commands) == [(2, 4)]


def test_worker_that_went_on_in_time_is_spared():
    """An item that ends at the last moment does not cost the next one."""
    bench = Bench(1)
    (sent,) = bench.submit(4, 4, control=control(timeout=2.0))
    number = sent.chunk.number
    bench(Tick(), after=2.0)
    assert bench(WorkerSeen(1, number, 0, 0.0)) == [KillWorker(1, number, 0)]

    assert bench(WorkerSeen(1, number, 1, 2.0, is_spared=True)) == []
    assert bench.scheduler.wake_at == 4.0


def test_loss_of_another_cause_is_no_timeout():
    """A worker that dies at another item than the late one was lost, not late."""
    bench = Bench(1)
    (sent,) = bench.submit(4, 4, control=control(timeout=2.0))
    bench(Tick(), after=2.0)
    bench(WorkerSeen(1, sent.chunk.number, 0, 0.0))
    bench(WorkerSeen(1, sent.chunk.number, 1, 2.0, is_spared=True))

    commands = bench(lost(sent, 1, 2, [0]))

    assert [c.seconds for c in commands if type(c) is FailItem] == [None]


def test_item_of_a_shorter_timeout_is_not_forgotten_behind_a_longer_one():
    """Each of the chunks that a worker holds is looked at by its own time."""
    bench = Bench(1)
    (first,) = bench.submit(2, control=control(timeout=60.0), seconds=SHORT)
    held = sends(bench.done(first, seconds=SHORT))
    bench.submit(2, job=1, control=control(timeout=1.0), seconds=SHORT)
    held += sends(bench.done(held[0], seconds=SHORT))
    assert bench.scheduler.wake_at == 1.0
    assert bench(Tick(), after=1.0) == [LookAtWorker(1)]
    bench(WorkerSeen(1, held[0].chunk.number, held[0].chunk.start, 0.9))

    assert bench.scheduler.wake_at == 2.0


def test_time_of_imports_does_not_count():
    """A worker that imports what a function needs is not late, however long that takes."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(timeout=2.0))
    bench(Tick(), after=2.0)

    assert bench(WorkerSeen(1, sent.chunk.number, LOADING, math.inf)) == []
    assert bench.scheduler.wake_at == 4.0


def test_time_in_the_queue_does_not_count():
    """A worker that has not come to a timed job's chunk is looked at again later."""
    bench = Bench(1)
    bench.submit(1, control=control(timeout=2.0))
    bench(Tick(), after=2.0)

    assert bench(WorkerSeen(1, IDLE, LOADING, 0.0)) == []
    assert bench.scheduler.wake_at == 4.0


def test_item_that_is_late_while_it_is_loaded_fails():
    """Unpickling that never ends is a timeout too."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(timeout=2.0))
    bench(Tick(), after=2.0)
    assert bench(WorkerSeen(1, sent.chunk.number, LOADING, 0.0)) == [
        KillWorker(1, sent.chunk.number, LOADING)
    ]

    event = lost(sent)
    assert FailItem(0, 0, None, event, 2.0) in bench(event)


def test_job_without_a_timeout_is_not_looked_at():
    """Nobody pays for what nobody asked for."""
    bench = Bench(1)
    (sent,) = bench.submit(4)

    assert bench.scheduler.wake_at is None
    assert not sent.chunk.is_exact


# Attempts


@pytest.mark.quick
def test_failed_item_is_tried_again_after_its_backoff():
    """An item waits for its next attempt, and holds up nobody meanwhile."""
    bench = Bench(1)
    (sent,) = bench.submit(3, 3, control=control(retries=2, backoff=0.5))
    error = ValueError()

    commands = fail(bench, sent, {1: error})
    assert commands == [Deliver(0, 0, [0], None), Deliver(0, 2, [2], None)]
    assert bench.scheduler.has_idle
    assert bench.scheduler.wake_at == 0.5
    (again,) = bench(Tick(), after=0.5)
    assert ranges([again]) == [(1, 2)]
    assert fail(bench, again, {0: error}) == []
    assert bench.scheduler.wake_at == 1.5
    (again,) = bench(Tick(), after=1.0)

    assert fail(bench, again, {0: error}) == [
        FailItem(0, 1, error, None, attempts=3),
        FinishJob(0),
    ]


def test_item_that_succeeds_at_last_is_delivered():
    """A retried item's result is like any other."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(retries=1, backoff=0.0))
    fail(bench, sent, {0: ValueError()})

    (again,) = bench(Tick())

    assert bench.done(again) == [Deliver(0, 0, [0], None), FinishJob(0)]


def test_other_errors_are_not_tried_again():
    """Only what `retry_on` names is worth another attempt."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(retries=5))
    error = KeyError()

    assert fail(bench, sent, {0: error}) == [FailItem(0, 0, error, None), FinishJob(0)]


@pytest.mark.parametrize("granted", [True, False])
def test_lost_item_is_tried_again_if_asked_for(granted):
    """The loss of a worker counts as a failure of its item, if `retry_on` covers it."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(retries=1, backoff=0.0, lost=granted))
    commands = bench(lost(sent, 0, 1)) + bench(WorkerStarted(2)) + bench(Tick())

    assert ranges(commands) == ([(0, 1)] if granted else [])
    assert (FailItem in kinds(commands)) is not granted


def test_item_that_was_refused_is_not_tried_again():
    """What cannot be pickled now cannot be pickled later."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(retries=5, retry_on=(Exception,)))

    commands = bench(ChunkRefused(1, sent.chunk.number, TypeError()))

    assert kinds(commands) == [FailItem, FinishJob]


def test_backoff_has_an_end():
    """The wait between attempts doubles up to a minute."""
    bench = Bench(1)
    commands, waits = bench.submit(1, control=control(retries=100, backoff=1.0)), []
    for _ in range(100):
        fail(bench, commands[0], {0: ValueError()})
        waits.append(bench.scheduler.wake_at - bench.now)
        commands = bench(Tick(), after=waits[-1])

    assert waits[:3] == pytest.approx([1.0, 2.0, 4.0])
    assert max(waits) == pytest.approx(MOST_BACKOFF_SECONDS)


def test_attempt_of_a_cancelled_job_never_comes():
    """What waits for its next attempt is forgotten with its job."""
    bench = Bench(1)
    (sent,) = bench.submit(1, control=control(retries=1, backoff=0.5))
    fail(bench, sent, {0: ValueError()})
    bench(JobCancelled(0, kill=True))

    assert bench(Tick(), after=0.5) == []


def fail(bench, sent, errors):
    """Have a worker answer a chunk with errors by offset; return what follows."""
    number, _job, start, stop, *_ = sent.chunk
    values = list(range(start, stop))
    return bench(ChunkDone(sent.worker, number, start, stop, LONG, values, errors))


# What comes back


def test_rest_of_a_chunk_goes_to_whoever_is_idle():
    """A chunk that took too long is shared with the others."""
    bench = Bench(2)
    first, second = bench.submit(100, seconds=1e-4)
    start, stop = first.chunk.start, first.chunk.stop
    bench.done(second)

    commands = bench.done(first, stop=start + 1)

    assert commands[0] == Deliver(0, start, [start], None)
    assert ranges(commands)[0][0] == start + 1
    assert stop > start + 1


def test_results_of_a_long_chunk_are_delivered_as_they_come():
    """What a worker has sent of a chunk is delivered, and safe when the worker dies."""
    bench = Bench(1)
    (sent,) = bench.submit(10, chunksize=10)
    news = ChunkProgressed(1, sent.chunk.number, 0, 4, LONG, [0, 1, 2, 3], None)
    assert bench(news) == [Deliver(0, 0, [0, 1, 2, 3], None)]

    commands = bench(lost(sent, 5, 6, [4]))

    assert [c.start for c in commands if type(c) is Deliver] == [4]
    assert [c.item for c in commands if type(c) is FailItem] == [5]
    assert ranges(bench(WorkerStarted(2))) == [(6, 10)]


def test_handed_back_items_are_sent_before_fresh_ones():
    """What was sent once already goes first, so that results come in order."""
    bench = Bench(2)
    first, second = bench.submit(100, seconds=1e-4)
    begin = first.chunk.start + 1
    assert bench(ItemsHandedBack(first.worker, first.chunk.number, begin, first.chunk.stop)) == []

    assert ranges(bench.done(second))[0][0] == begin


def test_chunk_that_cannot_be_sent_is_taken_apart():
    """One item that cannot be sent fails; its neighbours are run."""
    bench = Bench(1)
    (sent,) = bench.submit(3, chunksize=3)
    error = TypeError("cannot pickle")
    (single,) = bench(ChunkRefused(1, sent.chunk.number, error))
    assert ranges([single]) == [(0, 1)]

    commands = bench(ChunkRefused(1, single.chunk.number, error))

    assert commands[0] == FailItem(0, 0, error, None)
    assert ranges(commands) == [(1, 2)]


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param(ChunkDone(1, 999, 0, 1, LONG, [0], None), id="done, never sent"),
        pytest.param(ItemsHandedBack(1, 999, 0, 1), id="handed back, never sent"),
        pytest.param(ChunkRefused(1, 999, TypeError()), id="refused, never sent"),
        pytest.param(ChunkDone(1, 2, 1, 2, LONG, [1], None), id="done, another's"),
        pytest.param(ItemsHandedBack(1, 2, 1, 2), id="handed back, another's"),
        pytest.param(ChunkRefused(1, 2, TypeError()), id="refused, another's"),
    ],
)
def test_answer_to_what_a_worker_does_not_hold_is_ignored(stale):
    """Only a chunk on the books delivers."""
    bench = Bench(2)
    by_worker = {sent.worker: sent for sent in bench.submit(10)}
    number = by_worker[2].chunk.number if stale.number == 2 else stale.number
    stale = stale._replace(number=number)

    assert bench(stale) == []


def test_chunk_that_comes_back_twice_is_delivered_once():
    """The second answer to a chunk changes nothing."""
    bench = Bench(1)
    (sent,) = bench.submit(1)
    bench.done(sent)

    assert bench.done(sent) == []


# Lost workers


@pytest.mark.quick
@pytest.mark.parametrize(
    ("index", "upto", "finished", "delivered", "failed", "again"),
    [
        pytest.param(LOADING, 0, (), [], [], [(0, 1)], id="loading: one by one"),
        pytest.param(0, 1, (), [], [0], [(1, 4)], id="at the first"),
        pytest.param(2, 3, (0, 1), [0, 1], [2], [(3, 4)], id="in the middle"),
        pytest.param(3, 4, (0, 1, 2), [0, 1, 2], [3], [], id="at the last"),
        pytest.param(2, 3, (1,), [1], [0, 2], [(3, 4)], id="a result it could not note"),
        pytest.param(1, 3, (0,), [0], [1, 2], [(3, 4)], id="in bulk"),
    ],
)
def test_lost_worker_costs_what_it_had_begun(index, upto, finished, delivered, failed, again):
    """Results that were noted are safe, what was being run fails, the rest is sent again."""
    bench = Bench(1)
    (sent,) = bench.submit(4, chunksize=4)

    commands = bench(lost(sent, index, upto, finished))
    commands += bench(WorkerStarted(2))

    assert [c.start for c in commands if type(c) is Deliver] == delivered
    assert [c.item for c in commands if type(c) is FailItem] == failed
    assert ranges(commands) == again
    assert StartWorker() in commands


def test_item_that_kills_while_it_is_loaded_fails_alone():
    """An item whose unpickling ends the process costs two workers and no neighbour."""
    bench = Bench(1)
    (sent,) = bench.submit(2, chunksize=2)
    bench(lost(sent))
    (single,) = bench(WorkerStarted(2))
    bench(WorkerReady(2))

    commands = bench(lost(single))

    assert [c.item for c in commands if type(c) is FailItem] == [0]
    assert ranges(bench(WorkerStarted(3))) == [(1, 2)]


def test_chunks_sent_ahead_outlive_their_worker():
    """What a lost worker had not looked at is sent again, whole."""
    bench = Bench(1)
    (sent,) = bench.submit(1000, seconds=1e-5)
    running, *ahead = sends(bench.done(sent, seconds=1e-5 * sent.chunk.stop))
    assert ahead
    bench(lost(running, running.chunk.start, running.chunk.start + 1))

    again = ranges(bench(WorkerStarted(2)))

    assert again[0][0] == running.chunk.start + 1


def test_lost_idle_worker_is_replaced():
    """A worker that ends between two tasks costs nothing."""
    bench = Bench(1)

    assert bench(WorkerLost(1, 0, -9)) == [StartWorker()]
    assert not bench.scheduler.has_idle


# Starting


def test_worker_is_sent_work_before_it_is_ready():
    """The first chunk waits at the worker, not the worker for the chunk."""
    bench = Bench(1, is_ready=False)

    assert ranges(bench.submit(3)) == [(0, 1)]


def cluster_of(size, ready):
    """Return a scheduler whose workers wait for a place; the first `ready` have got one."""
    scheduler = Scheduler(size, eager=False)
    scheduler.start()
    for number in range(1, size + 1):
        scheduler.handle(WorkerStarted(number), 0.0)
    for number in range(1, ready + 1):
        scheduler.handle(WorkerReady(number), 0.0)
    return scheduler


def test_worker_that_waits_for_a_place_is_sent_nothing():
    """On a cluster, work goes to the workers that are there, and to others once they are."""
    scheduler = cluster_of(2, ready=1)

    first = scheduler.handle(JobSubmitted(0, 3, 1, Cost()), 0.0)
    later = scheduler.handle(WorkerReady(2), 0.0)

    assert [command.worker for command in sends(first)] == [1]
    assert [command.worker for command in sends(later)] == [2]


def test_cluster_that_grows_starts_workers():
    """Workers are started for the room that a cluster has gained."""
    scheduler = cluster_of(1, ready=1)

    assert scheduler.handle(CapacityChanged(3), 0.0) == [StartWorker()] * 2


def test_cluster_that_shrinks_lets_go_who_waits_first():
    """Workers that wait for a place leave before idle ones, and those before busy ones."""
    scheduler = cluster_of(3, ready=2)
    (sent,) = sends(scheduler.handle(JobSubmitted(0, 1, 1, Cost()), 0.0))
    idle = 3 - sent.worker

    assert scheduler.handle(CapacityChanged(2), 0.0) == [StopWorker(3)]
    assert scheduler.handle(CapacityChanged(1), 0.0) == [StopWorker(idle)]


@pytest.mark.parametrize(("room", "expected"), [(2, [StartWorker()]), (1, [])])
def test_lost_worker_is_replaced_if_there_is_room(room, expected):
    """A worker that went down with its node is replaced only elsewhere."""
    scheduler = cluster_of(2, ready=2)
    scheduler.handle(JobSubmitted(0, 2, 1, Cost()), 0.0)
    scheduler.handle(CapacityChanged(room), 0.0)

    assert scheduler.handle(WorkerLost(1, 0, None), 0.0) == expected


def test_lost_chunk_costs_its_items_and_not_its_worker():
    """A slot of a cluster outlives the process that ran its chunk."""
    scheduler = cluster_of(1, ready=1)
    (sent,) = sends(scheduler.handle(JobSubmitted(0, 3, 3, Cost()), 0.0))
    gone = WorkerLost(1, 0, None, sent.chunk.number, 1, 2, {0: 0})

    commands = scheduler.handle(ChunkLost(1, sent.chunk.number, gone), 0.0)

    assert commands[:2] == [Deliver(0, 0, [0], None), FailItem(0, 1, None, gone)]
    assert ranges(commands) == [(2, 3)]


def test_pool_breaks_if_workers_never_get_ready():
    """An initializer that ends the process is reported, not tried for ever."""
    bench = Bench(1, is_ready=False)
    bench.submit(1)
    for number in range(1, MOST_FAILED_STARTS):
        assert bench(WorkerLost(number, 0, 1)) == []
        assert bench.scheduler.wake_at > bench.now
        bench.now = bench.scheduler.wake_at
        assert bench(Tick()) == [StartWorker()]
        bench(WorkerStarted(number + 1))

    last = WorkerLost(MOST_FAILED_STARTS, 0, 1)
    assert bench(last) == [BreakPool(None, last)]


def test_pool_breaks_if_no_worker_can_be_started():
    """A machine that has no room for a single process for seconds is reported."""
    scheduler = Scheduler(1)
    scheduler.start()
    error, now = OSError("no more processes"), 5.0
    while now < 5.0 + MOST_FAILING_SECONDS:
        assert scheduler.handle(WorkerNotStarted(error), now) == []
        assert now < scheduler.wake_at <= now + MOST_RESTART_SECONDS
        now = scheduler.wake_at
        assert scheduler.handle(Tick(), now) == [StartWorker()]

    assert scheduler.handle(WorkerNotStarted(error), now) == [BreakPool(error, None)]


def test_workers_that_others_kill_are_started_again_for_long():
    """Whoever kills workers before they are ready breaks the pool only if it never ends."""
    bench = Bench(1, is_ready=False)
    bench.submit(1)
    began, worker = bench.now, 1
    while bench.now < began + MOST_KILLED_SECONDS:
        assert bench(WorkerLost(worker, 0, -9, is_own_doing=False)) == []
        bench.now = bench.scheduler.wake_at
        assert bench(Tick()) == [StartWorker()]
        worker += 1
        bench(WorkerStarted(worker))

    assert worker > 2 * MOST_FAILED_STARTS
    last = WorkerLost(worker, 0, -9, is_own_doing=False)
    assert bench(last) == [BreakPool(None, last)]


def test_pool_does_not_break_while_a_worker_is_ready():
    """One worker that works goes on, whatever becomes of those to be started."""
    scheduler = Scheduler(2)
    scheduler.start()
    scheduler.handle(WorkerStarted(1), 0.0)
    scheduler.handle(WorkerReady(1), 0.0)
    now = 0.0
    for worker in range(2, 2 * MOST_FAILED_STARTS):
        scheduler.handle(WorkerStarted(worker), now)
        assert scheduler.handle(WorkerLost(worker, 0, 1), now) == []
        now = scheduler.wake_at
        assert scheduler.handle(Tick(), now) == [StartWorker()]


def test_start_is_tried_again_while_others_work():
    """A pool with some workers waits for better times, longer each time."""
    scheduler = Scheduler(2)
    scheduler.start()
    scheduler.handle(WorkerStarted(1), 0.0)
    waits, now = [], 0.0
    for _ in range(2 * MOST_FAILED_STARTS):
        assert scheduler.handle(WorkerNotStarted(OSError()), now) == []
        waits.append(scheduler.wake_at - now)
        now = scheduler.wake_at
        assert scheduler.handle(Tick(), now) == [StartWorker()]

    assert waits[0] >= FIRST_BACKOFF_SECONDS
    assert waits == pytest.approx(sorted(waits))


def test_worker_is_replaced_after_its_tasks():
    """`maxtasksperchild` counts items, and the successor is started at once."""
    bench = Bench(1, tasks_per_worker=2)
    (first,) = bench.submit(5)
    (second,) = sends(bench.done(first))

    commands = bench.done(second)

    assert kinds(commands) == [Deliver, StopWorker, StartWorker]
    assert bench(WorkerLost(1, 0, 0)) == []
    assert ranges(bench(WorkerStarted(2))) == [(2, 3)]


def test_chunk_of_the_user_counts_as_one_task():
    """As in the standard library, `maxtasksperchild` counts chunks if their size was given."""
    bench = Bench(1, tasks_per_worker=2)
    (first,) = bench.submit(30, chunksize=10)
    (second,) = sends(bench.done(first))

    assert StopWorker(1) in bench.done(second)


def test_cancelled_chunk_of_the_user_still_counts_as_one_task():
    """`maxtasksperchild` is not exceeded because a job with a chunk size was cancelled."""
    bench = Bench(1, tasks_per_worker=1)
    (sent,) = bench.submit(10, chunksize=10)
    bench(JobCancelled(0, kill=False))

    commands = bench.done(sent, stop=5)

    assert StopWorker(1) in commands


# Recall


@pytest.mark.quick
def test_unbegun_items_are_recalled_for_an_idle_worker():
    """Items do not wait behind a long one while a worker has nothing to do."""
    bench = Bench(2)
    first, second = bench.submit(3, chunksize=2)
    bench.done(second)
    assert bench.scheduler.wake_at == pytest.approx(RECALL_SECONDS)

    assert bench(Tick(), after=RECALL_SECONDS / 2) == []
    assert bench(Tick(), after=RECALL_SECONDS) == [RecallChunks(first.worker)]
    assert bench.scheduler.wake_at is None
    back = ItemsHandedBack(first.worker, first.chunk.number, 1, 2)
    assert ranges(bench(back)) == [(1, 2)]


@pytest.mark.parametrize(
    ("size", "chunksize"), [pytest.param(2, 1, id="single items"), pytest.param(6, 2, id="no idle")]
)
def test_recall_is_not_planned_in_vain(size, chunksize):
    """Nobody is asked for an item that runs, nor on behalf of nobody."""
    bench = Bench(2)
    first, _second = bench.submit(size, chunksize)
    bench.done(first)

    assert bench.scheduler.wake_at is None
    assert bench(Tick(), after=LONG) == []


def test_item_longer_than_a_chunk_has_another_behind_it():
    """A worker does not wait for its next item, as long as there is one for every worker."""
    bench = Bench(2)
    first, _second = bench.submit(8, seconds=2 * TARGET_SECONDS)

    assert len(sends(bench.done(first, seconds=2 * TARGET_SECONDS))) == 2


def test_chunk_that_counts_as_a_task_stays_whole():
    """A chunk of the user's is one of the tasks that a worker is good for: it is not cut."""
    bench = Bench(2, tasks_per_worker=5)
    _first, second = bench.submit(12, chunksize=3, seconds=SHORT)
    while later := sends(bench.done(second)):
        (second,) = later

    assert bench.scheduler.wake_at is None
    assert bench(Tick(), after=LONG) == []


def test_worker_that_becomes_ready_has_time_to_begin():
    """What was sent while it started is not asked for at once when it is ready."""
    bench = Bench(2, is_ready=False)
    first, second = bench.submit(4, chunksize=2)
    bench(WorkerReady(second.worker))
    bench.done(second)

    assert bench(WorkerReady(first.worker), after=LONG) == []
    assert bench(Tick()) == []
    assert bench(Tick(), after=RECALL_SECONDS) == [RecallChunks(first.worker)]


def test_recall_is_repeated_after_news():
    """A worker that went on to its next chunk instead of giving it back is asked again."""
    bench = Bench(2)
    held = leave_all_to_one(bench)
    assert bench(Tick(), after=RECALL_SECONDS) == [RecallChunks(held[0].worker)]

    # The call came between two chunks, and the second turns out long.
    bench.done(held[0], seconds=chunk_seconds(held[0]))

    bench.ledger.check_recalls(bench.now, RECALL_SECONDS)


def test_recalled_items_do_not_stay_with_the_same_worker():
    """What a stuck worker gave back goes to the others, or can be had from it again."""
    bench = Bench(2)
    held = leave_all_to_one(bench)
    assert bench(Tick(), after=RECALL_SECONDS) == [RecallChunks(held[0].worker)]

    commands = []
    for sent in held[1:]:
        commands += sends(bench.done(sent, stop=sent.chunk.start, seconds=0.0))
    number, _job, start, stop, *_ = held[0].chunk
    commands += sends(bench(ItemsHandedBack(held[0].worker, number, start + 1, stop)))
    while others := [sent for sent in commands if sent.worker != held[0].worker]:
        commands.remove(others[0])
        commands += sends(bench.done(others[0], seconds=chunk_seconds(others[0])))

    bench.ledger.check_recalls(bench.now, RECALL_SECONDS)


def test_chunk_whose_results_come_is_recalled_too():
    """A worker in a long chunk shares it with an idle one, though it has news all the time."""
    bench = Bench(2)
    (sent,) = bench.submit(1000, chunksize=1000)
    recalls = []
    for item in range(100):
        bench.now += RECALL_SECONDS / 2
        if bench.scheduler.wake_at <= bench.now:
            recalls += bench(Tick())
            break
        number = sent.chunk.number
        bench(ChunkProgressed(sent.worker, number, item, item + 1, 0.01, [item], None))

    assert recalls == [RecallChunks(sent.worker)]


def chunk_seconds(sent):
    """Return what a chunk of short items takes."""
    return SHORT * (sent.chunk.stop - sent.chunk.start)


def leave_all_to_one(bench):
    """Leave one of two workers idle, and return what the other one holds: many short chunks."""
    first, other = bench.submit(400, seconds=SHORT)
    held = sends(bench.done(first, seconds=chunk_seconds(first)))
    others = [other]
    while others:
        sent = others.pop()
        others += sends(bench.done(sent, seconds=chunk_seconds(sent)))
    assert len(held) > 2
    assert bench.scheduler.has_idle
    return held


# Closing


def test_idle_workers_leave_a_closed_pool():
    """Nobody waits for work that cannot come."""
    assert kinds(Bench(2)(Closed())) == [StopWorker] * 2


@pytest.mark.parametrize("end", ["done", "refused", "lost", "cancelled", "input"])
def test_workers_leave_after_the_last_job(end):
    """However the last job of a closed pool ends, the workers are told to leave."""
    bench = Bench(2)
    (sent,) = bench.submit(1, is_open=end == "input")
    assert bench(Closed()) == []

    if end == "done":
        commands = bench.done(sent)
    elif end == "refused":
        commands = bench(ChunkRefused(sent.worker, sent.chunk.number, TypeError()))
    elif end == "lost":
        commands = bench(lost(sent, 0, 1))
    elif end == "cancelled":
        commands = bench(JobCancelled(0, kill=False)) + bench.done(sent)
    else:
        commands = bench.done(sent) + bench(InputArrived(0, 0, is_open=False))

    assert kinds(commands).count(StopWorker) == (1 if end == "lost" else 2)


def test_cancelled_stream_lets_idle_workers_leave():
    """An iterator that is dropped after `close` does not keep the workers."""
    bench = Bench(2)
    bench.submit(0, is_open=True, window=0)
    bench(Closed())

    assert kinds(bench(JobCancelled(0, kill=False))) == [StopWorker] * 2


def test_worker_that_comes_late_to_a_closed_pool_leaves():
    """A worker that starts when all is done is told so."""
    scheduler = Scheduler(1)
    scheduler.start()
    scheduler.handle(Closed(), 0.0)

    assert scheduler.handle(WorkerStarted(1), 0.0) == [StopWorker(1)]


# A successor


def started_after_loss(heir):
    """Return how many workers a successor starts when all it inherited are lost."""
    commands = [
        c for worker in list(heir.workers) for c in heir.handle(WorkerLost(worker, 0, -9), 0)
    ]
    return kinds(commands).count(StartWorker)


def test_successor_replaces_all_workers():
    """After an interrupt all workers are killed, and as many are started."""
    bench = Bench(3)
    bench.submit(10)
    heir = bench.scheduler.succeed()

    assert not heir.has_work
    assert started_after_loss(heir) == 3


def test_successor_does_not_replace_workers_that_were_leaving():
    """A worker that had a replacement already does not get another."""
    bench = Bench(1, tasks_per_worker=1)
    (sent,) = bench.submit(5)
    bench.done(sent)
    bench(WorkerStarted(2))
    assert set(bench.scheduler.workers) == {1, 2}

    assert started_after_loss(bench.scheduler.succeed()) == 1


def test_successor_starts_the_workers_that_were_to_be_retried():
    """A pool that was waiting to start its worker again does not forget to."""
    bench = Bench(1, is_ready=False)
    assert bench(WorkerLost(1, 0, 1)) == []
    assert bench.scheduler.wake_at is not None

    heir = bench.scheduler.succeed()

    assert kinds(heir.handle(Tick(), bench.scheduler.wake_at)) == [StartWorker]


# Short of memory, and slow


def short_of_memory(size, items):
    """Return a scheduler without memory for more, a worker at each of so many items."""
    scheduler = Scheduler(size)
    scheduler.handle(JobSubmitted(0, items, 1, Cost()), 0.0)
    commands = scheduler.start()
    for worker, _ in enumerate(commands):
        scheduler.handle(WorkerStarted(worker), 0.0)
        scheduler.handle(WorkerReady(worker), 0.0)
    scheduler.handle(MemoryNews(is_short=True), 0.0)
    return scheduler


def done(worker, index):
    return ChunkDone(worker, index + 1, index, index + 1, 0.1, [index], None)


def test_no_chunk_is_sent_while_memory_is_short_and_a_task_runs():
    """The tasks that run come to their end; then they run one at a time; then all again."""
    scheduler = short_of_memory(3, 10)

    def sent(event):
        return [c for c in scheduler.handle(event, 1.0) if type(c) is SendChunk]

    assert sent(done(0, 0)) == []
    assert sent(done(1, 1)) == []
    (alone,) = sent(done(2, 2))
    (alone,) = sent(done(alone.worker, 3))
    assert len(sent(MemoryNews(is_short=False))) == 2


def slow_worker(lengths):
    """Return a scheduler whose worker runs a task of a function that took so long before."""
    scheduler = Scheduler(1)
    cost = Cost()
    for length in lengths:
        cost.add(1, length)
    scheduler.handle(JobSubmitted(0, 1, 1, cost), 0.0)
    scheduler.start()
    scheduler.handle(WorkerStarted(0), 0.0)
    scheduler.handle(WorkerReady(0), 0.0)
    return scheduler


@pytest.mark.parametrize(
    ("lengths", "seconds"),
    [
        ([], 60),
        ([0.001] * 9, 60),
        ([7.0, 8.0, 9.0], 80),
        ([0.1, 20.0, 30.0], 200),
        ([0.1, 0.1, 0.1, 100.0], 60),
        ([20.0] * 5000, 200),
    ],
)
def test_slow_task_is_named_once(lengths, seconds):
    """A task has ten times the median of its function, and a minute at the least."""
    scheduler = slow_worker(lengths)

    assert NameSlow(0) not in scheduler.handle(Tick(), seconds - 0.1)
    assert NameSlow(0) in scheduler.handle(Tick(), seconds + 60.0)
    assert NameSlow(0) not in scheduler.handle(Tick(), seconds + 120.0)
